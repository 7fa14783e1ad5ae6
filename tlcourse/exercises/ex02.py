"""Exercise set 2: learning curves and honest splits (notebook 02)."""

import re
from functools import lru_cache

import numpy as np

from .kit import Misconception, Part, Task, expect, require, show

# --- ex02.1: whole groups held out --------------------------------------------------------------


def _split_seen(f, groups, share, seeds):
    """What can be said of the splits that f makes under so many seeds."""
    import numpy as np

    ids, n = np.asarray(groups), len(groups)
    largest = np.unique(ids, return_counts=True)[1].max()
    seen = {
        "row numbers": True,
        "each row once": True,
        "an empty side": False,
        "groups on both sides": 0,
        "size": "near",
        "the same again": True,
        "other seed, other rows": False,
    }
    first = None
    for seed in range(seeds):
        parts = [np.asarray(part) for part in f(groups, share, seed)]
        if any(part.size and part.dtype.kind not in "iu" for part in parts):
            return {"row numbers": False}
        train, test = parts
        both = np.sort(np.concatenate([train.ravel(), test.ravel()]).astype(int))
        if not np.array_equal(both, np.arange(n)):
            return {"row numbers": True, "each row once": False}
        seen["an empty side"] |= not (len(train) and len(test))
        shared = len(np.intersect1d(ids[train.astype(int)], ids[test.astype(int)]))
        seen["groups on both sides"] = max(seen["groups on both sides"], min(shared, 2))
        if abs(len(test) - share * n) >= largest:
            seen["size"] = "off"
        again = np.asarray(f(groups, share, seed)[1])
        seen["the same again"] &= sorted(again.tolist()) == sorted(test.tolist())
        first = sorted(test.tolist()) if seed == 0 else first
        seen["other seed, other rows"] |= sorted(test.tolist()) != first
    return seen


def _modules(rng):
    """Twenty groups of one row, twenty of twenty, in no order, with names for ids."""
    sizes = np.repeat([1, 20], 20)
    names = np.array([f"module {k}" for k in rng.permutation(40)])
    return rng.permutation(np.repeat(names, sizes)), round(0.25 + 0.25 * rng.random(), 2), 12


def _stretches(rng):
    """Groups one after the other, as cells and writers lie in their files."""
    return np.repeat(np.arange(12) + 3, rng.integers(6, 12, 12)), 0.3, 12


@lru_cache(maxsize=1)
def _reviews():
    from tlcourse import datasets

    return np.array(datasets.sentiment("product").blocks)


@lru_cache(maxsize=1)
def _cells():
    from tlcourse import datasets

    cells = datasets.solar_cells()
    return np.array(cells.labels), np.array(cells.blocks)


def _rows_in(seen, what):
    require(
        seen["row numbers"],
        f"{what}: expected two parts of whole numbers, those of rows: no masks, no names",
    )
    require(seen["each row once"], f"{what}: some row is in neither part, or in both, or twice")


def _split_rows(f, rng):
    _rows_in(f(*_modules(rng)), "420 rows of 40 modules")
    seen = f(np.array(["a"] * 5 + ["b"] * 5), 0.8, 4)
    _rows_in(seen, "two groups of five rows, share 0.8")
    require(not seen["an empty side"], "two groups of five rows, share 0.8: one part is empty")


def _split_groups(f, rng):
    for groups, what in (
        (_reviews(), "the product sentences, grouped by review"),
        (_cells()[1], "the solar cells, grouped by block"),
        (_modules(rng)[0], "40 modules whose rows are mixed"),
    ):
        seen = f(groups, 0.25, 4)
        _rows_in(seen, what)
        if seen["groups on both sides"]:
            number = ("", "one group is", "several groups are")[seen["groups on both sides"]]
            require(False, f"{what}: {number} on both sides of the split")


def _split_size(f, rng):
    for groups, share, seeds in (_modules(rng), _modules(rng), (_reviews(), 0.2, 8)):
        seen = f(groups, share, seeds)
        _rows_in(seen, f"{len(groups)} rows, share {share:.2f}")
        require(
            seen["size"] == "near",
            f"{len(groups)} rows in groups of unequal size, share {share:.2f}: under some seed the "
            "test part misses its share of the rows by a whole largest group or more",
        )


def _split_seed(f, rng):
    seen = f(*_stretches(rng))
    _rows_in(seen, "12 groups, one after the other")
    require(seen["the same again"], "12 groups: the same seed gives another split the second time")
    require(seen["other seed, other rows"], "12 groups: all seeds give one and the same split")


def _by_rows(groups, share, seed):
    rows = np.random.default_rng(seed).permutation(len(groups))
    count = round(share * len(groups))
    return rows[count:], rows[:count]


def _tail_of_rows(groups, share, seed):
    count = round((1 - share) * len(groups))
    return np.arange(count), np.arange(count, len(groups))


def _ids_for_rows(groups, share, seed):
    ids = np.random.default_rng(seed).permutation(np.unique(groups))
    count = round(share * len(ids))
    return ids[count:], ids[:count]


def _share_of_groups(groups, share, seed):
    ids = np.random.default_rng(seed).permutation(np.unique(groups))
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    held_out = np.isin(groups, ids[:count])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _cuts_a_group(groups, share, seed):
    ids = np.random.default_rng(seed).permutation(np.unique(groups))
    rows = np.concatenate([np.flatnonzero(groups == group) for group in ids])
    count = round(share * len(groups))
    return rows[count:], rows[:count]


def _last_groups(groups, share, seed):
    ids, sizes = np.unique(groups, return_counts=True)
    reached = np.cumsum(sizes[::-1])[:-1]
    count = 1 + np.argmin(np.abs(reached - share * len(groups)))
    held_out = np.isin(groups, ids[::-1][:count])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


