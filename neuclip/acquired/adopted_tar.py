"""A tar that others wrote and that stays where it is: how a partition names it, and whether it is still the same."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from neuclip.foundation.errors import IntegrityError
from neuclip.stages.manifest import Manifest
from neuclip.storage.files import list_stamps, sha256_of
from neuclip.storage.uris import name_of, parent_of

ADOPTED_TAR = "adopted_tar"
"""In the summary of a part's manifest: the tar that holds the part's images in place of one of the part's own."""


class AdoptedTar(BaseModel):
    """A tar as it was when it was adopted."""

    model_config = ConfigDict(frozen=True)

    uri: str
    size_bytes: int
    stamp: str
    """What changes when the file is written again, see `list_stamps`."""
    sha256: str


def adopted_tar(manifest: Manifest) -> AdoptedTar | None:
    """Return the tar that a part names, None if its images are its own."""
    record = manifest.summary.get(ADOPTED_TAR)
    return None if record is None else AdoptedTar.model_validate(record)


def is_unchanged(tar: AdoptedTar, stamp: str | None) -> bool:
    """Tell whether a tar with this stamp now, None if it is gone, is what was adopted.

    Only one that was written, touched or copied anew is read.
    """
    if stamp is None:
        return False
    return stamp == tar.stamp or sha256_of(tar.uri) == tar.sha256


def check_unchanged(tars: Iterable[AdoptedTar]) -> None:
    """Look at all adopted tars, with one listing of each folder.

    Raises: IntegrityError: naming the first that is gone or was changed.
    """
    stamps: dict[str, dict[str, str]] = {}
    for tar in tars:
        folder = parent_of(tar.uri)
        if folder not in stamps:
            stamps[folder] = list_stamps(folder)
        stamp = stamps[folder].get(name_of(tar.uri))
        if not is_unchanged(tar, stamp):
            state = "is gone" if stamp is None else f"was changed (it is {stamp})"
            raise IntegrityError(
                f"the adopted tar {tar.uri} {state}, expected {tar.size_bytes} bytes as they were adopted "
                f"({tar.stamp}); put it back, or set acquire.adopt to where the shards lie now and run "
                "`--only acquire --force`"
            )
