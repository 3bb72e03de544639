"""Make the word list of `neuclip/loading/edits` from WordNet: `python infra/synonyms.py /usr/share/wordnet`.

WordNet 3.0 is in Debian's package wordnet-base; training and tests need the list alone. A word is a line: it, then its
synonyms, between tabs. Taken are lower-case words of three letters or more that are no proper name, in the sense that
they mostly have in WordNet's tagged texts, with those words of the same sense that mostly have it, too; senses that
WordNet marks for their usage (slang, slurs, archaic words) are left out.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

EDITS = Path(__file__).parents[1] / "neuclip/loading/edits"
_FILES = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
"""By the type of a synset in a sense key; 5 is an adjective beside another one."""
_BESIDE = "s"
_USAGE = ";u"
_LEAST_TAGGED = 2
_LEAST_SHARE = 1 / 3
_LEFT_OUT = {
    *("alien", "butt", "damn", "disabled", "gay", "goddam", "idiot", "imbecile", "jimdandy", "tit"),
    *("but", "lay", "licking", "men", "place", "race", "runner", "works"),
}
"""Words that offend, or that mean something else in most captions."""

Sense = tuple[str, str]
"""File and offset of a synset."""


class WordNet:
    """What the list needs of WordNet's files (wndb(5WN), cntlist(5WN))."""

    def __init__(self, folder: Path) -> None:
        self.words: dict[Sense, list[str]] = {}
        self.proper: set[str] = set()
        self.marked: set[Sense] = set()
        self.tagged: defaultdict[str, dict[Sense, int]] = defaultdict(dict)
        places: defaultdict[tuple[str, bool, str, int], list[Sense]] = defaultdict(list)
        for part in sorted(set(_FILES.values())):
            for offset, file, kind, count, *rest in _rows(folder / f"data.{part}"):
                sense, end = (part, offset), 2 * int(count, 16)
                found = [word.partition("(")[0] for word in rest[:end:2]]
                self.words[sense] = found
                self.proper |= {word.lower() for word in found if word != word.lower()}
                if _USAGE in rest[end + 1 : end + 1 + 4 * int(rest[end]) : 4]:
                    self.marked.add(sense)
                for word, number in zip(found, rest[1:end:2], strict=True):
                    place = (f"{word.lower()}%{part}", kind == _BESIDE, file, int(number, 16))
                    places[place].append(sense)
        for key, _, times in _rows(folder / "cntlist.rev"):
            word, _, rest = key.partition("%")
            kind, file, number, *_ = rest.split(":")
            senses = places[f"{word}%{_FILES[kind]}", kind == "5", file, int(number)]
            if len(senses) == 1:
                self.tagged[word][senses[0]] = int(times)

    def mostly(self, word: str, sense: Sense) -> bool:
        """Tell whether a plain word mostly has this sense."""
        times = self.tagged.get(word, {})
        return (
            len(word) > 2
            and word.isascii()
            and word.isalpha()
            and word.islower()
            and word not in self.proper | _LEFT_OUT
            and times.get(sense, 0) >= max(_LEAST_TAGGED, _LEAST_SHARE * sum(times.values()))
        )

    def synonyms(self) -> dict[str, list[str]]:
        """Return word -> synonyms."""
        found: dict[str, list[str]] = {}
        for word, times in sorted(self.tagged.items()):
            sense = max(times, key=lambda one: times[one])
            if sense in self.marked or not self.mostly(word, sense):
                continue
            others = [one for one in self.words[sense] if one != word and self.mostly(one, sense)]
            if others:
                found[word] = sorted(others)
        return found


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the fields of a file's lines; those that begin with two spaces are the licence."""
    for line in path.read_text("latin-1").splitlines():
        if not line.startswith("  "):
            yield line.split(" ")


def _licence(path: Path) -> str:
    lines = [line for line in path.read_text("latin-1").splitlines() if line.startswith("  ")]
    return "".join(f"{line.strip().partition(' ')[2].rstrip()}\n" for line in lines)


if __name__ == "__main__":
    wordnet = Path(sys.argv[1])
    lines = ["\t".join([word, *others]) for word, others in WordNet(wordnet).synonyms().items()]
    (EDITS / "synonyms.tsv").write_text("\n".join(lines) + "\n", encoding="ascii")
    (EDITS / "synonyms.LICENSE").write_text(_licence(wordnet / "data.noun"), encoding="ascii")
