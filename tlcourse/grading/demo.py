"""A made-up class that hands in an exercise set: right, wrong, late, copied, broken.

Nothing is executed, and the same seed gives the same files.
"""

import ast
import copy
import csv
import inspect
import os
import random
import re
from datetime import datetime
from pathlib import Path

from tlcourse import notebooks
from tlcourse.exercises import kit, source, verify

NAMES = ("ada", "ben", "chloé", "dai", "eva", "femi", "hugo", "ines", "kofi", "lea", "noor", "zoë")
FIRST_NUMBER = 4701
DEADLINE = datetime(2026, 6, 1, 12)
HOUR = 3600  # seconds
# What is the matter with a submission, in the order in which a growing class gets them.
TROUBLES = ("", "copied", "copy", "unreadable", "late", "crash", "duplicate", "stub", "loop")
BROKEN = {"crash": "import os\n\n    os.abort()", "loop": "while True:\n        pass"}
WORDS = (
    "I would not give up: a large distance counts every difference between the inputs.\n\n"
    "I would label some dozens of target examples and give the accuracy with an interval.",
    "The bound is an upper one, so a large distance says nothing. Measure it.",
    "= it depends on the labels, which we do not have",
    "They are right, the domains are too far apart.",
    "YOUR ANSWER HERE",
)
COURSE = """[deadlines]
{exercise} = {deadline:%Y-%m-%dT%H:%M:%S}

[late]
percent_a_day = 10
days = 3
"""


def make(out: Path, students: int, exercise: str = "ex01", seed: int = 0) -> None:
    """Write submissions/, students.csv and course.toml into a new folder.

    Raises ValueError for a folder that holds something, or an unknown exercise.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: name a new folder with --out")
    (path,) = notebooks.find([exercise], notebooks.project_root())
    if not notebooks.is_exercise(path):
        raise ValueError(f"{exercise} is no exercise set: those are called ex01, ex02 and so on")
    work, rng = _Set(path), random.Random(seed)
    troubles = [*TROUBLES, *[""] * students][:students]
    rng.shuffle(troubles)
    shared = work.answers(rng, 0.7), WORDS[0]
    ids = [f"{NAMES[k % len(NAMES)]}_{FIRST_NUMBER + k}" for k in range(students)]
    for student, trouble in zip(ids, troubles, strict=True):
        skill = rng.choice((0.6, 0.8, 0.95))
        own = work.answers(rng, skill), rng.choice(WORDS)
        content = work.notebook(*(shared if trouble in ("copied", "copy") else own), trouble)
        file = out / "submissions" / student / f"{path.stem}.ipynb"
        file.parent.mkdir(parents=True)
        file.write_bytes(content[: len(content) // 2] if trouble == "unreadable" else content)
        hours = 60 if trouble == "late" else -rng.randrange(1, 100)
        when = DEADLINE.timestamp() + HOUR * hours
        os.utime(file, (when, when))
    with (out / "students.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(student, "48" if k == 0 else "", "") for k, student in enumerate(ids)]
        csv.writer(file).writerows([("id", "extra_hours", "group"), *rows])
    made = COURSE.format(exercise=path.stem.partition("_")[0], deadline=DEADLINE)
    (out / "course.toml").write_text(made, "utf-8")


class _Set:
    """An exercise set: its empty notebook, and right and wrong answers by task, as text."""

    def __init__(self, path: Path, framework: str = "pytorch"):
        os.environ["TLCOURSE_FRAMEWORK"] = framework
        solved = notebooks.build(path, framework)
        hidden = verify.load(path.parents[1] / "hidden" / f"{path.stem.partition('_')[0]}.py")
        self.empty, self.right, self.mutants, self.known = source.cut(solved), {}, {}, {}
        for name, text in source.answers(solved).items():
            task = kit.find(name)
            others = verify.listed_for(framework, hidden.ALTERNATIVES.get(name, []))
            fine = verify.listed_for(framework, hidden.EQUIVALENT.get(name, {}))
            known = [verify.listed_for(framework, m.wrong) for m in task.misconceptions]
            reference = re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", text, flags=re.M).rstrip()
            self.right[name] = [reference, *_alone(others, task.function)]
            changed = verify.mutant_texts(text)
            self.mutants[name] = [text for change, text in changed if change not in fine]
            self.known[name] = _alone(known, task.function)

    def answers(self, rng: random.Random, skill: float) -> dict[str, str]:
        """Return what a student writes: right with this probability, else wrong or nothing."""
        written = {}
        for name, right in self.right.items():
            wrong = rng.choice([self.mutants[name], self.known[name] or self.mutants[name]])
            if rng.random() < skill:
                written[name] = rng.choice(right)
            elif rng.random() < 0.8:
                written[name] = rng.choice(wrong)
        return written

    def notebook(self, answers: dict[str, str], words: str, trouble: str) -> bytes:
        """Return the notebook with these answers and what is the matter with it."""
        notebook = copy.deepcopy(self.empty)
        for place, cell in reversed(list(enumerate(notebook.cells))):
            mark = cell.metadata.get("nbgrader", {})
            name = mark.get("grade_id", "").replace("-", ".")
            first = name == next(iter(self.right))
            if name == "open":
                cell.source = words
            elif first and trouble in BROKEN:
                cell.source = re.sub(r"raise NotImpl.*", BROKEN[trouble], cell.source)
            elif trouble != "stub" and name in answers:
                cell.source = answers[name]
            if first and trouble == "copy":
                cell.source += "\n# my own work"
            if first and trouble == "duplicate":
                notebook.cells.insert(place, copy.deepcopy(cell))
                cell.id = "pasted"
        return notebooks.as_text(notebook).encode()


def _alone(functions, name: str) -> list[str]:
    """Return the texts of those functions that need nothing but imports, under a student's name."""
    texts = []
    for function in functions:
        if function.__closure__ or function.__name__ == "<lambda>":
            continue
        text = inspect.getsource(function)
        tree = ast.parse(Path(inspect.getsourcefile(function)).read_text("utf-8"))
        used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        imports, offered = [], {function.__name__}
        for line in tree.body:
            if isinstance(line, ast.Import | ast.ImportFrom) and not getattr(line, "level", 0):
                names = {alias.asname or alias.name for alias in line.names}
                offered |= names
                imports += [ast.unparse(line)] if names & used else []
        if used & function.__globals__.keys() <= offered:
            text = re.sub(rf"\b{function.__name__}\b", name, text).rstrip()
            texts.append("\n".join([*imports, *[""] * (2 * bool(imports)), text]))
    return texts
