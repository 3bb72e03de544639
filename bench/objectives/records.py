"""Results of runs: a line of JSON each, found again by the settings they came from."""

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Settings = dict[str, Any]
Record = dict[str, Any]
SEEDS = (0, 1, 2)


def key_of(settings: Settings) -> str:
    """Return what tells these settings from all others."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path) -> list[Record]:
    """Return the records of a file, in the order in which they were written; none if it is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_missing(
    grid: Iterable[Settings],
    run: Callable[[Settings], Record],
    path: Path,
    *,
    share: str = "0/1",
    seconds: float = math.inf,
) -> None:
    """Run what the file does not hold yet, and add each result to it at once.

    Args:
        share: "i/k" takes every k-th run from the i-th, so that k processes can share a grid.
        seconds: after so many no further run begins; the next call goes on.
    """
    first, step = (int(number) for number in share.split("/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    mine, began = list(grid)[first::step], time.monotonic()
    if not mine:
        print("nothing is left to run")
    for number, settings in enumerate(mine):
        key = key_of(settings)
        if any(record["key"] == key for record in read(path)):
            continue
        if time.monotonic() - began > seconds:
            print(f"{number} of {len(mine)} runs are there; the next call goes on", flush=True)
            return
        record = {"key": key, "settings": settings, **run(settings)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{number + 1}/{len(mine)} {label(settings)}: {summary(record)}", flush=True)


def label(settings: Settings) -> str:
    """Say in a few words which run it is."""
    parts = ("study", "data", "count", "name", "batch", "lr", "seed")
    return " ".join(f"{part} {settings[part]}" for part in parts if part in settings)


def summary(record: Record) -> str:
    """Say in a few words what came out."""
    numbers = {name: record[name] for name in ("recall", "zero_shot", "samples_per_s")}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def grouped(records: Iterable[Record], *fields: str) -> Mapping[tuple[Any, ...], list[Record]]:
    """Return the records by their values of some settings."""
    groups: defaultdict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[tuple(record["settings"][field] for field in fields)].append(record)
    return groups


def mean_std(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation of a sample; the latter is nan for one value."""
    kept = list(values)
    mean = sum(kept) / len(kept)
    if len(kept) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in kept) / (len(kept) - 1))


def cell(values: Iterable[float], digits: int = 1) -> str:
    """Write values as mean ± standard deviation."""
    mean, std = mean_std(values)
    return f"{mean:.{digits}f}" if math.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    """Write a table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
