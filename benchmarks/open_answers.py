"""How well does the scorer of open answers agree with marks that were given by hand?

Two sets of answers in words, marked point by point before any scorer saw them:
open_answers_tuning.jsonl, to 13 questions, and open_answers_test.jsonl, to 12 other questions,
written by someone who did not know the scorer. This script fits the scorer of
tlcourse/quiz/rubric.py on the tuning set (each question left out once), then scores the test set.
Beside it stands similarity alone with its best threshold of the tuning set.

Example: python benchmarks/open_answers.py --record
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import record
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlcourse.quiz import bank, rubric, wording

KINDS = ("right", "partial", "wrong", "salad", "negated", "off-topic")
BANKS_WEIGHT = 0.2  # of a point of an answer made from the bank, beside 1 for a written answer
# Which way a sign may count: the weights of the others are not negative.
AGAINST = ("contrary", "dismissals", "telegraphic", "denials")
DISMISSED = (
    "It is not necessary that {}",
    "It makes no difference whether {}",
    "I do not think that {}",
    "It is not true that {}",
    "It would be wrong to say that {}",
)


def read(name: str) -> list[dict]:
    """Return the answers of a set: question, kind, answer, points (0 or 1 each)."""
    lines = (record.RESULTS / f"open_answers_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def encoder() -> rubric.Encode:
    """Return the encoder with a memory, since folds and sets ask for the same sentences."""
    encode, known = rubric.encoder(), {}

    def remembered(texts):
        if new := sorted({text for text in texts if text not in known}):
            known.update(zip(new, encode(new), strict=True))
        return np.array([known[text] for text in texts])

    return remembered


def from_the_bank(question, rng: random.Random) -> Iterator[tuple[str, int]]:
    """Yield answers made from a question's own entry, and whether they make all points or none."""
    yield question.answers.long, 1
    yield question.answers.medium, 1
    for text in 3 * (question.answers.long, question.answers.medium):
        shuffled = text.split()
        rng.shuffle(shuffled)
        yield " ".join(shuffled), 0
    yield " ".join(rng.choice(point.denies) for point in question.rubric if point.denies), 0
    covers = [rng.choice(point.covers) for point in question.rubric]
    yield " ".join(rng.choice(DISMISSED).format(one[0].lower() + one[1:]) for one in covers), 0
    keys = [word for word in wording.words(" ".join(covers)) if word not in wording.FUNCTION_WORDS]
    yield ", ".join(keys), 0
    rng.shuffle(keys)
    yield " ".join(keys[:30]), 0


# --- fitting --------------------------------------------------------------------------------------


def fit_probe(answers: list[dict], questions: list, encode) -> dict:
    """Fit the probe that hears a denial: sentences of negated answers against those of the others.

    The rubrics' own sentences, which make a point or deny it, are in it too.
    """
    texts, denied = [], []
    for answer in answers:
        if answer["kind"] in ("right", "partial", "negated"):
            found = wording.sentences(answer["answer"])
            texts += found
            denied += [answer["kind"] == "negated"] * len(found)
    for point in (point for question in questions for point in question.rubric):
        texts += [*point.covers, *point.denies]
        denied += [False] * len(point.covers) + [True] * len(point.denies)
    rows = np.column_stack([encode(texts), np.array([wording.cues(text) for text in texts], float)])
    logistic = LogisticRegression(C=0.002, class_weight="balanced", max_iter=2000)
    scaler, model = (
        step for _, step in make_pipeline(StandardScaler(), logistic).fit(rows, denied).steps
    )
    weights = model.coef_[0] / scaler.scale_
    bias = model.intercept_[0] - weights @ scaler.mean_
    width = len(wording.cues(""))
    return {
        "vector": [round(float(weight), 4) for weight in weights[:-width]],
        "cues": [round(float(weight), 4) for weight in weights[-width:]],
        "bias": round(float(bias), 4),
    }


