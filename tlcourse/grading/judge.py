"""Grade one notebook: its cells run in the sandbox, its answers are compared here.

The student's process is given inputs, one call at a time, and returns plain data. What is expected,
the inputs still to come and everybody else's work stay on this side. The tasks, their checks and
the mistakes they recognise are those of the notebook's own `check`; the largest part is compared
with the reference too.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import re
import textwrap
import time
from dataclasses import asdict, dataclass, field

from tlcourse.exercises import kit, source, verify

from .sandbox import Ended, Limits, Sandbox

CELL_SECONDS = 60
SUBMISSION_SECONDS = 600
RESTARTS = 10
LARGEST_NOTEBOOK = 50 * 2**20
ANSWERS_IN_WORDS = 5  # are kept, each no longer than this
LETTERS = 20_000
PATIENCE = 3  # a grading machine is busier than a student's
STARTED = re.compile(r"runtime\.start\(\s*[\"'](pytorch|tensorflow)[\"']")
SAID = {
    "crashed": "the process ended while it ran",
    "out of memory": "it needed more memory than a submission may use",
    "sandbox violation": "it answered in a way that no function can",
}


class Unreadable(Exception):
    """The file is no notebook; the message says why."""


@dataclass
class TaskGrade:
    """What came of one task; `failed` maps the name of a part to what was wrong."""

    task: str
    title: str
    points: float
    possible: float
    state: str = "graded"
    failed: dict[str, str] = field(default_factory=dict)
    misconception: str = ""
    hints: list[str] = field(default_factory=list)
    taught: str = ""
    seconds: float = 0.0


@dataclass
class Grade:
    """What came of one notebook, as plain data.

    `state` is graded, partly graded (some tasks ended badly), no submission, unreadable, crashed,
    timed out, out of memory or sandbox violation. `remarks` are the cells that raised an error,
    `words` the answers that a person marks.
    """

    exercise: str
    framework: str
    state: str
    tasks: list[TaskGrade] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    words: dict[str, str] = field(default_factory=dict)

    @property
    def points(self) -> float:
        """The points of all tasks together."""
        return sum(task.points for task in self.tasks)

    @property
    def possible(self) -> float:
        """The points that a perfect answer gets."""
        return sum(task.possible for task in self.tasks)

    def as_dict(self) -> dict:
        """Return it as JSON keeps it."""
        return asdict(self) | {"points": self.points, "possible": self.possible}


@dataclass(frozen=True)
class Notebook:
    """The code of a submission: (number of the cell, source) without the check cells."""

    cells: tuple[tuple[int, str], ...]
    words: dict[str, str]

    @property
    def framework(self) -> str:
        """The framework that the notebook starts, or nothing."""
        found = STARTED.search("\n".join(text for _, text in self.cells))
        return found[1] if found else ""


def read(content: bytes) -> Notebook:
    """Return the code of a notebook, whatever an editor has done to it. Raises Unreadable."""
    if len(content) > LARGEST_NOTEBOOK:
        raise Unreadable(f"the file is larger than {LARGEST_NOTEBOOK >> 20} MB")
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        code, words = [], {}
        for number, cell in enumerate(cells):
            text = cell.get("source", cell.get("input", ""))
            text = text if isinstance(text, str) else "".join(text)
            mark = (cell.get("metadata") or {}).get("nbgrader") or {}
            if cell["cell_type"] == "code" and not source.CHECKED.search(text):
                code.append((number, _python(text)))
            elif cell["cell_type"] != "code" and mark.get("grade"):
                words[str(mark.get("grade_id", "open"))] = text
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Unreadable(f"it is no notebook: {type(error).__name__}: {error}") from None
    return Notebook(tuple(code), words)


def _python(text: str) -> str:
    """Return a cell without the lines that only IPython understands."""
    if text.lstrip().startswith("%%"):
        return ""
    lines = text.split("\n")
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


class Judge:
    """Grades notebooks of one exercise set in one framework; use it with `with`.

    `solved` is the set's solution notebook, unexecuted. Raises NoSandbox.
    """

    def __init__(self, exercise: str, framework: str, solved, limits=None, trusted: bool = False):
        os.environ["TLCOURSE_FRAMEWORK"] = framework
        self.exercise, self.framework = exercise, framework
        tasks = [kit.find(task_id) for task_id in source.answers(solved)]
        code = inspect.getsource(importlib.import_module(f"tlcourse.exercises.{exercise}"))
        code += "\n".join(cell.source for cell in solved.cells if cell.cell_type == "code")
        self.sandbox = Sandbox(framework, limits or Limits(), trusted, code)
        space = verify.run_solution(solved)
        self._tasks = [(task, verify.hidden_parts(task, space[task.function])) for task in tasks]

    def __enter__(self):
        return self

    def __exit__(self, *problem) -> None:
        self.sandbox.__exit__(*problem)

    def grade(self, content: bytes, seed: int = 0) -> Grade:
        """Grade the content of a notebook file; inputs are drawn from the seed. Never raises."""
        began = time.monotonic()
        os.environ["TLCOURSE_FRAMEWORK"] = self.framework  # of the harness and the known mistakes
        try:
            notebook = read(content)
        except Unreadable as refused:
            return self.refused(str(refused))
        with contextlib.closing(_Answers(self.sandbox, notebook)) as answers:
            tasks = [self._one(task, parts, answers, seed) for task, parts in self._tasks]
        remarks = [*answers.remarks]
        if notebook.framework not in ("", self.framework):
            remarks.insert(0, f"the notebook is for {notebook.framework}, not {self.framework}")
        grade = Grade(self.exercise, self.framework, _together(tasks), tasks, remarks)
        written = list(notebook.words.items())[:ANSWERS_IN_WORDS]
        grade.words = {clean(name): clean_lines(text) for name, text in written}
        grade.seconds = time.monotonic() - began
        return grade

    def refused(self, why: str) -> Grade:
        """Return the grade of a file that is no notebook."""
        tasks = [TaskGrade(t.id, t.title, 0, t.points, "unreadable") for t, _ in self._tasks]
        return Grade(self.exercise, self.framework, "unreadable", tasks, [clean(why)])

    def _one(self, task, parts, answers: _Answers, seed: int) -> TaskGrade:
        began = time.monotonic()
        call = _Remote(task, answers)
        result = kit.evaluate(task, call, seed, parts)
        grade = TaskGrade(task.id, task.title, result.points, task.points, taught=task.taught)
        grade.failed = {part: clean(why) for part, why in result.failed.items()}
        grade.state = call.state or ("not written" if result.unwritten else "graded")
        if result.misconception:
            grade.misconception = result.misconception.name
        grade.hints = [hint for hint in kit.hints(result, 3) if hint]
        grade.seconds = time.monotonic() - began
        return grade


def _together(tasks: list[TaskGrade]) -> str:
    """The state of a submission, from those of its tasks."""
    states = {task.state for task in tasks}
    if states <= {"not written"}:
        return "no submission"
    bad = states & {*SAID, "timed out"}
    if not bad:
        return "graded"
    return bad.pop() if len(bad) == 1 and states == bad else "partly graded"


def clean(text: str, letters: int = 1000) -> str:
    """Return text that a terminal, a page and a data base can take: printable, one line."""
    text = text[:letters].encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)


def clean_lines(text: str) -> str:
    """Return text as `clean` does, its line breaks kept, no more of it than a person reads."""
    return "\n".join(clean(line, LETTERS) for line in text[:LETTERS].splitlines())


class _Answers:
    """A student's process with all cells run; started again where a cell or a call ended it."""

    def __init__(self, sandbox: Sandbox, notebook: Notebook):
        self._sandbox, self._notebook = sandbox, notebook
        self._stack, self._session = contextlib.ExitStack(), None
        self._left_out: set[int] = set()
        self._until = time.monotonic() + SUBMISSION_SECONDS
        self._starts = 0
        self._remarks: dict[int, str] = {}

    @property
    def remarks(self) -> list[str]:
        """The cells that did not run to their end."""
        return [f"cell {number + 1}: {why}" for number, why in sorted(self._remarks.items())]

    def why_missing(self, function: str) -> str:
        """What went wrong in the cell that would define a function."""
        for number, text in self._notebook.cells:
            if number in self._remarks and re.search(rf"^\s*def {function}\b", text, re.M):
                return f"the cell that defines {function} did not run: {self._remarks[number]}"
        return ""

    def call(self, seconds: float, **request) -> dict:
        """Return the answer to a call. Raises Ended."""
        if self._session is None:
            self._start()
        try:
            return self._session.ask(self._seconds(seconds), do="call", **request)
        except Ended:
            self.close()
            raise

    def _seconds(self, seconds: float) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise Ended("timed out")
        return min(seconds, left)

    def _start(self) -> None:
        """Run all cells in a fresh process; a cell that ends the process is left out next time."""
        while True:
            self._starts += 1
            if self._starts > RESTARTS:
                raise Ended("crashed")
            self._session = self._stack.enter_context(self._sandbox.session())
            for number, text in self._notebook.cells:
                if number in self._left_out:
                    continue
                try:
                    seconds = self._seconds(CELL_SECONDS)
                    reply = self._session.ask(seconds, do="run", cell=number, source=text)
                except Ended as ended:
                    self._left_out.add(number)
                    self._remarks[number] = ended.state
                    self.close()
                    break
                if "raised" in reply:
                    why = f"{reply['raised']}: {reply.get('said', '')}"
                    self._remarks[number] = clean(why)[:200]
            else:
                return

    def close(self) -> None:
        """End the process; the next call starts another."""
        self._stack.close()
        self._session = None


