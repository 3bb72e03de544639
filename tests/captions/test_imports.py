"""Texts of files that others published. Oracle: a join of Python dicts, and texts written by hand."""

import gzip
import json
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired
from pydantic import ValidationError

from neuclip.captions.config import CaptionConfig
from neuclip.captions.run import run_caption
from neuclip.curate.config import CurateConfig
from neuclip.curate.rules import CaptionCharacters
from neuclip.curate.run import run_curate
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.progress import silent
from neuclip.scoring.caption_stage import CAPTION
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import StageIdentity, commit_stage

ANIMALS = ["cat", "dog", "bird", "horse", "fish", "cow", "sheep", "goat"]
PLACES = ["house", "river", "garden", "street", "field", "forest", "beach"]


def caption_of(number: int) -> str:
    return f"{ANIMALS[number % 8]} {number} near the {PLACES[number % 7]}"


def path_of(number: int) -> str:
    return f"{number % 7}/{number}.jpg"


PAIRS = [
    *(Pair(n, {"alt": [caption_of(n)], "tags": [f"tag {n}"]}) for n in range(6)),
    Pair(6, {"alt": ["bad"]}),
    Pair(7, {"alt": [caption_of(7)]}, failed="http_404"),
    Pair(8, {"tags": ["no alt"]}),
    Pair(9, {"alt": [caption_of(9)]}, url="http://127.0.0.1/0.png"),
]
KEPT = [PAIRS[n] for n in (0, 1, 2, 3, 4, 5, 8, 9)]
PARTITIONS = [PAIRS[:4], PAIRS[4:]]
MANY = [Pair(n, {"alt": [caption_of(n)]}) for n in range(300)]


@dataclass(frozen=True)
class Curated:
    root: str
    acquire: str
    curate: str


def curated(root, partitions, columns):
    """Commit acquire and curate."""
    acquire = commit_acquired(root, partitions, "acquired", columns)
    rules = CurateConfig(rules=[CaptionCharacters(min=5)])
    identity = StageIdentity("curate", 1, "key", {}, {}, str(root))
    commit_stage(
        identity, lambda w: run_curate(rules, acquire_uri=acquire, workspace=w, progress=silent)
    )
    return Curated(str(root), acquire, identity.uri)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    columns = [{"number": [pair.number for pair in pairs]} for pairs in PARTITIONS]
    return curated(tmp_path_factory.mktemp("few"), PARTITIONS, columns)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    columns = [{"path": [path_of(pair.number) for pair in MANY]}]
    return curated(tmp_path_factory.mktemp("many"), [MANY], columns)


def gather(of, imports, **caption):
    """Commit the caption stage; return its URI."""
    identity = StageIdentity("caption", 1, uuid.uuid4().hex, {}, {}, of.root)
    config = CaptionConfig.model_validate({"imports": imports, **caption})
    places = {"root": of.root, "acquire_uri": of.acquire, "curate_uri": of.curate}
    commit_stage(identity, lambda w: run_caption(config, **places, workspace=w, progress=silent))
    return identity.uri


def parts_of(uri, source):
    rows = pq.read_table(f"{uri}/parts.parquet").to_pylist()
    return [row for row in rows if row["source"] == source]


def texts_of(uri, source):
    """Return uid -> texts of a source."""
    found = {}
    for row in parts_of(uri, source):
        texts = pq.read_table(Path(uri).parent / "parts" / row["part"] / "texts.parquet")
        for text in texts.to_pylist():
            assert text["k"] == len(found.setdefault(text["uid"], []))
            found[text["uid"]].append(text["text"])
    return found


def plain(value):
    return " ".join(value.split()).lower()


