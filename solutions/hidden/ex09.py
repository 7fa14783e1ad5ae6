"""Exercise set 9: other right answers, and why some changed answers are right as well."""

import numpy as np
from scipy.special import expit, log_expit

# --- ex09.1 to ex09.3 ---------------------------------------------------------------------------


def _task_by_task(logits, labels, weights):
    loss, gradient = 0.0, np.zeros(np.shape(logits))
    for k, weight in enumerate(weights):
        rows = [i for i in range(len(labels)) if labels[i, k] == labels[i, k]]
        for i in rows:
            z, label = logits[i, k], labels[i, k]
            loss -= weight * (log_expit(z) if label else log_expit(-z)) / len(rows)
            gradient[i, k] = weight * (expit(z) - label) / len(rows)
    return loss, gradient


def _nanmean(logits, labels, weights):
    has = ~np.isnan(labels).all(axis=0)
    signed = logits[:, has] * (1 - 2 * labels[:, has])
    mean = np.nanmean(np.logaddexp(signed, 0), axis=0)
    gradient = np.zeros_like(logits)
    n = np.sum(~np.isnan(labels[:, has]), axis=0)
    gradient[:, has] = np.nan_to_num((expit(logits[:, has]) - labels[:, has]) / n) * weights[has]
    return [mean @ weights[has], gradient]


def _without_flattening(gradients, orders):
    def inner(a, b):
        return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))

    total = [np.zeros(g.shape) for g in gradients[0]]
    for mine, order in zip(gradients, orders, strict=True):
        left = list(mine)
        for j in order:
            other = gradients[j]
            conflict = min(inner(left, other), 0.0)
            if conflict:
                share = conflict / inner(other, other)
                left = [a - share * b for a, b in zip(left, other, strict=True)]
        total = [a + b for a, b in zip(total, left, strict=True)]
    return total


def _by_unit_vectors(gradients, orders):
    flat = np.stack([np.hstack([g.flatten() for g in each]) for each in gradients])
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit, result = flat / np.where(length > 0, length, 1), flat.copy()
    for k, order in enumerate(orders):
        for j in order:
            result[k] -= np.minimum(result[k] @ unit[j], 0) * unit[j]
    whole, out = result.sum(axis=0), []
    for g in gradients[0]:
        out.append(whole[: g.size].reshape(g.shape))
        whole = whole[g.size :]
    return out


def _one_by_one(losses, s, regression):
    total, gradient, rest = 0.0, [], []
    for loss, at, squared in zip(losses, s, regression, strict=True):
        precision = np.exp(-at) * (0.5 if squared else 1.0)
        total += precision * loss + at / 2
        gradient.append(0.5 - precision * loss)
        rest.append(np.log(loss) if squared else np.log(loss) + np.log(2))
    return [total, gradient, rest]


def _by_sigma(losses, s, regression):
    variance = np.exp(s)
    share = losses / (variance * (1 + np.asarray(regression)))
    at = np.where(regression, losses, 2 * losses)
    return share.sum() + np.log(np.sqrt(variance)).sum(), -(share - 0.5), np.log(at)


# --- ex09.4 to ex09.6 ---------------------------------------------------------------------------


def _two_numbers_a_weight(theta, tasks, lam):
    F = np.array([np.square(G).mean(axis=0) for _, G in tasks])
    old = np.array([old for old, _ in tasks])
    A, B, C = F.sum(axis=0), (F * old).sum(axis=0), (F * old**2).sum()
    return lam / 2 * (A @ theta**2 - 2 * B @ theta + C), lam * (A * theta - B)


def _example_by_example(theta, tasks, lam):
    penalty, gradient = 0.0, np.zeros(len(theta))
    for old, G in tasks:
        away = theta - old
        for g in G:
            penalty += lam * np.sum((g * away) ** 2) / (2 * len(G))
            gradient += lam * g * g * away / len(G)
    return [float(penalty), gradient.tolist()]


