"""Every refusal is one message with the place and what to do, exit code 1 or 2, without a traceback or a word of
Python. Oracle: what a person has to be told about each fault, written by hand."""

import json
import re
from pathlib import Path

import pytest
from cli.conftest import refusal
from typer.testing import CliRunner

from neuclip.cli.main import app
from neuclip.stage_list import NAMES

A_FILE_STANDS = "a file stands where a folder is expected"


def root(path) -> str:
    return f"root={path}"


def broken(made, pattern: str, content: bytes | None = None) -> str:
    """Damage the first file of that name at a copy of the root; return the override that names the root."""
    path = sorted(made.copy_of_the_root().glob(pattern))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    return root(made.here / "lake")


def fetched(made, table: Path) -> list[str]:
    fields = ("acquire.adopt=null", f"acquire.table={table}", root(made.here / "lake2"))
    return made.run(*fields, more=("--only", "acquire"))


def with_rules(made, *rules) -> list[str]:
    return made.run(f"curate.rules={json.dumps(rules)}", root(made.copy_of_the_root()))


PLACES = {
    "the root is a file": (
        lambda made: made.run(root(made.file("x"))),
        ["is a file, expected a folder", "set root to another"],
    ),
    "the root is below a file": (
        lambda made: made.run(root(made.file("x") / "lake")),
        ["x is a file, expected a folder"],
    ),
    "plan, the root is a file": (
        lambda made: made.run(root(made.file("x")), command="plan"),
        ["is a file, expected a folder"],
    ),
    "preflight, the root is a file": (
        lambda made: made.run(root(made.file("x")), command="preflight"),
        ["is a file, expected a folder"],
    ),
    "the root's name is too long": (
        lambda made: made.run(root("a" * 300)),
        ["longer than the file system allows"],
    ),
    "the root has a NUL": (lambda made: made.run('root="a\\0b"'), ["NUL character"]),
    "no root": (lambda made: made.run("root="), ["root: found nothing, expected text"]),
    "a stage's folder is a file": (
        lambda made: made.run(root(made.file("r/acquire").parent)),
        ["r/acquire", A_FILE_STANDS],
    ),
    "the folder of parts is a file": (
        lambda made: made.run(root(made.file("r/acquire/parts").parents[1])),
        ["acquire/parts", A_FILE_STANDS],
    ),
    "the scratch folder is a file": (
        lambda made: made.run(root(made.file("r/.scratch").parent)),
        [".scratch", A_FILE_STANDS],
    ),
}


RECIPES = {
    "a folder": (
        lambda made: ["run", str(made.here)],
        ["a folder stands where a file is expected"],
    ),
    "not there": (
        lambda made: ["run", str(made.here / "no.yaml")],
        ["no.yaml", "there is no such file"],
    ),
    "no protocol": (lambda made: ["run", "nosuch://b/r.yaml"], ["nosuch"]),
    "empty": (
        lambda made: ["run", str(made.file("r.yaml", b""))],
        ["holds nothing, expected sections"],
    ),
    "a list": (lambda made: ["run", str(made.file("r.yaml", b"- 1"))], ["holds a list"]),
    "in itself": (
        lambda made: ["run", str(made.file("r.yaml", b"a: &a [*a]"))],
        ["r.yaml", "*a stands inside"],
    ),
    "deep": (
        lambda made: ["run", str(made.file("r.yaml", b"[" * 10_000))],
        ["nested more than 50"],
    ),
    "twice": (
        lambda made: ["plan", str(made.file("r.yaml", b"root: a\nroot: b"))],
        ["line 2", "root stands twice"],
    ),
    "bytes": (
        lambda made: ["plan", str(made.file("r.yaml", bytes(range(256))))],
        ["no text", "UTF-8"],
    ),
    "a tar": (
        lambda made: ["plan", str(made.file("r.yaml", b"a" + bytes(1023)))],
        ["no text", "UTF-8"],
    ),
    "a tag": (
        lambda made: ["plan", str(made.file("r.yaml", b"a: !!python/name:os.system"))],
        ["a tag"],
    ),
    "a section that is a number": (
        lambda made: made.run("train=3"),
        ["train: found 3, expected a section"],
    ),
    "a section that is a list": (
        lambda made: made.run("train=[1]"),
        ["train: found a list, expected a section"],
    ),
    "a section in a field": (
        lambda made: made.run("train.lr={a: 1}"),
        ["found a section with fields, expected a number"],
    ),
    "a list in a text": (lambda made: made.run("root=[1]"), ["root: found a list, expected text"]),
    "nothing in a number": (
        lambda made: made.run("train.epochs=null"),
        ["found nothing, expected a number"],
    ),
    "no number": (
        lambda made: made.run("train.lr=nan"),
        ["expected a number that is not infinite"],
    ),
    "infinity": (lambda made: made.run("train.lr=.inf"), ["infinity and nan are no numbers"]),
    "a huge number": (lambda made: made.run(f"train.epochs={'9' * 5000}"), ["beyond"]),
    "no such objective": (
        lambda made: made.run("train.objective.name=neuclap"),
        ["Did you mean 'neuclip'?"],
    ),
    "no objective's name": (
        lambda made: made.run("train.objective.name=null"),
        ["expected one of openclip"],
    ),
    "an objective without fields": (
        lambda made: made.run("train.objective=siglip"),
        ["expected a section"],
    ),
    "a value for a section of a list": (
        lambda made: made.run("curate.rules=x"),
        ["curate.rules: found 'x', expected a list"],
    ),
    "no value": (lambda made: made.run("x"), ["not of the form section.field=value"]),
    "half a value": (lambda made: made.run("train.lr=[1"), ["train.lr", "check quotes"]),
    "a path into a value": (lambda made: made.run("root.x=1"), ["root is", "not a section"]),
    "no such stage": (
        lambda made: made.run(more=("--only", "fetch")),
        ["there is no stage 'fetch'", "acquire"],
    ),
    "no stage": (lambda made: made.run(more=("--from", "")), ["there is no stage ''"]),
}

