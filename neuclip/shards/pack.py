"""Pack the pairs of one part into tars."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from neuclip.acquired.raw_images import RawImages
from neuclip.foundation.progress import Progress
from neuclip.shards.members import SELECTION, TRAIN, MemberTable
from neuclip.shards.tar import TarShard

_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_PREFIXES = {TRAIN: "shard", SELECTION: "selection"}
_PROGRESS_EVERY = 1000

_Readable = tuple[dict[str, Any], bytes, str]


class Packer:
    """Writes the shards of a part and the member table beside them.

    Args:
        folder: of the part, here.
        place: of the part below the root's `shard` folder; names of shards start with it.
        first_sample_id: id of the part's first training sample.
        done: pairs in the parts before, for the progress.
        total: pairs in all parts.
    """

    def __init__(
        self,
        images: RawImages,
        folder: Path,
        *,
        place: str,
        first_sample_id: int,
        samples_per_shard: int,
        progress: Progress,
        done: int,
        total: int,
    ) -> None:
        self._images, self._folder, self._place = images, folder, place
        self._samples_per_shard = samples_per_shard
        self._next_id = first_sample_id
        self._progress, self._total, self._seen = progress, total, done
        self.shards: dict[str, int] = {}
        self.packed = {TRAIN: 0, SELECTION: 0}
        self.undecodable = 0

    def write(self, split: str, pairs: Iterable[dict[str, Any]], members: MemberTable) -> None:
        """Write one split: full shards of `samples_per_shard`, the last one shorter."""
        readable = self._readable(pairs)
        while (first := next(readable, None)) is not None:
            name = f"{_PREFIXES[split]}-{len(self._names(split)):06d}.tar"
            in_shard = chain([first], islice(readable, self._samples_per_shard - 1))
            with TarShard(self._folder / name) as tar:
                rows = [self._add(tar, name, split, *sample) for sample in in_shard]
            members.add(rows)
            self.shards[name] = len(rows)
            self.packed[split] += len(rows)

    def _names(self, split: str) -> list[str]:
        return [name for name in self.shards if name.startswith(_PREFIXES[split])]

    def _readable(self, pairs: Iterable[dict[str, Any]]) -> Iterator[_Readable]:
        """Yield pair, image bytes and suffix of every pair whose image has a known header."""
        for pair in pairs:
            content = self._images.read(pair)
            suffix = _suffix_of(content)
            self._seen += 1
            if self._seen % _PROGRESS_EVERY == 0:
                self._progress("shard", done=self._seen, total=self._total, note="packing")
            if suffix is None:
                self.undecodable += 1
            else:
                yield pair, content, suffix

    def _add(
        self,
        tar: TarShard,
        shard: str,
        split: str,
        pair: dict[str, Any],
        content: bytes,
        suffix: str,
    ) -> dict[str, Any]:
        """Write the members of a sample, no .txt where there is no alt text, and return its row of the member table."""
        uid, sample_id = pair["uid"], None
        if split == TRAIN:
            sample_id = self._next_id
            self._next_id += 1
        record = _record(pair, sample_id)
        image_offset = tar.add(f"{uid}.{suffix}", content)
        json_offset = tar.add(f"{uid}.json", record)
        alt = None if pair["alt"] is None else pair["alt"].encode()
        text_offset = None if alt is None else tar.add(f"{uid}.txt", alt)
        return {
            "split": split,
            "sample_id": sample_id,
            "uid": uid,
            "shard": f"{self._place}/{shard}",
            "image_member": f"{uid}.{suffix}",
            "image_offset": image_offset,
            "image_size": len(content),
            "json_offset": json_offset,
            "json_size": len(record),
            "text_offset": text_offset,
            "text_size": None if alt is None else len(alt),
            "width": pair["width"],
            "height": pair["height"],
            "image_sha256": hashlib.sha256(content).hexdigest(),
        }


def _record(pair: dict[str, Any], sample_id: int | None) -> bytes:
    record = {
        "uid": pair["uid"],
        "sample_id": sample_id,
        "url": pair["url"],
        "width": pair["width"],
        "height": pair["height"],
    }
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _suffix_of(content: bytes) -> str | None:
    """Return the suffix that fits the image's header, None if there is no header of a known format."""
    try:
        with Image.open(io.BytesIO(content), formats=list(_FORMATS)) as image:
            return _FORMATS[image.format or ""]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
