# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Feature extraction
#
# You use a pretrained network without training it: pictures go in, vectors come out, and a small
# classifier learns from the vectors. Afterwards you can
#
# - cut a network where you want it, and say what is left after the cut;
# - extract features once, keep them, and compare classifiers on them in seconds;
# - choose layer and network by measuring, on a split that does not flatter you;
# - tell the tutorial habits that cost accuracy from those that cost none.
#
# *You need some Python and the idea of a classifier. 40 minutes to read, about one to run.*
#
# Words: the **backbone** (base model) is the pretrained network without its last layer; **frozen**
# means that its weights are not trained; a **feature** is one number of the vector that it gives
# for a picture; the **head** is what you train on top; a **probe** is a linear head used to measure
# what features know.

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %% tags=["tensorflow"]
from tlcourse import runtime

run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["pytorch"]
from tlcourse import runtime

run = runtime.start("pytorch", PROFILE, SEED)

# %% [markdown]
# Two data sets on purpose. The pictograms show things that ImageNet shows too; the solar cells are
# grey photographs of cracks and dark spots, far from anything in ImageNet.

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from tlcourse import backbones, datasets, features, figures
from tlcourse.evidence import claim, claim_margin, summary

objects = datasets.pictograms("color", labelled=False)
cells = datasets.solar_cells()
if run.profile == "smoke":
    objects, cells = (data.subset(np.arange(0, len(data), 8)) for data in (objects, cells))
labelled = objects.labels >= 0
pictograms = objects.subset(labelled)
near_and_far = {"pictograms": pictograms, "solar cells": cells}
print(pictograms, cells, sep="\n")

# %%
shown = [(d, i) for d in (pictograms, cells) for i in np.linspace(0, len(d) - 1, 6).astype(int)]
figures.image_grid(
    [data.images[i] for data, i in shown],
    [data.class_names[data.labels[i]] for data, i in shown],
    "Six coloured pictograms of everyday things above six grey photographs of solar cells.",
    title="Near to ImageNet (above) and far from it (below)",
)

# %% [markdown]
# ## Cut the head off
#
# Tutorials write feature extraction as $F = M(X)$, the model's output. But a classifier's output is
# one score for each of its *old* classes. With the network as a chain of $L$ layers,
# $M = M_L \circ \dots \circ M_1$, what you want is the chain without its last one:
#
# $$F = M_{1:L-1}(X) = (M_{L-1} \circ \dots \circ M_1)(X) \tag{1}$$

# %% tags=["pytorch"]
import torch

backbone = backbones.load("efficientnet-lite0")
M = backbone.model  # a Sequential, so a cut is a slice
X = backbone.preprocess(pictograms.images[: run.pick(smoke=4, cpu=16)])
with torch.inference_mode():
    F = M[:-1](X).numpy()  # equation (1)
    rejoined, whole = M[-1](torch.from_numpy(F)).numpy(), M(X).numpy()

# %% tags=["tensorflow"]
import keras

backbone = backbones.load("efficientnet-lite0")
M = backbone.model  # a functional model, so a cut is a new model that ends earlier
X = backbone.preprocess(pictograms.images[: run.pick(smoke=4, cpu=16)])
M_cut = keras.Model(M.input, M.layers[-2].output)
F = M_cut.predict(X, verbose=0)  # equation (1)
rejoined, whole = M.layers[-1](F).numpy(), M(X).numpy()

# %%
print(f"M(X) has shape {whole.shape}, F has shape {F.shape}")
assert np.abs(rejoined - whole).max() < 1e-4  # the last layer on F gives the scores back

# %% [markdown]
# `features.extract` makes the same cut with batches, a fast engine and files on disk, so that a
# second call reads instead of computing, and it reads several cut points in one pass. `"head"` is
# the last convolution, averaged over the picture: the $F$ above.

# %%
cuts = ("stem", "block1", "block3", "block5", "block8", "block11", "block13", "block15", "head")
F_objects = features.extract(backbone, objects.images, cuts=cuts)
F_near = {cut: F_objects[cut][labelled] for cut in cuts}
F_far = features.extract(backbone, cells.images, cuts=cuts)
exact = features.extract(backbone, pictograms.images, precision="fp32")["head"]
print(f"by hand against extract in fp32: {np.abs(F - exact[: len(F)]).max():.0e} at most")
assert np.abs(F - exact[: len(F)]).max() < 1e-4
off = np.linalg.norm(F_near["head"] - exact, axis=1) / np.linalg.norm(exact, axis=1)
print(f"bf16, taken where the processor has it, moves a vector by {off.mean():.1%} of its length")

# %% [markdown]
# ## Measure what features know
#
# A probe is a linear classifier on standardised features. Three choices keep its number honest:
#
# - **Balanced accuracy**, the mean over the classes of the share found: always answering *intact*
#   scores 0.5 then.
# - **Two splits.** Neighbouring rows of the solar cells come from one module, neighbouring code
#   points are variants of one drawing. A random split puts neighbours on both sides; a block split
#   holds out whole blocks.
# - **Several seeds**; each deals the rows to five folds anew. An interval here speaks of that
#   dealing, not of new pictures.

# %%
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_probe(width):
    """Least squares to the classes: a closed form, many times faster than logistic regression."""
    # The penalty grows with the number of features, so that every layer is shrunk alike.
    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=width, class_weight="balanced"))


