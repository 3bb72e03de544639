import json
from collections import Counter
from pathlib import Path

import pytest
from made.committed import commit_by_hand
from towers.tiny import COLOURS, picture, tiny_towers, train_a_little, write_tar

from neuclip.evaluation.config import EvaluateConfig
from neuclip.evaluation.main_metric import main_metric, require_metrics
from neuclip.evaluation.run import run_evaluate
from neuclip.evaluation.targets import judge
from neuclip.foundation.errors import ConfigError, DataError, IntegrityError
from neuclip.foundation.progress import silent
from neuclip.loading.evaluation_sets import read_set
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Workspace
from neuclip.storage.files import sha256_of
from neuclip.towers.files import WEIGHTS_FILE
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
    model_sha256 = sha256_of(str(folder / "model" / WEIGHTS_FILE))
    commit_by_hand(folder, "select", summary={"model_sha256": model_sha256})
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
        root=f"{workspace.uri}/lake",
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
        "in": 18,
        "out": 14,
        "dropped": {"no_cls": 1, "no_image": 2, "undecodable_image": 1},
    }
    (row,) = rows
    assert (row["set"], row["kind"], row["samples"]) == ("colours", "classification", 14)
    assert row["not_scored"] == {"no_cls": 1, "no_image": 2, "undecodable_image": 1}
    assert (row["main_metric"], row["main_metric_source"]) == ("acc1", "default")
    assert row["main_value"] == row["metrics"]["acc1"] > 0.8
    assert row["chance"] == pytest.approx(1 / 7)
    assert set(row["metrics"]) == {"acc1", "acc5", "mean_per_class_recall", "f1_macro"}
    assert row["intervals"].keys() == row["metrics"].keys()
    low, high = row["intervals"]["acc1"]
    assert 0 <= low <= row["main_value"] <= high <= 1
    assert row["model_sha256"] == sha256_of(str(select / "model" / "open_clip_model.safetensors"))
    assert len(row["suite_version"]) == 16


NOT_SCORED = [
    ([("x.png", picture("red"))], "no_cls"),
    ([("x.png", picture("red")), ("x.cls", b"")], "no_cls"),
    ([("x.png", picture("red")), ("x.cls", b" \n")], "no_cls"),
    ([("x.png", picture("red")), ("x.cls", b"7")], "bad_label"),
    ([("x.png", picture("red")), ("x.cls", b"-1")], "bad_label"),
    ([("x.png", picture("red")), ("x.cls", b"2.0")], "bad_label"),
    ([("x.png", picture("red")), ("x.cls", b"red")], "bad_label"),
    ([("x.png", picture("red")), ("x.cls", b"1 2")], "bad_label"),
    ([("x.png", picture("red")), ("x.cls", b"\xef\xbb\xbf1")], "bad_label"),
    ([("x.png", picture("red")), ("x.cls", "\u0661".encode())], "bad_label"),
    ([("x.png", picture("red")), ("x.cls", b"1" * 5_000)], "bad_label"),
    ([("x.png", picture("red")), ("x.npy", b"1")], "no_cls"),
    ([("x.png", b""), ("x.cls", b"0")], "undecodable_image"),
    ([("x.png", picture("red")[:90]), ("x.cls", b"0")], "undecodable_image"),
    ([("x.gif", picture("red")), ("x.cls", b"0")], "no_image"),
    ([("x.cls", b"0")], "no_image"),
    ([("x.npy", b"0"), ("x.pkl", b"0")], "no_image"),
    ([("n01.7.png", picture("red")), ("n01.7.cls", b"0")], "dot_in_key"),
    ([("n01.7.JPEG", picture("red")), ("n01.7.cls", b"0")], "dot_in_key"),
    ([("a/b.c/n01.7.png", picture("red")), ("a/b.c/n01.7.cls", b"0")], "dot_in_key"),
]


def test_every_sample_that_is_not_scored_is_counted_with_its_reason(select, workspace, tmp_path):
    members = [part for n, colour in enumerate(NAMES * 4) for part in labelled(colour, n)]
    for number, (extra, _) in enumerate(NOT_SCORED):
        members += [(f"{number}/{name}", content) for name, content in extra]
    outcome, (row,) = evaluate(select, workspace, classification_set(tmp_path, members))
    reasons = Counter(reason for _, reason in NOT_SCORED)
    assert (row["samples"], row["not_scored"]) == (28, dict(reasons))
    assert outcome.ledger.entered == 28 + len(NOT_SCORED)
    assert outcome.summary["colours"]["not_scored"] == row["not_scored"]


