"""A model behind an endpoint. Oracle: a real server on loopback that does what a prompt says, and what it noted."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import orjson
import psutil
import pytest
from PIL import Image

from neuclip.foundation.errors import BudgetError, ConfigError, EndpointError
from neuclip.generation import patience
from neuclip.generation.backend import Ended, Message, Question, Reply
from neuclip.generation.config import Endpoint, Sampling
from neuclip.generation.endpoint import ChatEndpoint
from neuclip.generation.http_client import MOST_BYTES
from tests.servers.chat_server import ESCAPES, MODEL, chat_server
from tests.servers.odd_pictures import good_jpeg, written

KEY = "sk-a-key-that-nobody/may+show"
VARIABLE = "KEY_OF_THE_TESTS"
LIKELY_NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with chat_server(tmp_path_factory.mktemp("chat")) as server:
        yield server


def endpoint(address, **fields):
    fields = {"model": MODEL, "deadline_s": 5, "patience_s": 20, "concurrency": 8, **fields}
    return ChatEndpoint(Endpoint(address=address, **fields), Sampling())


def question(item, prompt, image=None):
    messages = (Message("system", "be brief"), Message("user", f"{prompt} item={item}"))
    return Question(item, messages, image)


class Asking:
    """Asks a server; items are names of their own, so that its log tells how often each was asked."""

    def __init__(self, server, name):
        self.server, self.name = server, name

    def __call__(self, *prompts, **fields):
        replies = {}
        questions = [question(f"{self.name}/{n}", prompt) for n, prompt in enumerate(prompts)]
        endpoint(self.server.address, **fields).ask(
            iter(questions), lambda asked, reply: replies.__setitem__(asked.item, reply)
        )
        assert len(replies) == len(prompts)
        return [replies[asked.item] for asked in questions]

    def times(self):
        """Return when the server was asked, by item."""
        found = {}
        for request in self.server.requests():
            if request["item"] and request["item"].startswith(f"{self.name}/"):
                found.setdefault(request["item"], []).append(request["time"])
        return found


@pytest.fixture
def ask(server, request):
    return Asking(server, request.node.name.replace(" ", "-"))


MALFORMED = ("empty", "no_choices", "malformed", "absurd")
ANSWERED = {
    "ok": (Ended.STOP, "answer to: "),
    "delay 0.1": (Ended.STOP, "answer to: "),
    "parts": (Ended.STOP, "in parts"),
    "html": (Ended.STOP, ESCAPES),
    "no_usage": (Ended.STOP, "answer to: "),
    "long 100000": (Ended.STOP, "long long "),
    "cut": (Ended.LENGTH, "answer to: "),
    "blocked": (Ended.FILTERED, "answer to: "),
    "filtered": (Ended.FILTERED, "HTTP 400: not allowed here"),
    "400": (Ended.REJECTED, "HTTP 400: this is 400 <script>"),
    "413": (Ended.REJECTED, "HTTP 413: this is 413 <script>"),
    "422": (Ended.REJECTED, "HTTP 422: this is 422 <script>"),
    **dict.fromkeys(MALFORMED, (Ended.MALFORMED, "expected ")),
    "long 50000000": (Ended.MALFORMED, f"an answer of more than {MOST_BYTES} bytes"),
}


def test_what_is_answered_is_asked_once(ask):
    replies = ask(*(f"{{{{{script}}}}}" for script in ANSWERED))
    for reply, (script, (ended, text)) in zip(replies, ANSWERED.items(), strict=True):
        assert reply.ended is ended, script
        assert reply.text.startswith(text), script
        assert len(reply.text) < 40_000, script
        if ended is not Ended.STOP:
            assert reply.text.isprintable(), script
    assert [len(times) for times in ask.times().values()] == [1] * len(ANSWERED)


def test_tokens_are_those_that_the_server_counts(ask):
    counted, uncounted, absurd = ask("one two", "{{no_usage}}", "{{absurd}}")
    assert (counted.prompt_tokens, counted.completion_tokens) == (7, 5)
    assert (uncounted.prompt_tokens, uncounted.completion_tokens) == (0, 0)
    assert (absurd.prompt_tokens, absurd.completion_tokens) == (0, 0)


def test_a_request_says_what_the_settings_say(server):
    asked = []
    config = Endpoint(address=server.address, model=MODEL, body={"repetition_penalty": 1.1})
    sampling = Sampling(temperature=0.5, top_p=0.75, max_tokens=33, seed=5)
    image = good_jpeg()
    ChatEndpoint(config, sampling).ask(
        iter([question("a", "{{mirror}}"), question("b", "{{mirror}}", image)]),
        lambda question, reply: asked.append((question.item, orjson.loads(reply.text))),
    )
    asked = dict(asked)
    for request in asked.values():
        assert request.pop("messages")[0] == {"role": "system", "content": "be brief"}
        assert request == {
            "model": MODEL,
            "temperature": 0.5,
            "top_p": 0.75,
            "max_tokens": 33,
            "seed": 5,
            "n": 1,
            "repetition_penalty": 1.1,
        }


def test_the_last_message_shows_the_image(server):
    asked = []
    endpoint(server.address).ask(
        iter([question("b", "{{mirror}}", good_jpeg())]),
        lambda _, reply: asked.extend(orjson.loads(reply.text)["messages"]),
    )
    text, image = asked[-1]["content"]
    assert text == {"type": "text", "text": "{{mirror}} item=b"}
    assert image["type"] == "image_url"
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_a_large_image_goes_whole(server):
    noise = Image.effect_noise((1024, 1024), 90).convert("RGB")
    content = written(noise, "PNG")
    found = []
    endpoint(server.address, image_px=1024).ask(
        iter([question("big", "{{mirror}}", content)]), lambda _, reply: found.append(reply)
    )
    assert len(content) > 1_500_000
    assert found[0].ended is Ended.MALFORMED  # since it comes back whole
    assert found[0].text.startswith("an answer of more than")


def test_an_image_that_cannot_be_read_is_not_asked_about(ask):
    found = []
    name = f"{ask.name}/broken"
    endpoint(ask.server.address).ask(
        iter([question(name, "what", good_jpeg()[:300])]), lambda _, reply: found.append(reply)
    )
    assert [reply.ended for reply in found] == [Ended.UNREADABLE]
    assert not ask.times()


@pytest.mark.parametrize(
    "script", ["500 x2", "503 x1", "429 x1", "429 0 x1", "drop x2", "halve x1"]
)
def test_what_may_pass_is_asked_again(ask, script):
    [reply] = ask(f"{{{{{script}}}}}")
    assert (reply.ended, reply.text[:9]) == (Ended.STOP, "answer to")
    assert [len(times) for times in ask.times().values()] == [int(script[-1]) + 1]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("500", "HTTP 500: this is 500 <script>alert(1)</script> [31mred"),
        ("429", "HTTP 429"),
        ("drop", "the answer broke off"),
        ("drip 0.1", "no answer within deadline_s=0.5"),
        ("delay 5", "no answer within deadline_s=0.5"),
    ],
)
def test_a_question_that_is_never_answered_holds_up_no_other(ask, script, why):
    began = time.monotonic()
    replies = ask(f"{{{{{script}}}}}", *["fine"] * 20, tries=2, deadline_s=0.5)
    assert replies[0].ended is Ended.NO_ANSWER
    assert replies[0].text.startswith(why)
    assert replies[0].text.endswith("; 2 requests")
    assert replies[0].text.isprintable()
    assert {reply.ended for reply in replies[1:]} == {Ended.STOP}
    assert [len(times) for times in ask.times().values()] == [2] + [1] * 20
    assert time.monotonic() - began < 4


def test_retry_after_lets_all_questions_wait(ask):
    replies = ask("{{429 1 x1}}", *["{{delay 0.05}}"] * 30, concurrency=4, tries=1)
    assert {reply.ended for reply in replies} == {Ended.STOP}
    times = sorted(time for of_item in ask.times().values() for time in of_item)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert sum(gap > 0.8 for gap in gaps) == 1
    assert len(times) == 32


def test_retry_after_beyond_all_patience_ends_it(ask):
    with pytest.raises(EndpointError, match=r"left alone for 3000 s.*patience_s=20"):
        ask("{{429 3000}}")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("401", "set `api_key` to the name of an environment variable"),
        ("403", "HTTP 403"),
        ("404", "correct `model`"),
        ("405", "refuses all questions"),
        ("redirect", "leads to '/v1/elsewhere', which is not followed"),
    ],
)
def test_what_all_questions_would_be_told_ends_it(ask, script, words):
    with pytest.raises(ConfigError, match=words) as caught:
        ask(f"{{{{{script}}}}}", *["{{delay 3}}"] * 20)
    assert ask.server.address in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_unknown_model_is_told(ask):
    with pytest.raises(ConfigError, match="knows no model 'huge'"):
        ask("what", model="huge")


def test_answers_come_to_their_questions_in_any_order(ask):
    prompts = [f"{{{{delay {(n * 7 % 5) / 20}}}}} {n}" for n in range(20)]
    for replies in (ask(*prompts), ask(*prompts, concurrency=20)):
        assert [reply.text for reply in replies] == [
            f"answer to: {prompt} item={ask.name}/{n}" for n, prompt in enumerate(prompts)
        ]


def test_swapped_answers_come_as_the_server_gives_them(ask):
    first, second = ask("{{swap}} a", "{{swap}} b")
    assert first.text == f"answer to: {{{{swap}}}} b item={ask.name}/1"
    assert second.text == f"answer to: {{{{swap}}}} a item={ask.name}/0"


def test_questions_are_drawn_when_there_is_room(server):
    drawn, open_ones, taken_in = 0, [], set()

    def questions():
        nonlocal drawn
        for number in range(30):
            drawn += 1
            taken_in.add(threading.current_thread())
            yield question(str(number), "{{delay 0.02}}")

    def take(_asked, _reply):
        taken_in.add(threading.current_thread())
        open_ones.append(drawn - len(open_ones))

    endpoint(server.address, concurrency=3).ask(questions(), take)
    assert len(open_ones) == 30
    assert max(open_ones) == 3
    assert taken_in == {threading.current_thread()}


def test_no_question_makes_no_request():
    endpoint(LIKELY_NOWHERE).ask(iter([]), lambda *_: pytest.fail("nothing was asked"))


def test_a_long_answer_costs_no_memory(ask):
    tracemalloc.start()
    try:
        [reply] = ask("{{long 50000000}}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reply.ended is Ended.MALFORMED
    assert peak < 8_000_000


def raising(error):
    def take(_asked, _reply):
        raise error

    return take


def breaking(questions, error):
    yield from questions
    raise error


@pytest.mark.parametrize("where", ["take", "questions"])
@pytest.mark.parametrize(
    "error", [BudgetError("spent"), KeyboardInterrupt(), SystemExit(3)], ids=repr
)
def test_what_take_or_the_questions_raise_ends_it_at_once(server, where, error):
    questions = [question("slow", "{{delay 30}}"), question("quick", "now")]
    take = raising(error) if where == "take" else lambda *_: None
    drawn = iter(questions) if where == "take" else breaking(questions, error)
    began = time.monotonic()
    with pytest.raises(type(error)):
        endpoint(server.address).ask(drawn, take)
    assert time.monotonic() - began < 1
    assert not any(thread.name == "http" for thread in threading.enumerate())
    assert not psutil.Process().net_connections("tcp")


CHILD = """
import logging, sys
from neuclip.foundation.interrupts import Interrupted, Interrupts
from neuclip.generation import patience
from neuclip.generation.backend import Message, Question
from neuclip.generation.config import Endpoint, Sampling
from neuclip.generation.endpoint import ChatEndpoint
logging.basicConfig(level=logging.DEBUG)
interrupts = Interrupts()
if sys.argv[2] == "heeding":
    interrupts.heed()
    interrupts.is_at_work = True
