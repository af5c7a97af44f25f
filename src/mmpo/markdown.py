"""Markdown in which text of others is text: no link, no picture, no markup, no new line or cell of a table."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmpo.plain import one_line

_MARKUP = re.compile(r"[\\`\[\]<|]")


def escaped(value: Any) -> Any:
    """A text so that Markdown shows it as it is; Markup and whatever is no text are left alone."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _MARKUP.sub(r"\\\g<0>", one_line(value))


def code(text: str) -> Markup:
    """A text as code within a line, also in a table. Markdown has no escapes there but for ``|``."""
    shown = one_line(text).replace("`", "'").replace("|", "\\|")
    return Markup(f"`{shown}`")  # noqa: S704 (no HTML)


def environment() -> Environment:
    """Renders the templates of ``mmpo.report`` as Markdown.

    Every value is ``escaped``, unless it passed ``code``, ``tojson`` or ``safe``, the last of them for our own text.
    """
    made = Environment(  # noqa: S701 (this is no HTML)
        loader=PackageLoader("mmpo", "report"),
        undefined=StrictUndefined,
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = code
    return made