class _Remote(kit.Call):
    """A function in a student's process; says of it what `check` says in the notebook."""

    def __init__(self, task, answers: _Answers):
        super().__init__(None, task)
        self._answers, self.state = answers, ""
        self._request = {"function": task.function, "harness": "", "harness_name": ""}
        if self.harness:
            self._request["harness"] = textwrap.dedent(inspect.getsource(self.harness))
            self._request["harness_name"] = self.harness.__name__

    def __call__(self, *inputs):
        if self.state in SAID:
            raise kit.Wrong(f"it was not tried: {SAID[self.state]} before")
        if self.timed_out:
            raise kit.Wrong("it was not tried, since it ran too long before")
        try:
            seconds = PATIENCE * self.task.seconds
            reply = self._answers.call(seconds, inputs=list(inputs), **self._request)
        except Ended as ended:
            self.state = ended.state
            if ended.state == "timed out":
                raise self.too_long(inputs) from None
            raise kit.Wrong(f"{self._shown(inputs)}: {SAID[ended.state]}") from None
        return self._read(reply, inputs)

    def _read(self, reply: dict, inputs):
        if "output" in reply:
            return kit.plain(reply["output"])
        if "unwritten" in reply:
            raise kit.Unwritten("it is not written yet")
        if "undefined" in reply:
            why = self._answers.why_missing(self.task.function)
            if not why:
                raise kit.Unwritten(f"there is no function {self.task.function} in the notebook")
            raise kit.Wrong(why)
        if "changed" in reply:
            raise self.changed(str(reply["changed"]))
        if "raised" in reply:
            said = [str(reply.get(key, "")) for key in ("raised", "said", "line")]
            raise self.raised(inputs, *said)
        kind = str(reply.get("kind", "thing"))
        raise kit.Wrong(f"it returns a {kind}; expected numbers, text or arrays of them")
