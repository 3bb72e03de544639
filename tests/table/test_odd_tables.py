"""Odd tables, each with the number of its rows as a person counts them, or the words of the error it must give."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.demo_web import DEMO_RECIPE
from made.fetched import commit_fetched
from made.tables import committed_rows, plan_table, planned_rows, uid

from neuclip.acquire.config import AcquireConfig
from neuclip.acquired.listing import KnownSlice
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.ids import uid_of
from neuclip.journey import identify, run_stage
from neuclip.recipe import load_recipe
from neuclip.stages.manifest import read_manifest
from neuclip.table.rows import Row
from neuclip.table.slices import slices_of

A, B, C = "http://a/1", "http://a/2", "http://a/3"


def parquet(columns, **options) -> bytes:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def planned(path: Path, **settings) -> list[dict]:
    config = AcquireConfig(table=str(path), **settings)
    parts = plan_table(config, path.parent / "plan")
    rows = planned_rows(parts)
    assert sum(part.num_rows for part in parts) == len(rows)
    return rows


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


SOUND = {
    "a TSV field that opens with a quote": (
        "t.tsv",
        f'url\tcaption\n{A}\t"open\n{B}\ttwo\n{C}\tthree "\n',
        [(A, '"open'), (B, "two"), (C, 'three "')],
    ),
    "a TSV with one quote alone": (
        "t.tsv",
        f'url\tcaption\n{A}\t"\n{B}\t"\n',
        [(A, '"'), (B, '"')],
    ),
    "a TSV with whole quoted fields": ("t.tsv", f'url\tcaption\n{A}\t"x"\n', [(A, '"x"')]),
    "a TSV with commas and apostrophes": (
        "t.tsv",
        f"url\tcaption\n{A}\tit's, so\n",
        [(A, "it's, so")],
    ),
    "a TSV without a last line end": ("t.tsv", f"url\tcaption\n{A}\tx", [(A, "x")]),
    "a TSV with CR LF": ("t.tsv", f"url\tcaption\r\n{A}\tx\r\n{B}\ty\r\n", [(A, "x"), (B, "y")]),
    "a TSV with CR alone": ("t.tsv", f"url\tcaption\r{A}\tx\r{B}\ty\r", [(A, "x"), (B, "y")]),
    "a TSV with a CR in a text": ("t.tsv", f"url\tcaption\n{A}\tx\ry\n", [(A, "x\ry")]),
    "a TSV with blank lines": (
        "t.tsv",
        f"\nurl\tcaption\n\n{A}\tx\n  \n\n{B}\ty\n\n",
        [(A, "x"), (B, "y")],
    ),
    "a TSV row of empty fields": ("t.tsv", f"url\tcaption\n\t\n{A}\tx\n", [(None, None), (A, "x")]),
    "a TSV with a form feed and other spaces": (
        "t.tsv",
        f"url\tcaption\n{A}\ta\x0cb\x0bc\x85d\u2028e\u2029f\x1cg\n{B}\ty\n",
        [(A, "a\x0cb\x0bc\x85d\u2028e\u2029f\x1cg"), (B, "y")],
    ),
    "a TSV with a byte order mark": ("t.tsv", f"\ufeffurl\tcaption\n{A}\tx\n", [(A, "x")]),
    "a TSV in any order with other columns": (
        "t.tsv",
        f"n\tcaption\tother\turl\n1\tx\tz\t{A}\n",
        [(A, "x")],
    ),
    "a CSV with a comma, a quote and a line end in quotes": (
        "t.csv",
        f'url,caption\n{A},"one, ""two""\nthree"\n{B},y\n',
        [(A, 'one, "two"\nthree'), (B, "y")],
    ),
    "a CSV with CR LF inside and outside of quotes": (
        "t.csv",
        f'url,caption\r\n{A},"one\r\ntwo"\r\n{B},y\r\n',
        [(A, "one\r\ntwo"), (B, "y")],
    ),
    "a CSV with CR alone": ("t.csv", f"url,caption\r{A},x\r{B},y\r", [(A, "x"), (B, "y")]),
    "a CSV with a quote inside a field": (
        "t.csv",
        f'url,caption\n{A},5" nails\n{B},y\n',
        [(A, '5" nails'), (B, "y")],
    ),
    "a CSV with quoted names and a byte order mark": (
        "t.csv",
        f'\ufeff"url","caption"\n"{A}","x"\n',
        [(A, "x")],
    ),
    "a CSV whose lines all end with a comma": ("t.csv", f"url,caption,\n{A},x,\n", [(A, "x")]),
    "a CSV with blank lines": (
        "t.csv",
        f"url,caption\n\n{A},x\n   \n{B},y\n\n",
        [(A, "x"), (B, "y")],
    ),
    "a CSV with separators of other scripts": (
        "t.csv",
        f"url,caption\n{A},a\x0cb\x85c\u2028d\n",
        [(A, "a\x0cb\x85c\u2028d")],
    ),
    "a CSV with a field of blank lines": (
        "t.csv",
        f'url,caption\n{A},"\n\n\nx"\n',
        [(A, "\n\n\nx")],
    ),
    "a CSV without a last line end": ("t.csv", f'url,caption\n{A},"x"', [(A, "x")]),
    "JSON lines that leave out null": (
        "t.jsonl",
        lines({"url": A}, {"caption": "y", "url": B}, {"caption": "z"}),
        [(A, None), (B, "y"), (None, "z")],
    ),
    "JSON lines whose first has other keys": (
        "t.jsonl",
        lines({"n": 1}, {"url": A, "caption": "x"}),
        [(None, None), (A, "x")],
    ),
    "JSON lines with blank lines and spaces": (
        "t.jsonl",
        f'\n  {{"url": "{A}", "caption": "x"}}  \n\n\n{{"caption":"y","url":"{B}"}}',
        [(A, "x"), (B, "y")],
    ),
    "JSON lines with CR LF and a byte order mark": (
        "t.ndjson",
        "\ufeff"
        + lines({"url": A, "caption": "x"}, {"url": B, "caption": "y"}).replace("\n", "\r\n"),
        [(A, "x"), (B, "y")],
    ),
    "JSON lines with raw separators in a text": (
        "t.jsonl",
        f'{{"url": "{A}", "caption": "a\u2028b\u2029c\x85d"}}\n',
        [(A, "a\u2028b\u2029c\x85d")],
    ),
    "JSON lines with NaN for null": ("t.jsonl", f'{{"url": "{A}", "caption": NaN}}\n', [(A, None)]),
    "JSON lines with null for the uid": (
        "t.jsonl",
        lines({"url": A, "caption": "x", "uid": None}, {"url": B, "caption": "y"}),
        [(A, "x"), (B, "y")],
    ),
    "JSON lines with lists of captions": (
        "t.jsonl",
        lines({"url": A, "caption": ["x", None]}),
        [(A, "x")],
    ),
    "no JSON lines beside an empty line": (
        "t.jsonl",
        f'{{"url": "{A}", "caption": "x"}}\n\n',
        [(A, "x")],
    ),
    "two gzip members": (
        "t.tsv.gz",
        gzip.compress(f"url\tcaption\n{A}\tx\n".encode()) + gzip.compress(f"{B}\ty\n".encode()),
        [(A, "x"), (B, "y")],
    ),
    "a gzipped CSV": ("t.csv.gz", gzip.compress(f"url,caption\n{A},x\n".encode()), [(A, "x")]),
    "gzipped JSON lines": (
        "t.ndjson.gz",
        gzip.compress(lines({"url": A, "caption": "x"}).encode()),
        [(A, "x")],
    ),
    "a Parquet file of large texts": (
        "t.parquet",
        parquet(
            {"url": pa.array([A], pa.large_string()), "caption": pa.array(["x"], pa.large_string())}
        ),
        [(A, "x")],
    ),
    "a Parquet file of views": (
        "t.parquet",
        parquet(
            {"url": pa.array([A], pa.string_view()), "caption": pa.array(["x"], pa.string_view())}
        ),
        [(A, "x")],
    ),
    "a Parquet file of bytes": (
        "t.parquet",
        parquet(
            {"url": pa.array([A.encode()]), "caption": pa.array(["é".encode()], pa.large_binary())}
        ),
        [(A, "é")],
    ),
    "a Parquet file of dictionaries": (
        "t.parquet",
        parquet(
            {
                "url": pa.array([A, B, None]).dictionary_encode(),
                "caption": pa.array(["x", None, "x"]).dictionary_encode(),
            }
        ),
        [(A, "x"), (B, None), (None, "x")],
    ),
    "a Parquet file of lists": (
        "t.parquet",
        parquet({"url": [A, B, C], "caption": [["x", "y"], None, []]}),
        [(A, "x"), (B, None), (C, None)],
    ),
    "a Parquet file of row groups of one row": (
        "t.parquet",
        parquet({"url": [A, B, C], "caption": ["x", "y", "z"]}, row_group_size=1),
        [(A, "x"), (B, "y"), (C, "z")],
    ),
    "a Parquet file with nested columns beside": (
        "t.parquet",
        parquet({"meta": [{"url": "no", "n": [1]}], "url": [A], "caption": ["x"], "url.x": ["no"]}),
        [(A, "x")],
    ),
    "a Parquet file with deltas": (
        "t.parquet",
        parquet(
            {"url": [A, B], "caption": ["x", "y"]},
            use_dictionary=False,
            column_encoding={"url": "DELTA_BYTE_ARRAY", "caption": "DELTA_LENGTH_BYTE_ARRAY"},
        ),
        [(A, "x"), (B, "y")],
    ),
    "a Parquet file of nulls": (
        "t.parquet",
        parquet({"url": [A, B], "caption": pa.nulls(2)}),
        [(A, None), (B, None)],
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_every_row_of_an_odd_table_is_there(tmp_path, name):
    file, content, expected = SOUND[name]
    rows = planned(write(tmp_path, file, content))
    found = [(row["url"], row["captions"].get("alt", [None])[0]) for row in rows]
    assert found == expected
    assert [row["uid"] for row in rows] == [uid_of(url or "", text or "") for url, text in expected]


LATIN = f"url,caption\n{A},café\n".encode("latin-1")

REFUSED = {
    "a CSV with a quote never closed": (
        "t.csv", f'url,caption\n{A},x\n{B},"open\n{C},z\n', {}, ["line 3", "RFC 4180"]),
    "a CSV with a quote closed rows later": (
        "t.csv", f'url,caption\n{A},"open\n{B},two\n{C},three"\n', {}, ["line 2", "line 3", "close the quote"]),
    "a CSV with a quote closed in the next row": (
        "t.csv", f'url,caption\n{A},"open\n{B},end"\n', {}, ["line 2", "line 3", "close the quote"]),
    "a CSV with a quote closed by another's": (
        "t.csv", f'url,caption\n{A},"open\n{B},"two"\n', {}, ["line 2", "RFC 4180"]),
    "a CSV of three columns that swallows": (
        "t.csv", f'n,url,caption\n1,{A},"open\n2,{B},two\n3,{C},"\n', {}, ["line 2", "line 3"]),
    "a CSV with text after a quoted field": (
        "t.csv", f'url,caption\n{A},"x" y\n', {}, ["line 2", "RFC 4180"]),
    "a CSV row too long": ("t.csv", f"url,caption\n{A},x\n{B},y,z\n", {}, ["line 3", "3 fields, expected 2"]),
    "a CSV row too short": ("t.csv", f"url,caption\n{A}\n", {}, ["line 2", "1 fields, expected 2"]),
    "a CSV row with a comma at its end": ("t.csv", f"url,caption\n{A},x,\n", {}, ["line 2", "3 fields"]),
    "a TSV row with another tab": ("t.tsv", f"url\tcaption\n{A}\tx\ty\n", {}, ["line 2", "3 fields", "as CSV"]),
    "a TSV with a line end in quotes": (
        "t.tsv", f'url\tcaption\n{A}\t"x\ny"\n', {}, ["line 3", "1 fields", "quotes are text"]),
    "a CSV named TSV": ("t.tsv", f"url,caption\n{A},x\n", {}, ["'url'", "url,caption"]),
    "one column": ("t.csv", f"url\n{A}\n", {}, ["'caption'", "its columns are url"]),
    "an empty CSV": ("t.csv", "", {}, ["it is empty"]),
    "an empty gzipped TSV": ("t.tsv.gz", gzip.compress(b""), {}, ["it is empty"]),
    "a header alone": ("t.csv", "url,caption\n", {}, ["has no rows"]),
    "blank lines alone": ("t.jsonl", "\n\n", {}, ["has no rows"]),
    "a Parquet file without rows": ("t.parquet", parquet({"url": pa.array([], pa.string())}), {}, ["has no rows"]),
    "no header": ("t.tsv", f"x\t{A}\ny\t{B}\n", {}, [A, "acquire.columns", "[caption, url]"]),
    "no header, in quotes": ("t.csv", f'"{A}","x"\n', {}, [A, "acquire.columns"]),
    "a Parquet file written without a header": (
        "t.parquet", parquet({A: [B], "x": ["y"]}), {}, [A, "write it again with names"]),
    "columns by other names": (
        "t.csv", f"URL,TEXT\n{A},x\n", {},
        ["'url'", "acquire.url_column=URL", "'caption'", "acquire.caption_column=TEXT"]),
    "columns in mixed case": (
        "t.jsonl", lines({"Url": A, "Text": "x"}), {}, ["acquire.url_column=Url", "acquire.caption_column=Text"]),
    "columns of which several are missing": (
        "t.csv", f"url,caption,Score\n{A},x,1\n",
        {"keep_columns": ["score"], "caption_columns": {"long": "txet"}, "uid_column": "key"},
        ["'score'", "acquire.keep_columns.0=Score", "'txet'", "'key'", "acquire.uid_column"]),
    "a column there twice": ("t.csv", f"url,caption,url\n{A},x,{B}\n", {}, ["two columns", "'url'"]),
    "a header in Latin-1": ("t.csv", b"url,caption,l\xe9gende\n", {}, ["header line is not UTF-8", "iconv"]),
    "UTF-16": ("t.csv", f"url,caption\n{A},x\n".encode("utf-16"), {}, ["UTF-16", "iconv"]),
    "UTF-16 without a mark": ("t.tsv", f"url\tcaption\n{A}\tx\n".encode("utf-16-le"), {}, ["UTF-16", "iconv"]),
    "UTF-32": ("t.jsonl", lines({"url": A}).encode("utf-32"), {}, ["UTF-32", "iconv"]),
    "gzip without its name": ("t.csv", gzip.compress(LATIN), {}, ["gzip", ".gz"]),
    "the name of gzip alone": ("t.csv.gz", f"url,caption\n{A},x\n", {}, ["cannot read", "t.csv.gz"]),
    "a gzip that ends early": (
        "t.tsv.gz", gzip.compress(np.random.default_rng(0).bytes(9999))[:5000], {}, ["cannot read"]),
    "a broken gzip": (
        "t.jsonl.gz", gzip.compress(lines({"url": A}).encode())[:-6] + b"\0" * 6, {}, ["cannot read"]),
    "a Parquet file named CSV": ("t.csv", parquet({"url": [A]}), {}, ["Parquet"]),
    "a pointer of Git LFS": ("t.csv", "version https://git-lfs.github.com/spec/v1\n", {}, ["Git LFS"]),
    "a JSON array": ("t.jsonl", f'[{{"url": "{A}"}}]\n', {}, ["line 1", "one JSON object a line"]),
    "indented JSON": ("t.jsonl", json.dumps({"url": A}, indent=1), {}, ["line 1", "is not JSON"]),
    "a broken line of JSON": ("t.jsonl", lines({"url": A, "caption": "x"}) + '{"url', {}, ["line 2", "is not JSON"]),
    "JSON nested without end": ("t.jsonl", "[" * 100_000 + "\n", {}, ["line 1", "is not JSON"]),
    "JSON lines of which one has no uid": (
        "t.jsonl", lines({"url": A, "uid": uid(1)}, {"url": B, "caption": "x"}), {}, ["line 2", "no 'uid'", "line 1"]),
    "JSON lines of which the last has a uid": (
        "t.jsonl", lines({"url": A}, {"url": B, "caption": "x", "uid": uid(1)}), {}, ["line 2", "a 'uid'", "line 1"]),
    "JSON lines without any caption": ("t.jsonl", lines({"url": A}, {"url": B}), {}, ["'caption'", "columns are url"]),
    "a JSON number for a caption": ("t.jsonl", lines({"url": A, "caption": 7}), {}, ["line 1", "7"]),
    "a JSON object for a URL": ("t.jsonl", lines({"url": {"x": 1}, "caption": "x"}), {}, ["line 1", "expected a URL"]),
    "a line without end": ("t.jsonl.gz", gzip.compress(b'{"url": "' + b"x" * (18 << 20)), {}, ["line 1", "16 MiB"]),
    "a CSV field without end": (
        "t.csv.gz", gzip.compress(b'url,caption\nhttp://a/1,"' + (b"x" * 999 + b"\n") * (1 << 15)), {}, ["line 2"]),
    "columns for a Parquet file": (
        "t.parquet", parquet({"url": [A], "caption": ["x"]}), {"columns": ["caption", "url"]}, ["acquire.columns"]),
    "columns for a file with a header": (
        "t.tsv", f"caption\turl\nx\t{A}\n", {"columns": ["caption", "url"]},
        ["first line", "leave acquire.columns out"]),
    "columns of another number": (
        "t.tsv", f"x\t{A}\ny\t{B}\tz\n", {"columns": ["caption", "url"]}, ["line 2", "3 fields, expected 2"]),
    "columns without one that is used": (
        "t.tsv", f"x\t{A}\n", {"columns": ["text", "url"]}, ["'caption'", "acquire.caption_column=text"]),
    "a kept column of numbers and texts": (
        "t.jsonl", lines({"url": A, "caption": "x", "k": 1}, {"url": B, "caption": "y", "k": "z"}),
        {"keep_columns": ["k"], "partition_rows": 1}, ["acquire.keep_columns"]),
    "a uid there twice": (
        "t.jsonl", lines(*[{"url": A, "caption": "x", "uid": uid(1)}] * 2), {}, ["1 rows", "keep_first"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_table_is_refused_in_words(tmp_path, name):
    file, content, settings, words = REFUSED[name]
    path = write(tmp_path, file, content)
    with pytest.raises(DataError) as error:
        planned(path, **settings)
    message = str(error.value)
    for word in [*words, path.name] if "keep_columns" not in words[0] else words:
        assert word in message
    assert len(message) < 1200
    assert not any(word in message for word in ("NoneType", "dict", "Traceback"))


def test_tables_of_every_kind_in_one_folder_leave_a_ledger_of_all_their_rows(tmp_path):
    """Oracle: the rows counted by hand. The stage is committed over made pictures."""
    table = tmp_path / "table"
    table.mkdir()
    count = 0
    for number, (file, content, expected) in enumerate(SOUND.values()):
        suffix = file.partition(".")[2]
        write(table, f"{number:03d}.{suffix}", content)
        count += len(expected)
    fields = {
        "root": str(tmp_path / "lake"),
        "acquire": {"table": str(table), "partition_rows": 7, "max_failed_share": 1.0},
        "evaluate.sets": [],
        "curate.decontaminate": None,
    }
    recipe = load_recipe(DEMO_RECIPE, fields)
    commit_fetched(recipe.acquire, recipe.root)
    run_stage(recipe, "acquire")
    ledger = read_manifest(identify(recipe)["acquire"].uri).ledger
    pairs = {(url, text) for _, _, expected in SOUND.values() for url, text in expected}
    fetched = {pair for pair in pairs if pair[0] is not None}
    assert ledger.entered == count
    assert ledger.out == len(fetched)
    assert ledger.dropped["repeated_row"] == count - len(pairs)


@pytest.mark.parametrize("on_duplicate", ["error", "keep_first"])
def test_a_row_repeated_exactly_is_kept_once(tmp_path, on_duplicate):
    table = tmp_path / "table"
    table.mkdir()
    write(table, "a.jsonl", lines({"url": A, "caption": "x"}, {"url": A, "caption": "y"}))
    write(table, "b.csv", f"caption,url,more\nx,{A},1\nz,{A},2\nz,{A},3\n")
    rows = planned(table, on_duplicate_uid=on_duplicate, partition_rows=2)
    assert [row["reason"] for row in rows] == [None, None, "repeated_row", None, "repeated_row"]


def test_uids_that_a_table_brings_are_never_replaced(tmp_path):
    table = tmp_path / "table"
    table.mkdir()
    write(table, "a.jsonl", lines({"url": A, "caption": "x"}))
    write(table, "b.jsonl", lines(*[{"caption": "x", "url": A, "uid": uid(n)} for n in (5, 6)]))
    rows = planned(table)
    assert [row["uid"] for row in rows] == [uid_of(A, "x"), uid(5), uid(6)]
    assert [row["reason"] for row in rows] == [None] * 3


def test_files_of_one_table_may_have_other_columns_in_another_order(tmp_path):
    table = tmp_path / "table"
    table.mkdir()
    write(table, "a.csv", f"url,caption,n\n{A},x,1\n")
    write(table, "b.tsv", f"more\tcaption\turl\n\ty\t{B}\n")
    write(table, "c.parquet", parquet({"caption": ["z"], "url": [C]}))
    assert [row["url"] for row in planned(table)] == [A, B, C]
    write(table, "d.csv", f"url,text\n{C},w\n")
    with pytest.raises(DataError, match=r"d\.csv has no column 'caption'.*caption_column=text"):
        planned(table)


@pytest.mark.parametrize("suffix", ["tsv", "csv", "tsv.gz"])
def test_a_table_without_header_like_cc3m(tmp_path, suffix):
    mark = "," if suffix == "csv" else "\t"
    content = f"a picture{mark}{A}\nanother{mark}{B}\n".encode()
    path = write(
        tmp_path, f"t.{suffix}", gzip.compress(content) if suffix.endswith("gz") else content
    )
    rows = planned(path, columns=["caption", "url"])
    assert [(row["url"], row["captions"]["alt"]) for row in rows] == [
        (A, ["a picture"]),
        (B, ["another"]),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"columns": ["url"]},
        {"columns": ["url", "url"]},
        {"columns": ["caption", "http://a/1"]},
        {"columns": ["caption", ""]},
        {"columns": ["caption", "url"], "table": None, "adopt": "shards"},
    ],
)
def test_names_of_columns_that_cannot_be(fields):
    with pytest.raises(ConfigError, match="columns"):
        load_recipe(DEMO_RECIPE, {"acquire": {"table": "t", **fields}})


def test_the_names_of_columns_fetch_nothing_again(tmp_path):
    with_header = write(tmp_path, "a.tsv", f"caption\turl\nx\t{A}\n")
    without = write(tmp_path, "b.tsv", f"x\t{A}\n")
    keys = []
    for path, names in ((with_header, None), (without, ["caption", "url"])):
        config = AcquireConfig(table=str(path), columns=names)
        keys += [part.key for part in plan_table(config, tmp_path / path.stem)]
    assert keys[0] == keys[1]


def test_blank_texts_are_none(tmp_path):
    """Oracle: Python's own notion of white space."""
    blanks = ["", " ", "\t\n", "\u00a0\u3000", "\x1f\x85\u2028"]
    content = lines(
        *[{"url": A, "caption": [blank, f" {n} ", None]} for n, blank in enumerate(blanks)]
    )
    rows = planned(write(tmp_path, "t.jsonl", content + lines({"url": B, "caption": blanks})))
    assert [row["captions"] for row in rows] == [{"alt": [f" {n} "]} for n in range(5)] + [{}]
    assert [row["unusable"] for row in rows] == [{}] * 6
    assert [row["reason"] for row in rows] == [None] * 6


