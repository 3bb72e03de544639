"""Oracles: the committed shards themselves; a counter of what the S3 server was asked."""

import hashlib
import itertools
import multiprocessing
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import s3fs
import torch
from loading.test_images import encoded
from made.shards import PART, make_shards
from PIL import Image
from servers.s3 import HOST

from neuclip.foundation.errors import ConfigError, IntegrityError, TransientStorageError
from neuclip.loading.batches import load_batches
from neuclip.loading.captions import Captions
from neuclip.loading.order import BatchOrder
from neuclip.loading.policies import PerSource
from neuclip.loading.samples import ShardSamples
from neuclip.loading.shard_files import ShardFiles
from neuclip.loading.views import ImageView, TextView
from neuclip.storage import bounded
from neuclip.storage.files import read_bytes, remove, size_bytes, write_bytes
from neuclip.towers.transforms import training_pixels

pytestmark = pytest.mark.s3

MOST_TEXT_BYTES = 2000
"""Of the side file of a shard here."""
SIZES = [30, 20, 30, 10, 30, 30, 20, 30]


def image_of(sample_id):
    draw = np.random.default_rng(sample_id)
    return encoded(Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)), "JPEG")


def to_pixels(content, draw):
    return training_pixels(content, draw, image_px=8)


def tokens(texts):
    return torch.tensor([[int(text)] for text in texts])


@pytest.fixture
def here_and_there(tmp_path, s3_bucket):
    """The same committed shards in a folder and on S3."""
    here = make_shards(tmp_path / "lake", SIZES, image_of)
    there = make_shards(s3_bucket, SIZES, image_of)
    return here, there


def samples_of(shards, cache_gb):
    return ShardSamples(
        ShardFiles(shards.uri, cache_gb=cache_gb),
        shards.table,
        images=[ImageView(to_pixels)],
        texts=[TextView(PerSource(), lambda texts, *_: tokens(texts))],
        captions=Captions(shards.index, cache_gb=cache_gb),
        seed=1,
    )


def load(shards, *, cache_gb, last=24, workers=0, streams=2):
    order = BatchOrder(np.array(SIZES), seed=3, streams=streams, global_batch=20)
    settings = {"rank": 0, "size": 1, "workers": workers, "pin_memory": False}
    yield from load_batches(samples_of(shards, cache_gb), order, first=0, last=last, **settings)


def digest(batches):
    parts = [
        (b.images["main"].numpy().tobytes(), b.sample_ids.tolist(), b.texts["main"].tolist())
        for b in batches
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def files_in(cache):
    return sorted((cache / "shards" / "files").iterdir())


def cache_for(shards, number):
    """Return GB for so many of the largest shards with their texts."""
    largest = max(size_bytes(f"{shards.folder}/{name}") for name in shards.table.shards)
    return number * (largest + MOST_TEXT_BYTES) / 1e9


def test_a_cache_smaller_than_the_data_gives_the_same_batches(here_and_there, cache_of_this_test):
    """Two and a half epochs; the cache holds half of the shards and never more."""
    here, there = here_and_there
    expected = digest(load(here, cache_gb=1))
    limit, largest = cache_for(there, 4), 0
    batches = []
    for batch in load(there, cache_gb=limit):
        batches.append(batch)
        largest = max(largest, sum(_sizes(cache_of_this_test)))
    assert digest(batches) == expected
    assert 0.5 * limit < largest / 1e9 <= limit
    samples = samples_of(there, limit)
    for name in (
        there.table.shards
    ):  # what was on its way when the loader ended is cleared by who needs it next
        samples.fetch(name)
    assert not list((cache_of_this_test / "shards" / "arriving").iterdir())


def _sizes(cache):
    for path in files_in(cache):
        try:
            yield path.stat().st_size
        except FileNotFoundError:  # it went to make room
            continue


def test_a_cache_that_cannot_hold_the_shards_in_use_is_refused(here_and_there):
    _, there = here_and_there
    with pytest.raises(ConfigError, match=r"train.loader.cache_gb .* is too small: 1 processes"):
        next(load(there, cache_gb=cache_for(there, 2)))


def test_shards_are_fetched_before_they_are_needed(here_and_there, cache_of_this_test):
    """Oracle: the order by hand; after a wait on step 0, what the next shards' samples need is there."""
    _, there = here_and_there
    batches = load(there, cache_gb=1)
    next(batches)
    order = BatchOrder(np.array(SIZES), seed=3, streams=2, global_batch=20)
    soon = {int(there.table.shard[i]) for step in range(4) for _, i in order.batch(step)}
    names = {read_digest(there, shard) for shard in soon}
    deadline = time.monotonic() + 20
    while not names <= {path.name for path in files_in(cache_of_this_test)}:
        assert time.monotonic() < deadline, "not fetched ahead"
        time.sleep(0.05)
    batches.close()
    assert not [p for p in multiprocessing.active_children() if p.name == "read-ahead"]


def read_digest(shards, number):
    return hashlib.sha256(read_bytes(f"{shards.folder}/{shards.table.shards[number]}")).hexdigest()


def test_shards_ahead_are_those_that_the_next_batches_read():
    """Oracle: the batches themselves, step by step."""
    order = BatchOrder(np.array(SIZES), seed=3, streams=4, global_batch=20)
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)
    for rank in (0, 1):
        for step in range(0, 40, 3):
            ahead = order.shards_ahead(step, rank=rank, size=2)
            assert len(set(ahead)) == len(ahead)
            first_use = []
            for later in range(step, step + 6):  # 30 samples of each stream: a shard of any size
                for _, sample_id in order.batch(later, rank=rank, size=2):
                    if shard_of[sample_id] not in first_use:
                        first_use.append(shard_of[sample_id])
            assert set(first_use) <= set(ahead)
            assert set(ahead[:2]) <= set(first_use[:4])


