"""Oracle: the bytes that were committed. A file is handed out as they are, or not at all."""

import json
import uuid
from pathlib import Path

import pytest

from neuclip.foundation.errors import IntegrityError, StorageError
from neuclip.stages.committed import committed_bytes, committed_file, committed_folder
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import SCHEMA_VERSION, Manifest, read_manifest
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage
from neuclip.storage.files import remove, write_bytes

CONTENT = {"table.parquet": b"some rows", "model/weights": b"some numbers", "model/config": b"{}"}


@pytest.fixture
def folder(tmp_path) -> str:
    """A committed folder."""
    return commit(str(tmp_path))


def commit(root: str) -> str:
    def work(workspace):
        for name, content in CONTENT.items():
            path = workspace.output / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return Outcome(ledger=make_ledger(3, 2, {"small": 1}))

    identity = StageIdentity("curate", 1, uuid.uuid4().hex, {"rule": 0.1}, {}, root)
    commit_stage(identity, work)
    return identity.uri


def flips(content: bytes) -> list[bytes]:
    """Return the content with one bit of each of its bytes another, one at a time."""
    return [
        content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        for at in range(len(content))
    ]


def test_what_was_committed_is_handed_out(folder):
    for name, content in CONTENT.items():
        assert committed_file(folder, name).read_bytes() == content
    below = committed_folder(folder, "model")
    assert sorted(path.name for path in below.iterdir()) == ["config", "weights"]


def test_every_flip_is_told(folder):
    name = "table.parquet"
    for damaged in flips(CONTENT[name]):
        write_bytes(f"{folder}/{name}", damaged)
        with pytest.raises(IntegrityError) as told:
            committed_bytes(folder, name)
        assert f"{folder}/{name} " in str(told.value)
        assert "`--only curate --force`" in str(told.value)


@pytest.mark.parametrize("damaged", [None, b"", b"some row", b"some rows!", b"more rows"])
@pytest.mark.parametrize("was_read", [False, True])
def test_every_other_damage_is_told(folder, damaged, was_read):
    uri = f"{folder}/table.parquet"
    if was_read:
        committed_file(folder, "table.parquet")
    if damaged is None:
        remove(uri)
    else:
        write_bytes(uri, damaged)
    with pytest.raises(IntegrityError, match=r"table.parquet.*expected 9 bytes.*--only curate"):
        committed_file(folder, "table.parquet")


@pytest.mark.s3
@pytest.mark.slow
def test_damage_in_a_bucket_is_told_and_damage_of_the_copy_is_mended(
    s3_bucket, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
    folder = commit(s3_bucket)
    uri = f"{folder}/table.parquet"
    write_bytes(uri, b"some r0ws")
    with pytest.raises(IntegrityError, match=rf"{uri}.*--only curate --force"):
        committed_file(folder, "table.parquet")
    write_bytes(uri, b"some rows")
    path = committed_file(folder, "table.parquet")
    path.write_bytes(b"some r0ws")
    assert committed_file(folder, "table.parquet") == path
    assert path.read_bytes() == b"some rows"
    remove(uri)
    assert committed_bytes(folder, "table.parquet") == b"some rows"


def test_a_file_that_was_never_committed_is_no_part_of_it(folder):
    write_bytes(f"{folder}/stranger", b"x")
    with pytest.raises(IntegrityError, match="stranger is not among the files"):
        committed_file(folder, "stranger")
    with pytest.raises(IntegrityError, match="nothing holds no committed file"):
        committed_folder(folder, "nothing")


def test_no_byte_of_a_manifest_may_change(tmp_path):
    folder = Path(commit(str(tmp_path)))
    path = folder / "manifest.json"
    content = path.read_bytes()
    before = read_manifest(str(folder))
    for damaged in [*flips(content), content + b"\n", b" " + content, content[:-1], b"", b"null"]:
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError) as told:
            read_manifest(str(folder))
        assert f"{path} is not what was written there" in str(told.value)
        assert "`--only curate --force`" in str(told.value)
        assert "\n" not in str(told.value)
        assert "None" not in str(told.value)
    path.write_bytes(content)
    assert read_manifest(str(folder)) == before


def test_the_manifest_of_another_folder_is_refused(tmp_path):
    folder = Path(commit(str(tmp_path)))
    other = folder.rename(folder.with_name("other"))
    with pytest.raises(IntegrityError, match=r"record of .*--only curate --force"):
        read_manifest(str(other))


def test_a_folder_of_an_earlier_neuclip_is_refused_with_what_to_do(tmp_path):
    folder = Path(commit(str(tmp_path)))
    path = folder / "manifest.json"
    said = {**json.loads(path.read_bytes()), "schema_version": 1}
    path.write_text(json.dumps(said))
    says = (
        rf"schema 1, expected {SCHEMA_VERSION}: go on with that release at this root, or set root"
    )
    with pytest.raises(IntegrityError, match=says):
        read_manifest(str(folder))
    earlier = Manifest.model_validate_json(json.dumps({**said, "schema_version": 2}))
    path.write_bytes(earlier.to_bytes())
    with pytest.raises(IntegrityError, match="was written by another release of neuclip") as told:
        read_manifest(str(folder))
    assert "--force" not in str(told.value)


def test_a_manifest_that_is_gone_is_named(tmp_path):
    folder = Path(commit(str(tmp_path)))
    (folder / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"no manifest.json in .*--only curate --force"):
        read_manifest(str(folder))
