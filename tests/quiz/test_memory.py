"""What is remembered is what fsrs says of the record, whatever happens to the process."""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import fsrs
import matplotlib
import pytest

from tlcourse import figures, progress
from tlcourse.progress import Event
from tlcourse.quiz import bank, key, memory

matplotlib.use("Agg")


def answer(question, right=True, seed=0, **more):
    posed = question.pose(seed)
    wanted = key.right(posed)
    given = wanted if right else (wanted + 1) % len(posed.options)
    memory.remember(posed, posed.mark(given), given, **more)


def ids(questions):
    return [question.id for question in questions]


@pytest.mark.usefixtures("place")
def test_a_simulated_week_ends_with_what_a_scheduler_driven_by_hand_says(many, clock):
    """Five minutes a day are eight questions of half a minute; a fixed coin says what is known."""
    scheduler, by_hand = fsrs.Scheduler(enable_fuzzing=False), {}
    coin, asked = random.Random(7), []
    for _ in range(7):
        for _ in range(8):
            question = memory.due(many, now=clock.now, new_per_day=5)[:1]
            if not question:
                break
            (question,) = question
            right = coin.random() < 0.75
            answer(question, right, seconds=20.0)
            card = by_hand.get(question.id, fsrs.Card(card_id=1, due=clock.now))
            rated = fsrs.Rating.Good if right else fsrs.Rating.Again
            by_hand[question.id], _ = scheduler.review_card(card, rated, clock.now)
            asked.append(question.id)
            clock.wait(seconds=30)
        clock.wait(days=1, minutes=-4)
    known = memory.cards(now=clock.now)
    assert len(asked) > 40 and len(set(asked)) < len(asked)
    assert {name: one.card.due for name, one in known.items()} == {
        name: card.due for name, card in by_hand.items()
    }
    waiting = [name for name, card in by_hand.items() if card.due <= clock.now]
    now_due = ids(memory.due(many, now=clock.now, new_per_day=0))
    assert waiting and sorted(now_due) == sorted(waiting)
    forgotten = [scheduler.get_card_retrievability(by_hand[name], clock.now) for name in now_due]
    assert forgotten == sorted(forgotten)


@pytest.mark.usefixtures("place")
def test_of_what_is_due_the_most_forgotten_comes_first(many, clock):
    for number, rating in enumerate(("easy", "good", "again")):
        answer(many[f"q04-{number}"], rating=rating)
        clock.wait(minutes=5)
    assert memory.cards(now=clock.now - timedelta(days=1)) == {}
    clock.wait(days=60)
    assert ids(memory.due(many, now=clock.now, new_per_day=0)) == ["q04-2", "q04-1", "q04-0"]


@pytest.mark.usefixtures("place")
def test_what_marking_and_the_caller_know_goes_into_the_record(many):
    posed = many["q04-0"].pose(7)
    marked = bank.Marked(0.75, "", detail={"covered": [0, 2], "points": 2})
    memory.remember(posed, marked, 1, 12.34, interview=30)
    (event,) = progress.events("question")
    assert (event.item, event.points, event.possible) == ("q04-0", 0.75, 1)
    said = {"seed": 7, "answer": 1, "rating": "hard", "seconds": 12.3}
    said |= {"covered": [0, 2], "points": 2, "interview": 30, "revised": False}
    assert event.detail == said


@pytest.mark.usefixtures("place")
def test_new_questions_come_screening_first_mixed_over_topics_and_not_more_than_a_days_share(
    many, clock
):
    first = memory.due(many, now=clock.now)
    assert len(first) == 12 and {question.level for question in first} == {"screening"}
    assert {question.topic for question in first[:4]} == {question.topic for question in first}
    assert ids(first) == ids(memory.due(many, now=clock.now))
    for question in first[:5]:
        answer(question)
    clock.wait(seconds=30)
    assert len(memory.due(many, now=clock.now)) == 7
    clock.wait(days=1)
    tomorrow = memory.due(many, now=clock.now)
    assert set(ids(tomorrow[:5])) == set(ids(first[:5])) and len(tomorrow) == 5 + 12


@pytest.mark.usefixtures("place")
def test_the_same_record_in_another_place_gives_the_same_due_list(
    many, clock, tmp_path, monkeypatch
):
    coin = random.Random(1)
    for question in list(many.values())[:20]:
        answer(question, coin.random() < 0.5)
        clock.wait(hours=7)
    before = ids(memory.due(many, now=clock.now, seed=3))
    progress.export(tmp_path / "record.json")
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(tmp_path / "elsewhere.db"))
    assert ids(memory.due(many, now=clock.now, seed=3)) != before
    progress.restore(tmp_path / "record.json")
    assert ids(memory.due(many, now=clock.now, seed=3)) == before
    progress.restore(tmp_path / "record.json")
    assert ids(memory.due(many, now=clock.now, seed=3)) == before


@pytest.mark.usefixtures("place")
def test_deleting_the_record_forgets_every_question(many):
    answer(many["q04-0"])
    assert memory.cards() and memory.streak() == 1
    program = "from tlcourse.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, "progress", "--delete", "--yes"], check=True)
    assert not memory.cards() and memory.streak() == 0


@pytest.mark.usefixtures("place")
def test_a_revised_answer_replaces_the_one_before_and_is_no_repetition(many, clock):
    question = many["q04-0"]
    answer(question, right=True, seed=4)
    clock.wait(seconds=20)
    answer(question, right=True, seed=4, rating="easy", revised=True)
    (known,) = memory.cards(now=clock.now).values()
    easy, _ = memory.SCHEDULER.review_card(
        fsrs.Card(card_id=0), fsrs.Rating.Easy, clock.now - timedelta(seconds=20)
    )
    assert known.times == 1 and known.card.due == easy.due
    clock.wait(seconds=20)
    answer(question, right=False, seed=5, revised=True)  # of another drawing: an answer by itself
    assert memory.cards(now=clock.now)["q04-0"].times == 2


@pytest.mark.parametrize(
    ("score", "seconds", "rating"),
    [(0, 5, "again"), (0.4, 5, "again"), (0.5, 5, "hard"), (1, 5, "good"), (1, 500, "hard")],
)
def test_the_rating_follows_from_the_score_and_the_time(score, seconds, rating):
    assert memory.rate("single", score, seconds) == rating
    assert memory.rate("single", 1.0, None) == "good"


def test_an_unknown_rating_is_refused(many):
    with pytest.raises(ValueError, match="choose one of again, hard, good, easy"):
        answer(many["q04-0"], rating="superb")


@pytest.mark.usefixtures("place")
def test_strength_is_recall_times_score_and_names_the_weakest(many, clock):
    answer(many["q04-0"])
    answer(many["q04-1"], right=False)
    clock.wait(days=30)
    first, second, *_ = memory.strength(many, now=clock.now)
    known = memory.cards(now=clock.now)
    assert (first.topic, first.seen, first.of, second.seen) == ("Topic 04", 2, 12, 0)
    assert first.score == 0.5 and second.strength != second.strength
    assert first.strength == pytest.approx(known["q04-0"].recall / 2)
    assert first.weakest[0].id == "q04-1"


@pytest.mark.usefixtures("place")
def test_the_figure_says_its_finding_and_the_numbers_in_words(many, clock, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "show_bundle", lambda page, text: shown.update(page=page))
    figures.show(*memory.strength_figure(many, now=clock.now))
    answer(many["q04-0"])
    answer(many["q05-0"], right=False)
    fig, alt = memory.strength_figure(many, now=clock.now)
    (ax,) = fig.axes
    assert fig.get_suptitle() == "Strongest: Topic 04, 100 %\nTo review: Topic 05, 0 %"
    assert "100 %, 1 of 12 seen" in {text.get_text() for text in ax.texts}
    assert "Topic 05 0 %, Topic 06 not begun" in alt
    figures.show(fig, alt)
    assert "Topic 06 not begun" in shown["page"]