def told(uri, source):
    return read_manifest(uri).summary["imports"][source]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def write_table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    ("key", "most"), [("url", 16), ("url", 2), ("uid", 2), ("alt", 2), ("number", 16)]
)
def test_every_text_of_a_table_has_one_outcome(few, tmp_path, key, most):
    keys = {
        "url": lambda pair: f" {pair.url} ",
        "uid": lambda pair: pair.uid.upper(),
        "alt": lambda pair: f"{pair.captions.get('alt', ['without'])[0]}\n",
        "number": lambda pair: str(pair.number),
    }
    known = {pair.number: keys[key](pair) for pair in PAIRS}
    rows = [
        (known[0], ["first", "second"]),
        (known[1], ["one", None, " "]),
        (known[1], ["two", "one", "three"]),
        (known[6], ["of a pair that is not kept"]),
        (known[7], ["of a pair that was not fetched", "twice"]),
        ("f" * 32, ["of a pair that is not there"]),
        (None, ["without a key"]),
        (known[5], ["x" * 100_001, "in order"]),
        (known[2], None),
    ]
    table = write_table(
        tmp_path / "t.parquet", my_key=[k for k, _ in rows], long=[texts for _, texts in rows]
    )
    one = {"kind": "table", "source": "long", "table": table, "key": key, "key_column": "my_key"}
    uri = gather(few, [{**one, "text_columns": ["long"]}], max_per_source=most)

    expected, counts = {}, Counter()
    seen: dict[str, list[str]] = {}
    for value, texts in rows:
        of_key = [pair for pair in PAIRS if value and plain(keys[key](pair)) == plain(value)]
        kept = [pair for pair in of_key if pair in KEPT]
        of_this = seen.setdefault(plain(value or ""), [])
        for text in texts or [None]:
            reasons = {
                "no_key": value is None,
                "blank": text is None or not text.strip(),
                "unusable": len(text or "") > 100_000,
                "unknown_key": not of_key,
                "not_kept": not kept,
                "repeated": text in of_this,
                "over_max_per_source": len(of_this) == most,
                "imported": True,
            }
            reason = next(name for name, holds in reasons.items() if holds)
            counts[reason] += 1
            if reason == "imported":
                of_this.append(text)
                for pair in kept:
                    expected.setdefault(pair.uid, []).append(text)
    assert texts_of(uri, "long") == expected
    assert told(uri, "long") == {
        "in": sum(counts.values()),
        **counts,
        "pairs_without": len(KEPT) - len(expected),
    }
    assert {pair["part"] for pair in parts_of(uri, "tags")}, "the table's own sources stay"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("v.json", "mapping"), ("v.json", "list"), ("v.json", "lines")),
        *(("v.json.gz", "mapping"), ("v.jsonl", "lines"), ("folder", "mapping")),
    ],
)
def test_captions_of_veclip(few, tmp_path, name, form):
    """VeCLIP's files are one object each, web link -> caption; duplicates of a link are all its texts."""
    entries = [(pair.url, f'seen: "{pair.number}" \u00e9') for pair in PAIRS]
    entries += [("http://127.0.0.1/elsewhere.png", "unknown"), (PAIRS[1].url, "another")]
    records = [{"url": url, "caption": text} for url, text in entries]
    members = ",\n ".join(f"{json.dumps(url)} : {json.dumps(text)}" for url, text in entries)
    content = {
        "mapping": "\ufeff{" + members + "}\n",
        "list": json.dumps(records),
        "lines": "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records),
    }[form]
    path = write(tmp_path / (name if name != "folder" else "folder/one.json"), content)
    files = str(tmp_path / "folder") if name == "folder" else path
    uri = gather(few, [{"kind": "json", "source": "vecap", "files": files}])
    expected = {pair.uid: [f'seen: "{pair.number}" é'] for pair in KEPT}
    expected[PAIRS[0].uid] = expected[PAIRS[9].uid] = ['seen: "0" é', 'seen: "9" é']
    expected[PAIRS[1].uid] = ['seen: "1" é', "another"]
    assert texts_of(uri, "vecap") == expected
    counts = {"imported": 9, "not_kept": 2, "unknown_key": 1, "pairs_without": 0}
    assert told(uri, "vecap") == {"in": 12, **counts}


def test_an_entry_may_lie_across_any_block(few, tmp_path, monkeypatch):
    monkeypatch.setattr("neuclip.table.text_lines._BLOCK_BYTES", 7)
    entries = {pair.url: ["déjà vu", f"number {pair.number}"] for pair in PAIRS}
    path = write(tmp_path / "v.json", json.dumps(entries, ensure_ascii=False, indent=2))
    uri = gather(few, [{"kind": "json", "source": "vecap", "files": path}])
    assert texts_of(uri, "vecap")[PAIRS[3].uid] == ["déjà vu", "number 3"]


def laclip(folder, *, header="path,caption", table=None, lines=None):
    """LaCLIP's files: a CSV of relative paths and captions, and two text files in its order."""
    table = table or [(path_of(n), caption_of(n)) for n in range(300)]
    lines = lines or [f"{PLACES[n % 7]} and one {ANIMALS[n % 8]}, {n}" for n in range(300)]
    rows = [header] * bool(header) + [f'{path},"{text}"' for path, text in table]
    return {
        "kind": "lines",
        "source": "rewrite",
        "table": write(folder / "original.csv", "\r\n".join(rows)),
        "files": [
            write(folder / "chatgpt.txt", "\n".join(lines) + "\n"),
            write(folder / "bard.txt.gz", "\r\n".join(f"{line}!" for line in lines)),
        ],
    }


