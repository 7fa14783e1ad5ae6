"""How good the graders are: right answers accepted, wrong ones told apart, mutants caught."""

from __future__ import annotations

import ast
import contextlib
import copy
import ctypes
import importlib.util
import io
import linecache
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import source
from .kit import Call, Part, Task, Unwritten, Wrong, evaluate, expect, find

SECONDS = 2.0
MEMORY = 8 * 2**30
SEEDS = (0, 1)


@dataclass
class Tally:
    """Counts over tasks; `problems` names each that should be zero and is not."""

    tasks: set[str] = field(default_factory=set)
    correct_accepted: int = 0
    correct_rejected: int = 0
    wrong_caught: int = 0
    wrong_accepted: int = 0
    wrong_hint: int = 0
    mutants: int = 0
    survivors_unexplained: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add the counts of another set or framework."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, mine | value if name == "tasks" else mine + value)

    def counts(self) -> dict:
        """Return what `tlcourse exercises verify --json` prints."""
        return vars(self) | {"tasks": len(self.tasks)}


def hidden_parts(task: Task, reference) -> tuple[Part, ...]:
    """Return the parts an instructor grades by: the largest also compares with the reference."""
    main = task.main

    def check(f, rng):
        main.check(f, rng)
        for probe in task.probes(rng):
            wanted = Call(reference, task)(*probe)
            try:
                expect(f(*copy.deepcopy(probe)), wanted, "", 1e-5)
            except Unwritten:
                raise
            except Wrong:  # its words would show the inputs and what is expected
                raise Wrong("it is wrong on inputs that you have not seen") from None

    return tuple(replace(p, check=check) if p is main else p for p in task.parts)


WORDS = {
    "tasks": "tasks",
    "correct_accepted": "right answers accepted",
    "correct_rejected": "right answers rejected",
    "wrong_caught": "wrong answers caught",
    "wrong_accepted": "wrong answers accepted",
    "wrong_hint": "wrong answers given another's hint",
    "mutants": "mutants",
    "survivors_unexplained": "mutants that passed without a reason",
}


def table(counts: dict) -> str:
    """Return the counts as a table in Markdown."""
    rows = (f"| {words} | {counts[name]} |" for name, words in WORDS.items())
    return "\n".join(["| what was tried, in both frameworks | how many |", "|---|---|", *rows])


def verify_all(jobs) -> Tally:
    """Sum over (solved, hidden, framework), each in a process of its own, with a progress bar.

    As many at once as there are cores, with one thread each.
    """
    from tqdm.auto import tqdm

    total, fresh = Tally(), multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(
        os.cpu_count(), fresh, _confine, (os.getpid(),), max_tasks_per_child=1
    ) as pool:
        futures = [pool.submit(verify, *job) for job in jobs]
        for future in tqdm(futures, desc="sets and frameworks", disable=len(jobs) < 2):
            total.add(future.result())
    return total


def _confine(parent: int) -> None:
    """Some mutants ask for all memory there is."""
    end_with_parent(parent)
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def end_with_parent(parent: int) -> None:
    """See to it that this process does not outlive the one that started it; on Linux only.

    `parent` is that one's pid. In a container it may be 1.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # too late
            os._exit(1)


def verify(solved, hidden: Path, framework: str) -> Tally:
    """Measure the graders of one set in one framework.

    `solved` is its solution notebook, unexecuted; `hidden` the module with ALTERNATIVES, lists of
    functions by task, and EQUIVALENT, reasons by task and change; both may hold, for a task, one
    entry for each framework.
    """
    os.environ["TLCOURSE_FRAMEWORK"] = framework
    with contextlib.redirect_stdout(io.StringIO()):
        hidden, space, total = load(hidden), run_solution(solved), Tally()
    for task_id, text in source.answers(solved).items():
        task = find(task_id)
        made = _Measured(task, space[task.function], framework)
        made.right([made.reference, *listed_for(framework, hidden.ALTERNATIVES.get(task_id, []))])
        made.wrong()
        made.mutants(text, space, listed_for(framework, hidden.EQUIVALENT.get(task_id, {})))
        total.add(made.tally)
    return total


class _Measured:
    """One task in one framework."""

    def __init__(self, task: Task, reference, framework: str):
        # What a library loads at its first use is not held against the first answer.
        evaluate(task, reference, recognising=False)
        # A wrong answer or a mutant that loops for ever is caught after a shorter while.
        task = replace(task, seconds=min(task.seconds, SECONDS))
        self.task, self.reference = task, reference
        self.where = f"{task.id} ({framework})"
        self.tally = Tally({task.id})
        self.hidden = hidden_parts(task, reference)

    def _problem(self, words: str) -> None:
        self.tally.problems.append(f"{self.where}: {words}")

    def _results(self, function, recognising=True):
        """Public and hidden results under every seed."""
        for seed in SEEDS:
            for parts in (None, self.hidden):
                yield evaluate(self.task, function, seed, parts, recognising)

    def right(self, functions) -> None:
        if len(functions) < 2:
            self._problem("has no second right answer, written differently")
        for function in functions:
            failed = [result.failed for result in self._results(function) if result.failed]
            if failed:
                self.tally.correct_rejected += 1
                self._problem(f"the right answer {function.__name__} is rejected: {failed[0]}")
            else:
                self.tally.correct_accepted += 1

    def wrong(self) -> None:
        def stub(*arguments):
            raise NotImplementedError(self.task.id)

        if not all(result.unwritten for result in self._results(stub)):
            self._problem("the untouched stub is not recognised")
        if len(self.task.misconceptions) < 3:
            self._problem("knows fewer than three wrong answers")
        for known in self.task.misconceptions:
            results = list(self._results(known.wrong))
            if not all(result.failed for result in results):
                self.tally.wrong_accepted += 1
                self._problem(f"“{known.name}” is accepted")
                continue
            self.tally.wrong_caught += 1
            given = {result.misconception for result in results}
            if given != {known}:
                self.tally.wrong_hint += 1
                names = ", ".join(other.name if other else "none" for other in given)
                self._problem(f"“{known.name}” is given the hint of: {names}")

    def mutants(self, text: str, space: dict, equivalent: dict[str, str]) -> None:
        survived = set()
        for change, mutant in mutants_of(text, self.task.function, space):
            self.tally.mutants += 1
            if not any(result.failed for result in self._results(mutant, recognising=False)):
                survived.add(change)
        for change in sorted(survived - equivalent.keys()):
            self.tally.survivors_unexplained += 1
            self._problem(f"a changed answer passes: {change}")
        for change in sorted(equivalent.keys() - survived):
            self._problem(f"listed as equivalent, but it does not pass or is not made: {change}")


def listed_for(framework: str, listed):
    """What is listed for one framework, or for both alike."""
    split = isinstance(listed, dict) and {framework} <= set(listed) <= {"tensorflow", "pytorch"}
    return listed[framework] if split else listed


def load(path: Path):
    """Return the module of a file, such as one in solutions/hidden."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_solution(notebook) -> dict:
    """Run a solution notebook's cells without its checks; return what it defined."""
    space = {"__name__": "solution"}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and not source.CHECKED.search(cell.source):
            exec(compiled(cell.source, f"<solution cell {number}>"), space)
    return space


