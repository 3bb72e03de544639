"""What answers cost: tokens and money so far, and whether the budget allows for another question."""

from dataclasses import dataclass

from neuclip.generation.backend import Question, Reply
from neuclip.generation.config import Budget, Price

_CHARACTERS_A_TOKEN = 4
_IMAGE_TOKENS = 600
"""Guessed of an image until answers say what it is."""
_MILLION = 1_000_000


@dataclass(frozen=True)
class Cost:
    """Tokens of questions and answers, and what they cost."""

    prompt: int = 0
    completion: int = 0
    money: float = 0.0

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.prompt + self.completion

    def __add__(self, other: "Cost") -> "Cost":
        """Add up."""
        return Cost(
            self.prompt + other.prompt, self.completion + other.completion, self.money + other.money
        )

    def __sub__(self, other: "Cost") -> "Cost":
        """Take away."""
        return Cost(
            self.prompt - other.prompt, self.completion - other.completion, self.money - other.money
        )


def cost_of(prompt: int, completion: int, price: Price | None) -> Cost:
    """Return what tokens cost; nothing where there is no price."""
    money = 0.0
    if price is not None:
        money = (prompt * price.prompt + completion * price.completion) / _MILLION
    return Cost(prompt, completion, money)


def guessed_prompt_tokens(characters: int, *, image: bool) -> int:
    """Guess the tokens of a question before a model has counted them."""
    return characters // _CHARACTERS_A_TOKEN + (_IMAGE_TOKENS if image else 0)


class Spending:
    """Counts what is spent, and keeps enough back for the questions that are on their way.

    Args:
        budget: what may be spent here, None without bounds.
        price: of the model that is asked.
        most_tokens: of an answer.
    """

    def __init__(self, budget: Budget | None, price: Price | None, *, most_tokens: int) -> None:
        self._budget, self._price, self._most = budget, price, most_tokens
        self._on_the_way: dict[str, Cost] = {}
        self._kept_back = Cost()
        self.spent = Cost()
        self.is_used_up = False

    def allows(self, question: Question) -> bool:
        """Keep back what a question may cost at most; say no, from then on for ever, if that is not left."""
        characters = sum(len(message.text) for message in question.messages)
        prompt = guessed_prompt_tokens(characters, image=question.image is not None)
        most = cost_of(prompt, self._most, self._price)
        if self._budget is not None and not self.is_used_up:
            self.is_used_up = _is_over(self.spent + self._kept_back + most, self._budget)
        if not self.is_used_up:
            self._on_the_way[question.item] = most
            self._kept_back += most
        return not self.is_used_up

    def take(self, question: Question, reply: Reply) -> None:
        """Count what an answer has cost."""
        self._kept_back -= self._on_the_way.pop(question.item)
        self.spent += cost_of(reply.prompt_tokens, reply.completion_tokens, self._price)


def rest_of(budget: Budget, spent: Cost, *, share: float = 1.0) -> Budget:
    """Return what is left of a budget, or a share of that."""

    def left(most: float, used: float) -> float:
        return max(0.0, (most - used) * share)

    tokens = None if budget.tokens is None else int(left(budget.tokens, spent.tokens))
    money = None if budget.money is None else left(budget.money, spent.money)
    return Budget(tokens=tokens, money=money)


def _is_over(cost: Cost, budget: Budget) -> bool:
    return (budget.tokens is not None and cost.tokens > budget.tokens) or (
        budget.money is not None and cost.money > budget.money
    )
