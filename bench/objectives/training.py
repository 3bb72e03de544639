"""One training run: a pure function of its settings."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from bench.objectives import data
from bench.objectives.data import DataSet
from bench.objectives.observers import Observers
from bench.objectives.records import Record, Settings
from bench.objectives.towers import SMALL, Encoders, make_encoders
from neuclip.foundation.randomness import permutation
from neuclip.index.draws import draw_uniform
from neuclip.loading.policies import OwnCaptions, draw
from neuclip.loading.visits import Visit
from neuclip.objectives.exact import Features, error_of, exact_log_normalizers
from neuclip.objectives.objective import Objective
from neuclip.objectives.registry import build
from neuclip.towers.recall import groups_of, recall_both_ways
from neuclip.training.clip_config import GradClip
from neuclip.training.clipping import GradientClip
from neuclip.training.schedule import learning_rate

_BETAS, _WEIGHT_DECAY, _WARMUP_SHARE, _CLIP = (0.9, 0.98), 0.1, 0.05, 1.0
_CURVE_POINTS = 40
_ANCHORS = 512
_TOLD = {"ratio_mean", "ratio_max", "ratio_clamped_share", "gamma", "rho"}
_ENCODE_BATCH = 256


@dataclass
class Run:
    """All that a run holds while it goes on."""

    settings: Settings
    data: DataSet
    encoders: Encoders
    objective: Objective
    device: torch.device
    images: Tensor
    """Of the data set, on the device."""
    tokens: Tensor
    captions: OwnCaptions | None = None
    """Draws a text of each sample at each visit; None shows all their captions."""
    metrics: dict[str, list[float | Tensor]] = field(
        default_factory=dict[str, list[float | Tensor]]
    )
    """What the objective told of each step."""
    curve: list[list[float]] = field(default_factory=list)
    clipped: list[Tensor] = field(default_factory=list[Tensor])
    """Whether the gradient's limit acted in each step."""

    @property
    def batch(self) -> int:
        return self.settings["batch"]

    @property
    def total_steps(self) -> int:
        return self.settings["samples"] // self.batch

    def tokens_of(self, ids: Tensor, step: int) -> Tensor:
        """Return the tokens of what samples show in a step."""
        if self.captions is None:
            return self.tokens[ids]
        epoch = step // (len(self.data) // self.batch)
        return self.encoders.tokenize([self._text(sample, epoch) for sample in ids.tolist()])

    def _text(self, sample: int, epoch: int) -> str:
        groups = self.captions.groups(partial(self.data.texts_of, sample), epoch)
        visit = Visit(self.settings["seed"], epoch, sample)
        return draw(groups, partial(visit.draws, "caption")).text

    def encode(self, images: Tensor, captions: list[str] | Tensor) -> tuple[Tensor, Tensor]:
        """Return features by the present weights, without gradient."""
        tokens = captions if isinstance(captions, Tensor) else self.encoders.tokenize(captions)
        return self._in_parts(self.encoders.encode_images, images), self._in_parts(
            self.encoders.encode_texts, tokens
        )

    @torch.no_grad()
    def _in_parts(self, encode: Any, rows: Tensor) -> Tensor:
        self.encoders.eval()
        parts = [encode(part.to(self.device)) for part in rows.split(_ENCODE_BATCH)]
        self.encoders.train()
        return torch.cat(parts)


