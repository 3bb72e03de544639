"""The `scale` of a recipe's sections: who does the parts of a stage."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neuclip.foundation.config import RESERVED, Section


class ScaleConfig(Section):
    """How many processes or machines do the parts of a stage; what comes out is the same with each."""

    runner: Literal["local", "threads", "dask", "ray"] = Field(
        default="local",
        description="local: one part after the other in the stage itself; else a Prefect task runner, in flows alone",
    )
    workers: int = Field(default=2, ge=1, le=1024, description="parts at once")
    address: Annotated[str | None, RESERVED] = Field(
        default=None,
        description="of a Dask scheduler (tcp://host:8786) or a Ray cluster (ray://host:10001); "
        "null begins one on this machine",
    )
    cpus: float = Field(default=1, gt=0, description="CPUs that Ray gives to each part")
    gpus: float = Field(
        default=0,
        ge=0,
        description="GPUs that each part is given: by Ray one of its own, by Dask on workers that were started with "
        "`--resources GPU=1`",
    )

    @model_validator(mode="after")
    def _check_cluster(self) -> Self:
        if self.runner in ("dask", "ray"):
            return self
        if self.address is not None:
            raise ValueError(
                f"address {self.address} is for runner dask or ray, found {self.runner}; "
                "set runner, or leave address out"
            )
        if self.gpus:
            raise ValueError(
                f"gpus {self.gpus:g} is for runner dask or ray, found {self.runner}, which uses the GPU of this "
                "process; set runner, or leave gpus out"
            )
        return self
