"""Oracle: a dict of what was added, and files that are torn, damaged and killed on purpose."""

import os
import signal
import subprocess
import sys

import pytest
from servers.s3 import s3_bucket, s3_environment, s3_url

from neuclip.generation.backend import Ended, Reply
from neuclip.generation.journal import (
    Journal,
    Spent,
    erase_answers,
    journal_uri,
    journals_with,
    spent_in,
)
from neuclip.storage.files import list_files
from neuclip.storage.uris import join

__all__ = ["s3_bucket", "s3_environment", "s3_url"]

REPLIES = {
    f"item{n}": Reply(f'text {n} "quoted" \u2028 é', [Ended.STOP, Ended.LENGTH][n % 2], n, 2 * n)
    for n in range(20)
}
UIDS = ["aa" * 16, "bb" * 16]
KILLED = """
import os, sys
from neuclip.generation.backend import Reply
from neuclip.generation.journal import Journal
with Journal(sys.argv[1]) as journal:
    for n in range(1000000):
        journal.add(f"item{n}", "aa" * 16, Reply(f"text {n}"))
        os.write(1, b"%d\\n" % n)
"""


def add_all(uri):
    with Journal(uri) as journal:
        for n, (item, reply) in enumerate(REPLIES.items()):
            journal.add(item, UIDS[n % 2], reply)


def read(uri, most=30):
    with Journal(uri) as journal:
        return dict(journal.find({f"item{n}" for n in range(most)}))


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def stage(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.param == "folder":
        return str(tmp_path / "caption")
    return join(request.getfixturevalue("s3_bucket"), "caption")


def test_what_was_added_is_found_again_and_counted(stage):
    uri = journal_uri(stage, "model", UIDS)
    assert read(uri) == {}
    add_all(uri)
    assert read(uri) == REPLIES
    with Journal(uri) as journal:
        assert dict(journal.find({"item3"})) == {"item3": REPLIES["item3"]}
        journal.add("more", UIDS[0], Reply("more", prompt_tokens=7))
    tokens = sum(reply.prompt_tokens for reply in REPLIES.values())
    spent = spent_in(stage, "model")
    assert (spent.answers, spent.prompt, spent.completion) == (21, tokens + 7, 2 * tokens)
    assert 0 <= spent.seconds < 60
    assert spent_in(stage, "another") == Spent()


def test_a_takedown_erases_the_answers_about_a_pair_alone(stage):
    uri = journal_uri(stage, "model", UIDS)
    add_all(uri)
    assert journals_with(stage, {UIDS[0]}) == [uri]
    erase_answers(uri, {UIDS[0]})
    assert read(uri) == {item: REPLIES[item] for item in list(REPLIES)[1::2]}
    assert journals_with(stage, {UIDS[0]}) == []
    erase_answers(uri, {UIDS[1]})
    assert list_files(uri) == {}


def test_rows_and_models_lie_apart_whatever_is_kept_of_them():
    assert journal_uri("x", "model", UIDS) == journal_uri("x", "model", list(UIDS))
    assert journal_uri("x", "model", UIDS) != journal_uri("x", "other", UIDS)
    assert journal_uri("x", "model", UIDS) != journal_uri("x", "model", UIDS[:1])


def test_a_torn_or_damaged_line_is_no_answer_and_costs_no_other(tmp_path):
    uri = journal_uri(str(tmp_path), "model", UIDS)
    add_all(uri)
    [name] = list_files(uri)
    path = tmp_path / uri.removeprefix(str(tmp_path) + "/") / name
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for place in range(0, len(whole), 53):
        if whole[place : place + 1] == b"\n":
            continue
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        hit = whole[:place].count(b"\n")
        assert read(uri) == {item: r for n, (item, r) in enumerate(REPLIES.items()) if n != hit}
        path.write_bytes(whole[:place])
        assert read(uri) == dict(list(REPLIES.items())[:hit])
    assert len(lines) == len(REPLIES)


@pytest.mark.parametrize("place", ["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def test_what_a_killed_process_had_added_is_there_for_the_next(
    place, request, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    stage = str(tmp_path)
    if place == "bucket":
        stage = request.getfixturevalue("s3_bucket")
    uri = journal_uri(stage, "model", UIDS)
    command = [sys.executable, "-c", KILLED, uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ.copy()) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < 500:
            pass
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().split()
    found = read(uri, 1000000)
    assert len(found) >= 501 + len(said)
    assert set(found) == {f"item{n}" for n in range(len(found))}
