"""The normalizer estimators by their recipe section."""

from neuclip.distributed.world import World
from neuclip.objectives.config import AgedQueueConfig, NetworkConfig, QueueConfig
from neuclip.objectives.estimators.aged_queue import AgedQueue
from neuclip.objectives.estimators.estimator import Estimator
from neuclip.objectives.estimators.network import NormalizerNetwork
from neuclip.objectives.estimators.offset import Offset
from neuclip.objectives.estimators.queue import Queue


def build_estimator(
    config: NetworkConfig | QueueConfig | AgedQueueConfig,
    feature_dim: int,
    *,
    eps: float,
    ratio_clamp: float | None,
    world: World,
) -> Estimator:
    """Make the estimator that the section names."""
    if isinstance(config, QueueConfig):
        return Queue(config.num_pairs, feature_dim, eps=eps, ratio_clamp=ratio_clamp)
    if isinstance(config, AgedQueueConfig):
        return AgedQueue(config, feature_dim, eps=eps, ratio_clamp=ratio_clamp, world=world)
    network = NormalizerNetwork(config, feature_dim, eps=eps, ratio_clamp=ratio_clamp, world=world)
    if config.offset_decay is None:
        return network
    return Offset(network, decay=config.offset_decay, eps=eps, ratio_clamp=ratio_clamp, world=world)
