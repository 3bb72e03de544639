"""A committed acquire stage made by hand: small pictures in tars, one outcome row for every pair."""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from neuclip.acquired.listing import LISTING_SCHEMA
from neuclip.acquired.texts import commit_texts
from neuclip.shards.tar import TarShard
from neuclip.stages.ledger import add_ledgers, make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage

ROWS = pa.schema(
    {
        "uid": pa.string(),
        "url": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "original_width": pa.int32(),
        "original_height": pa.int32(),
        "sha256": pa.string(),
        "member": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
    }
)


TEXTS = pa.schema(
    {
        "uid": pa.string(),
        "captions": pa.map_(pa.string(), pa.list_(pa.string())),
        "unusable": pa.map_(pa.string(), pa.int32()),
    }
)


@dataclass
class Pair:
    """One row of the table and what became of it."""

    number: int
    captions: dict[str, list[str]]
    size: tuple[int, int] = (24, 24)
    picture: int | None = None
    url: str | None = None
    failed: str | None = None
    content: bytes | None = None
    unusable: dict[str, int] = field(default_factory=dict)
    uid: str = field(init=False)

    def __post_init__(self):
        self.uid = hashlib.sha256(str(self.number).encode()).hexdigest()[:32]
        self.url = self.url or f"http://127.0.0.1/{self.number}.png"


def png(seed: int, size: tuple[int, int]) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def some_pairs(count: int, first: int = 0) -> list[Pair]:
    return [
        Pair(
            n,
            {
                "alt": [f"picture number {n}"],
                "rewrite": [f"number {n}, drawn", f"a drawing of {n}"],
            },
        )
        for n in range(first, first + count)
    ]


def commit_acquired(
    root: Path,
    partitions: list[list[Pair]],
    key: str = "acquired",
    columns: list[dict[str, list]] | None = None,
) -> str:
    """Commit partitions and the stage, with kept columns if there are some; return the stage's URI."""
    keys, ledgers, texts = [], [], []
    for number, pairs in enumerate(partitions):
        texts.append(commit_made_texts(root, pairs))
        identity = StageIdentity("acquire", 1, f"{key}-part{number}", {}, {}, str(root), part=True)
        manifest, _ = commit_stage(identity, lambda w, p=pairs: _fill(w, p))
        keys.append(identity.key)
        ledgers.append(manifest.ledger)
    identity = StageIdentity("acquire", 1, key, {}, {}, str(root))

    def fill(workspace: Workspace) -> Outcome:
        for part, pairs, values in zip(keys, partitions, columns or [], strict=bool(columns)):
            (workspace.output / "columns").mkdir(exist_ok=True)
            table = pa.table({"uid": [pair.uid for pair in pairs], **values})
            pq.write_table(table, workspace.output / "columns" / f"{part}.parquet")
        places = [
            {
                "part": part,
                "texts": texts[n],
                "file": "made.parquet",
                "first_row": 1000 * n,
                "rows": len(p),
                "out": led.out,
            }
            for n, (part, p, led) in enumerate(zip(keys, partitions, ledgers, strict=True))
        ]
        listing = pa.Table.from_pylist(places, schema=LISTING_SCHEMA)
        pq.write_table(listing, workspace.output / "partitions.parquet")
        return Outcome(add_ledgers(ledgers), parts=keys)

    commit_stage(identity, fill)
    return identity.uri


def commit_made_texts(root: Path, pairs: list[Pair]) -> str:
    """Commit the texts of some pairs, as acquire does; return the key of the part."""
    rows = [[pair.uid, pair.captions, pair.unusable] for pair in pairs]
    key = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:20]
    columns = {
        "uid": [pair.uid for pair in pairs],
        "captions": [list(pair.captions.items()) for pair in pairs],
        "unusable": [list(pair.unusable.items()) for pair in pairs],
    }
    commit_texts(key, pa.table(columns, schema=TEXTS), root=str(root), of="made.parquet")
    return key


def _fill(workspace: Workspace, pairs: list[Pair]) -> Outcome:
    rows, dropped = [], {}
    with TarShard(workspace.output / "images.tar") as tar:
        for pair in pairs:
            row = {"uid": pair.uid, "url": pair.url}
            if pair.failed:
                dropped[pair.failed] = dropped.get(pair.failed, 0) + 1
                rows.append({**row, "status": "failed", "reason": pair.failed})
                continue
            picture = pair.number if pair.picture is None else pair.picture
            content = pair.content or png(picture, pair.size)
            member = f"{pair.number:08d}.png"
            width, height = pair.size
            rows.append(
                {
                    **row,
                    "status": "success",
                    "width": width,
                    "height": height,
                    "original_width": width,
                    "original_height": height,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "member": member,
                    "offset": tar.add(member, content),
                    "size": len(content),
                }
            )
    pq.write_table(pa.Table.from_pylist(rows, schema=ROWS), workspace.output / "rows.parquet")
    return Outcome(make_ledger(len(pairs), len(pairs) - sum(dropped.values()), dropped))
