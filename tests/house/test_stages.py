"""The graph stands in one place: the stage objects and their list. Oracle: the syntax trees of all files."""

import ast
from pathlib import Path

import pytest
import yaml

from neuclip.stage_list import NAMES, STAGES

REPOSITORY = Path(__file__).parents[2]
LONGEST_FUNCTION = 60
OBJECTS = ("stage.py", "stages.py", "caption_stage.py")
FILES = [
    path
    for room in ("neuclip", "flows", "tasks")
    for path in sorted((REPOSITORY / room).rglob("*.py"))
]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}"


def texts_of(node: ast.AST) -> list[object]:
    """Return the constants that a collection is written of."""
    match node:
        case ast.Dict():
            items = node.keys
        case ast.List() | ast.Tuple() | ast.Set():
            items = node.elts
        case _:
            return []
    return [item.value for item in items if isinstance(item, ast.Constant)]


def test_no_other_file_lists_stages():
    found = [
        place(path, node)
        for path, tree in TREES.items()
        if not (path.name in OBJECTS and path.parts[-3] == "neuclip")
        for node in ast.walk(tree)
        if len(set(texts_of(node)) & set(NAMES)) > 1
    ]
    assert found == []


@pytest.mark.parametrize(
    "name", ["journey", "query/views", "query/explain", "takedown/spread", "stages/stage"]
)
def test_what_asks_the_stages_names_none(name):
    tree = TREES[REPOSITORY / f"neuclip/{name}.py"]
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert words & set(NAMES) == set()


def test_no_function_is_long():
    long = [
        place(path, node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 >= LONGEST_FUNCTION
    ]
    assert long == []


def test_the_graph_is_whole():
    """Each stage reads stages before it, has a section of the recipe, and says what a takedown leaves in it."""
    for number, stage in enumerate(STAGES):
        before = NAMES[:number]
        assert set(stage.above) <= set(before)
        assert stage.fed_by is None or stage.fed_by in stage.above
        assert (stage.trace is None) == (number == 0), stage.name
        if stage.trace is not None:
            told_by = (stage.trace.table, stage.trace.part_table, stage.trace.through)
            assert sum(one is not None for one in told_by) == 1, stage.name
            tells = next((above for above in STAGES if above.name == stage.trace.through), None)
            assert tells is None or (tells.name in stage.above and tells.trace is not None)


def test_each_stage_has_a_deployment():
    text = (REPOSITORY / "prefect.yaml").read_text(encoding="utf-8")
    entries = {entry["entrypoint"] for entry in yaml.safe_load(text)["deployments"]}
    assert {f"flows.stages.{name}" for name in NAMES} <= entries
