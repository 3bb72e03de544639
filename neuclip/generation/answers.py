"""The answers to the questions of one part: those that the journal has, and the others from the model."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuclip.foundation.errors import BudgetError, DataError
from neuclip.foundation.progress import Progress
from neuclip.generation.backend import Backend, Ended, Message, Question, Reply
from neuclip.generation.checks import Judged, Status, judge, mark_repeated
from neuclip.generation.config import Step
from neuclip.generation.journal import Journal
from neuclip.generation.prompts import messages
from neuclip.generation.spending import Cost, Spending

STAGE = "caption"
_ENOUGH = 200
"""Answers after which a share of bad ones means something."""
_REPORT_S = 0.5
_SHOWN = 3


@dataclass(frozen=True)
class Asked:
    """What a step asks of one pair, once for each k.

    Args:
        texts: what its questions are made of, by source.
        image_id: names the image's content; empty if the step does not see it.
        image: reads the image file.
    """

    uid: str
    k: int
    texts: Mapping[str, str]
    image_id: str = ""
    image: Callable[[], bytes] | None = None

    def chat(self, step: Step) -> tuple[Message, ...]:
        """Return the question."""
        return messages(step, self.uid, self.k, self.texts)

    def item(self, step: Step) -> str:
        """Return the name of the question, which is of all that it holds."""
        content = repr((self.chat(step), self.image_id))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Answers:
    """What became of the questions of a part, in their order.

    Args:
        asked: how many were asked now; the journal had the others.
        cost: of those.
        seconds: that they took.
    """

    judged: list[Judged]
    asked: int
    cost: Cost
    seconds: float


def answer_all(
    step: Step,
    asked: Sequence[Asked],
    *,
    backend: Callable[[], Backend],
    journal: Journal,
    spending: Spending,
    progress: Progress,
) -> Answers:
    """Answer the questions of a part.

    Args:
        backend: loads what answers; not called if the journal has all answers.

    Raises: BudgetError: if the budget does not allow for all; what was answered is in the journal. DataError: if more
        answers are of no use than the step allows. And what the backend raises.
    """
    work = _Work(step, asked, journal, spending, progress)
    started, before = time.monotonic(), spending.spent
    if work.missing:
        backend().ask(work.questions(), work.take)
    if spending.is_used_up:
        raise BudgetError(
            f"the budget of caption.budget is used up: {len(work.missing)} questions of {step.source!r} in this part "
            f"are not asked, {spending.spent.tokens} tokens and {spending.spent.money:.2f} were spent on it now; all "
            "answers are kept. Raise the budget and run again: it asks for what is missing"
        )
    work.check_bad(least=1)
    judged = [work.judged[place] for place in range(len(asked))]
    made_of = [" ".join(one.texts.values()) or one.uid for one in asked]
    marked = mark_repeated(list(zip(judged, made_of, strict=True)), step.checks)
    seconds = time.monotonic() - started
    return Answers(marked, work.num_asked, spending.spent - before, seconds)


class _Work:
    """The questions of a part that are not answered yet, and the answers to all others."""

    def __init__(
        self,
        step: Step,
        asked: Sequence[Asked],
        journal: Journal,
        spending: Spending,
        progress: Progress,
    ) -> None:
        self._step, self._asked, self._journal = step, asked, journal
        self._spending, self._progress = spending, progress
        self.judged: dict[int, Judged] = {}
        self.missing = {one.item(step): place for place, one in enumerate(asked)}
        self.num_asked = 0
        self._counts: Counter[str] = Counter()
        self._bad_ones: dict[str, str] = {}
        self._started = self._reported = time.monotonic()
        for item, reply in journal.find(self.missing.keys()):
            if item in self.missing:
                self._judge(self.missing.pop(item), reply)
        self.check_bad(least=_ENOUGH)

    def questions(self) -> Iterator[Question]:
        """Yield what is missing, as long as the budget allows."""
        for item, place in list(self.missing.items()):
            one = self._asked[place]
            image = None if one.image is None else one.image()
            question = Question(item, one.chat(self._step), image)
            if not self._spending.allows(question):
                return
            yield question

    def take(self, question: Question, reply: Reply) -> None:
        """Keep an answer: first in the journal."""
        place = self.missing.pop(question.item)
        if reply.ended is not Ended.NO_ANSWER:
            self._journal.add(question.item, self._asked[place].uid, reply)
        self._spending.take(question, reply)
        self.num_asked += 1
        self._judge(place, reply)
        self.check_bad(least=_ENOUGH)
        self._report()

    def check_bad(self, *, least: int) -> None:
        """Refuse to go on if too many answers are of no use."""
        total = self._counts.total()
        bad = total - self._counts[Status.OK]
        if total < least or bad <= self._step.max_bad * total:
            return
        (top, count), *_ = Counter(
            {s: n for s, n in self._counts.items() if s != Status.OK}
        ).most_common(1)
        example = self._bad_ones[top]
        raise DataError(
            f"{bad} of {total} answers for the source {self._step.source!r} are of no use, more than max_bad "
            f"{self._step.max_bad:g} allows; {count} of them are {top}, such as {example!r}. Change the model, the "
            "sampling or the checks of the step, or raise its max_bad; all answers are kept"
        )

    def _judge(self, place: int, reply: Reply) -> None:
        one = self._asked[place]
        judged = judge(self._step, reply, uid=one.uid, k=one.k, texts=one.texts)
        self.judged[place] = judged
        self._counts[judged.status] += 1
        if judged.status is not Status.OK:
            self._bad_ones.setdefault(judged.status, judged.text[:80])

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_S and self.missing:
            return
        self._reported = now
        rate = self.num_asked / max(now - self._started, 1e-9)
        shares = ", ".join(
            f"{count / self._counts.total():.0%} {status}"
            for status, count in self._counts.most_common(_SHOWN)
        )
        left = f"{len(self.missing) / rate:.0f} s left" if rate else ""
        money = self._spending.spent.money
        cost = f"{money:.2f} spent" if money else f"{self._spending.spent.tokens} tokens"
        note = f"{self._step.source}: {rate:.1f} answers/s, {left}, {cost}, {shares}"
        self._progress(STAGE, done=len(self.judged), total=len(self._asked), note=note)
