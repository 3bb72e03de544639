"""The manifest: the commit record of a stage or of one of its partitions."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from neuclip.foundation.errors import IntegrityError, StorageError
from neuclip.stages.ledger import Ledger
from neuclip.storage.files import exists, list_files, list_folders, read_bytes
from neuclip.storage.uris import join, parent_of

MANIFEST = "manifest.json"
PARTS = "parts"
SCHEMA_VERSION = 1


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
        """Return the manifest as it is written."""
        return self.model_dump_json(by_alias=True, indent=1).encode()


def is_committed(folder_uri: str) -> bool:
    """Tell whether a folder has its commit record."""
    return exists(join(folder_uri, MANIFEST))


def read_manifest(folder_uri: str) -> Manifest:
    """Read the manifest of a committed folder.

    Raises: IntegrityError: if it cannot be understood. StorageError: if there is none.
    """
    uri = join(folder_uri, MANIFEST)
    if not exists(uri):
        raise StorageError(
            f"no {MANIFEST} in {folder_uri}: nothing was committed there; run the stage first"
        )
    try:
        return Manifest.model_validate_json(read_bytes(uri))
    except ValidationError as error:
        raise IntegrityError(
            f"{uri} is not a manifest of schema {SCHEMA_VERSION}: {error.error_count()} fields are wrong"
        ) from error


def verify_sizes(folder_uri: str, manifest: Manifest) -> None:
    """Check that every file of a committed folder is there in its full size.

    Raises: IntegrityError: naming the file, the size expected and the size found.
    """
    found = list_files(folder_uri)
    for file in manifest.files:
        size = found.get(file.name)
        if size != file.size_bytes:
            state = "is missing" if size is None else f"has {size} bytes"
            raise IntegrityError(
                f"{join(folder_uri, file.name)} {state}, expected {file.size_bytes} bytes; "
                f"the folder was changed after its commit: run `--only {manifest.stage} --force`"
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
