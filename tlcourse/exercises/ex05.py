"""Exercise set 5: fine-tuning (notebook 05)."""

import os
import re
from functools import lru_cache

import numpy as np

from .kit import Misconception, Part, Task, expect, require

# --- ex05.1: unfreeze the top -------------------------------------------------------------------


def _unfrozen_pytorch(f, k, rate, blocks):
    """What one training step changes in a small network of so many blocks after f."""
    from collections import OrderedDict

    import torch
    from torch import nn

    torch.manual_seed(0)

    def part(channels):
        layers = [("conv", nn.Conv2d(channels, 4, 1)), ("norm", nn.BatchNorm2d(4))]
        return nn.Sequential(OrderedDict([*layers, ("act", nn.Tanh())]))

    parts = [("stem", part(3)), *((f"block{i + 1}", part(4)) for i in range(blocks))]
    parts += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    model = nn.Sequential(
        OrderedDict([*parts, ("drop", nn.Dropout(0.2)), ("head", nn.Linear(4, 3))])
    )
    model.requires_grad_(False).eval()
    model.head.requires_grad_(True)
    optimizer = f(model, k, rate)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"it returned a {type(optimizer).__name__}; expected an optimizer")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 2, 2)), torch.arange(8) % 3)
    if loss.requires_grad:
        loss.backward()
        optimizer.step()
    after = model.state_dict()
    moved = set()
    for name in after:
        if not before[name].equal(after[name]):
            layer, _, kind = name.rpartition(".")
            statistic = kind.startswith(("running", "num"))
            moved.add(layer.replace(".", " ") + " statistics" * statistic)
    return {
        "moved": sorted(moved),
        "rates": sorted({group["lr"] for group in optimizer.param_groups}),
        "dropout": model.drop.training,
        "flags": [name for name, p in model.named_parameters() if p.requires_grad],
    }


def _unfrozen_keras(f, k, rate, blocks):
    """What training changes in a small network of so many blocks after f.

    Training follows the flags that stood when the model was last compiled; so no step is run.
    """
    import keras
    import numpy as np
    from keras import layers

    trained = []

    def note(model):
        found = {weight.path.split("/")[0].replace("_", " ") for weight in model.trainable_weights}
        trained[:] = [*found, *(f"{name} statistics" for name in found if name.endswith("norm"))]

    class Noted(keras.Model):
        def compile(self, *arguments, **options):
            super().compile(*arguments, **options)
            note(self)

    inputs = x = keras.Input((2, 2, 3))
    for name in ("stem", *(f"block{i + 1}" for i in range(blocks))):
        x = layers.Conv2D(4, 1, name=f"{name}_conv")(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.Activation("tanh", name=f"{name}_act")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="drop")(x)
    model = Noted(inputs, layers.Dense(3, name="head")(x))
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile(keras.optimizers.Adam(0.5), "mse")
    f(model, k, rate)
    return {
        "moved": sorted(trained),
        "rates": [round(float(model.optimizer.learning_rate), 9)],
        "dropout": True,
        "flags": [layer.name for layer in model.layers if layer.trainable_weights],
        "loss": float(model.compute_loss(None, np.array([0]), np.array([[2.0, 0.0, 0.0]], "f4"))),
    }


def _moved(f, k, blocks):
    moved = f(k, 0.25, blocks)["moved"]
    norms = [name for name in moved if "norm" in name]
    return [[name for name in moved if name not in norms], norms]


def _top_trains(f, rng):
    for blocks, k in ((4, 1), (4, 3), (11, 2)):
        wanted = sorted([*(f"block{blocks - i} conv" for i in range(k)), "head"])
        got, _ = _moved(f, k, blocks)
        expect(got, wanted, f"{blocks} blocks, k = {k}: what training changes, BatchNorm aside")


def _norms_stay(f, rng):
    for blocks, k in ((4, 1), (4, 3)):
        got, norms = _moved(f, k, blocks)
        require(got, f"{blocks} blocks, k = {k}: nothing is trained at all")
        expect(norms, [], f"{blocks} blocks, k = {k}: BatchNorm layers that training changes")


def _no_block(f, rng):
    expect(_moved(f, 0, 4), [["head"], []], "4 blocks, k = 0: what training changes, and BatchNorm")


def _ready(f, rng):
    out = f(2, 0.125, 4)
    expect(out["rates"], [0.125], "rate = 0.125: the rates of the optimizer")
    loss = out.get("loss", 0.23954)
    expect(loss, 0.23954, "the compiled loss for label 0 and logits 2, 0, 0", 1e-3)
    require(out["dropout"], "dropout is switched off: only BatchNorm is to be in inference mode")


def _unfreezing_pytorch(
    first=False, backwards=False, head=True, weights=False, mode="fixed", late=False
):
    def wrong(model, k, rate):
        from torch import nn, optim

        model.train()
        blocks = [part for name, part in model.named_children() if name.startswith("block")]
        chosen = blocks[:k] if first else blocks[-k:] if backwards else blocks[len(blocks) - k :]
        before = [p for p in model.parameters() if p.requires_grad]
        for part in chosen:
            part.requires_grad_(True)
        model.head.requires_grad_(head)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train(mode == "moving")
                if not weights:
                    norm.requires_grad_(False)
        after = [p for p in model.parameters() if p.requires_grad]
        return optim.Adam(before if late else after or list(model.parameters()), lr=rate)

    return wrong


