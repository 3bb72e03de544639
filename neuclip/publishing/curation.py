"""What curate did, as the report shows it: the funnel by rule, who survives, and pairs that went and stayed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from neuclip.acquired.partitions import ROWS, images_path, partition_folders, texts_paths
from neuclip.curate.files import FUNNEL, VERDICTS
from neuclip.foundation.errors import DataError
from neuclip.foundation.randomness import permutation
from neuclip.publishing.pictures import small_picture
from neuclip.stages.committed import committed_bytes, committed_file

_MOST_PARTITIONS = 3
_MOST_REASONS = 8
_TILES_A_REASON = 6
_MOST_BUCKETS = 8
_SIDE_PX = 112
_SEED = 1
_KEPT = "kept"


@dataclass(frozen=True)
class Tile:
    """A pair that was dropped or kept."""

    caption: str
    image: str
    """data: URI of a JPEG."""


@dataclass(frozen=True)
class Curation:
    """The `funnel.json` of curate, with shares for drawing, and some pairs."""

    pairs: int
    steps: list[dict[str, Any]]
    survival: dict[str, list[dict[str, Any]]]
    histograms: dict[str, list[dict[str, float]]]
    tiles: dict[str, list[Tile]]
    """Reason -> pairs that it dropped; `kept` -> pairs that none dropped."""


def read_curation(curate_uri: str, acquire_uri: str) -> Curation:
    """Read the funnel, and a few pairs of at most three partitions, chosen by keyed hash."""
    funnel = json.loads(committed_bytes(curate_uri, FUNNEL))
    most = max((step["alone"] for step in funnel["steps"]), default=0) or 1
    steps = [
        {**step, "share": step["dropped"] / most, "alone_share": step["alone"] / most}
        for step in funnel["steps"]
    ]
    survival = {
        kind: [{**row, "share": row["kept"] / row["pairs"]} for row in rows[:_MOST_BUCKETS]]
        for kind, rows in funnel["survival"].items()
        if len(rows) > 1
    }
    return Curation(
        pairs=funnel["pairs"],
        steps=steps,
        survival=survival,
        histograms={
            name: _heights(bins) for name, bins in funnel["histograms"].items() if len(bins) > 1
        },
        tiles=_tiles(
            curate_uri, acquire_uri, [str(step["reason"]) for step in steps if step["dropped"]]
        ),
    )


def _heights(bins: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return bins with what is drawn of them: 0..1 of the highest."""
    highest = max(found["pairs"] for found in bins)
    return [
        {**found, "all_share": found["pairs"] / highest, "kept_share": found["kept"] / highest}
        for found in bins
    ]


def _tiles(curate_uri: str, acquire_uri: str, reasons: list[str]) -> dict[str, list[Tile]]:
    folders = partition_folders(acquire_uri)
    texts = texts_paths(acquire_uri)
    tiles: dict[str, list[Tile]] = {reason: [] for reason in [*reasons[:_MOST_REASONS], _KEPT]}
    with pq.ParquetFile(committed_file(curate_uri, VERDICTS)) as verdicts:
        for part in permutation(len(folders), seed=_SEED)[:_MOST_PARTITIONS].tolist():
            table = verdicts.read_row_group(part, columns=["uid", "reason"])
            named = np.array([reason or _KEPT for reason in table["reason"].to_pylist()])
            for reason, found in tiles.items():
                places = np.flatnonzero(named == reason)
                chosen = places[
                    permutation(len(places), seed=_SEED)[: _TILES_A_REASON - len(found)]
                ]
                uids = table["uid"].take(chosen).to_pylist()
                if uids:
                    found.extend(_read_tiles(folders[part], texts[part], uids))
    return {reason: found for reason, found in tiles.items() if found}


def _read_tiles(folder: str, texts: Path, uids: list[str]) -> list[Tile]:
    wanted = [("uid", "in", uids)]
    captions = pq.read_table(texts, columns=["uid", "captions"], filters=wanted).to_pylist()
    alt_of = {row["uid"]: dict(row["captions"]).get("alt", [""])[0] for row in captions}
    rows = pq.read_table(
        committed_file(folder, ROWS),
        columns=["uid", "offset", "size"],
        filters=wanted,
    ).to_pylist()
    tiles: list[Tile] = []
    with images_path(folder).open("rb") as images:
        for row in rows:
            images.seek(row["offset"])
            try:
                picture = small_picture(images.read(row["size"]), _SIDE_PX)
            except DataError:
                continue
            tiles.append(Tile(alt_of[row["uid"]], picture.uri))
    return tiles
