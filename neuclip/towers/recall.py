"""Recall at k between two sets of features, with groups that say what belongs together.

Legend: Q queries, K keys, I images, T texts, D embedding width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from neuclip.foundation.errors import DataError, NumericsError, ShapeError

_CHUNK = 1024


def recall_at(
    query_features: Float[Tensor, "Q D"],
    key_features: Float[Tensor, "K D"],
    *,
    query_groups: Int64[Tensor, " Q"],
    key_groups: Int64[Tensor, " K"],
    ks: Sequence[int],
    chunk: int = _CHUNK,
) -> dict[int, float]:
    """Tell how often one of the k best keys is of the query's group.

    Definition: recall@k is the share of queries with a key of their group among the k keys that score best. Keys that
    score the same are told apart by torch.topk: a query has k answers, no more and no fewer, so that a model that gives
    everything one feature reaches chance. Source: CLIP_benchmark, see tests/towers/test_recall.py.

    Args:
        chunk: queries scored at once; has no influence on the result.
    Returns: k -> share of queries, 0..1.

    Raises:
        NumericsError: for features that are not finite, which would win every comparison.
        DataError: for a query without any key of its group.
    """
    found = is_found_at(
        query_features,
        key_features,
        query_groups=query_groups,
        key_groups=key_groups,
        ks=ks,
        chunk=chunk,
    )
    return {k: int(hits.sum()) / len(query_features) for k, hits in found.items()}


def is_found_at(
    query_features: Float[Tensor, "Q D"],
    key_features: Float[Tensor, "K D"],
    *,
    query_groups: Int64[Tensor, " Q"],
    key_groups: Int64[Tensor, " K"],
    ks: Sequence[int],
    chunk: int = _CHUNK,
) -> dict[int, Bool[Tensor, " Q"]]:
    """Tell for each k and query whether a key of its group is among the k best; see `recall_at`."""
    _require_matching(query_features, key_features, query_groups, key_groups)
    if not bool(torch.isin(query_groups, key_groups).all()):
        raise DataError("a query has no key of its group, so its recall is not defined")
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for start in range(0, len(query_features), chunk):
        rows = slice(start, start + chunk)
        scores_QK = query_features[rows] @ key_features.T
        for k, hits in found.items():
            best_Qk = scores_QK.topk(min(k, len(key_features)), dim=1).indices
            hits.append((key_groups[best_Qk] == query_groups[rows, None]).any(dim=1))
    return {k: torch.cat(hits) for k, hits in found.items()}


def recall_both_ways(
    image_features: Float[Tensor, "I D"],
    text_features: Float[Tensor, "T D"],
    *,
    image_groups: Int64[Tensor, " I"],
    text_groups: Int64[Tensor, " T"],
    ks: Sequence[int],
) -> dict[str, float]:
    """Return image_to_text_recall_at_K, text_to_image_recall_at_K and their mean_recall_at_K for every k."""
    to_text = recall_at(
        image_features, text_features, query_groups=image_groups, key_groups=text_groups, ks=ks
    )
    to_image = recall_at(
        text_features, image_features, query_groups=text_groups, key_groups=image_groups, ks=ks
    )
    recalls: dict[str, float] = {}
    for k in ks:
        recalls[f"image_to_text_recall_at_{k}"] = to_text[k]
        recalls[f"text_to_image_recall_at_{k}"] = to_image[k]
        recalls[f"mean_recall_at_{k}"] = (to_text[k] + to_image[k]) / 2
    return recalls


def chance_at(
    query_groups: Int64[Tensor, " Q"], key_groups: Int64[Tensor, " K"], *, k: int = 1
) -> float:
    """Return the recall@k of keys in random order: the mean chance that one of k keys belongs to a query."""
    groups, counts = torch.unique(key_groups, return_counts=True)
    others = len(key_groups) - counts[torch.searchsorted(groups, query_groups)].double()
    missed = torch.ones_like(others)
    for drawn in range(min(k, len(key_groups))):
        missed *= (others - drawn).clamp(min=0) / (len(key_groups) - drawn)
    return float(1 - missed.mean())


def groups_of(texts: Sequence[str]) -> Int64[Tensor, " N"]:
    """Number texts so that equal texts have equal numbers."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])


def _require_matching(
    query_features: Tensor, key_features: Tensor, query_groups: Tensor, key_groups: Tensor
) -> None:
    """Refuse what cannot be scored."""
    if len(query_features) != len(query_groups) or len(key_features) != len(key_groups):
        raise ShapeError(
            f"{len(query_features)} queries have {len(query_groups)} groups, "
            f"{len(key_features)} keys have {len(key_groups)}; each needs one"
        )
    if not (len(query_features) and len(key_features)):
        raise DataError("recall needs at least one query and one key")
    for name, features in (("query", query_features), ("key", key_features)):
        bad = int((~torch.isfinite(features)).any(dim=1).sum())
        if bad:
            raise NumericsError(
                f"{bad} of {len(features)} {name} features are not finite; the weights are broken"
            )
