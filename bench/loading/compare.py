"""Ratios of our loader to open_clip's, and of a cold cache before S3 to a local folder."""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import s3fs  # noqa: TID251  # to forget the connections of before
import torch

from bench.loading import pipelines
from bench.loading.data import PART, SAMPLES, commit_shards, photographs
from neuclip.acquired.images import decode_pixels
from neuclip.foundation.randomness import generator
from neuclip.towers.transforms import training_pixels

sys.path.append(str(Path(__file__).parents[2] / "tests"))  # its S3 server

from servers.s3 import KEYS, make_bucket, s3_server

REPEATS, WORKERS_OF_REMOTE = 3, 1


def main() -> None:
    torch.set_num_threads(1)
    contents = photographs()
    with tempfile.TemporaryDirectory() as folder:
        data = commit_shards(folder, contents)
        samples = pipelines.samples_of(data)
        shards = Path(data.shard_uri).parent / PART
        _tell_reading(samples, shards, contents)
        _tell_captions(samples, pipelines.samples_with_captions_in_the_tar(data))
        _tell_loading(samples, shards, contents)
        _tell_remote(samples, contents)


def _tell_reading(samples: pipelines.ShardSamples, folder: Path, contents: list[bytes]) -> None:
    ours, theirs = _rates(
        lambda: pipelines.read_ours(samples), lambda: pipelines.read_webdataset(folder)
    )
    size = sum(map(len, contents)) / SAMPLES
    print(
        f"reading without decode, {size / 1024:.0f} KiB a sample: ours {_told(ours)} samples/s a core "
        f"({statistics.median(ours) * size / 1e9:.1f} GB/s), webdataset {_told(theirs)}, "
        f"median ratio {_ratio(ours, theirs):.1f}"
    )


def _tell_captions(side: pipelines.ShardSamples, in_tar: pipelines.ShardSamples) -> None:
    """Tell what captions in side files cost against captions in the records of the tars, all else the same."""
    side_loads, tar_loads = _rates(
        lambda: _count(pipelines.ours(side, workers=0)),
        lambda: _count(pipelines.ours(in_tar, workers=0)),
    )
    side_reads, tar_reads = _rates(
        lambda: pipelines.read_captions(side), lambda: pipelines.read_captions(in_tar)
    )
    print(
        f"captions from side files against captions in the tars: loading {_told(side_loads)} and {_told(tar_loads)} "
        f"samples/s a core, median ratio {_ratio(side_loads, tar_loads):.3f}; reading without decode or tokens "
        f"{_told(side_reads)} and {_told(tar_reads)}, median ratio {_ratio(side_reads, tar_reads):.2f}"
    )


def _tell_loading(samples: pipelines.ShardSamples, folder: Path, contents: list[bytes]) -> None:
    ours, theirs = _rates(
        lambda: _count(pipelines.ours(samples, workers=0)),
        lambda: _count(pipelines.open_clips(folder, workers=0)),
    )
    decode, pixels, words = _rates(
        lambda: sum(1 for content in contents if decode_pixels(content) is not None),
        lambda: sum(1 for number, content in enumerate(contents) if _pixels(content, number)),
        lambda: len(
            pipelines.tokenize([f"a photo of product {n} on a shelf" for n in range(SAMPLES)])
        ),
    )
    print(
        f"loading to normalised tensors of {pipelines.IMAGE_PX} px and tokens, no workers: ours {_told(ours)} "
        f"samples/s a core, open_clip {_told(theirs)}, median ratio {_ratio(ours, theirs):.2f}; "
        f"floor: decode alone {_told(decode)}, with crop and resize {_told(pixels)}, tokens alone {_told(words)}"
    )


def _tell_remote(samples: pipelines.ShardSamples, contents: list[bytes]) -> None:
    def local() -> int:
        return _count(pipelines.ours(samples, workers=WORKERS_OF_REMOTE))

    with _bucket() as (root, cache):
        there = pipelines.samples_of(commit_shards(root, contents))

        def remote() -> int:
            shutil.rmtree(cache, ignore_errors=True)
            return _count(pipelines.ours(there, workers=WORKERS_OF_REMOTE))

        ours, theirs = _rates(remote, local, clock=time.perf_counter)
    print(
        f"loading with {WORKERS_OF_REMOTE} worker by the clock: from S3 with a cold cache {_told(ours)} samples/s, "
        f"from a folder {_told(theirs)}, median ratio {_ratio(ours, theirs):.2f}"
    )


def _rates(
    *works: Callable[[], int], clock: Callable[[], float] = time.process_time
) -> list[list[float]]:
    """Return samples/s of each work, repeated in turns so that all meet the same neighbours on the machine.

    By default a second is one of this process's processor time, which others cannot take away.
    """
    rates: list[list[float]] = [[] for _ in works]
    for repeat in range(REPEATS + 1):
        for work, found in zip(works, rates, strict=True):
            start = clock()
            count = work()
            if repeat:  # the first fills caches
                found.append(count / (clock() - start))
    return rates


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _told(rates: list[float]) -> str:
    return f"{statistics.median(rates):.0f} ({min(rates):.0f}..{max(rates):.0f})"


def _count(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> int:
    return sum(len(images) for images, _ in batches)


def _pixels(content: bytes, number: int) -> bool:
    draw = generator(0, sample_id=number)
    return len(training_pixels(content, draw, image_px=pipelines.IMAGE_PX)) == 3


@contextmanager
def _bucket() -> Iterator[tuple[str, Path]]:
    """Give an empty bucket of a real S3 server in a process of its own, and the cache before it."""
    with s3_server() as url, tempfile.TemporaryDirectory() as cache:
        environment = {**KEYS, "AWS_ENDPOINT_URL": url, "NEUCLIP_CACHE": cache}
        os.environ.update(environment)
        s3fs.S3FileSystem.clear_instance_cache()
        yield make_bucket(environment), Path(cache)
