"""Exercise set 10: the case study (notebook 10)."""

from functools import lru_cache

import numpy as np

from .kit import Misconception, Part, Task, expect, require

# --- recorded scores ----------------------------------------------------------------------------


def _hundredths(text):
    return np.array(text.split(), float) / 100


def _bits(text):
    return np.array(list(text), int)


# One split of the solar cells by blocks, as in notebook 10 (seed 0, frozen Lite0, logistic
# regression). For 160 training cells: the score of the head that was fitted to them, and that of a
# head of four folds that was not. For 160 cells of the held-out blocks: the score. Then the labels.
FITTED = _hundredths("""
    1157 1242 137 124 93 -26 52 178 34 -38 -42 -93 -357 1837 517 1947 1463 161 2272 1879 1698 -71
    -137 -278 -219 837 7 -110 521 -362 -124 -101 -38 -240 -232 -23 38 -35 -108 211 19 235 850 222
    -485 -635 -362 -70 -351 -210 -297 -54 -117 -161 -40 93 -443 542 -391 -381 -398 -384 -437 -400
    -252 83 -257 -173 -109 -237 -161 -438 -545 -473 -458 -487 -544 -561 -554 -392 -58 -554 -88
    2150 1160 1207 1106 -367 -772 1638 -427 -292 -360 -331 359 -521 -418 -404 -406 -331 -658 -307
    -315 -421 -294 -413 -478 -194 -293 -92 -331 -367 -401 -399 -212 -281 -393 -211 -453 -230 -254
    -374 50 -104 -510 -389 -477 -495 -505 -576 -439 -688 -662 -486 -832 -461 -511 -140 -434 -162
    -628 27 -142 -191 -271 -16 -46 0 -601 -269 -408 -385 -113 -364 -166 -193 -316 -473 -320 -81
""")
HELD_OUT = _hundredths("""
    1177 1123 156 181 -58 -45 36 26 36 -225 -57 -98 -515 1558 741 1814 1345 57 1938 2013 1865 -56
    -23 -279 -262 718 -237 56 486 -344 -109 -5 -229 -304 -236 -197 333 98 -154 204 -69 143 968 155
    -449 -540 -387 101 -307 -207 -319 -59 -342 -64 -154 138 -442 577 -432 -426 -435 -423 -371 -453
    -243 68 -275 -191 440 -205 -74 -349 -511 -408 -415 -519 -496 -472 -486 -431 -225 -469 -448
    1999 793 1223 907 -328 -722 1593 -439 -338 -374 -320 236 -466 -445 -435 -411 -453 -626 -304
    -325 -346 -221 -478 -463 -176 -295 -65 -255 -345 -389 -363 -219 -271 -377 -291 -390 -229 -252
    -303 -312 86 -468 -318 -496 -451 -514 -584 -400 -647 -637 -421 -765 -495 -408 -105 -380 -190
    -677 -110 -111 -205 -205 -185 -138 -116 -537 -282 -482 -286 -29 -370 -92 -171 -311 -448 -295 6
""")
TEST = _hundredths("""
    -124 -253 -149 -29 -311 200 -321 -144 -364 -254 -207 -312 -275 -85 25 -152 -139 -111 150 -86 6
    -169 178 55 52 153 -220 124 73 48 -142 58 315 117 -60 -23 335 -55 -181 1325 126 159 62 -123
    -285 -56 -398 147 -194 -274 942 -229 -288 -69 -210 -298 -33 -666 370 -640 -585 -818 -108 -417
    -206 -463 -476 -424 -212 -476 -436 -534 -429 -359 -498 -337 -502 45 -399 -287 -46 -198 -99
    -275 -362 -452 -526 -770 -715 -353 -635 -700 -399 -210 -394 -421 -746 -702 -774 -733 -366 -313
    -354 -623 -489 -491 -601 -365 -407 -455 -261 -305 -334 -353 -283 -239 -534 -345 483 -362 -321
    -581 -235 -123 -137 -562 67 -250 3 -237 -372 -52 -526 -377 -463 -100 -186 -298 -386 -375 -299
    -254 -124 -71 -316 -102 -325 -376 -280 -229 -98 -318 -204 854 -115 586 -326 -284 -327 -175
""")
OLD = _bits(
    "11111111110001111111100001101000100100011111000000001011010000000100000000000000"
    "10111110010000100000000000000000000000000010000000000000000001000111000000000000"
)
NEW = _bits(
    "00010100000000001000000000010000111110011111101001101110001000010100100000000101"
    "11000000000000000000000000000000000000100100111110000000000000100000000001010001"
)


def _drawn(rng, n=60):
    """Recorded scores of other rows: (fitted, held out, test), each with its labels."""
    old, new = rng.choice(160, n, replace=False), rng.choice(160, n, replace=False)
    return (FITTED[old], OLD[old]), (HELD_OUT[old], OLD[old]), (TEST[new], NEW[new])


# --- ex10.1: one set of answers, two accuracies -------------------------------------------------


@lru_cache(maxsize=1)
def _labels():
    from tlcourse import datasets

    return np.array(datasets.solar_cells().meta["probability"])


def _answers(rng, n=200):
    p = rng.choice(_labels(), n, replace=False)
    return p, rng.random(n) < 0.2 + 0.6 * p


def _counted_by_hand(f, rng):
    p, flagged = np.array([0, 0, 1 / 3, 2 / 3, 1]), np.array([False, True, True, False, True])
    what = "p = 0, 0, 1/3, 2/3, 1, of which the second, third and fifth are flagged: "
    out = f(p, flagged)
    expect(np.shape(out), (2,), "the shape of what comes back, two numbers")
    expect(out[0], 7 / 12, what + "the published way")
    expect(out[1], 2 / 5, what + "the usual way")


def _counted_alike(f, rng):
    p = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    out = f(p, np.array([False, True, True, True, True]))
    expect(out, [0.6, 0.6], "cells with p = 0 and p = 1 only, three of five answers right")


def _counted_cells(f, rng):
    p = _labels()
    for flag, wanted in ((True, [0.3695652, 0.3128811]), (False, [0.6304348, 0.6871189])):
        what = f"all {len(p)} solar cells, {'every' if flag else 'no'} cell flagged"
        expect(f(p, np.full(len(p), flag)), wanted, what, 1e-5)


def _counted(border=0.0, weight=lambda p: np.where(p > 0, p, 1), usual=0.5, of_all=False,
             weighs_usual=False):  # fmt: skip
    def wrong(p, flagged):
        p = np.asarray(p, float)
        w = weight(p)
        right = (p > border) == flagged
        paper = np.sum(w * right) / (len(p) if of_all else np.sum(w))
        return paper, np.average((p > usual) == flagged, weights=w if weighs_usual else None)

    return wrong


