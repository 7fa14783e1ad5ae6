"""Exercise set 4: other right answers, and why some changed answers are right as well."""

import numpy as np

# --- ex04.1 and ex04.2 --------------------------------------------------------------------------


def _in_pixels(images):
    pixels = np.asarray(images, np.float32)
    if pixels.ndim < 4:
        pixels = np.repeat(pixels[..., None], 3, axis=3)
    return (pixels - 255 * 0.498) / (255 * 0.502)


def _by_parts(shape, hidden, classes, pooled):
    d = shape[-1] if pooled else int(np.prod(shape))
    if not hidden:
        return 2 * d + d * classes + classes
    return 2 * d + d * hidden + hidden + hidden * classes + classes


# --- ex04.3 -------------------------------------------------------------------------------------


def _by_hook(model, x):
    import torch

    seen, training = [], model.training
    hook = model.fc.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model.eval()(x)
    hook.remove()
    model.train(training)
    return seen[0]


def _layer_by_layer(model, x):
    model.eval()
    x = model.stem(x)
    return (x + model.block(x)).clamp(min=0).mean(dim=(2, 3)).tolist()


def _put_back(model, x):
    import torch

    head, model.fc = model.fc, torch.nn.Identity()
    F = model.eval()(x).detach().numpy()
    model.fc = head
    return F


def _by_predict(model, x):
    import keras

    return keras.Model(model.inputs, model.layers[-3].output).predict(x, verbose=0)


def _pooled_by_hand(model, x):
    import keras

    return keras.Model(model.input, model.get_layer("relu").output)(x).numpy().mean((1, 2))


# --- ex04.4 -------------------------------------------------------------------------------------


def _in_one_line(model):
    model.backbone.requires_grad_(False).eval()


def _evaluation_everywhere(model):
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))


def _norm_alone(model):
    import torch

    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    return model


def _each_layer(model):
    import keras

    for layer in model.layers[0].layers:
        layer.trainable = False
    model.compile(
        optimizer=keras.optimizers.SGD(0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _head_again(model):
    import keras

    model.trainable = False
    for layer in model.layers[1:]:
        layer.trainable = True
    model.trainable = model.layers[0].trainable = True
    model.layers[0].trainable = False
    model.compile(keras.optimizers.Adam(0.01), model.loss)
    return model


# --- ex04.5 and ex04.6 --------------------------------------------------------------------------


def _by_singular_values(F, y):
    U, s, _ = np.linalg.svd(F - F.mean(axis=0), full_matrices=False)
    U = U[:, s > 1e-9 * s[0]]
    return sum((y == c).sum() * (U[y == c].mean(axis=0) ** 2).sum() for c in np.unique(y))


def _by_covariances(F, y):
    means = np.array([F[y == label].mean(0) for label in y])
    return np.trace(np.linalg.pinv(np.atleast_2d(np.cov(F.T))) @ np.atleast_2d(np.cov(means.T)))


def _by_sorting(F, row, k):
    def cosine(other):
        return float(F[other] @ F[row] / np.sqrt((F[other] @ F[other]) * (F[row] @ F[row])))

    return sorted((other for other in range(len(F)) if other != row), key=cosine, reverse=True)[:k]


def _by_scipy(F, row, k):
    from scipy.spatial.distance import cdist

    order = cdist(F[row : row + 1], F, "cosine")[0].argsort(kind="stable")
    return order[order != row][:k]


# --- ex04.7 -------------------------------------------------------------------------------------


def _one_list_of_pairs(model, loader):
    import torch

    pairs = list(loader)
    model = model.train(False)
    with torch.inference_mode():
        return [row for x, _ in pairs for row in model(x).tolist()], [
            int(label) for _, labels in pairs for label in labels
        ]


def _all_at_once(model, loader):
    import torch

    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return model.eval()(x), y


def _predict_each_batch(model, loader):
    pairs = [(model.predict_on_batch(x), y.numpy()) for x, y in loader]
    return np.vstack([F for F, _ in pairs]), np.hstack([y for _, y in pairs]).tolist()


def _predict_all_at_once(model, loader):
    pictures, labels = zip(*loader.as_numpy_iterator(), strict=True)
    return model.predict(np.concatenate(pictures), verbose=0), np.concatenate(labels)


ALTERNATIVES = {
    "ex04.1": [_in_pixels],
    "ex04.2": [_by_parts],
    "ex04.3": {
        "pytorch": [_by_hook, _layer_by_layer, _put_back],
        "tensorflow": [_by_predict, _pooled_by_hand],
    },
    "ex04.4": {
        "pytorch": [_in_one_line, _evaluation_everywhere, _norm_alone],
        "tensorflow": [_each_layer, _head_again],
    },
    "ex04.5": [_by_singular_values, _by_covariances],
    "ex04.6": [_by_sorting, _by_scipy],
    "ex04.7": {
        "pytorch": [_one_list_of_pairs, _all_at_once],
        "tensorflow": [_predict_each_batch, _predict_all_at_once],
    },
}

# Changes of the reference that leave it right, each with its reason.
EQUIVALENT = {
    "ex04.3": {
        "pytorch": {},
        "tensorflow": {
            "return cut(x, training=False).numpy() -> return cut(x).numpy()": (
                "a Keras model that is called runs in evaluation mode unless told otherwise"
            ),
        },
    },
    "ex04.5": {
        "centred = F - F.mean(axis=0) -> centred = F.mean(axis=0) - F": (
            "both covariances are of second order: all signs turned leave them"
        ),
        "return np.trace(np.linalg.pinv(centred.T @ centred) @ (means.T @ means)) -> "
        "return np.trace(means.T @ means @ np.linalg.pinv(centred.T @ centred))": (
            "the trace of a product does not mind the order of two factors"
        ),
    },
    "ex04.6": {
        "unit = F / np.linalg.norm(F, axis=1, keepdims=True) -> "
        "unit = F / np.linalg.norm(F, axis=-1, keepdims=True)": "the last axis of two is axis 1",
    },
    "ex04.7": {
        "pytorch": {},
        "tensorflow": {
            "rows.append(model(pictures, training=False)) -> rows.append(model(pictures))": (
                "a Keras model that is called runs in evaluation mode unless told otherwise"
            ),
        },
    },
}
