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
# classifier learns on the vectors. Afterwards you can
#
# - cut a network where you want it, and say what is left after the cut;
# - extract features once, keep them, and compare classifiers in seconds;
# - choose the layer and the network by measuring, on a split that does not flatter you;
# - name five habits from tutorials that cost accuracy, and five that cost nothing.
#
# *You need some Python and the idea of a classifier. 40 minutes to read, about one to run.*
#
# | word | meaning |
# |---|---|
# | backbone, base model | the pretrained network without its last layer |
# | frozen | its weights are not trained |
# | feature | one number of the vector that the backbone gives for a picture |
# | head | the layer or layers after the cut, trained for your task |
# | probe | a linear head, used to measure what the features know |

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %% tags=["tensorflow"]
from tlcourse import runtime

run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["pytorch"]
from tlcourse import runtime

run = runtime.start("pytorch", PROFILE, SEED)

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from tlcourse import backbones, datasets, features, figures
from tlcourse.evidence import claim, mean_interval, paired_interval, summary

# %% [markdown]
# Two data sets on purpose. The pictograms show objects that ImageNet knows too; the solar cells
# are grey photographs of cracks and dark spots, far from anything in ImageNet.

# %%
thin = run.pick(smoke=8, cpu=1)
objects = datasets.pictograms("color", labelled=False)
objects = objects.subset(np.arange(0, len(objects), thin))
pictograms = objects.subset(objects.labels >= 0)
cells = datasets.solar_cells()
cells = cells.subset(np.arange(0, len(cells), thin))
some_cells = cells.subset(np.arange(0, len(cells), 3))
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
# Tutorials write feature extraction as $F = M(X)$: the model's output is the feature. But a
# classifier's output is one score for each of its *old* classes. With the network as a chain of
# $L$ layers, $M = M_L \circ \dots \circ M_1$, what you want is the chain without its last one:
#
# $$F = M_{1:L-1}(X) = (M_{L-1} \circ \dots \circ M_1)(X) \tag{1}$$

# %% tags=["pytorch"]
import torch

backbone = backbones.load("efficientnet-lite0")
M = backbone.model  # a Sequential, so a cut is a slice
X = backbone.preprocess(pictograms.images[:16])
with torch.inference_mode():
    F = M[:-1](X)  # equation (1)
    same = torch.allclose(M[-1](F), M(X), atol=1e-4)
print(f"M(X) {tuple(M(X).shape)}, F {tuple(F.shape)}, M_L(F) equals M(X): {same}")
F = F.numpy()

# %% tags=["tensorflow"]
import keras

backbone = backbones.load("efficientnet-lite0")
M = backbone.model  # a functional model, so a cut is a new model that ends earlier
X = backbone.preprocess(pictograms.images[:16])
M_cut = keras.Model(M.input, M.layers[-2].output)
F = M_cut.predict(X, verbose=0)  # equation (1)
same = np.allclose(M.layers[-1](F), M(X), atol=1e-4)
print(f"M(X) {M(X).shape}, F {F.shape}, M_L(F) equals M(X): {same}")

# %% [markdown]
# `features.extract` makes the same cut, with batches, a fast engine and a file on disk, so that
# the second call reads instead of computing. `"head"` is the last convolution of this network;
# its map is averaged over the picture.

# %%
exact = features.extract(backbone, pictograms.images, precision="fp32")["head"]
fast = features.extract(backbone, pictograms.images)["head"]  # bf16 where the processor has it
print(f"by hand against extract in fp32: {np.abs(F - exact[:16]).max():.1e} at most")
off = np.linalg.norm(fast - exact, axis=1) / np.linalg.norm(exact, axis=1)
print(f"the faster precision moves a vector by {off.mean():.1%} of its length")
assert np.abs(F - exact[:16]).max() < 1e-4

# %% [markdown]
# ## Measure what features know: the probe
#
# A probe is a linear classifier on standardised features. Three choices make its number honest:
#
# - **Balanced accuracy**, the mean over classes of the share found, so that always answering
#   *intact* scores 0.5 and not 0.69.
# - **Two splits.** Neighbouring solar cells come from one module, and neighbouring code points are
#   variants of one drawing. A random split puts neighbours on both sides; a block split holds out
#   whole blocks. The row number alone, without a picture, will show you the difference.
# - **Several seeds.** Each deals the rows to five folds anew. An interval here speaks of the
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
    """Balanced accuracy of the predictions for all rows, each made by a model that never saw it."""
    predicted = np.empty(len(data), int)
    for train, test in data.folds(kind, 5, seed):
        model = classifier or linear_probe(F.shape[1])
        predicted[test] = model.fit(F[train], data.labels[train]).predict(F[test])
    return balanced_accuracy(data.labels, predicted)


def over_seeds(F, data, kind, n=5, classifier=None):
    return np.array([cross_validated(F, data, kind, s, classifier) for s in run.seeds(n)])


# %% [markdown]
# **Guess first:** how well can a classifier do that sees nothing but the position of a photograph
# in the file?

# %%
from sklearn.neighbors import KNeighborsClassifier

