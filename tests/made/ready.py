"""Ready-made shards by hand: tar, table and counts as img2dataset leaves them, or tars as DataComp's resharder does."""

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from made.acquired import png

FAILED = {"failed_to_download", "failed_to_resize"}


@dataclass
class Sample:
    """One row of a shard and its image."""

    number: int
    image: bytes | None = None
    suffix: str = "png"
    status: str = "success"
    message: str | None = None
    size: tuple[int, int] = (24, 16)
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        self.uid = f"{self.number:032x}"
        self.key = f"{self.number:09d}"
        self.url = f"http://127.0.0.1/{self.number}.png"
        if self.image is None and self.status == "success":
            self.image = png(self.number, self.size)

    def row(self) -> dict:
        is_success = self.status == "success"
        return {
            "uid": self.uid,
            "caption": f"picture {self.number}",
            "url": self.url,
            "key": self.key,
            "status": self.status,
            "error_message": self.message,
            "width": self.size[0] if is_success else None,
            "height": self.size[1] if is_success else None,
            "original_width": 2 * self.size[0] if is_success else None,
            "original_height": 2 * self.size[1] if is_success else None,
            "exif": "{}" if is_success else None,
            "sha256": f"{self.number:064x}" if is_success else None,
            **self.extra,
        }


def failed(number: int, message: str = "HTTP Error 404: Not Found") -> Sample:
    return Sample(number, status="failed_to_download", message=message)


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field_name, value in fields.items():
        setattr(info, field_name, value)
    tar.addfile(info, io.BytesIO(content))


def write_tar(path: Path, samples: list[Sample], *, key=lambda sample: sample.key) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            if sample.status == "success":
                add(tar, f"{key(sample)}.{sample.suffix}", sample.image, mtime=1.25)
                add(tar, f"{key(sample)}.txt", sample.row()["caption"].encode())
                add(tar, f"{key(sample)}.json", json.dumps(sample.row()).encode())


def write_table(folder: Path, name: str, samples: list[Sample]) -> None:
    """Write the table and the counts."""
    pq.write_table(pa.Table.from_pylist([s.row() for s in samples]), folder / f"{name}.parquet")
    successes = sum(sample.status == "success" for sample in samples)
    counts = {"count": len(samples), "successes": successes, "duration": 1.5}
    (folder / f"{name}_stats.json").write_text(json.dumps(counts))


def write_ready(folder: Path, name: str, samples: list[Sample]) -> Path:
    """Write a shard as img2dataset does; return its tar."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tar(folder / f"{name}.tar", samples)
    write_table(folder, name, samples)
    return folder / f"{name}.tar"


def write_resharded(folder: Path, name: str, samples: list[tuple[Sample, int]]) -> Path:
    """Write a shard as DataComp's resharder does: keys UID-COPY, counts, no table; return its tar."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for sample, copy in samples:
            key = f"{sample.uid}-{copy}"
            add(tar, f"{key}.{sample.suffix}", sample.image)
            add(tar, f"{key}.json", json.dumps(sample.row() | {"key": key}).encode())
            add(tar, f"{key}.txt", sample.row()["caption"].encode())
    (folder / f"{name}_stats.json").write_text(json.dumps({"successes": len(samples)}))
    return folder / f"{name}.tar"
