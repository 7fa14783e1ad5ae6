"""The question bank: what a question is, how it is posed, how an answer is marked.

A question is data in `bank/*.yaml`, one file a topic. `pose` draws its numbers and the order of
its options from a seed and gives what may be shown; `mark` gives the score and the explanations.
Text is Markdown with formulas between dollar signs; texts with drawn numbers are Jinja templates.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

LEVELS = ("screening", "practitioner", "senior")
FOLDER = Path(__file__).parent / "bank"
_TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
_TEMPLATES.filters["thousands"] = lambda number: f"{number:,}"


class BankError(ValueError):
    """A question that breaks the schema; the message names the file and the question."""


@dataclass(frozen=True)
class Note:
    """What is said about one option, line, step or rubric point once an answer was given."""

    text: str
    right: bool
    chosen: bool
    why: str


@dataclass(frozen=True)
class Marked:
    """A marked answer: `score` from 0 to 1, the verdict, a note for each option, the solution."""

    score: float
    says: str
    notes: tuple[Note, ...] = ()
    solution: str = ""
    detail: dict = field(default_factory=dict)  # for the record

    @property
    def right(self) -> bool:
        """Whether the answer was right as a whole."""
        return self.score >= 1


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Data):
    """Where the answer can be looked up: a notebook's section ("05#Trap: ...") or a paper."""

    cell: str | None = None
    paper: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self):
        if (self.cell is None) == (self.paper is None):
            raise ValueError("a source is either a cell or a paper")
        return self


class FollowUp(_Data):
    """The ids of what an interviewer asks next, after a right and after a wrong answer."""

    right: str | None = None
    wrong: str | None = None


class Option(_Data):
    """One option and why it is right or wrong."""

    text: str
    why: str
    right: bool = False


class Mistake(_Data):
    """A wrong answer that people give and why it is wrong."""

    answer: str
    why: str


