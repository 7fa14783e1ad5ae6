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
from tlcourse.evidence import claim, mean_interval, paired_interval, summary

objects = datasets.pictograms("color", labelled=False)
cells = datasets.solar_cells()
if run.profile == "smoke":
    objects, cells = (data.subset(np.arange(0, len(data), 8)) for data in (objects, cells))
labelled = objects.labels >= 0
pictograms = objects.subset(labelled)
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
X = backbone.preprocess(pictograms.images[:16])
with torch.inference_mode():
    F = M[:-1](X).numpy()  # equation (1)
    rejoined, whole = M[-1](torch.from_numpy(F)).numpy(), M(X).numpy()

# %% tags=["tensorflow"]
import keras

backbone = backbones.load("efficientnet-lite0")
M = backbone.model  # a functional model, so a cut is a new model that ends earlier
X = backbone.preprocess(pictograms.images[:16])
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
print(f"by hand against extract in fp32: {np.abs(F - exact[:16]).max():.0e} at most")
assert np.abs(F - exact[:16]).max() < 1e-4
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
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_probe(width):
    """Least squares to the classes: a closed form, many times faster than logistic regression."""
    # The penalty grows with the number of features, so that every layer is shrunk alike.
    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=width, class_weight="balanced"))


def balanced_accuracy(labels, predicted):
    return np.mean([np.mean(predicted[labels == c] == c) for c in np.unique(labels)])


# %%
def cross_validated(F, data, kind, seed, classifier=None):
    """Balanced accuracy over all rows, each predicted by a model that has not seen its fold."""
    model, predicted = classifier or linear_probe(F.shape[1]), np.empty(len(data), int)
    for train, test in data.folds(kind, 5, seed):
        predicted[test] = model.fit(F[train], data.labels[train]).predict(F[test])
    return balanced_accuracy(data.labels, predicted)


def over_seeds(F, data, kind, n=5, classifier=None):
    return np.array([cross_validated(F, data, kind, s, classifier) for s in run.seeds(n)])


# %% [markdown]
# **Guess first:** how well does a classifier do that sees nothing but the position of a photograph
# in the file?

# %%
from sklearn.neighbors import KNeighborsClassifier

row_number, nearest = np.arange(len(cells), dtype=float)[:, None], KNeighborsClassifier(5)
leak = {kind: over_seeds(row_number, cells, kind, 5, nearest) for kind in ("random", "block")}
print(f"random split {leak['random'].mean():.2f}, blocks held out {leak['block'].mean():.2f}")
effect, interval = mean_interval(leak["random"])
text = "Without any picture, the row number scores above 0.65 on a random split of the solar cells"
claim("04.row_number", text, interval[0] > 0.65, effect, interval, len(leak["random"]))

# %% [markdown]
# So no random split stands alone in this notebook. Now the features, in both precisions: does
# moving every vector by a few percent matter to a probe?

# %%
probe_fast = over_seeds(F_near["head"], pictograms, "block")
effect, interval = paired_interval(probe_fast, over_seeds(exact, pictograms, "block"))
print(f"pictograms, blocks held out: {probe_fast.mean():.3f} (chance {1 / 8})")
text = "The fast precision changes the accuracy of a probe by less than 0.02"
claim("04.precision", text, np.abs(interval).max() < 0.02, effect, interval, len(probe_fast))

# %% [markdown]
# ## What is left after the cut?

# %% [markdown] tags=["tensorflow"]
# You will meet the recipe "load `ResNet50(include_top=False)` and take `layers[-2]`, which removes
# the last dense layer". **Guess first:** how many dense layers does that network have?

# %% tags=["tensorflow"]
resnet = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(224, 224, 3))
print(sum(isinstance(layer, keras.layers.Dense) for layer in resnet.layers), "dense layers")
X_resnet = keras.applications.resnet50.preprocess_input(pictograms.images[:8].astype("float32"))
for layer in (resnet.layers[-1], resnet.layers[-2]):
    maps = keras.Model(resnet.input, layer.output).predict(X_resnet, verbose=0)
    negative = (maps < 0).mean(axis=(1, 2, 3))
    print(f"{layer.name}: shape {maps.shape}, {negative.mean():.0%} negative")