def _unfreezing_keras(
    first=False, backwards=False, head=True, norms="none", late=False, compiles=True
):
    def wrong(model, k, rate):
        import keras

        names = dict.fromkeys(layer.name.split("_")[0] for layer in model.layers)
        blocks = [name for name in names if name.startswith("block")]
        chosen = blocks[:k] if first else blocks[-k:] if backwards else blocks[len(blocks) - k :]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if late:
            model.compile(keras.optimizers.Adam(rate), loss)
        for layer in model.layers:
            name = layer.name.split("_")[0]
            layer.trainable = name in chosen or (head and name == "head")
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = norms == "all" or (norms == "top" and layer.trainable)
        if compiles and not late:
            model.compile(keras.optimizers.Adam(rate), loss)

    return wrong


UNFREEZE = Task(
    id="ex05.1",
    title="Unfreeze the top, and no BatchNorm",
    function="unfreeze_top",
    taught="05#Trap: unfrozen, and still not trained",
    parts=(
        Part("the top blocks train", 2, _top_trains),
        Part("BatchNorm stays", 2, _norms_stay),
        Part("no block at all", 1, _no_block),
        Part("ready for training", 1, _ready),
    ),
    probes=lambda rng: [(int(rng.integers(1, 3)), 0.25, 4), (0, 0.25, 3), (2, 0.5, 3)],
    harness={"tensorflow": _unfrozen_keras, "pytorch": _unfrozen_pytorch},
    misconceptions=(
        Misconception(
            "BatchNorm trains with its block",
            dict(
                tensorflow=_unfreezing_keras(norms="top"),
                pytorch=_unfreezing_pytorch(weights=True, mode="moving"),
            ),
            "Which layers of an unfrozen block hold more than weights?",
            "A BatchNorm that is unfrozen with its block learns from small batches and overwrites "
            "its mean and variance in every training pass. The features that the pretrained "
            "layers behind it were fitted to are gone then.",
        ),
        Misconception(
            "the statistics of frozen blocks move",
            dict(
                tensorflow=_unfreezing_keras(norms="all"),
                pytorch=_unfreezing_pytorch(mode="moving"),
            ),
            "Compare the mean and the variance in the stem's BatchNorm before and after a step.",
            "BatchNorm changes in all blocks, also in those that you froze: no gradient is needed "
            "to overwrite a running mean. It has to be in inference mode everywhere.",
        ),
        Misconception(
            "the bottom blocks",
            dict(tensorflow=_unfreezing_keras(first=True), pytorch=_unfreezing_pytorch(first=True)),
            "At which end of your list of blocks does the picture come in?",
            "You unfreeze the first k blocks. They hold the most general filters; what is "
            "special to the old task sits at the top, next to the head.",
        ),
        Misconception(
            "no block means all blocks",
            dict(
                tensorflow=_unfreezing_keras(backwards=True),
                pytorch=_unfreezing_pytorch(backwards=True),
            ),
            "What is [1, 2, 3][-k:] if k is 0?",
            "A slice from -0 starts at the beginning, so with k = 0 you unfreeze everything. "
            "Whoever compares depths and starts at none then reports the deepest as the probe.",
        ),
        Misconception(
            "unfrozen too late",
            dict(tensorflow=_unfreezing_keras(late=True), pytorch=_unfreezing_pytorch(late=True)),
            "What did the model and the optimizer know at the moment when training was set up?",
            "The flags are right, and only the head trains: what is to be trained was settled "
            "before you unfroze anything. Neither framework says a word.",
        ),
        Misconception(
            "the head is left out",
            dict(tensorflow=_unfreezing_keras(head=False), pytorch=_unfreezing_pytorch(head=False)),
            "Is the head still trained after your function has run?",
            "You freeze the head. It was fitted to features that the unfrozen blocks now change, "
            "and it has to follow them.",
        ),
    ),
)

# --- ex05.2: layer-wise rates -------------------------------------------------------------------


@lru_cache(maxsize=1)
def _lite0():
    """The names of all trainable weights of EfficientNet-Lite0, and its parts, bottom to top."""
    from tlcourse.backbones.spec import LITE

    spec = LITE["efficientnet-lite0"]
    if os.environ.get("TLCOURSE_FRAMEWORK") == "tensorflow":
        from tlcourse.backbones import keras_lite

        names = [weight.path for weight in keras_lite.build(spec).trainable_weights]
    else:
        import torch

        from tlcourse.backbones import torch_lite

        with torch.device("meta"):  # names and shapes, no numbers
            names = [name for name, _ in torch_lite.build(spec).named_parameters()]
    return names, [*spec.cut_points, "classifier"]


def _part_of(name):
    return re.match("[a-z]+[0-9]*", name)[0]


def _some_names(rng, first="stem"):
    names, parts = _lite0()
    kept = parts[parts.index(first) :]
    names = [name for name in names if _part_of(name) in kept]
    return names, parts, 1 + rng.random(), 0.8 + 0.15 * rng.random()


def _every_name(f, rng):
    names, parts = _lite0()
    out = f(names, parts, 1.0, 0.9)
    require(isinstance(out, dict), f"expected a dict from name to rate, got {type(out).__name__}")
    missing = [name for name in names if name not in out]
    require(not missing, f"{len(missing)} weights of Lite0 have no rate, among them {missing[:2]}")
    added = [name for name in out if name not in names]
    require(not added, f"it has a rate for {added[:2]}, which are not among the names")


def _by_part(f, rng):
    names, parts = _lite0()
    out = f(names, parts, 2.0, 0.9)
    below = {"classifier": 0, "head": 1, "block16": 2, "block15": 3, "block10": 8, "block1": 17}
    for part, steps in {**below, "stem": 18}.items():
        for name in (name for name in names if _part_of(name) == part):
            what = f"rate 2, factor 0.9, {name}, {steps} steps below the classifier"
            expect(out[name], 2 * 0.9**steps, what, 1e-9)


