"""Identity of a pair: `uid`, 32 hex digits, from the input or from what the pair is."""

import hashlib
import re

import numpy as np
import numpy.typing as npt

UID_LENGTH = 32
_UID = re.compile(r"[0-9a-f]{32}")


def is_uid(text: str) -> bool:
    """Tell whether a text is a uid: 32 lower-case hex digits."""
    return _UID.fullmatch(text) is not None


def uid_of(url: str, caption: str) -> str:
    """Derive a pair's uid from its URL and caption (the first 128 bits of a SHA-256)."""
    content = f"{len(url.encode())}:{url}{caption}".encode()
    return hashlib.sha256(content).hexdigest()[:UID_LENGTH]


def as_integers(digits: bytes | str) -> npt.NDArray[np.uint64]:
    """Return uids, written one after the other, as [n, 2] integers: the first and the last 16 digits."""
    text = digits if isinstance(digits, str) else digits.decode("ascii")
    return np.frombuffer(bytes.fromhex(text), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def repeats(uids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the places, in order, of the uids ([n, 2] integers) that stand at an earlier place too."""
    order = np.lexsort((np.arange(len(uids)), uids[:, 1], uids[:, 0]))
    same_as_before = (uids[order[1:]] == uids[order[:-1]]).all(axis=1)
    return np.sort(order[1:][same_as_before])
