"""Evaluation sets in the wds_* layout, zero-shot classification and retrieval."""
