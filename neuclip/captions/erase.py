"""Erase the texts of pairs from caption parts, where their rows stay without a word, and answers from journals."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

from neuclip.captions.files import TEXTS
from neuclip.generation.journal import erase_answers, journals_with
from neuclip.stages.manifest import PARTS, is_committed, read_manifest
from neuclip.stages.open_folder import OpenFolder, blank_rows, uids_in
from neuclip.stages.stage import Erasures
from neuclip.storage.files import list_folders
from neuclip.storage.uris import join


def find_texts(stage_uri: str, uids: Collection[str]) -> Erasures:
    """Return what erases the texts of pairs, from each part and each journal that has one."""
    parts = [
        part
        for part in list_folders(join(stage_uri, PARTS))
        if is_committed(uri := join(stage_uri, PARTS, part)) and uids_in(join(uri, TEXTS), uids)
    ]
    in_parts = {
        (uri := join(stage_uri, PARTS, part)): partial(erase_part, uri, uids) for part in parts
    }
    journals = journals_with(stage_uri, uids)
    return in_parts | {uri: partial(_erase_journal, uri, uids) for uri in journals}


def erase_part(uri: str, uids: Collection[str], takedown: int, scratch: Path) -> None:
    """Erase texts from a part."""
    folder = OpenFolder(uri, read_manifest(uri), scratch)
    blank_rows(folder, TEXTS, uids, keep=("uid", "source", "k"))
    folder.close(takedown)


def _erase_journal(uri: str, uids: Collection[str], takedown: int, scratch: Path) -> None:
    del takedown, scratch
    erase_answers(uri, uids)
