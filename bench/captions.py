"""What a question to an endpoint costs the process that asks, beside a loop that only posts, and what the caption stage
does around it: processor time.

`python -m bench.captions [REPEATS]`; `python -m bench.captions serve` is the server, a process of its own that sends
the same answer to everything.
"""

import asyncio
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import aiohttp
import numpy as np
from PIL import Image

from neuclip.foundation.progress import silent
from neuclip.generation.answers import Asked, answer_all
from neuclip.generation.backend import Message, Question, Reply
from neuclip.generation.checks import Status
from neuclip.generation.config import Budget, Endpoint, Price, Rewrite, Sampling
from neuclip.generation.endpoint import ChatEndpoint
from neuclip.generation.journal import Journal
from neuclip.generation.spending import Spending

REPEATS = 5
CALLS, IN_THE_AIR = 5_000, 32
CALLS_WITH_IMAGE = 1_000
HOST = "127.0.0.1"
_LENGTH = b"content-length:"
_SOURCE = re.compile(r'<source id="(\w+)">(.*?)</source>')
_PROMPT = "Rewrite the caption. " * 40
_CHOICE = {"message": {"content": "two dogs play with a red ball"}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 300, "completion_tokens": 9}
_BODY = json.dumps({"choices": [_CHOICE], "usage": _USAGE}).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    _BODY
)


def main(repeats: int = REPEATS) -> None:
    image = picture()
    with server() as address:
        rows: list[tuple[float, float, float, float]] = []
        for _ in range(repeats):
            posted = processor_ms(CALLS, lambda: asyncio.run(post_all(address)))
            asked = processor_ms(CALLS, lambda: ask_all(address, CALLS))
            shown = processor_ms(
                CALLS_WITH_IMAGE, lambda: ask_all(address, CALLS_WITH_IMAGE, image)
            )
            around = processor_ms(CALLS, answer_all_without_a_model)
            rows.append((posted, asked, shown, around))
    posted, asked, shown, around = (min(column) for column in zip(*rows, strict=True))
    over = statistics.median(asked - posted for posted, asked, *_ in rows)
    print(
        f"captions: a question to an endpoint costs {asked:.2f} ms of processor ({CALLS} calls, {IN_THE_AIR} in the "
        f"air, best of {repeats}), one with an image of {len(image) // 1000} kB {shown:.2f} ms (floor: aiohttp posting "
        f"the same body {posted:.2f} ms; over it: median {over:.2f} ms); writing the question of a rewrite, judging "
        f"its answer and keeping it {around:.2f} ms more"
    )


def ask_all(address: str, calls: int, image: bytes | None = None) -> None:
    endpoint = Endpoint(address=address, model="any", concurrency=IN_THE_AIR)
    taken = []
    ChatEndpoint(endpoint, Sampling()).ask(
        questions(calls, image), lambda _, reply: taken.append(reply.text)
    )
    assert len(taken) == calls


def answer_all_without_a_model() -> None:
    """Do what the caption stage does around a model that answers at once: questions, journal, checks, budget."""
    step = Rewrite(model="any", texts=1)
    texts = [f"a photo of {n} dogs and a red ball on the beach of Brighton" for n in range(CALLS)]
    asked = [Asked(f"{n:032x}", 0, {"alt": text}) for n, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder, Journal(folder) as journal:
        spending = Spending(Budget(money=1e9), Price(prompt=1, completion=1), most_tokens=96)
        answers = answer_all(
            step, asked, backend=AtOnce, journal=journal, spending=spending, progress=silent
        )
    assert all(one.status is Status.OK for one in answers.judged)


class AtOnce:
    """Answers as a model would, without one."""

    def ask(self, questions: Iterator[Question], take: Callable[[Question, Reply], None]) -> None:
        for question in questions:
            own, text = _SOURCE.findall(question.messages[-1].text)[-1]
            answer = f'<answer id="{own}">In Brighton: {text}</answer>'
            take(question, Reply(answer, prompt_tokens=300, completion_tokens=9))


def questions(calls: int, image: bytes | None) -> Iterator[Question]:
    for number in range(calls):
        yield Question(str(number), (Message("user", f"{_PROMPT}{number}"),), image)


async def post_all(address: str) -> None:
    """Post as many bodies of the same size, read the answers, and do nothing else."""
    body = json.dumps(
        {"model": "any", "messages": [{"role": "user", "content": f"{_PROMPT}{CALLS}"}]}
    ).encode()
    left = iter(range(CALLS))
    async with aiohttp.ClientSession() as session:

        async def post() -> None:
            for _ in left:
                async with session.post(f"{address}/chat/completions", data=body) as response:
                    await response.read()

        await asyncio.gather(*(post() for _ in range(IN_THE_AIR)))


def processor_ms(calls: int, work) -> float:
    """Return the processor time of this process for each call, in all its threads."""
    began = time.process_time()
    work()
    return 1e3 * (time.process_time() - began) / calls


def picture() -> bytes:
    """A JPEG as web pages have them, sent as it is."""
    noise = np.random.default_rng(0).normal(128, 30, (48, 64, 3)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((512, 384)).save(file, "JPEG", quality=85)
    return file.getvalue()


@contextmanager
def server() -> Generator[str]:
    command = [sys.executable, "-m", "bench.captions", "serve"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as child:
        yield f"http://{HOST}:{child.stdout.readline().strip()}/v1"
        child.terminate()


async def serve() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(_LENGTH)]
            await reader.readexactly(int(lengths[0].removeprefix(_LENGTH)))
            writer.write(_ANSWER + _BODY)

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connected(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    listening = await asyncio.start_server(quietly, HOST, 0, backlog=256)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve())
    else:
        main(*map(int, sys.argv[1:2]))
