"""Progress as Prefect shows it."""

import logging
import time
from typing import Any

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

log = logging.getLogger(__name__)

_UPDATE_EVERY_S = 2.0


class ArtifactProgress:
    """Shows progress as an artifact from the first report on; a server that does not answer stops no work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._artifact: Any = None
        self._shown_at = -_UPDATE_EVERY_S

    def __call__(self, stage: str, *, done: int, total: int, note: str = "") -> None:
        """Take a report; every few seconds one is shown, and the last."""
        now = time.monotonic()
        if done < total and now - self._shown_at < _UPDATE_EVERY_S:
            return
        self._shown_at = now
        percent, told = 100.0 * done / max(total, 1), f"{stage}: {done}/{total} {note}"
        try:
            if self._artifact is None:
                self._artifact = create_progress_artifact(
                    percent, key=f"{self._name}-progress", description=told
                )
            else:
                update_progress_artifact(self._artifact, percent, description=told)
        except httpx.HTTPError as error:
            log.warning("progress of %s could not be shown: %s", stage, error)
