"""Which points of a rubric does an answer in words make?

Similarity alone would pass a denial and a heap of key words, which hold the right words too. So
P(made) = P(about the point) · P(asserted): the first from how near a sentence comes to those that
make the point, compared with the other points; the second from whether it comes nearer to the
contrary, how much the answer sounds like a denial, dismissals, word order and function words. Both
are logistic, and a sign may only count in the direction that makes sense.
benchmarks/open_answers.py fits them to answers marked by hand, writes rubric_weights.json and
measures the agreement on answers to other questions.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tlcourse.quiz import bank, wording

Encode = Callable[[list[str]], np.ndarray]  # texts -> float (N, width), rows of length 1

WEIGHTS = Path(__file__).with_name("rubric_weights.json")
ABOUT = ("share", "centre", "third", "words", "others")
ASSERTED = ("contrary", "dismissals", "telegraphic", "order", "denials", "reasons")


@dataclass(frozen=True)
class Covered:
    """What became of one point: its state, the sentence nearest to it, and P(the point is made)."""

    point: str
    state: Literal["covered", "doubtful", "missing"]
    sentence: str
    likelihood: float


def score(question: bank.Open, text: str, encode: Encode | None = None) -> list[Covered]:
    """Return, for each point of the rubric in its order, whether the answer makes it."""
    weights = _weights()
    rows, nearest = signs(question, text, weights["denial"], encode)
    found = []
    for point, row, sentence in zip(question.rubric, rows, nearest, strict=True):
        value = round(float(likelihood(row, weights)), 4) if sentence else 0.0
        found.append(Covered(point.point, state(value, weights), sentence, value))
    return found


def state(value: float, weights: dict) -> str:
    """Return what a likelihood means."""
    if value >= weights["covered"]:
        return "covered"
    return "doubtful" if value >= weights["doubtful"] else "missing"


def likelihood(rows: np.ndarray, weights: dict) -> np.ndarray:
    """Return P(the point is made) for rows of signs, (..., 11)."""
    weighted = (rows - weights["mean"]) / weights["scale"] * weights["weight"]
    about = weighted[..., : len(ABOUT)].sum(axis=-1) + weights["bias"][0]
    asserted = weighted[..., len(ABOUT) :].sum(axis=-1) + weights["bias"][1]
    return 1 / (1 + np.exp(-about)) / (1 + np.exp(-asserted))


def mark(question: bank.Open, text: str, overruled: Iterable[int] = ()) -> bank.Marked:
    """Mark an answer; `overruled` are the points, from 0, that the learner judges the other way.

    A covered point is then taken away, any other counts as covered. Raises ValueError for a point
    that the rubric does not have.
    """
    overruled = set(overruled)
    if not overruled <= set(range(len(question.rubric))):
        raise ValueError("only the points of the rubric can be overruled")
    notes, points, said = [], [], 0.0
    worth = {"covered": 1.0, "doubtful": _weights()["worth_of_doubt"], "missing": 0.0}
    for number, one in enumerate(score(question, text)):
        state, why = one.state, _why(one)
        if number in overruled:
            state = "missing" if one.state == "covered" else "covered"
            why = f"By your own judgement: {state}. {why}"
        said += question.rubric[number].weight * worth[state]
        notes.append(bank.Note(one.point, state == "covered", state != "missing", why))
        points.append(asdict(one) | {"state": state, "overruled": number in overruled})
    total = round(said / sum(point.weight for point in question.rubric), 4)
    says = _says(text, Counter(point["state"] for point in points), len(points))
    return bank.Marked(total, says, tuple(notes), question.answers.medium, {"points": points})


def _why(one: Covered) -> str:
    if one.state == "covered":
        return f"You said: “{one.sentence}”"
    if one.state == "doubtful":
        return (
            f"In doubt ({one.likelihood:.0%} likely): “{one.sentence}” comes near. "
            "Compare it with the point and judge for yourself."
        )
    return "Not found in your answer."


def _says(text: str, states: Counter, points: int) -> str:
    length = len(text.split())
    if not wording.words(text):
        return "There are no words to score yet. Say one point in a sentence and try again."
    says = f"{states['covered']} of {points} points found"
    says += f", {states['doubtful']} in doubt." if states["doubtful"] else "."
    if length < 8:
        says += " That is very short: give each point a sentence."
    if length > wording.MOST_WORDS:
        says += f" The first {wording.MOST_WORDS} words were read."
    return says


def signs(question: bank.Open, text: str, probe: dict, encode: Encode | None = None):
    """Return the signs of each point, float (points, 11), and the sentences nearest to them.

    probe: see `denial`. The sentences are "" where the answer has no words.
    """
    sentences = wording.sentences(text)
    if not sentences:
        return np.zeros((len(question.rubric), len(ABOUT + ASSERTED))), [""] * len(question.rubric)
    encode = encode or encoder()
    said = encode(sentences)
    makes = [(*point.covers, point.point) for point in question.rubric]
    vectors = _vectors(tuple(makes), encode)
    denials = _vectors(tuple(tuple(point.denies) for point in question.rubric), encode)

    # What all points share is the subject; with it taken away, what tells them apart remains.
    subject = np.mean([rows.mean(0) for rows in vectors], axis=0)
    apart = _unit(said - subject)
    near = np.stack([(said @ rows.T).max(1) for rows in vectors], axis=1)  # (sentences, points)
    centre = np.stack([apart @ _unit(rows.mean(0) - subject) for rows in vectors], axis=1).max(0)
    third = [np.sort((apart @ _unit(rows - subject).T).max(1))[-3:].mean() for rows in vectors]
    share = np.exp(near / 0.08)
    share /= share.sum(axis=1, keepdims=True)
    best = (near * share).argmax(axis=0)
    asserted = (*_manner(sentences), denial(sentences, said, probe).mean())
    asserted += (wording.reasons(sentences),)
    rows = []
    for k, i in enumerate(best):
        words, others = wording.shared(sentences[i], makes[k]), np.delete(centre, k).mean()
        contrary = max(0.0, max((row @ said[i] for row in denials[k]), default=0.0) - near[i, k])
        rows.append((share[i, k], centre[k], third[k], words, others, contrary, *asserted))
    return np.array(rows, float), [sentences[i] for i in best]


def denial(sentences: list[str], vectors: np.ndarray, probe: dict) -> np.ndarray:
    """Return how much each sentence sounds like a denial: log odds of a linear probe, within ±3."""
    cues = np.array([wording.cues(one) for one in sentences], float)
    logits = vectors @ probe["vector"] + cues @ probe["cues"] + probe["bias"]
    return logits.clip(-3, 3)


def _manner(sentences: list[str]) -> tuple[float, float, float]:
    """Return dismissals a sentence, the lack of function words, and the order of the words."""
    function = wording.function_share(" ".join(sentences))
    lengths = [len(one) for one in sentences]
    order = np.average([wording.order(one) for one in sentences], weights=lengths)
    dismissals = np.mean([wording.dismisses(one) for one in sentences])
    return dismissals, max(0.0, 0.35 - function), min(order, 0.5)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


@functools.lru_cache(maxsize=64)
def _vectors(groups: tuple[tuple[str, ...], ...], encode: Encode) -> list[np.ndarray]:
    """Encode groups of texts in one go; kept, since a rubric is used again and again."""
    ends = np.cumsum([len(group) for group in groups])
    flat = [text for group in groups for text in group]
    return np.split(encode(flat) if flat else np.zeros((0, 1)), ends[:-1])


@functools.cache
def _weights() -> dict:
    """Return mean, scale and weight of each sign, two biases, thresholds, the probe for denial."""
    return json.loads(WEIGHTS.read_text(encoding="utf-8"))


@functools.cache
def encoder() -> Encode:
    """Load the course's sentence encoder, once a process, which takes some seconds."""
    from tlcourse import assets, backbones, engine

    assets.say("Loading the sentence encoder that reads your answer: some seconds, once.")
    network = backbones.load("minilm", "pytorch")
    # In fp32 the same answer gets the same score on every machine, to four digits.
    run = engine.for_texts(network, (network.layers[-1],), "mean", "fp32")

    def encode(texts: list[str]) -> np.ndarray:
        tokens = network.tokenize(texts, 128)
        by_length = np.argsort([len(row) for row in tokens], kind="stable")
        batches = [by_length[start : start + 16] for start in range(0, len(tokens), 16)]
        states = run(network.pad([tokens[row] for row in batch]) for batch in batches)
        found = np.concatenate([rows for (rows,) in states])
        return _unit(found[np.argsort(by_length, kind="stable")])

    return encode
