"""Image bytes from the raw tars of acquire's partitions."""

import os
from pathlib import Path
from typing import Any

from neuclip.acquired.partitions import images_path
from neuclip.foundation.errors import IntegrityError


class RawImages:
    """Reads images by partition, offset and size; a partition's tar is brought here when it is first asked for.

    Pairs come in shuffled order from any number of partitions, so no tar is kept open.
    """

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders
        self._paths: dict[int, Path] = {}

    def read(self, pair: dict[str, Any]) -> bytes:
        """Read one image.

        Raises: IntegrityError: if the tar ends before the image does.
        """
        path = self._path(pair["partition"])
        with path.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), pair["size"], pair["offset"])
        if len(content) != pair["size"]:
            raise IntegrityError(
                f"{path} is truncated: member {pair['member']} needs {pair['size']} bytes at "
                f"{pair['offset']}, {len(content)} are there; run `--only acquire --force`"
            )
        return content

    def _path(self, partition: int) -> Path:
        if partition not in self._paths:
            self._paths[partition] = images_path(self._folders[partition])
        return self._paths[partition]
