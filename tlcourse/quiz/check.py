"""What makes a question bad, looked for in the whole bank.

Beside faults of single questions it measures two things of the bank as a whole: how often the right
option stands where, and how well a guesser does that sees the options but knows nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlcourse.quiz import bank, key

SECOND_KEY = Path(__file__).parent / "second_key.json"
SEEDS = range(20)  # draws that are tried of each question
ALIKE_TEXT, ALIKE_MEANING = 0.8, 0.9  # cosine from which two questions count as one
LONGER = 1.5  # a right option so many times as long as the longest other one gives itself away
EASY_WAYS_OUT = re.compile(r"\b(all|none|both|neither) of (the above|these|them)\b", re.I)
ABSOLUTE = re.compile(r"\b(always|never|only|any|every|all|none|no|must|cannot)\b", re.I)
HEDGED = re.compile(r"\b(can|may|might|often|usually|depends?|sometimes|unless|if)\b", re.I)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a question, or with the bank as a whole where `question` is empty."""

    question: str
    kind: str
    says: str


def problems(questions: dict[str, bank.Question], root: Path) -> list[Problem]:
    """Look for every kind of problem; `root` is the course's folder, for the links to its cells."""
    headings = _headings(root)
    found = []
    for question in questions.values():
        for kind, says in [
            *_of_draws(question),
            *_of_links(question, questions, headings),
            *_of_options(question),
        ]:
            found.append(Problem(question.id, kind, says))
    broken = {problem.question for problem in found if problem.says.startswith("cannot be posed")}
    questions = {name: kept for name, kept in questions.items() if name not in broken}
    if not questions:
        return found
    found += duplicates(questions)
    found += _without_second_key(questions)
    found += [Problem("", *p) for p in (*_of_positions(questions), *_of_guesser(questions))]
    return found


# --- one question -------------------------------------------------------------------------------


def _of_draws(question):
    try:
        drawn = [question.pose(seed) for seed in SEEDS]
        rights = [posed.mark(key.right(posed)) for posed in drawn if question.kind != "open"]
    except Exception as error:
        yield "draw", f"cannot be posed: {type(error).__name__}: {error}"
        return
    if not all(question.kind == "code" or marked.right for marked in rights):
        yield "draw", "does not accept its own answer"
    for mistake in getattr(question, "mistakes", ()):
        for posed in drawn:
            given = mistake.answer
            if question.kind == "number":
                given = bank.evaluated(given, posed.values)
            else:
                given = bank.filled(given, posed.values)
            if posed.mark(given).right:
                yield "draw", f"the mistake {mistake.answer!r} is right for {posed.values}"
                break
    for posed in drawn:
        if "{{" in posed.ask + posed.code or "{%" in posed.ask + posed.code:
            yield "draw", "a placeholder is left in its text"
            break


def _headings(root: Path) -> dict[str, set[str]]:
    """Return for each notebook's number the headings in its source."""
    headings = defaultdict(set)
    for source in (root / "notebooks" / "source").glob("[0-9][0-9]_*.py"):
        lines = re.findall(r"^# #+ (.+?)\s*$", source.read_text(encoding="utf-8"), re.M)
        headings[source.name[:2]].update(lines)
    return headings


def _of_links(question, questions, headings):
    if question.source.cell:
        notebook, _, heading = question.source.cell.partition("#")
        if heading not in headings.get(notebook, ()):
            yield "link", f"notebook {notebook} has no section {heading!r}"
    for next_one in (question.follow_up.right, question.follow_up.wrong):
        if next_one and (next_one not in questions or next_one == question.id):
            yield "link", f"its follow-up {next_one!r} is no other question"
    if question.kind == "code":
        from tlcourse.exercises import kit

        try:
            task = kit.find(question.task)
        except ValueError as error:
            yield "link", str(error)
            return
        if task.harness:
            yield "link", f"task {task.id} needs a framework's model"
        if "```" in question.solution:
            yield "link", "its solution shows code, but students of a class are graded on this task"
        if f"def {task.function}(" not in question.stub:
            yield "link", f"its stub does not define {task.function}"


