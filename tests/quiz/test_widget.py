"""The room on its Python side: what it lets out, what it marks, what it remembers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tlcourse import progress, quiz
from tlcourse.quiz import bank, card, key, memory, rubric

BANK = Path(__file__).parent / "one_of_each.yaml"
CODE = "def l2_sp_gradient(theta, gradient, theta_pre, lam, head):\n    return gradient + lam * "
RIGHT = {
    "code": CODE + "(theta - theta_pre * (1 - head))",
    "open": "Less gradient, few labels, not",
}
WRONG = {"several": [], "number": "12", "output": "(16, 7)", "bug": 2, "code": CODE + "theta"}
WRONG |= {"open": "no idea"}


@pytest.fixture(autouse=True)
def questions(monkeypatch, tmp_path):
    """One question of each kind, a record of its own, and open answers marked by three words."""
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(tmp_path / "record" / "progress.db"))
    listed = {question.id: question for question in bank._read(BANK)}
    monkeypatch.setattr(bank, "load", lambda: listed)

    monkeypatch.setattr(rubric, "mark", by_three_words)
    return listed


def by_three_words(question, text, overruled=()):
    """As rubric.mark does, without its encoder: a word stands for each point."""
    said = [word in text for word in ("label", "gradient", "not")]
    points = [
        {"state": "covered" if yes != (k in overruled) else "missing", "overruled": k in overruled}
        for k, yes in enumerate(said)
    ]
    found = [point["state"] == "covered" for point in points]
    notes = [bank.Note(p.point, f, f, "") for p, f in zip(question.rubric, found, strict=True)]
    return bank.Marked(sum(found) / 3, f"{sum(found)} of 3", tuple(notes), "", {"points": points})


KINDS = {question.kind: question.id for question in bank._read(BANK)}


def as_shown(right, kind: str):
    """A right answer as a person gives it: options and steps count from 1."""
    if kind == "single":
        return right + 1
    return [place + 1 for place in right] if kind in ("several", "order") else right


def answers(kind: str) -> tuple:
    """A right and a wrong answer to the question of this kind, drawn from seed 0."""
    posed = bank.load()[KINDS[kind]].pose(0)
    right = RIGHT.get(kind, as_shown(key.right(posed), kind))
    wrong = WRONG.get(kind)
    if kind == "single":
        wrong = 1 + (key.right(posed) + 1) % 3
    return right, right[::-1] if kind == "order" else wrong


def known_to_the_browser(room) -> str:
    """All of the widget's state, with formulas and quotes as the bank writes them."""
    state = room.get_state()
    state.pop("_esm"), state.pop("_css")
    return json.dumps(state, default=str, ensure_ascii=False)


def secrets(posed) -> list[str]:
    """Whatever would give the answer away, as it would look in the state."""
    question, said = posed.question, []
    for option in getattr(question, "options", getattr(question, "steps", [])):
        said.append(option.why)
    for mistake in getattr(question, "mistakes", []):
        said.append(mistake.why)
    if question.kind in ("number", "output"):
        said += [key.in_words(posed, key.right(posed))]
    if question.kind == "bug":
        said += [question.mended.strip(), *question.others.values()]
    if question.kind == "open":
        said += [*question.answers.model_dump().values(), *(p.point for p in question.rubric)]
    return [*said, getattr(question, "solution", question.reason), question.reason]


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_reaches_the_browser_with_the_answer_and_not_before(kind):
    room = quiz.ask(KINDS[kind], seed=0)
    posed = room._posed
    before = known_to_the_browser(room)
    hidden = [card.as_phrase(secret) for secret in secrets(posed)]
    assert [secret for secret in hidden if json.dumps(secret)[1:-1] in before] == []
    assert '"right"' not in before and '"order": ' not in before
    static = room._repr_mimebundle_()[0]
    assert not any(s in static["text/html"] + static["text/plain"] for s in secrets(posed))
    room.answer(answers(kind)[1] or [1])
    assert posed.question.reason in known_to_the_browser(room)


