"""Change files of a committed folder: files first, then the manifest that tells of them."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuclip.stages.ledger import Ledger
from neuclip.stages.manifest import MANIFEST, FileRecord, Manifest
from neuclip.storage.files import get_file, put_file, write_bytes
from neuclip.storage.uris import is_local, join, local_part

TAKEDOWNS_NOTE = "takedowns"
"""In the summary of a manifest: the numbers of the takedowns that changed the folder."""


class OpenFolder:
    """A committed folder of which some files are changed. `close` writes the manifest, last.

    If it is left before, the manifest does not fit the files, and whoever reads the folder is told.
    """

    def __init__(self, uri: str, manifest: Manifest, scratch: Path) -> None:
        self.uri, self.manifest = uri, manifest
        self._scratch = scratch
        self._records = {file.name: file for file in manifest.files}

    def holds(self, name: str) -> bool:
        """Tell whether the folder has a file of this name."""
        return name in self._records

    def change(self, name: str, work: Callable[[Path], object]) -> None:
        """Change a file in its place; one in object storage is brought here, changed and put back whole."""
        uri = join(self.uri, name)
        if is_local(uri):
            path = local_part(uri)
            work(path)
            self._note(name, path)
            return
        path = self._scratch / "changed" / Path(name).name
        get_file(uri, path)
        work(path)
        self._note(name, path)
        put_file(path, uri)

    def replace(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file anew; readers see the old one or the new one whole."""
        path = self._scratch / "changed" / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        self._note(name, path)
        put_file(path, join(self.uri, name))

    def close(
        self,
        takedown: int,
        *,
        ledger: Ledger | None = None,
        summary: dict[str, Any] | None = None,
    ) -> None:
        """Write the manifest."""
        shutil.rmtree(self._scratch / "changed", ignore_errors=True)
        said = {**self.manifest.summary, **(summary or {})}
        said[TAKEDOWNS_NOTE] = sorted({*said.get(TAKEDOWNS_NOTE, ()), takedown})
        changed = self.manifest.model_copy(
            update={
                "files": [self._records[name] for name in sorted(self._records)],
                "ledger": ledger or self.manifest.ledger,
                "summary": said,
            }
        )
        if ledger is not None:
            ledger.check(self.uri)
        write_bytes(join(self.uri, MANIFEST), changed.to_bytes())
        self.manifest = changed

    def _note(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._records[name] = FileRecord(name=name, size_bytes=path.stat().st_size, sha256=sha256)
