"""A mock interview keeps its plan and its time, follows up, and says what to review."""

import json
from collections import Counter

import pytest

from tlcourse import progress
from tlcourse.quiz import bank, key, memory
from tlcourse.quiz.mock_interview import FOLLOW_UPS, PLAN, Interview


def begin(questions, clock, minutes=15, level="practitioner", seed=1):
    return Interview(minutes, level, seed, clock=clock.monotonic, questions=questions)


def right_answer(posed):
    answers = {"open": "It saves memory.", "code": "def largest_rate(H): return 0"}
    given = key.right(posed)
    return answers[posed.question.kind] if given is None else given


@pytest.fixture
def whole(small):
    """The small bank copied over five topics and three levels, four times, without follow-ups."""
    made = {}
    for copy in range(60):
        for name, question in small.items():
            changes = {"id": f"{name}-{copy}", "topic": f"Topic {copy % 5}"}
            changes |= {"level": bank.LEVELS[copy % 3], "follow_up": bank.FollowUp()}
            made[changes["id"]] = question.model_copy(update=changes)
    return made


@pytest.fixture(autouse=True)
def no_scorer(monkeypatch):
    """Answers in words are scored elsewhere, and slowly."""
    marked = bank.Marked(0.5, "Two of three points.", (bank.Note("Memory", True, True, "said"),))
    monkeypatch.setattr(bank.Open, "mark", lambda self, posed, answer: marked)


@pytest.mark.parametrize("minutes", [15, 30, 45])
def test_the_plan_fits_the_time_and_opens_with_screening(minutes, whole, clock):
    assert sum(memory.USUAL[kind] for kind in PLAN[minutes]) <= 60 * minutes
    room, kinds = begin(whole, clock, minutes), []
    assert room.current.question.level == "screening"
    while not room.finished:
        if not room.follow_up:
            kinds.append(room.current.question.kind)
        clock.wait(seconds=memory.USUAL[room.current.question.kind])
        room.skip()
    assert kinds[0] == "single" and {"number", "bug", "open"} <= set(kinds)
    assert ("code" in kinds) == (minutes > 15)
    assert 60 * minutes - 240 < room.spent <= 60 * minutes + 60
    assert len({one.posed.question.id for one in room.asked}) == len(room.asked)


@pytest.mark.parametrize("level", bank.LEVELS)
def test_most_questions_are_of_the_level_and_the_topics_are_mixed(level, whole, clock):
    room = begin(whole, clock, 30, level)
    while not room.finished:
        clock.wait(seconds=60)
        room.skip()
    asked = [one.posed.question for one in room.asked]
    of_the_level = sum(question.level == level for question in asked)
    assert of_the_level >= len(asked) / 2
    topics = Counter(question.topic for question in asked)
    assert len(topics) == 5 and max(topics.values()) - min(topics.values()) <= 2


def test_a_follow_up_depends_on_the_answer(small, clock):
    def after(right):
        room = begin(small, clock)
        assert room.current.question.id == "frozen-batchnorm-statistics"
        wanted = key.right(room.current)
        room.answer(wanted if right else (wanted + 1) % 3)
        assert room.follow_up
        return room.current.question.id

    assert after(right=True) == "bug-flags-after-optimizer"
    assert after(right=False) == "several-frozen"


@pytest.mark.parametrize("follower", ["code-largest-rate", "bug-flags-after-optimizer"])
def test_a_follow_up_that_fits_neither_time_nor_level_is_left_out(follower, small, clock):
    first = small["frozen-batchnorm-statistics"]
    chain = bank.FollowUp(right=follower, wrong=follower)
    questions = small | {
        first.id: first.model_copy(update={"follow_up": chain}),
        follower: small[follower].model_copy(update={"level": "senior"}),
    }
    for minutes, level, fits in ((15, "screening", False), (30, "senior", True)):
        room = begin(questions, clock, minutes, level)
        assert room.current.question.id == first.id
        room.skip()
        assert room.follow_up == fits
    quarter = begin(questions, clock, 15, "senior")
    quarter.skip()
    assert quarter.follow_up == (small[follower].kind != "code")


def test_no_more_than_two_follow_ups_come_in_a_row(many, clock):
    names = list(many)
    chained = {
        name: question.model_copy(
            update={"follow_up": bank.FollowUp(right=names[k - 1], wrong=names[k - 1])}
        )
        for k, (name, question) in enumerate(many.items())
    }
    room, row = begin(chained, clock), []
    while not room.finished:
        row.append(room.follow_up)
        clock.wait(seconds=60)
        room.skip()
    assert row[:4] == [False, True, True, False] and FOLLOW_UPS == 2


def test_the_clock_can_be_paused_and_nothing_is_answered_meanwhile(small, clock):
    room = begin(small, clock)
    clock.wait(seconds=100)
    room.pause()
    clock.wait(hours=3)
    assert room.paused and room.left == 800
    with pytest.raises(ValueError, match="the clock is paused"):
        room.answer(0)
    room.resume()
    clock.wait(seconds=10)
    assert room.left == 790
    room.skip()
    assert room.asked[0].seconds == 110