def _few_names(f, rng):
    names, parts, rate, factor = _some_names(rng, "block15")
    wanted = f(*_lite0(), rate, factor)
    names = [names[i] for i in rng.permutation(len(names))]
    out = f(names, parts, rate, factor)
    require(sorted(out) == sorted(names), "only block15 and what follows is trained, and the rates "
            "are for other names")  # fmt: skip
    for name in names:
        expect(out[name], wanted[name], f"{name} in a shuffled list of the names from block15 on")


def _layered(steps_below):
    def wrong(names, parts, rate, factor):
        return {
            name: rate * factor ** steps_below(name, parts, len(names) - 1 - number)
            for number, name in enumerate(names)
        }

    return wrong


def _first_prefix(name, parts, _):
    return len(parts) - 1 - next(k for k, part in enumerate(parts) if name.startswith(part))


RATES = Task(
    id="ex05.2",
    title="Layer-wise rates for EfficientNet-Lite0",
    function="layer_rates",
    taught="05#Layer-wise rates, gradual unfreezing, warm-up",
    parts=(
        Part("a rate for every weight", 1, _every_name),
        Part("the rate of each part", 2, _by_part),
        Part("some of the weights", 1, _few_names),
    ),
    probes=lambda rng: [_some_names(rng), _some_names(rng, "block8"), _some_names(rng, "block15")],
    misconceptions=(
        Misconception(
            "upside down",
            _layered(lambda name, parts, _: parts.index(_part_of(name))),
            "Which part of the network learns fastest under your rates?",
            "The stem gets the full rate and the new head the smallest: the general filters are "
            "moved most, and the one layer that is random hardly learns.",
        ),
        Misconception(
            "block1 is taken for block10 to block16",
            _layered(_first_prefix),
            "Look at the rates of block1, block9, block10 and block16, one under the other.",
            "The name of block16 begins with block1. The seven highest blocks, where most of the "
            "weights are, get the rate of the lowest.",
        ),
        Misconception(
            "a step for each tensor",
            _layered(lambda name, parts, below: below),
            "How many different rates are there inside one block?",
            "You go down a step from tensor to tensor. There are 149 of them here, so the rates "
            "vanish, and a kernel and the bias beside it get different ones.",
        ),
        Misconception(
            "the last convolution is taken for the new head",
            _layered(lambda name, parts, _: max(0, len(parts) - 2 - parts.index(_part_of(name)))),
            "How many parts get the full rate?",
            "The part that this network calls head is its last convolution, and it is pretrained. "
            "The new layer is the classifier; the convolution stands one step below it.",
        ),
        Misconception(
            "one rate for the whole body",
            _layered(lambda name, parts, _: int(_part_of(name) != "classifier")),
            "Does the stem get another rate than block16?",
            "You have two rates, one for the new layer and one for all the rest. That is a common "
            "scheme; asked for here is one that goes on falling from part to part.",
        ),
        Misconception(
            "nothing gets the full rate",
            _layered(lambda name, parts, _: len(parts) - parts.index(_part_of(name))),
            "Which rate does the classifier get?",
            "The factor is applied once too often: even the new layer is slowed down.",
        ),
    ),
)

# --- ex05.3: warm-up and decay ------------------------------------------------------------------


def _plan(rng, warm_up=None):
    rows, batch, epochs = int(rng.integers(20, 40)), int(rng.integers(6, 9)), 3
    rows += rows % batch == 0  # the last batch is a short one
    return 1 + rng.random(), rows, batch, epochs, 4 if warm_up is None else warm_up


def _number_of_steps(f, rng):
    for rows, batch, epochs, steps in ((12, 4, 2, 6), (10, 4, 2, 6), (3, 8, 5, 5)):
        what = f"shape for {rows} rows in batches of {batch}, {epochs} epochs"
        expect(np.shape(f(1.0, rows, batch, epochs, 1)), (steps,), what)


def _rises(f, rng):
    out = np.asarray(f(2.0, 10, 4, 4, 4))  # twelve steps
    expect(out[:4], np.array([0.5, 1.0, 1.5, 2.0]), "rate 2, four steps of warm-up")
    expect(out.max(), 2.0, "the largest rate of all")


def _falls(f, rng):
    out = np.asarray(f(1.0, 10, 4, 4, 4))
    expect(out[4:], np.arange(8, 0, -1) / 8, "twelve steps, four of them warm-up: the other eight")
    out = np.asarray(f(*_plan(rng)))
    require(out.min() > 0, "a step with a rate of zero trains nothing, and there is one")


def _cold(f, rng):
    expect(f(1.0, 8, 2, 1, 0), np.array([1, 0.75, 0.5, 0.25]), "four steps and no warm-up")
    expect(f(1.0, 8, 2, 1, 1), np.array([1, 1, 2 / 3, 1 / 3]), "four steps, one of them warm-up")
    expect(f(1.0, 8, 2, 1, 4), np.array([0.25, 0.5, 0.75, 1]), "four steps, all of them warm-up")


def _up_and_down(up, down, floor=False, of_epoch=False):
    def wrong(rate, rows, batch, epochs, warm_up):
        per_epoch = rows // batch if floor else -(-rows // batch)
        steps = epochs * per_epoch
        t = np.arange(steps)
        if of_epoch:
            t = t // max(per_epoch, 1) * per_epoch
        w = max(warm_up, 1)
        return rate * np.where(t < warm_up, up(t, w, steps), down(t, warm_up, steps))

    return wrong


def _up(t, w, steps):
    return (t + 1) / w


def _down(t, w, steps):
    return (steps - t) / max(steps - w, 1)


