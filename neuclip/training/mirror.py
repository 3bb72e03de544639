"""The run folder's copy in object storage, so that any machine can go on with a run."""

import shutil
import socket
from pathlib import Path

from pydantic import ValidationError

from neuclip.checkpoint.folder import LATEST, RECORD, CheckpointRecord
from neuclip.distributed.collectives import barrier, gather_objects
from neuclip.distributed.world import World
from neuclip.foundation.errors import CheckpointError
from neuclip.storage.files import get_file, list_files, read_bytes, remove, upload, write_bytes
from neuclip.storage.uris import join
from neuclip.training.job import CHECKPOINTS, TrainJob

EXCHANGE = ".exchange"
"""Folder of the run in object storage for job, result and error; no part of the run itself."""
_POINTER = f"{CHECKPOINTS}/{LATEST}"


def mirror_run(job: TrainJob) -> None:
    """Bring object storage to the state of the run folder; the pointer goes up after what it points to.

    Files of a checkpoint are there if its record is, byte for byte: it holds their hashes, and goes up after them.
    """
    if job.mirror_uri is None:
        return
    there = list_files(job.mirror_uri)
    here = {
        p.relative_to(job.run_folder).as_posix(): p
        for p in job.run_folder.rglob("*")
        if p.is_file()
    }
    there_already = {
        path.parent
        for name, path in here.items()
        if path.name == RECORD
        and name in there
        and read_bytes(join(job.mirror_uri, name)) == path.read_bytes()
    }
    for name, path in sorted(here.items(), key=lambda item: item[1].name == RECORD):
        is_there = path.parent in there_already and there.get(name) == path.stat().st_size
        if name == _POINTER or is_there:
            continue
        if name.startswith(f"{CHECKPOINTS}/"):
            upload(path, join(job.mirror_uri, name))
        else:  # training writes on: what was read at once is what arrives
            write_bytes(join(job.mirror_uri, name), path.read_bytes())
    if _POINTER in here:
        upload(here[_POINTER], join(job.mirror_uri, _POINTER))
    for name in there.keys() - here.keys():
        if name.startswith(f"{CHECKPOINTS}/"):
            remove(join(job.mirror_uri, name))


def bring_checkpoint(job: TrainJob, world: World, *, main_has_it: bool = False) -> None:
    """Put the checkpoint that the main rank goes on from into every machine's run folder; every rank calls it.

    Args:
        main_has_it: the run is at work, so the main rank's folder is the newest.
    Raises: CheckpointError: on a machine that has another one, or none.
    """
    pointer = job.run_folder / _POINTER
    if world.is_main and job.mirror_uri is not None and not main_has_it:
        _fetch_run(job.mirror_uri, job.run_folder)
    named = gather_objects(_content(pointer), world)[0]
    if job.mirror_uri is not None and world.local_rank == 0 and not world.is_main:
        _fetch_run(job.mirror_uri, job.run_folder)
    barrier(world)
    if _content(pointer) != named:
        raise CheckpointError(
            f"rank {world.rank} on {socket.gethostname()} has {_said(_content(pointer))} in {pointer}, the main rank "
            f"{_said(named)}; a root that is a folder must be one file system that all machines share"
        )


def drop_local_copy(job: TrainJob, world: World) -> None:
    """Remove each machine's copy of a run that is finished and in object storage."""
    barrier(world)
    if job.mirror_uri is not None and world.local_rank == 0:
        shutil.rmtree(job.run_folder, ignore_errors=True)


def _fetch_run(uri: str, folder: Path) -> None:
    """Make a local folder equal to a run in object storage; checkpoints that are here already stay."""
    there = [name for name in list_files(uri) if not name.startswith(f"{EXCHANGE}/")]
    if _POINTER not in there:
        shutil.rmtree(folder, ignore_errors=True)
        return
    records = [name for name in there if name.endswith(f"/{RECORD}")]
    for record in records:
        _fetch_checkpoint(uri, folder, record, there)
    kept = {record.split("/")[1] for record in records}
    for old in (folder / CHECKPOINTS).glob("step-*"):
        if old.name not in kept:
            shutil.rmtree(old)
    for name in there:
        if name.count("/") < 2 or not name.startswith(f"{CHECKPOINTS}/"):
            get_file(join(uri, name), folder / name)


def _fetch_checkpoint(uri: str, folder: Path, record: str, there: list[str]) -> None:
    """Copy one checkpoint, its record last, unless this very one is here."""
    path, content = folder / record, read_bytes(join(uri, record))
    if _content(path) == content:
        return
    shutil.rmtree(path.parent, ignore_errors=True)
    try:
        files = CheckpointRecord.model_validate_json(content).files
    except ValidationError as error:
        raise CheckpointError(
            f"{join(uri, record)} is not a checkpoint record: {error.error_count()} fields are wrong; "
            f"remove {join(uri, record.removesuffix(RECORD))} and run again"
        ) from error
    for name in there:
        if name.startswith(record.removesuffix(RECORD)) and name != record:
            known = files.get(name.rsplit("/", 1)[1])
            get_file(join(uri, name), folder / name, sha256=known and known.sha256)
    write_bytes(str(path), content)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _said(pointer: bytes | None) -> str:
    return "no checkpoint" if pointer is None else pointer.decode(errors="replace")
