"""Recipe sections of the objectives."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neuclip.foundation.config import Section, keyed_if_set

Reduction = Literal["gather", "two_role"]
IndexStrategy = Literal["uniform", "stratified", "kmeans++"]


def _reduction() -> Any:  # noqa: ANN401  # stands where Field() stands
    return Field(
        default="gather",
        description="How ranks share a batch: gather sends features' gradients back to their rank; "
        "two_role sends two numbers a sample instead and lets each rank act as anchor and as "
        "contrast. Same gradient.",
    )


def _temperature_init(default: float = 0.07) -> Any:  # noqa: ANN401
    return Field(
        default=default,
        gt=0,
        description="Temperature at the start, unitless, between its min and max.",
    )


def _eps() -> Any:  # noqa: ANN401
    return Field(
        default=1e-14,
        ge=0,
        lt=1,
        description="Added to a mean of exponentials inside the log, unitless, in [0, 1).",
    )


def _tau_exp_weight() -> Any:  # noqa: ANN401
    return Field(
        default=1,
        description="How often the exponential term counts in the temperature's gradient; 1 is the gradient of the "
        "loss, 2 is that of the released code, which published rho values belong to.",
    )


class LearnedTemperature(Section):
    """Fields of objectives with one learned temperature."""

    temperature_init: float = _temperature_init()
    temperature_min: float = Field(
        default=0.01, gt=0, description="Lowest temperature allowed, unitless, above 0."
    )
    temperature_max: float = Field(
        default=1.0, gt=0, description="Highest temperature allowed, unitless, above 0."
    )
    temperature_lr: float | None = Field(
        default=None,
        ge=0,
        description="Learning rate of log(1/temperature), at least 0; none = the encoders' rate, with its schedule.",
    )
    temperature_lr_share: float = keyed_if_set(
        default=1.0,
        ge=0,
        description="What the encoders' rate is multiplied by for log(1/temperature), where temperature_lr is none.",
    )
    learn_temperature: bool = Field(
        default=True, description="Whether the temperature is learned or stays at its start."
    )
    temperature_slow_below: float | None = Field(
        default=None,
        gt=0,
        description="Temperature at and below which its learning rate is a third, unitless; "
        "none = never. FastCLIP and AmorLIP publish 0.03 with a rate of their own.",
    )

    @model_validator(mode="after")
    def _temperature_in_range(self) -> "LearnedTemperature":
        low, start, high = self.temperature_min, self.temperature_init, self.temperature_max
        if not low <= start <= high:
            raise ValueError(
                f"temperature_init {start} is not between temperature_min {low} "
                f"and temperature_max {high}"
            )
        return self


class OpenClipConfig(LearnedTemperature):
    """InfoNCE over the global batch, as in CLIP 2021."""

    name: Literal["openclip"] = Field(
        default="openclip", description="Which objective this section is of."
    )
    reduction: Reduction = _reduction()


class SigLipConfig(LearnedTemperature):
    """A sigmoid loss for every pair of the global batch (arXiv 2303.15343)."""

    name: Literal["siglip"] = Field(
        default="siglip", description="Which objective this section is of."
    )
    temperature_init: float = _temperature_init(0.1)
    bias_init: float = Field(
        default=-10.0, description="Added to every logit at the start, unitless; learned."
    )
    exchange: Literal["ring", "gather"] = Field(
        default="ring",
        description="How texts reach all ranks: ring passes one rank's block at a time, gather "
        "all at once. Same gradient.",
    )


class SogClrConfig(Section):
    """A moving average per sample stands for its normalizer, at constant rate and temperature."""

    name: Literal["sogclr"] = Field(
        default="sogclr", description="Which objective this section is of."
    )
    reduction: Reduction = _reduction()
    gamma: float = Field(
        default=0.6, gt=0, le=1, description="Rate of the moving averages after the first epoch."
    )
    eps: float = _eps()
    temperature: float = Field(default=0.07, gt=0, description="Temperature, unitless, above 0.")


class ISogClrConfig(Section):
    """SogCLR with a learned temperature for every sample and side (arXiv 2305.11965)."""

    name: Literal["isogclr"] = Field(
        default="isogclr", description="Which objective this section is of."
    )
    reduction: Reduction = _reduction()
    gamma: float = Field(
        default=0.8, gt=0, le=1, description="Rate of the moving averages after the first epoch."
    )
    eps: float = _eps()
    rho: float = Field(
        default=7.0,
        ge=0,
        description="Pull of each temperature towards its least value, nats, at least 0.",
    )
    temperature_init: float = _temperature_init(0.01)
    temperature_min: float = Field(
        default=0.005, gt=0, description="Lowest temperature allowed, unitless, above 0."
    )
    temperature_max: float = Field(
        default=1.0, gt=0, description="Highest temperature allowed, unitless, above 0."
    )
    temperature_lr: float = Field(
        default=0.03, ge=0, description="Step size of the temperatures, at least 0."
    )


class FastClipConfig(LearnedTemperature):
    """SogCLR's moving averages with a falling rate (arXiv 2407.01445), in its four versions."""

    name: Literal["fastclip"] = Field(
        default="fastclip", description="Which objective this section is of."
    )
    version: Literal["v0", "v1", "v2", "v3"] = Field(
        default="v3",
        description="v0: learned temperature, unscaled loss; v1: constant temperature; "
        "v2: a temperature for every sample; v3: learned temperature with rho.",
    )
    reduction: Reduction = _reduction()
    gamma_min: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Rate of the moving averages that the schedule ends at, in (0, 1].",
    )
    gamma_decay_epochs: int = Field(
        default=18,
        ge=1,
        description="Epochs in which the rate falls along a cosine from 1 to gamma_min; "
        "half of the run is advised.",
    )
    eps: float = _eps()
    rho: float = Field(
        default=6.5,
        ge=0,
        description="Pull towards a low temperature, nats, at least 0; v2 and v3 have it.",
    )
    tau_exp_weight: Literal[1, 2] = _tau_exp_weight()
    individual_temperature_init: float = _temperature_init(0.03)
    individual_temperature_lr: float = Field(
        default=0.0133, ge=0, description="v2: Adam step size of the temperatures, at least 0."
    )


