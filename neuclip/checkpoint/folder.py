"""A checkpoint folder: an open_clip model, the rest of the state, and a record written last.

`step-00000200/` holds `open_clip_config.json`, `open_clip_model.safetensors`, `state.safetensors` and
`checkpoint.json`; the record names the other files with size and SHA-256. `latest.json` beside the folders
points to the one to resume from and is written after the folder was verified.
"""

import hashlib
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from neuclip.foundation.errors import CheckpointError, StorageError
from neuclip.foundation.os_errors import sentence_of
from neuclip.storage.files import to_disk, write_bytes

RECORD = "checkpoint.json"
LATEST = "latest.json"
STATE = "state.safetensors"
_NAME = re.compile(r"step-(\d{8})")


class FileDigest(BaseModel):
    """Size and SHA-256 of one file."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int
    sha256: str


class CheckpointRecord(BaseModel):
    """What a checkpoint is of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    phase: int
    """Of the run, from 0; the phase that ends with this step, where one does."""
    samples_seen: int
    train_key: str
    scheduled: bool
    """Saved at a step the recipe names, so kept for selection; else only there to resume from."""
    score: float | None = None
    """Recall@1 on held-out pairs, 0..1, where it was measured: what the best checkpoint is best in."""
    positions: tuple[str, ...] = ()
    """What was done to tables of positions on the way here, in words."""
    files: dict[str, FileDigest] = {}


class Pointer(BaseModel):
    """The content of latest.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    record_sha256: str


def folder_name(step: int) -> str:
    """Return the name of the checkpoint folder of a step."""
    return f"step-{step:08d}"


def checkpoint_names(checkpoints: Path) -> list[str]:
    """List the checkpoint folders, oldest first."""
    if not checkpoints.is_dir():
        return []
    return sorted(path.name for path in checkpoints.iterdir() if _NAME.fullmatch(path.name))


def write_checkpoint(
    checkpoints: Path, record: CheckpointRecord, fill: Callable[[Path], None]
) -> Path:
    """Write a checkpoint under a temporary name, verify it, give it its name and point to it.

    Args:
        fill: writes all files but the record into the folder it is given.
    Raises: StorageError: if the disk does not take it; the checkpoint before stays the one to resume from.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    for leftover in checkpoints.glob(".unfinished-*"):
        shutil.rmtree(leftover)
    target = checkpoints / folder_name(record.step)
    unfinished = checkpoints / f".unfinished-{uuid.uuid4().hex}"
    unfinished.mkdir()
    try:
        fill(unfinished)
        files = {path.name: _digest(path) for path in sorted(unfinished.iterdir())}
        complete = record.model_copy(update={"files": files})
        write_bytes(str(unfinished / RECORD), complete.model_dump_json(indent=1).encode())
        for path in unfinished.iterdir():
            to_disk(path)
        if not _is_whole(target):  # a run killed before it wrote the pointer has left it
            shutil.rmtree(target, ignore_errors=True)
            unfinished.replace(target)
        to_disk(checkpoints)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"checkpoint {target} cannot be written: {sentence_of(error) or error}; training goes on from the "
            "checkpoint before when it is run again, so make room on that disk first"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    verify_checkpoint(target)
    pointer = Pointer(checkpoint=target.name, record_sha256=_digest(target / RECORD).sha256)
    write_bytes(str(checkpoints / LATEST), pointer.model_dump_json().encode())
    return target


def latest_checkpoint(checkpoints: Path, *, train_key: str) -> Path | None:
    """Return the verified checkpoint to resume from, or None if there is none.

    Raises: CheckpointError: if it is broken, or was made by another recipe.
    """
    pointer_path = checkpoints / LATEST
    if not pointer_path.exists():
        return None
    try:
        pointer = Pointer.model_validate_json(pointer_path.read_bytes())
    except ValidationError as error:
        raise CheckpointError(
            f"{pointer_path} is not a checkpoint pointer; delete {checkpoints} to start anew"
        ) from error
    if not _NAME.fullmatch(pointer.checkpoint):
        raise CheckpointError(
            f"{pointer_path} points to {pointer.checkpoint!r}; expected a name like {folder_name(200)}"
        )
    folder = checkpoints / pointer.checkpoint
    record = verify_checkpoint(folder)
    if _digest(folder / RECORD).sha256 != pointer.record_sha256:
        raise CheckpointError(
            f"{folder / RECORD} is not the record that {pointer_path} points to; delete {checkpoints} to start anew"
        )
    if record.train_key != train_key:
        raise CheckpointError(
            f"{folder} is a checkpoint of another recipe: it belongs to train key {record.train_key}, this run is "
            f"{train_key}; delete {checkpoints} to train from the start"
        )
    return folder


def read_record(folder: Path) -> CheckpointRecord:
    """Read a checkpoint's record.

    Raises: CheckpointError: if there is none or it cannot be understood.
    """
    try:
        return CheckpointRecord.model_validate_json((folder / RECORD).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no {RECORD}, so it is no finished checkpoint; delete it and run again"
        ) from error
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) or one["type"] for one in error.errors())
        raise CheckpointError(
            f"{folder / RECORD} is not a checkpoint record of this release: wrong are {wrong}; if another release "
            f"wrote it, go on there, or delete {folder.parent} and run again to train anew"
        ) from error


def verify_checkpoint(folder: Path) -> CheckpointRecord:
    """Check every file of a checkpoint against its record.

    Raises: CheckpointError: naming the file that is missing or differs.
    """
    record = read_record(folder)
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(
                f"checkpoint file {path} is missing; delete {folder} and run again"
            )
        found = _digest(path)
        if found != expected:
            raise CheckpointError(
                f"checkpoint file {path} is not what was saved: {found.size_bytes} bytes, sha256 {found.sha256[:12]}, "
                f"expected {expected.size_bytes} bytes, sha256 {expected.sha256[:12]}; delete {folder} and run again"
            )
    return record


def prune_checkpoints(checkpoints: Path, *, keep_last: int, keep_best: int) -> list[str]:
    """Remove checkpoints that are not kept; return the names removed.

    Kept are the newest one, the last `keep_last` scheduled ones, and the `keep_best` scheduled ones with the
    highest score (of equals the later).
    """
    names = checkpoint_names(checkpoints)
    records = {name: read_record(checkpoints / name) for name in names}
    scheduled = [name for name in names if records[name].scheduled]
    scored = [(score, name) for name in scheduled if (score := records[name].score) is not None]
    best = [name for _, name in sorted(scored, reverse=True)[:keep_best]]
    kept = {*names[-1:], *scheduled[-keep_last:], *best}
    removed = [name for name in names if name not in kept]
    for name in removed:
        shutil.rmtree(checkpoints / name)
    return removed


def _is_whole(folder: Path) -> bool:
    """Tell whether a checkpoint is there and is what its record says."""
    try:
        verify_checkpoint(folder)
    except CheckpointError:
        return False
    return True


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return FileDigest(
            size_bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )
