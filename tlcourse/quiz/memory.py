"""What a learner remembers: each question's card and what is due, replayed from the record.

There is no table beside the record of events: the cards of fsrs (the Free Spaced Repetition
Scheduler, version 6) are computed from the answers each time, so that they cannot disagree.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import mean

import fsrs

from tlcourse import progress

from .bank import LEVELS

RATINGS = {rating.name.lower(): rating for rating in fsrs.Rating}  # again, hard, good, easy
# What a question of each kind usually takes, in seconds.
USUAL = dict(single=60, several=75, order=75, output=60, number=90, bug=90, open=180, code=480)
NEW_PER_DAY = 12
DAYS = 14  # over which practice is counted
# Without the random shift of intervals the same record gives the same cards everywhere.
SCHEDULER = fsrs.Scheduler(enable_fuzzing=False)


@dataclass(frozen=True)
class Remembered:
    """A question that was answered `times` times: its fsrs card, when first and how well last.

    `recall` is the chance, by fsrs, that it is remembered now; `score` that of the last answer.
    """

    card: fsrs.Card
    first: datetime
    times: int
    score: float
    recall: float


@dataclass(frozen=True)
class Strength:
    """How a topic stands: `seen` of `of` questions, and the means over those seen.

    `strength` is recall times the last score; all three are nan for a topic never asked.
    `weakest` are at most three questions below 90 %, weakest first; `key.links` says where to go.
    """

    topic: str
    lesson: str
    seen: int
    of: int
    recall: float
    score: float
    strength: float
    weakest: tuple


def rate(kind: str, score: float, seconds: float | None) -> str:
    """Return again, hard or good from a score and the time; easy is the learner's to say.

    A quick right answer may be a guess, so it is no more than good.
    """
    if score < 0.5:
        return "again"
    return "hard" if score < 1 or (seconds or 0) > 2 * USUAL[kind] else "good"


def remember(posed, marked, answer, seconds=None, rating=None, revised=False, **detail) -> bool:
    """Record an answer and return whether it is kept.

    `rating` is again, hard, good or easy; without one it is computed. Record at once, and again
    with `revised` where the learner then rates or marks it otherwise: that replaces the last answer
    to the same posed question and is no further repetition.
    Raises ValueError for an unknown rating.
    """
    question = posed.question
    rating = rating or rate(question.kind, marked.score, seconds)
    if rating not in RATINGS:
        raise ValueError(f"unknown rating {rating!r}: choose one of {', '.join(RATINGS)}")
    said = {"seed": posed.seed, "answer": answer, "rating": rating}
    said |= {"seconds": seconds and round(seconds, 1), "revised": revised}
    known = marked.detail | detail | said
    return progress.record("question", question.id, round(float(marked.score), 4), 1, **known)


def cards(now: datetime | None = None) -> dict[str, Remembered]:
    """Return what is remembered of every question answered until now, by its id."""
    now = now or datetime.now(UTC)
    answered = defaultdict(list)
    for at, event in _events(now):
        before = answered[event.item]
        drawn = event.detail.get("seed")
        if before and event.detail.get("revised") and drawn == before[-1][1].detail.get("seed"):
            at, _ = before.pop()
        before.append((at, event))
    return {item: _replay(events, now) for item, events in answered.items()}


def _events(now: datetime) -> list:
    read = datetime.fromisoformat
    dated = [(read(event.at).astimezone(UTC), event) for event in progress.events("question")]
    # Sorted here as times: the record sorts them as text, which may name other time zones.
    return sorted((one for one in dated if one[0] <= now), key=lambda one: (one[0], one[1].id))


def _replay(events: list, now: datetime) -> Remembered:
    first = events[0][0]
    card = fsrs.Card(card_id=0, due=first)  # without an id fsrs waits a millisecond to make one
    for at, event in events:
        # Without a known rating it was recorded by something else.
        score = event.points / (event.possible or 1)
        rated = RATINGS.get(event.detail.get("rating")) or RATINGS[rate("single", score, None)]
        card, _ = SCHEDULER.review_card(card, rated, at)
    recall = SCHEDULER.get_card_retrievability(card, now)
    return Remembered(card, first, len(events), score, recall)


def due(
    questions, now=None, new_per_day: int | None = NEW_PER_DAY, seed: int | None = None
) -> list:
    """Return the questions to ask now: those due, the most forgotten first, then new ones.

    New ones are mixed over topics, screening first, no more than `new_per_day` (None: all) with
    those first met today; their order stays the same for a day unless `seed` says otherwise.
    """
    now, questions = now or datetime.now(UTC), _listed(questions)
    known = cards(now)
    late = [q for q in questions if q.id in known and known[q.id].card.due <= now]
    late.sort(key=lambda q: (known[q.id].recall, known[q.id].card.due, q.id))
    today = now.astimezone().date()
    met = sum(memory.first.astimezone().date() == today for memory in known.values())
    new = [q for q in questions if q.id not in known]
    random.Random(today.toordinal() if seed is None else seed).shuffle(new)
    turn, key = Counter(), {}
    for question in new:  # the first of every topic, then the second of every topic
        turn[question.topic, question.level] += 1
        key[question.id] = LEVELS.index(question.level), turn[question.topic, question.level]
    new.sort(key=lambda question: key[question.id])
    return late + new[: None if new_per_day is None else max(0, new_per_day - met)]


def until(questions, now=None) -> str:
    """Return " before" and when the next answered question is due, "" where none was answered."""
    known = cards(now)
    due = [known[q.id].card.due for q in _listed(questions) if q.id in known]
    return f" before {min(due).astimezone():%d %B, %H:%M}" if due else ""


def strength(questions, now=None) -> list[Strength]:
    """Return how every topic stands, in the order of the bank."""
    known, topics = cards(now), defaultdict(list)
    for question in _listed(questions):
        topics[question.topic].append(question)
    return [_strength(topic, asked, known) for topic, asked in topics.items()]


def _strength(topic: str, asked: list, known: dict) -> Strength:
    seen = [(known[q.id].recall * known[q.id].score, q) for q in asked if q.id in known]
    weak = sorted((pair for pair in seen if pair[0] < 0.9), key=lambda pair: (pair[0], pair[1].id))
    mine = [known[q.id] for _, q in seen]
    columns = ([m.recall for m in mine], [m.score for m in mine], [share for share, _ in seen])
    means = [mean(column) if mine else math.nan for column in columns]
    weakest = tuple(question for _, question in weak[:3])
    return Strength(topic, asked[0].lesson, len(seen), len(asked), *means, weakest)


def streak(now=None) -> int:
    """Return on how many of the last 14 days, today included, something was answered."""
    now = now or datetime.now(UTC)
    since = now.astimezone().date() - timedelta(days=DAYS - 1)
    return len({day for at, _ in _events(now) if (day := at.astimezone().date()) >= since})


def strength_figure(questions, now=None) -> tuple:
    """Return a figure of every topic's strength and its alternative text, for `figures.show`."""
    import matplotlib.pyplot as plt

    from tlcourse.figures import COLORS

    rows = strength(questions, now)[::-1]  # bars are drawn from below
    known = sorted((row for row in rows if row.seen), key=lambda row: row.strength)
    share = {row.topic: f"{100 * row.strength:.0f} %" for row in known}
    title = "Nothing asked yet"
    if known:
        title = f"Strongest: {known[-1].topic}, {share[known[-1].topic]}"
    if known and known[0].weakest:
        title += f"\nTo review: {known[0].topic}, {share[known[0].topic]}"
    fig, ax = plt.subplots(figsize=(6.4, 0.9 + 0.32 * len(rows)))
    values = [row.strength if row.seen else 0 for row in rows]
    ax.barh([row.topic for row in rows], values, color=COLORS[0])
    for height, row in enumerate(rows):
        said = f"{share[row.topic]}, " if row.seen else ""
        ax.text(values[height] + 0.02, height, f"{said}{row.seen} of {row.of} seen", va="center")
    ax.set(xlim=(0, 1.6), xticks=[0, 0.5, 1], xlabel="strength of what was seen (recall × score)")
    ax.set_xticklabels(["0", "50 %", "100 %"])
    ax.grid(False)
    fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    said = [f"{row.topic} {share.get(row.topic, 'not begun')}" for row in rows[::-1]]
    return fig, f"Bars of strength by topic: {', '.join(said)}."


def _listed(questions) -> list:
    return list(questions.values() if isinstance(questions, dict) else questions)