TWICE = Task(
    id="ex10.1",
    title="One set of answers, two accuracies",
    function="two_accuracies",
    taught="10#The published number",
    parts=(
        Part("by hand", 2, _counted_by_hand),
        Part("without a doubt they agree", 1, _counted_alike),
        Part("the solar cells", 1, _counted_cells),
    ),
    probes=lambda rng: [_answers(rng), _answers(rng), _answers(rng, 30)],
    misconceptions=(
        Misconception(
            "intact cells weigh nothing",
            _counted(weight=lambda p: p),
            "How much does a cell with p = 0 weigh in your sum?",
            "You weigh every cell by p, so a cell that is surely intact counts zero: false alarms "
            "on it cost nothing.",
        ),
        Misconception(
            "divided by the number of cells",
            _counted(of_all=True),
            "What does your first number say if every answer is right?",
            "The weights do not add up to the number of cells, so even a perfect set of answers "
            "stays below 1.",
        ),
        Misconception(
            "the usual border in both",
            _counted(border=0.5),
            "Is a cell with p = 1/3 defective in the published way?",
            "The weights are the published ones and the labels are not: there every answer but a "
            "sure “functional” counts as defective.",
        ),
        Misconception(
            "the published border in both",
            _counted(usual=0.0),
            "Is a cell with p = 1/3 defective in the usual way?",
            "In the usual way somebody who leans to functional has not called the cell "
            "defective; you count it so.",
        ),
        Misconception(
            "weighed by how sure the answer was",
            _counted(weight=lambda p: np.maximum(p, 1 - p)),
            "How much does a cell with p = 1/3 weigh?",
            "You weigh by the distance from doubt, which sounds fair: 1/3 then weighs 2/3. In the "
            "published way the weight of a defective cell is p itself.",
        ),
        Misconception(
            "doubtful cells left out",
            _counted(weight=lambda p: np.abs(p - 0.5) > 0.4),
            "How many of the cells are in your first number?",
            "You keep the sure cells alone. The paper keeps the doubtful ones and gives them less "
            "weight; without them every model looks better.",
        ),
        Misconception(
            "no weights",
            _counted(weight=np.ones_like),
            "What is the weight of a doubtful cell in your first number?",
            "You use the paper's labels and count every cell once. A third of a cell is what gave "
            "the paper's digits away.",
        ),
        Misconception(
            "weights in both",
            _counted(weighs_usual=True),
            "What is the weight of a doubtful cell in your second number?",
            "The usual accuracy counts every cell once; yours weighs them.",
        ),
    ),
)

# --- ex10.2: mend the calibration ---------------------------------------------------------------


def _with_minimiser(f, fitted, held_out, test):
    """Call f with a search for the T between 0.05 and 20 with the smallest loss."""
    import numpy as np

    def minimise(loss):
        def value(log_T):
            found = np.asarray(loss(float(np.exp(log_T))), float)
            if found.shape != ():
                raise TypeError(f"loss(T) is to be one number; yours has the shape {found.shape}")
            return float(found) if np.isfinite(found) else np.inf

        low, high, share = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
        a, b = high - share * (high - low), low + share * (high - low)
        at_a, at_b = value(a), value(b)
        for _ in range(60):
            if at_a < at_b:
                high, b, at_b = b, a, at_a
                a = high - share * (high - low)
                at_a = value(a)
            else:
                low, a, at_a = a, b, at_b
                b = low + share * (high - low)
                at_b = value(b)
        return float(np.exp((low + high) / 2))

    return [float(number) for number in f(minimise, fitted, held_out, test)]


def _sigma(z):
    return 1 / (1 + np.exp(-z))


def _three(f, *parts):
    out = f(*parts)
    expect(len(out), 3, "how many numbers come back (T, Brier before, Brier after)")
    return out


def _calibrated_by_hand(f, rng):
    z, y = np.array([2.0] * 4 + [-2.0] * 4), np.array([1, 1, 1, 0, 0, 0, 0, 1])
    sure = np.array([9.0, 7.0, -8.0, -6.0]), np.array([1, 1, 0, 0])
    T, before, after = _three(f, sure, (z, y), (np.array([2.0, 2.0, -2.0]), np.array([1, 0, 0])))
    what = "held-out scores of 2 and -2, three of four with the right sign; test scores 2, 2, -2 "
    what += "with labels 1, 0, 0: "
    p = _sigma(2)
    expect(T, 2 / np.log(3), what + "T, which has to turn a score of 2 into 3/4", 1e-4)
    expect(before, (2 * (1 - p) ** 2 + p**2) / 3, what + "the Brier score before", 1e-4)
    expect(after, (2 * 0.25**2 + 0.75**2) / 3, what + "the Brier score after", 1e-4)


def _not_peeked(f, rng):
    fitted, held_out, test = _drawn(rng)
    T = _three(f, fitted, held_out, test)[0]
    got = _three(f, fitted, held_out, (test[0], 1 - test[1]))[0]
    expect(got, T, "your T, after all test labels are turned around", 1e-4)
    got = _three(f, (fitted[0], 1 - fitted[1]), held_out, test)[0]
    expect(got, T, "your T, after the labels of the rows that the head was fitted to change", 1e-4)
    got = _three(f, fitted, (3 * held_out[0], held_out[1]), test)[0]
    expect(got, 3 * T, "your T, after the held-out scores are three times as large", 1e-4)


def _calibrated_cells(f, rng):
    out = _three(f, (FITTED, OLD), (HELD_OUT, OLD), (TEST, NEW))
    for got, wanted, name in zip(out, (1.52973, 0.15501, 0.14714), ("T", "the Brier score before",
                                 "the Brier score after"), strict=True):  # fmt: skip
        expect(got, wanted, f"the recorded scores of solar cells: {name}", 2e-4)


def _log_loss(p, y):
    return -np.mean(np.log(np.where(y == 1, p, 1 - p)))


def _calibrating(rows="held_out", loss=_log_loss, multiplies=False, twice=False, brier=None,
                 before_on="test"):  # fmt: skip
    def wrong(minimise, fitted, held_out, test):
        parts = {"fitted": fitted, "held_out": held_out, "test": test}
        parts["all"] = [np.concatenate(pair) for pair in zip(*parts.values(), strict=True)]

        def probability(z, T):
            z = z * T if multiplies == "all" else z / T
            return _sigma(_sigma(z)) if twice else _sigma(z)

        z, y = parts[rows]
        T = minimise(lambda T: loss(probability(z, T), y))
        scores = []
        for (z, y), T_used in ((parts[before_on], 1), (test, T)):
            p = _sigma(z * T_used) if multiplies == "after" else probability(z, T_used)
            scores.append(np.mean(((p > 0.5) - y if brier == "decided" else p - y) ** 2))
        return T, *scores

    return wrong


def _errors(p, y):
    return np.mean((p > 0.5) != y)


CALIBRATE = Task(
    id="ex10.2",
    title="Mend the calibration that does harm",
    function="calibrate",
    taught="10#Probabilities you can defend",
    parts=(
        Part("by hand", 2, _calibrated_by_hand),
        Part("on which rows", 2, _not_peeked),
        Part("the solar cells", 1, _calibrated_cells),
    ),
    probes=lambda rng: [
        _drawn(rng),
        _drawn(rng, 90),
        ((FITTED, OLD), (HELD_OUT, OLD), (TEST, NEW)),
    ],
    harness=_with_minimiser,
    misconceptions=(
        Misconception(
            "as it was",
            _calibrating(rows="fitted", loss=_errors, multiplies="all", before_on="held_out"),
            "There are four bugs. Which rows choose T? What does the loss say about T? Is a "
            "larger T surer? And are your two Brier scores measured on the same rows?",
            "The head was fitted to the rows that choose T; the number of errors is the same for "
            "every T; dividing has become multiplying; and before and after speak of different "
            "cells, so their difference is not what calibration brought.",
        ),
        Misconception(
            "chosen on the rows of the fit",
            _calibrating(rows="fitted"),
            "Print your T. Does the model get surer or less sure? Which rows said so?",
            "On rows that it was fitted to, the head is right nearly always and deserves more "
            "confidence than it shows. On new ones it does not.",
        ),
        Misconception(
            "chosen on the test rows",
            _calibrating(rows="test"),
            "Does your T change if somebody changes a label of the test set?",
            "You choose T on the rows that then say how good it is. With one number to choose the "
            "gain is small, and it is still not one that you can promise.",
        ),
        Misconception(
            "chosen on all rows",
            _calibrating(rows="all"),
            "How many of the three sets of rows have a say in your T?",
            "You pool everything: rows that the head knows by heart, and rows that you test on. "
            "Only the held-out ones resemble new cells and are free.",
        ),
        Misconception(
            "the number of errors is minimised",
            _calibrating(loss=_errors),
            "Try two values of T. Does your loss differ?",
            "Dividing by T moves no score across zero, so the share of errors is the same for "
            "every T. Choose by a loss that looks at the probabilities.",
        ),
        Misconception(
            "the Brier score is minimised",
            _calibrating(loss=lambda p, y: np.mean((p - y) ** 2)),
            "Which loss is T to make smallest?",
            "You choose T by the Brier score. That is a fair choice too, but another one: it "
            "forgives sure mistakes more easily than the log loss that is asked for.",
        ),
        Misconception(
            "multiplied",
            _calibrating(multiplies="all"),
            "The scores are too sure. Is your T above or below 1?",
            "You multiply by T and so find one over it. The probabilities are right; whoever "
            "reads your T and divides makes the model surer.",
        ),
        Misconception(
            "divided to choose, multiplied to use",
            _calibrating(multiplies="after"),
            "Do you use T in the same way when you choose it and when you apply it?",
            "T is chosen as a divisor and applied as a factor, so what was to be softened is "
            "sharpened.",
        ),
        Misconception(
            "a sigmoid of the sigmoid",
            _calibrating(twice=True),
            "Between which two values do your probabilities lie?",
            "A sigmoid of a probability lies between 0.5 and 0.73, so no cell is ever called "
            "surely intact, and no T can repair it.",
        ),
        Misconception(
            "the Brier score of decisions",
            _calibrating(brier="decided"),
            "Do your two Brier scores differ?",
            "You round the probabilities first. What is left is the share of errors, and T cannot "
            "change that.",
        ),
        Misconception(
            "before and after on different rows",
            _calibrating(before_on="held_out"),
            "On which rows is the first Brier score measured, on which the second?",
            "One speaks of held-out training cells, the other of the test cells. Their difference "
            "tells two sets of cells apart, not a model before and after.",
        ),
    ),
)

