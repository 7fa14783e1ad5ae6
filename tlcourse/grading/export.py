"""Take the grades to a table, Canvas, Moodle or nbgrader.

Points are those that the late policy leaves, plus those that a person gave for the answer in words.
"""

import csv
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tlcourse.exercises.source import OPEN_POINTS

from .gradebook import Gradebook, counted, marks

FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # what a spreadsheet would run
NUMBERED = re.compile(r"(?P<name>.+)_(?P<id>\d+)")  # a student, as Canvas and Moodle name the files
NBGRADER = Path(sys.prefix) / "nbgrader"  # beside the course's packages, not among them


@dataclass(frozen=True)
class Grades:
    """The rows of a gradebook, and the marks by student and exercise."""

    rows: list[dict]
    marks: dict[tuple[str, str], dict]

    @property
    def students(self) -> list[str]:
        """Everybody who has a grade."""
        return sorted({row["student"] for row in self.rows})

    @property
    def possible(self) -> dict[str, float]:
        """What a perfect answer gets, the one in words included, by exercise."""
        found = {}
        for row in sorted(self.rows, key=lambda row: row["exercise"]):
            most = row["possible"] + OPEN_POINTS
            found[row["exercise"]] = max(most, found.get(row["exercise"], 0))
        return found

    def points(self) -> dict[tuple[str, str], float]:
        """Return everybody's points by student and exercise."""
        keyed = (((row["student"], row["exercise"]), row) for row in self.rows)
        return {key: counted(row, self.marks.get(key)) for key, row in keyed}


def read(book: Gradebook, only: str = "") -> Grades:
    """Return the grades of a book, or those of one exercise. Raises ValueError without any."""
    rows = [row for row in book.rows() if only in ("", row["exercise"])]
    if not rows:
        raise ValueError(f"{book.path} holds no grades{f' of {only}' if only else ''}")
    return Grades(rows, {(m["student"], m["exercise"]): m for m in book.rows(marks)})


def export(book: Gradebook, form: str, out: Path, only: str = "") -> list[str]:
    """Write the grades as csv, canvas, moodle or nbgrader; return what to know about them.

    Raises ValueError where it cannot be done.
    """
    grades = read(book, only)
    if out.resolve() == book.path.resolve():
        raise ValueError(f"{out} is the gradebook itself: name another file with --out")
    if form == "nbgrader":
        _to_nbgrader(grades, out)
    else:
        rows = {"csv": _table, "canvas": _canvas, "moodle": _moodle}[form](grades)
        write(out, rows, "utf-8-sig" if form == "csv" else "utf-8")
    keys = [(row["student"], row["exercise"]) for row in grades.rows if answer(row)]
    missing = sum(key not in grades.marks for key in keys)
    notes = [f"answers in words without a mark, which count 0: {missing}"] if missing else []
    unnumbered = [student for student in grades.students if not NUMBERED.fullmatch(student)]
    if unnumbered and form in ("canvas", "moodle"):
        names = ", ".join(unnumbered[:5]) + (", …" if len(unnumbered) > 5 else "")
        then = "looked up by login or name" if form == "canvas" else "passed over"
        notes.append(f"no number of {form.title()} behind the name, so {then} there: {names}")
    return notes


def answer(row: dict) -> str:
    """Return what a student wrote in words, from a row of the gradebook."""
    written = "\n\n".join(row["detail"].get("words", {}).values()).strip()
    return "" if written == "YOUR ANSWER HERE" else written


def defused(text: str) -> str:
    """Return text that a spreadsheet shows and does not run."""
    return f"'{text}" if text.startswith(FORMULA) else text


def write(path: Path, rows, encoding: str) -> None:
    """Write rows as CSV, text defused and numbers as they are. Raises ValueError.

    Text is quoted, since a semicolon begins a field where the comma is the decimal point.
    """
    rows = [[defused(v) if isinstance(v, str) else v for v in row] for row in rows]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None


def _table(grades: Grades):
    points = grades.points()
    yield "student", *grades.possible, "total"
    for student in grades.students:
        own = [points.get((student, exercise), "") for exercise in grades.possible]
        yield student, *own, round(sum(p for p in own if p != ""), 2)


