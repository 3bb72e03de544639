"""The texts of samples by source, read from the side files of a committed index."""

from collections.abc import Collection

from neuclip.index.side_files import SideTexts, side_records
from neuclip.loading.mapped_files import MappedFiles
from neuclip.loading.side_files import SideFiles


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
        records = side_records(index_uri)
        shown = {s: files for s, files in records.items() if sources is None or s in sources}
        self.side: SideFiles[SideTexts] = SideFiles(shown, cache_gb=cache_gb)

    @property
    def sources(self) -> list[str]:
        """The sources that there are."""
        return self.side.sources

    def first(self, shard: str, row: int) -> tuple[str, str]:
        """Return the first text of the first source by name that a sample has, and the source; empty if it has none."""
        every = ((source, self.texts(source, shard, row)) for source in self.sources)
        return next(((texts[0], source) for source, texts in every if texts), ("", ""))

    def texts(self, source: str, shard: str, row: int) -> list[str]:
        """Return the texts of a sample by its place in a shard; none of a source that is not there.

        Raises: IntegrityError: for a side file that is missing or damaged.
        """
        return self._side(source, shard).of(row) if source in self.sources else []

    def place_of(self, source: str, shard: str, row: int) -> tuple[int, int]:
        """Return where the texts of a sample begin among those of its shard, and how many the shard has."""
        side = self._side(source, shard)
        return side.first_of(row), side.count_of_texts

    def _side(self, source: str, shard: str) -> SideTexts:
        def read(files: MappedFiles) -> SideTexts:
            path, content = files.map(shard)
            return SideTexts(path, content, source=source, shard=shard)

        return self.side.get(source, shard, read)
