"""What a learner opens: the room, a single question, a mock interview."""

from __future__ import annotations

import re

from tlcourse.quiz import bank, memory
from tlcourse.quiz.mock_interview import Interview
from tlcourse.quiz.widget import Room


class Practice(Room):
    """What is due first, then new questions; of one topic or level, or of all."""

    def __init__(self, questions: dict, topic=None, level=None, seed=None):
        self._topic, self._level = picked(questions, topic, level)
        self._new, self._left = memory.NEW_PER_DAY, 0
        super().__init__(questions, _slug("room", self._topic, self._level), seed)

    @property
    def _ended(self) -> str:
        later = memory.until(self._questions)
        return f"Nothing more is due{later}. Come back then, or go on with what you have not seen."

    def more(self) -> Practice:
        """Go on when the questions of the day are done."""
        self._new, self._passed = self._new + memory.NEW_PER_DAY, set()
        return self.next()

    def pick(self, topic: str | None = None, level: str | None = None) -> Practice:
        """Ask about one topic (its name or number) or level only; None stands for all."""
        self._topic, self._level = picked(self._questions, topic, level)
        self._follow_up = self._posed = None
        return self.next()

    def _waiting(self) -> list:
        asked = [
            question
            for question in self._questions.values()
            if self._topic in (None, question.topic) and self._level in (None, question.level)
        ]
        last = self._posed and self._posed.question.id
        # Who names a topic or a level has chosen what to learn: no daily share of new ones then.
        free = self._topic is None and self._level is None
        waiting = memory.due(asked, new_per_day=self._new if free else None, seed=self._fixed)
        waiting = [q for q in waiting if q.id not in self._passed and q.id != last]
        self._left = len(waiting)
        return waiting

    def _buttons(self) -> list:
        return [["more", "Ask me more"]] if self._posed is None else super()._buttons()

    def _progress(self) -> str:
        right, answered = self._tally["right"], self._tally["answered"]
        return f"{right} of {answered} right so far" if answered else f"{self._left} for today"

    def _extras(self) -> dict:
        topics = list(dict.fromkeys(q.topic for q in self._questions.values()))
        if len(topics) < 2:
            return {}
        chosen = {"topic": self._topic, "level": self._level}
        return {"pick": {"topics": topics, "levels": list(bank.LEVELS), **chosen}}

    def _state(self) -> dict | None:
        state = super()._state()
        return state and state | {"topic": self._topic, "level": self._level}

    def _restore(self, state: dict) -> None:
        self._topic, self._level = picked(self._questions, state["topic"], state["level"])
        super()._restore(state)


class Single(Room):
    """Asks one question, each time with other numbers where it draws them."""

    name = "question"

    def _buttons(self) -> list:
        if self._marked is not None:
            return [["next", "Once more"]]
        return [button for button in super()._buttons() if button[0] != "next"]


