"""Training shards as local files, wherever the root is."""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from neuclip.foundation.errors import IntegrityError
from neuclip.loading.mapped_files import MappedFiles
from neuclip.shards.members import shard_files_uri, shard_records
from neuclip.storage.uris import join


@dataclass(frozen=True)
class OpenShard:
    """A shard that is read by offset, through memory: pread costs half as much again."""

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


class ShardFiles(MappedFiles):
    """Opens training shards.

    Args:
        shard_uri: committed folder of the shard stage; its parts' manifests say what each shard must be.
        cache_gb: size of the cache in GB of 1e9 bytes.
    """

    def __init__(self, shard_uri: str, *, cache_gb: float) -> None:
        folder = shard_files_uri(shard_uri)
        records = {
            name: (join(folder, name), file) for name, file in shard_records(shard_uri).items()
        }
        super().__init__(records, kind="shard", stage="shard", cache_gb=cache_gb)
        self._open: dict[str, OpenShard] = {}

    def open(self, name: str) -> OpenShard:
        """Open a shard, fetching it first where need be, and keep it open for the next time.

        Raises: IntegrityError: if it is missing or not what the manifest says. StorageError: as the cache's.
        """
        if name not in self._open:
            self._open[name] = OpenShard(*self.map(name))
        return self._open[name]

    def close_all_but(self, names: Iterable[str]) -> None:
        """Close the shards that are read no more, so that the cache's disk space is free when they leave it."""
        for name in self._open.keys() - set(names):
            self._open.pop(name).content.close()
