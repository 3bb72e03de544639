"""Choice among captions: the right one against others that differ in a word, an attribute, an order.

Legend: N images, W weightings.
"""

from itertools import chain

import numpy as np

from neuclip.evaluation.kinds.kind import Columns, Kind, Measured, Scoring, Weights, Why, mean
from neuclip.evaluation.kinds.retrieval import captions_of
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import TarSample
from neuclip.towers.encode import encode_texts


class Choice(Kind):
    """An image against its own captions, of which the first is right.

    Definition: acc1 is the share of images whose first caption scores best, alone: a wrong one that scores the same
    counts as chosen.

    Source: SugarCrepe and ARO; CLIP_benchmark's image_caption_selection, tests/evaluation/test_kinds.py.
    """

    name = dataset_type = "choice"
    suffixes = ("txt",)

    def metrics(self, suite: EvaluationSet) -> list[str]:
        """Return acc1."""
        del suite
        return ["acc1"]

    def wrong(self, sample: TarSample, suite: EvaluationSet) -> Why | None:
        """Refuse a text without two captions, or that is not UTF-8."""
        del suite
        try:
            count = len(captions_of(sample.parts["txt"]))
        except UnicodeDecodeError as error:
            return "bad_text", f"{sample.key}.txt is not UTF-8: {error}"
        if count >= 2:
            return None
        return (
            "no_choice",
            f"{sample.key}.txt has {count} captions, expected the right one and others",
        )

    def texts(self, given: Scoring) -> list[str]:
        """Return all captions."""
        return list(chain.from_iterable(map(captions_of, given.targets("txt"))))

    def columns(self, given: Scoring) -> Columns:
        """Return of each image how many captions it has, and whether the first scores best."""
        counts = np.array([len(captions_of(target)) for target in given.targets("txt")])
        texts = encode_texts(given.towers, self.texts(given), batch_size=given.batch_size)
        owners = np.repeat(np.arange(len(counts)), counts)
        scores = (given.features[owners] * texts).sum(dim=1).double().numpy()
        starts = np.concatenate([[0], counts.cumsum()[:-1]])
        right = scores[starts]
        scores[starts] = -np.inf
        return {"captions": counts, "is_right": right > np.maximum.reduceat(scores, starts)}

    def measure(self, columns: Columns, weights: Weights) -> Measured:
        """Return acc1."""
        return {"acc1": mean(columns["is_right"], weights)}

    def is_right(self, columns: Columns, metric: str) -> np.ndarray | None:
        """Return the images of acc1."""
        return columns["is_right"] if metric == "acc1" else None

    def chance(self, given: Scoring, metric: str) -> float:
        """Return the mean of one over the number of captions."""
        del metric
        return float(np.mean([1 / len(captions_of(target)) for target in given.targets("txt")]))
