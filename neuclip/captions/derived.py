"""Caption sources that a function makes of the texts that a pair has.

A kind is a section of the recipe with a function: a file like sentences.py, and its name in the list of config.py.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from neuclip.foundation.config import Section


class DerivedSource(Section):
    """A source made of others, pair by pair, by a function of their texts alone."""

    version: ClassVar[int] = 1
    """Raised when the same texts give others."""

    source: str = Field(
        pattern=r"^[a-z][a-z0-9_]*$", description="name of the new source, as training weighs it"
    )

    @abstractmethod
    def reads(self) -> list[str]:
        """Return the sources that texts are made of: of the table, or earlier in the list."""

    @abstractmethod
    def texts(self, of_pair: Mapping[str, list[str]]) -> list[str]:
        """Return the new texts of a pair; blank ones are left out.

        Args:
            of_pair: its texts by source, those of `reads` that it has.
        """

    def key(self) -> dict[str, Any]:
        """Return what the new texts depend on besides the texts that they are made of."""
        return {**self.model_dump(mode="json"), "version": self.version}
