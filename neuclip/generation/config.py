"""The parts of the `caption` section that say what models write."""

from abc import abstractmethod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from neuclip.foundation.config import RESERVED, Section, unkeyed
from neuclip.storage.places import Place

SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
ExampleSet = Literal["plain", "vivid", "brief", "spoken"]


class Price(Section):
    """What a model's tokens cost, in any currency."""

    prompt: float = Field(ge=0, description="a million tokens of questions")
    completion: float = Field(ge=0, description="a million tokens of answers")


class Endpoint(Section):
    """A server that speaks the chat completions protocol of OpenAI: vLLM, TGI, or a hosted one."""

    kind: Literal["endpoint"] = "endpoint"
    model: str = Field(min_length=1, description="name that the server knows the model by")
    revision: str | None = Field(
        default=None,
        description="says which weights the name stands for; another one asks for all texts anew",
    )
    body: dict[str, Any] = Field(
        default={},
        description="further fields of each request, such as vLLM's `repetition_penalty`",
    )
    image_px: int = Field(
        default=512, ge=16, description="longer side that larger images are sent with"
    )
    address: Annotated[str, RESERVED] = unkeyed(
        ..., description="of the server up to and with `/v1`, such as http://127.0.0.1:8000/v1"
    )
    api_key: Annotated[str | None, RESERVED] = unkeyed(
        None, description="environment variable with the key; null sends none"
    )
    concurrency: int = unkeyed(32, ge=1, le=4096, description="questions in the air at once")
    tries: int = unkeyed(5, ge=1, le=100, description="most requests for one answer")
    deadline_s: float = unkeyed(
        120.0, gt=0, description="longest wait for one answer, from the request to its last byte"
    )
    patience_s: float = unkeyed(
        600.0, ge=0, description="how long the server may answer nothing before the stage ends"
    )
    price: Price | None = unkeyed(None, description="of tokens; null leaves money uncounted")


class LocalModel(Section):
    """A language model, or one that sees images, in a local Hugging Face folder; nothing is looked up elsewhere."""

    kind: Literal["hugging_face"] = "hugging_face"
    folder: Place = unkeyed(  # its content counts, not where it lies
        ..., description="folder with config.json, safetensors and tokenizer files"
    )
    precision: Literal["float32", "bf16"] = Field(default="bf16", description="of its weights")
    batch: int = unkeyed(16, ge=1, le=4096, description="questions answered at once")


Model = Annotated[Endpoint | LocalModel, Field(discriminator="kind")]


class Sampling(Section):
    """How answers are drawn."""

    temperature: float = Field(default=0.9, ge=0, le=2, description="0 is the likeliest answer")
    top_p: float = Field(default=0.95, gt=0, le=1, description="share of likely tokens drawn from")
    max_tokens: int = Field(default=96, ge=8, le=4096, description="most tokens of an answer")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="sent along, and draws the examples; another one asks for all texts anew",
    )


class Checks(Section):
    """What an answer must be like to train; any other falls back to the texts that a pair has anyway."""

    min_words: int = Field(default=2, ge=1, description="fewer are `too_short`")
    max_words: int = Field(default=60, ge=2, description="more are `too_long`")
    max_repeats: int = Field(
        default=3,
        ge=1,
        description="how often three words in a row may stand there, else `repeated`",
    )
    max_same: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="share of a part's answers, and at least 5 of them, that may be the same text for different "
        "questions, else `repeated`",
    )
    min_names: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="least share of the names and numbers of the text that are in the answer, else `lost_names`",
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(
                f"min_words {self.min_words} is above max_words {self.max_words}; no answer would fit"
            )
        return self


class Step(Section):
    """A source that a model writes."""

    source: SourceName = Field(description="name of the new source, as training weighs it")
    model: str = Field(description="which of `caption.models` is asked")
    instruction: str | None = Field(
        default=None, min_length=1, description="what the model is told to do; null is ours"
    )
    sampling: Sampling = Field(default_factory=Sampling, description="how answers are drawn")
    checks: Checks = Field(default_factory=Checks, description="which answers may train")
    max_bad: float = unkeyed(
        0.5,
        ge=0,
        le=1,
        description="share of answers that may be of no use; beyond it the stage ends, after the first 200",
    )

    @abstractmethod
    def reads(self) -> list[str]:
        """Return the sources whose texts are in the question."""

    @property
    def sees(self) -> bool:
        """The question shows the image."""
        return False

    @property
    def each(self) -> int:
        """Questions about each pair."""
        return 1


class Rewrite(Step):
    """Another wording of a text, in the style of examples; LaCLIP (arXiv 2305.20088) trains on several."""

    kind: Literal["rewrite"] = "rewrite"
    source: SourceName = Field(default="rewrite", description="name of the new source")
    of: SourceName = Field(default="alt", description="source whose first text is rewritten")
    texts: int = Field(default=4, ge=1, le=100, description="rewrites of each text")
    examples: list[ExampleSet] = Field(
        default=["plain", "vivid", "brief", "spoken"],
        min_length=1,
        description="sets of examples; the k-th rewrite follows the k-th, and then from the first again",
    )
    shown: int = Field(default=3, ge=1, le=8, description="examples in each question")

    def reads(self) -> list[str]:
        """Return the one source."""
        return [self.of]

    @property
    def each(self) -> int:
        """Questions about each pair."""
        return self.texts


class Describe(Step):
    """One factual sentence about what an image shows, by a model that has not seen its texts."""

    kind: Literal["describe"] = "describe"
    source: SourceName = Field(default="vlm", description="name of the new source")

    def reads(self) -> list[str]:
        """Return nothing: noise of the texts cannot leak in."""
        return []

    @property
    def sees(self) -> bool:
        """The question shows the image."""
        return True


class Fuse(Step):
    """A text and a description as one sentence that keeps names and numbers; VeCLIP (arXiv 2310.07699) trains on it."""

    kind: Literal["fuse"] = "fuse"
    source: SourceName = Field(default="vecap", description="name of the new source")
    of: SourceName = Field(default="alt", description="source that knows the names")
    seen: SourceName = Field(default="vlm", description="source that says what is to be seen")
    checks: Checks = Field(default=Checks(min_names=0.5), description="which answers may train")

    def reads(self) -> list[str]:
        """Return both sources."""
        return [self.of, self.seen]


GenerateStep = Annotated[Rewrite | Describe | Fuse, Field(discriminator="kind")]


class Budget(Section):
    """What the answers of all steps may cost, those of earlier runs included."""

    tokens: int | None = Field(default=None, ge=0, description="of questions and answers")
    money: float | None = Field(default=None, ge=0, description="in the currency of the prices")
