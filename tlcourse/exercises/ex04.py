"""Exercise set 4: feature extraction (notebook 04)."""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from .kit import Misconception, Part, Task, expect, require

# --- ex04.1: a picture as the network wants it --------------------------------------------------


@lru_cache
def _photographs():
    """Brightness of 300 real solar cells on a grid of 15 × 15 places, uint8."""
    from tlcourse import datasets

    return np.array(datasets.solar_cells().images[::9, 10::20, 10::20])


@lru_cache
def _drawings():
    """Real pictograms at 28 × 28 pixels, uint8, and their labels."""
    from tlcourse import datasets

    data = datasets.pictograms("color", labelled=False)
    rows = np.flatnonzero(data.labels >= 0)[::3]
    return np.array(data.images[rows, 4::8, 4::8]), data.labels[rows]


def _pictures(rng, n=4, grey=False):
    pictures = _photographs() if grey else _drawings()[0]
    return (pictures[rng.choice(len(pictures), n, replace=False)],)


def _input_colours(f, rng):
    red, green, blue = np.eye(3, dtype=np.uint8) * 255
    out = f(np.array([[[red, green, blue]]]))
    wanted = np.where(np.eye(3) > 0, 1.0, -0.498 / 0.502)[None, None]
    expect(out, wanted, "one row of three pixels, red, green and blue", 1e-5)
    level = np.full((1, 2, 2, 3), 51, np.uint8)
    expect(f(level), np.full(level.shape, (0.2 - 0.498) / 0.502), "pixels of 51 everywhere", 1e-5)


def _input_grey(f, rng):
    (pictures,) = _pictures(rng, 3, grey=True)
    out = np.asarray(f(pictures))
    expect(out.shape, (*pictures.shape, 3), f"shape for grey photographs {pictures.shape}")
    for channel, name in enumerate(("red", "green", "blue")):
        wanted = (pictures / 255 - 0.498) / 0.502
        what = f"a solar cell, pixels {pictures[0, 7, :4].tolist()}, channel {name}"
        expect(out[0, 7, :4, channel], wanted[0, 7, :4], what, 1e-5)
        expect(out[..., channel], wanted, f"three solar cells, channel {name}", 1e-5)


def _input_drawings(f, rng):
    (pictures,) = _pictures(rng, 6)
    out = np.asarray(f(pictures))
    expect(out.shape, pictures.shape, f"shape for six pictograms {pictures.shape}")
    require(np.asarray(out).dtype.kind == "f", f"six pictograms come out as {out.dtype}")
    for number, picture in enumerate(pictures):
        expect(out[number, 0, 0], np.ones(3), "the white corner of a pictogram", 1e-5)
        # Alone or among others, a picture is the same input.
        expect(f(picture[None])[0], out[number], "a pictogram alone, and among five others", 1e-5)


def _rgb(images):
    return np.stack([images] * 3, -1) if images.ndim == 3 else images


def _scaled(images):
    return (_rgb(images) / 255 - 0.498) / 0.502


def _own_scale(images):
    pictures = _rgb(images) / 255
    return (pictures - pictures.mean()) / pictures.std()


INPUT = Task(
    id="ex04.1",
    title="A picture as the network wants it",
    function="to_input",
    taught="04#Evaluation mode and the range of the input",
    parts=(
        Part("colours and levels", 2, _input_colours),
        Part("grey photographs", 1, _input_grey),
        Part("pictograms", 1, _input_drawings),
    ),
    probes=lambda rng: [_pictures(rng), _pictures(rng)],  # grey or not, the mistake is the same
    misconceptions=(
        Misconception(
            "not divided by 255",
            lambda images: (_rgb(images) - 0.498) / 0.502,
            "What does a white pixel become? The network has seen nothing beyond 1 in training.",
            "The mean and the spread of the card belong to pixels between 0 and 1. Yours are "
            "still between 0 and 255, so white becomes about 507.",
        ),
        Misconception(
            "stops at 0 to 1",
            lambda images: _rgb(images) / 255,
            "What does a black pixel become, and what should it, by the card?",
            "You divide by 255 and leave the rest out. The first layer was trained on inputs "
            "around zero; yours are all positive.",
        ),
        Misconception(
            "scaled twice",
            lambda images: (_scaled(images) / 255 - 0.498) / 0.502,
            "How far apart are black and white in your result, and how far should they be?",
            "The scaling is applied to its own result, as happens when the loader and the model "
            "both do it. All pixels become almost the same number, and there is no error message.",
        ),
        Misconception(
            "blue first",
            lambda images: _scaled(images)[..., ::-1],
            "Put a red pixel in. Which channel is large?",
            "Your channels come out in the order blue, green, red. These weights were trained on "
            "RGB; it is other networks, and OpenCV's reader, that use BGR.",
        ),
        Misconception(
            "numbers of another network",
            lambda images: _rgb(images) / 127.5 - 1,
            "Compare black with the card to three digits.",
            "That is MobileNet's scaling. It is near enough here to do little harm, and that is "
            "luck: each set of weights has its own numbers.",
        ),
        Misconception(
            "wraps around",
            lambda images: (_rgb(images) - np.uint8(127)) / 128,
            "What is a uint8 pixel of 0 minus 127? Try it.",
            "You subtract while the pixels are still uint8. Those numbers cannot go below zero: "
            "they start again from 255, and dark pixels come out brightest.",
        ),
        Misconception(
            "by its own mean",
            _own_scale,
            "Does a picture come out the same alone and together with others?",
            "You take mean and spread from the pictures at hand. The card's numbers come from the "
            "pictures the network was trained on and never change; with yours, a white pixel means "
            "something else in every batch.",
        ),
    ),
)

