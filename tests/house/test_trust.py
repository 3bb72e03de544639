"""What a recipe's texts can do: every text field is classified, so that a new one cannot be forgotten."""

from typing import Any, get_args

from neuclip.foundation.config import RESERVED, marks_of, models_in
from neuclip.recipe import Recipe
from neuclip.storage.places import PLACE

WORDS = {
    *("acquire.columns", "acquire.url_column", "acquire.caption_column", "acquire.uid_column"),
    *("acquire.sha256_column", "acquire.caption_columns", "acquire.keep_columns"),
    *("acquire.refuse.hosts", "acquire.refuse.urls", "acquire.refuse.uids"),
    *("caption.derive.of", "caption.derive.source", "caption.derive.text"),
    *("caption.imports.source", "caption.imports.key", "caption.imports.columns"),
    *("caption.imports.key_column", "caption.imports.caption_column"),
    *("caption.imports.key_field", "caption.imports.text_field", "caption.imports.text_columns"),
    *("caption.generate.source", "caption.generate.model", "caption.generate.of"),
    *("caption.generate.seen", "caption.generate.instruction"),
    *("caption.models", "caption.models.model", "caption.models.revision", "caption.models.body"),
    *("train.probe.observers", "curate.rules.source", "train.image_views", "train.text_views"),
    *("train.captions.weights", "train.captions.schedule.weights", "train.captions.sources"),
    *("train.phases.captions.weights", "train.phases.captions.schedule.weights"),
    *("train.phases.captions.sources", "train.text_views.captions.sources"),
    *("train.text_views.captions.weights", "train.text_views.captions.schedule.weights"),
    "train.text_views.captions.view",
    *("train.terms", "train.terms.images", "train.terms.text", "train.terms.texts"),
    *("curate.decontaminate.embedding.score", "curate.rules.score", "curate.rules.best"),
    *("curate.rules.keep", "curate.rules.patterns", "curate.rules.column", "curate.rules.name"),
    *("score.scores.name", "score.scores.source"),
    *("train.model.name", "train.model.architecture", "train.telemetry.project"),
    *("publish.name", "publish.license", "publish.description"),
    *("text_encoder.sources", "text_encoder.tune.short", "text_encoder.tune.long"),
    *("text_encoder.tune.to_long", "text_encoder.tune.to_short"),
    "text_encoder.tune.warm_up.blank",
}
"""Texts that are compared, shown or parsed: none names a file, a program, a machine or an address."""
RESERVED_PLACES = {
    *("acquire.egress.allow_hosts", "acquire.egress.contact", "acquire.egress.dns_servers"),
    *("acquire.scale.address", "score.scale.address", "shard.scale.address"),
    *("caption.scale.address", "caption.models.address", "caption.models.api_key"),
    *("index.scale.address", "evaluate.scale.address", "train.launch"),
    "text_encoder.scale.address",
}
PLACES = {
    *("root", "acquire.table", "acquire.adopt", "curate.decontaminate.sets"),
    *("curate.rules.file", "curate.rules.metadata", "curate.rules.target", "score.scores.model"),
    *("index.features.model", "evaluate.sets", "train.initial.model"),
    *("train.model.tokenizer", "train.model.text.folder"),
    *("train.text_tokens.table", "train.phases.text_tokens.table"),
    *("caption.imports.table", "caption.imports.files"),
    *("caption.models.folder", "caption.similarity.model", "text_encoder.folder"),
}


def holds_text(annotation: Any) -> bool:
    return annotation in (str, Any) or any(map(holds_text, get_args(annotation)))


def text_fields(model, place="") -> dict[str, set[str]]:
    """Return the fields of a recipe that hold text, with their kind."""
    found = {}
    for name, info in model.model_fields.items():
        where = f"{place}{name}"
        marks = marks_of(info)
        if RESERVED in marks:
            found[where] = "reserved"
            continue
        for inner in models_in(info.annotation):
            found |= text_fields(inner, f"{where}.")
        if holds_text(info.annotation):
            found[where] = "place" if PLACE in marks else "words"
    return found


def test_every_text_of_a_recipe_is_a_place_or_reserved_or_known_to_be_words():
    found = text_fields(Recipe)
    kinds = {
        kind: {where for where in found if found[where] == kind}
        for kind in ("reserved", "place", "words")
    }
    assert kinds == {"reserved": RESERVED_PLACES, "place": PLACES, "words": WORDS}
