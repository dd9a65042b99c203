"""Pages from the templates beside this module. Every value is escaped when it is printed.

Names of files and classes are data, so a template has to say `safe` where a value is markup.
"""

import html
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Fill in a template: HTML or, for a template that ends in .md, Markdown."""
    return _environment(template.endswith(".md")).get_template(template).render(values)


def escape_markdown(text: object) -> str:
    """Escape `text` so that Markdown shows it letter for letter, in a line or in a table's cell.

    It becomes no markup, no HTML, and no link made of a bare address.
    """
    plain = html.escape(printable(str(text)), quote=False)
    return re.sub(r"([\\`*_\[\]|~$:@#!]|(?<=www)\.)", r"\\\1", plain, flags=re.IGNORECASE)


@cache
def _environment(markdown: bool) -> "Environment":
    # Imported here, because starting tlcli must not wait for it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else escape_markdown(value)

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        undefined=StrictUndefined,
        autoescape=not markdown,
        finalize=finalize if markdown else None,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = _percent
    return environment


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