SPLIT = Task(
    id="ex02.1",
    title="Hold out whole groups",
    function="split_by_group",
    taught="02#Leaks: when a number is too good",
    parts=(
        Part("every row once", 1, _split_rows),
        Part("no group on both sides", 2, _split_groups),
        Part("the share is one of rows", 1, _split_size),
        Part("the seed decides", 1, _split_seed),
    ),
    probes=lambda rng: [_modules(rng), _stretches(rng)],
    harness=_split_seen,
    misconceptions=(
        Misconception(
            "splits rows",
            _by_rows,
            "Take one group of your test part. Where are its other rows?",
            "You shuffle and cut rows, so nearly every group has rows on both sides. A model can "
            "then know the module, the writer or the patient, and the score speaks of that.",
        ),
        Misconception(
            "the tail of the file",
            _tail_of_rows,
            "Call it with two seeds. And what is the tail of a file sorted by class?",
            "The last rows are always the same ones, often of one kind only, and the cut goes "
            "through the middle of a group.",
        ),
        Misconception(
            "group ids for rows",
            _ids_for_rows,
            "How many numbers do you return, and how many rows are there?",
            "You return the ids of groups. Whoever indexes rows with them gets other rows, a few "
            "of the first ones, and no error where the ids happen to be whole numbers.",
        ),
        Misconception(
            "a share of the groups",
            _share_of_groups,
            "Let half of the groups have one row and half have twenty. How large is the test part?",
            "You take a share of the number of groups. Where their sizes differ, the test part may "
            "be far too small or too large; scikit-learn's GroupShuffleSplit counts like that.",
        ),
        Misconception(
            "cuts one group",
            _cuts_a_group,
            "Which group does your last test row come from, and which your first training row?",
            "The rows are ordered by group, but the cut is made at an exact number of rows, so it "
            "goes through one group. One is enough to leak.",
        ),
        Misconception(
            "always the same groups",
            _last_groups,
            "What changes in your split if the seed changes?",
            "Whole groups, but the same ones whatever the seed: you cannot tell how much of a "
            "score is the luck of this choice.",
        ),
    ),
)

# --- ex02.2: the labels of a learning curve -----------------------------------------------------


def _draws_seen(f, labels, sizes, seeds):
    """What can be said of the draws that f makes; sizes ascend."""
    import numpy as np

    y = np.asarray(labels)
    seen = {
        "n rows": True,
        "repeats": False,
        "all classes": True,
        "nested": True,
        "the same again": True,
        "other seed, other rows": False,
        "smallest draw varies": False,
        "common classes stay common": True,
    }
    commonest, smallest, shares, drawn = np.bincount(y).argmax(), set(), [], set()
    for seed in range(seeds):
        before = set()
        for n in sizes:
            try:
                rows = np.asarray(f(labels, n, seed))
            except ValueError:
                # The answer to too small an n, and a mistake elsewhere.
                if n >= len(np.unique(y)):
                    raise
                return {"refused": True}
            whole = rows.ndim == 1 and rows.dtype.kind in "iu" and rows.size == n
            if not whole or rows.min() < 0 or rows.max() >= len(y):
                return {"n rows": False}
            now = set(rows.tolist())
            seen["repeats"] |= len(now) < n
            seen["all classes"] &= len(np.unique(y[rows])) == len(np.unique(y))
            seen["nested"] &= before <= now
            before = now
            if n == sizes[0]:
                smallest.add(tuple(sorted(now)))
        seen["the same again"] &= set(np.asarray(f(labels, n, seed)).tolist()) == now
        drawn.add(tuple(sorted(now)))
        shares.append(np.mean(y[rows] == commonest))
    seen["other seed, other rows"] = len(drawn) > 1
    seen["smallest draw varies"] = len(smallest) > 1
    seen["common classes stay common"] = bool(abs(np.mean(shares) - np.mean(y == commonest)) < 0.12)
    return seen


def _classes(rng, order=None):
    """Five classes, the commonest with four rows of five, some with six rows only."""
    labels = np.repeat(np.arange(5), [320, 60, 8, 6, 6])
    return (rng.permutation(labels) if order is None else labels), (5, 8, 30, 100), 12


@lru_cache(maxsize=1)
def _films():
    from tlcourse import datasets

    return np.array(datasets.sentiment("movie").labels)


def _is_drawn(seen, what):
    require(seen["n rows"], f"{what}: expected n whole numbers, numbers of rows that exist")


def _draw_rows(f, rng):
    for case, what in ((_classes(rng), "400 rows"), ((_films(), (2, 16, 64), 4), "the films")):
        seen = f(*case)
        _is_drawn(seen, what)
        require(not seen["repeats"], f"{what}: some row is drawn twice")
        require(seen["all classes"], f"{what}: a class is missing, under some seed and some n")


def _draw_nested(f, rng):
    for case, what in ((_classes(rng), "400 rows"), ((_films(), (16, 64, 256), 4), "the films")):
        seen = f(*case)
        _is_drawn(seen, what)
        require(seen["nested"], f"{what}: with one seed, the larger draw lacks rows of the smaller")
        require(seen["the same again"], f"{what}: the same call gives other rows the second time")


def _draw_chance(f, rng):
    seen = f(*_classes(rng))
    _is_drawn(seen, "400 rows")
    require(seen["other seed, other rows"], "400 rows: every seed draws the same rows")
    require(
        seen["smallest draw varies"],
        "400 rows of 5 classes, n = 5: the rows that stand for their classes are the same under "
        "all seeds",
    )
    require(
        seen["common classes stay common"],
        "400 rows, 320 of one class, n = 100: its share among your rows is far from 0.8",
    )


def _draw_refused(f, rng):
    seen = f(_classes(rng)[0], (4,), 1)
    require("refused" in seen, "five classes, n = 4: expected a ValueError, got rows")


def _checked_n(draw):
    def wrong(labels, n, seed):
        if n < len(np.unique(labels)):
            raise ValueError("too few")
        return draw(labels, n, np.random.default_rng(seed))

    return wrong


def _one_each(labels, rng):
    order = rng.permutation(len(labels))
    return order[np.unique(labels[order], return_index=True)[1]], order


def _drawn_anew(labels, n, rng):
    first, order = _one_each(labels, rng)
    others = np.setdiff1d(order, first)
    # Another number of random draws for every n, so other rows.
    return np.append(first, np.random.default_rng(n).permutation(others)[: n - len(first)])


def _equal_shares(labels, n, rng):
    order = rng.permutation(len(labels))
    queues = [list(order[labels[order] == label]) for label in np.unique(labels)]
    rows, turn = [], 0
    while len(rows) < n:
        if queue := queues[turn % len(queues)]:
            rows.append(queue.pop(0))
        turn += 1
    return np.array(rows)


def _first_of_each(labels, n, rng):
    first = np.unique(labels, return_index=True)[1]
    others = rng.permutation(np.setdiff1d(np.arange(len(labels)), first))
    return np.append(first, others)[:n]


def _stratified(labels, n, seed):
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    return train_test_split(rows, train_size=n, stratify=labels, random_state=seed)[0]


def _with_replacement(labels, n, rng):
    first, _ = _one_each(labels, rng)
    return np.append(first, rng.integers(0, len(labels), 1000)[: n - len(first)])


