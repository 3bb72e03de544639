"""One small journey, done once by the command line, shared by all tests of a session."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from end_to_end.journeys import DEMO_RECIPE, Demo, neuclip, only_json
from servers.s3 import free_port, s3_bucket, s3_environment, s3_url

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@dataclass(frozen=True)
class Journey:
    demo: Demo
    root: Path
    result: dict[str, Any]

    def uri(self, stage: str) -> str:
        return self.result["stages"][stage]["uri"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def journey(tmp_path_factory, cache) -> Journey:
    """Never changed by a test: whoever damages something takes a copy of the root."""
    base = tmp_path_factory.mktemp("journey")
    demo = Demo(base / "web", free_port())
    root = base / "lake"
    done = neuclip(
        "run",
        DEMO_RECIPE,
        "--json",
        *demo.overrides(root),
        environment={"NEUCLIP_CACHE": str(cache)},
    )
    return Journey(demo, root, only_json(done))


@pytest.fixture(autouse=True)
def cache_of_the_session(cache, monkeypatch):
    monkeypatch.setenv("NEUCLIP_CACHE", str(cache))
