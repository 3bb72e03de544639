"""Our whole trainer against `open_clip_train.main`: the same shards, weights' shape, batch, precision and flags.

`python -m bench.step` compares on this machine's CPU, `python -m bench.step gpu [MODEL ...]` on its GPU, each model a
part that is complete in itself. Each trainer is a program of its own, as a user starts it: loader, metrics to
TensorBoard, one checkpoint at the end; it is ended if it says nothing for two minutes.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.shards import Packed, pack_scenes
from bench.timing import best_of
from neuclip.distributed.world import World
from neuclip.stages.manifest import read_manifest
from neuclip.towers.config import ModelConfig
from neuclip.towers.folder import save_towers
from neuclip.towers.model import create_towers
from neuclip.training.config import TrainConfig
from neuclip.training.job import PROGRESS_MARK, TrainJob

REPEATS, WARM_SHARE = 3, 0.25
SILENCE_S = 120
GPU_BATCHES = {"ViT-B-32": 1024, "ViT-B-16": 512}
GPU_SCENES, GPU_STEPS, GPU_REPEATS = 8192, 48, 2
SMALL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 4, "width": 128, "head_width": 32},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 128,
        "heads": 4,
        "layers": 4,
    },
}
_THEIR_LINE = re.compile(r"Train Epoch: 0 \[\s*(\d+)/\d+")


@dataclass(frozen=True)
class Setting:
    """What both trainers are told."""

    model: dict[str, Any]
    """`name` or `architecture`, as in a recipe."""
    batch: int
    steps: int
    precision: str
    workers: int
    side_px: int
    log_every: int = 4


@dataclass(frozen=True)
class Speed:
    """Of the steps after the first quarter of a run."""

    samples_per_s: float
    with_checkpoint: float
    """The same up to the end of the program, its checkpoint written."""
    cpu_ms: float
    """CPU time a sample of the training process, which what else runs on the machine changes little."""
    all_cpu_ms: float
    """The same with its loading processes."""


CPU = Setting({"architecture": SMALL}, batch=64, steps=32, precision="fp32", workers=1, side_px=128)


def main() -> None:
    """Compare on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        packed = pack_scenes(Path(folder), count=CPU.batch * CPU.steps, side_px=CPU.side_px)
        compare(CPU, packed, Path(folder))
        print_floor(CPU)


