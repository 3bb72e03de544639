"""Columns of texts come, change and go without a download. Oracle: the requests that a server counts."""

from pathlib import Path

import pytest
from made.tables import committed_rows, uid, write_table

from neuclip.acquire.config import AcquireConfig
from neuclip.demo.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROWS = 7


def alt_of(number: int) -> str:
    return f"pair {number}"


def long_of(number: int) -> list[str]:
    return [f"a long text of {number}", f"and another of {number}"]


def rows_to(url: str, **columns) -> list[dict]:
    """Return rows of which one is not there; `columns` give further ones by the number of the row."""
    return [
        {
            "uid": uid(n),
            "url": f"{url}/{'nothing' if n == 4 else 'good'}.jpg?{n}",
            "caption": alt_of(n),
            **{name: value_of(n) for name, value_of in columns.items()},
        }
        for n in range(ROWS)
    ]


def parts_of(root: Path, parts: list[str]) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for part in parts
        for path in sorted((root / "acquire" / "parts" / part).iterdir())
    }


def test_columns_of_texts_come_change_and_go_and_nothing_is_asked_for(acquire, pictures, tmp_path):
    table, root = tmp_path / "t.parquet", tmp_path / "root"
    endless = "x" * 100_001
    requests: list[str] = []

    def run(rows: list[dict], **settings):
        config = AcquireConfig(
            table=write_table(table, rows),
            partition_rows=3,
            image_size=32,
            processes=1,
            threads=4,
            egress={"allow_hosts": ["127.0.0.1"], "retries": 0, "host_requests_per_s": 0},
            **settings,
        )
        manifest = acquire(config, root)
        return manifest, committed_rows(f"{root}/acquire/{manifest.key}")

    with serving(pictures, 0, on_request=requests.append) as server:
        url = server.url
        first, _ = run(rows_to(url))
        assert len([path for path in requests if "robots" not in path]) >= ROWS
        assert (len(first.parts), first.ledger.out) == (3, ROWS - 1)
        before, asked = parts_of(root, first.parts), len(requests)
        texts = {uid(n): {"alt": [alt_of(n)]} for n in range(ROWS)}
        words = {"caption_columns": {"words": "long"}}
        told = {n: {**texts[uid(n)], "words": long_of(n)} for n in range(ROWS)}
        cases = {
            "a column comes": (rows_to(url, long=long_of), words, told),
            "one more comes": (
                rows_to(url, long=long_of, title=lambda n: f"title {n}"),
                {"caption_columns": {"words": "long", "title": "title"}},
                {n: {**told[n], "title": [f"title {n}"]} for n in range(ROWS)},
            ),
            "its texts change": (
                rows_to(url, long=lambda n: ["new"] if n == 5 else long_of(n)),
                words,
                {**told, 5: {**told[5], "words": ["new"]}},
            ),
            "its texts are lost": (
                rows_to(url, long=lambda n: endless),
                words,
                {n: {"alt": [alt_of(n)]} for n in range(ROWS)},
            ),
            "the alt texts change": (
                rows_to(url, caption=lambda n: f"another text {n}"),
                {},
                {n: {"alt": [f"another text {n}"]} for n in range(ROWS)},
            ),
            "the alt texts are of another column": (
                rows_to(url, long=long_of),
                {"caption_column": "long"},
                {n: {"alt": long_of(n)} for n in range(ROWS)},
            ),
            "it goes from the recipe": (
                rows_to(url, long=long_of),
                {},
                {n: {"alt": [alt_of(n)]} for n in range(ROWS)},
            ),
            "it goes from the table": (
                rows_to(url, other=str),
                {},
                {n: {"alt": [alt_of(n)]} for n in range(ROWS)},
            ),
        }
        for name, (rows, settings, expected) in cases.items():
            manifest, found = run(rows, **settings)
            assert requests[asked:] == [], name
            assert manifest.parts == first.parts, name
            assert manifest.ledger == first.ledger, name
            assert manifest.summary["reused"] == 3, name
            assert {row["uid"]: row["captions"] for row in found} == {
                uid(n): of_row for n, of_row in expected.items()
            }, name
            lost = {"words": 1} if name == "its texts are lost" else {}
            assert [row["unusable"] for row in found] == [lost] * ROWS, name
            counts = {
                source: sum(len(of_row.get(source, [])) for of_row in expected.values())
                for source in {source for of_row in expected.values() for source in of_row}
            }
            if lost:
                counts["words"] = ROWS
            assert {
                source: of_source["texts"]
                for source, of_source in manifest.summary["texts"].items()
            } == counts, name
        assert parts_of(root, first.parts) == before