def _of_options(question):
    if question.kind not in key.CHOICES:
        return
    texts = [option.text for option in question.options]
    if len({text.casefold().strip(" .") for text in texts}) < len(texts):
        yield "options", "two options are the same"
    if any(EASY_WAYS_OUT.search(text) for text in texts):
        yield "options", "an option points to the others (all, none or both of them)"
    rights = [option.text for option in question.options if option.right]
    wrongs = [option.text for option in question.options if not option.right]
    if question.kind == "single":
        longest = max(map(len, wrongs))
        if len(rights[0]) > LONGER * longest and len(rights[0]) > longest + 20:
            yield "give-away", "the right option is much the longest"
        if question.ask.rstrip(" :…").endswith((" a", " an", " the")):
            yield "give-away", "the question's last word fits some options only"
    if all(ABSOLUTE.search(text) for text in wrongs) and not any(map(ABSOLUTE.search, rights)):
        yield "give-away", "every wrong option, and no right one, says always, never or the like"


# --- two questions ------------------------------------------------------------------------------


def duplicates(questions: dict[str, bank.Question]) -> list[Problem]:
    """Find questions that ask the same, by their letters and by their sentence features."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    ids, texts = list(questions), [_asked(question) for question in questions.values()]
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    found = []
    for how, alike, limit in (
        ("in its words", (letters @ letters.T).toarray(), ALIKE_TEXT),
        ("in its meaning", _meaning(texts), ALIKE_MEANING),
    ):
        for a, b in np.argwhere(np.triu(alike, 1) > limit):
            says = f"is {alike[a, b]:.2f} like {ids[b]} {how}"
            found.append(Problem(ids[a], "duplicate", says))
    return found


def _asked(question) -> str:
    """What a question asks, with what makes it another one than its neighbour: code and key."""
    rights = [o.text for o in getattr(question, "options", ()) if o.right]
    return " ".join([question.ask, question.code, *rights])


def _meaning(texts: list[str]) -> np.ndarray:
    from tlcourse import backbones, features

    encoder = backbones.load("minilm", "pytorch")
    (vectors,) = features.extract_text(encoder, texts).values()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


# --- the bank as a whole ------------------------------------------------------------------------


def _of_positions(questions):
    """The right option of single questions should stand at each place about as often."""
    from scipy.stats import chisquare

    for size in (3, 4, 5):
        places = [
            key.right(question.pose(0))
            for question in questions.values()
            if question.kind == "single" and len(question.options) == size
        ]
        counts = [places.count(k) for k in range(size)]
        if len(places) >= 5 * size and chisquare(counts).pvalue < 0.001:
            yield "positions", f"of {size} options the right one stands at {counts}"


def guesser(questions: dict[str, bank.Question]) -> tuple[float, float, float]:
    """Return how often a guesser is right that knows nothing, its standard error, and chance.

    A logistic regression sees of each option of a single question its length beside the others',
    absolute and careful words, code, and words shared with the question; it is trained on the other
    topics.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

    singles = [question for question in questions.values() if question.kind == "single"]
    rows, rights, topics, places = [], [], [], []
    for number, question in enumerate(singles):
        texts = [option.text for option in question.options]
        rows += _looks(texts, question.ask)
        rights += [option.right for option in question.options]
        topics += [question.topic] * len(texts)
        places += [number] * len(texts)
    model = LogisticRegression(class_weight="balanced")
    scores = cross_val_predict(
        model, rows, rights, groups=topics, cv=LeaveOneGroupOut(), method="decision_function"
    )
    places, rights = np.array(places), np.array(rights)
    hits = [rights[places == k][scores[places == k].argmax()].item() for k in range(len(singles))]
    chance = float(np.mean([1 / len(question.options) for question in singles]))
    return float(np.mean(hits)), float(np.std(hits) / math.sqrt(len(hits))), chance


def _looks(texts: list[str], ask: str) -> list[list[float]]:
    lengths = np.array([len(text) for text in texts], float)
    asked = set(re.findall(r"\w{4,}", ask.casefold()))
    return [
        [
            math.log(len(text) / lengths.mean()),
            float(len(text) == lengths.max()),
            float(len(text) == lengths.min()),
            len(ABSOLUTE.findall(text)),
            len(HEDGED.findall(text)),
            text.count("`"),
            text.count(","),
            len(asked & set(re.findall(r"\w{4,}", text.casefold()))),
        ]
        for text in texts
    ]


