"""Tasks that answer at once and recognise the mistake that was made.

A task is data. Its parts are checks on the learner's function, each worth points; its
misconceptions are wrong functions that people really write. A mistake is recognised by what a
function does: where it gives what a recorded wrong one gives, on the same inputs, its hint is
shown. No solution is needed for that, and none is installed.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import html
import importlib
import inspect
import io
import linecache
import os
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tlcourse import evidence, progress

PLAIN = (bool, int, float, str, bytes, type(None))


class Wrong(Exception):
    """An answer that a check refuses; the message says on which input, what came, what should."""


class Unwritten(Wrong):
    """The function still raises NotImplementedError."""


@dataclass(frozen=True, eq=False)
class Misconception:
    """A wrong solution that people write: `wrong` does what they do.

    `look` says where to look, `why` why it is wrong; neither gives the code. Where a framework is
    involved, `wrong` holds one function for each.
    """

    name: str
    wrong: Callable | dict[str, Callable]
    look: str
    why: str


@dataclass(frozen=True)
class Part:
    """What is asked of the function f, for so many points: `check(f, rng)` raises Wrong."""

    name: str
    points: float
    check: Callable


@dataclass(frozen=True)
class Task:
    """One graded task.

    `function` is the name the learner's function has, `taught` the place that teaches it
    ("01#The update"). `probes(rng)` returns inputs, tuples of arguments, on which a function is
    compared with the wrong ones. `harness(f, *inputs)`, where there is one, calls f and returns
    plain data, such as the flags of a model; its source has to run on its own. Like `wrong` it may
    be one function for each framework.
    """

    id: str
    title: str
    function: str
    taught: str
    parts: tuple[Part, ...]
    probes: Callable
    misconceptions: tuple[Misconception, ...]
    harness: Callable | dict[str, Callable] | None = None
    seconds: float = 5.0

    @property
    def points(self) -> float:
        """The points of all parts together."""
        return sum(part.points for part in self.parts)

    @property
    def main(self) -> Part:
        """The largest part; it says whether the function does what it is for."""
        return max(self.parts, key=lambda part: part.points)


@dataclass
class Result:
    """What came of one check: `failed` maps the name of a part to what was wrong."""

    task: Task
    failed: dict[str, str] = field(default_factory=dict)
    misconception: Misconception | None = None
    unwritten: bool = False
    error: str = ""

    @property
    def points(self) -> float:
        """The points of the parts that passed."""
        return sum(part.points for part in self.task.parts if part.name not in self.failed)


class Points(float):
    """The points a check gave; as the last line of a cell nbgrader takes them for its own."""


# --- calling what a learner wrote ---------------------------------------------------------------


class Call:
    """A learner's function, called with copies, within a time limit and without its printing.

    The judge calls one in another process: grading/judge.py.
    """

    def __init__(self, function, task: Task):
        self.function, self.task = native(function), task
        self.harness = native(task.harness)
        self.trace, self.timed_out = "", False

    def __call__(self, *inputs):
        """Return what the function makes of the inputs as plain data; raise Wrong if it cannot."""
        if self.timed_out:  # once is enough to wait
            raise Wrong("it was not tried, since it ran too long before")
        given, kept = copy.deepcopy(inputs), copy.deepcopy(inputs)
        try:
            with quiet(), limited(self.task.seconds):
                if self.harness:
                    output = self.harness(self.function, *given)
                else:
                    output = self.function(*given)
                output = plain(output)
        except NotImplementedError:
            raise Unwritten("it is not written yet") from None
        except Wrong:
            raise
        except TimeIsUp:
            raise self.too_long(inputs) from None
        except (Exception, SystemExit) as error:
            self.trace = traceback.format_exc()
            line = _where(error, self.function)
            raise self.raised(inputs, type(error).__name__, str(error), line) from None
        names = _names(self.harness)[1:] if self.harness else _names(self.function)
        for name, before, after in zip(names, kept, given, strict=False):
            if not alike(_or_none(before), _or_none(after), 0):
                raise self.changed(name)
        return output

    def too_long(self, inputs) -> Wrong:
        """What to say of a call that was stopped."""
        self.timed_out = True
        return Wrong(
            f"{self._shown(inputs)} ran longer than {self.task.seconds:g} seconds and was "
            "stopped: is there a loop that never ends?"
        )

    def raised(self, inputs, kind: str, said: str, line: str) -> Wrong:
        """What to say of an exception, and of the line of the learner's code it came from."""
        where = f", in the line: {line}" if line else ""
        nothing = " (does your function return something?)" if "NoneType" in said else ""
        return Wrong(f"{self._shown(inputs)} raised {kind}: {_short(said)}{where}{nothing}")

    def changed(self, name: str) -> Wrong:
        """What to say where a function writes into what it was given."""
        return Wrong(f"it changes its input {name}: work on a copy, others use it too")

    def _shown(self, inputs) -> str:
        if self.harness:  # its inputs are not those that the function was given
            return self.task.function
        return f"{self.task.function}({', '.join(show(value) for value in inputs)})"


