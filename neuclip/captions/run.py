"""The texts of every kept pair by source: those of the table, and those that are made of them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.partitions import ROWS, partition_folders, text_folders
from neuclip.acquired.texts import TEXTS, count_texts
from neuclip.captions.config import CaptionConfig
from neuclip.captions.files import PARTS_FILE, PARTS_SCHEMA
from neuclip.captions.parts import PartSettings, commit_part, read_part
from neuclip.curate.files import SUBSET
from neuclip.curate.uids import SubsetFile
from neuclip.foundation.errors import ConfigError, IntegrityError, nearest
from neuclip.foundation.ids import as_integers
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import PARTS, Manifest, read_manifest
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join, name_of

STAGE = "caption"

Made = list[tuple[str, str, Manifest]]
"""Source, partition and part."""


def run_caption(
    config: CaptionConfig,
    *,
    root: str,
    acquire_uri: str,
    curate_uri: str,
    workspace: Workspace,
    progress: Progress,
    force: bool = False,
) -> Outcome:
    """Commit the texts of the kept pairs as parts, one for each partition and source, and list them in `parts.parquet`.

    A part that is there already is not made again, so another source costs its own parts alone.

    Raises: ConfigError: if a derived source has the name of one of the table, or reads one that is not there.
        IntegrityError: if partitions and verdicts do not hold the same pairs.
    """
    partitions, texts = partition_folders(acquire_uri), text_folders(acquire_uri)
    _check_sources(config, count_texts(map(read_manifest, texts)))
    kept = SubsetFile(str(committed_file(curate_uri, SUBSET)))
    work = _Work(config, PartSettings(root, config.max_per_source, force))
    for number, (uri, texts_uri) in enumerate(zip(partitions, texts, strict=True)):
        progress(STAGE, done=number, total=len(partitions), note="gathering texts")
        rows, beside = committed_file(uri, ROWS), committed_file(texts_uri, TEXTS)
        work.do(name_of(uri), _Partition(rows, beside, kept))
    expected = read_manifest(curate_uri).ledger.out
    if work.pairs != expected:
        raise IntegrityError(
            f"{curate_uri} keeps {expected} pairs, of which {work.pairs} are in the partitions of {acquire_uri}; "
            "run `--from curate --force`"
        )
    _list_parts(work.made, workspace)
    progress(STAGE, done=len(partitions), total=len(partitions), note=f"{work.pairs} pairs")
    return Outcome(
        ledger=make_ledger(work.pairs, work.pairs, {}),
        summary={"sources": _summary(work.made)},
        parts=[part.key for _, _, part in work.made],
    )


class _Partition:
    """The kept pairs of one partition, and their texts."""

    def __init__(self, rows: Path, texts: Path, kept: SubsetFile) -> None:
        table = pq.read_table(rows, columns=["uid", "status"])
        uids: list[str] = table["uid"].to_pylist()
        is_there = np.array([status == "success" for status in table["status"].to_pylist()], bool)
        mask = is_there & kept.contains(as_integers("".join(uids)))
        chosen = pq.read_table(texts).filter(pa.array(mask))
        self.uids = [uid for uid, is_kept in zip(uids, mask.tolist(), strict=True) if is_kept]
        if chosen["uid"].to_pylist() != self.uids:
            raise IntegrityError(
                f"the texts {texts} do not stand row by row beside {rows}; run `--only acquire --force`"
            )
        self.captions = [dict(row) for row in chosen["captions"].to_pylist()]
        self.unusable: Counter[str] = Counter()
        for row in chosen["unusable"].to_pylist():
            self.unusable.update(dict(row))


class _Work:
    """The parts of a run."""

    def __init__(self, config: CaptionConfig, settings: PartSettings) -> None:
        self._config, self._settings = config, settings
        self.made: Made = []
        self.pairs = 0

    def do(self, name: str, partition: _Partition) -> None:
        """Make the parts of a partition: of the table's sources by name, then those that are derived."""
        self.pairs += len(partition.uids)
        parts: dict[str, Manifest] = {}
        for source in sorted(
            {source for row in partition.captions for source in row} | set(partition.unusable)
        ):
            of_pairs = [
                (uid, row[source])
                for uid, row in zip(partition.uids, partition.captions, strict=True)
                if source in row
            ]
            parts[source] = commit_part(
                self._settings,
                source=source,
                partition=name,
                made_of={"texts": digest(of_pairs), "unusable": partition.unusable[source]},
                pairs=of_pairs,
                unusable=partition.unusable[source],
            )
        for derived in self._config.derive:
            read = {source: parts[source] for source in derived.reads() if source in parts}
            if not read:
                continue
            made_of = {"derived": derived.key(), "of": {s: part.key for s, part in read.items()}}
            texts = self._texts(read)
            parts[derived.source] = commit_part(
                self._settings,
                source=derived.source,
                partition=name,
                made_of=made_of,
                pairs=[(uid, derived.texts(of_pair)) for uid, of_pair in texts.items()],
            )
        self.made += [(source, name, part) for source, part in parts.items()]

    def _texts(self, parts: Mapping[str, Manifest]) -> dict[str, dict[str, list[str]]]:
        """Return uid -> source -> texts of the pairs of some parts."""
        found: dict[str, dict[str, list[str]]] = {}
        for source, part in parts.items():
            for uid, texts in read_part(join(self._settings.root, STAGE, PARTS, part.key)):
                found.setdefault(uid, {})[source] = texts
        return found


def _check_sources(config: CaptionConfig, of_table: Mapping[str, object]) -> None:
    known = [*of_table]
    for place, derived in enumerate(config.derive):
        if derived.source in of_table:
            raise ConfigError(
                f"caption.derive.{place} makes {derived.source!r}, which is a source of the table; give it another name"
            )
        for source in derived.reads():
            if source not in known:
                raise ConfigError(
                    f"caption.derive.{place} reads the caption source {source!r}, which no pair has a text of; sources "
                    f"here: {', '.join(known)}.{nearest(source, known)} A column of the table becomes a source by "
                    "acquire.caption_columns"
                )
        known.append(derived.source)


def _list_parts(made: Made, workspace: Workspace) -> None:
    order = list(dict.fromkeys(source for source, _, _ in made))
    rows = [
        {
            "source": source,
            "partition": partition,
            "part": part.key,
            "pairs": part.summary["pairs"],
            "texts": part.ledger.out,
        }
        for source, partition, part in sorted(made, key=lambda one: order.index(one[0]))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PARTS_SCHEMA), workspace.output / PARTS_FILE)


def _summary(made: Made) -> dict[str, dict[str, int]]:
    """Return for every source its pairs and texts, and the texts that were dropped by reason."""
    sources: dict[str, Counter[str]] = {}
    for source, _, part in made:
        counts = {"pairs": part.summary["pairs"], "texts": part.ledger.out, **part.ledger.dropped}
        sources.setdefault(source, Counter()).update(counts)
    return {source: dict(counts) for source, counts in sources.items()}