@pytest.mark.parametrize("header", ["path,caption", ""])
@pytest.mark.parametrize("key", ["path", "alt"])
def test_rewrites_of_laclip(many, tmp_path, header, key):
    table = [(path_of(n), caption_of(n)) for n in range(320)]
    lines = [f"{PLACES[n % 7]} and one {ANIMALS[n % 8]}, {n}" for n in range(320)]
    one = {**laclip(tmp_path, header=header, table=table, lines=lines), "key": key}
    one |= {} if header else {"columns": ["path", "caption"]}
    uri = gather(many, [one])
    expected = {MANY[n].uid: [lines[n], f"{lines[n]}!"] for n in range(300)}
    assert texts_of(uri, "rewrite") == expected
    found = told(uri, "rewrite")
    assert (found["in"], found["imported"], found["unknown_key"]) == (640, 600, 40)
    assert min(found["agreement"]) > 0.95


def test_a_shifted_table_is_refused_with_its_first_row(many, tmp_path):
    right = [(path_of(n), caption_of(n)) for n in range(300)]
    for first in (0, 1, 123, 298):
        captions = [text for _, text in right]
        captions[first:] = [*captions[first + 1 :], captions[first]]
        table = [(path, text) for (path, _), text in zip(right, captions, strict=True)]
        lines = [f"{text}, rewritten" for text in captions]
        one = {**laclip(tmp_path / str(first), table=table, lines=lines), "key": "path"}
        with pytest.raises(
            DataError,
            match=f"line {first + 2} of .*original.csv has the path '{path_of(first)}' and the caption",
        ):
            gather(many, [one])


def test_shifted_lines_are_refused_with_their_first_row(many, tmp_path):
    lines = [f"{PLACES[n % 7]} and one {ANIMALS[n % 8]}, {n}" for n in range(300)]
    shifted = [*lines[:100], "one line too many", *lines[100:280], *lines[281:]]
    one = {**laclip(tmp_path, lines=shifted), "key": "path"}
    with pytest.raises(DataError, match=r"chatgpt.txt is shifted .* from line 10[0-3] on"):
        gather(many, [one])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: lines[:-1], "has 299 lines and .*original.csv has more than 299 rows"),
        (lambda lines: [*lines, ""], "has more than 300 lines and .*original.csv has 300 rows"),
        (lambda lines: lines[:150], "has 150 lines"),  # which the original takes, going round twice
    ],
)
def test_files_of_another_length_are_refused(many, tmp_path, change, says):
    lines = [f"{ANIMALS[n % 8]} {n}" for n in range(300)]
    one = {**laclip(tmp_path, lines=change(lines)), "key": "path"}
    with pytest.raises(DataError, match=says):
        gather(many, [one])


def test_a_row_is_of_the_pair_with_its_key_and_caption(few, tmp_path):
    rows = [
        ("http://127.0.0.1/8.png", "no alt"),
        (PAIRS[1].url, f"  {caption_of(1)} "),
        *((PAIRS[n].url, caption_of(n)) for n in (0, 9)),  # of one URL
    ]
    table = "url,caption\n" + "\n".join(map(",".join, rows))
    one = {"kind": "lines", "source": "rewrite", "table": write(tmp_path / "t.csv", table)}
    uri = gather(few, [{**one, "files": [write(tmp_path / "l.txt", "a\nb\nc\nd")]}])
    expected = {1: "b", 0: "c", 9: "d"}
    assert texts_of(uri, "rewrite") == {PAIRS[n].uid: [text] for n, text in expected.items()}
    assert told(uri, "rewrite")["no_own_text"] == 1


def test_keys_of_which_no_pair_has_one_are_shown_beside_those_of_pairs(few, tmp_path):
    table = write_table(
        tmp_path / "t.parquet", url=[f"http://x/{n}" for n in range(9)], caption=["a"] * 9
    )
    with pytest.raises(
        DataError, match=r"'http://x/0', 'http://x/1', 'http://x/2'; .*/0.png.*/2.png'\."
    ):
        gather(few, [{"kind": "table", "source": "long", "table": table}])


