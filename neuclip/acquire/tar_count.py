"""Count the images in a tar that is still being written, reading each header once."""

from pathlib import Path

_BLOCK_BYTES = 512
_NAME = slice(0, 100)
_SIZE = slice(124, 136)
_ONE_A_SAMPLE = b".json"


class TarCounter:
    """Remembers how far it has looked, so that counting again reads only what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_header = 0
        self._samples = 0

    def count(self) -> int:
        """Return the number of samples written so far; 0 if there is no file yet."""
        if not self._path.exists():
            return self._samples
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            while self._next_header + _BLOCK_BYTES <= size:
                file.seek(self._next_header)
                header = file.read(_BLOCK_BYTES)
                digits = header[_SIZE].strip(b"\0 ")
                if not digits.isdigit():
                    break  # the end of the archive, or a header that is not whole yet
                data_bytes = int(digits, base=8)
                self._samples += header[_NAME].rstrip(b"\0").endswith(_ONE_A_SAMPLE)
                self._next_header += _BLOCK_BYTES * (1 + -(-data_bytes // _BLOCK_BYTES))
        return self._samples
