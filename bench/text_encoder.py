"""What the text side costs where it reads features of a language model: of an update, and of the loader.

`python -m bench.text_encoder` on this machine's CPU, one thread; features of width 2048, an adapter of four blocks.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bench.loading.data import PART, SAMPLES, SAMPLES_PER_SHARD, Data, commit_shards, photographs
from bench.loading.pipelines import IMAGE_PX, tokenize
from neuclip.distributed.world import World
from neuclip.index.side_files import (
    SHARD_PART,
    SIDE_FEATURES,
    SIDE_FEATURES_SCHEMA,
    SIDE_FILES,
    features_name,
)
from neuclip.loading.captions import Captions
from neuclip.loading.policies import PerSource
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.text_features import TextFeatures
from neuclip.loading.views import ImageView, TextView
from neuclip.loading.visits import MAIN
from neuclip.stages.committed import committed_file
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.towers.transforms import training_pixels
from neuclip.training.config import TrainConfig
from neuclip.training.costs import forward_cost
from neuclip.training.example_batch import example_batch
from neuclip.training.job import TrainJob
from neuclip.training.parts import make_trainer
from neuclip.training.phases import Phase

WIDTH, BATCH, BATCHES, LOADED = 2048, 32, 6, 64
_FEATURES = {"kind": "features", "width": WIDTH}


def main() -> None:
    """Measure an update, then the loader."""
    torch.set_num_threads(1)
    tell_update()
    tell_loader()


def tell_update() -> None:
    """Print the share of the text tower in an update of ViT-B/16: its passes, and its step of AdamW."""
    config = _config({"text": _FEATURES})
    job = TrainJob(
        config=config, seed=0, train_key="bench", index_uri="-", shard_uri="-", run_uri="-"
    )
    trainer = make_trainer(job, World.single(), Phase(0, config, 0, 1000, 0), num_samples=100_000)
    batch = example_batch(config, trainer.towers, pairs=BATCH)
    trainer.update(batch)
    start = time.process_time()
    trainer.update(batch)
    whole = time.process_time() - start
    text: Any = trainer.towers.model.text
    optimiser = torch.optim.AdamW(text.parameters(), lr=0.0)
    start = time.process_time()
    text(batch.texts[MAIN]).sum().backward()
    passes = time.process_time() - start
    optimiser.step()
    start = time.process_time()
    optimiser.step()
    stepping = time.process_time() - start
    floors = [forward_cost(_config(model)).multiply_adds for model in ({"text": _FEATURES}, {})]
    weights = sum(p.numel() for p in text.parameters())
    print(
        f"ViT-B/16 at 224 px, features of width {WIDTH}, adapter of {weights / 1e6:.1f} M weights, batch {BATCH}: an "
        f"update {whole:.4g} processor s, of which the text side's passes {passes:.4g} s ({passes / whole:.2%}), its "
        f"step of AdamW {stepping:.4g} s ({stepping / whole:.2%}, the same at any batch); multiply-adds of a pair "
        f"{floors[0] / 1e9:.2f} G, with a text tower of 77 tokens {floors[1] / 1e9:.2f} G"
    )


def _config(model: dict[str, Any]) -> TrainConfig:
    fields = {"model": {"name": "ViT-B-16", **model}, "objective": {"name": "openclip"}}
    return TrainConfig.model_validate(
        {**fields, "global_batch": BATCH, "streams": 1, "warmup_steps": 0}
    )


def tell_loader() -> None:
    """Print the share of reading features in making batches of photographs of 256 px."""
    with tempfile.TemporaryDirectory() as root:
        data = commit_shards(root, photographs())
        index = _commit_features(root, data)
        timed = _Timed(index, cache_gb=1)
        arms = {
            "features": TextView(PerSource(), _none, features=timed),
            "tokens": TextView(PerSource(), lambda texts, *_: tokenize(texts)),
        }
        seconds = dict.fromkeys(arms, 0.0)
        for name, view in arms.items():
            samples = _samples(data, index, view)
            for number in range(BATCHES + 1):
                ids = np.random.default_rng(number).integers(0, SAMPLES, LOADED).tolist()
                start = time.process_time()
                samples.__getitems__([(0, sample_id) for sample_id in ids])
                if number:
                    seconds[name] += time.process_time() - start
                elif name == "features":  # the first one opens the files
                    timed.seconds = 0.0
    read = BATCHES * LOADED
    print(
        f"loader, photographs of 256 px, {read} samples: {1e3 * seconds['features'] / read:.3g} processor ms a sample, "
        f"of which reading features {1e3 * timed.seconds / read:.3g} ms ({timed.seconds / seconds['features']:.2%}); "
        f"with CLIP's tokens {1e3 * seconds['tokens'] / read:.3g} ms. Floor: copying {2 * WIDTH} bytes, "
        f"{1e3 * _copying():.2g} ms"
    )


class _Timed(TextFeatures):
    """Notes how long reading takes."""

    seconds = 0.0

    def of(self, *where: Any) -> torch.Tensor:
        start = time.process_time()
        found = super().of(*where)
        self.seconds += time.process_time() - start
        return found


def _none(*_: Any) -> torch.Tensor:
    raise AssertionError("features are read, not made of texts")


def _samples(data: Data, index: str, view: TextView) -> ShardSamples:
    return ShardSamples(
        ShardFiles(data.shard_uri, cache_gb=1),
        data.table,
        images=[ImageView(partial(training_pixels, image_px=IMAGE_PX))],
        texts=[view],
        captions=Captions(index, cache_gb=1),
        seed=0,
    )


def _commit_features(root: str, data: Data) -> str:
    """Commit side files of drawn features beside the texts, and the index that lists both."""
    part = StageIdentity("index", 1, "features", {}, {SHARD_PART: Path(PART).name}, root, part=True)

    def features(workspace: Workspace) -> Outcome:
        draws = np.random.default_rng(0)
        for name in data.table.shards:
            rows = draws.normal(size=(SAMPLES_PER_SHARD, WIDTH)).astype(np.float16)
            np.save(workspace.output / features_name(name), rows)
        return Outcome(make_ledger(SAMPLES, SAMPLES, {}))

    def listed(workspace: Workspace) -> Outcome:
        row = {"source": "alt", "shard_part": Path(PART).name, "part": part.key, "texts": SAMPLES}
        table = pa.Table.from_pylist([row], schema=SIDE_FEATURES_SCHEMA)
        pq.write_table(table, workspace.output / SIDE_FEATURES)
        texts = committed_file(data.index_uri, SIDE_FILES).read_bytes()
        (workspace.output / SIDE_FILES).write_bytes(texts)
        return Outcome(make_ledger(SAMPLES, SAMPLES, {}), {"text_encoder": {"width": WIDTH}})

    commit_stage(part, features)
    index = StageIdentity("index", 1, "with features", {}, {}, root)
    commit_stage(index, listed)
    return index.uri


def _copying() -> float:
    """Return how long copying a row takes, seconds."""
    rows = np.zeros((1000, WIDTH), np.float16)
    start = time.process_time()
    for row in rows:
        np.array(row)
    return (time.process_time() - start) / len(rows)


if __name__ == "__main__":
    main()
