"""`python -m bench.objectives COMMAND`: run what is missing, then write tables and plots."""

import argparse
import functools
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.objectives import (
    captions,
    defaults,
    estimation,
    gpu,
    plots,
    rivals,
    supervision,
    text_encoder,
    tokens,
)
from bench.objectives.records import Settings, read, run_missing
from bench.objectives.training import train

STUDIES = {
    "estimation": (estimation.grid, estimation.RECORDS),
    "sources": (estimation.sources_grid, estimation.SOURCE_RECORDS),
    "defaults": (defaults.grid, defaults.RECORDS),
    "captions": (captions.grid, captions.RECORDS),
    "tokens": (tokens.grid, tokens.RECORDS),
    "supervision": (supervision.grid, supervision.RECORDS),
    "text-encoder": (text_encoder.grid, text_encoder.RECORDS),
    "tuning": (text_encoder.tuning_grid, text_encoder.TUNING_RECORDS),
    "gpu": (gpu.grid, gpu.RECORDS),
    "gpu-tiny": (gpu.tiny_grid, gpu.TINY_RECORDS),
}

OWN_WAY = {
    "tokens": tokens.run,
    "supervision": supervision.run,
    "text-encoder": text_encoder.run,
    "tuning": text_encoder.tune,
}
"""Studies by the product's own trainer."""

ROUNDS = {"rivals": (rivals.grid, rivals.RECORDS)}
"""Studies whose next runs follow from those there are: to be called until nothing is left."""


def main() -> None:
    arguments = _arguments()
    out = arguments.out
    if arguments.command != "tables":
        torch.set_num_threads(1)  # threads that wait for a busy core would be what is measured
        settings, path = _asked(arguments.command, out)
        how = OWN_WAY.get(arguments.command, train)
        run = functools.partial(how, pairs_folder=arguments.pairs)
        run_missing(settings, run, path, share=arguments.share, seconds=arguments.seconds)
    write_reports(out)


def _asked(command: str, out: Path) -> tuple[Iterator[Settings], Path]:
    if command in ROUNDS:
        follow, name = ROUNDS[command]
        return follow(read(out / name)), out / name
    grid, name = STUDIES[command]
    return grid(), out / name


def write_reports(out: Path) -> None:
    """Write the tables and plots of whatever records there are."""
    for name, report in (
        ("estimation", estimation.report),
        ("defaults", defaults.report),
        ("rivals", rivals.report),
        ("captions", captions.report),
        ("tokens", tokens.report),
        ("supervision", supervision.report),
        ("text-encoder", text_encoder.report),
        ("gpu", gpu.report),
    ):
        text = report(out)
        if text:
            (out / f"{name}.md").write_text(text, encoding="utf-8")
    plots.draw_all(out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.objectives", description=__doc__)
    parser.add_argument("command", choices=[*STUDIES, *ROUNDS, "tables"])
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"))
    parser.add_argument(
        "--pairs",
        type=Path,
        default=Path("../shared/data/pairs"),
        help="folder of the real pairs: pairs.parquet and zips/",
    )
    parser.add_argument(
        "--share", default="0/1", help="i/k: take every k-th run from the i-th, for k processes"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="begin no further run after so many; the next call goes on",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