SCHEDULE = Task(
    id="ex05.3",
    title="Warm-up, then decay: the rate at every step",
    function="rate_schedule",
    taught="05#Layer-wise rates, gradual unfreezing, warm-up",
    parts=(
        Part("the number of steps", 1, _number_of_steps),
        Part("warm-up", 2, _rises),
        Part("decay", 2, _falls),
        Part("without warm-up, and nothing else", 1, _cold),
    ),
    probes=lambda rng: [_plan(rng), _plan(rng), _plan(rng, 0)],
    misconceptions=(
        Misconception(
            "starts at zero",
            _up_and_down(lambda t, w, steps: t / w, _down),
            "How far does the very first batch move the weights?",
            "Your first rate is zero, so the first batch is computed for nothing. The rise should "
            "end at the full rate with the last step of the warm-up.",
        ),
        Misconception(
            "the short last batch is not counted",
            _up_and_down(_up, _down, floor=True),
            "How many steps has an epoch with 10 rows in batches of 4?",
            "You drop what is left over. The loop trains on the short batch as well, and your "
            "schedule is at its end before the training is.",
        ),
        Misconception(
            "one rate an epoch",
            _up_and_down(_up, _down, of_epoch=True),
            "Does your rate change from one batch to the next?",
            "The rate stays the same for a whole epoch. Fine-tuning often has three or four; then "
            "nearly all of the warm-up is over before the rate has changed once.",
        ),
        Misconception(
            "a jump after the warm-up",
            _up_and_down(_up, lambda t, w, steps: (steps - t) / steps),
            "Draw your rates. Is there a jump where the warm-up ends?",
            "The decay is counted from step 0, so part of it has already happened when it begins.",
        ),
        Misconception(
            "decays while it rises",
            _up_and_down(
                lambda t, w, steps: _up(t, w, steps) * (steps - t) / steps,
                lambda t, w, steps: (steps - t) / steps,
            ),
            "Is the full rate ever reached?",
            "Both shares are multiplied, so the rate falls already while it is to rise and never "
            "reaches the value that was chosen.",
        ),
        Misconception(
            "the last step has no rate",
            _up_and_down(_up, lambda t, w, steps: (steps - 1 - t) / max(steps - 1 - w, 1)),
            "How far does the very last batch move the weights?",
            "Your last rate is zero, so the last batch is computed for nothing. Zero belongs to "
            "the step after the end.",
        ),
    ),
)

# --- ex05.4: early stopping ---------------------------------------------------------------------

# Recorded: eight seeds, twelve epochs of head-first fine-tuning on 128 pictograms; the accuracy on
# about 64 held-out pictures and on the test set (benchmarks/results/fine_tuning.json).
HELD_OUT = np.array([
    [.6398, .6407, .5979, .6562, .6752, .6223, .6154, .6857, .6892, .6827, .6484, .6484],
    [.4099, .4530, .4398, .4530, .4727, .4727, .4727, .4661, .4661, .4661, .4661, .4661],
    [.6357, .6835, .6364, .6154, .5673, .6226, .6362, .6476, .6726, .6726, .6726, .6840],
    [.5794, .5851, .6283, .6802, .6981, .6356, .6015, .6743, .6970, .7208, .7268, .7154],
    [.6631, .7387, .6479, .6309, .6631, .6392, .6506, .6590, .6590, .6381, .6381, .6506],
    [.6016, .6702, .5799, .6390, .6611, .6819, .6819, .6819, .6819, .6819, .6819, .6745],
    [.6237, .6422, .6305, .6205, .6553, .6344, .6418, .6418, .6418, .6418, .6344, .6344],
    [.5929, .5769, .5977, .5472, .6107, .5809, .5923, .5923, .5992, .6200, .6290, .6290],
])  # fmt: skip
TEST = np.array([
    [.5576, .5356, .5109, .5091, .5619, .5418, .5590, .5884, .5754, .5757, .5729, .5829],
    [.6026, .5705, .5466, .5809, .5802, .5974, .5995, .5978, .5978, .5939, .5939, .5900],
    [.6166, .6188, .6440, .6608, .6737, .6811, .6820, .6644, .6398, .6472, .6491, .6472],
    [.5260, .4546, .5460, .5141, .5362, .5444, .5425, .5061, .5262, .5583, .5544, .5643],
    [.5127, .5880, .5163, .5115, .5695, .5524, .5776, .5740, .5624, .5467, .5467, .5467],
    [.5531, .5363, .5792, .5752, .5668, .5732, .5701, .5755, .5724, .5724, .5693, .5646],
    [.6185, .5395, .5507, .6063, .6316, .6410, .6394, .6388, .6462, .6535, .6565, .6565],
    [.4504, .4859, .5021, .4824, .4834, .4707, .4940, .4965, .4880, .5046, .5046, .5016],
])  # fmt: skip


def _stopped(f, wanted):
    for losses, patience, answer in wanted:
        expect(f(np.array(losses), patience), answer, f"losses {losses}, patience {patience}")


def _stops(f, rng):
    _stopped(f, [
        ([1.0, 0.8, 0.9, 0.85, 0.7, 0.6], 2, [3, 1]),
        ([1.0, 1.1, 0.9, 1.0, 0.5], 1, [1, 0]),
        ([0.5, 0.6, 0.7, 0.8, 0.9], 3, [3, 0]),
    ])  # fmt: skip


def _never_stops(f, rng):
    _stopped(f, [
        ([1.0, 0.9, 0.8, 0.7], 1, [3, 3]),
        ([1.0, 0.7, 0.8, 0.9], 3, [3, 1]),
        ([0.9, 0.8, 0.85, 0.7, 0.75], 2, [4, 3]),
        ([0.4], 2, [0, 0]),
    ])  # fmt: skip


