"""Evaluation sets as inputs of a stage's key."""

from collections.abc import Sequence

from neuclip.foundation.errors import ConfigError
from neuclip.stages.keys import fingerprint
from neuclip.storage.uris import name_of

_SUFFIXES = (".txt", ".tar")


def fingerprint_sets(uris: Sequence[str]) -> dict[str, str]:
    """Return the fingerprint of each set's content, by the name of its folder.

    Raises: ConfigError: if two have one name. DataError: if there is nothing to read.
    """
    names = [name_of(uri) for uri in uris]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two evaluation sets are called alike: {', '.join(sorted(names))}; give their folders different names"
        )
    return {name: fingerprint(uri, _SUFFIXES) for name, uri in zip(names, uris, strict=True)}
