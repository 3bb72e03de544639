"""The run folder's copy in object storage, so that another machine can go on with a run."""

from pathlib import Path

from neuclip.checkpoint.folder import LATEST
from neuclip.storage.files import exists, get_file, list_files, remove, upload
from neuclip.storage.uris import join
from neuclip.training.job import CHECKPOINTS, TrainJob

_POINTER = f"{CHECKPOINTS}/{LATEST}"


def mirror_run(job: TrainJob) -> None:
    """Bring object storage to the state of the run folder; the pointer goes up after what it points to."""
    if job.mirror_uri is None:
        return
    there = list_files(job.mirror_uri)
    here = {
        p.relative_to(job.run_folder).as_posix(): p
        for p in job.run_folder.rglob("*")
        if p.is_file()
    }
    for name, path in here.items():
        is_new = there.get(name) != path.stat().st_size
        if name != _POINTER and (is_new or not name.startswith(CHECKPOINTS)):
            upload(path, join(job.mirror_uri, name))
    if _POINTER in here:
        upload(here[_POINTER], join(job.mirror_uri, _POINTER))
    for name in there.keys() - here.keys():
        if name.startswith(f"{CHECKPOINTS}/"):
            remove(join(job.mirror_uri, name))


def fetch_run(uri: str, folder: Path) -> None:
    """Copy an unfinished run from object storage, if there is one."""
    if exists(join(uri, _POINTER)):
        for name in list_files(uri):
            get_file(join(uri, name), folder / name)