DRIVERS = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
NOT_READ = ("oss", "dropbox", "sftp", "webdav", "hdfs", "ftp", "github", "hf", "nosuch", "s4", "S3")
PROTOCOLS = {
    **{
        f"{protocol} as the root": (
            lambda made, protocol=protocol: made.run(root(f"{protocol}://bucket/x")),
            [f"{protocol}://bucket/x", f"pip install {package}"],
        )
        for protocol, package in DRIVERS.items()
    },
    **{
        f"{protocol} as the root": (
            lambda made, protocol=protocol: made.run(root(f"{protocol}://bucket/x")),
            [f"{protocol}://bucket/x", "is not read", "expected a local path"],
        )
        for protocol in NOT_READ
    },
    "for adopted shards": (lambda made: made.run("acquire.adopt=gs://b/x"), ["pip install gcsfs"]),
    "for a set": (lambda made: made.run('evaluate.sets=["gs://b/wds_x"]'), ["pip install gcsfs"]),
    "for a recipe": (lambda made: ["plan", "gs://b/r.yaml"], ["pip install gcsfs"]),
    "to show": (lambda made: ["show", "gs://b/train/x"], ["pip install gcsfs"]),
}

TABLES = {
    "not there": (
        lambda made: fetched(made, made.here / "no.parquet"),
        ["no.parquet", "check the path"],
    ),
    "an empty folder": (
        lambda made: fetched(made, made.folder("t")),
        ["found none", "check the path"],
    ),
    "a folder called like a file": (
        lambda made: fetched(made, made.folder("t.parquet")),
        ["t.parquet", "a folder stands where a file is expected"],
    ),
    "of an unknown kind": (lambda made: fetched(made, made.file("t.xyz")), ["t.xyz", ".parquet"]),
    "half a Parquet file": (
        lambda made: fetched(made, made.file("t.parquet", b"PAR1aPAR1")),
        ["t.parquet"],
    ),
    "no Parquet file": (
        lambda made: fetched(made, made.file("t.parquet", b"nonsense" * 9)),
        ["t.parquet"],
    ),
    "empty CSV": (lambda made: fetched(made, made.file("t.csv", b"")), ["t.csv"]),
    "bytes as CSV": (
        lambda made: fetched(made, made.file("t.csv", bytes(range(256)) * 9)),
        ["t.csv"],
    ),
    "bytes as JSONL": (
        lambda made: fetched(made, made.file("t.jsonl", bytes(range(256)))),
        ["t.jsonl"],
    ),
    "no shards": (
        lambda made: made.run(f"acquire.adopt={made.folder('a')}"),
        ["expected shards", "acquire.adopt"],
    ),
    "shards in a file": (
        lambda made: made.run(f"acquire.adopt={made.file('a')}"),
        ["expected shards"],
    ),
}