def compiled(text: str, name: str):
    """Compile text whose lines an error message can quote."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return compile(text, name, "exec")


# --- mutants ------------------------------------------------------------------------------------

SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def mutants_of(text: str, function: str, space: dict):
    """Yield (change, function) for every small change of a function's text.

    `space` holds what the text refers to.
    """
    for number, (change, after) in enumerate(mutant_texts(text)):
        own = dict(space)
        try:
            exec(compiled(after, f"<mutant {number}>"), own)
        except Exception:  # cannot even be defined: nobody would hand it in
            continue
        yield change, own[function]


def mutant_texts(text: str):
    """Yield (change, changed text) for every small change of a text.

    Operators and comparisons are swapped, constants moved, axes among them, arguments swapped or
    left out, conditions turned around, statements dropped.
    """
    tree = ast.parse(text)
    seen = {ast.unparse(tree)}
    for number, node in enumerate(ast.walk(tree)):
        for change in _changes(node):
            mutant = copy.deepcopy(tree)
            place = next(n for k, n in enumerate(ast.walk(mutant)) if k == number)
            change(place)
            ast.fix_missing_locations(mutant)
            after = ast.unparse(mutant)
            if after not in seen:
                seen.add(after)
                yield _difference(ast.unparse(tree), after), after


def _difference(before: str, after: str) -> str:
    """The first line that two texts do not share, as it was and as it is."""
    lines = zip(before.splitlines(), after.splitlines(), strict=False)
    return next(f"{a.strip()} -> {b.strip()}" for a, b in lines if a != b)


def _changes(node):
    """The changes of one node, each as a function that makes it in place."""
    operator = getattr(node, "op", None)
    if type(operator) in SWAPS:
        yield lambda n: setattr(n, "op", SWAPS[type(n.op)]())
    if isinstance(node, ast.BinOp) and isinstance(operator, (ast.MatMult, ast.Sub, ast.Div)):
        yield _swap_sides
    if isinstance(node, ast.Compare):
        yield lambda n: n.ops.__setitem__(0, SWAPS[type(n.ops[0])]())
    if isinstance(node, ast.UnaryOp) and isinstance(operator, (ast.USub, ast.Not, ast.Invert)):
        yield lambda n: setattr(n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else _nothing(n))
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield from _other_constants(node.value)
    if isinstance(node, ast.Call):
        if len(node.args) >= 2:
            yield lambda n: n.args.__setitem__(slice(0, 2), n.args[1::-1])
        for k in range(len(node.keywords)):
            yield lambda n, k=k: n.keywords.pop(k)
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    for block in ("body", "orelse"):
        statements = getattr(node, block, None)
        if isinstance(statements, list) and not isinstance(node, ast.Module):
            for k, statement in enumerate(statements):
                if not _is_text(statement) and not isinstance(statement, ast.FunctionDef):
                    yield lambda n, b=block, k=k: getattr(n, b).__setitem__(k, ast.Pass())


def _nothing(node):
    """Take "not" or "~" away: in Python the double one is nearest to none."""
    node.operand = ast.UnaryOp(type(node.op)(), node.operand)
    return type(node.op)()


def _swap_sides(node) -> None:
    node.left, node.right = node.right, node.left


def _other_constants(value):
    others = [not value] if isinstance(value, bool) else [value + 1, value - 1, -value]
    if isinstance(value, float):
        others.append(value * 10)
    for other in others:
        yield lambda n, other=other: setattr(n, "value", other)


def _is_text(statement) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
