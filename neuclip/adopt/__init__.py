"""Ready-made shards in; what acquire leaves of pairs that it fetches out, with the images where they are.

Contract: every row that a shard has, or says it has, is one outcome row. A shard is a part that is keyed by its
content, and no byte of it is trusted.
"""
