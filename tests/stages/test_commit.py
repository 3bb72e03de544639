"""Oracle: what lies on the disk after each way a run can end."""

import pytest

from neuclip.foundation.errors import IntegrityError
from neuclip.stages.ledger import add_ledgers, make_ledger
from neuclip.stages.manifest import is_committed, read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage


def identity(root, key="k"):
    return StageIdentity("curate", 1, key, {"a": 1}, {"acquire": "x"}, str(root))


def work(text="hello", ledger=None):
    def do(workspace):
        (workspace.output / "sub").mkdir()
        (workspace.output / "sub" / "file.txt").write_text(text)
        (workspace.scratch / "waste").write_text("x")
        return Outcome(ledger or make_ledger(3, 2, {"bad": 1}), summary={"n": 1})

    return do


def test_a_commit_holds_files_digests_and_ledger(tmp_path):
    manifest, ran = commit_stage(identity(tmp_path), work())
    folder = tmp_path / "curate" / "k"
    assert ran
    assert read_manifest(str(folder)) == manifest
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["file.txt", "manifest.json"]
    assert (
        manifest.files[0].sha256
        == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )
    assert (manifest.ledger.entered, manifest.inputs) == (3, {"acquire": "x"})
    assert not list((tmp_path / ".scratch").iterdir())


def test_a_rerun_does_nothing_and_force_does_it_again(tmp_path):
    commit_stage(identity(tmp_path), work())
    path = tmp_path / "curate" / "k" / "sub" / "file.txt"
    before = path.stat().st_mtime_ns

    def never(workspace):
        raise AssertionError("must not run")

    _, ran = commit_stage(identity(tmp_path), never)
    assert not ran
    assert path.stat().st_mtime_ns == before
    _, ran = commit_stage(identity(tmp_path), work("again"), force=True)
    assert ran
    assert path.read_text() == "again"


def test_work_that_fails_commits_nothing_and_leaves_no_scratch(tmp_path):
    def fail(workspace):
        (workspace.output / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        commit_stage(identity(tmp_path), fail)
    assert not is_committed(identity(tmp_path).uri)
    assert not list((tmp_path / ".scratch").iterdir())


def test_forced_work_that_fails_leaves_what_was_committed(tmp_path):
    before, _ = commit_stage(identity(tmp_path), work())

    def fail(workspace):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        commit_stage(identity(tmp_path), fail, force=True)
    after = read_manifest(identity(tmp_path).uri)
    assert after == before
    verify_sizes(identity(tmp_path).uri, after)


def test_a_ledger_that_does_not_balance_fails_the_stage(tmp_path):
    with pytest.raises(IntegrityError, match="5 in, 2 out, 1 dropped, so 2 have no outcome"):
        commit_stage(identity(tmp_path), work(ledger=make_ledger(5, 2, {"bad": 1})))
    assert not is_committed(identity(tmp_path).uri)


def test_leftovers_of_a_killed_run_are_cleared_unless_they_are_wanted(tmp_path):
    leftover = tmp_path / "curate" / "k" / "old"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half")
    manifest, _ = commit_stage(identity(tmp_path), work(), keep_unfinished=True)
    assert {file.name for file in manifest.files} == {"old", "sub/file.txt"}
    other = tmp_path / "curate" / "k2" / "old"
    other.parent.mkdir()
    other.write_text("half")
    manifest, _ = commit_stage(identity(tmp_path, "k2"), work())
    assert {file.name for file in manifest.files} == {"sub/file.txt"}


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_a_changed_folder_is_found(tmp_path, damage):
    manifest, _ = commit_stage(identity(tmp_path), work())
    path = tmp_path / "curate" / "k" / "sub" / "file.txt"
    path.write_text("hell") if damage == "shorter" else path.unlink()
    found = "has 4 bytes, expected 5" if damage == "shorter" else "is missing, expected 5"
    with pytest.raises(IntegrityError, match=f"sub/file.txt {found}"):
        verify_sizes(identity(tmp_path).uri, manifest)


def test_ledgers_add_up_and_sort_their_reasons():
    total = add_ledgers([make_ledger(5, 3, {"b": 2}), make_ledger(4, 1, {"a": 3, "b": 0})])
    assert (total.entered, total.out) == (9, 4)
    assert list(total.dropped.items()) == [("a", 3), ("b", 2)]
    total.check("x")