# --- ex04.2: the parameters of a head -----------------------------------------------------------


def _a_head(rng, hidden=True, pooled=True):
    shape = tuple(int(n) for n in rng.integers((3, 8, 16), (8, 15, 64)))
    width = int(rng.integers(8, 65)) if hidden else 0
    return shape, width, int(rng.integers(2, 21)), pooled


def _head_pooled(f, rng):
    expect(f((7, 7, 512), 128, 10, True), 67_978, "VGG16's maps (7, 7, 512), pooled, 128 units, 10 "
           "classes: 1,024 + 65,664 + 1,290")  # fmt: skip


def _head_flattened(f, rng):
    expect(f((5, 7, 4), 3, 2, False), 711, "maps (5, 7, 4) flattened to 140 numbers, 3 units, 2 "
           "classes: 280 + 423 + 8")  # fmt: skip
    _, hidden, classes, _ = _a_head(rng)
    expect(
        f((1, 1, 96), hidden, classes, False),
        f((1, 1, 96), hidden, classes, True),
        f"a map of one place only, {hidden} units, {classes} classes, flattened or pooled",
    )


def _head_linear(f, rng):
    expect(f((7, 7, 1280), 0, 8, True), 12_808, "a linear probe: maps (7, 7, 1280), pooled, no "
           "hidden layer, 8 classes: 2,560 + 10,248")  # fmt: skip
    shape, hidden, classes, pooled = _a_head(rng)
    more = f(shape, hidden, classes + 1, pooled) - f(shape, hidden, classes, pooled)
    expect(more, hidden + 1, f"what one more class costs after {hidden} units")


def _counted(norm=2, bias=1, pool=True, blind=False):
    def wrong(shape, hidden, classes, pooled):
        d = shape[2] if pooled and pool else shape[0] * shape[1] * shape[2]
        widths = [d, hidden, classes] if hidden or blind else [d, classes]
        dense = sum((a + bias) * b for a, b in pairwise(widths))
        return norm * d + dense

    return wrong


COUNT = Task(
    id="ex04.2",
    title="How many numbers does a head train?",
    function="head_parameters",
    taught="04#Pooled or flattened",
    parts=(
        Part("pooled", 1, _head_pooled),
        Part("flattened", 1, _head_flattened),
        Part("without a hidden layer, and one more class", 1, _head_linear),
    ),
    probes=lambda rng: [_a_head(rng), _a_head(rng, pooled=False), _a_head(rng, hidden=False)],
    misconceptions=(
        Misconception(
            "biases forgotten",
            _counted(bias=0),
            "What does a dense unit add to the weighted sum of its inputs?",
            "Each unit of a dense layer has a bias beside its weights, so it counts one more than "
            "its inputs.",
        ),
        Misconception(
            "pooled counted as flattened",
            _counted(pool=False),
            "How many numbers are left of a 7 × 7 map once it is averaged?",
            "Pooling averages over height and width: one number a channel remains, and the dense "
            "layer sees only those.",
        ),
        Misconception(
            "running statistics counted",
            _counted(norm=4),
            "Which of BatchNorm's four numbers a channel does the optimizer move?",
            "The running mean and variance follow the data, no gradient moves them. They are "
            "stored with the model and are not trained.",
        ),
        Misconception(
            "BatchNorm left out",
            _counted(norm=0),
            "Which layers of this head have something to learn?",
            "BatchNorm learns a scale and a shift for each of its inputs.",
        ),
        Misconception(
            "the notebook's formula as it stands",
            _counted(norm=0, blind=True),
            "Which layers does this head have that the formula in the notebook does not know?",
            "That formula is for a head without BatchNorm and with a hidden layer. Here there is "
            "BatchNorm, and the hidden layer may be missing.",
        ),
        Misconception(
            "a layer of no units",
            _counted(blind=True),
            "What do the scores read if there is no hidden layer?",
            "You put a layer with no units between the features and the scores: only the biases "
            "of the scores are then left. Without a hidden layer the scores read the features.",
        ),
    ),
)

# --- ex04.3: cut the head off -------------------------------------------------------------------


def _cut_pytorch(f, pictures, seed):
    import numpy as np
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
            self.relu, self.pool, self.fc = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

        def forward(self, x):
            x = self.stem(x)
            x = self.relu(x + self.block(x))
            return self.fc(self.pool(x).flatten(1))

    rng, model = np.random.default_rng(seed), Network()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                drawn = rng.normal(scale=0.3, size=value.shape)
                value.copy_(torch.from_numpy(drawn if value.ndim > 1 else 0.5 + abs(drawn)))
        x = torch.from_numpy(pictures).float().permute(0, 3, 1, 2)
        probabilities = model.eval()(x).softmax(1)
    head = model.fc
    W, b = head.weight.detach().clone().T, head.bias.detach().clone()
    features = f(model.train(), x)  # in training mode, as a training loop leaves it
    shape, kept = list(np.shape(features)), getattr(model, "fc", None) is head
    if shape != [len(pictures), 8]:
        return {"shape": shape}
    made = {"W": W, "b": b, "probabilities": probabilities, "kept": kept}
    return made | {"shape": shape, "features": features}


