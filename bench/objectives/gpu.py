"""The comparison at the size of a GPU: towers of 7 M weights on the real pairs, many passes at a small batch.

`python -m bench.objectives gpu --seconds 200` does as many runs as begin in that time, each complete in itself and
written as it ends; the next call goes on. Pictures lie on the device, so that no loading is part of it.
"""

from collections.abc import Iterator
from pathlib import Path

from bench.objectives.defaults import CLIPS
from bench.objectives.records import SEEDS, Settings, cell, grouped, markdown, mean_std, read
from bench.objectives.towers import MEDIUM

RECORDS, TINY_RECORDS = "gpu.jsonl", "gpu-tiny.jsonl"
COUNT, IMAGE_PX, BATCH, EPOCHS = 14_682, 32, 128, 30
OBJECTIVES: dict[str, Settings] = {
    "openclip": {"name": "openclip"},
    "siglip": {"name": "siglip"},
    "fastclip v3": {"name": "fastclip", "rho": 3.85, "gamma_decay_epochs": EPOCHS // 2},
    "neuclip": {"name": "neuclip"},
    "neuclip, gamma 0.5": {"name": "neuclip", "gamma": 0.5},
    "neuclip, aged queue": {"name": "neuclip", "estimator": {"name": "aged_queue"}},
}
RATES = (5e-4, 1e-3)
CLIP = "median 1"


def grid() -> Iterator[Settings]:
    """Yield the settings of all runs, a seed after the other."""
    for seed in SEEDS:
        for rate in RATES:
            for name in OBJECTIVES:
                yield _settings(name, seed, rate) | {
                    "data": "pairs",
                    "count": COUNT,
                    "batch": BATCH,
                    "samples": COUNT * EPOCHS,
                    "device": "cuda",
                }


def tiny_grid() -> Iterator[Settings]:
    """Yield such runs so small that a CPU does them in seconds: that the way is free."""
    for name in OBJECTIVES:
        yield _settings(name, 0, RATES[0]) | {
            "data": "scenes",
            "count": 48,
            "batch": 16,
            "samples": 96,
            "device": "cpu",
        }


def _settings(name: str, seed: int, rate: float) -> Settings:
    return {
        "study": "gpu",
        "name": name,
        "objective": OBJECTIVES[name],
        "architecture": MEDIUM,
        "image_px": IMAGE_PX,
        "clip": CLIPS[CLIP],
        "lr": rate,
        "seed": seed,
    }


def report(folder: Path) -> str:
    """Return a table of all objectives at each rate."""
    rows = [
        [
            str(name),
            f"{rate:g}",
            str(len(runs)),
            cell(run["recall"] for run in runs),
            cell(run["zero_shot"] for run in runs),
            f"{mean_std(run['normalizer_mse'] for run in runs)[0]:.2f}",
            f"{mean_std(run['samples_per_s'] for run in runs)[0]:.0f}",
        ]
        for (name, rate), runs in grouped(read(folder / RECORDS), "name", "lr").items()
    ]
    if not rows:
        return ""
    header = ["objective", "rate", "seeds", "R@1, %", "zero-shot, %", "normalizer MSE", "samples/s"]
    title = f"## pairs, towers of 7 M weights, batch {BATCH}, {EPOCHS} epochs"
    return f"{title}\n\n{markdown(header, rows)}"