# --- ex10.3: the cheapest threshold -------------------------------------------------------------


def _cheap(f, rows):
    for scores, y, miss, alarm, wanted in rows:
        what = f"scores {scores}, labels {y}, a miss costs {miss}, a false alarm {alarm}"
        out = f(np.array(scores, float), np.array(y), miss, alarm)
        expect(np.shape(out), (2,), "the shape of what comes back, two numbers")
        expect(out[0], wanted[0], f"{what}: the threshold")
        expect(out[1], wanted[1], f"{what}: the cost per cell")


def _cheap_by_hand(f, rng):
    _cheap(f, [
        ([1, 2, 3, 4], [0, 1, 0, 1], 10, 1, (2, 0.25)),
        ([3, 1, 4, 2], [0, 0, 1, 1], 1, 10, (4, 0.25)),
        ([-4, 7, 2, 5, -1], [0, 1, 0, 0, 1], 3, 1, (-1, 0.4)),
    ])  # fmt: skip


def _cheap_ties(f, rng):
    _cheap(f, [
        ([2, 1, 3, 2], [0, 0, 1, 1], 3, 1, (2, 0.25)),
        ([2, 3, 2, 2], [1, 1, 0, 0], 3, 1, (2, 0.5)),
        ([4, 2, 1, 3], [1, 1, 0, 0], 1, 1, (4, 0.25)),
    ])  # fmt: skip


def _cheap_ends(f, rng):
    _cheap(f, [
        ([3, 2, 1], [0, 0, 1], 1, 10, (np.inf, 1 / 3)),
        ([5, 6], [0, 0], 1, 1, (np.inf, 0)),
        ([-3, -2, -1], [1, 0, 0], 10, 1, (-3, 2 / 3)),
    ])  # fmt: skip


def _cheap_cells(f, rng):
    for miss, alarm, wanted in ((10, 1, (-2.37, 0.4)), (1, 3, (1.38, 0.16875))):
        what = f"160 recorded scores, a miss costs {miss}, a false alarm {alarm}: "
        order = rng.permutation(160)
        t, cost = f(HELD_OUT[order], OLD[order], miss, alarm)
        expect(t, wanted[0], what + "the threshold")
        expect(cost, wanted[1], what + "the cost per cell")


def _scored_cells(rng, miss, alarm, n=60, digits=2):
    rows = rng.choice(160, n, replace=False)
    return np.round(HELD_OUT[rows], digits), OLD[rows], miss, alarm


def _cheapest(choose_by=lambda miss, alarm: (miss, alarm), strictly=False, ends=np.inf,
              first=False, thresholds=None, total=False):  # fmt: skip
    def wrong(scores, y, miss, false_alarm):
        def cost(t, miss, false_alarm):
            flagged = scores > t if strictly else scores >= t
            return np.mean(np.where(y == 1, miss * ~flagged, false_alarm * flagged))

        if thresholds is None:
            ts = np.unique(np.append(scores, [] if ends is None else ends))
        else:
            ts = thresholds(miss, false_alarm)
        costs = np.array([cost(t, *choose_by(miss, false_alarm)) for t in ts])
        best = costs.argmin() if first else len(costs) - 1 - costs[::-1].argmin()
        found = cost(ts[best], miss, false_alarm)
        return ts[best], found * len(y) if total else found

    return wrong


def _splits_ties(scores, y, miss, false_alarm):
    order = np.argsort(-scores, kind="stable")
    hits = np.append(0, np.cumsum(y[order]))
    alarms = np.append(0, np.cumsum(1 - y[order]))
    costs = (miss * (hits[-1] - hits) + false_alarm * alarms) / len(y)
    best = costs.argmin()
    return np.append(np.inf, scores[order])[best], costs[best]


CHEAPEST = Task(
    id="ex10.3",
    title="The cheapest threshold",
    function="cheapest_threshold",
    taught="10#A threshold from costs",
    parts=(
        Part("by hand", 2, _cheap_by_hand),
        Part("equal scores, equal costs", 1, _cheap_ties),
        Part("every cell, no cell", 1, _cheap_ends),
        Part("the solar cells", 1, _cheap_cells),
    ),
    probes=lambda rng: [
        _scored_cells(rng, 10, 1),
        _scored_cells(rng, 3, 1, digits=0),
        _scored_cells(rng, 1, 3, digits=0),
        (np.array([4.0, 2.0, 1.0, 3.0]), np.array([1, 1, 0, 0]), 1, 1),
        (np.array([3.0, 2.0, 1.0]), np.array([0, 0, 1]), 1, 10),
    ],
    misconceptions=(
        Misconception(
            "errors counted alike",
            _cheapest(lambda miss, alarm: (1, 1)),
            "Does your threshold move when a miss gets dearer?",
            "You take the threshold with the fewest errors. It does not know what an error costs.",
        ),
        Misconception(
            "the costs are mixed up",
            _cheapest(lambda miss, alarm: (alarm, miss)),
            "If misses get dearer, should more cells be flagged or fewer?",
            "You charge the miss for a false alarm and the other way round: the dearer a miss, the "
            "fewer cells you flag.",
        ),
        Misconception(
            "the formula on scores",
            _cheapest(thresholds=lambda miss, alarm: np.array([alarm / (alarm + miss)])),
            "Are these scores probabilities? Is any of them below 0?",
            "The formula's threshold is one for calibrated probabilities. On raw scores it may lie "
            "anywhere; here the threshold has to be found.",
        ),
        Misconception(
            "thresholds between 0 and 1",
            _cheapest(thresholds=lambda miss, alarm: np.linspace(0, 1, 101)),
            "What are the smallest and the largest of the scores?",
            "You try thresholds from 0 to 1. Scores of a linear head run far beyond both ends.",
        ),
        Misconception(
            "equal scores are told apart",
            _splits_ties,
            "Two cells have the same score. Can your rule flag one and not the other?",
            "You go down the sorted list one cell at a time, and stop between two cells of equal "
            "score. No threshold can do that, and the cost you report cannot be had.",
        ),
        Misconception(
            "no threshold that flags nothing",
            _cheapest(ends=None),
            "Which threshold says that inspecting does not pay at all?",
            "You try the scores alone, so one cell at least is always flagged. Where false alarms "
            "are dear, flagging none may be the cheapest.",
        ),
        Misconception(
            "flagged above the threshold, not at it",
            _cheapest(strictly=True, ends=-np.inf),
            "Is the cell whose score equals your threshold flagged?",
            "A cell is to be flagged from the threshold on. Your costs leave out the cell that "
            "lies on it.",
        ),
        Misconception(
            "the lowest of equals",
            _cheapest(first=True),
            "Two thresholds cost the same. Which of them flags fewer cells?",
            "You take the lower one, which flags more cells for the same cost.",
        ),
        Misconception(
            "the cost of all cells together",
            _cheapest(total=True),
            "Give every cell twice. What happens to your cost?",
            "You return a sum. The cost per cell is what can be compared between sets of cells.",
        ),
    ),
)

