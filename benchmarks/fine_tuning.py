"""What fine-tuning does to a network's features, over many seeds. The recorded run of lesson 05.

    python benchmarks/fine_tuning.py --seconds 150

Each piece is one training of the top blocks of EfficientNet-Lite0 on cached activations: data,
start of the head, method, first block that is trained, labels, rate, epochs, seed. Every finished
piece is written to benchmarks/results/fine_tuning.json at once, and what is there already is
skipped: stop it whenever you like and start it again. `--list` shows what is left.
"""

import copy
import os
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from record import as_piece, options, pieces_left, run_pieces
from threadpoolctl import threadpool_limits
from torch import nn

os.environ["TLCOURSE_FRAMEWORK"] = "pytorch"

from sklearn.linear_model import LogisticRegression

from tlcourse import backbones, datasets, features

RESULT = Path(__file__).with_name("results") / "fine_tuning.json"
RATE, LABELS, EPOCHS, BATCH = 3e-4, 128, 4, 16
MORE_EPOCHS = {16: 20, 64: 10}  # few labels get more passes, or there would be too few steps
SHARES = (1.0, 1.0, 0.3, 0.1)  # layer-wise: head, last convolution, block16, block15


@dataclass(frozen=True)
class Piece:
    """One training; `first` is the first block that is trained, all behind it are too."""

    method: str = "plain"
    start: str = "head first"
    data: str = "pictograms"
    first: str = "block15"
    labels: int = LABELS
    rate: float = RATE
    epochs: int = EPOCHS
    seed: int = 0


def plan() -> list[Piece]:
    """Return all pieces, the most wanted first."""
    starts = ("head first", "random head")
    rates = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    pieces = [Piece(seed=s) for s in range(8)]
    pieces += [Piece(rate=r, start=t, seed=s) for s in range(5) for r in rates for t in starts]
    methods = ("layer-wise", "gradual", "warm-up", "decay", "L2-SP", "old answers", "norm trained")
    methods += ("flipped and shifted", "without colour")
    pieces += [Piece(m, seed=s) for m in methods for s in range(8)]
    pieces += [Piece("epoch by epoch", epochs=12, seed=s) for s in range(8)]
    grid = [(n, f) for n in (16, 64, 256) for f in ("head", "block16", "block15", "block12")]
    grid = [{"labels": n, "first": f, "epochs": MORE_EPOCHS.get(n, EPOCHS)} for n, f in grid]
    for few in (range(3), range(3, 5)):
        pieces += [Piece(**setting, seed=s) for s in few for setting in grid]
        pieces += [
            Piece(m, first="block12", seed=s) for s in few for m in ("plain", "earlier only")
        ]
        pieces += [Piece(data="cells", start=t, labels=400, seed=s) for s in few for t in starts]
    more = ("plain", "warm-up")
    pieces += [Piece(m, start="random head", seed=s) for s in range(8) for m in more]
    return list(dict.fromkeys(pieces))


# --- the data: activations of the frozen trunk, read once --------------------------------------


@cache
def backbone():
    return backbones.load("efficientnet-lite0")


def cut_before(first: str) -> str:
    """Return where the activations are cached; everything after block14 shares one cache."""
    return "block11" if first == "block12" else "block14"


def activations(images, cut):
    maps = features.extract(backbone(), images, cuts=(cut,), pool=False)[cut]
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(maps, 3, 1), np.float32))
    return tensor.contiguous(memory_format=torch.channels_last)


@cache
def pictograms(style, cut, version=0):
    """Return activations of the labelled pictograms; versions above 0 are changed copies."""
    images = datasets.pictograms(style).images
    if version in ("flip", "shift"):
        images = images[:, :, ::-1] if version == "flip" else np.roll(images, (14, -14), (1, 2))
    if version in ("grey", "pale"):
        grey = images.mean(axis=3, keepdims=True)
        grey = grey if version == "grey" else 128 + grey / 2
        images = np.repeat(grey, 3, axis=3).astype(np.uint8)
    return activations(np.ascontiguousarray(images), cut)


VERSIONS = {"flipped and shifted": (0, "flip", "shift"), "without colour": (0, "grey", "pale")}