effect, interval = mean_interval(negative)
text = "More than a tenth of what layers[-2] of a headless ResNet50 gives is negative"
claim("04.before_relu", text, interval[0] > 0.1, effect, interval, len(negative))

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
effect, interval = mean_interval(wrong_by)
text = "A residual block rebuilt from its children is wrong by more than a third of its output"
claim("04.children", text, interval[0] > 1 / 3, effect, interval, len(wrong_by))

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
effect, interval = paired_interval(at_end["features F"], at_end["logits Z"])
text = "Probing the logits instead of the features costs less than 0.05 on pictograms"
claim("04.logits", text, interval[1] < 0.05, effect, interval, len(at_end["logits Z"]))
effect, interval = paired_interval(at_end["features F"], at_end["winner only"])
text = "Keeping only the winning ImageNet class costs more than 0.2"
claim("04.winner", text, interval[0] > 0.2, effect, interval, len(at_end["winner only"]))

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

company = [backbone.preprocess(pictograms.images[rows]) for rows in (slice(8, 16), slice(-8, None))]


def moved_by_company(model):
    with torch.inference_mode():
        one, two = (model[:-1](torch.cat([X[:8], others]))[:8] for others in company)
    return ((one - two).norm(dim=1) / two.norm(dim=1)).numpy()


training = copy.deepcopy(M).train()  # what a training loop leaves behind if nobody calls eval()
moved = moved_by_company(training)
moved_frozen = moved_by_company(training.requires_grad_(False))
moved_evaluation = moved_by_company(M)

# %% tags=["tensorflow"]
company = [backbone.preprocess(pictograms.images[rows]) for rows in (slice(8, 16), slice(-8, None))]


def moved_by_company(model, training):
    batches = [np.concatenate([X[:8], others]) for others in company]
    one, two = (model(batch, training=training).numpy()[:8] for batch in batches)
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
effect, interval = mean_interval(moved)
text = "In training mode, other company moves a picture's features by over a fifth of their length"
claim("04.training_mode", text, interval[0] > 0.2, effect, interval, len(moved))

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
    "-1 to 1, right": backbone.scaling,
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
    same = (F_range[name] @ W).argmax(axis=1) == (F_range["-1 to 1, right"] @ W).argmax(axis=1)
    print(f"{name:16} {in_range[name].mean():12.3f} {same.mean():22.0%}")

# %%
effect, interval = paired_interval(in_range["-1 to 1, right"], in_range["0 to 1"])
text = "Feeding 0 to 1 where -1 to 1 is right costs a probe on pictograms less than 0.05"
claim("04.range", text, interval[1] < 0.05, effect, interval, len(in_range["0 to 1"]))
effect, interval = paired_interval(in_range["-1 to 1, right"], in_range["scaled twice"])
text = "Scaling twice costs it more than 0.05, without any error message"
claim("04.scaled_twice", text, interval[0] > 0.05, effect, interval, len(in_range["scaled twice"]))

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
def draw_labels(data, n, seed):
    """n rows to learn from, at least one of each class, and the rows of the blocks held out."""
    train, test = data.split("block", 0.25, seed)
    train = np.random.default_rng(seed).permutation(train)
    one_each = np.unique(data.labels[train], return_index=True)[1]
    others = np.setdiff1d(np.arange(len(train)), one_each)
    return train[np.append(one_each, others)[:n]], test


def with_labels(F, data, n, classifier, seeds):
    """Balanced accuracy with n labels, one number a seed."""
    scores = []
    for seed in seeds:
        rows, test = draw_labels(data, n, seed)
        predicted = classifier.fit(F[rows], data.labels[rows]).predict(F[test])
        scores.append(balanced_accuracy(data.labels[test], predicted))
    return np.array(scores)