def compare(setting: Setting, packed: Packed, folder: Path, *, repeats: int = REPEATS) -> None:
    """Run both in turn and print the medians."""
    programs = {"ours": our_command, "open_clip": their_command}
    speeds: dict[str, list[Speed]] = {name: [] for name in programs}
    for repeat in range(repeats):
        for name, command in programs.items():
            place = folder / f"{name}-{repeat}"
            place.mkdir()
            speeds[name].append(found := measure(command(setting, packed, place), setting))
            print(f"    {name} {found.samples_per_s:.0f} samples/s", flush=True)
    ours, theirs = speeds["ours"], speeds["open_clip"]
    print(
        f"training, batch {setting.batch}, {setting.steps} steps, {setting.precision}, one thread, "
        f"{setting.workers} loading process(es), median of {repeats} in turn"
    )
    better = {"samples_per_s": 1, "with_checkpoint": 1, "cpu_ms": -1, "all_cpu_ms": -1}
    for what, sign in better.items():
        pairs = [(getattr(a, what), getattr(b, what)) for a, b in zip(ours, theirs, strict=True)]
        ratios = sorted((a / b) ** sign for a, b in pairs)
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        print(
            f"  {what:15} ours {medians[0]:9.4g}, open_clip {medians[1]:9.4g}, "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def our_command(setting: Setting, packed: Packed, place: Path) -> list[str]:
    """Write a job and return what runs it."""
    samples = read_manifest(packed.index).summary["samples"]
    config = TrainConfig.model_validate(
        {
            "model": setting.model,
            "objective": {"name": "openclip"},
            "global_batch": setting.batch,
            "epochs": setting.batch * setting.steps / samples,
            "streams": 1,
            "lr": 5e-4,
            "warmup_steps": 10,
            "weight_decay": 0.2,
            "grad_clip": {"kind": "norm", "norm": 1.0},
            "precision": setting.precision,
            "save_every_steps": setting.steps,
            "keep_best": 0,
            "log_every_steps": setting.log_every,
            "loader": {"workers": setting.workers},
        }
    )
    job = TrainJob(
        config=config,
        seed=0,
        train_key="bench",
        index_uri=packed.index,
        shard_uri=packed.shard,
        run_uri=str(place / "run"),
    )
    (place / "job.json").write_text(job.model_dump_json())
    return [sys.executable, "-m", "bench.step", "ours", str(place / "job.json")]


def their_command(setting: Setting, packed: Packed, place: Path) -> list[str]:
    """Write new weights as a folder of open_clip and return what trains them."""
    save_towers(create_towers(ModelConfig(**setting.model), seed=0), place / "start")
    shards = sorted(Path(packed.shard).parent.glob("parts/*/shard-*.tar"))
    on_cuda = torch.cuda.is_available()
    return [
        *(sys.executable, "-W", "ignore", "-m", "bench.step", "open_clip"),
        *("--model", f"local-dir:{place / 'start'}", "--dataset-type", "webdataset"),
        *("--train-data", "::".join(map(str, shards))),
        *("--train-num-samples", str(setting.batch * setting.steps)),
        *("--batch-size", str(setting.batch), "--epochs", "1"),
        *("--workers", str(setting.workers), "--warmup", "10", "--lr", "5e-4", "--wd", "0.2"),
        *("--beta1", "0.9", "--beta2", "0.98", "--eps", "1e-6", "--grad-clip-norm", "1.0"),
        *("--precision", "amp_bf16" if setting.precision == "bf16" else setting.precision),
        *("--device", "cuda" if on_cuda else "cpu", "--report-to", "tensorboard"),
        *("--local-loss", "--gather-with-grad", "--save-frequency", "1000"),
        *("--log-every-n-steps", str(setting.log_every)),
        *("--logs", str(place / "logs"), "--name", "bench"),
    ]


def measure(command: list[str], setting: Setting) -> Speed:
    """Start a trainer and look at the clock when it says how far it is."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    marks: list[tuple[int, float, float, float]] = []
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        process = psutil.Process(child.pid)
        ended = 0.0
        with _ended_when_silent(process) as heard:
            for line in child.stdout:
                heard()
                said.append(line)
                samples = samples_told(line, batch=setting.batch)
                if samples is not None:
                    marks.append((samples, time.perf_counter(), *cpu_seconds(process)))
                if line.startswith("@done"):
                    ended = time.perf_counter()
    if child.returncode or not ended:
        raise RuntimeError(f"{command[:6]} ended with {child.returncode}:\n{''.join(said[-30:])}")
    whole = setting.batch * setting.steps
    first = next(mark for mark in marks if mark[0] >= WARM_SHARE * whole)
    samples = marks[-1][0] - first[0]
    return Speed(
        samples_per_s=samples / (marks[-1][1] - first[1]),
        with_checkpoint=samples / (ended - first[1]),
        cpu_ms=1e3 * (marks[-1][2] - first[2]) / samples,
        all_cpu_ms=1e3 * (marks[-1][3] - first[3]) / samples,
    )


@contextmanager
def _ended_when_silent(process: psutil.Process) -> Generator[Callable[[], None]]:
    """Give a function to call at each sign of life; without one for SILENCE_S the process and all below it end."""
    last, is_over = [time.monotonic()], threading.Event()

    def heard() -> None:
        last[0] = time.monotonic()

    def watch() -> None:
        while not is_over.wait(1):
            if time.monotonic() - last[0] > SILENCE_S:
                for one in [*process.children(recursive=True), process]:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield heard
    finally:
        is_over.set()


def samples_told(line: str, *, batch: int) -> int | None:
    """Return how many samples a line of either trainer says it has seen, if it says so.

    open_clip rounds the samples of a run up to its workers, so the share that it tells is not of what it was asked for.
    """
    if line.startswith(PROGRESS_MARK):
        return json.loads(line.removeprefix(PROGRESS_MARK))["done"] * batch
    found = _THEIR_LINE.search(line)
    return None if found is None else int(found[1])


def cpu_seconds(process: psutil.Process) -> tuple[float, float]:
    """Return the CPU time of a process, and that of it with all below it."""
    own, *below = (sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))
    return own, own + sum(below)


def print_floor(setting: Setting) -> None:
    """Print the seconds that the model's products need at the rate one large product reaches here."""
    torch.set_num_threads(1)
    towers = create_towers(ModelConfig(**setting.model), seed=0)
    images = torch.zeros(setting.batch, 3, towers.image_px, towers.image_px)
    tokens = towers.tokenize(["a scene"] * setting.batch)
    with FlopCounterMode(display=False) as counter:
        features = towers.image_features(images), towers.text_features(tokens)
        (features[0] @ features[1].T).sum().backward()
    flops = counter.get_total_flops() / setting.batch
    a, b = torch.randn(2, 1024, 1024)
    rate = 2 * 1024**3 / best_of(5, lambda: a @ b)
    print(
        f"  floor: {flops / 1e9:.2f} GFLOP a sample at {rate / 1e9:.0f} GFLOP/s, "
        f"{rate / flops:.0f} samples/s if products were all there is"
    )


def on_gpu(names: Sequence[str]) -> None:
    """Compare models, each at its batch, on scenes that are packed once."""
    if not torch.cuda.is_available():
        print("training on a GPU: there is none here")
        return
    workers = max(1, (os.cpu_count() or 2) - 2)
    with tempfile.TemporaryDirectory() as folder:
        packed = pack_scenes(Path(folder), count=GPU_SCENES, side_px=256)
        for name in names or GPU_BATCHES:
            place = Path(folder, name)
            place.mkdir()
            batch, model = GPU_BATCHES[name], {"name": name}
            setting = Setting(model, batch, GPU_STEPS, "bf16", workers, side_px=256)
            print(name, torch.cuda.get_device_name(), flush=True)
            compare(setting, packed, place, repeats=GPU_REPEATS)
            print_data_wait(place)


def print_data_wait(folder: Path) -> None:
    """Print the share of the steady steps that our trainer waited for data."""
    for path in sorted(folder.glob("ours-*/run/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        waits = [line["data_wait"] for line in lines[len(lines) // 4 :]]
        print(f"  data wait {statistics.mean(waits):.2%}")


def run_ours(job_path: str) -> None:
    """Train as the stage's ranks do."""
    from neuclip.training.loop import train
    from neuclip.training.stopping import StopRequest

    world = World.from_environment()
    train(TrainJob.model_validate_json(Path(job_path).read_bytes()), world, StopRequest())
    world.close()
    print("@done", flush=True)


def run_theirs(arguments: list[str]) -> None:
    """Train by open_clip's `main`; webdataset since 0.2.90 needs one option that open_clip 3.3 does not give."""
    import functools

    import open_clip_train.data
    from open_clip_train.main import main as train
    from webdataset.tariterators import tar_file_expander

    open_clip_train.data.tar_file_expander = functools.partial(tar_file_expander, eof_value=None)
    train(arguments)
    print("@done", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours", job_path]:
            run_ours(job_path)
        case ["open_clip", *arguments]:
            run_theirs(arguments)
        case ["gpu", *names]:
            on_gpu(names)
        case _:
            main()
