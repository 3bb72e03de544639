"""Oracle: webdataset itself."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from neuclip.foundation.member_names import key_and_suffix
from neuclip.foundation.text import printable, split_lines


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab.J/_-\u00e9", max_size=12))
@example("n01440764.10026.JPEG")
@example("v1.0/train.x/s0.jpg")
@example("s0")
@example("folder.d/s0")
@example(".hidden")
@example("._s0.jpg")
@example("a/._s0.jpg")
@example("a.b/._s0.jpg")
@example("x.y/a/.b")
@example("./s0.cls")
@example("s0.")
@example("s0..jpg")
@example("a.b//.x")
@example("/.x")
def test_keys_are_webdatasets(name):
    key, suffix = base_plus_ext(name)
    if name.rpartition("/")[2].startswith("."):
        key = None
    assert key_and_suffix(name) == (None if key is None else (key, suffix.lower()))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\r\r\nb", ["a\r", "b"]),
        ("a\n\nb", ["a", "", "b"]),
        ("\n", [""]),
        *(
            (f"a{mark}b\nc", [f"a{mark}b", "c"])
            for mark in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
        ),
    ],
)
def test_a_line_ends_at_a_newline_and_nowhere_else(text, lines):
    assert split_lines(text) == lines


@pytest.mark.parametrize("text", ["a\udcff", "\ud800", "plain \u00e9"])
def test_what_is_printable_can_be_encoded(text):
    assert len(printable(text).encode()) >= len(text)
