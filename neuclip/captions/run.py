"""The texts of every kept pair by source: of the table, of other files, made of others, or written by models."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.partitions import partition_folders, text_folders
from neuclip.acquired.texts import ALT, count_texts
from neuclip.captions.config import CaptionConfig
from neuclip.captions.derived import DerivedSource
from neuclip.captions.files import PARTS_FILE, PARTS_SCHEMA
from neuclip.captions.generated import STAGE, Task, Writing, part_identity, write_answers
from neuclip.captions.import_join import ImportedTexts
from neuclip.captions.imported import read_imports, summary_of
from neuclip.captions.kept import KeptTexts, Place, read_texts
from neuclip.captions.parts import PartSettings, commit_part, read_part
from neuclip.curate.files import SUBSET
from neuclip.curate.uids import SubsetFile
from neuclip.foundation.errors import ConfigError, IntegrityError, nearest
from neuclip.foundation.progress import Progress
from neuclip.generation.journal import spent_in
from neuclip.generation.spending import Cost, Spending, cost_of, rest_of
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import PARTS, Manifest, read_manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join


@dataclass
class _Partition:
    """A partition, and the parts with the texts of its kept pairs, by source."""

    place: Place
    pairs: int
    kept: str
    """Names its kept pairs."""
    parts: dict[str, Manifest] = field(default_factory=dict[str, Manifest])


def run_caption(
    config: CaptionConfig,
    *,
    root: str,
    acquire_uri: str,
    curate_uri: str,
    workspace: Workspace,
    progress: Progress,
    writings: Sequence[Writing] = (),
    pool: Pool = LOCAL,
    force: bool = False,
) -> Outcome:
    """Commit the texts of the kept pairs as parts, one for each partition and source, and list them in `parts.parquet`.

    A part that is there already is not made again, so another source costs its own parts alone; and no answer of a
    model is asked for twice, see journal.py.

    Args:
        writings: the steps of `config.generate`, in order.
        force: make parts anew; answers that are in a journal are used again even so.
    Raises: ConfigError: if a source that is made has the name of one of the table, or reads one that is not there.
        IntegrityError: if partitions and verdicts do not hold the same pairs. And what `answer_all` raises.
    """
    folders = zip(partition_folders(acquire_uri), text_folders(acquire_uri), strict=True)
    places = [Place(uri, texts_uri, curate_uri) for uri, texts_uri in folders]
    _check_sources(config, count_texts(read_manifest(place.texts_uri) for place in places))
    settings = PartSettings(root, config.max_per_source, force)
    kept = SubsetFile(str(committed_file(curate_uri, SUBSET)))
    imported = read_imports(
        config.imports,
        places,
        kept,
        acquire_uri=acquire_uri,
        most=config.max_per_source,
        scratch=workspace.scratch,
        progress=progress,
    )
    partitions = _gather(places, kept, imported, settings, progress)
    pairs = sum(partition.pairs for partition in partitions)
    expected = read_manifest(curate_uri).ledger.out
    if pairs != expected:
        raise IntegrityError(
            f"{curate_uri} keeps {expected} pairs, of which {pairs} are in the partitions of {acquire_uri}; "
            "run `--from curate --force`"
        )
    models = _Models(config, root, writings, pool, progress, force=force)
    for one in config.made:
        if isinstance(one, DerivedSource):
            for partition in partitions:
                _derive(one, partition, settings)
        else:
            models.write(one.source, partitions)
    _list_parts(partitions, config, workspace)
    sources = _summary(partitions)
    told = [f"{one.source}: {one.ledger.describe()}" for one in imported]
    note = "; ".join([f"{pairs} pairs", *told])
    progress(STAGE, done=len(partitions), total=len(partitions), note=note)
    summary: dict[str, object] = {"sources": sources, **models.summary()}
    if imported:
        summary["imports"] = {one.source: summary_of(one, sources, pairs) for one in imported}
    parts = [part for partition in partitions for part in partition.parts.values()]
    return Outcome(
        ledger=make_ledger(pairs, pairs, {}),
        summary=summary,
        parts=[part.key for part in parts],
    )


def _gather(
    places: Sequence[Place],
    kept: SubsetFile,
    imported: Sequence[ImportedTexts],
    settings: PartSettings,
    progress: Progress,
) -> list[_Partition]:
    """Make the parts with the texts of the table, and those that were imported."""
    partitions: list[_Partition] = []
    for number, place in enumerate(places):
        progress(STAGE, done=number, total=len(places), note="gathering texts")
        texts = read_texts(place, kept)
        partition = _Partition(place, len(texts.uids), digest(texts.uids))
        for source in sorted({*texts.unusable, *(s for row in texts.captions for s in row)}):
            partition.parts[source] = _of_table(source, texts, place, settings)
        for one in imported:
            if of_pairs := one.take(texts.uids):
                partition.parts[one.source] = commit_part(
                    settings,
                    source=one.source,
                    partition=place.name,
                    made_of={"imported": digest(of_pairs)},
                    pairs=of_pairs,
                )
        partitions.append(partition)
    return partitions


def _of_table(source: str, texts: KeptTexts, place: Place, settings: PartSettings) -> Manifest:
    rows = zip(texts.uids, texts.captions, strict=True)
    of_pairs = [(uid, row[source]) for uid, row in rows if source in row]
    unusable = texts.unusable[source]
    return commit_part(
        settings,
        source=source,
        partition=place.name,
        made_of={"texts": digest(of_pairs), "unusable": unusable},
        pairs=of_pairs,
        unusable=unusable,
    )


def _derive(derived: DerivedSource, partition: _Partition, settings: PartSettings) -> None:
    """Make the part of a derived source, if the partition has one that it reads."""
    read = {s: partition.parts[s] for s in derived.reads() if s in partition.parts}
    if not read:
        return
    texts: dict[str, dict[str, list[str]]] = {}
    for source, part in read.items():
        for uid, found in read_part(join(settings.root, STAGE, PARTS, part.key)):
            texts.setdefault(uid, {})[source] = found
    partition.parts[derived.source] = commit_part(
        settings,
        source=derived.source,
        partition=partition.place.name,
        made_of={"derived": derived.key(), "of": {s: part.key for s, part in read.items()}},
        pairs=[(uid, derived.texts(of_pair)) for uid, of_pair in texts.items()],
    )


class _Models:
    """Has models write sources, within the budget."""

    def __init__(
        self,
        config: CaptionConfig,
        root: str,
        writings: Sequence[Writing],
        pool: Pool,
        progress: Progress,
        *,
        force: bool,
    ) -> None:
        self._root, self._pool, self._progress, self._force = root, pool, progress, force
        self._writings = {writing.step.source: writing for writing in writings}
        self._budget = config.budget
        self._spent = Cost()
        self._done: dict[str, list[Manifest]] = {}
        if self._budget != type(self._budget)():
            for writing in {digest(one.asked): one for one in writings}.values():
                self._spent += spent_on(writing, root)

    def write(self, source: str, partitions: Sequence[_Partition]) -> None:
        """Make the parts of a source; partitions without what it reads have none."""
        writing = self._writings[source]
        tasks = {
            number: self._task(writing, partition)
            for number, partition in enumerate(partitions)
            if writing.step.sees or all(s in partition.parts for s in writing.step.reads())
        }
        shared = self._spending(writing, 1.0)
        sizes = {number: self._size(writing, partitions[number]) for number in tasks}
        total = sum(sizes.values())
        parts = [
            Part(
                part_identity(task, partitions[number].kept),
                partial(
                    write_answers,
                    task,
                    shared
                    if self._pool.is_here
                    else self._spending(writing, sizes[number] / max(total, 1)),
                ),
                note=f"{source}: part {number + 1} of {len(partitions)}",
                size=sizes[number],
            )
            for number, task in tasks.items()
        ]
        done = do_parts(parts, pool=self._pool, progress=self._progress, force=self._force)
        self._spent += shared.spent
        self._done[source] = done
        for number, manifest in zip(tasks, done, strict=True):
            partitions[number].parts[source] = manifest

    def summary(self) -> dict[str, object]:
        """Return what the answers of each source have cost when they were asked for."""
        if not self._done:
            return {}
        names = ("asked", "prompt_tokens", "completion_tokens", "money", "seconds")
        return {
            "generated": {
                source: {
                    "model": self._writings[source].model.keyed(),
                    **{name: round(sum(part.summary[name] for part in done), 6) for name in names},
                }
                for source, done in self._done.items()
            }
        }

    def _task(self, writing: Writing, partition: _Partition) -> Task:
        uris = {s: join(self._root, STAGE, PARTS, p.key) for s, p in partition.parts.items()}
        of = {source: uris[source] for source in writing.step.reads()}
        return Task(writing, self._root, partition.place, of, uris.get(ALT))

    def _size(self, writing: Writing, partition: _Partition) -> int:
        """Return about how many questions a part has."""
        pairs = [partition.parts[s].summary["pairs"] for s in writing.step.reads()]
        return writing.step.each * min(pairs, default=partition.pairs)

    def _spending(self, writing: Writing, share: float) -> Spending:
        return Spending(
            rest_of(self._budget, self._spent, share=share),
            writing.price,
            most_tokens=writing.step.sampling.max_tokens,
        )


def spent_on(writing: Writing, root: str) -> Cost:
    """Return what the answers of a model have cost at a root, those included that are of no use by now."""
    spent = spent_in(join(root, STAGE), writing.asked)
    return cost_of(spent.prompt, spent.completion, writing.price)


def _check_sources(config: CaptionConfig, of_table: Mapping[str, object]) -> None:
    known = [*of_table]
    reads = {one.source: one.reads() for one in config.made}
    for one in [*config.imports, *config.made]:
        place = _place(config, one.source)
        if one.source in of_table:
            raise ConfigError(
                f"{place} makes {one.source!r}, which is a source of the table; give it another name"
            )
        for source in reads.get(one.source, ()):
            if source not in known:
                raise ConfigError(
                    f"{place} reads the caption source {source!r}, which no pair has a text of; sources "
                    f"here: {', '.join(known)}.{nearest(source, known)} A column of the table becomes a source by "
                    "acquire.caption_columns"
                )
        known.append(one.source)


def _place(config: CaptionConfig, source: str) -> str:
    """Return where a recipe names a source."""
    lists = {"imports": config.imports, "derive": config.derive, "generate": config.generate}
    return next(
        f"caption.{name}.{number}"
        for name, steps in lists.items()
        for number, one in enumerate(steps)
        if one.source == source
    )


def _list_parts(
    partitions: Sequence[_Partition], config: CaptionConfig, workspace: Workspace
) -> None:
    """Write PARTS_FILE: sources of the table by name, then imported ones, then those that are made, in their order."""
    made = [one.source for one in [*config.imports, *config.made]]
    of_table = {s for partition in partitions for s in partition.parts} - set(made)
    rows = [
        {
            "source": source,
            "partition": partition.place.name,
            "part": part.key,
            "pairs": part.summary["pairs"],
            "texts": part.ledger.out,
        }
        for source in [*sorted(of_table), *made]
        for partition in partitions
        if (part := partition.parts.get(source)) is not None
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PARTS_SCHEMA), workspace.output / PARTS_FILE)


def _summary(partitions: Sequence[_Partition]) -> dict[str, dict[str, int]]:
    """Return for every source its pairs and texts, and the texts that were dropped by reason."""
    sources: dict[str, Counter[str]] = {}
    for partition in partitions:
        for source, part in partition.parts.items():
            counts = {
                "pairs": part.summary["pairs"],
                "texts": part.ledger.out,
                **part.ledger.dropped,
            }
            sources.setdefault(source, Counter()).update(counts)
    return {source: dict(counts) for source, counts in sources.items()}
