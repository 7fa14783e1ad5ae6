"""Questions as a page to print: no network, no script; solutions on pages of their own."""

from __future__ import annotations

import html
import random
from collections import defaultdict

from . import key
from .render import as_html

CSS = """:root { color-scheme: light }
body { font: 11pt/1.45 Georgia, serif; color: #000; background: #fff; max-width: 42em;
  margin: 2em auto; padding: 0 1em }
h1, h2, h3, h4 { font-family: Helvetica, Arial, sans-serif; line-height: 1.25; break-after: avoid }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em } h3, h4 { font-size: 1em }
article { break-inside: avoid; margin: 1.2em 0 }
.solutions { break-before: page }
.about { color: #444; font-size: .85em; margin: 0 }
pre { border: 1px solid #767676; padding: .5em .7em; white-space: pre-wrap; font-size: 9.5pt }
code { font-family: Menlo, Consolas, monospace; font-size: .92em }
.lined { padding-left: 2.6em } .lined li { font-family: Menlo, Consolas, monospace;
  font-size: 9.5pt; white-space: pre-wrap }
.options li { margin: .3em 0 } .options p { margin: 0 }
.answer { border-bottom: 1px solid #000; height: 2em }
.long { height: 14em; border: 1px solid #767676 }
@page { size: A4; margin: 18mm }
@media print { body { margin: 0; padding: 0; max-width: none } }"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{css}</style></head>
<body><main>
{main}
</main></body></html>
"""
ASKED = {
    "single": "Choose one.",
    "several": "Choose all that are right.",
    "order": "Write the letters in order, first step first.",
    "number": "Unit: {unit}.",
    "output": "Write what it prints.",
    "bug": "Write the number of the wrong line.",
    "code": "Write the function.",
    "open": "Answer in a few sentences.",
}


def chosen(questions, count: int | None, seed: int) -> list:
    """Return at most `count` questions, drawn at random and put back in the bank's order."""
    listed = list(questions)
    if count is None or count >= len(listed):
        return listed
    drawn = random.Random(seed).sample(range(len(listed)), count)
    return [listed[k] for k in sorted(drawn)]


def as_page(questions, seed: int = 0, answers: bool = False) -> str:
    """Return a whole HTML page; the same seed draws the same numbers and orders.

    With `answers` the solutions follow, from a new page on.
    """
    posed = [question.pose(seed) for question in questions]
    parts = ["<h1>Transfer learning: interview questions</h1>"]
    parts.append(f'<p class="about">{len(posed)} questions, drawn with seed {seed}.</p>')
    parts += _by_topic(posed, _question, 2)
    if answers:
        solved = _by_topic(posed, _solution, 3)
        parts += ['<section class="solutions"><h2>Solutions</h2>', *solved, "</section>"]
    title = f"Interview questions, seed {seed}"
    return PAGE.format(title=title, css=CSS, main="\n".join(parts))


def _by_topic(posed: list, show, level: int) -> list[str]:
    topics = defaultdict(list)
    for number, one in enumerate(posed, start=1):
        topics[one.question.topic].append(show(one, number, level + 1))
    parts = []
    for topic, shown in topics.items():
        parts += [f"<h{level}>{html.escape(topic)}</h{level}>", *shown]
    return parts


def _question(posed, number: int, level: int) -> str:
    question = posed.question
    said = ASKED[question.kind].format(unit=getattr(question, "unit", ""))
    options = "".join(f"<li>{as_html(option)}</li>" for option in posed.options)
    parts = [as_html(posed.ask), _code(posed)]
    parts.append(options and f'<ol class="options" type="A">{options}</ol>')
    parts.append(f'<p class="about">{html.escape(said)}</p>')
    long = " long" if question.kind in ("code", "open") else ""
    parts.append("" if question.kind in key.CHOICES else f'<div class="answer{long}"></div>')
    head = f"<h{level}>{number} <span class=about>({question.level})</span></h{level}>"
    return f"<article>{head}{''.join(parts)}</article>"


def _code(posed) -> str:
    code = posed.code.rstrip() or getattr(posed.question, "stub", "").rstrip()
    if code and posed.question.kind == "bug":
        lines = "".join(f"<li>{html.escape(line) or ' '}</li>" for line in code.splitlines())
        return f'<ol class="lined">{lines}</ol>'
    return f"<pre><code>{html.escape(code)}</code></pre>" if code else ""


def _solution(posed, number: int, level: int) -> str:
    places = ", ".join(text for text, _ in key.links(posed.question))
    where = f'<p class="about">See {html.escape(places)}.</p>'
    body = as_html(key.as_markdown(posed, lettered=True))
    return f"<article><h{level}>{number}</h{level}>{body}{where}</article>"
