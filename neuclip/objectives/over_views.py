"""An objective over several pairs of views of the same samples."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from neuclip.objectives.encoded import Encoded
from neuclip.objectives.objective import Objective, ObjectiveResult

Pair = tuple[str, str]
"""A view of images and a view of texts."""


def over_views(objective: Objective, encoded: Encoded, pairs: Sequence[Pair]) -> ObjectiveResult:
    """Return the objective's loss, the mean over pairs of views; all else is of the first pair.

    Its state learns from the first pair, once for each sample and step: queues and prototypes hold that view, moving
    averages are of it. The other pairs are given what the state then says of them: predictions for their embeddings, or
    the sample's average. With equal views it is the loss of one.

    Source: `L4` of DeCLIP's code for InfoNCE, arXiv 2110.05208; tests/objectives/test_over_views.py.
    """
    results: list[ObjectiveResult] = []
    was_training = objective.training
    for image, text in pairs:
        results.append(
            objective(encoded.images[image].unit, encoded.texts[text].unit, encoded.sample_ids)
        )
        objective.eval()
    objective.train(was_training)
    if len(results) == 1:
        return results[0]
    return replace(results[0], loss=torch.stack([result.loss for result in results]).mean())
