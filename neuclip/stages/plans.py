"""Plans: what workers elsewhere are handed as files at the root, removed once they are done."""

from neuclip.storage.files import remove_tree
from neuclip.storage.uris import join

_PLANS = "plans"


def plans_uri(root: str, stage: str, key: str) -> str:
    """Return the folder for the plans of one stage."""
    return join(root, stage, _PLANS, key)


def remove_all_plans(root: str, stage: str) -> None:
    """Remove the plans that killed runs of a stage left: they hold rows of pairs."""
    remove_tree(join(root, stage, _PLANS))
