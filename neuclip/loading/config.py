"""The `train.loader` section of a recipe."""

from pydantic import Field

from neuclip.foundation.config import Section, unkeyed


class LoaderConfig(Section):
    """How samples get from the shards to the device."""

    max_corrupt_share: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="share of samples that may not decode before the run stops",
    )
    scaled_decode: bool = Field(
        default=False,
        description="decode a JPEG at 1/2, 1/4 or 1/8 of its sides where every crop still has twice the "
        "model's image size: much faster for large images, pixels differ by up to 4 of 255 on average",
    )
    workers: int = unkeyed(
        2, ge=0, le=256, description="loading processes for each rank; 0 loads in line"
    )
    timeout_s: float = unkeyed(
        1800.0,
        gt=0,
        description="seconds that a loading process may do nothing at all before the run ends; slow storage that "
        "still delivers is no matter. Ranks wait twice as long for each other",
    )
    cache_gb: float = unkeyed(
        100.0,
        gt=0,
        description="how much of a root in object storage a machine keeps in NEUCLIP_CACHE, in GB of 1e9 bytes; "
        "shards are fetched ahead of their use and the least recently used go",
    )
