"""What the words of an answer show without a network: sentences, denials, and whether it is prose.

The order of the words is compared with the prose of the bank's own model answers: a heap of key
words, or a sentence whose words were shuffled, does not follow it.
"""

import functools
import itertools
import math
import random
import re
from collections import Counter

from tlcourse.quiz import bank

MOST_WORDS = 400  # a spoken answer of three minutes; what comes after is not read
_FUNCTION = """
    a an the and or but if so because since as while when where which who what that this these
    those than then there here it its i we you they he she them us me my our your their his one some
    any all each every both few more most much many no not nor never none nothing nobody neither
    either only also too just even still already yet of in on at by for with without from to into
    over under between before after until unless about against through is are was were be been being
    am do does did done has have had can cannot could will would shall should may might must need
    isn't aren't wasn't don't doesn't didn't won't wouldn't can't couldn't shouldn't haven't hasn't
    i'd i'll i'm i've it's that's we'd we'll we've they're there's you'd let's what's how why
    whether other another same such very rather otherwise else up out off down again once
"""
FUNCTION_WORDS = frozenset(_FUNCTION.split())
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nothing|nobody|neither|nor|without|hardly|cannot|few)\b|n't\b"
)
_DISMISSAL = re.compile(
    r"no need|need not|needn't|not (?:be )?need|not necessary|unnecessar|pointless|no point|\bwaste"
    r"|thrown away|useless|no use\b|irrelevant|(?:not|n't) (?:really )?matter|no difference"
    r"|not (?:be )?important|\bskip|ignor|forget\b|redundant|superfluous|overkill|meaningless"
    r"|no role|no part|can be left|(?:is|are|be) enough|sufficient|harmless|full stop|in any case"
    r"|\bprove|\bproof\b|no reason|nonsense|superstition|no effect|no influence|not worth|always"
    r"|(?:would|could|can|do|does) not (?:help|tell|show|bring)|worthless|\bfine\b(?!-)"
)
_EXCEPTION = re.compile(r"\b(?:unless|until|before|otherwise|only|instead|but|alone)\b")
_ABSOLUTE = re.compile(r"\b(?:all|every|always|never|any|certain|sure|proves?|enough)\b")
_REASONING = re.compile(
    r"\b(?:because|since|so|if|therefore|otherwise|hence|would|i|i'd|i'll|should|then|whether|how|you"
    r"|we|until|unless|before|as|that|what|when|where)\b"
)
_BREAK = re.compile(
    r"[;:,]\s+|\s+[–—-]\s+"
    r"|\s+(?=(?:and|but|so|because|since|while|whereas|although|if|when|which)\s)"
)
_ENDINGS = ("ing", "ed", "ly", "tion", "ment", "ness", "ity", "s")
_SUFFIXES = ("ations", "ation", "ings", "ing", "ied", "ies", "ed", "es", "ly", "s")


def words(text: str) -> list[str]:
    """Return the words and numbers, in lower case."""
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d[\d.,]*", text.lower().replace("’", "'"))


def sentences(text: str) -> list[str]:
    """Split an answer, as far as it is read, into sentences; long ones are cut between clauses.

    Marks of Markdown are dropped.
    """
    ends = (found.end() for found in itertools.islice(re.finditer(r"\S+", text), MOST_WORDS))
    last = max(ends, default=0)
    read = re.sub(r"[*_`#>|]+", " ", text[: min(last, 10 * MOST_WORDS)]).replace("’", "'")
    pieces = (_pieces(one.strip(" -•")) for one in re.split(r"(?<=[.!?;])\s+|\n+", read))
    return [one for one in itertools.chain.from_iterable(pieces) if words(one)]


def _pieces(sentence: str) -> list[str]:
    """Cut what runs on for more than 30 words, as speech does, into pieces of 8 words or more."""
    if len(sentence.split()) <= 30:
        return [sentence]
    found = [""]
    for clause in _BREAK.split(sentence):
        if len(found[-1].split()) >= 8:
            found.append("")
        found[-1] = f"{found[-1]} {clause}".strip()
    return found


