"""tlcourse quiz: practice, interviews, and the questions on cards and on paper.

Heavy imports stand inside the commands, so that --help answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
Level = Literal["screening", "practitioner", "senior"]
Topic = Annotated[
    str, typer.Option(metavar="TOPIC", help="A lesson's number or a part of a topic's name.")
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")]
Seed = Annotated[int | None, typer.Option(help="The same number, the same drawn numbers.")]


@app.callback(
    short_help="Practise for an interview.", epilog="Example: tlcourse quiz --topic 05 --count 5"
)
def practice(
    context: typer.Context,
    topic: Topic = "",
    level: Annotated[Level | None, typer.Option(help="Only questions of this level.")] = None,
    count: Annotated[int, typer.Option(min=1, help="At most so many.")] = 10,
    seed: Seed = None,
) -> None:
    """Answer the questions that are due, the most forgotten first, then new ones.

    Each answer goes into your record (tlcourse progress) at once; Ctrl-C leaves.
    """
    if context.invoked_subcommand:
        return
    from . import memory, terminal

    questions = _questions(topic, level)
    # Who names a topic or a level has chosen what to learn: no daily share of new ones then.
    share = {"new_per_day": None} if topic or level else {}
    asked = memory.due(questions, seed=seed, **share)[:count]
    if not asked:
        later = memory.until(questions)
        print(f"Nothing is due{later}. To go on: tlcourse quiz --topic NAME, or an interview.")
        return
    answered, kept = terminal.practise(asked, seed)
    print(f"{answered} of {len(asked)} answered, {kept} kept in your record.")
    if answered < len(asked):
        raise typer.Exit(INTERRUPTED if sys.stdin.isatty() else 0)


@app.command(epilog="Example: tlcourse quiz interview --minutes 15 --level senior")
def interview(
    minutes: Annotated[Literal["15", "30", "45"], typer.Option(help="How long.")] = "15",
    level: Annotated[Level, typer.Option(help="For which post.")] = "practitioner",
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as Markdown, too.")
    ] = None,
) -> None:
    """Hold a mock interview; the report comes at the end."""
    import secrets

    from . import bank, terminal
    from .mock_interview import Interview

    if out and not out.absolute().parent.is_dir():  # said now, not after the last answer
        raise ValueError(f"there is no folder {out.parent}")
    chosen = secrets.randbits(31) if seed is None else seed
    room = Interview(int(minutes), level, chosen, questions=bank.load())
    terminal.interview(room)
    report = room.report().as_markdown()
    terminal.show_markdown(report)
    if out:
        out.write_text(report, encoding="utf-8")
        print(f"The report is in {out}")


@app.command(epilog="Example: tlcourse quiz status")
def status() -> None:
    """Show how you stand by topic, what is due and what to review."""
    from . import bank, memory, terminal

    questions = bank.load()
    due = len(memory.due(questions))
    terminal.status(memory.strength(questions), due, memory.streak())


@app.command(epilog="Example: tlcourse quiz anki --out transfer-learning.apkg")
def anki(out: Out, topic: Topic = "") -> None:
    """Write an Anki deck; a second import updates its cards."""
    from .anki import write

    print(f"{write(_questions(topic), out)} cards in {out}: open it with Anki")


@app.command(epilog="Example: tlcourse quiz sheet --out sheet.html --answers --topic 05")
def sheet(
    out: Out,
    answers: Annotated[bool, typer.Option("--answers", help="With solutions at the end.")] = False,
    topic: Topic = "",
    count: Annotated[int | None, typer.Option(min=1, help="At most so many; all without.")] = None,
    seed: Annotated[int, typer.Option(help="Another number, another sheet.")] = 0,
) -> None:
    """Write a page to print, for which no network is needed."""
    from .sheet import as_page, chosen

    questions = chosen(_questions(topic), count, seed)
    out.write_text(as_page(questions, seed, answers), encoding="utf-8")
    print(f"{len(questions)} questions in {out}: open it in a browser and print it")


@app.command(epilog="Example: tlcourse quiz check --json")
def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    blank: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what waits for a second answer, without keys."),
    ] = None,
    second: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare the answers in such a file with the keys."),
    ] = None,
) -> None:
    """Look for bad questions: duplicates, give-aways, dead links, keys derived only once.

    The exit status is 1 if there is a problem.
    """
    import json

    from tlcourse.notebooks import project_root

    from . import bank
    from . import check as checks

    questions = bank.load()
    if blank:
        waiting = checks.blank(questions)
        blank.write_text(json.dumps(waiting, indent=1, ensure_ascii=False), encoding="utf-8")
        print(f"{len(waiting)} questions in {blank}: fill in each answer, then --second {blank}")
        return
    if second:
        agreed, found = checks.compare(questions, checks.read_answers(second))
        checks.record(agreed)
        print(f"{len(agreed)} answers agree and are recorded")
    else:
        found = checks.problems(questions, project_root())
    if as_json:
        print(json.dumps(checks.summary(questions, found)))
    else:
        for problem in found:
            print(f"{problem.question or 'the bank'}: {problem.kind}: {problem.says}")
        print(f"{len(questions)} questions, {len(found)} problems")
    if found:
        raise typer.Exit(1)


def _questions(topic: str = "", level: str | None = None) -> list:
    """The bank's questions of a topic and level. Raises ValueError naming the topics."""
    from . import bank

    questions = bank.load().values()
    named = bank.topics(questions, topic)
    found = [q for q in questions if (not topic or q.topic in named) and level in (None, q.level)]
    if not found:
        topics = dict.fromkeys(f"{q.lesson} {q.topic}" for q in questions)
        wanted = " ".join(filter(None, (topic, level)))
        raise ValueError(f"no question fits {wanted}; the topics are: {', '.join(topics)}")
    return found
