import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuclip.foundation.errors import DataError, NumericsError, ShapeError
from neuclip.towers.recall import chance_at, groups_of, recall_at, recall_both_ways


def by_topk(queries, keys, query_groups, key_groups, k):
    """CLIP_benchmark's rule: a query counts if one of the k keys that torch.topk names is its own."""
    hits = 0
    for query, group in zip(queries, query_groups.tolist(), strict=True):
        best = torch.topk((keys @ query)[None], min(k, len(keys)), dim=1)[1][0]
        hits += any(key_groups[place] == group for place in best.tolist())
    return hits / len(queries)


def by_definition(queries, keys, query_groups, key_groups, k):
    """Return in float64 the least and the most that recall@k can be, however equal scores fall."""
    least = most = 0
    for query, group in zip(queries.double(), query_groups.tolist(), strict=True):
        scores, own = keys.double() @ query, key_groups == group
        best = scores[own].max()
        least += int((scores >= best)[~own].sum()) < k
        most += int((scores > best).sum()) < k
    return least / len(queries), most / len(queries)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 5), st.integers(1, 13))
def test_recall_is_clip_benchmarks(seed, keys, groups, chunk):
    """Integer features in few values make many exact ties."""
    rng = np.random.default_rng(seed)
    key_groups = torch.tensor(np.concatenate([np.arange(groups), rng.integers(0, groups, keys)]))
    query_groups = torch.tensor(rng.integers(0, groups, 9))
    q = torch.tensor(rng.integers(-1, 2, (9, 3)), dtype=torch.float32)
    k = torch.tensor(rng.integers(-1, 2, (len(key_groups), 3)), dtype=torch.float32)
    mine = recall_at(
        q, k, query_groups=query_groups, key_groups=key_groups, ks=(1, 2, 5), chunk=chunk
    )
    assert mine == {n: by_topk(q, k, query_groups, key_groups, n) for n in (1, 2, 5)}
    for n, found in mine.items():
        least, most = by_definition(q, k, query_groups, key_groups, n)
        assert least <= found <= most


def test_a_hand_made_matrix():
    """Scores by hand: query 0 finds its key first, 1 second, 2 third."""
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]])
    ids = torch.arange(3)
    recall = recall_at(scores, torch.eye(3), query_groups=ids, key_groups=ids, ks=(1, 2, 3))
    assert recall == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3), 3: 1.0}


@pytest.mark.parametrize("count", [1, 2, 4, 50, 400])
def test_one_feature_for_everything_is_chance(count):
    """A query has k answers and no more: a model that gives everything one feature is right k times in n."""
    same, ids = torch.ones(count, 2), torch.arange(count)
    recall = recall_at(same, same, query_groups=ids, key_groups=ids, ks=(1, 3, count))
    assert recall[1] == 1 / count
    assert recall[3] == min(3, count) / count
    assert recall[count] == 1.0


def test_a_picture_that_stands_twice_is_found_by_one_of_its_captions():
    """Two equal images with a caption each: both captions get the same image first, which is right for one."""
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ids = torch.arange(3)
    recall = recall_at(images, images, query_groups=ids, key_groups=ids, ks=(1, 2))
    assert recall == {1: pytest.approx(2 / 3), 2: 1.0}


def test_equal_captions_are_one_text():
    """The second image's caption stands twice; whichever copy comes first is right."""
    groups = groups_of(["a dog", "a cat", "a cat"])
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 0.9]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    recalls = recall_both_ways(images, texts, image_groups=groups, text_groups=groups, ks=(1,))
    assert recalls == {
        "image_to_text_recall_at_1": 1.0,
        "text_to_image_recall_at_1": 1.0,
        "mean_recall_at_1": 1.0,
    }


@pytest.mark.parametrize("k", [1, 2, 5, 6, 9])
def test_chance_is_what_random_features_reach(k):
    """Oracle: the mean recall@k of many random score matrices."""
    query_groups, key_groups = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 1, 2, 2, 2])
    torch.manual_seed(0)
    reached = [
        recall_at(
            torch.rand(4, 6),
            torch.eye(6),
            query_groups=query_groups,
            key_groups=key_groups,
            ks=(k,),
        )[k]
        for _ in range(4000)
    ]
    assert chance_at(query_groups, key_groups, k=k) == pytest.approx(np.mean(reached), abs=0.012)


def test_features_that_are_not_finite_are_refused():
    """NaN is not smaller than anything, so without a check it would win."""
    features, ids = torch.ones(2, 2), torch.arange(2)
    features[1, 0] = torch.nan
    with pytest.raises(NumericsError, match="1 of 2 query"):
        recall_at(features, torch.ones(2, 2), query_groups=ids, key_groups=ids, ks=(1,))


def test_what_has_no_answer_is_refused():
    one, ids = torch.ones(2, 2), torch.arange(2)
    with pytest.raises(DataError, match="no key of its group"):
        recall_at(one, one, query_groups=ids, key_groups=ids + 1, ks=(1,))
    with pytest.raises(DataError, match="at least one"):
        recall_at(one[:0], one, query_groups=ids[:0], key_groups=ids, ks=(1,))
    with pytest.raises(ShapeError, match="2 queries have 3"):
        recall_at(one, one, query_groups=torch.arange(3), key_groups=ids, ks=(1,))