def fit_product(rows, made, weight) -> dict:
    """Fit P(made) = σ(about) · σ(asserted) by penalised likelihood, each weight with its sign."""
    names, cut = rubric.ABOUT + rubric.ASSERTED, len(rubric.ABOUT)
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    scaled = (rows - mean) / scale
    about = np.column_stack([scaled[:, :cut], np.ones(len(rows))])
    asserted = np.column_stack([scaled[:, cut:], np.ones(len(rows))])
    penalty = np.ones(len(names) + 2)
    penalty[cut] = penalty[-1] = 0.02  # the biases are nearly free
    bounds = [(None, 0) if name in AGAINST else (0, None) for name in names]
    bounds = [*bounds[:cut], (None, None), *bounds[cut:], (None, None)]

    def loss(v):
        first = 1 / (1 + np.exp(-about @ v[: cut + 1]))
        second = 1 / (1 + np.exp(-asserted @ v[cut + 1 :]))
        p = np.clip(first * second, 1e-6, 1 - 1e-6)
        value = -(weight * (made * np.log(p) + (1 - made) * np.log(1 - p))).sum()
        slope = -weight * (made - p) / (1 - p)
        gradient = [about.T @ (slope * (1 - first)), asserted.T @ (slope * (1 - second))]
        return value + (penalty * v * v).sum() / 2, np.concatenate(gradient) + penalty * v

    start = np.zeros(len(names) + 2)
    start[-1] = 1
    v = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    in_digits = {
        "mean": mean,
        "scale": scale,
        "weight": np.delete(v, [cut, len(v) - 1]),
        "bias": v[[cut, -1]],
    }
    return {name: [round(float(x), 4) for x in values] for name, values in in_digits.items()}


def fit(answers: list[dict], questions: dict, encode) -> tuple[dict, list[np.ndarray]]:
    """Return the weights and, of each answer, the likelihoods with its question left out."""
    ids = list(dict.fromkeys(answer["question"] for answer in answers))

    def without(left_out):
        kept = [answer for answer in answers if answer["question"] != left_out]
        return fit_probe(kept, [questions[name] for name in ids if name != left_out], encode)

    probes = {name: without(name) for name in ids}
    rows, made, weight, of, number = [], [], [], [], []

    def add(name, text, points, worth, answer):
        found, _ = rubric.signs(questions[name], text, probes[name], encode)
        rows.extend(found)
        made.extend(points)
        weight.extend([worth] * len(points))
        of.extend([name] * len(points))
        number.extend([answer] * len(points))

    for k, answer in enumerate(answers):
        add(answer["question"], answer["answer"], answer["points"], 1.0, k)
    for name in ids:
        for text, all_or_none in from_the_bank(questions[name], random.Random(name)):
            points = [all_or_none] * len(questions[name].rubric)
            add(name, text, points, BANKS_WEIGHT, -1)
    rows, made, weight = np.array(rows), np.array(made), np.array(weight)
    of, number = np.array(of), np.array(number)

    held_out = np.zeros(len(rows))
    for name in ids:
        rest = of != name
        held_out[~rest] = rubric.likelihood(
            rows[~rest], fit_product(rows[rest], made[rest], weight[rest])
        )
    written = number >= 0
    weights = fit_product(rows, made, weight) | thresholds(held_out[written], made[written])
    weights["denial"] = fit_probe(answers, [questions[name] for name in ids], encode)
    return weights, [held_out[number == k] for k in range(len(answers))]


def thresholds(likelihoods, made) -> dict:
    """Return the two thresholds, and the share of points in doubt that are made.

    Of the points called covered at least 85 % are made, of those called missing at most 5 %.
    """
    grid = np.arange(0.05, 0.95, 0.01)
    high = min(t for t in grid if made[likelihoods >= t].mean() >= 0.85)
    low = max(t for t in grid if t < high and made[likelihoods < t].mean() <= 0.05)
    worth = made[(likelihoods >= low) & (likelihoods < high)].mean()
    low, high, worth = round(float(low), 2), round(float(high), 2), round(float(worth), 1)
    return {"doubtful": low, "covered": high, "worth_of_doubt": worth}


