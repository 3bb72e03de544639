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
        (
            "test/nshards.txt",
            "3",
            r"counts 3 shards, but test/2\.tar is missing; .* test/0\.tar, test/1",
        ),
        ("test/nshards.txt", "1", r"counts 1 shards.*but test/1\.tar is there too"),
        ("test/nshards.txt", "2.0", "'2.0'"),
        ("test/nshards.txt", "-2", "'-2'"),
        ("test/nshards.txt", "\u0662", "number of shards"),
        ("test/nshards.txt", "9" * 30, "number of shards"),
        ("test/nshards.txt", "", "''"),
        ("test/nshards.txt", "many", "'many'"),
        ("test/nshards.txt", "0", "'0'"),
        ("classnames.txt", "", "a class on each line"),
        ("classnames.txt", "red\n\ngreen", "empty line"),
        ("zeroshot_classification_templates.txt", "a photo", r"'a photo' has no \{c\}"),
    ],
)
def test_wrong_content_is_refused(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_set(str(folder))


@pytest.mark.parametrize("mark", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r")
def test_a_line_ends_at_a_newline_and_nowhere_else(folder, mark):
    """Every name below a line that was cut in two would be another class."""
    (folder / "classnames.txt").write_bytes(f"red{mark}ish\r\nlight green\r\n".encode())
    templates = f"a{mark}photo of {{c}}\r\n{{c}}"
    (folder / "zeroshot_classification_templates.txt").write_bytes(templates.encode())
    suite = read_set(str(folder))
    assert suite.classnames == (f"red{mark}ish", "light green")
    assert suite.templates == (f"a{mark}photo of {{c}}", "{c}")


@pytest.mark.parametrize(
    "template", ["{c} {", "{c} {0}", "{c} {{}}", "{c:>9} {c}", "{c.__class__} {c}"]
)
def test_other_braces_of_a_template_are_text(folder, template):
    (folder / "zeroshot_classification_templates.txt").write_text(template)
    assert read_set(str(folder)).templates == (template,)


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"]
)
def test_text_that_is_not_utf_8_is_named(folder, name):
    (folder / name).write_bytes(b"caf\xe9 {c}\n")
    with pytest.raises(DataError, match=rf"{name} is not UTF-8"):
        read_set(str(folder))


def test_a_mark_before_the_text_is_no_part_of_it(folder):
    (folder / "classnames.txt").write_bytes("\ufeffred\ngreen".encode())
    assert read_set(str(folder)).classnames == ("red", "green")


@pytest.mark.parametrize("name", ["test/000001.tar", "test/2.tar", "test/more/0.tar"])
def test_a_tar_that_is_not_counted_is_named(folder, name):
    write_tar(folder / name, [("s9.png", b"i"), ("s9.cls", b"0")])
    with pytest.raises(DataError, match=rf"{name} is there too and would not be scored"):
        read_set(str(folder))


@pytest.mark.parametrize(
    "name", ["test/README.md", "test/.0.tar", "test/0.tar.part", "test/0.json", "train/0.tar"]
)
def test_other_files_do_no_harm(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert len(read_set(str(folder)).shard_uris) == 2