# %%
def pooled_and_flattened(data):
    maps = np.asarray(features.extract(backbone, data.images, pool=False)["head"], np.float32)
    pair = [with_labels(maps.mean(axis=(1, 2)), data, 64, linear_probe(1280), run.seeds(20))]
    flat = maps.reshape(len(maps), -1)
    pair.append(with_labels(flat, data, 64, linear_probe(flat.shape[1]), run.seeds(20)))
    print(f"{data.name}: pooled {pair[0].mean():.3f}, flattened {pair[1].mean():.3f}")
    return pair


on_cells = pooled_and_flattened(some_cells)
effect, interval = paired_interval(*pooled_and_flattened(pictograms))
text = "With 64 labels on pictograms, pooled features beat flattened ones, 49 times as many"
claim("04.pooled", text, interval[0] > 0, effect, interval, len(on_cells[0]))

# %% [markdown]
# ## Extract once
#
# A frozen backbone gives the same features for a picture in every epoch, yet the usual listing
# keeps it inside the training loop and computes them again each time. First, is it the same head?
# Both are trained for one epoch of plain gradient steps, on the same 80 pictures, from zero.

# %% tags=["pytorch"]
y = torch.from_numpy(pictograms.labels[:80])


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
y = pictograms.labels[:96]


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
# first ones.) What does it save? The loop's seconds per batch are scaled to all pictures and ten
# epochs. The extraction runs in full, compiling included, with nothing read from disk.

# %%
started, epochs = time.perf_counter(), 10
features.extract(backbone, pictograms.images, cache=False)
seconds_extract, batches = time.perf_counter() - started, len(pictograms) / 16
ratio = seconds_loop * batches * epochs / (seconds_extract + seconds_kept.mean() * batches * epochs)
effect, interval = mean_interval(ratio)
text = f"For {epochs} epochs, extracting once is more than 4 times as fast as the loop"
claim("04.once", text, interval[0] > 4, effect, interval, len(ratio))
one_pass = seconds_loop.mean() * batches / seconds_extract
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

torch.manual_seed(run.seed)
untrained = replace(backbone, model=torch_lite.build(spec.LITE[backbone.name]).eval())

# %% tags=["tensorflow"]
from tlcourse.backbones import keras_lite, spec

keras.utils.set_random_seed(run.seed)
untrained = replace(backbone, model=keras_lite.build(spec.LITE[backbone.name]))

# %%
F0_near = features.extract(untrained, pictograms.images, cuts=cuts)
F0_far = features.extract(untrained, cells.images, cuts=cuts)
LINES = (("pretrained", "random"), ("pretrained", "block"), ("untrained", "block"))
depth = {}
for data, trained, control in ((pictograms, F_near, F0_near), (cells, F_far, F0_far)):
    for weights, kind in LINES:
        F = trained if weights == "pretrained" else control
        depth[data.name, weights, kind] = np.array([over_seeds(F[c], data, kind) for c in cuts])

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, data in zip(axes, (pictograms, cells), strict=True):
    best = []
    for i, (weights, kind) in enumerate(LINES):
        accuracy = depth[data.name, weights, kind]
        figures.lines(ax, range(len(cuts)), accuracy, f"{weights}, {kind} split", i)
        best.append(cuts[accuracy.mean(axis=1).argmax()])
    ax.set_title(f"{data.name.split(' (')[0]}: best is {best[0]} (random), {best[1]} (blocks)")
    ax.set_xticks(range(len(cuts)), cuts, rotation=60)
    ax.set_xlabel("cut after")
axes[0].set_ylabel("balanced accuracy of the probe")
axes[0].legend()
alt = """Probe accuracy by cut point, with intervals over five seeds. Pictograms rise up to the last
blocks. Solar cells rise and stay high on the random split, but peak in the middle and fall when
blocks are held out. Untrained weights stay below the pretrained ones except in the first layers."""
figures.show(fig, alt)

# %% [markdown]
# Put numbers on it: *middle* means the cuts with maps of 14 × 14 places (`block8`, `block11`),
# *late* those with 7 × 7 (`block13`, `block15`, `head`).


