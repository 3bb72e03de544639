"""Oracle: one rank; two and four ranks are given the same global batches."""

import pytest
from training.runs import SMALL_NETWORK, make_config, metrics, train


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "objective",
    [{"name": "neuclip", "estimator": SMALL_NETWORK}, {"name": "fastclip"}],
    ids=lambda settings: settings["name"],
)
def test_one_two_and_four_ranks_train_on_the_same_batches(packed, tmp_path, objective):
    logs = []
    for ranks in (1, 2, 4):
        config = make_config(
            objective=objective,
            launch={"processes": ranks},
            loader={"workers": 0},
            probe=None,
            keep_best=0,
        )
        folder, _ = train(tmp_path / str(ranks), packed, config)
        logs.append(metrics(folder))
    one = logs[0]
    assert len(one) > 30
    for other in logs[1:]:
        for name in ("step", "samples_seen", "sample_ids_sha256"):
            assert [line[name] for line in other] == [line[name] for line in one]
        for mine, theirs in zip(one, other, strict=True):
            assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-5)
