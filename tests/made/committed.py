"""The manifest of a folder whose files were written by hand."""

import hashlib
from pathlib import Path
from typing import Any

from neuclip.stages.ledger import Ledger, make_ledger
from neuclip.stages.manifest import FileRecord, Manifest, read_manifest


def commit_by_hand(
    folder: Path, stage: str, *, ledger: Ledger | None = None, **fields: Any
) -> Manifest:
    """Write the manifest of the files that are there."""
    files = [
        FileRecord(
            name=path.relative_to(folder).as_posix(),
            size_bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    ]
    manifest = Manifest(
        stage=stage,
        stage_version=1,
        key=folder.name,
        section={},
        inputs={},
        code_version="0.1.0",
        files=files,
        ledger=ledger or make_ledger(1, 1, {}),
        started_at=fields.pop("started_at", "2026-03-01T10:00:00+00:00"),
        wall_s=fields.pop("wall_s", 1.0),
        cpu_s=1.0,
        **fields,
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest


def vouch_for(path: Path, folder: Path) -> None:
    """Let the manifest of a committed folder say that a file was like this from the start."""
    manifest = read_manifest(str(folder))
    content = path.read_bytes()
    changed = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    name = path.relative_to(folder).as_posix()
    files = [f.model_copy(update=changed) if f.name == name else f for f in manifest.files]
    changed_manifest = manifest.model_copy(update={"files": files})
    (folder / "manifest.json").write_bytes(changed_manifest.to_bytes())