def _cut_keras(f, pictures, seed):
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    tf.get_logger().setLevel("ERROR")  # a new model each time: no news that predict is traced anew
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    out = layers.Conv2D(8, 3, padding="same", name="block")(x)
    out = layers.BatchNormalization(name="block_norm")(out)
    x = layers.ReLU(name="relu")(layers.Add(name="sum")([x, out]))
    x = layers.Dense(5, name="scores")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(image, layers.Softmax(name="softmax")(x))
    rng, drawn = np.random.default_rng(seed), []
    for weight in model.get_weights():
        value = rng.normal(scale=0.3, size=weight.shape)
        drawn.append(value if weight.ndim > 1 else 0.5 + abs(value))
    model.set_weights(drawn)
    x = pictures.astype("float32")
    W, b = model.get_layer("scores").get_weights()
    probabilities = model(x, training=False).numpy()
    features = f(model, x)
    shape = list(np.shape(features))
    if shape != [len(pictures), 8]:
        return {"shape": shape}
    made = {"W": W, "b": b, "probabilities": probabilities, "kept": True}
    return made | {"shape": shape, "features": features}


def _for_the_cut(rng, n=6):
    return rng.normal(size=(n, 6, 6, 3)), int(rng.integers(2**31))


def _cut_to_eight(f, pictures, seed):
    made = f(pictures, seed)
    what = f"shape of the features of {len(pictures)} pictures; the last map has 8 channels"
    expect(made["shape"], [len(pictures), 8], what)
    return made


def _cut_shape(f, rng):
    _cut_to_eight(f, *_for_the_cut(rng))


def _cut_rejoined(f, rng):
    made = _cut_to_eight(f, *_for_the_cut(rng))
    F = np.asarray(made["features"])
    scores = F @ made["W"] + made["b"]
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    answers, wanted = e / e.sum(axis=1, keepdims=True), made["probabilities"]
    for row in range(len(F)):
        what = "your features of a picture through the last dense layer and a softmax, against "
        expect(answers[row], wanted[row], what + "the model's own answer", 1e-4)


def _cut_alone(f, rng):
    pictures, seed = _for_the_cut(rng)
    among, alone = (_cut_to_eight(f, x, seed) for x in (pictures, pictures[:2]))
    for row in range(2):
        two, six = (np.asarray(made["features"])[row] for made in (alone, among))
        expect(two, six, "a picture's features in a batch of two, against those among six", 1e-4)
    require(among["kept"], "the model that you were given has lost its last layer: others use it")


def _torch_map(model, x, shortcut=True, relu=True):
    import torch

    with torch.no_grad():
        x = model.eval().stem(x)
        x = x + model.block(x) if shortcut else model.block(x)
        return model.relu(x) if relu else x


def _torch_scores(model, x):
    import torch

    with torch.no_grad():
        return model.eval()(x)


def _torch_training(model, x):
    import copy

    import torch

    cut = copy.deepcopy(model).train()
    cut.fc = torch.nn.Identity()
    with torch.no_grad():
        return cut(x)


def _keras_at(name, training=False, then=lambda maps: maps):
    def wrong(model, x):
        import keras

        out = keras.Model(model.input, model.get_layer(name).output)(x, training=training)
        return then(out.numpy())

    return wrong


def _over_places(maps):
    return maps.mean(axis=(1, 2))


def _keras_without_shortcut(model, x):
    for layer in model.layers[1:]:
        if layer.name not in ("sum", "scores", "softmax"):
            x = layer(x, training=False)
    return x


CUT = Task(
    id="ex04.3",
    title="Cut the head off",
    function="features_of",
    taught="04#Cut the head off",
    parts=(
        Part("one number a channel", 1, _cut_shape),
        Part("the last layer gives the answers back", 2, _cut_rejoined),
        Part("each picture for itself, and the model as it was", 1, _cut_alone),
    ),
    probes=lambda rng: [_for_the_cut(rng), _for_the_cut(rng, 3)],
    harness={"tensorflow": _cut_keras, "pytorch": _cut_pytorch},
    misconceptions=(
        Misconception(
            "the scores",
            dict(tensorflow=_keras_at("scores"), pytorch=_torch_scores),
            "What do your numbers stand for: channels of the last map, or the old classes?",
            "You return one number for each of the old classes. The dense layer that makes them is "
            "still in: the last layer of a list need not be the one you want to lose.",
        ),
        Misconception(
            "before the last ReLU",
            dict(
                tensorflow=_keras_at("sum", then=_over_places),
                pytorch=lambda model, x: _torch_map(model, x, relu=False).mean((2, 3)),
            ),
            "Are any of your features negative? Can an average of what a ReLU gives be?",
            "You read the sum, one step too early. What the last layer was trained on comes after "
            "the ReLU.",
        ),
        Misconception(
            "the shortcut lost",
            dict(
                tensorflow=_keras_without_shortcut,
                pytorch=lambda model, x: _torch_map(model, x, shortcut=False).mean((2, 3)),
            ),
            "Follow a picture through the network: where are two things added?",
            "You run the layers one after the other. How they are joined is not in the list of "
            "layers; here the input of the block is added to its output.",
        ),
        Misconception(
            "not pooled",
            dict(tensorflow=_keras_at("relu"), pytorch=_torch_map),
            "How many dimensions has your result, and how many has what the last layer takes?",
            "You return the map with all its places. The last layer reads the average over them, "
            "one number a channel.",
        ),
        Misconception(
            "flattened",
            dict(
                tensorflow=_keras_at("relu", then=lambda maps: maps.reshape(len(maps), -1)),
                pytorch=lambda model, x: _torch_map(model, x).flatten(1),
            ),
            "How many numbers does your vector have, and how many does the last layer take?",
            "You lay the whole map out in a row, place by place. The last layer reads the average "
            "over the places, one number a channel.",
        ),
        Misconception(
            "training mode",
            dict(tensorflow=_keras_at("pool", training=True), pytorch=_torch_training),
            "Give two pictures alone, then among others. Do their features stay?",
            "In training mode BatchNorm takes mean and variance from the batch, so a picture's "
            "features depend on its company. Turning gradients off does not change that.",
        ),
    ),
)

