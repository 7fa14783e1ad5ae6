"""The command tlcourse: assets, doctor, run, notebooks, exercises, release and progress.

Heavy imports stand inside the commands, so that --help answers at once.
"""

import sqlite3
import sys
import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import __version__
from .quiz.commands import app as quiz

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C

app = typer.Typer(
    help="The helper of the course on transfer learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(quiz, name="quiz")


class Framework(StrEnum):
    """Which view of a notebook."""

    tensorflow = "tensorflow"
    pytorch = "pytorch"
    both = "both"

    def names(self) -> tuple[str, ...]:
        """Return the frameworks meant."""
        return ("tensorflow", "pytorch") if self is Framework.both else (self.value,)


class Profile(StrEnum):
    """How much is computed."""

    smoke = "smoke"
    cpu = "cpu"
    gpu = "gpu"


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NOTEBOOK", help="Number, name or path; all without any."),
]
Frameworks = Annotated[Framework, typer.Option(help="Which framework's notebooks.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tlcourse {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: tlcourse assets --fetch")
def assets(
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Put in place what is missing or damaged first.")
    ] = False,
) -> None:
    """List weights and data sets with state, size and licence."""
    from rich.table import Table

    from .assets import locate, states

    if fetch:
        for asset, _, _ in states():
            locate(asset.name)
    table = Table(title="Weights and data of the course")
    for heading in ("name", "state", "MB", "licence", "what it is"):
        table.add_column(heading, justify="right" if heading == "MB" else "left")
    listed = states()
    for asset, state, _ in listed:
        megabytes = f"{asset.size / 1e6:.1f}"
        table.add_row(asset.name, state, megabytes, asset.licence, asset.description)
    _console().print(table)
    if any(state != "ready" for _, state, _ in listed):
        print(
            "What is missing or damaged is fetched at its first use, or by tlcourse assets --fetch."
        )


@app.command(
    short_help="Check this machine and installation.", epilog="Example: tlcourse doctor --json"
)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """Check this machine and installation, and say what to do about each problem."""
    from .doctor import checks

    found = list(checks())
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(check) for check in found], indent=1))
    else:
        _show_checks(found)
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


def _show_checks(found) -> None:
    from rich.table import Table

    table = Table(title="This machine and installation")
    for heading in ("", "check", "found", "what to do"):
        table.add_column(heading)
    words = {True: "ok", False: "[bold red]problem[/bold red]", None: "note"}
    for check in found:
        table.add_row(
            words[check.ok],
            *(_plain(part) for part in (check.name, check.found)),
            _plain(check.advice or ""),
        )
    _console().print(table)


