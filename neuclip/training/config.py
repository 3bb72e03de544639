"""The `train` section of a recipe."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from neuclip.foundation.config import RESERVED, Section, keyed_if_set, unkeyed
from neuclip.foundation.errors import ConfigError
from neuclip.launching.config import LaunchConfig
from neuclip.loading.config import LoaderConfig
from neuclip.loading.policies import Other, OwnCaptions, PerSource, Same, ViewCaptions
from neuclip.loading.visits import MAIN, ViewName
from neuclip.objectives.config import NeuClipConfig, ObjectiveConfig
from neuclip.objectives.terms.config import TermConfig
from neuclip.tokens.config import (
    ImageTokensConfig,
    ResizeConfig,
    TextTokensConfig,
    TruncateConfig,
)
from neuclip.towers.config import ModelConfig
from neuclip.towers.initial_config import InitialConfig
from neuclip.training.freezing_config import FreezeConfig
from neuclip.training.tokens import check_tokens

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""


ObserverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]


class ProbeConfig(Section):
    """How often the log-normalizers that the objective uses are held against exact ones."""

    every_steps: int = Field(default=500, ge=1, description="steps between two measurements")
    samples: int = Field(
        default=4096, ge=16, description="samples of the training set that stand for the whole"
    )
    anchors: int = Field(
        default=512, ge=2, description="of these, how many the normalizers are compared for"
    )
    observers: dict[ObserverName, ObjectiveConfig] = Field(
        default={},
        description="further objectives by name that watch the run's features and are measured "
        "like its own; each costs a step of its own",
    )


class ImageViewConfig(Section):
    """A further view of each image, for terms that read it."""

    crop_scale: tuple[float, float] | None = Field(
        default=None,
        description="least and most share of the image area a crop covers; null is as `main`",
    )


class TextViewConfig(Section):
    """A further view of each sample's texts, for terms that read it."""

    captions: ViewCaptions | None = Field(
        default=None,
        description="which of its texts a sample shows; null is the policy of `main`, by draws of its own",
    )


class PhaseConfig(Section):
    """A part of the run with settings of its own; what is null is as in the flat field of that name."""

    epochs: float = Field(
        gt=0, description="length of the phase in passes over the training samples"
    )
    image_px: int | None = Field(default=None, ge=1, description="side of the images in pixels")
    context_length: int | None = Field(default=None, ge=3, description="tokens of a text")
    image_tokens: ImageTokensConfig | None = keyed_if_set(
        default=None, description="which patches of an image the tower reads"
    )
    text_tokens: TextTokensConfig | None = Field(
        default=None, description="which tokens of a text that is too long it keeps"
    )
    positions: Literal["interpolate", "regenerate"] | None = keyed_if_set(
        default=None, description="how positions come from the phase before"
    )
    learn_positions: bool | None = keyed_if_set(
        default=None, description="whether fixed positions of images are trained"
    )
    crop_scale: tuple[float, float] | None = Field(
        default=None, description="least and most share of the image area a crop covers"
    )
    captions: OwnCaptions | None = keyed_if_set(
        default=None, description="which of its texts a sample shows at each visit"
    )
    global_batch: int | None = Field(default=None, ge=2, description="pairs in an update")
    micro_batch: int | None = Field(
        default=None, ge=1, description="pairs that a process encodes with a graph at once"
    )
    lr: float | None = Field(default=None, gt=0, description="peak learning rate of the phase")
    min_lr: float | None = Field(default=None, ge=0, description="rate that the schedule ends at")
    schedule: Literal["cosine", "constant"] | None = Field(
        default=None, description="the rate after the phase's warm-up"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps of the phase's linear warm-up"
    )
    cooldown_steps: int | None = Field(
        default=None, ge=0, description="last steps of the phase in which a constant rate falls"
    )


class TelemetryConfig(Section):
    """Where a run's numbers go beside its own folder, and what it may cost. Changes no result."""

    trackers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        default=(),
        description="further places for the numbers, set up by their own environment variables; "
        "metrics.jsonl and TensorBoard are always written",
    )
    project: str = Field(
        default="neuclip", min_length=1, description="name the trackers file the run under"
    )
    peak_tflops: float | None = Field(
        default=None,
        gt=0,
        description="what one device can do at the run's precision, 1e12 FLOP/s, for the share used (MFU); "
        "null takes it from the device's name where it is known",
    )
    price_per_hour: float | None = Field(
        default=None, ge=0, description="price of one device for an hour, in any currency"
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        description="what all devices of the run may cost; the run saves and stops when it is used up",
    )

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> Self:
        if self.budget is not None and not self.price_per_hour:
            raise ValueError("a budget needs price_per_hour")
        return self


