"""What changes for a caption source made by a function, and for a rule over groups. Oracle: a copy with one."""

from house.additions import use, with_changes

REVERSED = """
from typing import Literal
from neuclip.captions.derived import DerivedSource

class Reversed(DerivedSource):
    kind: Literal["reversed"] = "reversed"

    def reads(self):
        return ["alt"]

    def texts(self, of_pair):
        return [" ".join(reversed(text.split())) for text in of_pair.get("alt", [])]
"""


def test_a_caption_source_made_by_a_function_is_two_files(tmp_path):
    changed = {
        "captions/config.py": {
            "from neuclip.captions.sentences import Sentences\n": "from neuclip.captions.reversed import Reversed\n",
            "Sentences | Template": "Sentences | Template | Reversed",
        }
    }
    with_changes(tmp_path, new={"captions/reversed.py": REVERSED}, changed=changed)
    use(
        tmp_path,
        """
from made.acquired import some_pairs
from made.packed import pack
from neuclip.captions.config import CaptionConfig
from neuclip.index.side_files import count_texts

derive = [{"kind": "reversed", "source": "backwards"}]
packed = pack(Path(sys.argv[1]), [some_pairs(30)], caption=CaptionConfig(derive=derive))
assert count_texts(packed.index)["backwards"] == 30
""",
    )


def test_a_rule_over_groups_is_two_files(tmp_path):
    changed = {
        "curate/rules.py": {
            "GroupRule = DuplicatePairs": "GroupRule = DuplicatePairs | OnePerHost",
            "class DuplicatePairs(OverGroups):\n": """class OnePerHost(OverGroups):
    kind: Literal["one_per_host"] = "one_per_host"


class DuplicatePairs(OverGroups):
""",
        },
        "curate/groups.py": {
            "    GroupRule,\n": "    OnePerHost,\n",
            "        case DuplicatePairs():\n": """        case OnePerHost():
            _gather(pool, alive, connection, key="split_part(url, '/', 3)", best=[])
            return Dropped(_all_but_best(connection))
        case DuplicatePairs():
""",
        },
    }
    with_changes(tmp_path, new={}, changed=changed)
    use(
        tmp_path,
        """
from made.acquired import Pair, commit_acquired
from made.packed import pack
from neuclip.curate.config import CurateConfig
from neuclip.stages.manifest import read_manifest

pairs = [Pair(n, {"alt": [f"number {n}"]}, url=f"http://host{n % 3}/{n}.png") for n in range(12)]
config = CurateConfig.model_validate({"rules": [{"kind": "one_per_host"}]})
packed = pack(Path(sys.argv[1]), [pairs], curate=config)
assert read_manifest(packed.curate).ledger.dropped == {"one_per_host": 9}
""",
    )
