"""Batches: shuffled the same way for the same seed, laid out as the framework wants them."""

import numpy as np
import pytest

from tlcourse import backbones, datasets, features, finetuning

FRAMEWORKS = backbones.FRAMEWORKS


def seen(framework, batches, epochs=1):
    """Return the labels in the order a training loop would meet them."""
    order = []
    for _ in range(epochs):
        pairs = batches if framework == "pytorch" else [batches[i] for i in range(len(batches))]
        order.extend(np.asarray(labels) for _, labels in pairs)
        if framework == "tensorflow":
            batches.on_epoch_end()
    return np.concatenate(order)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_epoch_visits_every_row_once_and_the_next_in_another_order(framework):
    rows, x = np.arange(10, 90), np.zeros((100, 2, 2, 3), np.float16)
    two = seen(
        framework,
        finetuning.activation_batches(framework, x, np.arange(100), rows=rows, seed=3),
        epochs=2,
    )
    first, second = two[:80], two[80:]
    assert sorted(first) == sorted(second) == list(rows)
    assert not np.array_equal(first, second)
    again = finetuning.activation_batches(framework, x, np.arange(100), rows=rows, seed=3)
    assert np.array_equal(first, seen(framework, again))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_a_seed_the_order_is_kept(framework):
    batches = finetuning.activation_batches(framework, np.zeros((50, 4)), np.arange(50))
    assert np.array_equal(seen(framework, batches), np.arange(50))


def test_activations_are_laid_out_as_the_framework_wants_them():
    x = np.random.default_rng(0).normal(size=(6, 4, 5, 3)).astype(np.float16)
    keras_x, _ = finetuning.activation_batches("tensorflow", x, np.zeros(6))[0]
    torch_x, labels = next(iter(finetuning.activation_batches("pytorch", x, np.zeros(6))))
    assert keras_x.shape == (6, 4, 5, 3) and torch_x.shape == (6, 3, 4, 5)
    assert keras_x.dtype == np.float32 and str(labels.dtype) == "torch.int64"
    assert np.array_equal(keras_x, torch_x.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_texts_of_like_length_share_a_batch(framework):
    encoder = backbones.load("minilm", framework)
    tokens = encoder.tokenize(datasets.sentiment("movie").texts[:256])
    padded = {}
    for by_length in (True, False):
        batches = finetuning.text_batches(
            encoder, tokens, np.zeros(256), seed=0, by_length=by_length
        )
        shapes = [tuple(next(iter(inputs.values())).shape) for inputs, _ in batches]
        assert sum(rows for rows, _ in shapes) == 256
        assert all(length % 8 == 0 for _, length in shapes)
        padded[by_length] = sum(rows * length for rows, length in shapes)
    assert padded[True] < 0.75 * padded[False]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_top_learns_from_cached_activations_of_its_frozen_trunk(framework):
    data = datasets.pictograms("color")
    chosen = np.flatnonzero(np.isin(data.labels, (0, 1)))[::3]
    backbone = backbones.load("efficientnet-lite0", framework)
    _, top = backbone.split("block15")
    x = features.extract(backbone, data.images[chosen], ("block15",), pool=False)["block15"]
    y = data.labels[chosen]
    batches = finetuning.activation_batches(framework, x, y, batch_size=16, seed=0)
    trunk_before = backbone.split("block15")[0]
    trunk_before = [np.array(w) for w in weights(framework, trunk_before)]
    first, last = train(framework, top, batches)
    assert last < 0.5 * first
    after = weights(framework, backbone.split("block15")[0])
    assert all(np.array_equal(a, b) for a, b in zip(trunk_before, after, strict=True))


def weights(framework, model):
    if framework == "tensorflow":
        return model.get_weights()
    return [tensor.detach().numpy() for tensor in model.state_dict().values()]


def train(framework, top, batches):
    """Train two of the 1000 logits for three epochs; return the first and last epoch's loss."""
    if framework == "tensorflow":
        import keras

        top.compile(
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        losses = top.fit(batches, epochs=3, verbose=0).history["loss"]
        return losses[0], losses[-1]
    import torch

    optimizer = torch.optim.Adam(top.parameters(), 1e-3)
    means = []
    for _ in range(3):
        losses = []
        for inputs, labels in batches:
            loss = torch.nn.functional.cross_entropy(top(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(np.mean(losses))
    return means[0], means[-1]


def test_bad_input_is_met_by_one_sentence():
    with pytest.raises(ValueError, match="one length; got 3 and 2"):
        finetuning.activation_batches("pytorch", np.zeros((3, 4)), np.zeros(2))
    with pytest.raises(ValueError, match="no rows"):
        finetuning.activation_batches("pytorch", np.zeros((3, 4)), np.zeros(3), rows=[])
    with pytest.raises(ValueError, match="tensorflow, pytorch"):
        finetuning.activation_batches("jax", np.zeros((3, 4)), np.zeros(3))
