"""Static pages from a gradebook: one of the class, and one for each student with the feedback.

Names and messages come from students. One place, the environment of the templates, makes
everything that is put into a page printable and escapes it; the pages need no script and no other
file, and forbid both.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tlcourse.exercises import kit

from . import gradebook
from . import judge as judging
from .likeness import ALIKE, near_duplicates

NAME_AT_MOST = 60
BINS = 10
# Slow is what takes so many times the median of its exercise, and no less than so many seconds.
SLOW_TIMES, SLOW_SECONDS = 5, 5


def write(grades: Path, out: Path, submissions: Path | None = None) -> tuple[int, list[str]]:
    """Write out/index.html and a page for each student; the same gradebook gives the same bytes.

    With the submissions, as `batch.find` takes them, near-duplicates are named too. Returns how
    many students there are and a sentence for each file left out of that comparison. Raises
    ValueError for a missing gradebook or a folder that cannot be written, GradebookError, BadInput.
    """
    if not grades.is_file():
        raise ValueError(f"there is no gradebook {grades}: tlcourse grade writes one")
    book = gradebook.Gradebook(grades)
    students = _students(book.rows(), book.rows(gradebook.marks))
    pages = {name: f"students/{page_name(name)}" for name in students}
    copies, left_out = None, []
    if submissions and students:
        copies, left_out = near_duplicates(submissions, set().union(*students.values()))
    shown = _class(students) | {"pages": pages, "copies": copies}
    texts = {"index.html": _TEMPLATES.get_template("report.html.jinja").render(shown)}
    page = _TEMPLATES.get_template("student.html.jinja")
    for name, work in students.items():
        texts[pages[name]] = page.render(name=name, work=work, total=_total(work))
    try:
        (out / "students").mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (out / file).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror}; name another --out") from None
    return len(students), left_out


def page_name(student: str) -> str:
    """Return the file name of a student's page: letters that every system takes, and a digest."""
    letters = re.sub(r"[^a-z0-9]+", "-", student.lower())[:40].strip("-")
    digest = hashlib.sha256(student.encode("utf-8", "replace")).hexdigest()[:12]
    return f"{letters or 'student'}-{digest}.html"


def _number(value: float) -> str:
    return f"{round(value, 2):.12g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _short(name: str) -> str:
    name = judging.clean(name).strip() or "(no name)"
    return name if len(name) <= NAME_AT_MOST else name[: NAME_AT_MOST - 1] + "…"


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: (
        judging.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    ),
)
_TEMPLATES.filters |= {"number": _number, "percent": _percent, "short": _short}


# --- what stands on the pages -------------------------------------------------------------------


def _students(rows: list[dict], marks: list[dict]) -> dict[str, dict[str, dict]]:
    """Return what is shown, by student and exercise: points after lateness, notes, tasks."""
    marked = {(mark["student"], mark["exercise"]): mark for mark in marks}
    students = defaultdict(dict)
    for row in rows:
        mark = marked.get((row["student"], row["exercise"]))
        notes = [row["state"]] if row["state"] != "graded" else []
        if row["hours_late"] > 0:
            kept = f"{_percent(row['share_kept'])} of {_number(row['points'])} points kept"
            notes.append(f"{_number(row['hours_late'])} h late, {kept}")
        if mark:
            points, possible = map(_number, (mark["points"], mark["possible"]))
            notes.append(f"{points} of {possible} in it for the answer in words")
        students[row["student"]][row["exercise"]] = {
            "points": gradebook.counted(row, mark),
            "possible": row["possible"] + (mark["possible"] if mark else 0),
            "state": row["state"],
            "seconds": row["seconds"],
            "notes": notes,
            "comment": mark["comment"] if mark else "",
            "remarks": row["detail"].get("remarks", []),
            "tasks": [_task(task) for task in row["detail"].get("tasks", [])],
        }
    return students


def _task(given: dict) -> dict:
    """Return one task as a page shows it, its parts as (name, points, what was wrong or "")."""
    task = asdict(judging.TaskGrade(given["task"], "", 0, 0)) | given
    try:
        known = kit.find(task["task"])
        points = {part.name: part.points for part in known.parts}
    except ValueError:  # of another version of the course
        points = {}
    whys = task["failed"]
    task["solved"] = task["possible"] > 0 and task["points"] >= task["possible"]
    tried = task["solved"] or (whys and task["state"] != "not written")
    parts = {**points, **whys} if tried else ()
    task["parts"] = [(part, points.get(part), whys.get(part, "")) for part in parts]
    task["outcome"] = "passed" if task["solved"] else "failed" if tried else "untried"
    notebook, _, section = task["taught"].partition("#")
    task["taught"] = f"notebook {notebook}, “{section}”" if section else ""
    return task


def _class(students: dict[str, dict]) -> dict:
    """Return what the page of the class shows besides near-duplicates."""
    exercises = sorted({exercise for work in students.values() for exercise in work})
    distributions, slow, other = [], [], []
    for exercise in exercises:
        made = {name: work[exercise] for name, work in students.items() if exercise in work}
        shares = [e["points"] / e["possible"] for e in made.values() if e["possible"]]
        counts = Counter(max(0, min(BINS - 1, int(BINS * share + 1e-9))) for share in shares)
        distributions.append((exercise, [counts[k] for k in range(BINS)], len(shares)))
        usual = median(entry["seconds"] for entry in made.values())
        for name, entry in made.items():
            if entry["seconds"] >= max(SLOW_SECONDS, SLOW_TIMES * usual):
                slow.append((name, exercise, entry, usual))
            if entry["state"] not in ("graded", "no submission"):
                other.append((name, exercise, entry))
    return {
        "students": students,
        "totals": {name: _total(work) for name, work in students.items()},
        "exercises": exercises,
        "distributions": distributions,
        "bins": BINS,
        "tasks": _tasks(students),
        "slow": sorted(slow, key=lambda found: -found[2]["seconds"]),
        "other": other,
        "limits": (SLOW_TIMES, SLOW_SECONDS, ALIKE),
    }


def _tasks(students: dict[str, dict]) -> list[dict]:
    """Return the tasks, the least solved first, with the misconceptions that the class holds."""
    graded = defaultdict(list)
    for work in students.values():
        for entry in work.values():
            for task in entry["tasks"]:
                graded[task["task"]].append(task)
    found = [
        {
            "id": name,
            "title": tasks[-1]["title"],
            "taught": tasks[-1]["taught"],
            "solved": sum(task["solved"] for task in tasks),
            "handed_in": len(tasks),
            "misconceptions": sorted(
                Counter(t["misconception"] for t in tasks if t["misconception"]).items(),
                key=lambda counted: (-counted[1], counted[0]),
            ),
        }
        for name, tasks in graded.items()
    ]
    return sorted(found, key=lambda task: (task["solved"] / task["handed_in"], task["id"]))


def _total(work: dict) -> tuple[float, float]:
    return tuple(sum(entry[what] for entry in work.values()) for what in ("points", "possible"))
