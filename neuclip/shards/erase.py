"""Erase pairs from training shards: image, record and text of a sample lose their content, all ids and places stay."""

import json
from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq

from neuclip.shards.files import MEMBERS
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.stages.open_folder import OpenFolder
from neuclip.storage.blank import blank_members
from neuclip.storage.cache import local_copy
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join, name_of


def find_shards(shard_uri: str, uids: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Return the pairs that committed parts hold: part -> tar -> uids."""
    found: dict[str, dict[str, list[str]]] = {}
    wanted = set(uids)
    for part in list_folders(join(shard_uri, PARTS)):
        uri = join(shard_uri, PARTS, part)
        if not is_committed(uri):
            continue
        table = pq.read_table(local_copy(join(uri, MEMBERS)), columns=["uid", "shard"])
        for uid, shard in zip(table["uid"].to_pylist(), table["shard"].to_pylist(), strict=True):
            if uid in wanted:
                found.setdefault(part, {}).setdefault(name_of(shard), []).append(uid)
    return found


def erase_from_shards(
    part_uri: str, tars: dict[str, list[str]], takedown: int, scratch: Path
) -> None:
    """Erase samples from the tars of a part.

    Args:
        tars: name -> uids.
        takedown: number of the takedown, which the part's manifest takes in.
    """
    folder = OpenFolder(part_uri, read_manifest(part_uri), scratch)
    for name, uids in tars.items():
        folder.change(name, lambda path, stems=frozenset(uids): blank_members(path, stems, _fill))
    folder.close(takedown)


def _fill(name: str, content: bytes) -> bytes:
    """Leave no picture and no words, but a record that readers can read: the sample counts as corrupt."""
    if name.endswith(".txt"):
        return b" " * len(content)
    if not name.endswith(".json"):
        return bytes(len(content))
    record = json.loads(content)
    kept = {name: record[name] for name in ("uid", "sample_id")}
    text = json.dumps(kept, separators=(",", ":")).encode()
    return text.ljust(len(content)) if len(text) <= len(content) else bytes(len(content))
