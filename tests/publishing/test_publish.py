import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import open_clip
import pytest
import yaml
from made.committed import commit_by_hand
from made.demo_web import DEMO_RECIPE
from publishing.journey_folders import RECIPE, make_journey

from neuclip.foundation.errors import StorageError
from neuclip.foundation.progress import silent
from neuclip.publishing.card import limits
from neuclip.publishing.config import PublishConfig
from neuclip.publishing.facts import read_facts
from neuclip.publishing.run import run_publish
from neuclip.recipe import load_recipe
from neuclip.stage_list import FEEDING
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Workspace

HOSTILE = "<script>alert('{colour}')</script><img src=x onerror=alert(1)> & \" </style>"


def publish(base, uris, *, recipe=RECIPE, **config):
    for name in ("output", "scratch"):
        (base / name).mkdir()
    workspace = Workspace(uri=str(base), output=base / "output", scratch=base / "scratch")
    config = {"name": "colours-b8", "license": "mit", "sample_grid": 12} | config
    outcome = run_publish(
        PublishConfig(**config),
        recipe_yaml=recipe,
        uris=uris,
        data_stages=FEEDING,
        workspace=workspace,
        progress=silent,
    )
    return outcome, workspace.output


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    base = tmp_path_factory.mktemp("journey")
    return publish(base, make_journey(base, caption=HOSTILE))


