"""How long does grading take, beside the two known graders?

Each grades the same class on the same machine, in one run, with one thread a process:

    ours        tlcourse grade: sandbox on, two processes
    nbgrader    nbgrader autograde on the notebooks that the course generates; one process
    otter       otter.api.grade_submission for each notebook in one process; its test files call
                the same checks, one case for each part of a task

The class is made from an exercise set: ex01, which needs NumPy alone, and ex04 in PyTorch and in
Keras. Some answers are right, some are mistakes that people make, some are not written. A command
is timed from its start to its end. Ours runs first and finds no file in memory. Seconds are for a
submission, so that the slow graders may be given fewer (--peers). If two graders give a task
different points, the comparison is worthless, and there is none.

nbgrader stands where `make test` puts it. otter-grader is installed into build/otter the first
time: an environment of its own, which sees the course's packages behind its own. What is measured
is kept in build/grading until the run is complete: interrupted, it goes on where it was.

Example: python benchmarks/grading.py --json
"""

import argparse
import copy
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import time
import venv
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from importlib import metadata
from pathlib import Path

import nbformat
import psutil
import record
from tqdm.auto import tqdm

from tlcourse import notebooks
from tlcourse.exercises import kit, source
from tlcourse.grading.gradebook import Gradebook

ROOT = Path(__file__).resolve().parents[1]
WORK, OTTER, NBGRADER = ROOT / "build/grading", ROOT / "build/otter", Path(sys.prefix, "nbgrader")
OTTER_GRADER = "otter-grader[grading]==7.0.0"
SETS = {
    "numpy": ("ex01", "pytorch"),
    "pytorch": ("ex04", "pytorch"),
    "keras": ("ex04", "tensorflow"),
}
PROCESSES = 2
CLASSES = (100, 1000, 5000)  # for --memory
MISTAKES = {  # in an answer, (what is right, what somebody wrote)
    "ex01.1": ("return F.T @ p / len(y)", "return F.T @ p"),
    "ex01.2": ("theta - rate", "theta + rate"),
    "ex01.3": ("np.where(head, 0, theta_pre)", "0"),
    "ex01.5": ("2 * (1 - 2 * np.mean(errors))", "1 - 2 * np.mean(errors)"),
    "ex01.7": ("2 / np", "1 / np"),
    "ex04.1": ("(images / 255 - 0.498) / 0.502", "images / 255"),
    "ex04.2": ("(d + 1) * classes", "d * classes"),
    "ex04.6": ("np.argsort(-similar)", "np.argsort(similar)"),
}
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TLCOURSE_PROGRESS": "off",
}


def solved_and_stub(name: str):
    exercise, framework = SETS[name]
    (path,) = notebooks.find([exercise], ROOT)
    solved = notebooks.build(path, framework)
    return solved, source.cut(solved)


def hand_in(name: str, students: int, place) -> None:
    """Write each student's notebook to place(student); the same set gives the same class."""
    solved, stub = solved_and_stub(name)
    answers = source.answers(solved)
    for number in range(students):
        dice, notebook = random.Random(number), copy.deepcopy(stub)
        for cell in notebook.cells:
            task = cell.metadata.get("nbgrader", {}).get("grade_id", "").replace("-", ".")
            if task in answers:
                right, wrong = answers[task], answers[task].replace(*MISTAKES.get(task, ("", "")))
                cell.source = dice.choices([right, wrong, cell.source], (70, 20, 10))[0]
        path = place(f"student{number:04}")
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)


# --- the graders: each returns seconds and the points of each student and task ------------------


def ours(name: str, students: int, folder: Path, watch=None) -> tuple[float, dict]:
    exercise, framework = SETS[name]
    hand_in(name, students, lambda student: folder / "class" / student / f"{exercise}.ipynb")
    command = [sys.executable, "-c", "from tlcourse.cli import main; main()", "grade", "class"]
    command += ["--gradebook", "grades.db", "--framework", framework, "--jobs", str(PROCESSES)]

    def finished() -> int:
        try:
            with closing(sqlite3.connect(f"file:{folder}/grades.db?mode=ro", uri=True)) as book:
                return book.execute("SELECT COUNT(*) FROM grades").fetchone()[0]
        except sqlite3.Error:  # it is not there yet
            return 0

    seconds = timed(command, folder, finished, students, watch=watch)
    grades = Gradebook(folder / "grades.db").rows()
    return seconds, {
        row["student"]: {task["task"]: task["points"] for task in row["detail"]["tasks"]}
        for row in grades
    }


