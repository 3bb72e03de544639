"""Another caption source at a root that is trained. Oracles: a web server that notes every request; bytes and times of
all files before and after; weights to the bit."""

import gc
import hashlib
import json
import tarfile
import time
import warnings
from pathlib import Path

import open_clip_train.data
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from end_to_end.journeys import files_below
from made.demo_web import DEMO_RECIPE, SMALL, demo_web
from made.stages import NAMES

from neuclip.export import export_shards
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.journey import identify, plan, run_journey
from neuclip.recipe import Recipe, load_recipe
from neuclip.stages.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DATA = NAMES[: NAMES.index("train")]


class Lake:
    """A root that is trained on alt texts and rewrites, and the web that it came from."""

    def __init__(self, base: Path, web, asked: list[str]) -> None:
        self.base, self.web, self.asked = base, web, asked
        self.seconds = 0.0

    def recipe(self, table: Path | None = None, **changes) -> Recipe:
        fields = {
            **SMALL,
            "root": str(self.base / "lake"),
            **self.web.inputs,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        if table is not None:
            fields["acquire.table"] = str(table)
        return load_recipe(DEMO_RECIPE, fields)

    def run(self, recipe: Recipe, stages=DATA) -> None:
        start = time.monotonic()
        run_journey(recipe, stages=stages)
        self.seconds = time.monotonic() - start

    def table(self, name: str, change) -> Path:
        """Write a changed copy of the URL table; `change` gets it and returns another."""
        path = self.base / f"{name}.parquet"
        pq.write_table(change(pq.read_table(self.web.table)), path)
        return path

    def kept_files(self, *stages: str) -> dict[str, str]:
        """Return path -> SHA-256 and time of all files in parts of some stages."""
        return {
            path: f"{hashlib.sha256((self.base / 'lake' / path).read_bytes()).hexdigest()} {when}"
            for path, when in files_below(self.base / "lake").items()
            if path.split("/")[0] in stages and path.split("/")[1] == "parts"
        }

    def members(self, recipe: Recipe) -> list[dict]:
        return pq.read_table(f"{identify(recipe)['shard'].uri}/members.parquet").to_pylist()

    def weights(self, recipe: Recipe) -> dict[str, str]:
        folder = Path(identify(recipe)["train"].uri, "checkpoints")
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("open_clip_model.safetensors"))
        }


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    base, asked = tmp_path_factory.mktemp("sources"), []
    with demo_web(base / "web", on_request=asked.append) as web:
        made = Lake(base, web, asked)
        made.run(made.recipe(), (*DATA, "train"))
        yield made


def with_column(table):
    """Add a source of which every third pair has two texts, and every other one none."""
    rows = [[f"drawn again {n}", f"again {n}"] if n % 3 == 0 else None for n in range(len(table))]
    return table.append_column("again", pa.array(rows, pa.list_(pa.string())))


def test_another_source_fetches_scores_and_packs_nothing(lake):
    """Must show 1: by a column of the table; tars, ids and scores byte for byte, to the time of their last change."""
    before = lake.kept_files("acquire", "score", "shard", "index")
    ids, asked = lake.members(lake.recipe()), len(lake.asked)
    sources = {"rewrite": "rewrite", "again": "again"}
    changed = lake.recipe(lake.table("more", with_column), acquire__caption_columns=sources)
    lake.run(changed)
    assert len(lake.asked) == asked > 250
    after = lake.kept_files("acquire", "score", "shard", "index")
    assert {path: after[path] for path in before} == before
    new = {path.split("/")[0] for path in after.keys() - before.keys()}
    assert new == {"acquire", "index"}
    assert not [path for path in after.keys() - before.keys() if path.endswith(".tar")]
    assert lake.members(changed) == ids
    print(f"another source in {lake.seconds:.1f} s")
    counts = read_manifest(identify(changed)["caption"].uri).summary["sources"]["again"]
    assert 0 < counts["pairs"] < len(ids) / 2
    assert counts["texts"] == 2 * counts["pairs"]


def test_a_recipe_without_the_new_source_trains_to_the_same_bits(lake):
    first = lake.weights(lake.recipe())
    sources = {"rewrite": "rewrite", "again": "again"}
    changed = lake.recipe(lake.table("more", with_column), acquire__caption_columns=sources)
    lake.run(changed, (*DATA, "train"))
    assert identify(changed)["train"].key != identify(lake.recipe())["train"].key
    assert lake.weights(changed) == first
    assert len(first) > 1