# %%
def cross_validated(F, data, kind, seed, classifier=None):
    """Balanced accuracy over all rows, each predicted by a model that has not seen its fold."""
    model, predicted = classifier or linear_probe(F.shape[1]), np.empty(len(data), int)
    for train, test in data.folds(kind, 5, seed):
        predicted[test] = model.fit(F[train], data.labels[train]).predict(F[test])
    return balanced_accuracy_score(data.labels, predicted)


def over_seeds(F, data, kind, n=5, classifier=None):
    return np.array([cross_validated(F, data, kind, s, classifier) for s in run.seeds(n)])


# %% [markdown]
# Statements that are measured here stand in boxes. The margin is part of the statement, and the
# whole 95 % interval over the seeds has to lie on its side of it.


# %% [markdown]
# **Guess first:** how well does a classifier do that sees nothing but the position of a photograph
# in the file?

# %%
from sklearn.neighbors import KNeighborsClassifier

row_number, nearest = np.arange(len(cells), dtype=float)[:, None], KNeighborsClassifier(5)
leak = {kind: over_seeds(row_number, cells, kind, 5, nearest) for kind in ("random", "block")}
print(f"random split {leak['random'].mean():.2f}, blocks held out {leak['block'].mean():.2f}")
text = "Without any picture, the row number scores above 0.65 on a random split of the solar cells"
claim_margin("04.row_number", text, leak["random"], above=0.65)

# %% [markdown]
# So no random split stands alone in this notebook. Now the features, in both precisions: does
# moving every vector by a few percent matter to a probe?

# %%
probe = over_seeds(F_near["head"], pictograms, "block")
print(f"pictograms, blocks held out: {probe.mean():.3f} (chance {1 / 8})")
text = "The fast precision changes the accuracy of a probe by less than 0.02"
probe_exact = over_seeds(exact, pictograms, "block")
claim_margin("04.precision", text, probe, probe_exact, above=-0.02, below=0.02)

# %% [markdown]
# ## What is left after the cut?

# %% [markdown] tags=["tensorflow"]
# You will meet the recipe "load `ResNet50(include_top=False)` and take `layers[-2]`, which removes
# the last dense layer". **Guess first:** how many dense layers does that network have?

# %% tags=["tensorflow"]
resnet = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(224, 224, 3))
print(sum(isinstance(layer, keras.layers.Dense) for layer in resnet.layers), "dense layers")
ends = resnet.layers[-2:]
two_ends = keras.Model(resnet.input, [layer.output for layer in ends])
few = pictograms.images[: run.pick(smoke=2, cpu=8)].astype("float32")
X_resnet = keras.applications.resnet50.preprocess_input(few)
negative = [(maps.numpy() < 0).mean(axis=(1, 2, 3)) for maps in two_ends(X_resnet)]
for layer, share in zip(ends, negative, strict=True):
    print(f"{layer.name}: shape {layer.output.shape}, {share.mean():.0%} negative")
text = "More than a tenth of what layers[-2] of a headless ResNet50 gives is negative"
claim_margin("04.before_relu", text, negative[0], above=0.1)

# %% [markdown] tags=["tensorflow"]
# None: `include_top=False` has left it out already. `layers[-2]` is a sum *before* the last ReLU,
# with negative values that the network's classifier never saw. And both outputs are maps of 7 × 7
# places, so you still have to pool. (The weights are random here; the layers and their order are
# the same with trained ones.) Read `model.summary()` before you count backwards.

# %% [markdown] tags=["pytorch"]
# You will meet the recipe `nn.Sequential(*list(model.children())[:-1])`. **Guess first:** does a
# `Sequential` of a module's children compute what the module computes? Try it on one block.

# %% tags=["pytorch"]
block = M.block5
print([name for name, _ in block.named_children()])
with torch.inference_mode():
    inside = M[:5](X)  # stem and four blocks: what block5 receives
    right, rebuilt = block(inside), torch.nn.Sequential(*block.children())(inside)
wrong_by = ((rebuilt - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)).numpy()
text = "A residual block rebuilt from its children is wrong by more than a third of its output"
claim_margin("04.children", text, wrong_by, above=1 / 3)

# %% [markdown] tags=["pytorch"]
# The children are listed, but how they are joined stands in `forward`: here `x + out`, which the
# copy has lost, with every weight in place and no error. A slice is safe where the model is a
# `Sequential`; elsewhere put `nn.Identity()` in place of the last layer, or read with a forward
# hook. The Keras recipe of this kind, `layers[-2]` of `ResNet50(include_top=False)`, has no dense
# layer to remove: it cuts off the last ReLU.

# %% [markdown]
# The opposite mistake is to cut nothing: a much-copied example loads a hub's *classification* model
# and calls its output features. (That hub has moved, and its Keras layer fails in a Keras 3
# `Sequential`; the *feature vector* variant was meant.) What you get then are the logits
#
# $$Z = F\,W + b, \tag{2}$$
#
# with $W$ of shape 1280 × 1000. **Guess first:** what does it cost to probe $Z$ instead of $F$?
# Its softmax? The winning class alone?


# %% tags=["pytorch"]
def last_layer(model):
    return [parameter.detach().numpy().T for parameter in model[-1].parameters()]


# %% tags=["tensorflow"]
def last_layer(model):
    return model.layers[-1].get_weights()