class MockInterview(Room):
    """A mock interview: a clock that can be paused, no word on the answers before the report."""

    name = "interview"
    _interview: Interview | None = None

    def __init__(self, minutes: int, level: str, seed: int | None = None):
        self._wanted = minutes, level
        Interview(minutes, level, questions=bank.load())  # refuses what cannot be, before all else
        super().__init__(bank.load(), "interview", seed)

    def again(self) -> MockInterview:
        """Begin another interview; its clock stands still until `resume`."""
        minutes, level = self._wanted
        seed = self._rng.getrandbits(31)
        self._interview = Interview(minutes, level, seed, questions=self._questions)
        self._interview.pause()
        return self._synced()

    def next(self) -> MockInterview:
        """Skip the question: it counts as not answered."""
        if self._interview is None:
            return self.again()
        self._interview.skip()
        return self._synced()

    def pause(self) -> MockInterview:
        """Stop the clock and cover the question."""
        self._interview.pause()
        return self._synced(self.given)

    def resume(self) -> MockInterview:
        """Begin, or go on after a pause."""
        self._interview.resume()
        return self._synced(self.given)

    def end(self) -> MockInterview:
        """End now and show the report; the question under way does not count."""
        self._interview.end()
        return self._synced()

    def hint(self) -> MockInterview:
        """Refused: an interviewer gives none that counts for nothing."""
        raise ValueError("there are no hints in an interview: skip the question, or try")

    def report(self):
        """Return the report on what was answered so far; it has `as_markdown`."""
        return self._interview.report()

    def _answer(self, answer) -> None:
        self._interview.answer(answer)
        self._synced()

    def _synced(self, given=None) -> MockInterview:
        covered = self._interview.paused and not self._interview.finished
        self._pose(None if covered else self._interview.current, given)
        return self

    @property
    def _ended(self) -> str:
        if self._interview.finished:
            return self._interview.report().as_markdown()
        minutes, level = self._wanted
        return (
            f"An interview of {minutes} minutes, {level}. The clock stands still: "
            f"{self._interview.left / 60:.0f} minutes are left. The button starts it, or in code "
            f"`{self.name}.resume()`."
        )

    def _buttons(self) -> list:
        if self._interview.finished:
            return [["again", "Another interview"]]
        if self._interview.paused:
            return [["resume", "Go on" if self._interview.spent > 1 else "Begin"]]
        more = [["next", "Skip"], ["pause", "Pause"], ["end", "End now"]]
        return [["answer", "Answer"], *more]

    def _progress(self) -> str:
        return f"{len(self._interview.asked)} answered"

    def _extras(self) -> dict:
        if self._interview.finished:
            return {}
        running = not self._interview.paused
        return {"clock": {"left": round(self._interview.left), "running": running}}

    def _state(self) -> dict | None:
        if self._interview is None or self._interview.finished:
            return None
        return {"interview": self._interview.state(), "given": self.given}

    def _restore(self, state: dict) -> None:
        if (state["interview"]["minutes"], state["interview"]["level"]) != self._wanted:
            raise ValueError("another interview was open")
        self._interview = Interview.restore(state["interview"], questions=self._questions)
        self._interview.pause()  # until the learner is back
        self._synced(state["given"])


def room(topic: str | None = None, level: str | None = None, seed: int | None = None) -> Practice:
    """Return the interview room: what is due first, then new questions, with follow-ups.

    `topic` is a topic's name or the number of its lesson ("05"); `level` is screening,
    practitioner or senior. Raises ValueError naming the known ones for another.
    """
    return Practice(bank.load(), topic, level, seed)


def interview(
    minutes: int = 15, level: str = "practitioner", seed: int | None = None
) -> MockInterview:
    """Return a mock interview of 15, 30 or 45 minutes; the clock starts with its first button."""
    return MockInterview(minutes, level, seed)


def ask(question_id: str, seed: int | None = None) -> Single:
    """Return one question of the bank by its id. Raises ValueError where there is none."""
    questions = bank.load()
    if question_id not in questions:
        raise ValueError(f"there is no question {question_id!r} in the bank")
    question = {question_id: questions[question_id]}
    return Single(question, _slug("ask", question_id), seed)


def picked(questions: dict, topic: str | None, level: str | None) -> tuple:
    """Return topic and level as the bank calls them.

    A topic may be named by a part of its name or by its lesson ("05"). Raises ValueError naming
    the known ones for another.
    """
    named = [None] if topic is None else bank.topics(questions.values(), str(topic))
    if len(named) != 1:
        what = "more than one topic" if named else "no topic"
        known = named or dict.fromkeys(question.topic for question in questions.values())
        raise ValueError(f"{topic!r} names {what}: choose one of {', '.join(known)}")
    if level not in (None, *bank.LEVELS):
        raise ValueError(f"unknown level {level!r}: choose one of {', '.join(bank.LEVELS)}")
    return named[0], level


def _slug(*parts: str | None) -> str:
    return re.sub(r"[^a-z0-9]+", "-", "-".join(filter(None, parts)).lower())
