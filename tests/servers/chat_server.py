"""A server that speaks the chat completions protocol on loopback, a process of its own that does what it is told.

What it does to a request is a script: a word, what it needs, and how often, such as `ok`, `delay 0.5`, `429 2 x3` (the
first three times, with Retry-After 2) or `drop x1`; BEHAVIOURS has all words, and any status is one. The script stands
in the prompt, in double braces, and counts for that question alone; or in the file `mode` of the server's folder,
and counts for all questions that have none.

Each request is noted in `requests.jsonl` there before it is answered: `time`, `item` (what stands behind `item=` in the
prompt), `sha` of the body, `script`.

    with chat_server(folder, answers="module:function") as server:
        ChatEndpoint(Endpoint(address=server.address, model="tiny"), Sampling())
        server.requests()

`function(request) -> text` gets the parsed request; without one, `echo` answers.
"""

import argparse
import asyncio
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

HOST = "127.0.0.1"
MODEL = "tiny"
ESCAPES = "<script>alert(1)</script> \x1b[31mred\x1b]0;title\x07 \u202egnirts"
_ITEM = re.compile(r"\bitem=(\S+)")
_SCRIPT = re.compile(r"\{\{(.+?)\}\}")
_TIMES = re.compile(r" x(\d+)$")
_MODE, _LOG, _ERRORS = "mode", "requests.jsonl", "errors.log"
_SWAP_S = 2.0


def texts_of(request: dict[str, Any]) -> list[str]:
    """Return the texts of a request's messages."""
    contents = [message["content"] for message in request["messages"]]
    return [
        text if isinstance(text, str) else " ".join(part.get("text", "") for part in text)
        for text in contents
    ]


def echo(request: dict[str, Any]) -> str:
    return f"answer to: {texts_of(request)[-1]}"


Waiting = tuple[str, asyncio.Future[str]]
"""An answer that is to be exchanged for another one."""


