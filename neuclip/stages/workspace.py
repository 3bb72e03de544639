"""The workspace of one run of a stage: a scratch folder here, a committed folder at the root at the end."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuclip.foundation.errors import IntegrityError, NeuclipError
from neuclip.foundation.os_errors import as_storage_error
from neuclip.stages.lease import Lease, leased
from neuclip.stages.ledger import Ledger
from neuclip.stages.manifest import MANIFEST, FileRecord, Manifest, is_committed, read_manifest
from neuclip.stages.scratch import scratch_folder
from neuclip.storage.files import list_files, put_file, remove, remove_tree, sha256_of, write_bytes
from neuclip.storage.uploads import abort_uploads
from neuclip.storage.uris import join

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageIdentity:
    """Which stage (or partition of it) is done, with what: everything its key is made of, and its place."""

    stage: str
    stage_version: int
    key: str
    section: dict[str, Any]
    inputs: dict[str, str]
    root: str
    part: bool = False

    @property
    def uri(self) -> str:
        """The folder that is committed."""
        return join(self.root, self.stage, *(["parts"] if self.part else []), self.key)


@dataclass(frozen=True)
class Outcome:
    """What a stage's work says of itself."""

    ledger: Ledger
    summary: dict[str, Any] = field(default_factory=dict[str, Any])
    parts: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Workspace:
    """Where a stage works. Files left in `output` are committed under their relative names."""

    uri: str
    """The folder at the root, for work that must outlive this process (checkpoints)."""
    output: Path
    """Local folder; its files are moved or uploaded at the commit."""
    scratch: Path
    """Local folder for everything else; removed afterwards."""


def commit_stage(
    identity: StageIdentity,
    work: Callable[[Workspace], Outcome],
    *,
    keep_unfinished: bool = False,
    force: bool = False,
) -> tuple[Manifest, bool]:
    """Do a stage's work unless it is committed already, and commit it: files first, the manifest last.

    A lease lets one run at a time make a key; the others wait for it.

    Args:
        keep_unfinished: go on from what an earlier, killed run put at the URI (training resumes from its
            checkpoints); else it is cleared once the work has succeeded.
        force: do the work again. What was committed stays until the new work has succeeded, except where
            the work goes on from what lies at the URI.
    Returns: the manifest, and whether the work was done now.
    Raises: IntegrityError: if the ledger does not balance; nothing is committed then. StorageError: if another run
        took the key over, because this process was stopped for long.
    """
    if is_committed(identity.uri) and not force:
        return read_manifest(identity.uri), False
    try:
        with leased(identity.root, identity.stage, identity.key, part=identity.part) as lease:
            if is_committed(identity.uri) and not force:  # by the run that this one waited for
                return read_manifest(identity.uri), False
            abort_uploads(identity.uri)
            with scratch_folder(identity.root) as base:
                manifest = _make(
                    identity, work, lease, base, keep_unfinished=keep_unfinished, force=force
                )
    except Exception as error:
        doing = f"stage {identity.stage} stopped"
        if not isinstance(error, NeuclipError) and (told := as_storage_error(error, doing)):
            raise told from error
        raise
    log.info("committed %s: %s", identity.uri, manifest.ledger.describe())
    return manifest, True


def _make(
    identity: StageIdentity,
    work: Callable[[Workspace], Outcome],
    lease: Lease,
    base: Path,
    *,
    keep_unfinished: bool,
    force: bool,
) -> Manifest:
    """Do the work and commit it; nobody else does so meanwhile."""
    if force and keep_unfinished:
        remove(join(identity.uri, MANIFEST))
        remove_tree(identity.uri)
    started_at, wall, cpu = datetime.now(UTC), time.monotonic(), time.process_time()
    workspace = Workspace(uri=identity.uri, output=base / "output", scratch=base / "scratch")
    workspace.output.mkdir(parents=True)
    workspace.scratch.mkdir()
    outcome = work(workspace)
    outcome.ledger.check(identity.uri)
    lease.check()
    if not keep_unfinished:
        remove(join(identity.uri, MANIFEST))
        remove_tree(identity.uri)
    manifest = Manifest(
        stage=identity.stage,
        stage_version=identity.stage_version,
        key=identity.key,
        section=identity.section,
        inputs=identity.inputs,
        code_version=version("neuclip"),
        files=_publish(workspace),
        parts=outcome.parts,
        ledger=outcome.ledger,
        summary=outcome.summary,
        started_at=started_at.isoformat(timespec="milliseconds"),
        wall_s=round(time.monotonic() - wall, 3),
        cpu_s=round(time.process_time() - cpu, 3),
    )
    lease.check()
    write_bytes(join(identity.uri, MANIFEST), manifest.to_bytes())
    return manifest


def _publish(workspace: Workspace) -> list[FileRecord]:
    """Bring the output files to the URI and return a record of everything there."""
    records: dict[str, FileRecord] = {}
    for path in sorted(p for p in workspace.output.rglob("*") if p.is_file()):
        name = path.relative_to(workspace.output).as_posix()
        size = path.stat().st_size
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        put_file(path, join(workspace.uri, name))
        records[name] = FileRecord(name=name, size_bytes=size, sha256=sha256)
    for name, size in list_files(workspace.uri).items():
        if name not in records:  # written by the stage itself while it ran
            records[name] = FileRecord(
                name=name, size_bytes=size, sha256=sha256_of(join(workspace.uri, name))
            )
        elif records[name].size_bytes != size:
            raise IntegrityError(
                f"{join(workspace.uri, name)} has {size} bytes after writing {records[name].size_bytes}; run again"
            )
    return [records[name] for name in sorted(records)]
