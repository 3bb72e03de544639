"""What every objective is to the training step.

Legend: B local batch, G global batch, D embedding width.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuclip.distributed.collectives import all_gather, require_equal_shapes
from neuclip.distributed.world import World
from neuclip.foundation.errors import NumericsError, ShapeError
from neuclip.objectives.config import IndexStrategy
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.loss_part import LossPart, TrainableGroup
from neuclip.objectives.temperature import Temperature

LogNormalizers = tuple[Float[Tensor, " B"], Float[Tensor, " B"]]


@dataclass(frozen=True)
class ObjectiveResult:
    """What one batch gave.

    Args:
        loss: scalar whose gradient, averaged over ranks, is that of the global-batch objective.
        log_normalizers: the estimates used, nats, without gradient, of the local image anchors
            and text anchors: log of (eps + mean over the other pairs of exp(margin / tau)).
        metrics: named statistics of the local batch, without gradient, on the features' device.
        scale: what the loss is a multiple of, without gradient: divided by it, it is nats per anchor, the mean of both
            sides.
        pair_losses: InfoNCE's loss of each local pair in the batch, both sides summed, nats,
            without gradient; none where no softmax is taken.
    """

    loss: Float[Tensor, ""]
    log_normalizers: LogNormalizers | None
    metrics: dict[str, float | Tensor]
    pair_losses: Float[Tensor, " B"] | None = None
    scale: float | Float[Tensor, ""] = 1.0


class Wanted(NamedTuple):
    """Pairs of the training set that an objective needs the features of before its next step.

    Args:
        num_pairs: how many different ones.
        strategy: by which `SampleIndex.prototypes` draws them.
        seed: of the draw; it follows from the run's seed and the step.
    """

    num_pairs: int
    strategy: IndexStrategy
    seed: int


class Objective(LossPart):
    """The contrastive loss of image-text pairs with its state; `state_dict` carries all that this rank holds of it.

    State is float32 whatever the features are (`.double()` makes it float64); float64 features are
    computed with in float64.

    Args:
        temperature: the temperature; none = each sample has its own.
        feature_dim: width D of the features.
        num_samples: pairs in the data set, n; ids of objectives with state per sample are below it.
        world: the ranks among which the global batch is split; all have the same local batch,
            which does not change during a run.
    """

    has_state_per_sample = False

    def __init__(
        self,
        temperature: Temperature | None,
        *,
        feature_dim: int,
        num_samples: int,
        world: World,
        reduction: str = "gather",
    ) -> None:
        super().__init__(feature_dim=feature_dim, num_samples=num_samples, world=world)
        self.learned_temperature = temperature
        self.reduction = reduction
        self._agreed_shape: torch.Size | None = None

    @abstractmethod
    def forward(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> ObjectiveResult:
        """Return the loss of the local anchors against the global batch.

        In training mode this may update inner state; in evaluation mode it changes nothing.

        Args:
            image_features: unit-norm, may require grad.
            text_features: unit-norm, row b is of the same pair as image row b.
            sample_ids: int64, dense ids of the pairs; a sample is no negative of itself.

        Raises:
            ShapeError: if widths or ranks' batches do not fit, or an anchor has no other pair.
            NumericsError: on every rank, before any state changes, if a feature is not finite.
        """

    @torch.no_grad()
    def predict(
        self,
        image_features: Float[Tensor, "B D"],  # noqa: ARG002  # objectives that predict read them
        text_features: Float[Tensor, "B D"],  # noqa: ARG002
        sample_ids: Int[Tensor, " B"],  # noqa: ARG002
    ) -> LogNormalizers | None:
        """Return the log-normalizers that the state alone gives any anchors; it changes nothing.

        Every rank has to call it. None for objectives that take theirs from the batch; nan for
        samples of which the state knows nothing yet.
        """
        return None

    def wanted(self) -> Wanted | None:
        """Say which pairs have to be encoded with the present weights before the next step, if any.

        It changes nothing, and says the same on every rank.
        """
        return None

    def take(
        self,
        image_features: Float[Tensor, "N D"],
        text_features: Float[Tensor, "N D"],
        sample_ids: Int[Tensor, " N"],
    ) -> None:
        """Take what `wanted` asked for, the same on every rank; the next step uses it.

        Args:
            image_features: unit-norm, without gradient, encoded in evaluation mode.
            sample_ids: of the pairs.
        """
        raise NotImplementedError(f"{type(self).__name__} asks for no pairs")

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """Return the present temperature, with gradient if it is learned."""
        assert self.learned_temperature is not None, "samples' own temperatures: override this"
        return self.learned_temperature()

    @torch.no_grad()
    def logit_scale_and_bias(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """Return log(1 / tau) and what is added to logits, as learned; None = nothing is added.

        What open_clip's `logit_scale` and `logit_bias` are in the published model. Every rank has
        to call it.
        """
        assert self.learned_temperature is not None, "samples' own temperatures: override this"
        return self.learned_temperature.log_scale.detach(), None

    @torch.no_grad()
    def start_at(self, log_scale: Float[Tensor, ""], bias: Float[Tensor, ""] | None) -> None:
        """Start from another model's log(1 / tau), and from its bias where one is learned here.

        A temperature that is not learned stays there. The range of a learned one holds from the first update on.
        """
        del bias
        assert self.learned_temperature is not None, "samples' own temperatures: override this"
        self.learned_temperature.log_scale.copy_(log_scale)

    def advance(self, step: int) -> None:
        """Close a training step, after the optimiser's update.

        Args:
            step: number of completed updates, this one included.
        """
        super().advance(step)
        if self.learned_temperature is not None:
            self.learned_temperature.clamp_()

    def epoch(self, batch: GlobalBatch) -> float:
        """Return how often the data set was passed in this phase, all global batches being equal."""
        return self.steps_of_phase * len(batch.sample_ids_G) / self.num_samples

    def trainable(self) -> list[TrainableGroup]:
        """Return what the trainer's optimiser has to update, with the rates of the next update."""
        temperature = self.learned_temperature
        if temperature is None or not temperature.log_scale.requires_grad:
            return []
        return [
            TrainableGroup(
                "temperature", [temperature.log_scale], temperature.lr, temperature.lr_factor()
            )
        ]

    def collect(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> GlobalBatch:
        """Refuse what does not fit (see `forward`) and gather the batch of all ranks."""
        return GlobalBatch.collect(
            image_features,
            text_features,
            sample_ids,
            sample_ids_G=self.check(image_features, text_features, sample_ids),
            reduction=self.reduction,
            world=self.world,
        )

    def check(
        self,
        image_features: Float[Tensor, "B D"],
        text_features: Float[Tensor, "B D"],
        sample_ids: Int[Tensor, " B"],
    ) -> Int[Tensor, " G"]:
        """Refuse what does not fit, on every rank alike; return the ids of the global batch.

        One look at the device for all checks, since each look waits for it.
        """
        self._check_shapes(image_features, text_features)
        is_finite_B = torch.isfinite(image_features + text_features).all(dim=1)
        both_BX = torch.stack([sample_ids, is_finite_B.to(sample_ids.dtype)], dim=1)
        ids_G, is_finite_G = all_gather(both_BX, self.world).unbind(1)
        has_other = (ids_G != ids_G[0]).any()
        fits = ((ids_G >= 0) & (ids_G < self.num_samples)).all() | (not self.has_state_per_sample)
        if not bool(is_finite_G.all() & has_other & fits):
            self._refuse(ids_G, is_finite_G.bool(), fits=bool(fits))
        return ids_G

    def _check_shapes(self, image_features: Tensor, text_features: Tensor) -> None:
        """Refuse features that do not fit.

        Ranks compare their batch once; a later change of shape is refused by the rank that sees
        it, which costs no communication.
        """
        shape = image_features.shape
        if shape != text_features.shape or shape[1] != self.feature_dim:
            raise ShapeError(
                f"expected image and text features [B, {self.feature_dim}], "
                f"found {list(shape)} and {list(text_features.shape)}"
            )
        if shape[0] * self.world.size < 2:
            raise ShapeError("a contrastive loss needs a global batch of at least 2, found 1")
        if self.world.size == 1:
            return
        if self._agreed_shape is None:
            require_equal_shapes(image_features, self.world)
            self._agreed_shape = shape
        elif shape != self._agreed_shape:
            raise ShapeError(
                f"rank {self.world.rank}: expected features {list(self._agreed_shape)} as in the "
                f"first batch, found {list(shape)}; keep the local batch fixed during a run"
            )

    def _refuse(
        self, ids_G: Int[Tensor, " G"], is_finite_G: Bool[Tensor, " G"], *, fits: bool
    ) -> NoReturn:
        step, num_local = self.completed_steps, len(ids_G) // self.world.size
        if not fits:
            raise ShapeError(
                f"sample ids {int(ids_G.min())} to {int(ids_G.max())} at step {step} do not fit "
                f"the {self.num_samples} samples this objective was built for; build it with "
                "num_samples = number of pairs in the index"
            )
        if is_finite_G.all():
            raise ShapeError(
                f"all {len(ids_G)} pairs of the global batch at step {step} are of sample "
                f"{int(ids_G[0])}, so no anchor has a negative; give a batch of different samples"
            )
        places = (~is_finite_G).nonzero().flatten()
        ranks = sorted({int(place) // num_local for place in places})
        raise NumericsError(
            f"features of {len(places)} samples are not finite at step {step} on "
            f"rank {', '.join(map(str, ranks))}: sample ids {ids_G[places[:8]].tolist()}; lower "
            "the learning rate or lengthen the warm-up, and look at these samples"
        )
