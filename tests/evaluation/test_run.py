import json

import pytest
from towers.tiny import COLOURS, picture, tiny_towers, train_a_little, write_tar

from neuclip.evaluation.config import EvaluateConfig
from neuclip.evaluation.run import run_evaluate
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.progress import silent
from neuclip.stages.workspace import Workspace
from neuclip.storage.files import sha256_of
from neuclip.towers.folder import save_towers

NAMES = list(COLOURS)


def classification_set(base, members, name="wds_colours_test"):
    write_tar(base / name / "test" / "0.tar", members)
    (base / name / "test" / "nshards.txt").write_text("1")
    (base / name / "classnames.txt").write_text("\n".join(NAMES))
    (base / name / "zeroshot_classification_templates.txt").write_text("a photo of {c}")
    return str(base / name)


def labelled(colour, number):
    key = f"s{number:07d}"
    return [
        (f"{key}.png", picture(colour, seed=500 + number, kind="PNG")),
        (f"{key}.cls", str(NAMES.index(colour)).encode()),
    ]


@pytest.fixture(scope="module")
def select(tmp_path_factory):
    folder = tmp_path_factory.mktemp("select")
    save_towers(train_a_little(tiny_towers()), folder / "model")
    return folder


@pytest.fixture
def workspace(tmp_path):
    for name in ("output", "scratch"):
        (tmp_path / name).mkdir()
    return Workspace(uri=str(tmp_path), output=tmp_path / "output", scratch=tmp_path / "scratch")


def evaluate(select, workspace, *sets):
    outcome = run_evaluate(
        EvaluateConfig(sets=list(sets), batch_size=5),
        select_uri=str(select),
        workspace=workspace,
        progress=silent,
    )
    outcome.ledger.check("evaluate")
    return outcome, json.loads((workspace.output / "scores.json").read_text())


def test_a_model_that_knows_the_classes_scores_and_the_rest_is_counted(select, workspace, tmp_path):
    members = [part for n, colour in enumerate(NAMES * 2) for part in labelled(colour, n)]
    members += [
        ("x0.png", b"broken"),
        ("x0.cls", b"0"),
        ("x1.png", picture("red")),
        ("x2.cls", b"0"),
    ]
    members += [("x3.npy", b"never read")]
    outcome, rows = evaluate(select, workspace, classification_set(tmp_path, members))
    assert outcome.ledger.model_dump(by_alias=True) == {
        "in": 17,
        "out": 14,
        "dropped": {"no_cls": 1, "no_image": 1, "undecodable_image": 1},
    }
    (row,) = rows
    assert (row["set"], row["kind"], row["samples"]) == ("colours", "classification", 14)
    assert row["main_metric"] == "acc1"
    assert row["main_value"] == row["metrics"]["acc1"] > 0.8
    assert row["chance"] == pytest.approx(1 / 7)
    assert set(row["metrics"]) == {"acc1", "acc5", "mean_per_class_recall"}
    assert row["model_sha256"] == sha256_of(str(select / "model" / "open_clip_model.safetensors"))
    assert len(row["suite_version"]) == 16


def test_sets_of_other_metrics_are_reported_by_them(select, workspace, tmp_path):
    """DataComp reports Oxford pets by the mean over classes."""
    members = [part for n, colour in enumerate(NAMES) for part in labelled(colour, n)]
    _, rows = evaluate(
        select, workspace, classification_set(tmp_path, members, "wds_vtab-pets_test")
    )
    assert rows[0]["main_metric"] == "mean_per_class_recall"


def test_retrieval_with_several_captions(select, workspace, tmp_path):
    """Seven images with two captions each: 1/7 of the texts are an image's own, and the other way round."""
    base = tmp_path / "wds_finder"
    members = [
        part
        for number, colour in enumerate(NAMES)
        for part in (
            (f"s{number}.jpg", picture(colour, seed=70 + number)),
            (f"s{number}.txt", f"a photo of {colour}\n\n {colour} \n".encode()),
        )
    ]
    write_tar(base / "test" / "0.tar", [*members, ("x.jpg", picture("red")), ("x.txt", b" \n")])
    (base / "test" / "nshards.txt").write_text("1")
    (base / "dataset_type.txt").write_text("retrieval")
    outcome, rows = evaluate(select, workspace, str(base))
    assert outcome.ledger.dropped == {"no_txt": 1}
    assert rows[0]["chance"] == pytest.approx(1 / 7)
    assert rows[0]["main_metric"] == "mean_recall_at_1"
    metrics = rows[0]["metrics"]
    assert metrics["mean_recall_at_1"] == pytest.approx(
        (metrics["image_to_text_recall_at_1"] + metrics["text_to_image_recall_at_1"]) / 2
    )
    assert metrics["image_to_text_recall_at_1"] > 0.8
    assert metrics["text_to_image_recall_at_10"] == 1.0


def test_no_sets_leave_an_empty_table(select, workspace):
    outcome, rows = evaluate(select, workspace)
    assert (rows, outcome.ledger.entered) == ([], 0)


@pytest.mark.parametrize("label", [b"7", b"-1", b"red"])
def test_a_label_that_is_no_class_is_refused(select, workspace, tmp_path, label):
    uri = classification_set(tmp_path, [("s.png", picture("red")), ("s.cls", label)])
    with pytest.raises(DataError, match="expected 0 to 6"):
        evaluate(select, workspace, uri)


def test_a_set_without_a_readable_image_is_refused(select, workspace, tmp_path):
    uri = classification_set(tmp_path, [("s.png", b"broken"), ("s.cls", b"0")])
    with pytest.raises(DataError, match="1 undecodable_image"):
        evaluate(select, workspace, uri)


def test_two_sets_of_one_name_are_refused(select, workspace, tmp_path):
    members = labelled("red", 0)
    uris = [
        classification_set(tmp_path, members, name) for name in ("wds_colours", "wds_colours_test")
    ]
    with pytest.raises(ConfigError, match="colours, colours"):
        evaluate(select, workspace, *uris)
