"""The same comparison at the size of a GPU: ViT-B/32, a large batch, and a long run at a small one.

The images are scenes scaled up on the device, so that decoding is no part of it.
"""

from collections.abc import Iterator
from pathlib import Path

from bench.objectives import quality
from bench.objectives.records import Settings, cell, grouped, markdown, mean_std, read

RECORDS, TINY_RECORDS = "gpu.jsonl", "gpu-tiny.jsonl"
ARCHITECTURE, COUNT, IMAGE_PX = "ViT-B-32", 200_000, 64
TINY_ARCHITECTURE = "ViT-S-32"
NETWORK: Settings = {"name": "network"}  # the paper's: m 4096, T_u 10, T_r 500
LEARNED: Settings = {"rho": 6.5, "temperature_lr": 1e-4}
OBJECTIVES: dict[str, Settings] = {
    "openclip": {"name": "openclip"},
    "siglip": {"name": "siglip"},
    "fastclip v3": {"name": "fastclip", **LEARNED, "gamma_decay_epochs": 5},
    "amorlip": {"name": "amorlip"},
    "neuclip": {"name": "neuclip", **LEARNED, "estimator": NETWORK},
    "neuclip, bf16 fit": {
        "name": "neuclip",
        **LEARNED,
        "estimator": NETWORK | {"fit_precision": "bf16"},
    },
    "neuclip, queue": {"name": "neuclip", **LEARNED, "estimator": {"name": "queue"}},
    "neuclip, aged queue": {"name": "neuclip", **LEARNED, "estimator": {"name": "aged_queue"}},
}
# Batch, epochs: one that fills a GPU, and a long run in which in-batch normalizers are poor.
SIZES = ((4096, 10), (256, 30))


def grid() -> Iterator[Settings]:
    """Yield the settings of all runs."""
    for seed in quality.SEEDS:
        for batch, epochs in SIZES:
            for name, objective in OBJECTIVES.items():
                yield _settings(name, objective, seed, batch) | {
                    "architecture": ARCHITECTURE,
                    "count": COUNT,
                    "image_px": IMAGE_PX,
                    "samples": COUNT * epochs,
                    "device": "cuda",
                }


def tiny_grid() -> Iterator[Settings]:
    """Yield the same runs so small that a CPU does them in a minute: that the way is free."""
    for name, objective in OBJECTIVES.items():
        yield _settings(name, objective, 0, 16) | {
            "architecture": TINY_ARCHITECTURE,
            "count": 48,
            "image_px": 32,
            "samples": 32,
            "device": "cpu",
        }


def _settings(name: str, objective: Settings, seed: int, batch: int) -> Settings:
    return {
        "study": "gpu",
        "data": "scenes",
        "name": name,
        "objective": objective,
        "lr": 5e-4,
        "seed": seed,
        "batch": batch,
    }


def report(folder: Path) -> str:
    """Return a table a batch size."""
    parts: list[str] = []
    for batch, records in grouped(read(folder / RECORDS), "batch").items():
        rows = [
            [
                name[0],
                str(len(runs)),
                cell(run["recall"] for run in runs),
                cell(run["zero_shot"] for run in runs),
                f"{mean_std(run['samples_per_s'] for run in runs)[0]:.0f}",
            ]
            for name, runs in grouped(records, "name").items()
        ]
        header = ["objective", "seeds", "R@1, %", "zero-shot, %", "samples/s"]
        parts.append(f"## {ARCHITECTURE}, batch {batch[0]}\n\n{markdown(header, rows)}")
    return "\n".join(parts)
