"""A small hostile web, and acquire run over it the way the engine runs it."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuclip.acquire.config import STAGE_VERSION, AcquireConfig
from neuclip.acquire.run import run_acquire
from neuclip.acquired.partitions import STAGE
from neuclip.foundation.progress import silent
from neuclip.stages.keys import digest, fingerprint
from neuclip.stages.manifest import Manifest
from neuclip.stages.workspace import StageIdentity, commit_stage
from neuclip.table.config import TABLE_SUFFIXES


def picture(side_px: int, format: str, mode: str = "RGB") -> bytes:
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    y, x = np.mgrid[0:side_px, 0:side_px]
    pixels = np.stack([(x + c * y) % 256 for c in range(channels)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "good.jpg").write_bytes(picture(64, "JPEG"))
    (folder / "more.jpg").write_bytes(picture(96, "JPEG"))
    (folder / "gray.jpg").write_bytes(picture(64, "JPEG", "L"))
    (folder / "alpha.png").write_bytes(picture(64, "PNG", "RGBA"))
    (folder / "huge.jpg").write_bytes(picture(1100, "JPEG"))
    (folder / "garbage.jpg").write_bytes(b"\x93garbage" * 40)
    return folder


@pytest.fixture(scope="session")
def acquire() -> Callable[..., Manifest]:
    """Run acquire below a root and return the stage's manifest.

    With `force` everything is fetched again; with `again` the stage is put together again from what is there.
    """

    def run(
        config: AcquireConfig,
        root: Path,
        *,
        force: bool = False,
        again: bool = False,
        progress=silent,
    ) -> Manifest:
        table = fingerprint(config.table, TABLE_SUFFIXES)
        identity = StageIdentity(
            stage=STAGE,
            stage_version=STAGE_VERSION,
            key=digest([config.keyed(), table]),
            section=config.keyed(),
            inputs={"table": table},
            root=str(root),
        )
        manifest, _ = commit_stage(
            identity,
            lambda workspace: run_acquire(
                config, root=str(root), workspace=workspace, progress=progress, force=force
            ),
            force=force or again,
        )
        return manifest

    return run
