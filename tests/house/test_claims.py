"""Every test that README or docs name is there."""

import re
from pathlib import Path

import pytest

PAGES = [Path("README.md"), Path("bench/README.md"), *sorted(Path("docs").rglob("*.md"))]
NAMED = re.compile(
    r"\b(tests/[\w/]+\.py)(?:::(\w+))?|\b((?:infra|bench)/[\w/.-]+\.(?:yaml|py|sbatch))"
)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_what_a_page_names_is_there(page):
    for file, test, other in NAMED.findall(page.read_text(encoding="utf-8")):
        path = Path(file or other)
        assert path.is_file(), f"{page} names {path}"
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), f"{page}: {test}"


def test_claims_name_a_test_each():
    rows = [line for line in Path("docs/claims.md").read_text().splitlines() if "`tests/" in line]
    assert len([row for row in rows if row.startswith("| ")]) > 20
    assert all("::test_" in row for row in rows if row.startswith("| "))