# --- measuring ------------------------------------------------------------------------------------


def similarity(question, text: str, encode) -> np.ndarray:
    """Return the rival: the largest cosine of a sentence with what makes the point."""
    said = encode(wording.sentences(text))
    texts = [[*point.covers, point.point] for point in question.rubric]
    return np.array([(said @ encode(group).T).max() for group in texts])


def best_threshold(values: list[np.ndarray], answers: list[dict]) -> float:
    """Return the threshold of the largest kappa."""
    values = np.concatenate(values)
    made = np.concatenate([answer["points"] for answer in answers])
    grid = np.arange(0.2, 0.9, 0.01)
    return round(float(max(grid, key=lambda t: cohen_kappa_score(made, values >= t))), 2)


def agreement(answers: list[dict], states: list[list[str]], worth_of_doubt: float = 0.5) -> dict:
    """Compare states with marks, overall and by kind; doubt counts as not covered, if not said."""
    kinds = {"overall": answers} | {
        kind: [answer for answer in answers if answer["kind"] == kind] for kind in KINDS
    }
    by_id = {id(answer): state for answer, state in zip(answers, states, strict=True)}
    return {
        kind: _agreement(some, [by_id[id(answer)] for answer in some], worth_of_doubt)
        for kind, some in kinds.items()
        if some
    }


def _agreement(answers, states, worth_of_doubt) -> dict:
    made = [np.array(answer["points"]) == 1 for answer in answers]
    covered = [np.array(state) == "covered" for state in states]
    doubt = [np.array(state) == "doubtful" for state in states]
    m, c, d = map(np.concatenate, (made, covered, doubt))
    unearned = [(one & ~mark).mean() for one, mark in zip(covered, made, strict=True)]
    scores = [(a + worth_of_doubt * b).mean() for a, b in zip(covered, doubt, strict=True)]
    marks = [mark.mean() for mark in made]
    found = {
        "answers": len(answers),
        "points": len(m),
        "points_made": m.mean(),
        "accuracy": (m == c).mean(),
        "doubtful": d.mean(),
        "accuracy_outside_doubt": (m == c)[~d].mean(),
        "accuracy_doubt_settled_by_the_learner": ((m == c) | d).mean(),
        "answers_with_an_unearned_point": np.mean([one > 0 for one in unearned]),
        "unearned_share": np.mean(unearned),
        "mean_mark": np.mean(marks),
        "mean_score": np.mean(scores),
        "mean_absolute_error": np.mean(np.abs(np.subtract(scores, marks))),
    }
    if 0 < m.sum() < len(m) and len(set(marks)) > 1:
        rng, kappas = np.random.default_rng(0), []
        for _ in range(1000):
            drawn = rng.integers(len(answers), size=len(answers))
            picked = [np.concatenate([rows[k] for k in drawn]) for rows in (made, covered)]
            kappas.append(cohen_kappa_score(*picked))
        found |= {
            "kappa": cohen_kappa_score(m, c),
            "kappa_interval": np.nanpercentile(kappas, [2.5, 97.5]).tolist(),
            "correlation": np.corrcoef(scores, marks)[0, 1],
        }
    return {name: _rounded(value) for name, value in found.items()}


def _rounded(value):
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value if isinstance(value, int) else round(float(value), 4)


def at(values, threshold: float) -> list[str]:
    """Return the states at one threshold, without doubt."""
    return ["covered" if value >= threshold else "missing" for value in values]


def area(values: list[np.ndarray], answers: list[dict]) -> float:
    """Return the area under the curve over all points."""
    made = np.concatenate([answer["points"] for answer in answers])
    return round(float(roc_auc_score(made, np.concatenate(values))), 4)