@pytest.mark.usefixtures("place")
def test_days_of_practice_are_counted_over_two_weeks(many, clock):
    for days in (11, 2, 0, 1):
        answer(many["q04-0"])
        answer(many["q04-1"])
        clock.wait(days=days)
    assert memory.streak(now=clock.now) == 2  # the first day is the fifteenth, counted from today
    assert memory.streak(now=clock.now - timedelta(days=1)) == 3


@pytest.mark.usefixtures("place")
def test_a_record_of_five_thousand_answers_is_replayed_in_a_moment(monkeypatch):
    monkeypatch.setattr(time, "sleep", None)  # fsrs sleeps for each card that brings no id
    rng, start = random.Random(0), datetime(2026, 1, 1, tzinfo=UTC)
    progress.add(
        [
            Event(
                "question",
                f"q{rng.randrange(700)}",
                1,
                1,
                {"seed": 1, "answer": "1", "rating": rng.choice(["again", "good", "good"])},
                (start + timedelta(hours=hour)).isoformat(),
            )
            for hour in range(5000)
        ]
    )
    started = time.process_time()
    assert len(memory.cards()) > 690
    assert time.process_time() - started < 1.0  # 0.08 s on a quiet machine


@pytest.mark.usefixtures("place")
def test_what_others_recorded_and_other_time_zones_are_read_too(many, clock):
    day = timedelta(days=1)
    progress.add([Event("question", "q04-0", 0, 1, {}, "2026-11-23T12:00:00+09:00")])
    progress.add([Event("question", "q04-0", 1, 1, {"rating": "?"}, "2026-11-23T05:00:00+00:00")])
    known = memory.cards(now=clock.now + day)["q04-0"]
    assert known.first == datetime(2026, 11, 23, 3, tzinfo=UTC)
    assert (known.times, known.score) == (2, 1)


LEARNER = """
from pathlib import Path
from tlcourse.quiz import bank, key, memory
questions = list(bank.load(Path({folder!r})).values())
for number in range({answers}):
    posed = questions[(number * {step}) % len(questions)].pose(number)
    answer = key.right(posed)
    memory.remember(posed, posed.mark(answer), answer, 3.0, learner={step})
    print(number, flush=True)
"""


def learner(many, tmp_path, step, answers):
    program = LEARNER.format(folder=str(tmp_path / "many"), step=step, answers=answers)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("place")
def test_two_processes_that_answer_at_once_lose_nothing(many, tmp_path):
    both = [learner(many, tmp_path, step, 60) for step in (1, 5)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sum(known.times for known in memory.cards().values()) == 120


@pytest.mark.usefixtures("place")
def test_killed_while_answering_only_the_answer_under_way_is_lost(many, tmp_path):
    said = 0
    for turn in range(4):
        process = learner(many, tmp_path, 1, 10**6)
        line = process.stdout.readline()
        time.sleep(0.01 * (1 + turn))
        os.kill(process.pid, signal.SIGKILL)
        said += (line + process.communicate()[0]).count("\n")
        kept = sum(known.times for known in memory.cards().values())
        assert said <= kept <= said + turn + 1
    assert said >= 4


def test_the_key_is_right_and_links_lead_to_what_exists(small):
    for question in small.values():
        for seed in range(5):
            posed = question.pose(seed)
            if question.kind not in ("code", "open"):
                assert posed.mark(key.right(posed)).right, question.id
            assert key.as_markdown(posed, lettered=True)
    (cell, place), (exercise, where) = key.links(small["print-shape-after-pooling"])
    assert (cell, exercise) == ("notebook 04, “Pooled or flattened”", "exercise set ex04")
    assert place == "04_feature_extraction.ipynb#Pooled-or-flattened"
    assert where == "../../exercises/pytorch/ex04_feature_extraction.ipynb"
    (paper, nowhere), _ = key.links(small["several-frozen"])
    assert paper.startswith("Yosinski") and nowhere == ""


def test_every_kind_has_its_usual_time(small):
    assert set(memory.USUAL) == set(bank.by_kind(small.values()))
