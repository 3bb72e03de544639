"""Oracle: the recipes of the demo as they lie in the package, and where a user asked for them."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from made.demo_web import DEMO_RECIPE, SMALL

from neuclip.demo.server import main
from neuclip.demo.settings import ROOT, WEB, WebSettings
from neuclip.demo.variants import load_variant, set_up, variants, web_beside
from neuclip.demo.web import EVALUATION, TABLE
from neuclip.foundation.errors import ConfigError
from neuclip.journey import identify
from neuclip.recipe import load_recipe
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, commit_stage


@pytest.fixture
def settings(tmp_path):
    return WebSettings(folder=tmp_path / "lake-web", pairs=100, evaluation_scenes=50, port=18_764)


def test_the_variants_are_the_files_of_the_package():
    assert variants() == sorted(path.stem for path in Path(DEMO_RECIPE).parent.glob("*.yaml"))
    assert "neuclip" in variants()


@pytest.mark.parametrize("name", variants())
def test_every_variant_reads_and_writes_where_it_is_told(name, tmp_path):
    """Nothing of it is left at the places that its file names, and it names nothing else."""
    root, web = str(tmp_path / "root"), tmp_path / "web"
    recipe = load_variant(name, root=root, web=web)
    assert recipe.root == root
    assert recipe.acquire.table == str(web / TABLE)
    assert recipe.evaluate.sets
    assert all(place.startswith(f"{web / EVALUATION}/") for place in recipe.evaluate.sets)
    assert "lake/demo" not in recipe.to_yaml()
    assert recipe.acquire.egress.allow_hosts == ["127.0.0.1"]


def test_at_the_default_root_a_variant_is_what_its_file_says():
    recipe = load_variant("NeuCLIP", root=ROOT, web=web_beside(ROOT))
    told, file = recipe.to_yaml(), load_recipe(DEMO_RECIPE).to_yaml()
    assert told.replace("./lake", "lake") == file.replace("./lake", "lake")
    assert web_beside(ROOT) == Path(WEB)


@pytest.mark.parametrize(
    ("root", "web"),
    [
        ("x/y/", "x/y-web"),
        ("file:///a/b", "/a/b-web"),
        ("s3://bucket/lake", "lake/demo-web"),
        (".", "{here}-web"),
        ("a/..", "{here}-web"),
    ],
)
def test_the_web_lies_beside_a_local_root(root, web, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert web_beside(root) == Path(web.format(here=tmp_path))


def test_overrides_come_last(tmp_path):
    overrides = {"acquire.table": "mine.csv", "evaluate.sets": [], "train.lr": 0.5}
    recipe = load_variant("neuclip", root="r", web=tmp_path, overrides=overrides)
    assert (recipe.acquire.table, recipe.evaluate.sets, recipe.train.lr) == ("mine.csv", [], 0.5)


def test_an_unknown_variant_names_those_there_are(settings):
    with pytest.raises(ConfigError, match=r"no variant 'neuclop'; it has .*Did you mean 'neuclip'"):
        load_variant("neuclop", root="r", web=Path("w"))


def test_the_web_is_served_until_all_is_fetched(settings, tmp_path):
    """Oracle: the port itself."""
    address = f"http://127.0.0.1:{settings.port}/{TABLE}"
    given = {"root": str(tmp_path / "lake"), "overrides": SMALL}
    with set_up("neuclip", settings, **given) as example, urlopen(address) as answer:
        assert answer.read() == (settings.folder / TABLE).read_bytes()
        assert load_recipe(str(example.path)) == example.recipe
        identity = identify(example.recipe)["acquire"]
        commit_stage(identity, lambda _: Outcome(make_ledger(1, 1, {})))
    for _ in range(2):
        with set_up("neuclip", settings, **given), pytest.raises(OSError, match="refused"):
            urlopen(address)
    redrawn = settings.model_copy(update={"pairs": 101})
    with set_up("neuclip", redrawn, **given), urlopen(address):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"lake", "lake-web"}


def test_the_server_alone_serves_a_drawn_web_at_the_port_of_its_table(settings, tmp_path):
    with set_up("neuclip", settings, root=str(tmp_path / "lake")) as example:
        folder = example.path.parent
    server = subprocess.Popen(
        [sys.executable, "-m", "neuclip.demo.server", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = server.stdout.readline()
    assert str(settings.port) in said
    with urlopen(f"http://127.0.0.1:{settings.port}/neuclip.yaml") as answer:
        assert yaml.safe_load(answer.read()) == yaml.safe_load(example.path.read_text())
    time.sleep(0.1)
    server.send_signal(signal.SIGINT)
    assert server.communicate(timeout=30) == ("", "")
    assert server.returncode == 0


def test_the_server_says_what_it_cannot_serve(tmp_path, capsys):
    for words, told in (
        ([str(tmp_path)], "no demo.json"),
        ([str(tmp_path / "no"), "5001"], "none"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        assert told in capsys.readouterr().err
