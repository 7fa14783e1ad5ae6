"""The two sides of a question: the front is what a browser may know before the answer is given."""

from __future__ import annotations

import html

from tlcourse.quiz import key
from tlcourse.quiz.formulas import in_unicode
from tlcourse.quiz.render import as_html, as_phrase, first_and_rest

# What each kind is called; how it is answered where nothing can be clicked, and what that means.
KINDS = {
    "single": ("one of several", "answer(2)", "chooses the second option"),
    "several": ("several of several", "answer([1, 3])", "chooses the first and the third option"),
    "number": ("a number", 'answer("1,280")', "gives the number"),
    "output": ("predict the output", 'answer("...")', "says what is printed"),
    "bug": ("find the bug", "answer(2)", "blames the second line"),
    "order": ("put in order", "answer([3, 1, 2])", "begins with the third step; name every step"),
    "code": ("write code", 'answer("def ...")', "gives the code as text"),
    "open": ("answer in words", 'answer("...")', "gives your words"),
}
SIGNS = {"covered": "✔", "doubtful": "◐", "missing": "✘"}  # of rubric points


def front(posed) -> dict:
    """Return what may be shown of a posed question: texts as HTML, code as text."""
    question, (legend, more) = posed.question, first_and_rest(posed.ask)
    lines = posed.code.rstrip().splitlines()
    return {
        "kind": question.kind,
        "where": " · ".join([question.topic, question.level, KINDS[question.kind][0]]),
        "legend": legend or "The question",
        "more": more,
        "code": "" if question.kind == "bug" else posed.code.rstrip(),
        "options": [as_phrase(option) for option in posed.options],
        "lines": lines if question.kind == "bug" else [],
        "unit": getattr(question, "unit", ""),
        "stub": getattr(question, "stub", ""),
    }


def hint(posed) -> str:
    """Return, as HTML, something that helps and does not give the answer away."""
    question = posed.question
    if question.kind in key.CHOICES:
        options = [question.options[place] for place in posed.order]
        place, _wrong = next((k, o) for k, o in enumerate(options) if not o.right)
        note = question.mark(posed, place if question.kind == "single" else [place]).notes[place]
        return as_phrase(f"“{note.text}” is not right. {note.why}")
    if question.kind == "bug":
        line, why = next(iter(question.others.items()))
        return as_phrase(f"Line {line} is right. {why}")
    if question.kind == "order":
        return as_phrase(f"The first step: {question.steps[0].text}")
    if question.kind == "open":
        return f"A good answer makes {len(question.rubric)} points."
    return f"Look it up: {_links(question)}."


def back(posed, marked) -> dict:
    """Return what is said once an answer is marked."""
    question, solution = posed.question, as_html(marked.solution)
    if question.kind in ("number", "output") and not marked.right:
        words = html.escape(key.in_words(posed, key.right(posed)))
        solution = f"<p>Right is <strong>{words}</strong>.</p>{solution}"
    if question.kind == "open":
        solution = "".join(
            f"<details><summary>{title}</summary>{as_html(text)}</details>"
            for title, text in (
                ("A model answer in a sentence", question.answers.short),
                ("In half a minute", question.answers.medium),
                ("In two minutes", question.answers.long),
            )
        )
    notes = [
        {
            "text": as_phrase(note.text),
            "right": note.right,
            "chosen": note.chosen,
            "why": as_phrase(note.why),
        }
        for note in marked.notes
        # Of the line that is wrong the solution says the same.
        if not (question.kind == "bug" and note.right)
    ]
    for note, point in zip(notes, marked.detail.get("points", ()), strict=False):
        found = (point["state"] == "covered") != point["overruled"]  # by the scorer
        note["sign"] = SIGNS[point["state"]]
        note["overruled"] = point["overruled"]
        note["box"] = "I did not say this" if found else "I did say this"
    return {
        "says": marked.says,
        "state": "right" if marked.right else "partly" if marked.score > 0 else "wrong",
        "notes": notes,
        "solution": solution,
        "reason": as_phrase(f"Why it is asked: {question.reason}"),
        "links": f"Look it up: {_links(question)}.",
    }


def as_text(posed, name: str, marked=None) -> str:
    """Return a question, or its marked answer, as plain text; `name` is how to call the room."""
    question = posed.question
    if marked is not None:
        notes = _notes_as_text(question.kind, marked)
        says = [marked.says, *notes, marked.solution, f"{name}.next() goes on."]
        return in_unicode("\n".join(filter(None, says)))
    shown = posed.options or (posed.code.rstrip().splitlines() if question.kind == "bug" else ())
    numbered = [f"{k}  {text}" for k, text in enumerate(shown, start=1)]
    code = "" if question.kind == "bug" else posed.code.rstrip() or getattr(question, "stub", "")
    unit = f"In {question.unit}." if getattr(question, "unit", "") else ""
    _, call, meaning = KINDS[question.kind]
    how = f"{name}.{call} {meaning}."
    where = front(posed)["where"]
    asked = [where, in_unicode(posed.ask.strip()), code.rstrip()]
    return "\n".join(filter(None, [*asked, *map(in_unicode, numbered), unit, how]))


def as_static(posed, name: str, marked=None) -> str:
    """Return the same as HTML without a control, for pages where no kernel answers.

    Formulas are in Unicode: what shows notebooks of others may drop MathML.
    """
    side, question = front(posed), posed.question
    code, listed = posed.code.rstrip() or side["stub"], "".join(map(_item, posed.options))
    if side["lines"]:
        code = "\n".join(f"{k:2}  {line}" for k, line in enumerate(side["lines"], start=1))
    parts = [
        f"<p><em>{html.escape(side['where'])}</em></p>",
        as_html(in_unicode(posed.ask)),
        f"<pre><code>{html.escape(code)}</code></pre>" if code else "",
        f"<ol>{listed}</ol>" if listed else "",
    ]
    if marked is None:
        _, call, meaning = KINDS[question.kind]
        unit = f" The unit is {side['unit']}." if side["unit"] else ""
        how = f"Run the cell and answer here, or in code: `{name}.{call}` {meaning}.{unit}"
        return "".join([*parts, as_html(how)])
    notes = "".join(map(_item, _notes_as_text(question.kind, marked)))
    parts += [as_html(f"**{marked.says}**"), f"<ul>{notes}</ul>" if notes else ""]
    return "".join([*parts, as_html(in_unicode(f"{marked.solution}\n\n{question.reason}"))])


def _notes_as_text(kind: str, marked) -> list[str]:
    points = marked.detail.get("points") or [{}] * len(marked.notes)
    lines = []
    for note, point in zip(marked.notes, points, strict=True):
        sign = SIGNS[point.get("state", "covered" if note.right else "missing")]
        yours = " (yours)" if note.chosen and kind in key.CHOICES else ""
        gap = " " if note.text.endswith((".", "?")) else ": "
        lines.append(f"{sign} {note.text}{yours}{gap if note.why else ''}{note.why}")
    return lines


def _item(markdown: str) -> str:
    return f"<li>{as_phrase(in_unicode(markdown))}</li>"


def _links(question) -> str:
    return ", ".join(
        f'<a href="{html.escape(address)}">{html.escape(text)}</a>' if address else as_phrase(text)
        for text, address in key.links(question)
    )
