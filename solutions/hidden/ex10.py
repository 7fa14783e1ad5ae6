"""Exercise set 10: other right answers, and why some changed answers are right as well."""

import numpy as np

# --- ex10.1 to ex10.3 ---------------------------------------------------------------------------


def _cell_by_cell(p, flagged):
    weight = right = plain = 0.0
    for said, flag in zip(p.tolist(), flagged, strict=True):
        w = said if said > 0 else 1.0
        weight += w
        right += w * (bool(flag) == (said > 0))
        plain += bool(flag) == (said >= 0.6)
    return [right / weight, plain / len(p)]


def _from_errors(p, flagged):
    thirds = np.rint(3 * np.asarray(p)).astype(int)
    weight = np.array([3, 1, 2, 3])[thirds]
    lost = weight[flagged != (thirds > 0)].sum() / weight.sum()
    return 1 - lost, np.float32(1 - (flagged ^ (thirds > 1)).mean())


def _plain_log_loss(minimise, fitted, held_out, test):
    z, y = held_out

    def loss(T):
        p = 1 / (1 + np.exp(-z / T))
        return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))

    T = minimise(loss)
    scores = [np.mean((1 / (1 + np.exp(-test[0] / t)) - test[1]) ** 2) for t in (1.0, T)]
    return [T, *scores]


def _with_scipy(minimise, fitted, held_out, test):
    from scipy.optimize import minimize_scalar
    from scipy.special import expit, log_expit

    signed = held_out[0] * (2 * held_out[1] - 1)
    found = minimize_scalar(
        lambda a: -log_expit(signed * np.exp(-a)).sum(), bracket=(0, 1), tol=1e-12
    )
    T = np.exp(found.x)
    z, y = test
    return T, ((expit(z) - y) ** 2).mean(), ((expit(z / T) - y) ** 2).mean()


def _every_threshold(scores, y, miss, false_alarm):
    found = []
    for t in [*set(scores.tolist()), float("inf")]:
        missed = sum(1 for s, label in zip(scores, y, strict=True) if label == 1 and s < t)
        alarms = sum(1 for s, label in zip(scores, y, strict=True) if label == 0 and s >= t)
        found.append((miss * missed + false_alarm * alarms, -t))
    cost, t = min(found)
    return [-t, cost / len(y)]


def _sorted_once(scores, y, miss, false_alarm):
    t, place = np.unique(scores, return_inverse=True)
    defective = np.bincount(place, weights=y, minlength=len(t))
    intact = np.bincount(place, weights=1 - y, minlength=len(t))
    missed = np.append(np.cumsum(defective) - defective, defective.sum())
    alarms = np.append(intact[::-1].cumsum()[::-1], 0)
    costs = (miss * missed + false_alarm * alarms)[::-1]
    return np.append(t, np.inf)[::-1][costs.argmin()], costs.min() / len(scores)


# --- ex10.4 -------------------------------------------------------------------------------------


def _on_a_copy_pytorch(model, exported, x, tolerance):
    from copy import deepcopy

    wanted = deepcopy(model).eval()(x).detach()
    got = np.asarray(exported(x.detach().cpu().numpy()))
    if got.shape != tuple(wanted.shape):
        return False, float("nan")
    gap = float(np.abs(got.astype(float) - wanted.numpy()).max())
    return [bool(gap <= tolerance), gap]


def _part_by_part_pytorch(model, exported, x, tolerance):
    import torch

    modes = {part: part.training for part in model.modules()}
    worst = torch.tensor(0.0)
    try:
        model.eval()
        with torch.inference_mode():
            for few in x.split(4):
                got, wanted = torch.from_numpy(exported(few.numpy())), model(few)
                if len(got) != len(wanted):
                    return False, np.inf
                worst = torch.maximum(worst, (got - wanted).abs().max())
    finally:
        for part, mode in modes.items():
            part.training = mode
    return worst <= tolerance, worst


