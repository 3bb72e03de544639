"""Faults put where users and disks put them; each refusal must come before anything is trained."""

import shutil
from pathlib import Path

import pytest
from training.runs import make_config, make_packed, train

from neuclip.foundation.errors import ConfigError, DataError, IntegrityError, NeuclipError
from neuclip.launching.config import LaunchConfig
from neuclip.training.job import TrainJob
from neuclip.training.preflight import Preflight, check_launch


def preflight(packed, tmp_path, **changes):
    job = TrainJob(
        config=make_config(**changes),
        seed=5,
        train_key="k",
        index_uri=packed.index,
        shard_uri=packed.shard,
        run_uri=str(tmp_path / "train" / "k"),
    )
    return Preflight(job)


def test_a_sound_run_is_told_what_it_will_be(packed, tmp_path):
    found = {name: check() for name, check in preflight(packed, tmp_path).all.items()}
    assert found["samples"].startswith(
        "169 samples; 32 steps of 16 from 4 streams, 16 for each of 1"
    )
    assert found["captions"] == "alt: 180 texts, rewrite: 360 texts"
    assert found["held out"] == "11 pairs to measure checkpoints on"
    assert found["one batch"].startswith("16 pairs through cpu in ")
    assert " GB are free" in found["one batch"]
    assert not list((tmp_path / "train" / "k").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("changes", "check", "kind", "says"),
    [
        (
            {"global_batch": 400},
            "samples",
            ConfigError,
            "400 is more than the 169 training samples",
        ),
        (
            {"captions": {"kind": "per_source", "weights": {"rewrit": 1}}},
            "captions",
            DataError,
            "'rewrit', which no sample has.*Did you mean 'rewrite'",
        ),
        (
            {"model": {"architecture": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"x": 1}}}},
            "one batch",
            ConfigError,
            "open_clip cannot build the architecture",
        ),
        ({"keep_checkpoints": 10**9}, "one batch", NeuclipError, "lower train.keep_checkpoints"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_change(
    packed, tmp_path, changes, check, kind, says
):
    with pytest.raises(kind, match=says):
        preflight(packed, tmp_path, **changes).all[check]()


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_shard_that_is_not_what_was_committed_is_found(packed, tmp_path, damage):
    shutil.copytree(Path(packed.shard).parent, tmp_path / "shard")
    spoilt = type(packed)(
        **{**vars(packed), "shard": f"{tmp_path}/shard/{Path(packed.shard).name}"}
    )
    victim = min((tmp_path / "shard").glob("parts/*/*.tar"))
    content = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    elif damage == "truncated":
        victim.write_bytes(content[:-1])
    else:
        victim.write_bytes(content[:-1] + b"x")
    with pytest.raises(IntegrityError, match=victim.name):
        preflight(spoilt, tmp_path).files()
    with pytest.raises(IntegrityError, match=victim.name):
        train(tmp_path, spoilt, make_config())
    assert not list(tmp_path.glob("train/k/checkpoints/*"))


def test_no_held_out_pairs_means_no_choice_later(tmp_path):
    packed = make_packed(tmp_path, selection_share=1e-6)
    with pytest.raises(DataError, match=r"raise shard\.selection_share"):
        preflight(packed, tmp_path).held_out()


def test_a_cluster_s_programs_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs sbatch, squeue, scancel, which this machine"):
        check_launch(LaunchConfig.model_validate({"slurm": {}}))
    with pytest.raises(ConfigError, match="kubernetes needs kubectl"):
        check_launch(LaunchConfig.model_validate({"kubernetes": {"image": "neuclip"}}))
    with pytest.raises(ConfigError, match="hosts needs ssh"):
        check_launch(LaunchConfig.model_validate({"hosts": {"names": ["a", "b"]}}))
