"""The rules in plain Python over lists of dicts, written from the recipe's documentation."""

import math


def judge_plainly(rows, recipe):
    """Return uid -> reason of every row that came home, None for those that are kept."""
    home = [row for row in rows if not row["failed"]]
    reasons = {row["uid"]: None if _has_any_text(row) else "no_caption" for row in home}
    for rule in recipe:
        alive = [row for row in home if reasons[row["uid"]] is None]
        for row in alive:
            reasons[row["uid"]] = _reason(rule, row, alive, home)
    return reasons


def _has_any_text(row):
    return any(text is not None and text.strip() != "" for text in (row["alt"], row["rewrite"]))


def _reason(rule, row, alive, home):
    drops = _KINDS[rule["kind"]](rule, row, alive, home)
    if drops == "missing":
        return f"{rule['name']}_missing"
    return rule["name"] if drops else None


def _outside(value, rule):
    return value < rule.get("min", -math.inf) or value > rule.get("max", math.inf)


def _is_missing(value):
    return value is None or math.isnan(value)


def _column(rule, row, alive, home):
    value = row[rule["column"]]
    if _is_missing(value):
        return "missing" if rule["missing"] == "drop" else False
    return _outside(value, rule)


def _of_text(measure):
    """Return a rule over the first text of a source; a pair without one passes unless the rule says otherwise."""

    def drops(rule, row, alive, home):
        text = row[rule.get("source", "alt")]
        if text is None:
            return "missing" if rule.get("missing") == "drop" else False
        return _outside(measure(text), rule)

    return drops


def _top_fraction(rule, row, alive, home):
    values = sorted(
        (other[rule["column"]] for other in home if not _is_missing(other[rule["column"]])),
        reverse=True,
    )
    if not values:
        raise LookupError("a fraction of nothing")
    least = values[min(int(len(home) * rule["fraction"]), len(values) - 1)]
    return _column({**rule, "min": least}, row, alive, home)


def _is_worse(row, others, key, preference):
    if key(row) is None:
        return False
    same = [other for other in others if key(other) == key(row)]
    best = min(same, key=lambda other: (*[order(other) for order in preference], other["uid"]))
    return best is not row


def _preference(name):
    if name == "longest_caption":
        return lambda row: math.inf if row["alt"] is None else -len(row["alt"])
    if name == "largest_image":
        return lambda row: -row["size"][0] * row["size"][1]
    way, column = name.split()
    sign = -1 if way == "highest" else 1
    return lambda row: math.inf if _is_missing(row[column]) else sign * row[column]


_KINDS = {
    "caption_words": _of_text(lambda text: len(text.split())),
    "caption_characters": _of_text(len),
    "image_side": lambda rule, row, alive, home: _outside(min(row["size"]), rule),
    "aspect_ratio": lambda rule, row, alive, home: (
        max(row["size"]) > rule["max"] * min(row["size"])
    ),
    "column": _column,
    "top_fraction": _top_fraction,
    "duplicate_pairs": lambda rule, row, alive, home: _is_worse(
        row,
        alive,
        lambda other: None if other["alt"] is None else (other["url"], other["alt"]),
        [],
    ),
    "duplicate_images": lambda rule, row, alive, home: _is_worse(
        row, alive, lambda other: other["image"], [_preference(name) for name in rule["best"]]
    ),
}