class TrainConfig(Section):
    """What is trained, on what order of the data, and how."""

    model: ModelConfig = Field(description="the two towers")
    initial: InitialConfig | None = keyed_if_set(
        default=None, description="weights to start from; null is random ones"
    )
    freeze: FreezeConfig | None = keyed_if_set(
        default=None, description="weights that stay as they are; null trains all"
    )
    objective: ObjectiveConfig = Field(
        default_factory=NeuClipConfig, description="the loss with its state"
    )
    global_batch: int = Field(
        default=1024, ge=2, description="image-text pairs in an update, over all processes"
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="pairs that a process encodes with a graph at once, each twice, for a global_batch beyond "
        "memory; batch statistics are of these alone; null is the process's whole share, once",
    )
    epochs: float = Field(
        default=30,
        ge=0,
        description="length of the run in passes over the training samples; 0 leaves the initial weights as they are",
    )
    streams: int = Field(
        default=8,
        ge=1,
        description="canonical streams of the data order; divides global_batch, is divided by the processes",
    )
    captions: OwnCaptions = Field(
        default=PerSource(), description="which of its texts a sample shows at each visit"
    )
    crop_scale: tuple[float, float] = Field(
        default=(0.9, 1.0), description="least and most share of the image area a crop covers"
    )
    image_px: int | None = keyed_if_set(
        default=None, ge=1, description="side of the images in pixels; null is the architecture's"
    )
    context_length: int | None = keyed_if_set(
        default=None, ge=3, description="tokens of a text; null is the architecture's"
    )
    image_tokens: ImageTokensConfig = keyed_if_set(
        default=ResizeConfig(),
        description="which patches of an image the tower reads in training; evaluation reads all",
    )
    text_tokens: TextTokensConfig = keyed_if_set(
        default=TruncateConfig(),
        description="which tokens of a text that is too long it keeps in training; evaluation keeps the first",
    )
    positions: Literal["interpolate", "regenerate"] = keyed_if_set(
        default="interpolate",
        description="how positions of another image size come from the phase before: between the rows that are there; "
        "or made anew, for a fixed sin-cos table. Those of texts are interpolated",
    )
    learn_positions: bool = keyed_if_set(
        default=False,
        description="whether the image tower's fixed sin-cos positions are trained as other weights are",
    )
    image_views: dict[ViewName, ImageViewConfig] = keyed_if_set(
        default={}, description="views of each image beside `main`, by name, for `terms`"
    )
    text_views: dict[ViewName, TextViewConfig] = keyed_if_set(
        default={}, description="views of each sample's texts beside `main`, by name, for `terms`"
    )
    terms: dict[ViewName, TermConfig] = keyed_if_set(
        default={}, description="further losses by name, each with its weight"
    )
    objective_weight: float = keyed_if_set(
        default=1.0, gt=0, description="what the objective's loss is multiplied by, beside `terms`"
    )
    phases: list[PhaseConfig] = keyed_if_set(
        default=[],
        description="parts of the run, one after the other, in place of `epochs`; fields they leave out are as here",
    )
    optimiser: Literal["adamw", "lamb", "lion", "sgd"] = Field(
        default="adamw",
        description="what updates the weights; torch's AdamW and SGD, timm's others",
    )
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    layer_decay: float = keyed_if_set(
        default=1.0,
        gt=0,
        le=1,
        description="what the rate of a tower's layer is multiplied by for each layer above it; 1 is one rate for all",
    )
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="the learning rate after warm-up"
    )
    min_lr: float = Field(
        default=0.0, ge=0, description="learning rate that the cosine or the cooldown ends at"
    )
    warmup_steps: int = Field(default=500, ge=0, description="steps of linear warm-up")
    cooldown_steps: int = Field(
        default=0, ge=0, description="last steps in which a constant rate falls to min_lr"
    )
    cooldown_power: float = Field(
        default=1.0, gt=0, description="the cooldown's power of the share left; 1 is linear"
    )
    weight_decay: float = Field(
        default=0.1,
        ge=0,
        description="decay of weights that are matrices; SGD adds it to gradients",
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.98), description="decays of AdamW's, LAMB's and Lion's moments"
    )
    adam_eps: float = Field(default=1e-6, gt=0, description="epsilon of AdamW and LAMB")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD's momentum")
    grad_clip_norm: float | None = Field(
        default=1.0, gt=0, description="norm that the encoders' gradient is clipped to; null is off"
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="a checkpoint's model is then the moving average of the weights with this decay, "
        "less in the first steps; null is the weights themselves",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        default="auto",
        description="auto is bf16 autocast on a GPU that has it, else fp32; tf32 rounds the inputs of all products",
    )
    compile: bool = Field(
        default=False, description="let torch.compile make kernels of the towers' blocks"
    )
    grad_checkpointing: bool = unkeyed(
        default=False,
        description="keep only the blocks' inputs for the backward pass and compute the rest again",
    )
    parallel: Literal["ddp", "fsdp"] = unkeyed(
        default="ddp",
        description="ddp keeps the encoders whole on every rank; fsdp shares weights, gradients and moments out",
    )
    save_every_steps: int = Field(
        default=500, ge=1, description="steps between checkpoints that are kept for selection"
    )
    keep_checkpoints: int = Field(
        default=5, ge=1, description="how many of these are kept, the last ones"
    )
    keep_best: int = Field(
        default=1,
        ge=0,
        description="how many more are kept, the best by recall@1 on held_out_samples; 0 measures nothing",
    )
    held_out_samples: int = Field(
        default=1000,
        ge=2,
        le=100_000,
        description="most pairs of the selection split that a checkpoint is measured on when it is saved",
    )
    on_bad_batch: Literal["stop", "skip", "roll_back"] = Field(
        default="stop",
        description="what a loss or gradient that is not finite, or a spike, does: end the run; leave this batch "
        "out; go back to the last checkpoint and leave out all batches from there to this one",
    )
    spike_sigmas: float | None = Field(
        default=None,
        gt=0,
        description="a loss this many standard deviations above the median of the last 64 is a spike; null is off",
    )
    max_bad_batches: int = Field(
        default=100, ge=0, description="batches that may be left out before the run ends"
    )
    probe: ProbeConfig | None = Field(
        default=None, description="measures the error of the log-normalizers; null is off"
    )
    sample_statistics: bool = Field(
        default=False,
        description="whether the run keeps each sample's last loss and log-normalizers and its visits, "
        "20 bytes a sample in the main process's memory and in checkpoints, and writes sample_statistics.parquet",
    )
    loader: LoaderConfig = Field(
        default=LoaderConfig(), description="how samples get from the shards to the device"
    )
    launch: Annotated[LaunchConfig, RESERVED] = unkeyed(
        LaunchConfig(), description="where the ranks are started"
    )
    save_every_minutes: float | None = unkeyed(
        30.0,
        gt=0,
        description="minutes between further checkpoints, kept only to resume from; null is off",
    )
    telemetry: TelemetryConfig = unkeyed(
        TelemetryConfig(), description="where the run's numbers go, and what it may cost"
    )
    log_every_steps: int = unkeyed(20, ge=1, description="steps between two lines of metrics")

    @property
    def views_read(self) -> tuple[list[str], list[str]]:
        """Return the views of images and of texts that some loss of a weight above 0 reads; `main` is first."""
        read: list[list[str]] = []
        for side, further in (("images", self.image_views), ("texts", self.text_views)):
            named = [getattr(term, side) for term in self.terms.values() if term.weight > 0]
            wanted = {view for views in named for view in (further if views is None else views)}
            read.append([MAIN, *(view for view in further if view in wanted)])
        return read[0], read[1]

    @property
    def all_caption_sources(self) -> list[str]:
        """Return the caption sources that some view names in some phase."""
        return list(
            dict.fromkeys(
                source
                for flat in self.by_phase()
                for view in (MAIN, *self.text_views)
                for source in flat.captions_in(view).named()
            )
        )

    def captions_in(self, view: str) -> ViewCaptions:
        """Return the policy of a view of texts."""
        return self.captions if view == MAIN else self.text_views[view].captions or self.captions

    def describe_captions(self, view: str) -> str:
        """Say in words which texts a view of them is to show, phase by phase where they differ."""
        return "; then ".join(
            dict.fromkeys(flat.captions_in(view).describe() for flat in self.by_phase())
        )

    def by_phase(self) -> "list[TrainConfig]":
        """Return the section of each phase with its settings as flat fields; itself where there are no phases."""
        if not self.phases:
            return [self]
        flat = {name: getattr(self, name) for name in type(self).model_fields if name != "phases"}
        return [
            type(self).model_construct(
                **flat | {name: value for name, value in phase if value is not None}
            )
            for phase in self.phases
        ]

    @model_validator(mode="before")
    @classmethod
    def _as_long_as_its_phases(cls, fields: Any) -> Any:  # noqa: ANN401  # what stands in a recipe
        """Let the phases say how long a run is that does not say it."""
        if not isinstance(fields, dict) or not fields.get("phases") or "epochs" in fields:
            return fields
        lengths = [
            phase.epochs if isinstance(phase, PhaseConfig) else phase.get("epochs", 0)
            for phase in fields["phases"]
            if isinstance(phase, PhaseConfig | dict)
        ]
        is_known = all(isinstance(length, int | float) for length in lengths)
        return {**fields, "epochs": sum(lengths)} if is_known else fields

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.epochs == 0 and self.initial is None:
            raise ValueError(
                "epochs 0 publishes the weights that a run starts from; name them in train.initial, or train longer"
            )
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        total = sum(phase.epochs for phase in self.phases)
        if self.phases and not math.isclose(self.epochs, total):
            raise ValueError(
                f"epochs is {self.epochs:g}, and the phases are {total:g} epochs together; leave epochs out"
            )
        for number, flat in enumerate(self.by_phase()):
            try:
                _check_numbers(flat)
                check_tokens(flat, is_first=number == 0)
            except (ValueError, ConfigError) as error:
                where = f"phases[{number}]: " if self.phases else ""
                raise ValueError(f"{where}{error}") from error
        return self

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        for side in ("image_views", "text_views"):
            if MAIN in getattr(self, side):
                raise ValueError(
                    f"{side} are those beside `{MAIN}`, which the flat fields describe"
                )
        known = {"images": [MAIN, *self.image_views], "texts": [MAIN, *self.text_views]}
        for name, term in self.terms.items():
            for side, views in known.items():
                for view in getattr(term, side) or ():
                    if view not in views:
                        raise ValueError(
                            f"terms.{name}.{side} names view {view!r}; views of {side} are {', '.join(views)}"
                        )
            term.check_views(term.images or known["images"], term.texts or known["texts"], name)
        for name in self.text_views:
            self._check_leaning(name, known["texts"])
        return self

    def _check_leaning(self, name: str, known: list[str]) -> None:
        """Refuse a view of texts that leans on one that is not there, or at last on itself."""
        seen, policy = [name], self.captions_in(name)
        while isinstance(policy, Same | Other):
            where = f"text_views.{seen[-1]}.captions.view"
            if policy.view not in known:
                raise ValueError(
                    f"{where} names view {policy.view!r}; views of texts are {', '.join(known)}"
                )
            if policy.view in seen:
                raise ValueError(f"{where} is {policy.view}, which leans on it; take another view")
            seen.append(policy.view)
            policy = self.captions_in(policy.view)