class Question(_Data):
    """What all kinds have in common.

    `reason` is why it is asked in an interview, `verify` Python that asserts what the question
    says about libraries or numbers; it sees the drawn values and, of a number, the `answer`.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    topic: str
    lesson: Annotated[str, Field(pattern=r"^\d\d$")]
    level: Literal["screening", "practitioner", "senior"]
    ask: str
    reason: str
    source: Source
    checked: date
    code: str = ""
    draw: dict[str, list[Any]] = {}
    let: dict[str, str] = {}
    verify: str = ""
    follow_up: FollowUp = FollowUp()

    def pose(self, seed: int = 0) -> Posed:
        """Draw the numbers and the order of the options; the same seed poses the same."""
        rng = random.Random(f"{self.id} {seed}")
        values = {name: rng.choice(choices) for name, choices in self.draw.items()}
        for name, expression in self.let.items():
            values[name] = evaluated(expression, values)
        order = list(range(len(self.shown())))
        rng.shuffle(order)
        if self.kind == "order" and order == sorted(order):
            order.reverse()  # or there would be nothing to do
        options = tuple(filled(self.shown()[k], values) for k in order)
        ask, code = filled(self.ask, values), filled(self.code, values)
        return Posed(self, seed, ask, code, options, tuple(order), values)

    def shown(self) -> list[str]:
        """The texts to choose from or to put in order, as they stand in the file."""
        return []

    def mark(self, posed: Posed, answer) -> Marked:
        """Return what an answer is worth; the form of the answer depends on the kind."""
        raise NotImplementedError


class _Choice(Question):
    options: Annotated[list[Option], Field(min_length=3, max_length=6)]

    def shown(self) -> list[str]:
        return [option.text for option in self.options]

    def _notes(self, posed, chosen) -> tuple[Note, ...]:
        options = [self.options[k] for k in posed.order]
        return tuple(
            Note(text, option.right, k in chosen, filled(option.why, posed.values))
            for k, (text, option) in enumerate(zip(posed.options, options, strict=True))
        )


class Single(_Choice):
    """One of several; the answer is the position of the option, from 0."""

    kind: Literal["single"]

    @model_validator(mode="after")
    def _one_is_right(self):
        if sum(option.right for option in self.options) != 1:
            raise ValueError("exactly one option is right")
        return self

    def mark(self, posed, answer) -> Marked:
        notes = self._notes(posed, {_position(answer, posed)})
        right = any(note.right and note.chosen for note in notes)
        return Marked(float(right), _verdict(right), notes)


class Several(_Choice):
    """Several of several; the answer is a list of positions."""

    kind: Literal["several"]

    @model_validator(mode="after")
    def _some_are_right(self):
        right = sum(option.right for option in self.options)
        if not 2 <= right < len(self.options):
            raise ValueError("at least two options are right and at least one is wrong")
        return self

    def mark(self, posed, answer) -> Marked:
        notes = self._notes(posed, {_position(k, posed) for k in answer})
        hits = sum(note.right and note.chosen for note in notes)
        false = sum(note.chosen and not note.right for note in notes)
        wanted = sum(note.right for note in notes)
        # Whoever ticks everything gets nothing.
        score = max(0.0, hits / wanted - false / (len(notes) - wanted))
        found = f"{hits} of {wanted} found, {false} chosen that are not right."
        says = _verdict(score == 1, found if score < 1 else "")
        return Marked(score, says, notes)


class Number(Question):
    """A number with a unit; `answer` and the mistakes are expressions in the drawn values.

    The answer is given as a number or as typed: "1,280", "1.2e6", "64 %".
    """

    kind: Literal["number"]
    answer: str
    unit: str
    tolerance: float = 0.0  # relative
    solution: str
    mistakes: list[Mistake] = []

    @model_validator(mode="after")
    def _is_verified(self):
        if self.draw and not self.verify:
            raise ValueError("a drawn number needs `verify`, which computes it another way")
        return self

    def value(self, posed: Posed) -> float:
        """The right number for these drawn values."""
        return evaluated(self.answer, posed.values)

    def mark(self, posed, answer) -> Marked:
        given, right = as_number(answer), self.value(posed)
        solution = filled(self.solution, posed.values | {"answer": right})
        if self._near(given, right):
            return Marked(1.0, _verdict(True), solution=solution)
        for mistake in self.mistakes:
            if self._near(given, evaluated(mistake.answer, posed.values)):
                why = filled(mistake.why, posed.values | {"answer": right})
                note = Note(f"{given:g}", False, True, why)
                return Marked(0.0, _verdict(False), (note,), solution)
        return Marked(0.0, _verdict(False), solution=solution)

    def _near(self, given: float, wanted: float) -> bool:
        return math.isclose(given, wanted, rel_tol=max(self.tolerance, 1e-9), abs_tol=1e-12)


class Output(Question):
    """What does this code print? The answer is the text; a test runs the code."""

    kind: Literal["output"]
    code: str
    prints: str
    solution: str
    mistakes: list[Mistake] = []

    def mark(self, posed, answer) -> Marked:
        solution = filled(self.solution, posed.values)
        if _squeezed(answer) == _squeezed(filled(self.prints, posed.values)):
            return Marked(1.0, _verdict(True), solution=solution)
        notes = tuple(
            Note(str(answer), False, True, filled(mistake.why, posed.values))
            for mistake in self.mistakes
            if _squeezed(answer) == _squeezed(filled(mistake.answer, posed.values))
        )
        return Marked(0.0, _verdict(False), notes[:1], solution)


class Bug(Question):
    """Which line is wrong? The answer is the number of the line, from 1.

    `others` says of lines that look suspicious why they are right; `mended` is the line mended.
    """

    kind: Literal["bug"]
    code: str
    line: int
    mended: str
    solution: str
    others: dict[int, str]

    @model_validator(mode="after")
    def _lines_exist(self):
        wanted = {self.line, *self.others}
        if not wanted <= set(range(1, len(self.code.rstrip().splitlines()) + 1)):
            raise ValueError("a line is named that the code does not have")
        if self.line in self.others or len(self.others) < 2:
            raise ValueError("at least two other lines are explained, and not the wrong one")
        return self

    def mark(self, posed, answer) -> Marked:
        if answer != int(answer) or not 1 <= int(answer) <= len(self.code.rstrip().splitlines()):
            raise ValueError(f"there is no line {answer!r}")
        right = int(answer) == self.line
        why = self.solution if right else self.others.get(int(answer), "This line is right.")
        note = Note(f"Line {int(answer)}", right, True, why)
        mended = f"Line {self.line}: {self.solution}\n\n```python\n{self.mended.strip()}\n```"
        return Marked(float(right), _verdict(right), (note,), mended)


class Order(Question):
    """Put the steps in order; the answer is the list of shown positions, first step first."""

    kind: Literal["order"]
    steps: Annotated[list[Option], Field(min_length=3, max_length=7)]

    def shown(self) -> list[str]:
        return [step.text for step in self.steps]

    def mark(self, posed, answer) -> Marked:
        if sorted(answer) != list(range(len(posed.options))):
            raise ValueError("an order names every step once")
        given = [posed.order[k] for k in answer]
        pairs = [(a, b) for k, a in enumerate(given) for b in given[k + 1 :]]
        share = sum(a < b for a, b in pairs) / len(pairs)
        notes = tuple(
            Note(f"{k + 1}. {step.text}", given[k] == k, True, step.why)
            for k, step in enumerate(self.steps)
        )
        score = share if share == 1 else math.floor(share * 10) / 10 / 2  # half at most
        pairs_right = f"{share:.0%} of the pairs stand in the right order."
        says = _verdict(share == 1, pairs_right if share < 1 else "")
        return Marked(score, says, notes)


class Code(Question):
    """Write a function; it is checked by the task of an exercise set, its mistakes named."""

    kind: Literal["code"]
    task: str
    stub: str
    solution: str

    def mark(self, posed, answer) -> Marked:
        from tlcourse.exercises import kit

        task, names = kit.find(self.task), {}
        try:
            with kit.quiet(), kit.limited(task.seconds):
                exec(compile(str(answer), "<your answer>", "exec"), names)
        except kit.TimeIsUp:
            return Marked(0.0, f"Your code ran longer than {task.seconds:g} seconds.")
        except KeyboardInterrupt:  # the learner's own
            raise
        except BaseException as error:
            return Marked(0.0, f"Your code does not run: {type(error).__name__}: {error}")
        function = names.get(task.function)
        if not callable(function):
            return Marked(0.0, f"Your code defines no function named {task.function}.")
        result = kit.evaluate(task, function, posed.seed)
        notes = tuple(
            Note(part.name, part.name not in result.failed, True, result.failed.get(part.name, ""))
            for part in task.parts
        )
        says = _verdict(not result.failed, " ".join(kit.hints(result, 2)).strip())
        solution = self.solution if result.failed else ""
        return Marked(result.points / task.points, says, notes, solution)


class Answers(_Data):
    """A model answer at three lengths: a sentence, half a minute, two minutes."""

    short: str
    medium: str
    long: str


class RubricPoint(_Data):
    """One thing a good answer says; `covers` are sentences that say it, `denies` the contrary."""

    point: str
    covers: Annotated[list[str], Field(min_length=2)]
    denies: list[str] = []
    weight: float = 1.0


class Open(Question):
    """An answer in words, scored against the points of a rubric: see rubric.py."""

    kind: Literal["open"]
    answers: Answers
    rubric: Annotated[list[RubricPoint], Field(min_length=3, max_length=7)]

    def mark(self, posed, answer) -> Marked:
        from tlcourse.quiz import rubric

        return rubric.mark(self, str(answer))


Kind = Annotated[
    Single | Several | Number | Output | Bug | Order | Code | Open, Field(discriminator="kind")
]
_SCHEMA = TypeAdapter(Kind)


@dataclass(frozen=True)
class Posed:
    """A question as it is shown: nothing in it but `question` and `order` gives the answer away."""

    question: Question
    seed: int
    ask: str
    code: str
    options: tuple[str, ...]
    order: tuple[int, ...]  # shown position -> position in the file
    values: dict

    def mark(self, answer) -> Marked:
        """Return what an answer is worth. Raises ValueError for one of another form."""
        try:
            return self.question.mark(self, answer)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{self.question.id}: not an answer of this kind: {error}") from None


@functools.cache
def load(folder: Path = FOLDER) -> dict[str, Question]:
    """Read the bank: id -> question, by topic. Raises BankError naming the question at fault."""
    questions: dict[str, Question] = {}
    for file in sorted(folder.glob("*.yaml")):
        for question in _read(file):
            if question.id in questions:
                raise BankError(f"{file.name}: two questions are called {question.id}")
            questions[question.id] = question
    return questions


def _read(file: Path) -> list[Question]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        topic = yaml.load(file.read_text(encoding="utf-8"), loader)
        common = {"topic": topic["topic"], "lesson": topic["lesson"]}
        entries = topic["questions"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BankError(f"{file.name}: needs topic, lesson and questions: {error}") from None
    read = []
    for entry in entries:
        try:
            read.append(_SCHEMA.validate_python(common | entry))
        except (ValidationError, TypeError) as error:
            name = entry.get("id", "?") if isinstance(entry, dict) else "?"
            raise BankError(f"{file.name}: question {name}: {error}") from None
    return read


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_SCALES = {"k": 1e3, "thousand": 1e3, "M": 1e6, "million": 1e6, "billion": 1e9}
_DIGITS = str.maketrans("−⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "-0123456789-")


def as_number(typed) -> float:
    """Read a number as people type it: "1,280", "1.5·10^6", "15 million", "64 %", "3/4".

    What stands behind it may be a unit, no second number. Raises ValueError.
    """
    given = str(typed).strip().translate(_DIGITS)
    text = re.sub(r"(?<=\d)[ _'’,\u202f](?=\d{3}(?!\d))", "", given)
    text = re.sub(r"\s*[×x*·]\s*10\s*(?:\^|\*\*)?\s*(?=[-+]?\d)", "e", text)
    text = re.sub(r"^([-+]?)10(?:\^|\*\*)\s*", r"\g<1>1e", text)
    match = re.fullmatch(rf"({_NUMBER})(?:\s*/\s*({_NUMBER}))?\s*(%?)\s*(\D*)", text)
    value = math.nan
    if match and not re.search(r"[\^*×·/=,]\s*$|^,", match[4]):
        with contextlib.suppress(ZeroDivisionError):
            value = float(match[1]) * _SCALES.get(match[4].strip(" ."), 1) / float(match[2] or 1)
    if not math.isfinite(value):
        raise ValueError(f"{given[:40]!r} is not one number: type it like 1280, 1.2e6 or 0.75")
    return value / 100 if match[3] else value


def evaluated(expression: str, values: dict) -> Any:
    """Evaluate an expression of the bank, which is ours; only `math` and the values are known."""
    known = {"math": math, "sum": sum, "min": min, "max": max, "round": round, "range": range}
    return eval(expression, {"__builtins__": {}, **known, "len": len, "int": int, **values})


def filled(text: str, values: dict) -> str:
    """Return a text with the drawn values in it; one without values is not a template."""
    return _TEMPLATES.from_string(text).render(values) if values else text


def _position(answer, posed: Posed) -> int:
    if isinstance(answer, bool) or not 0 <= int(answer) < len(posed.options):
        raise ValueError(f"there is no option {answer!r}")
    return int(answer)


def _squeezed(text) -> str:
    return re.sub(r"[\s'\"]+", "", str(text)).casefold()


def _verdict(right: bool, more: str = "") -> str:
    return " ".join(filter(None, ["Right." if right else "Not right.", more]))


def topics(questions, named: str) -> list[str]:
    """Return the topics that a lesson's number ("5") or a part of their name means; [] of ""."""
    lessons = {question.topic: question.lesson for question in questions}
    wanted = named.casefold().strip()
    if not wanted:
        return []
    of_lesson = [topic for topic, lesson in lessons.items() if wanted.zfill(2) == lesson]
    return of_lesson or [topic for topic in lessons if wanted in topic.casefold()]


def by_kind(questions) -> Counter:
    """Count questions by kind."""
    return Counter(question.kind for question in questions)