# --- ex10.4: mend the check of an exported file -------------------------------------------------


def _compared_pytorch(f, seed, change, size, tolerance, shift):
    """Let f compare a small network with a file that answers the same but for one change.

    `change` says which: not a number, the first row alone, or else one answer off by `size`. The
    first class gets `shift` on its logits; they are nothing else where the change is "exact".
    """
    from collections import OrderedDict

    import numpy as np
    import torch
    from torch import nn

    rng = np.random.default_rng(seed)
    parts = OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), act=nn.LeakyReLU())
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(4, 3)}
    model = nn.Sequential(parts)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
        model.head.bias.copy_(torch.tensor([shift, 0.5, -0.5]))
        if change == "exact":
            model.head.weight.zero_()
        model.norm.running_mean.copy_(torch.from_numpy(rng.normal(size=4)))
    x = rng.normal(size=(6, 3, 2, 2)).astype("float32")
    with torch.no_grad():
        answers = model.eval()(torch.from_numpy(x)).numpy().copy()
    answers[rng.integers(1, 6), 0] += {"nan": np.nan, "inf": np.inf}.get(change, size)

    def exported(pictures):
        pictures = np.asarray(pictures, "float32")
        if pictures.ndim != 4 or pictures.shape[1:] != (3, 2, 2):
            raise ValueError(f"the file takes pictures (n, 3, 2, 2), not {pictures.shape}")
        rows = [int(abs(x - picture).sum(axis=(1, 2, 3)).argmin()) for picture in pictures]
        made = answers[rows].copy()
        return made[:1] if change == "first" else made

    def state():
        modes = [part.training for part in model.modules()]
        return [modes, *(t.tolist() for t in model.state_dict().values())]

    model.train(change != "mode")
    before = state()
    made = f(model, exported, torch.from_numpy(x), tolerance)
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        raise TypeError(f"it returned a {type(made).__name__}; expected two: ok and the gap")
    gap = float(made[1])
    return {
        "ok": bool(made[0]),
        "gap": round(gap, 2) if np.isfinite(gap) else np.inf,
        "as it was": state() == before,
    }


