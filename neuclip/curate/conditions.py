"""Rules over one row as SQL: the conditions under which a pair is dropped, in order.

What comes from a recipe into the text of a query is a number, a name from a known list, or text that `quoted`
or `column` has made safe; the expression of an `sql` rule is parsed and restricted by `checked_expression`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from neuclip.curate.rules import (
    AspectRatio,
    CaptionCharacters,
    CaptionNoise,
    CaptionWords,
    ColumnBounds,
    ImageSide,
    Language,
    RowRule,
    Sql,
    TopFraction,
    reason_of,
)
from neuclip.foundation.errors import ConfigError, nearest
from neuclip.storage.tables import OWN_FUNCTIONS

# Python's white space; RE2's \s is ASCII alone.
_SPACE = (
    r"\s\x0b\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
)
_LONGER = "greatest(original_width, original_height)"
SHORTER = "least(original_width, original_height)"
"""SQL of the shorter side of the original image, pixels."""
NOISE = {
    "url": r"(?i)(https?://|www\.)\S",
    "file_name": r"(?i)^\s*\S+\.(jpe?g|png|gif|webp|bmp|tiff?|svg)\s*$"
    r"|(?i)^\s*(img|dsc[nf]?|pict|screenshot)[\W_]*\d+\s*$",
    "markup": r"<[a-zA-Z/!][^>]*>|&(#\d+|[a-z]+);|\[/?[a-z]+\]",
    "no_letters": r"^\PL*$",
    "placeholder": r"(?i)^\W*(image|img|picture|photo|pic|logo|icon|banner|thumbnail|avatar|untitled|null|none|n/?a"
    r"|undefined|default|alt|placeholder|loading)\W*\d*\W*$",
    "repeated": "|".join(f"{re.escape(c)}{{6}}" for c in "!?.-_=*#~"),
}
"""Named noise patterns of alt texts, in RE2's syntax."""


_UNSTEADY = "SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"


@dataclass(frozen=True)
class Condition:
    """A reason to drop a pair, and the SQL that is true for those that are dropped for it."""

    reason: str
    drops: str


NO_CAPTION = Condition(
    "no_caption",
    f"CASE WHEN regexp_matches(alt, '[^{_SPACE}]') THEN false ELSE NOT coalesce(list_bool_or(list_transform("
    f"flatten(map_values(captions)), lambda text: regexp_matches(text, '[^{_SPACE}]'))), false) END",
)
"""Tried before all rules: a pair without a text of any source cannot be trained on."""


def conditions_of(  # noqa: PLR0911  # one return a kind
    rule: RowRule, columns: Mapping[str, str], thresholds: Mapping[tuple[str, float], float]
) -> list[Condition]:
    """Return the conditions of a rule that is decided by a row's columns alone.

    Args:
        columns: name -> SQL type of the columns that a pair has.
        thresholds: for each (column, fraction) of a `top_fraction` rule, the least value that is kept.
    Raises: TypeError: for rules that are decided elsewhere (uid lists, clusters).
    """
    reason = reason_of(rule)
    match rule:
        case CaptionWords():
            text = text_of(rule.source)
            drops = _outside(_words_in(text, rule), rule.min, rule.max)
            return _with_missing(reason, text, drops, rule.missing)
        case CaptionCharacters():
            text = text_of(rule.source)
            drops = _outside(f"length({text})", rule.min, rule.max)
            return _with_missing(reason, text, drops, rule.missing)
        case ImageSide():
            return [Condition(reason, _outside(SHORTER, rule.min, rule.max))]
        case AspectRatio():
            return [Condition(reason, f"{_LONGER} > {rule.max!r} * {SHORTER}")]
        case Language():
            known = ", ".join(quoted(code) for code in rule.keep)
            probability = column(f"{rule.score}_probability")
            return [
                Condition(f"{reason}_missing", f"{column(rule.score)} IS NULL"),
                Condition(
                    reason,
                    f"{column(rule.score)} NOT IN ({known}) OR {probability} < {rule.min_probability!r}",
                ),
            ]
        case CaptionNoise():
            patterns = [NOISE.get(pattern, pattern) for pattern in rule.patterns]
            text = text_of(rule.source)
            found = [f"regexp_matches({text}, {quoted(pattern)})" for pattern in patterns]
            return _with_missing(reason, text, " OR ".join(found), rule.missing)
        case ColumnBounds():
            value = number(rule.column)
            bounds = [_as_in(columns.get(rule.column), bound) for bound in (rule.min, rule.max)]
            return _with_missing(reason, value, _outside(value, *bounds), rule.missing)
        case TopFraction():
            value = number(rule.column)
            least = thresholds[rule.column, rule.fraction]
            return _with_missing(reason, value, _outside(value, least, None), rule.missing)
        case Sql():
            return [Condition(reason, f"({checked_expression(rule.keep)}) IS NOT TRUE")]
        case _:
            raise TypeError(f"{rule.kind} is not decided by columns")