def _inside(answer, kind: str):
    """An answer as the browser sends it: options and steps count from 0."""
    if kind == "single":
        return answer - 1
    return [place - 1 for place in answer] if kind in ("several", "order") else answer


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_answered_right_and_wrong_and_recorded(kind):
    right, wrong = answers(kind)
    for answer, is_right in ((right, True), (wrong, False)):
        room = quiz.ask(KINDS[kind])
        room._pose(bank.load()[KINDS[kind]].pose(0))
        room.answer(answer)
        back = room.shown["back"]
        assert (back["state"] == "right") is is_right, back["says"]
        assert room.shown["buttons"] == [["next", "Once more"]]
        event = progress.events("question")[-1]
        assert (event.item, event.points == 1) == (KINDS[kind], is_right)
        assert event.detail["rating"] == back["rating"]
        with pytest.raises(ValueError, match="no open question"):
            room.answer(right)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_browser_sends_is_marked_like_a_call(kind):
    room = quiz.ask(KINDS[kind])
    room._pose(bank.load()[KINDS[kind]].pose(0))
    room._received(room, {"do": "answer", "value": _inside(answers(kind)[0], kind)}, [])
    assert room.shown["back"]["state"] == "right"


def test_an_answer_of_another_form_is_told_and_the_question_stays():
    room, said = quiz.ask("a-number"), []
    room.send = said.append
    for value in ("plenty", None, [1]):
        room._received(room, {"do": "answer", "value": value}, [])
    room._received(room, {"do": "__init__"}, [])
    room._received(room, {"do": "pick", "value": {"topic": "x"}}, [])
    assert len(said) == 5 and all(one["problem"] for one in said)
    assert "is not one number" in said[0]["problem"]
    assert room.shown["back"] is None and progress.events() == []
    with pytest.raises(ValueError, match="is not one number"):
        room.answer("plenty")


def test_a_hint_helps_gives_nothing_away_and_makes_the_answer_hard():
    for kind, name in KINDS.items():
        room = quiz.ask(name).hint()
        assert room.shown["hint"]
        assert ["hint", "Hint"] not in room.shown["buttons"]
        if kind == "single":
            right = key.right(room._posed)
            assert room._posed.options[right] not in room.shown["hint"]
            room.answer(right + 1)
            assert room.shown["back"]["rating"] == "hard"


def test_a_rating_replaces_the_one_that_was_computed():
    room = quiz.ask("a-bug").answer(7).rate("easy")
    assert room.shown["back"]["rating"] == "easy"
    assert [event.detail["rating"] for event in progress.events("question")] == ["good", "easy"]
    assert memory.cards()["a-bug"].times == 1
    with pytest.raises(ValueError, match="unknown rating"):
        room.rate("fine")


def test_a_learner_overrules_points_of_an_open_answer_and_takes_it_back():
    room = quiz.ask("an-open").answer("no gradient, not")
    boxes = [note["box"] for note in room.shown["back"]["notes"]]
    assert boxes == ["I did say this", "I did not say this", "I did not say this"]
    room._received(room, {"do": "overrule", "value": [1]}, [])
    back = room.shown["back"]
    assert back["state"] == "right" and back["notes"][0]["overruled"] is True
    event = progress.events("question")[-1]
    assert event.points == 1 and event.detail["revised"]
    assert '"overruled": true' in json.dumps(event.detail)
    room.overrule([])
    assert room.shown["back"]["state"] == "partly"
    assert memory.cards()["an-open"].score == pytest.approx(2 / 3, abs=1e-3)
    assert memory.cards()["an-open"].times == 1
    with pytest.raises(ValueError, match="points of an open answer"):
        quiz.ask("a-bug").answer(7).overrule([1])


def test_a_room_asks_what_is_new_follows_up_and_comes_to_an_end():
    room, asked = quiz.room(seed=3), []
    while room._posed is not None:
        asked.append(room._posed.question.id)
        if asked[-1] == "a-single":
            wrong = (key.right(room._posed) + 1) % 3
            assert room.answer(wrong + 1).next()._posed.question.id == "a-number"
        else:
            room.next()  # skipped
    assert set(asked) == set(KINDS.values())
    assert "Nothing more is due" in room.shown["html"] and "Nothing more" in repr(room)
    assert room.more()._posed is not None