# %%
def softmax(Z):
    e = np.exp(Z - Z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


third = np.arange(0, len(cells), 3)  # enough where the same probe is repeated often
some_cells = cells.subset(third)
W, b = last_layer(M)
ends = {
    "features F": lambda F: F,
    "logits Z": lambda F: F @ W + b,  # equation (2)
    "softmax of Z": lambda F: softmax(F @ W + b),
    "winner only": lambda F: np.eye(len(b))[(F @ W + b).argmax(axis=1)],
}

# %%
at_end = {}
print("blocks held out    pictograms  solar cells")
for name, end in ends.items():
    at_end[name] = over_seeds(end(F_near["head"]), pictograms, "block")
    on_cells = over_seeds(end(F_far["head"][third]), some_cells, "block")
    print(f"{name:18} {at_end[name].mean():10.3f} {on_cells.mean():12.3f}")
text = "Probing the logits instead of the features costs less than 0.05 on pictograms"
claim_margin("04.logits", text, at_end["features F"], at_end["logits Z"], below=0.05)
text = "Keeping only the winning ImageNet class costs more than 0.2"
claim_margin("04.winner", text, at_end["features F"], at_end["winner only"], above=0.2)

# %% [markdown]
# Logits are a linear map of the features, and a linear probe on a thousand of them has nearly the
# same freedom. The habit is unsound rather than costly; what costs is to throw away all but the
# winner.

# %% [markdown]
# ## Evaluation mode and the range of the input
#
# "Freeze the layers, then predict." **Guess first:** which of the two changes a feature, marking
# the weights as not trainable, or running in training mode? Eight pictures go through the network
# twice, each time with eight others as company. If the company matters, something is wrong.

# %% tags=["pytorch"]
import copy

n, drawings = run.pick(smoke=2, cpu=8), pictograms.images
company = [backbone.preprocess(images) for images in (drawings[n : 2 * n], drawings[-n:])]


def moved_by_company(model):
    with torch.inference_mode():
        one, two = (model[:-1](torch.cat([X[:n], others]))[:n] for others in company)
    return ((one - two).norm(dim=1) / two.norm(dim=1)).numpy()


training = copy.deepcopy(M).train()  # what a training loop leaves behind if nobody calls eval()
moved = moved_by_company(training)
moved_frozen = moved_by_company(training.requires_grad_(False))
moved_evaluation = moved_by_company(M)

# %% tags=["tensorflow"]
n, drawings = run.pick(smoke=2, cpu=8), pictograms.images
company = [backbone.preprocess(images) for images in (drawings[n : 2 * n], drawings[-n:])]


def moved_by_company(model, training):
    batches = [np.concatenate([X[:n], others]) for others in company]
    one, two = (model(batch, training=training).numpy()[:n] for batch in batches)
    return np.linalg.norm(one - two, axis=1) / np.linalg.norm(two, axis=1)


copied = keras.models.clone_model(M_cut)  # training mode changes BatchNorm's statistics
copied.set_weights(M_cut.get_weights())
moved = moved_by_company(copied, training=True)
copied.trainable = False
moved_frozen = moved_by_company(copied, training=True)
moved_evaluation = moved_by_company(M_cut, training=False)

# %%
print(f"training mode, frozen weights: {moved_frozen.mean():.2f} of a vector's length")
print(f"evaluation mode: {moved_evaluation.mean():.2f}")
text = "In training mode, other company moves a picture's features by over a fifth of their length"
claim_margin("04.training_mode", text, moved, above=0.2)

# %% [markdown]
# In training mode BatchNorm takes mean and variance from the batch. Evaluation mode is what you
# want, and freezing is another matter: it says what an optimizer may touch, and here no optimizer
# runs. Keras predicts in evaluation mode by itself (`predict`, or a call without `training=True`),
# and its BatchNorm also stays in evaluation mode once it is frozen. In PyTorch you call `eval()`,
# and `requires_grad=False` does not help.
#
# Now the range. This network wants pixels from −1 to 1. Much-copied code passes 0 to 255, or
# divides by 255 out of habit, or scales in the data loader and again in the model. **Guess first:**
# order the three by what they cost a probe.

# %%
ranges = {
    "right": backbone.scaling,  # -1 to 1
    "0 to 1": replace(backbone.scaling, mean=(0.0,) * 3, std=(255.0,) * 3),
    "0 to 255": replace(backbone.scaling, mean=(0.0,) * 3, std=(1.0,) * 3),
    "scaled twice": replace(backbone.scaling, mean=(127 + 127 * 128.0,) * 3, std=(128.0**2,) * 3),
}
F_range, in_range = {}, {}
print("                probe, blocks held out   ImageNet winner unchanged")
for name, scaling in ranges.items():
    misled = replace(backbone, scaling=scaling)
    F_range[name] = features.extract(misled, pictograms.images)["head"]
    in_range[name] = over_seeds(F_range[name], pictograms, "block")
    same = (F_range[name] @ W + b).argmax(axis=1) == (F_range["right"] @ W + b).argmax(axis=1)
    print(f"{name:16} {in_range[name].mean():12.3f} {same.mean():22.0%}")

# %%
text = "Feeding 0 to 1 where -1 to 1 is right costs a probe on pictograms less than 0.05"
claim_margin("04.range", text, in_range["right"], in_range["0 to 1"], below=0.05)
text = "Scaling twice costs it more than 0.05, without any error message"
claim_margin("04.scaled_twice", text, in_range["right"], in_range["scaled twice"], above=0.05)

# %% [markdown]
# The network's own answers change for many pictures in every wrong range, yet a new head forgives a
# mild shift, because it is trained on shifted features. That is why the bug lives so long: a
# somewhat lower number is all you ever see. Use the preprocessing that belongs to the weights.

# %% [markdown]
# ## Pooled or flattened
#
# A map of 7 × 7 places with $C$ channels becomes a vector by averaging ($d = C$ numbers) or by
# flattening ($d = 49\,C$). With a hidden layer of $h$ units and $k$ classes, a head has
#
# $$P = (d + 1)\,h + (h + 1)\,k \tag{3}$$
#
# parameters. The usual example is VGG16 ($C = 512$) with `Flatten` and 128 units for 10 classes.

# %% tags=["tensorflow"]
from keras import layers

vgg = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
P = {}
for name, end in (("flattened", layers.Flatten()), ("pooled", layers.GlobalAveragePooling2D())):
    dense = [layers.Dense(128, activation="relu"), layers.Dense(10)]
    P[name] = keras.Sequential([keras.Input(vgg.output_shape[1:]), end, *dense]).count_params()

# %% tags=["pytorch"]
from torch import nn

vgg_map = torch.zeros(1, 512, 7, 7)  # the shape of VGG16's last map for a 224 × 224 picture
P = {}
for name, end in (("flattened", nn.Identity()), ("pooled", nn.AdaptiveAvgPool2d(1))):
    head = nn.Sequential(end, nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, 10))
    head(vgg_map)  # LazyLinear takes its width d from the first input
    P[name] = sum(parameter.numel() for parameter in head.parameters())

