"""What the repository says of itself: recipes load, deployments lead to flows, paths in texts exist."""

import re
from pathlib import Path

import pytest
import yaml
from prefect import Flow
from prefect.utilities.importtools import import_object

from neuclip.recipe import load_recipe
from neuclip.stage_list import NAMES

REPOSITORY = Path(__file__).parents[2]
RECIPES = [
    path
    for folder in ("infra/recipes", "neuclip/demo/recipes")
    for path in sorted((REPOSITORY / folder).glob("*.yaml"))
]
_SOURCE_SUFFIXES = (".py", ".yaml", ".toml", ".md", ".sh", ".lock", ".j2", ".css")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_being_written(path, tmp_path):
    recipe = load_recipe(str(path))
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


def test_there_is_a_deployment_for_the_pipeline_and_for_every_stage():
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    names = [deployment["entrypoint"].rpartition(".")[2] for deployment in deployments]
    assert names == ["pipeline", *NAMES, "repair"]
    for name, deployment in zip(names, deployments, strict=True):
        flow = import_object(deployment["entrypoint"])
        assert isinstance(flow, Flow)
        assert flow.name == name
        assert deployment["parameters"].keys() <= flow.parameters.properties.keys()
        assert (REPOSITORY / deployment["parameters"]["recipe"]).is_file()


def repository_paths(text: str) -> list[str]:
    """Return what looks like a path of this repository among the words in backticks and the links."""
    words = re.findall(r"`([^`\s]+)`", text) + re.findall(r"\]\(([^)#\s]+)\)", text)
    plain = [word for word in words if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)*/?", word)]
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()} - {"lake", ".venv"}
    return [
        word
        for word in plain
        if "/" in word and (word.split("/")[0] in folders or word.endswith(_SOURCE_SUFFIXES))
    ]


def test_paths_are_told_from_other_words():
    text = (
        "`flows/stages.py` `flows/nowhere` `infra/recipes/` [how](docs/how.md) `--only` `lake/demo` "
        "`pipeline/neuclip` `curate.rules.caption_words.min` `s3://bucket/neuclip/x.py` `make demo` [site](https://x.org/a.md)"
    )
    expected = ["flows/stages.py", "flows/nowhere", "infra/recipes/", "docs/how.md"]
    assert repository_paths(text) == expected


def test_paths_in_the_texts_exist(repository, tracked):
    texts = [path for path in tracked if path.suffix == ".md"]
    assert repository / "README.md" in texts
    missing = [
        f"{text.relative_to(repository)} names {name}"
        for text in texts
        for name in repository_paths(text.read_text())
        if not (repository / name).exists() and not (text.parent / name).exists()
    ]
    assert not missing, "\n".join(missing)