@app.command(
    short_help="Execute notebooks and check their claims.",
    epilog="Example: tlcourse run 04 --profile smoke --framework pytorch",
)
def run(
    names: Names = None,
    profile: Annotated[
        Profile, typer.Option(help="smoke: seconds, claims untested; cpu: the lesson; gpu: more.")
    ] = Profile.cpu,
    framework: Frameworks = Framework.both,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/<time> without one.")
    ] = None,
) -> None:
    """Execute notebooks from their sources and list seconds, memory and claims.

    Executed notebooks and run.json go to the output folder. The exit status is 1 if any failed.
    """
    from . import execution, notebooks, run_report

    root = notebooks.project_root()
    jobs = [(s, f) for s in notebooks.find(names, root) for f in framework.names()]
    folder = out or root / "runs" / time.strftime("%Y-%m-%d_%H-%M-%S")
    results: list[execution.Result] = []
    interrupted = False
    try:
        with run_report.watch(len(jobs)) as report:
            execution.run(jobs, profile.value, seed, folder, report, results=results)
    except KeyboardInterrupt:
        interrupted = True
    _console().print(run_report.table(results))
    print(f"Executed notebooks and run.json are in {folder}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if any(result.status != "ok" for result in results):
        raise typer.Exit(1)


@app.command(
    name="notebooks",
    short_help="Build the notebooks that learners open.",
    epilog="Example: tlcourse notebooks 04 --framework pytorch",
)
def build_notebooks(
    names: Names = None,
    framework: Frameworks = Framework.both,
    force: Annotated[bool, typer.Option("--force", help="Execute current views too.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing; exit 1 if a view is stale.")
    ] = False,
) -> None:
    """Build the notebooks that learners open, where their source has changed.

    They are executed, unless only words have changed.
    """
    from . import execution, notebooks, run_report

    root = notebooks.project_root()
    wanted = [(s, f) for s in notebooks.find(names, root) for f in framework.names()]
    reasons = {job: notebooks.staleness(*job) for job in wanted}
    jobs = [job for job in wanted if force or reasons[job]]
    orphans = [] if names else notebooks.without_source(root)
    for orphan in orphans:
        print(f"{orphan.relative_to(root)} has no source any more: delete it")
    if check:
        for job in jobs:
            print(f"{notebooks.view_path(*job).relative_to(root)} is stale: {reasons[job]}")
        if any(reasons.values()) or orphans:
            print("run tlcourse notebooks to build what is stale")
            raise typer.Exit(1)
        return
    words = [] if force else [job for job in jobs if notebooks.reworded(*job)]
    for job in words:
        print(f"{notebooks.view_path(*job).relative_to(root)}: new words, the same code")
    jobs = [job for job in jobs if job not in words]
    if not jobs:
        print(f"all {len(wanted)} views are current")
        return
    with run_report.watch(len(jobs)) as report:
        results = [execution.rebuild(*job, root, report) for job in jobs]
    _console().print(run_report.table(results))
    if any(result.status != "ok" for result in results):
        raise typer.Exit(1)


@app.command(
    name="exercises",
    short_help="Measure how good the graders are.",
    epilog="Example: tlcourse exercises verify ex01 --framework pytorch",
)
def verify_exercises(
    action: Annotated[Literal["verify"], typer.Argument(help="What to do.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="SET", help="Such as ex01; all without any.")
    ] = None,
    framework: Frameworks = Framework.both,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Try every right answer, every known mistake, every stub and every mutant on the graders.

    The exit status is 1 if a right answer is rejected, a wrong one accepted or given another's
    hint, or a changed answer passes without a reason.
    """
    import json

    from . import notebooks
    from .exercises import verify

    root = notebooks.project_root()
    sets = [s for s in notebooks.find(names, root) if notebooks.is_exercise(s)]
    hidden = root / "solutions" / "hidden"
    total = verify.verify_all(
        [
            (notebooks.build(s, f), hidden / f"{s.stem.partition('_')[0]}.py", f)
            for s in sets
            for f in framework.names()
        ]
    )
    if as_json:
        print(json.dumps(total.counts()))
    else:
        print(verify.table(total.counts()), *total.problems, sep="\n")
    if total.problems:
        raise typer.Exit(1)


@app.command(
    short_help="Grade a folder of notebooks in a sandbox.",
    epilog="Example: tlcourse grade submissions/ --gradebook grades.db --students students.csv",
)
def grade(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="SUBMISSIONS",
            help="A folder for each student or one for all, a Canvas or Moodle download, a zip.",
        ),
    ],
    gradebook: Annotated[Path, typer.Option(help="Where grades are kept; made if missing.")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="How many at once; as many as cores by default.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786.")
    ] = "",
    only: Annotated[
        list[str] | None, typer.Option(metavar="SET", help="Such as ex04; all without any.")
    ] = None,
    framework: Annotated[
        Literal["pytorch", "tensorflow"], typer.Option(help="Of notebooks that do not say.")
    ] = "pytorch",
    course: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Deadlines, late policy, secret (TOML).")
    ] = None,
    students: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV: id, extra_hours, group.")
    ] = None,
    regrade: Annotated[
        bool, typer.Option("--regrade", help="Grade again what has not changed, too.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust-submissions", help="Run them without a sandbox, as yourself."),
    ] = False,
) -> None:
    """Grade notebooks, write the grades down one by one; start it again and it goes on.

    The exit status is 1 if a submission could not be graded in full.
    """
    import os

    if sys.platform != "linux":
        _fail("submissions are graded on Linux or in Docker: see docs/instructors.md")
    from tqdm.auto import tqdm

    from . import notebooks
    from .grading import batch
    from .grading.gradebook import Gradebook, GradebookError
    from .grading.sandbox import NoSandbox, require

    root = notebooks.project_root()
    known = [s.stem[:4] for s in notebooks.sources(root) if notebooks.is_exercise(s)]
    if unknown := set(only or ()) - set(known):
        _fail(f"there is no {min(unknown)}: the exercise sets are {', '.join(known)}")
    states = Counter()
    try:
        if not trust:
            require()
        policy = batch.read_course(course, students)
        book = Gradebook(gradebook)
        found, left_out = batch.find(place, known)
        found = [made for made in found if made.exercise in (only or known)]
        todo = batch.plan(found, book, framework, policy, regrade, trust)
        print(f"{len(found)} submissions, {len(found) - len(todo)} of them graded already")
        done = batch.run(todo, book, policy, jobs or os.cpu_count() or 1, scheduler)
        for job, grade in tqdm(done, total=len(todo), desc="grading", disable=not todo):
            states[grade.state] += 1
            if grade.state != "graded":
                made = job.submission
                tqdm.write(f"{made.student} {made.exercise}: {grade.state}")
    except (batch.BadInput, GradebookError, NoSandbox) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(f"stopped; {sum(states.values())} were graded now: type the same again to go on")
        raise typer.Exit(INTERRUPTED) from None
    for sentence in left_out:
        print(f"left out: {sentence}")
    print(", ".join(f"{count} {state}" for state, count in states.most_common()) or "nothing to do")
    print(f"The grades are in {gradebook}")
    if left_out or set(states) - {"graded", "no submission"}:
        raise typer.Exit(1)


def _fail(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    raise typer.Exit(2)


@app.command(
    name="export",
    short_help="Take the grades to another system.",
    epilog="Example: tlcourse export --gradebook grades.db --format canvas --out canvas.csv",
)
def export_grades(
    gradebook: Annotated[Path, typer.Option(help="What tlcourse grade wrote.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    form: Annotated[
        Literal["csv", "canvas", "moodle", "nbgrader"], typer.Option("--format", help="For whom.")
    ] = "csv",
    only: Annotated[
        str, typer.Option(metavar="SET", help="One exercise set, as Moodle needs it.")
    ] = "",
) -> None:
    """Write everybody's points, after the late policy and with the marks for answers in words."""
    from .grading import export

    for sentence in export.export(_opened(gradebook), form, out, only):
        print(sentence)
    print(f"The grades are in {out}")


@app.command(
    name="marks",
    short_help="Mark the answers in words.",
    epilog="Example: tlcourse marks --gradebook grades.db --template words.csv",
)
def mark_words(
    gradebook: Annotated[Path, typer.Option(help="What tlcourse grade wrote.")],
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers to a CSV to fill in.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Read it back, all or nothing.")
    ] = None,
) -> None:
    """Write a CSV with everybody's answer in words, or read the points and comments in it back."""
    from .grading import marks

    if bool(template) == bool(source):
        _fail("say --template FILE to write the answers down, or --import FILE to read them back")
    book = _opened(gradebook)
    if template:
        count = marks.write_template(book, template)
        print(f"{count} answers in {template}: fill in points and comment, then --import it")
    else:
        print(f"marks that are new or changed: {marks.read_marks(book, source)}")


def _opened(path: Path):
    from .grading.gradebook import Gradebook

    if not path.is_file():
        _fail(f"there is no gradebook {path}: tlcourse grade makes one")
    return Gradebook(path)


@app.command(
    name="demo-class",
    short_help="Make up a class and its submissions.",
    epilog="Example: tlcourse demo-class --students 30 --out demo",
)
def demo_class(
    students: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 30,
    out: Annotated[Path, typer.Option(help="A new folder for them.")] = Path("demo"),
    exercise: Annotated[str, typer.Option(metavar="SET", help="What they hand in.")] = "ex01",
    seed: Annotated[int, typer.Option(help="Another number, another class.")] = 0,
) -> None:
    """Make submissions as students hand them in: right, wrong, late, copied, broken.

    students.csv and course.toml go along. The same seed gives the same files.
    """
    from .grading import demo

    demo.make(out, students, exercise, seed)
    print(f"{out} holds {students} submissions, students.csv and course.toml")


@app.command(
    short_help="Write pages about a class and for each student.",
    epilog="Example: tlcourse report --gradebook grades.db --out report/",
)
def report(
    gradebook: Annotated[Path, typer.Option(help="Where the grades are.")],
    out: Annotated[Path, typer.Option(help="Folder for the pages.")] = Path("report"),
    submissions: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="As for tlcourse grade: names near-duplicates too."),
    ] = None,
) -> None:
    """Write a page for the instructor, index.html, and one for each student with the feedback.

    The pages need no network and no script, and can be printed.
    """
    from .grading.report import write

    students, left_out = write(gradebook, out, submissions)
    for sentence in left_out:
        print(f"not compared: {sentence}")
    print(f"pages for {students} students in {out / 'students'}, for you in {out / 'index.html'}")


