"""The demo's models behind the chat completions protocol, in a process of their own.

`python -m neuclip.demo.model_server FOLDER PORT` trains the models unless they lie in the folder, serves them on
loopback until it is interrupted, and writes `requests.jsonl` there: a line for each request, before it is answered.
"""

import argparse
import asyncio
import base64
import json
import re
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from aiohttp import web

from neuclip.demo.language import TinyModels
from neuclip.demo.server import HOST
from neuclip.foundation.children import Child, die_with_parent, running
from neuclip.foundation.errors import ConfigError

REQUESTS = "requests.jsonl"
MODEL = "demo"
_SOURCE = re.compile(r'<source id="(\w+)">(.*?)</source>')
_ID = re.compile(r'The id is "(\w+)"')
_START_S = 600.0
_POLL_S = 0.1


class Chat:
    """Answers questions as neuclip.generation asks them."""

    def __init__(self, models: TinyModels) -> None:
        self._models = models

    def id_of(self, request: dict[str, Any]) -> str:
        """Return the id of a question."""
        text, image = _parts(request["messages"][-1]["content"])
        return _ID.findall(text)[-1] if image is not None else _SOURCE.findall(text)[-1][0]

    def answer(self, request: dict[str, Any]) -> str:
        """Return what is said to a question."""
        text, image = _parts(request["messages"][-1]["content"])
        own = self.id_of(request)
        given = [source for name, source in _SOURCE.findall(text) if name == own]
        if image is not None:
            said = self._models.describe(image)
        elif len(given) > 1:
            said = self._models.fuse(given[0], given[1])
        else:
            temperature = float(request.get("temperature", 0.0))
            said = self._models.rewrite(given[0], seed=int(own, 16), temperature=temperature)
        return f'<answer id="{own}">{said}</answer>'


def _parts(content: str | list[dict[str, Any]]) -> tuple[str, bytes | None]:
    if isinstance(content, str):
        return content, None
    text = " ".join(part["text"] for part in content if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return text, base64.b64decode(urls[0].partition(",")[2]) if urls else None


def application(chat: Chat, log: Path) -> web.Application:
    """Return the server: one model thread, since a model answers one question at a time."""
    thread = ThreadPoolExecutor(1)

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": chat.id_of(body), "time": time.time()}) + "\n")
        said = await asyncio.get_running_loop().run_in_executor(thread, chat.answer, body)
        usage = {
            "prompt_tokens": len(json.dumps(body["messages"]).split()),
            "completion_tokens": len(said.split()),
        }
        message = {"role": "assistant", "content": said}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({"choices": choices, "usage": usage, "model": MODEL})

    async def models(request: web.Request) -> web.Response:
        del request
        return web.json_response({"data": [{"id": MODEL}]})

    app = web.Application(client_max_size=16 * 1024**2)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", models)
    return app


@contextmanager
def model_server(folder: Path, port: int) -> Generator[str]:
    """Serve the models of a folder by another process while the block runs; yield the address.

    Raises: ChildError: if the server ends, since its port is taken for example. ConfigError: if it does not answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = f"http://{HOST}:{port}/v1"
    command = [sys.executable, "-m", "neuclip.demo.model_server", str(folder), str(port)]
    one_thread = {"OMP_NUM_THREADS": "1"}  # more of them wait for each other
    log = folder / "server.log"
    with running(command, name="model server", log_path=log, environment=one_thread) as child:
        _wait_for(address, child)
        yield address


def _wait_for(address: str, child: Child) -> None:
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and child.is_running:
        try:
            with urlopen(f"{address}/models", timeout=5):  # noqa: S310  # loopback
                return
        except (URLError, ConnectionError):
            time.sleep(_POLL_S)
    child.check()
    raise ConfigError(
        f"the demo's model server does not answer at {address}; if another program listens there, choose another port "
        "with --port"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C, or until whoever began it is gone."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m neuclip.demo.model_server")
    parser.add_argument("folder", type=Path, help="where the models lie, and the log of requests")
    parser.add_argument("port", type=int)
    given = parser.parse_args(arguments)
    models = TinyModels.load_or_train(given.folder)
    app = application(Chat(models), given.folder / REQUESTS)
    web.run_app(app, host=HOST, port=given.port, print=None)


if __name__ == "__main__":
    main()
