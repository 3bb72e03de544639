"""Deterministic training shards (WebDataset tars) and their member table."""