@pytest.mark.parametrize(
    ("extra", "reason"), [case for case in NOT_SCORED if case[1] != "undecodable_image"]
)
def test_why_a_sample_is_not_scored(tmp_path, extra, reason):
    suite = read_set(classification_set(tmp_path, extra))
    (sample,) = suite.samples()
    is_scored, ((found, words),) = judge(sample, suite, main_metric(suite).kind)
    assert (is_scored, found) == (False, reason)
    assert sample.key in words


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("x.PNG", "x.CLS"),
        ("x.jpeg", "x.cls"),
        ("x.Webp", "x.cls"),
        ("v1.0/x.png", "v1.0/x.cls"),
        ("./x.png", "./x.cls"),
    ],
)
def test_a_sample_is_scored_however_its_suffix_and_folder_are_written(
    select, workspace, tmp_path, image, label
):
    members = [(image, picture("red", kind="PNG")), (label, b" 0 \r\n")]
    uri = classification_set(tmp_path, [*members, ("x.seg.npy", b"mask"), ("._x.png", b"mac")])
    if not image.startswith("x"):
        uri = classification_set(tmp_path, members, "wds_other_test")
    _, (row,) = evaluate(select, workspace, uri)
    assert (row["samples"], row["not_scored"]) == (1, {})


def test_every_picture_with_a_second_dot_is_counted(select, workspace, tmp_path):
    """They share one key: webdataset makes one sample of them, without an image."""
    members = [part for n, colour in enumerate(NAMES * 2) for part in labelled(colour, n)]
    for number in range(9):
        members += [(f"n01.{number}.png", picture("red")), (f"n01.{number}.cls", b"0")]
    outcome, (row,) = evaluate(select, workspace, classification_set(tmp_path, members))
    assert (row["samples"], row["not_scored"]) == (14, {"dot_in_key": 9})
    assert outcome.ledger.entered == 23
    only = classification_set(tmp_path, members[28:], "wds_only_test")
    with pytest.raises(DataError, match=r"9 of the 9 .* n01\.0\.png has a second dot; a key ends"):
        evaluate(select, workspace, only)


def test_a_mask_beside_a_picture_is_no_sample_of_its_own(select, workspace, tmp_path):
    members = [("s.png", picture("red")), ("s.cls", b"0"), ("s.seg.png", picture("red"))]
    _, (row,) = evaluate(select, workspace, classification_set(tmp_path, members))
    assert (row["samples"], row["not_scored"]) == (1, {})


def test_of_several_pictures_of_a_sample_clip_benchmarks_is_taken(select, workspace, tmp_path):
    """Its order is webp, png, jpg, jpeg."""
    members = [
        ("s.jpg", b"broken"),
        ("s.webp", picture("red")),
        ("s.png", b"broken"),
        ("s.cls", b"0"),
    ]
    _, (row,) = evaluate(select, workspace, classification_set(tmp_path, members))
    assert row["samples"] == 1


def test_a_key_in_two_shards_is_two_samples(select, workspace, tmp_path):
    uri = classification_set(tmp_path, labelled("red", 0))
    write_tar(tmp_path / "wds_colours_test/test/1.tar", labelled("red", 0))
    write_tar(tmp_path / "wds_colours_test/test/2.tar", [])
    (tmp_path / "wds_colours_test/test/nshards.txt").write_text("3")
    _, (row,) = evaluate(select, workspace, uri)
    assert row["samples"] == 2


def test_a_set_most_of_which_cannot_be_scored_is_refused(select, workspace, tmp_path):
    members = [*labelled("red", 0), *labelled("green", 1)]
    half = [part for n in "ab" for part in ((f"{n}.png", b"broken"), (f"{n}.cls", b"0"))]
    _, (row,) = evaluate(select, workspace, classification_set(tmp_path, members + half))
    assert (row["samples"], row["not_scored"]) == (2, {"undecodable_image": 2})
    more = [*members, *half, ("c.png", picture("red")), ("c.cls", b"99")]
    with pytest.raises(DataError, match=r"3 of the 5 .* set colours .*50%.*c\.cls holds '99'"):
        evaluate(select, workspace, classification_set(tmp_path, more))


