"""One small journey, done once by `neuclip demo` in an empty folder, shared by all tests of a session."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from end_to_end.journeys import neuclip, only_json
from made.demo_web import SMALL, DemoWeb, as_options
from servers.s3 import free_port, s3_bucket, s3_environment, s3_url

from neuclip.demo.server import serving

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@dataclass(frozen=True)
class Journey:
    web: DemoWeb
    root: Path
    result: dict[str, Any]

    def uri(self, stage: str) -> str:
        return self.result["stages"][stage]["uri"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def journey(tmp_path_factory, cache) -> Iterator[Journey]:
    """Never changed by a test: whoever damages something takes a copy of the root. Its web is served on."""
    base = tmp_path_factory.mktemp("journey")
    root, web = base / "lake", DemoWeb(base / "lake-web", free_port())
    done = neuclip(
        *("demo", "--json", "--root", str(root), "--pairs", "300", "--port", str(web.port)),
        *as_options(SMALL),
        environment={"NEUCLIP_CACHE": str(cache)},
        folder=base,
    )
    result = only_json(done)
    with serving(web.folder, web.port):
        yield Journey(web, root, result)


@pytest.fixture(autouse=True)
def cache_of_the_session(cache, monkeypatch):
    monkeypatch.setenv("NEUCLIP_CACHE", str(cache))