NBGRADER_POINTS = """
import json, sys
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as gradebook:
    print(json.dumps({
        submission.student.id: {grade.name: grade.score for grade in notebook.grades}
        for submission in gradebook.assignment_submissions(sys.argv[1])
        for notebook in submission.notebooks
    }))
"""


def nbgrader(name: str, students: int, folder: Path) -> tuple[float, dict]:
    exercise = SETS[name][0]
    path = folder / "source" / exercise / f"{exercise}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(solved_and_stub(name)[0], path)
    shutil.copy(ROOT / "solutions" / "nbgrader_config.py", folder)
    hand_in(name, students, lambda who: folder / "submitted" / who / exercise / path.name)
    environment = ENVIRONMENT | {
        "PYTHONPATH": str(NBGRADER),
        "PATH": os.pathsep.join([str(NBGRADER / "bin"), os.environ["PATH"]]),  # it calls alembic
    }
    command = [sys.executable, "-c", "from nbgrader.apps.nbgraderapp import main; main()"]
    timed([*command, "generate_assignment", exercise], folder, environment=environment)
    command += ["autograde", exercise]
    finished = partial(count, folder, "autograded/*")
    seconds = timed(command, folder, finished, students, environment)
    command = [sys.executable, "-c", NBGRADER_POINTS, exercise]
    points = json.loads(subprocess.check_output(command, cwd=folder, env=environment))
    tasks = re.compile(r"(ex\d\d)-(\d+)-check")
    return seconds, {
        who: {f"{m[1]}.{m[2]}": p for grade, p in got.items() if (m := tasks.fullmatch(grade))}
        for who, got in points.items()
    }


OTTER_PROGRAM = """
import json, pathlib
from otter.api import grade_submission
for path in sorted(pathlib.Path("class").glob("*.ipynb")):
    found = grade_submission(str(path), "autograder.zip", quiet=True).results
    points = {name: test.score for name, test in found.items()}
    path.with_suffix(".json").write_text(json.dumps(points))
"""
OTTER_FIRST = ">>> from tlcourse.exercises.kit import evaluate, find\n>>> {f}.result = evaluate(find({id!r}), {f})\n"  # noqa: E501  # fmt: skip
OTTER_PART = ">>> {part!r} in {f}.result.failed\nFalse\n"


def otter(name: str, students: int, folder: Path) -> tuple[float, dict]:
    tests = folder / "autograder" / "tests"
    tests.mkdir(parents=True)
    for task_id in source.answers(solved_and_stub(name)[0]):
        task = kit.find(task_id)
        code = [OTTER_PART.format(part=part.name, f=task.function) for part in task.parts]
        code[0] = OTTER_FIRST.format(f=task.function, id=task_id) + code[0]  # once for all parts
        cases = [{"code": c, "points": p.points} for c, p in zip(code, task.parts, strict=True)]
        test = {"name": task_id, "suites": [{"cases": cases, "type": "doctest"}]}
        (tests / f"{task_id}.py").write_text(f"OK_FORMAT = True\ntest = {test!r}\n")
    (tests.parent / "otter_config.json").write_text('{"lang": "python"}')
    shutil.make_archive(str(tests.parent), "zip", tests.parent)
    hand_in(name, students, lambda student: folder / "class" / f"{student}.ipynb")
    for path in (folder / "class").iterdir():  # or every check would run twice
        notebook = nbformat.read(path, 4)
        notebook.cells = [cell for cell in notebook.cells if not source.CHECKED.search(cell.source)]
        nbformat.write(notebook, path)
    python = str(OTTER / "bin" / "python")
    finished = partial(count, folder, "class/*.json")
    environment = ENVIRONMENT | {"TLCOURSE_FRAMEWORK": SETS[name][1]}
    seconds = timed([python, "-c", OTTER_PROGRAM], folder, finished, students, environment)
    return seconds, {p.stem: json.loads(p.read_text()) for p in (folder / "class").glob("*.json")}


def count(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))


GRADERS = {"ours": ours, "nbgrader": nbgrader, "otter": otter}


