"""NeuCLIP at its documented default against its rivals at their best, on the same batches in the same order.

Three rounds, each of which follows from the records before: every choice of a rate, a limit of the gradient and a rho
or a temperature on the first seed; the two best of each objective on a second one; and the best of both on six others,
which alone are told. So no objective is told on the seeds that its choice was made on.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from bench.objectives.records import (
    Record,
    Settings,
    cell,
    grouped,
    key_of,
    markdown,
    mean_std,
    read,
)

RECORDS = "rivals.jsonl"
SEARCH, SECOND, TOLD = 0, 1, (2, 3, 4, 5, 6, 7)
RATES = (5e-4, 1e-3, 2e-3)
CLIPS: dict[str, Settings] = {
    "norm 1": {"kind": "norm", "norm": 1.0},
    "median 1": {"kind": "median", "times": 1},
}
NEUCLIP, GAMMA, CLIP = "neuclip", 0.0, "norm 1"
NETWORK: Settings = {
    "name": "network",
    "num_prototypes": 1024,
    "inner_steps": 5,
    "restart_every": 100,
    "inner_lr": 0.01,
}


class Cell(NamedTuple):
    """A data set, the pairs in it, and how it is gone through."""

    data: str
    count: int
    batch: int
    epochs: int


CELLS = (
    Cell("scenes", 4_000, 16, 8),
    Cell("scenes", 4_000, 64, 8),
    Cell("pairs", 14_682, 64, 3),
    Cell("scenes", 4_000, 256, 8),
)


def grid(records: list[Record]) -> Iterator[Settings]:
    """Yield the settings of the runs that follow from those there are; none if all are there."""
    known = {record["key"] for record in records}
    for one in CELLS:
        for wanted in _rounds(one, records):
            missing = [settings for settings in wanted if key_of(settings) not in known]
            yield from missing
            if missing:
                break  # the next round follows from these


def _rounds(one: Cell, records: list[Record]) -> Iterator[list[Settings]]:
    """Yield what is to be there round by round; a round is asked for when the one before is there."""
    found = {record["key"]: record for record in records}

    def recall(settings: Settings, *seeds: int) -> float:
        return mean_std(found[key_of(settings | {"seed": seed})]["recall"] for seed in seeds)[0]

    choices = _choices(one)
    yield [settings for of_name in choices.values() for settings in of_name]
    pairs = [
        sorted(of_name, key=lambda settings: -recall(settings, SEARCH))[:2]
        for of_name in choices.values()
    ]
    yield [settings | {"seed": SECOND} for pair in pairs for settings in pair]
    best = [max(pair, key=lambda settings: recall(settings, SEARCH, SECOND)) for pair in pairs]
    yield [settings | {"seed": seed} for seed in TOLD for settings in best]


def _choices(one: Cell) -> dict[str, list[Settings]]:
    """Return what each objective may be told at, on the first seed."""
    rho = math.log(one.batch) - 1
    fastclip: Settings = {"name": "fastclip", "gamma_decay_epochs": max(1, one.epochs // 2)}
    fixed: Settings = {"temperature_init": 0.07, "learn_temperature": False}
    neuclip: Settings = {"name": "neuclip", "estimator": NETWORK, "gamma": GAMMA}
    ways: list[tuple[str, str, Settings, tuple[str, ...]]] = [
        ("openclip", "learned", {"name": "openclip"}, tuple(CLIPS)),
        ("openclip", "0.07", {"name": "openclip", **fixed}, (CLIP,)),
        ("siglip", "learned", {"name": "siglip"}, tuple(CLIPS)),
        ("fastclip v3", f"rho {rho:.2f}", fastclip | {"rho": rho}, tuple(CLIPS)),
        ("fastclip v3", f"rho {rho + 2:.2f}", fastclip | {"rho": rho + 2}, (CLIP,)),
        (NEUCLIP, "rho auto", neuclip, (CLIP,)),
    ]
    choices: defaultdict[str, list[Settings]] = defaultdict(list)
    for name, temperature, objective, clips in ways:
        for clip in clips:
            for rate in RATES:
                choices[name].append(
                    {
                        "study": "rivals",
                        "name": name,
                        "temperature": temperature,
                        "objective": objective,
                        "clip_name": clip,
                        "clip": CLIPS[clip],
                        "image_px": 32,
                        "data": one.data,
                        "count": one.count,
                        "batch": one.batch,
                        "lr": rate,
                        "seed": SEARCH,
                        "samples": one.count * one.epochs,
                    }
                )
    return choices


def report(folder: Path) -> str:
    """Return a table for each data set and batch: every objective at its best, and NeuCLIP against each."""
    parts: list[str] = []
    for one in CELLS:
        told = _told(one, read(folder / RECORDS))
        if NEUCLIP in told:
            title = f"## {one.data}: n {one.count}, batch {one.batch}, {one.epochs} epochs"
            parts.append(f"{title}\n\n{_table(told)}\n{_differences(told)}")
    return "\n".join(parts)


def _told(one: Cell, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the runs that are told of each objective."""
    here = [
        run
        for run in records
        if (run["settings"]["data"], run["settings"]["batch"]) == (one.data, one.batch)
        and run["settings"]["seed"] in TOLD
    ]
    return {name: runs for (name,), runs in grouped(here, "name").items()}