def questions():
    for number in range(1000):
        yield Question(str(number), (Message("user", "{{delay 30}} {{%d}}" % number),))
        if number == 0:
            print("asking", flush=True)
config = Endpoint(address=sys.argv[1], model="tiny", api_key="KEY_OF_THE_TESTS")
try:
    ChatEndpoint(config, Sampling()).ask(questions(), print)
except Interrupted as error:
    sys.exit(128 + error.number)
except KeyboardInterrupt:
    sys.exit(99)
"""


NOISE = ("Traceback", "never retrieved", "was destroyed", "Unclosed", "ResourceWarning", KEY)


def test_a_signal_ends_it_in_order(server):
    told = [(signal.SIGINT, "plain", 99), (signal.SIGINT, "heeding", 130)]
    told.append((signal.SIGTERM, "heeding", 143))
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "always", "-c", CHILD, server.address, how],
                    env={**os.environ, VARIABLE: KEY},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _, how, _ in told
        ]
        for child in children:
            stack.callback(child.kill)
            assert child.stdout.readline() == "asking\n"
        time.sleep(0.3)
        for child, (number, how, code) in zip(children, told, strict=True):
            began = time.monotonic()
            child.send_signal(number)
            output, errors = child.communicate(timeout=10)
            assert time.monotonic() - began < 2, how
            assert child.returncode == code
            assert not output
            assert not [noise for noise in NOISE if noise in errors], errors


def test_a_key_is_sent_and_never_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, KEY)
    caplog.set_level("DEBUG")
    told = []
    with chat_server(tmp_path, key=KEY) as server:
        asked = endpoint(server.address, api_key=VARIABLE)
        asked.check()
        asked.ask(iter([question("a", "what")]), lambda _, reply: told.append(reply.text))
        assert told[0].startswith("answer to")
        with pytest.raises(ConfigError) as echoed:
            asked.ask(iter([question("a", "{{tell_key}}")]), lambda *_: None)
        monkeypatch.setenv(VARIABLE, f"{KEY}-old")
        with pytest.raises(ConfigError) as wrong:
            endpoint(server.address, api_key=VARIABLE).check()
        with pytest.raises(ConfigError, match="set `api_key`"):
            endpoint(server.address).check()
    for error in (echoed.value, wrong.value):
        assert VARIABLE in str(error)
        assert "Bearer [key]" in str(error)
        told += traceback.format_exception(error)
    told += [caplog.text, repr(asked), str(vars(asked))]
    assert not any(KEY in text for text in told)


@pytest.mark.parametrize("value", [None, "", "  ", "sk-\u00e9", "sk-a\nb"])
def test_a_key_that_cannot_be_sent_is_told_by_its_variable(monkeypatch, value):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ConfigError, match=VARIABLE) as caught:
        endpoint("http://127.0.0.1/v1", api_key=VARIABLE)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        *("", "127.0.0.1:8000/v1", "localhost:8000/v1", "ftp://127.0.0.1/v1", "http:///v1"),
        *("http://127.0.0.1:99999/v1", "https://me:secret@host/v1", "me:secret@host:80/v1"),
        *("https://me:secret@host:99999/v1", "http://host/v1?key=secret", "http://host/v1#secret"),
        "http://127.0.0.1/v1/chat/completions",
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(address):
    with pytest.raises(ConfigError, match=re.escape("http://127.0.0.1:8000/v1")) as caught:
        endpoint(address)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["model", "messages", "stream", "n", "temperature", "seed"])
def test_the_body_sets_nothing_that_other_settings_say(name):
    with pytest.raises(ConfigError, match=f"sets {name}"):
        endpoint("http://127.0.0.1/v1", body={name: 1})


def test_a_server_that_is_not_there_is_told_soon():
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"no connection.*correct `address`") as caught:
        endpoint(LIKELY_NOWHERE, patience_s=1).ask(
            (question(str(n), "what") for n in range(100)), lambda *_: pytest.fail("answered")
        )
    assert LIKELY_NOWHERE in str(caught.value)
    assert time.monotonic() - began < 3
    with pytest.raises(EndpointError, match=f"{LIKELY_NOWHERE} does not answer"):
        endpoint(LIKELY_NOWHERE).check()


def test_a_server_that_was_there_is_waited_for_from_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_CONTACT_S", 0.2)
    found = []
    with chat_server(tmp_path) as server:
        known = endpoint(server.address)
        known.check()
        server.kill()
        starting = threading.Timer(0.5, server.start)
        starting.start()
        known.ask(iter([question("a", "what")]), lambda _, reply: found.append(reply.ended))
        starting.join()
    assert found == [Ended.STOP]


@pytest.mark.slow
def test_a_server_that_was_never_there_is_not_waited_for_all_patience():
    began = time.monotonic()
    with pytest.raises(EndpointError, match="has answered nothing for 20 s"):
        endpoint(LIKELY_NOWHERE, patience_s=600).ask(
            (question(str(n), "what") for n in range(100)), lambda *_: pytest.fail("answered")
        )
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_server_that_answers_nothing_is_given_up(tmp_path, caplog, concurrency):
    with chat_server(tmp_path, mode="500") as server:
        with pytest.raises(EndpointError) as caught:
            endpoint(server.address, patience_s=1, concurrency=concurrency, tries=50).ask(
                (question(str(n), "what") for n in range(100)), lambda *_: pytest.fail("answered")
            )
        assert len(server.requests()) <= concurrency + 8
    words = str(caught.value)
    assert server.address in words
    assert f"{len(server.requests())} requests in a row failed, the last with: HTTP 500" in words
    assert words.endswith("then run again: the answers so far are kept")
    assert words.isprintable()
    assert "it is waited for" in caplog.text


def test_a_burst_of_errors_costs_no_answer(tmp_path, caplog):
    with chat_server(tmp_path, mode="500") as server:
        ending = threading.Timer(0.5, server.mode, ["ok"])
        ending.start()
        replies = Asking(server, "burst")(*["what"] * 60)
        ending.join()
    assert {reply.ended for reply in replies} == {Ended.STOP}
    assert "answers again" in caplog.text


def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path):
    replies = {}
    with chat_server(tmp_path, mode="delay 0.02") as server:

        def restart():
            server.kill()
            time.sleep(0.7)
            server.start()

        killing = threading.Thread(target=restart)

        def take(asked: Question, reply: Reply) -> None:
            replies[asked.item] = reply
            if len(replies) == 20:
                killing.start()

        endpoint(server.address, tries=2).ask((question(str(n), "what") for n in range(100)), take)
        killing.join()
        counts = {}
        for request in server.requests():
            counts[request["item"]] = counts.get(request["item"], 0) + 1
    assert len(replies) == 100
    assert {reply.ended for reply in replies.values()} == {Ended.STOP}
    assert sum(counts.values()) <= 100 + 8  # those that were in the air
    assert Path(tmp_path, "errors.log").read_text() == ""
