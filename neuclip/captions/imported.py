"""All imports of a recipe, brought to the kept pairs of its partitions."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neuclip.acquired.partitions import COLUMNS, ROWS
from neuclip.acquired.texts import TEXTS
from neuclip.captions.import_join import ImportedTexts, PairsOfPartition, import_texts
from neuclip.captions.imports import Imported
from neuclip.captions.kept import Place, is_kept
from neuclip.curate.uids import SubsetFile
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_file, holds_file

STAGE = "caption"


def read_imports(
    imports: Sequence[Imported],
    places: Sequence[Place],
    kept: SubsetFile,
    *,
    acquire_uri: str,
    most: int,
    scratch: Path,
    progress: Progress,
) -> list[ImportedTexts]:
    """Read all imports, and find the pairs that they are of.

    Args:
        most: texts of one source for a pair.
    """
    if not imports:
        return []
    partitions = [
        PairsOfPartition(
            rows=committed_file(place.uri, ROWS),
            texts=committed_file(place.texts_uri, TEXTS),
            columns=_columns(acquire_uri, place.name),
            kept=partial(is_kept, kept=kept),
        )
        for place in places
    ]

    def tell(source: str, rows: int) -> None:
        note = f"importing texts of source {source}, {rows:,} rows so far"
        progress(STAGE, done=0, total=len(partitions), note=note)

    return [
        import_texts(
            one,
            f"caption.imports.{number}",
            partitions,
            most=most,
            scratch=scratch / "imports" / one.source,
            tell=partial(tell, one.source),
        )
        for number, one in enumerate(imports)
    ]


def summary_of(
    imported: ImportedTexts, sources: Mapping[str, Mapping[str, int]], pairs: int
) -> dict[str, Any]:
    """Return what the summary tells of an import, in texts; and the pairs that got none."""
    ledger = imported.ledger
    without = pairs - sources.get(imported.source, {}).get("pairs", 0)
    told = {
        "in": ledger.entered,
        "imported": ledger.out,
        **ledger.dropped,
        "pairs_without": without,
    }
    agreement = [
        None if share is None else round(share, 4) for share in imported.agreement.values()
    ]
    return {**told, "agreement": agreement} if agreement else told


def _columns(acquire_uri: str, part: str) -> Path | None:
    """Return the kept columns of a partition, None if there are none."""
    name = f"{COLUMNS}/{part}.parquet"
    return committed_file(acquire_uri, name) if holds_file(acquire_uri, name) else None
