"""The `index` section of a recipe."""

from neuclip.foundation.config import Section


class IndexConfig(Section):
    """The sample index has no settings yet: it follows from the shards."""
