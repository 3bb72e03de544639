"""The answers that were paid for, kept beside the parts: an answer that stands here is not asked for again.

    <root>/caption/answers/<model and sampling>-<rows>/*.jsonl

What is guaranteed: once an answer is in the journal, it is asked for never again, whatever is killed; an answer that
was on its way when the process died may be asked for twice. At a local root a line is written with one call for each
answer and stands once the call returns, and is forced to disk every second. At any other root it is written so to a
local file, which follows to the root every few seconds; a run on another machine knows what has followed.
"""

import errno
import hashlib
import os
import time
import uuid
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from neuclip.generation.backend import Ended, Reply
from neuclip.stages.keys import digest
from neuclip.storage.files import (
    list_files,
    list_folders,
    put_file,
    read_bytes,
    remove,
    write_bytes,
)
from neuclip.storage.uris import is_local, join, local_part, name_of

ANSWERS = "answers"
"""Folder of the caption stage with all journals."""
_SUFFIX = ".jsonl"
_CHECKSUM = b',"crc32":'
_SYNC_S = 1.0
_FOLLOW_S = 10.0


class Journal:
    """The answers to the questions about some rows, by item; answers are added while it is open.

    Args:
        uri: its folder, see `journal_uri`.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._here = local_part(uri) if is_local(uri) else _home(uri)
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._synced = self._followed = time.monotonic()

    def __enter__(self) -> Self:
        """Bring along what a killed run of this machine left."""
        self._follow()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; all answers are at the root then."""
        self._close()
        self._follow()

    def find(self, items: Collection[str]) -> Iterator[tuple[str, Reply]]:
        """Yield the replies to those items that are answered."""
        for line in _lines(self._uri):
            if line["item"] in items:
                yield (
                    line["item"],
                    Reply(line["text"], Ended(line["ended"]), line["prompt"], line["completion"]),
                )

    def add(self, item: str, uid: str, reply: Reply) -> None:
        """Write an answer down; it stands when this returns.

        Args:
            uid: pair that it is about, by which a takedown finds it.
        """
        line = {
            "item": item,
            "uid": uid,
            "text": reply.text,
            "ended": reply.ended,
            "prompt": reply.prompt_tokens,
            "completion": reply.completion_tokens,
            "at": round(time.time(), 2),
        }
        content = _packed(line)
        if os.write(self._open(), content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        now = time.monotonic()
        if now - self._synced > _SYNC_S:
            os.fsync(self._open())
            self._synced = now
        if now - self._followed > _FOLLOW_S and not is_local(self._uri):
            self._close()
            self._follow()

    def _open(self) -> int:
        if self._descriptor is None:
            self._here.mkdir(parents=True, exist_ok=True)
            self._path = self._here / f"{uuid.uuid4().hex}{_SUFFIX}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _follow(self) -> None:
        """Send the files of this machine to a root elsewhere; a process that dies in between sends one twice."""
        self._followed = time.monotonic()
        if is_local(self._uri):
            return
        for path in sorted(self._here.glob(f"*{_SUFFIX}")):
            if self._descriptor is None or path != self._path:
                put_file(path, join(self._uri, path.name))


def journal_uri(stage_uri: str, asked: object, uids: Collection[str]) -> str:
    """Return the folder of a journal.

    Args:
        asked: model and sampling; journals of different ones lie apart.
        uids: all rows of the partition, whether they are kept or not: curate may change its mind.
    """
    rows = hashlib.sha256("".join(uids).encode()).hexdigest()[:16]
    return join(stage_uri, ANSWERS, f"{_prefix(asked)}{rows}")


def journals_with(stage_uri: str, uids: Collection[str]) -> list[str]:
    """Return the folders of journals with an answer about one of the pairs."""
    return [uri for uri in _journals(stage_uri) if any(line["uid"] in uids for line in _lines(uri))]


def erase_answers(uri: str, uids: Collection[str]) -> None:
    """Erase all answers about some pairs from a journal."""
    for name in list_files(uri):
        kept = [line for line in _lines_of(join(uri, name)) if line["uid"] not in uids]
        if kept:
            write_bytes(join(uri, name), b"".join(map(_packed, kept)))
        else:
            remove(join(uri, name))


@dataclass(frozen=True)
class Spent:
    """What is in the journals of one model and sampling.

    Args:
        prompt: tokens of questions; completion: of answers.
        seconds: from first to last answer, added up over all runs.
    """

    answers: int = 0
    prompt: int = 0
    completion: int = 0
    seconds: float = 0.0


def spent_in(stage_uri: str, asked: object) -> Spent:
    """Return what is in the journals of one model and sampling; parts at once count their seconds each."""
    total = Spent()
    files = (
        join(uri, name)
        for uri in _journals(stage_uri)
        if name_of(uri).startswith(_prefix(asked))
        for name in list_files(uri)
    )
    for file in files:
        lines = list(_lines_of(file))
        total = Spent(
            total.answers + len(lines),
            total.prompt + sum(line["prompt"] for line in lines),
            total.completion + sum(line["completion"] for line in lines),
            total.seconds + (lines[-1]["at"] - lines[0]["at"] if lines else 0.0),
        )
    return total


def _prefix(asked: object) -> str:
    return f"{digest({'asked': asked})}-"


def _journals(stage_uri: str) -> list[str]:
    folder = join(stage_uri, ANSWERS)
    return [join(folder, name) for name in list_folders(folder)]


def _lines(folder: str) -> Iterator[dict[str, Any]]:
    for name in list_files(folder):
        if name.endswith(_SUFFIX):
            yield from _lines_of(join(folder, name))


def _lines_of(uri: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; a line that a killed process tore, or that is damaged, was no answer."""
    for line in read_bytes(uri).split(b"\n"):
        head, _, checksum = line.rpartition(_CHECKSUM)
        if head and checksum == b"%d}" % zlib.crc32(head):
            yield orjson.loads(head + b"}")


def _packed(record: dict[str, Any]) -> bytes:
    """Return a record as a line of JSON that ends with a checksum of all before."""
    head = orjson.dumps(record)[:-1]
    return head + _CHECKSUM + b"%d}\n" % zlib.crc32(head)


def _home(uri: str) -> Path:
    """Return where this machine keeps what has not followed to a root elsewhere."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return state / "neuclip" / ANSWERS / hashlib.sha256(uri.encode()).hexdigest()[:32]
