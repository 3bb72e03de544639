"""How answers to questions about pairs are printed: rows of a query, the story of a pair."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from neuclip.query.explain import Story
from neuclip.query.sql import QueryResult

_NAME_WIDTH = 18


def rows_table(result: QueryResult) -> Table:
    """Return the table of `neuclip query`; numbers stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(result.columns):
        values = [row[place] for row in result.rows if row[place] is not None]
        is_number = bool(values) and all(type(value) in (int, float) for value in values)
        table.add_column(escape(name), justify="right" if is_number else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*("" if value is None else escape(_shown(value)) for value in row))
    return table


def story_lines(story: Story) -> Iterator[str]:
    """Yield the lines of `neuclip explain`."""
    yield f"uid {_shown(story.uid)}"
    for stage, facts in story.stages.items():
        yield ""
        yield stage
        for name, value in facts.items():
            yield from _fact_lines(name, value)
    if story.end:
        yield ""
        yield f"here it ends: {_shown(story.end)}"


def _fact_lines(name: str, value: Any, indent: str = "  ") -> Iterator[str]:  # noqa: ANN401  # any JSON value
    match value:
        case None | []:
            return
        case Mapping():
            yield from [f"{indent}{name}"] * bool(value)  # pyright: ignore[reportUnknownArgumentType]
            for inner, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                yield from _fact_lines(str(inner), item, indent + "  ")
        case list() if any(isinstance(item, dict) for item in value):  # pyright: ignore[reportUnknownVariableType]
            for item in value:  # pyright: ignore[reportUnknownVariableType]
                said = ", ".join(f"{inner} {_shown(what)}" for inner, what in item.items())
                yield f"{indent}{name:<{_NAME_WIDTH}} {said}"
        case list():
            yield f"{indent}{name:<{_NAME_WIDTH}} {' | '.join(map(_shown, value))}"  # pyright: ignore[reportUnknownArgumentType]
        case _:
            yield f"{indent}{name:<{_NAME_WIDTH}} {_shown(value)}"


def _shown(value: Any) -> str:  # noqa: ANN401  # any JSON value
    """Return a value as text; what of a foreign caption would steer the terminal is written as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
