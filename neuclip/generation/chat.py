"""What stands in the requests and answers of the chat completions protocol, read with distrust."""

from typing import Any, NamedTuple, TypeVar, cast

import orjson

from neuclip.foundation.text import printable
from neuclip.generation.backend import Ended, Question, Reply
from neuclip.generation.config import Sampling

T = TypeVar("T")

MOST_CHARACTERS = 32_768
"""Of a text that is handed on; the most tokens that may be asked for are fewer."""
_MOST_SAID = 300
"""Characters of what a server says in an error."""
_MOST_TOKENS = 2**31
_ENDED = {"length": Ended.LENGTH, "content_filter": Ended.FILTERED}
_CONTENT_FILTER = "content_filter"


class Said(NamedTuple):
    """Why a server did not answer a question, in its own words."""

    words: str
    """Of any length and with any characters, see `one_line`."""
    is_filter: bool = False
    """Its content filter took offence."""


def request_fields(model: str, sampling: Sampling) -> dict[str, Any]:
    """Return the fields that all requests share."""
    return {
        "model": model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "n": 1,
    }


def request_body(question: Question, image_url: str | None, fields: dict[str, Any]) -> bytes:
    """Write a request.

    Args:
        image_url: of the image that the last message shows.
        fields: that stand beside the messages.
    """
    messages: list[dict[str, Any]] = [
        {"role": message.role, "content": printable(message.text)} for message in question.messages
    ]
    if image_url is not None:
        messages[-1]["content"] = [
            {"type": "text", "text": messages[-1]["content"]},
            {"type": "image_url", "image_url": {"url": image_url}},
        ]
    return orjson.dumps({"messages": messages, **fields})


def read_reply(body: bytes) -> Reply:
    """Read an answer; one that is not what the protocol says is a reply too, `MALFORMED`."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return Reply(f"expected JSON: {one_line(str(error))}", Ended.MALFORMED)
    choices = _field(answer, "choices", list) or [None]
    text = _text(_field(choices[0], "message", dict))
    ended = _ENDED.get(_field(choices[0], "finish_reason", str) or "", Ended.STOP)
    if text is None and ended is Ended.STOP:
        ended, text = Ended.MALFORMED, "expected a text in choices[0].message.content, found none"
    usage = _field(answer, "usage", dict)
    return Reply(
        (text or "")[:MOST_CHARACTERS],
        ended,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def read_error(body: bytes) -> Said:
    """Read what a server says in place of an answer: as OpenAI, vLLM, TGI and FastAPI write it, or in any other way."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Said(body.decode("utf-8", "replace"))
    error = _field(content, "error", dict) or content
    parts = (
        _field(part, name, str)
        for part in (error, content)
        for name in ("message", "error", "detail")
    )
    words = next(filter(None, parts), None) or body.decode("utf-8", "replace")
    return Said(words, _CONTENT_FILTER in (_field(error, "code", str), _field(error, "type", str)))


def one_line(text: str) -> str:
    """Return a foreign text as one bounded line without anything that a terminal obeys."""
    kept = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * _MOST_SAID])
    line = " ".join(kept.split())
    return line if len(line) <= _MOST_SAID else f"{line[: _MOST_SAID - 3]}..."


def _text(message: dict[str, Any] | None) -> str | None:
    """Return what a message says: its content, a text or parts of one, or why it refuses."""
    if message is None:
        return None
    content = message.get("content")
    if isinstance(content, list):
        parts = [_field(part, "text", str) for part in cast("list[Any]", content)]
        return "".join(part for part in parts if part is not None) if any(parts) else None
    return content if isinstance(content, str) else _field(message, "refusal", str)


def _field(content: Any, name: str, kind: type[T]) -> T | None:  # noqa: ANN401  # whatever a server sends
    """Return a field if there is one of this kind."""
    value = cast("dict[str, Any]", content).get(name) if isinstance(content, dict) else None
    return value if isinstance(value, kind) else None


def _count(usage: dict[str, Any] | None, name: str) -> int:
    value = _field(usage, name, int)
    return value if value is not None and 0 <= value < _MOST_TOKENS else 0
