"""Encode the training samples that objectives ask for between two steps."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neuclip.distributed.collectives import all_gather, gather_objects
from neuclip.index.sample_index import SampleIndex
from neuclip.loading.batches import load_lists
from neuclip.loading.samples import ShardSamples
from neuclip.objectives.config import NetworkConfig, NeuClipConfig, ObjectiveConfig
from neuclip.objectives.objective import Wanted
from neuclip.training.config import TrainConfig
from neuclip.training.trainer import Trainer


class RequestedSamples:
    """Draws samples from the index and gives objectives their features by the present weights.

    They are seen as the present epoch shows them. Ranks share them out in batches of their local
    batch (or micro-batch), and gather the features.

    Args:
        index_uri: committed folder of the index stage; opened by the main rank, when first needed.
    """

    def __init__(self, trainer: Trainer, samples: ShardSamples, index_uri: str) -> None:
        self._trainer, self._samples, self._index_uri = trainer, samples, index_uri

    @cached_property
    def _index(self) -> SampleIndex:
        return SampleIndex(self._index_uri)

    def serve(self) -> None:
        """Give the objective and its observers what they want before the next step; every rank calls it."""
        trainer = self._trainer
        observers = trainer.observers.objectives.values() if trainer.observers else ()
        for objective in (trainer.objective, *observers):
            wanted = objective.wanted()
            if wanted is not None:
                objective.take(*self._encode(self._draw(wanted)))

    def _draw(self, wanted: Wanted) -> npt.NDArray[np.int64]:
        """Return the ids in ascending order, so that a shard is read by few and once.

        The main rank draws for all: distances may be rounded differently on other machines.
        """
        world = self._trainer.world
        drawn = self._index.prototypes(*wanted) if world.is_main else np.empty(0, dtype=np.int64)
        return np.sort(gather_objects(drawn, world)[0])

    def _encode(self, ids: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Return image features, text features and ids, the same on every rank."""
        trainer, config = self._trainer, self._trainer.config
        world = trainer.world
        at_once = config.micro_batch or config.global_batch // world.size
        share = -(-len(ids) // world.size)
        # Ranks gather equal shares, so the last one begins anew where the samples end.
        own = np.resize(ids, share * world.size)[world.rank * share :][:share]
        epoch = trainer.samples_seen // trainer.objective.num_samples
        lists = [
            [(epoch, sample_id) for sample_id in part.tolist()]
            for part in np.array_split(own, -(-share // at_once))
        ]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for loaded in load_lists(
            self._samples,
            lists,
            workers=config.loader.workers,
            pin_memory=world.device.type == "cuda",
            timeout_s=config.loader.timeout_s,
        ):
            batch = loaded.to(world.device)
            found.append((*trainer.features_of(batch), batch.sample_ids))
        images, texts, sample_ids = (
            all_gather(torch.cat(parts), world)[: len(ids)] for parts in zip(*found, strict=True)
        )
        return images, texts, sample_ids


def require_prototypes(config: TrainConfig, index_uri: str) -> str:
    """Check that the index has what objective and observers will ask it for; return what they will.

    Raises: ConfigError, DataError: as `SampleIndex.prototypes`.
    """
    observers = {} if config.probe is None else config.probe.observers
    asked: list[str] = []
    for section in (config.objective, *observers.values()):
        network = _network_from_index(section)
        if network is not None:
            SampleIndex(index_uri).require(network.num_prototypes, network.index_strategy)
            asked.append(
                f"{network.num_prototypes} {network.index_strategy} every {network.restart_every} steps"
            )
    return ", ".join(asked) or "none from the index"


def _network_from_index(section: ObjectiveConfig) -> NetworkConfig | None:
    if isinstance(section, NeuClipConfig) and isinstance(section.estimator, NetworkConfig):
        return section.estimator if section.estimator.source == "index" else None
    return None