class AmorLipConfig(LearnedTemperature):
    """Normalizers predicted by a network fitted to the batch's own sums (arXiv 2505.18983)."""

    name: Literal["amorlip"] = Field(
        default="amorlip", description="Which objective this section is of."
    )
    reduction: Reduction = _reduction()
    hidden_factor: int = Field(
        default=1, ge=1, description="Width of the network's hidden layers over the features'."
    )
    own_pair_weight: float = Field(
        default=1e-3, ge=0, description="Weight of an anchor's own pair in its sum, at least 0."
    )
    encoder_normalizer: Literal["network", "target"] = Field(
        default="network",
        description="What the encoders' loss divides by: the network's moving average, or the "
        "target that the network is fitted to.",
    )
    smoothing_max: float = Field(
        default=0.8,
        ge=0,
        lt=1,
        description="Weight that the last epoch's prediction reaches in the target.",
    )
    smoothing_epochs: int = Field(
        default=16, ge=1, description="Epochs until that weight is reached, along a cosine."
    )
    inner_steps: int = Field(
        default=3, ge=0, description="Adam steps of the network a batch, at least 0."
    )
    inner_lr: float = Field(default=1e-3, gt=0, description="Adam step size of the network.")
    average_every: int = Field(
        default=2, ge=1, description="Steps between updates of the network's moving average."
    )
    average_decay: float = Field(
        default=0.92, ge=0, lt=1, description="What the moving average keeps of itself."
    )
    ratio_clamp: float | None = Field(
        default=1e4,
        gt=1,
        description="Largest ratio of a batch sum to its prediction, unitless, above 1: at a low "
        "temperature an unfitted network is off by more than float32 holds; none = no limit.",
    )
    rho: float = Field(default=8.5, description="Pull of the temperature in the first epochs.")
    late_rho: float = Field(default=-8.5, description="Pull of the temperature afterwards.")
    late_rho_from_epoch: int = Field(
        default=11, ge=0, description="Epoch from which late_rho holds; a third of the run."
    )


