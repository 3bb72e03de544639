"""The choice among scored checkpoints, with its reason."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from neuclip.selection.score import CheckpointScore


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


def choose(scores: Sequence[CheckpointScore], *, metric: str) -> Choice:
    """Take the checkpoint with the highest metric; of equals, the later one."""
    ranked = sorted(scores, key=lambda score: (_value(score, metric), score.step), reverse=True)
    best, value = ranked[0], _value(ranked[0], metric)
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
        runner_up=RunnerUp(step=second.step, value=_value(second, metric)) if second else None,
    )


def _value(score: CheckpointScore, metric: str) -> float:
    return float(getattr(score, metric))


def _reason(best: CheckpointScore, second: CheckpointScore | None, metric: str, count: int) -> str:
    """Say the choice in one sentence."""
    value, name = _value(best, metric), metric.replace("_", " ").replace(" at ", "@")
    measured = f"{name} {value:.4f} on {best.samples} held-out pairs (chance {best.chance:.4f})"
    if second is None:
        return f"Step {best.step} is the only checkpoint that was kept: {measured}."
    other = _value(second, metric)
    if other == value:
        return (
            f"Of {count} checkpoints, steps {best.step} and {second.step} are level with {measured}; "
            "the later one is taken."
        )
    return (
        f"Step {best.step} is the best of {count} checkpoints: {measured}, "
        f"ahead of step {second.step} with {other:.4f}."
    )
