"""The published protocol on the solar cells, beside splits by blocks. The record of lesson 10.

    python benchmarks/solar_case.py --seconds 150

Each piece is one split: its kind and seed. Frozen features of two networks at two sizes are pooled
(mean, maximum, spread), averaged over four flips and kept in the cache; a support vector machine on
the mean of their kernels is chosen by inner validation on the training rows only. Every finished
piece is written to benchmarks/results/solar_case.json at once, and what is there already is
skipped: stop it whenever you like and start it again. `--list` shows what is left.
"""

import os
import time
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import as_piece, options, pieces_left, run_pieces
from torch import nn

os.environ["TLCOURSE_FRAMEWORK"] = "pytorch"

from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tlcourse import backbones, datasets, features
from tlcourse.assets import cache_dir

RESULT = Path(__file__).with_name("results") / "solar_case.json"
SOURCES = [(f"efficientnet-lite{i}", size) for i in (0, 2) for size in (300, 416)]
GROUPS = {"low": slice(0, 3), "middle": slice(1, 4), "high": slice(4, 6)}  # of six stages
GRID = [(C, gamma) for C in (3, 10, 30) for gamma in (0.5, 1.0, 1.5)]
SPLITS, FIRST_SEED = 16, 100  # lower seeds served to draw up the grid


@dataclass(frozen=True)
class Piece:
    """One split of the cells into 75 % and 25 %; kind "random" or "block"."""

    kind: str
    seed: int


def plan() -> list[Piece]:
    """Return all pieces, the kinds taking turns."""
    seeds = range(FIRST_SEED, FIRST_SEED + SPLITS)
    return [Piece(kind, seed) for seed in seeds for kind in ("random", "block")]


# --- the cells as the paper labels them --------------------------------------------------------


@cache
def cells():
    """Return the data, labels, weights and the strata of the random split.

    Deitsch et al. 2019: every rating but a sure "functional" is called defective, and counts with
    its probability. The random split keeps the shares of rating and cell type.
    """
    data = datasets.solar_cells()
    probability = data.meta["probability"].astype(float)
    mono = data.meta["cell_type"] == "mono"
    weights = np.where(probability > 0, probability, 1.0)
    strata = replace(data, labels=np.round(probability * 3).astype(np.int64) * 2 + mono)
    return data, (probability > 0).astype(int), weights, strata


# --- features: six stages, three ways of pooling, four flips ------------------------------------


class Pooled(nn.Module):
    """Mean, maximum and spread over the picture at the end of the last six stages."""

    def __init__(self, backbone, cuts):
        super().__init__()
        self.chain = backbone.model[: backbone.cut_points.index("head") + 1]
        self.cuts = cuts

    def forward(self, images):
        x, read = ((images - 127) / 128)[:, None].repeat(1, 3, 1, 1), []
        for name, part in self.chain.named_children():
            x = part(x)
            if name in self.cuts:
                read += [x.mean((2, 3)), x.amax((2, 3)), x.std((2, 3))]
        return torch.cat(read, 1)


def stages(name):
    """Return {cut: channels} for the last block of each stage from stride 8 on, and the head."""
    blocks = backbones.spec.LITE[name].blocks
    last = {block.out_channels: block.name for block in blocks}
    return {cut: channels for channels, cut in list(last.items())[2:]} | {"head": 1280}


@cache
def pooled(name: str, size: int) -> list[np.ndarray]:
    """Return one array (N, 3 × channels) a stage, signed square roots of the mean over flips."""
    kept = cache_dir() / "features" / f"solar_case-{name}-{size}.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, _extract(name, size))
        os.replace(part, kept)
    whole = np.load(kept)
    borders = np.cumsum([3 * channels for channels in stages(name).values()])[:-1]
    return np.split(np.sign(whole) * np.sqrt(np.abs(whole)), borders, axis=1)


def _extract(name, size):
    import openvino

    network = Pooled(backbones.load(name), tuple(stages(name))).eval()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        example = torch.zeros(8, size, size)
        model = openvino.convert_model(network, example_input=example, input=[-1, size, size])
    compiled = openvino.Core().compile_model(model, "CPU")
    images = cells()[0].images
    total = 0
    for number, step in enumerate(((1, 1), (1, -1), (-1, 1), (-1, -1)), start=1):
        began = time.perf_counter()
        rows = []
        for start in range(0, len(images), 8):
            batch = [Image.fromarray(x[:: step[0], :: step[1]]) for x in images[start : start + 8]]
            batch = [x.resize((size, size), Image.Resampling.BILINEAR) for x in batch]
            rows.append(compiled(np.stack(batch).astype(np.float32))[0].copy())
        total = total + np.concatenate(rows) / 4
        print(f"{name} at {size}, flip {number}/4: {time.perf_counter() - began:.0f} s", flush=True)
    return total.astype(np.float32)


