"""Lines of a text file, compressed with gzip or not, in bounded memory; what is no UTF-8 text is named."""

import contextlib
import gzip
from collections.abc import Generator, Iterator
from pathlib import Path

from neuclip.foundation.errors import DataError

MOST_LINE_BYTES = 1 << 24
_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_TEXT = (
    (b"\xff\xfe\x00\x00", "it is UTF-32"),
    (b"\x00\x00\xfe\xff", "it is UTF-32"),
    (b"\xff\xfe", "it is UTF-16"),
    (b"\xfe\xff", "it is UTF-16"),
    (b"PAR1", "it is a Parquet file; name it .parquet"),
    (b"\x1f\x8b", "it is compressed with gzip; let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it"),
    (b"BZh", "it is compressed with bzip2; unpack it"),
    (b"\xfd7zXZ", "it is compressed with xz; unpack it"),
    (b"PK\x03\x04", "it is a zip archive or a spreadsheet; unpack it or save it as CSV"),
    (b"version https://git-lfs", "it is a pointer of Git LFS; fetch the file itself"),
)
_WEB_PAGE = (b"<!doctype html", b"<html")
_CONVERT = "expected UTF-8; convert it (iconv -f UTF-16 -t UTF-8, for example)"
_MOST_NULS = 0.2


def text_blocks(path: Path, uri: str) -> Generator[bytes]:
    """Yield the bytes of a text file block by block, without its byte order mark.

    Raises: DataError: for a file that is no UTF-8 text. OSError, EOFError: for one that cannot be unpacked.
    """
    with gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb") as file:
        block = file.read(_BLOCK_BYTES)
        _check(block, uri)
        block = block.removeprefix(_BYTE_ORDER_MARK)
        while block:
            yield block
            block = file.read(_BLOCK_BYTES)


def _check(head: bytes, uri: str) -> None:
    for mark, what in _NO_TEXT:
        if head.startswith(mark):
            raise unreadable(uri, what, _CONVERT if "UTF" in what else "then run again")
    if head.count(b"\0") > _MOST_NULS * len(head):
        raise unreadable(uri, "it holds NUL bytes, so it is UTF-16 or no text", _CONVERT)
    if head.lstrip()[: len(_WEB_PAGE[0])].lower().startswith(_WEB_PAGE):
        raise unreadable(uri, "it is a web page", "download the file that the page is about")


class TextLines:
    """Iterates over the lines of a file as bytes with their ends: LF or CR LF, or CR in a file without LF.

    `ends` counts line ends in the bytes as they are read, apart from the iteration, and an unfinished last line.

    Raises: DataError: for a file that is no UTF-8 text, or a line of more than MOST_LINE_BYTES.
        OSError, EOFError: for a file that cannot be unpacked.
    """

    def __init__(self, path: Path, uri: str) -> None:
        self._path, self._uri = path, uri
        self.ends = 0

    def __iter__(self) -> Iterator[bytes]:
        blocks = text_blocks(self._path, self._uri)
        with contextlib.closing(blocks):
            block = next(blocks, b"")
            end = b"\r" if b"\r" in block and b"\n" not in block else b"\n"
            rest = b""
            while block:
                self.ends += block.count(end)
                *lines, rest = (rest + block).split(end)
                for line in lines:
                    yield line + end
                if len(rest) > MOST_LINE_BYTES:
                    raise unreadable(
                        self._uri,
                        f"line {self.ends + 1} is longer than {MOST_LINE_BYTES >> 20} MiB",
                        "take it out, or check that the file has line ends",
                    )
                block = next(blocks, b"")
            if rest:
                self.ends += 1
                yield rest

    def check_count(self, seen: int) -> None:
        """Compare with the line ends that the rows of the file account for.

        Raises: DataError: if they are not all.
        """
        if seen != self.ends:
            raise unreadable(
                self._uri, f"its rows account for {seen} of {self.ends} lines", "please report this"
            )


def unreadable(uri: str, why: str, what_next: str) -> DataError:
    """Return the error of a file that is no table of its kind."""
    return DataError(f"cannot read the table {uri}: {why}; {what_next}")
