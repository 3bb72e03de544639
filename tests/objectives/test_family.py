"""Oracle: the recipe's promises: known names, named mistakes, light imports."""

import subprocess
import sys

import pytest

from neuclip.foundation.errors import ConfigError
from neuclip.objectives.config import NeuClipConfig, OpenClipConfig
from neuclip.objectives.family import KNOWN, build
from neuclip.objectives.neuclip import NeuClip
from neuclip.objectives.openclip import OpenClip


@pytest.mark.parametrize(("name", "kind"), [("openclip", OpenClip), ("neuclip", NeuClip)])
def test_raw_and_validated_sections_build_the_same(name, kind):
    section = {"openclip": OpenClipConfig, "neuclip": NeuClipConfig}[name](temperature_init=0.05)
    for config in ({"name": name, "temperature_init": 0.05}, section):
        objective = build(config, feature_dim=8, num_samples=100)
        assert type(objective) is kind
        assert objective.temperature.item() == pytest.approx(0.05)
    assert name in KNOWN


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(ConfigError, match=r"'neuklip'.*openclip, neuclip.*mean 'neuclip'"):
        build({"name": "neuklip"}, feature_dim=8, num_samples=100)
    with pytest.raises(ConfigError, match="None"):
        build({}, feature_dim=8, num_samples=100)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_prototype": 8}, "num_prototype"),
        ({"num_prototypes": 1}, "num_prototypes"),
        ({"ratio_clamp": 1.0}, "ratio_clamp"),
        ({"temperature_init": 0.005}, "temperature_min 0.01"),
        ({"alpha_mode": "half"}, "alpha_mode"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields, named):
    with pytest.raises(ConfigError, match=named):
        build({"name": "neuclip", **fields}, feature_dim=8, num_samples=100)


def test_every_field_is_described():
    for section in (OpenClipConfig, NeuClipConfig):
        for name, field in section.model_fields.items():
            assert field.description, name


def test_sections_load_no_torch():
    code = "import sys, neuclip.objectives.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
