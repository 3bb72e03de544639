"""Retrieval of captions by images and of images by captions.

Legend: N images, T captions, W weightings.
"""

from functools import partial
from itertools import chain

import numpy as np
import torch

from neuclip.evaluation.kinds.kind import (
    Columns,
    Kind,
    Measured,
    Scoring,
    Weights,
    Why,
    mean,
    share,
)
from neuclip.foundation.text import split_lines
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample
from neuclip.towers.encode import encode_texts
from neuclip.towers.recall import chance_at, is_found_at

RECALL_KS = (1, 5, 10)


class Retrieval(Kind):
    """An image among all captions, and a caption among all images; an image owns the captions of its sample.

    Definition: image_to_text_recall_at_k is the share of images with a caption of their own among the k that score
    best, text_to_image_recall_at_k that of captions with their image among the k best, mean_recall_at_k the mean of
    both. Weighted, an image takes its captions along; what is looked through stays the whole set.

    Source: CLIP_benchmark; tests/towers/test_recall.py, tests/evaluation/test_kinds.py.
    """

    name = dataset_type = "retrieval"
    suffixes = ("txt",)

    def metrics(self, suite: EvaluationSet) -> list[str]:
        """Return recall at 1, 5 and 10, both ways and their mean."""
        del suite
        ways = ("mean", "image_to_text", "text_to_image")
        return [f"{way}_recall_at_{k}" for way in ways for k in RECALL_KS]

    def wrong(self, sample: TarSample, suite: EvaluationSet) -> Why | None:
        """Refuse a text without a caption, or that is not UTF-8."""
        del suite
        try:
            is_there = bool(captions_of(sample.parts["txt"]))
        except UnicodeDecodeError as error:
            return "bad_text", f"{sample.key}.txt is not UTF-8: {error}"
        return None if is_there else ("no_txt", f"{sample.key}.txt has no caption")

    def texts(self, given: Scoring) -> list[str]:
        """Return all captions."""
        return list(chain.from_iterable(map(captions_of, given.targets("txt"))))

    def columns(self, given: Scoring) -> Columns:
        """Return of each image how many captions it has, whether one of them is found, and how many find it."""
        captions = [captions_of(target) for target in given.targets("txt")]
        counts = np.array([len(own) for own in captions])
        images = torch.arange(len(captions))
        owners = images.repeat_interleave(torch.from_numpy(counts))
        texts = encode_texts(
            given.towers, list(chain.from_iterable(captions)), batch_size=given.batch_size
        )
        found = is_found_at(
            given.features, texts, query_groups=images, key_groups=owners, ks=RECALL_KS
        )
        finds = is_found_at(
            texts, given.features, query_groups=owners, key_groups=images, ks=RECALL_KS
        )
        by_image = partial(np.bincount, owners.numpy(), minlength=len(counts))
        return {
            "captions": counts,
            **{f"is_found_at_{k}": found[k].numpy() for k in RECALL_KS},
            **{f"captions_that_find_at_{k}": by_image(finds[k].numpy()) for k in RECALL_KS},
        }

    def measure(self, columns: Columns, weights: Weights) -> Measured:
        """Return recall at 1, 5 and 10, both ways and their mean."""
        measured: Measured = {}
        captions = weights @ columns["captions"].astype(np.float64)
        for k in RECALL_KS:
            to_text = mean(columns[f"is_found_at_{k}"], weights)
            to_image = share(weights @ columns[f"captions_that_find_at_{k}"], captions)
            measured[f"image_to_text_recall_at_{k}"] = to_text
            measured[f"text_to_image_recall_at_{k}"] = to_image
            measured[f"mean_recall_at_{k}"] = (to_text + to_image) / 2
        return measured

    def is_right(self, columns: Columns, metric: str) -> np.ndarray | None:
        """Return the images of recall from image to text; of two captions of an image one may be found."""
        return columns.get(metric.replace("image_to_text_recall", "is_found"))

    def chance(self, given: Scoring, metric: str) -> float:
        """Return the recall of an order at random."""
        captions = [len(captions_of(target)) for target in given.targets("txt")]
        images = torch.arange(len(captions))
        texts = images.repeat_interleave(torch.tensor(captions))
        way, _, k = metric.rpartition("_recall_at_")
        chances = {
            "image_to_text": chance_at(images, texts, k=int(k)),
            "text_to_image": chance_at(texts, images, k=int(k)),
        }
        return chances.get(way, sum(chances.values()) / 2)


def captions_of(target: bytes) -> list[str]:
    """Return the captions in a text member, one a line; blank lines are none.

    Raises: UnicodeDecodeError: if it is not UTF-8.
    """
    return [line.strip() for line in split_lines(target.decode("utf-8")) if line.strip()]
