"""Imports: what the environment must not hold, and what reading a recipe must not load."""

from importlib import metadata

import pytest

HEAVY = {"torch", "duckdb", "prefect", "open_clip", "pyarrow"}


def test_the_backport_of_dataclasses_is_not_installed():
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("dataclasses")


@pytest.mark.slow
def test_prefects_server_can_be_imported_the_way_prefect_starts_it(fresh_python):
    """Prefect puts the installed packages before the standard library."""
    fresh_python(
        "import sys, sysconfig\n"
        "sys.path.insert(0, sysconfig.get_path('purelib'))\n"
        "import prefect.server.api.server\n"
    )


def test_sections_recipe_and_command_line_load_nothing_heavy(repository, fresh_python):
    configs = sorted(path.parent.name for path in (repository / "neuclip").glob("*/config.py"))
    assert "training" in configs
    modules = [f"neuclip.{room}.config" for room in configs] + [
        "neuclip.recipe",
        "neuclip.cli.main",
    ]
    printed = fresh_python(
        "import sys, importlib\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {HEAVY} & set(sys.modules)\n"
        "    if heavy: sys.exit(f'{name} loads {heavy}')\n"
        "    print(name)\n"
    )
    assert printed.split() == modules
