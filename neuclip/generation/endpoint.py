"""A server that speaks the chat completions protocol.

Questions are drawn and replies are taken in the thread that asks, as plain code: a signal, or whatever either raises,
ends it there and then. HTTP is spoken in a thread of its own.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from threading import Event

import orjson
from pydantic import SecretStr
from yarl import URL

from neuclip.foundation.errors import ConfigError, DataError, EndpointError
from neuclip.generation import chat
from neuclip.generation.backend import Ended, Question, Reply
from neuclip.generation.config import Endpoint, Sampling
from neuclip.generation.http_client import (
    MOST_BYTES,
    Answer,
    FailedError,
    HttpClient,
    http_thread,
)
from neuclip.generation.image_url import image_url
from neuclip.generation.patience import Patience

_CHECK_S = 10.0
_WRONG_KEY = (401, 403)
_WRONG_QUESTION = (400, 413, 422)
_MAY_PASS = (408, 409, 425, 429)
_ASKS_TO_WAIT = (429, 503)
_OWN_FIELDS = ("messages", "stream")
_HIDDEN = "[key]"


class ChatEndpoint:
    """Asks a model behind an endpoint, see `Backend`.

    Raises: ConfigError: for an address, a key or further fields that cannot be meant.
    """

    def __init__(self, config: Endpoint, sampling: Sampling) -> None:
        self._config = config
        self._url = _url(config)
        self._completions = self._url / "chat" / "completions"
        self._key = _key(config.api_key)
        self._was_reached = Event()
        own = chat.request_fields(config.model, sampling)
        if taken := sorted({*own, *_OWN_FIELDS} & config.body.keys()):
            raise ConfigError(
                f"`body` of model {config.model!r} sets {', '.join(taken)}, which `model` and `sampling` say; "
                "leave there what they do not have"
            )
        self._fields = own | config.body
        try:
            orjson.dumps(config.body)
        except TypeError as error:
            raise ConfigError(
                f"`body` of model {config.model!r} cannot be sent: {error}"
            ) from error

    def check(self) -> None:
        """Ask the server whether it is there and takes the key; no model is asked.

        Raises: ConfigError: if it does not take the key. EndpointError: if it does not answer.
        """
        outcome: SimpleQueue[Exception | None] = SimpleQueue()

        async def work(client: HttpClient) -> None:
            try:
                await self._check(client)
            except Exception as error:  # noqa: BLE001  # raised by the thread that asks
                outcome.put(error)
            else:
                outcome.put(None)

        with http_thread(self._key, _CHECK_S) as start:
            start(work)
            if error := outcome.get():
                raise error

    def ask(self, questions: Iterator[Question], take: Callable[[Question, Reply], None]) -> None:
        """Ask all questions, see `Backend`.

        A request that fails for a reason that may pass is sent again, see `Patience`. Those that did not reach the
        server, and those that it wants sent later, are not counted as tries.
        """
        answered: SimpleQueue[tuple[Question, Reply] | Exception] = SimpleQueue()
        patience = Patience(str(self._url), self._config, self._was_reached)

        async def work(client: HttpClient, question: Question, body: bytes) -> None:
            try:
                reply = await self._reply(client, patience, body)
            except Exception as error:  # noqa: BLE001  # raised by the thread that asks
                answered.put(error)
            else:
                answered.put((question, reply))

        with http_thread(self._key, self._config.deadline_s) as start:
            room, has_more = self._config.concurrency, True
            while has_more or room < self._config.concurrency:
                if not (has_more and room) or not answered.empty():
                    take(*_raised(answered.get()))
                    room += 1
                elif (question := next(questions, None)) is None:
                    has_more = False
                elif isinstance(body := self._body(question), Reply):
                    take(question, body)
                else:
                    start(partial(work, question=question, body=body))
                    room -= 1

    def _body(self, question: Question) -> bytes | Reply:
        """Write the request, or reply that the image cannot be read."""
        if question.image is None:
            return chat.request_body(question, None, self._fields)
        try:
            url = image_url(question.image, longest_px=self._config.image_px)
        except DataError as error:
            return Reply(chat.one_line(str(error)), Ended.UNREADABLE)
        return chat.request_body(question, url, self._fields)

    async def _reply(self, client: HttpClient, patience: Patience, body: bytes) -> Reply:
        """Send a request until it is answered, or was tried as often as it may be.

        Raises: ConfigError. EndpointError
        """
        tries = failures = 0
        while True:
            async with patience.turn():
                began = patience.now()
                try:
                    answer = await client.exchange("POST", self._completions, body)
                    return self._judged(answer, patience)
                except FailedError as error:
                    why = self._told(str(error))
                    failures += 1
                    if error.is_try:
                        self._was_reached.set()
                        tries += 1
                    wait_s = patience.failed(began, why, failures)
            if tries == self._config.tries:
                return Reply(f"{why}; {tries} requests", Ended.NO_ANSWER)
            await asyncio.sleep(wait_s)

    def _judged(self, answer: Answer, patience: Patience) -> Reply:
        """Return the reply that an answer is.

        Raises: FailedError: if the next answer may be another. ConfigError. EndpointError
        """
        self._was_reached.set()
        if answer.status // 100 == 2:
            patience.answered()
            if not answer.is_whole:
                return Reply(f"an answer of more than {MOST_BYTES} bytes", Ended.MALFORMED)
            return chat.read_reply(answer.body)
        said = chat.read_error(answer.body)
        words = self._told(f"HTTP {answer.status}: {said.words}")
        if answer.status in _WRONG_QUESTION:
            patience.answered()
            return Reply(words, Ended.FILTERED if said.is_filter else Ended.REJECTED)
        if answer.status not in _MAY_PASS and answer.status < 500:
            raise self._refusal(answer, words)
        if not answer.wait_s or answer.status not in _ASKS_TO_WAIT:
            raise FailedError(words)
        patience.asked_to_wait(answer.wait_s)
        raise FailedError(words, is_try=False)

    async def _check(self, client: HttpClient) -> None:
        try:
            answer = await client.exchange("GET", self._url / "models")
        except FailedError as error:
            raise EndpointError(
                f"{self._url} does not answer: {self._told(str(error))}; start the server or correct `address`"
            ) from error
        self._was_reached.set()
        words = self._told(f"HTTP {answer.status}: {chat.read_error(answer.body).words}")
        if answer.status in _WRONG_KEY or answer.status // 100 == 3:
            raise self._refusal(answer, words)
        if answer.status >= 500:
            raise EndpointError(f"{self._url} does not work: {words}; see to the server")

    def _refusal(self, answer: Answer, words: str) -> ConfigError:
        """Say what to correct for an answer that all questions would get."""
        name, model = self._config.api_key, self._config.model
        if answer.status in _WRONG_KEY:
            advice = (
                f"check the key in the environment variable {name}"
                if name
                else "set `api_key` to the name of an environment variable with a key"
            )
            return ConfigError(f"{self._url} does not take the key: {words}; {advice}")
        if answer.status == 404:
            return ConfigError(
                f"{self._url} knows no model {model!r}, or is no address of the protocol: {words}; correct `model`, or "
                "`address`, which goes up to and with /v1"
            )
        if answer.status // 100 == 3:
            return ConfigError(
                f"{self._url} leads to {self._told(answer.location)!r}, which is not followed; set `address` to where "
                "the server is"
            )
        return ConfigError(
            f"{self._url} refuses all questions: {words}; see to `address` and `model`"
        )

    def _told(self, words: str) -> str:
        """Return what others say as one line that does not hold the key."""
        key = self._key.get_secret_value() if self._key else None
        return chat.one_line(words.replace(key, _HIDDEN) if key else words)


def _raised(found: tuple[Question, Reply] | Exception) -> tuple[Question, Reply]:
    if isinstance(found, Exception):
        raise found
    return found


def _url(config: Endpoint) -> URL:
    """Read the address; one that may hold a password or a key is not shown.

    Raises: ConfigError
    """
    address = config.address.strip()
    expected = (
        f"expected the address of model {config.model!r} as http://127.0.0.1:8000/v1 is written"
    )
    if "@" in address:
        raise ConfigError(
            f"{expected}, found one with user or password; name the environment variable with the key in `api_key`"
        )
    if "?" in address or "#" in address:
        raise ConfigError(f"{expected}, found one that goes on behind the path; leave that out")
    try:
        url = URL(address)
        is_whole = url.scheme in ("http", "https") and bool(url.host) and bool(url.port)
    except ValueError as error:
        raise ConfigError(f"{expected}, found {address!r}") from error
    if not is_whole:
        raise ConfigError(f"{expected}, found {address!r}")
    if url.path.rstrip("/").endswith("/completions"):
        raise ConfigError(f"{expected}, found {address!r}; leave out what follows /v1")
    return url.with_path(url.path.rstrip("/"))


def _key(name: str | None) -> SecretStr | None:
    """Read the key from an environment variable.

    Raises: ConfigError: if there is none that could be sent.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"expected the endpoint's key in the environment variable {name}, found none; set it, or `api_key` to null"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the environment variable {name} has characters that no key has; set it to the endpoint's key"
        )
    return SecretStr(key)
