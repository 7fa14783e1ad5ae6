"""What a learner meets: answers, hints, limits."""

import time
from dataclasses import replace

import numpy as np
import pytest

from tlcourse import evidence, progress
from tlcourse.exercises import kit
from tlcourse.exercises.kit import Misconception, Part, Task, Wrong, evaluate, expect


def _halved(f, rng):
    expect(f(np.array([2.0, 4.0])), np.array([1.0, 2.0]), "half of (2, 4)")


def _of_nothing(f, rng):
    expect(f(np.zeros(0)), np.zeros(0), "half of nothing")


DOUBLES = Misconception("doubles", lambda x: 2 * x, "Is it larger?", "You multiply.")
TASK = Task(
    id="ex99.1",
    title="Halve it",
    function="halve",
    taught="01#Domain and task",
    parts=(Part("halves", 2, _halved), Part("nothing", 1, _of_nothing)),
    probes=lambda rng: [(rng.normal(size=3),), (np.ones(2),)],
    misconceptions=(DOUBLES,),
    seconds=0.3,
)


@pytest.fixture
def shown(monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(tmp_path / "progress.db"))
    monkeypatch.setattr(kit, "find", lambda task_id: TASK)
    monkeypatch.setattr(kit, "_tasks", lambda name: (TASK, replace(TASK, id="ex99.2")))
    monkeypatch.setattr(kit, "_failures", kit.Counter())
    monkeypatch.setattr(kit, "_solved", set())
    texts = []
    monkeypatch.setattr(evidence, "show_bundle", lambda html, text: texts.append(text))
    return texts


def test_a_right_answer_gets_all_points_and_is_recorded(shown):
    assert kit.check("ex99.1", lambda x: x / 2) == 3.0
    assert shown == [
        "✔ ex99.1 Halve it: 3 of 3 points\n  ✔ halves (2)\n  ✔ nothing (1)\n"
        "Solved in ex99: 1 of 2 tasks."
    ]
    (event,) = progress.events("exercise")
    assert (event.item, event.points, event.possible) == ("ex99.1", 3, 3)


def test_points_are_given_by_parts(shown):
    def halve(x):
        return x / 2 if len(x) else None

    assert kit.check("ex99.1", halve) == 2.0
    assert "✘ nothing (1): half of nothing: expected" in shown[0]


def test_a_known_mistake_is_named_and_its_hints_grow(shown):
    for _ in range(3):
        kit.check("ex99.1", lambda x: x + x)  # written differently, does the same
    assert [text.count("Hint:") for text in shown] == [1, 2, 3]
    assert "Hint: Is it larger?" in shown[0] and "You multiply." in shown[1]
    assert "taught in notebook 01, under “Domain and task”" in shown[2]
    assert progress.events()[0].detail == {"misconception": "doubles"}


def test_an_unknown_mistake_is_sent_to_the_lesson_at_the_second_failure(shown):
    for _ in range(2):
        kit.check("ex99.1", lambda x: x + 1)
    assert "Hint" not in shown[0]
    assert "taught in notebook 01" in shown[1]


def test_an_untouched_stub_is_no_failure_and_no_attempt(shown):
    def halve(x):
        raise NotImplementedError("ex99.1")

    assert kit.check("ex99.1", halve) == 0.0
    assert shown == [
        "○ ex99.1 Halve it: 0 of 3 points\n"
        "  halve is not written yet: put your code in place of the last line"
    ]
    assert progress.events() == []


def changes(x):
    x /= 2
    return x


def sleeps(x):
    while True:
        time.sleep(0.01)


def hides(x):
    n = 0
    while True:
        try:
            n += 1
        except:  # noqa: E722
            n = 0


