"""The sets in the hands of the real nbgrader."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
APART = Path(sys.prefix) / "nbgrader"  # where make test puts it
SOLVED = ROOT / "solutions" / "pytorch" / "ex01_theory_and_formulas.ipynb"
LEARNERS = ROOT / "exercises" / "pytorch" / "ex01_theory_and_formulas.ipynb"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    shutil.copy(ROOT / "solutions" / "nbgrader_config.py", folder)
    (folder / "source" / "ex01").mkdir(parents=True)
    shutil.copy(SOLVED, folder / "source" / "ex01" / "ex01.ipynb")
    return folder


if not APART.is_dir() and not os.environ.get("CI"):
    pytest.skip("nbgrader is not here: make test sets it up", allow_module_level=True)

SCORES = """
import json
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as gradebook:
    submissions = gradebook.assignment_submissions("ex01")
    print(json.dumps({
        submission.student.id: {g.name: [g.score, g.max_score] for g in notebook.grades}
        for submission in submissions for notebook in submission.notebooks
    }))
"""


def nbgrader(course, *words) -> str:
    return run(course, "from nbgrader.apps.nbgraderapp import main; main()", *words)


def run(course, program, *words) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(APART),
        # It calls alembic by name, to make its database.
        "PATH": os.pathsep.join([str(APART / "bin"), os.environ["PATH"]]),
    }
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_validate_passes_the_solution(course):
    assert "passes all the tests" in nbgrader(course, "validate", str(SOLVED))


def test_generated_assignments_hold_what_ours_hold_and_are_autograded_by_parts(course):
    nbgrader(course, "generate_assignment", "ex01")
    released = nbformat.read(course / "release" / "ex01" / "ex01.ipynb", 4)
    ours = nbformat.read(LEARNERS, 4)
    assert [cell.id for cell in released.cells] == [cell.id for cell in ours.cells]

    solved = nbformat.read(SOLVED, 4)
    mistaken = nbformat.read(SOLVED, 4)
    for cell in mistaken.cells:
        cell.source = cell.source.replace("return F.T @ p / len(y)", "return F.T @ p")
    for student, notebook in (("none", released), ("some", mistaken), ("all", solved)):
        folder = course / "submitted" / student / "ex01"
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / "ex01.ipynb")
    nbgrader(course, "autograde", "ex01")

    scores = json.loads(run(course, SCORES))
    tasks = [name for name in scores["all"] if name != "open"]
    assert len(tasks) == 8
    assert all(scores["none"][name][0] == 0 for name in tasks)
    assert all(scores["all"][name][0] == scores["all"][name][1] for name in tasks)
    assert scores["some"]["ex01-1-check"] == [2, 4]
    assert all(scores["some"][name] == scores["all"][name] for name in tasks[1:])
