"""A question is posed without its key, and every kind of answer is marked as it deserves."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tlcourse.quiz import bank, check, key

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def questions():
    return bank.load()


def a_question(tmp_path, **changes):
    entry = {
        "id": "width-of-a-head",
        "kind": "number",
        "level": "screening",
        "draw": {"features": [384, 1280], "classes": [2, 5]},
        "ask": "How many parameters has a head for {{ features | thousands }} features?",
        "answer": "features * classes + classes",
        "unit": "parameters",
        "solution": "{{ features }}·{{ classes }} + {{ classes }} = {{ answer }}",
        "mistakes": [{"answer": "features * classes", "why": "The bias is missing."}],
        "reason": "A first check.",
        "source": {"cell": "04#Cut the head off"},
        "checked": "2026-11-22",
        "verify": "assert answer == (features + 1) * classes",
    } | changes
    entry = {name: value for name, value in entry.items() if value is not None}
    file = tmp_path / "bank" / "04_heads.yaml"
    file.parent.mkdir(exist_ok=True)
    topic = {"topic": "Heads", "lesson": "04", "questions": [entry]}
    file.write_text(yaml.safe_dump(topic), encoding="utf-8")
    bank.load.cache_clear()
    return bank.load(file.parent)["width-of-a-head"]


CHOICE = {
    "ask": "Which one?",
    "draw": None,
    "answer": None,
    "unit": None,
    "solution": None,
    "mistakes": None,
    "verify": None,
    "options": [
        {"text": "One", "why": "so", "right": True},
        {"text": "Two", "why": "not so"},
        {"text": "Three", "why": "not so"},
        {"text": "Four", "why": "so too"},
    ],
}


def test_the_bank_is_large_and_holds_every_kind_and_level(questions):
    assert len(questions) >= 250
    kinds = bank.by_kind(questions.values())
    assert set(kinds) == {"single", "several", "number", "output", "bug", "order", "code", "open"}
    assert min(kinds.values()) >= 8
    for level in bank.LEVELS:
        assert sum(question.level == level for question in questions.values()) >= 60


def test_a_drawn_number_changes_with_the_seed_and_is_marked_against_its_own(tmp_path):
    question = a_question(tmp_path)
    drawn = {tuple(question.pose(seed).values.values()) for seed in range(40)}
    assert len(drawn) == 4
    posed = question.pose(3)
    features, classes = posed.values["features"], posed.values["classes"]
    assert f"{features:,}" in posed.ask
    assert posed.mark(f"{features * classes + classes:,} parameters").right
    missed = posed.mark(features * classes)
    assert missed.score == 0 and missed.notes[0].why == "The bias is missing."
    assert str(features * classes + classes) in missed.solution


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("1,280", 1280),
        ("1.2e6", 1.2e6),
        ("64 %", 0.64),
        ("3/4", 0.75),
        ("−2", -2),
        (5, 5),
        ("12 MB", 12),
    ],
)
def test_a_number_is_read_as_people_type_it_or_refused(typed, number):
    if number is None:
        with pytest.raises(ValueError, match="is not one number: type it like 1280"):
            bank.as_number(typed)
    else:
        assert bank.as_number(typed) == pytest.approx(number)


@pytest.mark.parametrize("typed", ["", "many", "1.2.3", "1/0", "-", None])
def test_what_is_no_number_is_refused_with_an_example(typed):
    with pytest.raises(ValueError, match="is not one number: type it like"):
        bank.as_number(typed)


def test_several_options_give_part_of_the_point_and_guessing_all_gives_little(tmp_path):
    options = [dict(option) for option in CHOICE["options"]]
    options[3]["right"] = True
    question = a_question(tmp_path, **CHOICE | {"kind": "several", "options": options})
    posed = question.pose(1)
    right = key.right(posed)
    assert posed.mark(right).score == 1
    assert posed.mark(right[:1]).score == 0.5
    wrong = [k for k in range(4) if k not in right]
    assert posed.mark([*right, wrong[0]]).score == 0.5
    assert posed.mark([0, 1, 2, 3]).score == 0
    with pytest.raises(ValueError, match="no option"):
        posed.mark([7])


def test_an_order_is_shown_shuffled_and_half_right_is_worth_less_than_half(tmp_path):
    steps = CHOICE["options"]
    changes = CHOICE | {"kind": "order", "options": None, "steps": steps}
    question = a_question(tmp_path, **changes)
    for seed in range(50):
        posed = question.pose(seed)
        assert list(posed.order) != sorted(posed.order)
        assert posed.mark(key.right(posed)).right
        assert posed.mark(list(reversed(key.right(posed)))).score == 0
    with pytest.raises(ValueError, match="every step once"):
        posed.mark([0, 0, 1, 2])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"level": "expert"}, "level"),
        ({"source": {}}, "either a cell or a paper"),
        ({"verify": None}, "needs `verify`"),
        ({"reasn": "typo"}, "Extra inputs"),
        (CHOICE | {"kind": "single", "options": CHOICE["options"][1:]}, "exactly one option"),
        (CHOICE | {"kind": "several"}, "at least two options are right"),
        ({"checked": "yesterday"}, "checked"),
    ],
)
def test_a_question_that_breaks_the_schema_is_refused_by_name(tmp_path, changes, says):
    with pytest.raises(
        bank.BankError, match=r"04_heads\.yaml: question width-of-a-head"
    ) as refused:
        a_question(tmp_path, **changes)
    assert says in str(refused.value)


def test_what_is_posed_does_not_hold_the_key(tmp_path):
    question = a_question(tmp_path, **CHOICE | {"kind": "single"})
    positions = [question.pose(seed).order.index(0) for seed in range(200)]
    assert min(positions.count(k) for k in range(4)) > 20


def test_code_is_checked_by_the_task_of_an_exercise(questions):
    question = next(q for q in questions.values() if q.kind == "code")
    posed = question.pose(0)
    assert "defines no function" in posed.mark("x = 1").says
    assert "does not run: SyntaxError" in posed.mark("def f(:").says
    assert posed.mark(question.stub).score == 0


def problem_kinds(tmp_path, **changes):
    question = a_question(tmp_path, **changes)
    found = check.problems({question.id: question}, ROOT)
    return {problem.kind for problem in found} - {"second key"}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"source": {"cell": "04#No such section"}}, "link"),
        ({"follow_up": {"right": "no-such-question"}}, "link"),
        ({"mistakes": [{"answer": "classes * features + classes", "why": ""}]}, "draw"),
        ({"ask": "Of {{ unknown }}?"}, "draw"),
    ],
)
def test_the_check_finds_the_fault(tmp_path, changes, kind):
    assert problem_kinds(tmp_path) == set()
    assert problem_kinds(tmp_path, **changes) == {kind}


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["One", "Two", "All of the above"], "options"),
        (["One", "Two", "two."], "options"),
        (["This one, with every reservation that anybody could want", "Two", "Three"], "give-away"),
        (["Often", "It is always so", "It never is"], "give-away"),
    ],
)
def test_the_check_finds_options_that_give_themselves_away(tmp_path, texts, kind):
    options = [{"text": text, "why": "so", "right": k == 0} for k, text in enumerate(texts)]
    assert problem_kinds(tmp_path, **CHOICE | {"kind": "single", "options": options}) == {kind}


def test_the_check_finds_two_questions_that_ask_the_same(tmp_path):
    question = a_question(tmp_path)
    twin = question.model_copy(update={"id": "twin"})
    found = check.duplicates({question.id: question, "twin": twin})
    assert {problem.kind for problem in found} == {"duplicate"}


def test_a_second_key_is_asked_for_again_when_the_question_changes(tmp_path, monkeypatch):
    question = a_question(tmp_path)
    (waiting,) = check.blank({question.id: question})
    assert waiting["answer"] is None and "1285" not in str(waiting)
    right = question.value(question.pose(0))
    agreed, settle = check.compare({question.id: question}, [waiting | {"answer": right}])
    assert list(agreed) == [question.id] and not settle
    _, settle = check.compare({question.id: question}, [waiting | {"answer": 7}])
    assert settle[0].question == question.id
    monkeypatch.setattr(check, "second_key", lambda: agreed)
    assert check.blank({question.id: question}) == []
    changed = question.model_copy(update={"ask": "How many, without the bias?"})
    assert check.blank({question.id: changed})


def test_a_statement_that_is_false_is_found_by_executing_it(tmp_path):
    assert check.run(a_question(tmp_path)) == ""
    wrong = a_question(tmp_path, verify="assert answer == 1")
    assert "AssertionError" in check.run(wrong)


# --- the bank itself ----------------------------------------------------------------------------


def test_the_bank_has_no_problem_that_can_be_found(questions):
    assert [vars(problem) for problem in check.problems(questions, ROOT)] == []


def test_what_questions_say_of_libraries_and_numbers_is_so(questions):
    """Three draws each; the answers of numbers are computed another way, mostly by a framework."""
    wrong = {
        f"{question.id} ({seed})": said
        for question in questions.values()
        for seed in range(3 if question.draw else 1)
        if (question.verify or question.kind == "output") and (said := check.run(question, seed))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("code", "says"),
    [("while True: pass", "ran longer"), ("raise SystemExit", "does not run: SystemExit")],
)
def test_code_that_never_ends_or_leaves_is_answered(questions, code, says, monkeypatch):
    from tlcourse.exercises import kit

    question = next(q for q in questions.values() if q.kind == "code")
    quick = replace(kit.find(question.task), seconds=0.3)
    monkeypatch.setattr(kit, "find", lambda _: quick)
    assert says in question.pose(0).mark(code).says


def test_the_documents_count_what_there_is(questions):
    page = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    assert page.startswith(f"# The question bank\n\n{len(questions)} questions")
    for kind, count in bank.by_kind(questions.values()).items():
        assert f"| {kind} | {count} |" in page
    for level in bank.LEVELS:
        count = sum(question.level == level for question in questions.values())
        assert f"{count} {level}" in page
    assert f"{len(questions)} questions" in (ROOT / "README.md").read_text(encoding="utf-8")
