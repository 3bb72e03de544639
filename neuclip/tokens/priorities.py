"""The priority of every token of a vocabulary: 1 nouns, 2 adjectives, 3 verbs, 4 all else.

A table is a JSON file with one digit for each id, the SHA-256 of the vocabulary that it is of, and where it comes from.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np
from jaxtyping import Int64
from pydantic import BaseModel, ConfigDict, ValidationError

from neuclip.foundation.errors import ConfigError
from neuclip.storage.files import read_bytes

NOUN, ADJECTIVE, VERB, REST = 1, 2, 3, 4
_FIRST_LETTERS = {"NN": NOUN, "JJ": ADJECTIVE, "VB": VERB}


class PriorityTable(BaseModel):
    """The content of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: str
    """What the vocabulary is called, for people."""
    vocabulary_sha256: str
    tagger: str
    licence: str
    priorities_sha256: str
    priorities: str
    """One digit for each id, from 0."""

    def as_array(self) -> Int64[np.ndarray, " vocabulary"]:
        """Return the priorities by id."""
        return np.frombuffer(self.priorities.encode("ascii"), dtype=np.uint8).astype(
            np.int64
        ) - ord("0")


def priority_of(tag: str) -> int:
    """Return the priority of a Penn Treebank tag. Source: CLIPA's code; its paper leaves verbs out."""
    return _FIRST_LETTERS.get(tag[:2], REST)


def vocabulary_sha256(vocabulary: Mapping[str, int]) -> str:
    """Return what a vocabulary is known by: the SHA-256 of its tokens in the order of their ids."""
    in_order = sorted((number, token) for token, number in vocabulary.items())
    return hashlib.sha256(json.dumps(in_order).encode()).hexdigest()


def priorities_of(
    vocabulary: Mapping[str, int], table_uri: str | None
) -> Int64[np.ndarray, " vocabulary"]:
    """Return the priorities of a vocabulary's tokens by id.

    Args:
        table_uri: a file that `neuclip.tokens.build` wrote; None takes one that comes with neuclip.
    Raises: ConfigError: if there is none, or it is of another vocabulary, or damaged.
    """
    wanted = vocabulary_sha256(vocabulary)
    if table_uri is not None:
        table = read_table(read_bytes(table_uri), table_uri)
        require_table(table, wanted, table_uri)
        return table.as_array()
    for file in shipped_tables():
        table = read_table(file.read_bytes(), file.name)
        if table.vocabulary_sha256 == wanted:
            return table.as_array()
    names = ", ".join(file.name.partition(".")[0] for file in shipped_tables())
    raise ConfigError(
        f"text_tokens: syntax has no table for the tokenizer's vocabulary of {len(vocabulary)} tokens; neuclip has "
        f"some for {names}. {_HOW_TO_BUILD}"
    )


def require_table(table: PriorityTable, wanted_sha256: str, where: str) -> None:
    """Refuse a table of another vocabulary.

    Raises: ConfigError: if it is.
    """
    if table.vocabulary_sha256 != wanted_sha256:
        raise ConfigError(
            f"{where} is of the vocabulary {table.vocabulary} ({table.vocabulary_sha256[:12]}), and the tokenizer's is "
            f"another one ({wanted_sha256[:12]}). {_HOW_TO_BUILD}"
        )


def shipped_tables() -> list[Traversable]:
    """Return the files that come with neuclip, by name."""
    folder = resources.files("neuclip.tokens") / "tables"
    return sorted(
        (file for file in folder.iterdir() if file.name.endswith(".json")),
        key=lambda file: file.name,
    )


def read_table(content: bytes, where: str) -> PriorityTable:
    """Read a table and hold it against its own hash.

    Raises: ConfigError: if it is none, or damaged.
    """
    try:
        table = PriorityTable.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(
            f"{where} is no table of priorities: expected JSON with vocabulary_sha256 and a string of digits "
            f"`priorities`. {_HOW_TO_BUILD}"
        ) from error
    found = hashlib.sha256(table.priorities.encode()).hexdigest()
    if found != table.priorities_sha256 or not set(table.priorities) <= set("1234"):
        raise ConfigError(
            f"{where} is damaged: its priorities have SHA-256 {found[:12]}, written was "
            f"{table.priorities_sha256[:12]}. {_HOW_TO_BUILD}"
        )
    return table


_HOW_TO_BUILD = (
    "Build one by `python -m neuclip.tokens.build --tokenizer FOLDER --output FILE` and name it in "
    "train.text_tokens.table, or take another policy"
)
