"""The report: one page that needs nothing but itself."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuclip.publishing.card import limits
from neuclip.publishing.charts import draw_charts
from neuclip.publishing.curation import Curation
from neuclip.publishing.facts import Facts
from neuclip.publishing.grid import Sample
from neuclip.publishing.templates import environment
from neuclip.publishing.written import Written

_STYLE = Path(__file__).parent / "report.css"


@dataclass(frozen=True)
class Bar:
    """A stage of the funnel; shares are of what entered the first stage, 0..1."""

    stage: str
    entered: int
    out: int
    set_aside: int
    """What the stage above let through, but not to here: the pairs held out for choosing a checkpoint."""
    out_share: float
    dropped_share: float
    set_aside_share: float
    dropped: dict[str, int]


@dataclass(frozen=True)
class Texts:
    """What a view of the texts was to show, and has shown; shares are of its texts, 0..1."""

    name: str
    asked: str
    shares: dict[str, float]
    """By source; an empty name is samples without any text."""
    standing_in: float
    count: int


def report_page(
    facts: Facts, curation: Curation, written: Written | None, samples: Sequence[Sample]
) -> str:
    """Write the page: text is escaped, and its policy lets nothing in but its own style and images."""
    style = _STYLE.read_text(encoding="utf-8")
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            facts=facts,
            style=style,
            policy=_policy(style),
            architecture=_architecture(facts.model["model_cfg"]),
            funnel=_funnel(facts),
            curation=curation,
            written=written,
            samples=samples,
            texts=_texts(facts),
            encoding=facts.find("text_encoder"),
            charts=draw_charts(facts.metrics),
            limits=limits(facts),
            wall_s=sum(manifest.wall_s for manifest in facts.manifests),
        )
    )


def _policy(style: str) -> str:
    """Allow this style sheet by its hash, images that are part of the page, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _funnel(facts: Facts) -> list[Bar]:
    """Measure every data stage against what entered the first."""
    ledgers = [manifest.ledger for manifest in facts.funnel]
    whole = max(ledgers[0].entered, 1)
    above = [ledgers[0].entered, *(ledger.out for ledger in ledgers)]
    return [
        Bar(
            stage=manifest.stage,
            entered=ledger.entered,
            out=ledger.out,
            set_aside=(aside := max(let_through - ledger.entered, 0)),
            out_share=ledger.out / whole,
            dropped_share=sum(ledger.dropped.values()) / whole,
            set_aside_share=aside / whole,
            dropped=ledger.dropped,
        )
        for manifest, ledger, let_through in zip(facts.funnel, ledgers, above, strict=False)
    ]


def _texts(facts: Facts) -> list[Texts]:
    """Read what training says of its texts, by view."""
    found: list[Texts] = []
    for name, shown in facts.manifest("train").summary.get("texts", {}).items():
        by_source: dict[str, int] = shown["by_source"]
        count = sum(by_source.values())
        shares = {source: by_source[source] / count for source in sorted(by_source)}
        found.append(Texts(name, shown["asked"], shares, shown["stand_ins"] / count, count))
    return found


def _architecture(model: dict[str, Any]) -> str:
    """Say the architecture in a few words."""
    vision, text = model["vision_cfg"], model["text_cfg"]
    layers = vision.get("layers", 12)
    if vision.get("timm_model_name"):
        image = str(vision["timm_model_name"])
    elif isinstance(layers, list):
        image = f"ResNet of {'-'.join(map(str, layers))} blocks"
    else:
        image = f"ViT, layers: {layers}, patch {vision.get('patch_size', 16)}"
    size = vision.get("image_size", 224)
    words = f"text transformer, layers: {text.get('layers', 12)}"
    return f"{image} at {size} px; {words}; features of {model['embed_dim']} dimensions"
