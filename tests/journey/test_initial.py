"""Which model a training starts from, told by keys. Oracle: keys by hand; no training, models of a few bytes."""

import os
from pathlib import Path

import pytest
from made.demo_web import DEMO_RECIPE

from neuclip.foundation.errors import ConfigError
from neuclip.journey import identify, plan, run_stage
from neuclip.recipe import load_recipe
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage
from neuclip.towers.files import CONFIG_FILE, WEIGHTS_FILE
from neuclip.training import run

OLD, NEW = "0" * 19 + "1", "0" * 19 + "2"


@pytest.fixture
def recipe(small_web, tmp_path):
    """Return the demo's recipe with some changes, at a root of its own."""

    def made(**changes):
        fields = {name.replace("__", "."): value for name, value in changes.items()}
        return load_recipe(
            DEMO_RECIPE, {**small_web.inputs, "root": str(tmp_path / "lake"), **fields}
        )

    return made


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr(
        run, "run_train", lambda *_, start, **__: Outcome(make_ledger(1, 1, {}), start)
    )


def write_model(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_bytes(b"{}")
    (folder / WEIGHTS_FILE).write_bytes(content)
    return folder


def publish(recipe, key: str, content: bytes = b"") -> None:
    """Commit a publish stage of a made-up key."""
    identity = StageIdentity("publish", 1, key, {}, {}, recipe.root)

    def work(workspace):
        write_model(workspace.output / "model", content or key.encode())
        return Outcome(make_ledger(1, 1, {}))

    commit_stage(identity, work)


def do_above(recipe) -> None:
    """Commit what training reads."""
    for name, identity in identify(recipe).items():
        if name == "train":
            return
        commit_stage(identity, lambda _: Outcome(make_ledger(1, 1, {})))


def key_of(recipe) -> str:
    return identify(recipe)["train"].key


def test_weights_are_known_by_their_content(recipe, tmp_path):
    one = write_model(tmp_path / "one", b"a")
    key = key_of(recipe(train__initial={"model": str(one)}))
    assert key != key_of(recipe())
    copy = write_model(tmp_path / "copy", b"a")
    assert key_of(recipe(train__initial={"model": str(copy)})) == key
    write_model(copy, b"b")
    assert key_of(recipe(train__initial={"model": str(copy)})) != key
    fields = {"model": str(one), "temperature": "new"}
    assert key_of(recipe(train__initial=fields)) != key
    relative = os.path.relpath(one)
    assert key_of(recipe(train__initial={"model": relative})) == key


def test_latest_is_the_newest_key_of_the_root_and_the_word_is_in_no_key(recipe, tmp_path):
    latest = recipe(train__initial={"model": "latest"})
    with pytest.raises(ConfigError, match=r"latest, and nothing was published at .*lake; run the"):
        plan(latest)
    publish(latest, OLD)
    key = key_of(latest)
    assert key == key_of(recipe(train__initial={"model": OLD}))
    assert key == key_of(recipe(train__initial={"model": f"{latest.root}/publish/{OLD}/model"}))
    assert key == key_of(
        recipe(train__initial={"model": str(write_model(tmp_path / "x", OLD.encode()))})
    )
    publish(latest, NEW)
    assert key_of(latest) == key_of(recipe(train__initial={"model": NEW})) != key
    with pytest.raises(
        ConfigError, match=rf"is {'f' * 20}, and .* is not published; expected the key"
    ):
        plan(recipe(train__initial={"model": "f" * 20}))


def test_a_rerun_after_its_own_model_was_published_does_nothing(recipe):
    """And so does one after a kill: the choice is written before training begins."""
    latest = recipe(train__initial={"model": "latest"})
    publish(latest, OLD)
    do_above(latest)
    first = run_stage(latest, "train")
    assert first.state == "ran"
    assert first.manifest.summary["initial"] == {
        "stage": "publish",
        "key": OLD,
        "content": first.manifest.inputs["initial"],
        "towers": "both",
        "positions": "interpolate",
        "temperature": "keep",
    }
    publish(latest, NEW)  # tonight's own model
    again = run_stage(latest, "train")
    assert (again.state, again.key) == ("cached", first.key)
    assert key_of(latest) == first.key
    forced = run_stage(latest, "train", force=True)
    assert (forced.state, forced.key) == ("ran", first.key)


def test_other_data_or_settings_take_the_newest(recipe):
    latest = recipe(train__initial={"model": "latest"})
    publish(latest, OLD)
    do_above(latest)
    run_stage(latest, "train")
    publish(latest, NEW)
    for changes in ({"train__lr": 0.5}, {"shard__samples_per_shard": 50}, {"seed": 3}):
        tomorrow = recipe(train__initial={"model": "latest"}, **changes)
        assert key_of(tomorrow) == key_of(recipe(train__initial={"model": NEW}, **changes))
        assert key_of(tomorrow) != key_of(recipe(train__initial={"model": OLD}, **changes))
    fewer = recipe(train__initial={"model": "latest"}, train__log_every_steps=3)
    assert key_of(fewer) == key_of(recipe(train__initial={"model": OLD}))


def test_planning_writes_nothing(recipe):
    latest = recipe(train__initial={"model": "latest"})
    publish(latest, OLD)
    before = sorted(Path(latest.root).rglob("*"))
    plan(latest)
    assert sorted(Path(latest.root).rglob("*")) == before


def test_recipes_that_start_from_random_weights_have_the_keys_of_before(recipe):
    section = identify(recipe())["train"].section
    assert not {"initial", "freeze", "layer_decay"} & section.keys()
