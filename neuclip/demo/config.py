"""The `demo` section of a recipe: a made web of pictures, for trying the journey without a data set."""

from pydantic import Field

from neuclip.foundation.config import Section
from neuclip.storage.places import Place

DEMO_VERSION = 1
"""Raised when the same settings give other pictures or texts."""


class DemoConfig(Section):
    """Draw scenes into a folder and serve them on loopback while acquire runs."""

    folder: Place = Field(
        description="local folder for the pictures, the URL table and the evaluation sets",
        json_schema_extra={"keyed": False},
    )
    seed: int = Field(default=0, ge=0, description="seed of every scene, caption and defect")
    pairs: int = Field(
        default=9_000,
        ge=100,
        le=1_000_000,
        description="rows of the URL table, broken ones included",
    )
    evaluation_scenes: int = Field(
        default=500,
        ge=50,
        le=10_000,
        description="scenes in each evaluation set, never in the table",
    )
    image_px: int = Field(default=48, ge=16, le=512, description="side of a picture in pixels")
    port: int = Field(
        default=8765,
        ge=1024,
        le=65535,
        description="loopback port of the server; it stands in the URLs",
    )
