"""Markdown as HTML, with formulas as MathML: a browser shows them without a script or a network."""

from __future__ import annotations

import functools
import html
import re

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin


def as_html(markdown: str) -> str:
    """Return Markdown as HTML blocks; HTML inside it is shown as text.

    A formula that cannot be read is shown as it was typed. Headings begin at the third level, since
    those of the page around come first.
    """
    made = _reader().render(markdown).strip()
    return re.sub(r"<(/?)h([1-4])>", lambda tag: f"<{tag[1]}h{int(tag[2]) + 2}>", made)


def as_phrase(markdown: str) -> str:
    """Return Markdown as HTML for a label or a legend, where no block may stand."""
    return _reader().renderInline(" ".join(markdown.split()))


def first_and_rest(markdown: str) -> tuple[str, str]:
    """Return the first paragraph as a phrase and the blocks after it as HTML."""
    first, _, rest = markdown.strip().partition("\n\n")
    if re.match(r"\s*(```|~~~|\$\$|[-*] |1\. )", first):
        return "", as_html(markdown)
    return as_phrase(first), as_html(rest)


@functools.cache
def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    return reader.use(
        dollarmath_plugin,
        allow_digits=False,
        allow_space=False,
        double_inline=True,
        renderer=_formula,
    )


def _formula(tex: str, how: dict) -> str:
    try:
        return convert(tex, display="block" if how["display_mode"] else "inline")
    except Exception:  # the converter raises its own kinds and, for odd input, those of Python
        return f"<code>{html.escape(tex)}</code>"
