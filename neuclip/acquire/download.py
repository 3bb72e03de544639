"""Fetch partitions with img2dataset, which sees the web through the guard only, and hand over each finished shard."""

import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.fetch_log import FetchLog, FetchRecord
from neuclip.egress.guard import guarded_url, running_guard
from neuclip.foundation.children import Child, largest_member, run_child
from neuclip.foundation.errors import ChildError
from neuclip.table.plan import Partition

_START_UP_S = 120.0
"""img2dataset imports for 15 s before its first byte, on a busy machine for longer."""
_SHARD_DIGITS = 8
_LOOK_AT_MEMORY_EVERY = 5
_INPUT_SCHEMA = pa.schema([("uid", pa.string()), ("url", pa.string())])

OnFetched = Callable[[Counter[str | None]], None]

_ENVIRONMENT = {"WANDB_MODE": "disabled"}  # it would call home


@dataclass(frozen=True)
class Shard:
    """The three files that img2dataset writes for one partition; the stats file is written last."""

    tar: Path
    parquet: Path
    stats_path: Path
    fetch_records: Mapping[str, FetchRecord] = field(
        default_factory=dict[str, FetchRecord], compare=False
    )
    """What the guard wrote down of each row it was asked for, by uid."""

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
    on_fetched: OnFetched,
) -> None:
    """Fetch partitions that have rows to fetch: the k-th becomes img2dataset's shard k.

    Args:
        on_shard: takes each finished shard; an exception from it ends the download.
        on_fetched: takes, every second, the rows of unfinished shards that the guard is done with, by reason.
    Raises: ChildError: if img2dataset or the guard fails, stalls for stall_s, takes longer than longest_s or more
        memory than worker_memory_mib, or leaves a shard unfinished.
    """
    shards = {shard_of(folder / "raw", k): partition for k, partition in enumerate(partitions)}
    job_path = _write_job(partitions, config, folder)
    journal = folder / "fetch_log.jsonl"
    # What its workers leave in the temporary folder when they are ended goes with this one. Its path is short,
    # since multiprocessing puts sockets there.
    with (
        tempfile.TemporaryDirectory(prefix="neuclip-") as temporary,
        running_guard(config.egress, journal, log_path=log_path.with_suffix(".guard.log")) as guard,
    ):
        proxies = dict.fromkeys(
            ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), guard.proxy_url
        )
        watch = Watch(
            shards,
            config,
            fetch_log=FetchLog(journal),
            guard=guard.child,
            on_shard=on_shard,
            on_fetched=on_fetched,
        )
        run_child(
            [sys.executable, "-m", "neuclip.acquire.img2dataset_child", str(job_path)],
            name="img2dataset",
            log_path=log_path,
            environment={
                **_ENVIRONMENT,
                **proxies,
                "no_proxy": "",
                "NO_PROXY": "",
                "OPENCV_IO_MAX_IMAGE_PIXELS": str(config.egress.max_image_pixels),
                "TMPDIR": temporary,
            },
            on_start=watch.begin,
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
    """Looks at a running download: hands over finished shards, counts, and ends what stalls or grows too large."""

    def __init__(
        self,
        shards: dict[Shard, Partition],
        config: AcquireConfig,
        *,
        fetch_log: FetchLog,
        guard: Child | None,
        on_shard: Callable[[Partition, Shard], None],
        on_fetched: OnFetched,
        start_up_s: float = _START_UP_S,
    ) -> None:
        self.unfinished = dict(shards)
        self._config, self._fetch_log, self._guard = config, fetch_log, guard
        self._on_shard, self._on_fetched = on_shard, on_fetched
        self._groups = [guard.pid] if guard is not None else []
        self._seen = (0, 0)
        self._ticks = count()
        now = time.monotonic()
        self._patience_ends = now + config.stall_s + start_up_s
        self._ends = now + (config.longest_s or float("inf"))

    def begin(self, child: Child) -> None:
        """Watch the memory of a child's process group too."""
        self._groups.append(child.pid)

    def tick(self) -> None:
        """Look once.

        Raises: ChildError: if nothing was fetched or written for stall_s, or another limit is passed.
        """
        finished = [shard for shard in self.unfinished if shard.stats() is not None]
        # After the shards: the records of a finished one are all there by now.
        waiting = self._fetch_log.read()
        for shard in finished:
            partition = self.unfinished.pop(shard)
            uids = (row["uid"] for row in partition.rows() if row["reason"] is None)
            self._on_shard(partition, replace(shard, fetch_records=self._fetch_log.take(uids)))
        seen = (waiting, sum(shard.size_bytes() for shard in self.unfinished))
        if finished or seen != self._seen:
            self._seen = seen
            self._patience_ends = time.monotonic() + self._config.stall_s
            self._on_fetched(self._fetch_log.reasons())
        self._check_limits()

    def _check_limits(self) -> None:
        left = f"with {len(self.unfinished)} partitions unfinished, so it was ended"
        again = "run again (finished partitions are kept)"
        if time.monotonic() > self._patience_ends:
            raise ChildError(
                f"img2dataset fetched and wrote nothing for {self._config.stall_s:g} s {left}: one of its "
                f"processes died, or every server hangs; {again}, or raise acquire.stall_s"
            )
        if time.monotonic() > self._ends:
            raise ChildError(
                f"the download took longer than acquire.longest_s={self._config.longest_s} {left}; {again}"
            )
        if self._guard is not None and not self._guard.is_running:
            self._guard.check()
            raise ChildError(f"the egress guard ended by itself {left}; {again}")
        if next(self._ticks) % _LOOK_AT_MEMORY_EVERY == 0:
            pid, memory_mib = largest_member(self._groups)
            if memory_mib > self._config.worker_memory_mib:
                raise ChildError(
                    f"process {pid} of the download grew to {memory_mib:.0f} MiB, more than "
                    f"acquire.worker_memory_mib={self._config.worker_memory_mib} allows, {left}; lower "
                    f"acquire.egress.max_image_pixels or acquire.threads, or raise the limit; {again}"
                )


def _write_job(partitions: Sequence[Partition], config: AcquireConfig, folder: Path) -> Path:
    """Write one input file a partition, uid and the guard's URL only, and img2dataset's arguments.

    Captions stay here: img2dataset loses samples without a word over some column types.
    """
    inputs = folder / "input"
    inputs.mkdir(parents=True)
    for number, partition in enumerate(partitions):
        to_fetch = _spread([row for row in partition.rows() if row["reason"] is None])
        asked = [
            {"uid": row["uid"], "url": guarded_url(row["uid"], row["url"], row["sha256"])}
            for row in to_fetch
        ]
        table = pa.Table.from_pylist(asked, schema=_INPUT_SCHEMA)
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
        "disallowed_header_directives": [],  # the guard obeys them, and hands none on
        "timeout": config.stall_s,  # the guard ends what takes too long, and waits its turn at busy hosts
        "retries": 0,  # the guard knows what is worth another try
        "processes_count": min(config.processes, len(partitions)),
        "thread_count": config.threads,
    }
    job_path = folder / "job.json"
    job_path.write_text(json.dumps(arguments, indent=1), encoding="utf-8")
    return job_path


def _spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the rows of one host far apart, so that waiting for it holds up few threads at a time."""
    seen: defaultdict[str, int] = defaultdict(int)
    places: list[tuple[int, int]] = []
    for place, row in enumerate(rows):
        host = row["url"].partition("://")[2].partition("/")[0]
        places.append((seen[host], place))
        seen[host] += 1
    return [rows[place] for _, place in sorted(places)]
