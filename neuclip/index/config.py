"""The `index` section of a recipe."""

from neuclip.foundation.config import Section

STAGE_VERSION = 2
"""Raised when the stage's output for the same recipe and inputs changes."""


class IndexConfig(Section):
    """The sample index has no settings yet: it follows from the shards."""
