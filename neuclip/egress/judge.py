"""The process that reads what strangers wrote: `python -m neuclip.egress.judge CONFIG quick|slow`.

It is asked on standard input, a socket. A question is its kind, its length and its bytes; an answer is two lengths, a
line of JSON and bytes. The process has a limit of memory, and one of processor time for each question, past which the
kernel ends it.
"""

import logging
import os
import resource
import signal
import socket
import struct
import sys
import warnings

import orjson
from cachetools import LRUCache
from protego import Protego

from neuclip.egress import pictures
from neuclip.egress.config import PRODUCT_TOKEN, EgressConfig
from neuclip.egress.refusal import Refusal
from neuclip.foundation.children import die_with_parent

QUESTION, ANSWER = struct.Struct(">cQ"), struct.Struct(">IQ")
PICTURE, RULES = b"p", b"r"
READY = ANSWER.pack(0, 0)

QUICK_S = 1.0
"""Processor seconds that a question may take where the others wait for it; a usual picture takes 0.0001."""
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


def main(config_text: str, kind: str) -> None:
    """Answer until the other end is closed or the parent is gone."""
    die_with_parent(signal.SIGKILL)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of odd metadata
    config, is_slow = EgressConfig.model_validate_json(config_text), kind == "slow"
    limit_s = QUICK_S
    if is_slow:
        os.nice(_NICENESS)
        limit_s += config.max_image_pixels / _PIXELS_A_SECOND
    _limit_memory(config)
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as wire, wire.makefile("rb") as questions:
        wire.sendall(READY)
        while head := questions.read(QUESTION.size):
            asked, size = QUESTION.unpack(head)
            content = questions.read(size)
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            said, picture = _answer(asked, content, config, is_slow=is_slow)
            signal.setitimer(signal.ITIMER_PROF, 0)
            line = orjson.dumps(said)
            wire.sendall(ANSWER.pack(len(line), len(picture)) + line)
            wire.sendall(picture)


Said = dict[str, object]


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
