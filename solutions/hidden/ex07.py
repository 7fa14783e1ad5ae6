"""Exercise set 7: other right answers, and why some changed answers are right as well."""

import numpy as np

# --- ex07.1 and ex07.2 --------------------------------------------------------------------------


def _with_einsum(weight, a, b, alpha, framework):
    if framework != "pytorch":
        rank = len(b)
        change = np.einsum("ir,ro->io", a, b).reshape(weight.shape)
    else:
        rank = b.shape[1]
        change = np.einsum("or,ri->oi", b, a)
    return np.add(weight, change * (alpha / rank))


def _rank_by_rank(weight, a, b, alpha, framework):
    if framework == "tensorflow":
        flat = weight.reshape(len(weight), -1)
        return _rank_by_rank(flat.T, a.T, b.T, alpha, "pytorch").T.reshape(weight.shape)
    new = np.array(weight, dtype=float)
    for row, column in zip(a, b.T, strict=True):
        new += np.outer(column, row) * alpha / len(a)
    return new


def _counts_up(shapes, targets, head, budget):
    adapted = []
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        meant = any(module == t or module.endswith("." + t) for t in targets)
        if kind == "weight" and len(shape) == 2 and meant:
            adapted.append(shape)
    highest = min(min(shape) for shape in adapted)
    rank, trained = 0, head
    more = sum(out + inputs for out, inputs in adapted)
    while rank < highest and trained + more <= budget:
        rank, trained = rank + 1, trained + more
    return [rank, trained]


# --- ex07.3 -------------------------------------------------------------------------------------


