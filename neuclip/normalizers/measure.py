"""What normalizer estimators are worth at the weights of a checkpoint.

Legend: N pairs of the training set, A anchors, G global batch, m pairs or prototypes of an estimator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuclip.checkpoint.folder import STATE, read_record
from neuclip.checkpoint.state import load_state
from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import Progress
from neuclip.foundation.randomness import permutation
from neuclip.index.reader import read_samples
from neuclip.normalizers.report import EstimatorRow, NormalizerReport
from neuclip.objectives.config import LearnedTemperature
from neuclip.objectives.exact import (
    EstimateError,
    Features,
    error_of,
    exact_log_normalizers,
    implied_by_infonce,
)
from neuclip.objectives.objective import Objective
from neuclip.objectives.observers import Observers
from neuclip.objectives.registry import build
from neuclip.objectives.temperature import Temperature
from neuclip.stages.committed import committed_folder
from neuclip.stages.manifest import read_manifest
from neuclip.storage.uris import join, name_of, parent_of
from neuclip.towers.config import with_places
from neuclip.towers.folder import load_towers
from neuclip.training.config import TrainConfig
from neuclip.training.parts import training_samples
from neuclip.training.probe import EPS, encode_samples
from neuclip.training.trainer import Encoders

_ANCHOR_SALT = 0xA2C402


@dataclass(frozen=True)
class Trained:
    """A checkpoint with its data: the features of its training set, and its objective as saved."""

    uri: str
    step: int
    config: TrainConfig
    objective: Objective
    features: Features


def compared_estimators(global_batch: int, num_samples: int) -> dict[str, dict[str, Any]]:
    """Return the estimators that are replayed, sized for a batch and a data set."""
    large = max(2, min(4096, num_samples // 4))
    network = {"name": "network", "num_prototypes": max(2, min(1024, large)), "inner_lr": 0.01}
    paper = {"name": "network", "num_prototypes": max(2, min(global_batch, large))}
    whole = max(2, num_samples - global_batch)
    estimators: dict[str, dict[str, Any]] = {
        f"network, m {network['num_prototypes']}": network,
        f"network, m {network['num_prototypes']}, offset": network | {"offset_decay": 0.97},
        f"network, m {paper['num_prototypes']}": paper,
        f"queue, m {large}": {"name": "queue", "num_pairs": large},
        f"aged queue, m {whole}": {"name": "aged_queue", "num_pairs": whole},
    }
    sections = {
        name: {"name": "neuclip", "eps": EPS, "estimator": estimator}
        for name, estimator in estimators.items()
    }
    averages = {"name": "fastclip", "version": "v1", "gamma_decay_epochs": 1, "eps": EPS}
    for gamma in (0.6, 0.2):
        sections[f"FastCLIP, gamma {gamma}"] = averages | {"gamma_min": gamma}
    return sections


def measure(
    checkpoint_uri: str,
    *,
    num_anchors: int,
    max_samples: int | None,
    batches: Sequence[int] | None,
    shares: Sequence[float],
    epochs: float,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> NormalizerReport:
    """Hold estimators at the weights of a checkpoint against exact log-normalizers.

    Features are those of the checkpoint's encoders and stay as they are; each estimator sees `epochs` passes
    over them in batches and then predicts the anchors. The first row is the objective's own state as it was
    saved, which came from features that changed.

    Args:
        checkpoint_uri: folder `step-...` of a train stage that was run to its end.
        max_samples: how many training samples stand for the data set; none = all.
        batches: global batches; none = half, once and twice the recipe's.
        shares: parts of the data set, in (0, 1], each measured as if it were all.
        epochs: passes over it before an estimator is asked.
    """
    trained = open_checkpoint(
        checkpoint_uri, max_samples=max_samples, device=device, progress=progress
    )
    temperature = trained.objective.temperature.detach()
    whole, own_batch = trained.features, trained.config.global_batch
    order = permutation(len(whole.sample_ids), seed=seed ^ _ANCHOR_SALT)
    rows: list[EstimatorRow] = []
    exact_SA = torch.empty(0)
    sizes = sorted({max(4, round(share * len(whole.sample_ids))) for share in shares}, reverse=True)
    for number, size in enumerate(sizes):
        part = whole.at(torch.as_tensor(order[:size].copy(), device=device))
        # The same anchors in all parts, and as ids the places that estimators count samples by.
        part = Features(part.images, part.texts, torch.arange(size, device=device))
        anchors = part.at(torch.arange(min(num_anchors, size), device=device))
        exact_part_SA = exact_log_normalizers(anchors, part, temperature, eps=EPS)
        if number == 0:
            exact_SA = exact_part_SA
            rows += _own_row(trained, order[: len(anchors.sample_ids)].tolist(), exact_SA, size)
        for batch in _fitting(batches or (own_batch // 2, own_batch, 2 * own_batch), size):
            progress(
                "normalizers", done=number, total=len(sizes), note=f"batch {batch}, {size} samples"
            )
            rows += _replay(part, anchors, exact_part_SA, temperature, batch, epochs, seed)
    progress("normalizers", done=len(sizes), total=len(sizes))
    return NormalizerReport(
        checkpoint=checkpoint_uri,
        step=trained.step,
        temperature=temperature.item(),
        num_anchors=exact_SA.shape[1],
        replayed_epochs=epochs,
        exact_mean=exact_SA.mean().item(),
        exact_std=exact_SA.std().item(),
        rows=rows,
    )


def open_checkpoint(
    uri: str, *, max_samples: int | None, device: torch.device, progress: Progress
) -> Trained:
    """Load a checkpoint's encoders and objective, and encode its training set.

    Raises: StorageError: if its train stage has no manifest, so that its data is not known.
    """
    train_uri = parent_of(parent_of(uri))
    manifest = read_manifest(train_uri)
    root = parent_of(parent_of(train_uri))
    section = dict(manifest.section)
    seed = section.pop("seed")
    section.pop("initial", None)  # the weights are those of the checkpoint
    folder = committed_folder(train_uri, f"checkpoints/{name_of(uri)}")
    section["model"] = with_places(section["model"], str(folder))
    config = TrainConfig.model_validate(section)
    index_uri = join(root, "index", manifest.inputs["index"])
    table = read_samples(index_uri)
    record = read_record(folder)
    towers = load_towers(folder, device)
    objective = build(
        config.objective,
        feature_dim=towers.embed_dim,
        num_samples=table.count,
        seed=seed,
        world=World.single(device),
    )
    objective.load_whole_state(load_state(folder / STATE)["objective"])
    if objective.learned_temperature is None:
        raise ConfigError(
            f"{name_of(train_uri)} was trained with {config.objective.name}, which has a temperature for every "
            "sample; estimators are compared at one temperature"
        )
    shard_uri = join(root, "shard", manifest.inputs["shard"])
    samples = training_samples(
        config, table, towers, shard_uri=shard_uri, index_uri=index_uri, seed=seed
    )
    ids = permutation(table.count, seed=seed)[:max_samples].tolist()
    progress("normalizers", done=0, total=1, note=f"encoding {len(ids)} training samples")
    features = encode_samples(Encoders(towers), samples, ids, device)
    return Trained(uri, record.step, config, objective.eval(), features)


def _own_row(
    trained: Trained, places: list[int], exact_SA: torch.Tensor, size: int
) -> list[EstimatorRow]:
    anchors = trained.features.at(torch.as_tensor(places, device=exact_SA.device))
    own = trained.objective.predict(anchors.images, anchors.texts, anchors.sample_ids)
    if own is None:
        return []
    error = error_of(torch.stack(own).float(), exact_SA)
    name = f"{trained.config.objective.name}, as trained"
    return [_row(name, error, trained.config.global_batch, size)]


def _fitting(batches: Sequence[int], size: int) -> list[int]:
    return sorted({batch for batch in batches if 2 <= batch <= size // 2})


def _replay(
    part: Features,
    anchors: Features,
    exact_SA: torch.Tensor,
    temperature: torch.Tensor,
    batch: int,
    epochs: float,
    seed: int,
) -> list[EstimatorRow]:
    """Show the estimators the fixed features in batches, then compare what they say of the anchors."""
    size, device = len(part.sample_ids), exact_SA.device
    tau = temperature.item()
    constant = LearnedTemperature(
        temperature_init=tau, temperature_min=tau, temperature_max=tau, learn_temperature=False
    )
    observers = Observers(
        compared_estimators(batch, size),
        Temperature(constant).to(device),
        feature_dim=part.images.shape[1],
        num_samples=size,
        seed=seed,
        world=World.single(device),
    )
    steps = max(1, math.ceil(epochs * size / batch))
    stream = [
        permutation(size, seed=seed, epoch=epoch)
        for epoch in range(math.ceil((steps + 1) * batch / size) + 1)
    ]
    places = torch.as_tensor([place for epoch in stream for place in epoch.tolist()], device=device)
    for step in range(steps):
        seen = part.at(places[step * batch : (step + 1) * batch])
        observers.observe(seen.images, seen.texts, seen.sample_ids)
    # As if the anchors came in a batch of others: the next batch that no estimator has seen.
    others = part.at(places[steps * batch : (steps + 1) * batch])
    batch_SA = exact_log_normalizers(anchors, others, temperature, eps=EPS)
    rows = [
        _row("mini-batch", error_of(batch_SA, exact_SA), batch, size),
        _row(
            "InfoNCE, implied",
            error_of(implied_by_infonce(batch_SA, batch - 1), exact_SA),
            batch,
            size,
        ),
    ]
    found = observers.predict(anchors.images, anchors.texts, anchors.sample_ids)
    for name, sides in found.items():
        rows.append(_row(name, error_of(torch.stack(sides).float(), exact_SA), batch, size))
    return rows


def _row(name: str, error: EstimateError, batch: int, size: int) -> EstimatorRow:
    return EstimatorRow(
        estimator=name,
        global_batch=batch,
        num_samples=size,
        mse=error.mse,
        bias=error.bias,
        correlation=error.correlation,
        known=error.known,
    )
