"""Choices: what stands for a word that a recipe leaves open until a run begins, such as the latest model.

`<root>/<stage>/choices/REST.json` keeps it, REST being the key of everything else that the stage is made of. A run that
is begun again, or was killed, chooses what it chose before, whatever was published at the root meanwhile.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from neuclip.foundation.config import Section
from neuclip.foundation.errors import IntegrityError
from neuclip.storage.files import exists, read_bytes, write_bytes
from neuclip.storage.uris import join

CHOICES = "choices"

Config = TypeVar("Config", bound=Section)


@dataclass(frozen=True)
class Chosen(Generic[Config]):
    """A section with nothing left open.

    Args:
        choice: what was chosen for what was open; None if nothing was.
    """

    config: Config
    choice: str | None = None


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: str


def kept_choice(stage_uri: str, rest: str) -> str | None:
    """Return what was chosen when a run with everything else the same began; None if there was none.

    Raises: IntegrityError: if the record cannot be understood.
    """
    uri = _uri(stage_uri, rest)
    if not exists(uri):
        return None
    try:
        return _Record.model_validate_json(read_bytes(uri)).choice
    except ValidationError as error:
        raise IntegrityError(
            f"{uri} is no record of a choice; bring it back from a copy, or remove it to choose anew"
        ) from error


def keep_choice(stage_uri: str, rest: str, choice: str) -> None:
    """Write down, by one atomic write, what was chosen; the first choice stays."""
    if kept_choice(stage_uri, rest) is None:
        write_bytes(_uri(stage_uri, rest), _Record(choice=choice).model_dump_json().encode())


def _uri(stage_uri: str, rest: str) -> str:
    return join(stage_uri, CHOICES, f"{rest}.json")