class Elements(HTMLParser):
    """Oracle: an HTML parser tells elements and attributes from text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(published):
    return (published[1] / "report.html").read_text()


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def test_open_clip_reads_the_published_folder(published):
    outcome, output = published
    assert outcome.ledger.model_dump(by_alias=True) == {"in": 1, "out": 1, "dropped": {}}
    model = open_clip.create_model(f"local-dir:{output / 'model'}")
    assert model.visual.image_size == (32, 32)
    assert open_clip.get_tokenizer(f"local-dir:{output / 'model'}")(["a"]).shape == (1, 16)
    names = ["README.md", "open_clip_config.json", "open_clip_model.safetensors"]
    assert sorted(p.name for p in (output / "model").iterdir()) == names


def test_the_page_refers_to_nothing_outside(elements, page):
    for tag, attributes in elements.found:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "a"}, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
            if name in {"src", "href", "xlink:href", "srcset", "action", "poster", "data"}:
                assert value.startswith(
                    ("data:image/jpeg;base64,", "data:image/svg+xml;base64,")
                ), (tag, name)
    assert not re.search(r"url\(|@import|https?://", page)


def test_a_hostile_caption_is_text(elements, page):
    assert "<script>alert('red')</script>" in elements.text
    assert "onerror" not in " ".join(name for _, attrs in elements.found for name in attrs)
    pictures = [a for tag, a in elements.found if tag == "img" and "jpeg" in a["src"]]
    assert len(pictures) == 12 + 2  # of curation
    assert "<script>alert('a dropped')</script>" in elements.text
    assert "<b>example.org</b>" in elements.text
    assert page.count("<script") == 0


def test_the_policy_lets_in_the_one_style_sheet_and_no_more(elements, page):
    policy = next(a["content"] for tag, a in elements.found if a.get("http-equiv"))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_page_says_what_happened(elements):
    said = " ".join(elements.text.split())
    for part in (
        "colours-b8",
        "61.3 %",
        "chance 10.0 %",
        "9 731 went on",
        "1 902 download failed: 404",
        "152 held out for choosing the checkpoint",
        "Step 400 is the best of 3",
        "Less than twice chance on colours-finder",
        "Normalizer error",
        "table: table.parquet",
        "0000c0ffee000000",
        "3fa9c1d2e4b5a697",
        "surface with fine grain",
        "0.75 alt + 0.25 <i>vecap</i>",
        "24.8 % <i>vecap</i> · 75.2 % alt",
        "the text of main; edited by EDA",
    ):
        assert part in said, part


def test_the_page_is_the_same_again(published, tmp_path, page):
    _, output = publish(tmp_path, make_journey(tmp_path, caption=HOSTILE))
    assert (output / "report.html").read_text() == page
    assert (output / "model" / "README.md").read_bytes() == (
        published[1] / "model" / "README.md"
    ).read_bytes()


def test_the_card_has_its_front_matter_and_tables(published):
    card = (published[1] / "model" / "README.md").read_text()
    _, front_matter, body = card.split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "license": "mit",
        "tags": ["clip", "neuclip"],
    }
    assert (
        "| colours | acc1 (by default) | 61.3\u202f% | 58.3\u202f% to 64.3\u202f% | 10.0\u202f% | 1000 | 0 "
        "| `3fa9c1d2e4b5a697` |" in body
    )
    assert "| 398 | 2 |" in body
    assert (
        "| acquire | 12400 | 9731 | 1902 download failed: 404, 512 timeout, 255 not an image |"
        in body
    )
    assert "\n      table: table.parquet\n" in body
    assert "`0003c0ffee000003`" in body


def test_a_license_cannot_break_out_of_the_front_matter(tmp_path):
    _, output = publish(tmp_path, make_journey(tmp_path), license="mit\n---\nevil: 1")
    front_matter = (output / "model" / "README.md").read_text().split("\n---\n", 1)[0]
    assert yaml.safe_load(front_matter.removeprefix("---\n"))["license"] == "mit\n---\nevil: 1"


def test_a_journey_without_log_sets_or_readable_images_has_a_page(tmp_path):
    uris = make_journey(tmp_path, pictures={"red": b"broken"})
    train, evaluate = Path(uris["train"]), Path(uris["evaluate"])
    (train / "metrics.jsonl").unlink()
    (evaluate / "scores.json").write_text("[]")
    for stage, folder in (("train", train), ("evaluate", evaluate)):
        ledger = read_manifest(uris[stage]).ledger
        commit_by_hand(folder, stage, ledger=ledger)
    outcome, output = publish(tmp_path, uris)
    page = (output / "report.html").read_text()
    assert outcome.summary["report_samples"] == 0
    assert "names no evaluation set" in page
    assert "<img" not in page
    assert "<polyline" not in page


def test_no_samples_when_none_are_asked_for(tmp_path):
    outcome, _ = publish(tmp_path, make_journey(tmp_path), sample_grid=0)
    assert outcome.summary["report_samples"] == 0


def test_samples_are_training_samples_with_their_own_captions(tmp_path):
    """The tile of a colour says so; the held-out row is never shown."""
    _, output = publish(tmp_path, make_journey(tmp_path, caption="only {colour}"), sample_grid=400)
    page = (output / "report.html").read_text()
    assert page.count('<figure>\n      <div class="picture">') == 40
    assert len(re.findall(r"only (?!a )\w+", page)) == 40
    assert page.count("surface with fine grain") == 20
    for figure in re.findall(
        r"<figure>\n      <div class=\"picture\">.*?</figure>", page, re.DOTALL
    ):
        colours = set(re.findall(r"only (\w+)|(\w+) surface", figure))
        assert len({name for pair in colours for name in pair if name}) == 1


def test_a_stage_that_is_not_committed_is_named(tmp_path):
    uris = make_journey(tmp_path)
    uris["caption"] += "-missing"
    with pytest.raises(StorageError, match="missing"):
        publish(tmp_path, uris)


SECRET = "hunter2canary"


def with_canaries(tmp_path):
    """The demo's recipe with something that is nobody's business in every field that takes it."""
    here = str(tmp_path)
    return load_recipe(
        DEMO_RECIPE,
        {
            "root": f"{here}/{SECRET}/lake",
            "acquire.table": f"../../{SECRET}/urls.parquet",
            "acquire.scale": {"runner": "dask", "address": f"tcp://{SECRET}:8786"},
            "acquire.egress.contact": f"{SECRET}@example.org",
            "acquire.egress.allow_hosts": [f"{SECRET}.internal"],
            "acquire.refuse.urls": [f"https://ada:{SECRET}@example.org/a.jpg?token={SECRET}"],
            "curate.rules": [
                {"kind": "uids", "file": f"{here}/{SECRET}.npy"},
                {"kind": "balance", "metadata": f"file:///{SECRET}/words.txt"},
                {"kind": "caption_noise", "patterns": [f"https://x/?{SECRET}"]},
            ],
            "score.scores": [{"kind": "clip_score", "model": f"{here}/{SECRET}"}],
            "curate.decontaminate.sets": [f"/{SECRET}/wds_a"],
            "index.features": {"model": f"/home/{SECRET}"},
            "evaluate.sets": [f"{here}/{SECRET}/wds_b", "s3://bucket/wds_c"],
            "publish.description": f"of s3://KEY:{SECRET}@bucket/lake?X-Amz-Signature={SECRET}",
            "train.launch.slurm": {
                "python": f"/opt/{SECRET}/python",
                "template": f"{SECRET}.sbatch",
                "log_folder": SECRET,
                "options": {"account": SECRET},
            },
        },
    )


def test_what_is_published_tells_no_key_address_program_or_path(tmp_path):
    recipe = with_canaries(tmp_path)
    told = recipe.to_yaml()
    assert told.count(SECRET) >= 17
    text = recipe.to_published_yaml()
    assert SECRET not in text
    assert str(tmp_path) not in text
    shown = yaml.safe_load(text)
    assert "launch" not in shown["train"]
    assert shown["root"] == shown["acquire"]["table"] == "LOCAL_PATH"
    assert shown["evaluate"]["sets"] == ["LOCAL_PATH", "s3://bucket/wds_c"]
    assert shown["train"]["lr"] == recipe.train.lr
    _, output = publish(
        tmp_path,
        make_journey(tmp_path),
        recipe=text,
        description=recipe.publish.description,
    )
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert str(tmp_path).encode() not in content, path


def test_a_recipe_that_tells_nothing_is_published_as_it_is():
    recipe = load_recipe("infra/recipes/datacomp-small-none.yaml")
    shown, told = yaml.safe_load(recipe.to_published_yaml()), yaml.safe_load(recipe.to_yaml())
    del told["train"]["launch"]
    for section in told.values():
        if isinstance(section, dict) and "scale" in section:
            del section["scale"]["address"]
    for name in ("contact", "allow_hosts", "dns_servers"):
        del told["acquire"]["egress"][name]
    assert shown == told


@pytest.mark.parametrize(
    ("looked_for", "told"),
    [
        ({}, ["wds_colours"]),
        ({"wds_colours": "other"}, ["wds_colours"]),
        ({"wds_colours": "s"}, []),
    ],
)
def test_a_set_that_training_was_not_kept_clean_of_is_told(tmp_path, looked_for, told):
    """By content, not by name: the same set at another place is the same."""
    facts = read_facts(
        PublishConfig(name="x"),
        recipe_yaml=RECIPE,
        uris=make_journey(tmp_path / "journey"),
        data_stages=FEEDING,
    )
    inputs = {"score": looked_for, "evaluate": {"select": "k", "wds_colours": "s"}}
    manifests = [
        manifest.model_copy(update={"inputs": inputs.get(manifest.stage, {})})
        for manifest in facts.manifests
    ]
    scores = [facts.scores[0].model_copy(update={"set": "wds_colours"})]
    facts = replace(facts, manifests=manifests, scores=scores)
    assert facts.not_kept_out == told
    assert any("not kept clean of wds_colours" in limit for limit in limits(facts)) == bool(told)


@pytest.mark.parametrize("told", ["", "features tell samples no longer apart at step 40"])
def test_a_collapse_of_the_training_is_a_limit(tmp_path, told):
    facts = read_facts(
        PublishConfig(name="x"),
        recipe_yaml=RECIPE,
        uris=make_journey(tmp_path / "journey"),
        data_stages=FEEDING,
    )
    manifests = [
        manifest.model_copy(update={"summary": {**manifest.summary, "collapse": told}})
        if manifest.stage == "train"
        else manifest
        for manifest in facts.manifests
    ]
    found = limits(replace(facts, manifests=manifests))
    assert [limit for limit in found if "no longer apart" in limit] == (
        [f"Of the training: {told}."] if told else []
    )
