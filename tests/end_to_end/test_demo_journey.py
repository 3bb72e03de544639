"""Oracle: the promises of the command line, looked up in what a real run leaves and prints."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from end_to_end.journeys import check_ledgers, files_below, neuclip, only_json
from made.demo_web import DEMO_RECIPE, SMALL, as_options
from made.stages import NAMES, from_stage
from servers.s3 import HOST, KEYS, free_port
from typer.testing import CliRunner, Result

from neuclip.cli.main import app
from neuclip.stages.manifest import Manifest, read_manifest
from neuclip.storage.files import exists, sha256_of

pytestmark = pytest.mark.timeout(600)  # the first test waits for the journey


def call(*arguments: str) -> Result:
    """The command within this process: without the seconds that starting Python takes."""
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def copy(journey, tmp_path) -> Path:
    """The root, to be changed."""
    shutil.copytree(journey.root, tmp_path / "lake")
    return tmp_path / "lake"


class TestResult:
    def test_its_fields(self, journey):
        result = journey.result
        assert set(result) == {"root", "stages", "model", "report", "scores"}
        assert list(result["stages"]) == list(NAMES)
        for name, stage in result["stages"].items():
            assert set(stage) == {"key", "uri", "state", "ledger", "seconds"}
            assert stage["uri"] == f"{journey.root}/{name}/{stage['key']}"
            assert stage["state"] == "ran"
            assert stage["seconds"] >= 0
        assert result["root"] == str(journey.root)

    def test_its_ledgers(self, journey):
        ledgers = {name: stage["ledger"] for name, stage in journey.result["stages"].items()}
        check_ledgers(ledgers)
        assert ledgers["acquire"]["in"] == 300
        assert sum(ledgers["acquire"]["dropped"].values()) > 0
        assert sum(ledgers["curate"]["dropped"].values()) > 0
        assert ledgers["shard"]["dropped"]["held_out_for_selection"] > 0
        assert ledgers["evaluate"]["in"] == 1000

    def test_its_scores(self, journey):
        scores = {row["set"]: row for row in journey.result["scores"]}
        assert set(scores) == {"scenes_shapes", "scenes_retrieval"}
        for row in scores.values():
            assert row["samples"] == 500
            assert 0 <= row["main_value"] <= 1
            assert row["main_value"] == row["metrics"][row["main_metric"]]
            weights = Path(journey.result["model"]) / "open_clip_model.safetensors"
            assert row["model_sha256"] == sha256_of(str(weights))

    def test_what_it_names_is_there(self, journey):
        assert Path(journey.result["report"]).read_text().startswith("<!doctype html>")
        assert {p.name for p in Path(journey.result["model"]).iterdir()} >= {
            "open_clip_config.json",
            "open_clip_model.safetensors",
            "README.md",
        }

    def test_every_committed_file_is_what_its_manifest_says(self, journey):
        manifests = list(journey.root.rglob("manifest.json"))
        rooms = [path.relative_to(journey.root).parts[:2] for path in manifests]
        parts = Counter(stage for stage, name in rooms if name == "parts")
        assert len(manifests) == len(NAMES) + parts.total()
        partitions, sources = 2, 2
        assert parts == {
            "acquire": 2 * partitions,  # images of each, and texts
            "score": parts["score"],
            "caption": partitions * sources,
            "shard": 1,
            "index": sources,
            "evaluate": 2,
        }
        assert parts["score"] % partitions == 0 < parts["score"]
        for path in manifests:
            manifest = Manifest.model_validate_json(path.read_bytes())
            for file in manifest.files:
                found = path.parent / file.name
                assert found.stat().st_size == file.size_bytes
                assert sha256_of(str(found)) == file.sha256

    def test_nothing_else_is_left(self, journey):
        assert {p.name for p in journey.root.iterdir()} <= {
            *(*NAMES, ".scratch", ".leases"),
        }
        assert files_below(journey.root / ".scratch") == {}
        assert files_below(journey.root / ".leases") == {}


def test_again_does_nothing(journey):
    before = files_below(journey.root)
    result = only_json(neuclip("run", DEMO_RECIPE, "--json", *journey.web.overrides(journey.root)))
    assert {stage["state"] for stage in result["stages"].values()} == {"cached"}
    assert files_below(journey.root) == before
    for name in ("root", "model", "report", "scores"):
        assert result[name] == journey.result[name]


class TestDemo:
    """`neuclip demo` itself: the journey was made by it, in a folder where there was nothing."""

    @pytest.fixture
    def again(self, journey):
        def run(root: Path, *options: str) -> Result:
            words = ("demo", *options, "--json", "--root", str(root), "--pairs", "300")
            return call(*words, "--port", str(journey.web.port), *as_options(SMALL))

        return run

    def test_its_recipe_goes_on_where_the_demo_ended(self, journey):
        recipe = journey.web.folder / "neuclip.yaml"
        stages = json.loads(call("plan", str(recipe), "--json").stdout)["stages"]
        assert {stage["state"] for stage in stages.values()} == {"done"}
        asked = ("SELECT count(*) AS n FROM rows", "--json")
        assert json.loads(call("query", str(recipe), *asked).stdout)["rows"] == [[300]]

    def test_again_draws_and_fetches_nothing(self, journey, again):
        """The port is taken, by the tests: nothing is served that is not needed."""
        before = files_below(journey.root)
        pictures = files_below(journey.web.folder / "images")
        answer = again(journey.root)
        assert answer.exit_code == 0, answer.stderr
        assert str(journey.web.folder / "neuclip.yaml") in answer.stderr
        result = json.loads(answer.stdout)
        assert {stage["state"] for stage in result["stages"].values()} == {"cached"}
        assert files_below(journey.root) == before
        assert files_below(journey.web.folder / "images") == pictures

    def test_a_port_that_is_taken_names_the_option(self, journey, again, tmp_path):
        answer = again(tmp_path / "new")
        assert answer.exit_code == 2
        message = json.loads(answer.stdout)["error"]["message"]
        assert str(journey.web.port) in message
        assert "--port" in message
        assert files_below(tmp_path) == {}

    def test_a_wrong_field_or_variant_draws_nothing(self, again, tmp_path):
        for options, told in (
            (("--set", "train.epoch=3"), "Did you mean 'epochs'?"),
            (("neuclap",), "neuclip, tokens. Did you mean 'neuclip'?"),
        ):
            answer = again(tmp_path / "new", *options)
            assert answer.exit_code == 2
            assert told in json.loads(answer.stdout)["error"]["message"]
        assert list(tmp_path.iterdir()) == []


def test_plan_names_what_changed_and_all_below(journey):
    before = files_below(journey.root)
    changed = journey.web.overrides(journey.root, curate__rules__caption_words__min=3)
    answer = call("plan", DEMO_RECIPE, "--json", *changed)
    assert answer.exit_code == 0
    stages = json.loads(answer.stdout)["stages"]
    missing = [name for name, stage in stages.items() if stage["state"] != "done"]
    assert missing == list(from_stage("curate"))
    assert "curate.rules.caption_words.min: 2 -> 3" in stages["curate"]["why"]
    for name in missing[1:]:
        assert (
            "curate" in stages[name]["why"]
            or "caption" in stages[name]["why"]
            or "input" in (stages[name]["why"])
        )
    assert files_below(journey.root) == before


def test_show_gives_the_manifest_and_the_lineage(journey):
    answer = call("show", journey.uri("index"), "--json")
    shown = json.loads(answer.stdout)
    assert shown["manifest"]["key"] == journey.result["stages"]["index"]["key"]
    assert shown["manifest"]["ledger"] == journey.result["stages"]["index"]["ledger"]
    assert set(shown["lineage"]) == {"caption", "shard"}
    for name, stage in shown["lineage"].items():
        assert stage["uri"] == journey.uri(name)
        assert stage["ledger"] == journey.result["stages"][name]["ledger"]


def test_one_stage_with_a_change(journey, copy):
    before = files_below(copy)
    answer = call(
        *("run", DEMO_RECIPE, "--json", "--only", "curate"),
        *journey.web.overrides(copy, curate__rules__caption_words__min=3),
    )
    stages = json.loads(answer.stdout)["stages"]
    assert list(stages) == ["curate"]
    assert stages["curate"]["state"] == "ran"
    after = files_below(copy)
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before)
    assert new
    assert all(name.startswith(f"curate/{stages['curate']['key']}/") for name in new)


def test_forced_writes_the_same_bytes(journey, copy):
    was = read_manifest(f"{copy}/shard/{journey.result['stages']['shard']['key']}")
    parts = [f"{copy}/shard/parts/{key}" for key in was.parts]
    files = [read_manifest(part).files for part in parts]
    answer = call(
        *("run", DEMO_RECIPE, "--json", "--force", "--only", "shard"),
        *journey.web.overrides(copy),
    )
    stage = json.loads(answer.stdout)["stages"]["shard"]
    now = read_manifest(stage["uri"])
    assert stage["state"] == "ran"
    assert (now.files, now.parts, now.ledger) == (was.files, was.parts, was.ledger)
    assert [read_manifest(part).files for part in parts] == files


class TestBadInput:
    """What is wrong stands in the message, the exit code says whose fault it is, and nothing done is lost."""

    @pytest.fixture(autouse=True)
    def nothing_is_lost(self, journey):
        before = files_below(journey.root)
        yield
        assert files_below(journey.root) == before

    @pytest.fixture
    def refuse(self, journey, tmp_path):
        def run(*options: str, root: Path | str = journey.root, **changes) -> tuple[int, str]:
            arguments = journey.web.overrides(root, **changes)
            answer = call("run", DEMO_RECIPE, "--json", *options, *arguments)
            error = json.loads(answer.stdout)["error"]
            assert set(error) == {"kind", "message"}
            assert error["message"] in answer.stderr
            assert "Traceback" not in answer.stderr
            return answer.exit_code, error["message"]

        return run

    def table(self, journey, tmp_path, change) -> str:
        path = tmp_path / "table.parquet"
        pq.write_table(change(pq.read_table(journey.web.table)), path)
        return str(path)

    def test_missing_table(self, refuse):
        code, message = refuse(acquire__table="/nowhere/urls.parquet")
        assert code == 2
        assert "/nowhere/urls.parquet" in message

    def test_missing_column(self, refuse, journey, tmp_path):
        table = self.table(journey, tmp_path, lambda t: t.rename_columns({"caption": "capton"}))
        code, message = refuse(root=tmp_path / "new", acquire__table=table)
        assert code == 2
        assert "'caption'" in message
        assert "Did you mean 'capton'?" in message
        assert list((tmp_path / "new").rglob("manifest.json")) == []

    def test_duplicate_uids(self, refuse, journey, tmp_path):
        uid = pq.read_table(journey.web.table)["uid"][7].as_py()
        table = self.table(
            journey, tmp_path, lambda t: t.take([*range(t.num_rows), 7]).combine_chunks()
        )
        code, message = refuse(root=tmp_path / "new", acquire__table=table)
        assert code == 2
        assert uid in message
        assert "on_duplicate_uid" in message
        assert list((tmp_path / "new").rglob("manifest.json")) == []

    def test_no_row_survives(self, refuse):
        code, message = refuse(curate__rules__caption_words__min=500)
        assert code == 2
        assert "curate kept none of" in message
        assert "caption_words" in message

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"train__objective": {"name": "neuclp"}}, ["neuclp", "Did you mean 'neuclip'?"]),
            ({"train__model": {"name": "ViT-B-33"}}, ["ViT-B-33", "Did you mean 'ViT-B-32"]),
            ({"train__global_bach": 3}, ["train.global_bach", "Did you mean 'global_batch'?"]),
            ({"trian__lr": 3}, ["trian", "Did you mean 'train'?"]),
            ({"train__global_batch": "many"}, ["train.global_batch", "'many'"]),
            (
                {"train__captions": {"kind": "per_source", "weights": {"rewrit": 1}}},
                ["'rewrit'", "Did you mean 'rewrite'?"],
            ),
            ({"caption__sources": ["alt"]}, ["caption.sources"]),
            (
                {"caption__derive": [{"kind": "sentences", "source": "told", "of": "rewrit"}]},
                ["'rewrit'", "alt, rewrite", "Did you mean 'rewrite'?", "caption_columns"],
            ),
            (
                {"caption__derive": [{"kind": "sentences", "source": "rewrite"}]},
                ["caption.derive.0", "'rewrite'", "another name"],
            ),
            (
                {"curate__rules__caption_words__source": "rewrit"},
                ["curate.rules", "'rewrit'", "Did you mean 'rewrite'?"],
            ),
        ],
    )
    def test_a_wrong_field(self, refuse, changes, named):
        code, message = refuse(**changes)
        assert code == 2
        for part in named:
            assert part in message

    def test_unknown_stage(self, refuse):
        code, message = refuse("--only", "trian")
        assert code == 2
        assert "Did you mean 'train'?" in message

    def test_a_stage_before_those_above_it(self, refuse, tmp_path):
        code, message = refuse("--only", "shard", root=tmp_path / "new")
        assert code == 2
        assert "shard needs acquire" in message

    def test_a_truncated_shard(self, refuse, journey, copy):
        shard = next((copy / "shard" / "parts").glob("*/shard-000000.tar"))
        size = shard.stat().st_size
        with shard.open("r+b") as file:
            file.truncate(size // 2)
        before = files_below(copy)
        code, message = refuse(root=copy, train__lr=2e-3)
        assert code == 1
        for part in ("shard-000000.tar", str(size), str(size // 2), "--only shard --force"):
            assert part in message
        assert files_below(copy) == before

    @pytest.mark.s3
    def test_unreachable_storage(self, refuse, monkeypatch):
        endpoint = f"http://{HOST}:{free_port()}"
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        code, message = refuse(root="s3://bucket/lake")
        assert code == 1
        assert endpoint in message
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in message


def test_an_error_is_one_object_too(journey):
    """As a script sees it: exit code, one JSON object on stdout, the message on stderr."""
    done = neuclip("run", DEMO_RECIPE, "--json", "--only", "trian")
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["error"]["kind"] == "ConfigError"
    assert "Did you mean 'train'?" in done.stderr
    assert not exists("lake/demo/trian")
