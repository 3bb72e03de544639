"""Small training runs through the train stage, for the tests of this folder."""

import hashlib
import json
import signal
import threading
import time
from pathlib import Path

import psutil
from made.acquired import some_pairs
from made.packed import pack

from neuclip.distributed.world import World
from neuclip.foundation.progress import silent
from neuclip.shards.config import ShardConfig
from neuclip.stages.workspace import StageIdentity, commit_stage
from neuclip.training import loop
from neuclip.training.config import TrainConfig
from neuclip.training.job import TrainJob
from neuclip.training.run import run_train
from neuclip.training.stopping import StopRequest

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}

SMALL_NETWORK = {"name": "network", "num_prototypes": 48, "inner_steps": 2, "restart_every": 7}

EVERY_TERM = {
    "image_views": {"second": {"augment": {}, "crop_scale": [0.2, 1.0]}},
    "text_views": {"second": {"captions": {"kind": "same", "edit": "eda"}}},
    "terms": {
        "mvs": {"name": "multi_view", "weight": 0.2},
        "siam": {"name": "image_self", "weight": 0.2, "hidden": 32, "output": 32, "bottleneck": 8},
        "words": {"name": "masked_text", "weight": 0.2},
        "near": {"name": "neighbours", "weight": 0.2, "queue": 100},
    },
}
"""DeCLIP's, with heads and a queue of a size for these runs."""

OBSERVERS = {
    "queue": {"name": "neuclip", "estimator": {"name": "queue", "num_pairs": 40}},
    "fastclip": {"name": "fastclip", "version": "v1", "gamma_decay_epochs": 1},
}


def make_packed(root, *, selection_share=0.1):
    return pack(
        root,
        [some_pairs(180)],
        shard=ShardConfig(samples_per_shard=30, selection_share=selection_share),
    )


def make_config(**changes) -> TrainConfig:
    settings = {
        "model": {"architecture": ARCHITECTURE},
        "objective": {"name": "neuclip", "estimator": SMALL_NETWORK},
        "global_batch": 16,
        "streams": 4,
        "epochs": 3,
        "captions": {"kind": "per_source", "weights": {"alt": 1, "rewrite": 1}},
        "warmup_steps": 3,
        "save_every_steps": 8,
        "keep_checkpoints": 10,
        "log_every_steps": 1,
        "loader": {"workers": 1},
        "probe": {"every_steps": 10, "samples": 64, "anchors": 32, "observers": OBSERVERS},
    }
    launch = {"max_restarts": 0} | changes.pop("launch", {})
    return TrainConfig.model_validate(settings | changes | {"launch": launch})


def train(root: Path, packed, config: TrainConfig, *, key="k", seed=5, progress=silent):
    """Run the stage; return its folder and manifest."""
    identity = StageIdentity("train", 1, key, {}, {}, str(root))
    manifest, _ = commit_stage(
        identity,
        lambda w: run_train(
            config,
            seed=seed,
            index_uri=packed.index,
            shard_uri=packed.shard,
            text_encoder_uri=getattr(packed, "text_encoder", None),
            workspace=w,
            progress=progress,
        ),
        keep_unfinished=True,
    )
    return Path(identity.uri), manifest


def train_here(folder: Path, packed, config: TrainConfig, *, seed=5):
    """Run the loop in this process; return its result."""
    job = TrainJob(
        config=config,
        seed=seed,
        train_key="k",
        index_uri=packed.index,
        shard_uri=packed.shard,
        text_encoder_uri=getattr(packed, "text_encoder", None),
        run_uri=str(folder),
    )
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in signals}
    try:
        return loop.train(job, World.single(), StopRequest())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ranks():
    """Return the processes below this one that train, without torchrun."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[1:3] == ["-m", "neuclip.training.worker"] or (
                process.cmdline()[1:4] == ["-u", "-m", "neuclip.training.worker"]
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def kill_rank_when(folder: Path, is_time) -> threading.Thread:
    """Kill -9 one rank as soon as `is_time(last metrics line)` holds."""
    return signal_rank_when(folder, is_time, signal.SIGKILL)


def signal_rank_when(folder: Path, is_time, number: signal.Signals) -> threading.Thread:
    """Send a signal to one rank as soon as `is_time(last metrics line)` holds."""

    def watch():
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            lines = metrics(folder)
            if lines and is_time(lines[-1]):
                oldest = min(ranks(), key=lambda p: (p.create_time(), p.pid))
                oldest.send_signal(number)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [
        json.loads(line)
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


def weights(folder: Path) -> dict[str, str]:
    """Return the digests of the last checkpoint's files of tensors."""
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(last.glob("*.safetensors"))
    }
