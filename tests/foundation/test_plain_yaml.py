"""Oracle: what each text says by the YAML 1.1 specification; one line for each that says nothing a recipe can use."""

import tracemalloc

import pytest

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.plain_yaml import parse_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + above] * 9)}]\n"
    for above, name in zip("abcdefghi", "bcdefghij", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000))

REFUSED = {
    "a list in itself": ("a: &a [*a]", "line 1, column 8: *a stands inside"),
    "a section in itself": ("a: &a {b: *a}", "stands inside"),
    "a section deep in itself": ("a: &a\n  b:\n    - c: *a", "line 3"),
    "a merge of itself": ("a: &a\n  <<: *a", "line 2, column 7"),
    "the whole in itself": ("&a {b: [*a]}", "stands inside"),
    "a billion laughs": (LAUGHS, "more than 200,000 values"),
    "a billion merged": (LAUGHS.replace("x, x", "{k: v}, x"), "more than 200,000 values"),
    "a chain of aliases": (CHAIN, "nested more than 50 deep"),
    "ten thousand lists": ("[" * 10_000, "nested more than 50 deep"),
    "three hundred sections": ("".join(" " * i + "a:\n" for i in range(300)), "nested more than"),
    "too large": ("a: " + "x" * (5 << 20), "at most 4,194,304"),
    "many values": ("a: [" + "1, " * 210_000 + "1]", "more than 200,000 values"),
    "a field twice": ("root: a\nseed: 1\nroot: b", "line 3, column 1: root stands twice"),
    "a field twice, below": ("train:\n  lr: 1\n  'lr': 2", "line 3, column 3: lr stands twice"),
    "a number twice": ("1: a\n1: b", "1 stands twice"),
    "infinity": ("a: .inf", "infinity and nan"),
    "minus infinity": ("a: -.INF", "infinity and nan"),
    "not a number": ("a: [1, .NaN]", "line 1, column 8"),
    "five thousand digits": ("a: " + "9" * 5000, "beyond 1e+18"),
    "hexadecimal digits": ("a: 0x" + "f" * 5000, "beyond 1e+18"),
    "binary digits": ("a: 0b" + "1" * 64, "beyond 1e+18"),
    "a negative one": ("a: -1000000000000000000000", "beyond 1e+18"),
    "a tab": ("a:\n\tb: 1", "line 2, column 1"),
    "NUL": (b"a: \x00", "no text; save it as UTF-8"),
    "all bytes": (bytes(range(256)), "no text"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "no text"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "no text"),
    "Latin-1": ("a: \xe9".encode("latin-1"), "no text"),
    "UTF-16 without a mark": ("a: b".encode("utf-16-le"), "no text"),
    "half a surrogate": ('a: "\\ud800"', "line 1"),
    "a Python object": ("a: !!python/object/apply:os.system ['x']", "a tag"),
    "a tag": ("a: !x 1", "a tag"),
    "a wrong number": ("a: !!int x", "a tag"),
    "a wrong boolean": ("a: !!bool x", "a tag"),
    "a set": ("a: !!set {b, c}", "a tag"),
    "bytes": ('a: !!binary "x"', "a tag"),
    "a list as a field": ("? [a, b]\n: c", "where the name of a field is expected"),
    "two documents": ("--- a\n--- b", "line 2"),
    "no such anchor": ("a: *x", "line 1, column 4"),
    "a merge of a number": ("a: {<<: 3}", "line 1"),
    "an open quote": ('a: "x', "check quotes"),
    "an open bracket": ("a: [1, 2", "check quotes"),
    "a colon too many": ("a: b: c", "line 1"),
    "indentation": ("a: 1\n  b: 2", "line 2"),
    "a percent sign": ("a: %x", "line 1, column 4"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_within_little_memory(case):
    text, said = REFUSED[case]
    tracemalloc.start()
    with pytest.raises(ConfigError) as refusal:
        parse_yaml(text)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(refusal.value)
    assert said in message
    assert "\n" not in message
    assert len(message) < 300
    assert most < 20 << 20


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 2.5, null, true]", {"a": 1, "b": ["x", 2.5, None, True]}),
        ("a: 2024-01-01\nb: 2024-13-45", {"a": "2024-01-01", "b": "2024-13-45"}),
        ("a: =", {"a": "="}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}),
        ("a: &a [1]\nb: *a\nc: *a", {"a": [1], "b": [1], "c": [1]}),
        ("&a a: *a", {"a": "a"}),
        ("no: 1\n2: x", {"no": 1, "2": "x"}),
        ("\ufeffa: \u732b \U0001f600".encode(), {"a": "\u732b \U0001f600"}),
        ("a: b".encode("utf-16"), {"a": "b"}),
        ("a: 1\r\nb: 2", {"a": 1, "b": 2}),
        ("a: 999_999_999_999_999_999", {"a": 10**18 - 1}),
        ("", None),
    ],
)
def test_read(text, value):
    assert parse_yaml(text) == value