def table(title: str, found: dict) -> None:
    print(
        f"\n{title}\n{'kind':10} {'n':>4} {'accuracy':>9} {'kappa':>6} {'doubt':>6} {'settled':>8}",
        end="",
    )
    print(f" {'unearned':>9} {'mark':>5} {'score':>6}")
    for kind, one in found.items():
        print(
            f"{kind:10} {one['answers']:4} {one['accuracy']:9.3f} {one.get('kappa', np.nan):6.2f} "
            f"{one['doubtful']:6.3f} {one['accuracy_doubt_settled_by_the_learner']:8.3f} "
            f"{one['answers_with_an_unearned_point']:9.3f} {one['mean_mark']:5.2f} "
            f"{one['mean_score']:6.2f}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tuning-only", action="store_true", help="leave the test set alone")
    parser.add_argument(
        "--record", action="store_true", help="write the weights and benchmarks/results/"
    )
    arguments = parser.parse_args()

    questions, encode, tuning = bank.load(), encoder(), read("tuning")
    weights, held_out = fit(tuning, questions, encode)
    names = rubric.ABOUT + rubric.ASSERTED
    print({name: weight for name, weight in zip(names, weights["weight"], strict=True)})
    print({name: weights[name] for name in ("bias", "doubtful", "covered", "worth_of_doubt")})
    states = [[rubric.state(value, weights) for value in values] for values in held_out]
    near = [similarity(questions[a["question"]], a["answer"], encode) for a in tuning]
    threshold = best_threshold(near, tuning)
    alone = [at(row, threshold) for row in near]
    single, worth = best_threshold(held_out, tuning), weights["worth_of_doubt"]
    print(f"without doubt: covered from {single}")
    forced = [at(values, single) for values in held_out]
    measured = {
        "tuning": {
            "questions": len({answer["question"] for answer in tuning}),
            "each_question_left_out_once": agreement(tuning, states, worth),
            "without_doubt": agreement(tuning, forced),
            "without_doubt_threshold": single,
            "area_under_curve": area(held_out, tuning),
            "similarity_alone": agreement(tuning, alone),
            "similarity_alone_area_under_curve": area(near, tuning),
            "similarity_alone_threshold": threshold,
        }
    }
    table(
        "Tuning set, each question left out once", measured["tuning"]["each_question_left_out_once"]
    )
    table(f"Tuning set, one threshold of {single}", measured["tuning"]["without_doubt"])
    table(f"Tuning set, similarity alone >= {threshold}", measured["tuning"]["similarity_alone"])
    if arguments.record:
        text = json.dumps(weights, indent=1)
        rubric.WEIGHTS.write_text(text + "\n", encoding="utf-8")
        rubric._weights.cache_clear()
    if arguments.tuning_only:
        return

    test = read("test")
    if shared := {a["question"] for a in test} & {a["question"] for a in tuning}:
        raise SystemExit(f"Tuning and test share questions: {sorted(shared)}")
    scored = [rubric.score(questions[a["question"]], a["answer"], encode) for a in test]
    states = [[one.state for one in found] for found in scored]
    near = [similarity(questions[a["question"]], a["answer"], encode) for a in test]
    alone = [at(row, threshold) for row in near]
    likelihoods = [np.array([one.likelihood for one in found]) for found in scored]
    measured["test"] = {
        "questions": len({answer["question"] for answer in test}),
        "scorer": agreement(test, states, worth),
        "without_doubt": agreement(test, [at(row, single) for row in likelihoods]),
        "area_under_curve": area(likelihoods, test),
        "similarity_alone": agreement(test, alone),
        "similarity_alone_area_under_curve": area(near, test),
    }
    table("Test set", measured["test"]["scorer"])
    table(f"Test set, one threshold of {single}", measured["test"]["without_doubt"])
    table(f"Test set, similarity alone >= {threshold}", measured["test"]["similarity_alone"])
    if arguments.record:
        file = Path(record.RESULTS / "open_answers.json")
        before = json.loads(file.read_text())["test_runs"] if file.exists() else 0
        record.write("open_answers", {"test_runs": before + 1} | measured)


if __name__ == "__main__":
    main()
