"""A new stage is a room, its place in the list, and its section of the recipe. Oracle: one that is added to a copy."""

from house.additions import use, with_changes

ROOM = {
    "__init__.py": '"""Counts the words of the captions."""\n',
    "config.py": """
from pydantic import Field
from neuclip.foundation.config import Section

class WordsConfig(Section):
    least: int = Field(default=1, description="characters of a word")
""",
    "stage.py": """
import pyarrow.parquet as pq
from neuclip.acquired.partitions import rows_paths
from neuclip.stages.ledger import make_ledger
from neuclip.stages.stage import Stage, Trace
from neuclip.stages.workspace import Outcome
from neuclip.words.config import WordsConfig

def _run(job, workspace):
    rows = pq.read_table(rows_paths(job.above["acquire"]), columns=["uid"])
    pq.write_table(rows, workspace.output / "words.parquet")
    return Outcome(make_ledger(len(rows), len(rows), {}))

WORDS = Stage(
    name="words",
    version=1,
    purpose="Count words.",
    run=_run,
    above=("acquire",),
    fed_by="acquire",
    trace=Trace(stays="numbers", table="words.parquet"),
)
""",
}
ADDED = {
    "stage_list.py": {
        "from neuclip.training.stage import TRAIN\n": "from neuclip.words.stage import WORDS\n",
        "    PUBLISH,\n": "    WORDS,\n",
    },
    "recipe.py": {
        "from neuclip.training.config import TrainConfig\n": "from neuclip.words.config import WordsConfig\n",
        "    train: TrainConfig = ": "    words: WordsConfig = WordsConfig()\n    train: TrainConfig = ",
    },
}
USED = """
from flows.stages import STAGE_FLOWS, words
from made.acquired import commit_acquired, some_pairs
from neuclip.journey import identify, plan, run_stage
from neuclip.takedown.spread import find_places
from query.journeys import make_recipe

recipe, _ = make_recipe(Path(sys.argv[1]))
assert [item.state for item in plan(recipe) if item.stage == "words"] == ["missing"]
pairs = some_pairs(9)
commit_acquired(Path(recipe.root), [pairs], identify(recipe)["acquire"].key)
assert run_stage(recipe, "words").manifest.ledger.out == 9
assert run_stage(recipe, "words").state == "cached"
assert STAGE_FLOWS["words"] is words
(place,) = find_places(recipe.root, {pairs[0].uid})
assert (place.stage, place.pairs, place.stays) == ("words", 1, "numbers")
other = make_recipe(Path(sys.argv[1]), words={"least": 3})[0]
assert [item.why for item in plan(other) if item.stage == "words"] == ["words.least: 1 -> 3"]
"""


def test_a_stage_is_added_in_two_files_besides_its_room(tmp_path):
    new = {f"words/{name}": text for name, text in ROOM.items()}
    with_changes(tmp_path, new=new, changed=ADDED)
    use(tmp_path, USED)