DRAW = Task(
    id="ex02.2",
    title="Draw the labels of a learning curve",
    function="draw_labels",
    taught="02#What is a label worth?",
    parts=(
        Part("n rows, every class", 1, _draw_rows),
        Part("a larger draw holds the smaller", 1, _draw_nested),
        Part("drawn by chance", 1, _draw_chance),
        Part("too few are refused", 1, _draw_refused),
    ),
    probes=lambda rng: [_classes(rng), _classes(rng, "sorted")],
    harness=_draws_seen,
    misconceptions=(
        Misconception(
            "chance alone",
            lambda labels, n, seed: np.random.default_rng(seed).permutation(len(labels))[:n],
            "Which classes do your five rows hold under ten different seeds?",
            "A plain draw of few rows leaves out rare classes. The model then cannot name them, "
            "and the left end of the curve measures that.",
        ),
        Misconception(
            "a stratified split for every n",
            _stratified,
            "How many rows has a class of six among 400 in a stratified draw of 30?",
            "Every class gets its share, rounded, and for rare classes that is often none. And "
            "each size is split anew, so the larger draw does not hold the smaller one.",
        ),
        Misconception(
            "the first rows",
            lambda labels, n, seed: np.arange(n),
            "What are the first hundred rows of a file that is sorted by class?",
            "The top of the file is no sample: it is often of one class, and it is the same under "
            "every seed.",
        ),
        Misconception(
            "drawn anew for every n",
            _checked_n(_drawn_anew),
            "Are the 8 rows of a seed among its 30 rows?",
            "For every size you draw other rows. A step of the curve then mixes what more labels "
            "bring with the luck of other labels, and looks more ragged than it is.",
        ),
        Misconception(
            "as many of each class",
            _checked_n(_equal_shares),
            "What share has the commonest class in the data, and what share among your 100 rows?",
            "Every class gets the same number of rows. You would have to know the labels before "
            "you pay for them, and a real draw has more of the common classes.",
        ),
        Misconception(
            "the same first row of each class",
            _checked_n(_first_of_each),
            "With n as small as the number of classes: what does another seed change?",
            "The row that stands for its class is always the first one of the file. At the left "
            "end all seeds share their rows, so the interval there is too narrow.",
        ),
        Misconception(
            "with replacement",
            _checked_n(_with_replacement),
            "How many different rows are there among your 100?",
            "Rows are drawn more than once. You count labels that nobody had to pay for, and the "
            "curve promises less than n labels give.",
        ),
    ),
)

# --- ex02.3: the gain from a source -------------------------------------------------------------


def _runs(with_source, control, labels, on_source=0.9):
    """Records from two dicts, {seed: accuracy}."""
    made = [("imagenet", seed, value) for seed, value in with_source.items()]
    made += [(None, seed, value) for seed, value in control.items()]
    return [
        {"source": s, "labels": labels, "seed": k, "accuracy": v, "on_source": s and on_source}
        for s, k, v in made
    ]


def _noisy_runs(rng, n=6):
    """Two sizes; seeds shift both sides; one run is missing on either side; no order."""
    records = []
    for labels in (64, 512):
        ease = 0.6 + 0.1 * rng.normal(size=n + 2)
        control = {k: float(ease[k]) for k in range(n + 1)}
        gain = rng.normal(0.02 if labels == 64 else -0.03, 0.03, n + 2)
        source = {k: float(ease[k] + gain[k]) for k in range(1, n + 2)}
        records += _runs(source, control, labels, 0.8 + 0.1 * rng.random())
    return [records[k] for k in rng.permutation(len(records))], int(rng.choice([64, 512]))


def _numbers(answer, count=2):
    try:
        numbers = np.asarray(answer, float)
    except (TypeError, ValueError):
        numbers = np.zeros(())
    require(numbers.shape == (count,), f"expected {count} numbers, got {show(answer)}")
    return numbers


def _gain_two(f, rng):
    # Differences 0.1 and 0.3: mean 0.2, standard error 0.1, and t for one degree is 12.7062.
    runs = _runs({0: 0.5, 1: 0.9}, {0: 0.4, 1: 0.6}, 64)
    wanted = np.array([0.2, -1.07062, 1.47062])
    expect(_numbers(f(runs, 64), 3), wanted, "two seeds, gains 0.1 and 0.3", 1e-4)
    # 0.01, 0.03, 0.05, 0.07: mean 0.04, standard deviation 0.02582, t for three degrees 3.18245.
    gains = {k: 0.5 + 0.1 * k + g for k, g in enumerate((0.01, 0.03, 0.05, 0.07))}
    runs = _runs(gains, {k: 0.5 + 0.1 * k for k in range(4)}, 64)
    wanted = np.array([0.04, -0.00108, 0.08108])
    expect(_numbers(f(runs, 64), 3), wanted, "four seeds, gains 0.01, 0.03, 0.05 and 0.07", 1e-4)


def _gain_control(f, rng):
    runs, labels = _noisy_runs(rng)
    asked = _numbers(f(runs, labels), 3)
    harder = [r | {"accuracy": r["accuracy"] - 0.2} for r in runs]
    expect(
        _numbers(f(harder, labels), 3),
        asked,
        "all accuracies 0.2 lower, with the source and without",
        1e-5,
    )
    elsewhere = [r | {"on_source": r["source"] and 0.5} for r in runs]
    expect(_numbers(f(elsewhere, labels), 3), asked, "a source that is harder in itself", 1e-5)
    # Poor, and far below the source's own 0.9, yet better than without a source: gains of 0.1,
    # 0.11 and 0.09, standard error 0.0057735, t for two degrees 4.30265.
    poor = _runs({0: 0.41, 1: 0.42, 2: 0.43}, {0: 0.31, 1: 0.31, 2: 0.34}, 64)
    what = "accuracies of 0.41, 0.42, 0.43 with the source and 0.31, 0.31, 0.34 without"
    expect(_numbers(f(poor, 64), 3), np.array([0.1, 0.07516, 0.12484]), what, 1e-4)


def _gain_pairs(f, rng):
    runs, labels = _noisy_runs(rng)
    asked = _numbers(f(runs, labels), 3)
    expect(_numbers(f(runs[::-1], labels), 3), asked, "the same runs in another order", 1e-5)
    both = [r for r in runs if 1 <= r["seed"] <= 6]
    expect(_numbers(f(both, labels), 3), asked, "without the seeds that ran on one side only", 1e-5)


def _gain_size(f, rng):
    runs, labels = _noisy_runs(rng)
    asked, own = _numbers(f(runs, labels), 3), [r for r in runs if r["labels"] == labels]
    expect(
        _numbers(f(own, labels), 3),
        asked,
        "without the runs that had another number of labels",
        1e-5,
    )