# %%
C, h, k = 512, 128, 10
for name, d in (("flattened", 49 * C), ("pooled", C)):
    print(f"{name}: {P[name]:,} parameters")
    assert P[name] == (d + 1) * h + (h + 1) * k  # equation (3)

# %% [markdown]
# (That listing has three more faults: no preprocessing, `categorical_crossentropy` with labels that
# are not one-hot, and no validation set.) Does the place information pay for itself? **Guess
# first**, with 64 labelled pictures. They are drawn from three quarters of the blocks; the test is
# on the rest.


# %%
def with_labels(F, data, n, classifier, seeds):
    """Balanced accuracy with n labels, one number a seed."""
    scores = []
    for seed in seeds:
        rows, test = data.draw(n, seed)
        predicted = classifier.fit(F[rows], data.labels[rows]).predict(F[test])
        scores.append(balanced_accuracy_score(data.labels[test], predicted))
    return np.array(scores)


# %%
def pooled_and_flattened(data):
    maps = np.asarray(features.extract(backbone, data.images, pool=False)["head"], np.float32)
    pair = [with_labels(maps.mean(axis=(1, 2)), data, 64, linear_probe(1280), run.seeds(20))]
    flat = maps.reshape(len(maps), -1)
    pair.append(with_labels(flat, data, 64, linear_probe(flat.shape[1]), run.seeds(20)))
    print(f"{data.name}: pooled {pair[0].mean():.3f}, flattened {pair[1].mean():.3f}")
    return pair


pooled_and_flattened(some_cells)
text = "With 64 labels on pictograms, pooled features beat flattened ones, 49 times as many"
claim_margin("04.pooled", text, *pooled_and_flattened(pictograms), above=0)

# %% [markdown]
# ## Extract once
#
# A frozen backbone gives the same features for a picture in every epoch, yet the usual listing
# keeps it inside the training loop and computes them again each time. First, is it the same head?
# Both are trained for one epoch of plain gradient steps, on the same 80 pictures, from zero.

# %% tags=["pytorch"]
y = torch.tensor(pictograms.labels[:80])


