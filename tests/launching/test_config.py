"""Oracle: the recipe's own messages."""

import pytest
from pydantic import ValidationError
from training.runs import make_config

from neuclip.launching.config import LaunchConfig


@pytest.mark.parametrize(
    ("section", "ranks"),
    [
        ({}, 1),
        ({"processes": 4}, 4),
        ({"processes": 2, "hosts": {"names": ["a", "b", "c"]}}, 6),
        ({"processes": 8, "slurm": {"nodes": 2}}, 16),
        ({"processes": 8, "kubernetes": {"image": "clip:1", "pods": 3}}, 24),
    ],
)
def test_the_number_of_ranks(section, ranks):
    assert LaunchConfig.model_validate(section).world_size == ranks


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"hosts": {"names": ["a"]}, "slurm": {}}, "hosts and slurm are given; name one kind"),
        ({"hosts": {"names": ["a", "b", "a"]}}, "names a, b, a has a machine twice"),
        ({"hosts": {"names": ["a", "b"], "connect": ["ssh"]}}, "connect has no {host}"),
        ({"hosts": {"names": ["a"], "endpoint": "a"}}, "not of the form address:port"),
        ({"hosts": {"names": []}}, "at least 1 item"),
        ({"hosts": {"names": ["-v"]}}, "should match pattern"),
        ({"slurm": {"options": {"partition": "gpu; rm"}}}, "should match pattern"),
        ({"slurm": {"nodes": 0}}, "greater than or equal to 1"),
        ({"kubernetes": {}}, "image"),
        ({"processes": 0}, "greater than or equal to 1"),
        ({"max_restarts": -1}, "greater than or equal to 0"),
    ],
)
def test_what_does_not_fit_is_refused(section, message):
    with pytest.raises(ValidationError) as caught:
        LaunchConfig.model_validate(section)
    assert message in str(caught.value)


def test_streams_are_shared_out_to_the_ranks_of_all_machines():
    with pytest.raises(ValidationError, match="streams 4 cannot be shared out to 6 ranks"):
        make_config(launch={"processes": 3, "slurm": {"nodes": 2}})


def test_nothing_of_it_is_in_a_key():
    here, there = make_config(), make_config(launch={"processes": 2, "slurm": {"nodes": 2}})
    assert here.keyed() == there.keyed()


def test_the_first_host_is_the_meeting_place():
    hosts = LaunchConfig.model_validate({"hosts": {"names": ["me@gpu1", "gpu2"]}}).hosts
    assert hosts is not None
    assert hosts.meeting_place == "gpu1:29500"