def _gain(paired=True, quantile=None, ddof=1, root=True, sign=1, by="seed", other=None, size=True):
    from scipy import stats

    def wrong(runs, labels):
        runs = [r for r in runs if r["labels"] == labels or not size]
        with_it = {(r["seed"], r["labels"]): r for r in runs if r["source"]}
        without = {(r["seed"], r["labels"]): r for r in runs if not r["source"]}
        if by == "order":
            pairs = list(zip(with_it.values(), without.values(), strict=False))
        else:
            pairs = [(with_it[key], without[key]) for key in sorted(with_it.keys() & without)]
        a = np.array([r["accuracy"] for r, _ in pairs])
        b = np.array([r["accuracy"] for _, r in pairs])
        if other:
            b = np.array([other(r) for r, _ in pairs])
        d, n = sign * (a - b), len(pairs)
        spread = d.std(ddof=ddof) if paired else np.hypot(a.std(ddof=1), b.std(ddof=1))
        half = (quantile or stats.t.ppf(0.975, n - 1)) * spread / (np.sqrt(n) if root else 1)
        return d.mean(), d.mean() - half, d.mean() + half

    return wrong


GAIN = Task(
    id="ex02.3",
    title="Is it negative transfer?",
    function="transfer_gain",
    taught="02#Negative transfer",
    parts=(
        Part("few seeds", 2, _gain_two),
        Part("against its control", 1, _gain_control),
        Part("paired by seed", 1, _gain_pairs),
        Part("one number of labels", 1, _gain_size),
    ),
    probes=lambda rng: [_noisy_runs(rng), _noisy_runs(rng), _noisy_runs(rng, 4)],
    misconceptions=(
        Misconception(
            "against the accuracy on the source",
            _gain(other=lambda run: run["on_source"]),
            "Which of these runs shows what you would have without the source?",
            "You compare with how well the model did on its source. Such a drop says that the "
            "domains differ. Whether the source helps is seen against the run without it.",
        ),
        Misconception(
            "against nothing",
            _gain(other=lambda run: 0.0),
            "What is your gain if source and control have the same accuracy?",
            "You report the accuracy itself. An accuracy may be poor and still a gain, or good "
            "and still a loss.",
        ),
        Misconception(
            "unpaired",
            _gain(paired=False),
            "What happens to your interval if one seed is easy and another hard, for both sides?",
            "You add the spreads of the two sides. Source and control of a seed share their "
            "labels and their test rows, so the luck of a seed cancels in their difference.",
        ),
        Misconception(
            "paired by place in the list",
            _gain(by="order"),
            "Do the runs stand in the same order on both sides? Is any of them missing?",
            "The k-th run with the source meets the k-th without it, whatever their seeds are.",
        ),
        Misconception(
            "all numbers of labels at once",
            _gain(size=False),
            "How many labels had the runs that you average?",
            "Runs with few labels and with many are thrown together. A source may help with the "
            "one and hurt with the other, and their mean describes neither.",
        ),
        Misconception(
            "1.96 for few seeds",
            _gain(quantile=1.959964),
            "From how many seeds do you know the spread?",
            "The normal quantile takes the spread for known. With six seeds it is estimated, and "
            "Student's t is wider by a third; with two it is wider more than six times.",
        ),
        Misconception(
            "spread for standard error",
            _gain(root=False),
            "Does your interval shrink if you run more seeds?",
            "You draw the spread of single seeds. The mean of n seeds is known more exactly, by "
            "the square root of n.",
        ),
        Misconception(
            "population standard deviation",
            _gain(ddof=0),
            "What does np.std divide by, if you say nothing?",
            "The deviations are taken from the mean of the same few numbers, so dividing by n "
            "makes the spread too small: by a tenth for six seeds.",
        ),
        Misconception(
            "without minus with",
            _gain(sign=-1),
            "What sign should a harmful source have?",
            "Your sign is turned around: gain is the accuracy with the source minus the one "
            "without.",
        ),
    ),
)

# --- ex02.4: where two learning curves cross ----------------------------------------------------


def _curves(rng, lead, sizes=(16, 64, 256, 1024, 4096), seeds=4):
    """Accuracies (sizes, seeds) whose means differ by lead; single seeds may say otherwise."""
    noise = 0.15 * rng.normal(size=(2, len(sizes), seeds))
    noise -= noise.mean(axis=2, keepdims=True)
    frozen = np.linspace(0.6, 0.8, len(sizes))[:, None] + noise[0]
    rival = np.linspace(0.6, 0.8, len(sizes))[:, None] + np.array(lead)[:, None] + noise[1]
    return np.array(sizes), frozen, rival


def _once(rng):
    low, high = 0.02 + 0.1 * rng.random(2)
    return _curves(rng, [-0.2, -0.1, -low, high, 0.15])


# Balanced accuracies on the film sentences of notebook 02, five seeds at 1,024, 4,096 and 8,033
# labels: the probe on frozen MiniLM, then TF-IDF.
FILMS = np.array(
    [
        [
            [0.747, 0.751, 0.760, 0.763, 0.755],
            [0.773, 0.774, 0.786, 0.788, 0.780],
            [0.790, 0.785, 0.798, 0.798, 0.793],
        ],
        [
            [0.698, 0.705, 0.709, 0.726, 0.685],
            [0.771, 0.757, 0.787, 0.783, 0.780],
            [0.796, 0.797, 0.804, 0.805, 0.803],
        ],
    ]
)


def _number(answer):
    return answer if answer is None else float(answer)


def _crossing_by_hand(f, rng):
    # Halfway on the log axis between 64 and 256 lies 128; on a linear one, 160.
    sizes, frozen = np.array([16, 64, 256]), np.full((3, 2), 0.6)
    rival = np.array([[0.4, 0.4], [0.5, 0.5], [0.7, 0.7]])
    at = _number(f(sizes, frozen, rival))
    expect(at, 128.0, "0.1 behind at 64 labels, 0.1 ahead at 256", 1e-4)
    rival = np.array([[0.4, 0.4], [0.4, 0.6], [1.0, 0.8]])
    # 0.1 behind and 0.3 ahead: a quarter of the way, 64 · 4^(1/4) = 64 · √2.
    at = _number(f(sizes, frozen, rival))
    expect(at, 90.5097, "0.1 behind at 64 labels, 0.3 ahead at 256", 1e-4)
    sizes, frozen, rival = _once(rng)
    at = _number(f(sizes, frozen, rival))
    more = _number(f(10 * sizes, frozen, rival))
    expect(more, 10 * at, "ten times the labels at every point", 1e-4)


