"""Names: nothing of ours shadows the standard library, and nothing tells of one machine or one index."""

import re
import sys

import pytest

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users|mnt|data)/\w")
INDEX_HOST = re.compile("py" + "pi|index" + "-url|files" + r"\.pythonhosted", re.IGNORECASE)


@pytest.mark.parametrize("folder", ["flows", "tasks", "neuclip"])
def test_no_module_shadows_the_standard_library(repository, folder):
    stems = {path.stem for path in (repository / folder).iterdir()} - {"__init__", "__pycache__"}
    assert stems
    assert not stems & sys.stdlib_module_names


@pytest.mark.parametrize("pattern", [MACHINE_PATH, INDEX_HOST], ids=["machine", "index"])
def test_no_tracked_file_names_a_machine_path_or_an_index_host(repository, tracked, pattern):
    found = [
        f"{path.relative_to(repository)}:{number}: {line.strip()}"
        for path in tracked
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "root: /" + "home/ada/lake"),
        (MACHINE_PATH, 'open("/' + 'work/main/recipe.yaml")'),
        (INDEX_HOST, "--index" + "-url https://example.org"),
        (INDEX_HOST, "https://files" + ".pythonhosted.org/x"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern, text):
    assert pattern.search(text)
