"""A small bank, a learner's place for the record, and the command with both."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from tlcourse import progress
from tlcourse.quiz import bank

SMALL = Path(__file__).parent / "small_bank"  # one question of each kind
PROGRAM = (
    "from pathlib import Path; from tlcourse.quiz import bank; whole = bank.load; "
    "bank.load = lambda folder=Path({folder!r}): whole(folder); "
    # Answers in words are scored by a network that takes seconds to load.
    "bank.Open.mark = lambda self, posed, answer: bank.Marked(0.5, 'Half of the points.'); "
    "from tlcourse.cli import main; main()"
)


class Clock:
    """A clock that stands still until it is moved; `monotonic` gives its seconds."""

    def __init__(self, start):
        self.now = start

    def wait(self, **time):
        self.now += timedelta(**time)

    def monotonic(self):
        return self.now.timestamp()


@pytest.fixture
def place(tmp_path, monkeypatch):
    file = tmp_path / "a record" / "progress.db"
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(file))
    return file


@pytest.fixture
def clock(monkeypatch):
    """The time at which things are recorded, to be moved by a test."""
    moved = Clock(datetime(2026, 11, 23, 18, 0, tzinfo=UTC))

    class Now(datetime):
        @classmethod
        def now(cls, tz=None):
            return moved.now.astimezone(tz)

    monkeypatch.setattr(progress, "datetime", Now)
    return moved


@pytest.fixture
def small():
    """One question of each kind, by id."""
    return bank.load(SMALL)


@pytest.fixture
def many(tmp_path):
    """A bank of 4 topics with 12 single questions each, in three levels."""
    for lesson in ("04", "05", "06", "07"):
        asked = [
            {
                "id": f"q{lesson}-{number}",
                "kind": "single",
                "level": bank.LEVELS[number % 3],
                "ask": f"Which one is number {number}?",
                "options": [
                    {"text": "this", "why": "so", "right": True},
                    {"text": "that", "why": "not so"},
                    {"text": "neither", "why": "not so"},
                ],
                "reason": "A test.",
                "source": {"cell": f"{lesson}#A heading"},
                "checked": "2026-11-22",
            }
            for number in range(12)
        ]
        topic = {"topic": f"Topic {lesson}", "lesson": lesson, "questions": asked}
        file = tmp_path / "many" / f"{lesson}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(topic), encoding="utf-8")
    return bank.load(tmp_path / "many")


@pytest.fixture
def command():
    """The command line `tlcourse quiz ...` over a folder of questions."""

    def words(*more, folder=SMALL):
        return [sys.executable, "-c", PROGRAM.format(folder=str(folder)), "quiz", *more]

    return words
