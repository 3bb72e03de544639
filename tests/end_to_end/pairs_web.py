"""A real web from a folder of image-text pairs: pictures to serve, a URL table, evaluation sets.

    python tests/end_to_end/pairs_web.py PAIRS WEB --port 8000

unpacks the zips of PAIRS into WEB, writes WEB/urls.parquet and WEB/evaluation/wds_*, and serves WEB until it is
interrupted. The table has the training rows, with `captions_extra` as a second caption column; the sets are made of
test rows only, so no picture of a set is in the table.
"""

import argparse
import hashlib
import io
import tarfile
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.demo.server import HOST, serving

TABLE = "urls.parquet"
TEMPLATES = ("{c}", "a picture of {c}", "an emoji of {c}", "a photo of {c}")

Row = dict[str, Any]


def repository_pairs() -> Path:
    """Return where the pairs lie beside a checkout: a sibling of the repository's folder."""
    return Path(__file__).resolve().parents[3] / "shared" / "data" / "pairs"


def unpack(pairs: Path, web: Path) -> None:
    for archive in sorted((pairs / "zips").glob("*.zip")):
        with zipfile.ZipFile(archive) as content:
            content.extractall(web)


def write_table(pairs: Path, web: Path, *, port: int, most_rows: int | None = None) -> int:
    """Write the training rows of urls.parquet, their host set to the server's; return their number."""
    extras = {row["uid"]: row for row in _rows(pairs, "pairs.parquet")}
    rows = [
        {
            "url": row["url"].replace("http://127.0.0.1:8000", f"http://{HOST}:{port}"),
            "caption": row["caption"],
            "uid": row["uid"],
            "captions_extra": extras[row["uid"]]["captions_extra"],
        }
        for row in stratified(
            [row for row in _rows(pairs, "urls.parquet") if row["split"] == "train"],
            of=lambda row: extras[row["uid"]]["source"],
            most_rows=most_rows,
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), web / TABLE)
    return len(rows)


def write_sets(pairs: Path, web: Path, *, most_rows: int | None = None) -> list[Path]:
    """Write three sets of test rows: groceries by class, unseen emoji by group, seen emoji in a new style."""
    rows = [row for row in _rows(pairs, "pairs.parquet") if row["split"] == "test"]
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row["test_kind"]].append(row)

    def some(kind: str, column: str) -> list[Row]:
        return stratified(kinds[kind], of=lambda row: row[column], most_rows=most_rows)

    base = web / "evaluation"
    return [
        _write_classes(base / "wds_groceries", web, some("official_split", "label"), "label"),
        _write_classes(base / "wds_emoji_groups", web, some("unseen_concept", "group"), "group"),
        _write_retrieval(
            base / "wds_emoji_retrieval", web, some("seen_concept_unseen_vendor", "source")
        ),
    ]


def stratified(rows: list[Row], *, of: Callable[[Row], str], most_rows: int | None) -> list[Row]:
    """Take the same share of every kind, by the hash of the uid, at most `most_rows` in all."""
    if most_rows is None or most_rows >= len(rows):
        return rows
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["uid"].encode()).digest()):
        kinds[of(row)].append(row)
    share = most_rows / len(rows)
    taken = {row["uid"] for kind in kinds.values() for row in kind[: int(share * len(kind))]}
    return [row for row in rows if row["uid"] in taken]


def _rows(pairs: Path, name: str) -> list[Row]:
    return pq.read_table(pairs / name).to_pylist()


def _write_classes(folder: Path, web: Path, rows: list[Row], column: str) -> Path:
    classes = sorted({row[column] for row in rows})
    members = [(row, "cls", str(classes.index(row[column]))) for row in rows]
    _write_tar(folder, web, members)
    _write_lines(folder / "classnames.txt", [name.removeprefix("Grocery: ") for name in classes])
    _write_lines(folder / "zeroshot_classification_templates.txt", TEMPLATES)
    return folder


def _write_retrieval(folder: Path, web: Path, rows: list[Row]) -> Path:
    _write_tar(folder, web, [(row, "txt", row["caption"]) for row in rows])
    _write_lines(folder / "dataset_type.txt", ["retrieval"])
    return folder


def _write_tar(folder: Path, web: Path, members: Iterable[tuple[Row, str, str]]) -> None:
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (row, suffix, target) in enumerate(members):
            image = web / row["path"]
            for name, content in (
                (f"s{number:07d}.{suffix}", target.encode()),
                (f"s{number:07d}{image.suffix}", image.read_bytes()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    _write_lines(folder / "test" / "nshards.txt", ["1"])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="make and serve a web of real pairs")
    parser.add_argument("pairs", type=Path, help="folder with pairs.parquet, urls.parquet, zips/")
    parser.add_argument("web", type=Path, help="folder to make; must not exist")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    arguments.web.mkdir(parents=True)
    unpack(arguments.pairs, arguments.web)
    count = write_table(arguments.pairs, arguments.web, port=arguments.port)
    write_sets(arguments.pairs, arguments.web)
    with serving(arguments.web, arguments.port) as server:
        print(f"{count} pairs at {server.url}, interrupt to end", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
