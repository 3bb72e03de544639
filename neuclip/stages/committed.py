"""Files of committed folders, proven to be what was committed before anything is read from them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neuclip.foundation.errors import IntegrityError, StorageError
from neuclip.stages.manifest import FileRecord, Manifest, read_manifest, redo
from neuclip.storage.cache_folder import cache_folder
from neuclip.storage.files import get_file
from neuclip.storage.transfers import content_of_file
from neuclip.storage.uris import is_local, join, local_part, name_of

_State = tuple[int, int, int, int, int]
_proven: dict[Path, tuple[_State, str]] = {}
"""What this process has hashed: a file is read once for its proof, and again only if it was written meanwhile."""


def committed_file(folder_uri: str, name: str) -> Path:
    """Return a local path of a file of a committed folder, after comparing its size and SHA-256 with the manifest.

    Raises: IntegrityError: naming the file, what was expected, and the stage to do again.
    """
    return committed_files(folder_uri, [name])[0]


def committed_files(folder_uri: str, names: Iterable[str]) -> list[Path]:
    """Return local paths of several files, which lie beside each other as they do in the folder; see `committed_file`.

    Raises: IntegrityError: as committed_file.
    """
    manifest = read_manifest(folder_uri)
    records = [_record(folder_uri, manifest, name) for name in names]
    together = hashlib.sha256(" ".join(record.sha256 for record in records).encode()).hexdigest()
    paths: list[Path] = []
    for record in records:
        uri = join(folder_uri, record.name)
        if is_local(uri):
            path = local_part(uri)
        else:
            path = cache_folder() / "committed" / together[:32] / name_of(record.name)
            if not _is_proven(path, record):
                _fetch(uri, record, path, manifest, folder_uri)
        if not _is_proven(path, record):
            raise _damaged(folder_uri, manifest, record, path)
        paths.append(path)
    return paths


def committed_folder(folder_uri: str, below: str) -> Path:
    """Return a local folder with the files directly below a folder of a committed one; see `committed_file`."""
    prefix = f"{below}/"
    names = [
        file.name
        for file in read_manifest(folder_uri).files
        if file.name.startswith(prefix) and "/" not in file.name.removeprefix(prefix)
    ]
    if not names:
        raise IntegrityError(
            f"{join(folder_uri, below)} holds no committed file; {redo(folder_uri, read_manifest(folder_uri))}"
        )
    return committed_files(folder_uri, names)[0].parent


def committed_bytes(folder_uri: str, name: str) -> bytes:
    """Return the content of a small file of a committed folder; see `committed_file`."""
    return committed_file(folder_uri, name).read_bytes()


def holds_file(folder_uri: str, name: str) -> bool:
    """Tell whether a file was committed in a folder."""
    return any(file.name == name for file in read_manifest(folder_uri).files)


def require_same(found: object, expected: object, what: str, *, redo_with: str) -> None:
    """Hold what is read against what the stage above says that it left.

    Raises: IntegrityError: with both, and what to do.
    """
    if found != expected:
        raise IntegrityError(f"{what}: found {found}, expected {expected}; {redo_with}")


def _record(folder_uri: str, manifest: Manifest, name: str) -> FileRecord:
    for file in manifest.files:
        if file.name == name:
            return file
    raise IntegrityError(
        f"{join(folder_uri, name)} is not among the files that were committed there; "
        f"{redo(folder_uri, manifest)}"
    )


def _fetch(uri: str, record: FileRecord, path: Path, manifest: Manifest, folder_uri: str) -> None:
    try:
        get_file(uri, path, size_bytes=record.size_bytes, sha256=record.sha256)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {redo(folder_uri, manifest)}") from error
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _damaged(folder_uri, manifest, record, path) from error
        raise


def _is_proven(path: Path, record: FileRecord) -> bool:
    """Tell whether a local file is what a record says, reading it unless this process has."""
    state = _state(path)
    if state is None or state[2] != record.size_bytes:
        return False
    known = _proven.get(path)
    if known is None or known[0] != state:
        known = _proven[path] = (state, content_of_file(path).sha256)
    return known[1] == record.sha256


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _damaged(folder_uri: str, manifest: Manifest, record: FileRecord, path: Path) -> IntegrityError:
    state: Any = _state(path)
    if state is None:
        found = "is missing"
    elif state[2] != record.size_bytes:
        found = f"has {state[2]} bytes"
    else:
        found = f"has SHA-256 {_proven[path][1][:16]}..."
    return IntegrityError(
        f"{join(folder_uri, record.name)} {found}, expected {record.size_bytes} bytes with SHA-256 "
        f"{record.sha256[:16]}... as stage {manifest.stage} committed it; {redo(folder_uri, manifest)}"
    )