def test_text_that_is_none_costs_itself_only(tmp_path):
    content = (
        f"url\tcaption\n{A}\tn\0l\n{B}\t".encode()
        + b"caf\xe9\n"
        + f"{C}\tx\nhttp://\0\ty\n".encode()
    )
    rows = planned(write(tmp_path, "t.tsv", content))
    assert [row["reason"] for row in rows] == [None, None, None, "bad_url"]
    assert [row["captions"] for row in rows] == [
        {"alt": ["n\0l"]},
        {},
        {"alt": ["x"]},
        {"alt": ["y"]},
    ]
    assert [row["unusable"] for row in rows] == [{}, {"alt": 1}, {}, {}]


def test_an_endless_caption_costs_itself_only_and_an_endless_address_its_row(tmp_path):
    """100,000 characters are the most that a text may have."""
    most, long = "x" * 100_000, "x" * 100_001
    rows = planned(
        write(
            tmp_path,
            "t.jsonl",
            lines(
                {"url": A, "caption": long, "more": ["y", long, "z", long]},
                {"url": B, "caption": most, "more": long},
                {"url": A + long, "caption": "y"},
            ),
        ),
        caption_columns={"words": "more"},
    )
    assert [row["reason"] for row in rows] == [None, None, "bad_url"]
    assert [row["captions"] for row in rows] == [
        {"words": ["y", "z"]},
        {"alt": [most]},
        {"alt": ["y"]},
    ]
    assert [row["unusable"] for row in rows] == [{"alt": 1, "words": 2}, {"words": 1}, {}]
    assert len(rows[2]["url"]) == 8_000


