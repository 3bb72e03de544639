import pytest
from towers.tiny import write_tar

from neuclip.foundation.errors import DataError
from neuclip.loading.evaluation_sets import read_set


@pytest.fixture
def folder(tmp_path):
    """A whole classification set."""
    base = tmp_path / "wds_vtab-colours_test"
    write_tar(base / "test" / "0.tar", [("s0.png", b"i"), ("s0.cls", b"0")])
    write_tar(base / "test" / "1.tar", [("s1.png", b"i"), ("s1.cls", b"1")])
    (base / "test" / "nshards.txt").write_text("2\n")
    (base / "classnames.txt").write_text("red\nlight green\n")
    (base / "zeroshot_classification_templates.txt").write_text("a photo of {c}\n{c}")
    return base


def test_a_set_is_read(folder):
    suite = read_set(str(folder))
    assert (suite.name, suite.kind) == ("vtab-colours", "classification")
    assert suite.classnames == ("red", "light green")
    assert suite.templates == ("a photo of {c}", "{c}")
    assert [sample.key for sample in suite.samples()] == ["s0", "s1"]


def test_a_retrieval_set_needs_no_classes(folder):
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (folder / name).unlink()
    (folder / "dataset_type.txt").write_text("retrieval\n")
    assert read_set(str(folder)).kind == "retrieval"


def test_the_version_follows_everything_that_is_read_and_nothing_else(folder, monkeypatch):
    first = read_set(str(folder)).suite_version
    (folder / "README.md").write_text("not read")
    assert read_set(str(folder)).suite_version == first
    seen = {first}
    for name in ("classnames.txt", "zeroshot_classification_templates.txt", "test/1.tar"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(
            content.replace(b"red", b"rot").replace(b"photo", b"foto").replace(b"s1", b"s2")
        )
        seen.add(read_set(str(folder)).suite_version)
        (folder / name).write_bytes(content)
    monkeypatch.setattr("neuclip.loading.evaluation_sets.EVALUATION_VERSION", 10_000)
    seen.add(read_set(str(folder)).suite_version)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt"]
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        read_set(str(folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test/nshards.txt", "3", r"counts 3 shards, but test/2\.tar"),
        ("test/nshards.txt", "many", "'many'"),
        ("test/nshards.txt", "0", "'0'"),
        ("classnames.txt", "", "a class on each line"),
        ("classnames.txt", "red\n\ngreen", "empty line"),
        ("zeroshot_classification_templates.txt", "a photo", r"'a photo' has no \{c\}"),
        ("dataset_type.txt", "multilabel", "'multilabel'"),
    ],
)
def test_wrong_content_is_refused(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_set(str(folder))
