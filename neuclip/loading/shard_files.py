"""Training shards as local files, wherever the root is."""

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from neuclip.foundation.errors import ConfigError, IntegrityError
from neuclip.shards.members import shard_files_uri, shard_records
from neuclip.stages.manifest import FileRecord
from neuclip.storage.bounded import BoundedCache, locked
from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.fingerprints import sha256_of_file
from neuclip.storage.uris import is_local, join, local_part

_GB = 1_000_000_000


@dataclass(frozen=True)
class OpenShard:
    """A shard that is read by offset, through memory: pread costs half as much again.

    A shard that is cut while it is open ends the process (SIGBUS); the next one names it.
    """

    path: Path
    content: mmap.mmap

    def read(self, offset: int, size: int) -> bytes:
        """Read a member.

        Raises: IntegrityError: if the shard ends before the member does.
        """
        member = self.content[offset : offset + size]
        if len(member) != size:
            raise IntegrityError(
                f"shard {self.path} is truncated: {size} bytes expected at {offset}, {len(member)} are there; "
                "run `--only shard --force`"
            )
        return member


class ShardFiles:
    """Opens training shards: in place under a local root, else from this machine's bounded cache.

    Each is compared with its SHA-256 before it is read: by one process of the machine, unless it was written since.

    Args:
        shard_uri: committed folder of the shard stage; its parts' manifests say what each shard must be.
        cache_gb: size of the cache in GB of 1e9 bytes.
    """

    def __init__(self, shard_uri: str, *, cache_gb: float) -> None:
        self._uri, self._folder = shard_uri, shard_files_uri(shard_uri)
        self._cache_gb = cache_gb
        self._records = shard_records(shard_uri)
        self._open: dict[str, OpenShard] = {}
        self._cache = BoundedCache(cache_folder() / "shards", limit_bytes=round(cache_gb * _GB))

    @property
    def are_remote(self) -> bool:
        """Tell whether shards have to be fetched."""
        return not is_local(self._uri)

    def open(self, name: str) -> OpenShard:
        """Open a shard, fetching it first where need be, and keep it open for the next time.

        Raises: IntegrityError: if it is missing or not what the manifest says. StorageError: as the cache's.
        """
        if name not in self._open:
            self._open[name] = self._map(name)
        return self._open[name]

    def close_all_but(self, names: Iterable[str]) -> None:
        """Close the shards that are read no more, so that the cache's disk space is free when they leave it."""
        for name in self._open.keys() - set(names):
            self._open.pop(name).content.close()

    def _map(self, name: str) -> OpenShard:
        path, descriptor = self._open_remote(name) if self.are_remote else self._open_local(name)
        try:
            return OpenShard(path, mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # no file of zero bytes can be mapped
            raise IntegrityError(
                f"cannot read shard {path}: {error}; run `--only shard --force`"
            ) from error
        finally:
            os.close(descriptor)

    def fetch(self, name: str) -> None:
        """Get a remote shard into the cache, or note there that it is still of use."""
        record = self._record(name)
        try:
            self._cache.fetch(
                join(self._folder, name), size_bytes=record.size_bytes, sha256=record.sha256
            )
        except IntegrityError as error:
            raise IntegrityError(f"{error}; run `--only shard --force`") from error

    def require_room(self, names: Iterable[str], *, processes: int) -> None:
        """Refuse a cache that cannot hold the shards in use at once, which would be fetched for every batch.

        Args:
            names: shards that one process needs at once.
            processes: how many of its kind share the cache.
        Raises: ConfigError: saying how much is needed.
        """
        needed_gb = sum(self._record(name).size_bytes for name in names) * processes / _GB
        if needed_gb > self._cache_gb:
            raise ConfigError(
                f"train.loader.cache_gb {self._cache_gb:g} is too small: {processes} processes on this machine read "
                f"shards of {needed_gb:.3g} GB at once (the present and the next of each stream); give that or more, "
                "or lower train.streams or shard.samples_per_shard"
            )

    def _record(self, name: str) -> FileRecord:
        if name not in self._records:
            raise IntegrityError(
                f"the index has shard {name}, which no part of {self._uri} lists; run `--from index`"
            )
        return self._records[name]

    def _open_local(self, name: str) -> tuple[Path, int]:
        path, record = local_part(self._folder) / name, self._record(name)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            with locked(cache_folder() / "shards" / "locks" / record.sha256):
                found = sha256_of_file(path)
        except OSError as error:
            raise IntegrityError(
                f"cannot read shard {path}: {error}; run `--only shard --force`"
            ) from error
        if found != record.sha256:
            os.close(descriptor)
            raise IntegrityError(
                f"shard {path} has {path.stat().st_size} bytes with SHA-256 {found[:16]}..., expected "
                f"{record.size_bytes} bytes with SHA-256 {record.sha256[:16]}... as stage shard committed it; "
                "run `--only shard --force`"
            )
        return path, descriptor

    def _open_remote(self, name: str) -> tuple[Path, int]:
        path = self._cache.path_of(self._record(name).sha256)
        while True:
            self.fetch(name)
            try:
                return path, os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # it was removed in between to make room; fetch it again
                continue
