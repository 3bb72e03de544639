"""Batch scripts and manifests from templates that users may edit."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from neuclip.foundation.errors import ConfigError

_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def render(field: str, path: str, **values: Any) -> str:  # noqa: ANN401  # any JSON value
    """Fill in a template, which can neither call nor change what it is given.

    `words` quotes a list for a shell or an #SBATCH line, `tojson` any value for YAML.

    Args:
        field: of the recipe, that names the template.
    Raises: ConfigError: if it cannot be read, is no template, or names something that is not given.
    """
    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader({}),  # a template includes no other file
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # no HTML; the filters quote
    )
    environment.filters.update(words=shlex.join, tojson=_for_yaml)
    try:
        template = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{field} {path} cannot be read: {error.strerror}; paths begin at the working folder {Path.cwd()}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{field} {path} does not fit: it is not UTF-8 text") from error
    try:
        return environment.from_string(template).render(values)
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise ConfigError(
            f"{field} {path} does not fit: {error}; it is given {', '.join(sorted(values))}"
        ) from error


def _for_yaml(value: Any) -> str:  # noqa: ANN401  # any JSON value
    """Return a value on one line; characters that YAML could take for a line's end are escaped as it has them."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_ASCII.sub(lambda found: f"\\U{ord(found[0]):08x}", text)
