"""The command in this process, and its answer held to what every refusal must be."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from end_to_end.adopted_journey import make_inputs
from typer.testing import CliRunner

from neuclip.cli.main import app

PYTHON_WORDS = re.compile(
    r"Traceback|\bdict\b|NoneType|\btuple\b|Errno|<class|<\w+ object|\b(Key|Type|Value|Attribute|Index|OS|IO|Runtime|"
    r"Permission|FileNotFound|NotADirectory|IsADirectory|FileExists|Recursion|Unicode\w*|Memory|Validation|Arrow\w*)Error"
    r"|Exception\b|'(list|str|int|float|bool)'|codec|pydantic|unicode string|byte string|instance of|dlopen|\bNone\b"
)
ENDS = re.compile(r"^(\w+Error): ", re.MULTILINE)
KINDS = {
    "ConfigError": 2,
    "DataError": 2,
    "StorageError": 1,
    "TransientStorageError": 1,
    "IntegrityError": 1,
    "CheckpointError": 1,
    "ChildError": 1,
}
MOST_CHARACTERS = 1500


@dataclass(frozen=True)
class Made:
    """A recipe whose data stages are done, and a folder for what a test breaks."""

    recipe: Path
    base: Path
    here: Path

    def file(self, name: str, content: bytes = b"x") -> Path:
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def folder(self, name: str) -> Path:
        path = self.here / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def copy_of_the_root(self) -> Path:
        root = self.here / "lake"
        if not root.exists():
            shutil.copytree(self.base / "lake", root)
        return root

    def run(self, *fields: str, command: str = "run", more: tuple[str, ...] = ()) -> list[str]:
        sets = [word for field in fields for word in ("--set", field)]
        return [command, str(self.recipe), *more, *sets]


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_inputs(folder)
    return folder


@pytest.fixture
def made(base, tmp_path, monkeypatch) -> Made:
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
    return Made(base / "recipe.yaml", base, tmp_path)


def refusal(words: list[str]) -> str:
    """Run the command, which has to end in one message; return it."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return held_to_the_rule(done.stdout, done.stderr, done.exit_code)


def held_to_the_rule(stdout: str, stderr: str, exit_code: int) -> str:
    assert stdout == ""
    found = ENDS.findall(stderr)
    assert len(found) == 1, stderr
    assert exit_code == KINDS[found[0]], stderr
    message = stderr[stderr.index(f"{found[0]}: ") :].strip()
    assert PYTHON_WORDS.search(stderr) is None, (PYTHON_WORDS.search(stderr), stderr)
    assert len(message) < MOST_CHARACTERS
    return message
