"""Committed files as local files that are read through memory, wherever the root is."""

import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from neuclip.foundation.errors import IntegrityError
from neuclip.stages.manifest import FileRecord
from neuclip.storage.bounded import BoundedCache, locked
from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.fingerprints import sha256_of_file
from neuclip.storage.uris import is_local, local_part

GB = 1_000_000_000
CACHE_GB = 20.0
"""For whoever reads files of a remote root besides training, which has a setting."""

Records = Mapping[str, tuple[str, FileRecord]]
"""Name -> URI, and what was committed there."""


class MappedFiles:
    """Maps committed files: in place under a local root, else from this machine's bounded cache.

    Each is compared with its SHA-256 before it is read: by one process of the machine, unless it was written since.
    A file that is cut while it is mapped ends the process (SIGBUS); the next one names it.

    Args:
        kind: what messages call a file.
        stage: whose files they are, for what to do about a damaged one.
        cache_gb: size of the cache in GB of 1e9 bytes; all kinds of files share it.
    """

    def __init__(self, records: Records, *, kind: str, stage: str, cache_gb: float) -> None:
        self._records, self._kind, self._redo = records, kind, f"run `--only {stage} --force`"
        self.cache_gb = cache_gb
        self._cache = BoundedCache(cache_folder() / "shards", limit_bytes=round(cache_gb * GB))

    @property
    def are_remote(self) -> bool:
        """Tell whether files have to be fetched."""
        return any(not is_local(uri) for uri, _ in self._records.values())

    def map(self, name: str) -> tuple[Path, mmap.mmap]:
        """Map a file, fetching it first where need be.

        Raises: IntegrityError: if it is missing or not what the manifest says. StorageError: as the cache's.
        """
        is_here = is_local(self._record(name)[0])
        path, descriptor = self._open_local(name) if is_here else self._open_remote(name)
        try:
            return path, mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # no file of zero bytes can be mapped
            raise IntegrityError(
                f"cannot read {self._kind} {path}: {error}; {self._redo}"
            ) from error
        finally:
            os.close(descriptor)

    def fetch(self, name: str) -> None:
        """Get a remote file into the cache, or note there that it is still of use."""
        uri, record = self._record(name)
        try:
            self._cache.fetch(uri, size_bytes=record.size_bytes, sha256=record.sha256)
        except IntegrityError as error:
            raise IntegrityError(f"{error}; {self._redo}") from error

    def size_bytes(self, names: Iterable[str]) -> int:
        """Return the size of some files together."""
        return sum(self._record(name)[1].size_bytes for name in names)

    def _record(self, name: str) -> tuple[str, FileRecord]:
        if name not in self._records:
            raise IntegrityError(
                f"the index has {self._kind} {name}, which no part lists; run `--from index`"
            )
        return self._records[name]

    def _open_local(self, name: str) -> tuple[Path, int]:
        uri, record = self._record(name)
        path = local_part(uri)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            with locked(cache_folder() / "shards" / "locks" / record.sha256):
                found = sha256_of_file(path)
        except OSError as error:
            raise IntegrityError(
                f"cannot read {self._kind} {path}: {error}; {self._redo}"
            ) from error
        if found != record.sha256:
            os.close(descriptor)
            raise IntegrityError(
                f"{self._kind} {path} has {path.stat().st_size} bytes with SHA-256 {found[:16]}..., expected "
                f"{record.size_bytes} bytes with SHA-256 {record.sha256[:16]}... as it was committed; {self._redo}"
            )
        return path, descriptor

    def _open_remote(self, name: str) -> tuple[Path, int]:
        path = self._cache.path_of(self._record(name)[1].sha256)
        while True:
            self.fetch(name)
            try:
                return path, os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # it was removed in between to make room; fetch it again
                continue
