"""Answers in words: a point counts when it is said and meant, and the doubt is shown."""

import importlib.util
import json
import random
import time
from pathlib import Path

import pytest

from tlcourse.quiz import bank, rubric, wording

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
QUESTIONS = [question for question in bank.load().values() if question.kind == "open"]
WEIGHTS = "open-may-we-ship-these-weights"

each_question = pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)


@pytest.fixture(scope="module")
def question():
    return bank.load()[WEIGHTS]


def covered(question, text):
    return [one.point for one in rubric.score(question, text) if one.state == "covered"]


def answers(name):
    lines = (RESULTS / f"open_answers_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def test_no_question_was_used_for_tuning_and_for_the_test():
    tuning, test = answers("tuning"), answers("test")
    assert len(tuning) >= 150 and len(test) >= 200
    assert not {one["question"] for one in tuning} & {one["question"] for one in test}
    for one in (*tuning, *test):
        assert len(one["points"]) == len(bank.load()[one["question"]].rubric), one["answer"]


def test_the_recorded_agreement_is_what_the_code_gives(monkeypatch):
    monkeypatch.syspath_prepend(RESULTS.parent)
    spec = importlib.util.spec_from_file_location("measured", RESULTS.parent / "open_answers.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    written = json.loads((RESULTS / "open_answers.json").read_text())["test"]["scorer"]
    test, asked = answers("test"), bank.load()
    states = [
        [one.state for one in rubric.score(asked[answer["question"]], answer["answer"])]
        for answer in test
    ]
    worth = json.loads(rubric.WEIGHTS.read_text())["worth_of_doubt"]
    found = benchmark.agreement(test, states, worth)
    for kind, numbers in written.items():
        for name in ("accuracy", "doubtful", "mean_score", "unearned_share"):
            assert found[kind][name] == pytest.approx(numbers[name], abs=0.01), (kind, name)
    assert found["overall"]["kappa"] == pytest.approx(written["overall"]["kappa"], abs=0.02)


@each_question
def test_the_long_model_answer_is_a_good_answer(question):
    assert rubric.mark(question, question.answers.long).score >= 0.8


@each_question
def test_key_words_alone_cover_nothing(question):
    sentences = [sentence for point in question.rubric for sentence in point.covers]
    keys = [one for one in wording.words(" ".join(sentences)) if one not in wording.FUNCTION_WORDS]
    assert not covered(question, ", ".join(keys[:40]))
    random.Random(0).shuffle(keys)
    assert not covered(question, " ".join(keys[:40]))


def test_nine_of_ten_model_answers_are_worthless_with_their_words_shuffled():
    passed = 0
    for question in QUESTIONS:
        shuffled = question.answers.medium.split()
        random.Random(0).shuffle(shuffled)
        passed += len(covered(question, " ".join(shuffled))) > 1
    assert passed <= len(QUESTIONS) / 10


@each_question
def test_the_contrary_of_the_rubric_gets_less_than_half(question):
    denials = " ".join(point.denies[0] for point in question.rubric if point.denies)
    assert rubric.mark(question, denials).score < 0.5


@pytest.mark.parametrize(
    "denied",
    [
        "The licence of the weights and of the data need not be read. What it was trained on does "
        "not matter, nor whether our test pictures were in it. There is no point in pinning the "
        "file by its hash or in loading it in a format that cannot run code. Its own preprocessing "
        "is not needed, and reproducing a known answer is a waste of time. I would not measure it "
        "on our own held-out data, since the published top-1 decides.",
        "I would skip the licence, nobody reads it. The model card is irrelevant. I never pin a "
        "file, and a pickle is harmless. Any preprocessing will do. Probing it on our data against "
        "the network we have is pointless, because the published accuracy proves it.",
    ],
)
def test_a_model_answer_turned_into_its_contrary_gets_less_than_half(question, denied):
    assert rubric.mark(question, denied).score < 0.5


def test_a_right_answer_in_other_words_is_found_with_the_sentence_that_said_it(question):
    said = "I would ask our lawyer whether we may sell something built on it."
    marked = rubric.mark(question, f"{said} Then I would run it on our own photos, by customer.")
    point = marked.detail["points"][0]
    assert point["state"] in ("covered", "doubtful") and point["sentence"] == said
    assert said in marked.notes[0].why
    assert marked.solution == question.answers.medium


def test_doubt_is_said_and_counts_in_part(question, monkeypatch):
    states = ["covered", "doubtful", "missing", "missing", "missing"]
    found = [
        rubric.Covered(point.point, state, "I said so.", 0.5)
        for point, state in zip(question.rubric, states, strict=True)
    ]
    monkeypatch.setattr(rubric, "score", lambda *_: found)
    marked = rubric.mark(question, "I said so, in more than eight words, did I not?")
    worth = json.loads(rubric.WEIGHTS.read_text())["worth_of_doubt"]
    assert marked.score == pytest.approx((1 + worth) / 5)
    assert [note.right for note in marked.notes] == [True, False, False, False, False]
    assert "doubt" in marked.notes[1].why and "1 in doubt" in marked.says


def test_the_learner_can_give_and_take_away_points(question):
    text = question.answers.medium
    first = rubric.mark(question, text)
    assert first.notes[0].right
    taken = rubric.mark(question, text, overruled=[0])
    assert taken.score == pytest.approx(first.score - 1 / 5)
    assert "your own judgement" in taken.notes[0].why
    assert rubric.mark(question, "I do not know.", overruled=range(5)).score == 1
    with pytest.raises(ValueError, match="points of the rubric"):
        rubric.mark(question, text, overruled=[5])


def test_the_weight_of_a_point_counts(question):
    heavy = question.rubric[0].model_copy(update={"weight": 6.0})
    question = question.model_copy(update={"rubric": [heavy, *question.rubric[1:]]})
    assert rubric.mark(question, "", overruled=[0]).score == 0.6


def test_the_same_answer_gets_the_same_score(question):
    first = rubric.score(question, question.answers.short)
    rubric._vectors.cache_clear()
    assert rubric.score(question, question.answers.short) == first


def test_an_answer_is_marked_through_the_question(question):
    assert question.pose().mark(question.answers.long).score >= 0.8


@pytest.mark.parametrize("text", ["", "  \n", "🙂🙂", "...", "```\n```", "---"])
def test_an_answer_without_words_is_answered_kindly(question, text):
    marked = rubric.mark(question, text)
    assert marked.score == 0 and "Say one point" in marked.says
    assert [point["state"] for point in marked.detail["points"]] == ["missing"] * 5


@pytest.mark.parametrize(
    "text",
    [
        "licence",
        "Das kommt darauf an, was der Kunde will und was es kosten darf.",
        "これは良い質問ですね。",
        "x" * 100_000,
        "word " * 10_000,
        "<script>alert(1)</script> {{ 7 * 7 }} $\\frac{1}{2}$",
    ],
)
def test_odd_answers_get_nothing_and_no_error(question, text):
    assert rubric.mark(question, text).score == 0


def test_markdown_and_emoji_change_little(question):
    plain = question.answers.medium
    dressed = "\n".join(f"- **{one}** 🙂" for one in plain.split(". "))
    assert rubric.mark(question, dressed).score >= 0.8 * rubric.mark(question, plain).score


def test_ten_thousand_words_are_cut_and_it_is_said(question):
    rubric.encoder()
    began = time.perf_counter()
    marked = rubric.mark(question, (question.answers.long + " ") * 50)
    assert time.perf_counter() - began < 10
    assert marked.score >= 0.8 and f"first {wording.MOST_WORDS} words" in marked.says


def test_speech_without_punctuation_is_cut_into_pieces(question):
    said = question.answers.medium.replace(".", ",").replace(":", ",").lower()
    assert len(wording.sentences(said)) > 4
    assert rubric.mark(question, said).score >= 0.5