def _crossing_for_good(f, rng):
    at = _number(f(*_curves(rng, [-0.1, 0.02, -0.04, 0.04, 0.1])))
    what = "ahead by 0.02 at 64, behind by 0.04 at 256, ahead by 0.04 at 1,024, by 0.1 at 4,096"
    expect(at, 512.0, what, 1e-4)
    rival = np.array([[0.75, 0.75], [0.5, 0.5], [0.75, 0.75]])
    at = _number(f(np.array([16, 64, 256]), np.full((3, 2), 0.5), rival))
    expect(at, 64.0, "ahead at 16 labels, level at 64, ahead at 256", 1e-4)


def _crossing_none(f, rng):
    for lead in ([-0.2, -0.1, -0.08, -0.05, -0.01], [0.1, 0.05, 0.01, -0.02, -0.05]):
        at = _number(f(*_curves(rng, lead)))
        expect(at, None, f"the rival's lead is {lead}")
    ends_level = np.array([[0.6, 0.6], [0.7, 0.7]])
    at = _number(f(np.array([16, 64]), np.full((2, 2), 0.7), ends_level))
    expect(at, None, "0.1 behind at 16 labels, level at 64")
    at = _number(f(*_curves(rng, [0.01, 0.02, 0.03, 0.04, 0.05])))
    expect(at, 16.0, "ahead at every size, the smallest is 16")


def _crossing_films(f, rng):
    # 0.0046 behind at 4,096 and 0.0082 ahead at 8,033.
    at = _number(f(np.array([1024, 4096, 8033]), *FILMS))
    expect(at, 5217.75, "film sentences, TF-IDF against frozen MiniLM, five seeds", 1e-3)


def _crossing(log=True, first=False, grid=False, beyond=None, one_seed=False):
    def wrong(sizes, frozen, rival):
        sizes, gap = np.array(sizes, float), np.array(rival) - np.array(frozen)
        lead = gap[:, 0] if one_seed else gap.mean(axis=1)
        if (lead > 0).all():
            return sizes[0]
        if lead[-1] <= 0 and not (first and (np.diff(np.sign(lead)) > 0).any()):
            if beyond is None:
                return None
            return beyond(sizes, lead)
        changes = np.flatnonzero((lead[:-1] <= 0) & (lead[1:] > 0))
        k = changes[0 if first else -1]
        if grid:
            return sizes[k + 1]
        share = lead[k] / (lead[k] - lead[k + 1])
        if log:
            return sizes[k] * (sizes[k + 1] / sizes[k]) ** share
        return sizes[k] + share * (sizes[k + 1] - sizes[k])

    return wrong


def _line_beyond(sizes, lead):
    slope = (lead[-1] - lead[-2]) / np.log(sizes[-1] / sizes[-2])
    return sizes[-1] * np.exp(-lead[-1] / slope)


CROSSING = Task(
    id="ex02.4",
    title="Where two learning curves cross",
    function="overtakes_at",
    taught="02#In text, the curves cross",
    parts=(
        Part("between two sizes", 2, _crossing_by_hand),
        Part("for good", 1, _crossing_for_good),
        Part("no crossing", 1, _crossing_none),
        Part("measured curves", 1, _crossing_films),
    ),
    probes=lambda rng: [
        _once(rng),
        _curves(rng, [-0.1, 0.02, -0.04, 0.05, 0.1]),
        _curves(rng, [-0.2, -0.1, -0.08, -0.05, -0.01]),
    ],
    misconceptions=(
        Misconception(
            "a linear axis",
            _crossing(log=False),
            "What lies in the middle between 64 and 256 on the axis of the figure?",
            "You go a share of the way in labels. Accuracy grows with the logarithm of the "
            "labels, and the curves are drawn so; on that axis the middle of 64 and 256 is 128.",
        ),
        Misconception(
            "the first change of sign",
            _crossing(first=True),
            "Is the rival still ahead at all larger sizes?",
            "Where the curves run close together, noise alone changes the sign. You report the "
            "first time, and at the next size the rival is behind again.",
        ),
        Misconception(
            "the next measured size",
            _crossing(grid=True),
            "What would you report if the sizes of the experiment were other ones?",
            "You give the first measured size at which the rival is ahead. The crossing lies "
            "somewhere before it, up to a factor of four with these sizes.",
        ),
        Misconception(
            "extrapolates",
            _crossing(beyond=_line_beyond),
            "Where is your crossing if the rival is behind at every size that was measured?",
            "You prolong the last piece of the curves to labels that nobody had. Learning curves "
            "bend; say that there is no crossing within the data.",
        ),
        Misconception(
            "the last size where there is none",
            _crossing(beyond=lambda sizes, lead: sizes[-1]),
            "Who is ahead at the largest size?",
            "Without a crossing you return the largest size, and a reader takes it for one.",
        ),
        Misconception(
            "one seed",
            _crossing(one_seed=True),
            "What changes in your answer if the seeds stand in another order?",
            "You take a single draw of labels for the curve. The curve is the mean over the seeds.",
        ),
    ),
)

# --- ex02.5: near copies ------------------------------------------------------------------------


def _words(text):
    return set(re.findall(r"[a-z0-9']+", text.lower()))


@lru_cache(maxsize=1)
def _tweets():
    from tlcourse import datasets

    return datasets.sentiment("tweet").texts


VOCABULARY = [
    "good",
    "bad",
    "film",
    "plot",
    "phone",
    "slow",
    "very",
    "the",
    "a",
    "is",
    "was",
    "great",
]


def _sentences(rng, n=12):
    """Random sentences, some of the test ones copied from training or from one another."""
    train, test = (
        [" ".join(rng.choice(VOCABULARY, rng.integers(4, 9), replace=False)) for _ in range(n)]
        for _ in range(2)
    )
    test[1] = train[4].upper() + "!"
    test[3] = train[2] + " again"
    test[5] = " ".join(train[6].split()[:2])
    test[8] = test[7]
    test[9] = train[9]
    return train, test, 0.75


# The first two have a copy; the third lies within a longer text, the fourth contains a shorter one.
LETTERS = (["a b c d", "k l m n o", "x y"], ["a b", "b a d c", "k l", "x y g h i"], 0.5)


