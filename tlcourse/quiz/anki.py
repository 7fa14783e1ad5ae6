"""The questions as an Anki deck; a second import updates the cards and keeps their schedule."""

from __future__ import annotations

import html
from pathlib import Path

import genanki
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from . import key

# Drawn once, for ever: Anki knows the deck, its kind of note and, by its guid, each note again.
DECK, MODEL = 1_911_306_117, 1_427_905_118
SEED = 0  # a card cannot draw its numbers afresh
CSS = """.card {font-family: sans-serif; font-size: 18px; line-height: 1.4; text-align: left;
  max-width: 44em; margin: auto}
pre {padding: .6em; border: 1px solid; overflow-x: auto} .about {font-size: 14px}"""
FRONT = "<p class=about>{{Topic}}</p>{{Question}}"
BACK = "{{FrontSide}}<hr id=answer>{{Answer}}<p class=about>{{Where}}</p>"
TITLE = "Transfer learning interview"
DRAWN = "The numbers on this card stay the same; `tlcourse quiz` draws them afresh each time."


def write(questions, out: Path) -> int:
    """Write a deck with a card for each question to an .apkg file and return their number."""
    fields = [{"name": name} for name in ("Question", "Answer", "Topic", "Where")]
    templates = [{"name": "Card", "qfmt": FRONT, "afmt": BACK}]
    model = genanki.Model(MODEL, TITLE, fields=fields, templates=templates, css=CSS)
    deck = genanki.Deck(DECK, TITLE)
    for question in questions:
        deck.add_note(_note(question, model))
    genanki.Package(deck).write_to_file(str(out))
    return len(deck.notes)


def _note(question, model) -> genanki.Note:
    posed = question.pose(SEED)
    front = [posed.ask]
    if question.kind == "several":
        front.append("*Name all that are right.*")
    if getattr(question, "unit", ""):
        front.append(f"*In {question.unit}.*")
    code = posed.code.rstrip() or getattr(question, "stub", "")
    if question.kind == "bug":
        code = "\n".join(f"{k:2}  {line}" for k, line in enumerate(code.splitlines(), start=1))
    if code:
        front.append(f"```python\n{code}\n```")
    front += [f"{key.LETTERS[k]}. {option}" for k, option in enumerate(posed.options)]
    if question.draw:
        front.append(f"*{DRAWN}*")
    where = "See " + ", ".join(text for text, _ in key.links(question))
    return genanki.Note(
        model=model,
        fields=[
            _as_html("\n\n".join(front)),
            _as_html(key.as_markdown(posed, lettered=True)),
            html.escape(f"{question.topic} · {question.level}"),
            html.escape(where),
        ],
        guid=genanki.guid_for("tlcourse", question.id),
        tags=[f"lesson::{question.lesson}", f"level::{question.level}", f"kind::{question.kind}"],
    )


def _as_html(markdown: str) -> str:
    """Markdown as HTML, with formulas between the marks of Anki's MathJax."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    options = {"allow_digits": False, "allow_space": False, "double_inline": True}
    return reader.use(dollarmath_plugin, renderer=_formula, **options).render(markdown)


def _formula(tex: str, how: dict) -> str:
    return html.escape(rf"\[{tex}\]" if how["display_mode"] else rf"\({tex}\)")
