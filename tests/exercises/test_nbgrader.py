"""The sets in the hands of the real nbgrader."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SOLVED = ROOT / "solutions" / "pytorch" / "ex01_theory_and_formulas.ipynb"
LEARNERS = ROOT / "exercises" / "pytorch" / "ex01_theory_and_formulas.ipynb"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    shutil.copy(ROOT / "solutions" / "nbgrader_config.py", folder)
    (folder / "source" / "ex01").mkdir(parents=True)
    shutil.copy(SOLVED, folder / "source" / "ex01" / "ex01.ipynb")
    return folder


def nbgrader(course, *words) -> str:
    program = "from nbgrader.apps.nbgraderapp import main; main()"
    # It calls alembic by name, to make its database.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(
        command, cwd=course, capture_output=True, text=True, env=os.environ | {"PATH": here}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_validate_passes_the_solution(course):
    assert "passes all the tests" in nbgrader(course, "validate", str(SOLVED))


def test_generated_assignments_hold_what_ours_hold_and_are_autograded_by_parts(course):
    from nbgrader.api import Gradebook

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

    scores = {}
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        for student in ("none", "some", "all"):
            (notebook,) = gradebook.find_submission("ex01", student).notebooks
            scores[student] = {g.name: (g.score, g.max_score) for g in notebook.grades}
    tasks = [name for name in scores["all"] if name != "open"]
    assert len(tasks) == 8
    assert all(scores["none"][name][0] == 0 for name in tasks)
    assert all(scores["all"][name][0] == scores["all"][name][1] for name in tasks)
    assert scores["some"]["ex01-1-check"] == (2, 4)
    assert all(scores["some"][name] == scores["all"][name] for name in tasks[1:])