def _by_module_pytorch(model, rate, head_rate, decay):
    import torch
    from torch import nn

    bare = {
        id(p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if isinstance(module, nn.LayerNorm) or name.endswith("bias")
    }
    head = {id(p) for p in model.head.parameters()}
    groups = [
        {
            "params": [p],
            "lr": head_rate if id(p) in head else rate,
            "weight_decay": 0 if id(p) in bare else decay,
        }
        for p in model.parameters()
    ]
    return torch.optim.AdamW(groups, lr=rate)


def _two_calls_pytorch(model, rate, head_rate, decay):
    import torch

    head = list(model.head.parameters())
    body = [p for n, p in model.named_parameters() if not n.startswith("head.")]
    optimizer = torch.optim.AdamW([p for p in body if p.ndim > 1], rate, weight_decay=decay)
    optimizer.add_param_group({"params": [p for p in body if p.ndim < 2], "weight_decay": 0.0})
    optimizer.add_param_group({"params": [head[0]], "lr": head_rate})
    optimizer.add_param_group({"params": [head[1]], "lr": head_rate, "weight_decay": 0.0})
    return optimizer


def _four_optimizers_keras(model, rate, head_rate, decay):
    import keras

    sets = {}
    for v in model.trainable_variables:
        free = v.name in ("bias", "gamma", "beta")
        sets.setdefault((v.path.split("/")[0] == "head", free), []).append(v)
    return [
        (keras.optimizers.AdamW(head_rate if head else rate, 0.0 if free else decay), variables)
        for (head, free), variables in sets.items()
    ]


def _by_list_keras(model, rate, head_rate, decay):
    import keras

    spared = []
    for v in model.trainable_variables:
        kind = v.path.rsplit("/", 1)[-1]
        if kind not in ("kernel", "embeddings"):
            spared.append(v)
    pairs = ()
    for own_rate, is_head in ((head_rate, True), (rate, False)):
        chosen = [v for v in model.trainable_weights if v.path.startswith("head/") is is_head]
        optimizer = keras.optimizers.AdamW(learning_rate=own_rate, weight_decay=decay)
        optimizer.exclude_from_weight_decay(var_list=spared)
        pairs += ((optimizer, chosen),)
    return pairs


# --- ex07.4 to ex07.6 ---------------------------------------------------------------------------


def _by_a_sorted_list(lengths, budget, rng):
    lengths = [int(n) for n in lengths]
    rows = sorted(rng.permutation(len(lengths)).tolist(), key=lambda row: lengths[row])
    batches, start, places = [], 0, 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and (end + 1 - start) * lengths[rows[end]] <= budget:
            end += 1
        batches.append(np.array(rows[start:end]))
        places += (end - start) * lengths[rows[end - 1]]
        start = end
    padding = places - sum(lengths)
    return [batches[k] for k in rng.permutation(len(batches))], padding / places


def _token_by_token(parts):
    from scipy.special import log_softmax

    losses = []
    for logits, labels in parts:
        for row, wanted in zip(log_softmax(np.asarray(logits, float), axis=2), labels, strict=True):
            losses += [-log_p[y] for log_p, y in zip(row, wanted, strict=True) if y >= 0]
    return float(np.mean(losses))


def _all_in_one(parts):
    classes = parts[0][0].shape[2]
    z = np.concatenate([np.reshape(logits, (-1, classes)) for logits, _ in parts])
    y = np.concatenate([np.ravel(labels) for _, labels in parts])
    counted = y > -1
    right = np.take_along_axis(z, (y * counted)[:, None], axis=1)[:, 0]
    losses = np.logaddexp.reduce(z, axis=1) - right
    return np.average(losses, weights=counted)


def _with_scipy(ours, theirs):
    from scipy import stats

    seeds = sorted(ours.keys() & theirs.keys())
    made = stats.ttest_rel([ours[s] for s in seeds], [theirs[s] for s in seeds])
    low, high = made.confidence_interval(0.95)
    return [(low + high) / 2, low, high]


def _with_the_course(ours, theirs):
    from tlcourse.evidence import paired_interval

    both = set(ours) & set(theirs)
    mean, (low, high) = paired_interval([ours[s] for s in both], [theirs[s] for s in both])
    return np.array([mean, low, high])


# --- ex07.7 -------------------------------------------------------------------------------------


def _by_hand_pytorch(model, add_lora, share, batches, held_out, epochs, peak):
    import torch

    add_lora(model)
    weights = [p for p in model.parameters() if p.requires_grad]
    step, losses, accuracies = 0, [], []
    for _ in range(epochs):
        for x, y in batches:
            model.train(True)
            loss = -model(x).log_softmax(-1)[torch.arange(len(y)), y].mean()
            gradients = torch.autograd.grad(loss, weights)
            length = sum(g.square().sum() for g in gradients).sqrt()
            with torch.no_grad():
                for p, g in zip(weights, gradients, strict=True):
                    p -= peak * share(step, epochs * len(batches)) * g / length.clamp(min=1.0)
            losses.append(loss.detach())
            step += 1
        model.train(False)
        answers = model(held_out[0]).argmax(1)
        accuracies.append(torch.mean((answers == held_out[1]).float()))
    return losses, accuracies


def _in_one_loop_pytorch(model, add_lora, share, batches, held_out, epochs, peak):
    import torch

    add_lora(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss_of, losses, accuracies, total = torch.nn.CrossEntropyLoss(), [], [], epochs * len(batches)
    for step in range(total):
        x, y = batches[step % len(batches)]
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = peak * share(step, total)
        loss = loss_of(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        if (step + 1) % len(batches) == 0:
            model.eval()
            with torch.inference_mode():
                right = model(held_out[0]).argmax(-1).eq(held_out[1])
            accuracies.append(right.sum().item() / len(right))
    return losses, accuracies


def _by_hand_keras(model, add_lora, share, batches, held_out, epochs, peak):
    import tensorflow as tf

    add_lora(model)
    weights = [w.value for w in model.trainable_weights]
    step, losses, accuracies = 0, [], []
    for _ in range(epochs):
        for x, y in batches:
            with tf.GradientTape() as tape:
                logits = model(x, training=True)
                each = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
                loss = tf.reduce_mean(each)
            gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, weights), 1.0)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.assign_sub(peak * share(step, epochs * len(batches)) * gradient)
            losses.append(loss.numpy())
            step += 1
        answers = tf.argmax(model(held_out[0]), axis=1)
        accuracies.append(tf.reduce_mean(tf.cast(answers == held_out[1], "float32")))
    return losses, accuracies


def _with_a_schedule_keras(model, add_lora, share, batches, held_out, epochs, peak):
    import keras
    import tensorflow as tf

    add_lora(model)
    total = epochs * len(batches)
    optimizer = keras.optimizers.SGD(peak * share(0, total), global_clipnorm=1)
    losses, accuracies = [], []
    for step in range(total):
        x, y = batches[step % len(batches)]
        optimizer.learning_rate.assign(peak * share(step, total))
        with tf.GradientTape() as tape:
            z = model(x, training=True)
            loss = keras.ops.mean(
                keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)
            )
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        losses.append(loss)
        if step % len(batches) == len(batches) - 1:
            answers = keras.ops.argmax(model(held_out[0], training=False), axis=-1)
            accuracies.append(np.mean(np.asarray(answers) == held_out[1]))
    return losses, accuracies


