"""The gradebook for other systems, and the marks that a person gives."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tlcourse.grading import export, gradebook, judge, marks
from tlcourse.grading.gradebook import Gradebook

STUDENTS = ("liddellalice_4711", "Zoë Ærøskøbing_4712", '=HYPERLINK("http://x")')


def put(book, student, exercise="ex01", points=20.0, kept=1.0, words="I would measure it."):
    tasks = [{"task": f"{exercise}.1", "points": points, "possible": 30.0}]
    book.put(
        {
            "student": student,
            "exercise": exercise,
            "framework": "pytorch",
            "state": "graded",
            "points": points,
            "possible": 30.0,
            "hours_late": 0.0,
            "share_kept": kept,
            "variant": 0,
            "file": "ex01.ipynb",
            "digest": "abc",
            "seconds": 0.1,
            "detail": {"tasks": tasks, "words": {"open": words}},
        }
    )


@pytest.fixture
def book(tmp_path):
    """Three students, one of them late, one marked, one with a formula for a name."""
    book = Gradebook(tmp_path / "grades.db")
    put(book, STUDENTS[0])
    put(book, STUDENTS[1], kept=0.9, words="=1+1\n\nThe bound is an upper one.")
    put(book, STUDENTS[2], points=7.5)
    put(book, STUDENTS[0], "ex02", points=30)
    book.mark(STUDENTS[1], "ex01", 4, 5, "-1: what would you measure?")
    return book


def table(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


def test_the_table_has_a_column_for_each_exercise_and_the_total(book, tmp_path):
    notes = export.export(book, "csv", tmp_path / "new" / "grades.csv")
    assert table(tmp_path / "new" / "grades.csv") == [
        ["student", "ex01", "ex02", "total"],
        ['\'=HYPERLINK("http://x")', "7.5", "", "7.5"],
        ["Zoë Ærøskøbing_4712", "22.0", "", "22.0"],  # 20 points, a day late, and 4 for the words
        ["liddellalice_4711", "20.0", "30.0", "50.0"],
    ]
    assert notes == ["answers in words without a mark, which count 0: 3"]


def test_canvas_gets_the_columns_that_its_import_asks_for(book, tmp_path):
    """The five first are looked up by place: see gradebook_importer.rb of Canvas."""
    *_, note = export.export(book, "canvas", tmp_path / "canvas.csv")
    assert table(tmp_path / "canvas.csv") == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "ex01", "ex02"],
        ["    Points Possible", "", "", "", "", "35.0", "35.0"],
        ['\'=HYPERLINK("http://x")', "", "", '\'=HYPERLINK("http://x")', "", "7.5", ""],
        ["Zoë Ærøskøbing", "4712", "", "", "", "22.0", ""],
        ["liddellalice", "4711", "", "", "", "20.0", "30.0"],
    ]
    assert "looked up by login or name" in note and "HYPERLINK" in note


def test_moodle_gets_a_worksheet_for_one_assignment(book, tmp_path):
    """What its import reads: Identifier, Grade and Last modified (grade)."""
    with pytest.raises(ValueError, match="choose one of ex01, ex02 with --only"):
        export.export(book, "moodle", tmp_path / "moodle.csv")
    export.export(book, "moodle", tmp_path / "moodle.csv", only="ex02")
    assert table(tmp_path / "moodle.csv") == [
        ["Identifier", "Full name", "Grade", "Maximum grade", "Last modified (grade)"],
        ["Participant 4711", "liddellalice", "30.0", "35.0", ""],
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_spreadsheet_runs_nothing_that_a_student_wrote(text):
    assert export.defused(text) == f"'{text}"
    assert export.defused(f"x{text}") == f"x{text}"


def test_a_semicolon_begins_no_field(book, tmp_path):
    put(book, "x;=1+1")
    export.export(book, "csv", tmp_path / "grades.csv")
    assert '"x;=1+1",20.0,"",20.0' in (tmp_path / "grades.csv").read_text("utf-8-sig")


@pytest.mark.parametrize("command", ["export", "marks", "demo-class"])
def test_a_command_gives_an_example_and_a_missing_gradebook_is_one_sentence(command, tmp_path):
    def tlcourse(*words):
        program = "from tlcourse.cli import main; main()"
        whole = [sys.executable, "-c", program, command, *words]
        return subprocess.run(whole, capture_output=True, text=True, cwd=tmp_path)

    assert f"Example: tlcourse {command} --" in tlcourse("--help").stdout
    if command != "demo-class":
        option = "--out" if command == "export" else "--template"
        done = tlcourse("--gradebook", "none.db", option, "x.csv")
        assert done.stderr == "there is no gradebook none.db: tlcourse grade makes one\n"
        assert done.returncode == 2 and not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_in_a_sentence(book, tmp_path):
    with pytest.raises(ValueError, match="holds no grades of ex09"):
        export.export(book, "csv", tmp_path / "x.csv", only="ex09")
    with pytest.raises(ValueError, match="is the gradebook itself"):
        export.export(book, "csv", book.path)
    with pytest.raises(ValueError, match="cannot be written"):
        export.export(book, "csv", tmp_path)


SCORES = """
import json, sys
from nbgrader.api import Gradebook
with Gradebook(sys.argv[1]) as book:
    print(json.dumps({
        f"{a.name} {s.student.id}": [s.score - s.late_submission_penalty, s.max_score] + [
            comment.comment for n in s.notebooks for comment in n.comments if comment.comment
        ]
        for a in book.assignments for s in book.assignment_submissions(a.name)
    }))