def _ties(f, rng):
    _stopped(f, [
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.3], 2, [3, 1]),
        ([0.5, float("nan"), 0.6, 0.4], 3, [3, 3]),
        ([0.5, float("nan"), 0.6, 0.4], 2, [2, 0]),
    ])  # fmt: skip


def _recorded_losses(f, rng):
    wanted = {0: [6, 4], 1: [7, 4], 2: [4, 1], 3: [7, 4], 4: [4, 1]}
    for run, answer in wanted.items():
        patience = 2 if run == 0 else 3
        what = f"recorded run {run}, one minus its held-out accuracy, patience {patience}"
        expect(f(1 - HELD_OUT[run], patience), answer, what)


def _stopping(better, restore="best", late=0):
    def wrong(losses, patience):
        best = 0
        for epoch in range(len(losses)):
            if better(losses, epoch, best):
                best = epoch
            elif epoch - best >= patience + late:
                break
        restored = {"best": best, "last": epoch, "all": int(np.nanargmin(losses))}
        return epoch, restored[restore]

    return wrong


def _lower(losses, epoch, best):
    return losses[epoch] < losses[best]


STOPPING = Task(
    id="ex05.4",
    title="Early stopping on recorded runs",
    function="early_stopping",
    taught="05#When to stop",
    parts=(
        Part("stops and goes back", 2, _stops),
        Part("runs to the end", 1, _never_stops),
        Part("no better is no better", 1, _ties),
        Part("recorded runs", 1, _recorded_losses),
    ),
    probes=lambda rng: [
        (1 - HELD_OUT[1], 3),
        (1 - HELD_OUT[3], 3),
        (1 - HELD_OUT[0], 2),
        (rng.random(9), 2),
    ],
    misconceptions=(
        Misconception(
            "the last weights are kept",
            _stopping(_lower, restore="last"),
            "Which epoch was the best one, and which one's weights do you end with?",
            "Training stops because the last epochs were no better, and you keep the weights of "
            "just these. Keras does so too unless it is told to restore the best.",
        ),
        Misconception(
            "one epoch too patient",
            _stopping(_lower, late=1),
            "With patience 1: how many epochs without a gain do you allow?",
            "You stop one epoch later than agreed. With a patience of p, the p-th epoch in a row "
            "that brings nothing is the last.",
        ),
        Misconception(
            "watches for the largest",
            _stopping(lambda losses, epoch, best: losses[epoch] > losses[best]),
            "Is a larger loss better or worse?",
            "You look for the largest value, which is right for an accuracy. For a loss it keeps "
            "the worst epoch.",
        ),
        Misconception(
            "equal counts as better",
            _stopping(lambda losses, epoch, best: losses[epoch] <= losses[best]),
            "What do you do with an epoch that only equals the best so far?",
            "An equal loss starts the patience anew, so a curve that is flat for ever never "
            "stops. On 64 held-out pictures equal values are common.",
        ),
        Misconception(
            "compared with the epoch before",
            _stopping(lambda losses, epoch, best: epoch == 0 or losses[epoch] < losses[epoch - 1]),
            "With which epoch do you compare: the one before, or the best so far?",
            "After one bad epoch a slightly less bad one counts as a gain. The patience starts "
            "anew, and the epoch that you restore need not be the best.",
        ),
        Misconception(
            "looks into epochs that never ran",
            _stopping(_lower, restore="all"),
            "Can the epoch that you restore come after the one at which you stop?",
            "You take the lowest loss of the whole list. In a real run the epochs behind the stop "
            "do not exist.",
        ),
    ),
)

# --- ex05.5: what was forgotten -----------------------------------------------------------------


def _with_nearest_mean(f, F, moved, labels, train, test):
    """Call f with a head that is quickly fitted: the class whose mean is nearest."""
    import numpy as np

    def fit(F, labels):
        F, labels = np.asarray(F, float), np.asarray(labels)
        classes = np.unique(labels)
        means = np.array([F[labels == c].mean(axis=0) for c in classes])

        def predict(F):
            gaps = np.asarray(F, float)[:, None] - means
            return classes[(gaps**2).sum(axis=2).argmin(axis=1)]

        return predict

    return f(fit, F, moved, labels, train, test)


@lru_cache(maxsize=1)
def _digits():
    from tlcourse import datasets

    data = datasets.digits()
    return data.images.reshape(len(data), 64) / 16, data.labels


def _old_task(rng, noise=1.0, rows=240, fitted=100):
    """Digits as they are, their coordinates turned and disturbed as fine-tuning might."""
    X, y = _digits()
    start = int(rng.integers(len(y) - rows))
    F, labels = X[start : start + rows], y[start : start + rows]
    turned = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    moved = F @ turned + noise * rng.normal(size=F.shape)
    return F, moved, labels, np.arange(fitted), np.arange(fitted, rows)


def _nothing_moved(f, rng):
    F, _, labels, train, test = _old_task(rng)
    expect(f(F, F, labels, train, test), [0.0, 0.0], "features that have not moved at all")


def _by_hand(f, rng):
    F, labels = np.array([[0.0], [1.0], [0.2], [0.9], [0.7]]), np.array([0, 1, 0, 1, 0])
    train, test = np.array([0, 1]), np.array([2, 3, 4])
    out = f(F, 1 - F, labels, train, test)
    what = "one feature x, turned into 1 - x; two rows to fit a head, three to test it"
    expect(out, [1 / 3, 0.0], what)
    out = f(F, np.array([[0.0], [1.0], [0.2], [0.1], [0.7]]), labels, train, test)
    expect(out, [1 / 3, 1 / 3], "one of three test rows has moved across the border")


