"""Which pairs of the pool are in the evaluation sets: by the look of the image, its features, or its caption."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.curate.near_images import Descriptors, Indices, look_alikes, read_descriptors
from neuclip.curate.pool import FEATURES
from neuclip.curate.semantic import Features
from neuclip.foundation.errors import NumericsError, ShapeError
from neuclip.stages.committed import committed_file
from neuclip.storage.tables import ArrowTable, connect

SAMPLES = "samples.parquet"
"""A row for each sample of an evaluation set, in its order: `sample` (its key), `captions` (of a retrieval set)."""

MOST_PICTURE_DISTANCE = 1.5
"""More than near-duplicates may differ in: a test image that stays is worse than a clean one that goes."""

MATCH_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "set": pa.string(),
        "sample": pa.string(),
        "by": pa.string(),
        "distance": pa.float32(),
    }
)
"""`by` is phash (distance of the pictures), embedding (1 - cosine) or caption (0)."""

_ROWS_AT_ONCE = 1024
_SAMPLES_AT_ONCE = 8192
_Distances = npt.NDArray[np.float32]
_Nearest = tuple[Indices, Indices, _Distances]


@dataclass(frozen=True)
class EvaluationFolders:
    """Where the scores of an evaluation set lie."""

    set: str
    samples: str
    """URI of the folder with samples.parquet."""
    scores: dict[str, str]
    """Name of a score of kind phash or embedding -> URI of the folder, row for row as samples.parquet."""


class EvaluationSamples:
    """The samples of all evaluation sets, to hold partitions of the pool against.

    Args:
        folders: of every set.
        phash: name of the score of kind phash, None to pass over the look of images.
        embedding: name of the score of kind embedding, None to pass over features.
        captions: whether to compare captions.
    """

    def __init__(
        self,
        folders: Sequence[EvaluationFolders],
        *,
        phash: str | None = None,
        embedding: str | None = None,
        captions: bool = False,
    ) -> None:
        tables = [pq.read_table(committed_file(f.samples, SAMPLES)).to_pylist() for f in folders]
        self._sets = [f.set for f, rows in zip(folders, tables, strict=True) for _ in rows]
        self._samples = [str(row["sample"]) for rows in tables for row in rows]
        self._descriptors = self._features = None
        if phash is not None:
            parts = [np.full(len(rows), number) for number, rows in enumerate(tables)]
            rows = [np.arange(len(rows)) for rows in tables]
            self._descriptors = read_descriptors(
                [f.scores[phash] for f in folders], _joined(parts), _joined(rows)
            )
        if embedding is not None:
            arrays = [np.load(committed_file(f.scores[embedding], FEATURES)) for f in folders]
            self._features = np.concatenate(arrays).astype(np.float32)
        self._captions: dict[str, int] = {}
        if captions:
            every = (caption for rows in tables for row in rows for caption in [row["captions"]])
            for number, texts in enumerate(every):
                for text in filter(None, map(normalised, texts)):
                    self._captions.setdefault(text, number)

    def matches(
        self,
        *,
        descriptors: Descriptors | None = None,
        features: Features | None = None,
        captions: Sequence[str | None] | None = None,
        min_cosine: float = 1.0,
        scratch: Path,
    ) -> ArrowTable:
        """Return the rows of a partition that are an evaluation sample: a row of MATCH_SCHEMA for each way.

        Of several samples that a row matches in one way the nearest is told, then the first.

        Args:
            descriptors: of the partition's images, row for row; None passes over them.
            features: unit-norm [rows, D], zeros where there are none; None passes over them.
            captions: alt texts; None passes over them.
            min_cosine: least cosine of the features of two images that are the same.
            scratch: folder that DuckDB may spill to.

        Raises:
            ShapeError: if the features have another width than the evaluation sets'.
            NumericsError: for features that are not finite.
        """
        found: list[ArrowTable] = [MATCH_SCHEMA.empty_table()]
        if descriptors is not None and self._descriptors is not None:
            found.append(self._table("phash", self._by_picture(descriptors, scratch)))
        if features is not None and self._features is not None:
            found.append(self._table("embedding", self._by_features(features, min_cosine)))
        if captions is not None:
            found.append(self._table("caption", self._by_caption(captions)))
        return pa.concat_tables(found)

    def _by_picture(self, descriptors: Descriptors, scratch: Path) -> _Nearest:
        assert self._descriptors is not None
        empty = np.empty(0, np.int64)
        chunks: list[_Nearest] = [(empty, empty, np.empty(0, np.float32))]
        with connect(scratch) as connection:
            chunks += look_alikes(
                connection, descriptors, self._descriptors, most=MOST_PICTURE_DISTANCE
            )
        rows, samples, distances = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        order = np.lexsort((samples, distances, rows))
        first = order[np.unique(rows[order], return_index=True)[1]]
        return rows[first], samples[first], distances[first]

    def _by_features(self, features: Features, min_cosine: float) -> _Nearest:
        assert self._features is not None
        best = np.full(len(features), -np.inf, np.float32)
        samples = np.zeros(len(features), np.int64)
        for rows, block in _blocks(features, self._features.shape[1]):
            for start in range(0, len(self._features), _SAMPLES_AT_ONCE):
                cosines = block @ self._features[start : start + _SAMPLES_AT_ONCE].T
                nearest = cosines.argmax(axis=1)
                cosine = np.take_along_axis(cosines, nearest[:, None], axis=1)[:, 0]
                is_nearer = cosine > best[rows]
                best[rows] = np.where(is_nearer, cosine, best[rows])
                samples[rows] = np.where(is_nearer, nearest + start, samples[rows])
        found = np.flatnonzero(best >= min_cosine)
        return found, samples[found], np.maximum(1 - best[found], 0)

    def _by_caption(self, captions: Sequence[str | None]) -> _Nearest:
        found = [
            (row, self._captions[text])
            for row, caption in enumerate(captions)
            for text in [normalised(caption or "")]
            if text in self._captions
        ]
        pairs = np.array(found, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1], np.zeros(len(pairs), np.float32)

    def _table(self, by: str, nearest: _Nearest) -> ArrowTable:
        rows, samples, distances = nearest
        return pa.table(
            {
                "row": rows,
                "set": [self._sets[sample] for sample in samples.tolist()],
                "sample": [self._samples[sample] for sample in samples.tolist()],
                "by": [by] * len(rows),
                "distance": distances.astype(np.float32),
            },
            schema=MATCH_SCHEMA,
        )


def normalised(caption: str) -> str:
    """Return what two captions have in common that differ in case, width, punctuation or white space alone."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).casefold())
    kept = ("" if unicodedata.category(c) == "Cf" else c if _is_word(c) else " " for c in folded)
    return " ".join("".join(kept).split())


def _is_word(character: str) -> bool:
    """Tell letters, marks, digits and symbols (such as emoji) from punctuation, spaces and controls."""
    return unicodedata.category(character)[0] in "LMNS"


def _joined(arrays: list[Indices]) -> Indices:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _blocks(features: Features, width: int) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Yield rows in float32 by blocks."""
    if features.ndim != 2 or features.shape[1] != width:
        raise ShapeError(
            f"features of the pool have the shape {list(features.shape)}, those of the evaluation sets a width of "
            f"{width}; both must come from the same model"
        )
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        block = features[rows].astype(np.float32)
        if not np.isfinite(block).all():
            raise NumericsError("features of the pool are not finite; score them again")
        yield rows, block
