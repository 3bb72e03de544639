"""The run's numbers: one JSON line and one TensorBoard point per measurement, and further trackers if asked."""

import importlib
import json
import math
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from neuclip.foundation.errors import ConfigError
from neuclip.training.telemetry_config import TelemetryConfig

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Tracker(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Take the numbers of a step."""
        ...

    def close(self) -> None:
        """Write out everything."""
        ...


class TensorBoard:
    """Events below the run's folder; a resumed run hides what lies after its step."""

    def __init__(self, folder: Path, *, resumed_at: int) -> None:
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=resumed_at + 1)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Take the numbers of a step."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out everything."""
        self._board.close()


class WandbTracker:
    """Weights & Biases; WANDB_MODE, WANDB_API_KEY and the like are its own environment variables."""

    def __init__(self, folder: Path, *, project: str, run: str) -> None:
        self._run = _imported("wandb").init(
            project=project, id=run, resume="allow", dir=str(folder)
        )

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Take the numbers of a step."""
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Write out everything."""
        self._run.finish()


class MlflowTracker:
    """MLflow; MLFLOW_TRACKING_URI and the like are its own environment variables."""

    def __init__(self, *, project: str, run: str) -> None:
        self._mlflow = _imported("mlflow")
        self._mlflow.set_experiment(project)
        known = self._mlflow.search_runs(
            filter_string=f"attributes.run_name = '{run}'", output_format="list", max_results=1
        )
        self._mlflow.start_run(run_id=known[0].info.run_id if known else None, run_name=run)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Take the numbers of a step."""
        self._mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        """Write out everything."""
        self._mlflow.end_run()


class MetricsLog:
    """Appends to `metrics.jsonl` and hands the numbers on; a resumed run first forgets what lies after its step.

    Args:
        folder: of the run.
        run: what trackers know the run by.
        resumed_at: updates done before.
    """

    def __init__(self, folder: Path, config: TelemetryConfig, *, run: str, resumed_at: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        self.earlier = [
            line for line in _complete_lines(path) if json.loads(line)["step"] <= resumed_at
        ]
        """The lines that are there at the start."""
        path.write_text("".join(self.earlier), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._trackers: list[Tracker] = [TensorBoard(folder, resumed_at=resumed_at)]
        if "wandb" in config.trackers:
            self._trackers.append(WandbTracker(folder, project=config.project, run=run))
        if "mlflow" in config.trackers:
            self._trackers.append(MlflowTracker(project=config.project, run=run))

    def write(self, values: dict[str, Any]) -> None:
        """Write one line; finite numbers also go to the trackers under their names, others are null in the line."""
        line = {name: _finite_or_none(value) for name, value in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        numbers = {
            name: float(value)
            for name, value in line.items()
            if isinstance(value, (int, float)) and name != "step"
        }
        for tracker in self._trackers:
            tracker.write(values["step"], numbers)

    def close(self) -> None:
        """Write out everything."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def device_hours_so_far(folder: Path) -> float:
    """Return the device hours that a run's earlier processes noted, also those after its last checkpoint."""
    lines = _complete_lines(folder / METRICS)
    return float(json.loads(lines[-1]).get("device_hours", 0.0)) if lines else 0.0


def last_loss(folder: Path) -> float | None:
    """Return the loss of a run's last line, nats; None if its batch was passed over, or there is no line."""
    lines = _complete_lines(folder / METRICS)
    return json.loads(lines[-1])["loss"] if lines else None


def _finite_or_none(value: Any) -> Any:  # noqa: ANN401  # whatever goes into a line
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _imported(package: str) -> Any:  # noqa: ANN401  # neither package has types
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"train.telemetry.trackers names {package}, which is not installed; "
            f"install `neuclip[{package}]`, or take it off the list"
        ) from error


def _complete_lines(path: Path) -> list[str]:
    """Return the lines that were written whole; a killed run may leave half of one."""
    if not path.exists():
        return []
    return [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