# --- ex04.4: freeze the backbone ----------------------------------------------------------------


def _freeze_pytorch(f, pictures, labels, seed):
    from collections import OrderedDict

    import numpy as np
    import torch
    from torch import nn

    backbone = [("conv", nn.Conv2d(3, 4, 3)), ("norm", nn.BatchNorm2d(4)), ("relu", nn.ReLU())]
    backbone += [("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())]
    head = [("hidden", nn.Linear(4, 5)), ("tanh", nn.Tanh()), ("scores", nn.Linear(5, 3))]
    parts = {"backbone": backbone, "head": head}
    model = nn.Sequential(
        OrderedDict((name, nn.Sequential(OrderedDict(part))) for name, part in parts.items())
    )
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for value in model.parameters():
            drawn = rng.normal(scale=0.5, size=value.shape)
            value.copy_(torch.from_numpy(drawn if value.ndim > 1 else 0.5 + abs(drawn)))
    x, y = torch.from_numpy(pictures).float().permute(0, 3, 1, 2), torch.from_numpy(labels)
    before = {name: value.clone() for name, value in model.train().state_dict().items()}
    f(model)
    learning = [value for value in model.parameters() if value.requires_grad]
    if learning:
        optimizer = torch.optim.SGD(learning, lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    after = model.state_dict()
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    of_backbone = [name for name in moved if name.startswith("backbone")]
    statistics = [name for name in of_backbone if "running" in name or "tracked" in name]
    if "backbone.conv.weight" in moved:
        # The statistics are the lesser trouble then; and BatchNorm cancels the bias before it.
        of_backbone = [name for name in of_backbone if name != "backbone.conv.bias"]
    return {
        "weights": [name for name in of_backbone if name not in statistics],
        "statistics": "not looked at" if "backbone.conv.weight" in moved else statistics,
        "head": [name for name in before if name.startswith("head") and name not in moved],
    }


def _freeze_keras(f, pictures, labels, seed):
    import keras
    import numpy as np
    from keras import layers

    image = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(image))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x))
    backbone = keras.Model(image, x, name="backbone")
    head = [layers.Dense(5, activation="tanh", name="hidden"), layers.Dense(3, name="scores")]
    model = keras.Sequential([keras.Input((6, 6, 3)), backbone, *head])
    rng, drawn = np.random.default_rng(seed), []
    for weight in model.get_weights():
        value = rng.normal(scale=0.5, size=weight.shape)
        drawn.append(value if weight.ndim > 1 else 0.5 + abs(value))
    model.set_weights(drawn)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.make_train_function()
    compiled, x = model.train_function, pictures.astype("float32")
    weights = [(layer, w) for layer in backbone.layers for w in layer.weights]
    weights += [(layer, w) for layer in head for w in layer.weights]
    names = [f"{layer.name}/{weight.name}" for layer, weight in weights]
    before = [weight.numpy() for _, weight in weights]
    f(model)
    if model.train_function is compiled:
        # A step that was traced before goes on training all it was traced for.
        for layer in (*backbone.layers, *head, backbone, model):
            layer.trainable = True
    model.run_eagerly, model.train_function = True, None  # tracing would take most of the time
    if model.trainable_variables:
        for _ in range(2):
            model.train_on_batch(x, labels)
    pairs = zip(names, before, weights, strict=True)
    moved = [name for name, old, (_, new) in pairs if not np.array_equal(old, new.numpy())]
    of_backbone = [name for name in moved if name.startswith(("conv", "norm"))]
    statistics = [name for name in of_backbone if "moving" in name]
    if "conv/kernel" in moved:
        # The statistics are the lesser trouble then; and BatchNorm cancels the bias before it.
        of_backbone = [name for name in of_backbone if name != "conv/bias"]
    return {
        "weights": [name for name in of_backbone if name not in statistics],
        "statistics": "not looked at" if "conv/kernel" in moved else statistics,
        "head": [n for n in names if n.startswith(("hidden", "scores")) and n not in moved],
    }


def _for_freezing(rng):
    labels = rng.permutation(np.arange(9) % 3)
    return rng.normal(size=(9, 6, 6, 3)), labels, int(rng.integers(2**31))


def _frozen_weights(f, rng):
    moved = f(*_for_freezing(rng))["weights"]
    require(not moved, f"in two steps weights of the backbone moved: {', '.join(moved)}")


def _frozen_statistics(f, rng):
    moved = f(*_for_freezing(rng))["statistics"]
    if isinstance(moved, str):
        require(False, "this was not looked at, since the backbone's own weights move")
    require(not moved, f"in two steps these statistics of BatchNorm moved: {', '.join(moved)}")


