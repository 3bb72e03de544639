"""Where leases lie: in a folder, as lock files, or in object storage, as objects that are created once.

A folder's lock files are freed by the kernel. An object is written again at every sign of life, and the storage's own
clock tells how old the last one is; the lock file of its owner tells the same machine at once that it is dead.
"""

import errno
import logging
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

from neuclip.stages.lock_file import LockFile, look, sweep_unfinished
from neuclip.stages.owner import Owner, Seen, boot_id, read_owner
from neuclip.stages.scratch import lock_name, scratch_home
from neuclip.storage.failures import explained
from neuclip.storage.files import list_files, remove
from neuclip.storage.filesystems import filesystem
from neuclip.storage.uris import is_local, join, local_part

log = logging.getLogger(__name__)

LEASES = ".leases"
_SETTLE_S = 3.0
_CONDITIONAL: set[str] = set()
"""Buckets that were seen to refuse to create what is there."""
_REFUSED = ("PreconditionFailed", "412", "ConditionalRequestConflict")
"""Codes of S3 for a write whose condition does not hold, or that came in the same moment as another."""


class Held(Protocol):
    """A lease that is ours."""

    def beat(self) -> bool:
        """Give a sign of life; tell whether the lease is still ours."""
        ...

    def remove(self) -> None:
        """Give it back, unless it is somebody else's by now."""
        ...


class Place(Protocol):
    """Where one lease lies."""

    def create(self, owner: Owner) -> Held | None:
        """Take the lease; None if somebody has it."""
        ...

    def look(self) -> Seen | None:
        """Return what is known of who has it; None if nobody has."""
        ...

    def take_over(self, owner: Owner, seen: Seen) -> Held | None:
        """Take it from a dead owner; None if somebody else was faster."""
        ...


def place_of(root: str, name: str) -> Place:
    """Return the place of a lease at a root."""
    uri = join(root, LEASES, name)
    return FolderPlace(local_part(uri)) if is_local(root) else ObjectPlace(uri)


def all_places(root: str) -> list[Place]:
    """Return the places of all leases that are held at a root, by the living and the dead."""
    if is_local(root):
        sweep_unfinished(local_part(root) / LEASES)
    return [place_of(root, name) for name in list_files(join(root, LEASES)) if name[0] != "."]


