"""The run's numbers: one JSON line and one TensorBoard point per measurement."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsLog:
    """Appends to `metrics.jsonl` and to TensorBoard; a resumed run first forgets what lies after its step."""

    def __init__(self, folder: Path, *, resumed_at: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= resumed_at]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=resumed_at + 1)

    def write(self, values: dict[str, Any]) -> None:
        """Write one line; numbers also go to TensorBoard under their names."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)) and name != "step":
                self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write out everything."""
        self._file.close()
        self._board.close()


def _complete_lines(path: Path) -> list[str]:
    """Return the lines that were written whole; a killed run may leave half of one."""
    if not path.exists():
        return []
    return [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
