"""Grade a folder of submissions: one after the other on every core, or on a Dask cluster.

What is graded is written down at once, so a run that was stopped goes on where it was; what has
not changed is not graded again.
"""

from __future__ import annotations

import csv
import hashlib
import math
import multiprocessing
import os
import re
import stat
import threading
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from tlcourse import notebooks
from tlcourse.exercises import kit, verify

from . import judge as judging
from .gradebook import Gradebook
from .release import read_secret, variant

# What the learning systems make of a file's or a folder's name.
CANVAS = re.compile(r"(?P<name>[a-z0-9-]+)(?P<late>_LATE)?_(?P<id>\d+)_\d+_(?P<file>.+)", re.I)
MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_file_?(?P<file>.*)")
EXERCISE = re.compile(r"ex\d\d")
ZIPPED_AT_MOST = 2**30
# Processes are replaced after so many each, so that nothing a library keeps can pile up. Not by
# max_tasks_per_child: with all jobs waiting, it replaces none and hangs (cpython issue 115634).
JOBS_A_PROCESS = 500


class BadInput(ValueError):
    """What was given cannot be graded; the message says what to do."""


@dataclass(frozen=True)
class Submission:
    """One notebook of one student: where it lies, and when it was handed in (local time)."""

    student: str
    exercise: str
    file: str
    archive: str = ""
    handed_in: float = 0.0

    def content(self) -> bytes:
        """Return the file's bytes, no more than a notebook may have. Raises Unreadable."""
        most = judging.LARGEST_NOTEBOOK + 1
        try:
            if self.archive:
                with zipfile.ZipFile(self.archive) as packed, packed.open(self.file) as file:
                    return file.read(most)
            # O_NOFOLLOW: a link could lead to another's work
            with open(os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                return file.read(most)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise judging.Unreadable(f"it cannot be read: {error}") from None


# --- finding submissions ------------------------------------------------------------------------


def find(place: Path, known: list[str]) -> tuple[list[Submission], list[str]]:
    """Return the latest notebook of each student and exercise under a folder or in a zip file.

    Takes a folder for each student, one folder for all, and what Canvas and Moodle hand out, packed
    or not. `known` are the exercises, "ex04" and so on. The second list has a sentence for each
    file that was left out. Raises BadInput where there is nothing to grade.
    """
    if not place.exists():
        raise BadInput(f"there is no {place}")
    found, left_out = {}, []
    for label, made in _files(place, left_out):
        student, exercise = _whose(label)
        if exercise not in known or not student:
            missing = "a student's name" if exercise in known else "an exercise such as ex04"
            left_out.append(f"{_clean(label)}: there is no {missing} in its name")
            continue
        made = replace(made, student=student, exercise=exercise)
        before = found.get((student, exercise))
        if before is None or before.handed_in <= made.handed_in:
            found[student, exercise] = made
    if not found:
        raise BadInput(
            f"no notebook of {', '.join(known)} in {place}: expected student/ex04_….ipynb, "
            "student_ex04.ipynb, or a download of Canvas or Moodle"
        )
    return [found[key] for key in sorted(found)], left_out


def _files(place: Path, left_out: list[str]) -> Iterator[tuple[str, Submission]]:
    """Yield (label, submission) of every notebook; nothing is unpacked, no link is followed."""
    if place.is_file():
        yield from _packed(place, "", left_out)
        return
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            label, status = str(path.relative_to(place)), path.lstat()
            if not name.endswith((".ipynb", ".zip")):
                continue
            if not stat.S_ISREG(status.st_mode):
                left_out.append(f"{_clean(label)}: it is a link or no file at all")
            elif name.endswith(".zip"):
                yield from _packed(path, label.removesuffix(".zip") + "/", left_out)
            else:
                yield label, Submission("", "", str(path), handed_in=status.st_mtime)


def _packed(archive: Path, inside: str, left_out: list[str]) -> Iterator[tuple[str, Submission]]:
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
        if sum(entry.file_size for entry in entries) > ZIPPED_AT_MOST:
            raise zipfile.BadZipFile(f"it would unpack to more than {ZIPPED_AT_MOST >> 30} GB")
        for entry in entries:
            if entry.filename.endswith(".ipynb"):
                when = datetime(*entry.date_time).timestamp()
                yield (
                    inside + entry.filename,
                    Submission("", "", entry.filename, str(archive), when),
                )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        left_out.append(f"{_clean(archive.name)}: {error}")


def _whose(label: str) -> tuple[str, str]:
    """Return (student, exercise) from a path; empty where the path does not say."""
    *folders, name = _clean(label).split("/")
    folders = [part for part in folders if part not in ("", ".", "..", "__MACOSX")]
    exercise = next((m[0] for p in (name, *folders[::-1]) if (m := EXERCISE.search(p))), "")
    if hit := CANVAS.fullmatch(name):
        return f"{hit['name']}_{hit['id']}", exercise
    for part in (*folders, name):
        if hit := MOODLE.fullmatch(part):
            return f"{hit['name']}_{hit['id']}", exercise
    named = [part for part in folders if not EXERCISE.match(part)]
    if named:
        return named[-1], exercise
    rest = re.sub(r"ex\d\d(_[a-z_]+)?", "", name.removesuffix(".ipynb"))
    return rest.strip("_- ."), exercise


def _clean(text: str) -> str:
    return judging.clean(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


# --- deadlines, extra time, groups --------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """What holds for a class: deadlines, what lateness costs, who has more time or a group."""

    deadlines: dict[str, datetime] = field(default_factory=dict)
    percent_a_day: float = 0.0
    days: float = float("inf")
    secret: str = ""
    extra_hours: dict[str, float] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    def members(self, student: str) -> list[str]:
        """Return everybody who shares a student's work, the student included."""
        group = self.groups.get(student)
        together = [s for s, g in self.groups.items() if g == group] if group else []
        return together or [student]

    def lateness(self, exercise: str, student: str, handed_in: float) -> tuple[float, float]:
        """Return (hours late, share of the points that is kept)."""
        deadline = self.deadlines.get(exercise)
        if deadline is None:
            return 0.0, 1.0
        extra = max(self.extra_hours.get(member, 0.0) for member in self.members(student))
        hours = (handed_in - deadline.timestamp()) / 3600 - extra
        if hours <= 0:
            return 0.0, 1.0
        days = math.ceil(hours / 24)
        kept = 0.0 if days > self.days else max(0.0, 1 - self.percent_a_day / 100 * days)
        return hours, kept


def read_course(toml: Path | None, students: Path | None) -> Course:
    """Return what the two files of a class say; either may be left out. Raises BadInput."""
    course = Course()
    try:
        if toml:
            said = tomllib.loads(toml.read_text("utf-8"))
            late = said.get("late", {})
            course = Course(
                {name: _time(when) for name, when in said.get("deadlines", {}).items()},
                float(late.get("percent_a_day", 0)),
                float(late.get("days", "inf")),
                read_secret(toml) if "secret" in said else "",
            )
        if students:
            with students.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
            extra = {row["id"]: float(row.get("extra_hours") or 0) for row in rows}
            groups = {row["id"]: row["group"] for row in rows if row.get("group")}
            course = replace(course, extra_hours=extra, groups=groups)
    except (OSError, ValueError, TypeError, KeyError, tomllib.TOMLDecodeError) as error:
        raise BadInput(
            f"{students if isinstance(error, KeyError) else toml or students} cannot be used: "
            f"{error}; docs/instructors.md shows both files"
        ) from None
    return course


def _time(when) -> datetime:
    if not isinstance(when, datetime):
        raise ValueError(
            f"a deadline is a date with a time, such as 2026-12-01T23:59:00, not {when}"
        )
    return when


# --- grading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One notebook to grade, as any process can do it."""

    submission: Submission
    framework: str
    variant: int
    digest: str
    trusted: bool


# A judge talks to one student's process; a Dask worker may have several threads.
_ONE_AT_A_TIME = threading.Lock()


@lru_cache(maxsize=2)
def _judge(exercise: str, framework: str, trusted: bool) -> judging.Judge:
    (path,) = notebooks.find([exercise], notebooks.project_root())
    return judging.Judge(exercise, framework, notebooks.build(path, framework), trusted=trusted)


def grade_one(job: Job) -> judging.Grade:
    """Grade one notebook in this process, which keeps its judge for the next one."""
    with _ONE_AT_A_TIME:
        judge = _judge(job.submission.exercise, job.framework, job.trusted)
        try:
            return judge.grade(job.submission.content(), job.variant)
        except judging.Unreadable as refused:
            return judge.refused(str(refused))


def plan(
    submissions, book: Gradebook, framework: str, course: Course, regrade: bool, trusted: bool
):
    """Return the jobs that the gradebook does not hold yet, those of one judge together."""
    jobs = []
    for made in submissions:
        try:
            content = made.content()
            used = judging.read(content).framework or framework
        except judging.Unreadable:
            content, used = b"", framework
        seed = variant(course.secret, made.student) if course.secret else 0
        digest = hashlib.sha256(_tasks(made.exercise))
        digest.update(content + f"{used} {seed} {made.handed_in}".encode())
        job = Job(made, used, seed, digest.hexdigest(), trusted)
        if regrade or book.digest(made.student, made.exercise) != job.digest:
            jobs.append(job)
    return sorted(jobs, key=lambda j: (j.submission.exercise, j.framework, j.submission.student))


@lru_cache
def _tasks(exercise: str) -> bytes:
    """What a grade depends on besides the notebook: the tasks, their answers, the judge."""
    root = notebooks.project_root()
    files = [Path(__file__).with_name(name) for name in ("judge.py", "worker.py")]
    files += [
        Path(kit.__file__),
        Path(verify.__file__),
        Path(kit.__file__).with_name(f"{exercise}.py"),
    ]
    files += sorted((root / "solutions").glob(f"*/{exercise}*.py"))
    return b"".join(file.read_bytes() for file in files)


def run(jobs: list[Job], book: Gradebook, course: Course, processes: int, scheduler: str = ""):
    """Grade and write down; yield (job, grade) as they come.

    Raises NoSandbox; stop it when you like.
    """
    done = _on_dask(jobs, scheduler) if scheduler else _on_cores(jobs, processes)
    for job, grade in done:
        made = job.submission
        hours, kept = course.lateness(made.exercise, made.student, made.handed_in)
        for student in course.members(made.student):
            book.put(
                {
                    "student": student,
                    "exercise": made.exercise,
                    "framework": grade.framework,
                    "state": grade.state,
                    "points": grade.points,
                    "possible": grade.possible,
                    "hours_late": hours,
                    "share_kept": kept,
                    "variant": job.variant,
                    "file": _clean(made.file),
                    "digest": job.digest,
                    "seconds": grade.seconds,
                    "detail": grade.as_dict(),
                }
            )
        yield job, grade


def _on_cores(jobs: list[Job], processes: int):
    """Yield (job, grade), with a judge in each process; a judge that dies is replaced."""
    waiting, tries = list(jobs), Counter()
    fresh = multiprocessing.get_context("spawn")
    while waiting:
        with ProcessPoolExecutor(processes, fresh, verify.end_with_parent, (os.getpid(),)) as pool:
            now = waiting[: JOBS_A_PROCESS * processes]
            futures = {pool.submit(grade_one, job): job for job in now}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
                    waiting.remove(futures[future])
            except BrokenProcessPool:
                # Which of those under way did it cannot be seen: the next ones go one by one.
                suspects = waiting[: 2 * processes]
                tries.update(suspects)
                for job in [job for job in suspects if tries[job] > 2]:
                    waiting.remove(job)
                    exercise, why = job.submission.exercise, ["the judge itself ended"]
                    yield job, judging.Grade(exercise, job.framework, "crashed", remarks=why)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _on_dask(jobs: list[Job], scheduler: str):
    """Yield (job, grade) from a Dask cluster whose workers see the same files."""
    from distributed import Client, as_completed

    with Client(scheduler, timeout=30) as client:
        futures = {
            client.submit(grade_one, job, key=f"{job.submission.student} {job.digest}"): job
            for job in jobs
        }
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
