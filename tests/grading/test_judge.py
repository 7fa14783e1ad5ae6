"""The judge says what `check` says, whatever an editor has done to the notebook."""

import json
from pathlib import Path

import nbformat
import pytest

from tlcourse import notebooks
from tlcourse.exercises import source
from tlcourse.grading.judge import Judge, Unreadable, clean, read

ROOT = Path(__file__).parents[2]
SETS = [path for path in notebooks.sources(ROOT) if notebooks.is_exercise(path)]
# In Keras those that build models; the others hand the same arrays to the same functions.
IN_KERAS = {"ex03", "ex04", "ex05", "ex07"}
JOBS = [(path, "pytorch") for path in SETS]
JOBS += [(path, "tensorflow") for path in SETS if path.stem[:4] in IN_KERAS]


@pytest.mark.parametrize(
    ("path", "framework"), JOBS, ids=lambda value: getattr(value, "stem", value)
)
def test_every_set_is_graded_in_the_sandbox(path, framework):
    solved = notebooks.build(path, framework)
    with Judge(path.stem[:4], framework, solved) as judge:
        right = judge.grade(nbformat.writes(solved).encode(), seed=7)
        stub = judge.grade(nbformat.writes(source.cut(solved)).encode(), seed=7)
    assert right.points == right.possible, [task for task in right.tasks if task.failed]
    assert (right.state, right.remarks) == ("graded", [])
    assert (stub.state, stub.points, stub.possible) == ("no submission", 0, right.possible)


@pytest.fixture(scope="module")
def judge(work):
    with Judge("ex01", "pytorch", work.solved) as judge:
        yield judge


def changed(content: bytes, change) -> bytes:
    notebook = json.loads(content)
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    change(notebook)
    return json.dumps(notebook).encode()


def test_a_known_mistake_is_named_with_its_hints(judge, work):
    code = """
def head_gradient(F, W, y):
    import numpy as np
    z = F @ W
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return F.T @ (np.eye(W.shape[1])[y] - e / e.sum(axis=1, keepdims=True)) / len(F)
"""
    first = judge.grade(work(behind=code)).tasks[0]
    assert first.misconception == "points uphill" and first.points == 2
    assert len(first.hints) == 3 and "Which way does the loss go" in first.hints[0]
    assert "equal to finite differences" in first.failed


def test_a_right_answer_written_otherwise_is_right(judge, work):
    code = """
import torch
def head_gradient(F, W, y):
    W = torch.tensor(W, requires_grad=True)
    torch.nn.functional.cross_entropy(torch.tensor(F) @ W, torch.tensor(y)).backward()
    return W.grad
"""
    assert judge.grade(work(behind=code)).tasks[0].points == 4


def test_printing_and_warnings_cost_nothing(judge, work):
    code = """
import sys, warnings
plain = head_gradient
def head_gradient(F, W, y):
    warnings.warn("careful"), print("here"), print("there", file=sys.stderr)
    return plain(F, W, y)
"""
    assert judge.grade(work("all", behind=code)).points == 30


def shuffle(notebook):
    start = notebook["cells"][:6]
    notebook["cells"] = start + notebook["cells"][6:][::-1]


def forget_the_metadata(notebook):
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell.pop("metadata"), cell.pop("id")


def duplicate(notebook):
    notebook["cells"] = [cell for cell in notebook["cells"] for _ in range(2)]


def as_lists(notebook):
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)


def old_format(notebook):
    cells = notebook.pop("cells")
    for cell in cells:
        cell["input"] = cell.pop("source")
    notebook |= {"nbformat": 3, "worksheets": [{"cells": cells}]}


def with_outputs(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 10**6}]


def with_magics(notebook):
    code = "%matplotlib inline\n!pip list\nimport numpy as np"
    notebook["cells"].insert(3, {"cell_type": "code", "metadata": {}, "source": code})
    notebook["cells"].insert(3, {"cell_type": "code", "metadata": {}, "source": "%%bash\nls"})


@pytest.mark.parametrize(
    "change",
    [shuffle, forget_the_metadata, duplicate, as_lists, old_format, with_outputs, with_magics],
)
def test_what_an_editor_does_costs_nothing(change, judge, work):
    grade = judge.grade(changed(work("all"), change))
    assert (grade.state, grade.points) == ("graded", 30)


def test_a_removed_cell_costs_its_task_and_says_so(judge, work):
    def remove(notebook):
        notebook["cells"] = [c for c in notebook["cells"] if "def head_gradient" not in c["source"]]

    grade = judge.grade(changed(work("all"), remove))
    assert grade.points == 26 and grade.tasks[0].state == "not written"
    assert "there is no function head_gradient" in str(grade.tasks[0].failed)


def test_a_cell_with_a_syntax_error_costs_its_task_and_is_quoted(judge, work):
    def spoil(notebook):
        for cell in notebook["cells"]:
            if "def head_gradient" in cell["source"]:
                cell["source"] = "def head_gradient(F, W, y)\n    return F"

    grade = judge.grade(changed(work("all"), spoil))
    assert grade.points == 26
    assert "the cell that defines head_gradient did not run: SyntaxError" in str(grade.tasks[0])


def test_the_other_framework_is_said(judge, work):
    start = "from tlcourse import runtime\nrun = runtime.start('tensorflow', 'smoke', 0)"
    content = work(behind=start)
    assert read(content).framework == "tensorflow"
    assert judge.grade(content).remarks[0] == "the notebook is for tensorflow, not pytorch"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\x00\xff",
        b'{"cells": 3}',
        b'{"cells": [{}]}',
        b'{"cells": [{"cell_type": "code", "source": 3}]}',
        b"[" * 100_000,
        b"GIF89a",
    ],
)
def test_what_is_no_notebook_is_unreadable_and_costs_only_itself(content, judge):
    with pytest.raises(Unreadable):
        read(content)
    grade = judge.grade(content)
    assert (grade.state, grade.points, grade.possible) == ("unreadable", 0, 30)


def test_the_same_submission_gets_the_same_grade_and_variants_differ_in_inputs_only(judge, work):
    some = work("ex01.1", "ex01.4")
    grades = [judge.grade(some, seed) for seed in (5, 5, 6)]
    for grade in grades:
        grade.seconds = 0
        for task in grade.tasks:
            task.seconds = 0
    assert grades[0] == grades[1]
    assert grades[0].points == grades[2].points


def test_words_are_kept_for_the_person_who_marks(work):
    content = work().replace(b"YOUR ANSWER HERE", b"Because it was measured.")
    assert read(content).words == {"open": "Because it was measured."}


def test_text_is_cleaned_of_what_a_terminal_would_obey():
    assert clean("a\x1b[2Jb\x00c\ud800\u202e") == "a [2Jb c? "
