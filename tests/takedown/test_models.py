"""Models that began with others, in what a takedown lists."""

from pathlib import Path

from takedown.conftest import url_of

from neuclip.foundation.progress import silent
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage
from neuclip.takedown.lists import Wanted
from neuclip.takedown.run import run_takedown


def test_models_that_trained_on_from_one_with_the_pairs_are_listed(lake):
    """Oracle: a chain of nights by hand; the last one's shards never had the pairs."""
    (shard,) = [path.parent.name for path in lake.root.glob("shard/*/manifest.json")]

    def commit(stage, key, inputs, **summary):
        identity = StageIdentity(stage, 1, key, {}, inputs, str(lake.root))
        commit_stage(identity, lambda _: Outcome(make_ledger(1, 1, {}), summary))

    def night(number, shard, **summary):
        commit("train", f"t{number}", {"shard": shard}, **summary)
        commit("select", f"s{number}", {"train": f"t{number}"})
        commit("publish", f"p{number}", {"select": f"s{number}"})

    def from_published(key):
        return {"initial": {"stage": "publish", "key": key}}

    night(3, "other", **from_published("p2"))  # done again before what it was made of
    night(2, "other", **from_published("p1"))
    night(1, shard)
    night(4, "other", initial={"stage": None, "key": None})
    report = run_takedown(str(lake.root), Wanted([], [url_of(1)], []), progress=silent)
    listed = {Path(place.uri).name for place in report.contained}
    models = {f"{kind}{number}" for kind in "tsp" for number in (1, 2, 3, 4)}
    assert listed & models == models - {"t4", "s4", "p4"}
