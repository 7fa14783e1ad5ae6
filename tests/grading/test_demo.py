"""The made-up class, and the page for instructors that walks through it."""

import csv
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tlcourse.grading import batch, demo, export, gradebook, judge
from tlcourse.grading.gradebook import Gradebook

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "instructors.md").read_text("utf-8")
COMMAND = str(Path(sys.executable).with_name("tlcourse"))


def files(folder: Path) -> dict[str, tuple]:
    found = (path for path in folder.rglob("*") if path.is_file())
    times = {path: path.stat().st_mtime if path.suffix == ".ipynb" else 0 for path in found}
    return {str(path.relative_to(folder)): (path.read_bytes(), times[path]) for path in times}


def test_the_same_seed_gives_the_same_class_and_another_seed_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        demo.make(tmp_path / name, 12, "ex01", seed)
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert first == again and first.keys() == other.keys() and first != other
    assert len(first) == 12 + 2


def test_a_class_holds_every_trouble_once_and_right_and_wrong_answers(tmp_path):
    demo.make(tmp_path / "demo", 30)
    found, left_out = batch.find(tmp_path / "demo" / "submissions", ["ex01"])
    assert len(found) == 30 and not left_out
    policy = batch.read_course(tmp_path / "demo" / "course.toml", tmp_path / "demo/students.csv")
    late = [m for m in found if policy.lateness("ex01", m.student, m.handed_in)[1] < 1]
    assert len(late) == 1 and max(policy.extra_hours.values()) == 48
    codes = []
    unreadable = 0
    for made in found:
        try:
            codes.append("\n\n".join(text for _, text in judge.read(made.content()).cells))
        except judge.Unreadable:
            unreadable += 1
    assert unreadable == 1
    for words in ("os.abort()", "while True:", "# my own work"):
        assert sum(words in code for code in codes) == 1, words
    (copy,) = (code for code in codes if "# my own work" in code)
    assert copy.replace("\n# my own work", "") in codes
    assert sum(code.count("def head_gradient(") == 2 for code in codes) == 1
    assert any(code.count("NotImplementedError") == 8 for code in codes)
    assert any("fine_tune(theta - rate" in code for code in codes)  # another right answer
    assert "SOLUTION" not in "".join(codes)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="name a new folder"):
        demo.make(tmp_path, 6)
    with pytest.raises(ValueError, match="no exercise set"):
        demo.make(tmp_path / "demo", 6, "01")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def documented() -> list[str]:
    """The commands of the two sections, in order."""
    sections = PAGE.partition("## Ten minutes on a made-up class\n")[2]
    first, _, second = sections.partition("## Marks and exports\n")
    lines = (first + second.partition("\n## ")[0]).splitlines()
    return [line for line in lines if line.startswith("tlcourse ")]


def test_the_documented_commands_lead_from_an_empty_folder_to_exported_grades(tmp_path):
    commands = documented()
    assert len(commands) == 8
    if not export.NBGRADER.is_dir() and not os.environ.get("CI"):
        commands = [line for line in commands if "nbgrader" not in line]
    for line in commands:
        if "--import" in line:
            mark_all(tmp_path / "words.csv")
        words = shlex.split(line.replace("--students 30", "--students 6"))[1:]
        done = subprocess.run([COMMAND, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == (1 if words[0] == "grade" else 0), done.stderr

    book = Gradebook(tmp_path / "grades.db")
    states = sorted(row["state"] for row in book.rows())
    assert states == ["graded", "graded", "graded", "graded", "partly graded", "unreadable"]
    points = {row["student"]: row["points"] * row["share_kept"] + 3 for row in book.rows()}
    assert sum(row["share_kept"] < 1 for row in book.rows()) == 1
    with (tmp_path / "grades.csv").open(encoding="utf-8-sig") as file:
        totals = {row["student"]: float(row["total"]) for row in csv.DictReader(file)}
    assert totals == pytest.approx(points) and len(set(totals.values())) > 2
    assert len(book.rows(gradebook.marks)) == 6
    with (tmp_path / "canvas.csv").open(encoding="utf-8") as file:
        assert {row["ID"] for row in csv.DictReader(file)} == {""} | {
            student.partition("_")[2] for student in totals
        }
    assert (tmp_path / "moodle.csv").read_text("utf-8").count("Participant 47") == 6


def mark_all(path: Path) -> None:
    """Three points for everybody, as a person would fill them in."""
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    assert any("would" in row[5] or "bound" in row[5] for row in rows[1:])
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([rows[0], *([*row[:2], "3", *row[3:]] for row in rows[1:])])


def test_the_page_shows_the_files_as_they_are(tmp_path):
    demo.make(tmp_path / "demo", 2)
    for name in ("course.toml", "students.csv"):
        assert f"```{name[-4:].lstrip('.')}\n{(tmp_path / 'demo' / name).read_text()}```" in PAGE