def _load_in_process(shards, cache_gb, results):
    results.put(digest(load(shards, cache_gb=cache_gb)))


def test_two_processes_share_a_cache(
    here_and_there, cache_of_this_test, s3_environment, monkeypatch
):
    """Both see the same batches; each shard is asked for once."""
    here, there = here_and_there
    expected = digest(load(here, cache_gb=1))
    asked = []
    with relay(s3_environment, on_get=lambda handler, _: asked.append(handler.path)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        children = [
            context.Process(target=_load_in_process, args=(there, 1, results)) for _ in range(2)
        ]
        for child in children:
            child.start()
        assert [results.get(timeout=60) for _ in children] == [expected] * 2
        for child in children:
            child.join()
    tars = [path for path in asked if ".tar" in path]
    assert sorted(set(tars)) == sorted(tars)
    assert len(tars) == len(SIZES)
    assert len(files_in(cache_of_this_test)) == 2 * len(SIZES)


def test_a_shard_cut_short_in_storage_is_refused(here_and_there):
    _, there = here_and_there
    uri = f"{there.folder}/{PART}/shard-000002.tar"
    content = read_bytes(uri)
    write_bytes(uri, content[:-5000])
    with pytest.raises(
        IntegrityError, match=rf"{uri} has {len(content) - 5000} bytes, expected {len(content)}"
    ):
        list(load(there, cache_gb=1))


def test_a_shard_replaced_after_the_index_is_refused(here_and_there, cache_of_this_test):
    _, there = here_and_there
    uri = f"{there.folder}/{PART}/shard-000002.tar"
    write_bytes(uri, read_bytes(uri)[:-1] + b"\1")
    with pytest.raises(IntegrityError, match=rf"{uri} has SHA-256 .* run `--only shard --force`"):
        ShardFiles(there.uri, cache_gb=1).fetch(f"{PART}/shard-000002.tar")
    assert (
        files_in(cache_of_this_test) == []
        if (cache_of_this_test / "shards/files").exists()
        else True
    )


def test_a_missing_shard_is_named(here_and_there):
    here, there = here_and_there
    remove(f"{there.folder}/{PART}/shard-000004.tar")
    with pytest.raises(IntegrityError, match=r"shard-000004.tar is missing.*--only shard --force"):
        list(load(there, cache_gb=1))
    remove(f"{here.folder}/{PART}/shard-000004.tar")
    with pytest.raises(IntegrityError, match=r"cannot read shard .*shard-000004.tar"):
        list(load(here, cache_gb=1))


def test_a_shard_that_the_manifest_does_not_list_is_named(here_and_there):
    _, there = here_and_there
    with pytest.raises(
        IntegrityError, match=r"the index has shard .*shard-000099.tar, which no part"
    ):
        ShardFiles(there.uri, cache_gb=1).fetch(f"{PART}/shard-000099.tar")


@pytest.mark.slow
def test_a_busy_server_is_asked_again(here_and_there, s3_environment, monkeypatch):
    """The first eight requests for shards are answered 503, more than the client itself would stand."""
    here, there = here_and_there

    def busy_at_first(handler, number):
        if number < 8:
            handler.answer(503, b"<Error><Code>SlowDown</Code></Error>")
        return number < 8

    with relay(s3_environment, on_get=busy_at_first) as url:
        files = ShardFiles(there.uri, cache_gb=1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()
        assert files.open(f"{PART}/shard-000001.tar").content[:] == read_bytes(
            f"{here.folder}/{PART}/shard-000001.tar"
        )


@pytest.mark.slow
def test_a_server_that_stays_busy_is_named(here_and_there, s3_environment, monkeypatch):
    _, there = here_and_there
    monkeypatch.setattr(bounded, "_PAUSES_S", (0.01, 0.01))
    with relay(s3_environment, on_get=lambda handler, n: handler.answer(503, b"") or True) as url:
        files = ShardFiles(there.uri, cache_gb=1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(TransientStorageError, match=r"shard-000001.tar.*tried 3 times"):
            files.fetch(f"{PART}/shard-000001.tar")


def test_an_answer_that_breaks_off_is_asked_for_again(here_and_there, s3_environment, monkeypatch):
    here, there = here_and_there
    broken = []

    def break_off(handler, number):
        handler.most = 2000 if number < 3 else None
        broken.append(number < 3)
        return False

    with relay(s3_environment, on_get=break_off) as url:
        files = ShardFiles(there.uri, cache_gb=1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()
        assert files.open(f"{PART}/shard-000001.tar").content[:] == read_bytes(
            f"{here.folder}/{PART}/shard-000001.tar"
        )
    assert sum(broken) == 3


def test_what_a_killed_process_left_is_cleared(here_and_there, cache_of_this_test):
    here, there = here_and_there
    name = hashlib.sha256(read_bytes(f"{here.folder}/{PART}/shard-000000.tar")).hexdigest()
    arriving = cache_of_this_test / "shards" / "arriving"
    arriving.mkdir(parents=True)
    for left in (name, f".{name}.0123"):
        (arriving / left).write_bytes(b"half")
    ShardFiles(there.uri, cache_gb=1).fetch(f"{PART}/shard-000000.tar")
    assert list(arriving.iterdir()) == []
    assert [path.name for path in files_in(cache_of_this_test)] == [name]


def test_the_least_recently_used_goes_first(here_and_there, cache_of_this_test):
    """Three fit: 0 1 2, then 0 is used again, so 4 takes the place of 1."""
    _, there = here_and_there
    files = ShardFiles(there.uri, cache_gb=cache_for(there, 3))
    for number in (0, 2, 4, 0, 5):
        files.fetch(f"{PART}/shard-{number:06d}.tar")
    assert {p.name for p in files_in(cache_of_this_test)} == {
        read_digest(there, number) for number in (4, 0, 5)
    }


@contextmanager
def relay(environment, *, on_get):
    """Stand before the S3 server; `on_get(handler, number)` may answer a GET of a shard itself."""

    class Handler(_Relay):
        upstream, numbers = environment["AWS_ENDPOINT_URL"], itertools.count()

        def do_GET(self):
            is_shard = ".tar" in self.path and self.command == "GET"
            if not is_shard or not on_get(self, next(self.numbers)):
                self.pass_on()

        do_HEAD = do_GET  # noqa: N815

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


class _Relay(BaseHTTPRequestHandler):
    upstream = ""
    most = None
    """Bytes of a body after which it hangs up."""

    def pass_on(self):
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        request = Request(self.upstream + self.path, headers=headers, method=self.command)
        try:
            with urlopen(request, timeout=30) as answer:
                self.answer(answer.status, answer.read(), answer.headers)
        except HTTPError as error:
            self.answer(error.code, error.read(), error.headers)

    def answer(self, status, body, headers=None):
        headers = {name.lower(): value for name, value in (headers or {}).items()}
        length = headers.get("content-length") if self.command == "HEAD" else len(body)
        self.send_response(status)
        for name, value in headers.items():
            if name not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: self.most])
        self.close_connection = self.most is not None

    def log_message(self, *arguments):
        pass