def native(function):
    """Return the function for the framework of this process where there is one for each."""
    if not isinstance(function, dict):
        return function
    framework = os.environ.get("TLCOURSE_FRAMEWORK")
    if framework not in function:
        raise ValueError("which framework is it? Run the cell with runtime.start first")
    return function[framework]


class TimeIsUp(BaseException):
    """What ran inside `limited` took too long."""


@contextlib.contextmanager
def limited(seconds: float):
    """End what runs inside after so many seconds, in the main thread; elsewhere there is no way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    done, over = threading.Event(), threading.Event()

    def watch():
        wait = seconds
        while not done.wait(wait):
            over.set()
            _thread.interrupt_main()
            wait = 0.2  # and again, should an "except:" have swallowed it

    clock = threading.Thread(target=watch, daemon=True)
    clock.start()
    try:
        yield
    except KeyboardInterrupt:
        if over.is_set():
            raise TimeIsUp from None
        raise
    finally:
        done.set()
        clock.join()
        # An interrupt on its way at the very end belongs to nobody.
        with contextlib.suppress(KeyboardInterrupt):
            if over.is_set():
                time.sleep(0.02)


@contextlib.contextmanager
def quiet():
    """Swallow what is printed and warned inside."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield


def _names(function) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _where(error, function) -> str:
    """The last line of the learner's own code that the error passed through."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return linecache.getline(file, lines[-1]).strip() if lines else ""


def plain(value):
    """Return numbers, strings and arrays, also inside lists and dicts; tensors become arrays.

    Raises Wrong for anything else.
    """
    if isinstance(value, np.generic):  # before the plain ones: np.float64 is a float
        return value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if isinstance(value, np.ndarray) or hasattr(value, "numpy"):
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype.kind in "biufU":
            return array
    raise Wrong(f"it returns a {type(value).__name__}; expected numbers, text or arrays of them")


def _or_none(value):
    """An input as plain data; a model or a tokenizer, which is none, is left to the checks."""
    try:
        return plain(value)
    except Wrong:
        return None


# --- comparing ----------------------------------------------------------------------------------


def alike(a, b, tolerance: float = 1e-6) -> bool:
    """Whether two plain values are the same, numbers up to an absolute and relative tolerance."""
    if isinstance(a, dict) or isinstance(b, dict):
        same_keys = isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys()
        return same_keys and all(alike(a[key], b[key], tolerance) for key in a)
    try:
        x, y = np.asarray(a), np.asarray(b)
    except ValueError:  # lists of unequal length inside
        x = y = None
    if x is None or "O" in (x.dtype.kind, y.dtype.kind):
        if not (isinstance(a, list) and isinstance(b, list)):
            return a is None and b is None
        return len(a) == len(b) and all(map(alike, a, b, [tolerance] * len(a)))
    if x.shape != y.shape:
        return False
    if x.dtype.kind in "US" or y.dtype.kind in "US":
        return x.dtype.kind == y.dtype.kind and bool((x == y).all())
    return bool(np.allclose(x, y, tolerance, tolerance, equal_nan=True))


def show(value) -> str:
    """Return a value in few words, an array with its shape."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.size > 12:
        return f"array of shape {value.shape}"
    text = (
        np.array2string(value, precision=4, separator=", ")
        if isinstance(value, np.ndarray)
        else repr(value)
    )
    return _short(text)


