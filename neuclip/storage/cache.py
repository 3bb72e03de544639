"""Whole files of object storage kept on this machine, so that the rest of the code reads paths."""

import hashlib
from pathlib import Path

from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.files import get_file, list_files, version_tag
from neuclip.storage.fingerprints import remember, remembered
from neuclip.storage.uris import is_local, join, local_part, name_of


def local_copy(uri: str) -> Path:
    """Return a local path with the content of a file that no stage committed; a local file is its own copy.

    A copy is named by URI and version, so a file that was replaced is fetched anew; so is one whose copy is not, byte
    for byte, what arrived. Files of a committed folder are read by `committed_file`.
    """
    if is_local(uri):
        return local_part(uri)
    path = _folder_for(f"{uri}\n{version_tag(uri)}") / name_of(uri)
    _fetch(uri, path)
    return path


def local_folder(folder_uri: str) -> Path:
    """Return a local folder with copies of all files below a folder; a local folder is its own copy."""
    if is_local(folder_uri):
        return local_part(folder_uri)
    names = list_files(folder_uri)
    tags = "\n".join(f"{name}:{version_tag(join(folder_uri, name))}" for name in names)
    target = _folder_for(f"{folder_uri}\n{tags}")
    for name in names:
        _fetch(join(folder_uri, name), target / name)
    return target


def _folder_for(content: str) -> Path:
    return cache_folder() / "copies" / hashlib.sha256(content.encode()).hexdigest()[:32]


def _fetch(uri: str, path: Path) -> None:
    """Bring a file here unless it is here as it arrived: its name proves nothing, its remembered hash does."""
    if remembered(path) is None:
        remember(path, get_file(uri, path))
