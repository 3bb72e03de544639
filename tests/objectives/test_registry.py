"""Oracle: the recipe's promises: known names, named mistakes, light imports."""

import subprocess
import sys

import pytest

import neuclip.objectives
from neuclip.foundation.errors import ConfigError
from neuclip.objectives.config import AgedQueueConfig, NetworkConfig, QueueConfig
from neuclip.objectives.openclip import OpenClip
from neuclip.objectives.registry import KNOWN, build, parse


def sections():
    return [type(parse({"name": name})) for name in KNOWN] + [
        NetworkConfig,
        QueueConfig,
        AgedQueueConfig,
    ]


@pytest.mark.parametrize("name", KNOWN)
def test_raw_and_validated_sections_build_the_same(name):
    for config in ({"name": name}, parse({"name": name})):
        objective = build(config, feature_dim=8, num_samples=100)
        assert type(objective).__module__ == f"neuclip.objectives.{name}"
        assert 0 < objective.temperature.item() < 1


def test_the_public_entry_is_the_family_s_build():
    objective = neuclip.objectives.build({"name": "openclip"}, feature_dim=8, num_samples=100)
    assert isinstance(objective, OpenClip)
    assert isinstance(objective, neuclip.objectives.Objective)


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(ConfigError, match=r"'neuklip'.*openclip, siglip.*mean 'neuclip'"):
        build({"name": "neuklip"}, feature_dim=8, num_samples=100)
    with pytest.raises(ConfigError, match="None"):
        build({}, feature_dim=8, num_samples=100)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_prototype": 8}, "num_prototype"),
        ({"estimator": {"name": "network", "num_prototypes": 1}}, "num_prototypes"),
        ({"estimator": {"name": "fifo"}}, "aged_queue"),
        ({"ratio_clamp": 1.0}, "ratio_clamp"),
        ({"gamma": 1.0}, "gamma"),
        ({"rho": "some"}, "rho"),
        ({"temperature_init": 0.005}, "temperature_min 0.01"),
        ({"alpha_mode": "half"}, "alpha_mode"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields, named):
    with pytest.raises(ConfigError, match=named):
        build({"name": "neuclip", **fields}, feature_dim=8, num_samples=100)


def test_every_field_is_described():
    for section in sections():
        for name, field in section.model_fields.items():
            assert field.description, name


def test_sections_load_no_torch():
    code = "import sys, neuclip.objectives.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
