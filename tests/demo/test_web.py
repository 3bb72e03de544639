"""Oracle: the shares, layouts and properties that the demo promises, counted in a folder it made."""

import io
import tarfile
from collections import Counter
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest
from PIL import Image

from neuclip.demo.evaluation_sets import CLASSES
from neuclip.demo.server import serving
from neuclip.demo.settings import WebSettings
from neuclip.demo.web import DEFECTS, is_drawn, make_pair, prepare
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.ids import is_uid

PAIRS = 1000


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> WebSettings:
    folder = tmp_path_factory.mktemp("demo") / "web"
    return WebSettings(folder=folder, pairs=PAIRS, evaluation_scenes=100, image_px=32)


@pytest.fixture(scope="module")
def folder(settings):
    prepare(settings)
    return settings.folder


@pytest.fixture(scope="module")
def rows(folder):
    return pq.read_table(folder / "urls.parquet").to_pylist()


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tar_members(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def test_the_same_settings_make_the_same_bytes(settings, folder, tmp_path):
    again = settings.model_copy(update={"folder": tmp_path / "again"})
    prepare(again)
    assert contents(again.folder) == contents(folder)


def test_preparing_again_touches_nothing_and_new_settings_draw_anew(tmp_path):
    settings = WebSettings(
        folder=tmp_path / "web", pairs=100, evaluation_scenes=50, image_px=16, port=5000
    )
    folder = settings.folder
    prepare(settings)
    picture = next(folder.glob("images/*/*.jpg"))
    before = picture.stat().st_mtime_ns
    (folder / "mine.yaml").write_text("a recipe")
    prepare(settings)
    assert picture.stat().st_mtime_ns == before
    for name, value in (("pairs", 120), ("seed", 1), ("port", 5001)):
        settings = settings.model_copy(update={name: value})
        assert not is_drawn(settings)
        prepare(settings)
        assert is_drawn(settings)
    rows = pq.read_table(folder / "urls.parquet").to_pylist()
    assert len(rows) == 120
    assert all(urlsplit(row["url"]).port == 5001 for row in rows)
    assert (folder / "mine.yaml").read_text() == "a recipe"
    assert [path.name for path in tmp_path.iterdir()] == ["web"]


@pytest.mark.parametrize("marker", ["being drawn", "", "{}"])
def test_a_folder_whose_drawing_was_ended_is_drawn_anew(tmp_path, marker):
    settings = WebSettings(folder=tmp_path / "web", pairs=100, evaluation_scenes=50, image_px=16)
    prepare(settings)
    whole = contents(settings.folder)
    (settings.folder / "urls.parquet").unlink()
    (settings.folder / "demo.json").write_text(marker)
    prepare(settings)
    assert contents(settings.folder) == whole


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ConfigError, match="not empty"):
        prepare(WebSettings(folder=tmp_path, pairs=100))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_defects_come_in_their_shares(settings, rows):
    """Oracle: the binomial distribution, five standard deviations."""
    pairs = [make_pair(number, settings) for number in range(PAIRS)]
    found = Counter(pair.defect for pair in pairs)
    for defect, share in DEFECTS.items():
        spread = 5 * (PAIRS * share * (1 - share)) ** 0.5
        assert abs(found[defect] - PAIRS * share) <= spread
    assert len({pair.uid for pair in pairs}) == PAIRS
    assert all(is_uid(pair.uid) for pair in pairs)
    whole = {pair.content for pair in pairs if pair.defect in (None, "short")}
    duplicates = [pair for pair in pairs if pair.defect == "duplicate"]
    assert duplicates
    assert all(pair.content in whole for pair in duplicates)
    assert [row["uid"] for row in rows] == [pair.uid for pair in pairs]


def test_uids_do_not_depend_on_the_port(settings):
    other = settings.model_copy(update={"port": 9999})
    assert make_pair(5, other) == make_pair(5, settings)


