"""What must fit together in the `train` section of a recipe."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from neuclip.foundation.errors import ConfigError
from neuclip.loading.policies import Other, Same
from neuclip.loading.visits import MAIN
from neuclip.objectives.terms.config import (
    SELF_SUPERVISION,
    ImageSelfConfig,
    MaskedTextConfig,
    TermConfig,
)
from neuclip.towers.cached_features import CachedFeatures
from neuclip.training.tokens import check_tokens

if TYPE_CHECKING:
    from neuclip.training.config import TrainConfig


def check_train(config: "TrainConfig") -> None:
    """Check a section whose fields are sound each by itself.

    Raises: ValueError: saying what does not fit, and what to do.
    """
    for check in (
        _has_weights,
        _phases_fit,
        _views_fit,
        _features_fit,
        _weights_fit,
        _terms_train_something,
    ):
        check(config)


def share_of(terms: Mapping[str, TermConfig]) -> float:
    """Return the weight of all terms as in DeCLIP's paper, where self-supervision of both sides shares one."""
    within = [term.weight for term in terms.values() if isinstance(term, SELF_SUPERVISION)]
    others = [term.weight for term in terms.values() if not isinstance(term, SELF_SUPERVISION)]
    return sum(others) + max(within, default=0.0)


def _has_weights(config: "TrainConfig") -> None:
    """Refuse a run of no steps that has nothing to publish."""
    if config.epochs == 0 and config.initial is None:
        raise ValueError(
            "epochs 0 publishes the weights that a run starts from; name them in train.initial, or train longer"
        )


def _phases_fit(config: "TrainConfig") -> None:
    """Refuse phases of another length than the run, and numbers of one that do not fit each other."""
    total = sum(phase.epochs for phase in config.phases)
    if config.phases and not math.isclose(config.epochs, total):
        raise ValueError(
            f"epochs is {config.epochs:g}, and the phases are {total:g} epochs together; leave epochs out"
        )
    for number, flat in enumerate(config.by_phase()):
        try:
            _check_numbers(flat)
            check_tokens(flat, is_first=number == 0)
        except (ValueError, ConfigError) as error:
            where = f"phases[{number}]: " if config.phases else ""
            raise ValueError(f"{where}{error}") from error


def _views_fit(config: "TrainConfig") -> None:
    """Refuse views that no loss could read, or that lean on none."""
    for side in ("image_views", "text_views"):
        if MAIN in getattr(config, side):
            raise ValueError(f"{side} are those beside `{MAIN}`, which the flat fields describe")
    for name, term in config.terms.items():
        term.reads(config.known_views, name)
    masked = [
        term.masked_view(name)
        for name, term in config.active_terms.items()
        if isinstance(term, MaskedTextConfig)
    ]
    if len(set(masked)) < len(masked):
        raise ValueError(f"two terms mask view {masked[0]} of texts; give one of them another")
    if config.global_views == "all" and len(config.objective_pairs) == 1:
        raise ValueError(
            "global_views: all needs a second view; give image_views or text_views, or leave it out"
        )
    for name in config.text_views:
        _check_leaning(config, name)


def _features_fit(config: "TrainConfig") -> None:
    """Refuse what needs the tokens of texts where the text tower reads features."""
    text = config.model.text
    if not isinstance(text, CachedFeatures):
        return
    masking = [n for n, term in config.active_terms.items() if isinstance(term, MaskedTextConfig)]
    if masking:
        raise ValueError(
            f"terms.{masking[0]} masks tokens of texts, and model.text.kind {text.kind} reads features of whole "
            "texts; leave it out"
        )
    edited = [
        v for v in (MAIN, *config.text_views) for f in config.by_phase() if f.captions_in(v).edit
    ]
    if edited and not text.online:
        raise ValueError(
            f"the texts of view {edited[0]} are edited at each visit, and features were made of texts as they are; "
            "leave the edit out, or set model.text.online: true for a small set"
        )


def _weights_fit(config: "TrainConfig") -> None:
    """Refuse weights of terms that leave nothing to the objective."""
    if config.weighting == "code":
        return
    if config.objective_weight != 1:
        raise ValueError(
            f"objective_weight {config.objective_weight:g} stands beside weighting: paper, which gives the objective "
            "what the terms leave of 1; leave one of the two out"
        )
    if (share := share_of(config.terms)) >= 1:
        raise ValueError(
            f"the weights of terms are {share:g} together and leave nothing of 1 to the objective, as weighting: "
            "paper would have it; lower them, or set weighting: code"
        )


def _terms_train_something(config: "TrainConfig") -> None:
    """Refuse a term that trains a tower which is held."""
    if config.freeze is None:
        return
    for name, term in config.active_terms.items():
        for kind, tower in ((ImageSelfConfig, "image"), (MaskedTextConfig, "text")):
            if isinstance(term, kind) and getattr(config.freeze, tower) == "all":
                raise ValueError(
                    f"terms.{name} trains the {tower} tower, which freeze.{tower}: all holds; leave one of them out"
                )


def _check_leaning(config: "TrainConfig", name: str) -> None:
    """Refuse a view of texts that leans on one that is not there, or at last on itself."""
    known = config.known_views.texts
    seen, policy = [name], config.captions_in(name)
    while isinstance(policy, Same | Other):
        where = f"text_views.{seen[-1]}.captions.view"
        if policy.view not in known:
            raise ValueError(
                f"{where} names view {policy.view!r}; views of texts are {', '.join(known)}"
            )
        if policy.view in seen:
            raise ValueError(f"{where} is {policy.view}, which leans on it; take another view")
        seen.append(policy.view)
        policy = config.captions_in(policy.view)


def _check_numbers(config: "TrainConfig") -> None:
    """Check the numbers of one phase against each other.

    Raises: ValueError: saying which do not fit.
    """
    if config.global_batch % config.streams:
        raise ValueError(
            f"global_batch {config.global_batch} is not a multiple of streams {config.streams}"
        )
    ranks = config.launch.world_size
    if config.streams % ranks:
        raise ValueError(
            f"streams {config.streams} cannot be shared out to {ranks} ranks; use a multiple of {ranks}"
        )
    local_batch = config.global_batch // ranks
    if config.micro_batch is not None and local_batch % config.micro_batch:
        raise ValueError(
            f"global_batch {config.global_batch} / ranks {ranks} = {local_batch} is not a multiple "
            f"of micro_batch {config.micro_batch}; use a divisor of {local_batch}, or null"
        )
    if config.min_lr > config.lr:
        raise ValueError(f"min_lr {config.min_lr} is above lr {config.lr}")
    if config.cooldown_steps and config.schedule != "constant":
        raise ValueError(
            f"cooldown_steps {config.cooldown_steps} is of the constant schedule; set schedule: constant, or 0 steps"
        )
    for name in config.known_views.images:
        low, high = config.of_image_view(name, "crop_scale")
        if not 0 < low <= high <= 1:
            where = "" if name == MAIN else f"image_views.{name}."
            raise ValueError(f"{where}crop_scale {[low, high]} is not an increasing pair in (0, 1]")
