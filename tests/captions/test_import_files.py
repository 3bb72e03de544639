"""Files that are no import. Oracle: one message that names the file and what is wrong with it."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuclip.captions.config import CaptionConfig
from neuclip.captions.import_files import ImportReader
from neuclip.foundation.errors import DataError


def read(one):
    config = CaptionConfig.model_validate({"imports": [one]})
    return list(ImportReader(config.imports[0], "caption.imports.0").rows())


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def write_table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


JSON = {"kind": "json", "source": "vecap"}
URL = "http://127.0.0.1/1.png"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("v.json", b"", "it is empty"),
        ("v.json", b" \n", "it is empty"),
        ("v.json", b"<!DOCTYPE html><html><title>Sign in</title>", "it is a web page"),
        ("v.json", f'{{"{URL}": "seen"'.encode(), "no '}' where one belongs"),
        ("v.json", f'{{"{URL}": "seen", }}'.encode(), "no JSON"),
        ("v.json", f'{{"{URL}": "seen"}} []'.encode(), "more after its end"),
        ("v.json", f'{{"{URL}": 5}}'.encode(), "holds 5, expected a text"),
        ("v.json", f'{{"{URL}": {{"a": 1}}}}'.encode(), "expected a text or a list of texts"),
        ("v.json", b"[1, 2]", "what is no object"),
        ("v.json", b'[{"url": "a"} {"url": "b"}]', "no ',' where one belongs"),
        ("v.json", b"[" * 100_000, "without end"),
        ("v.json", f'{{"{URL}": "'.encode() + b"x" * (1 << 25), "more than 16 MiB"),
        ("v.json", f'{{"{URL}": "seen"}}'.encode("utf-16"), "it is UTF-16"),
        ("v.json", b"\0" * 100, "NUL bytes"),
        ("v.json", b'{"link": "http://x", "text": "seen"}', "has the field 'caption'.*link, text"),
        ("v.json.gz", b"", "it is empty"),
        ("v.jsonl", b'{"url": "http://x", "text": "seen"}', "has the field 'caption'"),
    ],
)
def test_hostile_json_is_one_message(tmp_path, name, content, says):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=says):
        read({**JSON, "files": path})


@pytest.mark.parametrize(
    ("table", "lines", "says"),
    [
        (None, b"a\nb\n", "expected a table .* found none"),
        (b"url,caption\nu,c\n", None, "found none"),
        (b"", b"a\n", "it is empty"),
        (b"link,caption\nu,c\n", b"a\n", "has no column 'url'"),
        (b"url,caption\nu,c,d\n", b"a\n", "line 2 has 3 fields"),
        (b'url,caption\nu,"c\n', b"a\n", "close each quoted field"),
        (b"url,caption\nu,c\n", b"<html>\n", "it is a web page"),
        (b"url,caption\nu,c\n", "a\n".encode("utf-16"), "it is UTF-16"),
        (b"url,caption\nu,c\n", b"", "has 0 lines"),
        (b"url,caption\nu,c\n", b"x" * (1 << 25), "line 1 is longer than 16 MiB"),
        (b"url,caption\nu,c\n", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"http://x/,c\n", b"a\n", "set caption.imports.0.columns to the names"),
    ],
)
def test_hostile_lines_are_one_message(tmp_path, table, lines, says):
    one = {"kind": "lines", "source": "rewrite", "table": str(tmp_path / "t.csv")}
    one["files"] = [str(tmp_path / "l.txt")]
    for path, content in ((one["table"], table), (one["files"][0], lines)):
        if content is not None:
            write(Path(path), content)
    with pytest.raises(DataError, match=says):
        read(one)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"url": [5], "caption": ["a"]}, "'url' of row 0 .* holds 5, expected a key as text"),
        ({"url": [URL], "caption": [5]}, "'caption' of row 0 .* holds 5, expected a text"),
        ({"url": [URL], "caption": [{"a": "b"}]}, "expected a text or a list of texts"),
        ({"url": [[URL]], "caption": ["a"]}, "expected a key as text"),
        ({"url": [URL], "text": ["a"]}, "no column 'caption'"),
    ],
)
def test_a_table_of_other_types_is_one_message(tmp_path, columns, says):
    table = write_table(tmp_path / "t.parquet", **columns)
    with pytest.raises(DataError, match=says):
        read({"kind": "table", "source": "long", "table": table})


def test_a_uid_that_is_none_and_a_file_that_is_no_parquet(tmp_path):
    one = {"kind": "table", "source": "long", "table": str(tmp_path / "t.parquet")}
    write_table(tmp_path / "t.parquet", uid=["42"], caption=["a"])
    with pytest.raises(DataError, match="holds '42', expected a uid of 32 hex digits"):
        read({**one, "key": "uid"})
    write(tmp_path / "t.parquet", b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cannot read the table .*t.parquet"):
        read(one)
