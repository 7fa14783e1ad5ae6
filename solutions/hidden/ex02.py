"""Exercise set 2: other right answers, and why some changed answers are right as well."""

import re

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score
from sklearn.model_selection import LeaveOneGroupOut

from tlcourse.evidence import paired_interval


def _until_reached(groups, share, seed):
    """Lists, one group after the other, until the share is there."""
    rows_of = {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    order = list(rows_of)
    np.random.default_rng(seed).shuffle(order)
    test = list(rows_of[order[0]])
    for group in order[1:-1]:
        if len(test) >= share * len(groups):
            break
        test += rows_of[group]
    return [row for row in range(len(groups)) if row not in set(test)], test


def _what_still_fits(groups, share, seed):
    """Groups are taken wherever they bring the size nearer to the wanted one."""
    names, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    wanted, taken = share * len(groups), []
    for group in np.random.default_rng(seed).permutation(len(names)):
        before = sum(sizes[taken])
        nearer = abs(before + sizes[group] - wanted) < abs(before - wanted)
        if not taken or (nearer and len(taken) < len(names) - 1):
            taken.append(group)
    return np.flatnonzero(~np.isin(number, taken)), np.flatnonzero(np.isin(number, taken))


def _class_after_class(labels, n, seed):
    rng = np.random.default_rng(seed)
    first = [int(rng.choice(np.flatnonzero(labels == label))) for label in set(labels.tolist())]
    if n < len(first):
        raise ValueError("one of each class, at least")
    others = [row for row in range(len(labels)) if row not in first]
    rng.shuffle(others)
    return first + others[: n - len(first)]


def _by_paired_interval(runs, labels):
    sides = {True: {}, False: {}}
    for run in runs:
        if run["labels"] == labels:
            sides[run["source"] is None][run["seed"]] = run["accuracy"]
    seeds = sorted(set(sides[True]) & set(sides[False]))
    mean, (low, high) = paired_interval(
        *([sides[side][s] for s in seeds] for side in (False, True))
    )
    return [mean, low, high]


def _by_t_interval(runs, labels):
    gain = [
        a["accuracy"] - b["accuracy"]
        for a in runs
        for b in runs
        if a["source"] and not b["source"]
        if a["labels"] == b["labels"] == labels and a["seed"] == b["seed"]
    ]
    low, high = stats.t.interval(0.95, len(gain) - 1, np.mean(gain), stats.sem(gain))
    return np.mean(gain), low, high


def _from_the_right(sizes, frozen, rival):
    lead = (np.array(rival) - np.array(frozen)).mean(axis=1)
    found = None
    for k in range(len(sizes) - 1, -1, -1):
        if lead[k] <= 0:
            break
        found = sizes[0]
        if k and lead[k - 1] <= 0:
            found = 2 ** np.interp(0, lead[k - 1 : k + 1], np.log2(sizes[k - 1 : k + 1]))
    return found


def _by_matrix(train, test, share):
    split = [[set(re.findall(r"[a-z0-9']+", t.lower())) for t in part] for part in (train, test)]
    vocabulary = sorted(set().union(*split[0], *split[1]))
    A, B = (np.array([[w in s for w in vocabulary] for s in part], float) for part in split)
    shared = B @ A.T
    either = B.sum(1)[:, None] + A.sum(1) - shared
    jaccard = shared / np.maximum(either, 1)
    return np.flatnonzero(jaccard.max(axis=1) >= share - 1e-9)


def _by_counting(labels, train, test, reach):
    common = int(np.bincount(labels[train]).argmax())
    right = []
    for row in test:
        near = labels[train[np.abs(train - row) <= reach]]
        ones = near.sum()
        tie = 2 * ones == len(near)
        right.append(labels[row] == (common if tie else int(2 * ones > len(near))))
    return (labels[test] == common).mean(), sum(right) / len(right)


def _with_scikit_learn(X, y, blocks, augment, prepare, fit):
    predicted = np.empty_like(y)
    for train, test in LeaveOneGroupOut().split(X, y, groups=blocks):
        A, b = augment(X[train], y[train])
        transform = prepare(A, b)
        predicted[test] = fit(transform(A), b)(transform(X[test]))
    return accuracy_score(y, predicted)


def _row_after_row(X, y, blocks, augment, prepare, fit):
    """Wasteful: everything anew for each row, its whole block held out."""
    right = []
    for row in range(len(X)):
        rest = [k for k in range(len(X)) if blocks[k] != blocks[row]]
        A, b = augment(X[rest], y[rest])
        transform = prepare(A, b)
        right.append(bool((fit(transform(A), b)(transform(X[row : row + 1])) == y[row])[0]))
    return sum(right) / len(right)


ALTERNATIVES = {
    "ex02.1": [_until_reached, _what_still_fits],
    "ex02.2": [_class_after_class],
    "ex02.3": [_by_paired_interval, _by_t_interval],
    "ex02.4": [_from_the_right],
    "ex02.5": [_by_matrix],
    "ex02.6": [_by_counting],
    "ex02.7": [_with_scikit_learn, _row_after_row],
}

# Changes of the reference that leave it right, each with its reason.
EQUIVALENT = {
    "ex02.1": {
        "count = 1 + np.argmin(np.abs(reached - share * len(groups))) -> "
        "count = 1 + np.argmin(np.abs(share * len(groups) - reached))": (
            "the size of a difference has no sign"
        ),
    },
    "ex02.4": {
        "lead = np.mean(rival, axis=1) - np.mean(frozen, axis=1) -> "
        "lead = np.mean(rival, axis=-1) - np.mean(frozen, axis=1)": (
            "the last axis of two is axis 1"
        ),
        "lead = np.mean(rival, axis=1) - np.mean(frozen, axis=1) -> "
        "lead = np.mean(rival, axis=1) - np.mean(frozen, axis=-1)": (
            "the last axis of two is axis 1"
        ),
    },
    "ex02.6": {
        "answer = np.where(near == 0, commonest, near > 0) -> "
        "answer = np.where(near == 0, commonest, near >= 0)": "zero has been dealt with before",
        "answer = np.where(near == 0, commonest, near > 0) -> "
        "answer = np.where(near == 0, commonest, near > -1)": (
            "votes are whole numbers, and zero has been dealt with before"
        ),
        "near = np.array([vote[max(0, row - reach):row + reach + 1].sum() for row in test]) -> "
        "near = np.array([vote[max(row - reach, 0):row + reach + 1].sum() for row in test])": (
            "the larger of two numbers, whichever comes first"
        ),
    },
}
