"""Every exercise set: its notebooks, its answers, its graders."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tlcourse import notebooks
from tlcourse.exercises import kit, source, verify

ROOT = Path(__file__).parents[2]
SETS = [s for s in notebooks.sources(ROOT) if notebooks.is_exercise(s)]


@pytest.mark.parametrize("framework", notebooks.FRAMEWORKS)
@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_the_learners_notebook_holds_no_answer(path, framework):
    solved = notebooks.build(path, framework)
    learners = nbformat.read(notebooks.exercise_path(path, framework), 4)
    nbformat.validate(learners)
    text = "\n".join(cell.source for cell in learners.cells)
    assert "SOLUTION" not in text
    assert not any(cell.get("outputs") for cell in learners.cells)
    for cell in solved.cells:
        if "solution" in cell.metadata.get("tags", []):
            assert cell.source not in text
    stubs = source.answers(learners)
    assert stubs.keys() == source.answers(solved).keys()
    for task_id, stub in stubs.items():
        assert f'check("{task_id}", {kit.find(task_id).function})' in text
        (function,) = (s for s in ast.parse(stub).body if isinstance(s, ast.FunctionDef))
        assert function.name == kit.find(task_id).function
        assert ast.get_docstring(function)
        (last,) = function.body[1:]
        assert ast.unparse(last) == f"raise NotImplementedError('{task_id}')"


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_a_set_asks_for_five_functions_and_one_answer_in_words(path):
    solved = notebooks.build(path, "pytorch")
    tasks = {task.id for task in _tasks(path)}
    assert set(source.answers(solved)) == tasks and len(tasks) >= 5
    opened = [c for c in solved.cells if "open" in c.metadata.get("tags", [])]
    assert len(opened) == 1 and opened[0].metadata.nbgrader.points == source.OPEN_POINTS


def _tasks(path):
    return importlib.import_module(f"tlcourse.exercises.{path.stem[:4]}").TASKS


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_each_task_names_a_section_that_exists(path):
    for task in _tasks(path):
        notebook, _, section = task.taught.partition("#")
        lesson = next((ROOT / "notebooks" / "source").glob(f"{notebook}_*.py"))
        assert f"# ## {section}\n" in lesson.read_text("utf-8")


def test_the_graders_are_as_good_as_they_say():
    program = "from tlcourse.cli import main; main()"
    command = [sys.executable, "-c", program, "exercises", "verify", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    counts = json.loads(done.stdout)
    assert counts["problems"] == [] and done.returncode == 0
    for name in ("correct_rejected", "wrong_accepted", "wrong_hint", "survivors_unexplained"):
        assert counts[name] == 0
    assert verify.table(counts) in (ROOT / "docs" / "exercises.md").read_text("utf-8")
    assert counts["tasks"] == sum(len(_tasks(path)) for path in SETS)
    assert counts["correct_accepted"] >= 2 * counts["tasks"]
    assert counts["wrong_caught"] >= 3 * counts["tasks"]


def test_a_bad_grader_is_found(monkeypatch):
    """Mutants are made, and a check that lets everything pass is reported."""
    from dataclasses import replace

    task = kit.find("ex01.7")
    blind = replace(task, parts=(kit.Part("blind", 1, lambda f, rng: f(*task.probes(rng)[0])),))
    text = "def largest_rate(H):\n    return 2 / np.linalg.eigvalsh(H)[-1]\n"
    space = {"np": __import__("numpy")}
    exec(text, space)
    made = verify._Measured(blind, space["largest_rate"], "pytorch")
    made.hidden = blind.parts
    made.right([space["largest_rate"]])
    made.wrong()
    made.mutants(text, space, {"a -> b": "no such change"})
    assert made.tally.wrong_accepted == len(task.misconceptions)
    assert made.tally.survivors_unexplained > 0
    assert any("no second right answer" in problem for problem in made.tally.problems)
    assert any("listed as equivalent" in problem for problem in made.tally.problems)


def test_the_mutants_of_a_function_change_every_kind_of_thing():
    text = (
        "def f(a, b, axis=0):\n"
        "    if a > b and not b:\n"
        "        a += 1\n"
        "    return g(a, b, axis=axis) @ b - a\n"
    )
    space = {"g": lambda a, b, axis=0: a}
    changes = [change for change, _ in verify.mutants_of(text, "f", space)]
    for part in ("a >= b", "or not b", "not not b", "a -= 1", "a += 2", "pass", "g(b, a, axis",
                 "g(a, b) @", "b @ g(", "@ b + a", "axis=1", "not (a > b"):  # fmt: skip
        assert any(part in change.partition(" -> ")[2] for change in changes), part
    assert len(changes) == len(set(changes))
