"""Exercise set 8: other right answers, and why some changed answers are right as well."""

import numpy as np

# --- ex08.1 to ex08.3, ex08.6 -------------------------------------------------------------------


def _with_scipy(T, mean, cov, ridge):
    from scipy.linalg import inv, sqrtm

    centred = T - np.mean(T, axis=0)
    target = centred.T @ centred / (len(T) - 1) + ridge * np.identity(T.shape[1])
    A = np.real(inv(sqrtm(target)) @ sqrtm(cov + ridge * np.identity(T.shape[1])))
    return [A, np.asarray(mean) - np.mean(T @ A, axis=0)]


def _with_svd(T, mean, cov, ridge):
    d, mu = len(mean), T.mean(0)
    U, s, _ = np.linalg.svd(np.cov(T, rowvar=False) + ridge * np.eye(d), hermitian=True)
    V, t, _ = np.linalg.svd(cov + ridge * np.eye(d), hermitian=True)
    whiten, colour = U @ np.diag(1 / np.sqrt(s)) @ U.T, V @ np.diag(np.sqrt(t)) @ V.T
    moved = mu @ whiten @ colour
    return whiten @ colour, mean - moved


def _fold_by_fold(fit, S, T, folds, cap):
    ratios = [0.0] * len(S)
    for fold in range(folds):
        rows = [x for k, x in enumerate(S) if k % folds != fold]
        n_S = len(rows)
        rows += [x for k, x in enumerate(T) if k % folds != fold]
        domains = [0] * n_S + [1] * (len(rows) - n_S)
        tell = fit(np.array(rows), np.array(domains))
        mine = range(fold, len(S), folds)
        for k, p in zip(mine, tell(S[fold::folds]), strict=True):
            odds = p / (1 - p) if p < 1 else np.inf
            ratios[k] = min(cap, odds * n_S / (len(rows) - n_S))
    w = np.array(ratios) * len(S) / sum(ratios)
    return list(w), len(w) ** 2 / np.sum(w * w)


def _with_logits(fit, S, T, folds, cap):
    p = np.zeros(len(S))
    for k in range(folds):
        out = np.delete(S, np.s_[k::folds], axis=0), np.delete(T, np.s_[k::folds], axis=0)
        domain = np.r_[np.zeros(len(out[0]), bool), np.ones(len(out[1]), bool)]
        p[k::folds] = fit(np.vstack(out), domain)(S[k::folds])
    log_w = np.log(p) - np.log1p(-p) + np.log(len(S)) - np.log(len(T))
    w = np.exp(np.minimum(log_w, np.log(cap)))
    w /= np.average(w)
    return w, 1 / np.sum((w / w.sum()) ** 2)


def _through_ratios(P, y, Q):
    K = P.shape[1]
    joint = np.zeros((K, K))
    np.add.at(joint, (np.argmax(P, 1), y), 1 / len(y))
    answers = np.bincount(np.argmax(Q, 1), minlength=K) / len(Q)
    p = joint.sum(axis=0)
    q = np.clip(np.linalg.inv(joint) @ answers * p, 0, None)
    q = q / np.sum(q)
    odds = Q * (q / p)[None]
    return q.tolist(), odds / odds.sum(1)[:, None]


def _row_by_row(P, y, Q):
    K = P.shape[1]
    M, a = np.zeros((K, K)), np.zeros(K)
    for row, label in zip(P, y, strict=True):
        M[np.argmax(row), label] += 1 / np.sum(y == label)
    for row in Q:
        a[np.argmax(row)] += 1
    q = np.linalg.lstsq(M, a, rcond=None)[0]
    q[q < 0] = 0
    q = q / q.sum()
    out = [[row[k] * q[k] / np.mean(y == k) for k in range(K)] for row in Q]
    return q, [np.array(row) / sum(row) for row in out]


def _one_after_another(fit, settings, source, held_out, target, test):
    V, yV, w = held_out
    best = None
    for setting in settings:
        predict = fit(setting, *source, target)
        score = float(np.average(predict(V) == yV, weights=w))
        if best is None or score > best[0] + 1e-9:
            best = score, setting, predict
    E, yE = test
    says = best[2](E)
    recall = {k: np.mean(says[yE == k] == k) for k in set(yE.tolist())}
    return best[1], sum(recall.values()) / len(recall)


def _with_sklearn(fit, settings, source, held_out, target, test):
    from sklearn.metrics import accuracy_score, recall_score

    scores = [
        round(accuracy_score(held_out[1], fit(k, *source, target)(held_out[0]),
                             sample_weight=held_out[2]), 10)
        for k in settings
    ]  # fmt: skip
    chosen = settings[scores.index(max(scores))]
    says = fit(chosen, *source, target)(test[0])
    return chosen, recall_score(test[1], says, average="macro", labels=np.unique(test[1]))


# --- ex08.4 -------------------------------------------------------------------------------------


def _a_layer_pytorch(features, classify, discriminate, S, y, T, progress):
    import math

    import torch
    from torch import nn

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, F, lam):
            ctx.lam = lam
            return F.clone()

        @staticmethod
        def backward(ctx, upstream):
            return -ctx.lam * upstream, None

    lam = math.tanh(5 * progress)
    F_S, F_T = features(S), features(T)
    guess = torch.cat([discriminate(Reverse.apply(F, lam)) for F in (F_S, F_T)])
    domain = torch.cat([torch.zeros(len(S), 1), torch.ones(len(T), 1)]).to(guess)
    losses = nn.CrossEntropyLoss()(classify(F_S), y), nn.BCEWithLogitsLoss()(guess, domain)
    return sum(losses)


