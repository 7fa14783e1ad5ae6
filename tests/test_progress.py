"""The learner's record."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tlcourse import evidence, progress
from tlcourse.progress import Event


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    file = tmp_path / "a folder" / "progress.db"
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(file))
    return file


def test_what_is_recorded_comes_back_in_order():
    progress.record("lesson", "04", 27, 28, framework="pytorch")
    progress.record("exercise", "ex04.2", 1.5, 3)
    first, second = progress.events()
    assert (first.item, first.points, first.detail) == ("04", 27, {"framework": "pytorch"})
    assert (second.kind, second.possible) == ("exercise", 3)
    assert progress.events("lesson") == [first]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (("walk", "x", 1, 1), "unknown kind 'walk'"),
        (("lesson", "x", 2, 1), "2 points of 1"),
        (("lesson", "x", float("nan"), 1), "nan points"),
        (("lesson", "x", 1, 1, {}, "2026-11-22T10:00:00"), "no time with a time zone"),
        (("lesson", "x", 1, 1, {}, "0001-01-01T00:00:00+14:00"), "no time with a time zone"),
        (("lesson", "x", 1, 1, None), "detail of an event is a mapping"),
        (("lesson", {"x": 1}, 1, 1), "item and id of an event are text"),
    ],
)
def test_an_event_that_makes_no_sense_is_refused(event, message):
    with pytest.raises(ValueError, match=message):
        Event(*event)


def test_switched_off_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_PROGRESS", "off")
    progress.record("lesson", "04", 1, 1)
    assert progress.path() is None and progress.events() == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_word_it_stands_in_the_users_data_folder(monkeypatch):
    monkeypatch.delenv("TLCOURSE_PROGRESS")
    assert progress.path().parts[-2:] == ("tlcourse", "progress.db")


def test_a_file_that_cannot_be_written_costs_one_sentence(place, capsys):
    place.parent.write_text("a file where the folder should be")
    progress.record("lesson", "04", 1, 1)
    assert "04 was not recorded" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["whole", "page"])
def test_a_damaged_record_is_set_aside_and_a_new_one_begins(place, capsys, damage):
    progress.add([Event("question", f"q{item}", 1, 1) for item in range(200)])
    content = bytearray(place.read_bytes())
    content[0 if damage == "whole" else 4096 :] = b"x" * 9000
    place.write_bytes(content)
    progress.record("lesson", "04", 1, 1)
    assert [event.item for event in progress.events()] == ["04"]
    (kept,) = place.parent.glob("*.damaged-*")
    assert kept.read_bytes() == content
    assert str(kept) in capsys.readouterr().err


def test_a_record_of_a_newer_course_is_left_alone(place, capsys):
    progress.record("lesson", "04", 1, 1)
    import sqlite3

    with sqlite3.connect(place) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(RuntimeError, match="newer tlcourse"):
        progress.events()
    progress.record("lesson", "05", 1, 1)
    assert "05 was not recorded" in capsys.readouterr().err


def test_export_and_restore_add_each_event_once(tmp_path):
    progress.record("lesson", "04", 1, 1, framework="pytorch")
    kept, file = progress.events(), tmp_path / "record.json"
    assert progress.export(file) == 1
    assert progress.restore(file) == 0
    progress.erase()
    assert progress.events() == []
    assert progress.restore(file) == 1
    assert progress.events() == kept


@pytest.mark.parametrize("content", ["", "{}1", '[{"kind": "walk"}]', "[1]", b"\xff\xfe"])
def test_what_is_no_exported_record_is_refused(tmp_path, content):
    file = tmp_path / "record.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="is not an exported record"):
        progress.restore(file)
    assert progress.events() == []


WRITER = """
from tlcourse import progress
for n in range({n}):
    progress.record("question", f"{name}-{{n}}", 1, 1)
    print(n, flush=True)
"""


def writer(name, n):
    program = WRITER.format(name=name, n=n)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_two_notebooks_at_once_lose_nothing():
    both = [writer(name, 60) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    assert {event.item for event in progress.events()} == {
        f"{name}-{n}" for name in "ab" for n in range(60)
    }


def test_killed_at_any_moment_no_finished_event_is_lost():
    said = set()
    for round in range(10):
        process = writer(f"r{round}", 10**6)
        while len(line := process.stdout.readline()) == 0:
            time.sleep(0.001)
        time.sleep(0.01 * (1 + round))
        os.kill(process.pid, signal.SIGKILL)
        rest = process.communicate()[0]
        # The last line may be cut off in the middle of a number.
        said |= {f"r{round}-{n}" for n in (line + rest).split("\n")[:-1]}
    assert len(said) > 10
    assert said <= {event.item for event in progress.events()}


def test_the_end_of_a_notebook_is_recorded_but_not_in_smoke(monkeypatch):
    monkeypatch.setattr(evidence, "_claims", {})
    monkeypatch.setenv("TLCOURSE_FRAMEWORK", "pytorch")
    monkeypatch.setenv("TLCOURSE_PROFILE", "smoke")
    evidence.claim("04.a", "a", True)
    evidence.summary()
    assert progress.events() == []
    monkeypatch.setenv("TLCOURSE_PROFILE", "cpu")
    evidence.claim("04.a", "a", True)
    evidence.claim("04.b", "b", True)
    evidence.summary()
    (event,) = progress.events()
    assert (event.kind, event.item, event.points, event.possible) == ("lesson", "04", 2, 2)
    assert event.detail == {"framework": "pytorch"}


def test_each_notebook_of_a_folder_is_listed_with_its_last_run(tmp_path):
    for name in ("00_start.ipynb", "04_features.ipynb", "notes.ipynb"):
        (tmp_path / name).touch()
    progress.record("lesson", "04", 27, 28)
    progress.record("lesson", "04", 28, 28)
    (start, nothing), (features, event) = progress.lessons(tmp_path)
    assert (start, nothing, features) == ("00_start", None, "04_features")
    assert event.points == 28


def test_the_command_shows_carries_and_deletes(tmp_path):
    def tlcourse(*words):
        program = [sys.executable, "-c", "from tlcourse.cli import main; main()", "progress"]
        return subprocess.run([*program, *words], capture_output=True, text=True)

    assert "Nothing yet" in tlcourse().stdout
    progress.record("lesson", "04", 27, 28)
    assert "27 of 28" in tlcourse().stdout
    assert tlcourse("--export", str(tmp_path / "r.json")).stdout.endswith("r.json: 1\n")
    assert json.loads((tmp_path / "r.json").read_text())[0]["item"] == "04"
    assert tlcourse("--delete", "--yes").returncode == 0
    assert progress.events() == []
    assert tlcourse("--restore", str(tmp_path / "r.json")).stdout.endswith("r.json: 1\n")
    damaged = tlcourse("--restore", __file__)
    assert damaged.returncode == 2 and "is not an exported record" in damaged.stderr
