"""Requests and answers of the protocol. Oracle: any JSON and any bytes, and what servers are known to write."""

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuclip.generation import chat
from neuclip.generation.backend import Ended, Message, Question, Reply

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
)
NAMES = st.sampled_from(["choices", "message", "content", "text", "refusal", "finish_reason"])
NAMES |= st.sampled_from(["usage", "prompt_tokens", "completion_tokens", "error", "code", "detail"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(), inner),
    max_leaves=20,
)


def completion(message, **choice):
    choices = [{"message": message, "finish_reason": "stop", **choice}]
    return orjson.dumps({"choices": choices})


@settings(max_examples=50, deadline=None)
@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_whatever_comes_is_a_reply(body):
    reply = chat.read_reply(body)
    assert isinstance(reply.text, str)
    assert 0 <= reply.prompt_tokens < 2**31
    assert 0 <= reply.completion_tokens < 2**31
    assert isinstance(chat.read_error(body).words, str)


@settings(max_examples=50, deadline=None)
@given(JSON)
def test_only_a_text_is_taken_for_one(content):
    reply = chat.read_reply(completion({"content": content, "role": "assistant"}))
    if isinstance(content, str):
        assert reply == Reply(content)
    else:
        assert reply.ended in (Ended.MALFORMED, Ended.STOP)
        assert reply.ended is Ended.MALFORMED or isinstance(content, list)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_what_others_say_is_one_line_that_no_terminal_obeys(text):
    line = chat.one_line(text * 50)
    assert line.isprintable()
    assert len(line) <= 300


@pytest.mark.parametrize(
    ("message", "choice", "reply"),
    [
        ({"content": None}, {"finish_reason": "length"}, Reply("", Ended.LENGTH)),
        ({"content": ""}, {}, Reply("")),
        ({"content": "a"}, {"finish_reason": None}, Reply("a")),
        ({"content": "a"}, {"finish_reason": "eos_token"}, Reply("a")),
        ({}, {"finish_reason": "content_filter"}, Reply("", Ended.FILTERED)),
        ({"content": None, "refusal": "I cannot"}, {}, Reply("I cannot")),
        (
            {"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]},
            {},
            Reply("a b"),
        ),
    ],
)
def test_what_servers_are_known_to_answer(message, choice, reply):
    assert chat.read_reply(completion(message, **choice)) == reply


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no such model", "code": "model_not_found"}}, ("no such model",)),
        ({"object": "error", "message": "too long", "code": 400}, ("too long",)),
        ({"error": "Input validation", "error_type": "validation"}, ("Input validation",)),
        ({"detail": "Not Found"}, ("Not Found",)),
        ({"detail": [{"loc": ["body"]}]}, ('{"detail":[{"loc":["body"]}]}',)),
        ({"error": {"message": "bad", "code": "content_filter"}}, ("bad", True)),
        ({"error": {"message": "bad", "type": "content_filter"}}, ("bad", True)),
        ("<h1>502</h1>", ("<h1>502</h1>",)),
    ],
)
def test_what_servers_are_known_to_say(body, said):
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    assert chat.read_error(content) == chat.Said(*said)


def test_texts_that_are_no_utf_8_can_be_asked_about():
    asked = Question("a", (Message("user", "half \ud83d of a sign"),))
    body = orjson.loads(chat.request_body(asked, None, {"model": "tiny"}))
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "half ? of a sign"}],
    }