def test_the_server_serves_the_table(folder, rows, settings):
    answers = Counter()
    with serving(folder, 0) as server:
        for number, row in list(enumerate(rows))[:400]:
            try:
                with urlopen(server.url + urlsplit(row["url"]).path) as answer:
                    content = answer.read()
            except HTTPError as error:
                answers[error.code] += 1
                error.close()
            else:
                answers[200] += 1
                assert content == make_pair(number, settings).content
    expected = Counter(make_pair(number, settings).defect for number in range(400))
    assert answers[404] == expected["missing"]
    assert answers[500] == expected["broken_server"]
    assert answers[200] == 400 - answers[404] - answers[500]


def test_evaluation_captions_are_not_in_the_table(folder, rows):
    members = tar_members(folder / "evaluation/wds_scenes_retrieval/test/0.tar")
    captions = [text.decode() for name, text in members.items() if name.endswith(".txt")]
    in_table = {row[column] for row in rows for column in ("caption", "rewrite")}
    assert len(captions) == len(set(captions)) == 100
    assert not in_table & set(captions)


def test_evaluation_pictures_are_not_in_the_table(folder):
    in_table = {path.read_bytes() for path in folder.glob("images/*/*.jpg")}
    for name in ("shapes", "retrieval"):
        members = tar_members(folder / f"evaluation/wds_scenes_{name}/test/0.tar")
        pictures = [content for member, content in members.items() if member.endswith(".jpg")]
        assert len(pictures) == 100
        assert not in_table & set(pictures)


def test_the_shapes_set_has_the_layout_of_wds_benchmarks(folder):
    shapes = folder / "evaluation/wds_scenes_shapes"
    assert (shapes / "test/nshards.txt").read_text().strip() == "1"
    assert len((shapes / "classnames.txt").read_text().splitlines()) == len(CLASSES)
    templates = (shapes / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert all(template.count("{c}") == 1 for template in templates)
    members = tar_members(shapes / "test/0.tar")
    labels = Counter(int(v) for name, v in members.items() if name.endswith(".cls"))
    assert set(labels) == set(range(len(CLASSES)))
    assert max(labels.values()) - min(labels.values()) <= 1
    kind = folder / "evaluation/wds_scenes_retrieval/dataset_type.txt"
    assert kind.read_text().strip() == "retrieval"


def test_pictures_show_the_colour_of_their_class(folder):
    """Oracle: the class names, compared with the most saturated pixels."""
    shapes = folder / "evaluation/wds_scenes_shapes"
    names = (shapes / "classnames.txt").read_text().splitlines()
    hues = {"red": 0, "orange": 20, "yellow": 36, "green": 94, "blue": 162, "purple": 202}
    members = tar_members(shapes / "test/0.tar")
    for name in [name for name in members if name.endswith(".jpg")]:
        with Image.open(io.BytesIO(members[name])) as picture:
            pixels = list(picture.convert("HSV").get_flattened_data())
        saturated = Counter(hue for hue, saturation, value in pixels if saturation > 120 < value)
        hue = saturated.most_common(1)[0][0]
        colour = min(hues, key=lambda c: min(abs(hue - hues[c]), 256 - abs(hue - hues[c])))
        target = int(members[name.replace(".jpg", ".cls")])
        assert names[target].startswith(colour)


def test_a_path_cannot_leave_the_folder(folder):
    (folder.parent / "secret.txt").write_text("secret")
    with serving(folder, 0) as server:
        for path in (
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/images/../../secret.txt",
            "//etc/hosts",
        ):
            with pytest.raises(HTTPError, match="404") as error:
                urlopen(server.url + path)
            error.value.close()


def test_a_port_that_is_taken_names_the_option(folder):
    with (
        serving(folder, 0) as server,
        pytest.raises(ConfigError, match=r"--port \d+"),
        serving(folder, server.server_port),
    ):
        pass


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="found none"), serving(tmp_path / "nowhere", 0):
        pass