def train_head(features_of):
    head, seconds = nn.Linear(1280, 8), []
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    for rows in torch.arange(len(y)).split(16):
        started = time.perf_counter()
        loss = nn.functional.cross_entropy(head(features_of(rows)), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return head.weight.detach().numpy(), np.array(seconds)


# %% tags=["pytorch"]
def through_the_network(rows):
    with torch.no_grad():
        return M[:-1](backbone.preprocess(pictograms.images[rows.numpy()]))


kept = torch.from_numpy(exact)
train_head(through_the_network)  # a first round to warm up
weights_loop, seconds_loop = train_head(through_the_network)
weights_kept, seconds_kept = train_head(lambda rows: kept[rows])

# %% tags=["tensorflow"]
y = pictograms.labels[: run.pick(smoke=20, cpu=96)]


def train_head(before_the_head, inputs_of):
    head, seconds = layers.Dense(8, kernel_initializer="zeros"), []
    model = keras.Sequential([*before_the_head, head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    for rows in np.split(np.arange(len(y)), range(16, len(y), 16)):
        started = time.perf_counter()
        model.train_on_batch(inputs_of(rows), y[rows])
        seconds.append(time.perf_counter() - started)
    return head.get_weights()[0], np.array(seconds[1:])  # the first step also compiles


# %% tags=["tensorflow"]
def pictures(rows):
    return backbone.preprocess(pictograms.images[rows])


M_cut.trainable = False
weights_loop, seconds_loop = train_head([M_cut], pictures)
weights_kept, seconds_kept = train_head([], lambda rows: exact[rows])

# %%
print(f"the two heads differ by {np.abs(weights_loop - weights_kept).max():.0e} at most")
assert np.abs(weights_loop - weights_kept).max() < 1e-4

# %% [markdown]
# The same head, because nothing before it moves: no augmentation, no dropout, BatchNorm in
# evaluation mode. (With augmentation each epoch sees new pictures; kept features would freeze the
# first ones.) What does it save? The loop's fastest batch is scaled to all pictures and ten epochs.
# The extraction runs in full, compiling included, with nothing read from disk.

# %%
started, epochs = time.perf_counter(), 10
features.extract(backbone, pictograms.images, cache=run.pick(smoke=True, cpu=False))
seconds_extract, batches = time.perf_counter() - started, len(pictograms) / 16
once = seconds_extract + seconds_kept.mean() * batches * epochs
ratio = seconds_loop.min() * batches * epochs / once
text = f"For {epochs} epochs, extracting once is more than 4 times as fast as the loop"
claim("04.once", text, ratio > 4, ratio)
one_pass = seconds_loop.min() * batches / seconds_extract
print(f"of this, {one_pass:.1f} is the speed of one pass; the rest is not repeating it")

# %% [markdown]
# ## Which depth?
#
# Any layer can end the cut: VGG16 has `block1_conv2`, this network `stem`, `block1` … `block16`,
# `head`. The textbook says that early layers are general and late ones belong to the old task, so
# data far from ImageNet want an earlier cut. **Guess first**, for both data sets: where is the best
# cut, and does the split change the answer? The control is the same network, never trained.

# %% tags=["pytorch"]
from tlcourse.backbones import spec, torch_lite


def untrained(seed):
    torch.manual_seed(seed)
    return replace(backbone, model=torch_lite.build(spec.LITE[backbone.name]).eval())


# %% tags=["tensorflow"]
from tlcourse.backbones import keras_lite, spec


def untrained(seed):
    keras.utils.set_random_seed(seed)
    return replace(backbone, model=keras_lite.build(spec.LITE[backbone.name]))


# %%
random_network = untrained(run.seed)
F0_near = features.extract(random_network, pictograms.images, cuts=cuts)
F0_far = features.extract(random_network, cells.images, cuts=cuts)
F_depth = {
    ("pictograms", "pretrained"): F_near,
    ("pictograms", "untrained"): F0_near,
    ("solar cells", "pretrained"): F_far,
    ("solar cells", "untrained"): F0_far,
}
depth = {}
for (name, weights), F in F_depth.items():
    for kind in ("random", "block") if weights == "pretrained" else ("block",):
        accuracy = [over_seeds(F[cut], near_and_far[name], kind) for cut in cuts]
        depth[name, weights, kind] = np.array(accuracy)  # (cuts, seeds)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, shown in zip(axes, near_and_far, strict=True):
    lines = [key for key in depth if key[0] == shown]
    best = {key[1:]: cuts[depth[key].mean(axis=1).argmax()] for key in lines}
    for i, key in enumerate(lines):
        figures.lines(ax, range(len(cuts)), depth[key], f"{key[1]}, {key[2]} split", i)
    ax.set_title(f"{shown}: best at {best['pretrained', 'block']} (blocks held out)")
    ax.set_xticks(range(len(cuts)), cuts, rotation=60)
    ax.set_xlabel("cut after")
axes[0].set_ylabel("balanced accuracy of the probe")
axes[0].legend()
alt = """Probe accuracy by cut point, with intervals over five seeds. Pictograms rise up to the last
blocks. Solar cells rise and stay high on the random split, but peak in the middle and fall when
blocks are held out. Untrained weights stay below pretrained ones except in the first layers."""
figures.show(fig, alt)

# %% [markdown]
# Put numbers on it: *middle* means the cuts with maps of 14 × 14 places (`block8`, `block11`),
# *late* those with 7 × 7 (`block13`, `block15`, `head`).


# %%
def part(name, of_cuts, weights="pretrained", kind="block"):
    """Mean accuracy over some cuts, one number a seed."""
    return depth[name, weights, kind][[cuts.index(cut) for cut in of_cuts]].mean(axis=0)


near, far = near_and_far
middle, late = ("block8", "block11"), ("block13", "block15", "head")
text = "Near to ImageNet (pictograms), late cuts beat the middle by more than 0.03"
claim_margin("04.depth_near", text, part(near, late), part(near, middle), above=0.03)
text = "Far from it (solar cells, blocks held out), the middle beats the late cuts"
claim_margin("04.depth_far", text, part(far, middle), part(far, late), above=0)
text = "On the random split of the solar cells it looks the other way round: late cuts win"
leaky = [part(far, of_cuts, kind="random") for of_cuts in (late, middle)]
claim_margin("04.depth_leaky", text, *leaky, above=0)

# %%
best = {key: accuracy.max(axis=0) for key, accuracy in depth.items()}
gain = {d: best[d, "pretrained", "block"] - best[d, "untrained", "block"] for d in (near, far)}
print({name: f"{value.mean():.2f} gained by pretraining" for name, value in gain.items()})
text = "At the best depths, pretraining gains over 0.1 more on pictograms than on solar cells"
claim_margin("04.gain", text, gain[near], gain[far], above=0.1)
text = "The last layer of the untrained network scores above 0.3 on pictograms, chance is 0.125"
claim_margin("04.untrained", text, part(near, ["head"], "untrained"), above=0.3)

# %% [markdown]
# In the first layers the two curves nearly touch. Is that this one draw of random weights? Draw the
# untrained first layer five times.

# %%
stems = [features.extract(untrained(s), pictograms.images, ["stem"])["stem"] for s in run.seeds(5)]
drawn = zip(stems, run.seeds(5), strict=True)
drawn = [cross_validated(stem, pictograms, "block", seed) for stem, seed in drawn]
text = "The pretrained first layer is less than 0.05 better than untrained ones (pictograms)"
claim_margin("04.first_layer", text, part(near, ["stem"]), drawn, below=0.05)

# %% [markdown]
# Three things to take along. The best depth depends on the data, so measure it; all cuts cost one
# pass. On the solar cells the *split* decides the answer: with neighbours on both sides, late
# layers look better than they are on other modules. And run the untrained control: averaged over a
# picture, first-layer features say about as much untrained, and random convolutions are no weak
# baseline (Saxe et al., 2011). The curve shows one draw of them; another `SEED` shows another.

# %% [markdown]
# ## Which classifier on top?
#
# The same features, three classifiers: the linear probe, a vote of the five nearest neighbours, a
# support vector machine with a radial kernel. **Guess first** for 16, 64 and 400 labels.

# %%
from sklearn.svm import SVC

classifiers = {
    "linear probe": linear_probe(1280),
    "5 nearest, cosine": make_pipeline(StandardScaler(), KNeighborsClassifier(5, metric="cosine")),
    "SVM, radial kernel": make_pipeline(StandardScaler(), SVC(C=10, class_weight="balanced")),
}
counts, seeds, few = run.pick(smoke=(16, 40), cpu=(16, 64, 400)), run.seeds(10), {}
for name, F in ((near, F_near["head"]), (far, F_far["head"])):
    for how, classifier in classifiers.items():
        rows = [with_labels(F, near_and_far[name], n, classifier, seeds) for n in counts]
        few[name, how] = np.array(rows)  # (counts, seeds)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, name in zip(axes, near_and_far, strict=True):
    for i, how in enumerate(classifiers):
        figures.lines(ax, np.log2(counts), few[name, how], how, i)
    leader = max(classifiers, key=lambda how: few[name, how].mean())
    ax.set_title(f"{name}: the {leader} leads on average")
    ax.set_xticks(np.log2(counts), counts)
    ax.set_xlabel("labelled pictures (log scale)")
axes[0].set_ylabel("balanced accuracy, blocks held out")
axes[0].legend()
alt = """Balanced accuracy against the number of labels, with intervals over ten seeds. All rise;
the linear probe is highest or level everywhere; the radial SVM starts near chance on pictograms."""
figures.show(fig, alt)

# %%
linear, nearest_5, radial = classifiers
text = "With 400 labels the linear probe beats five nearest neighbours on pictograms"
claim_margin("04.probe_near", text, few[near, linear][-1], few[near, nearest_5][-1], above=0)
text = "With 400 labels the linear probe beats five nearest neighbours on solar cells"
claim_margin("04.probe_far", text, few[far, linear][-1], few[far, nearest_5][-1], above=0)
text = "With 16 labels a radial SVM is more than 0.05 below the linear probe on pictograms"
claim_margin("04.svm", text, few[near, linear][0], few[near, radial][0], above=0.05)

# %% [markdown]
# The network was trained with a linear layer on exactly these features, so a linear classifier
# suits them. The kernel (with its default width; tuning that takes labels too) and the vote have
# more to learn from the same few pictures.

# %% [markdown]
# ## Which network and layer, before training anything?
#
# Some scores promise to rank candidates without training. All of these read the standardised
# features of $n$ rows, and through their singular values, $F = U\,\mathrm{diag}(s)\,V^\top$.
#
# **H-score** (Bao et al., 2019) is the share of the features' spread that lies between the classes,
# $\mathrm{tr}(\Sigma_F^{-1}\,\Sigma_{E[F|y]}) = \sum_c n_c \lVert\bar U_c\rVert^2$, with
# $\bar U_c$ the mean of the rows of class $c$.
#
# **LogME** (You et al., 2021) is the log evidence of a Bayesian linear model whose prior and noise
# are chosen to maximise it, averaged over the classes. Let $\rho$ be the ratio of the two
# precisions, $z = U^\top y$ and
# $E = \lVert y\rVert^2 - \lVert z\rVert^2 + \sum_i \frac{\rho}{\rho + s_i^2}\,z_i^2$. Then it is
#
# $$\max_\rho\ \tfrac12\Bigl[\log\frac{n}{2\pi E} - 1 + \tfrac1n\sum_i
# \log\frac{\rho}{\rho + s_i^2}\Bigr] \tag{4}$$
#
# **LEEP** (Nguyen et al., 2020) predicts your label $y$ through the old classes $z$, to which the
# network gives probabilities $\theta(x)_z$:
# $\frac1n\sum_i \log \sum_z \hat P(y_i\,|\,z)\,\theta(x_i)_z$. It needs the old head, so all layers
# of one network get the same value: it cannot choose a layer.


# %%
def decomposed(F):
    U, s, _ = np.linalg.svd(StandardScaler().fit_transform(F.astype(float)), full_matrices=False)
    return U[:, s > 1e-6 * s[0]], s[s > 1e-6 * s[0]]


def h_score(U, s, y):
    return sum((y == c).sum() * (U[y == c].mean(axis=0) ** 2).sum() for c in np.unique(y))


# %%
def logme(U, s, y):
    rho, n = np.logspace(-3, 7, 80)[:, None], len(y) - 1  # one degree of freedom is the mean
    shrink, evidence = rho / (rho + s**2), []
    for c in np.unique(y):
        target = (y == c) - np.mean(y == c)
        z = U.T @ target
        E = max(target @ target - z @ z, 0) + shrink @ z**2
        of_rho = np.log(n / (2 * np.pi * E)) - 1 + np.log(shrink).sum(axis=1) / n
        evidence.append(of_rho.max() / 2)  # equation (4)
    return np.mean(evidence)


def leep(theta, y):
    joint = np.stack([theta[y == c].sum(axis=0) for c in np.unique(y)]) / len(y)
    chance = theta @ (joint / joint.sum(axis=0)).T  # of each label, for each picture
    return np.mean(np.log(chance[np.arange(len(y)), np.unique(y, return_inverse=True)[1]]))


# %% [markdown]
# The candidates are layers of three pretrained networks of growing size and of the untrained one.
# The truth is the probe with blocks held out. **Guess first:** which score ranks them best, and on
# which data?

# %%
candidates = {near: {}, far: {}}
for network, F, F_cells in (("Lite0", F_near, F_far), ("untrained", F0_near, F0_far)):
    for cut in ("block3", "block8", "block11", "block15", "head"):
        candidates[near][network, cut] = F[cut]
        candidates[far][network, cut] = F_cells[cut][third]
for i in run.pick(smoke=(), cpu=(1, 2)):
    larger = backbones.load(f"efficientnet-lite{i}")
    for name, data in ((near, pictograms), (far, some_cells)):
        F = features.extract(larger, data.images, cuts=("block10", "head"))
        candidates[name] |= {(f"Lite{i}", cut): F[cut] for cut in F}

# %%
started, truth, ranked = time.perf_counter(), {}, {near: pictograms, far: some_cells}
for name, data in ranked.items():
    probes = [over_seeds(F, data, "block", 3).mean() for F in candidates[name].values()]
    truth[name] = np.array(probes)
seconds_probes = time.perf_counter() - started

# %% [markdown]
# Each score sees a random half of the rows, five times. Kendall's τ compares its order with the
# truth: 1 is the same order, 0 no relation.

# %%
from scipy.stats import kendalltau

started, scores, tau = time.perf_counter(), {}, {}
for name, data in ranked.items():
    for seed in run.seeds(5):
        half = np.random.default_rng(seed).permutation(len(data))[::2]
        parts = [decomposed(F[half]) for F in candidates[name].values()]
        for kind, score in (("LogME", logme), ("H-score", h_score)):
            values = [score(U, s, data.labels[half]) for U, s in parts]
            scores.setdefault((name, kind), []).append(values)
            tau.setdefault((name, kind), []).append(kendalltau(values, truth[name]).statistic)
seconds_scores = time.perf_counter() - started
for key, values in tau.items():
    print(f"{', '.join(key)}: τ = {np.mean(values):.2f}")
print(f"probes, 3 seeds: {seconds_probes:.1f} s; scores, 5 halves: {seconds_scores:.1f} s")

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, name in zip(axes, ranked, strict=True):
    of_network = np.array([network for network, _ in candidates[name]])
    value = np.mean(scores[name, "LogME"], axis=0)
    for i, network in enumerate(dict.fromkeys(of_network)):
        mine, look = of_network == network, {"color": figures.COLORS[i], "label": network}
        ax.plot(value[mine], truth[name][mine], figures.MARKERS[i], **look)
    ax.set_title(f"{name}: LogME ranks with τ = {np.mean(tau[name, 'LogME']):.2f}")
    ax.set_xlabel("LogME (nats per row)")
axes[0].set_ylabel("balanced accuracy, blocks held out")
axes[0].legend()
alt = """Probe accuracy against LogME, one mark for each layer of four networks. On pictograms the
marks rise together; on solar cells the relation is looser."""
figures.show(fig, alt)

# %%
text = "LogME ranks the candidates on pictograms with Kendall's τ above 0.5"
claim_margin("04.logme", text, tau[near, "LogME"], above=0.5)
text = "LogME ranks better than the H-score on pictograms"
claim_margin("04.logme_or_h", text, tau[near, "LogME"], tau[near, "H-score"], above=0)
text = "The H-score gives the untrained last layer as much as the pretrained one, within 1 %"
order, h = list(candidates[near]), np.array(scores[near, "H-score"])
ratio = h[:, order.index(("untrained", "head"))] / h[:, order.index(("Lite0", "head"))]
claim_margin("04.h_score", text, ratio, 1, above=-0.01, below=0.01)

# %% [markdown]
# LEEP reads the old head alone. Which would it pick: the network that gets the right range, or the
# same one fed 0 to 255? And which would you?


# %%
def leep_on_halves(F):
    halves = [np.random.default_rng(s).permutation(len(F))[::2] for s in run.seeds(5)]
    theta = softmax(F @ W + b).astype(float)
    return np.array([leep(theta[half], pictograms.labels[half]) for half in halves])


right, wrong = leep_on_halves(F_range["right"]), leep_on_halves(F_range["0 to 255"])
print(f"LEEP: right range {right.mean():.3f}, 0 to 255 {wrong.mean():.3f} (higher is better)")
text = "LEEP rates the network fed 0 to 255 above the rightly fed one"
claim_margin("04.leep", text, wrong, right, above=0)
text = "The probe sees no such advantage: from 0 to 255 it is at most 0.02 better"
claim_margin("04.leep_truth", text, in_range["0 to 255"], in_range["right"], below=0.02)

# %% [markdown]
# With as many features as rows, the H-score calls anything perfect, untrained weights included.
# LEEP cannot know what a new head would learn. LogME charges for flexibility and ranks well where
# differences are large. But look at the clock: once the features are there, cross-validated probes
# take seconds, as the scores do, and they are the thing itself.

# %% [markdown]
# ## Look at the neighbours
#
# Three drawings and their five nearest by the cosine between features, among all objects. What will
# the neighbours share when the network is cut early? Guess, then move the slider (a running kernel
# is not needed, but run the cell once).


# %%
def unit(F):
    return F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)


def neighbours(cut):
    similar = unit(F_objects[cut])[queries] @ unit(F_objects[cut]).T
    found = np.argsort(-similar, axis=1)[:, :6].ravel()
    names = [name[:17] for name in objects.meta["unicode_name"][found]]
    title = f"Each row: a drawing and its nearest neighbours, cut after {cut}"
    return figures.grid_figure(objects.images[found], names, title=title)


queries = (np.array([0.25, 0.5, 0.72]) * len(objects)).astype(int)
chosen = run.pick(smoke=("stem", "head"), cpu=("stem", "block3", "block8", "block13", "head"))
rows = {cut: neighbours(cut) for cut in chosen}
alt = "Three drawings, each followed in its row by the five drawings nearest to it."
figures.slider(rows, "cut after", alt, start="head")

# %% [markdown]
# Early on colour decides: grey finds grey, blue finds blue. At the end the bed has found a bed, a
# couch and a bath, while the film frames still find boxes: what a thing is counts, and its shape.

# %% [markdown]
# ## Find a picture from a sketch
#
# Each object also exists as a line drawing. Does a sketch find its own coloured picture among all
# of them? The control is the plainest thing there is, the cosine between pixels at 32 × 32.
# **Guess first:** which wins? And if the sketch is drawn smaller, in a corner?

# %%
from tlcourse.backbones.image import resize

sketches = datasets.pictograms("line", labelled=False)
sketches = sketches.images[:: 8 if run.profile == "smoke" else 1]
corner = np.full_like(sketches, 255)
corner[:, 8:168, 8:168] = resize(sketches, 160)


def hits(query, target):
    """1 for each sketch whose own picture is nearest; each style's mean is removed before."""
    similar = unit(query - query.mean(axis=0)) @ unit(target - target.mean(axis=0)).T
    return (similar.argmax(axis=1) == np.arange(len(query))).astype(float)


# %%
def pixels(images):
    return resize(images, 32).mean(axis=3).reshape(len(images), -1)


hit = {}
for place, drawn in (("in place", sketches), ("in a corner", corner)):
    F = features.extract(backbone, drawn, cuts=("block11", "head"))
    hit[place, "pixels"] = hits(pixels(drawn), pixels(objects.images))
    hit |= {(place, cut): hits(F[cut], F_objects[cut]) for cut in F}
    print(place, {how: f"{hit[place, how].mean():.0%}" for how in ("pixels", "block11", "head")})

# %%
text = "A sketch drawn in place finds its picture by pixels more often than by the last layer"
claim_margin("04.sketch_pixels", text, hit["in place", "pixels"], hit["in place", "head"], above=0)
text = "Drawn smaller in a corner, features of block11 find over 0.3 more of them than pixels"
by = [hit["in a corner", how] for how in ("block11", "pixels")]
claim_margin("04.sketch_corner", text, *by, above=0.3)
text = "To find the same object, block11 beats the last layer by more than 0.05"
claim_margin(
    "04.sketch_depth", text, hit["in place", "block11"], hit["in place", "head"], above=0.05
)

# %% [markdown]
# The sketch is the outline of the very same drawing, so pixels line up and win: run the plain
# control before you praise a network. What the network brings is that place and size matter less.
# And for one and the same object a middle layer serves better than the last, which was made to
# forget what tells two trains apart. (Removing each style's own mean is a first, tiny domain
# adaptation; notebook 08 goes on from it.)

# %% [markdown]
# ## A map to look at
#
# Nobody can look at 1,280 dimensions, so people project them to two. How much survives?

# %%
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

F = StandardScaler().fit_transform(F_near["head"])
tsne = TSNE(metric="cosine", perplexity=min(30, len(F) // 4), random_state=run.seed)
planes = {"PCA": PCA(2).fit_transform(F), "t-SNE": tsne.fit_transform(F)}
kept = {name: over_seeds(Z, pictograms, "block", 5, nearest) for name, Z in planes.items()}
kept["all"] = over_seeds(unit(F), pictograms, "block", 5, nearest)
text = "On the plane of two principal components, 5 neighbours score more than 0.1 below all of F"
claim_margin("04.map", text, kept["all"], kept["PCA"], above=0.1)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.8))
for ax, (name, Z) in zip(axes, planes.items(), strict=True):
    for c, label in enumerate(pictograms.class_names):
        mine, fill = pictograms.labels == c, "none" if c > 6 else "full"
        look = {"color": figures.COLORS[c % 7], "fillstyle": fill, "markersize": 4}
        ax.plot(*Z[mine].T, figures.MARKERS[c % 7], label=label, **look)
    share = kept[name].mean() / kept["all"].mean()
    ax.set_title(f"{name} keeps {share:.0%} of what 5 neighbours know")
    ax.set_xlabel("first coordinate (no unit)")
    ax.set_ylabel("second coordinate (no unit)")
axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
figures.show(fig, "Pictograms on two maps by class: mixed in PCA, in loose groups in t-SNE.")

# %% [markdown]
# A map shows which pictures are near each other. It cannot show how far groups lie apart or how
# wide they are (t-SNE makes both up), it was fitted to the very pictures it shows, and what needs a
# third direction is folded away. Use it to find odd pictures, not to prove that classes separate.

# %% [markdown]
# ## What was seen

# %%
summary()

# %% [markdown]
# **The recipe**, as it stands after the measurements: choose a backbone by probing a few; cut it
# where the probe on *held-out blocks* is best; use its own preprocessing and evaluation mode; pool;
# extract once; put a linear head on top; always run the control (pixels, row number, untrained
# weights). Optionally fine-tune afterwards.
#
# Of that last step tutorials say "fine-tune some of the earlier layers, with a small rate to avoid
# overfitting". Normally it is the *last* layers that you unfreeze, after the head is trained, and
# the small rate protects what they know. Notebook 05 shows it.
#
# **Next.** Exercise set ex04 (folder `exercises`) asks you to cut, pool, count and choose a layer
# yourself. Then 05, fine-tuning: when is it worth moving the weights that you froze here?
