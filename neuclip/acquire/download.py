"""Fetch partitions with img2dataset in one child process, and hand over each shard as it is finished."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.partitions import Partition
from neuclip.acquire.tar_count import TarCounter
from neuclip.foundation.children import run_child
from neuclip.foundation.errors import ChildError

_START_UP_S = 120.0
"""img2dataset imports for 15 s before its first byte, on a busy machine for longer."""
_SHARD_DIGITS = 8
_INPUT_SCHEMA = pa.schema([("uid", pa.string()), ("url", pa.string())])

_ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",  # each of these would otherwise call home
    "WANDB_MODE": "disabled",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Shard:
    """The three files that img2dataset writes for one partition; the stats file is written last."""

    tar: Path
    parquet: Path
    stats_path: Path

    def stats(self) -> dict[str, Any] | None:
        """Return the shard's counts, None while it is not finished."""
        try:
            return json.loads(self.stats_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def size_bytes(self) -> int:
        """Return the bytes written so far."""
        return sum(path.stat().st_size for path in (self.tar, self.parquet) if path.exists())


def shard_of(folder: Path, number: int) -> Shard:
    """Return where img2dataset puts shard `number`."""
    stem = f"{number:0{_SHARD_DIGITS}d}"
    return Shard(folder / f"{stem}.tar", folder / f"{stem}.parquet", folder / f"{stem}_stats.json")


def download(
    partitions: Sequence[Partition],
    config: AcquireConfig,
    *,
    folder: Path,
    log_path: Path,
    on_shard: Callable[[Partition, Shard], None],
    on_images: Callable[[int], None],
) -> None:
    """Fetch partitions that have rows to fetch: the k-th becomes img2dataset's shard k.

    Args:
        on_shard: takes each finished shard; an exception from it ends the download.
        on_images: takes, every second, the number of images in the shards that are not finished.
    Raises: ChildError: if img2dataset fails, stalls for stall_s, or leaves a shard unfinished.
    """
    shards = {shard_of(folder / "raw", k): partition for k, partition in enumerate(partitions)}
    job_path = _write_job(partitions, config, folder)
    watch = Watch(shards, stall_s=config.stall_s, on_shard=on_shard, on_images=on_images)
    # What its workers leave in the temporary folder when they are ended goes with this one. Its path is short,
    # since multiprocessing puts sockets there.
    with tempfile.TemporaryDirectory(prefix="neuclip-") as temporary:
        run_child(
            [sys.executable, "-m", "neuclip.acquire.img2dataset_child", str(job_path)],
            name="img2dataset",
            log_path=log_path,
            environment={
                **_ENVIRONMENT,
                "OPENCV_IO_MAX_IMAGE_PIXELS": str(
                    config.max_image_pixels
                ),  # looked at before decoding
                "TMPDIR": temporary,
            },
            on_tick=watch.tick,
        )
    watch.tick()
    if watch.unfinished:
        names = ", ".join(p.key for p in list(watch.unfinished.values())[:3])
        raise ChildError(
            f"img2dataset ended without finishing {len(watch.unfinished)} of {len(partitions)} partitions "
            f"({names}); its log {log_path} says why; the others are kept, run again"
        )


class Watch:
    """Looks at the shards of a running download: hands over the finished, counts images, ends a stall."""

    def __init__(
        self,
        shards: dict[Shard, Partition],
        *,
        stall_s: float,
        on_shard: Callable[[Partition, Shard], None],
        on_images: Callable[[int], None],
        start_up_s: float = _START_UP_S,
    ) -> None:
        self.unfinished = dict(shards)
        self._counters = {shard: TarCounter(shard.tar) for shard in shards}
        self._stall_s = stall_s
        self._on_shard = on_shard
        self._on_images = on_images
        self._written = 0
        self._patience_ends = time.monotonic() + stall_s + start_up_s

    def tick(self) -> None:
        """Look once.

        Raises: ChildError: if no shard has grown or been finished for stall_s.
        """
        finished = [shard for shard in self.unfinished if shard.stats() is not None]
        for shard in finished:
            self._on_shard(self.unfinished.pop(shard), shard)
        written = sum(shard.size_bytes() for shard in self.unfinished)
        if finished or written != self._written:
            self._written = written
            self._patience_ends = time.monotonic() + self._stall_s
            self._on_images(sum(self._counters[shard].count() for shard in self.unfinished))
        elif time.monotonic() > self._patience_ends:
            raise ChildError(
                f"img2dataset wrote nothing for {self._stall_s:g} s with {len(self.unfinished)} partitions "
                "unfinished, so it was ended: one of its processes died, or every server hangs; "
                "run again (finished partitions are kept), or raise acquire.stall_s"
            )


def _write_job(partitions: Sequence[Partition], config: AcquireConfig, folder: Path) -> Path:
    """Write one input file a partition, uid and url only, and img2dataset's arguments.

    Captions stay here: img2dataset loses samples without a word over some column types.
    """
    inputs = folder / "input"
    inputs.mkdir(parents=True)
    for number, partition in enumerate(partitions):
        to_fetch = [row for row in partition.rows() if row["reason"] is None]
        table = pa.Table.from_pylist(to_fetch, schema=_INPUT_SCHEMA)
        pq.write_table(table, inputs / f"{number:0{_SHARD_DIGITS}d}.parquet")
    arguments = {
        "url_list": str(inputs),
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": ["uid"],
        "output_folder": str(folder / "raw"),
        "output_format": "webdataset",
        "number_sample_per_shard": max(partition.num_rows for partition in partitions),
        "oom_shard_count": _SHARD_DIGITS,
        "image_size": config.image_size,
        "resize_mode": config.resize_mode,
        "resize_only_if_bigger": True,
        "encode_format": config.encode_format,
        "encode_quality": config.encode_quality,
        "compute_hash": "sha256",
        "extract_exif": False,  # places and owners of cameras are nothing to train on
        "timeout": config.timeout_s,
        "retries": config.retries,
        "user_agent_token": config.user_agent,
        "processes_count": min(config.processes, len(partitions)),
        "thread_count": config.threads,
    }
    job_path = folder / "job.json"
    job_path.write_text(json.dumps(arguments, indent=1), encoding="utf-8")
    return job_path
