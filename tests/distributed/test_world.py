"""Oracle: torchrun's environment variables, by hand."""

import dataclasses

import pytest
import torch

from neuclip.distributed.world import World
from neuclip.foundation.errors import ConfigError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture
def launcher(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return monkeypatch


def test_without_torchrun_there_is_one_process(launcher):
    world = World.from_environment()
    assert world == World.single()
    assert world.is_main
    world.close()


def test_torchrun_with_one_process_needs_no_group(launcher):
    for name, value in zip(VARIABLES, "010", strict=True):
        launcher.setenv(name, value)
    assert World.from_environment() == World.single("cpu")


def test_half_an_environment_is_refused(launcher):
    launcher.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="only RANK is set"):
        World.from_environment()


def test_a_world_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        World.single().rank = 1
