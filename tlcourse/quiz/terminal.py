"""The interview room in a terminal: questions as text, answers typed, the same record.

An answer is recorded before anything else is asked, so that Ctrl-C or worse loses only the
question under way.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sys
import time

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from . import key, memory
from .bank import Marked
from .formulas import in_unicode
from .mock_interview import Interview

with contextlib.suppress(ImportError):  # not on Windows, whose terminal edits lines itself
    import readline  # noqa: F401

console = Console()
HOW = {
    "single": "Number of the option",
    "several": "Numbers of the options, such as 1 3",
    "order": "Numbers of the steps, first step first, such as 2 1 3",
    "number": "Number ({unit})",
    "output": "What it prints",
    "bug": "Number of the wrong line",
    "code": "Your code, then a line with only a dot",
    "open": "Your answer, then an empty line",
}


def practise(questions: list, seed: int | None = None) -> tuple[int, int]:
    """Ask these questions one by one; return how many were answered, and how many are kept."""
    answered = kept = 0
    try:
        for place, question in enumerate(questions, start=1):
            posed = question.pose(secrets.randbits(31) if seed is None else seed)
            _show(posed, f"{place} of {len(questions)}")
            begun = time.monotonic()
            answer, marked = _marked(posed)
            seconds = time.monotonic() - begun
            kept += memory.remember(posed, marked, answer, seconds)
            answered += 1
            _explain(posed, marked)
            if rating := _rating(question, marked, seconds):
                memory.remember(posed, marked, answer, seconds, rating, revised=True)
    except KeyboardInterrupt:
        console.print()
    return answered, kept


def interview(room: Interview) -> None:
    """Hold an interview until it is over or the learner leaves it."""
    words = {"": room.skip, "p": lambda: _pause(room)}
    console.print("An empty line skips a question, p stops the clock, Ctrl-C ends the interview.")
    try:
        while not room.finished:
            about = "follow-up" if room.follow_up else f"question {len(room.asked) + 1}"
            _show(room.current, "{}, {}:{:02} left".format(about, *divmod(int(room.left), 60)))
            while True:
                said = _typed(room.current)
                try:
                    words[said]() if said in words else room.answer(_read(room.current, said))
                    break
                except ValueError as error:
                    console.print(_sentence(error), markup=False)
    except KeyboardInterrupt:
        room.end()
        console.print()


def show_markdown(text: str) -> None:
    """Print Markdown with its formulas in Unicode; links as their text."""
    text = re.sub(r"(?<!!)\[([^\]]+)\]\([^)\s]+\)", r"\1", text)
    console.print(Markdown(in_unicode(text), code_theme="ansi_dark"))


def status(rows: list[memory.Strength], due: int, days: int) -> None:
    """Print how each topic stands, what is due and what to review."""
    table = Table(title="Where you stand")
    for heading in ("lesson", "topic", "seen", "recall", "score"):
        table.add_column(heading, justify="left" if heading == "topic" else "right")
    for row in rows:
        means = (f"{row.recall:.0%}", f"{row.score:.0%}") if row.seen else ("", "")
        table.add_row(row.lesson, row.topic, f"{row.seen} of {row.of}", *means)
    console.print(table)
    console.print(f"To ask now: {due}. Days with practice, of the last {memory.DAYS}: {days}.")
    for row in sorted((row for row in rows if row.weakest), key=lambda row: row.strength)[:3]:
        console.print(f"\n{row.topic}, to review:", markup=False)
        places = (text for question in row.weakest for text, _ in key.links(question))
        for text in dict.fromkeys(places):
            console.print(f"  {text}", markup=False)


def _show(posed, about: str) -> None:
    question = posed.question
    console.print()
    console.print(Rule(Text(f"{question.topic} · {question.level} · {about}"), align="left"))
    show_markdown(posed.ask)
    if posed.code or question.kind == "code":
        numbered = question.kind == "bug"
        code = posed.code.rstrip() or question.stub.rstrip()
        lines = Syntax(code, "python", theme="ansi_dark", line_numbers=numbered, word_wrap=True)
        console.print(Padding(lines, (1, 2)))
    for number, option in enumerate(posed.options, start=1):
        row = Table.grid(padding=(0, 1))
        row.add_row(f"{number}.", Markdown(in_unicode(option)))
        console.print(row)
    console.print()


def _marked(posed) -> tuple:
    """Ask until the answer has the right form; an empty one counts as not known."""
    while True:
        said = _typed(posed)
        try:
            if not said:
                return None, Marked(0.0, "Not answered.", (), key.as_markdown(posed))
            answer = _read(posed, said)
            return answer, posed.mark(answer)
        except ValueError as error:
            console.print(_sentence(error), markup=False)


def _typed(posed) -> str:
    kind = posed.question.kind
    how = HOW[kind].format(unit=getattr(posed.question, "unit", ""))
    if kind not in ("code", "open"):
        return _line(f"{how}: ").strip()
    console.print(f"{how}:", markup=False)
    end, lines = "." if kind == "code" else "", []
    while lines != ["p"] and (line := _line("")) != end:
        lines.append(line)
    _forget_typed()
    return "\n".join(lines).strip("\n")


def _forget_typed() -> None:
    """What was pasted beyond an answer is no answer to the next question."""
    if sys.stdin.isatty() and sys.platform != "win32":
        import termios

        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def _line(prompt: str) -> str:
    """A line as typed; Ctrl-D and the end of what was piped in are the same as Ctrl-C."""
    try:
        return input(prompt)
    except EOFError:
        raise KeyboardInterrupt from None


def _read(posed, said: str) -> object:
    """What was typed in the form that `mark` takes. Raises ValueError with what to type."""
    kind = posed.question.kind
    if kind not in ("single", "several", "order", "bug"):
        return said
    numbers = [int(number) for number in re.findall(r"\d+", said)]
    if not re.fullmatch(r"[\d\s,;]+", said) or (kind in ("single", "bug") and len(numbers) != 1):
        raise ValueError(f"{HOW[kind]}, please")
    if kind == "bug":
        return numbers[0]
    places = [number - 1 for number in numbers]
    if not all(0 <= place < len(posed.options) for place in places):
        raise ValueError(f"the numbers go from 1 to {len(posed.options)}")
    return places[0] if kind == "single" else list(dict.fromkeys(places))


def _explain(posed, marked) -> None:
    console.print()
    console.print(marked.says, style="bold", markup=False)
    for note in marked.notes:
        sign = "✓" if note.right else "✗"
        mine = " (your answer)" if note.chosen and posed.question.kind in key.CHOICES else ""
        show_markdown(f"{sign} {note.text.rstrip('.')}{mine}: {note.why}".removesuffix(": "))
    show_markdown(marked.solution)
    console.print(f"See {', '.join(text for text, _ in key.links(posed.question))}.", markup=False)


def _rating(question, marked, seconds: float) -> str | None:
    """Ask how it was; None for what the score and the time say."""
    mine = memory.rate(question.kind, marked.score, seconds)
    listed = "  ".join(f"{number} {name}" for number, name in enumerate(memory.RATINGS, start=1))
    said = _line(f"Enter to go on ({mine}), or say how it was: {listed} ").strip()
    return dict(zip("1234", memory.RATINGS, strict=True)).get(said)


def _pause(room: Interview) -> None:
    room.pause()
    console.clear()
    _line("The clock stands still. Enter to go on. ")
    room.resume()


def _sentence(error: ValueError) -> str:
    said = str(error)
    return said[:1].upper() + said[1:] + "."
