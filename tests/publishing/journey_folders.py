"""The committed folders of a whole journey, made by hand."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made.acquired import Pair, commit_acquired
from made.committed import commit_by_hand
from made.side_files import commit_side_files
from towers.tiny import COLOURS, picture, tiny_towers

from neuclip.acquired.listing import PARTITIONS_FILE
from neuclip.index.side_files import SIDE_FILES
from neuclip.shards.members import MEMBER_SCHEMA
from neuclip.shards.tar import TarShard
from neuclip.stages.ledger import make_ledger
from neuclip.towers.files import WEIGHTS_FILE
from neuclip.towers.folder import save_towers

LEDGERS = {
    "acquire": (
        12_400,
        9_731,
        {"download failed: 404": 1_902, "timeout": 512, "not an image": 255},
    ),
    "score": (9_731, 9_731, {}),
    "curate": (9_731, 7_204, {"duplicate_image": 1_420, "too_few_chars": 731, "aspect_ratio": 376}),
    "caption": (7_204, 7_204, {}),
    "shard": (7_204, 7_201, {"undecodable": 3}),
    "index": (7_049, 7_049, {}),
    "train": (7_049, 7_049, {}),
    "select": (3, 1, {"lower_score": 2}),
    "evaluate": (1_400, 1_398, {"undecodable_image": 2}),
}
TEXTS = {
    "main": {
        "by_source": {"alt": 150_400, "<i>vecap</i>": 49_600},
        "stand_ins": 500,
        "asked": "0.75 alt + 0.25 <i>vecap</i>",
    },
    "edited": {
        "by_source": {"alt": 199_999, "": 1},
        "stand_ins": 1,
        "asked": "the text of main; edited by EDA",
    },
}
RECIPE = "name: colours\nseed: 1\nacquire:\n  table: table.parquet\ntrain:\n  model:\n    name: ViT-B-32\n"


def make_journey(
    base,
    *,
    caption="a photo of {colour} things, seen on a quiet morning in the harbour",
    pictures=None,
):
    """Write all folders below `base` and return stage -> folder."""
    uris, committed = {}, {}
    for number, (stage, (entered, out, dropped)) in enumerate(LEDGERS.items()):
        folder = base / stage / f"{number:04x}c0ffee{number:06x}"
        folder.mkdir(parents=True)
        uris[stage] = str(folder)
        committed[stage] = {
            "ledger": make_ledger(entered, out, dropped),
            "parts": {"acquire": ["made-part0"], "shard": ["part"]}.get(stage, []),
            "started_at": f"2026-03-0{number + 1}T10:00:00+00:00",
            "wall_s": 3.7**number,
        }
    committed["train"]["summary"] = {"texts": TEXTS}
    _write_curation(base, uris, caption, pictures)
    colours = list(pictures or COLOURS)
    _write_shards(Path(uris["shard"]), pictures or COLOURS, colours)
    _write_side_files(base, Path(uris["index"]), caption, colours)
    _write_training(base / "train" / uris["train"].rsplit("/", 1)[1])
    model_sha256 = _write_choice(base / "select" / uris["select"].rsplit("/", 1)[1])
    _write_scores(base / "evaluate" / uris["evaluate"].rsplit("/", 1)[1], model_sha256)
    for stage, uri in uris.items():
        commit_by_hand(Path(uri), stage, **committed[stage])
    commit_by_hand(base / "shard" / "parts" / "part", "shard")
    return uris


def _write_curation(base, uris, caption, pictures):
    """Two pairs, one of which a rule dropped; counts made up."""
    acquire, curate = uris["acquire"], uris["curate"]
    texts = [caption.format(colour="a kept"), caption.format(colour="a dropped")]
    pairs = [
        Pair(number, {"alt": [text]}, content=b"broken" if pictures else None)
        for number, text in enumerate(texts)
    ]
    other = Path(commit_acquired(base, [pairs], key="made"))
    shutil.copy(other / PARTITIONS_FILE, acquire)
    reasons = [None, "aspect_ratio"]
    rows = [
        {
            "uid": pair.uid,
            "kept": reason is None,
            "reason": reason,
            "failed": int(reason is not None),
        }
        for pair, reason in zip(pairs, reasons, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), f"{curate}/verdicts.parquet")
    dropped = LEDGERS["curate"][2]
    steps = [
        {
            "reason": reason,
            "dropped": count,
            "alone": 2 * count,
            "kept": 7_000,
            "overlap": {"timeout": 3},
        }
        for reason, count in dropped.items()
    ]
    bins = [{"least": 16.0 * place, "pairs": 10 * place + 1, "kept": place} for place in range(12)]
    funnel = {
        "pairs": 9_731,
        "steps": steps,
        "survival": {
            "domain": [
                {"bucket": "<b>example.org</b>", "pairs": 31, "kept": 8},
                {"bucket": "example.com", "pairs": 10, "kept": 0},
            ]
        },
        "histograms": {"caption characters": bins},
    }
    Path(curate, "funnel.json").write_text(json.dumps(funnel))


SHARDS = {
    f"parts/part/shard-{shard:06d}.tar": range(20 * shard, 20 * shard + 20) for shard in range(2)
}


def _write_side_files(base, index, caption, colours):
    """Every sample has an alt text, every other one another text; as committed by another index."""
    names = {
        sample_id: colours[sample_id % len(colours)] for ids in SHARDS.values() for sample_id in ids
    }
    texts = {
        "alt": {
            shard: [[caption.replace("{colour}", names[sample_id])] for sample_id in ids]
            for shard, ids in SHARDS.items()
        },
        "rewrite": {
            shard: [
                [f"{names[sample_id]} surface with fine grain, evenly lit"] if sample_id % 2 else []
                for sample_id in ids
            ]
            for shard, ids in SHARDS.items()
        },
    }
    other = Path(commit_side_files(base, texts, key="made"))
    shutil.copy(other / SIDE_FILES, index)


def _write_shards(folder, pictures, colours):
    rows = []
    (folder.parent / "parts" / "part").mkdir(parents=True)
    for name, ids in SHARDS.items():
        with TarShard(folder.parent / name) as tar:
            for sample_id in ids:
                colour = colours[sample_id % len(colours)]
                uid = f"{sample_id:032x}"
                image = (
                    pictures[colour]
                    if isinstance(pictures[colour], bytes)
                    else picture(colour, sample_id)
                )
                text = json.dumps({"uid": uid, "sample_id": sample_id}).encode()
                image_offset = tar.add(f"{uid}.jpg", image)
                json_offset = tar.add(f"{uid}.json", text)
                row = dict.fromkeys(MEMBER_SCHEMA.names)
                row |= {"split": "train", "sample_id": sample_id, "uid": uid, "shard": name}
                row |= {"image_offset": image_offset, "image_size": len(image)}
                row |= {"json_offset": json_offset, "json_size": len(text)}
                rows.append(row)
    rows.append(
        {
            **rows[0],
            "split": "selection",
            "shard": "parts/part/selection-000000.tar",
            "sample_id": None,
        }
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=MEMBER_SCHEMA), folder / "members.parquet")


def _write_training(folder):
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, 601):
        done = step / 600
        line = {
            "step": step,
            "samples_seen": step * 512,
            "loss": 6.2 * math.exp(-2 * done) + rng.normal(0, 0.06),
        }
        line |= {"temperature": 0.07 - 0.04 * done, "lr": 5e-4 * math.cos(done * math.pi / 2) ** 2}
        line |= {"samples_per_s": 4100 + rng.normal(0, 120), "data_wait": abs(rng.normal(0, 0.01))}
        line |= {
            "ratio_mean": 1 + 0.5 * math.exp(-5 * done),
            "ratio_max": 3 + 40 * math.exp(-4 * done),
        }
        if step % 50 == 0:
            line |= {
                "normalizer_mse": 0.3 * math.exp(-4 * done),
                "normalizer_batch_mse": 0.35 - 0.1 * done,
            }
        lines.append(json.dumps(line))
    lines.append(
        json.dumps({"step": 601, "samples_seen": 601 * 512, "loss": float("nan"), "lr": None})
    )
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def _write_choice(folder):
    save_towers(tiny_towers(), folder / "model")
    weights = (folder / "model" / WEIGHTS_FILE).read_bytes()
    model_sha256 = hashlib.sha256(weights).hexdigest()
    rows = [
        {
            "step": step,
            "samples_seen": step * 512,
            "model_sha256": "ab" * 32,
            "samples": 152,
            "undecodable": 0,
            "chance": 1 / 152,
            "image_to_text_recall_at_1": value,
            "text_to_image_recall_at_1": value - 0.03,
            "mean_recall_at_1": value - 0.015,
        }
        for step, value in ((200, 0.212), (400, 0.367), (600, 0.359))
    ]
    (folder / "scores.json").write_text(json.dumps(rows))
    choice = {
        "step": 400,
        "samples_seen": 204_800,
        "metric": "mean_recall_at_1",
        "value": 0.352,
        "chance": 1 / 152,
        "samples": 152,
        "model_sha256": model_sha256,
        "why": "Step 400 is the best of 3 checkpoints: mean recall@1 0.3520 on 152 held-out pairs (chance 0.0066), "
        "ahead of step 600 with 0.3440.",
        "runner_up": {"step": 600, "value": 0.344},
    }
    (folder / "choice.json").write_text(json.dumps(choice))
    return model_sha256


def _write_scores(folder, model_sha256):
    shared = {"suite_version": "3fa9c1d2e4b5a697", "model_sha256": model_sha256}
    recalls = {
        f"{way}_recall_at_{k}": 0.1 * k**0.8
        for k in (1, 5)
        for way in ("image_to_text", "text_to_image")
    }
    rows = [
        {
            "set": "colours",
            "kind": "classification",
            "samples": 1000,
            "main_metric": "acc1",
            "main_value": 0.613,
        }
        | {
            "main_metric_source": "default",
            "not_scored": {},
            "chance": 0.1,
            "metrics": {"acc1": 0.613, "acc5": 0.941, "mean_per_class_recall": 0.607},
            "intervals": {"acc1": [0.583, 0.643]},
        },
        {
            "set": "colours-finder",
            "kind": "retrieval",
            "samples": 398,
            "main_metric": "mean_recall_at_1",
        }
        | {
            "main_value": 0.0041,
            "main_metric_source": "declared",
            "not_scored": {"undecodable_image": 2},
            "chance": 0.0025,
            "metrics": {**recalls, "mean_recall_at_1": 0.0041},
            "intervals": {"mean_recall_at_1": [0.0009, 0.0091]},
        },
    ]
    (folder / "scores.json").write_text(json.dumps([row | shared for row in rows]))