def _of_guesser(questions):
    if len({question.topic for question in questions.values() if question.kind == "single"}) < 2:
        return
    share, error, chance = guesser(questions)
    if share - 2 * error > chance + 0.05:
        says = f"a guesser that knows nothing is right in {share:.0%}, chance is {chance:.0%}"
        yield "give-away", says


# --- the second key -----------------------------------------------------------------------------


def blank(questions: dict[str, bank.Question]) -> list[dict]:
    """What someone needs who derives the answers that were derived only once: no keys."""
    waiting = {problem.question for problem in _without_second_key(questions)}
    return [
        {
            "id": posed.question.id,
            "kind": posed.question.kind,
            "ask": posed.ask,
            "code": posed.code,
            "options": list(posed.options),
            "unit": getattr(posed.question, "unit", ""),
            "answer": None,
        }
        for posed in (questions[name].pose(0) for name in questions if name in waiting)
    ]


def compare(questions: dict[str, bank.Question], answers: list[dict]) -> tuple[dict, list[Problem]]:
    """Compare answers to a blank with the keys: what agrees, to be recorded, and what does not."""
    agreed, settle = {}, []
    for entry in answers:
        if entry["answer"] is None:
            continue
        if entry["id"] not in questions:
            settle.append(Problem(entry["id"], "second key", "is no question of the bank"))
            continue
        posed = questions[entry["id"]].pose(0)
        try:
            right = posed.mark(entry["answer"]).right
        except ValueError:
            right = False
        if right:
            agreed[entry["id"]] = digest(posed)
        else:
            says = f"the second answer is {entry['answer']!r}, the key {key.right(posed)!r}"
            settle.append(Problem(entry["id"], "second key", says))
    return agreed, settle


def digest(posed: bank.Posed) -> str:
    """A short name for what is asked and its key; another wording has another."""
    shown = json.dumps([posed.ask, posed.code, posed.options, key.right(posed)], ensure_ascii=False)
    return hashlib.sha256(shown.encode()).hexdigest()[:12]


def read_answers(file: Path) -> list[dict]:
    """Read a blank that was filled in. Raises ValueError where it is none."""
    try:
        answers = json.loads(file.read_text(encoding="utf-8"))
        return [{"id": entry["id"], "answer": entry["answer"]} for entry in answers]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no filled-in blank of quiz check: {error}") from None


def second_key() -> dict[str, str]:
    """The recorded second derivation: id -> digest of what agreed."""
    return json.loads(SECOND_KEY.read_text(encoding="utf-8")) if SECOND_KEY.exists() else {}


def record(agreed: dict[str, str]) -> None:
    """Add what agreed to the second key, and forget questions that are no more."""
    known = bank.load()
    kept = {name: seen for name, seen in (second_key() | agreed).items() if name in known}
    SECOND_KEY.write_text(json.dumps(dict(sorted(kept.items())), indent=0) + "\n", "utf-8")


def _without_second_key(questions) -> list[Problem]:
    derived = second_key()
    return [
        Problem(question.id, "second key", "its answer was not derived a second time as it stands")
        for question in questions.values()
        if question.kind not in ("open", "code")
        and derived.get(question.id) != digest(question.pose(0))
    ]


# --- what can be executed -----------------------------------------------------------------------


def run(question: bank.Question, seed: int = 0) -> str:
    """Execute what a question asserts, for one draw; return what is wrong, "" if nothing."""
    posed = question.pose(seed)
    names = dict(posed.values)
    if question.kind == "number":
        names["answer"] = question.value(posed)
    try:
        if question.kind == "output":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(posed.code, question.id, "exec"), {"__name__": "question"})
            if not posed.mark(printed.getvalue()).right:
                return f"the code prints {printed.getvalue().strip()!r}"
        exec(compile(question.verify, question.id, "exec"), names)
    except Exception as error:
        return f"seed {seed}: {type(error).__name__}: {error}"
    return ""


def summary(questions: dict[str, bank.Question], found: list[Problem]) -> dict:
    """What `tlcourse quiz check --json` prints."""
    share, error, chance = guesser(questions)
    return {
        "questions": len(questions),
        "by_kind": dict(sorted(bank.by_kind(questions.values()).items())),
        "by_level": dict(Counter(question.level for question in questions.values())),
        "guesser": {"right": round(share, 3), "error": round(error, 3), "chance": round(chance, 3)},
        "problems": [vars(problem) for problem in found],
    }
