"""What may be said once an answer was given: the right answer, why, and where to read about it."""

from __future__ import annotations

import functools
import os
from urllib.parse import quote

from tlcourse import notebooks

from . import bank

CHOICES = ("single", "several")
LETTERS = "ABCDEFG"  # of options on paper and on cards


def right(posed):
    """Return a right answer in the form that `posed.mark` takes; None for code and open ones."""
    question = posed.question
    match question.kind:
        case "single" | "several":
            found = [k for k, place in enumerate(posed.order) if question.options[place].right]
            return found[0] if question.kind == "single" else found
        case "order":
            return sorted(range(len(posed.order)), key=lambda k: posed.order[k])
        case "number":
            return question.value(posed)
        case "output":
            return bank.filled(question.prints, posed.values)
        case "bug":
            return question.line
    return None


def in_words(posed, answer) -> str:
    """Return an answer as a person would write it: options by their text; "" for none."""
    kind, options = posed.question.kind, posed.options
    if answer is None:
        return ""
    if kind == "number" and isinstance(answer, float | int):
        said = f"{answer:,.0f}" if answer == int(answer) else f"{answer:.6g}"
        unit = posed.question.unit
        return f"{said} {unit}" if " " not in unit else f"{said} ({unit})"
    if kind == "single":
        return options[int(answer)]
    if kind in ("several", "order"):
        join = " → " if kind == "order" else "; "
        return join.join(options[int(k)] for k in answer)
    return f"line {answer}" if kind == "bug" else str(answer)


def as_markdown(posed, lettered: bool = False) -> str:
    """Return the right answer with its explanations as Markdown.

    With `lettered` options are called A, B, C in the order shown, as on paper.
    """
    question, answer = posed.question, right(posed)
    if question.kind == "open":
        points = "\n".join(f"- {point.point}" for point in question.rubric)
        return f"{question.answers.medium}\n\nA good answer says:\n\n{points}"
    if question.kind == "code":
        return question.solution
    marked = posed.mark(answer)
    if question.kind in CHOICES:
        lines = [
            f"- {LETTERS[k] + ': ' if lettered else ''}{note.text} — "
            f"**{'right' if note.right else 'wrong'}**. {note.why}"
            for k, note in enumerate(marked.notes)
        ]
        return "\n".join(lines)
    if question.kind == "order":
        places = enumerate(question.steps)
        names = {k: f"{LETTERS[posed.order.index(k)]}: " if lettered else "" for k, _ in places}
        steps = (f"1. {names[k]}{step.text} — {step.why}" for k, step in enumerate(question.steps))
        return "\n".join(steps)
    if question.kind == "bug":
        return marked.solution
    said = in_words(posed, answer)
    return f"**{f'`{said}`' if question.kind == 'output' else said}**\n\n{marked.solution}"


def links(question) -> list[tuple[str, str]]:
    """Return where to review a question: (text, address seen from a notebook's folder).

    The cell or paper it is from, then the exercise set of its lesson; "" where there is no file.
    """
    lesson, _, heading = (question.source.cell or "").partition("#")
    found = [(question.source.paper, "")] if question.source.paper else []
    if lesson:
        file = _file(f"notebooks/source/{lesson}_*.py")
        anchor = quote(heading.replace(" ", "-"), safe="-:,?!'")  # as JupyterLab names headings
        found = [(f"notebook {lesson}, “{heading}”", file and f"{file}.ipynb#{anchor}")]
    name, framework = f"ex{question.lesson}", os.environ.get("TLCOURSE_FRAMEWORK", "pytorch")
    if file := _file(f"exercises/{framework}/{name}_*.ipynb"):
        found.append((f"exercise set {name}", f"../../exercises/{framework}/{file}.ipynb"))
    return found


@functools.cache
def _file(pattern: str) -> str:
    """The name, without its ending, of the course's file of that pattern, or ""."""
    try:
        return next((path.stem for path in notebooks.project_root().glob(pattern)), "")
    except FileNotFoundError:  # the package without the course's folder
        return ""
