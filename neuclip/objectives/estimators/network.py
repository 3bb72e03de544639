"""The normalizer network of NeuCLIP: prototypes that learn to stand for the whole data set.

Legend: S side (0 image anchors with prototype texts, 1 text anchors with prototype images),
B local anchors, M prototypes a side, C <= M prototypes in use, D embedding width, tau temperature,
alpha predicted and l batch log-normalizer, r = exp(l - alpha) their ratio.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from neuclip.distributed.collectives import all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.objectives.config import NetworkConfig
from neuclip.objectives.estimators.estimator import (
    Anchors,
    Estimator,
    IndexPrototypes,
    look_up,
)
from neuclip.objectives.estimators.sources import IndexPairs, make_source
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.margins import add_eps, log_weights

# Far above rounding noise and far below a real gradient. When the prototypes are the batch itself
# the gradient is pure rounding noise, which AdaGrad would otherwise turn into full steps.
_ADAGRAD_EPS = 1e-8

_NO_SAMPLE = -1

# Similarities of anchors and prototypes that live at a time: 256 MiB in float32.
_MAX_SIMILARITIES = 1 << 26


class NormalizerNetwork(Estimator):
    """Prototypes, their AdaGrad sums, and the log-normalizers that they predict.

    Definition: alpha_i = log(eps + mean_j exp((cos(anchor_i, w_j) - cos(own pair i)) / tau)),
    the mean over the prototypes in use that did not come from the anchor's own pair. Dividing by
    the number of those that remain, not by all, makes alpha the exact log-normalizer when the
    prototypes are all embeddings of a data set that holds the anchor.

    It is fitted to each batch by `inner_steps` AdaGrad steps on
    mean_i sum over sides of exp(l_i - alpha_i) + alpha_i - 1, l constant, after which prototypes
    are unit vectors again: alpha does not depend on their length.

    Prototypes restart from their source at step 0 and every `restart_every` steps, and once more
    as soon as it has enough pairs for all prototypes; until then as many prototypes as there are
    pairs are in use. From the sample index all of them come at once.

    Source: NeuCLIP, arXiv 2511.08417; gradients against autograd and loops in
    tests/objectives/test_network.py.
    """

    prototypes_SMD: Tensor
    squared_gradients_SMD: Tensor
    prototype_ids_M: Tensor

    def __init__(
        self,
        config: NetworkConfig,
        feature_dim: int,
        *,
        eps: float,
        ratio_clamp: float | None,
        world: World,
    ) -> None:
        super().__init__(eps=eps, ratio_clamp=ratio_clamp)
        self.config = config
        self.world = world
        self.num_in_use = 0
        self.source = make_source(config.source, config.num_prototypes, feature_dim)
        shape = (2, config.num_prototypes, feature_dim)
        self.register_buffer("prototypes_SMD", torch.zeros(shape))
        self.register_buffer("squared_gradients_SMD", torch.zeros(shape))
        ids_M = torch.zeros(config.num_prototypes, dtype=torch.int64)
        self.register_buffer("prototype_ids_M", ids_M)

    def get_extra_state(self) -> Tensor:
        """Return the number of prototypes in use; a tensor, as all state."""
        return torch.tensor(self.num_in_use)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number of prototypes in use from a saved state."""
        self.num_in_use = int(state)

    @property
    def is_ready(self) -> bool:
        """Tell whether there are prototypes."""
        return self.num_in_use > 0

    @torch.no_grad()
    def restart(
        self, contrasts_SCD: Float[Tensor, "2 C D"], sample_ids_C: Int[Tensor, " C"]
    ) -> None:
        """Make the directions of these embeddings the prototypes and forget the AdaGrad sums.

        Args:
            contrasts_SCD: texts on side 0, images on side 1; row c of both is pair c.
            sample_ids_C: ids of those pairs.
        """
        self.num_in_use = len(sample_ids_C)
        self.prototypes_SMD[:, : self.num_in_use] = functional.normalize(contrasts_SCD, dim=2)
        self.prototype_ids_M[: self.num_in_use] = sample_ids_C
        self.squared_gradients_SMD.zero_()

    def wanted(self, step: int) -> IndexPrototypes | None:
        """Return what a restart from the index needs, where one is due; see `Estimator.wanted`."""
        if isinstance(self.source, IndexPairs) and self._is_due(step):
            return self.config.num_prototypes, self.config.index_strategy
        return None

    def take(self, contrasts_SND: Float[Tensor, "2 N D"], sample_ids_N: Int[Tensor, " N"]) -> None:
        """Keep the pairs for the restart of the next step."""
        if not isinstance(self.source, IndexPairs):
            super().take(contrasts_SND, sample_ids_N)  # refuses
        else:
            self.source.take(contrasts_SND, sample_ids_N)

    def prepare(
        self, batch: GlobalBatch, anchors: Anchors, log_batch_SB: Float[Tensor, "2 B"], *, step: int
    ) -> None:
        """Restart the prototypes if it is due, then fit them to the batch."""
        self.source.add(batch.contrasts_SGD.detach(), batch.sample_ids_G)
        can_complete = self.source.is_full and self.num_in_use < self.config.num_prototypes
        if self._is_due(step) or can_complete:
            self.restart(*self.source.held())
        self.fit(anchors, log_batch_SB)

    def _is_due(self, step: int) -> bool:
        return step % self.config.restart_every == 0 or not self.is_ready

    def forward(self, anchors: Anchors) -> Float[Tensor, "2 B"]:
        """Return alpha, nats, with gradient to the anchors and tau; prototypes are constants."""
        prototypes_SCD = self.prototypes_SMD[:, : self.num_in_use]
        ids_C = self.prototype_ids_M[: self.num_in_use]
        if not self.config.mask_own_pair:
            ids_C = torch.full_like(ids_C, _NO_SAMPLE)
        return look_up(anchors, prototypes_SCD, ids_C, eps=self.eps)

    def column_offsets(self, anchors: Anchors, rows: slice) -> Float[Tensor, "R C"]:
        """Return what turns cos / tau of some anchors into the logs of prototypes' terms.

        It is the log of each prototype's weight in the anchor's mean, -inf for its own pair, minus own cosine / tau.
        """
        ids_R = anchors.sample_ids_B[rows, None]
        is_own_RC = ids_R == self.prototype_ids_M[: self.num_in_use]
        dtype = anchors.features_SBD.dtype
        weights_RC = log_weights(is_own_RC & self.config.mask_own_pair, dtype)
        return weights_RC - (anchors.own_cosine_B[rows] / anchors.temperature)[:, None]

    @torch.no_grad()
    def fit(self, anchors: Anchors, log_batch_SB: Float[Tensor, "2 B"]) -> None:
        """Take AdaGrad steps on one global batch; prototypes stay equal on all ranks.

        Averaging the local gradients over ranks gives the gradient on the global batch.
        """
        slices = self._slices(anchors)
        offsets_BC = self.column_offsets(anchors, slices[0]) if len(slices) == 1 else None
        with _tf32(is_allowed=self.config.fit_precision == "tf32"):
            for _ in range(self.config.inner_steps):
                gradient_SCD = self.gradient(anchors, log_batch_SB, offsets_BC)
                self.step_prototypes(all_reduce_mean_(gradient_SCD, self.world))

    @torch.no_grad()
    def gradient(
        self,
        anchors: Anchors,
        log_batch_SB: Float[Tensor, "2 B"],
        offsets_BC: Float[Tensor, "B C"] | None = None,
    ) -> Float[Tensor, "2 C D"]:
        """Return the gradient of the local fit with respect to the prototypes in use.

        Definition: of tau * mean_i sum_sides (exp(l_i - alpha_i) + alpha_i - 1), l constant; with
        p_ij the share of prototype j in exp(alpha_i), w_j unit prototypes, and r limited to its
        clamp: mean_i (1 - r_i) p_ij (I - w_j w_j^T) anchor_i.

        Two matrix products over both sides, no autograd graph; of the [2, B, C] similarities only a slice of
        anchors lives at a time.

        Args:
            offsets_BC: `column_offsets` of all anchors, if they are few; else computed slice by slice.
        """
        prototypes_SCD = self.prototypes_SMD[:, : self.num_in_use]
        dtype = prototypes_SCD.dtype
        log_batch_SB = log_batch_SB.to(dtype)
        features_SBD = anchors.features_SBD.to(dtype)
        num_local = len(anchors.sample_ids_B)
        gradient_SCD = torch.zeros_like(prototypes_SCD)
        for rows in self._slices(anchors):
            offsets_RC = self.column_offsets(anchors, rows) if offsets_BC is None else offsets_BC
            features_SRD = features_SBD[:, rows]
            terms_SRC = self._product(
                features_SRD / anchors.temperature,
                prototypes_SCD.transpose(1, 2),
                add=offsets_RC.to(dtype).expand(2, -1, -1),
            )
            largest_SR1 = terms_SRC.amax(dim=2, keepdim=True)
            sums_SR = terms_SRC.sub_(largest_SR1).exp_().sum(dim=2)
            largest_SR = largest_SR1[..., 0]
            alpha_SR = add_eps(sums_SR.log() + largest_SR, self.eps)
            ratio_SR = self.ratios(log_batch_SB[:, rows], alpha_SR)
            # The share of a prototype is its term times this; scaling anchors is cheaper.
            weight_SR = (largest_SR - alpha_SR).exp() * (1 - ratio_SR) / num_local
            gradient_SCD = self._product(
                terms_SRC.transpose(1, 2), features_SRD * weight_SR[..., None], add=gradient_SCD
            )
        radial_SC1 = torch.linalg.vecdot(gradient_SCD, prototypes_SCD)[..., None]
        return gradient_SCD.addcmul_(radial_SC1, prototypes_SCD, value=-1)

    @torch.no_grad()
    def step_prototypes(self, gradient_SCD: Float[Tensor, "2 C D"]) -> None:
        """Take one AdaGrad step in place, and bring the prototypes back to unit length."""
        prototypes_SCD = self.prototypes_SMD[:, : self.num_in_use]
        sums_SCD = self.squared_gradients_SMD[:, : self.num_in_use]
        sums_SCD.addcmul_(gradient_SCD, gradient_SCD)
        roots_SCD = sums_SCD.sqrt().add_(_ADAGRAD_EPS)
        prototypes_SCD.addcdiv_(gradient_SCD, roots_SCD, value=-self.config.inner_lr)
        prototypes_SCD.div_(prototypes_SCD.norm(dim=2, keepdim=True))

    def _slices(self, anchors: Anchors) -> list[slice]:
        """Return slices of the anchors whose similarities, of both sides, may live at a time."""
        length = len(anchors.sample_ids_B)
        step = max(1, _MAX_SIMILARITIES // (2 * self.num_in_use))
        return [slice(first, min(first + step, length)) for first in range(0, length, step)]

    def _product(
        self,
        left: Float[Tensor, "2 X Y"],
        right: Float[Tensor, "2 Y Z"],
        *,
        add: Float[Tensor, "2 X Z"],
    ) -> Float[Tensor, "2 X Z"]:
        """Return add + left @ right in the precision of the recipe."""
        if self.config.fit_precision != "bf16":
            return torch.baddbmm(add, left, right)
        return add + (left.bfloat16() @ right.bfloat16()).to(add.dtype)


@contextmanager
def _tf32(*, is_allowed: bool) -> Generator[None]:
    """Let float32 products of CUDA round their inputs to TF32, or not, inside the block."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = is_allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