row_number = np.arange(len(cells), dtype=float)[:, None]
leak = {
    k: over_seeds(row_number, cells, k, 5, KNeighborsClassifier(5)) for k in ("random", "block")
}
print(f"random split {leak['random'].mean():.2f}, blocks held out {leak['block'].mean():.2f}")
effect, interval = mean_interval(leak["random"])
text = "Without any picture, the row number scores above 0.65 on a random split of the solar cells"
claim("04.row_number", text, interval[0] > 0.65, effect, interval, len(leak["random"]))

# %% [markdown]
# So no random split stands alone in this notebook. Now the features, in both precisions:

# %%
probe_fast = over_seeds(fast, pictograms, "block")
probe_exact = over_seeds(exact, pictograms, "block")
effect, interval = paired_interval(probe_fast, probe_exact)
print(f"probe on pictograms, blocks held out: {probe_fast.mean():.3f}, chance 0.125")
text = "The fast precision changes the accuracy of a probe by less than 0.02"
claim("04.precision", text, np.abs(interval).max() < 0.02, effect, interval, len(probe_fast))

# %% [markdown]
# ## What is left after the cut
#
# You will meet the recipe "load `ResNet50(include_top=False)`, then take `layers[-2]` to remove
# the last dense layer". **Guess first:** how many dense layers does that network have?

# %% tags=["tensorflow"]
resnet = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(224, 224, 3))
print(sum(isinstance(layer, keras.layers.Dense) for layer in resnet.layers), "dense layers")
X_resnet = keras.applications.resnet50.preprocess_input(pictograms.images[:16].astype("float32"))
maps = {}
for layer in resnet.layers[-2:]:
    maps[layer.name] = keras.Model(resnet.input, layer.output).predict(X_resnet, verbose=0)
    print(f"{layer.name}: {maps[layer.name].shape}, {(maps[layer.name] < 0).mean():.0%} negative")

# %% [markdown] tags=["tensorflow"]
# None: `include_top=False` has left them out already. `layers[-2]` is a sum *before* the last
# ReLU, with negative values that the network's own classifier never saw, and both outputs are
# maps of 7 × 7 places, so a vector needs pooling too. (The weights are random here; the layers and
# their order are the same with trained ones.) Read `model.summary()` before you count backwards.

# %% tags=["tensorflow"]
negative = (maps["conv5_block3_add"] < 0).mean(axis=(1, 2, 3))
effect, interval = mean_interval(negative)
text = "More than a tenth of what layers[-2] of a headless ResNet50 gives is negative"
claim("04.before_relu", text, interval[0] > 0.1, effect, interval, len(negative))

# %% [markdown] tags=["pytorch"]
# In PyTorch the recipe reads `nn.Sequential(*list(model.children())[:-1])`. **Guess first:** does
# a `Sequential` of a module's children compute what the module computes? Try it on one block.

# %% tags=["pytorch"]
block = M.block5
rebuilt = torch.nn.Sequential(*block.children())
with torch.inference_mode():
    inside = M[:5](X)  # stem and four blocks: what block5 receives
    right, wrong = block(inside).flatten(1), rebuilt(inside).flatten(1)
off_block = ((wrong - right).norm(dim=1) / right.norm(dim=1)).numpy()
print([name for name, _ in block.named_children()])

# %% [markdown] tags=["pytorch"]
# Children are listed, but how they are joined stands in `forward`: here `x + out`, which the copy
# has lost, with every weight in place and no error. A slice is safe where the model is a
# `Sequential`; elsewhere replace the last layer by `nn.Identity()` or use a forward hook. And note
# what is left: `M[:-2]` gives maps of 1 × 1 places, `M[:-1]` vectors.

# %% tags=["pytorch"]
effect, interval = mean_interval(off_block)
text = "A residual block rebuilt from its children is wrong by more than a third of its output"
claim("04.children", text, interval[0] > 1 / 3, effect, interval, len(off_block))

# %% [markdown]
# The opposite mistake is to cut nothing. A well-known example loads a hub's *classification* model
# and calls its output features (the hub has moved since, and its Keras layer does not work in
# Keras 3 `Sequential` models; the *feature vector* variant was meant). Those outputs are
#
# $$Z = F\,W + b \tag{2}$$
#
# with $W$ of shape 1280 × 1000, or worse, only the winning class. **Guess first:** what does it
# cost to probe the thousand logits instead of the features? And the softmax? And the winner?


# %% tags=["pytorch"]
def last_layer(model):
    return model.classifier.weight.detach().numpy().T, model.classifier.bias.detach().numpy()


# %% tags=["tensorflow"]
def last_layer(model):
    return model.get_layer("classifier").get_weights()