class Exchange:
    """One question, and the ways in which it can be answered."""

    def __init__(self, request: web.Request, text: str) -> None:
        self.request, self.text = request, text

    def completion(self, content: Any = None, ended: str = "stop", **fields: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text if content is None else content}
        usage = {"prompt_tokens": 7, "completion_tokens": len(self.text.split())}
        choice = {"index": 0, "message": message, "finish_reason": ended}
        return {"object": "chat.completion", "choices": [choice], "usage": usage, **fields}

    async def ok(self) -> web.StreamResponse:
        return web.json_response(self.completion())

    async def mirror(self) -> web.StreamResponse:
        return web.json_response(self.completion(await self.request.text()))

    async def delay(self, seconds: str) -> web.StreamResponse:
        await asyncio.sleep(float(seconds))
        return await self.ok()

    async def status(self, status: int, retry_after: str | None = None) -> web.StreamResponse:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        error = {"message": f"this is {status} {ESCAPES}", "code": status}
        return web.json_response({"error": error}, status=status, headers=headers)

    async def tell_key(self) -> web.StreamResponse:
        words = f"wrong key: {self.request.headers.get('Authorization')}"
        return web.json_response({"error": {"message": words}}, status=401)

    async def redirect(self) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "/v1/elsewhere"})

    async def filtered(self) -> web.StreamResponse:
        error = {"message": "not allowed here", "code": "content_filter"}
        return web.json_response({"error": error}, status=400)

    async def blocked(self) -> web.StreamResponse:
        return web.json_response(self.completion(ended="content_filter"))

    async def cut(self) -> web.StreamResponse:
        return web.json_response(self.completion(ended="length"))

    async def parts(self) -> web.StreamResponse:
        words = [{"type": "text", "text": word} for word in ("in ", "parts")]
        return web.json_response(self.completion(words))

    async def html(self) -> web.StreamResponse:
        return web.json_response(self.completion(ESCAPES))

    async def long(self, characters: str) -> web.StreamResponse:
        return web.json_response(self.completion("long " * (int(characters) // 5)))

    async def no_usage(self) -> web.StreamResponse:
        return web.json_response(self.completion(usage=None))

    async def empty(self) -> web.StreamResponse:
        return web.Response()

    async def no_choices(self) -> web.StreamResponse:
        return web.json_response({"choices": []})

    async def malformed(self) -> web.StreamResponse:
        return web.Response(body=json.dumps(self.completion())[:-9].encode())

    async def absurd(self) -> web.StreamResponse:
        usage = {"prompt_tokens": -5, "completion_tokens": 10**30}
        return web.json_response(self.completion({"text": [1, None]}, usage=usage))

    async def drip(self, every_s: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(self.request)
        for byte in json.dumps(self.completion()).encode():
            await response.write(bytes([byte]))
            await asyncio.sleep(float(every_s))
        return response

    async def drop(self) -> web.StreamResponse:
        assert self.request.transport is not None
        self.request.transport.abort()
        return web.Response()

    async def halve(self) -> web.StreamResponse:
        body = json.dumps(self.completion()).encode()
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(self.request)
        await response.write(body[: len(body) // 2])
        return await self.drop()

    async def swap(self) -> web.StreamResponse:
        """Give this question's answer to the next one that is swapped, and have its answer."""
        waiting: list[Waiting] = self.request.app[WAITING]
        while waiting:
            text, other = waiting.pop()
            if not other.done():
                other.set_result(self.text)
                return web.json_response(self.completion(text))
        own: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting.append((self.text, own))
        return web.json_response(self.completion(await asyncio.wait_for(own, _SWAP_S)))


BEHAVIOURS = {
    name: getattr(Exchange, name)
    for name in vars(Exchange)
    if not name.startswith("_") and name not in ("completion", "status")
}
"""What the first word of a script may be, besides a status."""
WAITING: web.AppKey[list[Waiting]] = web.AppKey("waiting", list)


class Application:
    """What a server knows."""

    def __init__(self, folder: Path, *, answer: Callable[..., str], key: str | None) -> None:
        self._folder, self._answer, self._key = folder, answer, key
        self._log = (folder / _LOG).open("a", buffering=1, encoding="utf-8")
        self._times: Counter[tuple[str, str]] = Counter()
        self._model = ThreadPoolExecutor(1)  # a model answers one question at a time

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 26)
        application[WAITING] = []
        application.router.add_post("/v1/chat/completions", self._completions)
        application.router.add_get("/v1/models", self._models)
        return application

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self._is_stranger(request):
            return await Exchange(request, "").tell_key()
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = json.loads(body)
        prompt, sha = "\n".join(texts_of(asked)), hashlib.sha256(body).hexdigest()
        script = self._script(prompt, sha)
        item = _ITEM.search(prompt)
        line = {
            "time": time.time(),
            "item": item and item[1],
            "sha": sha,
            "script": script,
        }
        self._log.write(json.dumps(line) + "\n")
        if self._is_stranger(request):
            return await Exchange(request, "").tell_key()
        if asked["model"] != MODEL:
            return await Exchange(request, "").status(404)
        word, *words = script.split()
        if word.isdecimal():
            return await Exchange(request, "").status(int(word), *words)
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._model, self._answer, asked)
        return await BEHAVIOURS[word](Exchange(request, text), *words)

    def _is_stranger(self, request: web.Request) -> bool:
        return bool(self._key) and request.headers.get("Authorization") != f"Bearer {self._key}"

    def _script(self, prompt: str, sha: str) -> str:
        """Return what is to be done to a question this time."""
        script, counted = "ok", ""
        if found := _SCRIPT.search(prompt):
            script, counted = found[1], sha
        else:
            with suppress(FileNotFoundError):
                script = (self._folder / _MODE).read_text(encoding="utf-8") or script
        if times := _TIMES.search(script):
            self._times[script, counted] += 1
            return (
                script[: times.start()] if self._times[script, counted] <= int(times[1]) else "ok"
            )
        return script


class ChatServer:
    """A server's process, as tests see it; it keeps its port when it is started again."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder, self._words, self._port = folder, words, 0
        self._child: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self._port}/v1"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.servers.chat_server", str(self.folder)]
        with (self.folder / _ERRORS).open("a") as errors:
            self._child = subprocess.Popen(
                [*command, str(self._port), *self._words],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._child.stdout is not None
        self._port = int(self._child.stdout.readline())

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()

    def mode(self, script: str) -> None:
        """Say what is done from now on to questions without a script of their own."""
        waiting = self.folder / f"{_MODE}.new"
        waiting.write_text(script, encoding="utf-8")
        waiting.rename(self.folder / _MODE)

    def requests(self) -> list[dict[str, Any]]:
        """Return what was noted of each request, in order, those before a restart included."""
        path = self.folder / _LOG
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]


@contextmanager
def chat_server(
    folder: Path, *, answers: str | None = None, key: str | None = None, mode: str = "ok"
) -> Generator[ChatServer]:
    """Serve while the block lasts.

    Args:
        folder: for its log; made if there is none.
        answers: `module:function` that answers.
        key: that requests must have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"--answers={answers}"] if answers else []
    server = ChatServer(folder, words + ([f"--key={key}"] if key else []))
    server.mode(mode)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def serve(application: web.Application, port: int) -> None:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--answers", default="tests.servers.chat_server:echo")
    parser.add_argument("--key")
    given = parser.parse_args()
    module, _, name = given.answers.partition(":")
    answer = getattr(importlib.import_module(module), name)
    application = Application(given.folder, answer=answer, key=given.key).application()
    asyncio.run(serve(application, given.port))


if __name__ == "__main__":
    main()