def _check_numbers(config: TrainConfig) -> None:
    """Check the numbers of one phase against each other.

    Raises: ValueError: saying which do not fit.
    """
    if config.global_batch % config.streams:
        raise ValueError(
            f"global_batch {config.global_batch} is not a multiple of streams {config.streams}"
        )
    ranks = config.launch.world_size
    if config.streams % ranks:
        raise ValueError(
            f"streams {config.streams} cannot be shared out to {ranks} ranks; use a multiple of {ranks}"
        )
    local_batch = config.global_batch // ranks
    if config.micro_batch is not None and local_batch % config.micro_batch:
        raise ValueError(
            f"global_batch {config.global_batch} / ranks {ranks} = {local_batch} is not a multiple "
            f"of micro_batch {config.micro_batch}; use a divisor of {local_batch}, or null"
        )
    if config.min_lr > config.lr:
        raise ValueError(f"min_lr {config.min_lr} is above lr {config.lr}")
    if config.cooldown_steps and config.schedule != "constant":
        raise ValueError(
            f"cooldown_steps {config.cooldown_steps} is of the constant schedule; set schedule: constant, or 0 steps"
        )
    for name, view in {MAIN: config, **config.image_views}.items():
        low, high = view.crop_scale or config.crop_scale
        if not 0 < low <= high <= 1:
            where = "" if name == MAIN else f"image_views.{name}."
            raise ValueError(f"{where}crop_scale {[low, high]} is not an increasing pair in (0, 1]")
