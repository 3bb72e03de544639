"""Everything that the committed stages say of a model, read once for its card and its report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuclip.evaluation.score import SetScore
from neuclip.foundation.text import split_lines
from neuclip.publishing.config import PublishConfig
from neuclip.selection.choose import Choice
from neuclip.selection.score import CheckpointScore
from neuclip.stages.committed import committed_bytes, holds_file, require_same
from neuclip.stages.manifest import Manifest, read_manifest
from neuclip.text_encoder.record import ENCODER, EncoderRecord, parse_record
from neuclip.towers.files import (
    ADAPTER_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    joined_sha256,
    parse_config,
)

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Facts:
    """What is known of a model."""

    config: PublishConfig
    recipe_yaml: str
    manifests: list[Manifest]
    """Of the stages in the order of the journey."""
    data_stages: Sequence[str]
    """Those that hand samples on."""
    model: dict[str, Any]
    """model_cfg and preprocess_cfg of the model folder."""
    scores: list[SetScore]
    checkpoints: list[CheckpointScore]
    choice: Choice
    metrics: list[dict[str, Any]]
    """Lines of the training log, in order of steps."""
    encoder: EncoderRecord | None = None
    """What encodes texts for it, if its text tower reads features."""

    def manifest(self, stage: str) -> Manifest:
        """Return the manifest of a stage."""
        return next(manifest for manifest in self.manifests if manifest.stage == stage)

    def find(self, stage: str) -> Manifest | None:
        """Return the manifest of a stage that a recipe need not have, None if it has it not."""
        return next((one for one in self.manifests if one.stage == stage), None)

    @property
    def not_kept_out(self) -> list[str]:
        """The sets scored here whose pairs curate did not look for in the training data, by their content."""
        looked_for = self.manifest("score").inputs
        return [
            name
            for name, content in self.manifest("evaluate").inputs.items()
            if name in {score.set for score in self.scores} and looked_for.get(name) != content
        ]

    @property
    def funnel(self) -> list[Manifest]:
        """The manifests of the stages that handle samples."""
        return [self.manifest(stage) for stage in self.data_stages]


def read_facts(
    config: PublishConfig,
    *,
    recipe_yaml: str,
    uris: Mapping[str, str],
    data_stages: Sequence[str],
) -> Facts:
    """Read the manifests and the small files of all stages.

    Args:
        uris: stage -> committed folder, in the order of the journey.
        data_stages: those of them that hand samples on.
    """
    select = uris["select"]
    choice = Choice(**_read_json(select, "choice.json"))
    scores = [SetScore(**row) for row in _read_json(uris["evaluate"], "scores.json")]
    committed = {record.name: record.sha256 for record in read_manifest(select).files}
    names = [f"model/{name}" for name in (WEIGHTS_FILE, ADAPTER_FILE)]
    weights = joined_sha256(committed[name] for name in names if name in committed)
    for what, sha256 in [
        ("the choice", choice.model_sha256),
        *((f"the score on {row.set}", row.model_sha256) for row in scores),
    ]:
        require_same(
            sha256,
            weights,
            f"SHA-256 of the model of {what}",
            redo_with="run `--from select --force`",
        )
    model = parse_config(committed_bytes(select, f"model/{CONFIG_FILE}"))
    return Facts(
        config=config,
        recipe_yaml=recipe_yaml,
        manifests=[read_manifest(uri) for uri in uris.values()],
        data_stages=data_stages,
        model=dict(zip(("model_cfg", "preprocess_cfg"), model, strict=True)),
        encoder=_read_encoder(select),
        scores=scores,
        checkpoints=[CheckpointScore(**row) for row in _read_json(select, "scores.json")],
        choice=choice,
        metrics=_read_metrics(uris["train"]),
    )


def _read_encoder(select_uri: str) -> EncoderRecord | None:
    """Return what encodes texts for the chosen model, None if its text tower reads tokens."""
    name = f"model/{ENCODER}"
    if not holds_file(select_uri, name):
        return None
    return parse_record(committed_bytes(select_uri, name), name)


def _read_json(folder_uri: str, name: str) -> Any:  # noqa: ANN401  # each file has its own form
    return json.loads(committed_bytes(folder_uri, name))


def _read_metrics(train_uri: str) -> list[dict[str, Any]]:
    """Read the training log; a run that logged nothing has none."""
    if not holds_file(train_uri, METRICS_FILE):
        return []
    text = committed_bytes(train_uri, METRICS_FILE).decode("utf-8")
    return [json.loads(line) for line in split_lines(text) if line]
