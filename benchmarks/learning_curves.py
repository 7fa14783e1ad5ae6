"""What does a small network from random weights reach with 16 labels, or all? For lesson 02.

    python benchmarks/learning_curves.py --seconds 150

Each piece is one training in PyTorch: data set, number of labels, seed. The network has three
convolutions with BatchNorm (about 94,000 parameters), sees pictures of 64 x 64 (the digits at their
own 8 x 8), and trains for 600 steps of 32 pictures with AdamW, a one-cycle rate, class weights,
flips and shifts (no flips for digits). Labels are drawn from three quarters of the blocks, the test
is on the others. Every finished piece is kept at once in
benchmarks/results/learning_curves.json and what is there is skipped: stop it whenever you like and
start it again. `--list` shows what is left.
"""

import time
from functools import cache
from operator import itemgetter
from pathlib import Path

import numpy as np
from record import options, pieces_left, run_pieces

PATH = Path(__file__).with_name("results") / "learning_curves.json"
ALL = 1_000_000  # more than there are: every label
STEPS, BATCH, RATE = 600, 32, 3e-3


def plan() -> list[tuple[str, int, int]]:
    """Return (data set, labels, seed) of every training, the most wanted first."""
    names = ("pictograms", "solar cells", "digits")
    pieces = [(name, n, s) for s in range(5) for n in (16, 64, 256, ALL) for name in names]
    # The accuracy with all labels differs most from one choice of test blocks to another.
    return pieces + [(name, ALL, s) for s in range(5, 10) for name in names[:2]]


@cache
def load(name: str):
    """Return the data set and its pictures as float32 (N, C, H, W) from -1 to 1."""
    from tlcourse import datasets
    from tlcourse.backbones.image import resize

    if name == "digits":
        data = datasets.digits()
        return data, data.images[:, None].astype(np.float32) / 8 - 1
    data = datasets.pictograms("color") if name == "pictograms" else datasets.solar_cells()
    pictures = resize(data.images, 64).astype(np.float32) / 127.5 - 1
    channels = slice(None) if name == "pictograms" else slice(1)  # the cells are grey
    return data, np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)[:, channels])


def network(channels: int, classes: int):
    """Return three strided convolutions, an average over the picture, and a linear layer."""
    from torch import nn

    layers = []
    for inside, outside in ((channels, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def train(model, pictures, labels, seed: int, flips: bool) -> None:
    """Train in place; one flip and one shift a batch keep the loop fast."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(labels, minlength=model[-1].out_features).clamp(min=1)
    weight = len(labels) / (len(counts) * counts.float())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    reach = max(1, pictures.shape[-1] // 16)
    model.train()
    for _ in range(STEPS):
        rows = torch.randint(len(pictures), (BATCH,), generator=generator)
        batch = pictures[rows]
        if flips and torch.rand(1, generator=generator) < 0.5:
            batch = batch.flip(3)
        shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        logits = model(torch.roll(batch, shift, (2, 3)))
        loss = torch.nn.functional.cross_entropy(logits, labels[rows], weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def measure(piece, data, pictures) -> dict:
    """Train one piece; return its settings, balanced accuracies and seconds."""
    import torch
    from sklearn.metrics import balanced_accuracy_score

    name, labels, seed = piece
    rows, test = data.draw(labels, seed)
    torch.manual_seed(seed)
    model = network(pictures.shape[1], len(data.class_names))
    x, y = torch.from_numpy(pictures), torch.from_numpy(np.array(data.labels))
    began = time.perf_counter()
    train(model, x[rows], y[rows], seed, flips=name != "digits")
    seconds = time.perf_counter() - began
    with torch.inference_mode():
        on_test, on_train = (model(x[part]).argmax(1).numpy() for part in (test, rows))
    return {
        "data": name,
        "labels": labels,
        "seed": seed,
        "rows": len(rows),
        "test": round(balanced_accuracy_score(data.labels[test], on_test), 5),
        "train": round(balanced_accuracy_score(data.labels[rows], on_train), 5),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    given = options(__doc__).parse_args()
    left = pieces_left(PATH, plan(), itemgetter("data", "labels", "seed"), given.list)
    if not left:
        return
    header = {"command": "python benchmarks/learning_curves.py"}
    run_pieces(PATH, left, lambda piece: measure(piece, *load(piece[0])), given.seconds, header)


if __name__ == "__main__":
    main()
