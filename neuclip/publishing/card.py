"""The model card: README.md with the front matter that model hubs read."""

from typing import Any

import yaml

from neuclip.publishing.facts import Facts
from neuclip.publishing.templates import environment
from neuclip.publishing.text import count


def model_card(facts: Facts) -> str:
    """Write the model card in Markdown."""
    front_matter: dict[str, Any] = {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "license": facts.config.license,
        "tags": ["clip", "neuclip"],
    }
    return (
        environment()
        .get_template("card.md.j2")
        .render(
            front_matter=yaml.safe_dump(front_matter, sort_keys=False).strip(),
            facts=facts,
            limits=limits(facts),
            in_a_cell=_in_a_cell,
        )
    )


def limits(facts: Facts) -> list[str]:
    """Say what these numbers do not show."""
    found = [
        f"Trained on {count(facts.manifest('index').ledger.out)} pairs, {count(facts.choice.samples_seen)} seen with "
        "repeats; models of another scale are no comparison.",
        "Captions and images come from the web as they are; the model repeats their errors, gaps and biases.",
        "Not tested for any use where a wrong answer does harm.",
    ]
    if not facts.scores:
        found.insert(0, "Not evaluated: the recipe names no evaluation set.")
    if facts.not_kept_out:
        sets = ", ".join(facts.not_kept_out)
        found.insert(
            0, f"Training was not kept clean of {sets}: pairs of it may have been trained on."
        )
    weak = [score.set for score in facts.scores if score.main_value < 2 * score.chance]
    if weak:
        found.insert(0, f"Less than twice chance on {', '.join(weak)}.")
    return found


def _in_a_cell(content: object) -> str:
    """Keep a text inside its cell of a Markdown table."""
    return " ".join(str(content).replace("|", "\\|").replace("<", "&lt;").split())
