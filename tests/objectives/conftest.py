import pytest
import torch
from oracles.rank_pool import shared_pool
from oracles.toy import Toy

from neuclip.objectives.config import NetworkConfig, NeuClipConfig, OpenClipConfig
from neuclip.objectives.registry import build

NETWORK_FIELDS = frozenset(NetworkConfig.model_fields) - {"name"}


@pytest.fixture(scope="session")
def ranks():
    return shared_pool()


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def make_openclip():
    def make(toy, **fields):
        section = OpenClipConfig(**fields)
        width = toy.image_encoder.shape[1]
        objective = build(section, feature_dim=width, num_samples=1000)
        return objective.to(toy.raw_images.dtype)

    return make


@pytest.fixture
def make_neuclip():
    """A NeuCLIP whose prototypes, if given, stay: no inner steps and no restart.

    Fields of the network may stand among those of the objective.
    """

    def make(toy, prototypes=None, prototype_ids=None, **fields):
        network = {name: fields.pop(name) for name in list(fields) if name in NETWORK_FIELDS}
        if prototypes is not None:
            network = {"inner_steps": 0, "num_prototypes": prototypes.shape[1], **network}
        section = NeuClipConfig(
            **{"eps": 1e-6, "rho": 3.0, "ratio_clamp": None, **fields},
            estimator=NetworkConfig(**network),
        )
        width = toy.image_encoder.shape[1]
        objective = build(section, feature_dim=width, num_samples=1000)
        objective = objective.to(toy.raw_images.dtype)
        if prototypes is not None:
            if prototype_ids is None:
                prototype_ids = -1 - torch.arange(prototypes.shape[1])
            objective.estimator.restart(prototypes, prototype_ids)
            objective.advance(1)
        return objective

    return make


@pytest.fixture
def some_prototypes():
    """Nine prototypes a side that resemble the toy's features; three come from its own pairs."""

    def draw(toy, count=9, seed=5):
        generator = torch.Generator().manual_seed(seed)
        images, texts = (features.detach() for features in toy.features())
        chosen = torch.randint(len(images), (count,), generator=generator)
        contrasts = torch.stack([texts[chosen], images[chosen]])
        noise = torch.randn(contrasts.shape, generator=generator, dtype=torch.float64)
        ids = -1 - torch.arange(count)
        ids[:3] = toy.ids[chosen[:3]]
        return (contrasts + noise.to(contrasts.dtype) / 3), ids

    return draw