# %%
def part(data, names, weights="pretrained", kind="block"):
    """Mean accuracy over some cuts, one number a seed."""
    return depth[data.name, weights, kind][[cuts.index(name) for name in names]].mean(axis=0)


middle, late = ("block8", "block11"), ("block13", "block15", "head")
text = "Near to ImageNet (pictograms), late cuts beat the middle by more than 0.03"
effect, interval = paired_interval(part(pictograms, late), part(pictograms, middle))
claim("04.depth_near", text, interval[0] > 0.03, effect, interval, len(part(cells, late)))
text = "Far from it (solar cells, blocks held out), the middle beats the late cuts"
effect, interval = paired_interval(part(cells, middle), part(cells, late))
claim("04.depth_far", text, interval[0] > 0, effect, interval, len(part(cells, late)))
text = "On the random split of the solar cells, the late cuts beat the middle"
effect, interval = paired_interval(*(part(cells, c, kind="random") for c in (late, middle)))
claim("04.depth_leaky", text, interval[0] > 0, effect, interval, len(part(cells, late)))

# %%
best = {key: accuracy.max(axis=0) for key, accuracy in depth.items()}
gain = {d: best[d, "pretrained", "block"] - best[d, "untrained", "block"] for d, _, _ in depth}
text = "At the best depths, pretraining gains over 0.1 more on pictograms than on solar cells"
effect, interval = paired_interval(gain[pictograms.name], gain[cells.name])
claim("04.gain", text, interval[0] > 0.1, effect, interval, len(part(cells, late)))
text = "The pretrained first layer gains less than 0.1 over an untrained one (pictograms)"
first, first_0 = (part(pictograms, ("stem",), w) for w in ("pretrained", "untrained"))
effect, interval = paired_interval(first, first_0)
claim("04.first_layer", text, interval[1] < 0.1, effect, interval, len(first))
text = "The last layer of the untrained network scores above 0.3 on pictograms, chance is 0.125"
effect, interval = mean_interval(part(pictograms, ("head",), "untrained"))
claim("04.untrained", text, interval[0] > 0.3, effect, interval, len(first))

# %% [markdown]
# Three things to take along. The best depth depends on the data, so measure it; all cuts cost one
# pass. On the solar cells the *split* decides the answer: with neighbours on both sides, late
# layers look better than they are on other modules. And run the untrained control: averaged over a
# picture, first-layer features say about as much untrained, and random convolutions are no weak
# baseline (Saxe et al., 2011). One draw of random weights is shown; another `SEED` draws others.

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
for data, F in ((pictograms, F_near["head"]), (cells, F_far["head"])):
    for name, classifier in classifiers.items():
        rows = [with_labels(F, data, n, classifier, seeds) for n in counts]
        few[data.name, name] = np.array(rows)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, data in zip(axes, (pictograms, cells), strict=True):
    for i, name in enumerate(classifiers):
        figures.lines(ax, np.log2(counts), few[data.name, name], name, i)
    leader = max(classifiers, key=lambda name: few[data.name, name].mean())
    ax.set_title(f"{data.name.split(' (')[0]}: the {leader} leads on average")
    ax.set_xticks(np.log2(counts), counts)
    ax.set_xlabel("labelled pictures (log scale)")
axes[0].set_ylabel("balanced accuracy, blocks held out")
axes[0].legend()
alt = """Balanced accuracy against the number of labels, with intervals over ten seeds. All rise; the
linear probe is highest or level everywhere; the radial SVM starts near chance on pictograms."""
figures.show(fig, alt)

# %%
for data, short in ((pictograms, "pictograms"), (cells, "cells")):
    linear, neighbours, _ = (few[data.name, name][-1] for name in classifiers)
    effect, interval = paired_interval(linear, neighbours)
    text = f"With {counts[-1]} labels the linear probe beats five nearest neighbours on {short}"
    claim(f"04.probe_{short}", text, interval[0] > 0, effect, interval, len(seeds))
