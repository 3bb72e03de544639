"""The kept pairs of one partition: their texts, and where their images lie."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.partitions import ROWS
from neuclip.acquired.raw_images import RawImages
from neuclip.acquired.texts import TEXTS
from neuclip.curate.files import SUBSET
from neuclip.curate.uids import SubsetFile
from neuclip.foundation.errors import IntegrityError
from neuclip.foundation.ids import as_integers
from neuclip.stages.committed import committed_file
from neuclip.stages.manifest import Manifest
from neuclip.storage.tables import ArrowTable
from neuclip.storage.uris import name_of


@dataclass(frozen=True)
class Place:
    """Where a partition, its texts and the verdicts about its pairs lie."""

    uri: str
    texts_uri: str
    curate_uri: str

    @property
    def name(self) -> str:
        """Key of the partition."""
        return name_of(self.uri)


@dataclass(frozen=True)
class KeptTexts:
    """Uids of kept pairs in order, their captions by source, and how many texts of a source cannot be used."""

    uids: list[str]
    captions: list[dict[str, list[str]]]
    unusable: Counter[str]


@dataclass(frozen=True)
class KeptImage:
    """The image of a kept pair.

    Args:
        content_id: names its content as it was downloaded.
        read: reads the image file.
    """

    uid: str
    content_id: str
    read: Callable[[], bytes]


@dataclass
class Gathered:
    """A partition, and the parts with the texts of its kept pairs, by source.

    Args:
        pairs: how many are kept.
        kept: names them.
    """

    place: Place
    pairs: int
    kept: str
    parts: dict[str, Manifest] = field(default_factory=dict[str, Manifest])


def read_uids(place: Place) -> list[str]:
    """Return the uids of all rows of a partition, kept or not."""
    return pq.read_table(committed_file(place.uri, ROWS), columns=["uid"])["uid"].to_pylist()


def read_texts(place: Place, kept: SubsetFile) -> KeptTexts:
    """Read the texts of the kept pairs.

    Raises: IntegrityError: if rows and texts are not of the same pairs.
    """
    rows = committed_file(place.uri, ROWS)
    table = pq.read_table(rows, columns=["uid", "status"])
    uids: list[str] = table["uid"].to_pylist()
    mask = is_kept(table, kept)
    texts = committed_file(place.texts_uri, TEXTS)
    chosen = pq.read_table(texts).filter(pa.array(mask))
    kept_uids = [uid for uid, is_kept in zip(uids, mask.tolist(), strict=True) if is_kept]
    if chosen["uid"].to_pylist() != kept_uids:
        raise IntegrityError(
            f"the texts {texts} do not stand row by row beside {rows}; run `--only acquire --force`"
        )
    unusable: Counter[str] = Counter()
    for row in chosen["unusable"].to_pylist():
        unusable.update(dict(row))
    return KeptTexts(kept_uids, [dict(row) for row in chosen["captions"].to_pylist()], unusable)


def read_images(place: Place) -> list[KeptImage]:
    """Return the images of the kept pairs, in order."""
    kept = SubsetFile(str(committed_file(place.curate_uri, SUBSET)))
    columns = ["uid", "status", "sha256", "member", "offset", "size"]
    table = pq.read_table(committed_file(place.uri, ROWS), columns=columns)
    mask = is_kept(table, kept)
    images = RawImages([place.uri])

    def image(row: dict[str, Any]) -> KeptImage:
        where = {name: row[name] for name in ("member", "offset", "size")} | {"partition": 0}
        content_id = row["sha256"] or f"{place.name}/{row['uid']}"
        return KeptImage(row["uid"], content_id, lambda: images.read(where))

    return [image(row) for row in table.filter(pa.array(mask)).to_pylist()]


def is_kept(rows: ArrowTable, kept: SubsetFile) -> npt.NDArray[np.bool_]:
    """Tell of each outcome row, given uid and status, whether it is a pair that is kept."""
    is_there = np.array([status == "success" for status in rows["status"].to_pylist()], bool)
    return is_there & kept.contains(as_integers("".join(rows["uid"].to_pylist())))