class FolderPlace:
    """A lock file in a folder that every run at this root sees."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self, owner: Owner) -> Held | None:
        """See `Place`."""
        with explained("write", str(self._path)):
            return LockFile.create(self._path, owner)

    def look(self) -> Seen | None:
        """See `Place`."""
        with explained("read", str(self._path)):
            return look(self._path)

    def take_over(self, owner: Owner, seen: Seen) -> Held | None:
        """See `Place`."""
        with explained("write", str(self._path)):
            return LockFile.take_over(self._path, owner, seen)


class ObjectPlace:
    """An object that is created on the condition that it is not there, and replaced on the condition of its ETag."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._files, self._path = filesystem(uri)
        self._bucket = "/".join(uri.split("/")[:3])

    def create(self, owner: Owner) -> Held | None:
        """See `Place`."""
        if self._bucket not in _CONDITIONAL and self.read() is not None:
            return None  # a storage that ignores the condition would overwrite it
        lock, owner = _prove(self._uri, owner)
        if self._create(owner):
            return HeldObject(self, owner, lock)
        lock.remove()
        return None

    def look(self) -> Seen | None:
        """See `Place`."""
        content = self.read()
        if content is None:
            return None
        owner = read_owner(content)
        return Seen(owner, content, self._age_s(), None if owner is None else _is_alive(owner))

    def take_over(self, owner: Owner, seen: Seen) -> Held | None:
        """See `Place`."""
        etag = self.etag()
        if self.read() != seen.stamp:
            return None
        lock, owner = _prove(self._uri, owner)
        if self.write(owner, IfMatch=etag):
            time.sleep(_SETTLE_S)  # not every storage knows the condition
            if self.is_of(owner):
                return HeldObject(self, owner, lock)
        lock.remove()
        return None

    def read(self) -> bytes | None:
        """Return the record, None if there is none."""
        with explained("read", self._uri):
            try:
                content: bytes = self._files.cat_file(self._path)
            except FileNotFoundError:
                return None
            return content

    def is_of(self, owner: Owner) -> bool:
        """Tell whether the lease is this owner's."""
        found = read_owner(self.read() or b"")
        return found is not None and found.token == owner.token

    def etag(self) -> str | None:
        """Return what tells this content from another, None if the storage does not tell or there is nothing."""
        head = self._head()
        return None if head is None else head["ETag"]

    def write(self, owner: Owner, **condition: str | None) -> bool:
        """Write the record; tell whether the condition held. A storage that knows no conditions ignores it."""
        wanted = {name: value for name, value in condition.items() if value is not None}
        with explained("write", self._uri):
            try:
                self._files.pipe_file(self._path, owner.to_bytes(), **wanted)
            except FileExistsError:
                return False
            except OSError as error:
                if _code(error) in _REFUSED:
                    return False
                if error.errno != errno.ENOSYS or not wanted:
                    raise
                self._files.pipe_file(self._path, owner.to_bytes())
            return True

    def remove(self) -> None:
        """Remove the record."""
        remove(self._uri)

    def _create(self, owner: Owner) -> bool:
        if self.write(owner, mode="create"):
            if self._bucket in _CONDITIONAL or not self.write(owner, mode="create"):
                _CONDITIONAL.add(self._bucket)
                return True
            log.warning(
                "%s is in a storage that ignores conditional writes, so of two runs that begin in the same moment the "
                "first is found by waiting %g s, which is not certain; start one after the other there",
                self._uri,
                _SETTLE_S,
            )
            time.sleep(_SETTLE_S)
        return self.is_of(owner)  # a first answer may have been lost on its way

    def _head(self) -> dict[str, Any] | None:
        if not self._uri.startswith("s3://"):
            return None
        bucket, key, _ = self._files.split_path(self._path)
        with explained("look up", self._uri):
            try:
                head: dict[str, Any] = self._files.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return None
            return head

    def _age_s(self) -> float | None:
        """Return the seconds since it was written, by the clock of the storage."""
        head = self._head()
        if head is None:
            return None
        with suppress(KeyError, ValueError):
            now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
            return (now - head["LastModified"]).total_seconds()
        return None


class HeldObject:
    """A lease in object storage that is ours."""

    def __init__(self, place: ObjectPlace, owner: Owner, lock: LockFile) -> None:
        self._place, self._owner, self._lock = place, owner, lock

    def beat(self) -> bool:
        """See `Held`."""
        self._lock.beat()
        etag = self._place.etag()
        if not self._place.is_of(self._owner):
            return False
        self._owner = self._owner.model_copy(update={"beat": self._owner.beat + 1})
        return self._place.write(self._owner, IfMatch=etag) or self._place.is_of(self._owner)

    def remove(self) -> None:
        """See `Held`."""
        try:
            if self._place.is_of(self._owner):
                self._place.remove()
        finally:
            self._lock.remove()


def _prove(uri: str, owner: Owner) -> tuple[LockFile, Owner]:
    """Hold a lock file on this machine as long as the lease; return it and the owner that tells of it."""
    home = scratch_home(uri)
    with explained("write", str(home)):
        owner = owner.model_copy(update={"locks": _identity(home)})
        lock = LockFile.create(home / lock_name(owner.token), owner)
    assert lock is not None  # nobody else has this token
    return lock, owner


def _is_alive(owner: Owner) -> bool | None:
    """Tell by its lock file whether an owner on this machine lives; None if it is not on this machine."""
    if owner.boot != boot_id():
        return None
    with suppress(OSError):
        home = scratch_home("s3://")
        if _identity(home) == owner.locks:
            seen = look(home / lock_name(owner.token))
            return False if seen is None else seen.is_alive
    return None


def _identity(folder: Path) -> str:
    """Return what tells a folder of this machine from one that another container has at the same path."""
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _code(error: OSError) -> str:
    """Return the code that S3 gave an error."""
    cause: Any = error.__cause__
    return str(getattr(cause, "response", {}).get("Error", {}).get("Code", ""))