def _predicted_keras(model, exported, x, tolerance):
    wanted = np.concatenate([np.asarray(model(x[i : i + 4])) for i in range(0, len(x), 4)])
    got = np.asarray(exported(x), float)
    if got.shape != wanted.shape:
        return False, float("nan")
    gap = float(abs(got - wanted).max())
    return [bool(gap <= tolerance), gap]


def _in_tensorflow_keras(model, exported, x, tolerance):
    import tensorflow as tf

    wanted = model(tf.constant(x), training=False)
    got = tf.convert_to_tensor(exported(x))
    if got.shape != wanted.shape or not bool(tf.reduce_all(tf.math.is_finite(got))):
        return False, np.inf
    gap = tf.reduce_max(tf.abs(got - wanted))
    return gap <= tolerance, gap


# --- ex10.5 to ex10.7 ---------------------------------------------------------------------------


def _channel_by_channel(W, bits):
    levels = 2 ** (bits - 1) - 1
    q, scales = np.zeros(W.shape, np.int8), []
    for channel, weights in enumerate(W):
        scale = max(weights.max(), -weights.min()) / levels or 1.0
        q[channel] = np.clip(np.rint(weights / scale), -levels, levels)
        scales.append(scale)
    return q, scales


def _over_all_axes(W, bits):
    n = (1 << (bits - 1)) - 1
    top = np.abs(W).max(axis=tuple(range(1, W.ndim)), keepdims=True)
    scale = np.divide(top, n, out=np.ones_like(top), where=top != 0)
    return np.floor(W / scale + 0.5).astype("int8"), scale.ravel()


def _kl_div_pytorch(z, z_teacher, y, T, share):
    import torch
    from torch import nn
    from torch.nn import functional

    with torch.no_grad():
        target = functional.log_softmax(z_teacher / T, dim=-1)
    soft = nn.KLDivLoss(reduction="batchmean", log_target=True)(
        functional.log_softmax(z / T, dim=-1), target
    )
    return torch.lerp(nn.CrossEntropyLoss()(z, y), soft * T * T, share)


def _probabilities_pytorch(z, z_teacher, y, T, share):
    from torch.nn import functional

    p = functional.softmax(z_teacher.detach() / T, dim=1)
    soft = functional.kl_div((z / T).log_softmax(1), p, reduction="sum") / z.shape[0]
    hard = -z.log_softmax(1).gather(1, y[:, None]).mean()
    return (1 - share) * hard + share * soft * T**2


def _entropies_keras(z, z_teacher, y, T, share):
    import tensorflow as tf

    p = tf.stop_gradient(tf.nn.softmax(z_teacher / T))
    crossed = tf.nn.softmax_cross_entropy_with_logits(p, z / T)
    own = tf.stop_gradient(tf.nn.softmax_cross_entropy_with_logits(p, z_teacher / T))
    hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z)
    return tf.reduce_mean(share * T**2 * (crossed - own) + (1 - share) * hard)


def _keras_losses_keras(z, z_teacher, y, T, share):
    import keras
    from keras import ops

    target = ops.stop_gradient(z_teacher)
    log_p, log_q = (ops.log_softmax(a / T, axis=1) for a in (target, z))
    soft = ops.sum(ops.exp(log_p) * (log_p - log_q)) / len(z)
    hard = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, z)
    return share * T * T * soft + (1 - share) * hard


def _with_ks_2samp(x, blocks, batch, rate):
    from scipy.stats import ks_2samp

    clean = {}
    for name in set(blocks.tolist()):
        part = blocks == name
        clean[name] = ks_2samp(x[part], x[~part], method="asymp").statistic
    found = sorted(clean.values(), reverse=True)
    return ks_2samp(batch, x, method="asymp").statistic, found[int(rate * len(found) + 1e-9)]


def _step_by_step(x, blocks, batch, rate):
    def gap(a, b):
        values = np.unique(np.concatenate([a, b]))
        counts = [np.histogram(v, [*values, np.inf])[0].cumsum() / len(v) for v in (a, b)]
        return float(max(abs(counts[0] - counts[1])))

    clean = np.array([gap(x[blocks == b], x[blocks != b]) for b in np.unique(blocks)])
    above = (clean[:, None] > clean[None]).mean(axis=0)
    return [gap(x, batch), clean[above <= rate].min()]


