"""What acquire committed, for the stages below: partitions with `rows.parquet`, their images, and their texts."""

from pathlib import Path

from neuclip.acquired.adopted_tar import adopted_tar, check_unchanged
from neuclip.acquired.listing import read_listing
from neuclip.acquired.texts import TEXTS
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import part_uri, read_manifest, verify_sizes
from neuclip.storage.cache import local_copy
from neuclip.storage.uris import join

STAGE = "acquire"
PARTITION_VERSION = 2
"""Raised when what becomes of the same rows changes: all partitions are then fetched or adopted anew."""
ROWS = "rows.parquet"
IMAGES = "images.tar"
"""In a partition's folder, unless its images are in a tar that was adopted; see `images_uri`."""
COLUMNS = "columns"
"""Folder of the stage's own with PART.parquet: uid and the kept columns, row by row beside the partition's rows."""


def partition_folders(acquire_uri: str) -> list[str]:
    """Return the folders of all partitions in order, after checking that their files are there in full size.

    Raises: IntegrityError: if one is not, or an adopted tar is not what was adopted.
    """
    folders = [part_uri(acquire_uri, key) for key in read_manifest(acquire_uri).parts]
    manifests = {folder: read_manifest(folder) for folder in folders}
    for folder, manifest in manifests.items():
        verify_sizes(folder, manifest)
    check_unchanged(tar for manifest in manifests.values() if (tar := adopted_tar(manifest)))
    return folders


def text_folders(acquire_uri: str) -> list[str]:
    """Return the folders with the texts of all partitions, in their order, after checking their size."""
    folders = [part_uri(acquire_uri, row["texts"]) for row in read_listing(acquire_uri)]
    for folder in folders:
        verify_sizes(folder, read_manifest(folder))
    return folders


def texts_paths(acquire_uri: str) -> list[Path]:
    """Return local paths of the texts of all partitions, in order."""
    return [committed_file(folder, TEXTS) for folder in text_folders(acquire_uri)]


def rows_paths(acquire_uri: str) -> list[Path]:
    """Return local paths of the outcome tables of all partitions, in order."""
    return [committed_file(folder, ROWS) for folder in partition_folders(acquire_uri)]


def images_path(folder_uri: str) -> Path:
    """Return a local path of the tar that `images_uri` names, proven to be what was committed.

    Raises: IntegrityError: if it is not. One that was adopted is compared by `partition_folders`.
    """
    if adopted_tar(read_manifest(folder_uri)) is None:
        return committed_file(folder_uri, IMAGES)
    return local_copy(images_uri(folder_uri))


def images_uri(folder_uri: str) -> str:
    """Return the tar with the images of a partition, in which `offset` and `size` of its rows count."""
    tar = adopted_tar(read_manifest(folder_uri))
    return join(folder_uri, IMAGES) if tar is None else tar.uri
