"""Adoption run the way the engine runs it, and places where shards may lie."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made.tables import committed_rows
from servers.s3 import s3_bucket, s3_environment, s3_url

from neuclip.acquire.config import STAGE_VERSION, AcquireConfig
from neuclip.acquired.partitions import partition_folders, rows_paths
from neuclip.acquired.raw_images import RawImages
from neuclip.adopt.run import run_adopt
from neuclip.adopt.shards import fingerprint_shards
from neuclip.foundation.progress import silent
from neuclip.stages.keys import stage_key
from neuclip.stages.manifest import Manifest
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import StageIdentity, commit_stage

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@pytest.fixture(autouse=True)
def cache_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))


@dataclass
class Adopted:
    """A committed acquire stage over adopted shards."""

    uri: str
    manifest: Manifest

    def rows(self) -> list[dict[str, Any]]:
        return [row for path in rows_paths(self.uri) for row in pq.read_table(path).to_pylist()]

    def texts(self) -> list[dict[str, list[str]]]:
        """Return the texts of each row by source, those that can be used."""
        return [row["captions"] for row in committed_rows(self.uri)]

    def unusable(self) -> list[dict[str, int]]:
        """Return how many texts of each row cannot be used, by source."""
        return [row["unusable"] for row in committed_rows(self.uri)]

    def reasons(self) -> list[str | None]:
        return [row["reason"] for row in self.rows()]

    def images(self) -> dict[str, bytes]:
        """Return uid -> bytes, read as the stages below read them."""
        found = {}
        images = RawImages(partition_folders(self.uri))
        for number, path in enumerate(rows_paths(self.uri)):
            for row in pq.read_table(path).to_pylist():
                if row["status"] == "success":
                    found[row["uid"]] = images.read({**row, "partition": number})
        return found


@pytest.fixture
def adopt(tmp_path) -> Callable[..., Adopted]:
    """Adopt a folder of shards."""

    def run(
        folder: Path | str,
        *,
        root: str = str(tmp_path / "lake"),
        pool: Pool = LOCAL,
        force: bool = False,
        **settings,
    ) -> Adopted:
        config = AcquireConfig(adopt=str(folder), **settings)
        section = {name: v for name, v in config.keyed().items() if name not in ("table", "adopt")}
        inputs = {"shards": fingerprint_shards(str(folder))}
        key = stage_key("acquire", STAGE_VERSION, section, inputs)
        identity = StageIdentity("acquire", STAGE_VERSION, key, section, inputs, root)
        manifest, _ = commit_stage(
            identity,
            lambda workspace: run_adopt(
                config,
                refused=config.refuse.refusals,
                max_failed_share=config.max_failed_share,
                root=root,
                workspace=workspace,
                progress=silent,
                pool=pool,
                force=force,
            ),
            force=force,
        )
        return Adopted(identity.uri, manifest)

    return run