@cache
def domains(data: str, cut: str):
    """Return (data set, rows to split, inside, outside, rows outside or None for the same)."""
    if data == "pictograms":
        whole = datasets.pictograms("color")
        inside, outside = (pictograms(style, cut) for style in ("color", "line"))
        return whole, np.arange(len(whole)), inside, outside, None
    whole = datasets.solar_cells()
    maps = activations(whole.images, cut)
    mono = whole.meta["cell_type"] == "mono"
    return whole, np.flatnonzero(mono), maps, maps, np.flatnonzero(~mono)[::2]


@cache
def others(cut):
    """Return drawings outside the eight classes, and every third handwritten digit with labels."""
    drawings = datasets.pictograms("color", labelled=False)
    drawings = drawings.images[drawings.labels < 0][:200]
    digits = datasets.digits()
    third = np.arange(0, len(digits), 3)
    dark = 255 - np.minimum(digits.images[third].astype(int) * 16, 255)
    maps = activations(dark.astype(np.uint8), cut)
    return activations(drawings, cut), maps, digits.labels[third]


# --- the network and its training --------------------------------------------------------------


def pretrained_top(cut):
    top = copy.deepcopy(backbone().split(cut)[1]).to(memory_format=torch.channels_last)
    return top[:-1].eval(), top[-1]


def pooled(body, maps):
    body.eval()
    with torch.inference_mode():
        return torch.cat([body(part) for part in maps.split(64)]).numpy()


def fitted_head(F, labels):
    """Return weights and bias of a logistic regression on the features as they are.

    Standardised ones would give a nearly dead feature an enormous weight in the folded head.
    """
    with threadpool_limits(1, user_api="blas"):  # for matrices this small, the fastest
        linear = LogisticRegression(max_iter=1000).fit(F, labels)
    W, b = linear.coef_, linear.intercept_
    if len(W) == 1:
        W, b = np.concatenate([-W / 2, W / 2]), np.concatenate([-b / 2, b / 2])
    return W.astype(np.float32), b.astype(np.float32)


def rate_share(piece, step, steps, part):
    """Return the share of the rate at a step for a part, counted from the head."""
    if piece.method == "warm-up":
        return min(1.0, (step + 1) / (0.25 * steps))
    if piece.method == "decay":
        return 1 - step / steps
    if piece.method == "gradual":
        return float(step >= part * steps / 4)
    return SHARES[part] if piece.method == "layer-wise" else 1.0


