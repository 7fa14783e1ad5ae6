"""A mock interview: a plan of kinds, follow-ups by the outcome, a clock, a report at the end.

Nothing is said about an answer before the end, as in a real interview. Each answer goes into the
record at once, and the whole interview is plain JSON, so that a restarted kernel goes on.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import asdict

from . import bank, memory
from .report import Asked, Report

OPENING = ("single", "number", "several", "open", "bug", "output")
MIDDLE = ("code", "single", "order", "open", "number", "bug")
LATE = ("several", "output", "open", "single", "number", "code")
PLAN = {15: OPENING, 30: OPENING + MIDDLE, 45: OPENING + MIDDLE + LATE}
AFTER = ("number", "several", "bug", "single", "output", "order")  # for those who are quick
LAST = 45  # seconds; with less left nothing new is asked
FOLLOW_UPS = 2  # in a row


class Interview:
    """One interview of 15, 30 or 45 minutes at a level of the bank.

    `clock` gives seconds and stands for time.monotonic. `questions` are those of the bank.
    Raises ValueError for another length or level, or where there are no questions.
    """

    def __init__(
        self, minutes=15, level="practitioner", seed=0, clock=time.monotonic, questions=None
    ):
        if minutes not in PLAN:
            raise ValueError(f"an interview takes 15, 30 or 45 minutes, not {minutes}")
        if level not in bank.LEVELS:
            raise ValueError(f"unknown level {level!r}: choose one of {', '.join(bank.LEVELS)}")
        self.questions = bank.load() if questions is None else questions
        if not self.questions:
            raise ValueError("there are no questions to ask")
        self.minutes, self.level, self.seed, self._clock = minutes, level, seed, clock
        self.asked: list[Asked] = []
        self.follow_up = False  # whether the current question follows from the one before
        self._spent, self._since = 0.0, clock()
        self._planned = 0  # how many came from the plan rather than as follow-ups
        self.current: bank.Posed | None = None
        self._next()

    @property
    def spent(self) -> float:
        """Seconds on the clock so far, pauses not counted."""
        return self._spent + (0 if self.paused else self._clock() - self._since)

    @property
    def left(self) -> float:
        """Seconds left, not below 0."""
        return max(0.0, 60 * self.minutes - self.spent)

    @property
    def paused(self) -> bool:
        """Whether the clock stands still."""
        return self._since is None

    @property
    def finished(self) -> bool:
        """Whether nothing more is asked: the time is up, or the questions are."""
        return self.current is None

    def pause(self) -> None:
        """Stop the clock. Hide the question meanwhile: answering is refused."""
        self._spent, self._since = self.spent, None

    def resume(self) -> None:
        """Let the clock go on."""
        if self.paused:
            self._since = self._clock()

    def answer(self, answer) -> None:
        """Take the answer to the current question, record it and ask the next.

        The question begun before the time was up may be finished. Raises ValueError for an answer
        of another form (the question stays), while paused, and after the end.
        """
        self._may_go_on()
        self.pause()  # marking is not on the learner's time
        try:
            marked = self.current.mark(answer)
        finally:
            self.resume()
        self._take(answer, marked)

    def skip(self) -> None:
        """Leave the current question: it counts as not answered. Raises ValueError as `answer`."""
        self._may_go_on()
        self._take(None, bank.Marked(0.0, "Not answered."))

    def end(self) -> None:
        """End now; the question under way is not counted."""
        self.pause()
        self.current = None

    def report(self) -> Report:
        """Return the report on what was answered so far."""
        return Report(self.minutes, self.level, self.spent, tuple(self.asked))

    def state(self) -> dict:
        """Return everything as plain JSON, for `restore`."""
        return {
            "minutes": self.minutes,
            "level": self.level,
            "seed": self.seed,
            "spent": self.spent,
            "paused": self.paused,
            "begun": self._begun,
            "planned": self._planned,
            "follow_up": self.follow_up,
            "current": self.current and [self.current.question.id, self.current.seed],
            "asked": [_plain(one) for one in self.asked],
        }

    @classmethod
    def restore(cls, state: dict, clock=time.monotonic, questions=None) -> Interview:
        """Return the interview that `state` describes; the time in between does not count.

        Raises ValueError where the state is damaged or a question is no longer in the bank.
        """
        try:
            made = cls(state["minutes"], state["level"], state["seed"], clock, questions)
            made._spent, made._since = state["spent"], None if state["paused"] else clock()
            made._begun, made._planned = state["begun"], state["planned"]
            made.follow_up = state["follow_up"]
            made.current = state["current"] and made._posed(*state["current"])
            made.asked = [_restored(entry, made._posed) for entry in state["asked"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"this interview cannot go on, begin another: {error!r}") from None
        return made

    def _posed(self, name: str, seed: int) -> bank.Posed:
        return self.questions[name].pose(seed)

    def _may_go_on(self) -> None:
        if self.finished:
            raise ValueError("the interview is over: see its report")
        if self.paused:
            raise ValueError("the clock is paused: let it go on first")

    def _take(self, answer, marked) -> None:
        seconds = self.spent - self._begun
        self.asked.append(Asked(self.current, answer, marked, seconds, self.follow_up))
        memory.remember(self.current, marked, answer, seconds, interview=self.minutes)
        self._next()

    def _next(self) -> None:
        """Ask a follow-up where there is one, else what the plan says, else nothing."""
        self._begun, question = self.spent, None
        if self.left >= LAST:
            question = self._following()
            self.follow_up = question is not None
            question = question or self._planned_question()
        if question is None:
            self.end()
        else:
            seed = random.Random(f"{self.seed} {question.id}").getrandbits(31)
            self.current = question.pose(seed)

    def _following(self) -> bank.Question | None:
        recent = self.asked[-FOLLOW_UPS:]
        if not recent or (len(recent) == FOLLOW_UPS and all(one.follow_up for one in recent)):
            return None
        follow_up = recent[-1].posed.question.follow_up
        name = follow_up.right if recent[-1].marked.right else follow_up.wrong
        question = self.questions.get(name)
        # No code where the plan has no time for it, and nothing two levels up.
        if not question or (question.kind == "code" and "code" not in PLAN[self.minutes]):
            return None
        above = bank.LEVELS.index(question.level) - bank.LEVELS.index(self.level)
        return question if above < 2 and self._is_open(question) else None

    def _planned_question(self) -> bank.Question | None:
        """The next kind of the plan; nearest to the level, of the topic asked least."""
        plan = PLAN[self.minutes]
        topics = Counter(one.posed.question.topic for one in self.asked)
        while self._planned < len(plan) + len(AFTER) * 10:
            at = self._planned
            kind = plan[at] if at < len(plan) else AFTER[(at - len(plan)) % len(AFTER)]
            self._planned += 1
            wanted = self._rung(at)
            rng = random.Random(f"{self.seed} {at}")
            fitting = [
                (abs(bank.LEVELS.index(q.level) - wanted), topics[q.topic], rng.random(), q.id)
                for q in self.questions.values()
                if q.kind == kind and self._is_open(q)
            ]
            if fitting:
                return self.questions[min(fitting)[-1]]
        return None

    def _rung(self, at: int) -> int:
        """The level for a place in the plan: a screening question, one a level below, then it."""
        own = bank.LEVELS.index(self.level)
        return (0, max(0, own - 1), own)[min(at, 2)]

    def _is_open(self, question) -> bool:
        """Whether it was not asked yet and there is time for it."""
        asked = any(one.posed.question.id == question.id for one in self.asked)
        return not asked and memory.USUAL[question.kind] <= self.left + LAST


def _plain(one: Asked) -> dict:
    posed = [one.posed.question.id, one.posed.seed]
    said = {"answer": one.answer, "seconds": one.seconds, "follow_up": one.follow_up}
    return {"posed": posed, "marked": asdict(one.marked), **said}


def _restored(entry: dict, pose) -> Asked:
    marked = entry["marked"] | {"notes": tuple(bank.Note(**n) for n in entry["marked"]["notes"])}
    return Asked(**(entry | {"posed": pose(*entry["posed"]), "marked": bank.Marked(**marked)}))