linear, _, radial = (few[pictograms.name, name][0] for name in classifiers)
effect, interval = paired_interval(linear, radial)
text = "With 16 labels a radial SVM is more than 0.05 below the linear probe on pictograms"
claim("04.svm", text, interval[0] > 0.05, effect, interval, len(seeds))

# %% [markdown]
# The network was trained to make its classes linearly separable, so a line is the classifier that
# fits its features. A flexible kernel has to learn from your labels what the probe gets for free.

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
middle_and_last = ("block10", "head")
candidates = {pictograms.name: {}, cells.name: {}}
for name, near, far in (("Lite0", F_near, F_far), ("untrained", F0_near, F0_far)):
    for cut in ("block3", "block8", "block11", "block15", "head"):
        candidates[pictograms.name][name, cut] = near[cut]
        candidates[cells.name][name, cut] = far[cut][third]
others = {
    f"Lite{i}": backbones.load(f"efficientnet-lite{i}") for i in run.pick(smoke=(), cpu=(1, 2))
}
for name, network in others.items():
    for data in (pictograms, some_cells):
        F = features.extract(network, data.images, cuts=middle_and_last)
        candidates[data.name] |= {(name, cut): F[cut] for cut in middle_and_last}

# %%
started, truth = time.perf_counter(), {}
for data in (pictograms, some_cells):
    found = [over_seeds(F, data, "block", 3).mean() for F in candidates[data.name].values()]
    truth[data.name] = np.array(found)
seconds_probes = time.perf_counter() - started

# %% [markdown]
# Each score sees a random half of the rows, five times. Kendall's τ compares its order with the
# truth: 1 is the same order, 0 no relation.

# %%
from scipy.stats import kendalltau

started, scores, tau = time.perf_counter(), {}, {}
for data in (pictograms, some_cells):
    halves = [np.random.default_rng(s).permutation(len(data))[::2] for s in run.seeds(5)]
    for half in halves:
        parts = [decomposed(F[half]) for F in candidates[data.name].values()]
        for kind, score in (("LogME", logme), ("H-score", h_score)):
            values = [score(U, s, data.labels[half]) for U, s in parts]
            scores.setdefault((data.name, kind), []).append(values)
            agreement = kendalltau(values, truth[data.name]).statistic
            tau.setdefault((data.name, kind), []).append(agreement)
seconds_scores = time.perf_counter() - started
print({f"{name}, {kind}": round(float(np.mean(t)), 2) for (name, kind), t in tau.items()})
print(f"probes, 3 seeds: {seconds_probes:.1f} s; scores, 5 halves: {seconds_scores:.1f} s")

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, data in zip(axes, (pictograms, some_cells), strict=True):
    names = [name for name, _ in candidates[data.name]]
    value = np.mean(scores[data.name, "LogME"], axis=0)
    for i, network in enumerate(dict.fromkeys(names)):
        mine = np.array(names) == network
        style = {"color": figures.COLORS[i], "label": network}
        ax.plot(value[mine], truth[data.name][mine], figures.MARKERS[i], **style)
    agreement = np.mean(tau[data.name, "LogME"])
    ax.set_title(f"{data.name.split(' (')[0]}: LogME ranks with τ = {agreement:.2f}")
    ax.set_xlabel("LogME (nats per row)")
axes[0].set_ylabel("probe, blocks held out")
axes[0].legend()
alt = """Probe accuracy against LogME, one mark for each layer of four networks. On pictograms the
marks rise together; on solar cells the relation is looser."""
figures.show(fig, alt)

# %%
text = "LogME ranks the candidates on pictograms with Kendall's τ above 0.5"
near, far = (tau[data.name, "LogME"] for data in (pictograms, some_cells))
effect, interval = mean_interval(near)
claim("04.logme", text, interval[0] > 0.5, effect, interval, len(near))
text = "LogME ranks better than the H-score on pictograms"
effect, interval = paired_interval(near, tau[pictograms.name, "H-score"])
claim("04.logme_or_h", text, interval[0] > 0, effect, interval, len(near))
order = list(candidates[pictograms.name])
h = np.array(scores[pictograms.name, "H-score"])
ratio = h[:, order.index(("untrained", "head"))] / h[:, order.index(("Lite0", "head"))]
effect, interval = mean_interval(ratio)
text = "The H-score gives the untrained last layer as much as the pretrained one, within 1 %"
claim("04.h_score", text, np.abs(np.array(interval) - 1).max() < 0.01, effect, interval, len(h))