ALTERNATIVES = {
    "ex10.1": [_cell_by_cell, _from_errors],
    "ex10.2": [_plain_log_loss, _with_scipy],
    "ex10.3": [_every_threshold, _sorted_once],
    "ex10.4": {
        "pytorch": [_on_a_copy_pytorch, _part_by_part_pytorch],
        "tensorflow": [_predicted_keras, _in_tensorflow_keras],
    },
    "ex10.5": [_channel_by_channel, _over_all_axes],
    "ex10.6": {
        "pytorch": [_kl_div_pytorch, _probabilities_pytorch],
        "tensorflow": [_entropies_keras, _keras_losses_keras],
    },
    "ex10.7": [_with_ks_2samp, _step_by_step],
}

# Changes of the reference that leave it right, each with its reason.
LAST = "the last axis of two is axis 1"
SIGN = "the size of a difference has no sign"
OTHER_WAY = "gap = np.abs(got - wanted).max() -> gap = np.abs(wanted - got).max()"
FREE = "any number below 0 means: what is left"
EQUIVALENT = {
    "ex10.1": {
        "return (published, np.mean(flagged == (p > 0.5))) -> "
        "return (published, np.mean(flagged == (p >= 0.5)))": "no cell has a p of 1/2",
    },
    "ex10.2": {
        "before, after = (np.mean((1 / (1 + np.exp(-z / t)) - y) ** 2) for t in (1, T)) -> "
        "before, after = (np.mean((y - 1 / (1 + np.exp(-z / t))) ** 2) for t in (1, T))": (
            "a square has no sign"
        ),
        "T = minimise(lambda T: np.mean(np.logaddexp(0, -right / T))) -> "
        "T = minimise(lambda T: np.mean(np.logaddexp(-right / T, 0)))": "a sum has no order",
    },
    "ex10.3": {"if cost < best[1]: -> if cost < best[-1]:": "the last of two is the second"},
    "ex10.4": {
        "pytorch": {OTHER_WAY: SIGN},
        "tensorflow": {
            OTHER_WAY: SIGN,
            "wanted = model(x, training=False).numpy() -> wanted = model(x).numpy()": (
                "a Keras model that is called by itself is in inference mode"
            ),
        },
    },
    "ex10.5": {
        "largest = np.abs(W).reshape(len(W), -1).max(axis=1) -> "
        "largest = np.abs(W).reshape(len(W), -1).max(axis=-1)": LAST,
        "largest = np.abs(W).reshape(len(W), -1).max(axis=1) -> "
        "largest = np.abs(W).reshape(len(W), -2).max(axis=1)": FREE,
        "steps = W / scale.reshape(-1, *[1] * (W.ndim - 1)) -> "
        "steps = W / scale.reshape(-2, *[1] * (W.ndim - 1))": FREE,
    },
    "ex10.6": {
        "pytorch": {
            f"{line.format(1)} -> {line.format(-1)}": LAST
            for line in (
                "log_p = (z_teacher.detach() / T).log_softmax(dim={})",
                "log_q = (z / T).log_softmax(dim={})",
                "soft = (log_p.exp() * (log_p - log_q)).sum(dim={}).mean()",
            )
        },
        "tensorflow": {
            "soft = tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=1)) -> "
            "soft = tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1))": LAST,
        },
    },
    "ex10.7": {
        "clean = np.array([distance(x[blocks == name], x[blocks != name]) for name in names]) -> "
        "clean = np.array([distance(x[blocks != name], x[blocks == name]) for name in names])": (
            "a distance goes both ways"
        ),
        "return (distance(batch, x), limit) -> return (distance(x, batch), limit)": (
            "a distance goes both ways"
        ),
        "return np.abs(share_a - share_b).max() -> return np.abs(share_b - share_a).max()": SIGN,
    },
}
