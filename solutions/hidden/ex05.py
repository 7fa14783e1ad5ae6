"""Exercise set 5: other right answers, and why some changed answers are right as well."""

import re

import numpy as np

# --- ex05.1 -------------------------------------------------------------------------------------


def _all_then_frozen_pytorch(model, k, rate):
    import torch
    from torch import nn

    model.train().requires_grad_(True)
    count = sum(name.startswith("block") for name, _ in model.named_children())
    top = {"head"} | {f"block{count - i}" for i in range(k)}
    for name, part in model.named_children():
        for inner in part.modules():
            if name not in top or isinstance(inner, nn.modules.batchnorm._BatchNorm):
                inner.requires_grad_(False)
            if isinstance(inner, nn.modules.batchnorm._BatchNorm):
                inner.track_running_stats = True
                inner.eval()
    weights = filter(lambda p: p.requires_grad, model.parameters())
    return torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)


def _groups_pytorch(model, k, rate):
    import torch

    model.eval()
    model.drop.train()
    numbers = [int(n[5:]) for n, _ in model.named_children() if n.startswith("block")]
    groups = [{"params": list(model.head.parameters()), "lr": rate}]
    for number in sorted(numbers)[max(numbers) - k :]:
        weights = list(getattr(model, f"block{number}").conv.parameters())
        for weight in weights:
            weight.requires_grad = True
        groups.append({"params": weights})
    return torch.optim.Adam(groups, lr=rate)


def _by_number_keras(model, k, rate):
    import keras

    model.trainable = False
    model.trainable = True
    last = max(int(n) for x in model.layers for n in re.findall(r"block(\d+)_conv", x.name))
    for layer in model.layers:
        name, _, kind = layer.name.partition("_")
        low = name == "stem" or (name.startswith("block") and int(name[5:]) <= last - k)
        if low or kind == "norm":
            layer.trainable = False
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _frozen_then_some_keras(model, k, rate):
    import keras

    for layer in model.layers:
        layer.trainable = layer.name == "head"
    convolutions = [x for x in model.layers if re.fullmatch(r"block\d+_conv", x.name)]
    for layer in reversed(convolutions):
        if k > 0:
            layer.trainable, k = True, k - 1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss=loss)


# --- ex05.2 to ex05.5 ---------------------------------------------------------------------------


def _longest_prefix(names, parts, rate, factor):
    found = {}
    for name in names:
        part = max((p for p in parts if name.startswith(p)), key=len)
        found[name] = rate * factor ** (len(parts) - parts.index(part) - 1)
    return found


def _downwards(names, parts, rate, factor):
    found = {}
    for part in parts[::-1]:
        found |= {name: rate for name in names if re.match(rf"{part}[._/]", name)}
        rate *= factor
    return {name: np.float64(found[name]) for name in names}


