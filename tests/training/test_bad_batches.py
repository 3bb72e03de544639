"""A run whose features are not finite at one step.

Oracle: leaving out steps one by one and going back past the same steps must end with the same weights.
"""

import pytest
import torch
from training.runs import make_config, metrics, train_here, weights

from neuclip.foundation.errors import NumericsError
from neuclip.objectives.encoded import View
from neuclip.training.job import TrainResult
from neuclip.training.trainer import Trainer

QUICK = {"loader": {"workers": 0}, "probe": None, "epochs": 2, "save_every_steps": 4}


@pytest.fixture
def bad_at(monkeypatch):
    """Make the features of the given steps (0-based) not a number, as an overflow would."""

    def put(*steps):
        sound = Trainer._encode

        def encode(self, *args, **kwargs):
            images, texts = sound(self, *args, **kwargs)
            if self.step in steps:
                images = {name: View(v.raw, v.unit * torch.nan) for name, v in images.items()}
            return images, texts

        monkeypatch.setattr(Trainer, "_encode", encode)

    return put


def test_stop_names_step_and_samples(packed, tmp_path, bad_at):
    bad_at(6)
    with pytest.raises(NumericsError, match=r"step 6.*sample ids \[\d+, "):
        train_here(tmp_path, packed, make_config(**QUICK))
    assert metrics(tmp_path)[-1]["step"] == 6


def test_skip_leaves_one_batch_out_and_says_so(packed, tmp_path, bad_at):
    bad_at(6)
    result = train_here(tmp_path, packed, make_config(**QUICK, on_bad_batch="skip"))
    assert result.passed_over == [6]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, result.steps + 1))
    assert lines[6]["passed_over"] == 1
    assert lines[6]["samples_seen"] == 7 * 16
    assert "lr" not in lines[6]
    assert "lr" in lines[7]


def test_a_bad_last_batch_leaves_a_result_without_a_loss(packed, tmp_path, bad_at):
    """The result goes through JSON, which has no nan."""
    bad_at(21)
    result = train_here(tmp_path, packed, make_config(**QUICK, on_bad_batch="skip"))
    assert (result.steps, result.passed_over) == (22, [21])
    assert TrainResult.model_validate_json(result.model_dump_json()).final_loss is None


def test_going_back_passes_over_everything_since_the_checkpoint(packed, tmp_path, bad_at, caplog):
    """The checkpoint is of step 8 and the bad batch that of step 10: those of 8, 9 and 10 are left out."""
    bad_at(10)
    back = train_here(tmp_path / "back", packed, make_config(**QUICK, on_bad_batch="roll_back"))
    assert back.passed_over == [8, 9, 10]
    assert "batches of steps 8 to 10 passed over" in caplog.text
    bad_at(8, 9, 10)
    skipped = train_here(tmp_path / "skip", packed, make_config(**QUICK, on_bad_batch="skip"))
    assert skipped.passed_over == [8, 9, 10]
    assert weights(tmp_path / "back") == weights(tmp_path / "skip")


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(packed, tmp_path, bad_at):
    bad_at(2)
    with pytest.raises(NumericsError, match="step 2"):
        train_here(tmp_path, packed, make_config(**QUICK, on_bad_batch="roll_back"))


def test_a_run_that_only_sees_bad_batches_ends(packed, tmp_path, bad_at):
    bad_at(*range(3, 100))
    with pytest.raises(
        NumericsError, match=r"6 batches would have been passed over.*max_bad_batches 5"
    ):
        train_here(tmp_path, packed, make_config(**QUICK, on_bad_batch="skip", max_bad_batches=5))