def _head_learns(f, rng):
    still = f(*_for_freezing(rng))["head"]
    require(not still, f"in two steps these weights of the head did not move: {', '.join(still)}")


def _torch_freeze(named, evaluation=True):
    """Freeze the parameters for which `named` is true of name and position from the end."""

    def wrong(model):
        parameters = list(model.named_parameters())
        for k, (name, parameter) in enumerate(parameters):
            parameter.requires_grad = not named(name, k - len(parameters))
        if evaluation:
            model.backbone.eval()

    return wrong


def _torch_flag(model):
    model.backbone.requires_grad = False
    model.backbone.eval()


def _keras_freeze(freeze, again=True):
    def wrong(model):
        freeze(model, model.get_layer("backbone"))
        if again:
            model.compile(model.optimizer, model.loss)

    return wrong


def _all_of_it(model, backbone):
    model.trainable = False


def _only_the_backbone(model, backbone):
    backbone.trainable = False


def _not_the_norms(model, backbone):
    for layer in backbone.layers:
        layer.trainable = "norm" in layer.name


def _kernels(model, backbone):
    for layer in backbone.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.trainable = False
        else:
            layer.trainable = False


def _all_but_one(model, backbone):
    for layer in model.layers[:-1]:
        layer.trainable = False


FREEZE = Task(
    id="ex04.4",
    title="Freeze the backbone and nothing else",
    function="freeze",
    taught="04#Evaluation mode and the range of the input",
    parts=(
        Part("the backbone's weights stay", 1, _frozen_weights),
        Part("its BatchNorm statistics stay", 2, _frozen_statistics),
        Part("the head learns", 1, _head_learns),
    ),
    probes=lambda rng: [_for_freezing(rng)],
    harness={"tensorflow": _freeze_keras, "pytorch": _freeze_pytorch},
    misconceptions=(
        Misconception(
            "the head too",
            dict(
                tensorflow=_keras_freeze(_all_of_it),
                pytorch=_torch_freeze(lambda name, k: True),
            ),
            "How many trainable parameters are left after your function?",
            "You freeze the whole model, the new head with it, and nothing is left to learn.",
        ),
        Misconception(
            "BatchNorm moves on",
            dict(
                tensorflow=_keras_freeze(_not_the_norms),
                pytorch=_torch_freeze(lambda name, k: "backbone" in name, evaluation=False),
            ),
            "Print BatchNorm's running mean before and after a step.",
            "What BatchNorm does in training is a matter of its mode, not of gradients: it takes "
            "mean and variance from the batch and lets its running ones follow. In PyTorch "
            "requires_grad does not touch that; in Keras a BatchNorm layer stops once it is itself "
            "not trainable.",
        ),
        Misconception(
            "weights without biases",
            dict(
                tensorflow=_keras_freeze(_kernels),
                pytorch=_torch_freeze(lambda name, k: "backbone" in name and "weight" in name),
            ),
            "Look at the names of all parameters of the backbone. Which did you leave out?",
            "A layer has more than its weight matrix. The biases that you left out go on learning "
            "and shift every map.",
        ),
        Misconception(
            "frozen where nobody looks",
            dict(
                tensorflow=_keras_freeze(_only_the_backbone, again=False),
                pytorch=_torch_flag,
            ),
            "Compare the backbone's weights before and after one step. Who has heard of your "
            "freezing?",
            "In PyTorch the optimizer asks each parameter, not the module: a plain attribute of a "
            "module is read by nobody, and evaluation mode stops no optimizer. In Keras the "
            "training step is fixed when it first runs after compile, and goes on training what "
            "was trainable then.",
        ),
        Misconception(
            "half of the head",
            dict(
                tensorflow=_keras_freeze(_all_but_one),
                pytorch=_torch_freeze(lambda name, k: k < -2),
            ),
            "How many layers does the head have?",
            "You count from the end and keep only the very last layer. This head has two, and the "
            "first of them is as new as the second.",
        ),
    ),
)

# --- ex04.5: the H-score ------------------------------------------------------------------------


def _features(rng, dead=0, sizes=(12, 5, 8), d=3):
    y = np.repeat(np.arange(len(sizes)), sizes)
    F = rng.normal(size=(len(y), d)) @ rng.normal(size=(d, d)) + rng.normal(size=(3, d))[y] + 2.0
    return np.c_[F, np.zeros((len(y), dead))], y


def _h_by_hand(f, rng):
    y = np.array([0, 0, 1, 1])
    expect(f(np.array([[0.0], [2.0], [4.0], [6.0]]), y), 0.8, "one feature 0, 2, 4, 6 with labels "
           "0, 0, 1, 1: 16 of 20 lies between the classes")  # fmt: skip
    y = np.array([0, 0, 0, 1])
    expect(f(np.array([[0.0], [0.0], [6.0], [10.0]]), y), 2 / 3, "one feature 0, 0, 6, 10 with "
           "labels 0, 0, 0, 1: 48 of 72 lies between the classes")  # fmt: skip


def _h_changed(f, rng):
    F, y = _features(rng)
    A = rng.normal(size=(3, 3)) + 2 * np.eye(3)
    expect(f(F + 5.0, y), f(F, y), "5 added to every feature")
    expect(f(F @ A, y), f(F, y), "features mixed by an invertible matrix", 1e-5)
    expect(f(F, (y + 1) % 3), f(F, y), "the same classes under other numbers")