def _step_by_step(rate, rows, batch, epochs, warm_up):
    rates = []
    steps = epochs * ((rows + batch - 1) // batch)
    for step in range(steps):
        if step < warm_up:
            rates.append(rate * (step + 1) / warm_up)
        else:
            rates.append(rate * (steps - step) / (steps - warm_up))
    return rates


def _two_pieces(rate, rows, batch, epochs, warm_up):
    steps = epochs * -(-rows // batch)
    rises = np.linspace(0, rate, warm_up + 1)[1:]
    falls = np.linspace(rate, 0, steps - warm_up + 1)[:-1]
    return np.concatenate([rises, falls]).astype(np.float32)[:steps]


def _counts_waiting(losses, patience):
    waited, restored = 0, 0
    for last in range(len(losses)):
        if last == 0 or losses[last] < losses[restored]:
            restored, waited = last, 0
        else:
            waited += 1
        if waited == patience:
            return [last, restored]
    return [last, restored]


def _in_windows(losses, patience):
    losses = np.where(np.isnan(losses), np.inf, losses)
    for last in range(len(losses)):
        restored = int(losses[: last + 1].argmin())
        if last - restored == patience:
            return np.array([last, restored])
    return np.array([last, restored])


def _in_errors(fit, F, moved, labels, train, test):
    X, y, wanted = F[train], labels[train], labels[test]
    old = fit(X, y)
    errors = [
        (head(features[test]) != wanted).mean()
        for head, features in ((old, F), (old, moved), (fit(moved[train], y), moved))
    ]
    return [errors[1] - errors[0], errors[2] - errors[0]]


# --- ex05.6 -------------------------------------------------------------------------------------


def _by_hand_pytorch(model, batches, rate):
    import torch
    from torch import nn

    model.eval()  # no dropout in it, so BatchNorm is the only layer that minds
    weights = [model.body.conv.weight, model.body.conv.bias, *model.head.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    losses = []
    for x, y in batches:
        log_p = model(x).log_softmax(dim=1)
        loss = nn.functional.nll_loss(log_p, y)
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= rate * gradient
        losses.append(loss.detach())
    return losses


def _grouped_pytorch(model, batches, rate):
    import torch
    from torch import nn

    for name, p in model.named_parameters():
        p.requires_grad = "norm" not in name
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    loss_of, losses = nn.CrossEntropyLoss(), []
    for x, y in batches:
        model.train()
        for part in model.body:
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        optimizer.zero_grad(set_to_none=False)
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def _by_hand_keras(model, batches, rate):
    import keras
    import tensorflow as tf

    body = model.get_layer("body")
    body.trainable = True
    body.get_layer("norm").trainable = False
    losses = []
    for x, y in batches:
        with tf.GradientTape() as tape:
            z = model(x, training=False)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))
        weights = model.trainable_variables
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign(weight - rate * keras.ops.convert_to_tensor(gradient))
        losses.append(loss)
    return losses


def _probabilities_keras(model, batches, rate):
    import keras
    import tensorflow as tf

    for layer in model.get_layer("body").layers:
        layer.trainable = True
    model.trainable = True
    model.get_layer("body").get_layer("norm").trainable = False
    loss_of, losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True), []
    optimizer = keras.optimizers.SGD(learning_rate=rate)
    for pictures, labels in batches:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(pictures, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        losses.append(loss.numpy())
    return losses


# --- ex05.7 -------------------------------------------------------------------------------------


def _run_by_run(held_out, test):
    accuracies, gains = [], []
    for watched, measured in zip(held_out, test, strict=True):
        epoch = list(watched).index(max(watched))
        accuracies.append(measured[epoch])
        gains.append(measured[epoch] - measured[-1])
    return float(np.mean(accuracies)), float(np.mean(gains))


ALTERNATIVES = {
    "ex05.1": {
        "pytorch": [_all_then_frozen_pytorch, _groups_pytorch],
        "tensorflow": [_by_number_keras, _frozen_then_some_keras],
    },
    "ex05.2": [_longest_prefix, _downwards],
    "ex05.3": [_step_by_step, _two_pieces],
    "ex05.4": [_counts_waiting, _in_windows],
    "ex05.5": [_in_errors],
    "ex05.6": {
        "pytorch": [_by_hand_pytorch, _grouped_pytorch],
        "tensorflow": [_by_hand_keras, _probabilities_keras],
    },
    "ex05.7": [_run_by_run],
}

# Changes of the reference that leave it right, each with its reason.
NOT_REACHED = "divided by zero gives infinity, and the smaller of the two is taken"
CALL = "each = keras.losses.sparse_categorical_crossentropy(y, model({}), from_logits=True)"
EQUIVALENT = {
    "ex05.3": {
        **{
            f"falls = (steps - step) / max(steps - warm_up, 1) -> "
            f"falls = (steps - step) / {to}": why
            for to, why in (
                ("max(1, steps - warm_up)", "the larger of two has no order"),
                ("max(steps - warm_up, -1)", NOT_REACHED),
                ("max(steps - warm_up, 0)", NOT_REACHED),
            )
        },
        **{
            f"rises = (step + 1) / max(warm_up, 1) -> rises = (step + 1) / {to}": why
            for to, why in (
                ("max(1, warm_up)", "the larger of two has no order"),
                ("max(warm_up, -1)", NOT_REACHED),
                ("max(warm_up, 0)", NOT_REACHED),
            )
        },
        "return rate * np.minimum(rises, falls) -> return rate * np.minimum(falls, rises)": (
            "the smaller of two has no order"
        ),
    },
    "ex05.4": {
        f"best, lowest = (0, np.inf) -> best, lowest = ({start}, np.inf)": (
            "the first loss is a number and takes its place at once"
        )
        for start in (-1, 1)
    },
    "ex05.6": {
        "pytorch": {},
        "tensorflow": {
            f"{CALL.format('x, training=True')} -> {CALL.format(to)}": (
                "BatchNorm is not trainable and runs in inference mode; nothing else has a mode"
            )
            for to in ("x", "x, training=False")
        }
        | {
            "optimizer.apply_gradients(zip(gradients, trained, strict=True)) -> "
            f"optimizer.apply_gradients(zip(gradients, trained{to}))": "both have one length"
            for to in ("", ", strict=False")
        },
    },
    "ex05.7": {
        "chosen = held_out.argmax(axis=1) -> chosen = held_out.argmax(axis=-1)": (
            "the last axis of two is axis 1"
        ),
    },
}