def test_the_question_under_way_may_be_finished_when_the_time_is_up(small, clock):
    room = begin(small, clock)
    clock.wait(minutes=20)
    assert room.left == 0 and not room.finished
    room.answer(key.right(room.current))
    assert room.finished and len(room.asked) == 1
    clock.wait(minutes=20)
    assert room.spent == 20 * 60
    with pytest.raises(ValueError, match="the interview is over"):
        room.answer(0)


def test_the_clock_stands_still_while_an_answer_is_marked(small, clock, monkeypatch):
    def slow(self, posed, answer):
        clock.wait(seconds=20)
        if answer == "refused":
            raise ValueError("not an answer")
        return bank.Marked(1.0, "Right.")

    monkeypatch.setattr(bank.Single, "mark", slow)
    room = begin(small, clock)
    clock.wait(seconds=50)
    with pytest.raises(ValueError, match="not an answer"):
        room.answer("refused")
    room.answer(0)
    assert room.left == 850 and room.asked[0].seconds == 50 and not room.paused


def test_nothing_new_is_asked_in_the_last_seconds(small, clock):
    room = begin(small, clock)
    clock.wait(minutes=14, seconds=30)
    room.skip()
    assert room.finished and room.left == 30


def test_an_answer_of_another_form_leaves_the_question(small, clock):
    room = begin(small, clock)
    before = room.current
    with pytest.raises(ValueError, match="no option 9"):
        room.answer(9)
    assert room.current is before and not room.asked


@pytest.mark.usefixtures("place")
def test_a_restarted_kernel_goes_on_where_it_was(whole, clock):
    def hold(restarting):
        room = begin(whole, clock)
        while not room.finished:
            clock.wait(seconds=40)
            answer = right_answer(room.current) if len(room.asked) % 2 else None
            room.skip() if answer is None else room.answer(answer)
            if restarting:
                kept = json.dumps(room.state())
                clock.wait(hours=5)
                room = Interview.restore(json.loads(kept), clock.monotonic, whole)
        return room

    first, second = hold(restarting=False), hold(restarting=True)
    assert first.report().as_markdown() == second.report().as_markdown()
    assert len(first.asked) > 5 and json.dumps(first.state()) == json.dumps(second.state())


def test_a_state_that_no_longer_fits_the_bank_is_refused(small, many, clock):
    state = begin(small, clock).state()
    with pytest.raises(ValueError, match="cannot go on, begin another"):
        Interview.restore(state, clock.monotonic, many)
    with pytest.raises(ValueError, match="cannot go on, begin another"):
        Interview.restore({"minutes": 15}, clock.monotonic, small)


@pytest.mark.parametrize(
    ("words", "message"),
    [((20, "senior"), "15, 30 or 45 minutes, not 20"), ((15, "boss"), "unknown level 'boss'")],
)
def test_another_length_or_level_is_refused(words, message, small):
    with pytest.raises(ValueError, match=message):
        Interview(*words, questions=small)
    with pytest.raises(ValueError, match="no questions"):
        Interview(questions={})


@pytest.mark.usefixtures("place")
def test_every_answer_is_in_the_record_at_once(small, clock):
    room = begin(small, clock)
    clock.wait(seconds=30)
    room.answer(key.right(room.current))
    clock.wait(seconds=1)
    room.skip()
    first, second = progress.events("question")
    assert (first.item, first.points) == (room.asked[0].posed.question.id, 1)
    assert (first.detail["seconds"], first.detail["interview"]) == (30, 15)
    assert (second.detail["answer"], second.detail["rating"]) == (None, "again")


def test_the_report_says_what_was_strong_what_to_review_and_where(small, clock):
    room = begin(small, clock)
    while not room.finished:
        clock.wait(seconds=30)
        kind = room.current.question.kind
        if kind == "number":
            room.answer("17")
        elif kind == "order":
            room.skip()
        else:
            room.answer(right_answer(room.current))
    report = room.report().as_markdown()
    strong, _, rest = report.partition("## To review")
    review, _, models = rest.partition("## Model answers")
    assert "## Strong" in strong and "What does this print?" in strong
    assert "How many parameters" in review and "How many parameters" not in strong
    assert "What does this print?" not in review
    assert "You answered: 17" in review and "and a bias for each class" in review
    assert "Not answered." in review
    link = "[notebook 04, “Cut the head off”](04_feature_extraction.ipynb#Cut-the-head-off)"
    assert f"Review: {link}" in review
    assert "ex04_feature_extraction.ipynb" in review
    assert small["open-why-freeze"].answers.medium in models
    assert "| Feature extraction |" in strong
    assert begin(small, clock).report().as_markdown().startswith("# Interview of 15 minutes")