def _turned(f, rng):
    F, moved, labels, train, test = _old_task(rng, noise=0.0)
    head, features = f(F, moved, labels, train, test)
    expect(features, 0.0, "digits whose coordinates are only turned: what a new head loses")
    require(head > 0.4, f"digits, turned: the old head loses most of its accuracy, you say {head}")


def _lost_both(f, rng):
    F, _, labels, train, test = _old_task(rng)
    flat = np.zeros_like(F)
    head, features = f(F, flat, labels, train, test)
    # With the same features for all, a head that was fitted to them answers one class for all.
    kept = np.mean(labels[test] == labels[train].min())
    before = features + kept
    require(0.5 < before <= 1, "digits whose features are all zero: a new head keeps "
            f"{kept:.3f} of the test digits, so it cannot have lost {features}")  # fmt: skip
    require(head > 0.4, f"digits whose features are all zero: the old head lost only {head}")


def _lost(new_rows="train", scored="test", old="kept", of=lambda b, a: b - a):
    def wrong(fit, F, moved, labels, train, test):
        rows = {"train": train, "test": test, "all": np.concatenate([train, test])}
        on, new_on = rows[scored], rows.get(new_rows)

        def accuracy(head, F):
            return np.mean(head(F[on]) == labels[on])

        head = fit(F[train], labels[train])
        new = head if new_on is None else fit(moved[new_on], labels[new_on])
        before = accuracy(head, F)
        first = accuracy(head if old == "kept" else new, moved)
        return of(before, first), of(before, accuracy(new, moved))

    return wrong


FORGOTTEN = Task(
    id="ex05.5",
    title="Forgotten by the head, forgotten by the features",
    function="forgotten",
    taught="05#Forgetting, and how to forget less",
    parts=(
        Part("nothing moved", 1, _nothing_moved),
        Part("by hand", 2, _by_hand),
        Part("digits, turned", 1, _turned),
        Part("digits, wiped out", 1, _lost_both),
    ),
    probes=lambda rng: [_old_task(rng), _old_task(rng, 0.5), _old_task(rng, 1.5)],
    harness=_with_nearest_mean,
    misconceptions=(
        Misconception(
            "scored on the rows of the fit",
            _lost(scored="train"),
            "On which rows are your heads tested, and have they seen them before?",
            "Both heads are scored on rows that one of them was fitted to. A head that knows "
            "its rows by heart then looks as if nothing had been forgotten.",
        ),
        Misconception(
            "the old head is replaced",
            _lost(old="replaced"),
            "Which head gives the first of your two numbers?",
            "You fit a new head before you measure what the old one has lost. Whoever still uses "
            "the old head does not have the new one.",
        ),
        Misconception(
            "no new head",
            _lost(new_rows="old"),
            "Are your two numbers ever different?",
            "The head for the second number was fitted to the old features. It tells what the old "
            "head lost once more, and nothing about what the features still hold.",
        ),
        Misconception(
            "the new head sees the test",
            _lost(new_rows="all"),
            "How many rows are the old and the new head fitted to?",
            "The new head is fitted to the test rows too. It makes good with known answers what "
            "the features have lost.",
        ),
        Misconception(
            "after minus before",
            _lost(of=lambda before, after: after - before),
            "Is a loss of accuracy a positive or a negative number here?",
            "The sign is turned around: what is asked for is how much is gone.",
        ),
        Misconception(
            "relative to before",
            _lost(of=lambda before, after: (before - after) / before),
            "In which unit is your answer: points of accuracy, or a share of what there was?",
            "You divide by the accuracy before. Asked for are points of accuracy, the unit in "
            "which gains on the new task are told.",
        ),
    ),
)

# --- ex05.6: mend the training loop -------------------------------------------------------------


def _trained_pytorch(f, seed, rate, scale, calls):
    """What f does to a small network with a frozen body, over (batches, classes) in some calls.

    `scale` multiplies the head; where it is large, the labels are the network's own answers.
    """
    from collections import OrderedDict

    import numpy as np
    import torch
    from torch import nn

    rng = np.random.default_rng(seed)
    body = OrderedDict(conv=nn.Conv2d(3, 5, 1), norm=nn.BatchNorm2d(5), act=nn.LeakyReLU())
    body |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    model = nn.Sequential(OrderedDict(body=nn.Sequential(body), head=nn.Linear(5, 3)))
    with torch.no_grad():
        for p in (model.body.conv.weight, model.body.conv.bias):
            p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
        model.head.weight.copy_(torch.from_numpy(scale * rng.normal(size=(3, 5))))
        model.head.bias.zero_()
    model.body.requires_grad_(False)
    model.eval()
    batches = []
    for _ in range(sum(calls)):
        x = torch.from_numpy(rng.normal(size=(6, 3, 2, 2)).astype("float32"))
        y = torch.from_numpy(rng.permutation(np.array([0, 0, 0, 1, 1, 2])))
        with torch.no_grad():
            batches.append((x, model(x).argmax(dim=1) if scale > 10 else y))
    names = {"body": "body.conv", "head": "head", "norm": "body.norm"}

    def numbers(part):
        held = [t for n, t in model.state_dict().items() if n.startswith(names[part])]
        return np.concatenate([t.numpy().astype(float).ravel() for t in held])

    before, losses = {part: numbers(part) for part in names}, []
    for count in calls:
        taken, batches = batches[:count], batches[count:]
        losses += [float(loss) for loss in f(model, taken, rate)]
        model.zero_grad()
    change = {part: numbers(part) - before[part] for part in names}
    return {"losses": np.array(losses), **change}


