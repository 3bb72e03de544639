"""Signs of life: a thread that calls something every few seconds as long as a block lasts."""

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from neuclip.foundation.errors import NeuclipError
from neuclip.stages.owner import BEAT_S

log = logging.getLogger(__name__)


@contextmanager
def beating(
    beat: Callable[[], bool], on_lost: Callable[[], None] = lambda: None
) -> Generator[None]:
    """Call `beat` every BEAT_S seconds, until it tells that what it held is somebody else's now.

    Storage that does not answer is no loss: the next beat tells.
    """
    ended = threading.Event()

    def keep_on() -> None:
        while not ended.wait(BEAT_S):
            try:
                is_ours = beat()
            except (NeuclipError, OSError) as error:
                log.info("no sign of life could be given: %s", error)
                continue
            if not is_ours:
                on_lost()
                return

    thread = threading.Thread(target=keep_on, name="sign-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
