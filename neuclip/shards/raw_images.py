"""Image bytes from the raw tars of acquire's partitions."""

import os
from contextlib import ExitStack
from typing import Any, BinaryIO

from neuclip.acquire.raw import images_uri
from neuclip.foundation.errors import IntegrityError
from neuclip.storage.cache import local_copy


class RawImages:
    """Reads images by partition, offset and size; a partition's tar is brought here when it is first asked for."""

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders
        self._stack = ExitStack()
        self._files: dict[int, BinaryIO] = {}

    def __enter__(self) -> "RawImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, pair: dict[str, Any]) -> bytes:
        """Read one image.

        Raises: IntegrityError: if the tar ends before the image does.
        """
        file = self._file(pair["partition"])
        content = os.pread(file.fileno(), pair["size"], pair["offset"])
        if len(content) != pair["size"]:
            raise IntegrityError(
                f"{file.name} is truncated: member {pair['member']} needs {pair['size']} bytes at "
                f"{pair['offset']}, {len(content)} are there; run `--only acquire --force`"
            )
        return content

    def _file(self, partition: int) -> BinaryIO:
        if partition not in self._files:
            path = local_copy(images_uri(self._folders[partition]))
            self._files[partition] = self._stack.enter_context(path.open("rb", buffering=0))
        return self._files[partition]