def _a_hook_pytorch(features, classify, discriminate, S, y, T, progress):
    import torch
    from torch.nn import functional as nnf

    lam = 2 / (1 + torch.exp(torch.tensor(-10.0 * progress, dtype=torch.float64))) - 1
    total, n = 0, len(S) + len(T)
    for rows, sign in ((S, 1), (T, -1)):
        F = features(rows) * 1
        turned = F.view_as(F)
        turned.register_hook(lambda g: -lam * g)
        total = total + nnf.softplus(sign * discriminate(turned)).sum() / n
        if sign == 1:
            logits = classify(F)
            total = total - logits.log_softmax(1)[torch.arange(len(y)), y].mean()
    return total


def _a_layer_keras(features, classify, discriminate, S, y, T, progress):
    import tensorflow as tf

    lam = 2 / (1 + np.exp(-10 * progress)) - 1

    @tf.custom_gradient
    def turn(F):
        return tf.identity(F), lambda dy: dy * -lam

    F_S, F_T = features(S), features(T)
    L_y = tf.keras.losses.sparse_categorical_crossentropy(y, classify(F_S), from_logits=True)
    guess = tf.concat([discriminate(turn(F_S)), discriminate(turn(F_T))], 0)
    domain = np.r_[np.zeros(len(S)), np.ones(len(T))].astype("f4")[:, None]
    L_d = tf.nn.sigmoid_cross_entropy_with_logits(domain, guess)
    return tf.reduce_mean(L_y) + tf.reduce_mean(L_d)


def _softplus_keras(features, classify, discriminate, S, y, T, progress):
    import tensorflow as tf

    lam, n = float(np.tanh(5 * progress)), len(S) + len(T)
    total = 0.0
    for rows, sign in ((S, 1), (T, -1)):
        F = features(rows)
        turned = F - (1 + lam) * (F - tf.stop_gradient(F))
        total += tf.reduce_sum(tf.math.softplus(sign * discriminate(turned))) / n
        if sign == 1:
            q = tf.nn.log_softmax(classify(F))
            total -= tf.reduce_mean(tf.gather(q, y, batch_dims=1))
    return total


# --- ex08.5 -------------------------------------------------------------------------------------


def _with_hooks_pytorch(model, x):
    import torch
    from torch import nn

    kept = {part: part.training for part in model.modules()}

    def renew(norm, inputs):
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.data.copy_(mean)
        norm.running_var.data.copy_(var)

    handles = [part.register_forward_pre_hook(renew) for part in model.modules()
               if isinstance(part, nn.BatchNorm2d)]  # fmt: skip
    with torch.inference_mode():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    for part, mode in kept.items():
        part.training = mode


def _on_a_copy_pytorch(model, x):
    import copy

    import torch
    from torch import nn

    other = copy.deepcopy(model).eval()
    for part in other.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
            part.train()
    with torch.no_grad():
        other(x)
        for (_, mine), (name, new) in zip(
            model.named_buffers(), other.named_buffers(), strict=True
        ):
            if "running" in name:
                mine.copy_(new)


def _with_flags_keras(model, x):
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            flag, momentum = layer.trainable, layer.momentum
            layer.trainable, layer.momentum = True, 0.0
            x = layer(x, training=True)
            layer.trainable, layer.momentum = flag, momentum
        else:
            x = layer(x)


def _by_numpy_keras(model, x):
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            rows = np.asarray(x).reshape(-1, x.shape[-1])
            weights = {w.name: w for w in layer.weights}
            weights["moving_mean"].assign(rows.mean(axis=0))
            weights["moving_variance"].assign(rows.var(axis=0, ddof=1))
        x = layer(x, training=False)


ALTERNATIVES = {
    "ex08.1": [_with_scipy, _with_svd],
    "ex08.2": [_fold_by_fold, _with_logits],
    "ex08.3": [_through_ratios, _row_by_row],
    "ex08.4": {
        "pytorch": [_a_layer_pytorch, _a_hook_pytorch],
        "tensorflow": [_a_layer_keras, _softplus_keras],
    },
    "ex08.5": {
        "pytorch": [_with_hooks_pytorch, _on_a_copy_pytorch],
        "tensorflow": [_with_flags_keras, _by_numpy_keras],
    },
    "ex08.6": [_one_after_another, _with_sklearn],
}

_TABLES = "the tables have two axes, so the last one is axis 1"
_ONE = "the domain head gives one number a row, so the last column is the first"

EQUIVALENT = {
    "ex08.3": {
        "K = P.shape[1] -> K = P.shape[-1]": _TABLES,
        "answered = np.eye(K)[P.argmax(axis=1)] -> "
        "answered = np.eye(K)[P.argmax(axis=-1)]": _TABLES,
        "a = np.eye(K)[Q.argmax(axis=1)].mean(axis=0) -> "
        "a = np.eye(K)[Q.argmax(axis=-1)].mean(axis=0)": _TABLES,
        "return (q, corrected / corrected.sum(axis=1, keepdims=True)) -> "
        "return (q, corrected / corrected.sum(axis=-1, keepdims=True))": _TABLES,
    },
    "ex08.4": {
        "logits = discriminate(reversed_F)[:, 0] -> logits = discriminate(reversed_F)[:, -1]": _ONE,
    },
    "ex08.5": {
        "pytorch": {},
        "tensorflow": {
            "mean, variance = tf.nn.moments(x, (0, 1, 2)) -> "
            "mean, variance = tf.nn.moments(x, (0, 1, -2))": "of four axes -2 is axis 2",
            "x = layer(x, training=False) -> x = layer(x)": "called by hand, a layer is not "
            "in training mode unless told so",
        },
    },
    "ex08.6": {
        f"best = np.argmax(np.round(scores, 9)) -> best = np.argmax(np.round(scores, {k}))": (
            "one more or less of the digits that tell a difference from a rounding error"
        )
        for k in (8, 10)
    },
}