def test_a_row_with_a_broken_text_is_fetched_and_the_text_counted(tmp_path):
    """It goes on with the texts that it has; a pair without any is dropped by curate."""
    long = "x" * 200_000
    table = write(
        tmp_path,
        "t.jsonl",
        lines(
            {"url": A, "caption": "a caption", "more": ["y", long]},
            {"url": B, "caption": "half \ud83d", "more": ["z"]},
            {"url": C, "caption": long, "more": long},
        ),
    )
    fields = {
        "root": str(tmp_path / "lake"),
        "acquire": {"table": str(table), "caption_columns": {"words": "more"}},
        "evaluate.sets": [],
        "curate": {"decontaminate": None, "rules": []},
    }
    recipe = load_recipe(DEMO_RECIPE, fields)
    commit_fetched(recipe.acquire, recipe.root)
    acquired = run_stage(recipe, "acquire").manifest
    assert (acquired.ledger.entered, acquired.ledger.out, acquired.ledger.dropped) == (3, 3, {})
    assert acquired.summary["texts"] == {
        "alt": {"texts": 3, "unusable": 2},
        "words": {"texts": 4, "unusable": 2},
    }
    rows = committed_rows(identify(recipe)["acquire"].uri)
    assert [row["status"] for row in rows] == ["success"] * 3
    assert [row["captions"] for row in rows] == [
        {"alt": ["a caption"], "words": ["y"]},
        {"words": ["z"]},
        {},
    ]
    assert [row["unusable"] for row in rows] == [{"words": 1}, {"alt": 1}, {"alt": 1, "words": 1}]
    run_stage(recipe, "score")
    curated = run_stage(recipe, "curate").manifest
    assert curated.ledger.dropped == {"no_caption": 1}
    verdicts = pq.read_table(f"{identify(recipe)['curate'].uri}/verdicts.parquet").to_pylist()
    assert [row["reason"] for row in verdicts] == [None, None, "no_caption"]
    told = run_stage(recipe, "caption").manifest
    assert told.ledger.out == 2
    assert {name: counts["texts"] for name, counts in told.summary["sources"].items()} == {
        "alt": 1,
        "words": 2,
    }
    assert {name: counts["unusable"] for name, counts in told.summary["sources"].items()} == {
        "alt": 1,
        "words": 1,
    }


