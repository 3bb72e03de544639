"""What the parameters of a deployment can ask for. Oracle: recipes and files laid out by hand."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from made.demo_web import DEMO_RECIPE

from flows.pipeline import pipeline
from flows.recipes import RECIPES, load_permitted
from flows.stages import read_recipe
from neuclip.foundation.config import reserved_in
from neuclip.foundation.errors import ConfigError
from neuclip.recipe import Recipe, load_recipe

DEMO = Path(DEMO_RECIPE)
ORDINARY = "infra/recipes/cc3m-neuclip.yaml"
TRAIN = yaml.safe_load(DEMO.read_text())["train"]
ACQUIRE = yaml.safe_load(DEMO.read_text())["acquire"]
HOSTS = {"names": ["a"], "connect": ["sh", "-c", "touch {host}"]}


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(DEMO, folder / "demo.yaml")
    shutil.copy(DEMO, folder / "deep" / "demo.yaml")
    (tmp_path / "recipes-of-others").mkdir()
    shutil.copy(DEMO, tmp_path / "recipes-of-others" / "demo.yaml")
    monkeypatch.setenv(RECIPES, f"{folder}, s3://bucket/recipes")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    "name", ["{0}/demo.yaml", "{0}/deep/demo.yaml", "recipes/demo.yaml", "file://{0}/demo.yaml"]
)
def test_a_recipe_in_an_allowed_folder_is_read(recipes, name):
    assert load_permitted(name.format(recipes), {}).root == "./lake/demo"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/shadow",
        "/etc/passwd",
        "file:///etc/shadow",
        "{0}/../recipes-of-others/demo.yaml",
        "{0}-of-others/demo.yaml",
        "recipes-of-others/demo.yaml",
        "{0}/link.yaml",
        "{0}/linked/demo.yaml",
        "s3://bucket/recipes-of-others/demo.yaml",
        "s3://bucket/recipes/../others/demo.yaml",
        "s3://bucket/recipes//../others/demo.yaml",
        "s3://other/recipes/demo.yaml",
        "S3://bucket/recipes/demo.yaml",
        "http://127.0.0.1:1/recipes/demo.yaml",
        "https://example.org/demo.yaml",
        "simplecache::s3://bucket/recipes/demo.yaml",
        "memory://recipes/demo.yaml",
        "",
        ".",
    ],
)
def test_a_recipe_elsewhere_is_refused_unread(recipes, name):
    others = recipes.parent / "recipes-of-others"
    (recipes / "link.yaml").symlink_to(others / "demo.yaml")
    (recipes / "linked").symlink_to(others)
    with pytest.raises(ConfigError, match="in no folder that this deployment allows"):
        load_permitted(name.format(recipes), {})


def test_without_a_setting_the_recipes_of_the_working_folder_are_allowed(monkeypatch):
    monkeypatch.delenv(RECIPES, raising=False)
    assert load_permitted(ORDINARY, {}) == load_recipe(ORDINARY)
    with pytest.raises(ConfigError, match="infra/recipes"):
        load_permitted("tests/recipe.yaml", {})


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"train.launch.hosts.connect": ["sh"]}, "train.launch"),
        ({"train.launch.hosts": HOSTS}, "train.launch"),
        ({"train.launch": {"hosts": HOSTS}}, "train.launch"),
        ({"train.launch": None}, "train.launch"),
        ({"train.launch.processes": 8}, "train.launch"),
        ({"train.launch.slurm.template": "/etc/shadow"}, "train.launch"),
        ({"train.launch.slurm.python": "/tmp/python"}, "train.launch"),
        ({"train.launch.slurm.log_folder": "/etc"}, "train.launch"),
        ({"train.launch.slurm.options": {"uid": "0"}}, "train.launch"),
        ({"train.launch.kubernetes.template": "/etc/shadow"}, "train.launch"),
        ({"train.launch.kubernetes.image": "evil"}, "train.launch"),
        ({"train.launch.kubernetes.secret": "admin"}, "train.launch"),
        ({"train.launch.kubernetes.namespace": "kube-system"}, "train.launch"),
        ({"train": {**TRAIN, "launch": {"hosts": HOSTS}}}, "train.launch"),
        ({"train": {k: v for k, v in TRAIN.items() if k != "launch"}}, "train.launch"),
        ({"train": {"launch": {"hosts": HOSTS}}}, "train.launch"),
        ({"train": TRAIN, "train.launch.hosts": HOSTS}, "train.launch"),
        ({"train.launch.hosts": json.dumps(HOSTS)}, "train.launch"),
        ({"acquire.scale.address": "tcp://10.0.0.1:8786"}, "acquire.scale.address"),
        ({"acquire.scale": {"runner": "ray", "address": "ray://a:1"}}, "acquire.scale.address"),
        ({"acquire": {**ACQUIRE, "scale": {"address": "tcp://a:1"}}}, "acquire.scale.address"),
        ({"acquire.scale.address": None}, "acquire.scale.address"),
        ({"shard.scale.address": "tcp://10.0.0.1:8786"}, "shard.scale.address"),
        ({"acquire.egress.allow_hosts": ["169.254.169.254"]}, "acquire.egress.allow_hosts"),
        ({"acquire.egress": {"allow_hosts": ["localhost"]}}, "acquire.egress.allow_hosts"),
        ({"acquire.egress.dns_servers": ["10.0.0.1"]}, "acquire.egress.dns_servers"),
        ({"acquire.egress.contact": "mail@example.org"}, "acquire.egress.contact"),
        ({"acquire": {k: v for k, v in ACQUIRE.items() if k != "egress"}}, "allow_hosts"),
    ],
)
def test_overrides_cannot_name_programs_machines_or_addresses(recipes, overrides, told):
    with pytest.raises(ConfigError, match=f"cannot change .*{told}"):
        load_permitted("recipes/demo.yaml", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.lr": 0.1},
        {"root": "s3://bucket/lake"},
        {"train": {**TRAIN, "lr": 0.1}},
        {"acquire.egress.timeout_s": 9},
        {"acquire.scale.workers": 4},
        {"curate.rules.caption_words.min": 3},
    ],
)
def test_other_overrides_are_those_of_the_command_line(recipes, overrides):
    assert load_permitted("recipes/demo.yaml", overrides) == load_recipe(str(DEMO), overrides)


def test_reserved_fields_are_found_in_lists_and_mappings_too():
    content = {"curate": {"rules": [{"launch": 1}]}, "train": {"launch": {"hosts": HOSTS}}}
    assert reserved_in(Recipe, content) == {"train.launch": {"hosts": HOSTS}}
    assert reserved_in(Recipe, ["train"]) == reserved_in(Recipe, {"train": [1]}) == {}


@pytest.mark.parametrize(
    "table",
    [
        "http://127.0.0.1:1/urls.parquet",
        "https://example.org/urls.parquet",
        "HTTP://127.0.0.1/urls.parquet",
        "ftp://127.0.0.1/urls.parquet",
        "sftp://host/urls.parquet",
        "ssh://host/urls.parquet",
        "smb://host/urls.parquet",
        "github://org:repo@main/urls.parquet",
        "hf://datasets/org/name/urls.parquet",
        "memory://urls.parquet",
        "local:///etc/shadow.csv",
        "data://text/urls.csv",
        "zip://urls.parquet::http://127.0.0.1/a.zip",
        "simplecache::http://127.0.0.1/urls.parquet",
        "filecache::s3://bucket/urls.parquet",
        "s3://bucket/urls.parquet::http://127.0.0.1/",
        "reference://::http://127.0.0.1/urls.parquet",
        "s3://KEY:SECRET@bucket/urls.parquet",
        "s3://KEY@bucket/urls.parquet",
        "s3://bucket/urls.parquet?X-Amz-Signature=SECRET",
        "abfs://container:SECRET@account/urls.parquet",
    ],
)
@pytest.mark.parametrize("field", ["acquire.table", "root", "evaluate.sets"])
def test_inputs_lie_at_local_paths_and_object_storage_alone(recipes, field, table):
    value = [table] if field.endswith("sets") else table
    with pytest.raises(ConfigError, match=f"{field}.*: found ") as refusal:
        read_recipe("recipes/demo.yaml", {field: value})
    assert "SECRET" not in str(refusal.value)


def test_a_flow_takes_no_recipe_that_is_written_out(recipes, tmp_path):
    content = yaml.safe_load(DEMO.read_text())
    with pytest.raises(Exception, match="recipe"):
        pipeline(content, validate_parameters=True)
    assert not (tmp_path / "lake").exists()