def missing(grader: str) -> str:
    """Say why a grader cannot run here; otter-grader is set up where it is not."""
    if grader == "nbgrader" and not NBGRADER.is_dir():
        return "nbgrader is not here: make test sets it up"
    ready = OTTER / ".ready"
    if grader == "otter" and not ready.exists():
        print(f"installing {OTTER_GRADER} into build/otter", file=sys.stderr)
        try:
            venv.create(OTTER, clear=True, with_pip=True)
            pip = [str(OTTER / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, OTTER_GRADER], check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"otter-grader cannot be installed: {error}"
        own = sysconfig.get_path("purelib", "venv", {"base": str(OTTER)})
        Path(own, "course.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
        ready.touch()
    return ""


# --- measuring ----------------------------------------------------------------------------------


def timed(command, folder, finished=int, total=0, environment=ENVIRONMENT, watch=None) -> float:
    """Run a command, with a bar that asks `finished` how far it is; return its seconds."""
    log, began = folder / "log.txt", time.perf_counter()
    with log.open("w") as said, tqdm(total=total, desc=folder.name, disable=not total) as bar:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if watch:
                    watch(process.pid)
                bar.update(finished() - bar.n)
        finally:
            process.kill()
    if process.returncode:
        sys.exit(f"{folder.name} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - began


def kept(piece: str, measure) -> dict:
    """Return what was measured before the run was interrupted, or measure it now."""
    path = WORK / f"{piece}.json"
    if not path.exists():
        folder = WORK / piece
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path.with_suffix(".part").write_text(json.dumps(measure(folder)))
        shutil.rmtree(folder)
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text())


def compare(names, graders, submissions: int, peers: int) -> tuple[dict, dict]:
    """Return the summary and the details. Ends the program where graders disagree on points."""
    summary, details = {}, {}
    for name in names:
        seconds, points = dict.fromkeys(graders), {}
        for grader in graders:
            slow = grader != "ours" and name != "numpy"
            students = min(peers, submissions) if slow else submissions
            if why := missing(grader):
                print(why, file=sys.stderr)
                continue
            measure = partial(GRADERS[grader], name, students)
            took, points[grader] = kept(f"{name}-{grader}-{students}", measure)
            seconds[grader] = round(took / students, 4)
        if differences := disagreements(points):
            shutil.rmtree(WORK)
            sys.exit("\n".join([f"{name}: the graders disagree", *differences]))
        tail, own = "" if name == "numpy" else f"_{name}", seconds.get("ours")
        for grader in graders:
            ratio = round(seconds[grader] / own, 1) if own and seconds[grader] else None
            summary[f"times_{grader}{tail}"] = ratio
        summary.pop(f"times_ours{tail}", None)
        summary[f"seconds_a_submission{tail}"] = own
        counts = {grader: len(found) for grader, found in points.items()}
        details[name] = {"set": SETS[name][0], "submissions": counts, "seconds": seconds}
    return summary, details


def disagreements(points: dict) -> list[str]:
    """Say where a grader gives a student's task other points than the first grader does."""
    first, *others = points or [""]
    return [
        f"{student}, {task}: {wanted} points by {first}, {given.get(task)} by {grader}"
        for grader in others
        for student, given in points[grader].items()
        for task, wanted in points[first][student].items()
        if given.get(task) != wanted
    ]


def memory(students: int, folder: Path) -> dict:
    """Grade a class of so many; return seconds and the largest resident memory seen, in MB."""
    peak = Counter()

    def see(pid: int) -> None:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            judges = parent.children()
            keep("parent", [parent])
            keep("judge", judges)
            keep("sandbox", set(parent.children(recursive=True)) - set(judges))

    def keep(role: str, processes) -> None:
        for process in processes:
            with suppress(psutil.Error):  # it has ended
                peak[f"{role}_mb"] = max(peak[f"{role}_mb"], process.memory_info().rss >> 20)

    seconds, _ = ours("numpy", students, folder, see)
    return {"submissions": students, "seconds": round(seconds, 2), **peak}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--submissions", type=int, default=100)
    parser.add_argument("--peers", type=int, default=10, help="for the slow ones, with a framework")
    parser.add_argument("--only", nargs="+", choices=GRADERS, default=list(GRADERS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--memory", action="store_true", help="of ours, at 100 to 5,000 students")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no more")
    parser.add_argument("--record", action="store_true", help="keep it in benchmarks/results/")
    arguments = parser.parse_args()

    if arguments.memory:
        runs = [kept(f"memory-{n}", partial(memory, n)) for n in CLASSES]
        summary, details, name = {"runs": runs}, {}, "grading_memory"
    else:
        summary, details = compare(
            arguments.sets, arguments.only, arguments.submissions, arguments.peers
        )
        versions = {"otter-grader": OTTER_GRADER.partition("==")[2]}
        for found in metadata.distributions(name="nbgrader", path=[str(NBGRADER)]):
            versions["nbgrader"] = found.version
        details |= {"graders": versions, "processes": {"ours": PROCESSES}}
        name = "grading"
    if arguments.record:
        record.write(name, summary | details)
    shutil.rmtree(WORK, ignore_errors=True)
    print(json.dumps(summary) if arguments.json else json.dumps(summary | details, indent=2))


if __name__ == "__main__":
    main()
