"""The captions of samples, from side files: which one a sample is seen with in an epoch."""

from collections.abc import Iterable, Iterator, Mapping

from neuclip.foundation.randomness import generator
from neuclip.index.side_files import SideTexts, side_records
from neuclip.loading.mapped_files import MappedFiles

_CAPTION_VIEW = 1


class Captions:
    """Texts by (source, shard, row), and a draw among those of a sample, keyed by (seed, epoch, sample_id).

    Args:
        index_uri: committed index; its side files hold the texts.
        weights: source -> weight it is drawn with among the sources a sample has.
        seed: of all drawing.
        cache_gb: size of the cache for files of a remote root, which shards share.
    """

    def __init__(
        self, index_uri: str, *, weights: Mapping[str, float], seed: int, cache_gb: float
    ) -> None:
        self._weights, self._seed = dict(weights), seed
        self._files = {
            source: MappedFiles(files, kind="side file", stage="index", cache_gb=cache_gb)
            for source, files in sorted(side_records(index_uri).items())
        }
        self._open: dict[tuple[str, str], SideTexts] = {}

    @property
    def sources(self) -> list[str]:
        """The sources that there are."""
        return list(self._files)

    def choose(self, shard: str, row: int, *, epoch: int, sample_id: int) -> str:
        """Draw a source among those the sample has, by weight, then one of its texts.

        A sample with none of the named sources gives its first text of any source; one that was taken down none.
        """
        texts = {
            source: found
            for source, weight in self._weights.items()
            if weight > 0 and (found := self.texts(source, shard, row))
        }
        if not texts:
            return self.first(shard, row)
        sources = list(texts)
        if len(sources) == 1 and len(texts[sources[0]]) == 1:
            return texts[sources[0]][0]
        draw = generator(self._seed, epoch=epoch, sample_id=sample_id, view=_CAPTION_VIEW).random(2)
        weights = [self._weights[source] for source in sources]
        goal, place = draw[0] * sum(weights), 0
        while place < len(sources) - 1 and goal >= weights[place]:
            goal -= weights[place]
            place += 1
        chosen = texts[sources[place]]
        return chosen[int(draw[1] * len(chosen))]

    def first(self, shard: str, row: int) -> str:
        """Return the first text of the first source by name that a sample has, nothing if it has none."""
        every = (self.texts(source, shard, row) for source in self._files)
        return next((texts[0] for texts in every if texts), "")

    def texts(self, source: str, shard: str, row: int) -> list[str]:
        """Return the texts of a sample by its place in a shard; none of a source that is not there.

        Raises: IntegrityError: for a side file that is missing or damaged.
        """
        if source not in self._files:
            return []
        side = self._open.get((source, shard))
        if side is None:
            path, content = self._files[source].map(shard)
            side = SideTexts(path, content, source=source, shard=shard)
            self._open[source, shard] = side
        return side.of(row)

    def weighed(self) -> Iterator[MappedFiles]:
        """Yield the files of the weighed sources, which are fetched with the shards of their names."""
        for source, weight in self._weights.items():
            if weight > 0 and source in self._files:
                yield self._files[source]

    def close_all_but(self, shards: Iterable[str]) -> None:
        """Let go of the texts of shards that are read no more."""
        kept = set(shards)
        self._open = {place: side for place, side in self._open.items() if place[1] in kept}
