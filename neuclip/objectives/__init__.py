"""From features of a batch to a loss, and to each anchor's log-normalizer.

Contract: an `Objective` takes unit-norm image and text features and sample ids of the local batch
and returns a scalar whose gradient, averaged over ranks, is that of the objective on the global
batch, whatever the split. It owns all of its state (temperature, estimator and its optimiser,
numbers for every sample), which travels in its `state_dict`. A new objective is a section in
`config` and a module of that name.

For scripts and notebooks, on one process, in float32 or float64:

>>> objective = neuclip.objectives.build({"name": "neuclip"}, feature_dim=512, num_samples=n)
>>> result = objective(image_features, text_features, sample_ids)
>>> result.loss.backward()
>>> objective.advance(step)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuclip.objectives.objective import Objective, ObjectiveResult
    from neuclip.objectives.registry import build

__all__ = ["Objective", "ObjectiveResult", "build"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # late, for recipes import `config` without torch
    if name == "build":
        from neuclip.objectives.registry import build

        return build
    if name in __all__:
        from neuclip.objectives import objective

        return getattr(objective, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
