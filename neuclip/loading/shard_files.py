"""Training shards as local files, wherever the root is."""

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuclip.foundation.errors import ConfigError, IntegrityError
from neuclip.stages.manifest import FileRecord, read_manifest
from neuclip.storage.bounded import BoundedCache
from neuclip.storage.cache import cache_folder
from neuclip.storage.uris import is_local, join, local_part

_GB = 1_000_000_000


@dataclass(frozen=True)
class OpenShard:
    """A shard that is read by offset."""

    path: Path
    descriptor: int

    def read(self, offset: int, size: int) -> bytes:
        """Read a member.

        Raises: IntegrityError: if the shard ends before the member does.
        """
        content = os.pread(self.descriptor, size, offset)
        if len(content) != size:
            raise IntegrityError(
                f"shard {self.path} is truncated: {size} bytes expected at {offset}, {len(content)} are there; "
                "run `--only shard --force`"
            )
        return content


class ShardFiles:
    """Opens training shards: in place under a local root, else from this machine's bounded cache.

    Args:
        shard_uri: committed folder of the shard stage; its manifest says what must arrive from a remote root.
        cache_gb: size of the cache in GB of 1e9 bytes.
    """

    def __init__(self, shard_uri: str, *, cache_gb: float) -> None:
        self._uri = shard_uri
        self._cache_gb = cache_gb
        self._records = (
            {} if is_local(shard_uri) else {f.name: f for f in read_manifest(shard_uri).files}
        )
        self._cache = BoundedCache(cache_folder() / "shards", limit_bytes=round(cache_gb * _GB))

    @property
    def are_remote(self) -> bool:
        """Tell whether shards have to be fetched."""
        return not is_local(self._uri)

    @contextmanager
    def open(self, name: str) -> Generator[OpenShard]:
        """Open a shard, fetching it first where need be.

        Raises: IntegrityError: if it is missing or not what the manifest says. StorageError: as the cache's.
        """
        path, descriptor = self._open_remote(name) if self.are_remote else self._open_local(name)
        try:
            yield OpenShard(path, descriptor)
        finally:
            os.close(descriptor)

    def fetch(self, name: str) -> None:
        """Get a remote shard into the cache, or note there that it is still of use."""
        record = self._record(name)
        try:
            self._cache.fetch(
                join(self._uri, name), size_bytes=record.size_bytes, sha256=record.sha256
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
                f"the index has shard {name}, which the manifest of {self._uri} does not list; run `--from index`"
            )
        return self._records[name]

    def _open_local(self, name: str) -> tuple[Path, int]:
        path = local_part(self._uri) / name
        try:
            return path, os.open(path, os.O_RDONLY)
        except OSError as error:
            raise IntegrityError(
                f"cannot read shard {path}: {error}; run `--only shard --force`"
            ) from error

    def _open_remote(self, name: str) -> tuple[Path, int]:
        path = self._cache.path_of(self._record(name).sha256)
        while True:
            self.fetch(name)
            try:
                return path, os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # it was removed in between to make room; fetch it again
                continue