def _h_limits(f, rng):
    _, y = _features(rng)
    corners = rng.normal(size=(3, 2))
    expect(f(corners[y], y), 2.0, "each of three classes at a point of its own", 1e-5)
    expect(f(np.tile([[0.0], [1.0]], (4, 1)), np.repeat([0, 1], 4)), 0.0, "class means that agree")


def _h_dead(f, rng):
    F, y = _features(rng)
    expect(f(np.c_[F, np.zeros(len(F))], y), f(F, y), "a feature more that is 0 for all pictures")


def _spreads(F, y, centred=True, alike=False, of_labels=None):
    """The covariance of features, and that of their class means."""
    F = F - F.mean(axis=0) if centred else F
    classes = np.unique(y)
    if alike:
        means = np.array([F[y == c].mean(axis=0) for c in classes])
    else:
        means = np.zeros(F.shape)
        for c in classes:
            means[y == c] = F[y == c].mean(axis=0)
    return F.T @ F / len(F), means.T @ means / len(means)


def _h(of_spreads, **changes):
    return lambda F, y: float(np.trace(of_spreads(*_spreads(F, y, **changes))))


def _labels_as_numbers(F, y):
    F, y = F - F.mean(axis=0), y - y.mean()
    slope = y @ F / (y @ y)
    means = y[:, None] * slope
    return float(np.trace(np.linalg.pinv(F.T @ F) @ means.T @ means))


def _unequal_divisors(F, y):
    _, between = _spreads(F, y)
    return float(np.trace(np.linalg.pinv(np.cov(F.T).reshape(F.shape[1], -1)) @ between))


H_SCORE = Task(
    id="ex04.5",
    title="Rank networks by the H-score",
    function="h_score",
    taught="04#Which network and layer, before training anything?",
    parts=(
        Part("by hand", 1, _h_by_hand),
        Part("what must not change it", 1, _h_changed),
        Part("its limits", 1, _h_limits),
        Part("a dead feature", 1, _h_dead),
    ),
    probes=lambda rng: [_features(rng), _features(rng, dead=2)],
    misconceptions=(
        Misconception(
            "not centred",
            _h(lambda total, between: np.linalg.pinv(total) @ between, centred=False),
            "Add 5 to all features. Does the score stay?",
            "You take products of the features themselves. A covariance is about deviations from "
            "the mean; without that the mean alone scores one.",
        ),
        Misconception(
            "classes count alike",
            _h(lambda total, between: np.linalg.pinv(total) @ between, alike=True),
            "How often does the mean of a class with 500 pictures count, and that of one with 5?",
            "You average over the classes. In E[F|y] each picture stands for its class mean, so a "
            "class counts by its number of pictures.",
        ),
        Misconception(
            "spread within in place of all",
            _h(lambda total, between: np.linalg.pinv(total - between) @ between),
            "What should come out where every class sits at one point?",
            "You divide by the spread within the classes, as Fisher's criterion does. The H-score "
            "is a share of the whole spread, so it has an upper limit.",
        ),
        Misconception(
            "labels as numbers",
            _labels_as_numbers,
            "Give the classes other numbers. Does the score stay?",
            "You treat the label as a quantity, as if class 2 lay twice as far as class 1. It is "
            "only a name.",
        ),
        Misconception(
            "each feature for itself",
            _h(lambda total, between: between / np.maximum(np.diag(total), 1e-12)),
            "Give the same feature twice. Does the score double?",
            "You divide by the variances and leave the correlations out, so what two features "
            "both say counts twice.",
        ),
        Misconception(
            "plain inverse",
            _h(lambda total, between: np.linalg.inv(total) @ between),
            "After a ReLU some features are zero for all pictures. What is their variance?",
            "A covariance with a dead feature, or with more features than pictures, has no "
            "inverse. Where there is no spread there is nothing to share out.",
        ),
        Misconception(
            "n and n − 1",
            _unequal_divisors,
            "By which number do you divide in the one covariance, and by which in the other?",
            "np.cov divides by n − 1; your class means are averaged over n. The share is then too "
            "small by a factor (n − 1)/n.",
        ),
    ),
)

# --- ex04.6: nearest neighbours -----------------------------------------------------------------


def _vectors(rng, n=9, d=4):
    F = rng.random((n, d)) * rng.uniform(0.2, 5.0, (n, 1))
    return F, int(rng.integers(n)), 4


def _twins():
    """Rows 0 and 2 are copies; their cosine is 1 exactly, in floating point too."""
    return np.array([[2.0, 0, 0], [1, 4, 0], [2, 0, 0], [2, 1, 0], [1, 9, 1]])


def _nearest_by_hand(f, rng):
    F = np.array([[1.0, 0.0], [9.0, 1.0], [1.0, 1.0], [0.0, 2.0], [1.0, 0.5]])
    what = "five vectors at 0°, 6°, 45°, 90° and 27°"
    expect(f(F, 0, 3), np.array([1, 4, 2]), f"{what}: the three nearest to the first")
    expect(f(F, 3, 2), np.array([2, 4]), f"{what}: the two nearest to the one at 90°")