# %%
def leep_of(F, data, rows=slice(None)):
    return leep(softmax(F[rows] @ W + b).astype(float), data.labels[rows])


halves = [np.random.default_rng(s).permutation(len(pictograms))[::2] for s in run.seeds(5)]
right, wrong = ([leep_of(F_range[r], pictograms, h) for h in halves] for r in list(ranges)[::2])
print(f"LEEP on pictograms: right range {np.mean(right):.3f}, 0 to 255 {np.mean(wrong):.3f}")
effect, interval = paired_interval(wrong, right)
text = "LEEP rates the network fed 0 to 255 above the rightly fed one, whose probe is better"
worse = in_range["0 to 255"].mean() < in_range["-1 to 1, right"].mean()
claim("04.leep", text, worse and interval[0] > 0, effect, interval, len(right))

# %% [markdown]
# With as many features as rows, the H-score calls anything perfect, untrained weights included.
# LEEP rewards how sure the old head is, not what a new one could learn. LogME penalises width, and
# it ranks well where differences are large. But look at the clock: once the features are there, a
# cross-validated probe costs about as much, and it is the thing itself. Scores pay off when the
# candidates are very many.

# %% [markdown]
# ## Look at the neighbours
#
# Three drawings and their five nearest by the cosine between features, among all objects. Then
# change `cut` to `"block3"` and run the cell again: what do the neighbours share now?

# %%
cut = "head"


def unit(F):
    return F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)


queries = (np.array([0.25, 0.5, 0.72]) * len(objects)).astype(int)
similar = unit(F_objects[cut])[queries] @ unit(F_objects[cut]).T
found = np.argsort(-similar, axis=1)[:, :6].ravel()
words = [name[:17] for name in objects.meta["unicode_name"][found]]
alt = "Three drawings, each followed in its row by the five drawings nearest to it."
title = f"Each row: a drawing and its nearest neighbours, cut after {cut}"
figures.image_grid(objects.images[found], words, alt, title=title)

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
n = len(sketches)
text = "A sketch drawn in place finds its picture by pixels more often than by the last layer"
effect, interval = paired_interval(hit["in place", "pixels"], hit["in place", "head"])
claim("04.sketch_pixels", text, interval[0] > 0, effect, interval, n)
text = "Drawn smaller in a corner, features of block11 find over 0.3 more of them than pixels"
effect, interval = paired_interval(hit["in a corner", "block11"], hit["in a corner", "pixels"])
claim("04.sketch_corner", text, interval[0] > 0.3, effect, interval, n)
text = "To find the same object, block11 beats the last layer, which is best for its class"
effect, interval = paired_interval(hit["in place", "block11"], hit["in place", "head"])
claim("04.sketch_depth", text, interval[0] > 0.05, effect, interval, n)

# %% [markdown]
# The sketch is the outline of the very same drawing, so pixels line up and win: run the plain
# control before you praise a network. What the network brings is that place and size matter less.
# (Removing each style's own mean is a first, tiny domain adaptation; notebook 08 goes on from it.)

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
effect, interval = paired_interval(kept["all"], kept["PCA"])
text = "On the plane of two principal components, 5 neighbours score more than 0.1 below all of F"
claim("04.map", text, interval[0] > 0.1, effect, interval, len(kept["all"]))

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
figures.show(fig, "Pictograms on two maps by class: mixed in PCA, in separate groups in t-SNE.")

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
# **Next.** Exercise set ex04 (in preparation) asks you to cut, pool, count and choose a layer
# yourself. Then 05, fine-tuning: when is it worth moving the weights that you froze here?
