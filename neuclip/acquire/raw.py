"""What acquire committed, for the stages below: partition folders with `rows.parquet` and `images.tar`."""

from pathlib import Path

from neuclip.stages.manifest import part_uri, read_manifest, verify_sizes
from neuclip.storage.cache import local_copy
from neuclip.storage.uris import join

ROWS = "rows.parquet"
IMAGES = "images.tar"
COLUMNS = "columns"
"""Folder of the stage's own with PART.parquet: uid and the kept columns, row by row beside the partition's rows."""


def partition_folders(acquire_uri: str) -> list[str]:
    """Return the folders of all partitions in order, after checking that their files are there in full size."""
    folders = [part_uri(acquire_uri, key) for key in read_manifest(acquire_uri).parts]
    for folder in folders:
        verify_sizes(folder, read_manifest(folder))
    return folders


def rows_paths(acquire_uri: str) -> list[Path]:
    """Return local paths of the outcome tables of all partitions, in order."""
    return [local_copy(join(folder, ROWS)) for folder in partition_folders(acquire_uri)]
