"""Pack the kept pairs into deterministic, globally shuffled training shards."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from neuclip.acquire.raw import IMAGES, partition_folders, rows_paths
from neuclip.captions.run import CAPTIONS
from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.foundation.progress import Progress
from neuclip.shards.config import ShardConfig
from neuclip.shards.plan import plan_shards
from neuclip.shards.tar import TarShard
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.cache import local_copy
from neuclip.storage.uris import join

MEMBERS = "members.parquet"
_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_PROGRESS_EVERY = 1000

MEMBER_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "sample_id": pa.int64(),
        "uid": pa.string(),
        "shard": pa.string(),
        "image_member": pa.string(),
        "image_offset": pa.int64(),
        "image_size": pa.int64(),
        "json_offset": pa.int64(),
        "json_size": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "image_sha256": pa.string(),
    }
)


def run_shard(
    config: ShardConfig,
    *,
    seed: int,
    acquire_uri: str,
    caption_uri: str,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    """Write `shard-NNNNNN.tar` (training), `selection-NNNNNN.tar` (held out) and `members.parquet`.

    A sample is three members, `{uid}.jpg|png|webp`, `{uid}.json` and `{uid}.txt`; image bytes are those that
    acquire stored. `sample_id` is the place in the sequence of training shards; held-out samples have none.
    In the ledger, `out` counts training samples; held-out ones stand under `held_out_for_selection`.

    Raises: DataError: if too many images cannot be read or no training sample is left.
    """
    verify_sizes(caption_uri, read_manifest(caption_uri))
    plan = plan_shards(
        local_copy(join(caption_uri, CAPTIONS)),
        rows_paths(acquire_uri),
        seed=seed,
        selection_share=config.selection_share,
        scratch=workspace.scratch,
    )
    entered = plan.train.num_rows + plan.selection.num_rows
    with RawImages([local_copy(join(f, IMAGES)) for f in partition_folders(acquire_uri)]) as images:
        writer = _Writer(config, images, workspace.output, progress, entered)
        writer.write("train", "shard", plan.train)
        writer.write("selection", "selection", plan.selection)
    table = pa.Table.from_pylist(writer.members, schema=MEMBER_SCHEMA)
    pq.write_table(table, workspace.output / MEMBERS, compression="zstd")
    held_out = sum(1 for member in writer.members if member["split"] == "selection")
    out = len(writer.members) - held_out
    ledger = make_ledger(
        entered, out, {"held_out_for_selection": held_out, "undecodable": writer.undecodable}
    )
    if writer.undecodable > config.max_undecodable_share * entered:
        raise DataError(
            f"{writer.undecodable} of {entered} stored images cannot be read, more than "
            f"shard.max_undecodable_share {config.max_undecodable_share:.1%} allows; run `--only acquire --force`"
        )
    if out == 0:
        raise DataError(
            f"no training sample is left ({ledger.describe()}); loosen `curate` or give a longer table"
        )
    progress("shard", done=entered, total=entered, note=ledger.describe())
    return Outcome(ledger=ledger, summary={"shards": writer.shards, "selection_samples": held_out})


class RawImages:
    """Reads image bytes from the raw tars of all partitions by offset."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._stack = ExitStack()

    def __enter__(self) -> "RawImages":
        self._files = [
            self._stack.enter_context(path.open("rb", buffering=0)) for path in self._paths
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, pair: dict[str, Any]) -> bytes:
        """Read one image.

        Raises: IntegrityError: if the tar ends before the image does.
        """
        content = os.pread(self._files[pair["part"]].fileno(), pair["size"], pair["offset"])
        if len(content) != pair["size"]:
            raise IntegrityError(
                f"{self._paths[pair['part']]} is truncated: member {pair['member']} needs {pair['size']} bytes at "
                f"{pair['offset']}, {len(content)} are there; run `--only acquire --force`"
            )
        return content


class _Writer:
    """Writes the shards of both splits and remembers where everything went."""

    def __init__(
        self, config: ShardConfig, images: RawImages, folder: Path, progress: Progress, total: int
    ) -> None:
        self._config, self._images, self._folder = config, images, folder
        self._progress, self._total, self._seen = progress, total, 0
        self.members: list[dict[str, Any]] = []
        self.shards: dict[str, int] = {}
        self.undecodable = 0

    def write(self, split: str, prefix: str, pairs: Any) -> None:  # noqa: ANN401  # pyarrow has no types
        """Write one split: full shards of `samples_per_shard`, the last one shorter."""
        readable = self._readable(pairs)
        sample_id = number = 0
        while (first := next(readable, None)) is not None:
            shard = f"{prefix}-{number:06d}.tar"
            with TarShard(self._folder / shard) as tar:
                count = 0
                while first is not None:
                    self.members.append(
                        _add_sample(
                            tar, shard, split, sample_id if split == "train" else None, *first
                        )
                    )
                    sample_id += 1
                    count += 1
                    first = next(readable, None) if count < self._config.samples_per_shard else None
            self.shards[shard] = count
            number += 1

    def _readable(
        self,
        pairs: Any,  # noqa: ANN401
    ) -> Iterator[tuple[dict[str, Any], bytes, str]]:
        """Yield pair, image bytes and suffix of every pair whose image has a known header."""
        for batch in pairs.to_batches(max_chunksize=1024):
            for pair in batch.to_pylist():
                content = self._images.read(pair)
                suffix = _suffix_of(content)
                self._seen += 1
                if self._seen % _PROGRESS_EVERY == 0:
                    self._progress("shard", done=self._seen, total=self._total, note="packing")
                if suffix is None:
                    self.undecodable += 1
                else:
                    yield pair, content, suffix


def _suffix_of(content: bytes) -> str | None:
    """Return the suffix that fits the image's header, None if there is no header of a known format."""
    try:
        with Image.open(io.BytesIO(content), formats=list(_FORMATS)) as image:
            return _FORMATS[image.format or ""]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _add_sample(
    tar: TarShard,
    shard: str,
    split: str,
    sample_id: int | None,
    pair: dict[str, Any],
    content: bytes,
    suffix: str,
) -> dict[str, Any]:
    """Write the three members of a sample and return its row of the member table."""
    uid = pair["uid"]
    captions: dict[str, list[str]] = dict(sorted(pair["captions"]))
    record = {
        "uid": uid,
        "sample_id": sample_id,
        "url": pair["url"],
        "width": pair["width"],
        "height": pair["height"],
        "captions": captions,
    }
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    alt = captions.get("alt") or next(iter(captions.values()))
    image_offset = tar.add(f"{uid}.{suffix}", content)
    json_offset = tar.add(f"{uid}.json", text)
    tar.add(f"{uid}.txt", alt[0].encode())
    return {
        "split": split,
        "sample_id": sample_id,
        "uid": uid,
        "shard": shard,
        "image_member": f"{uid}.{suffix}",
        "image_offset": image_offset,
        "image_size": len(content),
        "json_offset": json_offset,
        "json_size": len(text),
        "width": pair["width"],
        "height": pair["height"],
        "image_sha256": hashlib.sha256(content).hexdigest(),
    }
