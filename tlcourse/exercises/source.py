"""From the source of an exercise set to its solution notebook and the one that learners get.

In solutions/source/exNN_title.py a function to be written holds its answer between the two marks
of nbgrader; the cell behind it is check("exNN.K", function). Cells tagged "solution" are left out
of the learner's notebook; a markdown cell tagged "open" is answered in words, marked by a person.
"""

import copy
import re

from .kit import find

ANSWER = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION\n?", re.M | re.S)
CHECKED = re.compile(r'^check\("(ex\d\d\.\d+)", \w+\)$', re.M)
OPEN_POINTS = 5


def add_marks(cells) -> None:
    """Give the cells of a set what nbgrader keeps in their metadata, in place.

    Raises ValueError for an answer without a check behind it or a task unknown to the package.
    """
    waiting = None
    for cell in cells:
        checked = CHECKED.search(cell.source) if cell.cell_type == "code" else None
        if cell.cell_type == "code" and ANSWER.search(cell.source):
            if waiting:
                raise ValueError(f"no check follows the answer: {waiting.source[:60]!r}")
            waiting = cell
        elif checked:
            if waiting is None:
                raise ValueError(f"no answer stands before {checked[0]}")
            name = checked[1].replace(".", "-")
            _mark(waiting, name, solution=True)
            _mark(cell, f"{name}-check", grade=True, locked=True, points=find(checked[1]).points)
            waiting = None
        elif "open" in cell.metadata.get("tags", []):
            _mark(cell, "open", grade=True, solution=True, points=OPEN_POINTS)
    if waiting:
        raise ValueError(f"no check follows the answer: {waiting.source[:60]!r}")


def _mark(cell, name: str, *, grade=False, solution=False, locked=False, points=None) -> None:
    cell.metadata["nbgrader"] = {
        "grade": grade,
        "grade_id": name,
        "locked": locked,
        "schema_version": 3,
        "solution": solution,
        "task": False,
    }
    if points is not None:
        cell.metadata["nbgrader"]["points"] = points


def cut(solved):
    """Return the learner's notebook: answers taken out, nothing executed."""
    notebook = copy.deepcopy(solved)
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            task = marks.get("grade_id", "").replace("-", ".")
            cell.source = ANSWER.sub(rf'\1raise NotImplementedError("{task}")\n', cell.source)
            cell.source = cell.source.rstrip("\n")
        elif marks.get("solution"):
            cell.source = "YOUR ANSWER HERE"
    return notebook


def answers(solved) -> dict[str, str]:
    """Return the source of every function that is asked for, by the id of its task."""
    found = {}
    for cell in solved.cells:
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and marks.get("solution"):
            found[marks["grade_id"].replace("-", ".")] = cell.source
    return found