def test_a_text_more_makes_its_own_part_anew(few, tmp_path):
    def run(entries):
        path = write(tmp_path / "v.json", json.dumps(entries))
        uri = gather(
            few,
            [{"kind": "json", "source": "vecap", "files": path}],
            derive=[{"kind": "template", "source": "both", "text": "{alt}: {vecap}"}],
        )
        return [[row["part"] for row in parts_of(uri, source)] for source in ("vecap", "both")]

    entries = {pair.url: f"text {pair.number}" for pair in PAIRS if pair.number != 5}
    before = run(entries)
    assert [len(parts) for parts in before] == [2, 2]
    assert run({**entries, "http://unknown/": "text"}) == before
    after = run({**entries, PAIRS[5].url: "text 5"})
    assert [parts[0] for parts in after] == [parts[0] for parts in before]
    assert all(new[1] != old[1] for new, old in zip(after, before, strict=True))


def test_a_derived_source_reads_an_imported_one(few, tmp_path):
    path = write(tmp_path / "v.json", json.dumps({PAIRS[1].url: "seen"}))
    uri = gather(
        few,
        [{"kind": "json", "source": "vecap", "files": path}],
        derive=[{"kind": "template", "source": "both", "text": "{tags}, {vecap}"}],
    )
    assert texts_of(uri, "both") == {PAIRS[1].uid: ["tag 1, seen"]}
    assert [row["source"] for row in pq.read_table(f"{uri}/parts.parquet").to_pylist()] == [
        *("alt", "alt", "tags", "tags", "vecap", "both", "both")
    ]


def test_the_content_of_files_counts_and_not_their_place(tmp_path):
    def keys(folder, caption):
        files = write(folder / "v.json", json.dumps({PAIRS[1].url: caption}))
        config = CaptionConfig.model_validate(
            {"imports": [{"kind": "json", "source": "vecap", "files": files}]}
        )
        return config.keyed(), CAPTION.inputs(config)

    assert keys(tmp_path / "a", "seen") == keys(tmp_path / "b", "seen")
    assert keys(tmp_path / "a", "seen") != keys(tmp_path / "a", "seen anew")
    assert "imports" not in CaptionConfig().keyed()
    assert CAPTION.inputs(CaptionConfig()) == {}


JSON = {"kind": "json", "source": "vecap", "files": "v.json"}


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ({"imports": [{**JSON, "source": "alt"}]}, "'alt' of imports.0 is there already"),
        ({"imports": [JSON, JSON]}, "'vecap' of imports.1 is there already"),
        (
            {"imports": [JSON], "derive": [{"kind": "sentences", "source": "vecap"}]},
            "'vecap' of derive.0 is there already",
        ),
        ({"imports": [{**JSON, "kind": "jsom"}]}, "'lines', 'json', 'table'"),
        ({"imports": [{**JSON, "files": "https://host/v.json"}]}, "Download it first"),
    ],
)
def test_an_import_that_cannot_be_is_refused_with_the_recipe(caption, says):
    with pytest.raises(ValidationError, match=says):
        CaptionConfig.model_validate(caption)


def test_what_pairs_lack_or_have_already_is_named(few, tmp_path):
    path = write(tmp_path / "v.json", json.dumps({PAIRS[1].url: "seen"}))
    with pytest.raises(
        ConfigError, match=r"imports\.0 makes 'tags', which is a source of the table"
    ):
        gather(few, [{**JSON, "source": "tags", "files": path}])
    with pytest.raises(
        ConfigError, match=r"key is 'urk'.*they have url, uid, alt, number\..*mean 'url'"
    ):
        gather(few, [{**JSON, "key": "urk", "files": path}])


def test_texts_that_are_no_utf_8_cost_themselves_alone(few, tmp_path):
    rows = [b"a caf\xe9 at night", b"two\0halves", b"a tail of CR\r", b"plain"]
    table = "url,caption\n" + "".join(f"{PAIRS[n].url},{caption_of(n)}\n" for n in range(1, 5))
    uri = gather(
        few,
        [
            {
                "kind": "lines",
                "source": "rewrite",
                "table": write(tmp_path / "t.csv", b"\xef\xbb\xbf" + table.encode()),
                "files": [write(tmp_path / "l.txt", b"\r\n".join(rows))],
            }
        ],
    )
    assert texts_of(uri, "rewrite") == {
        PAIRS[2].uid: ["two\0halves"],
        PAIRS[3].uid: ["a tail of CR"],
        PAIRS[4].uid: ["plain"],
    }
    assert told(uri, "rewrite")["unusable"] == 1
