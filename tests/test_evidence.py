"""Claims and intervals."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.utils import resample

from tlcourse import evidence


@pytest.fixture(autouse=True)
def cpu_profile(monkeypatch):
    monkeypatch.setenv("TLCOURSE_PROFILE", "cpu")
    monkeypatch.setattr(evidence, "_claims", {})


@pytest.fixture
def shown(monkeypatch):
    """Everything shown, as (html, plain text, further formats by type)."""
    bundles = []
    monkeypatch.setattr(evidence, "show_bundle", lambda *bundle: bundles.append(bundle))
    return bundles


def test_a_true_claim_is_shown_with_its_numbers(shown):
    evidence.claim("04.depth", "deeper is better", np.bool_(True), 0.12, (0.05, 0.2), 5)
    html, plain, formats = shown[0]
    assert "holds" in html and "✔" in html
    assert plain == (
        "✔ holds: deeper is better (effect 0.12, interval 0.05 to 0.2, n = 5) [04.depth]"
    )
    assert formats[evidence.MIME] == {
        "id": "04.depth",
        "text": "deeper is better",
        "holds": True,
        "effect": 0.12,
        "interval": (0.05, 0.2),
        "n": 5,
    }


def test_a_false_claim_is_shown_and_then_raises(shown):
    with pytest.raises(evidence.ClaimFailed, match=r"claim 04\.x does not hold: a < b"):
        evidence.claim("04.x", "a < b", False, -0.1)
    assert "does not hold" in shown[0][0]


def test_a_false_claim_is_untested_in_smoke(shown, monkeypatch):
    monkeypatch.setenv("TLCOURSE_PROFILE", "smoke")
    evidence.claim("04.x", "a < b", False, float("nan"), (0, float("inf")))
    assert shown[0][2][evidence.MIME]["holds"] is None
    assert shown[0][2][evidence.MIME]["effect"] is None
    assert "untested" in shown[0][0]


def test_the_text_of_a_claim_is_escaped(shown):
    evidence.claim("x", "<b>a</b> & b", True)
    evidence.summary()
    for html, *_ in shown:
        assert "&lt;b&gt;a&lt;/b&gt; &amp; b" in html


def test_colours_are_inherited_so_that_a_dark_theme_can_be_read(shown):
    evidence.claim("x", "a", True)
    assert "color:inherit" in shown[0][0] and "background" not in shown[0][0]


def test_running_a_cell_again_replaces_its_claim(shown):
    evidence.claim("x", "first", True)
    evidence.claim("y", "other", True)
    evidence.claim("x", "second", True)
    evidence.summary()
    html, plain = shown[-1]
    assert "2 of 2 claims hold" in html
    assert "second" in html and "first" not in html
    assert plain.index("second") < plain.index("other")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(text=" "), "has no text"),
        (dict(effect=math.nan), "the effect is nan"),
        (dict(effect="large"), "the effect is one number"),
        (dict(interval=(0.2, 0.1)), r"an interval is \(low, high\)"),
        (dict(interval=0.1), r"an interval is \(low, high\)"),
        (dict(effect=0.5, interval=(0.1, 0.2)), "does not contain the effect 0.5"),
        (dict(holds=np.array([True, False])), "holds is True or False, this is ndarray"),
        (dict(holds=None), "holds is True or False"),
        (dict(n=0), "n counts seeds or folds"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(arguments, sentence, shown):
    with pytest.raises(ValueError, match=sentence):
        evidence.claim(**(dict(id="x", text="a", holds=True) | arguments))
    assert shown == []


def test_the_mean_interval_is_the_t_interval_of_scipy():
    samples = np.random.default_rng(0).normal(size=7)
    mean, interval = evidence.mean_interval(samples, level=0.9)
    reference = stats.ttest_1samp(samples, 0).confidence_interval(0.9)
    assert mean == pytest.approx(samples.mean())
    assert interval == pytest.approx(tuple(reference))


def test_the_paired_interval_is_narrower_where_seeds_move_together():
    shared = np.random.default_rng(0).normal(size=8)
    a, b = shared + 0.1, shared + np.random.default_rng(1).normal(scale=0.01, size=8)
    mean, (low, high) = evidence.paired_interval(a, b)
    reference = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (low, high) == pytest.approx(tuple(reference))
    assert low < mean < high and high - low < 0.1


def test_the_accuracy_interval_is_the_wilson_interval_of_scipy():
    correct = np.array(resample([True] * 8 + [False] * 2, n_samples=50, random_state=0))
    accuracy, interval = evidence.accuracy_interval(correct)
    reference = stats.binomtest(int(correct.sum()), 50).proportion_ci(0.95, method="wilson")
    assert accuracy == correct.mean()
    assert interval == pytest.approx(tuple(reference))
    assert evidence.accuracy_interval([1, 1, 1])[1][1] == 1.0


def test_one_seed_gives_no_interval_except_in_smoke(monkeypatch):
    with pytest.raises(ValueError, match="needs at least 2 seeds or folds, this is 1"):
        evidence.mean_interval([0.5])
    monkeypatch.setenv("TLCOURSE_PROFILE", "smoke")
    assert evidence.mean_interval([0.5]) == (0.5, (0.5, 0.5))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: evidence.mean_interval([[1, 2]]), r"samples has shape \(1, 2\), expected \(n,\)"),
        (lambda: evidence.mean_interval([1, math.nan]), "not a finite number"),
        (lambda: evidence.mean_interval([1, 2], level=95), "a share such as 0.95"),
        (lambda: evidence.paired_interval([1, 2], [1, 2, 3]), "the same seeds on both sides"),
        (lambda: evidence.accuracy_interval([0.3, 1]), "true and false"),
    ],
)
def test_samples_of_another_shape_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_margin_is_claimed_by_the_whole_interval(shown):
    a, b = [0.80, 0.84, 0.79, 0.83], [0.70, 0.72, 0.71, 0.73]
    evidence.claim_margin("04.x", "a beats b by more than 0.05", a, b, above=0.05)
    made = shown[0][2][evidence.MIME]
    assert (made["effect"], made["interval"]) == evidence.paired_interval(a, b)
    assert made["n"] == 4
    with pytest.raises(evidence.ClaimFailed):  # the mean is above 0.09, the interval is not
        evidence.claim_margin("04.y", "a beats b by more than 0.09", a, b, above=0.09)
    evidence.claim_margin("04.z", "a is near 0.8", a, 0.8, above=-0.1, below=0.1)
    with pytest.raises(ValueError, match="these are 4 and 3"):
        evidence.claim_margin("04.w", "unpaired", a, b[:3], above=0)