def _trained_keras(f, seed, rate, scale, calls):
    """What f does to a small network with a frozen body, over so many batches in some calls.

    `scale` multiplies the head; where it is large, the labels are the network's own answers.
    """
    import keras
    import numpy as np
    from keras import layers

    rng = np.random.default_rng(seed)
    inside = [layers.Conv2D(5, 1, name="conv"), layers.BatchNormalization(name="norm")]
    inside += [layers.LeakyReLU(name="act"), layers.GlobalAveragePooling2D(name="pool")]
    body = keras.Sequential([keras.Input((2, 2, 3)), *inside], name="body")
    head = layers.Dense(3, name="head")
    model = keras.Sequential([keras.Input((2, 2, 3)), body, head])
    inside[0].set_weights([rng.normal(size=(1, 1, 3, 5)), rng.normal(size=5)])
    head.set_weights([scale * rng.normal(size=(5, 3)), np.zeros(3)])
    body.trainable = False
    batches = []
    for _ in range(sum(calls)):
        x = rng.normal(size=(6, 2, 2, 3)).astype("float32")
        y = rng.permutation(np.array([0, 0, 0, 1, 1, 2]))
        if scale > 10:
            y = np.asarray(model(x, training=False)).argmax(axis=1)
        batches.append((x, y))
    parts = {"body": inside[0], "head": head, "norm": inside[1]}

    def numbers(part):
        return np.concatenate([w.ravel().astype(float) for w in parts[part].get_weights()])

    before, losses = {part: numbers(part) for part in parts}, []
    for count in calls:
        taken, batches = batches[:count], batches[count:]
        losses += [float(loss) for loss in f(model, taken, rate)]
    change = {part: numbers(part) - before[part] for part in parts}
    return {"losses": np.array(losses), **change}


def _loss_is_right(f, rng):
    out = f(int(rng.integers(1000)), 0.25, 0.0, (1,))
    expect(out["losses"], np.log([3.0]), "a head of zeros, three classes: the loss", 1e-5)
    bias = out["head"][-3:]
    wanted = 0.25 * (np.array([3, 2, 1]) / 6 - 1 / 3)
    what = "a head of zeros, labels 0 0 0 1 1 2, rate 0.25: the change of the head's bias"
    expect(bias, wanted, what, 1e-4)
    out = f(int(rng.integers(1000)), 1e-3, 1000.0, (1,))
    require(
        out["losses"][0] < 0.2,
        "a network that gives the right answer with near certainty has a loss near 0, and you "
        f"return {out['losses'][0]:.3f}",
    )


def _all_of_it_trains(f, rng):
    out = f(int(rng.integers(1000)), 0.25, 1.0, (1, 1))
    for part, name in (("body", "the convolution of the body"), ("head", "the head")):
        require(np.abs(out[part]).max() > 1e-4, f"after two steps at rate 0.25, {name} has not "
                "moved")  # fmt: skip


def _norm_stays(f, rng):
    out = f(int(rng.integers(1000)), 0.25, 1.0, (2,))
    moved = float(np.abs(out["norm"]).max())
    require(moved == 0, f"after two steps BatchNorm has changed, by up to {moved:.3g}")


def _step_by_step(f, rng):
    seed = int(rng.integers(1000))
    at_once, one_by_one = f(seed, 0.25, 1.0, (3,)), f(seed, 0.25, 1.0, (1, 1, 1))
    for part in ("losses", "head"):
        what = f"three batches in one call must do what three calls do; {part}"
        expect(at_once[part], one_by_one[part], what, 1e-4)


def _loop_pytorch(moving=False, scaled=False, late=False, twice=False, adds_up=False):
    def wrong(model, batches, rate):
        import torch
        from torch import nn

        early = [p for p in model.parameters() if p.requires_grad]
        model.body.requires_grad_(True)
        model.train()
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train(moving)
                norm.requires_grad_(scaled)
        weights = early if late else [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=rate)
        losses = []
        for x, y in batches:
            if not adds_up:
                optimizer.zero_grad()
            z = model(x)
            loss = nn.functional.cross_entropy(z.softmax(dim=1) if twice else z, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return wrong


def _loop_keras(moving=False, scaled=False, late=False, twice=False, adds_up=False):
    def wrong(model, batches, rate):
        import keras
        import tensorflow as tf

        early, body = model.trainable_variables, model.get_layer("body")
        body.trainable = True
        body.get_layer("norm").trainable = moving or scaled
        weights = early if late else model.trainable_variables
        losses, total = [], [0.0] * len(weights)
        for x, y in batches:
            with tf.GradientTape() as tape:
                z = model(x, training=not scaled)
                z = tf.nn.softmax(z) if twice else z
                loss = keras.ops.mean(
                    keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)
                )
            gradients = tape.gradient(loss, weights)
            total = [t + g for t, g in zip(total, gradients, strict=True)]
            for w, g in zip(weights, total if adds_up else gradients, strict=True):
                w.assign_sub(rate * g)
            losses.append(float(loss))
        return losses

    return wrong


def _loops(**mistake):
    return dict(tensorflow=_loop_keras(**mistake), pytorch=_loop_pytorch(**mistake))