def _copies_hand(f, rng):
    train = ["The plot is slow.", "a great phone"]
    test = ["A great phone!!!", "the phone is great", "the plot is very slow", ":)", "slow"]
    expect(f(train, test, 1.0), [0], "share 1: only a difference of case and marks")
    expect(f(train, test, 0.8), [0, 2], "share 0.8: 4 of 5 words shared is just enough")
    expect(f(train, test, 0.85), [0], "share 0.85: 4 of 5 words shared is not enough")
    expect(f([":-)", "fine"], [":)", "fine."], 0.5), [1], "texts without any word are no copies")


def _copies_sides(f, rng):
    got = f(["nice film"], ["what a day", "what a day", "bad luck"], 0.9)
    expect(got, [], "two test texts alike, none in training")
    expect(f(["same", "same"], ["other", "same"], 0.9), [1], "training holds it twice")
    train, test, share = _sentences(rng)
    expect(f(train[::-1], test, share), f(train, test, share), "training texts in another order")


def _copies_tweets(f, rng):
    tweets = _tweets()
    # Read by a person: 7 is "Ugh. I hate hate hate getting blood drawn.", 69 "Wow, it's amazing."
    train = [tweets[7], tweets[69], *tweets[200:230]]
    test = [*tweets[100:110], tweets[3028], tweets[3029], *tweets[110:115], tweets[3026]]
    expect(f(train, test, 0.9), [10, 11, 17], "real tweets, three of them written anew")


def _copies(alike, within=False, by_row=False, of_train=False):
    def wrong(train, test, share):
        first, second = ([(text, _words(text)) for text in part] for part in (train, test))
        if of_train:
            first, second = second, first
        found = []
        for k, text in enumerate(second):
            others = [first[k]] if by_row and k < len(first) else [] if by_row else list(first)
            others += second[:k] + second[k + 1 :] if within else []
            if any(text[1] and alike(other, text) >= share for other in others):
                found.append(k)
        return found

    return wrong


def _jaccard(a, b):
    return len(a[1] & b[1]) / max(1, len(a[1] | b[1]))


COPIES = Task(
    id="ex02.5",
    title="Find near copies across a split",
    function="near_copies",
    taught="02#Leaks: when a number is too good",
    parts=(
        Part("by hand", 2, _copies_hand),
        Part("across the split", 1, _copies_sides),
        Part("real tweets", 1, _copies_tweets),
    ),
    probes=lambda rng: [_sentences(rng), _sentences(rng), LETTERS],
    misconceptions=(
        Misconception(
            "equal texts only",
            _copies(lambda a, b: float(a[0].lower() == b[0].lower())),
            "Do you find a text that came back with another mark at its end?",
            "You look for equal texts. Copies come back with another mark, a word more or other "
            "case, and teach a model just as well.",
        ),
        Misconception(
            "share of the test text",
            _copies(lambda a, b: len(a[1] & b[1]) / max(1, len(b[1]))),
            "Is a test text of one word a copy of every long text that holds this word?",
            "You divide by the words of the test text alone, so short texts count as copies of "
            "whatever contains them.",
        ),
        Misconception(
            "share of the shorter text",
            _copies(lambda a, b: len(a[1] & b[1]) / max(1, min(len(a[1]), len(b[1])))),
            "How alike are a text of two words and one of twenty that contains both?",
            "You divide by the shorter text, so any short text is found in many long ones. The "
            "words of both together are what you divide by.",
        ),
        Misconception(
            "copies within the test part",
            _copies(_jaccard, within=True),
            "Is a test text leaked if its twin lies in the test part too?",
            "You also compare test texts with one another. That counts twice what is learned "
            "nowhere; a leak goes from training to test.",
        ),
        Misconception(
            "row by row",
            _copies(_jaccard, by_row=True),
            "With which training texts do you compare the first test text?",
            "You compare the k-th test text with the k-th training text only. A copy may lie "
            "anywhere in training.",
        ),
        Misconception(
            "rows of the training part",
            _copies(_jaccard, of_train=True),
            "Which of the two lists do your numbers index?",
            "You return where in training the copies lie. Asked for is what the score has to do "
            "without: rows of the test part.",
        ),
    ),
)

# --- ex02.6: what a blind rule scores -----------------------------------------------------------


def _in_stretches(rng, n=81):
    """Labels that come in stretches, as defects do; the test rows come mostly from the ones."""
    labels = (np.cumsum(rng.random(n) < 0.2) + rng.integers(2)) % 2
    weight = np.where(labels == np.bincount(labels, minlength=2).argmin(), 3.0, 1.0)
    test = rng.choice(n, 26, replace=False, p=weight / weight.sum())
    train = rng.permutation(np.setdiff1d(np.arange(n), test))
    return labels, train, test, int(rng.integers(1, 4))


def _blind_by_hand(f, rng):
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 0])
    got = _numbers(f(labels, np.array([0, 2, 3, 5, 6]), np.array([1, 4, 7]), 1))
    # Row 1 sees two zeros, row 4 two ones, row 7 a zero; the commonest answer is 0.
    expect(got, np.array([2 / 3, 1.0]), "labels 0 0 0 1 1 1 0 0, test rows 1, 4 and 7, reach 1")
    got = _numbers(f(labels, np.array([5, 0, 3, 2]), np.array([4, 1, 6]), 2))
    # Two of each in training: 0. Row 4 sees 2, 3 and 5: 1. Row 1: 0, 2 and 3: 0. Row 6: 5: 1.
    expect(got, np.array([2 / 3, 2 / 3]), "training rows 5, 0, 3, 2, test rows 4, 1, 6, reach 2")


def _blind_ties(f, rng):
    labels = np.array([1, 1, 0, 1, 1, 0, 0, 0, 0, 1])
    got = _numbers(f(labels, np.array([0, 1, 2, 4]), np.array([3, 9]), 1))
    expect(
        got,
        np.array([1.0, 1.0]),
        "row 3 has a one and a zero beside it, row 9 nobody; 1 is commoner",
    )
    got = _numbers(f(1 - labels, np.array([0, 1, 2, 4]), np.array([3, 9]), 1))
    expect(got, np.array([1.0, 1.0]), "the same with 0 and 1 exchanged")
    got = _numbers(f(np.array([1, 1, 0, 0, 0, 1]), np.array([0, 1, 2]), np.array([5]), 1))
    expect(got, np.array([1.0, 1.0]), "training labels 1 1 0, and a test row far away")


def _blind_other_labels(f, rng):
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    got = _numbers(f(labels, np.array([0, 1, 2]), np.array([3, 4, 5, 6]), 1))
    expect(got, np.array([0.0, 0.0]), "training has ones only, the test zeros only")