@pytest.mark.parametrize("members", [[], [("README", b"x")], [("__meta__", b"x")]])
def test_a_set_without_a_sample_is_refused(select, workspace, tmp_path, members):
    with pytest.raises(DataError, match="the set colours has no sample in its 1 shards"):
        evaluate(select, workspace, classification_set(tmp_path, members))


def some(tmp_path, name):
    members = [part for n, colour in enumerate(NAMES) for part in labelled(colour, n)]
    return classification_set(tmp_path, members, name)


@pytest.mark.parametrize(
    "name",
    [
        "wds_vtab-pets_test",
        "wds_pets",
        "oxford-iiit-pet",
        "wds_vtab-caltech101_test",
        "Caltech-101",
        "wds_fgvc_aircraft_test",
        "FGVC-Aircraft",
        "wds_vtab-flowers_test",
        "oxford_flowers102",
    ],
)
def test_sets_that_datacomp_tells_by_the_mean_over_classes(tmp_path, name):
    found = main_metric(read_set(some(tmp_path, name)))
    assert found[:2] == ("mean_per_class_recall", "known")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wds_imagenet1k_test", "known"),
        ("wds_imagenet-a", "known"),
        ("wds_wilds-camelyon17_test", "known"),
        ("wds_flowershop_test", "default"),
        ("wds_mypets", "default"),
        ("test", "default"),
    ],
)
def test_sets_that_are_told_by_acc1(tmp_path, name, source):
    assert main_metric(read_set(some(tmp_path, name)))[:2] == ("acc1", source)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("wds_misc-winogavil", "jaccard_score_10-12"),
        ("wds_fairness-fairface_test", "accuracies by group"),
        ("wds_utkface_test", "accuracies by group"),
    ],
)
def test_a_set_of_a_metric_that_is_not_computed_is_refused_by_name(tmp_path, name, metric):
    uri = some(tmp_path, name)
    for refuse in (lambda: main_metric(read_set(uri)), lambda: require_metrics([uri])):
        with pytest.raises(DataError, match=rf"told by {metric}, which is not computed here"):
            refuse()
    (tmp_path / name / "main_metric.txt").write_text("acc1\n")
    assert main_metric(read_set(uri))[:2] == ("acc1", "declared")
    require_metrics([uri])


def test_such_a_set_is_refused_before_any_is_scored(select, workspace, tmp_path):
    uris = [some(tmp_path, name) for name in ("wds_colours", "wds_utkface")]
    with pytest.raises(DataError, match="the set utkface is told by accuracies by group"):
        evaluate(select, workspace, *uris)
    assert not (workspace.output / "scores.json").exists()


@pytest.mark.parametrize(
    ("declared", "metric"),
    [("acc5", "acc5"), (" ACC1\r\n", "acc1"), ("mean_per_class_recall", "mean_per_class_recall")],
)
def test_a_declared_metric_is_taken(select, workspace, tmp_path, declared, metric):
    uri = some(tmp_path, "wds_imagenet1k_test")
    first = evaluate(select, workspace, uri)[1][0]
    assert (first["main_metric"], first["main_metric_source"]) == ("acc1", "known")
    (tmp_path / "wds_imagenet1k_test/main_metric.txt").write_bytes(declared.encode())
    _, (row,) = evaluate(select, workspace, uri)
    assert (row["main_metric"], row["main_metric_source"]) == (metric, "declared")
    assert row["main_value"] == row["metrics"][metric]
    assert row["chance"] == pytest.approx(5 / 7 if metric == "acc5" else 1 / 7)
    assert row["suite_version"] != first["suite_version"]


@pytest.mark.parametrize(
    "declared", ["", "F1-macro", "mean_recall_at_1", "acc1\nacc5", "top-1", "x" * 9999]
)
def test_a_declared_metric_that_is_not_computed_is_refused(tmp_path, declared):
    uri = some(tmp_path, "wds_mine_test")
    (tmp_path / "wds_mine_test/main_metric.txt").write_text(declared)
    with pytest.raises(DataError, match=r"main_metric\.txt of the set mine declares .* acc1, acc5"):
        main_metric(read_set(uri))


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


def finder(base, members, metric=None):
    write_tar(base / "test" / "0.tar", members)
    (base / "test" / "nshards.txt").write_text("1")
    (base / "dataset_type.txt").write_text("retrieval")
    if metric is not None:
        (base / "main_metric.txt").write_text(metric)
    return str(base)


