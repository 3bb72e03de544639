"""A queue whose blocks, by age, carry a learned weight.

Legend: S side, B local anchors, C pairs held, K blocks, v_k log-weight of block k,
l batch log-normalizer, alpha prediction, tau temperature.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from neuclip.distributed.collectives import all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.objectives.blocks import are_many, count_others, log_sums
from neuclip.objectives.config import AgedQueueConfig
from neuclip.objectives.estimators.estimator import Anchors
from neuclip.objectives.estimators.queue import Queue
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.margins import LOG_NOTHING, add_eps, scaled_margins

_SQUARE_DECAY = 0.98
_SQUARE_EPS = 1e-8


class AgedQueue(Queue):
    """Follows the newest features while they change fast, and the whole data set later.

    Definition: blocks of first_block, twice that, four times that, ... pairs from the newest on;
    alpha_i = log(eps + sum over j of exp(v of j's block + margin_ij) / number of all j), j the pairs
    held that are not the anchor's own. The v_k, zero at the start, descend
    mean_i [exp(l_i - alpha_i) + alpha_i - 1]; each step is the gradient over the root of its
    running square. A prediction is used before its batch moves the weights.

    Source: loops in tests/oracles/estimators.py.
    """

    log_weights_SK: Tensor
    squares_SK: Tensor

    def __init__(
        self,
        config: AgedQueueConfig,
        feature_dim: int,
        *,
        eps: float,
        ratio_clamp: float | None,
        world: World,
    ) -> None:
        super().__init__(config.num_pairs, feature_dim, eps=eps, ratio_clamp=ratio_clamp)
        self.lr = config.inner_lr
        self.first_block = config.first_block
        self.world = world
        self._last: tuple[Anchors, Tensor] | None = None
        num_blocks = self._block_of(config.num_pairs - 1) + 1
        self.register_buffer("log_weights_SK", torch.zeros(2, num_blocks))
        self.register_buffer("squares_SK", torch.zeros(2, num_blocks))

    def forward(self, anchors: Anchors) -> Float[Tensor, "2 B"]:
        """Return alpha, nats; see `Estimator.forward`."""
        blocks_SBK = self._weighted_blocks(anchors)
        self._last = anchors, blocks_SBK.detach()
        return add_eps(torch.logsumexp(blocks_SBK, dim=2), self.eps)

    @torch.no_grad()
    def update(
        self,
        batch: GlobalBatch,
        anchors: Anchors,
        log_batch_SB: Float[Tensor, "2 B"],
        alpha_SB: Float[Tensor, "2 B"],
    ) -> None:
        """Move the weights by the batch's residual, then take the batch in."""
        if self.is_ready:
            last_anchors, blocks_SBK = self._last or (None, torch.empty(0))
            if last_anchors is not anchors:  # else the look-up was done for the prediction
                blocks_SBK = self._weighted_blocks(anchors)
            self._last = None
            shares_SBK = blocks_SBK.softmax(dim=2)
            residual_SB = 1 - self.ratios(log_batch_SB, alpha_SB)
            gradient_SK = (residual_SB[..., None] * shares_SBK).mean(dim=1)
            gradient_SK = all_reduce_mean_(gradient_SK, self.world).to(self.squares_SK.dtype)
            self.squares_SK.lerp_(gradient_SK.square(), 1 - _SQUARE_DECAY)
            step_SK = gradient_SK / (self.squares_SK.sqrt() + _SQUARE_EPS)
            self.log_weights_SK.sub_(step_SK, alpha=self.lr)
        super().update(batch, anchors, log_batch_SB, alpha_SB)

    def _block_of(self, age: int) -> int:
        """Return the block of the pair that `age` newer pairs came after."""
        return int(math.log2(age // self.first_block + 1))

    def _weighted_blocks(self, anchors: Anchors) -> Float[Tensor, "2 B K"]:
        """Return log(exp(v_k) sum over block k / number of all) of each anchor's other pairs."""
        contrasts_SCD, ids_C = self.pairs.held()
        if anchors.features_SBD.requires_grad:
            contrasts_SCD = contrasts_SCD.clone()  # the ring is written to before backward
        contrasts_SCD = contrasts_SCD.to(anchors.features_SBD.dtype)
        sums_over = _sums_over(anchors, contrasts_SCD, ids_C)
        counts_B = count_others(anchors.sample_ids_B, ids_C)
        log_counts_B = counts_B.clamp(min=1).to(contrasts_SCD.dtype).log()
        found: list[Tensor] = []
        for block, stretches in enumerate(self._places(len(ids_C))):
            # Two stretches of the ring at most, so that nothing is gathered or moved.
            sums = [sums_over(place) for place in stretches]
            sums_SB = sums[0] if len(sums) == 1 else torch.logaddexp(*sums)
            weighted_SB = sums_SB + self.log_weights_SK[:, block, None] - log_counts_B
            found.append(weighted_SB.clamp(min=LOG_NOTHING))
        num_empty = self.log_weights_SK.shape[1] - len(found)
        return functional.pad(torch.stack(found, dim=2), (0, num_empty), value=LOG_NOTHING)

    def _places(self, num_held: int) -> list[list[slice]]:
        """Return, for each block, the stretches of the ring that it occupies."""
        newest_end = self.pairs.num_seen % self.pairs.capacity
        places: list[list[slice]] = []
        age, size = 0, self.first_block
        while age < num_held:
            last = newest_end - age
            first = newest_end - min(age + size, num_held)
            places.append(_wrapped(first, last, num_held))
            age, size = age + size, 2 * size
        return places


def _sums_over(
    anchors: Anchors, contrasts_SCD: Float[Tensor, "2 C D"], ids_C: Int[Tensor, " C"]
) -> Callable[[slice], Float[Tensor, "2 B"]]:
    """Return what gives the log of the sum of exp(margin) over a stretch of contrasts, own pairs left out."""
    own_B, tau = anchors.own_cosine_B, anchors.temperature
    if are_many(2 * len(own_B), len(ids_C)):
        return lambda place: (
            log_sums(anchors.table(contrasts_SCD[:, place], ids_C[place])) - own_B / tau
        )
    margins_SBC = scaled_margins(anchors.features_SBD, contrasts_SCD, own_B, tau)
    is_own_BC = anchors.sample_ids_B[:, None] == ids_C
    margins_SBC = margins_SBC.masked_fill(is_own_BC, -torch.inf)
    return lambda place: torch.logsumexp(margins_SBC[..., place], dim=2)


def _wrapped(first: int, last: int, length: int) -> list[slice]:
    """Return the places first .. last - 1 of a ring as stretches of 0 .. length - 1."""
    if first >= 0:
        return [slice(first, last)]
    if last <= 0:
        return [slice(first + length, last + length)]
    return [slice(first + length, length), slice(last)]