LOOP = Task(
    id="ex05.6",
    title="Mend the loop that trains without an error",
    function="fine_tune",
    taught="05#Trap: BatchNorm moves while frozen",
    parts=(
        Part("the loss", 2, _loss_is_right),
        Part("body and head train", 1, _all_of_it_trains),
        Part("BatchNorm stays", 1, _norm_stays),
        Part("each step by itself", 1, _step_by_step),
    ),
    probes=lambda rng: [
        (int(rng.integers(1000)), 0.25, 1.0, (3,)),
        (int(rng.integers(1000)), 0.5, 2.0, (2,)),
    ],
    harness={"tensorflow": _trained_keras, "pytorch": _trained_pytorch},
    misconceptions=(
        Misconception(
            "BatchNorm's statistics move",
            _loops(moving=True),
            "Print BatchNorm's moving mean before and after your loop.",
            "BatchNorm runs in training mode: it takes mean and variance from the batch and "
            "overwrites its own. What you set before the loop is undone, or was never enough.",
        ),
        Misconception(
            "BatchNorm's scale and shift train",
            _loops(scaled=True),
            "The statistics stay. Do BatchNorm's other two arrays stay as well?",
            "Mean and variance are kept, but scale and shift are weights of the body like others "
            "and were unfrozen with it.",
        ),
        Misconception(
            "the body is unfrozen too late",
            _loops(late=True),
            "When is it settled which weights are trained: before or after you unfreeze?",
            "The weights to be trained were collected while the body was frozen. Only the head "
            "learns, and nothing says so.",
        ),
        Misconception(
            "softmax twice",
            _loops(twice=True),
            "How low can your loss fall if all answers are right and certain?",
            "The cross-entropy applies a softmax of its own. After yours it cannot fall below "
            "ln(1 + (C - 1)/e), 0.55 for three classes, and the gradients are small.",
        ),
        Misconception(
            "gradients add up",
            _loops(adds_up=True),
            "What does the second step do with the gradient of the first batch?",
            "The gradients of earlier batches are added to each new one, so the steps grow and "
            "point to where the network stood long ago.",
        ),
    ),
)

# --- ex05.7: mend the report --------------------------------------------------------------------


def _curves(rng, runs=5):
    rows = rng.choice(8, runs, replace=False)
    return HELD_OUT[rows], TEST[rows]


def _one_run(f, rng):
    held_out, test = np.array([[0.5, 0.7, 0.6]]), np.array([[0.4, 0.5, 0.8]])
    expect(f(held_out, test), [0.5, -0.3], f"held out {held_out.tolist()}, test {test.tolist()}")


def _many_runs(f, rng):
    held_out = np.array([[0.5, 0.7, 0.6], [0.9, 0.8, 0.7]])
    test = np.array([[0.4, 0.5, 0.8], [0.6, 0.7, 0.8]])
    expect(f(held_out, test), [0.55, -0.25], f"held out {held_out.tolist()}, test {test.tolist()}")
    held_out, test = np.array([[0.6, 0.6, 0.5]]), np.array([[0.2, 0.4, 0.3]])
    expect(f(held_out, test), [0.2, -0.1], "two epochs are equally good: held out "
           f"{held_out.tolist()}, test {test.tolist()}")  # fmt: skip


def _recorded_runs(f, rng):
    wanted = [0.581825, 0.0001]
    expect(f(HELD_OUT, TEST), wanted, "the eight recorded runs of twelve epochs", 1e-4)
    accuracy, _ = f(HELD_OUT, TEST)
    expect(f(HELD_OUT[:, :1], TEST[:, :1])[1], 0.0, "runs of one epoch: the gain")
    order = rng.permutation(8)
    expect(f(HELD_OUT[order], TEST[order])[0], accuracy, "the recorded runs in another order")


def _report(choose, of=np.mean, watched=False):
    def wrong(held_out, test):
        epoch, runs = choose(held_out, test), np.arange(len(test))
        found = (held_out if watched else test)[runs, epoch]
        return of(found), of(found) - of(test[:, -1])

    return wrong


def _best_held_out(held_out, test):
    return held_out.argmax(axis=1)


REPORT = Task(
    id="ex05.7",
    title="Mend the report of eight recorded runs",
    function="report",
    taught="05#When to stop",
    parts=(
        Part("one run", 1, _one_run),
        Part("several runs", 2, _many_runs),
        Part("recorded runs", 1, _recorded_runs),
    ),
    probes=lambda rng: [(HELD_OUT, TEST), _curves(rng), _curves(rng, 7)],
    misconceptions=(
        Misconception(
            "chosen on the test set",
            _report(lambda held_out, test: test.argmax(axis=1)),
            "Which pictures decide at which epoch you stop?",
            "You take the epoch that is best on the test set. No one has the test labels when it "
            "is time to stop; the number is the best of twelve draws, and cannot show a loss.",
        ),
        Misconception(
            "the best run",
            _report(_best_held_out, of=np.max),
            "What would become of your number if you ran eight seeds more?",
            "You report the best seed. It grows with the number of seeds, whatever the method is.",
        ),
        Misconception(
            "accuracy on the held-out pictures",
            _report(_best_held_out, watched=True),
            "On which pictures was the number measured that you report?",
            "The held-out pictures chose the epoch, so at that epoch their accuracy is partly "
            "luck. Others have to say how good it is.",
        ),
        Misconception(
            "one epoch for all runs",
            _report(lambda held_out, test: held_out.mean(axis=0).argmax()),
            "Do all of your runs stop at the same epoch?",
            "You average the curves first and choose one epoch for all seeds. Each run stops by "
            "its own curve; it does not know the others.",
        ),
        Misconception(
            "the last of equals",
            _report(lambda h, test: h.shape[1] - 1 - h[:, ::-1].argmax(axis=1)),
            "If several epochs are equally good on the held-out pictures, which do you take?",
            "You take the last of the best epochs. By the rule of early stopping, equal is not "
            "better: the first counts.",
        ),
    ),
)

TASKS = (UNFREEZE, RATES, SCHEDULE, STOPPING, FORGOTTEN, LOOP, REPORT)
