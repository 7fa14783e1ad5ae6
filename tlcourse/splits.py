"""Splits that a reader can trust: stratified by class, or whole blocks held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]

TRIES = 200  # orders of the blocks tried until every class is where it must be


class Labelled:
    """What pictures and texts have in common: labels, blocks and splits."""

    labels: np.ndarray
    blocks: np.ndarray | None
    class_names: tuple[str, ...]
    name: str

    meta: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)

    def class_balance(self) -> dict[str, float]:
        """Return the share of each class, between 0 and 1."""
        return {
            name: float(np.mean(self.labels == label))
            for label, name in enumerate(self.class_names)
        }

    def shares(self) -> str:
        """Return the class balance as one line of text."""
        return ", ".join(f"{name} {share:.2f}" for name, share in self.class_balance().items())

    def split(self, kind: str = "random", test_size: float = 0.25, seed: int = 0) -> Pair:
        """Return (train, test) row numbers, sorted; kind "random" (stratified) or "block".

        test_size is a share between 0 and 1; blocks are taken until it is reached as nearly as
        whole blocks allow. Every class is in both parts. Raises ValueError for an unknown kind and
        where the data set has no blocks.
        """
        if not 0 < test_size < 1:
            raise ValueError(f"test_size is a share between 0 and 1, not {test_size}.")
        rng = np.random.default_rng(seed)
        if self._has_blocks(kind):
            test = _held_out_blocks(self.labels, self.blocks, test_size, rng)
        else:
            test = _held_out_rows(self.labels, test_size, rng)
        return np.flatnonzero(~test), np.flatnonzero(test)

    def draw(self, n: int, seed: int, kind: str = "block", test_size: float = 0.25) -> Pair:
        """Return (rows, test): n rows to learn from, and the rows that split holds out.

        The rows stand in random order, one of each class first, and hold what a smaller n with the
        same seed gives. Where fewer are there, all are taken. Raises ValueError for n below the
        number of classes.
        """
        train, test = self.split(kind, test_size, seed)
        train = np.random.default_rng(seed).permutation(train)
        _, one_each = np.unique(self.labels[train], return_index=True)
        if n < len(one_each):
            raise ValueError(f"{n} rows cannot show {len(one_each)} classes: draw one of each.")
        others = np.setdiff1d(np.arange(len(train)), one_each)
        return train[np.append(one_each, others)[:n]], test

    def folds(self, kind: str = "random", n: int = 5, seed: int = 0) -> list[Pair]:
        """Return n (train, test) pairs of row numbers; each row is in exactly one test part.

        Kind as in split. Every class is in every training part. Raises ValueError for n below 2 or
        above the number of blocks.
        """
        if n < 2:
            raise ValueError(f"Cross-validation takes at least 2 folds, not {n}.")
        rng = np.random.default_rng(seed)
        if self._has_blocks(kind):
            fold = _folds_of_blocks(self.labels, self.blocks, n, rng)
        else:
            fold = _folds_of_rows(self.labels, n, rng)
        return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n)]

    def subset(self, indices: Iterable[int]):
        """Return the same data set with these rows only, in this order."""
        rows = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64)
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "texts":
                changed["texts"] = tuple(value[row] for row in rows)
            elif field.name == "meta":
                changed["meta"] = {key: column[rows] for key, column in value.items()}
            elif isinstance(value, np.ndarray):
                changed[field.name] = value[rows]
        return replace(self, **changed)

    def __post_init__(self) -> None:
        columns = {key: _locked(column) for key, column in self.meta.items()}
        object.__setattr__(self, "meta", columns)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, field.name, _locked(value))
            rows = getattr(self, field.name)
            if isinstance(rows, np.ndarray) and len(rows) != len(self.labels):
                raise ValueError(
                    f"{self.name}: {field.name} has {len(rows)} rows, labels {len(self.labels)}."
                )

    def _has_blocks(self, kind: str) -> bool:
        if kind not in ("random", "block"):
            raise ValueError(f"A split is of kind 'random' or 'block', not {kind!r}.")
        if kind == "block" and self.blocks is None:
            raise ValueError(
                f"{self.name} has no review or article ids, so there are no blocks to hold out: "
                "use kind='random', and say that nobody can tell what this split leaks."
            )
        return kind == "block"


def runs_of(values: np.ndarray, length: int | None = None) -> np.ndarray:
    """Number the runs of equal neighbours, cut into equal parts of about `length` rows each."""
    borders = np.flatnonzero(values[1:] != values[:-1]) + 1
    runs = np.split(np.arange(len(values)), borders)
    if length:
        runs = [part for run in runs for part in equal_runs(run, max(1, round(len(run) / length)))]
    return np.repeat(np.arange(len(runs)), [len(run) for run in runs])


def equal_runs(rows: np.ndarray, parts: int) -> list[np.ndarray]:
    """Cut rows into contiguous parts whose lengths differ by one at most."""
    return np.array_split(rows, parts)


def _locked(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


def _held_out_rows(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A mask of the test rows: the same share of every class, and one row of each at least."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * share
    wanted = np.floor(exact).astype(int)
    missing = round(len(labels) * share) - wanted.sum()
    wanted[np.argsort(wanted - exact, kind="stable")[:missing]] += 1
    test = np.zeros(len(labels), bool)
    for label, size, number in zip(classes, sizes, wanted, strict=True):
        rows = rng.permutation(np.flatnonzero(labels == label))
        test[rows[: min(max(number, 1), size - 1)]] = True
    return test


def _held_out_blocks(
    labels: np.ndarray, blocks: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """A mask of the test rows: whole blocks, every class on both sides."""
    ids, sizes = np.unique(blocks, return_counts=True)
    classes = len(np.unique(labels))
    for _ in range(TRIES):
        order = rng.permutation(len(ids))
        reached = np.cumsum(sizes[order])[:-1]  # one block stays in training
        if len(reached) == 0:
            break
        count = 1 + np.argmin(np.abs(reached - share * len(labels)))
        test = np.isin(blocks, ids[order[:count]])
        if len(np.unique(labels[test])) == classes == len(np.unique(labels[~test])):
            return test
    raise ValueError(
        f"No choice among the {len(ids)} blocks leaves every class on both sides of the split: "
        "use more rows or kind='random'."
    )


def _folds_of_rows(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    if n > len(labels):
        raise ValueError(f"{len(labels)} rows cannot be cut into {n} folds.")
    fold = np.empty(len(labels), int)
    # Dealing the rows like cards, class after class, keeps both sizes and shares even.
    rows = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    fold[np.concatenate(rows)] = np.arange(len(labels)) % n
    return fold


def _folds_of_blocks(
    labels: np.ndarray, blocks: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """The fold of each row: whole blocks, each to the fold that is smallest so far."""
    ids, sizes = np.unique(blocks, return_counts=True)
    if n > len(ids):
        raise ValueError(f"{len(ids)} blocks cannot be cut into {n} folds.")
    classes = len(np.unique(labels))
    for _ in range(TRIES):
        fold_of = np.empty(len(ids), int)
        filled = np.zeros(n, int)
        for block in rng.permutation(len(ids)):
            fold_of[block] = np.argmin(filled)
            filled[fold_of[block]] += sizes[block]
        fold = fold_of[np.searchsorted(ids, blocks)]
        if all(len(np.unique(labels[fold != k])) == classes for k in range(n)):
            return fold
    raise ValueError(
        f"No way of dealing {len(ids)} blocks to {n} folds leaves every class in each training "
        "part: take fewer folds or kind='random'."
    )