def _canvas(grades: Grades):
    """Canvas looks for the columns up to Section in this order; what follows are assignments."""
    points = grades.points()
    yield "Student", "ID", "SIS User ID", "SIS Login ID", "Section", *grades.possible
    yield "    Points Possible", "", "", "", "", *grades.possible.values()
    for student in grades.students:
        name, number = _named(student)
        own = [points.get((student, exercise), "") for exercise in grades.possible]
        yield name, number, "", "" if number else student, "", *own


def _moodle(grades: Grades):
    """The grading worksheet of one assignment; without a date no newer grade is written over."""
    if len(grades.possible) > 1:
        names = ", ".join(grades.possible)
        raise ValueError(
            f"a worksheet of Moodle is for one assignment: choose one of {names} with --only"
        )
    ((exercise, most),) = grades.possible.items()
    points = grades.points()
    yield "Identifier", "Full name", "Grade", "Maximum grade", "Last modified (grade)"
    for student in grades.students:
        name, number = _named(student)
        yield f"Participant {number}", name, points[student, exercise], most, ""


def _named(student: str) -> tuple[str, str]:
    """Return (name, number of the learning system) of a student as the downloads name them."""
    found = NUMBERED.fullmatch(student)
    return (found["name"], found["id"]) if found else (student, "")


# --- nbgrader -----------------------------------------------------------------------------------


def _to_nbgrader(grades: Grades, out: Path) -> None:
    exercises, submissions = {}, []
    for row in grades.rows:
        tasks = {t["task"].replace(".", "-") + "-check": t for t in row["detail"]["tasks"]}
        cells = exercises.setdefault(row["exercise"], {"open": OPEN_POINTS})
        cells |= {name: task["possible"] for name, task in tasks.items()}
        scores = {name: task["points"] for name, task in tasks.items()}
        taken = row["points"] * (1 - row["share_kept"])
        mark = grades.marks.get((row["student"], row["exercise"]), {})
        one = row["student"], row["exercise"], scores, taken
        submissions.append([*one, mark.get("points"), mark.get("comment", "")])
    program = f"import json, sys\n{inspect.getsource(_in_nbgrader)}"
    command = [sys.executable, "-c", program + "_in_nbgrader(*json.load(sys.stdin))"]
    path = os.pathsep.join([str(NBGRADER / "bin"), os.environ["PATH"]])  # it calls alembic by name
    done = subprocess.run(
        command,
        input=json.dumps([f"sqlite:///{out.resolve()}", exercises, submissions]),
        env=os.environ | {"PYTHONPATH": str(NBGRADER), "PATH": path},
        capture_output=True,
        text=True,
    )
    if "No module named 'nbgrader'" in done.stderr:
        raise ValueError(
            "nbgrader is not here; this puts it beside the course: python -m pip install --no-deps "
            f"--target {NBGRADER} nbgrader==0.9.6 alembic mako rapidfuzz sqlalchemy"
        )
    if done.returncode:
        raised = re.findall(r"^\w+(?:\.\w+)*: .+", done.stderr, re.M)
        raise ValueError(f"nbgrader cannot write {out}: {''.join(raised[-1:])}")


def _in_nbgrader(address, exercises, submissions):
    """Write grades into nbgrader's gradebook; runs in a Python of its own, with its packages."""
    from nbgrader.api import Gradebook

    with Gradebook(address) as book:
        where = {}
        for exercise, cells in exercises.items():
            assignment = book.update_or_create_assignment(exercise)
            name = assignment.notebooks[0].name if assignment.notebooks else exercise
            where[exercise] = there = name, exercise
            book.update_or_create_notebook(*there)
            for cell, most in cells.items():
                kind = "markdown" if cell == "open" else "code"
                book.update_or_create_grade_cell(cell, *there, max_score=most, cell_type=kind)
            book.update_or_create_solution_cell("open", *there)
        for student, exercise, scores, taken, mark, comment in submissions:
            book.update_or_create_student(student)
            submission = book.update_or_create_submission(exercise, student)
            submission.notebooks[0].late_submission_penalty = taken
            for cell in exercises[exercise]:
                grade = book.find_grade(cell, *where[exercise], student)
                if cell == "open":
                    grade.manual_score, grade.needs_manual_grade = mark, mark is None
                else:
                    grade.auto_score, grade.needs_manual_grade = scores.get(cell, 0), False
            said = book.find_comment("open", *where[exercise], student)
            said.manual_comment = comment
        book.db.commit()