def negations(text: str) -> int:
    """Count the words that negate."""
    return len(_NEGATION.findall(text.lower()))


def dismisses(text: str) -> bool:
    """Whether something is called needless, certain or of no account."""
    return bool(_DISMISSAL.search(text.lower()))


def cues(sentence: str) -> tuple[float, ...]:
    """Return what hints at a denial: dismissal, negations, any, words of exception, absolutes."""
    text, count = sentence.lower(), negations(sentence)
    exception, absolute = bool(_EXCEPTION.search(text)), bool(_ABSOLUTE.search(text))
    return dismisses(sentence), count, count > 0, exception, absolute


def reasons(answer: list[str]) -> float:
    """Return the share of sentences that reason or tell what one would do, at most a third."""
    return min(1 / 3, sum(bool(_REASONING.search(one.lower())) for one in answer) / len(answer))


def function_share(text: str) -> float:
    """Return the share of function words; prose has about half, a list of key words none."""
    found = words(text)
    return sum(word in FUNCTION_WORDS for word in found) / max(len(found), 1)


def stems(text: str) -> set[str]:
    """Return the content words without their endings."""
    return {_stem(word) for word in words(text) if word not in FUNCTION_WORDS}


def shared(sentence: str, texts: tuple[str, ...]) -> float:
    """Return the share of the texts' content words in the sentence, rare ones counting more."""
    points, holding = _points()
    wanted = stems(" ".join(texts))
    rarity = {stem: math.log(points / (1 + holding[stem])) for stem in wanted}
    return sum(rarity[stem] for stem in wanted & stems(sentence)) / (sum(rarity.values()) or 1)


def order(sentence: str) -> float:
    """Return how much better the words follow each other than when shuffled, in nats a word."""
    said = words(sentence)
    if len(said) < 4:
        return 0.0
    rng, shuffled = random.Random(" ".join(said)), said[:]
    by_chance = []
    for _ in range(6):
        rng.shuffle(shuffled)
        by_chance.append(_fluency(shuffled))
    return _fluency(said) - sum(by_chance) / len(by_chance)


def _fluency(said: list[str]) -> float:
    """Return the mean pointwise mutual information of neighbours, as classes of words."""
    alone, pairs = _neighbours()
    total, path = sum(alone.values()), ["^", *map(_class, said), "$"]
    information = 0.0
    for before, after in itertools.pairwise(path):
        expected = (alone[after] + 1) / total
        seen = (pairs[before, after] + 2 * expected) / (alone[before] + 2)
        information += math.log(seen / expected)
    return information / (len(path) - 1)


def _class(word: str) -> str:
    """Return a function word itself, of any other word its ending."""
    if word in FUNCTION_WORDS:
        return word
    ends = (one for one in _ENDINGS if word.endswith(one) and len(word) > len(one) + 2)
    return "#" if word[0].isdigit() else "-" + next(ends, "")


def _stem(word: str) -> str:
    ends = (one for one in _SUFFIXES if word.endswith(one) and len(word) - len(one) >= 3)
    return word[: len(word) - len(next(ends, ""))]


def _open() -> list:
    return [question for question in bank.load().values() if question.kind == "open"]


@functools.cache
def _points() -> tuple[int, Counter]:
    rubrics = [point for question in _open() for point in question.rubric]
    return len(rubrics), Counter(s for point in rubrics for s in stems(" ".join(point.covers)))


@functools.cache
def _neighbours() -> tuple[Counter, Counter]:
    """Count classes of words and pairs of neighbours in the bank's model answers and rubrics."""
    alone, pairs = Counter(), Counter()
    for question in _open():
        texts = [question.ask, question.answers.long, question.answers.medium]
        for point in question.rubric:
            texts += [*point.covers, *point.denies]
        for one in itertools.chain.from_iterable(map(sentences, texts)):
            path = ["^", *map(_class, words(one)), "$"]
            alone.update(path)
            pairs.update(itertools.pairwise(path))
    return alone, pairs
