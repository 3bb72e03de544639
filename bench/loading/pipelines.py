"""The two loaders, from shards to normalised float tensors and tokens, and their reading alone."""

import argparse
import functools
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import open_clip_train.data
import torch
import webdataset as wds
from open_clip.transform import image_transform
from torch import Tensor

from bench.loading.data import SAMPLES, SAMPLES_PER_SHARD, SHARDS, Data
from neuclip.loading.batches import load_batches
from neuclip.loading.captions import Captions
from neuclip.loading.order import BatchOrder
from neuclip.loading.policies import PerSource
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.views import ImageView, TextView
from neuclip.loading.visits import MAIN, Visit
from neuclip.towers.transforms import training_pixels

IMAGE_PX, BATCH, STREAMS = 224, 128, 4
MEAN, STD = (
    255 * torch.tensor(values)[:, None, None]
    for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
)
NORMALISED = torch.empty(BATCH, 3, IMAGE_PX, IMAGE_PX)
"""Memory that is used again for each batch, as CUDA's allocator does."""
tokenize = open_clip.get_tokenizer("ViT-B-32")
ALT = TextView(PerSource(), lambda texts, *_: tokenize(texts))

# open_clip 3.3 was made for webdataset up to 0.2.86; later ones end each tar with a record that it does not know.
open_clip_train.data.tar_file_expander = functools.partial(
    wds.tariterators.tar_file_expander, eof_value=None
)


def samples_of(data: Data, kind: type[ShardSamples] = ShardSamples) -> ShardSamples:
    return kind(
        ShardFiles(data.shard_uri, cache_gb=1),
        data.table,
        images=[ImageView(functools.partial(training_pixels, image_px=IMAGE_PX))],
        texts=[ALT],
        captions=Captions(data.index_uri, cache_gb=1),
        seed=0,
    )


def samples_with_captions_in_the_tar(data: Data) -> ShardSamples:
    """Return the samples as they were read before there were side files: each record holds its captions."""
    return samples_of(data, _FromTar)


class _FromTar(ShardSamples):
    """Takes captions from the record that is read with each image."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.captions = _InRecord()  # type: ignore[assignment]

    def _read(self, sample_ids: Sequence[int]) -> Iterator[Any]:
        for found in super()._read(sample_ids):
            self.captions.record = found[-1]
            yield found


class _InRecord:
    record: dict[str, Any]

    def texts(self, source: str, shard: str, row: int) -> list[str]:
        del shard, row
        return self.record["captions"][source]

    def close_all_but(self, shards: Sequence[str]) -> None:
        """Nothing is open."""


def ours(samples: ShardSamples, *, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Load an epoch; normalise as `Encoders` does on the device."""
    order = _order()
    settings = {"rank": 0, "size": 1, "workers": workers, "pin_memory": False}
    for batch in load_batches(samples, order, first=0, last=SAMPLES // BATCH, **settings):
        yield (
            torch.mul(batch.images[MAIN], 1 / STD, out=NORMALISED).sub_(MEAN / STD),
            batch.texts[MAIN],
        )


def open_clips(folder: Path, *, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Load an epoch by open_clip's own pipeline, its transform and tokenizer."""
    arguments = argparse.Namespace(
        train_data=str(folder / f"shard-{{000000..{SHARDS - 1:06d}}}.tar"),
        train_num_samples=SAMPLES,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=BATCH,
        world_size=1,
        workers=workers,
        seed=0,
    )
    transform = image_transform(IMAGE_PX, is_train=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_clip_train.data.get_wds_dataset(
            arguments, transform, is_train=True, tokenizer=tokenize
        )
        yield from data.dataloader


def read_ours(samples: ShardSamples) -> int:
    """Read an epoch in training order without decoding; return its samples."""
    order, count = _order(), 0
    for step in range(SAMPLES // BATCH):
        ids = [sample_id for _, sample_id in order.batch(step)]
        count += sum(1 for _ in samples._read(ids))
    return count


def read_captions(samples: ShardSamples) -> int:
    """Read images and captions of an epoch in training order; return its samples."""
    order, count = _order(), 0
    for step in range(SAMPLES // BATCH):
        ids = [sample_id for _, sample_id in order.batch(step)]
        for place, shard, row, *_ in samples._read(ids):
            count += bool(ALT.choose(samples.captions, shard, row, Visit(0, 0, ids[place])))
    return count


def read_webdataset(folder: Path) -> int:
    """Read an epoch by a webdataset iterator without decoding, shuffled as open_clip does; return its samples."""
    shards = sorted(map(str, folder.glob("shard-*.tar")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = wds.WebDataset(shards, shardshuffle=False, empty_check=False)
        return sum(1 for sample in reader.shuffle(5000, initial=1000) if json.loads(sample["json"]))


def _order() -> BatchOrder:
    sizes = np.full(SHARDS, SAMPLES_PER_SHARD, dtype=np.int64)
    return BatchOrder(sizes, seed=0, streams=STREAMS, global_batch=BATCH)
