"""The texts of samples by source, read from the side files of a committed index."""

from collections.abc import Collection, Iterable, Iterator

from neuclip.index.side_files import SideTexts, side_records
from neuclip.loading.mapped_files import MappedFiles


class Captions:
    """Texts by (source, shard, row).

    Args:
        index_uri: committed index; its side files hold the texts.
        cache_gb: size of the cache for files of a remote root, which shards share.
        sources: those that may be shown; None is all.
    """

    def __init__(
        self, index_uri: str, *, cache_gb: float, sources: Collection[str] | None = None
    ) -> None:
        self._files = {
            source: MappedFiles(files, kind="side file", stage="index", cache_gb=cache_gb)
            for source, files in sorted(side_records(index_uri).items())
            if sources is None or source in sources
        }
        self._open: dict[tuple[str, str], SideTexts] = {}

    @property
    def sources(self) -> list[str]:
        """The sources that there are."""
        return list(self._files)

    def first(self, shard: str, row: int) -> tuple[str, str]:
        """Return the first text of the first source by name that a sample has, and the source; empty if it has none."""
        every = ((source, self.texts(source, shard, row)) for source in self._files)
        return next(((texts[0], source) for source, texts in every if texts), ("", ""))

    def texts(self, source: str, shard: str, row: int) -> list[str]:
        """Return the texts of a sample by its place in a shard; none of a source that is not there.

        Raises: IntegrityError: for a side file that is missing or damaged.
        """
        return self._side(source, shard).of(row) if source in self._files else []

    def place_of(self, source: str, shard: str, row: int) -> tuple[int, int]:
        """Return where the texts of a sample begin among those of its shard, and how many the shard has."""
        side = self._side(source, shard)
        return side.first_of(row), side.count_of_texts

    def _side(self, source: str, shard: str) -> SideTexts:
        side = self._open.get((source, shard))
        if side is None:
            path, content = self._files[source].map(shard)
            side = SideTexts(path, content, source=source, shard=shard)
            self._open[source, shard] = side
        return side

    def files(self, sources: Iterable[str]) -> Iterator[MappedFiles]:
        """Yield the files of sources, which are fetched with the shards of their names."""
        for source in sources:
            if source in self._files:
                yield self._files[source]

    def close_all_but(self, shards: Iterable[str]) -> None:
        """Let go of the texts of shards that are read no more."""
        kept = set(shards)
        self._open = {place: side for place, side in self._open.items() if place[1] in kept}
