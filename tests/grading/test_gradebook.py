"""The gradebook: nothing lost, nothing twice, every change written down."""

import multiprocessing
import signal
import sqlite3
import time

import pytest

from tlcourse.grading import gradebook
from tlcourse.grading.gradebook import Gradebook, GradebookError


def row(student="alice", points=3.0, **changes):
    return {
        "student": student,
        "exercise": "ex01",
        "framework": "pytorch",
        "state": "graded",
        "points": points,
        "possible": 30.0,
        "hours_late": 0.0,
        "share_kept": 1.0,
        "variant": 0,
        "file": "alice/ex01.ipynb",
        "digest": "abc",
        "seconds": 0.1,
        "detail": {"tasks": [{"task": "ex01.1", "failed": {"shape": "é \U0001f600"}}]},
    } | changes


def test_a_grade_is_read_back_as_it_was_written(tmp_path):
    book = Gradebook(tmp_path / "grades.db")
    book.put(row())
    (read,) = Gradebook(tmp_path / "grades.db").rows()
    assert {**read, "graded_at": ""} == row() | {"graded_at": ""}
    assert book.digest("alice", "ex01") == "abc" and book.digest("bob", "ex01") == ""


def test_a_new_grade_takes_the_place_of_the_old_one_and_both_stand_in_the_audit(tmp_path):
    book = Gradebook(tmp_path / "grades.db")
    book.put(row())
    book.put(row(points=7.0))
    book.mark("alice", "ex01", 4, 5, "clear")
    book.mark("alice", "ex01", 5, 5)
    assert [r["points"] for r in book.rows()] == [7.0]
    assert [r["points"] for r in book.rows(gradebook.marks)] == [5.0]
    lines = [(r["what"], r["before"], r["after"]) for r in book.rows(gradebook.audit)]
    assert lines == [
        ("graded", "", "graded, 3 of 30"),
        ("graded", "graded, 3 of 30", "graded, 7 of 30"),
        ("marked", "", "4"),
        ("marked", "4", "5"),
    ]


def test_text_is_stored_as_text(tmp_path):
    book = Gradebook(tmp_path / "grades.db")
    evil = "x'); DROP TABLE grades; --"
    book.put(row(evil))
    assert [r["student"] for r in book.rows()] == [evil]


@pytest.mark.parametrize(
    "content", [b"no data base at all, only some text" * 99, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_gradebook_is_refused(content, tmp_path):
    path = tmp_path / "grades.db"
    path.write_bytes(content)
    with pytest.raises(GradebookError, match=r"grades\.db cannot be used as a gradebook"):
        Gradebook(path)
    assert path.read_bytes() == content


def test_a_newer_gradebook_is_left_alone(tmp_path):
    path = tmp_path / "grades.db"
    Gradebook(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(GradebookError, match="newer"):
        Gradebook(path)


def _write(path, name, count, told):
    book = Gradebook(path)
    for number in range(count):
        book.put(row(f"{name}{number}"))
        told.send(number)


def test_two_graders_at_once_lose_nothing(tmp_path):
    fresh, path = multiprocessing.get_context("spawn"), tmp_path / "grades.db"
    made = []
    for name in ("a", "b"):
        hears, told = fresh.Pipe(duplex=False)
        made.append((fresh.Process(target=_write, args=(path, name, 60, told)), hears, told))
        made[-1][0].start()
    for process, *_ in made:
        process.join(60)
        assert process.exitcode == 0
    assert len(Gradebook(path).rows()) == len(Gradebook(path).rows(gradebook.audit)) == 120


def test_two_hundred_kills_lose_no_finished_grade(tmp_path):
    """A writer is killed again and again; what it had told us of is there each time."""
    fork, path = multiprocessing.get_context("fork"), tmp_path / "grades.db"
    Gradebook(path)
    for kill in range(200):
        hears, told = fork.Pipe(duplex=False)
        writer = fork.Process(target=_write, args=(path, f"{kill}-", 10_000, told))
        writer.start()
        time.sleep(0.002 * (kill % 10))
        hears.recv() if kill % 2 else None
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        told.close()
        finished = []
        try:
            while True:
                finished.append(hears.recv())
        except EOFError:
            pass
        book = Gradebook(path)
        kept = {r["student"] for r in book.rows() if r["student"].startswith(f"{kill}-")}
        assert {f"{kill}-{number}" for number in finished} <= kept
        assert len(book.rows(gradebook.audit)) == len(book.rows())  # both or neither
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