def _blind_cells(f, rng):
    labels, blocks = _cells()
    rows = np.arange(len(labels))
    test = rows[rows % 4 == 1]
    got = _numbers(f(labels, np.setdiff1d(rows, test), test, 2))
    expect(got, CELLS_MIXED, "the solar cells, every fourth row held out, reach 2", 1e-3)
    test = rows[blocks % 4 == 1]
    got = _numbers(f(labels, np.setdiff1d(rows, test), test, 2))
    expect(got, CELLS_BLOCKS, "the solar cells, every fourth block held out, reach 2", 1e-3)


# (commonest training label, rule on row numbers), as they follow from the stored labels.
CELLS_MIXED, CELLS_BLOCKS = np.array([[0.69207, 0.84604], [0.81707, 0.80793]])


def _blind(commonest="train", sees="train", fallback=True, places=False, share=False):
    def wrong(labels, train, test, reach):
        sign = np.zeros(len(labels))
        seen = np.arange(len(labels)) if sees == "all" else train
        sign[seen] = 2 * labels[seen] - 1
        source = {"train": train, "test": test}[commonest]
        majority = int(np.mean(labels[source]) > 0.5)
        answers = []
        for row in test:
            if places:
                at = np.searchsorted(np.sort(train), row)
                near = sign[np.sort(train)[max(0, at - reach) : at + reach]]
            else:
                near = sign[max(0, row - reach) : row + reach + 1]
            vote = near.sum()
            answers.append(int(vote > 0) if vote or not fallback else majority)
        first = np.mean(labels[train if share else test] == majority)
        return first, np.mean(np.array(answers) == labels[test])

    return wrong


BLIND = Task(
    id="ex02.6",
    title="What a blind rule scores",
    function="blind_baselines",
    taught="02#Leaks: when a number is too good",
    parts=(
        Part("by hand", 1, _blind_by_hand),
        Part("ties, and nobody near", 1, _blind_ties),
        Part("other labels in the test part", 1, _blind_other_labels),
        Part("the solar cells", 2, _blind_cells),
    ),
    probes=lambda rng: [_in_stretches(rng), _in_stretches(rng), _in_stretches(rng)],
    misconceptions=(
        Misconception(
            "commonest label of the test part",
            _blind(commonest="test"),
            "Whose labels are known before the test?",
            "You choose the answer by the test labels, so this rule is not blind. The commonest "
            "training label is what you would have answered.",
        ),
        Misconception(
            "share in training",
            _blind(share=True),
            "On which rows is a baseline scored?",
            "You report how common the commonest label is in training. A baseline is an answer, "
            "and is scored on the test rows like every other model.",
        ),
        Misconception(
            "sees test labels",
            _blind(sees="all"),
            "Which label stands at the row that you ask about?",
            "The window holds the test rows too, the asked one among them. You let the rule look "
            "at what it has to guess.",
        ),
        Misconception(
            "neighbours by place in training",
            _blind(places=True),
            "Hold out a whole block: how far away are the rows that vote for its middle?",
            "You take the nearest places in the list of training rows, however far away they are "
            "in the file. Asked for are rows at most so many row numbers away.",
        ),
        Misconception(
            "a tie counts for 0",
            _blind(fallback=False),
            "What does your rule answer where the votes are even, or nobody votes?",
            "Without a majority in the window you answer 0. There it should fall back on the "
            "commonest training label, or it may lose to the simpler rule.",
        ),
    ),
)

# --- ex02.7: mend the evaluation ----------------------------------------------------------------


def _evaluation_seen(f, X, y, blocks):
    """Let f evaluate with tools that note which rows they are given.

    Column 0 of what f gets carries the number of the row, with one half added in a copy; column 1
    the number of the call of prepare that made it.
    """
    import numpy as np

    n, prepared, answered = len(X), [], {}
    seen = {
        "own row in training": False,
        "own block in training": False,
        "own block prepared": False,
        "other preparation": False,
        "copies answered": False,
        "no copies in training": False,
        "unknown rows": False,
    }

    def rows_of(A):
        numbers = np.floor(np.asarray(A, float)[:, 0]).astype(int)
        seen["unknown rows"] |= bool(((numbers < 0) | (numbers >= n)).any())
        return np.clip(numbers, 0, n - 1)

    def augment(A, b):
        A = np.asarray(A, float)
        noise = np.random.default_rng(7).normal(0, 0.05, (2, n, A.shape[1] - 2))
        copies = [A.copy(), A.copy()]
        for copy, shift in zip(copies, noise, strict=True):
            copy[:, 2:] += shift[rows_of(A)]
            copy[:, 0] += 0.5
        return np.concatenate([A, *copies]), np.tile(b, 3)

    def prepare(A, b):
        A, b = np.asarray(A, float), np.asarray(b)
        values, number = A[:, 2:], len(prepared) + 1
        prepared.append(set(rows_of(A).tolist()))
        centre, scale = values.mean(0), values.std(0) + 1e-9
        means = [values[b == k].mean(0) if (b == k).any() else centre for k in (0, 1)]
        best = np.argsort(-np.abs(means[1] - means[0]) / scale, kind="stable")[:20]

        def transform(B):
            B = np.asarray(B, float)
            tags = np.column_stack([B[:, 0], np.full(len(B), number)])
            return np.column_stack([tags, ((B[:, 2:] - centre) / scale)[:, best]])

        return transform

    def fit(A, b):
        A, b = np.asarray(A, float), np.asarray(b)
        own, made = set(rows_of(A).tolist()), set(A[:, 1].tolist())
        seen["no copies in training"] |= not (A[:, 0] % 1 > 0).any()

        def predict(B):
            B = np.asarray(B, float)
            asked, numbers = rows_of(B), set(B[:, 1].tolist())
            held_out = set(blocks[asked].tolist())
            seen["own row in training"] |= bool(own & set(asked.tolist()))
            seen["own block in training"] |= any(blocks[row] in held_out for row in own)
            for number, known in enumerate(prepared, 1):
                if number in numbers:
                    seen["own block prepared"] |= any(blocks[row] in held_out for row in known)
            seen["other preparation"] |= numbers != made or 0 in numbers
            seen["copies answered"] |= bool((B[:, 0] % 1 > 0).any())
            far = ((B[:, None, 2:] - A[None, :, 2:]) ** 2).sum(2)
            labels = b[far.argmin(1)]
            answered.update(zip(asked.tolist(), (labels == y[asked]).tolist(), strict=True))
            return labels

        return predict

    tagged = np.column_stack([np.arange(n), np.zeros(n), X])
    value = float(f(tagged, y.copy(), blocks.copy(), augment, prepare, fit))
    seen["every row answered"] = sorted(answered) == list(range(n))
    right = np.mean(list(answered.values())) if answered else np.nan
    seen["share of the answers"] = bool(abs(value - right) < 1e-6)
    seen["says over 0.75"] = value > 0.75
    return seen


