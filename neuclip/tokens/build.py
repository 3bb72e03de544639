"""Build the table of priorities of a tokenizer's vocabulary: every token is tagged alone, once, by TextBlob.

`python -m neuclip.tokens.build --output clip_bpe.json` makes the one of CLIP's own vocabulary again, byte for byte;
`--tokenizer FOLDER` one for the tokenizer.json in a folder. English, as the tagger is.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from neuclip.foundation.errors import ConfigError, NeuclipError
from neuclip.tokens.priorities import (
    REST,
    PriorityTable,
    priority_of,
    vocabulary_sha256,
)

_LICENCE = (
    "made with the lexicon of Brill's tagger, copyright 1993 Massachusetts Institute of Technology and University "
    "of Pennsylvania, MIT licence, with words of CMU's Twitter part-of-speech data, CC BY 3.0; see LICENSE beside"
)
_CONTINUES, _SPACE = "##", "\u2581"


def main(arguments: list[str] | None = None) -> int:
    """Write a table; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m neuclip.tokens.build",
        description="Build the table by which `text_tokens: {name: syntax}` chooses tokens.",
    )
    parser.add_argument("--tokenizer", metavar="FOLDER", help="with tokenizer.json; default CLIP's")
    parser.add_argument("--name", help="what the vocabulary is called; default the folder's name")
    parser.add_argument("--output", metavar="FILE", required=True, type=Path)
    asked = parser.parse_args(arguments)
    try:
        if asked.tokenizer is None:
            name, words, vocabulary = "clip_bpe", *_of_clip()
        else:
            name, words, vocabulary = Path(asked.tokenizer).name, *_of_folder(Path(asked.tokenizer))
        table = build_table(words, vocabulary, name=asked.name or name)
    except NeuclipError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    asked.output.write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
    counts = ", ".join(f"{table.priorities.count(digit)} of priority {digit}" for digit in "1234")
    sys.stdout.write(f"{asked.output}: {len(table.priorities)} tokens, {counts}\n")
    return 0


def build_table(
    words: Mapping[int, str], vocabulary: Mapping[str, int], *, name: str
) -> PriorityTable:
    """Return the table of a vocabulary.

    Args:
        words: id -> the text of the token; those without a letter, and ids without a text, have the last priority.
        vocabulary: token -> id, by which the table is known.
    Raises: ConfigError: without TextBlob.
    """
    try:
        from textblob.en import tag
    except ImportError as error:
        raise ConfigError(
            "building a table needs the tagger TextBlob, at build time alone: pip install textblob"
        ) from error
    priorities = [REST] * (max(vocabulary.values()) + 1)
    for number, word in words.items():
        if not any(letter.isalpha() for letter in word):
            continue
        tags = [found for _, found in tag(word, tokenize=False)]
        priorities[number] = min((priority_of(one) for one in tags), default=REST)
    digits = "".join(map(str, priorities))
    return PriorityTable(
        vocabulary=name,
        vocabulary_sha256=vocabulary_sha256(vocabulary),
        tagger=f"textblob {version('textblob')}, textblob.en.tag, each token alone",
        licence=_LICENCE,
        priorities_sha256=hashlib.sha256(digits.encode()).hexdigest(),
        priorities=digits,
    )


def _of_clip() -> tuple[dict[int, str], dict[str, int]]:
    """Return the words and the vocabulary of open_clip's own tokenizer."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    specials = set(tokenizer.all_special_ids)
    return {
        number: _word(tokenizer.decode([number]))
        for number in tokenizer.decoder
        if number not in specials
    }, tokenizer.encoder


def _of_folder(folder: Path) -> tuple[dict[int, str], dict[str, int]]:
    """Return the words and the vocabulary of a tokenizer.json."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(
            "a tokenizer.json is read by tokenizers: pip install neuclip[hf]"
        ) from error
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{path} is not there; expected the folder of a fast tokenizer")
    tokenizer = Tokenizer.from_file(str(path))
    vocabulary = tokenizer.get_vocab()
    specials = {
        number for number, one in tokenizer.get_added_tokens_decoder().items() if one.special
    }
    return {
        number: _word(tokenizer.decode([number]))
        for number in vocabulary.values()
        if number not in specials
    }, vocabulary


def _word(text: str) -> str:
    """Return the text of a token without the marks of its place in a word; nothing for a piece of a character."""
    bare = text.strip().removeprefix(_CONTINUES).strip(_SPACE).strip()
    return "" if "\ufffd" in bare else bare


if __name__ == "__main__":
    sys.exit(main())