def _table(told: dict[str, list[Record]]) -> str:
    rows: list[list[str]] = []
    for name, runs in sorted(told.items(), key=lambda item: -_mean(item[1], "recall")):
        settings = runs[0]["settings"]
        is_at_edge = settings["lr"] in (min(RATES), max(RATES))
        rows.append(
            [
                name,
                f"{settings['lr']:g}" + (" (edge)" if is_at_edge else ""),
                settings["clip_name"],
                settings["temperature"],
                str(len(runs)),
                cell(run["recall"] for run in runs),
                cell(run["zero_shot"] for run in runs),
                f"{mean_std(run['curve'][-1][2] for run in runs)[0]:.3f}",
                f"{_mean(runs, 'mean_kl'):.2f}",
                f"{_mean(runs, 'normalizer_mse'):.2f}",
                f"{mean_std(run.get('late_ratio_max', math.nan) for run in runs)[0]:.1f}",
                f"{100 * _mean(runs, 'clipped_share'):.0f} %",
                f"{_mean(runs, 'samples_per_s'):.0f}",
            ]
        )
    header = [
        "objective",
        "rate",
        "limit of the gradient",
        "temperature",
        "seeds",
        "R@1, %",
        "zero-shot, %",
        "temperature at the end",
        "mean KL",
        "normalizer MSE",
        "largest ratio",
        "steps clipped",
        "samples/s",
    ]
    return markdown(header, rows)


def _differences(told: dict[str, list[Record]]) -> str:
    rows: list[list[str]] = []
    own = {run["settings"]["seed"]: run for run in told[NEUCLIP]}
    for name, runs in told.items():
        if name != NEUCLIP:
            pairs = [(own[seed], run) for run in runs if (seed := run["settings"]["seed"]) in own]
            rows.append([f"over {name}", *(_gain(pairs, of) for of in ("recall", "zero_shot"))])
    header = ["NeuCLIP, same seeds", "R@1, points", "zero-shot, points"]
    return markdown(header, rows)


def _gain(pairs: Sequence[tuple[Record, Record]], of: str) -> str:
    gains = [ours[of] - theirs[of] for ours, theirs in pairs]
    if len(gains) < 2:
        return ""
    mean, half = interval(gains)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % interval, by Student's t."""
    mean, std = mean_std(values)
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return mean, quantile * std / math.sqrt(len(values))


def _mean(runs: Sequence[dict[str, Any]], of: str) -> float:
    return mean_std(run[of] for run in runs)[0]
