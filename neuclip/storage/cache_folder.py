"""The folder of this machine in which copies, locks and fingerprints are kept: of this user alone."""

import os
import stat
import tempfile
from pathlib import Path

from neuclip.foundation.errors import StorageError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """Return NEUCLIP_CACHE, else a folder of this user below the temporary folder; it is made if need be.

    Raises: StorageError: if it cannot be made, or somebody else could put files there that would be trusted.
    """
    default = Path(tempfile.gettempdir()) / f"neuclip-cache-{os.getuid()}"
    folder = Path(os.environ.get("NEUCLIP_CACHE") or default).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        link, found = folder.lstat(), folder.stat()
    except OSError as error:
        raise StorageError(
            f"the cache folder {folder} cannot be used: {error.strerror}; set NEUCLIP_CACHE to a folder that this user "
            "can write to"
        ) from error
    owners = {"belongs to": found.st_uid}
    if stat.S_ISLNK(link.st_mode):
        owners["is a link of"] = link.st_uid
    for what, owner in owners.items():
        if owner != os.geteuid():
            raise StorageError(
                f"the cache folder {folder} {what} user {owner}, expected user {os.geteuid()}: what another user puts "
                "there would be trusted; set NEUCLIP_CACHE to a folder of your own, or to one below it that is "
                "not there yet"
            )
    if found.st_mode & _OTHERS_WRITE:
        raise StorageError(
            f"the cache folder {folder} can be written to by others (mode {stat.S_IMODE(found.st_mode):o}), expected "
            f"700: what they put there would be trusted; look through it and run `chmod go-w {folder}`, or set "
            "NEUCLIP_CACHE to a folder of your own"
        )
    return folder