def test_kept_columns_have_one_type_in_all_partitions(tmp_path):
    values = [1, None, 2.5, None]
    path = write(
        tmp_path,
        "t.jsonl",
        lines(*[{"url": A, "caption": f"{n}", "k": value} for n, value in enumerate(values)]),
    )
    config = AcquireConfig(table=str(path), keep_columns=["k"], partition_rows=1)
    parts = plan_table(config, tmp_path / "plan")
    tables = [pq.read_table(part.columns_path) for part in parts]
    assert {str(table.schema.field("k").type) for table in tables} == {"double"}
    assert [table["k"].to_pylist() for table in tables] == [[value] for value in values]


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path, caplog):
    table = tmp_path / "table"
    table.mkdir()
    write(table, "a.jsonl", lines({"url": A, "caption": "x"}))
    write(table, "b.csv.zst", b"")
    assert len(planned(table)) == 1
    assert "b.csv.zst" in caplog.text


def test_rows_of_much_text_make_smaller_partitions():
    rows = [Row(uid(n), A, {"alt": ["x" * 100_000]}, None) for n in range(2_000)]
    sizes = [len(found) for found in slices_of(iter(rows), {}, lambda _: "", partition_rows=10_000)]
    assert sum(sizes) == 2_000
    assert max(sizes) < 700


