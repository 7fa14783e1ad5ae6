"""What a person gives for the answers in words: out to a table, and back into the gradebook."""

import csv
import io
from pathlib import Path

from tlcourse.exercises.source import OPEN_POINTS

from .export import answer, defused, read, write
from .gradebook import Gradebook

COLUMNS = ("student", "exercise", "points", "possible", "comment", "answer")


def write_template(book: Gradebook, out: Path) -> int:
    """Write the answers in words with room for points and a comment; return how many."""
    grades = read(book)
    rows = [COLUMNS]
    for row in sorted(grades.rows, key=lambda row: (row["exercise"], row["student"])):
        key = row["student"], row["exercise"]
        mark = grades.marks.get(key, {})
        given = mark.get("points", ""), OPEN_POINTS, mark.get("comment", "")
        rows.append([*key, *given, answer(row)])
    write(out, rows, "utf-8-sig")
    return len(rows) - 1


def read_marks(book: Gradebook, file: Path) -> int:
    """Write a filled-in template into the gradebook; return how many marks are new or changed.

    Rows without points are passed over. Raises ValueError that names every bad row by its line,
    and then nothing is written.
    """
    grades = read(book)
    known = {}  # as the template names them, or as they are
    for row in grades.rows:
        for name in (row["student"], defused(row["student"])):
            known[name, row["exercise"]] = row["student"]
    found, problems = {}, []
    for line, row in _lines(file):
        key = row["student"], row["exercise"]
        if not (row["points"] or "").strip():
            continue
        try:
            points = float(row["points"].replace(",", "."))
        except ValueError:
            points = -1
        if key not in known:
            problems.append(f"line {line}: {key[0]} has no grade for {key[1]}")
        elif key in found:
            problems.append(f"line {line}: {key[0]} is there twice for {key[1]}")
        elif not 0 <= points <= OPEN_POINTS:
            problems.append(f"line {line}: {row['points']} is no number from 0 to {OPEN_POINTS}")
        comment = row.get("comment") or ""
        bare = comment[1:]
        found[key] = points, bare if defused(bare) == comment else comment
    if problems:
        raise ValueError(f"nothing is imported from {file}: {'; '.join(problems)}")
    new = 0
    for (student, exercise), (points, comment) in found.items():
        student = known[student, exercise]
        before = grades.marks.get((student, exercise), {})
        if (before.get("points"), before.get("comment")) != (points, comment):
            book.mark(student, exercise, points, OPEN_POINTS, comment)
            new += 1
    return new


def _lines(file: Path) -> list[tuple[int, dict]]:
    """Return (number of the line, row), with commas or semicolons between the columns."""
    try:
        text = file.read_text("utf-8-sig")
        first = text.partition("\n")[0]
        between = ";" if first.count(";") > first.count(",") else ","
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=between)
        if missing := {"student", "exercise", "points"} - set(rows.fieldnames or ()):
            raise ValueError(f"{file} has no column {min(missing)}: begin with a --template")
        # an answer has line breaks, and a row is where it begins
        return [(rows.line_num - sum(_breaks(v) for v in row.values()), row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as a table in UTF-8: {error}") from None


def _breaks(value) -> int:
    return value.count("\n") if isinstance(value, str) else 0
