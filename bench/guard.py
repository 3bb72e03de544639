"""The guard's reading of pictures: one process against two, and 500 pictures with and without 50 others.

The others are hostile, or of the same sizes and dull: what those cost is the floor, since bytes have to be fetched,
hashed and handed to a judge before they can be refused.

`python -m bench.guard [REPEATS]`; `python -m bench.guard serve` is the server, a process of its own.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from neuclip.egress.config import EgressConfig
from neuclip.egress.judges import Judges
from tests.egress.crowd import among, dull, good, hostile, serving, visit

REPEATS = 5
JUDGED, ASKED_AT_A_TIME = 4_000, 64


def main(repeats: int = REPEATS) -> None:
    upright, turned = good()["/good/1.jpg"], good()["/good/0.jpg"]
    for name, body, number in (("upright", upright, JUDGED), ("turned", turned, JUDGED // 20)):
        rates = [
            [asyncio.run(judged(body, number, quick)) for quick in (1, 2)] for _ in range(repeats)
        ]
        ratios = sorted(two / one for (one, _), (two, _) in rates)
        one, spent = max(rate[0] for rate in rates)
        print(
            f"guard: {name} JPEG of {len(body) // 1000} kB read by one process {one:.0f}/s ({1e6 * spent:.0f} us of "
            f"the guard's own time each); two against one: median {ratios[len(ratios) // 2]:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    crowds = {"dull": among(dull()), "hostile": among(hostile())}
    ratios: dict[str, list[float]] = {name: [] for name in crowds}
    with tempfile.TemporaryDirectory() as name, server() as url:
        for turn in range(repeats):
            alone = visit(among(()), url, Path(name) / f"{turn}-alone")
            for others, paths in crowds.items():
                met = visit(paths, url, Path(name) / f"{turn}-{others}")
                assert all(met.statuses[path] == alone.statuses[path] == 200 for path in good())
                ratios[others].append(met.good_s / alone.good_s)
                print(
                    f"guard: 500 good ones in {alone.good_s:.2f} s, among 50 {others} ones {met.good_s:.2f} s"
                )
    for others, found in ratios.items():
        found.sort()
        print(
            f"guard: time of 500 good ones among 50 {others} ones against alone: median "
            f"{found[len(found) // 2]:.2f} ({found[0]:.2f} to {found[-1]:.2f})"
        )


@contextmanager
def server() -> Generator[str]:
    command = [sys.executable, "-m", "bench.guard", "serve"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as child:
        yield child.stdout.readline().strip()
        child.stdin.close()


def serve() -> None:
    with serving() as url:
        print(url, flush=True)
        sys.stdin.read()


async def judged(body: bytes, number: int, quick: int) -> tuple[float, float]:
    """Return pictures a second that so many processes read, and the asking process's own seconds for each."""
    judges = Judges(EgressConfig(), quick)
    await judges.started()
    left = iter(range(number))

    async def ask() -> None:
        for _ in left:
            await judges.picture(body)

    began, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask() for _ in range(ASKED_AT_A_TIME)))
    rate = number / (time.perf_counter() - began)
    spent = (time.process_time() - spent) / number
    await judges.close()
    return rate, spent


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve()
    else:
        main(*map(int, sys.argv[1:2]))