"""


def test_nbgrader_reads_what_is_written_through_its_own_interface(book, tmp_path):
    if not export.NBGRADER.is_dir() and not os.environ.get("CI"):
        pytest.skip("nbgrader is not here: make test sets it up")
    for _ in range(2):  # again, and nothing is there twice
        export.export(book, "nbgrader", tmp_path / "gradebook.db")
    command = [sys.executable, "-c", SCORES, f"sqlite:///{tmp_path / 'gradebook.db'}"]
    environment = os.environ | {"PYTHONPATH": str(export.NBGRADER)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout) == {
        f"ex01 {STUDENTS[0]}": [20, 35],
        f"ex01 {STUDENTS[1]}": [22, 35, "-1: what would you measure?"],
        f"ex01 {STUDENTS[2]}": [7.5, 35],
        f"ex02 {STUDENTS[0]}": [30, 35],
    }
    with pytest.raises(ValueError, match=r"nbgrader cannot write .*unable to open"):
        export.export(book, "nbgrader", tmp_path)


def test_without_nbgrader_it_is_said_how_to_get_it(book, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "NBGRADER", tmp_path / "none")
    with pytest.raises(ValueError, match=r"pip install --no-deps --target .*none nbgrader=="):
        export.export(book, "nbgrader", tmp_path / "gradebook.db")


# --- marks --------------------------------------------------------------------------------------


def fill(path: Path, *rows: tuple[int, str, str], between=",") -> None:
    """Write (row, points, comment) into a template."""
    written = table(path)
    for number, points, comment in rows:
        written[number][2], written[number][4] = points, comment
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=between).writerows(written)


def test_a_template_shows_the_answers_and_the_marks_that_are_there(book, tmp_path):
    put(book, "bob", "ex02", words="YOUR ANSWER HERE")
    assert marks.write_template(book, tmp_path / "words.csv") == 5
    header, formula, zoe, alice, bob, _ = table(tmp_path / "words.csv")
    assert header == ["student", "exercise", "points", "possible", "comment", "answer"]
    assert formula[:3] == ['\'=HYPERLINK("http://x")', "ex01", ""]
    assert zoe[2:5] == ["4.0", "5", "'-1: what would you measure?"]
    assert zoe[5] == "'=1+1\n\nThe bound is an upper one."
    assert alice[5] == "I would measure it." and bob[5] == ""


@pytest.mark.parametrize("between", [",", ";"])
def test_marks_come_back_and_each_change_has_its_line_in_the_audit(book, tmp_path, between):
    marks.write_template(book, tmp_path / "words.csv")
    fill(tmp_path / "words.csv", (1, "2,5", "=good"), (3, "5", ""), between=between)
    assert marks.read_marks(book, tmp_path / "words.csv") == 2
    assert marks.read_marks(book, tmp_path / "words.csv") == 0  # nothing has changed
    found = {m["student"]: (m["points"], m["comment"]) for m in book.rows(gradebook.marks)}
    assert found == {
        STUDENTS[0]: (5, ""),
        STUDENTS[1]: (4, "-1: what would you measure?"),
        STUDENTS[2]: (2.5, "=good"),
    }
    lines = [line["after"] for line in book.rows(gradebook.audit) if line["what"] == "marked"]
    assert lines == ["4", "2.5", "5"]


def test_one_bad_row_and_nothing_is_imported(book, tmp_path):
    path = tmp_path / "words.csv"
    marks.write_template(book, path)
    fill(path, (1, "5", ""), (2, "6", ""), (3, "five", ""), (4, "nan", ""))
    with path.open("a", encoding="utf-8") as file:
        file.write("mallory,ex01,5,5,,\nliddellalice_4711,ex01,1,5,,\n")
    with pytest.raises(ValueError, match="nothing is imported") as refused:
        marks.read_marks(book, path)
    said = str(refused.value)
    for words in (
        "line 3: 6 is no number from 0 to 5",
        "line 6: five is no number",
        "line 7: nan is no number",
        "line 8: mallory has no grade for ex01",
        "line 9: liddellalice_4711 is there twice for ex01",
    ):
        assert words in said
    assert len(book.rows(gradebook.marks)) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name,points\nalice,3\n", None])
def test_a_file_that_is_no_template_is_refused(book, tmp_path, content):
    path = tmp_path / "words.csv"
    if content:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read|has no column exercise"):
        marks.read_marks(book, path)


def test_an_answer_in_words_keeps_its_line_breaks_and_nothing_that_acts():
    cleaned = judge.clean_lines("one\r\ntwo\x1b[31m \u202e\n\n" + 30_000 * "x")
    assert cleaned.startswith("one\ntwo [31m  \n\nxxx") and len(cleaned) < 20_001
