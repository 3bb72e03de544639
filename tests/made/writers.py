"""A model that is a function: answers questions as it is told, and remembers which."""

import re
from collections.abc import Callable, Iterator
from functools import partial

from neuclip.captions.config import CaptionConfig
from neuclip.captions.generated import Writing
from neuclip.generation.backend import Question, Reply
from neuclip.generation.config import Endpoint
from neuclip.stages.loaded import Loaded

SOURCE = re.compile(r'<source id="(\w+)">(.*?)</source>')
MODEL = Endpoint(model="function", address="http://127.0.0.1:9/v1")


class Writer:
    """Answers with `says` of the last source texts; raises once `stop_after` questions are answered."""

    def __init__(
        self,
        says: Callable[[list[str], Question], str],
        *,
        stop_after: int | None = None,
        backwards: bool = False,
    ) -> None:
        self.says, self.stop_after, self.backwards = says, stop_after, backwards
        self.asked: list[str] = []

    def ask(self, questions: Iterator[Question], take: Callable[[Question, Reply], None]) -> None:
        every = list(questions) if self.backwards else questions
        for question in reversed(every) if self.backwards else every:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(question.item)
            own, texts = taken_apart(question)
            text = f'<answer id="{own}">{self.says(texts, question)}</answer>'
            take(question, Reply(text, prompt_tokens=10, completion_tokens=5))


def taken_apart(question: Question) -> tuple[str, list[str]]:
    """Return the id that an answer must have, and the texts of the pair, without examples."""
    text = question.messages[-1].text
    found = SOURCE.findall(text)
    if not found:
        return re.findall(r'The id is "(\w+)"', text)[0], []
    own = found[-1][0]
    return own, [source for name, source in found if name == own]


def same(writer: Writer) -> Writer:
    return writer


def writings(config: CaptionConfig, writer: Writer, **more) -> list[Writing]:
    """Let one writer answer all steps of a section."""
    return [
        Writing(step, config.models[step.model], "", Loaded(partial(same, writer)), **more)
        for step in config.generate
    ]


def section(*steps: dict, model: Endpoint = MODEL, **more) -> CaptionConfig:
    """Return a section whose steps ask the model `m`."""
    return CaptionConfig.model_validate(
        {
            "models": {"m": model},
            "generate": [{"model": "m", **step} for step in steps],
            **more,
        }
    )
