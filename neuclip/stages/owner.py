"""Who is at work: what a lock file and a lease say of the process that holds them."""

import getpass
import os
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

BEAT_S = 10.0
"""Between two signs of life."""
STALE_S = 60.0
"""Without a sign of life, an owner that the kernel knows nothing of counts as dead."""


class Owner(BaseModel):
    """A process that holds something. Times are its own clock's: they are shown, never compared."""

    model_config = ConfigDict(frozen=True)

    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    user: str
    host: str
    pid: int
    pid_namespace: str
    boot: str
    """Of the kernel, which the containers of one machine share."""
    since: str
    locks: str | None = None
    """Of a lease in object storage: which folder of the owner's machine has a lock file named by the token."""
    beat: int = 0

    def to_bytes(self) -> bytes:
        """Return the record as it is written."""
        return self.model_dump_json().encode()

    def describe(self) -> str:
        """Name it for people."""
        return f"{self.user}@{self.host}, process {self.pid}"


@dataclass(frozen=True)
class Seen:
    """What is known of an owner without asking it."""

    owner: Owner | None
    """None: the record cannot be read (yet)."""
    stamp: bytes
    """Changes with every sign of life."""
    age_s: float | None
    """Since the last sign of life, by the storage's own clock; None: it does not tell."""
    is_alive: bool | None
    """By the kernel that it runs on; None: that is not ours, or it does not tell."""

    def is_stale(self, *, watched_s: float = 0.0) -> bool:
        """Tell whether the owner is dead.

        Args:
            watched_s: for how long somebody has watched the stamp stay the same.
        """
        if self.is_alive is not None:
            return not self.is_alive
        return max(self.age_s or 0.0, watched_s) > STALE_S


def this_process() -> Owner:
    """Return a new owner: this process, with a token of its own."""
    return Owner(
        token=uuid.uuid4().hex,
        user=_user(),
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_namespace=_link("/proc/self/ns/pid"),
        boot=boot_id(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def read_owner(content: bytes) -> Owner | None:
    """Return the owner that a record names, if it can be understood."""
    try:
        return Owner.model_validate_json(content)
    except ValidationError:
        return None


@cache
def boot_id() -> str:
    """Return what tells this boot of this kernel from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