def test_a_derived_source_is_the_caption_stage_s_matter_alone(lake):
    """What stands above it keeps its keys, and training of the old sources its bits."""
    derive = [{"kind": "template", "source": "told", "text": "seen: {alt}"}]
    changed = lake.recipe(caption__derive=derive)
    states = {item.stage: item.state for item in plan(changed)}
    assert [stage for stage, state in states.items() if state == "done"] == [
        stage for stage in NAMES[: NAMES.index("index")] if stage != "caption"
    ]
    weighed = lake.recipe(
        caption__derive=derive,
        train__captions={"kind": "per_source", "weights": {"alt": 1, "told": 1}},
        train__epochs=1,
    )
    asked = len(lake.asked)
    lake.run(weighed, (*DATA, "train"))
    assert len(lake.asked) == asked
    assert lake.weights(weighed) != lake.weights(lake.recipe())


def test_changed_and_dropped_columns_fetch_nothing(lake):
    asked, tars = len(lake.asked), lake.kept_files("shard")

    def louder(table):
        texts = [text.upper() for text in table["rewrite"].to_pylist()]
        place = table.schema.get_field_index("rewrite")
        return table.set_column(place, "rewrite", pa.array(texts))

    lake.run(lake.recipe(lake.table("louder", louder)))
    without = lake.recipe(
        lake.table("less", lambda table: table.drop_columns(["rewrite"])),
        acquire__caption_columns={},
        train__captions={"kind": "per_source", "weights": {"alt": 1.0, "rewrite": 1.0}},
    )
    lake.run(without)
    assert len(lake.asked) == asked
    assert lake.kept_files("shard") == tars
    with pytest.raises(
        DataError, match=r"names 'rewrite', which no sample has.*if its column was removed"
    ):
        run_journey(without, stages=("train",))


def test_exported_shards_hold_the_chosen_texts_for_other_tools(lake, tmp_path):
    """Oracles: tarfile, the table itself, and open_clip's own pipeline of samples."""
    recipe = lake.recipe()
    done = export_shards(recipe, str(tmp_path / "out"), sources=["rewrite", "alt"])
    table = {row["uid"]: row for row in _with_uids(lake.web.table)}
    train = [m for m in lake.members(recipe) if m["split"] == "train"]
    found = []
    for name in done.shards:
        with tarfile.open(tmp_path / "out" / name) as tar:
            for member in tar:
                key, suffix = member.name.split(".")
                content = tar.extractfile(member).read()
                if suffix == "txt":
                    assert content.decode() == table[key]["rewrite"]
                elif suffix == "json":
                    record = json.loads(content)
                    found.append((record["sample_id"], record["uid"]))
                    captions = {"alt": [table[key]["caption"]], "rewrite": [table[key]["rewrite"]]}
                    assert record["captions"] == captions
                else:
                    row = train[len(found)]
                    assert hashlib.sha256(content).hexdigest() == row["image_sha256"]
    assert found == [(m["sample_id"], m["uid"]) for m in train]
    assert (done.samples, done.without_text) == (len(train), 0)
    urls = [str(tmp_path / "out" / name) for name in done.shards]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # webdataset leaves closing to the collector
        samples = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
        usable = list(filter(open_clip_train.data.filter_no_caption_or_no_image, samples))
        del samples
        gc.collect()
    assert len(usable) == len(train)

    assert (
        export_shards(recipe, str(tmp_path / "out"), sources=["rewrite", "alt"]).state == "cached"
    )
    with pytest.raises(ConfigError, match="holds other files"):
        export_shards(recipe, str(tmp_path / "out"), sources=["alt"])
    with pytest.raises(ConfigError, match="below the root"):
        export_shards(recipe, str(Path(recipe.root, "out")), sources=["alt"])
    with pytest.raises(ConfigError, match=r"no sample has a text of source 'again'.*alt, rewrite"):
        export_shards(recipe, str(tmp_path / "other"), sources=["again"])


def _with_uids(table: Path) -> list[dict]:
    from neuclip.foundation.ids import uid_of

    rows = pq.read_table(table).to_pylist()
    return [{**row, "uid": row.get("uid") or uid_of(row["url"], row["caption"])} for row in rows]