@pytest.mark.parametrize("mark", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r")
def test_a_caption_ends_at_a_newline_and_nowhere_else(select, workspace, tmp_path, mark):
    """Two images with a caption each, in which a line of another kind ends: chance is one of two."""
    members = [
        part
        for n, colour in enumerate(("red", "green"))
        for part in ((f"{n}.jpg", picture(colour)), (f"{n}.txt", f"a{mark}{colour}\r\n".encode()))
    ]
    _, (row,) = evaluate(select, workspace, finder(tmp_path / "wds_mine", members))
    assert row["chance"] == pytest.approx(1 / 2)
    assert row["metrics"]["image_to_text_recall_at_5"] == 1.0


@pytest.mark.parametrize(
    ("text", "reason"), [(b"", "no_txt"), (b"\n \r\n", "no_txt"), (b"caf\xe9", "bad_text")]
)
def test_a_picture_without_a_caption_is_counted(select, workspace, tmp_path, text, reason):
    members = [
        ("a.jpg", picture("red")),
        ("a.txt", b"red"),
        ("b.jpg", picture("red")),
        ("b.txt", text),
    ]
    _, (row,) = evaluate(select, workspace, finder(tmp_path / "wds_mine", members))
    assert (row["samples"], row["not_scored"]) == (1, {reason: 1})


@pytest.mark.parametrize(
    ("declared", "metric", "chance"),
    [
        (None, "mean_recall_at_1", 1 / 3),
        ("mean_recall@1", "mean_recall_at_1", 1 / 3),
        ("image_to_text_recall@5", "image_to_text_recall_at_5", 1.0),
        ("text_to_image_recall_at_1", "text_to_image_recall_at_1", 1 / 3),
    ],
)
def test_the_main_metric_of_retrieval(select, workspace, tmp_path, declared, metric, chance):
    members = [
        part
        for n, colour in enumerate(NAMES[:3])
        for part in ((f"{n}.jpg", picture(colour)), (f"{n}.txt", colour.encode()))
    ]
    _, (row,) = evaluate(select, workspace, finder(tmp_path / "wds_flickr30k", members, declared))
    assert row["main_metric"] == metric
    assert row["main_metric_source"] == ("declared" if declared else "known")
    assert row["chance"] == pytest.approx(chance)


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


def test_a_set_of_a_kind_that_is_not_scored_is_refused(select, workspace, tmp_path):
    uri = classification_set(tmp_path, [])
    Path(uri, "dataset_type.txt").write_text("captioning\n")
    with pytest.raises(
        DataError,
        match=r"'captioning'; sets of kind classification, multilabel, retrieval and choice can be scored",
    ):
        evaluate(select, workspace, uri)


def parts_of(workspace) -> dict[str, str]:
    """Return the sets that were scored -> when."""
    found = {}
    for path in Path(workspace.uri, "lake/evaluate/parts").glob("*/manifest.json"):
        manifest = read_manifest(str(path.parent))
        found[manifest.inputs["set"].split()[0]] = manifest.started_at
    return found


def test_another_set_is_scored_alone(select, workspace, tmp_path):
    """Oracle: when each part was committed, and the rows of one evaluation of all."""
    members = [part for n, colour in enumerate(NAMES * 2) for part in labelled(colour, n)]
    one = classification_set(tmp_path, members, "wds_one_test")
    two = classification_set(tmp_path, members[:14], "wds_two_test")
    _, first = evaluate(select, workspace, one)
    before = parts_of(workspace)
    outcome, rows = evaluate(select, workspace, two, one)
    assert parts_of(workspace) == {**before, "two": parts_of(workspace)["two"]}
    assert rows[1:] == first
    assert [row["set"] for row in rows] == ["two", "one"]
    assert len(outcome.parts) == 2
    assert outcome.ledger.out == 14 + 7
    Path(two, "classnames.txt").write_text("\n".join(reversed(NAMES)))
    _, changed = evaluate(select, workspace, two)
    assert changed[0]["main_value"] != rows[0]["main_value"]


def test_a_damaged_score_is_told_with_the_stage_to_do_again(select, workspace, tmp_path):
    members = [part for n, colour in enumerate(NAMES) for part in labelled(colour, n)]
    one = classification_set(tmp_path, members)
    evaluate(select, workspace, one)
    (path,) = Path(workspace.uri, "lake/evaluate/parts").glob("*/score.json")
    path.write_bytes(path.read_bytes().replace(b"acc1", b"acc2"))
    with pytest.raises(IntegrityError, match=r"score.json .*`--only evaluate --force`"):
        evaluate(select, workspace, one)
