"""A queue whose blocks, by age, carry a learned weight.

Legend: S side, B local anchors, C pairs held, K blocks, n_k pairs of block k, v_k its log-weight,
l batch log-normalizer, alpha prediction, tau temperature.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from neuclip.distributed.collectives import all_reduce_mean_
from neuclip.distributed.world import World
from neuclip.objectives.config import AgedQueueConfig
from neuclip.objectives.estimators.estimator import Anchors
from neuclip.objectives.estimators.queue import Queue
from neuclip.objectives.global_batch import GlobalBatch
from neuclip.objectives.margins import LOG_NOTHING, add_eps

_SQUARE_DECAY = 0.98
_SQUARE_EPS = 1e-8


class AgedQueue(Queue):
    """Follows the newest features while they change fast, and the whole data set later.

    Definition: blocks of first_block, twice that, four times that, ... pairs from the newest on;
    h_ik = log mean over block k of exp(margin), without the anchor's own pair;
    alpha_i = log(eps + sum_k n_k exp(v_k + h_ik) / sum_k n_k). The v_k, zero at the start, descend
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
        num_blocks = self._block_of(config.num_pairs - 1) + 1
        self.register_buffer("log_weights_SK", torch.zeros(2, num_blocks))
        self.register_buffer("squares_SK", torch.zeros(2, num_blocks))

    def forward(self, anchors: Anchors) -> Float[Tensor, "2 B"]:
        """Return alpha, nats; see `Estimator.forward`."""
        return add_eps(torch.logsumexp(self._weighted_blocks(anchors), dim=2), self.eps)

    @torch.no_grad()
    def absorb(
        self,
        batch: GlobalBatch,
        anchors: Anchors,
        log_batch_SB: Float[Tensor, "2 B"],
        alpha_SB: Float[Tensor, "2 B"],
    ) -> None:
        """Move the weights by the batch's residual, then take the batch in."""
        if self.is_ready:
            blocks_SBK = self._weighted_blocks(anchors)
            shares_SBK = (blocks_SBK - alpha_SB[..., None]).exp()
            residual_SB = 1 - self.ratios(log_batch_SB, alpha_SB)
            gradient_SK = (residual_SB[..., None] * shares_SBK).mean(dim=1)
            gradient_SK = all_reduce_mean_(gradient_SK, self.world).to(self.squares_SK.dtype)
            self.squares_SK.lerp_(gradient_SK.square(), 1 - _SQUARE_DECAY)
            step_SK = gradient_SK / (self.squares_SK.sqrt() + _SQUARE_EPS)
            self.log_weights_SK.sub_(step_SK, alpha=self.lr)
        super().absorb(batch, anchors, log_batch_SB, alpha_SB)

    def _block_of(self, age: int) -> int:
        """Return the block of the pair that `age` newer pairs came after."""
        return int(math.log2(age // self.first_block + 1))

    def _weighted_blocks(self, anchors: Anchors) -> Float[Tensor, "2 B K"]:
        """Return log(n_k exp(v_k + h_ik) / sum of n) of each anchor and block."""
        margins_SBC, is_own_BC = self.margins(anchors)
        margins_SBC = margins_SBC.masked_fill(is_own_BC, -torch.inf)
        num_held = margins_SBC.shape[2]
        blocks: list[Tensor] = []
        for block, places in enumerate(self._places(num_held)):
            # Two stretches of the ring at most, so that nothing is gathered or moved.
            sums_SB = torch.full_like(margins_SBC[..., 0], -torch.inf)
            num_others_B = torch.zeros_like(anchors.own_cosine_B)
            num_block = 0
            for first, last in places:
                stretch_SBC = margins_SBC[..., first:last]
                sums_SB = torch.logaddexp(sums_SB, torch.logsumexp(stretch_SBC, dim=2))
                num_others_B = num_others_B + (~is_own_BC[:, first:last]).sum(dim=1)
                num_block += last - first
            means_SB = sums_SB - num_others_B.clamp(min=1).log()
            weight_S1 = self.log_weights_SK[:, block, None] + math.log(num_block / num_held)
            blocks.append((means_SB + weight_S1).clamp(min=LOG_NOTHING))
        num_empty = self.log_weights_SK.shape[1] - len(blocks)
        return functional.pad(torch.stack(blocks, dim=2), (0, num_empty), value=LOG_NOTHING)

    def _places(self, num_held: int) -> list[list[tuple[int, int]]]:
        """Return, for each block, the stretches of the ring that it occupies."""
        newest_end = self.pairs.num_seen % self.pairs.capacity
        stretches: list[list[tuple[int, int]]] = []
        age, size = 0, self.first_block
        while age < num_held:
            last = newest_end - age
            first = newest_end - min(age + size, num_held)
            stretches.append(_wrapped(first, last, num_held))
            age, size = age + size, 2 * size
        return stretches


def _wrapped(first: int, last: int, length: int) -> list[tuple[int, int]]:
    """Return the places first .. last - 1 of a ring as stretches of 0 .. length - 1."""
    if first >= 0:
        return [(first, last)]
    if last <= 0:
        return [(first + length, last + length)]
    return [(first + length, length), (0, last)]