def _coins(rng, n=72, d=40):
    """Blocks of unequal size and labels by coin, so that there is nothing to learn."""
    blocks = np.repeat(np.arange(5), [6, 10, 14, 18, 24])
    return rng.normal(size=(n, d)), rng.integers(2, size=n), blocks


@lru_cache(maxsize=1)
def _writers():
    from tlcourse import datasets

    digits = datasets.digits()
    rows = np.arange(0, len(digits), 9)
    return digits.images[rows].reshape(len(rows), -1).astype(float), np.array(digits.blocks[rows])


def _all_predicted(f, X, y, blocks):
    seen = f(X, y, blocks)
    require(seen["every row answered"], f"{len(X)} rows: some rows are never predicted")
    return seen


def _mended_training(f, rng):
    seen = _all_predicted(f, *_coins(rng))
    require(
        not seen["unknown rows"],
        "a tool is given rows that X does not hold: is X changed by anything but the tools?",
    )
    require(
        not seen["own row in training"],
        "five blocks: a row that is predicted, or a copy of it, was in the training part",
    )
    require(
        not seen["own block in training"],
        "five blocks: rows of the block that is predicted were in the training part",
    )
    require(
        not seen["no copies in training"],
        "five blocks: the training part is not augmented any more; keep the step",
    )


def _mended_preparation(f, rng):
    seen = _all_predicted(f, *_coins(rng))
    require(
        not seen["own block prepared"],
        "five blocks: prepare was given rows of the block that is predicted afterwards",
    )
    require(
        not seen["other preparation"],
        "five blocks: the predicted rows were not prepared as the training rows were",
    )


def _mended_score(f, rng):
    seen = _all_predicted(f, *_coins(rng))
    require(not seen["copies answered"], "five blocks: made copies are among the predicted rows")
    require(
        seen["share of the answers"],
        "blocks of 6 to 24 rows: what you return is not the share of the 72 rows predicted right",
    )


def _mended_coins(f, rng):
    X, blocks = _writers()
    seen = _all_predicted(f, X, rng.integers(2, size=len(X)), blocks)
    require(
        not seen["says over 0.75"],
        "200 real digits with labels by coin flip: you report over 0.75, where nobody can do much "
        "better than 0.5",
    )


def _evaluation(prepare_all=False, copies_stay=False, copies_tested=False, own_scale=False,
                block_means=False, by_row=False, plain=False):  # fmt: skip
    def wrong(X, y, blocks, augment, prepare, fit):
        n = len(X)
        every_X, every_y = augment(X, y)
        times = len(every_X) // n
        transform = prepare(every_X, every_y) if prepare_all else None
        held = np.arange(n) if by_row else np.asarray(blocks)
        found = []
        for part in np.unique(held):
            test = held == part
            if copies_stay:
                rest = np.append(~test, np.ones(n * (times - 1), bool))
                A, b = every_X[rest], every_y[rest]
            elif plain:
                A, b = X[~test], y[~test]
            else:
                A, b = augment(X[~test], y[~test])
            T, t = X[test], y[test]
            if copies_tested:
                T, t = augment(T, t)
            made = transform or prepare(A, b)
            predict = fit(made(A), b)
            own = prepare(T, t) if own_scale else made
            found.append(predict(own(T)) == t)
        return np.mean([np.mean(f) for f in found] if block_means else np.concatenate(found))

    return wrong


def _as_it_was(X, y, blocks, augment, prepare, fit):
    X, y = augment(X, y)
    X = prepare(X, y)(X)
    rows = np.random.default_rng(0).permutation(len(X))
    test, train = rows[: len(rows) // 4], rows[len(rows) // 4 :]
    predict = fit(X[train], y[train])
    return np.mean(predict(X[test]) == y[test])


MENDED = Task(
    id="ex02.7",
    title="Mend the evaluation that predicts coin flips",
    function="honest_accuracy",
    taught="02#Leaks: when a number is too good",
    parts=(
        Part("what the model is trained on", 1, _mended_training),
        Part("what the preparation sees", 1, _mended_preparation),
        Part("what is scored", 1, _mended_score),
        Part("labels by coin flip", 2, _mended_coins),
    ),
    probes=lambda rng: [_coins(rng), _coins(rng)],
    harness=_evaluation_seen,
    misconceptions=(
        Misconception(
            "as it was",
            _as_it_was,
            "Which is the first line of the script that sees all rows?",
            "Copies are made before the split, so most test rows have a copy in training; the "
            "preparation sees every label; and rows are drawn, not blocks.",
        ),
        Misconception(
            "prepared on all rows",
            _evaluation(prepare_all=True),
            "Which rows decide what features are kept?",
            "The features were chosen with the labels of the rows that you test on. With many "
            "features and few rows some fit by chance, and they fit the test rows too.",
        ),
        Misconception(
            "copies of test rows stay in training",
            _evaluation(copies_stay=True),
            "You hold out a row. Where are the copies that were made of it?",
            "The copies are made before the split and stay in training when their original is "
            "held out: the model has seen the answer.",
        ),
        Misconception(
            "copies are scored too",
            _evaluation(copies_tested=True),
            "How many rows do you predict, and how many did you get?",
            "The held-out rows are augmented as well. You then score pictures that nobody took; "
            "only what you train on is augmented.",
        ),
        Misconception(
            "test rows prepared on their own",
            _evaluation(own_scale=True),
            "How would you prepare a single new row, whose label you do not know?",
            "The preparation is learned anew from the test rows and their labels: other scales, "
            "other features than the model was trained with.",
        ),
        Misconception(
            "mean of the blocks",
            _evaluation(block_means=True),
            "How much does a row of the smallest block count in your number?",
            "Every block counts the same, whatever its size. That is another number than the share "
            "of rows predicted right.",
        ),
        Misconception(
            "single rows held out",
            _evaluation(by_row=True),
            "Which rows of the same block are in training when you test one of its rows?",
            "One row is held out at a time; its neighbours of the same block stay in training, "
            "and a model may know the block instead of the class.",
        ),
        Misconception(
            "no augmentation any more",
            _evaluation(plain=True),
            "Is the model that you score the one that will be used?",
            "Leaving the copies out cures the leak and changes the method. Make them, from the "
            "training rows.",
        ),
    ),
)

TASKS = (SPLIT, DRAW, GAIN, CROSSING, COPIES, BLIND, MENDED)
