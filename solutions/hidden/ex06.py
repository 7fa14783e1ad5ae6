"""Exercise set 6: other right answers, and why some changed answers are right as well."""

import numpy as np

# --- ex06.1 to ex06.5 ---------------------------------------------------------------------------


def _from_the_long_end(words, vocabulary, limit):
    tokens = []
    for owner, word in enumerate(words):
        start, mine = 0, []
        while start < len(word):
            end = len(word)
            while end > start and "##"[: 2 * (start > 0)] + word[start:end] not in vocabulary:
                end -= 1
            if end == start:
                mine = ["[UNK]"]
                break
            mine.append("##"[: 2 * (start > 0)] + word[start:end])
            start = end
        tokens += [(piece, owner) for piece in mine]
    tokens = [("[CLS]", -1), *tokens[: max(limit - 2, 0)], ("[SEP]", -1)]
    return np.array([vocabulary[piece] for piece, _ in tokens]), np.array([o for _, o in tokens])


def _recursive(words, vocabulary, limit):
    def cut(rest, mark=""):
        for k in reversed(range(len(rest))):
            if mark + rest[: k + 1] in vocabulary:
                tail = cut(rest[k + 1 :], "##")
                return None if tail is None else [vocabulary[mark + rest[: k + 1]], *tail]
        return None if rest else []

    ids, owners = [], []
    for k, word in enumerate(words):
        pieces = cut(word) or [vocabulary["[UNK]"]]
        ids.extend(pieces)
        owners.extend(k for _ in pieces)
    del ids[limit - 2 :], owners[limit - 2 :]
    return (vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]), (-1, *owners, -1)


def _token_by_token(ids, words, positions, segments, gamma, beta):
    out = np.empty(words.shape)
    for row, tokens in enumerate(ids):
        segment = 0
        for place, token in enumerate(tokens):
            own = 0 if token == 0 else segment
            x = np.asarray(words[row, place], float) + positions[place] + segments[own]
            x = x - np.mean(x)
            out[row, place] = gamma * x / np.sqrt(np.mean(x**2) + 1e-12) + beta
            if token == 102:
                segment = 1
    return out


def _in_float32(ids, words, positions, segments, gamma, beta):
    seps = np.cumsum(np.equal(ids, 102)[:, :-1], axis=1)
    second = np.pad(seps, ((0, 0), (1, 0))) * (ids > 0)
    x = words + segments.take(second, axis=0)
    x = (x + positions[None, : x.shape[1]]).astype(np.float32)
    mean, std = np.mean(x, -1)[..., None], np.std(x, -1)[..., None]
    return (x - mean) / np.hypot(std, 1e-6) * gamma + beta


