"""Batch scripts and manifests from templates that users may edit."""

import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

from neuclip.foundation.errors import ConfigError


def render(field: str, path: str, **values: Any) -> str:  # noqa: ANN401  # any JSON value
    """Fill in a template. `words` quotes a list for a shell, `tojson` any value for YAML.

    Args:
        field: of the recipe, that names the template.
    Raises: ConfigError: if it cannot be read, is no template, or names something that is not given.
    """
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # no HTML; the filters quote
    )
    environment.filters.update(words=shlex.join, tojson=json.dumps)
    try:
        return environment.from_string(Path(path).read_text(encoding="utf-8")).render(values)
    except OSError as error:
        raise ConfigError(
            f"{field} {path} cannot be read: {error.strerror}; paths begin at the working folder {Path.cwd()}"
        ) from error
    except (TemplateError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{field} {path} does not fit: {error}; it is given {', '.join(sorted(values))}"
        ) from error
