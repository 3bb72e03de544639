"""Erase the texts of pairs from caption parts: their rows stay, without a word."""

from collections.abc import Collection
from pathlib import Path

from neuclip.captions.files import TEXTS
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.stages.open_folder import OpenFolder, blank_rows, uids_in
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join


def find_parts(stage_uri: str, uids: Collection[str]) -> list[str]:
    """Return the committed parts with a text of one of the pairs."""
    return [
        part
        for part in list_folders(join(stage_uri, PARTS))
        if is_committed(uri := join(stage_uri, PARTS, part)) and uids_in(join(uri, TEXTS), uids)
    ]


def erase_part(uri: str, uids: Collection[str], takedown: int, scratch: Path) -> None:
    """Erase texts from a part."""
    folder = OpenFolder(uri, read_manifest(uri), scratch)
    blank_rows(folder, TEXTS, uids, keep=("uid", "source", "k"))
    folder.close(takedown)
