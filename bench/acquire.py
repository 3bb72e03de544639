"""Acquire through the guard against plain img2dataset: same server, pictures, settings; images/s by the clock and CPU.

`python -m bench.acquire [ROWS]`; `python -m bench.acquire serve FOLDER` is the server of both, a process of its own.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.run import run_acquire
from neuclip.demo.server import serving
from neuclip.foundation.ids import uid_of
from neuclip.foundation.progress import silent
from neuclip.stages.workspace import Workspace

ROWS, PARTITION_ROWS, PICTURES = 6_000, 2_000, 300
REPEATS = 3
SETTINGS = {
    "image_size": 256,
    "resize_mode": "keep_ratio",
    "encode_format": "jpg",
    "encode_quality": 95,
}
PROCESSES, THREADS = 2, 32


def main(rows: int = ROWS) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "web")
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.acquire", "serve", str(folder / "web")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            table = make_table(folder / "table.parquet", url, rows)
            pairs = []
            for turn in range(REPEATS):
                base = folder / str(turn)
                pairs.append((plain(table, base / "plain", rows), ours(table, base / "ours", rows)))
                tell(pairs[-1], rows)
        finally:
            server.terminate()
            server.wait()
        for what, place in (("by the clock", 0), ("of processor time", 1)):
            ratios = sorted(theirs[place] / guarded[place] for theirs, guarded in pairs)
            print(
                f"acquire: guarded against plain, images a second {what}: median {ratios[len(ratios) // 2]:.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}) over {rows} images"
            )


def tell(pair, rows: int) -> None:
    words = [
        f"{name} {rows / wall:.0f} images/s by the clock, {1000 * cpu / rows:.2f} ms of processor an image"
        for name, (wall, cpu) in zip(("plain img2dataset", "guarded"), pair, strict=True)
    ]
    print(
        f"acquire: {'; '.join(words)} (floor: decode, resize and encode alone {codec_ms():.2f} ms)"
    )


def make_pictures(folder: Path) -> None:
    """Draw soft noise, which JPEG packs like a photograph: 800x600 in about 90 KB."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 255, (75, 100, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize((800, 600), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (soft + rng.integers(-8, 8, soft.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=85)


def make_table(path: Path, url: str, rows: int) -> Path:
    urls = [f"{url}/{number % PICTURES}.jpg?{number}" for number in range(rows)]
    captions = [f"picture {number}" for number in range(rows)]
    uids = [uid_of(*pair) for pair in zip(urls, captions, strict=True)]
    pq.write_table(pa.table({"uid": uids, "url": urls, "caption": captions}), path)
    return path


def plain(table: Path, folder: Path, rows: int) -> tuple[float, float]:
    folder.mkdir(parents=True)
    job = {
        "url_list": str(table),
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": ["uid"],
        "output_folder": str(folder / "raw"),
        "output_format": "webdataset",
        "number_sample_per_shard": PARTITION_ROWS,
        "oom_shard_count": 8,
        **SETTINGS,
        "resize_only_if_bigger": True,
        "compute_hash": "sha256",
        "extract_exif": False,
        "processes_count": PROCESSES,
        "thread_count": THREADS,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    command = [sys.executable, "-m", "neuclip.acquire.img2dataset_child", str(path)]
    spent = timed(lambda: run_quietly(command, folder / "log"))
    counted = [json.loads(p.read_text())["successes"] for p in folder.glob("raw/*_stats.json")]
    assert sum(counted) == rows, counted
    return spent


def run_quietly(command: list[str], log: Path) -> None:
    with log.open("w") as out:
        environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        subprocess.run(
            command, check=True, stdout=out, stderr=out, env=environment, start_new_session=True
        )


def ours(table: Path, folder: Path, rows: int) -> tuple[float, float]:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    config = AcquireConfig(
        table=str(table),
        partition_rows=PARTITION_ROWS,
        processes=PROCESSES,
        threads=THREADS,
        egress={
            "allow_hosts": ["127.0.0.1"],
            "host_concurrency": PROCESSES * THREADS,
            "host_requests_per_s": 0,
        },
        **SETTINGS,
    )
    workspace = Workspace(uri="", output=folder / "output", scratch=folder / "scratch")
    outcomes = []

    def work() -> None:
        root = str(folder / "root")
        outcomes.append(
            run_acquire(config, root=root, workspace=workspace, progress=silent, force=False)
        )

    spent = timed(work)
    assert outcomes[0].ledger.out == rows
    return spent


def timed(work) -> tuple[float, float]:
    """Return seconds by the clock, and of processors: ours and of all children that have ended."""
    clock, times = time.perf_counter(), os.times()
    work()
    spent = sum(os.times()[:4]) - sum(times[:4])
    return time.perf_counter() - clock, spent


def codec_ms() -> float:
    """Time what no way of doing it leaves out: OpenCV's decode, resize and encode of one picture on one core."""
    import cv2

    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (75, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 600), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    packed = np.frombuffer(buffer.getvalue(), np.uint8)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        pixels = cv2.imdecode(packed, cv2.IMREAD_UNCHANGED)
        small = cv2.resize(pixels, (341, 256), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", small, [int(cv2.IMWRITE_JPEG_QUALITY), 95])
        seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds)


def serve(folder: str) -> None:
    with serving(Path(folder), 0) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        main(*map(int, sys.argv[1:2]))