RULES = {
    "a list of uids that is not there": (
        lambda made: with_rules(made, {"kind": "uids", "file": str(made.here / "no.txt")}),
        ["no.txt"],
    ),
    "uids in a damaged file": (
        lambda made: with_rules(
            made, {"kind": "uids", "file": str(made.file("u.npy", b"\x93NUMPY"))}
        ),
        ["u.npy"],
    ),
    "uids that are none": (
        lambda made: with_rules(made, {"kind": "uids", "file": str(made.file("u.txt", b"abc"))}),
        ["u.txt"],
    ),
    "SQL that is none": (
        lambda made: with_rules(made, {"kind": "sql", "keep": "width >"}),
        ["sql"],
    ),
    "entries that are no text": (
        lambda made: with_rules(
            made, {"kind": "balance", "metadata": str(made.file("e.txt", b"\xff\xfe\xff"))}
        ),
        ["e.txt", "UTF-8"],
    ),
    "no model": (
        lambda made: made.run(
            'score.scores=[{kind: clip_score, name: c, model: "%s"}]' % made.folder("m"),  # noqa: UP031
            root(made.copy_of_the_root()),
        ),
        ["/m"],
    ),
    "half a model": (
        lambda made: made.run(
            'score.scores=[{kind: clip_score, name: c, model: "%s"}]'  # noqa: UP031
            % made.file("m/open_clip_config.json", b"{").parent,
            root(made.copy_of_the_root()),
        ),
        ["/m"],
    ),
    "a set that is not there": (
        lambda made: made.run('evaluate.sets=["/nonexistent/s"]'),
        ["/nonexistent/s", "check the path"],
    ),
    "a set that is a file": (
        lambda made: made.run(f'evaluate.sets=["{made.file("s")}"]'),
        ["check the path"],
    ),
    "a set without a tar": (
        lambda made: made.run(
            f'evaluate.sets=["{made.file("s/classnames.txt").parent}"]',
            root(made.copy_of_the_root()),
            more=("--only", "evaluate"),
        ),
        [],
    ),
}

COMMITTED = {
    **{
        f"half a manifest of {stage}": (
            lambda made, stage=stage: made.run(broken(made, f"{stage}/*/manifest.json")),
            [f"lake/{stage}/", "manifest.json"],
        )
        for stage in ("acquire", "score", "curate", "caption", "shard", "index")
    },
    "a manifest of something else": (
        lambda made: made.run(broken(made, "index/*/manifest.json", b'{"a": 1}')),
        ["manifest.json"],
    ),
    "a manifest that is a list": (
        lambda made: made.run(broken(made, "index/*/manifest.json", b"[]")),
        ["manifest.json"],
    ),
    "plan, half a manifest": (
        lambda made: made.run(broken(made, "caption/*/manifest.json"), command="plan"),
        ["manifest.json"],
    ),
    "show, half a manifest": (
        lambda made: [
            "show",
            str(next(Path(broken(made, "caption/*/manifest.json")[5:]).glob("caption/*"))),
        ],
        ["manifest.json"],
    ),
    "half a table of texts": (
        lambda made: made.run(
            broken(made, "acquire/parts/*/texts.parquet"), more=("--only", "caption", "--force")
        ),
        ["acquire/parts/", "texts.parquet"],
    ),
    "half a part of captions": (
        lambda made: made.run(
            broken(made, "caption/parts/*/texts.parquet"), more=("--only", "index", "--force")
        ),
        ["caption/parts/", "texts.parquet"],
    ),
    "half a list of caption parts": (
        lambda made: made.run(
            broken(made, "caption/*/parts.parquet"), more=("--only", "index", "--force")
        ),
        ["caption/", "parts.parquet"],
    ),
    "half a side file": (
        lambda made: made.run(broken(made, "index/parts/*/*.arrow"), more=("--only", "train")),
        ["index/parts/", ".arrow"],
    ),
    "half an index": (
        lambda made: made.run(broken(made, "index/*/index.duckdb"), more=("--only", "train")),
        ["index.duckdb"],
    ),
    "query, half an index": (
        lambda made: [
            *made.run(broken(made, "index/*/index.duckdb"), command="query"),
            "SELECT uid FROM samples",
        ],
        ["index.duckdb"],
    ),
}

