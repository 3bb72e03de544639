"""The `train.launch` section of a recipe."""

import re
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from neuclip.foundation.config import Section

Word = Annotated[str, StringConstraints(pattern=r"^[\w.,:=@/+%*\[\]-]+$")]
"""What may stand in a batch script's option: nothing that a shell or Slurm reads as more than one word."""
Host = Annotated[str, StringConstraints(pattern=r"^\w[\w.@:-]*$")]
_ENDPOINT = re.compile(r"[\w.-]+:\d{1,5}")


class _Machines(Section):
    """What every kind of launch over several machines has."""

    rendezvous_timeout_s: float = Field(
        default=600, gt=0, description="seconds in which all machines must have found each other"
    )

    @property
    def machines(self) -> int:
        """How many machines there are."""
        raise NotImplementedError


class HostsLaunch(_Machines):
    """Machines that a command reaches, ssh for example."""

    names: list[Host] = Field(
        min_length=1, description="the machines; the ranks meet at the first one"
    )
    connect: list[str] = Field(
        default=["ssh", "-o", "BatchMode=yes", "{host}"],
        description="words that run a program on a machine; {host} stands for its name; the program's input and "
        "output pass through",
    )
    endpoint: str | None = Field(
        default=None,
        description="address:port of the first machine where the ranks meet; null is its name and port 29500",
    )
    python: str | None = Field(
        default=None, description="Python with neuclip on the machines; null is this one's path"
    )

    @property
    def machines(self) -> int:
        """How many machines there are."""
        return len(self.names)

    @property
    def meeting_place(self) -> str:
        """Where the ranks meet, address:port."""
        return self.endpoint or f"{self.names[0].rpartition('@')[2]}:29500"

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names {', '.join(self.names)} has a machine twice")
        if len(self.names) > 1 and not any("{host}" in word for word in self.connect):
            raise ValueError("connect has no {host}, so every machine would be the same one")
        if not _ENDPOINT.fullmatch(self.meeting_place):
            raise ValueError(
                f"endpoint {self.meeting_place!r} is not of the form address:port, for example 10.0.0.1:29500"
            )
        return self


class SlurmLaunch(_Machines):
    """A job of a Slurm cluster."""

    nodes: int = Field(default=1, ge=1, le=4096, description="nodes of the job")
    options: dict[Word, Word] = Field(
        default={}, description="sbatch options, for example {partition: gpu, gres: 'gpu:8'}"
    )
    port: int = Field(default=29500, ge=1024, le=65535, description="where the ranks meet")
    log_folder: str = Field(
        pattern=r"^[^\x00-\x1f\x7f]+$",
        default="slurm-logs",
        description="folder for the job's output; the nodes have it too",
    )
    poll_s: float = Field(default=10, gt=0, description="seconds between two looks at the queue")
    template: str = Field(
        default="infra/slurm/train.sbatch", description="the batch script, a jinja template"
    )
    python: str | None = Field(
        default=None, description="Python with neuclip on the nodes; null is this one's path"
    )

    @property
    def machines(self) -> int:
        """How many machines there are."""
        return self.nodes


class KubernetesLaunch(_Machines):
    """An indexed job of a Kubernetes cluster; kubectl's present context says which."""

    image: str = Field(min_length=1, description="container image with neuclip")
    pods: int = Field(default=1, ge=1, le=4096, description="pods of the job")
    namespace: str = Field(default="default", min_length=1, description="where the job is made")
    secret: str | None = Field(
        default=None,
        description="Secret whose keys become environment variables, AWS_ACCESS_KEY_ID for example",
    )
    resources: dict[str, str | int] = Field(
        default={}, description="limits of a pod, for example {nvidia.com/gpu: 8, memory: 256Gi}"
    )
    port: int = Field(default=29500, ge=1024, le=65535, description="where the ranks meet")
    poll_s: float = Field(default=5, gt=0, description="seconds between two looks at the job")
    template: str = Field(
        default="infra/kubernetes/train.yaml", description="job and service, a jinja template"
    )
    python: str = Field(default="python", description="Python with neuclip in the image")

    @property
    def machines(self) -> int:
        """How many machines there are."""
        return self.pods


class LaunchConfig(Section):
    """Where the ranks of a run are started. Nothing here can change a result, so nothing is in a key.

    Without `hosts`, `slurm` or `kubernetes` they are started on this machine.
    """

    processes: int = Field(
        default=1, ge=1, le=1024, description="processes on each machine, one for each GPU"
    )
    max_restarts: int = Field(
        default=3,
        ge=0,
        description="how often ranks that died are started again; they go on from the last checkpoint",
    )
    hosts: HostsLaunch | None = Field(default=None, description="machines reached by a command")
    slurm: SlurmLaunch | None = Field(default=None, description="a job of a Slurm cluster")
    kubernetes: KubernetesLaunch | None = Field(
        default=None, description="a job of a Kubernetes cluster"
    )

    @property
    def elsewhere(self) -> HostsLaunch | SlurmLaunch | KubernetesLaunch | None:
        """The one section that names other machines, None where the ranks are started on this one."""
        return self.hosts or self.slurm or self.kubernetes

    @property
    def machines(self) -> int:
        """How many machines there are."""
        return self.elsewhere.machines if self.elsewhere else 1

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.processes * self.machines

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        given = [name for name in ("hosts", "slurm", "kubernetes") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; name one kind of machines, or none")
        return self