def _with_masks(accuracy):
    n = len(accuracy)
    trained = np.where(np.tril(np.ones((n, n))) > 0, accuracy, -np.inf)
    best, end, own = trained[:-1].max(axis=0)[:-1], accuracy[-1, :-1], np.diag(accuracy)[:-1]
    return [float(accuracy[-1].mean()), float((best - end).mean()), float((end - own).mean())]


def _running_best(accuracy):
    best, n = {}, len(accuracy)
    for i, row in enumerate(accuracy[:-1].tolist()):
        for j in range(i + 1):
            best[j] = max(best.get(j, row[j]), row[j])
    end = accuracy[n - 1].tolist()
    lost = sum(best[j] - end[j] for j in best) / (n - 1)
    back = sum(end[j] - accuracy[j][j] for j in best) / (n - 1)
    return sum(end) / n, lost, back


def _by_chance(memory, seen, new, size, rng):
    kept = memory.copy()
    for count, example in enumerate(new, start=seen + 1):
        if len(kept) < size:
            kept = [*kept, example]
        elif rng.random() < size / count:
            kept[int(rng.random() * size)] = example
    return kept


def _stage_at_once(memory, seen, new, size, rng):
    places = min(size, seen + len(new))
    fresh = rng.hypergeometric(len(new), seen, places) if seen + len(new) else 0
    old = rng.permutation(len(memory))[: places - fresh]
    young = rng.permutation(len(new))[:fresh]
    return [memory[k] for k in old] + [new[k] for k in young]


# --- ex09.7 -------------------------------------------------------------------------------------


def _with_memory_pytorch(net, stages, keep, steps, rate):
    import torch

    memory, found = {}, []
    for k, (x, y, *_) in enumerate(stages):
        optimizer = torch.optim.SGD(list(net.parameters()), rate, 0.9)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=False)
            losses = [net.loss(*rows, head=j) for j, rows in memory.items()]
            sum(losses, start=net.loss(x, y, head=k)).backward()
            optimizer.step()
        if keep > 0:
            memory[k] = x[:keep], y[:keep]
        found.append([net.accuracy(s[2], s[3], j) for j, s in enumerate(stages[: k + 1])])
    return found


def _by_hand_pytorch(net, stages, keep, steps, rate):
    import torch

    found = []
    for k in range(len(stages)):
        weights = list(net.parameters())
        speed = [torch.zeros_like(p) for p in weights]
        for _ in range(steps):
            net.zero_grad()
            net.loss(stages[k][0], stages[k][1], k).backward()
            for j in range(k if keep else 0):
                net.loss(stages[j][0][:keep], stages[j][1][:keep], j).backward()
            with torch.no_grad():
                for p, v in zip(weights, speed, strict=True):
                    if p.grad is not None:
                        v.mul_(0.9).add_(p.grad)
                        p.sub_(rate * v)
        found.append([])
        for j in range(k + 1):
            found[-1].append(net.accuracy(*stages[j][2:], head=j))
    return found


def _with_memory_keras(net, stages, keep, steps, rate):
    import keras
    import tensorflow as tf

    memory, found = [], []
    for k, (x, y, *_) in enumerate(stages):
        optimizer = keras.optimizers.SGD(learning_rate=rate, momentum=0.9)
        optimizer.build(net.variables)
        for _ in range(steps):
            with tf.GradientTape() as tape:
                losses = [net.loss(x, y, k)] + [net.loss(*rows, head=j) for j, rows in memory]
                loss = tf.add_n(losses)
            gradients = tape.gradient(loss, net.variables)
            pairs = [(g, v) for g, v in zip(gradients, net.variables, strict=True) if g is not None]
            optimizer.apply_gradients(pairs)
        if keep:
            memory.append((k, (x[:keep], y[:keep])))
        found.append([net.accuracy(s[2], s[3], j) for j, s in enumerate(stages[: k + 1])])
    return found