def _nearest_itself(f, rng):
    F, row, _ = _vectors(rng)
    found = [int(r) for r in f(F, row, len(F) - 1)]
    others = sorted(set(range(len(F))) - {row})
    expect(sorted(found), others, f"all eight neighbours of row {row} among nine, sorted")
    expect(f(_twins(), 2, 1), np.array([0]), "row 2, of which row 0 is an exact copy")
    expect(f(_twins(), 0, 1), np.array([2]), "row 0, of which row 2 is an exact copy")


def _nearest_cells(f, rng):
    cells = _photographs()[rng.choice(len(_photographs()), 100, replace=False)]
    F = cells.reshape(len(cells), -1).astype(float)
    for row in rng.choice(len(F), 3, replace=False):
        dark = np.r_[F, 0.4 * F[row : row + 1]]
        what = f"100 solar cells, and cell {row} once more at 0.4 of the exposure"
        expect(f(dark, len(F), 1), np.array([row]), f"{what}: what is nearest to the dark one")
        expect(f(dark, int(row), 1), np.array([len(F)]), f"{what}: what is nearest to cell {row}")


def _near(similarity, drop=0, itself=False, from_behind=False):
    def wrong(F, row, k):
        similar = similarity(F, row)
        order = np.argsort(similar, kind="stable")[::-1]
        if not from_behind:
            order = np.argsort(-similar, kind="stable")
        return (order if itself else order[order != row])[drop:][:k]

    return wrong


def _cosine(F, row):
    unit = F / np.linalg.norm(F, axis=1, keepdims=True)
    return unit @ unit[row]


DROPPED = (
    "What stands in the first place if the data hold an exact copy of the row?",
    "You drop whatever comes first. Where a picture has a double, that may be the double, and the "
    "picture itself stays.",
)

NEIGHBOURS = Task(
    id="ex04.6",
    title="Nearest neighbours by cosine",
    function="neighbours",
    taught="04#Look at the neighbours",
    parts=(
        Part("by hand", 2, _nearest_by_hand),
        Part("all but itself", 1, _nearest_itself),
        Part("solar cells at another exposure", 1, _nearest_cells),
    ),
    probes=lambda rng: [_vectors(rng), _vectors(rng, 20, 3), (_twins(), 2, 3), (_twins(), 0, 3)],
    misconceptions=(
        Misconception(
            "plain product",
            _near(lambda F, row: F @ F[row]),
            "Make one of the vectors ten times as long. Does it come nearer to all others?",
            "A product of vectors that are not of length one grows with their length, so a few "
            "long vectors are everybody's neighbours.",
        ),
        Misconception(
            "itself among them",
            _near(_cosine, itself=True),
            "Is the row that you ask about among your answers?",
            "Nothing is nearer to a picture than the picture itself. It takes the first place and "
            "says nothing.",
        ),
        Misconception(
            "first place dropped",
            _near(_cosine, drop=1, itself=True),
            *DROPPED,
        ),
        Misconception(
            "first place dropped, sorted from behind",
            _near(_cosine, drop=1, itself=True, from_behind=True),
            *DROPPED,
        ),
        Misconception(
            "farthest first",
            _near(lambda F, row: -_cosine(F, row)),
            "Is a large cosine near or far? And which end does a sort begin with?",
            "A sort begins with the smallest, and the smallest cosine belongs to the vector that "
            "is farthest away.",
        ),
        Misconception(
            "Euclidean",
            _near(lambda F, row: -np.linalg.norm(F - F[row], axis=1)),
            "Is the same photograph at half the exposure your nearest neighbour?",
            "You take the distance between the points. The cosine looks at the direction alone, so "
            "the same pattern at another strength stays near.",
        ),
    ),
)

# --- ex04.7: find the bug -----------------------------------------------------------------------


def _extract_pytorch(f, pictures, labels, seed):
    import numpy as np
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 5, 3, stride=2), nn.BatchNorm2d(5)

        def forward(self, x):
            maps = torch.relu(self.norm(self.conv(x)))
            return torch.cat([x.mean((2, 3)), maps.mean((2, 3))], dim=1)  # colour, then the rest

    rng, model = np.random.default_rng(seed), Network()
    x = torch.from_numpy(pictures).float().permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        for value in model.parameters():
            drawn = rng.normal(scale=0.3, size=value.shape)
            value.copy_(torch.from_numpy(drawn if value.ndim > 1 else 0.5 + abs(drawn)))
        true = model.eval()(x).numpy()
    model.requires_grad_(False)
    order = torch.Generator().manual_seed(seed)
    data = TensorDataset(x, torch.from_numpy(labels))
    loader = DataLoader(data, batch_size=8, shuffle=True, generator=order)
    made = f(model.train(), loader)  # in training mode, as a training loop leaves it
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        return {"returned": type(made).__name__}
    F, y = (np.asarray(a.detach() if hasattr(a, "detach") else a) for a in made)
    counts = {"rows": list(F.shape), "labels": list(y.shape)}
    if F.ndim != 2 or F.shape[1:] != true.shape[1:] or y.shape != F.shape[:1]:
        return counts

    def share(right):
        return "all" if right == 1 else "most" if right > 0.5 else "few or none"

    # BatchNorm does not touch the mean colour: it tells which picture a row belongs to.
    row = abs(F[:, None, :3] - true[None, :, :3]).max(axis=2).argmin(axis=1)
    return counts | {
        "pictures": len(set(row.tolist())),
        "right label": share((labels[row] == y).mean()),
        "right features": share((abs(F - true[row]).max(axis=1) < 1e-3).mean()),
    }


