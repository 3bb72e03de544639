"""Erase the features of the texts of pairs: their rows become zeros."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from neuclip.captions.text_features import CAPTION_PART, FEATURES, ROWS
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.stages.open_folder import OpenFolder, blank_rows, uids_in
from neuclip.stages.stage import Erasures
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join


def find_features(stage_uri: str, uids: Collection[str]) -> Erasures:
    """Return what erases pairs from the committed parts that hold features of their texts, by folder."""
    found: Erasures = {}
    for part in list_folders(join(stage_uri, PARTS)):
        uri = join(stage_uri, PARTS, part)
        if not is_committed(uri) or CAPTION_PART not in read_manifest(uri).inputs:
            continue
        if uids_in(join(uri, ROWS), uids):
            found = {**found, uri: partial(_erase, uri, uids)}
    return found


def _erase(uri: str, uids: Collection[str], takedown: int, scratch: Path) -> None:
    folder = OpenFolder(uri, read_manifest(uri), scratch)
    there = pq.read_table(local_copy(join(uri, ROWS)), columns=["uid"])["uid"].to_pylist()
    rows = [row for row, uid in enumerate(there) if uid in uids]
    features = np.load(local_copy(join(uri, FEATURES)), allow_pickle=False).copy()
    features[rows] = 0

    folder.replace(FEATURES, lambda path: np.save(path, features, allow_pickle=False))
    blank_rows(folder, ROWS, uids)
    folder.close(takedown)
