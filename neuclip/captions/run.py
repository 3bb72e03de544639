"""The texts of every kept pair by source: of the table, of other files, made of others, or written by models."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.partitions import partition_folders, text_folders
from neuclip.acquired.texts import count_texts
from neuclip.captions.config import CaptionConfig
from neuclip.captions.derived import DerivedSource
from neuclip.captions.files import PARTS_FILE, PARTS_SCHEMA
from neuclip.captions.generated import STAGE, Writing
from neuclip.captions.import_join import ImportedTexts
from neuclip.captions.imported import read_imports, summary_of
from neuclip.captions.kept import Gathered, KeptTexts, Place, read_texts
from neuclip.captions.models import Models
from neuclip.captions.parts import PartSettings, commit_part, read_part
from neuclip.curate.files import SUBSET
from neuclip.curate.uids import SubsetFile
from neuclip.foundation.errors import ConfigError, IntegrityError, nearest
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import PARTS, Manifest, read_manifest
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join


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
    pairs = _count_all(partitions, curate_uri)
    models = Models(config, root, writings, pool, progress, force=force)
    for one in config.made:
        if isinstance(one, DerivedSource):
            for partition in partitions:
                _derive(one, partition, settings)
        else:
            models.write(one.source, partitions)
    _list_parts(partitions, config, workspace)
    told = [f"{one.source}: {one.ledger.describe()}" for one in imported]
    note = "; ".join([f"{pairs} pairs", *told])
    progress(STAGE, done=len(partitions), total=len(partitions), note=note)
    sources = _summary(partitions)
    summary: dict[str, object] = {"sources": sources, **models.summary()}
    if imported:
        summary["imports"] = {one.source: summary_of(one, sources, pairs) for one in imported}
    parts = [part.key for partition in partitions for part in partition.parts.values()]
    return Outcome(make_ledger(pairs, pairs, {}), summary, parts)


def _count_all(partitions: Sequence[Gathered], curate_uri: str) -> int:
    """Return the pairs of all partitions, which must be those that curate keeps."""
    pairs = sum(partition.pairs for partition in partitions)
    expected = read_manifest(curate_uri).ledger.out
    if pairs != expected:
        raise IntegrityError(
            f"{curate_uri} keeps {expected} pairs, of which {pairs} are in the partitions of acquire; "
            "run `--from curate --force`"
        )
    return pairs


def _gather(
    places: Sequence[Place],
    kept: SubsetFile,
    imported: Sequence[ImportedTexts],
    settings: PartSettings,
    progress: Progress,
) -> list[Gathered]:
    """Make the parts with the texts of the table, and those that were imported."""
    partitions: list[Gathered] = []
    for number, place in enumerate(places):
        progress(STAGE, done=number, total=len(places), note="gathering texts")
        texts = read_texts(place, kept)
        partition = Gathered(place, len(texts.uids), digest(texts.uids))
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


def _derive(derived: DerivedSource, partition: Gathered, settings: PartSettings) -> None:
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
    partitions: Sequence[Gathered], config: CaptionConfig, workspace: Workspace
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


def _summary(partitions: Sequence[Gathered]) -> dict[str, dict[str, int]]:
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
