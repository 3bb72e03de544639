"""The files of a committed curate folder."""

VERDICTS = "verdicts.parquet"
SUBSET = "kept.npy"
FUNNEL = "funnel.json"
GROUPS = "groups"
"""Folder with a file for each rule over groups."""
CONTAMINATION = "contamination.parquet"
