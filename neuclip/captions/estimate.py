"""What the answers that are missing would cost, before any is asked for."""

from collections.abc import Sequence

from neuclip.captions.generated import STAGE, Writing
from neuclip.generation.config import Endpoint
from neuclip.generation.journal import Spent, spent_in
from neuclip.generation.prompts import messages
from neuclip.generation.spending import cost_of, guessed_prompt_tokens
from neuclip.stages.keys import digest
from neuclip.stages.manifest import read_manifest
from neuclip.stages.stage import Estimate
from neuclip.storage.uris import join

_TEXT = "a caption of about sixty characters, as web pages have them"
_SECONDS_AN_ANSWER = 2.0
"""Guessed until answers say what it is."""


def estimate_answers(writings: Sequence[Writing], *, root: str, curate_uri: str) -> Estimate:
    """Return for each source the questions that are missing, their tokens, money and hours.

    As if every kept pair had the texts that questions are made of. Tokens and hours are those of the answers that are
    there; before the first ones a token is four characters, and an answer takes two seconds.
    """
    pairs = read_manifest(curate_uri).ledger.out
    spent: dict[str, Spent] = {}
    answered: dict[str, int] = {}
    found: Estimate = {}
    for writing in writings:
        name = digest(writing.asked)
        if name not in spent:
            spent[name] = spent_in(join(root, STAGE), writing.asked)
            answered[name] = spent[name].answers
        questions = pairs * writing.step.each
        missing = max(0, questions - answered[name])
        answered[name] -= questions - missing
        found[writing.step.source] = _cost(writing, missing, spent[name])
    return found


def _cost(writing: Writing, missing: int, spent: Spent) -> dict[str, float]:
    if spent.answers:
        prompt, completion = spent.prompt / spent.answers, spent.completion / spent.answers
    else:
        chat = messages(writing.step, "uid", 0, dict.fromkeys(writing.step.reads(), _TEXT))
        characters = sum(len(message.text) for message in chat)
        prompt = guessed_prompt_tokens(characters, image=writing.step.sees)
        completion = writing.step.sampling.max_tokens / 2
    at_once = (
        writing.model.concurrency if isinstance(writing.model, Endpoint) else writing.model.batch
    )
    seconds = spent.seconds / spent.answers if spent.seconds else _SECONDS_AN_ANSWER / at_once
    cost = cost_of(int(prompt * missing), int(completion * missing), writing.price)
    return {
        "questions": missing,
        "tokens": cost.tokens,
        "money": round(cost.money, 2),
        "hours": round(missing * seconds / 3600, 2),
    }
