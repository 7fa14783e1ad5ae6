"""Grading a folder: who handed in what, what is graded again, what a broken file costs."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tlcourse.grading import batch, gradebook
from tlcourse.grading.batch import BadInput, Course

KNOWN = ["ex01", "ex02"]
COMMAND = str(Path(sys.executable).with_name("tlcourse"))


def put(folder: Path, name: str, content: bytes = b"{}") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("alice/ex01_theory_and_formulas.ipynb", "alice"),
        ("alice/ex01/notebook.ipynb", "alice"),
        ("submitted/alice/ex01/ex01_theory_and_formulas.ipynb", "alice"),
        ("alice_ex01.ipynb", "alice"),
        ("ex01_theory_and_formulas-alice.ipynb", "alice"),
        ("liddellalice_4711_99_ex01_theory_and_formulas-2.ipynb", "liddellalice_4711"),
        ("liddellalice_LATE_4711_99_ex01.ipynb", "liddellalice_4711"),
        ("Alice Liddell_4711_assignsubmission_file_/ex01.ipynb", "Alice Liddell_4711"),
        ("Alice Liddell_4711_assignsubmission_file_ex01.ipynb", "Alice Liddell_4711"),
        ("Zoë Ærøskøbing/ex01.ipynb", "Zoë Ærøskøbing"),
    ],
)
def test_a_student_is_found_in_the_layouts_that_systems_hand_out(name, student, tmp_path):
    put(tmp_path, name)
    (made,), left_out = batch.find(tmp_path, KNOWN)
    assert (made.student, made.exercise, left_out) == (student, "ex01", [])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        packed.write(tmp_path / name, name)
    (zipped,), _ = batch.find(tmp_path / "all.zip", KNOWN)
    assert (zipped.student, zipped.content()) == (student, b"{}")


def test_a_zip_for_each_student_is_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "alice.zip", "w") as packed:
        packed.writestr("ex01.ipynb", "{}")
        packed.writestr("../../../escape.ipynb", "{}")
        packed.writestr("__MACOSX/._ex02.ipynb", "{}")
    (one, two), left_out = batch.find(tmp_path, KNOWN)
    assert [made.student for made in (one, two)] == ["alice", "alice"]
    assert len(left_out) == 1 and "escape" in left_out[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alice.zip"]


def test_the_latest_of_several_counts(tmp_path):
    os.utime(put(tmp_path, "alice/ex01-1.ipynb", b"old"), (1, 1))
    os.utime(put(tmp_path, "alice/ex01-2.ipynb", b"new"), (2, 2))
    (made,), _ = batch.find(tmp_path, KNOWN)
    assert made.content() == b"new"


def test_what_cannot_be_graded_is_named_and_the_rest_is_found(tmp_path):
    put(tmp_path, "alice/ex01.ipynb")
    put(tmp_path, "bob/notes.ipynb")
    put(tmp_path, "carol.zip", b"no zip")
    (tmp_path / "ex01_link.ipynb").symlink_to(tmp_path / "alice" / "ex01.ipynb")
    os.symlink("/", tmp_path / "root")
    os.mkfifo(tmp_path / "pipe_ex01.ipynb")
    found, left_out = batch.find(tmp_path, KNOWN)
    assert [made.student for made in found] == ["alice"]
    assert len(left_out) == 4


def test_a_name_that_is_no_text_is_graded_all_the_same(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)
    with open(folder + b"/ex01.ipynb", "wb") as file:
        file.write(b"{}")
    (made,), _ = batch.find(tmp_path, KNOWN)
    assert made.content() == b"{}" and made.student.encode()


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bob.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("ex01.ipynb", b" " * (60 * 2**20))
    (made,), _ = batch.find(tmp_path, KNOWN)
    assert len(made.content()) <= 50 * 2**20 + 1  # and is refused as too large


def test_nothing_to_grade_is_said(tmp_path):
    with pytest.raises(BadInput, match="no notebook of ex01, ex02"):
        batch.find(tmp_path, KNOWN)
    with pytest.raises(BadInput, match="there is no"):
        batch.find(tmp_path / "nowhere", KNOWN)


# --- lateness and groups ------------------------------------------------------------------------


def course(**changes):
    due = datetime(2026, 12, 1, 12)
    return Course({"ex01": due}, percent_a_day=10, days=3, **changes), due.timestamp()


@pytest.mark.parametrize(
    ("hours", "late", "kept"),
    [(-5, 0, 1), (0, 0, 1), (1, 1, 0.9), (24, 24, 0.9), (25, 25, 0.8), (72, 72, 0.7), (73, 73, 0)],
)
def test_lateness_costs_by_the_day(hours, late, kept):
    policy, due = course()
    assert policy.lateness("ex01", "alice", due + 3600 * hours) == pytest.approx((late, kept))
    assert policy.lateness("ex02", "alice", due + 3600 * hours) == (0, 1)


def test_extra_time_and_groups_come_from_the_table(tmp_path):
    table = tmp_path / "students.csv"
    table.write_text("id,extra_hours,group\nalice,48,red\nbob,,red\ncarol,,\n")
    toml = tmp_path / "course.toml"
    toml.write_text("[deadlines]\nex01 = 2026-12-01T12:00:00\n[late]\npercent_a_day = 10\n")
    policy = batch.read_course(toml, table)
    due = datetime(2026, 12, 1, 12).timestamp()
    assert policy.members("bob") == ["alice", "bob"] and policy.members("carol") == ["carol"]
    assert policy.lateness("ex01", "bob", due + 3600 * 40) == (0, 1)
    assert policy.lateness("ex01", "carol", due + 3600 * 40) == (40, 0.8)


@pytest.mark.parametrize(
    ("toml", "table"),
    [
        ("[deadlines]\nex01 = 'tomorrow'", None),
        ("no toml", None),
        (None, "name\nalice\n"),
        (None, "id,extra_hours\nalice,many\n"),
    ],
)
def test_a_bad_table_is_answered_in_one_sentence(toml, table, tmp_path):
    paths = []
    for name, text in (("course.toml", toml), ("students.csv", table)):
        paths.append(None if text is None else put(tmp_path, name, text.encode()))
    with pytest.raises(BadInput, match="cannot be used"):
        batch.read_course(*paths)


# --- the whole command --------------------------------------------------------------------------


@pytest.fixture
def class_of_six(tmp_path, work):
    place = tmp_path / "submissions"
    put(place, "alice/ex01.ipynb", work("all"))
    put(place, "bob/ex01.ipynb", work("ex01.1", "ex01.2"))
    put(place, "carol/ex01.ipynb", work())
    put(place, "dave/ex01.ipynb", b"\xff no notebook")
    put(
        place,
        "erin/ex01.ipynb",
        work("all", behind="def fine_tune(*_):\n    import os\n    os._exit(1)"),
    )
    put(place, "frank/ex01.ipynb", work("all", behind="import os\nos._exit(1)"))
    return place


def grade(place, book, *options):
    command = [COMMAND, "grade", str(place), "--gradebook", str(book)]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)


def standing(book):
    rows = gradebook.Gradebook(book).rows()
    return {r["student"]: (r["state"], r["points"]) for r in rows}


def test_a_class_is_graded_and_graded_again_only_where_something_changed(
    class_of_six, tmp_path, work
):
    book = tmp_path / "grades.db"
    first = grade(class_of_six, book)
    assert first.returncode == 1, first.stderr  # some could not be graded in full
    assert "6 submissions, 0 of them graded already" in first.stdout
    assert standing(book) == {
        "alice": ("graded", 30.0),
        "bob": ("graded", 8.0),
        "carol": ("no submission", 0.0),
        "dave": ("unreadable", 0.0),
        "erin": ("partly graded", 26.0),
        "frank": ("graded", 30.0),  # the last cell ended the process, and was left out
    }
    before = gradebook.Gradebook(book).rows()
    assert "6 of them graded already" in grade(class_of_six, book).stdout
    assert gradebook.Gradebook(book).rows() == before
    put(class_of_six, "bob/ex01.ipynb", work("ex01.1", "ex01.2", "ex01.3"))
    assert "5 of them graded already" in grade(class_of_six, book).stdout
    assert standing(book)["bob"][1] > 8
    again = grade(class_of_six, book, "--regrade")
    assert "0 of them graded already" in again.stdout
    after = gradebook.Gradebook(book).rows()
    assert [r["points"] for r in after if r["student"] != "bob"] == [
        r["points"] for r in before if r["student"] != "bob"
    ]


def test_an_interrupted_run_goes_on_where_it_was(class_of_six, tmp_path):
    book = tmp_path / "grades.db"
    command = [COMMAND, "grade", str(class_of_six)]
    run = subprocess.Popen([*command, "--gradebook", str(book), "--jobs", "1"])
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if book.exists() and len(gradebook.Gradebook(book).rows()) >= 2:
            break
        time.sleep(0.02)
    started = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(started, 10)
    assert len(started) >= 3 and not alive  # the judge, its sandbox and the student's process
    kept = len(gradebook.Gradebook(book).rows())
    assert kept >= 2
    rest = grade(class_of_six, book)
    assert f"{kept} of them graded already" in rest.stdout
    assert len(standing(book)) == 6
    assert len(gradebook.Gradebook(book).rows(gradebook.audit)) == 6


def test_judges_are_replaced_and_the_class_is_graded_to_its_end(class_of_six, tmp_path):
    # As a class of thousands is: with two submissions to a judge, six of them take three.
    few = "from tlcourse.grading import batch; batch.JOBS_A_PROCESS = 2; "
    command = [sys.executable, "-c", few + "from tlcourse.cli import main; main()", "grade"]
    command += [str(class_of_six), "--gradebook", str(tmp_path / "grades.db"), "--jobs", "1"]
    subprocess.run(command, capture_output=True, timeout=90)
    assert len(standing(tmp_path / "grades.db")) == 6


def test_members_of_a_group_share_the_grade(tmp_path, work):
    put(tmp_path, "work/alice/ex01.ipynb", work("ex01.1"))
    table = put(tmp_path, "students.csv", b"id,group\nalice,red\nbob,red\ncarol,\n")
    result = grade(tmp_path / "work", tmp_path / "g.db", "--students", str(table))
    assert result.returncode == 0, result.stderr
    assert standing(tmp_path / "g.db") == {"alice": ("graded", 4.0), "bob": ("graded", 4.0)}


def test_two_workers_of_a_cluster_grade_the_class_and_a_killed_one_loses_nothing(
    class_of_six, tmp_path, work
):
    from distributed import LocalCluster

    for number in range(12):
        put(class_of_six, f"more{number}/ex01.ipynb", work("ex01.1"))
    book = tmp_path / "grades.db"
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        command = [COMMAND, "grade", str(class_of_six)]
        run = subprocess.Popen(
            [*command, "--gradebook", str(book), "--scheduler", cluster.scheduler_address],
            stdout=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 60
        while time.monotonic() < until and not (
            book.exists() and len(gradebook.Gradebook(book).rows()) >= 3
        ):
            time.sleep(0.02)
        os.kill(cluster.workers[0].process.pid, 9)
        out, _ = run.communicate(timeout=240)
    assert "18 submissions" in out
    assert len(standing(book)) == 18
    assert len(gradebook.Gradebook(book).rows(gradebook.audit)) == 18  # nothing twice
    assert standing(book)["alice"] == ("graded", 30.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--only", "ex99"), "there is no ex99"),
        (("--course", "nowhere.toml"), "cannot be used"),
        (("--jobs", "0"), "jobs"),
    ],
)
def test_a_bad_option_is_answered_in_one_sentence(options, sentence, tmp_path):
    result = grade(tmp_path, tmp_path / "g.db", *options)
    assert result.returncode == 2 and sentence in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="gives up a right")
def test_where_bubblewrap_may_build_nothing_it_refuses_in_the_words_of_the_system():
    """As in a container whose root has no right to make namespaces."""
    code = "from tlcourse.grading.sandbox import require; require()"
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable]
    refused = subprocess.run([*command, "-c", code], capture_output=True, text=True, check=False)
    assert refused.returncode
    assert "NoSandbox: bubblewrap is here, but the system does not let it" in refused.stderr
    assert "namespace failed: Operation not permitted" in refused.stderr


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root")
def test_it_grades_as_the_first_process_of_a_container(tmp_path, work):
    put(tmp_path, "work/alice/ex01.ipynb", work("all"))
    code = "from tlcourse.cli import main; main()"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, "grade"]
    command += [str(tmp_path / "work"), "--gradebook", str(tmp_path / "g.db")]
    subprocess.run(command, check=True, capture_output=True)
    assert standing(tmp_path / "g.db") == {"alice": ("graded", 30.0)}


def test_without_bubblewrap_it_refuses_and_says_what_to_install(tmp_path, work, monkeypatch):
    put(tmp_path, "work/alice/ex01.ipynb", work("all"))
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = grade(tmp_path / "work", tmp_path / "g.db")
    assert refused.returncode == 2 and "apt install bubblewrap" in refused.stderr
    assert not (tmp_path / "g.db").exists()
    trusted = grade(tmp_path / "work", tmp_path / "g.db", "--trust-submissions")
    assert trusted.returncode == 0, trusted.stderr
    assert standing(tmp_path / "g.db") == {"alice": ("graded", 30.0)}


def test_a_grade_is_plain_data(work):
    from tlcourse.grading.judge import Judge

    with Judge("ex01", "pytorch", work.solved) as judge:
        made = judge.grade(work("all"))
    assert json.loads(json.dumps(made.as_dict())) == made.as_dict()
