"""What asks a model: questions in, replies out, in any order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """One message of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    text: str


@dataclass(frozen=True)
class Question:
    """What a model is asked for one text.

    Args:
        item: names it among all questions.
        messages: the chat; the last message is the user's.
        image: file that the last message shows, JPEG, PNG or WebP; None if the model is asked about texts alone.
    """

    item: str
    messages: tuple[Message, ...]
    image: bytes | None = None


class Ended(StrEnum):
    """How a reply came to its end."""

    STOP = "stop"
    """As the model wanted."""
    LENGTH = "length"
    """At the most tokens that were allowed."""
    FILTERED = "filtered"
    """By the endpoint's content filter."""
    REJECTED = "rejected"
    """The question was not taken, since something in it is wrong for this model; the text says what."""
    UNREADABLE = "unreadable"
    """The image could not be read; the text says why."""
    MALFORMED = "malformed"
    """An answer came, and is not what the protocol says; the text says how. Not asked again: it may have been paid."""
    NO_ANSWER = "no_answer"
    """None came in all tries, while others were answered; the text says why. It is in no journal, so a
    forced run asks again."""


@dataclass(frozen=True)
class Reply:
    """What came back, as it came.

    Args:
        prompt_tokens: of the question, as the model counts; 0 where it does not say.
        completion_tokens: of the text.
    """

    text: str
    ended: Ended = Ended.STOP
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Backend(Protocol):
    """Asks a model."""

    def ask(self, questions: Iterator[Question], take: Callable[[Question, Reply], None]) -> None:
        """Ask questions until there are no more; each is handed to `take` with its reply as soon as that is there.

        Questions are drawn when there is room for them, not before; both the iterator and `take` run in this thread.

        Raises: ConfigError: for a model that is not there or may not be used. EndpointError: if it stays out of reach.
            What `take` or the questions raise: at once, with no question left open.
        """
        ...
