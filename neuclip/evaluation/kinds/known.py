"""The kinds that are known; one that is added is a file and an entry here."""

from neuclip.evaluation.kinds.choice import Choice
from neuclip.evaluation.kinds.classification import Classification
from neuclip.evaluation.kinds.grouped import Grouped
from neuclip.evaluation.kinds.kind import Kind
from neuclip.evaluation.kinds.multilabel import Multilabel
from neuclip.evaluation.kinds.retrieval import Retrieval

KINDS: tuple[Kind, ...] = (
    Classification(),
    Grouped(),
    Multilabel(),
    Retrieval(),
    Choice(),
)
"""Of two of one type, the first that has the metric that a set is told by."""
