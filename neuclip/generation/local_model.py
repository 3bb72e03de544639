"""Asks a model in a local folder, in batches on this machine's device."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from neuclip.acquired.images import decode_rgb
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.generation.backend import Ended, Message, Question, Reply
from neuclip.generation.config import LocalModel, Sampling
from neuclip.generation.model_folder import NEXT_TURN, load_model

if TYPE_CHECKING:
    from PIL import Image


class _Asked(NamedTuple):
    question: Question
    image: "Image.Image | None"


class LocalChat:
    """A `Backend` that answers with a model of the transformers library.

    At temperature 0 each token is the likeliest. Else each is drawn with a number keyed by (sampling.seed, item, place
    in the answer): the same questions in the same batches have the same answers on the same machine. In other batches
    the numbers are the same and the probabilities agree up to rounding, so an answer differs only where a number falls
    between the two; seldom in float32, now and then in bf16.

    Raises: ConfigError: if the folder holds no model that can be asked.
    """

    def __init__(self, config: LocalModel, sampling: Sampling) -> None:
        self._config = config
        self._sampling = sampling
        self._loaded = load_model(config)
        self._marks = _marks(self._loaded.tokenizer)
        self._takes_system = self._has_system_role()

    def ask(self, questions: Iterator[Question], take: Callable[[Question, Reply], None]) -> None:
        """Answer questions batch by batch, see `Backend`.

        An image that cannot be decoded is UNREADABLE. A question that with its answer is longer than the model reads,
        or that its chat template or its processor does not take, is REJECTED.

        Raises: ConfigError: if a model that sees none is shown an image, or a batch is too large for the device.
        """
        while batch := list(islice(questions, self._config.batch)):
            readable: list[_Asked] = []
            for question in batch:
                try:
                    readable.append(_Asked(question, self._decoded(question)))
                except DataError as error:
                    take(question, Reply(str(error), Ended.UNREADABLE))
            for shown in (True, False):  # a batch of the library has images throughout, or none
                asked = [one for one in readable if (one.image is not None) is shown]
                for question, reply in self._answered(asked):
                    take(question, reply)

    def _decoded(self, question: Question) -> "Image.Image | None":
        if question.image is None:
            return None
        if not self._loaded.sees:
            raise ConfigError(
                f"the model in {self._config.folder} sees no images, and question {question.item} shows one; name an "
                "image-text model in this step"
            )
        return decode_rgb(question.image)

    def _answered(self, asked: list[_Asked]) -> Iterator[tuple[Question, Reply]]:
        """Answer questions; if one of them cannot be put, the others are put without it."""
        if not asked:
            return
        try:
            inputs = self._encoded(asked)
        except Exception as error:  # noqa: BLE001  # templates and processors raise whatever is at hand
            if len(asked) == 1:
                reason = f"the model's chat template or processor refuses it: {error}"
                yield asked[0].question, Reply(reason, Ended.REJECTED)
                return
            for one in asked:
                yield from self._answered([one])
            return
        lengths: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
        room = self._room()
        if room is not None and max(lengths) > room:
            for one, length in zip(asked, lengths, strict=True):
                if length > room:
                    reason = (
                        f"{length} tokens, and {self._sampling.max_tokens} of an answer, are more than the "
                        f"{self._loaded.most_tokens} that the model reads"
                    )
                    yield one.question, Reply(reason, Ended.REJECTED, prompt_tokens=length)
            short = [one for one, length in zip(asked, lengths, strict=True) if length <= room]
            yield from self._answered(short)
            return
        answers = self._generated(inputs, [one.question.item for one in asked])
        for one, length, tokens in zip(asked, lengths, answers, strict=True):
            yield one.question, self._reply(length, tokens)

    def _room(self) -> int | None:
        """Return the most tokens that a question may have."""
        most = self._loaded.most_tokens
        return None if most is None else most - self._sampling.max_tokens

    def _encoded(self, asked: list[_Asked]) -> Any:  # noqa: ANN401  # of a library that need not be installed
        """Return the model's inputs, padded on the left."""
        chats = [self._chat(one) for one in asked]
        more: dict[str, Any] = {"return_tensors": "pt", "padding": True}
        if self._loaded.sees:
            more = {"return_tensors": "pt", "processor_kwargs": {"padding": True}}
        return self._loaded.processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, add_generation_prompt=True, **more
        )

    def _chat(self, asked: _Asked) -> list[dict[str, Any]]:
        """Return the messages in the library's form, without the marks by which it tells messages apart."""
        messages = [
            Message(role, self._marks.sub(" ", text)) for role, text in asked.question.messages
        ]
        if not self._takes_system:
            messages = _without_system(messages)
        if not self._loaded.sees:
            return [{"role": role, "content": text} for role, text in messages]
        chat: list[dict[str, Any]] = [
            {"role": role, "content": [{"type": "text", "text": text}]} for role, text in messages
        ]
        if asked.image is not None:
            chat[-1]["content"].insert(0, {"type": "image", "image": asked.image})
        return chat

    def _generated(self, inputs: Any, items: list[str]) -> list[list[int]]:  # noqa: ANN401
        """Return the tokens of each answer, up to the one that ends it."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        from neuclip.generation.keyed_draw import KeyedDraw, uniforms

        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        first = inputs["input_ids"].shape[1]
        draws: list[Any] = []
        if self._sampling.temperature > 0:
            draws = [KeyedDraw(self._sampling, uniforms(self._sampling, items), first=first)]
        # A folder's own settings would draw in other ways than the recipe says.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self._sampling.max_tokens,
            eos_token_id=sorted(self._loaded.end_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
        try:
            placed = {
                name: value.to(model.device, model.dtype if value.is_floating_point() else None)
                for name, value in inputs.items()
            }
            made = model.generate(**placed, logits_processor=LogitsProcessorList(draws))
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{len(items)} questions at once are too many for the memory beside the model in "
                f"{self._config.folder}; lower its `batch`"
            ) from error
        return [_until(row, self._loaded.end_ids) for row in made[:, first:].tolist()]

    def _reply(self, length: int, tokens: list[int]) -> Reply:
        text: str = self._loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        has_ended = tokens[-1] in self._loaded.end_ids
        if self._loaded.is_transcript:
            text, next_turn, _ = text.partition(NEXT_TURN)
            has_ended = has_ended or bool(next_turn)
        return Reply(text, Ended.STOP if has_ended else Ended.LENGTH, length, len(tokens))

    def _has_system_role(self) -> bool:
        """Tell whether the chat template takes instructions as a message of their own."""
        parts = [("system", "a"), ("user", "b")]
        chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in parts]
        if not self._loaded.sees:
            chat = [{"role": role, "content": text} for role, text in parts]
        try:
            self._loaded.processor.apply_chat_template(chat, tokenize=False)
        except Exception:  # noqa: BLE001  # a template says so by whatever error it likes
            return False
        return True


def _marks(tokenizer: Any) -> re.Pattern[str]:  # noqa: ANN401  # of a library that need not be installed
    """Return what finds a tokenizer's own tokens, such as ends of messages, in a text that somebody else wrote."""
    marks = {token.content for token in tokenizer.added_tokens_decoder.values()}
    longest_first = sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)


def _without_system(messages: list[Message]) -> list[Message]:
    """Put the instructions before the first message of the user."""
    instructions = [text for role, text in messages if role == "system"]
    [first, *others] = [message for message in messages if message.role != "system"]
    return [Message(first.role, "\n\n".join([*instructions, first.text])), *others]


def _until(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Return tokens up to the first of the ends; what follows is padding."""
    last = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: last + 1]