def _compared_keras(f, seed, change, size, tolerance, shift):
    """Let f compare a small network with a file that answers the same but for one change.

    `change` says which: not a number, the first row alone, or else one answer off by `size`. The
    first class gets `shift` on its logits; they are nothing else where the change is "exact".
    """
    import keras
    import numpy as np
    from keras import layers

    rng = np.random.default_rng(seed)
    norm, head = layers.BatchNormalization(), layers.Dense(3, kernel_initializer="zeros")
    norm.build((None, 3))
    head.build((None, 3))

    class Network(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.head = norm, head

        def call(self, x, training=None):
            return self.head(self.norm(keras.ops.mean(x, axis=(1, 2)), training=training))

    model = Network()
    norm.set_weights([*rng.normal(size=(3, 3)), np.ones(3)])
    kernel = rng.normal(size=(3, 3)) * (change != "exact")
    head.set_weights([kernel, np.array([shift, 0.5, -0.5])])
    x = rng.normal(size=(6, 2, 2, 3)).astype("float32")
    answers = np.array(model(x, training=False))
    answers[rng.integers(1, 6), 0] += {"nan": np.nan, "inf": np.inf}.get(change, size)

    def exported(pictures):
        pictures = np.asarray(pictures, "float32")
        if pictures.ndim != 4 or pictures.shape[1:] != (2, 2, 3):
            raise ValueError(f"the file takes pictures (n, 2, 2, 3), not {pictures.shape}")
        rows = [int(abs(x - picture).sum(axis=(1, 2, 3)).argmin()) for picture in pictures]
        made = answers[rows].copy()
        return made[:1] if change == "first" else made

    def state():
        flags = [layer.trainable for layer in (model, *model.layers)]
        return [flags, *(weight.tolist() for weight in model.get_weights())]

    before = state()
    made = f(model, exported, x, tolerance)
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        raise TypeError(f"it returned a {type(made).__name__}; expected two: ok and the gap")
    gap = float(made[1])
    return {
        "ok": bool(made[0]),
        "gap": round(gap, 2) if np.isfinite(gap) else np.inf,
        "as it was": state() == before,
    }


def _seed(rng):
    return int(rng.integers(1000))


def _verdict(f, rng, change, size, tolerance, ok, gap, what, shift=0.0):
    out = f(_seed(rng), change, size, tolerance, shift)
    expect(out["ok"], ok, f"{what}, tolerance {tolerance}: is the file all right")
    expect(out["gap"], gap, f"{what}: the gap, to two digits (infinite where it is no number)")


def _same_passes(f, rng):
    _verdict(f, rng, "", 0.0, 0.001, True, 0.0, "a file that answers as the network does")
    _verdict(f, rng, "off", 0.25, 0.3, True, 0.25, "one logit larger by 0.25")
    what = "a network that always says 0, 0.5, -0.5, a file one of whose answers is off by 0.25"
    _verdict(f, rng, "exact", 0.25, 0.25, True, 0.25, what)


def _other_fails(f, rng):
    for size in (0.5, -0.5):
        what = f"one logit of one picture {'larger' if size > 0 else 'smaller'} by 0.5"
        _verdict(f, rng, "off", size, 0.3, False, 0.5, what)
    what = "logits near 10,000, one of them larger by 0.05"
    _verdict(f, rng, "off", 0.05, 0.02, False, 0.05, what, 1e4)


def _no_answer_fails(f, rng):
    _verdict(f, rng, "nan", 0.0, 0.1, False, np.inf, "one logit of the file is NaN")
    _verdict(f, rng, "inf", 0.0, 0.1, False, np.inf, "one logit of the file is infinite")
    what = "the file answers for the first picture alone, and six were asked"
    _verdict(f, rng, "first", 0.0, 1e6, False, np.inf, what)


def _left_alone(f, rng):
    for change in ("", "mode"):
        out = f(_seed(rng), change, 0.0, 0.1, 0.0)
        require(
            out["as it was"],
            "the network is not as it was before: its mode or flags, or BatchNorm's statistics",
        )


def _comparing(got, wanted, tolerance, how):
    """What a check with one mistake says of two arrays of answers."""
    if how != "broadcast" and got.shape != wanted.shape:
        return False, np.inf
    gap = abs(got - wanted)
    if how == "left out":
        return bool(np.nanmax(gap) <= tolerance), np.nanmax(gap)
    if how == "signed":
        return (got - wanted).max() <= tolerance, (got - wanted).max()
    if how == "mean":
        return gap.mean() <= tolerance, gap.mean()
    if how == "classes":
        return bool((got.argmax(axis=1) == wanted.argmax(axis=1)).all()), gap.max()
    if how == "passes":
        return not gap.max() > tolerance, gap.max()
    if how == "relative":
        return np.allclose(got, wanted, atol=tolerance), gap.max()
    if how == "all":
        return not gap.mean() > tolerance, gap.mean()
    return gap.max() <= tolerance, gap.max()


def _check_pytorch(how="", train=False, stays=False):
    def wrong(model, exported, x, tolerance):
        import torch

        mode = model.training
        model.train(mode if train else False)
        with torch.no_grad():
            wanted = model(x).numpy()
        if not stays:
            model.train(mode)
        got = exported(x.numpy())
        if how == "all":
            got = np.broadcast_to(got, wanted.shape)
        return _comparing(got, wanted, tolerance, how)

    return wrong


def _check_keras(how="", train=False, stays=False):
    def wrong(model, exported, x, tolerance):
        if stays:
            model.trainable = False
        wanted = np.array(model(x, training=train))
        got = exported(x)
        if how == "all":
            got = np.broadcast_to(got, wanted.shape)
        return _comparing(got, wanted, tolerance, how)

    return wrong


def _checks(**how):
    return dict(tensorflow=_check_keras(**how), pytorch=_check_pytorch(**how))


EXPORT = Task(
    id="ex10.4",
    title="Mend the export check that lets everything pass",
    function="check_export",
    taught="10#One file without the framework",
    parts=(
        Part("near enough passes", 1, _same_passes),
        Part("one wrong answer fails", 2, _other_fails),
        Part("no answer fails", 2, _no_answer_fails),
        Part("the network stays as it was", 1, _left_alone),
    ),
    probes=lambda rng: [
        (_seed(rng), "off", -0.5, 0.1, 50.0),  # too little to change the class
        (_seed(rng), "nan", 0.0, 0.1, 0.0),
        (_seed(rng), "first", 0.0, 0.1, 0.0),
        (_seed(rng), "off", 0.05, 0.02, 1e4),
    ],
    harness={"tensorflow": _compared_keras, "pytorch": _compared_pytorch},
    misconceptions=(
        Misconception(
            "as it was",
            _checks(how="all", train=True),
            "What does your check say of a file that answers NaN? Of one wrong picture in a "
            "thousand? Of a file that answers a single row? And in which mode is the network?",
            "No comparison with NaN is true, so “not larger” passes; a mean hides single "
            "pictures; one row is stretched to all; and BatchNorm compares the file with another "
            "network than the one that you exported.",
        ),
        Misconception(
            "training mode",
            _checks(train=True),
            "Does the network give a picture the same answer whatever else is in the batch?",
            "In training mode BatchNorm takes mean and variance from the batch, and overwrites its "
            "own. The file holds the network of inference mode, and your check changes the "
            "original.",
        ),
        Misconception(
            "NaN passes",
            _checks(how="passes"),
            "Is NaN larger than your tolerance? Is it smaller?",
            "Every comparison with NaN is false. Ask whether the gap is small enough, not whether "
            "it is too large.",
        ),
        Misconception(
            "NaN is left out",
            _checks(how="left out"),
            "Which answers go into your largest difference?",
            "You skip what is not a number, so a file that fails on some pictures is judged by the "
            "others.",
        ),
        Misconception(
            "mean difference",
            _checks(how="mean"),
            "How much does one wrong picture among a thousand move your number?",
            "A mean hides single pictures, and the export bug that you look for may strike one "
            "kind of picture alone.",
        ),
        Misconception(
            "with its sign",
            _checks(how="signed"),
            "What is your gap if the file's logits are all far too small?",
            "The largest signed difference is below zero there, which is within every tolerance.",
        ),
        Misconception(
            "only the class",
            _checks(how="classes"),
            "Does your verdict depend on the tolerance?",
            "You compare the classes. A logit may be off by a lot before the class changes, and "
            "your threshold and temperature work on the logit.",
        ),
        Misconception(
            "shapes not compared",
            _checks(how="broadcast"),
            "How many rows does the file answer with, and what does the subtraction make of it?",
            "One row minus six rows is six rows: NumPy repeats it without a word. Compare the "
            "shapes before the numbers.",
        ),
        Misconception(
            "shapes not compared, and left in another state",
            _checks(how="broadcast", stays=True),
            "Two things are left: what if the file answers with one row? And in which mode, with "
            "which flags, do you leave the network?",
            "One row minus six rows is six rows: NumPy repeats it without a word. And whoever goes "
            "on training after your check trains something else than he thinks.",
        ),
        Misconception(
            "a tolerance that grows",
            _checks(how="relative"),
            "Which two tolerances does allclose have, and what is the other one if you say "
            "nothing?",
            "allclose adds a share of the size of the numbers to your tolerance: for logits near "
            "10,000 that is a tenth.",
        ),
        Misconception(
            "the network is left in another state",
            _checks(stays=True),
            "Compare the network's mode, or its trainable flags, before and after your check.",
            "Your check switches the network over and does not switch it back. Whoever goes on "
            "training trains something else than he thinks.",
        ),
    ),
)

# --- ex10.5: eight bits -------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _kernels():
    """The first depthwise kernel of EfficientNet-Lite0, and 60 rows of its classifier."""
    import torch  # the checkpoint is a PyTorch file

    from tlcourse import assets

    file = assets.locate("efficientnet-lite0")
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    names = ("_blocks.0._depthwise_conv.weight", "_fc.weight")
    depthwise, head = (checkpoint[name].numpy().astype(float) for name in names)
    return depthwise, head[:60]


def _weights(rng, shape=(5, 6), dead=True):
    W = rng.normal(size=shape) * 10.0 ** rng.uniform(-2, 1, (shape[0], *(1 for _ in shape[1:])))
    W[0] = -np.abs(W[0])  # a channel without a positive weight
    W[1] *= 0 if dead else 1
    return W


def _two(out):
    require(
        isinstance(out, list) and len(out) == 2,
        f"expected two arrays, the integers and the scales; got {type(out).__name__}",
    )
    return np.asarray(out[0]), np.asarray(out[1])


def _bits_by_hand(f, rng):
    W = np.array([[1.27, -0.64, 0.018], [-0.254, 0.1, 0.0]])
    q, scale = _two(f(W, 8))
    expect(scale, np.array([0.01, 0.002]), f"{W.tolist()} in 8 bits: the scales", 1e-9)
    wanted = np.array([[127, -64, 2], [-127, 50, 0]])
    expect(q, wanted, f"{W.tolist()} in 8 bits: the integers")
    W = np.array([[7.0, -3.7, 1.4], [-0.7, 0.26, 0.12]])
    q, scale = _two(f(W, 4))
    expect(scale, np.array([1.0, 0.1]), f"{W.tolist()} in 4 bits: the scales", 1e-9)
    expect(q, np.array([[7, -4, 1], [-7, 3, 1]]), f"{W.tolist()} in 4 bits: the integers")


def _bits_shape(f, rng):
    for shape in ((5, 6), (4, 2, 3, 3)):
        q, scale = _two(f(_weights(rng, shape, dead=False), 8))
        require(q.dtype == np.int8, f"the integers are to be of type int8; they are {q.dtype}")
        expect(q.shape, shape, f"weights of shape {shape}: the shape of the integers")
        expect(scale.shape, shape[:1], f"weights of shape {shape}: the shape of the scales")


def _bits_dead(f, rng):
    q, scale = _two(f(_weights(rng), 8))
    expect(scale.tolist()[1], 1.0, "a channel whose weights are all 0: its scale")
    expect(q[1], np.zeros(6, int), "a channel whose weights are all 0: its integers")


def _bits_real(f, rng):
    for W, name in zip(_kernels(), ("first depthwise kernel", "classifier"), strict=True):
        q, scale = _two(f(W, 8))
        what = f"EfficientNet-Lite0's {name}"
        expect(q.shape, W.shape, f"{what}: the shape of the integers")
        by_channel = (-1, *(1 for _ in W.shape[1:]))
        error = np.abs(q * scale.reshape(by_channel) - W).reshape(len(W), -1).max(axis=1)
        largest = np.abs(W).reshape(len(W), -1).max(axis=1)
        worst = int(np.argmax(error - largest / 254))
        require(
            error[worst] <= largest[worst] / 254 * (1 + 1e-5),
            f"{what}, channel {worst}: its weights reach {largest[worst]:.3g}, so rounding is off "
            f"by {largest[worst] / 254:.2g} at most, and yours by {error[worst]:.2g}",
        )


def _rounded(levels=lambda bits: 2 ** (bits - 1) - 1, of=np.abs, to=np.round, axis="channel",
             low=0, wraps=False, dead=1.0):  # fmt: skip
    def wrong(W, bits):
        flat = of(W).reshape(len(W), -1)
        top = {"channel": flat.max(axis=1), "tensor": np.full(len(W), flat.max())}
        if axis == "other":
            top = of(W).max(axis=0)
            scale = np.where(top != 0, top / levels(bits), 1)
            return np.round(W / scale).astype(int).astype(np.int8), scale
        scale = np.where(top[axis] != 0, top[axis] / levels(bits), dead)
        q = to(W / scale.reshape(-1, *(1 for _ in W.shape[1:])))
        q = np.nan_to_num(q, nan=0.0)
        most = 2 ** (bits - 1) - 1
        q = q if wraps else np.clip(q, -most - low, most)
        return q.astype(int).astype(np.int8), scale

    return wrong


def _range(W, bits):
    flat = W.reshape(len(W), -1)
    scale = (flat.max(axis=1) - flat.min(axis=1)) / (2**bits - 1)
    scale = np.where(scale > 0, scale, 1)
    q = np.round(W / scale.reshape(-1, *(1 for _ in W.shape[1:])))
    return np.clip(q, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(int).astype(np.int8), scale


QUANTISE = Task(
    id="ex10.5",
    title="Eight bits, a scale for each channel",
    function="quantise",
    taught="10#One file without the framework",
    parts=(
        Part("by hand", 2, _bits_by_hand),
        Part("type and shapes", 1, _bits_shape),
        Part("a dead channel", 1, _bits_dead),
        Part("real weights", 1, _bits_real),
    ),
    probes=lambda rng: [
        (_weights(rng), 8),
        (_weights(rng, (3, 1, 3, 3)), 8),
        (_weights(rng, (3, 4), dead=False), 4),
        (_kernels()[0], 8),
    ],
    misconceptions=(
        Misconception(
            "one scale for all",
            _rounded(axis="tensor"),
            "How large are the weights of the weakest channel, counted in your steps?",
            "One large channel sets the step for all. In a depthwise layer some channels are ten "
            "to forty times weaker, and a handful of steps is left for them.",
        ),
        Misconception(
            "along the other axis",
            _rounded(axis="other"),
            "How many scales do you return, and how many channels are there?",
            "You take the largest weight over the channels instead of within each of them.",
        ),
        Misconception(
            "cut off, not rounded",
            _rounded(to=np.trunc),
            "What becomes of 1.9 steps?",
            "Turning a number into an integer cuts it off towards zero. All weights shrink, and "
            "the largest error is a whole step, not half of one.",
        ),
        Misconception(
            "rounded down",
            _rounded(to=np.floor, low=1),
            "What becomes of 1.9 steps, and of -0.1?",
            "Everything moves down, by half a step in the mean. Such an error does not cancel in "
            "a sum of many weights.",
        ),
        Misconception(
            "one step too many, and wrapped around",
            _rounded(levels=lambda bits: 2 ** (bits - 1), wraps=True),
            "What is the largest number that int8 holds? Look at your largest weight.",
            "You divide by 128, so the largest weight becomes 128, which int8 does not hold: it "
            "comes back as -128. The strongest weight changes its sign.",
        ),
        Misconception(
            "one step too many, and cut off",
            _rounded(levels=lambda bits: 2 ** (bits - 1), low=1),
            "Which integer does the largest positive weight get, and what does it stand for?",
            "You divide by 128 and clip to 127: the strongest weight loses a whole step, twice "
            "what rounding costs.",
        ),
        Misconception(
            "largest, not largest in size",
            _rounded(of=lambda W: W),
            "Take a channel with weights -2 and 1. What is its scale?",
            "You look at the largest weight. A strong negative one then does not fit and is cut "
            "off, and a channel without positive weights gets a scale below zero.",
        ),
        Misconception(
            "from the smallest to the largest",
            _range,
            "Where does your range begin and end, and where is the integer zero?",
            "You spread the steps from the smallest to the largest weight, which needs a zero "
            "point as well. Symmetric steps reach as far down as up.",
        ),
        Misconception(
            "a scale of zero",
            _rounded(dead=0.0),
            "What is the scale of a channel whose weights are all zero?",
            "You divide zero by zero there. What becomes of NaN as an integer depends on the "
            "machine; pretrained networks do have dead channels.",
        ),
    ),
)

# --- ex10.6: the loss of distillation -----------------------------------------------------------


def _distilled_pytorch(f, z, z_teacher, y, T, share):
    """The loss that f gives, and what it sends back to student and teacher."""
    import numpy as np
    import torch

    student = torch.tensor(np.asarray(z, "float32"), requires_grad=True)
    teacher = torch.tensor(np.asarray(z_teacher, "float32"), requires_grad=True)
    loss = f(student, teacher, torch.tensor(np.asarray(y)), T, share)
    if not (isinstance(loss, torch.Tensor) and loss.ndim == 0):
        shape = tuple(getattr(loss, "shape", ())) or type(loss).__name__
        raise TypeError(f"expected a tensor of shape (), the loss; got {shape}")
    if not loss.requires_grad:
        raise TypeError("no gradient leads from your loss back to the student's logits")
    loss.backward()
    back = teacher.grad is not None and bool((teacher.grad != 0).any())
    gradient = np.zeros(student.shape) if student.grad is None else student.grad.numpy()
    return {"loss": float(loss), "gradient": gradient, "teacher learns": back}


def _distilled_keras(f, z, z_teacher, y, T, share):
    """The loss that f gives, and what it sends back to student and teacher."""
    import numpy as np
    import tensorflow as tf

    student, teacher = (tf.constant(np.asarray(a, "float32")) for a in (z, z_teacher))
    with tf.GradientTape() as tape:
        tape.watch([student, teacher])
        loss = f(student, teacher, tf.constant(np.asarray(y)), T, share)
        if not (tf.is_tensor(loss) and loss.shape == ()):
            shape = getattr(loss, "shape", type(loss).__name__)
            raise TypeError(f"expected a tensor of shape (), the loss; got {shape}")
    gradient, back = tape.gradient(loss, [student, teacher])
    if gradient is None:
        raise TypeError("no gradient leads from your loss back to the student's logits")
    back = back is not None and bool(tf.reduce_any(back != 0))
    return {"loss": float(loss), "gradient": gradient.numpy(), "teacher learns": back}


def _logits(rng, n=5, classes=4, T=2.0, share=0.7, scale=1.0):
    z, teacher = rng.normal(size=(2, n, classes))
    return scale * z, teacher, rng.integers(classes, size=n), T, share


def _labels_alone(f, rng):
    zero, y = np.zeros((3, 4)), np.array([0, 3, 1])
    for T in (1.0, 5.0):
        out = f(zero, np.zeros((3, 4)), y, T, 0.0)
        what = f"a student that gives 4 classes the same logit, share 0, T = {T:g}: the loss"
        expect(out["loss"], float(np.log(4)), what, 1e-5)
    z = np.array([[np.log(3), 0.0]])
    out = f(z, z, np.array([0]), 4.0, 0.5)
    what = "student and teacher both say 3/4 for the right class, share 0.5, T = 4: the loss"
    expect(out["loss"], float(0.5 * np.log(4 / 3)), what, 1e-5)


def _teacher_alone(f, rng):
    divergence = float(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    for T in (1.0, 3.0):
        z, teacher = np.zeros((2, 2)), T * np.array([[np.log(3), 0.0], [0.0, np.log(3)]])
        out = f(z, teacher, np.array([0, 1]), T, 1.0)
        what = f"divided by T = {T:g} the teacher says 3/4 and 1/4 and the student 1/2 twice, "
        expect(out["loss"], T**2 * divergence, what + "share 1: the loss", 1e-4)
        teacher = teacher.repeat(2, axis=0)
        out = f(np.zeros((4, 2)), teacher, np.array([0, 0, 1, 1]), T, 1.0)
        expect(out["loss"], T**2 * divergence, what + "share 1, each picture twice", 1e-4)


def _pulls(f, rng):
    z, teacher, y, T, _ = _logits(rng, T=4.0)
    out = f(z, teacher, y, T, 1.0)

    def softened(z):
        e = np.exp(z / T)
        return e / e.sum(axis=1, keepdims=True)

    wanted = T * (softened(z) - softened(teacher)) / len(z)
    what = "share 1: the gradient that the student's logits get, T (q - p) / n"
    expect(out["gradient"], wanted, what, 1e-4)


def _teacher_stays(f, rng):
    out = f(*_logits(rng))
    require(not out["teacher learns"], "the loss sends a gradient back into the teacher's logits")


def _sure_students(f, rng):
    z = np.array([[300.0, -300.0]])
    out = f(z, np.zeros((1, 2)), np.array([0]), 1.0, 1.0)
    what = "student's logits 300 and -300, teacher's 0 and 0, T = 1, share 1: the loss"
    expect(out["loss"], float(300 - np.log(2)), what, 1e-4)
    out = f(z, z, np.array([1]), 1.0, 0.5)
    what = "the same logits from both, the label is the other class, share 0.5: the loss"
    expect(out["loss"], 300.0, what, 1e-4)


def _distilling_pytorch(factor=True, mean="rows", turned=False, hard_T=False, student_T=True,
                        entropy=True, learns=False, swapped=False, least=None):  # fmt: skip
    def wrong(z, z_teacher, y, T, share):
        from torch.nn import functional

        teacher = (z_teacher if learns else z_teacher.detach()) / T
        student = z / T if student_T else z
        p, log_p = teacher.softmax(dim=1), teacher.log_softmax(dim=1)
        q, log_q = student.softmax(dim=1), student.log_softmax(dim=1)
        if least is not None:
            log_p, log_q = p.clamp(least, 1).log(), q.clamp(least, 1).log()
        each = q * (log_q - log_p) if turned else p * (log_p * entropy - log_q)
        soft = each.mean() if mean == "all" else each.sum(dim=1).mean()
        soft = soft * T**2 if factor else soft
        hard = functional.cross_entropy(z / T if hard_T else z, y)
        share = 1 - share if swapped else share
        return share * soft + (1 - share) * hard

    return wrong


def _distilling_keras(factor=True, mean="rows", turned=False, hard_T=False, student_T=True,
                      entropy=True, learns=False, swapped=False, least=None):  # fmt: skip
    def wrong(z, z_teacher, y, T, share):
        import tensorflow as tf

        teacher = (z_teacher if learns else tf.stop_gradient(z_teacher)) / T
        student = z / T if student_T else z
        p, log_p = tf.nn.softmax(teacher), tf.nn.log_softmax(teacher)
        q, log_q = tf.nn.softmax(student), tf.nn.log_softmax(student)
        if least is not None:
            log_p, log_q = (tf.math.log(tf.clip_by_value(a, least, 1.0)) for a in (p, q))
        each = q * (log_q - log_p) if turned else p * (log_p * float(entropy) - log_q)
        soft = tf.reduce_mean(each if mean == "all" else tf.reduce_sum(each, axis=1))
        soft = soft * T**2 if factor else soft
        logits = z / T if hard_T else z
        hard = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        share = 1 - share if swapped else share
        return share * soft + (1 - share) * hard

    return wrong


def _distilling(**how):
    return dict(tensorflow=_distilling_keras(**how), pytorch=_distilling_pytorch(**how))


DISTIL = Task(
    id="ex10.6",
    title="The loss of distillation",
    function="distillation_loss",
    taught="10#One file without the framework",
    parts=(
        Part("the labels", 1, _labels_alone),
        Part("the teacher", 2, _teacher_alone),
        Part("the pull on the student", 1, _pulls),
        Part("no pull on the teacher", 1, _teacher_stays),
        Part("a sure student", 1, _sure_students),
    ),
    probes=lambda rng: [
        _logits(rng),
        _logits(rng, n=3, T=5.0, share=0.4),
        _logits(rng, n=2, T=1.5, scale=200.0),
    ],
    harness={"tensorflow": _distilled_keras, "pytorch": _distilled_pytorch},
    misconceptions=(
        Misconception(
            "without T²",
            _distilling(factor=False),
            "Double T. What happens to the size of the gradient that comes from the teacher?",
            "Dividing both logits by T makes the teacher's gradients smaller, about by T². Without "
            "the factor the labels drown the teacher as soon as T is large.",
        ),
        Misconception(
            "a mean over classes too",
            _distilling(mean="all"),
            "Over how many numbers is your mean taken: pictures, or pictures times classes?",
            "The divergence is a sum over classes and a mean over pictures. You divide by the "
            "number of classes as well; that is what PyTorch's reduction “mean” does.",
        ),
        Misconception(
            "student and teacher are mixed up",
            _distilling(turned=True),
            "By whose probabilities is the mean of the logarithms taken?",
            "The divergence has a direction. Yours weighs by the student, so it may leave out "
            "classes that the teacher finds possible.",
        ),
        Misconception(
            "the labels are softened too",
            _distilling(hard_T=True),
            "With share 0 the loss is the cross-entropy of an ordinary training. Does T change it?",
            "T belongs to the comparison with the teacher. The student answers without it later, "
            "and that is how it has to fit the labels.",
        ),
        Misconception(
            "only the teacher is softened",
            _distilling(student_T=False),
            "What is your loss where student and teacher have the same logits and share is 1?",
            "You divide the teacher's logits by T and not the student's. A student that repeats "
            "its teacher exactly is then punished.",
        ),
        Misconception(
            "cross-entropy for the divergence",
            _distilling(entropy=False),
            "What is your loss where student and teacher have the same logits and share is 1?",
            "The teacher's own entropy is missing. The gradient is the same, so training is too; "
            "but your number is not zero at the goal and cannot be compared between teachers.",
        ),
        Misconception(
            "the teacher learns too",
            _distilling(learns=True),
            "Whose weights could make this loss smaller?",
            "A gradient flows back into the teacher. Where its weights are not frozen it comes to "
            "meet the student, and unlearns what it was to teach.",
        ),
        Misconception(
            "the shares are mixed up",
            _distilling(swapped=True),
            "With share 1, does your loss depend on the labels?",
            "You give the share to the labels. It is the teacher's.",
        ),
        Misconception(
            "the logarithm of a softmax",
            _distilling(least=0.0),
            "What is the logarithm of a probability that was rounded to 0?",
            "With sure answers some probabilities are 0 in 32 bits, and the logarithm of 0 is "
            "infinite: the loss becomes NaN after some epochs. The logarithm has to be taken "
            "before the rounding.",
        ),
        Misconception(
            "small probabilities cut off",
            _distilling(least=1e-7),
            "What does a student pay who is surely wrong, and more and more so?",
            "Below 1e-7 every probability is taken for 1e-7, by you or by the library's loss. A "
            "student that is surely wrong pays 16 at most, and gets no gradient to become better.",
        ),
    ),
)

# --- ex10.7: a drift alarm ----------------------------------------------------------------------


# Limits by rate, and the distance of 60 cells that are brighter by a fifth.
LIMITS, BRIGHTER = ((0.05, 0.7085803), (0.12, 0.6639773)), 0.4357215


@lru_cache(maxsize=1)
def _brightness():
    """The mean grey value of every solar cell, and its block."""
    from tlcourse import datasets

    cells = datasets.solar_cells()
    return cells.images[:, 5::10, 5::10].mean(axis=(1, 2)), np.array(cells.blocks)


def _watched(rng, rate=0.12, keep=12):
    x, blocks = _brightness()
    rows = np.isin(blocks, rng.choice(np.unique(blocks), keep, replace=False))
    x, blocks = x[rows], blocks[rows]
    batch = 1.1 * rng.choice(x, 40, replace=False)
    order = rng.permutation(len(x))
    return x[order], blocks[order], batch, rate


def _alarm(f, *given):
    out = f(*given)
    expect(np.shape(out), (2,), "the shape of what comes back, two numbers")
    return out


def _distance_by_hand(f, rng):
    x, blocks = np.array([1.0, 2, 3, 4, 1, 2, 3, 4]), np.array([0] * 4 + [1] * 4)
    for batch, wanted in (([5, 6], 1.0), ([3, 4], 0.5), ([1, 4], 0.25), ([1, 1, 2, 5], 0.25),
                          ([2, 3, 3, 1, 4], 0.1), ([-3], 1.0)):  # fmt: skip
        out = _alarm(f, x, blocks, np.array(batch, float), 0.3)
        expect(out[0], wanted, f"1, 2, 3, 4 twice, and the batch {batch}: the distance")


def _limit_by_hand(f, rng):
    x = np.array([1.0, 2, 3, 4, 3, 4, 5, 6, 9, 9, 9, 9])
    blocks = np.array(list("aaaabbbbcccc"))
    batch = np.array([4.0])
    for rate, wanted in ((0.2, 1.0), (0.4, 0.75), (0.7, 0.5), (0.0, 1.0)):
        out = _alarm(f, x, blocks, batch, rate)
        what = "blocks 1 2 3 4, 3 4 5 6 and 9 9 9 9, whose distances to the others are 0.75, 0.5 "
        expect(out[1], wanted, what + f"and 1, rate {rate}: the limit")


def _rings_rarely(f, rng):
    x, blocks, batch, rate = _watched(rng, 0.12, 20)
    names = np.unique(blocks)
    limits = [_alarm(f, x, blocks, x[blocks == name], rate)[1] for name in names[:2]]
    expect(limits[0], limits[1], "the limit, with the same clean cells and two batches")
    first = _alarm(f, x, blocks, batch, rate)
    again = _alarm(f, 5 + 2 * x, blocks, 5 + 2 * batch, rate)
    expect(again, first, "20 blocks of solar cells; all grey values times 2 plus 5")


def _alarm_cells(f, rng):
    x, blocks = _brightness()
    for rate, wanted in LIMITS:
        what = f"2,624 solar cells in 44 blocks, rate {rate}: the limit"
        expect(_alarm(f, x, blocks, x[::50], rate)[1], wanted, what, 1e-4)
    out = _alarm(f, x, blocks, np.minimum(1.2 * x[:60], 255), 0.1)
    expect(out[0], BRIGHTER, "the first 60 cells, brighter by a fifth: the distance", 1e-4)


def _gap(a, b, sign=np.abs):
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(v), at, side="right") / len(v) for v in (a, b)]
    return sign(below[0] - below[1]).max()


def _alarming(gap=_gap, rest=True, limit=None, textbook=False):
    def wrong(x, blocks, batch, rate):
        parts = [blocks == name for name in np.unique(blocks)]
        clean = np.sort([gap(x[part], x[~part] if rest else x) for part in parts])
        if textbook:
            n, m = len(batch), len(x)
            return gap(batch, x), np.sqrt(-np.log(max(rate, 1e-9) / 2) / 2 * (n + m) / (n * m))
        found = (limit or _lowest)(clean, rate)
        return gap(batch, x), found

    return wrong


def _lowest(clean, rate):
    return next(d for d in clean if np.mean(clean > d) <= rate)


def _at_points_of_first(a, b):
    below = [np.searchsorted(np.sort(v), a, side="right") / len(v) for v in (a, b)]
    return np.abs(below[0] - below[1]).max()


ALARM = Task(
    id="ex10.7",
    title="A drift alarm that rings as often as promised",
    function="drift_alarm",
    taught="10#A drift alarm",
    parts=(
        Part("the distance, by hand", 2, _distance_by_hand),
        Part("the limit, by hand", 1, _limit_by_hand),
        Part("what may not change it", 1, _rings_rarely),
        Part("the solar cells", 1, _alarm_cells),
    ),
    probes=lambda rng: [_watched(rng), _watched(rng, 0.3, 11), _watched(rng, 0.4, 8)],
    misconceptions=(
        Misconception(
            "the textbook's limit",
            _alarming(textbook=True),
            "How many of the clean blocks lie above your limit?",
            "The limit of the Kolmogorov-Smirnov test holds for rows that are drawn one by one. "
            "Cells of a module resemble each other, so nearly every new module is called drift.",
        ),
        Misconception(
            "a block among its own comparison",
            _alarming(rest=False),
            "Are the cells of a block among those that it is compared with?",
            "Each block is compared with all cells, its own among them, and looks nearer than a "
            "new one ever can. The limit comes out too low.",
        ),
        Misconception(
            "at the wrong end",
            _alarming(
                limit=lambda clean, rate: next(d for d in clean if np.mean(clean <= d) >= rate)
            ),
            "What share of the clean blocks lies above your limit, what share below?",
            "You take the limit at the low end: instead of few clean blocks, nearly all of them "
            "set off the alarm.",
        ),
        Misconception(
            "never rings for a clean block",
            _alarming(limit=lambda clean, rate: clean[-1]),
            "Does your limit depend on the rate?",
            "You take the largest distance of all. One odd block then decides how much drift "
            "passes without an alarm.",
        ),
        Misconception(
            "between two blocks",
            _alarming(limit=lambda clean, rate: np.quantile(clean, 1 - rate)),
            "Is your limit one of the distances that were measured?",
            "np.quantile draws a line between two neighbouring distances. With few blocks the "
            "share above it can be larger than promised.",
        ),
        Misconception(
            "one block too careful",
            _alarming(limit=lambda clean, rate: np.quantile(clean, 1 - rate, method="higher")),
            "With 8 blocks and a rate of 0.4: how many blocks may lie above your limit, and how "
            "many do?",
            "The next larger distance is safe, and higher than it has to be: a smaller one keeps "
            "the promise too, and sees more.",
        ),
        Misconception(
            "in one direction only",
            _alarming(gap=lambda a, b: _gap(a, b, sign=lambda x: x)),
            "Let the batch be brighter than all clean cells, then darker. Do you see both?",
            "Without the absolute value you see a shift in one direction and are blind to the "
            "other.",
        ),
        Misconception(
            "the difference of the means",
            _alarming(gap=lambda a, b: abs(np.mean(a) - np.mean(b))),
            "Between which two values should the distance lie?",
            "You compare means. A batch half of which is too dark and half too bright has the "
            "same mean; and the number depends on the unit.",
        ),
        Misconception(
            "only at the points of the batch",
            _alarming(gap=_at_points_of_first),
            "At which grey values do you compare the two shares?",
            "The gap may be widest between two cells of the batch, at a value that only the "
            "others have.",
        ),
    ),
)

TASKS = (TWICE, CALIBRATE, CHEAPEST, EXPORT, QUANTISE, DISTIL, ALARM)
