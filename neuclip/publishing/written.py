"""What models wrote about the pairs, as the report shows it: statuses, lengths, words that came and went, samples."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from neuclip.acquired.partitions import partition_folders
from neuclip.acquired.texts import ALT
from neuclip.captions.files import OK, TEXTS, read_parts
from neuclip.captions.kept import Place, read_images
from neuclip.foundation.errors import DataError
from neuclip.foundation.randomness import permutation
from neuclip.publishing.pictures import small_picture
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import Manifest, part_uri, read_manifest
from neuclip.storage.uris import name_of

_MOST_PARTITIONS = 3
_MOST_TEXTS = 20_000
_SAMPLES, _BAD_SAMPLES = 6, 3
_WORDS_SHOWN = 12
_LENGTHS = (4, 8, 12, 16, 20, 25, 30, 40, 50, 60)
_SEED = 2
_SIDE_PX = 176
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Text:
    """A text of a pair, and what became of it."""

    source: str
    k: int
    text: str
    status: str


@dataclass(frozen=True)
class Side:
    """A pair with all its texts side by side."""

    uid: str
    image: str
    """data: URI of a JPEG."""
    texts: list[Text]


@dataclass(frozen=True)
class Source:
    """A source that a model wrote.

    Args:
        statuses: share of the questions by status, the most frequent first.
        gained: (word, share of texts that have it more often than alt texts), in order; lost: likewise less often.
    """

    name: str
    model: str
    questions: int
    statuses: dict[str, float]
    cost: dict[str, Any]
    gained: list[tuple[str, float]]
    lost: list[tuple[str, float]]


@dataclass(frozen=True)
class Written:
    """All sources that models wrote, and some pairs."""

    sources: list[Source]
    lengths: dict[str, list[tuple[int | None, float]]]
    """Source -> (words up to, share of texts), None for longer ones than all."""
    sides: list[Side]


def read_written(caption_uri: str, curate_uri: str, acquire_uri: str) -> Written | None:
    """Read what models wrote, words and samples from at most three partitions; None if none wrote any."""
    manifest = read_manifest(caption_uri)
    generated: dict[str, Any] = manifest.summary.get("generated", {})
    if not generated:
        return None
    folders = partition_folders(acquire_uri)
    chosen = permutation(len(folders), seed=_SEED)[:_MOST_PARTITIONS].tolist()
    names = {name_of(folders[number]): folders[number] for number in chosen}
    found = _read_texts(caption_uri, names, [ALT, *generated])
    alt = [text.text for text in found[ALT].values() if text.text]
    return Written(
        sources=[_source(name, manifest, list(found[name].values()), alt) for name in generated],
        lengths={
            name: _lengths([t.text for t in texts.values() if t.status == OK])
            for name, texts in found.items()
        },
        sides=_sides(found, names, curate_uri),
    )


_Found = dict[str, dict[tuple[str, int], Text]]


def _read_texts(caption_uri: str, names: Mapping[str, str], sources: Sequence[str]) -> _Found:
    """Return source -> (uid, k) -> text, of some partitions."""
    found: _Found = {source: {} for source in sources}
    for row in read_parts(caption_uri):
        if row["source"] not in found or row["partition"] not in names:
            continue
        with pq.ParquetFile(committed_file(part_uri(caption_uri, row["part"]), TEXTS)) as file:
            for batch in file.iter_batches(_MOST_TEXTS):
                for text in batch.to_pylist():
                    if text["text"] is not None:  # one that was taken down has none
                        found[row["source"]][text["uid"], text["k"]] = Text(
                            row["source"], text["k"], text["text"], text["status"]
                        )
                break  # the first rows of a partition stand for it
    return found


def _source(name: str, manifest: Manifest, texts: Sequence[Text], alt: Sequence[str]) -> Source:
    counts: dict[str, int] = dict(manifest.summary["sources"][name])
    counts.pop("pairs")
    counts[OK] = counts.pop("texts")
    total = max(sum(counts.values()), 1)
    statuses = {s: n / total for s, n in Counter(counts).most_common() if n}
    good = [text.text for text in texts if text.status == OK]
    changes = _changes(good, alt)
    told = manifest.summary["generated"][name]
    return Source(
        name=name,
        model=str(told["model"].get("model", "a local model")),
        questions=sum(counts.values()),
        statuses=statuses,
        cost={
            unit: told[unit] for unit in ("asked", "prompt_tokens", "completion_tokens", "money")
        },
        gained=changes[:_WORDS_SHOWN],
        lost=[(word, -share) for word, share in reversed(changes[-_WORDS_SHOWN:])],
    )


def _lengths(texts: Sequence[str]) -> list[tuple[int | None, float]]:
    counts = Counter(
        next((most for most in _LENGTHS if len(text.split()) <= most), None) for text in texts
    )
    return [(most, counts[most] / max(len(texts), 1)) for most in (*_LENGTHS, None)]


def _changes(texts: Sequence[str], alt: Sequence[str]) -> list[tuple[str, float]]:
    """Return words with how much larger a share of the texts has them than of the alt texts, largest first."""
    shares: defaultdict[str, float] = defaultdict(float)
    for sign, some in ((1, texts), (-1, alt)):
        for text in some:
            for word in set(_WORD.findall(text.casefold())):
                shares[word] += sign / len(some)
    return sorted(shares.items(), key=lambda found: (-found[1], found[0]))


def _sides(found: _Found, names: Mapping[str, str], curate_uri: str) -> list[Side]:
    """Return some pairs that have answers, among them some whose answer is of no use."""
    written = {s: texts for s, texts in found.items() if s != ALT}
    uids = list(dict.fromkeys(uid for texts in written.values() for uid, _ in texts))
    bad = dict.fromkeys(
        uid for texts in written.values() for (uid, _), text in texts.items() if text.status != OK
    )
    shown = [uids[n] for n in permutation(len(uids), seed=_SEED)[:_SAMPLES].tolist()]
    shown = list(dict.fromkeys([*shown, *list(bad)[:_BAD_SAMPLES]]))
    images = {
        one.uid: one
        for uri in names.values()
        for one in read_images(Place(uri, "", curate_uri))
        if one.uid in shown
    }
    sides: list[Side] = []
    for uid in shown:
        texts = [t for of in found.values() for (name, _), t in of.items() if name == uid]
        try:
            picture = small_picture(images[uid].read(), _SIDE_PX)
        except DataError:
            continue
        sides.append(Side(uid, picture.uri, texts))
    return sides
