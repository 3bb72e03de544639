"""The settings of the drawn web: pictures of scenes with captions, and how they are served."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

ROOT = "./lake/demo"
WEB = "./lake/demo-web"
"""The default root, and where its web lies: the recipes of the demo name their paths so."""

PAIRS = 9_000
PORT = 8765
MODELS = "http://127.0.0.1:8766"
"""Where recipes have the demo's model server: one port above that of the pictures."""
WEB_VERSION = 1
"""Raised when the same settings give other pictures or texts."""

MARKER = "demo.json"
"""Written last into the folder of a drawn web; says which settings it was drawn with."""


class WebSettings(BaseModel):
    """Scenes that are drawn into a folder, and the loopback port at which their URLs are answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(
        description="local folder for the pictures, the URL table and the evaluation sets"
    )
    seed: int = Field(default=0, ge=0, description="seed of every scene, caption and defect")
    pairs: int = Field(
        default=PAIRS,
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
        default=PORT,
        ge=1024,
        le=65535,
        description="loopback port of the server; it stands in the URLs",
    )

    def marker(self) -> str:
        """Return what the marker of a web with these settings holds: everything but where it lies."""
        return json.dumps({"version": WEB_VERSION, **self.model_dump(exclude={"folder"})})
