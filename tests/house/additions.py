"""A copy of the package with something added, and a program that uses it in a process of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def with_changes(folder: Path, *, new: dict[str, str], changed: dict[str, dict[str, str]]) -> None:
    """Copy the package below a folder.

    Args:
        new: files to add -> text.
        changed: files to change -> what stands there once -> what comes after it.
    """
    copy = folder / "neuclip"
    shutil.copytree(REPOSITORY / "neuclip", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in new.items():
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for name, changes in changed.items():
        text = (copy / name).read_text()
        for place, line in changes.items():
            assert text.count(place) == 1, (name, place)
            text = text.replace(place, line if place in line else place + line)
        (copy / name).write_text(text)


def use(folder: Path, program: str) -> None:
    """Run a program with the changed package; `sys.argv[1]` is the folder."""
    beginning = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(folder)!r})
sys.path.append("tests")
import neuclip
assert Path(neuclip.__file__).is_relative_to(sys.argv[1]), neuclip.__file__
"""
    done = subprocess.run(
        [sys.executable, "-c", beginning + program, str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
