"""The process that reads untrusted bytes: `python -m neuclip.egress.judge CONFIG quick|slow`.

It is asked on standard input, a socket. A question is its kind, its length and its bytes; an answer is two lengths, a
line of JSON and bytes. It has a limit of memory, and one of processor time for each question, past which the kernel
ends it.

What answers is a fork of this process. When it ends over a question, the process says so in its place and forks again,
which costs a millisecond where starting anew costs as much processor time as reading a thousand pictures.
"""

import logging
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import warnings
from typing import NoReturn

import orjson
from cachetools import LRUCache
from PIL import Image
from protego import Protego

from neuclip.egress import pictures
from neuclip.egress.config import PRODUCT_TOKEN, EgressConfig
from neuclip.egress.refusal import Refusal
from neuclip.foundation.children import die_with_parent

QUESTION, ANSWER = struct.Struct(">cQ"), struct.Struct(">IQ")
PICTURE, RULES = b"p", b"r"
ENDED = "ended"
"""With the exit code of what ended over the question, as in subprocess, in place of an answer."""
READY = ANSWER.pack(0, 0)

_QUICK_S, _SLOW_S = 0.3, 1.0
"""Processor seconds that a question may take where the others wait for it: a usual picture takes 0.0001, the largest
that is decoded there 0.1; and with the slow, before the time for its pixels is added."""
_QUICK_PIXELS, _QUICK_BYTES = 2_000_000, 500_000
"""What is larger, and has to be decoded, is left to the slow ones."""
_PIXELS_A_SECOND = 4_000_000
"""That the slowest way of decoding and writing a picture makes at least."""
_BYTES_A_PIXEL = 24
"""That decoding takes at most: the picture, over white, and as BMP."""
_MORE_MEMORY_BYTES = 400_000_000
_NICENESS = 10
_RULES = LRUCache[bytes, tuple[int, Protego]](8_000_000, getsizeof=lambda kept: kept[0])
"""Rules that were parsed, by their text; the memory that they take is some twenty times their bytes."""


_ELSEWHERE, _JUDGING = 0, 1
"""What a fork is at: only between question and answer can another go on for it."""

Said = dict[str, object]


def main(config_text: str, kind: str) -> None:
    """Have questions answered until the other end is closed or the parent is gone."""
    die_with_parent(signal.SIGKILL)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of odd metadata
    Image.init()  # or the first picture of a rarer format waits until Pillow has imported all that it has
    config, is_slow = EgressConfig.model_validate_json(config_text), kind == "slow"
    if is_slow:
        os.nice(_NICENESS)
    _limit_memory(config)
    at = mmap.mmap(-1, 1)
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as wire:
        first_word, itself = READY, os.getpid()
        while True:
            fork = os.fork()
            if not fork:
                die_with_parent(signal.SIGKILL)
                if os.getppid() == itself:  # it has not ended before that was asked for
                    wire.sendall(first_word)
                    _answer_all(wire, at, config, is_slow=is_slow)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
            if at[0] != _JUDGING:
                _end_likewise(code)
            at[0] = _ELSEWHERE
            first_word = _head({ENDED: code}, b"")


def _answer_all(wire: socket.socket, at: mmap.mmap, config: EgressConfig, *, is_slow: bool) -> None:
    limit_s = _SLOW_S + config.max_image_pixels / _PIXELS_A_SECOND if is_slow else _QUICK_S
    with wire.makefile("rb") as questions:
        while head := questions.read(QUESTION.size):
            asked, size = QUESTION.unpack(head)
            content = questions.read(size)
            at[0] = _JUDGING
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            said, picture = _answer(asked, content, config, is_slow=is_slow)
            signal.setitimer(signal.ITIMER_PROF, 0)
            at[0] = _ELSEWHERE
            try:
                wire.sendall(_head(said, picture))
                wire.sendall(picture)
            except BrokenPipeError:  # nobody waits for it any more
                return


def _end_likewise(code: int) -> NoReturn:
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _head(said: Said, picture: bytes | memoryview) -> bytes:
    line = orjson.dumps(said)
    return ANSWER.pack(len(line), len(picture)) + line


def _answer(
    asked: bytes, content: bytes, config: EgressConfig, *, is_slow: bool
) -> tuple[Said, bytes | memoryview]:
    try:
        if asked == RULES:
            rules, _, url = content.rpartition(b"\n")
            return _allows(rules, url.decode()), b""
        return _judged(content, config, is_slow=is_slow)
    except Refusal as refusal:
        said: Said = {"reason": refusal.reason, "detail": refusal.detail}
    except MemoryError:
        said = {"reason": "too_large", "detail": "takes more memory than a picture may"}
    except Exception as error:  # noqa: BLE001  # whatever a library raises here is of these bytes' making
        said = {"reason": "undecodable", "detail": f"{type(error).__name__}: {error}"}
    return said, b""


def _judged(body: bytes, config: EgressConfig, *, is_slow: bool) -> tuple[Said, bytes | memoryview]:
    picture = pictures.inspect(body, config)
    if picture.is_plain:
        return {"is": "plain"}, b""
    is_large = picture.width * picture.height > _QUICK_PIXELS or len(body) > _QUICK_BYTES
    if is_large and not is_slow:
        return {"is": "large"}, b""
    return {"is": "made plain"}, pictures.make_plain(body)


def _allows(rules: bytes, url: str) -> dict[str, object]:
    parsed = _parsed(rules)
    return {
        "is_allowed": parsed.can_fetch(url, PRODUCT_TOKEN),
        "crawl_delay_s": parsed.crawl_delay(PRODUCT_TOKEN) or 0.0,
    }


def _parsed(rules: bytes) -> Protego:
    kept = _RULES.get(rules)
    if kept is None:
        kept = len(rules), Protego.parse(rules.decode("utf-8-sig", errors="replace"))
        _RULES[rules] = kept
    return kept[1]


def _limit_memory(config: EgressConfig) -> None:
    """Let this process have no more than its own libraries, a body and the picture in it take.

    A library that is refused memory says so, or ends the process: either costs one URL.
    """
    with open("/proc/self/statm") as file:  # noqa: PTH123  # no path of ours
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    more = 4 * config.max_body_bytes + _BYTES_A_PIXEL * config.max_image_pixels + _MORE_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


if __name__ == "__main__":
    main(*sys.argv[1:])
