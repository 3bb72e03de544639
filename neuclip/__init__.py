"""neuclip: from a list of image URLs with captions to an evaluated, published CLIP model.

The rooms follow the way of a sample: acquire, curate, captions, shards, index, loading, towers,
objectives, checkpoint, training, selection, evaluation, publishing. `journey` chains them.
"""

import os

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}
"""No library fetches a model or reports home. Whatever runs neuclip (command line, flows, ranks, workers, children)
imports this package before such a library, and its children inherit it; a setting from outside does not stand."""

os.environ.update(_OFFLINE)
os.environ.setdefault(
    "TOKENIZERS_PARALLELISM", "false"
)  # else loading processes warn, and start threads of their own
