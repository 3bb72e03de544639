"""From the index to batches: order, reading, decoding, transforms.

Contract: global batch t is a pure function of (seed, t), whatever the number of ranks and workers.
"""
