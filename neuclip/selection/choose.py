"""The choice among scored checkpoints, with its reason."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from neuclip.selection.average import Verdict
from neuclip.selection.score import CheckpointScore, value_of


class RunnerUp(BaseModel):
    """The checkpoint that would have been next."""

    model_config = ConfigDict(frozen=True)

    step: int
    value: float


class Choice(BaseModel):
    """What choice.json holds."""

    model_config = ConfigDict(frozen=True)

    step: int
    samples_seen: int
    metric: str
    value: float
    chance: float
    samples: int
    model_sha256: str
    why: str
    runner_up: RunnerUp | None
    mean_of: list[int] = []
    """The steps of the checkpoints that the chosen weights are the mean of; none if one was chosen."""


def choose(scores: Sequence[CheckpointScore], *, metric: str) -> Choice:
    """Take the checkpoint with the highest metric; of equals, the later one."""
    ranked = sorted(scores, key=lambda score: (value_of(score, metric), score.step), reverse=True)
    best, value = ranked[0], value_of(ranked[0], metric)
    second = ranked[1] if len(ranked) > 1 else None
    return Choice(
        step=best.step,
        samples_seen=best.samples_seen,
        metric=metric,
        value=value,
        chance=best.chance,
        samples=best.samples,
        model_sha256=best.model_sha256,
        why=_reason(best, second, metric, len(scores)),
        runner_up=RunnerUp(step=second.step, value=value_of(second, metric)) if second else None,
    )


def _reason(best: CheckpointScore, second: CheckpointScore | None, metric: str, count: int) -> str:
    """Say the choice in one sentence."""
    value, name = value_of(best, metric), metric.replace("_", " ").replace(" at ", "@")
    measured = f"{name} {value:.4f} on {best.samples} held-out pairs (chance {best.chance:.4f})"
    if second is None:
        return f"Step {best.step} is the only checkpoint that was kept: {measured}."
    other = value_of(second, metric)
    if other == value:
        return (
            f"Of {count} checkpoints, steps {best.step} and {second.step} are level with {measured}; "
            "the later one is taken."
        )
    return (
        f"Step {best.step} is the best of {count} checkpoints: {measured}, "
        f"ahead of step {second.step} with {other:.4f}."
    )


def with_average(choice: Choice, verdict: Verdict) -> Choice:
    """Return the choice when an average was tried beside the checkpoints."""
    row, metric = verdict.average.row, choice.metric
    steps = ", ".join(str(part.step) for part in verdict.average.of)
    name = metric.replace("_", " ").replace(" at ", "@")
    found = (
        f"{name} {verdict.on_other_half:.4f} on the held-out pairs that did not choose, step {choice.step} "
        f"{verdict.best_on_other_half:.4f}"
    )
    if not verdict.is_better:
        return choice.model_copy(
            update={"why": f"{choice.why} The mean of steps {steps} is no better: {found}."}
        )
    return choice.model_copy(
        update={
            "step": row.step,
            "samples_seen": row.samples_seen,
            "value": value_of(row, metric),
            "model_sha256": row.model_sha256,
            "why": f"The mean of steps {steps} is better than any checkpoint: {found}.",
            "runner_up": RunnerUp(step=choice.step, value=choice.value),
            "mean_of": [part.step for part in verdict.average.of],
        }
    )
