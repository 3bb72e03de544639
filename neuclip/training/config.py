"""The `train` section of a recipe."""

from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from neuclip.foundation.config import RESERVED, Section, keyed_if_set, unkeyed
from neuclip.launching.config import LaunchConfig
from neuclip.loading.config import LoaderConfig
from neuclip.loading.edits.config import AugmentConfig
from neuclip.loading.policies import OwnCaptions, PerSource, Same, ViewCaptions
from neuclip.loading.visits import MAIN, ViewName
from neuclip.objectives.config import NeuClipConfig, ObjectiveConfig
from neuclip.objectives.terms.config import (
    MaskedTextConfig,
    TermConfig,
    Views,
)
from neuclip.tokens.config import (
    ImageTokensConfig,
    ResizeConfig,
    TextTokensConfig,
    TruncateConfig,
)
from neuclip.towers.config import ModelConfig
from neuclip.towers.initial_config import InitialConfig
from neuclip.training.clip_config import GradClip, NormClip
from neuclip.training.collapse_config import CollapseConfig
from neuclip.training.config_checks import check_train, share_of
from neuclip.training.freezing_config import FreezeConfig
from neuclip.training.phase_config import PhaseConfig
from neuclip.training.probe_config import ProbeConfig
from neuclip.training.telemetry_config import TelemetryConfig
from neuclip.training.view_config import ImageViewConfig, TextViewConfig

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""


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
    augment: AugmentConfig | None = keyed_if_set(
        default=None,
        description="strong augmentation after the crop; {} is MoCo v2's, null is none",
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
        default={},
        description="views of each image beside `main`, by name, for losses that read them",
    )
    text_views: dict[ViewName, TextViewConfig] = keyed_if_set(
        default={},
        description="views of each sample's texts beside `main`, by name, for losses that read them",
    )
    terms: dict[ViewName, TermConfig] = keyed_if_set(
        default={}, description="further losses by name, each with its weight"
    )
    weighting: Literal["code", "paper"] = keyed_if_set(
        default="code",
        description="code adds the terms to the objective's loss times objective_weight, as DeCLIP's code does; paper "
        "leaves the objective what the terms' weights leave of 1, of which image_self and masked_text share one",
    )
    objective_weight: float = keyed_if_set(
        default=1.0, gt=0, description="what the objective's loss is multiplied by, beside `terms`"
    )
    global_views: Literal["first", "all"] = keyed_if_set(
        default="first",
        description="pairs of views that the objective's loss is of: that of `main`, or the mean over all",
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
    grad_clip: GradClip | None = Field(
        default=NormClip(), description="limit of the encoders' gradient; null is off"
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
    collapse: CollapseConfig = keyed_if_set(
        default=CollapseConfig(),
        description="when features are taken to have collapsed, and what that does",
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
    def active_terms(self) -> dict[str, TermConfig]:
        """Return the terms of a weight above 0."""
        return {name: term for name, term in self.terms.items() if term.weight > 0}

    @property
    def known_views(self) -> Views:
        """Return the views that the recipe describes; `main` is first."""
        return Views([MAIN, *self.image_views], [MAIN, *self.text_views])

    @property
    def views_read(self) -> Views:
        """Return the views that some loss reads; `main` is first, views of a term's own are last."""
        known = self.known_views
        read = [term.reads(known, name) for name, term in self.active_terms.items()]
        if self.global_views == "all":
            read.append(known)
        images = {view for views in read for view in views.images}
        texts = [view for views in read for view in views.texts]
        own = dict.fromkeys(view for view in texts if view not in known.texts)
        return Views(
            [view for view in known.images if view == MAIN or view in images],
            [*(view for view in known.texts if view == MAIN or view in texts), *own],
        )

    @property
    def masked_views(self) -> dict[str, MaskedTextConfig]:
        """Return the views of texts of which tokens are masked, and for which term."""
        return {
            term.masked_view(name): term
            for name, term in self.active_terms.items()
            if isinstance(term, MaskedTextConfig)
        }

    @property
    def objective_pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of views that the objective's loss is of; that of `main` is first."""
        return list(product(*self.known_views)) if self.global_views == "all" else [(MAIN, MAIN)]

    @property
    def share_of_objective(self) -> float:
        """Return what the objective's loss is multiplied by."""
        return self.objective_weight if self.weighting == "code" else 1 - share_of(self.terms)

    def of_image_view(self, view: str, field: Literal["crop_scale", "augment"]) -> Any:  # noqa: ANN401  # either's
        """Return a setting of a view of images, which takes it from `main` where it has none."""
        own = None if view == MAIN else getattr(self.image_views[view], field)
        found = getattr(self, field) if own is None else own
        return None if found == "none" else found

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
        if view == MAIN:
            return self.captions
        if view in self.text_views:
            return self.text_views[view].captions or self.captions
        return Same(view=self.masked_views[view].text)

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
    def _fits(self) -> Self:
        check_train(self)
        return self
