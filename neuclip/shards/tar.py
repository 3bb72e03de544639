"""Deterministic tars: the bytes depend on the members alone."""

import io
import tarfile
from pathlib import Path
from types import TracebackType

_BLOCK_BYTES = 512


class TarShard:
    """Writes one tar and tells where each member's bytes lie in it."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # closed in __exit__

    def __enter__(self) -> "TarShard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tar.close()

    def add(self, name: str, content: bytes) -> int:
        """Append a member with time and owner zero; return the offset of its content in the tar."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o644
        offset = self._tar.offset + _BLOCK_BYTES  # one header block: names here are short
        self._tar.addfile(info, io.BytesIO(content))
        return offset
