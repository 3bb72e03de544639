"""The `train.initial` section of a recipe."""

from typing import Literal

from pydantic import Field

from neuclip.foundation.config import Section
from neuclip.storage.places import Place

LATEST = "latest"


class InitialConfig(Section):
    """The weights that a run starts from, instead of random ones."""

    model: Place = Field(
        description="folder with open_clip_config.json and open_clip_model.safetensors, any URI; or the key of a "
        "publish stage of this root; or `latest`, the model that this root published last",
        json_schema_extra={"keyed": False},  # its content counts, not where it lies
    )
    towers: Literal["both", "image", "text"] = Field(
        default="both", description="which towers start from it; the other one starts at random"
    )
    positions: Literal["interpolate", "regenerate"] = Field(
        default="interpolate",
        description="how tables of positions of another length are carried over: between the rows that are there; or "
        "made anew, which is for the image tower's fixed sin-cos table",
    )
    temperature: Literal["keep", "new"] = Field(
        default="keep",
        description="whether the objective starts from the model's temperature and bias or from its own section's",
    )
