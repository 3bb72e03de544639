"""Two machines that are network namespaces. Oracle: one process that nothing disturbed."""

import logging
import shutil
import threading
import time

import pytest
import s3fs
from launching.namespaces import machines
from launching.programs import wait_until
from servers.s3 import KEYS, make_bucket, s3_server
from training.runs import make_config, make_packed, metrics, train

from neuclip.checkpoint.folder import LATEST
from neuclip.foundation.errors import ChildError
from neuclip.stages.manifest import read_manifest
from neuclip.storage.cache import local_folder
from neuclip.storage.files import exists, list_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {"epochs": 3, "loader": {"workers": 0}, "probe": None}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def alone(packed, tmp_path_factory):
    folder, _ = train(tmp_path_factory.mktemp("alone"), packed, make_config(**SETTINGS))
    return metrics(folder)


@pytest.fixture
def two():
    with machines(2) as found:
        yield found


def assert_same_run(lines, expected):
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    assert [line["sample_ids_sha256"] for line in lines] == [
        line["sample_ids_sha256"] for line in expected
    ]
    assert lines[-1]["loss"] == pytest.approx(expected[-1]["loss"], abs=2e-5)


def kill_when(two, name, folder, step):
    """End a machine as soon as a step is logged; return the thread."""

    def watch():
        assert wait_until(
            lambda: (lines := metrics(folder)) and lines[-1]["step"] >= step, seconds=400
        )
        two.kill(name)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kill_when_saved(two, name, uri):
    """End a machine as soon as there is a checkpoint in object storage; return the thread."""

    def watch():
        assert wait_until(lambda: exists(f"{uri}/checkpoints/{LATEST}"), seconds=400)
        two.kill(name)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_run_on_two_machines_is_the_run_of_one_process(two, packed, alone, tmp_path):
    folder, manifest = train(tmp_path, packed, make_config(**SETTINGS, launch=two.launch()))
    assert_same_run(metrics(folder), alone)
    assert manifest.summary["restarts"] == 0
    assert not two.all_pids()


@pytest.mark.parametrize("lost", [0, 1], ids=["the-meeting-place", "the-other"])
def test_a_machine_that_is_lost_is_waited_for_and_the_run_goes_on(
    two, packed, alone, tmp_path, caplog, lost
):
    killer = kill_when(two, two.names[lost], tmp_path / "train" / "k", step=18)
    notes = []

    def progress(stage, *, done, total, note=""):
        notes.append(note)

    with caplog.at_level(logging.WARNING):
        folder, manifest = train(
            tmp_path,
            packed,
            make_config(**SETTINGS, launch=two.launch(max_restarts=3)),
            progress=progress,
        )
    killer.join()
    assert_same_run(metrics(folder), alone)
    assert manifest.summary["restarts"] == 1
    assert manifest.summary["resumed_at"] >= 16
    assert notes[-1].endswith("restarts 1")
    [warning] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("restart ")]
    assert f"restart 1 of 3: training on {two.names[lost]} ended with signal SIGKILL" in warning
    assert not two.all_pids()


def test_machines_that_do_not_meet_are_named(two, packed, tmp_path):
    """The second machine is told a port where nobody is."""
    launch = two.launch(max_restarts=3)
    launch["hosts"] |= {"rendezvous_timeout_s": 15}
    shut = ["sh", "-c", 'case $0 in *n2) sleep 60;; esac; exec ip netns exec "$0" "$@"', "{host}"]
    launch["hosts"] |= {"connect": shut}
    began = time.monotonic()
    with pytest.raises(ChildError) as caught:
        train(tmp_path, packed, make_config(**SETTINGS, launch=launch))
    message = str(caught.value)
    assert f"did not find each other at {two.net}.1:" in message
    assert f"came: {two.names[0]} ({two.net}.1). Check" in message
    assert time.monotonic() - began < 90
    assert not two.all_pids()


@pytest.mark.s3
def test_machines_that_share_nothing_but_object_storage(two, packed, alone, tmp_path, monkeypatch):
    """Each has a cache of its own; the one that leads is lost in the middle."""
    with s3_server(host=two.own_address) as url:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": url}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
        s3fs.S3FileSystem.clear_instance_cache()
        root = make_bucket({**KEYS, "AWS_ENDPOINT_URL": url}) + "/lake"
        launch = two.launch(max_restarts=3)
        launch["hosts"]["connect"] += ["env", f"NEUCLIP_CACHE={tmp_path}/{{host}}"]
        killer = kill_when_saved(two, two.names[0], f"{root}/train/k")
        _, manifest = train(root, packed, make_config(**SETTINGS, launch=launch))
        killer.join()
        uri = f"{root}/train/k"
        assert read_manifest(uri) == manifest
        assert_same_run(metrics(local_folder(uri)), alone)
        assert manifest.summary["restarts"] == 1
        assert manifest.summary["resumed_at"] >= 8
        names = list_files(uri)
        assert "train.log" in names
        assert not [name for name in names if name.startswith(".exchange")]
    s3fs.S3FileSystem.clear_instance_cache()
    for name in two.names:
        assert not list((tmp_path / name).glob("runs/*/*"))
    assert not two.all_pids()
    shutil.rmtree(tmp_path / "cache")
