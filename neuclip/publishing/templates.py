"""The templates beside this file, and what all of them can use."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from neuclip.publishing import text
from neuclip.publishing.charts import short


def environment() -> Environment:
    """Return the templates; a name that is not given is an error, never an empty place."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        percent=text.percent, count=text.count, seconds=text.seconds, words=text.words, short=short
    )
    return found
