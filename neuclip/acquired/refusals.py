"""Who is not to be fetched: pairs, addresses and hosts that a recipe or a takedown at this root names."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.storage.files import list_files, read_bytes
from neuclip.storage.uris import join

TAKEDOWNS = "takedowns"
"""Folder of the root with a record of each takedown."""

REFUSED = "refused"
"""Reason of a row that is not fetched because it is on a list."""
TAKEN_DOWN = "taken_down"
"""Reason of a row whose image was fetched, or tried to be, and was taken down later."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Refusals:
    """A list of pairs that are refused; URLs are held as the hashes of `url_digest`."""

    uids: frozenset[str] = field(default_factory=frozenset[str])
    urls: frozenset[str] = field(default_factory=frozenset[str])
    hosts: frozenset[str] = field(default_factory=frozenset[str])

    @classmethod
    def of(cls, uids: Iterable[str], urls: Iterable[str], hosts: Iterable[str]) -> "Refusals":
        """Make a list from what a person wrote."""
        return cls(
            frozenset(uid.strip().lower() for uid in uids),
            frozenset(map(url_digest, urls)),
            frozenset(host.strip().lower().rstrip(".") for host in hosts),
        )

    def __or__(self, other: "Refusals") -> "Refusals":
        return Refusals(self.uids | other.uids, self.urls | other.urls, self.hosts | other.hosts)

    def __sub__(self, other: "Refusals") -> "Refusals":
        return Refusals(self.uids - other.uids, self.urls - other.urls, self.hosts - other.hosts)

    def __bool__(self) -> bool:
        return bool(self.uids or self.urls or self.hosts)

    def names_pair(self, uid: str, url: str | None) -> bool:
        """Tell whether a pair is on the list; a host stands for all hosts below it too."""
        if uid in self.uids:
            return True
        if url is None or not (self.urls or self.hosts):
            return False
        if self.urls and url_digest(url) in self.urls:
            return True
        return bool(self.hosts) and any(above in self.hosts for above in hosts_above(url))


def url_digest(url: str) -> str:
    """Hash an address; http and https, and ways of writing its host, are the same address."""
    scheme, _, rest = url.strip().partition("://")
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except (
        ValueError
    ):  # no address at all, or one with a wrong port: the same text is the same address
        return hashlib.sha256((rest or scheme).encode("utf-8", "surrogatepass")).hexdigest()
    place = host.rstrip(".")
    if port is not None and port != _DEFAULT_PORTS.get(parts.scheme):
        place += f":{port}"
    path = parts.path or "/"
    query = f"?{parts.query}" if parts.query else ""
    return hashlib.sha256(f"{place}{path}{query}".encode("utf-8", "surrogatepass")).hexdigest()


def hosts_above(url: str) -> list[str]:
    """Return the host of an address and the domains it belongs to."""
    try:
        host = (urlsplit(url.strip()).hostname or "").rstrip(".")
    except ValueError:
        return []
    labels = host.split(".")
    return [".".join(labels[place:]) for place in range(len(labels))] if host else []


class TakedownRecord(BaseModel):
    """What was taken down: uids, hosts and hashes of addresses, no captions."""

    model_config = ConfigDict(frozen=True)

    number: int
    made_at: str
    uids: list[str]
    url_hashes: list[str]
    hosts: list[str]
    found: list[str]
    """uids of the rows that were found at this root."""
    is_finished: bool = False
    """False while something may not have been erased yet."""

    @cached_property
    def refusals(self) -> Refusals:
        """What later runs do not fetch."""
        uids = frozenset(self.uids) | frozenset(self.found)
        return Refusals(uids, frozenset(self.url_hashes), frozenset(self.hosts))

    @property
    def name(self) -> str:
        """The record's file below `takedowns`."""
        return f"{self.number:04d}.json"


def read_takedowns(root: str) -> list[TakedownRecord]:
    """Return the records of a root in order.

    Raises: IntegrityError: if one cannot be understood.
    """
    folder = join(root, TAKEDOWNS)
    records: list[TakedownRecord] = []
    for name in list_files(folder):
        if not name.endswith(".json"):
            continue
        try:
            records.append(TakedownRecord.model_validate_json(read_bytes(join(folder, name))))
        except ValidationError as error:
            raise IntegrityError(
                f"{join(folder, name)} is no record of a takedown: {error.error_count()} fields are wrong; "
                "bring it back from a copy, for it says what must not be fetched again"
            ) from error
    return records


def check_takedowns(root: str, before: Refusals) -> None:
    """Refuse what was acquired while something was taken down at its root.

    Args:
        before: what had been taken down when the work began.
    Raises: DataError: if more has been since.
    """
    if takedowns_at(root) != before:
        raise DataError(
            f"a takedown was made at {root} while acquire ran, so it may have been fetched after all; run "
            "`neuclip takedown` with its lists again, then run again"
        )


def takedowns_at(root: str) -> Refusals:
    """Return all that was taken down at a root.

    Raises: DataError: if a takedown was not finished.
    """
    refusals = Refusals()
    for record in read_takedowns(root):
        if not record.is_finished:
            raise DataError(
                f"takedown {record.name} of {root}, begun {record.made_at}, was not finished, so images that are to go "
                f"may still be there; run `neuclip takedown {root}`, then run again"
            )
        refusals |= record.refusals
    return refusals