def test_another_column_of_much_text_cuts_no_partition_anew(tmp_path):
    """A first run would have cut such rows; they are cut along what is known."""
    rows = [{"uid": uid(n), "url": f"http://a/{n}", "caption": "x"} for n in range(700)]
    plain = write(tmp_path, "t.parquet", parquet(pa.Table.from_pylist(rows)))
    config = AcquireConfig(table=str(plain), partition_rows=1_000)
    (before,) = plan_table(config, tmp_path / "plan")
    known = {before.first_uid: [KnownSlice(before.num_rows, before.key)]}
    longer = [{**row, "more": "y" * 100_000} for row in rows]
    write(tmp_path, "t.parquet", parquet(pa.Table.from_pylist(longer)))
    config = config.model_copy(update={"caption_columns": {"words": "more"}})
    (after,) = plan_table(config, tmp_path / "plan", known=known)
    assert (after.key, after.num_rows) == (before.key, 700)
    assert after.texts_key != before.texts_key
    assert len(plan_table(config, tmp_path / "plan")) == 2


MEASURED = """
import resource, sys
from pathlib import Path
import pyarrow.parquet as pq
from neuclip.acquired.refusals import Refusals
from neuclip.table.config import SourceConfig
from neuclip.table.plan import plan

for path in sorted(Path(sys.argv[1]).glob("t*")):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = plan(
        SourceConfig(table=str(path)),
        fetch={},
        partition_rows=10_000,
        refused=Refusals(),
        folder=Path(sys.argv[1], "plan"),
    )
    reasons = {row["reason"] for part in parts for row in part.rows()}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    texts = [row for part in parts for row in pq.read_table(part.texts_path).to_pylist()]
    usable = sum(len(texts) for row in texts for _, texts in row["captions"])
    lost = sum(count for row in texts for _, count in row["unusable"])
    print(path.name, sum(part.num_rows for part in parts), *reasons, usable, lost, grown // 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_is_bounded_by_bytes_not_by_rows(tmp_path):
    """Oracle: the resident memory of a process that plans tables of a few kB that say gigabytes."""
    megabyte, count = "x" * (1 << 20), 3_000
    urls = [f"http://a/{n}" for n in range(count)]
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [megabyte])
    unused = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 100_000])
    few = {"url": urls[:200], "caption": [megabyte] * 200}
    tables = {
        "t0-repeated.parquet": parquet({"url": urls, "caption": texts}, compression="zstd"),
        "t1-unused.parquet": parquet(
            {
                "url": [f"http://b/{n}" for n in range(20_000)],
                "caption": ["y"] * 20_000,
                "html": unused,
            }
        ),
        "t2-deltas.parquet": parquet(
            few, use_dictionary=False, column_encoding={"caption": "DELTA_BYTE_ARRAY"}
        ),
        "t3-plain.parquet": parquet(few, use_dictionary=False, compression="zstd"),
        "t6-lists.parquet": parquet({"url": urls[:300], "caption": [[megabyte, "y"]] * 300}),
        "t7-long.parquet": parquet(
            {
                "url": urls,
                "caption": pa.DictionaryArray.from_arrays(
                    pa.array([0] * count, pa.int32()), ["x" * 30_000_000]
                ),
            },
            dictionary_pagesize_limit=1 << 30,
        ),
        "t4-huge.parquet": parquet({"url": [A], "caption": ["x" * 100_000_000]}),
        "t5-many.jsonl.gz": gzip.compress(
            b"".join(
                b'{"url": "%s", "caption": "y", "html": "%s"}\n' % (u.encode(), b"x" * 100_000)
                for u in urls
            )
        ),
    }
    for name, content in tables.items():
        write(tmp_path, name, content)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert {name: words[:4] for name, words in found.items()} == {
        "t0-repeated.parquet": ["3000", "None", "0", "3000"],
        "t1-unused.parquet": ["20000", "None", "20000", "0"],
        "t2-deltas.parquet": ["200", "None", "0", "200"],
        "t3-plain.parquet": ["200", "None", "0", "200"],
        "t4-huge.parquet": ["1", "None", "0", "1"],
        "t6-lists.parquet": ["300", "None", "300", "300"],
        "t7-long.parquet": ["3000", "None", "0", "3000"],
        "t5-many.jsonl.gz": ["3000", "None", "3000", "0"],
    }
    assert len(tables["t0-repeated.parquet"]) < 100_000
    assert all(int(words[4]) < 700 for words in found.values()), found
