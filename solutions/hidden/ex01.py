"""Exercise set 1: other right answers, and why some changed answers are right as well."""

import numpy as np
from scipy.special import expit, softmax


def _one_hot(F, W, y):
    return F.T @ (softmax(F @ W, axis=1) - np.eye(W.shape[1])[y]) / len(F)


def _picture_by_picture(F, W, y):
    total = np.zeros(W.shape)
    for features, label in zip(F, y, strict=True):
        p = softmax(features @ W)
        p[label] -= 1
        total += np.outer(features, p)
    return total / len(F)


def _recursive(theta, gradient, batches, rate):
    if not batches:
        return theta
    (X, y), *rest = batches
    return _recursive(theta - rate * gradient(theta, X, y), gradient, rest, rate)


def _on_a_copy(theta, gradient, batches, rate):
    new = theta.copy()
    for batch in batches:
        new -= rate * gradient(new, *batch)
    return new


def _two_terms(theta, gradient, theta_pre, lam, head):
    return gradient + lam * theta - lam * theta_pre * ~head


def _by_loop(theta, gradient, theta_pre, lam, head):
    return [
        g + lam * (t if is_head else t - start)
        for t, g, start, is_head in zip(theta, gradient, theta_pre, head, strict=True)
    ]


def _both_labels(X, theta):
    p = expit(X @ theta)[:, None]
    return (p * ((1 - p) * X) ** 2 + (1 - p) * (p * X) ** 2).mean(0)


def _from_correct(predicted, domain):
    right = predicted == domain
    return 2 * (right[domain == 0].mean() + right[domain == 1].mean() - 1)


def _by_table(same_domain, same_task, source_labels, target_labels):
    if same_task:
        adaptation = (same_domain, source_labels, target_labels) == (False, True, False)
        return "transductive" if adaptation else "none"
    return {
        (True, True): "inductive",
        (False, True): "inductive",
        (False, False): "unsupervised",
    }.get((source_labels, target_labels), "none")


def _by_norm(H):
    return 2 / np.linalg.norm(H, 2)


def _with_copies(loss, gradient, theta, step=1e-5):
    claimed, worst = gradient(theta), 0.0
    for j, g in enumerate(claimed):
        up, down = theta.copy(), theta.copy()
        up[j] += step
        down[j] -= step
        worst = max(worst, abs((loss(up) - loss(down)) / (2 * step) - g))
    return worst


ALTERNATIVES = {
    "ex01.1": [_one_hot, _picture_by_picture],
    "ex01.2": [_recursive, _on_a_copy],
    "ex01.3": [_two_terms, _by_loop],
    "ex01.4": [_both_labels],
    "ex01.5": [_from_correct],
    "ex01.6": [_by_table],
    "ex01.7": [_by_norm],
    "ex01.8": [_with_copies],
}

# Changes of the reference that leave it right, each with its reason.
EQUIVALENT = {
    "ex01.1": {
        "e = np.exp(z - z.max(axis=1, keepdims=True)) -> "
        "e = np.exp(z - z.max(axis=-1, keepdims=True))": "the last axis of two is axis 1",
        "p = e / e.sum(axis=1, keepdims=True) -> p = e / e.sum(axis=-1, keepdims=True)": (
            "the last axis of two is axis 1"
        ),
    },
    "ex01.4": {
        "p = 1 / (1 + np.exp(-X @ theta)) -> p = 1 / (1 + np.exp(+X @ theta))": (
            "1 - p in place of p: p(1 - p) stays"
        ),
    },
    "ex01.8": {
        "def gradient_check(loss, gradient, theta, step=1e-05): -> "
        "def gradient_check(loss, gradient, theta, step=-1e-05):": "central differences are even",
        "def gradient_check(loss, gradient, theta, step=1e-05): -> "
        "def gradient_check(loss, gradient, theta, step=0.0001):": "the step may be chosen",
        "return np.abs(slopes - gradient(theta)).max() -> "
        "return np.abs(gradient(theta) - slopes).max()": "the size of a difference has no sign",
    },
}
