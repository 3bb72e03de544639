"""The publish stage: the model as a folder for others, and the page that says how it came about."""

import shutil
from collections.abc import Mapping, Sequence

from neuclip.foundation.progress import Progress
from neuclip.publishing.card import model_card
from neuclip.publishing.config import PublishConfig
from neuclip.publishing.curation import read_curation
from neuclip.publishing.facts import read_facts
from neuclip.publishing.grid import sample_grid
from neuclip.publishing.report import report_page
from neuclip.publishing.written import read_written
from neuclip.stages.committed import committed_file
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.places import without_credentials
from neuclip.towers.files import model_files


def run_publish(
    config: PublishConfig,
    *,
    recipe_yaml: str,
    uris: Mapping[str, str],
    data_stages: Sequence[str],
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    """Write model/ (as open_clip and model hubs read it, with its card) and report.html.

    Args:
        recipe_yaml: the recipe as everybody may read it.
        uris: stage -> committed folder, of all stages above in order.
        data_stages: those of them that hand samples on.
    """
    progress("publish", done=0, total=3, note="reading the manifests")
    facts = read_facts(config, recipe_yaml=recipe_yaml, uris=uris, data_stages=data_stages)
    progress("publish", done=1, total=3, note="copying the model")
    model = workspace.output / "model"
    model.mkdir()
    prefix = "model/"
    chosen = [file.name.removeprefix(prefix) for file in read_manifest(uris["select"]).files]
    for name in model_files(chosen):
        shutil.copyfile(committed_file(uris["select"], prefix + name), model / name)
    (model / "README.md").write_text(without_credentials(model_card(facts)), encoding="utf-8")
    progress("publish", done=2, total=3, note="writing the report")
    samples = sample_grid(uris["shard"], uris["index"], config.sample_grid)
    curation = read_curation(uris["curate"], uris["acquire"])
    written = read_written(uris["caption"], uris["curate"], uris["acquire"])
    page = without_credentials(report_page(facts, curation, written, samples))
    (workspace.output / "report.html").write_text(page, encoding="utf-8")
    progress("publish", done=3, total=3)
    return Outcome(
        ledger=make_ledger(1, 1, {}),
        summary={
            "model_sha256": facts.choice.model_sha256,
            "step": facts.choice.step,
            "report_samples": len(samples),
        },
    )