def _by_hand_keras(net, stages, keep, steps, rate):
    import tensorflow as tf

    found = []
    for k in range(len(stages)):
        used = [net.variables[0]] + [net.variables[j + 1] for j in range(k + 1) if keep or j == k]
        speed = [tf.zeros_like(v) for v in used]
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = net.loss(*stages[k][:2], head=k)
                for j in range(k):
                    if keep:
                        loss += net.loss(stages[j][0][:keep], stages[j][1][:keep], head=j)
            each = zip(speed, tape.gradient(loss, used), strict=True)
            speed = [0.9 * s + g for s, g in each]
            for v, s in zip(used, speed, strict=True):
                v.assign_sub(rate * s)
        found.append([net.accuracy(*stages[j][2:], head=j) for j in range(k + 1)])
    return found


ALTERNATIVES = {
    "ex09.1": [_task_by_task, _nanmean],
    "ex09.2": [_without_flattening, _by_unit_vectors],
    "ex09.3": [_one_by_one, _by_sigma],
    "ex09.4": [_two_numbers_a_weight, _example_by_example],
    "ex09.5": [_with_masks, _running_best],
    "ex09.6": [_by_chance, _stage_at_once],
    "ex09.7": {
        "pytorch": [_with_memory_pytorch, _by_hand_pytorch],
        "tensorflow": [_with_memory_keras, _by_hand_keras],
    },
}

# Changes of the reference that leave it right, each with its reason.
SUM = "a sum has no order"
OUT = "what stands in the place of a missing label is taken out by the share"
LONG = "the lists are equally long"
LIKE = "the gradients of all tasks have the same shapes"
SPLIT = "parts = zip(np.split(total, ends), gradients[0], strict=True) -> "
EQUIVALENT = {
    "ex09.1": {
        "losses = np.logaddexp(0, logits) - y * logits -> "
        "losses = np.logaddexp(logits, 0) - y * logits": SUM,
        "share = known * weights / np.maximum(known.sum(axis=0), 1) -> "
        "share = known * weights / np.maximum(1, known.sum(axis=0))": "a maximum has no order",
        "y = np.where(known, labels, 0) -> y = np.where(known, labels, -1)": OUT,
        "y = np.where(known, labels, 0) -> y = np.where(known, labels, 1)": OUT,
        "y = np.where(known, labels, 0) -> y = np.where(labels, known, 0)": (
            "a label that is not 0 is 1 or NaN, and known is 1 or 0 there"
        ),
    },
    "ex09.2": {
        "dot = g @ flat[j] -> dot = flat[j] @ g": "an inner product has no order",
        "ends = np.cumsum([part.size for part in gradients[0]])[:-1] -> "
        "ends = np.cumsum([part.size for part in gradients[-1]])[:-1]": LIKE,
        "for g, order in zip(flat, orders, strict=True): -> "
        "for g, order in zip(flat, orders):": LONG,
        "for g, order in zip(flat, orders, strict=True): -> "
        "for g, order in zip(flat, orders, strict=False):": LONG,
        SPLIT + "parts = zip(np.split(total, ends), gradients[-1], strict=True)": LIKE,
        SPLIT + "parts = zip(np.split(total, ends), gradients[0])": LONG,
        SPLIT + "parts = zip(np.split(total, ends), gradients[0], strict=False)": LONG,
    },
    "ex09.4": {
        "penalty = penalty + lam / 2 * np.sum(fisher * (theta - old) ** 2) -> "
        "penalty = penalty + lam / 2 * np.sum(fisher * (old - theta) ** 2)": (
            "a square has no sign"
        ),
    },
    "ex09.7": {
        "pytorch": {},
        "tensorflow": {
            "gradients = tape.gradient(loss, net.variables, unconnected_gradients='zero') -> "
            "gradients = tape.gradient(loss, net.variables)": (
                "the optimizer leaves out a variable without a gradient; a fresh one has no "
                "momentum that zeros could keep going"
            ),
        },
    },
}