def _short(text: str, length: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def expect(got, wanted, what: str, tolerance: float = 1e-6) -> None:
    """Raise Wrong unless `got` is `wanted`; `what` says what it is and on which input."""
    if alike(got, wanted, tolerance):
        return
    if isinstance(wanted, np.ndarray) and isinstance(got, (np.ndarray, list)):
        try:
            shape = np.shape(got)
        except ValueError:
            shape = "lists of unequal length"
        if shape != wanted.shape:
            raise Wrong(f"{what}: expected shape {wanted.shape}, got {shape}")
        if wanted.size > 12 and wanted.dtype.kind in "biuf":
            raise Wrong(f"{what}: {_first_difference(np.asarray(got), wanted, tolerance)}")
    raise Wrong(f"{what}: expected {show(wanted)}, got {show(got)}")


def _first_difference(got, wanted, tolerance: float) -> str:
    differ = ~np.isclose(got, wanted, tolerance, tolerance, equal_nan=True)
    place = tuple(int(k) for k in np.argwhere(differ)[0])
    return (
        f"{np.mean(differ):.0%} of the numbers differ; at {place} expected {wanted[place]:.6g}, "
        f"got {got[place]:.6g}"
    )


def require(holds, message: str) -> None:
    """Raise Wrong with this message unless `holds`."""
    if not holds:
        raise Wrong(message)


# --- one check ----------------------------------------------------------------------------------


def evaluate(task: Task, function, seed: int = 0, parts=None, recognising=True) -> Result:
    """Check a function, or a Call of one; `parts` replaces the public ones by hidden ones.

    Inputs are drawn from the seed. Never raises for what the function does. Recognising a mistake
    takes most of the time and can be left out. A function that fails the largest part and does
    nothing at all gets no points for the others.
    """
    result = Result(task)
    call = function if isinstance(function, Call) else Call(function, task)
    for number, part in enumerate(parts or task.parts):
        try:
            with np.errstate(all="ignore"):
                part.check(call, np.random.default_rng((seed, number)))
        except Unwritten as refused:
            result.unwritten = True
            result.failed[part.name] = str(refused)
        except Wrong as refused:
            result.failed[part.name] = str(refused)
        except Exception as error:
            # The check tried to use an answer of another kind, such as None or a list of words.
            result.failed[part.name] = f"the answer cannot be used as asked for: {error}"
    result.error = call.trace
    if result.failed and not result.unwritten and not call.timed_out:
        with contextlib.suppress(Exception):  # an answer that cannot even be compared
            made = [_outcome(call, probe) for probe in _probes(task, seed)]
            if task.main.name in result.failed:
                _take_from_the_idle(result, made, seed)
            if recognising:
                result.misconception = _recognised(task, made, seed)
    return result


def _probes(task: Task, seed: int) -> list[tuple]:
    return task.probes(np.random.default_rng((seed, len(task.parts))))


def _recognised(task: Task, made: list, seed: int) -> Misconception | None:
    """Return the misconception whose function does the same as this one on all probes, if any."""
    for known in task.misconceptions:
        wrong = Call(known.wrong, task)
        probes = _probes(task, seed)
        if all(alike(m, _outcome(wrong, p), 1e-5) for m, p in zip(made, probes, strict=True)):
            return known
    return None


def _take_from_the_idle(result: Result, made: list, seed: int) -> None:
    """Give no part to a function that does nothing, or gives the same whatever it is given.

    Some parts ask for things that are also true of nothing at all, such as "it is finite".
    """
    nothing = Call(lambda *_: None, result.task)
    idle = [_outcome(nothing, probe) for probe in _probes(result.task, seed)]
    same = len(made) > 1 and all(alike(made[0], m) for m in made)
    if same or all(map(alike, made, idle)):
        for part in result.task.parts:
            result.failed.setdefault(part.name, "it does the same whatever it is given")


def _outcome(call: Call, probe):
    """What a call gives, or in what way it fails; the words of an error are the writer's own."""
    try:
        return call(*probe)
    except Unwritten:
        return "unwritten"
    except Wrong as refused:
        kinds = ("changes its input", "ran longer", "returns a", "raised")
        return f"refused: {next((kind for kind in kinds if kind in str(refused)), '')}"


def find(task_id: str) -> Task:
    """Return a task by its id, such as "ex04.2". Raises ValueError where there is none."""
    name, _, _ = str(task_id).partition(".")
    tasks = _tasks(name)
    for task in tasks:
        if task.id == task_id:
            return task
    known = ", ".join(task.id for task in tasks) or "ids look like ex04.2"
    raise ValueError(f"there is no task {task_id!r}: {known}")


def _tasks(name: str) -> tuple[Task, ...]:
    try:
        return importlib.import_module(f"tlcourse.exercises.{name}").TASKS
    except (ModuleNotFoundError, AttributeError):
        return ()


# Of this kernel: a further failure brings the next hint; what is solved counts without a record.
_failures, _solved = Counter(), set()


def check(task_id: str, function, *, traceback: bool = False) -> Points:
    """Check a function against its task, show what came of it and return the points.

    What is shown: the parts that passed and failed, and a hint that grows with repeated failure.
    `traceback=True` shows where an error of the function came from.
    """
    task = find(task_id)
    if not callable(function):
        raise ValueError(
            f"check({task_id!r}, …) takes the function {task.function} itself, without brackets "
            f"behind its name; this is {type(function).__name__}"
        )
    result = evaluate(task, function, _variant())
    if result.failed and not result.unwritten:
        _failures[task_id] += 1
    if not result.unwritten:
        known = result.misconception.name if result.misconception else None
        progress.record("exercise", task_id, result.points, task.points, misconception=known)
    if not result.failed:
        _solved.add(task_id)
    evidence.show_bundle(*_words(result, _failures[task_id]))
    if traceback and result.error:
        print(result.error)
    return Points(result.points)


def _variant() -> int:
    """The number that an instructor gave this learner, 0 without one."""
    file = Path("variant.txt")  # beside the notebook
    written = file.read_text("utf-8-sig", errors="replace") if file.is_file() else "0"
    given = (os.environ.get("TLCOURSE_VARIANT") or written).strip()
    if not given.isdecimal():
        raise ValueError(
            f"a variant is a whole number, not {given[:40]!r}: correct {file} or TLCOURSE_VARIANT"
        )
    return int(given)


def hints(result: Result, failures: int) -> list[str]:
    """Return the hints that so many failures have earned, the mildest first."""
    if not result.failed or result.unwritten:
        return []
    known, (notebook, _, section) = result.misconception, result.task.taught.partition("#")
    taught = f"It is taught in notebook {notebook}, under “{section}”."
    return ([known.look, known.why, taught] if known else ["", taught])[:failures]


def _standing(name: str) -> str:
    recorded = {e.item for e in progress.events("exercise") if e.points == e.possible}
    ids = {task.id for task in _tasks(name)}
    return f"Solved in {name}: {len(ids & (recorded | _solved))} of {len(ids)} tasks."


def _words(result: Result, failures: int) -> tuple[str, str]:
    task = result.task
    symbol, edge = ("✔", "#009E73") if not result.failed else ("✘", "#D55E00")
    if result.unwritten:
        symbol, edge = "○", "#888888"
    head = f"{symbol} {task.id} {task.title}: {result.points:g} of {task.points:g} points"
    lines = []
    for part in task.parts:
        reason = result.failed.get(part.name)
        mark, tail = ("✘", f": {reason}") if reason else ("✔", "")
        lines.append(f"{mark} {part.name} ({part.points:g}){tail}")
    if result.unwritten:
        lines = [f"{task.function} is not written yet: put your code in place of the last line"]
    said = [f"Hint: {hint}" for hint in hints(result, failures) if hint]
    if not result.failed:
        said = [_standing(task.id.partition(".")[0])]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    asides = "".join(f"<p style='margin:4px 0'>{html.escape(hint)}</p>" for hint in said)
    as_html = (
        f'<div role="status" style="border:1px solid {edge};border-left-width:5px;color:inherit;'
        'border-radius:3px;padding:4px 10px;margin:4px 0;max-width:52em">'
        f"<strong>{html.escape(head)}</strong>"
        f'<ul style="list-style:none;padding-left:0;margin:4px 0">{items}</ul>{asides}</div>'
    )
    return as_html, "\n".join([head, *("  " + line for line in lines), *said])