class NetworkConfig(Section):
    """The normalizer network of NeuCLIP."""

    name: Literal["network"] = Field(
        default="network", description="Which estimator this section is of."
    )
    num_prototypes: int = Field(
        default=4096, ge=2, description="Prototypes a side (m), a count, at least 2."
    )
    source: Literal["recent", "batch", "index"] = Field(
        default="recent",
        description="Where prototypes restart from: the most recent pairs, the present batch, or "
        "pairs drawn from the sample index and encoded anew at each restart.",
    )
    index_strategy: IndexStrategy = Field(
        default="uniform",
        description="How source index draws: all pairs alike, from the index's clusters in "
        "proportion to their size, or far from each other by the index's features.",
    )
    inner_steps: int = Field(
        default=10,
        ge=0,
        description="Normalizer network updates a step (T_u), a count, at least 0.",
    )
    restart_every: int = Field(
        default=500, ge=1, description="Steps between restarts of the prototypes (T_r), at least 1."
    )
    inner_lr: float = Field(
        default=0.003,
        gt=0,
        description="AdaGrad learning rate of the prototypes, above 0; the first update turns a "
        "unit prototype by about inner_lr * sqrt(feature width).",
    )
    fit_precision: Literal["fp32", "tf32", "bf16"] = Field(
        default="tf32",
        description="Precision of the two matrix products of an update; predictions stay exact. tf32 is fp32 but on "
        "CUDA, where it changes the fit's gradient by under 0.1 % at a temperature of 0.07 and 0.5 % at 0.01.",
    )
    mask_own_pair: bool = Field(
        default=True,
        description="Whether an anchor ignores prototypes that came from its own pair.",
    )
    offset_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="What a moving mean of exp(l - alpha), one a side, keeps of itself at a step; "
        "its log is added to predictions. None = no offset.",
    )

    @model_validator(mode="after")
    def _a_strategy_needs_the_index(self) -> "NetworkConfig":
        if self.source != "index" and self.index_strategy != "uniform":
            raise ValueError(
                f"index_strategy {self.index_strategy} needs source index, found {self.source}"
            )
        return self


class QueueConfig(Section):
    """Log-normalizers over the features of the pairs seen last; nothing is learned."""

    name: Literal["queue"] = Field(
        default="queue", description="Which estimator this section is of."
    )
    num_pairs: int = Field(default=4096, ge=2, description="Pairs held, a count, at least 2.")


class AgedQueueConfig(Section):
    """A queue whose blocks, by age, have a learned weight each."""

    name: Literal["aged_queue"] = Field(
        default="aged_queue", description="Which estimator this section is of."
    )
    num_pairs: int = Field(default=16384, ge=2, description="Pairs held, a count, at least 2.")
    first_block: int = Field(
        default=512,
        ge=1,
        description="Pairs in the newest block, a count; each older block is twice as large.",
    )
    inner_lr: float = Field(
        default=0.05, gt=0, description="Step size of the blocks' log-weights, nats, above 0."
    )


EstimatorConfig = Annotated[
    NetworkConfig | QueueConfig | AgedQueueConfig, Field(discriminator="name")
]


class NeuClipConfig(LearnedTemperature):
    """The NeuCLIP objective (arXiv 2511.08417); its normalizer estimator can be exchanged."""

    name: Literal["neuclip"] = Field(
        default="neuclip", description="Which objective this section is of."
    )
    estimator: EstimatorConfig = Field(
        default_factory=NetworkConfig, description="What predicts the log-normalizers."
    )
    reduction: Reduction = _reduction()
    eps: float = _eps()
    rho: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Pull towards a low temperature, nats, at least 0: the temperature settles "
        "where the mean KL from uniform of the contrast weights equals rho. auto = log(global batch) - 1.",
    )
    tau_exp_weight: Literal[1, 2] = _tau_exp_weight()
    alpha_mode: Literal["detached", "through"] = Field(
        default="detached",
        description="Whether the encoders' gradient stops at the predicted log-normalizers "
        "or flows through them.",
    )
    gamma: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = keyed_if_set(
        default=0.0,
        description="Weight of the batch's own normalizer in the one that an anchor is divided by, in [0, 1): ratios "
        "are then at most 1 / gamma. auto = v / (1 + v), v the mean square of the log ratio.",
    )
    ratio_clamp: Annotated[float, Field(gt=1)] | Literal["auto"] | None = Field(
        default="auto",
        description="Largest ratio of a batch normalizer to its prediction, unitless, above 1; none = no limit. auto "
        "= (pairs of the data set - 1) / (global batch - 1), which no exact normalizer goes beyond, or 20 if that is "
        "more. Estimators learn from ratios of at most this, with auto and none of at most 20 and of any.",
    )
    warm_steps: int = keyed_if_set(
        default=0,
        ge=0,
        description="Steps at the start of each phase but the first in which the estimator alone "
        "learns: it gets to know the features of other tokens before they teach the encoders.",
    )


ObjectiveConfig = Annotated[
    OpenClipConfig
    | SigLipConfig
    | SogClrConfig
    | ISogClrConfig
    | FastClipConfig
    | AmorLipConfig
    | NeuClipConfig,
    Field(discriminator="name"),
]