QUESTIONS = {
    "show a file": (lambda made: ["show", str(made.file("x"))], ["nothing was committed there"]),
    "show nothing": (
        lambda made: ["show", str(made.here / "a/b")],
        ["nothing was committed there"],
    ),
    "query no SQL": (lambda made: [*made.run(command="query"), "SELEKT 1"], ["is not SQL"]),
    "query two": (lambda made: [*made.run(command="query"), "SELECT 1; SELECT 2"], ["one SELECT"]),
    "query no column": (lambda made: [*made.run(command="query"), "SELECT x FROM samples"], ["x"]),
    "query no view": (
        lambda made: [*made.run(command="query"), "SELECT * FROM nothing"],
        ["nothing"],
    ),
    "query a file": (lambda made: [*made.run(command="query"), "SELECT * FROM '/etc/passwd'"], []),
    "explain no uid": (lambda made: [*made.run(command="explain"), "xyz"], ["32 hex digits"]),
    "explain an unknown uid": (lambda made: [*made.run(command="explain"), "f" * 32], ["no row"]),
    "repair adopted shards": (lambda made: made.run(command="repair"), ["nothing to fetch again"]),
    "repair nothing": (
        lambda made: made.run(
            "acquire.adopt=null",
            f"acquire.table={made.file('t.csv', b'url,caption')}",
            command="repair",
        ),
        ["has not been done", "--only acquire"],
    ),
    "a stage without those above": (
        lambda made: made.run(root(made.folder("r")), more=("--only", "evaluate")),
        ["--only select"],
    ),
    "preflight without an index": (
        lambda made: made.run(root(made.folder("r")), command="preflight"),
        ["run it first"],
    ),
    "takedown without its list": (
        lambda made: ["takedown", str(made.base / "lake"), "--hosts", str(made.here / "no")],
        ["/no"],
    ),
    "takedown by a folder": (
        lambda made: ["takedown", str(made.base / "lake"), "--hosts", str(made.here)],
        ["a folder stands"],
    ),
    "takedown by bytes": (
        lambda made: [
            "takedown",
            str(made.base / "lake"),
            "--uids",
            str(made.file("u", bytes(range(256)))),
        ],
        ["UTF-8"],
    ),
    "takedown nowhere": (
        lambda made: ["takedown", str(made.here / "no"), "--hosts", str(made.file("h", b"a.b"))],
        ["nothing was acquired"],
    ),
    "normalizers of nothing": (
        lambda made: ["normalizers", str(made.here / "a/b/c")],
        ["nothing was committed"],
    ),
    "normalizers of a file": (
        lambda made: ["normalizers", str(made.file("a/b/c"))],
        ["nothing was committed"],
    ),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in {
        "place": PLACES,
        "recipe": RECIPES,
        "protocol": PROTOCOLS,
        "table": TABLES,
        "rule": RULES,
        "committed": COMMITTED,
        "question": QUESTIONS,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES)
def test_one_message(made, case):
    words, told = CASES[case]
    message = refusal(words(made))
    for said in told:
        assert said in message


def test_with_json_the_same_message_is_the_one_object(made):
    done = CliRunner().invoke(app, [*made.run(root(made.file("x"))), "--json"])
    [line] = done.stdout.splitlines()
    assert "is a file, expected a folder" in json.loads(line)["error"]["message"]
    assert done.exit_code == 2


def test_no_advice_names_a_stage_that_is_not_there():
    files = [*Path("neuclip").rglob("*.py"), *Path("docs").rglob("*.md"), Path("README.md")]
    advice = re.compile(r"`(?:neuclip run [^`]*)?--(?:only|from) ([a-z_]+)")
    named = {word for path in files for word in advice.findall(path.read_text())}
    assert named
    assert named <= set(NAMES)


def test_what_nobody_foresaw_is_one_line_and_a_log(made, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def fail(*_, **__):
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr("neuclip.cli.main.run_journey", fail)
    done = CliRunner().invoke(app, made.run())
    assert done.exit_code == 1
    assert done.stderr.startswith("UnexpectedError: an error that neuclip does not know")
    assert done.stderr.count("\n") == 1
    [log] = tmp_path.glob("neuclip-error-*.log")
    assert str(log) in done.stderr
    assert "nobody foresaw this" in log.read_text()
    assert "Traceback" in CliRunner().invoke(app, [*made.run(), "--verbose"]).stderr
