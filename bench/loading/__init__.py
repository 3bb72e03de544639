"""The loader against open_clip's own, on the same shards: `python -m bench.loading`."""
