"""A run folder that is copied to object storage while training writes on. Oracle: a real S3 server."""

import threading
import time

import pytest
from training.runs import make_config

from neuclip.storage.files import list_files, read_bytes
from neuclip.training.job import TrainJob
from neuclip.training.mirror import mirror_run

pytestmark = pytest.mark.s3


def test_a_file_that_grows_all_the_while_arrives_as_it_was_read(
    s3_bucket, s3_environment, monkeypatch, tmp_path
):
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path))
    job = TrainJob(
        config=make_config(),
        seed=0,
        train_key="k",
        index_uri="i",
        shard_uri="s",
        run_uri=f"{s3_bucket}/train/k",
    )
    job.run_folder.mkdir(parents=True)
    path, stop = job.run_folder / "metrics.jsonl", threading.Event()
    path.write_bytes(b"{}\n")

    def write_on():
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"{}\n")
                time.sleep(1e-4)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for _ in range(5):
            mirror_run(job)
    finally:
        stop.set()
        writer.join()
    found = read_bytes(f"{job.run_uri}/metrics.jsonl")
    assert list_files(job.run_uri)["metrics.jsonl"] == len(found)
    assert found
    assert path.read_bytes().startswith(found)
    assert found.replace(b"{}\n", b"") == b""