def test_topic_and_level_are_chosen_by_name_or_lesson():
    room = quiz.room("05", "senior")
    assert room._posed.question.id == "a-bug"
    assert room.next()._posed is None
    assert room.pick(level="practitioner")._posed.question.level == "practitioner"
    with pytest.raises(ValueError, match="'x' names no topic: choose one of One of each"):
        quiz.room("x")
    with pytest.raises(ValueError, match="unknown level 'expert'"):
        quiz.room(level="expert")
    with pytest.raises(ValueError, match="no question 'x'"):
        quiz.ask("x")


def test_after_a_restart_the_open_question_is_there_with_what_was_typed():
    room = quiz.room()
    room.next()
    room.hint()
    room.given = "half an answer"
    again = quiz.room()
    assert (again._posed, again.given) == (room._posed, "half an answer")
    assert again.shown == room.shown | {"progress": again.shown["progress"]}
    assert again.shown["hint"]
    assert quiz.room(level="senior")._posed.question.id == "a-bug"  # another room, another place
    again._answer(RIGHT.get(again._posed.question.kind, key.right(again._posed)))
    assert quiz.room()._posed.question.id != again._posed.question.id


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "gone"}', '{"id": "a-bug", "seed": 1}'])
def test_a_damaged_note_of_what_was_open_costs_nothing(text):
    room = quiz.room()
    room._file.write_text(text)
    assert quiz.room()._posed is not None


def test_without_a_record_nothing_is_written_and_the_same_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_PROGRESS", "off")
    first, second = quiz.room(), quiz.room()
    assert first.shown == second.shown
    asked = [first._posed.question.id]
    first._answer(RIGHT.get(first._posed.question.kind, key.right(first._posed)))
    assert first.next()._posed.question.id not in asked
    assert list(tmp_path.iterdir()) == []


def test_a_mock_interview_stands_still_until_it_begins_and_reports_at_its_end():
    room = quiz.interview(15, "practitioner", seed=1)
    assert room.shown["front"] is None and room.shown["clock"] == {"left": 900, "running": False}
    room._received(room, {"do": "resume"}, [])
    assert room.shown["front"] and room.shown["clock"]["running"]
    asked = room._posed
    assert not any(card.as_phrase(s) in known_to_the_browser(room) for s in secrets(asked))
    room.given = "typed"
    room.pause()
    assert room.shown["front"] is None and asked.ask not in known_to_the_browser(room)
    with pytest.raises(ValueError, match="no hints in an interview"):
        room.hint()
    again = quiz.interview(15, "practitioner").resume()
    assert (again._posed, again.given) == (asked, "typed")
    right = RIGHT.get(asked.question.kind, key.right(asked))
    again._received(again, {"do": "answer", "value": right}, [])
    assert again.shown["back"] is None  # no word before the end
    again.next().end()
    assert "To review" in again.shown["html"] and "1 of 2 answered in full" in repr(again)
    assert again.report().as_markdown() == repr(again)
    assert again.again().shown["clock"] == {"left": 900, "running": False}
    with pytest.raises(ValueError, match="15, 30 or 45"):
        quiz.interview(20)


def test_another_interview_than_the_open_one_begins_anew():
    quiz.interview(15, "practitioner").resume()
    assert quiz.interview(30, "senior").shown["clock"]["left"] == 1800


def test_where_no_widget_runs_the_question_is_text_that_says_how_to_answer():
    room = quiz.ask("a-single", seed=0)
    bundle, _ = room._repr_mimebundle_()
    for text in (bundle["text/plain"], bundle["text/html"], repr(room)):
        assert "question.answer(2)" in text and "The running mean of the BatchNorm" in text
    assert "η ≥ 10⁻³" in bundle["text/html"] and "<math" not in bundle["text/html"]
    room.answer(1)
    assert "They are buffers." in repr(room)
    assert "They are buffers." in room._repr_mimebundle_()[0]["text/html"]


def test_importing_the_quiz_stays_cheap():
    code = (
        "import sys, tlcourse.quiz; sys.exit('ipywidgets' in sys.modules or len(sys.modules) > 400)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