def _extract_keras(f, pictures, labels, seed):
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    tf.get_logger().setLevel("ERROR")  # a new model each time: no news that predict is traced anew
    image = keras.Input((28, 28, 3))
    maps = layers.BatchNormalization()(layers.Conv2D(5, 3, strides=2)(image))
    ends = [layers.GlobalAveragePooling2D()(m) for m in (image, layers.ReLU()(maps))]
    model = keras.Model(image, layers.Concatenate()(ends))  # colour, then the rest
    rng, drawn = np.random.default_rng(seed), []
    for weight in model.get_weights():
        value = rng.normal(scale=0.3, size=weight.shape)
        drawn.append(value if weight.ndim > 1 else 0.5 + abs(value))
    model.set_weights(drawn)
    x = pictures.astype("float32") / 127.5 - 1
    true = model(x, training=False).numpy()
    data = tf.data.Dataset.from_tensor_slices((x, labels))
    made = f(model, data.shuffle(len(x), seed=seed).batch(8))
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        return {"returned": type(made).__name__}
    F, y = np.asarray(made[0]), np.asarray(made[1])
    counts = {"rows": list(F.shape), "labels": list(y.shape)}
    if F.ndim != 2 or F.shape[1:] != true.shape[1:] or y.shape != F.shape[:1]:
        return counts

    def share(right):
        return "all" if right == 1 else "most" if right > 0.5 else "few or none"

    # BatchNorm does not touch the mean colour: it tells which picture a row belongs to.
    row = abs(F[:, None, :3] - true[None, :, :3]).max(axis=2).argmin(axis=1)
    return counts | {
        "pictures": len(set(row.tolist())),
        "right label": share((labels[row] == y).mean()),
        "right features": share((abs(F - true[row]).max(axis=1) < 1e-3).mean()),
    }


def _for_extraction(rng):
    pictures, labels = _drawings()
    rows = rng.choice(len(pictures), 20, replace=False)
    return pictures[rows], labels[rows], int(rng.integers(2**31))


def _extracted(f, rng):
    made = f(*_for_extraction(rng))
    come = made.get("returned")
    require(come is None, f"expected two things, features and labels; what comes back is a {come}")
    expect(made["rows"], [20, 8], "shape of the features of 20 pictograms in batches of 8")
    expect(made["labels"], [20], "shape of the labels of 20 pictograms in batches of 8")
    return made


def _extract_all(f, rng):
    expect(_extracted(f, rng)["pictures"], 20, "how many of 20 pictograms are among your rows")


def _extract_labels(f, rng):
    right = _extracted(f, rng)["right label"]
    expect(right, "all", "of 20 pictograms, how many have the label of their own picture")


def _extract_features(f, rng):
    right = _extracted(f, rng)["right features"]
    expect(right, "all", "of 20 pictograms, how many have the features that evaluation mode gives")


def _torch_extract(train=False, passes=1, last=False):
    def wrong(model, loader):
        import torch

        model.train(train)
        with torch.no_grad():
            made = [(model(x), y) for x, y in loader][-1 if last else 0 :]
            if passes == 2:
                made = [(F, y) for (F, _), (_, y) in zip(made, loader, strict=True)]
        return tuple(torch.cat(parts) for parts in zip(*made, strict=True))

    return wrong


def _keras_extract(train=False, passes=1, last=False):
    def wrong(model, loader):
        made = [(model(x, training=train), y) for x, y in loader][-1 if last else 0 :]
        if passes == 2:
            made = [(F, y) for (F, _), (_, y) in zip(made, loader, strict=True)]
        return tuple(np.concatenate(parts) for parts in zip(*made, strict=True))

    return wrong


def _extracts(**how):
    return dict(tensorflow=_keras_extract(**how), pytorch=_torch_extract(**how))


EXTRACT = Task(
    id="ex04.7",
    title="Mend the extraction that knows nothing",
    function="extract",
    taught="04#Extract once",
    parts=(
        Part("every picture", 1, _extract_all),
        Part("each label beside its picture", 2, _extract_labels),
        Part("features of evaluation mode", 2, _extract_features),
    ),
    probes=lambda rng: [_for_extraction(rng)],
    harness={"tensorflow": _extract_keras, "pytorch": _extract_pytorch},
    misconceptions=(
        Misconception(
            "as it was",
            _extracts(train=True, passes=2),
            "There are two bugs. What does the loader do when it is asked a second time? And what "
            "does BatchNorm do while features are taken?",
            "A shuffling loader deals a new order in every pass, so these labels belong to other "
            "pictures; and in training mode the features depend on the batch. Neither raises an "
            "error.",
        ),
        Misconception(
            "two passes",
            _extracts(passes=2),
            "Go through the loader twice and print the labels. Are they the same?",
            "A shuffling loader deals a new order in every pass. Features of one pass and labels "
            "of another do not belong together.",
        ),
        Misconception(
            "training mode",
            _extracts(train=True),
            "Extract twice. Does a picture get the same features both times?",
            "BatchNorm takes mean and variance from the batch that a picture happens to be in. The "
            "labels are right now, and the features still are not.",
        ),
        Misconception(
            "only the last batch",
            _extracts(last=True),
            "How many rows come back for 20 pictures?",
            "Each turn of your loop overwrites what the turn before has made.",
        ),
    ),
)

TASKS = (INPUT, COUNT, CUT, FREEZE, H_SCORE, NEIGHBOURS, EXTRACT)
