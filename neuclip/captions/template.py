"""One caption put together from several columns: title and description, or a label in a sentence."""

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from neuclip.captions.derived import DerivedSource

_FIELD = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class Template(DerivedSource):
    """A text with places for the first text of other sources; pairs that lack one of them get none."""

    kind: Literal["template"] = "template"
    text: str = Field(
        description="such as `{title}, {alt}`: each {SOURCE} is replaced by that source's first text"
    )

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        left = _FIELD.sub("", self.text)
        if not self.reads() or "{" in left or "}" in left:
            raise ValueError(
                f"expected a text with places like {{alt}} for caption sources, found {self.text!r}; "
                "write each place as the name of a source in braces"
            )
        return self

    def reads(self) -> list[str]:
        """Return the sources that the text names."""
        return list(dict.fromkeys(_FIELD.findall(self.text)))

    def texts(self, of_pair: Mapping[str, list[str]]) -> list[str]:
        """Return the one text, if the pair has all that it names."""
        if any(not of_pair.get(source) for source in self.reads()):
            return []
        return [_FIELD.sub(lambda place: of_pair[place[1]][0].strip(), self.text)]
