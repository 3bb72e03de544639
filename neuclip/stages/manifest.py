"""The manifest: the commit record of a stage or of one of its partitions."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from neuclip.foundation.errors import IntegrityError, StorageError
from neuclip.stages.ledger import Ledger
from neuclip.storage.files import exists, list_files, list_folders, read_bytes
from neuclip.storage.uris import join, name_of, parent_of

MANIFEST = "manifest.json"
PARTS = "parts"
SCHEMA_VERSION = 3

_PROOF = "sha256_of_the_rest"


class FileRecord(BaseModel):
    """One file of a committed folder."""

    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a stage did, with which recipe and inputs, and what it left."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    stage: str
    stage_version: int
    key: str
    section: dict[str, Any]
    inputs: dict[str, str]
    code_version: str
    files: list[FileRecord]
    parts: list[str] = []
    ledger: Ledger
    summary: dict[str, Any] = {}
    started_at: str
    wall_s: float
    cpu_s: float

    def to_bytes(self) -> bytes:
        """Return the manifest as it is written: with the hash of all it says, for nothing else vouches for it."""
        return _with_proof(json.loads(self.model_dump_json(by_alias=True)))


def is_committed(folder_uri: str) -> bool:
    """Tell whether a folder has its commit record."""
    return exists(join(folder_uri, MANIFEST))


def read_manifest(folder_uri: str) -> Manifest:
    """Read the manifest of a committed folder.

    Raises: IntegrityError: if it is not what was written. StorageError: if there is none.
    """
    uri = join(folder_uri, MANIFEST)
    try:
        content = read_bytes(uri)
    except StorageError as error:
        if not isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            raise
        raise StorageError(
            f"no {MANIFEST} in {folder_uri}: nothing was committed there, or its record is gone; "
            f"{_redo_of(folder_uri)}"
        ) from error
    problem = "it is damaged"
    try:
        said = json.loads(content)
        said.pop(_PROOF, None)
        schema, is_whole = said.get("schema_version"), content == _with_proof(said)
        if isinstance(schema, int) and schema != SCHEMA_VERSION:
            if is_whole:
                raise IntegrityError(_of_another_release(uri, schema))
            problem = f"it is damaged, or {_of_another_release('it', schema)}"
        elif is_whole:
            manifest = Manifest.model_validate(said)
            if manifest.key == name_of(folder_uri):
                return manifest
            problem = f"it is the record of {manifest.key}"
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    raise IntegrityError(f"{uri} is not what was written there: {problem}; {_redo_of(folder_uri)}")


def _of_another_release(what: str, schema: int) -> str:
    return (
        f"{what} was written by another release of neuclip, with schema {schema}, expected {SCHEMA_VERSION}: go on "
        "with that release at this root, or set root to another place"
    )


def redo(folder_uri: str, manifest: Manifest) -> str:
    """Say how a damaged folder is made again."""
    del folder_uri
    return _redo(manifest.stage)


def _redo_of(folder_uri: str) -> str:
    """Say it by the folder's place alone."""
    above = parent_of(folder_uri)
    return _redo(name_of(parent_of(above) if name_of(above) == PARTS else above))


def _redo(stage: str) -> str:
    return f"run `--only {stage} --force`"


def _with_proof(said: dict[str, Any]) -> bytes:
    """Return what is written for it, byte for byte."""
    proof = hashlib.sha256(json.dumps(said, indent=1).encode()).hexdigest()
    return json.dumps({**said, _PROOF: proof}, indent=1).encode()


def verify_sizes(folder_uri: str, manifest: Manifest) -> None:
    """Check that every file of a committed folder is there in its full size; its bytes count where they are read.

    Raises: IntegrityError: naming the file, the size expected and the size found.
    """
    found = list_files(folder_uri)
    for file in manifest.files:
        size = found.get(file.name)
        if size != file.size_bytes:
            state = "is missing" if size is None else f"has {size} bytes"
            raise IntegrityError(
                f"{join(folder_uri, file.name)} {state}, expected {file.size_bytes} bytes; "
                f"the folder was changed after its commit: {redo(folder_uri, manifest)}"
            )


def part_uri(stage_folder_uri: str, part_key: str) -> str:
    """Return the folder of a partition that a stage's manifest lists."""
    return join(parent_of(stage_folder_uri), PARTS, part_key)


def committed_manifests(stage_uri: str) -> list[Manifest]:
    """Return the manifests of all committed keys of a stage, newest first."""
    manifests = [
        read_manifest(join(stage_uri, key))
        for key in list_folders(stage_uri)
        if key != PARTS and is_committed(join(stage_uri, key))
    ]
    return sorted(manifests, key=lambda manifest: manifest.started_at, reverse=True)
