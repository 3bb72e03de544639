"""The lists that a person gives: uids, addresses and hosts, one a line."""

import re
from dataclasses import dataclass

from neuclip.acquired.refusals import Refusals
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import UID_LENGTH, is_uid
from neuclip.foundation.text import split_lines
from neuclip.storage.files import read_bytes

_COMMENT = re.compile(r"(^|\s)#.*$")
_HOST = re.compile(r"[^\s/:@]*[^\s/:@.]\.?")


@dataclass(frozen=True)
class Wanted:
    """What is to go, in the order of the lists."""

    uids: list[str]
    urls: list[str]
    hosts: list[str]

    @property
    def refusals(self) -> Refusals:
        """The same as a list to look pairs up in."""
        return Refusals.of(self.uids, self.urls, self.hosts)

    def entries(self) -> dict[str, Refusals]:
        """Return each entry as a list of its own, by what the person wrote."""
        return {
            **{uid: Refusals.of([uid], [], []) for uid in self.uids},
            **{url: Refusals.of([], [url], []) for url in self.urls},
            **{host: Refusals.of([], [], [host]) for host in self.hosts},
        }


def read_wanted(*, uids: str | None, urls: str | None, hosts: str | None) -> Wanted:
    """Read the lists; each is the URI of a text file, None if there is none.

    Raises: DataError: for a line that is not what its list should hold.
    """
    wanted = Wanted(_lines(uids), _lines(urls), _lines(hosts))
    for number, uid in enumerate(wanted.uids):
        if not is_uid(uid.lower()):
            raise _wrong(uids, number, uid, f"a uid of {UID_LENGTH} hex digits")
    for number, url in enumerate(wanted.urls):
        if not url.lower().startswith(("http://", "https://")):
            raise _wrong(urls, number, url, "an address that begins with http:// or https://")
    for number, host in enumerate(wanted.hosts):
        if not _HOST.fullmatch(host) or ("." not in host.strip(".") and host != "localhost"):
            raise _wrong(
                hosts,
                number,
                host,
                "a host such as img.example.org, which stands for those below it",
            )
    return wanted


def _lines(uri: str | None) -> list[str]:
    if uri is None:
        return []
    try:
        text = read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{uri} is no text in UTF-8 from byte {error.start} on; save it as UTF-8"
        ) from error
    entries = (_COMMENT.sub("", line).strip() for line in split_lines(text))
    return list(dict.fromkeys(entry for entry in entries if entry))


def _wrong(uri: str | None, number: int, entry: str, expected: str) -> DataError:
    return DataError(
        f"entry {number + 1} of {uri} is {entry!r}, expected {expected}; correct the line"
    )
