"""Whole files of object storage kept on this machine, so that the rest of the code reads paths."""

import hashlib
import os
import tempfile
from pathlib import Path

from neuclip.storage.files import get_file, list_files, version_tag
from neuclip.storage.uris import is_local, join, local_part, name_of


def cache_folder() -> Path:
    """Return where copies are kept: NEUCLIP_CACHE, else a folder of this user below the temporary folder."""
    default = Path(tempfile.gettempdir()) / f"neuclip-cache-{os.getuid()}"
    return Path(os.environ.get("NEUCLIP_CACHE", default))


def local_copy(uri: str) -> Path:
    """Return a local path with the file's content; a local file is its own copy.

    A copy is named by URI and version, so a file that was replaced is fetched anew.
    """
    if is_local(uri):
        return local_part(uri)
    tag = hashlib.sha256(f"{uri}\n{version_tag(uri)}".encode()).hexdigest()[:32]
    path = cache_folder() / tag / name_of(uri)
    if not path.exists():
        get_file(uri, path)
    return path


def local_folder(folder_uri: str) -> Path:
    """Return a local folder with copies of all files below a folder; a local folder is its own copy."""
    if is_local(folder_uri):
        return local_part(folder_uri)
    names = list_files(folder_uri)
    tags = "\n".join(f"{name}:{version_tag(join(folder_uri, name))}" for name in names)
    target = cache_folder() / hashlib.sha256(f"{folder_uri}\n{tags}".encode()).hexdigest()[:32]
    for name in names:
        if not (target / name).exists():
            get_file(join(folder_uri, name), target / name)
    return target