def text_of(source: str) -> str:
    """Return the first text of a caption source; null where a pair has none."""
    return "alt" if source == "alt" else f"captions[{quoted(source)}][1]"


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def column(name: str) -> str:
    """Return a column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def number(name: str) -> str:
    """Return a column as a number; null where it is none, NaN included."""
    value = f"TRY_CAST({column(name)} AS DOUBLE)"
    return f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"


def checked_expression(text: str) -> str:
    """Return an expression over one row, after making sure that it is nothing else.

    Raises: ConfigError: if it does not parse, is more than one expression, or asks for other rows, tables or files.
    """
    with duckdb.connect(config=OWN_FUNCTIONS) as connection:
        query = f"SELECT ({text}\n)"
        parsed = json.loads(
            str(connection.execute("SELECT json_serialize_sql($1)", [query]).fetchall()[0][0])
        )
        unsteady = {str(name) for (name,) in connection.execute(_UNSTEADY).fetchall()}
    if parsed.get("error"):
        raise ConfigError(f"rule sql: {text!r} does not parse: {parsed.get('error_message')}")
    statements = parsed["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    is_one = node.get("type") == "SELECT_NODE" and len(node.get("select_list", [])) == 1
    if not is_one or node["from_table"]["type"] != "EMPTY":
        raise ConfigError(f"rule sql: {text!r} is not one expression over the columns of a pair")
    for part in _nodes(node["select_list"][0]):
        if part.get("class") in ("SUBQUERY", "WINDOW", "PARAMETER", "STAR"):
            raise ConfigError(
                f"rule sql: {text!r} has a {str(part['class']).lower()}; only the columns of the pair itself can be "
                "asked. Use another kind of rule for what depends on other pairs"
            )
        if part.get("function_name") in unsteady:
            raise ConfigError(
                f"rule sql: {text!r} calls {part['function_name']}, whose value changes from run to run"
            )
    return text


MEASURES = {
    "caption characters": ("least(length(alt), 400)", (0.0, 400.0)),
    "shorter side, px": (f"least({SHORTER}, 2000)", (0.0, 2000.0)),
    "aspect ratio": (f"least({_LONGER} / nullif({SHORTER}, 0), 10)", (1.0, 10.0)),
}
"""Numbers that every pair has: name -> SQL, cut off where few are above, and its least and largest value."""


def measured_columns(rules: Iterable[object]) -> dict[str, str]:
    """Return the columns of numbers that rules look at: name -> SQL."""
    measures: dict[str, str] = {}
    for rule in rules:
        match rule:
            case ColumnBounds() | TopFraction():
                measures[rule.column] = number(rule.column)
            case _:
                pass
    return measures


def check_columns(conditions: Sequence[Condition], columns: Mapping[str, str], place: str) -> None:
    """Try every condition of a rule on an empty table, so that a wrong one is told before any data is read.

    Args:
        columns: name -> SQL type of all columns that a pair has.
        place: what the recipe calls the rule.
    Raises: ConfigError: naming the rule, the column or function that is not there, and the nearest one.
    """
    made = ", ".join(f"{column(name)} {kind}" for name, kind in columns.items())
    with duckdb.connect(config=OWN_FUNCTIONS) as connection:
        connection.execute(f"CREATE TABLE pairs ({made})")
        for condition in conditions:
            try:
                relation = connection.sql(f"SELECT alt, ({condition.drops}) AS drops FROM pairs")
                kind = str(relation.types[1])
                relation.fetchall()
            except duckdb.Error as error:
                said = str(error).splitlines()[0]
                missing = re.search(r'column "([^"]+)" not found', said)
                hint = nearest(missing[1], columns) if missing else ""
                raise ConfigError(
                    f"{place}: {said}.{hint} Columns here: {', '.join(sorted(columns))}; "
                    "acquire.keep_columns takes further ones from the table, score.scores makes new ones"
                ) from error
            if kind != "BOOLEAN":
                raise ConfigError(
                    f"{place}: gives {kind}, expected a condition that is true or false"
                )


def _nodes(value: Any) -> Iterable[dict[str, Any]]:  # noqa: ANN401  # any JSON value
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)


def _words_in(text: str, rule: CaptionWords) -> str:
    """Return the number of words, as far as the bounds need to know it."""
    if rule.max is None and rule.min is not None:
        enough = rf"(?:[^{_SPACE}]+[{_SPACE}]+){{{rule.min - 1}}}[^{_SPACE}]"
        return f"CASE WHEN regexp_matches({text}, '{enough}') THEN {rule.min} WHEN {text} IS NOT NULL THEN 0 END"
    # The common case, ASCII words with single spaces between them, is told five times as fast.
    return (
        f"CASE WHEN regexp_full_match({text}, '[!-~]+( [!-~]+)*') "
        f"THEN length({text}) - length(replace({text}, ' ', '')) + 1 "
        f"ELSE len(regexp_extract_all({text}, '[^{_SPACE}]+')) END"
    )


def _outside(value: str, least: float | None, most: float | None) -> str:
    bounds = [f"{value} < {_literal(least)}" if least is not None else ""]
    bounds += [f"{value} > {_literal(most)}" if most is not None else ""]
    return " OR ".join(bound for bound in bounds if bound)


def _as_in(kind: str | None, bound: float | None) -> float | None:
    """Return a bound as a column of single precision would hold it: 0.7 there is not less than 0.7."""
    return float(np.float32(bound)) if kind == "FLOAT" and bound is not None else bound


def _literal(value: float) -> str:
    """Return a number in SQL so that no digit is lost: a plain decimal literal would be a DECIMAL."""
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return f"'{value}'::DOUBLE"
    return f"{value!r}::DOUBLE"


def _with_missing(reason: str, value: str, drops: str, missing: str) -> list[Condition]:
    if missing == "keep":
        return [Condition(reason, drops)]
    return [Condition(f"{reason}_missing", f"({value}) IS NULL"), Condition(reason, drops)]
