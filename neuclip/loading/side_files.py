"""The side files of shards by source, each kept open as long as its shard is read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from neuclip.loading.mapped_files import MappedFiles, Records

Side = TypeVar("Side")


class SideFiles(Generic[Side]):
    """What was read of the side files of an index, by (source, shard).

    Args:
        records: by source.
        cache_gb: size of the cache for files of a remote root, which shards share.
    """

    def __init__(self, records: Mapping[str, Records], *, cache_gb: float) -> None:
        self._files = {
            source: MappedFiles(records[source], kind="side file", stage="index", cache_gb=cache_gb)
            for source in sorted(records)
        }
        self._open: dict[tuple[str, str], Side] = {}

    @property
    def sources(self) -> list[str]:
        """The sources that there are."""
        return list(self._files)

    def get(self, source: str, shard: str, read: Callable[[MappedFiles], Side]) -> Side:
        """Return what a file holds, reading it unless it is open.

        Raises: IntegrityError: for a file that is missing or damaged.
        """
        found = self._open.get((source, shard))
        if found is None:
            found = self._open[source, shard] = read(self._files[source])
        return found

    def files(self, sources: Iterable[str]) -> Iterator[MappedFiles]:
        """Yield the files of sources, which are fetched with the shards of their names."""
        for source in sources:
            if source in self._files:
                yield self._files[source]

    def close_all_but(self, shards: Iterable[str]) -> None:
        """Let go of the files of shards that are read no more."""
        kept = set(shards)
        self._open = {place: side for place, side in self._open.items() if place[1] in kept}
