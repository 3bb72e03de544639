"""Classes by the name of their module: what a recipe names is a file, and no list has to be kept."""

import importlib
from typing import Any


def the_class_in(name: str, base: type) -> Any:  # noqa: ANN401  # its constructor takes its own section
    """Return the one class below `base` that a module defines."""
    module = importlib.import_module(name)
    [found] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    return found