def _row_by_row(weight, bias, heads, part):
    d = len(bias)
    size = d // heads
    if part == "output":
        kernel = [weight[:, h * size : (h + 1) * size].T for h in range(heads)]
        return np.array(kernel), list(bias)
    kernel = np.zeros((d, heads, size))
    for k in range(d):
        kernel[:, k // size, k % size] = weight[k]
    return kernel, [bias[h * size : (h + 1) * size] for h in range(heads)]


def _turned(weight, bias, heads, part):
    if part == "output":
        return np.moveaxis(weight.reshape(len(bias), heads, -1), 0, 2), bias.copy()
    return weight.reshape(heads, -1, len(bias)).transpose(2, 0, 1), np.split(bias, heads)


def _head_by_head(Q, K, V, mask, heads):
    out, size = np.zeros(V.shape), V.shape[2] // heads
    for row in range(len(Q)):
        real = np.flatnonzero(mask[row])
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = Q[row, :, part] @ K[row, real, part].T * size**-0.5
            e = np.exp(scores - scores.max(axis=1)[:, None])
            out[row, :, part] = (e / e.sum(axis=1)[:, None]) @ V[row, real, part]
    return out


def _with_einsum(Q, K, V, mask, heads):
    from scipy.special import softmax

    Q, K, V = (np.stack(np.split(np.asarray(x), heads, axis=2)) for x in (Q, K, V))
    scores = np.einsum("hnqd,hnkd->hnqk", Q, K) / np.sqrt(Q.shape[-1])
    A = softmax(scores + (1 - np.array(mask, float))[None, :, None] * -1e30, axis=-1)
    return np.concatenate(list(np.einsum("hnqk,hnkd->hnqd", A, V)), axis=2)


def _tossed_as_they_come(fit, X, ids, labels, train, test, rng):
    toss = {}
    for word in ids:
        if word not in toss:
            toss[word] = int(rng.random() < 0.5)
    control = np.array([toss[word] for word in ids])
    task, nonsense = fit(X[train], labels[train]), fit(X[train], control[train])
    right = float((task(X[test]) == labels[test]).mean())
    return [right, right - float((nonsense(X[test]) == control[test]).mean())]


def _with_unique(fit, X, ids, labels, train, test, rng):
    words, place = np.unique(ids, return_inverse=True)
    control = rng.choice([0, 1], len(words))[place]
    scores = []
    for y in (control, labels):
        predict = fit(X[train], y[train])
        scores.append(1 - np.mean(predict(X[test]) != y[test]))
    return np.array([scores[1], scores[1] - scores[0]])


# --- ex06.6 -------------------------------------------------------------------------------------


def _one_at_a_time_pytorch(model, rows, batch_size):
    import torch

    was = model.training
    model.train(False)
    with torch.inference_mode():
        ids = [torch.as_tensor(np.asarray(row))[None] for row in rows]
        vectors = [model(x, torch.ones_like(x)).mean(dim=1) for x in ids]
    model.train(was)
    return torch.cat(vectors)


def _unsorted_pytorch(model, rows, batch_size):
    import torch
    from torch.nn.utils.rnn import pad_sequence

    model.eval().requires_grad_(False)
    made = []
    for batch in (rows[k : k + batch_size] for k in range(0, len(rows), batch_size)):
        ids = pad_sequence([torch.tensor(np.asarray(r)) for r in batch], batch_first=True)
        real = ids.ne(0)
        states = model(ids, real).masked_fill(~real[..., None], 0.0)
        made += (states.sum(1) / real.sum(1)[:, None]).tolist()
    return made


def _one_at_a_time_keras(model, rows, batch_size):
    vectors = []
    for row in rows:
        ids = np.array([row])
        states = model({"token_ids": ids, "padding_mask": np.ones_like(ids)})
        vectors.append(np.asarray(states)[0].mean(axis=0))
    return vectors


def _unsorted_keras(model, rows, batch_size):
    import keras

    lengths = np.array([len(row) for row in rows])
    longest = lengths.max()
    ids = np.array([[*row, *[0] * (longest - len(row))] for row in rows])
    made = []
    for first in range(0, len(rows), batch_size):
        part = ids[first : first + batch_size]
        real = keras.ops.convert_to_tensor(part > 0)
        states = model({"token_ids": part, "padding_mask": real}, training=False)
        weights = keras.ops.cast(real, states.dtype)
        weights = weights / keras.ops.sum(weights, axis=1, keepdims=True)
        made.append(keras.ops.einsum("nt,ntd->nd", weights, states))
    return keras.ops.concatenate(made)


# --- ex06.7 -------------------------------------------------------------------------------------


def _all_at_once(E, groups):
    unit = E / np.sqrt((E**2).sum(axis=1))[:, None]
    similar = unit @ unit.T
    same = np.equal.outer(groups, groups)
    best = np.where(same & ~np.eye(len(E), dtype=bool), similar, -np.inf).max(axis=1)
    ranks = 1 + (~same & (similar >= best[:, None])).sum(axis=1)
    ranks = ranks[same.sum(axis=1) > 1]
    return np.array([(ranks < 2).mean(), (1.0 / ranks).mean()])


def _by_sorting(E, groups):
    lengths, found = [float(np.linalg.norm(e)) for e in E], []
    for q in range(len(E)):
        others = [k for k in range(len(E)) if k != q]
        if not any(groups[k] == groups[q] for k in others):
            continue
        cosines = {k: float(E[q] @ E[k]) / (lengths[q] * lengths[k]) for k in others}
        # Among equals the strangers stand in front.
        others.sort(key=lambda k: (-cosines[k], groups[k] == groups[q]))
        found.append(1 / (1 + next(i for i, k in enumerate(others) if groups[k] == groups[q])))
    return sum(r == 1 for r in found) / len(found), sum(found) / len(found)


ALTERNATIVES = {
    "ex06.1": [_from_the_long_end, _recursive],
    "ex06.2": [_token_by_token, _in_float32],
    "ex06.3": [_row_by_row, _turned],
    "ex06.4": [_head_by_head, _with_einsum],
    "ex06.5": [_tossed_as_they_come, _with_unique],
    "ex06.6": {
        "pytorch": [_one_at_a_time_pytorch, _unsorted_pytorch],
        "tensorflow": [_one_at_a_time_keras, _unsorted_keras],
    },
    "ex06.7": [_all_at_once, _by_sorting],
}

# Changes of the reference that leave it right, each with its reason.
NUMPY_FINDS = "NumPy works out any one size that is negative, not only -1"
LAST_OF_FOUR = "axis -2 of four is axis 2"
ONE_LENGTH = "both have one length"
FITS = "fits = [k for k in range({}) if mark + rest[:k] in vocabulary]"
CUT = "Q, K, V = (x.reshape(n, T, heads, {}).swapaxes({}) for x in (Q, K, V))"
SCORES = "scores = Q @ K.swapaxes({}) / np.sqrt(d / heads)"
JOIN = "return (A @ V).swapaxes({}).reshape(n, T, d)"
SPLIT = "return (weight.T.reshape(d, heads, {}), bias.reshape(heads, {}))"
PAIRS = "for {}, strict=True): -> for {}"
EMBEDDED = {
    PAIRS.format(pair, pair + end): ONE_LENGTH
    for pair in ("k, mean in zip(places, means", "line, k in zip(ids, places")
    for end in ("):", ", strict=False):")
}
MEANS = "means = (states * mask[:, :, None]).sum({0}=1) / mask.sum({0}={1}, {2}=True)"
SUMS = {
    framework: f"{MEANS.format(axis, 1, keep)} -> {MEANS.format(axis, -1, keep)}"
    for framework, axis, keep in (("pytorch", "dim", "keepdim"), ("tensorflow", "axis", "keepdims"))
}
UNIT = "unit = E / np.linalg.norm(E, axis={}, keepdims=True)"
CONTROL = "control = rng.integers(2, size=ids.max() + {})[ids]"
STATES = "states = np.array(model({{'token_ids': ids, 'padding_mask': mask}}{}))"

EQUIVALENT = {
    "ex06.1": {
        f"{FITS.format('1, len(rest) + 1')} -> {FITS.format(to)}": why
        for to, why in (
            ("0, len(rest) + 1", "nothing at all and ## alone are no pieces of this vocabulary"),
            ("-1, len(rest) + 1", "a shorter piece in front of the list is never the last"),
            ("1, len(rest) + 2", "a slice ends with the word: the whole rest twice"),
        )
    },
    "ex06.2": {
        "ends_before = np.cumsum(is_end, axis=1) - is_end -> "
        "ends_before = is_end - np.cumsum(is_end, axis=1)": "row -1 of two rows is row 1",
        "ends_before = np.cumsum(is_end, axis=1) - is_end -> "
        "ends_before = np.cumsum(is_end, axis=-1) - is_end": "the last axis of two is axis 1",
        "x = words + positions[:ids.shape[1]] + segments[np.where(ids == 0, 0, ends_before)] -> "
        "x = words + positions[:ids.shape[-1]] + segments[np.where(ids == 0, 0, ends_before)]": (
            "the last axis of two is axis 1"
        ),
    },
    "ex06.3": {
        f"{SPLIT.format(-1, -1)} -> {SPLIT.format(-1, -2)}": NUMPY_FINDS,
        f"{SPLIT.format(-1, -1)} -> {SPLIT.format(-2, -1)}": NUMPY_FINDS,
        "return (weight.T.reshape(heads, -1, d), bias) -> "
        "return (weight.T.reshape(heads, -2, d), bias)": NUMPY_FINDS,
    },
    "ex06.4": {
        f"{CUT.format(-1, '1, 2')} -> {CUT.format(-1, '1, -2')}": LAST_OF_FOUR,
        f"{CUT.format(-1, '1, 2')} -> {CUT.format(-1, '2, 1')}": "an exchange has no order",
        f"{CUT.format(-1, '1, 2')} -> {CUT.format(-2, '1, 2')}": NUMPY_FINDS,
        f"{JOIN.format('1, 2')} -> {JOIN.format('1, -2')}": LAST_OF_FOUR,
        f"{JOIN.format('1, 2')} -> {JOIN.format('2, 1')}": "an exchange has no order",
        f"{SCORES.format('2, 3')} -> {SCORES.format('-2, 3')}": LAST_OF_FOUR,
        f"{SCORES.format('2, 3')} -> {SCORES.format('3, 2')}": "an exchange has no order",
    },
    "ex06.5": {f"{CONTROL.format(1)} -> {CONTROL.format(2)}": "one toss more than there are words"},
    "ex06.6": {
        framework: EMBEDDED | {SUMS[framework]: "the last of two axes"} for framework in SUMS
    },
    "ex06.7": {f"{UNIT.format(1)} -> {UNIT.format(-1)}": "the last axis of two is axis 1"},
}
EQUIVALENT["ex06.6"]["tensorflow"] |= {
    f"{STATES.format(', training=False')} -> {STATES.format('')}": "Keras runs in inference mode"
}
