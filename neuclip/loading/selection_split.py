"""The held-out selection split: pairs of an image file and a text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice

from torch import Tensor

from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.index.side_files import feature_records
from neuclip.loading.captions import Captions
from neuclip.loading.mapped_files import CACHE_GB
from neuclip.loading.policies import ORIGINAL, Caption
from neuclip.loading.tar_samples import IMAGE_SUFFIXES, read_samples
from neuclip.loading.text_features import TextFeatures
from neuclip.shards.members import shard_files_uri, shard_records
from neuclip.stages.committed import committed_file
from neuclip.storage.uris import join, name_of, parent_of

_PATTERN = "selection-*.tar"
_WANTED = frozenset([*IMAGE_SUFFIXES, "txt"])
_LEAST_PAIRS = 2


@dataclass(frozen=True)
class Pair:
    """One held-out sample."""

    key: str
    image: bytes
    caption: str
    feature: Tensor | None = None
    """Of the caption, float16 [F], where a text encoder made features of the texts."""


def read_selection_split(shard_uri: str, index_uri: str, *, max_samples: int) -> list[Pair]:
    """Read the first pairs of a shard stage's selection split; each part was shuffled when it was written.

    A pair is held against its alt text, one without against its first text of another source.

    Raises: DataError: if it is too small to choose by.
    """
    pairs = list(islice(_pairs(shard_uri, index_uri), max_samples))
    if len(pairs) < _LEAST_PAIRS:
        raise DataError(
            f"the selection split in {shard_uri} holds {len(pairs)} pairs, which is too few to choose a checkpoint "
            "by; raise shard.selection_share, or give the recipe more data"
        )
    return pairs


def features_of(pairs: Iterable[Pair]) -> dict[str, Tensor]:
    """Return the features of the captions of pairs: caption -> float16 [F].

    Raises: IntegrityError: for a pair without one.
    """
    found: dict[str, Tensor] = {}
    for pair in pairs:
        if pair.feature is None:
            raise IntegrityError(
                f"the caption of the held-out pair {pair.key} has no feature; run `--from text_encoder`"
            )
        found[pair.caption] = pair.feature
    return found


def _pairs(shard_uri: str, index_uri: str) -> Iterator[Pair]:
    """Yield the pairs of all selection shards in the order of parts and names."""
    folder = shard_files_uri(shard_uri)
    features = None
    if feature_records(index_uri):
        features = TextFeatures(index_uri, cache_gb=CACHE_GB)
    others = Captions(index_uri, cache_gb=CACHE_GB, sources=features and features.sources)
    for name in shard_records(shard_uri):
        if not fnmatch(name_of(name), _PATTERN):
            continue
        path = committed_file(join(folder, parent_of(name)), name_of(name))
        for row, sample in enumerate(read_samples(path, suffixes=_WANTED)):
            image, alt = sample.image(), sample.parts.get("txt")
            if image is None:
                raise DataError(
                    f"{join(folder, name)}: sample {sample.key!r} has {sorted(sample.parts)}; "
                    f"expected one of {', '.join(IMAGE_SUFFIXES)}"
                )
            text, source = others.first(name, row)
            if alt is not None:
                text, source = alt.decode(errors="replace"), ORIGINAL
            feature = features and features.of(others, name, row, Caption(text, source))
            yield Pair(sample.key, image, text.strip(), feature)
