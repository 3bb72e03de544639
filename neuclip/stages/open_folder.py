"""Change files of a committed folder: files first, then the manifest that tells of them."""

import hashlib
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuclip.stages.ledger import Ledger
from neuclip.stages.manifest import MANIFEST, FileRecord, Manifest
from neuclip.storage.cache import local_copy
from neuclip.storage.files import get_file, put_file, write_bytes
from neuclip.storage.tables import ArrowTable
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


def uids_in(table_uri: str, wanted: Collection[str]) -> set[str]:
    """Return those of some uids that have a row in a Parquet file."""
    found: set[str] = set()
    with pq.ParquetFile(local_copy(table_uri)) as file:
        for batch in file.iter_batches(columns=["uid"]):
            found.update(uid for uid in batch["uid"].to_pylist() if uid in wanted)
    return found


def blank_rows(
    folder: OpenFolder, name: str, uids: Collection[str], *, keep: Collection[str] = ("uid",)
) -> None:
    """Take the content of some pairs from the rows of a Parquet file: numbers and texts become null, maps empty."""
    table: ArrowTable = pq.read_table(local_copy(join(folder.uri, name)))
    is_named = pc.is_in(table["uid"], pa.array(sorted(uids), pa.string()))  # pyright: ignore[reportAttributeAccessIssue]
    if not pc.any(is_named).as_py():  # pyright: ignore[reportAttributeAccessIssue]
        return
    for place, column in enumerate(table.column_names):
        if column not in keep:
            kind = table.schema.field(column).type
            nothing = pa.scalar([] if pa.types.is_nested(kind) else None, kind)
            blanked = pc.if_else(is_named, nothing, table[column])  # pyright: ignore[reportAttributeAccessIssue]
            table = table.set_column(place, column, blanked)
    folder.replace(name, lambda path: pq.write_table(table, path, compression="zstd"))
