"""Batch scripts and manifests from templates that users may edit."""

import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from neuclip.foundation.errors import ConfigError


def render(field: str, path: str, **values: Any) -> str:  # noqa: ANN401  # any JSON value
    """Fill in a template, which can neither call nor change what it is given.

    `words` quotes a list for a shell or an #SBATCH line, `tojson` any value for YAML.

    Args:
        field: of the recipe, that names the template.
    Raises: ConfigError: if it cannot be read, is no template, or names something that is not given.
    """
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # no HTML; the filters quote
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