# %%
def softmax(Z):
    e = np.exp(Z - Z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


fast_cells = features.extract(backbone, some_cells.images)["head"]
W, b = last_layer(M)
ends = {"features F": lambda F: F, "logits Z": lambda F: F @ W + b}
ends["softmax of Z"] = lambda F: softmax(F @ W + b)
ends["winner only"] = lambda F: np.eye(W.shape[1])[(F @ W + b).argmax(axis=1)]

# %%
cost = {}
print("blocks held out    pictograms  solar cells")
for name, end in ends.items():
    cost[name] = over_seeds(end(fast), pictograms, "block")
    on_cells = over_seeds(end(fast_cells), some_cells, "block")
    print(f"{name:18} {cost[name].mean():10.3f} {on_cells.mean():12.3f}")

# %%
effect, interval = paired_interval(cost["features F"], cost["logits Z"])
text = "Probing the logits instead of the features costs less than 0.05 on pictograms"
claim("04.logits", text, interval[1] < 0.05, effect, interval, len(cost["logits Z"]))
effect, interval = paired_interval(cost["features F"], cost["winner only"])
text = "Keeping only the winning ImageNet class costs more than 0.2"
claim("04.winner", text, interval[0] > 0.2, effect, interval, len(cost["winner only"]))

# %% [markdown]
# Logits are a linear map of the features, and a linear probe on a thousand of them has nearly the
# same freedom. So the habit is unsound rather than costly; throwing all but the winner away is
# what costs.

# %% [markdown]
# ## Evaluation mode and input range
#
# "Freeze the layers, then predict." **Guess first:** which of the two changes the features: setting
# the weights to *not trainable*, or running the network in training mode?

# %% tags=["pytorch"]
first_mates = backbone.preprocess(pictograms.images[:16])
other_mates = backbone.preprocess(pictograms.images[-16:])


def features_of_first(model, i):
    """The features of picture i in a batch with 15 other pictures."""
    batch = torch.cat([first_mates[i : i + 1], other_mates[:15]])
    with torch.inference_mode():
        return model[:-1](batch)[0].numpy()


# %% tags=["pytorch"]
import copy

trainable, frozen, training = (copy.deepcopy(M) for _ in range(3))
frozen.requires_grad_(False)
training.train()  # what a training loop leaves behind if nobody calls eval()
print(np.abs(features_of_first(frozen, 0) - features_of_first(trainable, 0)).max(), "by freezing")
moved = []
for i in range(8):
    right = features_of_first(M, i)
    moved.append(np.linalg.norm(features_of_first(training, i) - right) / np.linalg.norm(right))

# %% tags=["tensorflow"]
first_mates = backbone.preprocess(pictograms.images[:16])
other_mates = backbone.preprocess(pictograms.images[-16:])


def features_of_first(model, i, training=False):
    """The features of picture i in a batch with 15 other pictures."""
    batch = np.concatenate([first_mates[i : i + 1], other_mates[:15]])
    return model(batch, training=training).numpy()[0]


# %% tags=["tensorflow"]
copied = keras.models.clone_model(M_cut)
copied.set_weights(M_cut.get_weights())
before = copied.predict(X, verbose=0)
copied.trainable = False
print(np.abs(copied.predict(X, verbose=0) - before).max(), "by freezing")
copied.trainable, moved = True, []
for i in range(8):
    right = features_of_first(M_cut, i)
    moved.append(
        np.linalg.norm(features_of_first(copied, i, training=True) - right) / np.linalg.norm(right)
    )

# %%
effect, interval = mean_interval(moved)
text = "Training mode moves a picture's features by more than a third of their length"
claim("04.training_mode", text, interval[0] > 1 / 3, effect, interval, len(moved))

# %% [markdown]
# Freezing changes nothing here: it says what an optimizer may touch, and no optimizer runs. In
# training mode BatchNorm takes mean and variance from the batch, so a picture's features depend on
# its neighbours in the batch, and the stored statistics move with every call. Keras predicts in
# evaluation mode by itself (`predict`, or `training=False`); in PyTorch you call `eval()`.
#
# Now the range of the input. This network wants pixels between −1 and 1. Many examples pass 0–255
# or divide by 255 out of habit, or scale in the data loader and again in the model. **Guess
# first:** order the three by what they cost a probe.

# %%
ranges = {
    "−1 to 1, right": backbone.scaling,
    "0 to 1": replace(backbone.scaling, mean=(0.0,) * 3, std=(255.0,) * 3),
    "0 to 255": replace(backbone.scaling, mean=(0.0,) * 3, std=(1.0,) * 3),
    "scaled twice": replace(backbone.scaling, mean=(127 + 127 * 128.0,) * 3, std=(128.0**2,) * 3),
}
winners, scaled = {}, {}
print("blocks held out  pictograms  solar cells  ImageNet winner unchanged")
for name, scaling in ranges.items():
    wrong = replace(backbone, scaling=scaling)
    F_wrong = features.extract(wrong, pictograms.images)["head"]
    winners[name] = (F_wrong @ W + b).argmax(axis=1)
    scaled[name] = over_seeds(F_wrong, pictograms, "block")
    F_wrong = features.extract(wrong, some_cells.images)["head"]
    on_cells = over_seeds(F_wrong, some_cells, "block").mean()
    kept = (winners[name] == winners["−1 to 1, right"]).mean()
    print(f"{name:16} {scaled[name].mean():10.3f} {on_cells:12.3f} {kept:20.0%}")

# %%
effect, interval = paired_interval(scaled["−1 to 1, right"], scaled["0 to 1"])
text = "Feeding 0 to 1 where −1 to 1 is right costs a probe on pictograms less than 0.04"
claim("04.range", text, interval[1] < 0.04, effect, interval, len(scaled["0 to 1"]))
effect, interval = paired_interval(scaled["−1 to 1, right"], scaled["scaled twice"])
text = "Scaling twice costs it more than 0.05, without any error message"
claim("04.scaled_twice", text, interval[0] > 0.05, effect, interval, len(scaled["scaled twice"]))

# %% [markdown]
# The network's own answers change for a large share of the pictures in every wrong range, yet a new
# linear head forgives a mild shift, because it is trained on the shifted features. That is why this
# bug lives so long: a lower number is all you ever see. Take the preprocessing that belongs to the
# weights.

# %% [markdown]
# ## Pooled or flattened
#
# A map of 7 × 7 places with $C$ channels becomes a vector by averaging ($C$ numbers) or by
# flattening ($49\,C$). With a hidden layer of $h$ units and $k$ classes, a head has
#
# $$P = (d + 1)\,h + (h + 1)\,k, \qquad d = C \text{ or } 49\,C \tag{3}$$
#
# parameters. The usual example is VGG16 ($C = 512$) with `Flatten` and 128 units for 10 classes.


# %%
def head_parameters(d, h=128, k=10):
    return (d + 1) * h + (h + 1) * k  # equation (3)


print(f"flattened {head_parameters(49 * 512):,}, pooled {head_parameters(512):,}")

# %% tags=["tensorflow"]
vgg = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
ends_of_vgg = {"flattened": keras.layers.Flatten(), "pooled": keras.layers.GlobalAveragePooling2D()}
for name, end in ends_of_vgg.items():
    dense = [keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    head = keras.Sequential([keras.Input(vgg.output_shape[1:]), end, *dense])
    print(f"{name}: {head.count_params():,} parameters in the head")
    assert head.count_params() == head_parameters(512 * (49 if name == "flattened" else 1))

# %% tags=["pytorch"]
ends_of_vgg = {"flattened": [torch.nn.Flatten()]}
ends_of_vgg["pooled"] = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
for name, end in ends_of_vgg.items():
    d = torch.nn.Sequential(*end)(torch.zeros(1, 512, 7, 7)).shape[1]  # VGG16's last map
    head = torch.nn.Sequential(
        *end, torch.nn.Linear(d, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    parameters = sum(p.numel() for p in head.parameters())
    print(f"{name}: {parameters:,} parameters in the head")
    assert parameters == head_parameters(d)

# %% [markdown]
# (The usual listing has two more faults: `categorical_crossentropy` needs one-hot labels, and it
# reports training accuracy only.) Does the place information that pooling throws away pay for
# itself? **Guess first**, for 64 labels and for 400. Labels are drawn from one part of the blocks,
# the test is on the others.


# %%
def draw_labels(data, n, seed):
    """n rows to learn from, one of each class at least, and the rows of the blocks held out."""
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
seeds, flat_loss = run.seeds(10), {}
print("blocks held out      pooled  flattened")
for data in (pictograms, some_cells):
    maps = np.asarray(features.extract(backbone, data.images, pool=False)["head"], np.float32)
    both = {"pooled": maps.mean(axis=(1, 2)), "flattened": maps.reshape(len(maps), -1)}
    for n in (64, 400):
        pair = [with_labels(F, data, n, linear_probe(F.shape[1]), seeds) for F in both.values()]
        flat_loss[data.name, n] = pair
        print(f"{data.name[:12]}, {n:3} labels {pair[0].mean():.3f}   {pair[1].mean():.3f}")
del maps, both

# %%
effect, interval = paired_interval(*flat_loss[pictograms.name, 64])
text = "With 64 labels on pictograms, pooled features beat flattened ones, 49 times as many"
claim("04.pooled", text, interval[0] > 0, effect, interval, len(seeds))

# %% [markdown]
# ## Extract once
#
# A frozen backbone gives the same features for a picture in every epoch. Yet the usual listing
# keeps it inside the training loop and computes them again each time. First: is it the same head?
# Both are trained for one epoch of plain gradient steps, on the same 80 pictures, from zero.

# %% tags=["pytorch"]
rows = np.arange(min(80, len(pictograms)))
y = torch.from_numpy(pictograms.labels[rows])
base = M[:-1]


def train_head(inputs_of):
    head = torch.nn.Linear(1280, 8)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer, seconds = torch.optim.SGD(head.parameters(), lr=0.01), []
    for batch in torch.arange(len(rows)).split(16):
        started = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(head(inputs_of(batch)), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return head.weight.detach().numpy(), np.array(seconds)


# %% tags=["pytorch"]
def through_the_network(batch):
    with torch.no_grad():  # the base is frozen
        return base(backbone.preprocess(pictograms.images[batch.numpy()]))


train_head(through_the_network)  # a first round, not timed
kept = torch.from_numpy(exact)
inside, seconds_inside = train_head(through_the_network)
outside, seconds_outside = train_head(lambda batch: kept[batch])

# %% tags=["tensorflow"]
rows = np.arange(min(80, len(pictograms)))
y = pictograms.labels[rows]
base = keras.Model(M.input, M.layers[-2].output)
base.trainable = False


def train_head(before_head, inputs_of):
    dense = keras.layers.Dense(8, kernel_initializer="zeros")
    model = keras.Sequential([*before_head, dense])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    seconds = []
    for start in range(0, len(rows), 16):
        batch, started = rows[start : start + 16], time.perf_counter()
        model.train_on_batch(inputs_of(batch), y[batch])
        seconds.append(time.perf_counter() - started)
    return dense.get_weights()[0], np.array(seconds)


# %% tags=["tensorflow"]
inside, seconds_inside = train_head(
    [base], lambda batch: backbone.preprocess(pictograms.images[batch])
)
outside, seconds_outside = train_head([], lambda batch: exact[batch])
# The first batch of each also compiles: it is not counted.
seconds_inside, seconds_outside = seconds_inside[1:], seconds_outside[1:]

# %%
print(f"largest difference between the two heads: {np.abs(inside - outside).max():.1e}")
assert np.abs(inside - outside).max() < 1e-4

# %% [markdown]
# The same head, because nothing before it changes: no augmentation, no dropout, BatchNorm in
# evaluation mode. (With augmentation every epoch sees new pictures, and kept features would freeze
# the first ones.) What does it save? The loop was timed on these pictures and is scaled to all of
# them; the extraction is run in full, compiling included, with nothing on disk.

# %%
started = time.perf_counter()
features.extract(backbone, pictograms.images, cache=False)
seconds_extract, epochs, batches = time.perf_counter() - started, 10, len(pictograms) / 16
loop = seconds_inside * batches * epochs
ours = seconds_extract + seconds_outside.mean() * batches * epochs
effect, interval = mean_interval(loop / ours)
text = f"For {epochs} epochs, extracting once is at least 5 times faster than the loop"
claim("04.once", text, interval[0] > 5, effect, interval, len(loop))
once = seconds_inside.mean() * batches / seconds_extract
print(f"one pass: the engine is {once:.1f} times as fast as the loop; the rest is not repeating it")

# %% [markdown]
# ## Which depth?
#
# Any layer can be the end of the cut: VGG16 has `block1_conv2`, this network `stem`, `block1` to
# `block16` and `head`. The textbook says: early layers are general, late layers belong to the old
# task, so data far from ImageNet want an earlier cut. **Guess first**, for both data sets: which
# depth is best, and does the answer depend on the split? The control is the same network as it
# comes out of the constructor, never trained.

# %% tags=["pytorch"]
from tlcourse.backbones import spec, torch_lite

torch.manual_seed(run.seed)
untrained = torch_lite.build(spec.LITE[backbone.name]).eval()
untrained = replace(backbone, name="untrained", model=untrained)

# %% tags=["tensorflow"]
from tlcourse.backbones import keras_lite, spec

keras.utils.set_random_seed(run.seed)
untrained = keras_lite.build(spec.LITE[backbone.name])
untrained = replace(backbone, name="untrained", model=untrained)

# %%
cuts = ("stem", "block1", "block3", "block5", "block8", "block11", "block13", "block15", "head")
cuts = run.pick(smoke=("stem", "block11", "head"), cpu=cuts)


def by_depth(network, data, kind):
    """Balanced accuracy (cuts, seeds)."""
    F = features.extract(network, data.images, cuts=cuts)
    return np.array([over_seeds(F[cut], data, kind) for cut in cuts])


depth = {}
for data in (pictograms, cells):
    for network, kind in ((backbone, "random"), (backbone, "block"), (untrained, "block")):
        depth[data.name, network.name, kind] = by_depth(network, data, kind)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, data in zip(axes, (pictograms, cells), strict=True):
    for i, (network, kind) in enumerate(
        ((backbone, "random"), (backbone, "block"), (untrained, "block"))
    ):
        words = f"{'pretrained' if network is backbone else 'untrained'}, {kind} split"
        figures.lines(ax, range(len(cuts)), depth[data.name, network.name, kind], words, i)
    best = [depth[data.name, backbone.name, k].mean(axis=1).argmax() for k in ("random", "block")]
    ax.set_title(f"{data.name}: best at {cuts[best[0]]} (random), {cuts[best[1]]} (blocks)")
    ax.set_xticks(range(len(cuts)), cuts, rotation=60)
    ax.set_xlabel("cut after")
axes[0].set_ylabel("balanced accuracy of a probe")
axes[0].legend()
figures.show(
    fig,
    "Probe accuracy by cut point. Pictograms rise to the last blocks; solar cells rise on the "
    "random split but peak in the middle when blocks are held out; untrained weights stay below.",
)

# %%
at = {cut: i for i, cut in enumerate(cuts)}
near, far = (depth[d.name, backbone.name, "block"] for d in (pictograms, cells))
near_0, far_0 = (depth[d.name, "untrained", "block"] for d in (pictograms, cells))
text = "Near ImageNet (pictograms) the last cut beats the middle (block11)"
effect, interval = paired_interval(near[at["head"]], near[at["block11"]])
claim("04.depth_near", text, interval[0] > 0, effect, interval, near.shape[1])
text = "Far from it (cells, blocks held out) the middle (block11) beats the last cut"
effect, interval = paired_interval(far[at["block11"]], far[at["head"]])
claim("04.depth_far", text, interval[0] > 0, effect, interval, far.shape[1])
text = "On the random split of the cells the last cut scores more than 0.03 higher than on blocks"
flattering = depth[cells.name, backbone.name, "random"][at["head"]]
effect, interval = paired_interval(flattering, far[at["head"]])
claim("04.split", text, interval[0] > 0.03, effect, interval, far.shape[1])

# %%
text = "The first pretrained layer (stem) is not better than an untrained one by 0.03 on pictograms"
effect, interval = paired_interval(near[at["stem"]], near_0[at["stem"]])
claim("04.early", text, interval[1] < 0.03, effect, interval, near.shape[1])
text = "At their best depths, pretraining gains at least 0.1 more on pictograms than on cells"
gain_near = near.max(axis=0) - near_0.max(axis=0)
gain_far = far.max(axis=0) - far_0.max(axis=0)
effect, interval = paired_interval(gain_near, gain_far)
claim("04.gain", text, interval[0] > 0.1, effect, interval, near.shape[1])
text = "Even so, an untrained network's last cut scores above 0.3 on pictograms, chance is 0.125"
effect, interval = mean_interval(near_0[at["head"]])
claim("04.untrained", text, interval[0] > 0.3, effect, interval, near.shape[1])

# %% [markdown]
# Three things to take along. The best depth depends on the data, so measure it: all cuts cost one
# pass. On the cells the *split* decides the answer; with neighbours on both sides the late layers
# look better than they are on new modules. And always run the untrained control: averaged early
# features are so general that training hardly shows in them, and random convolutions alone are no
# weak baseline (Saxe et al., 2011).

# %% [markdown]
# ## Which classifier on top?
#
# The features are the same; the classifier may be the linear probe, a vote of the five nearest
# neighbours, or a support vector machine with a radial kernel. **Guess first** for 16, 64 and 400
# labels.

# %%
from sklearn.svm import SVC

classifiers = {
    "linear probe": linear_probe(1280),
    "5 nearest, cosine": make_pipeline(StandardScaler(), KNeighborsClassifier(5, metric="cosine")),
    "SVM, radial kernel": make_pipeline(StandardScaler(), SVC(C=10, class_weight="balanced")),
}
head_features = {d.name: features.extract(backbone, d.images)["head"] for d in (pictograms, cells)}
counts = run.pick(smoke=(16, 40), cpu=(16, 64, 400))
few = {
    (data.name, name): np.array(
        [with_labels(head_features[data.name], data, n, c, seeds) for n in counts]
    )
    for data in (pictograms, cells)
    for name, c in classifiers.items()
}

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, data in zip(axes, (pictograms, cells), strict=True):
    for i, name in enumerate(classifiers):
        figures.lines(ax, np.log2(counts), few[data.name, name], name, i)
    ax.set_xticks(np.log2(counts), counts)
    ax.set_xlabel("labels (log scale)")
best = max(classifiers, key=lambda name: few[pictograms.name, name][-1].mean())
axes[0].set_title(f"Pictograms: the {best} leads at {counts[-1]}")
best = max(classifiers, key=lambda name: few[cells.name, name][-1].mean())
axes[1].set_title(f"Solar cells: the {best} leads at {counts[-1]}")
axes[0].set_ylabel("balanced accuracy, blocks held out")
axes[0].legend()
figures.show(fig, "Balanced accuracy against the number of labels for three classifiers.")

# %%
for data, short in ((pictograms, "pictograms"), (cells, "cells")):
    linear, nearest, svm = (few[data.name, name] for name in classifiers)
    text = f"With {counts[1]} labels the linear probe beats 5 nearest neighbours on {short}"
    effect, interval = paired_interval(linear[1], nearest[1])
    claim(f"04.probe_{short}", text, interval[0] > 0, effect, interval, len(seeds))
linear, nearest, svm = (few[pictograms.name, name] for name in classifiers)
text = "With 16 labels a radial SVM is more than 0.05 below the linear probe on pictograms"
effect, interval = paired_interval(linear[0], svm[0])
claim("04.svm", text, interval[0] > 0.05, effect, interval, len(seeds))

# %% [markdown]
# ## Which network and layer, before training anything?
#
# Scores promise to rank candidates without training. Three well-known ones, as formulas and code.
# All read the features $F$ (standardised, $n$ rows) through their singular value decomposition
# $F = U\,\mathrm{diag}(s)\,V^\top$.
#
# **H-score** (Bao et al., 2019): how much of the features' spread lies between the classes,
# $H = \mathrm{tr}(\Sigma_F^{-1}\,\Sigma_{E[F|y]})$, which is $\sum_c n_c \lVert\bar U_c\rVert^2$
# with the mean row $\bar U_c$ of class $c$.
#
# **LogME** (You et al., 2021): the log evidence of a Bayesian linear model, its prior and noise
# chosen by the data. With the ratio $\rho$ of the two precisions, $z = U^\top y$ and
# $E = \lVert y\rVert^2 - \lVert z\rVert^2 + \sum_i \frac{\rho}{\rho + s_i^2} z_i^2$ it is
#
# $$\max_\rho\ \tfrac12\Bigl[\log\frac{n}{2\pi E} - 1 + \tfrac1n\sum_i
# \log\frac{\rho}{\rho + s_i^2}\Bigr], \tag{4}$$
#
# averaged over the classes.
#
# **LEEP** (Nguyen et al., 2020): predict your label $y$ through the old classes $z$, whose
# probabilities $\theta(x)_z$ the network gives: $\frac1n\sum_i \log \sum_z \hat P(y_i|z)\,
# \theta(x_i)_z$. It needs the old head, so all layers of a network get the same value.


# %%
def decomposed(F):
    U, s, _ = np.linalg.svd(StandardScaler().fit_transform(F.astype(float)), full_matrices=False)
    return U[:, s > 1e-6 * s[0]], s[s > 1e-6 * s[0]]


def h_score(U, s, y):
    return sum((y == c).sum() * (U[y == c].mean(axis=0) ** 2).sum() for c in np.unique(y))


# %%
def logme(U, s, y):
    rho, n = np.logspace(-3, 7, 80)[:, None], len(y) - 1  # one degree of freedom is the mean
    kept, evidence = rho / (rho + s**2), []
    for c in np.unique(y):
        target = (y == c) - np.mean(y == c)
        z = U.T @ target
        E = max(target @ target - z @ z, 0) + kept @ z**2
        evidence.append(np.max(np.log(n / (2 * np.pi * E)) - 1 + np.log(kept).sum(axis=1) / n) / 2)
    return np.mean(evidence)  # equation (4)


def leep(theta, y):
    joint = np.stack([theta[y == c].sum(axis=0) for c in np.unique(y)]) / len(y)
    given_z = joint / joint.sum(axis=0)
    return np.mean(
        np.log((theta @ given_z.T)[np.arange(len(y)), np.unique(y, return_inverse=True)[1]])
    )


# %%
lite = ("block3", "block8", "block11", "block15", "head")
networks = {"Lite0": (backbone, lite), "untrained": (untrained, ("block3", "block11", "head"))}
for name in run.pick(smoke=(), cpu=("1", "2")):
    networks[f"Lite{name}"] = backbones.load(f"efficientnet-lite{name}"), ("block10", "head")

candidates, seconds_probe = {}, 0
for data in (pictograms, some_cells):
    for name, (network, places) in networks.items():
        for cut, F in features.extract(network, data.images, cuts=places).items():
            started = time.perf_counter()
            truth = over_seeds(F, data, "block", 3).mean()
            seconds_probe += time.perf_counter() - started
            candidates[data.name, f"{name} {cut}"] = F, truth

# %% [markdown]
# The truth is the probe with blocks held out. Each score is computed on five random halves of the
# rows, and compared with the truth by Kendall's τ: 1 is the same order, 0 no relation.

# %%
from scipy.stats import kendalltau

scores, tau, started = {}, {}, time.perf_counter()
for data in (pictograms, some_cells):
    names = [name for of, name in candidates if of == data.name]
    truth = [candidates[data.name, name][1] for name in names]
    for seed in run.seeds(5):
        half = np.random.default_rng(seed).permutation(len(data))[: len(data) // 2]
        y = data.labels[half]
        parts = [decomposed(candidates[data.name, name][0][half]) for name in names]
        for kind, score in (("LogME", logme), ("H-score", h_score)):
            values = [score(U, s, y) for U, s in parts]
            scores.setdefault((data.name, kind), []).append(values)
            tau.setdefault((data.name, kind), []).append(kendalltau(values, truth).statistic)
seconds_scores = time.perf_counter() - started

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, data in zip(axes, (pictograms, some_cells), strict=True):
    names = [name for of, name in candidates if of == data.name]
    for i, network in enumerate(networks):
        ours = [j for j, name in enumerate(names) if name.startswith(network)]
        ax.plot(
            np.mean(scores[data.name, "LogME"], axis=0)[ours],
            [candidates[data.name, names[j]][1] for j in ours],
            figures.MARKERS[i], color=figures.COLORS[i], label=network,
        )  # fmt: skip
    ax.set_title(f"{data.name}: LogME τ = {np.mean(tau[data.name, 'LogME']):.2f}")
    ax.set_xlabel("LogME (nats per row)")
axes[0].set_ylabel("probe, blocks held out")
axes[0].legend()
figures.show(fig, "Probe accuracy against LogME, one mark a layer; higher scores, higher accuracy.")

# %%
text = "LogME ranks the layers of pictograms with Kendall's τ above 0.5"
effect, interval = mean_interval(tau[pictograms.name, "LogME"])
claim("04.logme", text, interval[0] > 0.5, effect, interval, len(run.seeds(5)))
text = "On the cells LogME's τ is lower"
effect, interval = paired_interval(*(tau[d.name, "LogME"] for d in (pictograms, some_cells)))
claim("04.logme_far", text, interval[0] > 0, effect, interval, len(run.seeds(5)))
text = "The H-score gives the untrained last layer as much as the pretrained one (within 1 %)"
names = [name for of, name in candidates if of == pictograms.name]
ratio = [
    row[names.index("untrained head")] / row[names.index("Lite0 head")]
    for row in scores[pictograms.name, "H-score"]
]
effect, interval = mean_interval(ratio)
claim("04.h_score", text, max(abs(1 - np.array(interval))) < 0.01, effect, interval, len(ratio))

# %%
print("LEEP          pictograms  solar cells")
for name, (network, _) in networks.items():
    weights, bias = last_layer(network.model)
    row = [
        softmax(candidates[d.name, f"{name} head"][0] @ weights + bias)
        for d in (pictograms, some_cells)
    ]
    print(
        f"{name:12} {leep(row[0], pictograms.labels):11.3f} {leep(row[1], some_cells.labels):12.3f}"
    )
print(
    f"scores: {seconds_scores:.1f} s for 5 halves; probes: {seconds_probe:.1f} s for 3 seeds of 5 folds"
)

# %% [markdown]
# With more features than rows the H-score says "perfect" to anything, untrained weights included.
# LogME penalises that, and ranks well where differences are large. But look at the clock: once the
# features are extracted, a cross-validated probe is nearly as cheap, and it is the thing itself.
# The scores pay when candidates are thousands.

# %% [markdown]
# ## Look at the neighbours
#
# What does the network find similar? Take three drawings and their five nearest by the cosine
# between features, among all objects. Change `cut` to `"block3"` and run the cell again: the
# neighbours now share colours instead of meaning.

# %%
cut = "head"


def unit(F):
    return F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)


F_objects = unit(features.extract(backbone, objects.images, cuts=(cut,))[cut])
queries = (np.array([0.25, 0.5, 0.72]) * len(objects)).astype(int)
near_by = np.argsort(-F_objects[queries] @ F_objects.T, axis=1)[:, :6].ravel()
words = [name[:16] for name in objects.meta["unicode_name"][near_by]]
alt = "Three drawings, each followed by its five nearest neighbours."
figures.image_grid(
    objects.images[near_by], words, alt, title=f"First the query, then its neighbours ({cut})"
)

# %% [markdown]
# ## Find a picture from a sketch
#
# Each object also exists as a line drawing. Does a sketch find its own coloured picture among all
# objects? The control is the plainest thing there is: cosine between raw pixels, 32 × 32, grey.
# **Guess first:** which wins? And when the sketch is drawn smaller, in a corner?

# %%
from tlcourse.backbones.image import resize

sketches = datasets.pictograms("line", labelled=False)
sketches = sketches.subset(np.arange(0, len(sketches), thin)).images
corner = np.full_like(sketches, 255)
corner[:, 8:168, 8:168] = resize(sketches, 160)


def found(query, target):
    """For each sketch, whether its own picture is the nearest; each style has its mean removed."""
    similar = unit(query - query.mean(axis=0)) @ unit(target - target.mean(axis=0)).T
    return similar.argmax(axis=1) == np.arange(len(query))


def pixels(images):
    return resize(images, 32).mean(axis=3).reshape(len(images), -1)


# %%
places = ("block11", "head")
hits = {}
target = features.extract(backbone, objects.images, cuts=places)
for where, drawn in (("in place", sketches), ("in a corner", corner)):
    query = features.extract(backbone, drawn, cuts=places)
    hits[where, "pixels"] = found(pixels(drawn), pixels(objects.images))
    for cut in places:
        hits[where, cut] = found(query[cut], target[cut])
    print(where, {what: f"{hits[where, what].mean():.0%}" for what in ("pixels", *places)})


# %%
def by_fifths(right):
    return np.array([part.mean() for part in np.array_split(right, 5)])


for id, text, a, b in (
    (
        "pixels",
        "In place, raw pixels find more sketches than the last layer",
        ("in place", "pixels"),
        ("in place", "head"),
    ),
    (
        "corner",
        "In a corner, block11 finds more than the pixels, by over 0.3",
        ("in a corner", "block11"),
        ("in a corner", "pixels"),
    ),
    (
        "instance",
        "For finding the same object, block11 beats the last layer",
        ("in place", "block11"),
        ("in place", "head"),
    ),
):
    effect, interval = paired_interval(by_fifths(hits[a]), by_fifths(hits[b]))
    claim(
        f"04.sketch_{id}", text, interval[0] > (0.3 if id == "corner" else 0), effect, interval, 5
    )

# %% [markdown]
# ## A map to look at
#
# 1,280 numbers cannot be seen; two can.

# %%
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

F_standard = StandardScaler().fit_transform(fast)
flat_maps = {"PCA": PCA(2, random_state=run.seed).fit_transform(F_standard)}
flat_maps["t-SNE"] = TSNE(
    2, metric="cosine", init="pca", perplexity=min(30, len(fast) // 4), random_state=run.seed
).fit_transform(F_standard)
nearest = KNeighborsClassifier(5)
seen = {name: over_seeds(Z, pictograms, "block", 5, nearest) for name, Z in flat_maps.items()}
seen["all"] = over_seeds(unit(F_standard), pictograms, "block", 5, nearest)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 4))
fig.supylabel("second coordinate (no unit)")
for ax, (name, Z) in zip(axes, flat_maps.items(), strict=True):
    for c, label in enumerate(pictograms.class_names):
        mine = pictograms.labels == c
        ax.plot(
            *Z[mine].T,
            figures.MARKERS[c % 7],
            color=figures.COLORS[c % 7],
            ms=3.5,
            label=label,
            fillstyle="none" if c == 7 else "full",
        )
    ax.set_title(
        f"{name}: 5 neighbours score {seen[name].mean():.2f} (all features {seen['all'].mean():.2f})"
    )
    ax.set_xlabel("first coordinate (no unit)")
axes[0].set_ylabel("second coordinate (no unit)")
axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
figures.show(fig, "Two maps of 573 pictograms; classes mix in PCA and separate in t-SNE.")

# %%
centres = lambda Z: np.array([Z[pictograms.labels == c].mean(axis=0) for c in range(8)])
effect, interval = paired_interval(seen["all"], seen["PCA"])
text = "Two principal components lose more than 0.1 of the five neighbours' accuracy"
claim("04.map", text, interval[0] > 0.1, effect, interval, len(seen["PCA"]))

# %% [markdown]
# A map shows which pictures are neighbours. It does not show how far groups are apart or how wide
# they are (t-SNE chooses both), it was fitted with the pictures it shows, and structure that needs
# a third direction is folded away. Use it to find mislabelled pictures, not to prove separability.

# %% [markdown]
# ## What was seen

# %%
summary()

# %% [markdown]
# end