# --- kernels and their choice ------------------------------------------------------------------


def distances(F, train):
    """Return squared distances between all rows, 1 in the middle; scaled by training rows only."""
    Z = np.clip((F - F[train].mean(0)) / (F[train].std(0) + 1e-6), -6, 6)
    square = (Z**2).sum(1)
    D = np.maximum(square[:, None] + square - 2 * Z @ Z.T, 0)
    return D / np.median(D[np.ix_(train[::5], train[::5])])


def decisions(K, train, test, C, labels, weights):
    machine = SVC(C=C, kernel="precomputed").fit(
        K[np.ix_(train, train)], labels[train], sample_weight=weights[train]
    )
    return machine.decision_function(K[np.ix_(test, train)])


def share_right(z, rows, labels, weights):
    return float(np.average((z > 0) == labels[rows], weights=weights[rows]))


def kernels(sources, train):
    """Return {gamma: mean of the sources' Gaussian kernels}."""
    D = [distances(F, train) for F in sources]
    return {gamma: sum(np.exp(-gamma * d) for d in D) / len(D) for _, gamma in GRID[:3]}


def chosen(K, data, kind, train, labels, weights, seed):
    """Return (C, gamma) with the best inner cross-validation on the training rows."""
    scores = dict.fromkeys(GRID, 0.0)
    for inner, held in data.subset(train).folds(kind, 4, seed):
        inner, held = train[inner], train[held]
        for C, gamma in GRID:
            z = decisions(K[gamma], inner, held, C, labels, weights)
            scores[C, gamma] += share_right(z, held, labels, weights)
    return max(scores, key=scores.get)


def measure(piece: Piece) -> dict:
    """Return what every model gets right on the test rows of one split."""
    began = time.perf_counter()
    data, labels, weights, strata = cells()
    data = strata if piece.kind == "random" else data
    train, test = data.split(piece.kind, 0.25, piece.seed)
    found = asdict(piece) | {"test_weight": round(float(weights[test].sum()), 4)}

    def scored(name, z):
        predicted = (z > 0).astype(int)
        found[name] = round(share_right(z, test, labels, weights), 5)
        balanced = balanced_accuracy_score(labels[test], predicted, sample_weight=weights[test])
        found[f"{name}_balanced"] = round(float(balanced), 5)

    F = features.extract(backbones.load("efficientnet-lite0"), data.images)["head"]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    probe.fit(F[train], labels[train], logisticregression__sample_weight=weights[train])
    scored("probe", probe.decision_function(F[test]))

    every = {source: pooled(*source) for source in SOURCES}
    groups = {s: [np.hstack(F[part]) for part in GROUPS.values()] for s, F in every.items()}
    for name, sources in (("one", SOURCES[:1]), ("all", SOURCES)):
        K = kernels([F for source in sources for F in groups[source]], train)
        C, gamma = chosen(K, data, piece.kind, train, labels, weights, piece.seed)
        scored(name, decisions(K[gamma], train, test, C, labels, weights))
        found[f"{name}_chose"] = [C, gamma]
    row = np.arange(len(data))
    near = np.exp(-np.abs(row[:, None] - row) / 20)
    scored("all_and_row", decisions(K[gamma] + 0.3 * near, train, test, C, labels, weights))
    scored("row", decisions(near, train, test, 3, labels, weights))
    # The course's own reading: defective from 2/3 up, every picture counts once.
    sure, ones = (data.meta["probability"] > 0.5).astype(int), np.ones(len(data))
    C, gamma = chosen(K, data, piece.kind, train, sure, ones, piece.seed)
    z = decisions(K[gamma], train, test, C, sure, ones)
    found["all_unweighted"] = round(share_right(z, test, sure, ones), 5)
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    given = options(__doc__).parse_args()
    left = pieces_left(RESULT, plan(), as_piece(Piece), given.list)
    if not left:
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()))
    for source in SOURCES:
        pooled(*source)
    run_pieces(RESULT, left, measure, given.seconds, {"command": "python benchmarks/solar_case.py"})


if __name__ == "__main__":
    main()