def train(piece, body, head, old_head, inside, labels, rows, after_epoch):
    start = copy.deepcopy(body)
    names = [name for name, _ in body.named_children()]
    for name, block in body.named_children():
        trained = names.index(name) >= names.index(piece.first)
        if piece.method == "earlier only":
            trained = name in ("block12", "block13")
        block.requires_grad_(trained)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    weights = [list(part.parameters()) for part in (head, *reversed(body))]
    weights = [[p for p in of_part if p.requires_grad] for of_part in weights]
    groups = [{"params": of_part} for of_part in weights if of_part]  # from the head down
    optimizer = torch.optim.Adam(groups, lr=piece.rate, fused=True)
    pairs = zip(body.parameters(), start.parameters(), strict=True)
    anchored = [(p, p0) for p, p0 in pairs if p.requires_grad]
    versions = [inside]
    if piece.method in VERSIONS:
        cut = cut_before(piece.first)
        versions = [pictograms("color", cut, v) for v in VERSIONS[piece.method]]
    target = torch.from_numpy(np.array(labels))
    rng = np.random.default_rng(piece.seed)
    step, steps = 0, piece.epochs * -(-len(rows) // BATCH)
    for epoch in range(piece.epochs):
        maps = versions[epoch % len(versions)]
        order = rng.permutation(rows)
        body.train(piece.method == "norm trained")
        for chosen in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
            for part, group in enumerate(optimizer.param_groups):
                group["lr"] = piece.rate * rate_share(piece, step, steps, part)
            F = body(maps[chosen])
            loss = nn.functional.cross_entropy(head(F), target[chosen])
            if piece.method == "L2-SP":
                loss = loss + sum(((p - p0.detach()) ** 2).sum() for p, p0 in anchored)
            if piece.method == "old answers":
                with torch.no_grad():
                    answers = (old_head(start(maps[chosen])) / 2).softmax(1)
                now = (old_head(F) / 2).log_softmax(1)
                loss = loss + 4 * nn.functional.kl_div(now, answers, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        after_epoch()


# --- one piece ---------------------------------------------------------------------------------


def drift(before, after):
    length = np.linalg.norm(before, axis=1).mean()
    return float(np.linalg.norm(after - before, axis=1).mean() / length)


@cache
def pretrained_features(data: str, cut: str):
    _, _, inside, outside, _ = domains(data, cut)
    drawings, digits, _ = others(cut)
    body, _ = pretrained_top(cut)
    return [pooled(body, maps) for maps in (inside, outside, drawings, digits)]


@cache
def pretrained_digit_head(cut: str):
    labels = others(cut)[2]
    half = len(labels) // 2
    return fitted_head(pretrained_features("pictograms", cut)[3][:half], labels[:half])


def measure(piece: Piece) -> dict:
    """Train one piece; return its settings and what was measured before and after."""
    from sklearn.metrics import balanced_accuracy_score

    cut = cut_before(piece.first)
    data, rows, inside, outside, foreign = domains(piece.data, cut)
    drawings, digits, digit_labels = others(cut)
    first_half = np.arange(len(digit_labels)) < len(digit_labels) // 2
    drawn = data.subset(rows).draw(piece.labels, piece.seed, test_size=0.4)
    train_rows, test = (rows[part] for part in drawn)
    foreign = test if foreign is None else foreign

    body, old_head = pretrained_top(cut)
    classes = len(data.class_names)

    def look():
        sets = (inside[test], outside[foreign], drawings, digits)
        return [pooled(body, maps) for maps in sets]

    F_in, F_out, *elsewhere = pretrained_features(piece.data, cut)
    before = [F_in[test], F_out[foreign], *elsewhere]
    W, b = fitted_head(F_in[train_rows], data.labels[train_rows])
    digit_head = pretrained_digit_head(cut)

    def accuracy(F, head, labels):
        return balanced_accuracy_score(labels, (F @ head[0].T + head[1]).argmax(1))

    W_old, b_old = (p.detach().numpy() for p in old_head.parameters())
    said = (before[2] @ W_old.T + b_old).argmax(1)
    found = {
        "probe_in": accuracy(before[0], (W, b), data.labels[test]),
        "probe_out": accuracy(before[1], (W, b), data.labels[foreign]),
        "digits_before": accuracy(before[3][~first_half], digit_head, digit_labels[~first_half]),
    }

    torch.manual_seed(piece.seed)
    head = nn.Linear(before[0].shape[1], classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    if piece.start == "head first":
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(W))
            head.bias.copy_(torch.from_numpy(b))
    curve = []

    def now(head=head):
        return head.weight.detach().numpy(), head.bias.detach().numpy()

    def after_epoch():
        if piece.method == "epoch by epoch":
            held = np.setdiff1d(rows, np.concatenate([train_rows, test]))
            held = held[:: max(1, len(held) // 64)]
            parts = [(inside, held), (inside, test), (outside, foreign)]
            scores = [accuracy(pooled(body, x[r]), now(), data.labels[r]) for x, r in parts]
            curve.append([round(score, 4) for score in scores])

    began = time.perf_counter()
    train(piece, body, head, old_head, inside, data.labels, train_rows, after_epoch)
    seconds = time.perf_counter() - began
    after = look()
    fresh = fitted_head(after[3][first_half], digit_labels[first_half])
    says = (after[2] @ W_old.T + b_old).argmax(1)
    found |= {
        "in": accuracy(after[0], now(), data.labels[test]),
        "out": accuracy(after[1], now(), data.labels[foreign]),
        "drift_in": drift(before[0], after[0]),
        "drift_out": drift(before[1], after[1]),
        "agree": float(np.mean(said == says)),
        "digits_old_head": accuracy(after[3][~first_half], digit_head, digit_labels[~first_half]),
        "digits_fresh_head": accuracy(after[3][~first_half], fresh, digit_labels[~first_half]),
    }
    found = {key: round(value, 4) for key, value in found.items()}
    if curve:
        found["curve"] = curve
    return {**asdict(piece), **found, "seconds": round(seconds, 2)}


def main() -> None:
    given = options(__doc__).parse_args()
    left = pieces_left(RESULT, plan(), as_piece(Piece), given.list)
    if not left:
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()))
    header = {"command": "python benchmarks/fine_tuning.py"}
    run_pieces(RESULT, left, measure, given.seconds, header)


if __name__ == "__main__":
    main()