def train(settings: Settings, *, pairs_folder: Path | None = None) -> Record:
    """Train once and return retrieval and classification on what was held out, and the course.

    Args:
        settings: `data`, `count`, `image_px`, `architecture`, `objective`, `lr`, `seed`, `batch`,
            `samples`; for estimators that watch, `observers`, `checkpoints`, `anchors`, `eps`; and, to train on further
        texts, `captions`: a policy of the package. `clip`, a section of the package or null, limits the gradient of
        the loss in nats; without it the loss is as the objective gives it and its gradient limited to a norm of 1.
    """
    device = torch.device(settings.get("device", "cpu"))
    found = data.load(
        settings["data"],
        count=settings["count"],
        image_px=settings["image_px"],
        folder=pairs_folder,
    )
    seed = settings["seed"]
    policy = settings.get("captions")
    known = [*found.captions, *chain.from_iterable(found.more_captions if policy else [])]
    encoders = make_encoders(settings.get("architecture", SMALL), known, seed=seed, device=device)
    objective = build(
        settings["objective"], feature_dim=encoders.feature_dim, num_samples=len(found), seed=seed
    ).to(device)
    tokens = encoders.tokenize(found.captions)
    shown = None if policy is None else TypeAdapter(OwnCaptions).validate_python(policy)
    images = found.images.to(device)
    run = Run(settings, found, encoders, objective, device, images, tokens, shown)
    observers = Observers(settings, objective, encoders.feature_dim, len(found), device)
    seconds = _steps(run, observers)
    told = describe(run) if "clip" in settings else {}
    return {
        **told,
        **evaluate(run),
        "samples_per_s": run.total_steps * run.batch / seconds,
        "clipped_share": torch.stack(run.clipped).double().mean().item(),
        "curve": run.curve,
        "estimation": observers.found,
    }