ALTERNATIVES = {
    "ex07.1": [_with_einsum, _rank_by_rank],
    "ex07.2": [_counts_up],
    "ex07.3": {
        "pytorch": [_by_module_pytorch, _two_calls_pytorch],
        "tensorflow": [_four_optimizers_keras, _by_list_keras],
    },
    "ex07.4": [_by_a_sorted_list],
    "ex07.5": [_token_by_token, _all_in_one],
    "ex07.6": [_with_scipy, _with_the_course],
    "ex07.7": {
        "pytorch": [_by_hand_pytorch, _in_one_loop_pytorch],
        "tensorflow": [_by_hand_keras, _with_a_schedule_keras],
    },
}

# Changes of the reference that leave it right, each with its reason.
AN_AXIS = "the last of two axes"
NO_ORDER = "the smaller or the larger of two has no order"
RANK = "rank = min({})"
EACH, WHOLE = "*(min(shape) for shape in adapted)", "(budget - head) // one"
SPARED = "groups.append({'params': others, 'lr': own_rate, 'weight_decay': "
SUM = "log_p = z - np.log(np.exp(z).sum(axis={}, keepdims=True))"
TOP = "z = z - z.max(axis={}, keepdims=True)"
RIGHT = "accuracies.append((model(x).argmax(dim={}) == y).double().mean().item())"
ANSWERS = "answers = np.array(model({})).argmax(axis={})"

EQUIVALENT = {
    "ex07.1": {
        "change, rank = (a @ b, a.shape[1]) -> change, rank = (a @ b, a.shape[-1])": AN_AXIS,
    },
    "ex07.2": {
        "rank = max(rank, 0) -> rank = max(0, rank)": NO_ORDER,
        f"{RANK.format(f'{WHOLE}, {EACH}')} -> {RANK.format(f'{EACH}, {WHOLE}')}": NO_ORDER,
    },
    "ex07.3": {
        "pytorch": {f"{SPARED}0.0}}) -> {SPARED}-0.0}})": "minus zero is zero"},
        "tensorflow": {},
    },
    "ex07.5": {
        f"{SUM.format(1)} -> {SUM.format(-1)}": AN_AXIS,
        f"{TOP.format(1)} -> {TOP.format(-1)}": AN_AXIS,
        "total, count = (0.0, 0) -> total, count = (-0.0, 0)": "minus zero is zero",
    },
    "ex07.7": {
        "pytorch": {f"{RIGHT.format(1)} -> {RIGHT.format(-1)}": AN_AXIS},
        "tensorflow": {
            f"{ANSWERS.format('x, training=False', 1)} -> {ANSWERS.format(to, axis)}": why
            for to, axis, why in (
                ("x", 1, "outside of fit Keras calls a model without training"),
                ("x, training=False", -1, AN_AXIS),
            )
        },
    },
}
