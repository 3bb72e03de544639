"""Revisions: what changed a committed stage afterwards, told by its key, so that everything below sees it.

`<root>/<stage>/revisions/KEY.json` says that the stage of this key was repaired, or that something was taken down from
it. From then on the stage that a recipe means is the one after it: its key has the fingerprint of the revision among
its inputs. That stage may be revised in its turn.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from neuclip.foundation.errors import IntegrityError
from neuclip.stages.keys import digest
from neuclip.storage.files import exists, list_files, read_bytes, write_bytes
from neuclip.storage.uris import join

REVISIONS = "revisions"
"""Folder beside the stages, and the name of the input that tells of them."""

Inputs = dict[str, str]


class Revision(BaseModel):
    """Why another stage has taken the place of a committed one."""

    model_config = ConfigDict(frozen=True)

    revises: str
    kind: Literal["repair", "takedown"]
    what: dict[str, Any]
    """Of a repair its retries, of a takedown its record."""
    made_at: str

    @property
    def fingerprint(self) -> str:
        """What the key of the stage after it takes in; when it was made does not count."""
        return digest([self.kind, self.what])


def revise(
    stage_uri: str, key: str, kind: Literal["repair", "takedown"], what: dict[str, Any]
) -> None:
    """Say, by one atomic write, that a stage was revised; one that was revised before has its successor already."""
    if is_revised(stage_uri, key):
        return
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    revision = Revision(revises=key, kind=kind, what=what, made_at=made_at)
    write_bytes(_uri(stage_uri, key), revision.model_dump_json(indent=1).encode())


def is_revised(stage_uri: str, key: str) -> bool:
    """Tell whether a stage was revised."""
    return exists(_uri(stage_uri, key))


def revised_inputs(stage_uri: str, inputs: Inputs, key_of: Callable[[Inputs], str]) -> Inputs:
    """Return the inputs of the stage that stands for these now: the same as long as nothing was revised.

    Args:
        key_of: makes the stage's key of its inputs.
    Raises: IntegrityError: if a revision cannot be understood.
    """
    revised = set(list_files(join(stage_uri, REVISIONS)))
    now, applied = inputs, list[str]()
    while f"{key_of(now)}.json" in revised:
        applied.append(_read(_uri(stage_uri, key_of(now))).fingerprint)
        now = {**inputs, REVISIONS: digest(applied)}
    return now


def _uri(stage_uri: str, key: str) -> str:
    return join(stage_uri, REVISIONS, f"{key}.json")


def _read(uri: str) -> Revision:
    try:
        return Revision.model_validate_json(read_bytes(uri))
    except ValidationError as error:
        raise IntegrityError(
            f"{uri} is no record of a revision: {error.error_count()} fields are wrong; bring it back from a copy, "
            "or remove it to go back to the stage before it"
        ) from error