def batches(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield sample ids without end; a function of seed and epoch, the same for every objective.

    Pairs that do not fill a batch at the end of an epoch are left out of that epoch.
    """
    epoch = 0
    while True:
        order = torch.from_numpy(permutation(count, seed=seed, epoch=epoch))
        yield from order[: count - count % batch].split(batch)
        epoch += 1


def make_optimiser(encoders: nn.Module, objective: Objective, lr: float) -> torch.optim.AdamW:
    """Return AdamW; matrices decay, all else does not."""
    weights = list(encoders.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": _WEIGHT_DECAY},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups += [
        {"params": group.parameters, "weight_decay": 0.0, "own_lr": group.lr}
        for group in objective.trainable()
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=_BETAS, fused=True)


def evaluate(run: Run) -> dict[str, float]:
    """Return R@1 both ways and their mean, and the accuracy of classification, in percent."""
    held_out = run.data
    images, texts = run.encode(held_out.held_out_images, held_out.held_out_captions)
    groups = groups_of(held_out.held_out_captions).to(run.device)
    recalls = recall_both_ways(images, texts, image_groups=groups, text_groups=groups, ks=(1,))
    prompts = [prompt for prompts in held_out.class_prompts for prompt in prompts]
    singles, prompt_features = run.encode(held_out.class_images, prompts)
    classes = prompt_features.unflatten(0, (len(held_out.class_prompts), -1)).mean(dim=1)
    chosen = (singles @ nn.functional.normalize(classes, dim=1).T).argmax(dim=1).cpu()
    return {
        "recall": 100 * recalls["mean_recall_at_1"],
        "image_to_text": 100 * recalls["image_to_text_recall_at_1"],
        "text_to_image": 100 * recalls["text_to_image_recall_at_1"],
        "zero_shot": 100 * float((chosen == held_out.class_targets).double().mean()),
    }


def describe(run: Run) -> dict[str, float]:
    """Return how the normalizers are at the end, and what their ratios were over the last half of the run.

    Of anchors of the training set against all of it, by the last weights: the mean square error of what the objective
    says (nan if it says nothing), and the mean KL from uniform of the contrast weights, which rho is compared with.
    """
    images, texts = run.encode(run.data.images, run.tokens)
    whole = Features(images, texts, torch.arange(len(run.data), device=run.device))
    draw = torch.Generator().manual_seed(0)
    places = torch.randperm(len(run.data), generator=draw)[:_ANCHORS].to(run.device)
    anchors, tau = whole.at(places), run.objective.temperature.detach()
    exact = exact_log_normalizers(anchors, whole, tau, eps=1e-14)
    predicted = run.objective.predict(anchors.images, anchors.texts, anchors.sample_ids)
    error = torch.nan if predicted is None else error_of(torch.stack(predicted), exact).mse
    late = {
        name: torch.tensor([float(value) for value in values[len(values) // 2 :]])
        for name, values in run.metrics.items()
    }
    return {
        "normalizer_mse": error,
        "mean_kl": mean_divergence(anchors, whole, tau),
        **{f"late_{name}": float(values.mean()) for name, values in late.items()},
    }


def mean_divergence(anchors: Features, whole: Features, temperature: Tensor) -> float:
    """Return the mean over both sides of KL(softmax over the other pairs, uniform), nats."""
    is_own = anchors.sample_ids[:, None] == whole.sample_ids
    found: list[Tensor] = []
    for side, others in ((anchors.images, whole.texts), (anchors.texts, whole.images)):
        logits = (side @ others.T / temperature).masked_fill(is_own, -torch.inf)
        shares = logits.softmax(dim=1)
        entropy = torch.special.entr(shares).sum(dim=1)
        found.append((~is_own).sum(dim=1).log() - entropy)
    return torch.stack(found).mean().item()


def _steps(run: Run, observers: Observers) -> float:
    """Take all steps; return the process's CPU time without that of observers."""
    optimiser = make_optimiser(run.encoders, run.objective, run.settings["lr"])
    order = batches(len(run.data), run.batch, run.settings["seed"])
    in_nats = "clip" in run.settings
    section = run.settings["clip"] if in_nats else {"kind": "norm", "norm": _CLIP}
    clip = GradientClip(TypeAdapter(GradClip | None).validate_python(section), run.device)
    seconds = 0.0
    for step in range(run.total_steps):
        start = time.process_time()
        ids = next(order)
        tokens = run.tokens_of(ids, step)
        ids = ids.to(run.device)
        features = run.encoders(run.images[ids], tokens.to(run.device))
        paused = _serve(run, observers)
        observers.watch(*features, ids, step + 1)
        paused += observers.seconds
        _set_rates(optimiser, run, step)
        result = run.objective(*features, ids)
        loss = result.loss / result.scale if in_nats else result.loss
        loss.backward()
        weights = list(run.encoders.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        is_clipped = clip.apply(weights, norm, is_bad=torch.zeros_like(norm))
        optimiser.step()
        optimiser.zero_grad()
        run.objective.advance(step + 1)
        _note(run, step, loss, is_clipped, result.metrics)
        seconds += time.process_time() - start - paused
        if observers.is_due(step + 1, run.total_steps):
            images, texts = run.encode(run.data.images, run.tokens)
            observers.measure(images, texts, step=step + 1)
    return seconds


def _serve(run: Run, observers: Observers) -> float:
    """Give the objective, then observers, the pairs they ask for; return the observers' CPU time."""
    _give(run, run.objective)
    start = time.process_time()
    for observer in observers.objectives:
        _give(run, observer)
    return time.process_time() - start


def _give(run: Run, objective: Objective) -> None:
    """Draw and encode what an objective wants of the data set, which has no clusters and no index."""
    wanted = objective.wanted()
    if wanted is None:
        return
    if wanted.strategy != "uniform":
        raise ValueError(f"index_strategy {wanted.strategy}; here is no index but for uniform")
    everything = np.arange(len(run.data), dtype=np.int64)
    ids = torch.from_numpy(draw_uniform(everything, wanted.num_pairs, seed=wanted.seed))
    images, texts = run.encode(run.data.images[ids], run.tokens[ids])
    objective.take(images, texts, ids.to(run.device))


def _note(
    run: Run, step: int, loss: Tensor, is_clipped: Tensor, metrics: dict[str, float | Tensor]
) -> None:
    """Keep a point of the course: step, loss, temperature."""
    run.clipped.append(is_clipped)
    for name in _TOLD & metrics.keys():
        run.metrics.setdefault(name, []).append(metrics[name])
    every = max(1, run.total_steps // _CURVE_POINTS)
    if (step + 1) % every == 0:
        values = (loss.item(), run.objective.temperature.item())
        run.curve.append([step + 1, *(float(f"{value:.5g}") for value in values)])


def _set_rates(optimiser: torch.optim.Optimizer, run: Run, step: int) -> None:
    warmup = max(1, round(_WARMUP_SHARE * run.total_steps))
    peak = run.settings["lr"]
    scheduled = learning_rate(
        step, peak=peak, least=0.0, warmup_steps=warmup, total_steps=run.total_steps
    )
    factors = [1.0, 1.0, *(group.lr_factor for group in run.objective.trainable())]
    for group, factor in zip(optimiser.param_groups, factors, strict=True):
        own_lr = group.get("own_lr")
        group["lr"] = factor * (scheduled if own_lr is None else own_lr)
