"""Mini-batches for training the top of a network on cached activations, or an encoder on texts.

    trunk, top = backbone.split("block11")
    x = features.extract(backbone, images, cuts=("block11",), pool=False)["block11"]
    for inputs, labels in activation_batches("pytorch", x, y, rows=train, seed=0): ...   # PyTorch
    top.fit(activation_batches("tensorflow", x, y, rows=train, seed=0), epochs=3)        # Keras

Only plumbing: order, layout, precision, device. The training step stands in the notebook.
"""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tlcourse.backbones import FRAMEWORKS, TextEncoder

# Texts are sorted by length within this many batches: short enough to stay well shuffled.
_BATCHES_SORTED_TOGETHER = 16
# Padded lengths are multiples of this, so that TensorFlow traces a handful of shapes.
_LENGTH_STEP = 8


def activation_batches(
    framework: str,
    activations: np.ndarray,
    labels: np.ndarray,
    *,
    rows: Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int | None = None,
):
    """Return shuffled batches of (activations, labels), read from disk as needed.

    activations: (N, h, w, C) channels last, as ``features.extract(pool=False)`` gives, or (N, C);
    rows: the row numbers to train on, all by default.
    Keras: a ``PyDataset`` of float32 arrays as they are; PyTorch: an iterable of float32
    (n, C, h, w) and int64 tensors on the run's device. Every pass is shuffled anew, the same way
    for the same seed; ``seed=None`` keeps the order.
    """
    rows = _checked_rows(rows, activations, labels)

    def fetch(chosen: np.ndarray):
        batch = np.asarray(activations[chosen], np.float32)
        if framework == "pytorch" and batch.ndim == 4:
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        return batch, np.asarray(labels)[chosen]

    return _batches(framework, rows, None, batch_size, seed, fetch)


def text_batches(
    encoder: TextEncoder,
    tokens: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    rows: Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int | None = None,
    by_length: bool = True,
):
    """Return shuffled batches of (native inputs, labels) of the given rows of tokenized texts.

    Inputs are padded to the longest text of their batch; with ``by_length`` texts of like length
    share a batch. Keras: a ``PyDataset``; PyTorch: an iterable of tensors on the run's device.
    """
    rows = _checked_rows(rows, tokens, labels)
    lengths = np.array([len(row) for row in tokens])

    def fetch(chosen: np.ndarray, unlike: np.ndarray | None = None):
        length, other = (
            -(-lengths[these].max() // _LENGTH_STEP) * _LENGTH_STEP
            for these in (chosen, chosen if unlike is None else unlike)
        )
        if unlike is not None and length == other:
            length += _LENGTH_STEP
        length = min(length, encoder.max_length)
        return encoder.pad([tokens[row] for row in chosen], length), np.asarray(labels)[chosen]

    sort_key = lengths if by_length else None
    return _batches(encoder.framework, rows, sort_key, batch_size, seed, fetch, ragged=True)


def _checked_rows(rows, inputs, labels) -> np.ndarray:
    if len(inputs) != len(labels):
        raise ValueError(
            f"inputs and labels must be of one length; got {len(inputs)} and {len(labels)}."
        )
    return np.arange(len(inputs)) if rows is None else np.asarray(rows)


def _order(rows, lengths, batch_size, rng) -> list[np.ndarray]:
    """Return the row numbers of every batch of one epoch."""
    if rng is not None:
        rows = rng.permutation(rows)
    if lengths is not None:
        step = _BATCHES_SORTED_TOGETHER * batch_size if rng is not None else len(rows)
        chunks = [rows[start : start + step] for start in range(0, len(rows), step)]
        rows = np.concatenate(
            [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks]
        )
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    if lengths is not None and rng is not None:
        batches = [batches[position] for position in rng.permutation(len(batches))]
    return batches


def _batches(framework: str, rows, lengths, batch_size, seed, fetch: Callable, ragged=False):
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}; got {framework!r}.")
    if len(rows) == 0:
        raise ValueError("no rows: there is nothing to train on.")
    rng = None if seed is None else np.random.default_rng(seed)

    if framework == "tensorflow":
        import keras

        class KerasBatches(keras.utils.PyDataset):
            def __init__(self):
                super().__init__()
                self.order = _order(rows, lengths, batch_size, rng)

            def __len__(self):
                return len(self.order)

            def __getitem__(self, index):
                if index == 1 and ragged:
                    # Keras takes a length that the first two batches share for that of all.
                    return fetch(self.order[1], unlike=self.order[0])
                return fetch(self.order[index])

            def on_epoch_end(self):
                self.order = _order(rows, lengths, batch_size, rng)

        return KerasBatches()

    class TorchBatches:
        def __len__(self):
            return -(-len(rows) // batch_size)

        def __iter__(self) -> Iterator:
            import torch

            device = os.environ.get("TLCOURSE_DEVICE", "cpu")
            for chosen in _order(rows, lengths, batch_size, rng):
                inputs, labels = fetch(chosen)
                if isinstance(inputs, dict):
                    inputs = {k: torch.from_numpy(v).long().to(device) for k, v in inputs.items()}
                else:
                    inputs = torch.from_numpy(inputs).to(device)
                yield inputs, torch.from_numpy(labels).long().to(device)

    return TorchBatches()