@app.command(
    name="release",
    short_help="Make the bundles for a class.",
    epilog="Example: tlcourse release --framework pytorch --seed-file secret.toml --out dist",
)
def make_release(
    seed_file: Annotated[
        Path,
        typer.Option(metavar="FILE", help="TOML file with the secret; made if there is none."),
    ],
    names: Names = None,
    framework: Frameworks = Framework.both,
    out: Annotated[Path, typer.Option(help="Folder for the bundles.")] = Path("dist"),
    students: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV with a column id: adds variants.csv.")
    ] = None,
) -> None:
    """Make a zip file for students and one for instructors, with solutions, grading and the secret.

    The same course gives the same bytes. Lesson 00 always goes along.
    """
    from . import notebooks
    from .grading import release

    root = notebooks.project_root()
    if not seed_file.exists():
        release.make_seed_file(seed_file)
        print(f"{seed_file} is new and holds a fresh secret: keep it for the whole course")
    chosen = notebooks.find(names, root)
    for path in release.release(root, chosen, framework.names(), seed_file, out, students):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB" if path.suffix == ".zip" else path)
    print("The instructor bundle holds the secret and the solutions: keep it to yourself.")


@app.command(
    name="progress",
    short_help="Show your record, carry it to another machine, delete it.",
    epilog="Example: tlcourse progress --export record.json",
)
def show_progress(
    to: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the record to a file.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--restore", metavar="FILE", help="Add an exported record.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the record.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Show what you have done in this course: one line for each notebook, exercise or question."""
    from . import progress

    if progress.path() is None:
        print("No record is kept: TLCOURSE_PROGRESS is off.")
        return
    if source:
        print(f"new events from {source}: {progress.restore(source)}")
    if to:
        print(f"events written to {to}: {progress.export(to)}")
    if delete:
        if yes or typer.confirm(f"Delete {progress.path()}?"):
            progress.erase()
            print(f"{progress.path()} is deleted")
    elif not source and not to:
        _show_record(progress)


def _show_record(progress) -> None:
    from rich.table import Table

    last = {(event.kind, event.item): event for event in progress.events()}
    if not last:
        print(f"Nothing yet. What you do in the notebooks is kept in {progress.path()}")
        return
    table = Table(title="Your record, newest result of each")
    for heading in ("what", "which", "result", "when (UTC)"):
        table.add_column(heading)
    for (kind, item), event in sorted(last.items()):
        table.add_row(kind, item, f"{event.points:g} of {event.possible:g}", event.at[:16])
    _console().print(table)


def _console():
    from rich.console import Console

    console = Console()
    # A log has no width of its own, and rich would fold the table into 80 columns.
    return console if console.is_terminal else Console(width=140)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(str(text))


def main() -> None:
    """Run the command; a mistake that tlcourse foresees ends in one sentence and status 2."""
    try:
        app()
    except ImportError as error:  # what the student bundle leaves out
        if error.name not in ("tlcourse.grading", "tlcourse.exercises"):
            raise
        print("tlcourse: this command is part of the instructor bundle", file=sys.stderr)
        sys.exit(2)
    except (ValueError, RuntimeError, OSError) as error:
        # A file that was named and cannot be used is not always opened by our own lines.
        if not (_raised_by_us(error) or getattr(error, "filename", None)):
            raise
        print(f"tlcourse: {error}", file=sys.stderr)
        sys.exit(2)
    except sqlite3.Error as error:
        from . import progress

        print(f"tlcourse: the record {progress.path()} cannot be used: {error}", file=sys.stderr)
        sys.exit(2)


def _raised_by_us(error: BaseException) -> bool:
    """Whether our own code raised it; an error from inside a library keeps its traceback."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "").startswith("tlcourse")