def raises(x):
    return x / undefined  # noqa: F821


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], "half of (2, 4): expected shape (2,), got (1,)"),
        (lambda x: x * np.nan, "expected [1., 2.], got [nan, nan]"),
        (lambda x: None, "expected [1., 2.], got None"),
        (lambda x: "half", "expected [1., 2.], got 'half'"),
        (lambda x: object(), "it returns a object; expected numbers"),
        (lambda: 0, "raised TypeError"),
        (lambda x: [[1], [2, 3]], "expected shape"),
        (lambda x: exit(), "raised SystemExit"),
        (changes, "it changes its input x: work on a copy"),
        (sleeps, "ran longer than 0.3 seconds and was stopped"),
        (hides, "ran longer than 0.3 seconds"),
        (raises, "raised NameError: name 'undefined' is not defined, in the line: return x /"),
    ],
)
def test_whatever_a_function_does_ends_in_one_sentence(function, message):
    result = evaluate(TASK, function)
    assert message in result.failed["halves"]
    assert "Traceback" not in result.failed["halves"]


def test_a_loop_without_an_end_is_waited_for_once():
    started = time.perf_counter()
    assert "not tried" in evaluate(TASK, sleeps).failed["nothing"]
    assert time.perf_counter() - started < 1


def test_printing_and_warnings_are_held_back_and_cost_nothing(capsys):
    def halve(x):
        print("here")
        import sys
        import warnings

        print("there", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return x / 2

    assert not evaluate(TASK, halve).failed
    assert capsys.readouterr() == ("", "")


def test_lists_and_tensors_are_as_good_as_arrays():
    import torch

    assert not evaluate(TASK, lambda x: [v / 2 for v in x]).failed
    assert not evaluate(TASK, lambda x: torch.tensor(x, requires_grad=True) / 2).failed


def test_a_traceback_is_shown_only_when_asked_for(shown, capsys):
    kit.check("ex99.1", raises)
    assert capsys.readouterr().out == ""
    kit.check("ex99.1", raises, traceback=True)
    assert "NameError" in capsys.readouterr().out


def test_the_harness_stands_between_and_its_inputs_are_guarded():
    def harness(f, x):
        return f(lambda: x)

    task = replace(TASK, harness=harness)
    assert not evaluate(task, lambda give: give() / 2).failed
    refused = evaluate(task, lambda give: changes(give())).failed["halves"]
    assert "changes its input x" in refused


@pytest.mark.parametrize("task_id", ["ex01.99", "ex77.1", "", "os.path"])
def test_an_unknown_task_is_named(task_id):
    with pytest.raises(ValueError, match="there is no task"):
        kit.find(task_id)


def test_a_result_in_place_of_the_function_is_explained():
    with pytest.raises(ValueError, match="takes the function head_gradient itself"):
        kit.check("ex01.1", 3.0)


def test_a_check_of_arrays_answers_within_200_ms(monkeypatch):
    task = kit.find("ex01.1")
    started = time.perf_counter()
    for _ in range(5):
        evaluate(task, task.misconceptions[0].wrong)
    assert (time.perf_counter() - started) / 5 < 0.2


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1.0, 1, True),
        (np.ones(2), [1, 1], True),
        (np.nan, np.nan, True),
        (np.ones(2), np.ones(3), False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"b": 1}, False),
        ([1, [2, 3]], [1, [2, 3]], True),
        ([1, [2, 3]], [1, [2, 4]], False),
        ("a", "a", True),
        ("1", 1, False),
        (None, None, True),
        (None, 0, False),
        (True, "True", False),
    ],
)
def test_alike(a, b, same):
    assert kit.alike(a, b) == same == kit.alike(b, a)


def test_expect_names_the_first_place_of_a_large_array_that_differs():
    wanted = np.arange(20.0).reshape(4, 5)
    got = wanted.copy()
    got[2, 1] = 0
    with pytest.raises(Wrong, match=r"x: 5% of the numbers differ; at \(2, 1\) expected 11, got 0"):
        expect(got, wanted, "x")
    with pytest.raises(Wrong, match="expected 0, got nan"):
        expect(wanted * np.nan, wanted, "x")


def test_a_long_error_is_cut():
    def halve(x):
        raise ValueError("tensor " * 1000)

    assert len(evaluate(TASK, halve).failed["halves"]) < 400


def test_expect_says_shapes_before_values():
    with pytest.raises(Wrong, match=r"x: expected shape \(2,\), got \(3,\)"):
        expect(np.ones(3), np.ones(2), "x")
