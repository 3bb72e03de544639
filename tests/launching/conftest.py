import pytest
from launching.programs import Told

from neuclip.launching import launch as launch_module


@pytest.fixture
def told(tmp_path, monkeypatch) -> Told:
    """What launchers tell in this test; they make short pauses and look for errors often."""
    monkeypatch.setattr(launch_module, "_LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(launch_module, "_LOOK_FOR_ERRORS_S", 0.1)
    return Told(tmp_path)
