"""The model card: README.md with the front matter that model hubs read."""

from typing import Any

import yaml

from neuclip.publishing.facts import Facts
from neuclip.publishing.templates import environment
from neuclip.publishing.text import count
from neuclip.text_encoder.record import EncoderRecord
from neuclip.towers.exports import IMAGE
from neuclip.towers.model_cfg import text_exports


def model_card(facts: Facts) -> str:
    """Write the model card in Markdown."""
    exports = text_exports(facts.model["model_cfg"])
    front_matter: dict[str, Any] = {
        "library_name": "neuclip" if exports == IMAGE else "open_clip",
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
            loading=loading(facts.model["model_cfg"], facts.encoder) + _tuning(facts),
            in_a_cell=_in_a_cell,
        )
    )


def loading(model_cfg: dict[str, Any], encoder: EncoderRecord | None) -> str:
    """Say in Markdown how the model folder is loaded."""
    exports = text_exports(model_cfg)
    if exports == IMAGE:
        return _loading_by_neuclip(encoder)
    place = "PATH_OF_THIS_FOLDER" if "open_clip" in exports else "."
    code = (
        "```python\nimport open_clip\n\n"
        f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{place}")\n'
        f'tokenizer = open_clip.get_tokenizer("local-dir:{place}")\n```\n\n'
    )
    if place == ".":
        return (
            f"{code}Run it inside this folder, which holds the text tower's configuration and its tokenizer; both need "
            "the transformers library."
        )
    if model_cfg["text_cfg"].get("hf_tokenizer_name"):
        return f"{code}The tokenizer lies in this folder and needs the transformers library."
    return f"{code}The tokenizer is the one that open_clip ships; no further file is needed."


def _loading_by_neuclip(encoder: EncoderRecord | None) -> str:
    """Say how images and texts are encoded where the text tower is none of open_clip's."""
    given, about = "", ""
    if encoder is not None:
        given, about = ', encoder="PATH_OF_THE_ENCODER"', _about_encoder(encoder)
    return (
        "```python\nfrom neuclip.towers.folder import load_towers\n\n"
        f'towers = load_towers("PATH_OF_THIS_FOLDER"{given})\n'
        'texts = towers.text_features(towers.tokenize(["a photo of a cat"]))\n```\n\n'
        f"{about}The weights of the text tower are in `text_adapter.safetensors`.\n\n"
        "**open_clip alone encodes images, and no texts**: `open_clip.create_model_and_transforms"
        '("local-dir:PATH_OF_THIS_FOLDER")` gives the image tower, and in the place of a text tower one of zeros that '
        "reads a single token. So zero-shot classification and retrieval need neuclip."
    )


def _tuning(facts: Facts) -> str:
    """Say what the encoder learnt of the captions, and how many it read cut; nothing without an encoder."""
    stage = facts.find("text_encoder")
    if stage is None:
        return ""
    texts, cut = stage.ledger.out, stage.summary["truncated"]
    said = f"\n\nOf {count(texts)} training texts the encoder read {count(cut)} cut at its budget of tokens."
    if after := stage.summary["tuning"].get("retrieval_after"):
        before = stage.summary["tuning"]["retrieval_before"]
        ways = [
            f"{way.replace('_', ' ')} {before[way]:.1%} before and {after[way]:.1%} after"
            for way in ("short_to_long", "long_to_short")
        ]
        said += (
            f" It was tuned on the captions: on {count(after['pairs'])} pairs that were kept out it finds the other "
            f"caption of an image, {', '.join(ways)}."
        )
    return said


def _about_encoder(encoder: EncoderRecord) -> str:
    return (
        f"Texts are encoded by a language model that is not in this folder: of type {encoder.model_type}, width "
        f"{encoder.width}, {encoder.pooling} pooling, fingerprint `{encoder.fingerprint[:16]}`; `encoder.json` has all "
        "of it. It is the folder `encoder` that the stage `text_encoder` of the training left; any other one is "
        "refused. "
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
    if collapse := facts.manifest("train").summary.get("collapse"):
        found.insert(0, f"Of the training: {collapse}.")
    for score in facts.scores:
        if score.cut_texts:
            found.insert(
                0,
                f"{count(score.cut_texts)} texts of {score.set} are longer than the model reads, and were scored by "
                "their beginning.",
            )
    weak = [score.set for score in facts.scores if score.main_value < 2 * score.chance]
    if weak:
        found.insert(0, f"Less than twice chance on {', '.join(weak)}.")
    return found


def _in_a_cell(content: object) -> str:
    """Keep a text inside its cell of a Markdown table."""
    return " ".join(str(content).replace("|", "\\|").replace("<", "&lt;").split())
