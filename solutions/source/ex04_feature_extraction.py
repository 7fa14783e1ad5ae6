# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 4: feature extraction
#
# Seven functions and one question. Some run on real pictograms and solar cells, some on a small
# network that the check builds. *About an hour and a half.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [04](../../notebooks/tensorflow/04_feature_extraction.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [04](../../notebooks/pytorch/04_feature_extraction.ipynb).

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %%
import numpy as np

from tlcourse import runtime
from tlcourse.exercises import check

# %% tags=["tensorflow"]
run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["tensorflow"]
import keras

# %% tags=["pytorch"]
run = runtime.start("pytorch", PROFILE, SEED)

# %% tags=["pytorch"]
import copy

import torch
from torch import nn

# %% [markdown]
# ## 1. A picture as the network wants it
#
# The card of a pretrained network says: *input RGB, channels last, pixels between 0 and 1, then
# minus the mean 0.498, divided by the spread 0.502, the same for all three channels*. Your pictures
# come as `uint8`: coloured ones of shape $(n, H, W, 3)$ in RGB, grey ones of shape $(n, H, W)$.
# A grey picture goes into all three channels.


# %%
def to_input(images):
    """Return floats of shape (n, H, W, 3) for uint8 images (n, H, W, 3) or (n, H, W)."""
    ### BEGIN SOLUTION
    if images.ndim == 3:
        images = np.stack([images] * 3, axis=-1)
    return (images / 255 - 0.498) / 0.502
    ### END SOLUTION


# %%
check("ex04.1", to_input)

# %% [markdown] tags=["solution"]
# White becomes 1, black −0.992. (Dividing by 127.5 and taking 1 away, MobileNet's habit, gives −1
# for black: near enough to go unnoticed here, and wrong for the next network.)
#
# Notebook 04 measures what the others cost. Feeding 0 to 1 costs a new head little, since the head
# is trained on the shifted features. Scaling twice leaves differences of 1/128 between black and
# white and costs a lot. None of them raises an error, so look at the smallest and the largest
# number of one batch before you train anything.

# %% [markdown]
# ## 2. How many numbers does a head train?
#
# A head reads a map of shape $(H, W, C)$. It averages the map over its places (`pooled`) or
# flattens it, puts BatchNorm on the resulting numbers, then a dense layer of `hidden` units with
# ReLU, then a dense layer with one score for each class. With `hidden=0` the hidden layer is left
# out. How many of its numbers does the optimizer move?


# %%
def head_parameters(shape, hidden, classes, pooled):
    """Return how many parameters are trained; shape is (H, W, C), pooled is true or false."""
    ### BEGIN SOLUTION
    height, width, channels = shape
    d = channels if pooled else height * width * channels
    count = 2 * d
    if hidden:
        count += (d + 1) * hidden
        d = hidden
    return count + (d + 1) * classes
    ### END SOLUTION


# %%
check("ex04.2", head_parameters)

# %% [markdown] tags=["solution"]
# BatchNorm keeps four numbers a channel and trains two of them, scale and shift; the other two
# follow the data. A dense layer has one weight for each input and one bias, so $(d + 1)\,h$.
#
# On VGG16's maps with 128 units and 10 classes the pooled head trains 67,978 numbers, the flattened
# one 3,262,858: 48 times as many, for the same pictures.

# %% [markdown]
# ## 3. Cut the head off

# %% [markdown] tags=["pytorch"]
# You are given a model of this class, in training mode, and a batch `x`:
#
# ```python
# class Network(nn.Module):
#     def __init__(self):
#         super().__init__()
#         self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
#         self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
#         self.relu, self.pool, self.fc = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
#
#     def forward(self, x):
#         x = self.stem(x)
#         x = self.relu(x + self.block(x))
#         return self.fc(self.pool(x).flatten(1))
# ```

# %% [markdown] tags=["tensorflow"]
# You are given a functional model with these layers, and a batch `x`. The block's output is added
# to its input:
#
# ```text
# image → stem → stem_norm → stem_relu ─┬→ block → block_norm ─→ sum
#                                       └──────────────────────↗
# sum → relu → pool → scores → softmax
# ```
#
# `stem` and `block` are convolutions, the two `norm` layers BatchNorm, `scores` is dense.

# %% [markdown]
# Return what the last dense layer reads: the pooled features, one row for each picture. Others go
# on using the model, so leave it whole.


# %% tags=["pytorch"]
def features_of(model, x):
    """Return the features as an array of shape (n, 8) for a tensor x of shape (n, 3, H, W)."""
    ### BEGIN SOLUTION
    cut = copy.deepcopy(model).eval()
    cut.fc = nn.Identity()
    with torch.inference_mode():
        return cut(x).numpy()
    ### END SOLUTION


# %% tags=["tensorflow"]
def features_of(model, x):
    """Return the features as an array of shape (n, 8) for an array x of shape (n, H, W, 3)."""
    ### BEGIN SOLUTION
    cut = keras.Model(model.input, model.get_layer("pool").output)
    return cut(x, training=False).numpy()
    ### END SOLUTION


# %%
check("ex04.3", features_of)

# %% [markdown] tags=["solution", "pytorch"]
# `nn.Identity()` in place of the last layer keeps everything else that `forward` does. A
# `Sequential` of the children would run the same layers without `x +`, with every weight in place
# and no error. A forward hook on `pool` or a pre-hook on `fc` is as good, and spares the copy.
#
# `inference_mode` and `no_grad` save memory and time; they have no say in what BatchNorm does.

# %% [markdown] tags=["solution", "tensorflow"]
# Cut by name. `layers[-2]` is the layer `scores` here, because the softmax is a layer of its own:
# the recipe "take the last layer but one" would return the old classes' scores and nothing would
# look wrong. A model rebuilt layer by layer would lose the addition.
#
# Calling a Keras model runs it in evaluation mode unless somebody says `training=True`; saying
# `training=False` makes it plain to the reader.

# %% [markdown] tags=["solution"]
# One test tells all of these mistakes: put your features through the model's own last layer. If the
# model's answers come back, you have what that layer was trained to read.

# %% [markdown]
# ## 4. Freeze the backbone and nothing else

# %% [markdown] tags=["pytorch"]
# `model` has two parts, `model.backbone` (convolution, BatchNorm, pooling) and `model.head` (two
# dense layers, both new). It comes in training mode. Change it so that the training steps that
# follow move all of the head and nothing of the backbone, the statistics of its BatchNorm included.
# The steps call the model as you leave it.

# %% [markdown] tags=["tensorflow"]
# `model` is a `Sequential` of the layer `"backbone"`, a model of its own (convolution, BatchNorm,
# pooling), and two dense layers, both new. It has been compiled and trained before; you find its
# `optimizer` and its `loss` on it. Change it so that the calls of `train_on_batch` that follow move
# all of the head and nothing of the backbone, the statistics of its BatchNorm included.


# %% tags=["pytorch"]
def freeze(model):
    """Freeze model.backbone in place; return nothing."""
    ### BEGIN SOLUTION
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    model.backbone.eval()
    ### END SOLUTION


# %% tags=["tensorflow"]
def freeze(model):
    """Freeze the layer "backbone" in place; return nothing."""
    ### BEGIN SOLUTION
    model.get_layer("backbone").trainable = False
    model.compile(model.optimizer, model.loss)
    ### END SOLUTION


# %%
check("ex04.4", freeze)

# %% [markdown] tags=["solution", "pytorch"]
# Two different things have to stop: the optimizer (`requires_grad`) and BatchNorm's running mean
# and variance (`eval()`). Note that `model.train()` at the start of the next epoch undoes the
# second one, and most training loops begin with it: call `model.backbone.eval()` after it, every
# time, or override `train` in the module.
#
# `model.backbone.requires_grad = False` without the underscore and the brackets makes a new
# attribute that nobody reads; `model.backbone.requires_grad_(False)` is the method.

# %% [markdown] tags=["solution", "tensorflow"]
# `trainable = False` on a model goes down to all its layers. A BatchNorm layer that is not
# trainable also uses its running mean and variance and leaves them alone (since Keras 2.3).
#
# Without the second line nothing changes: the training step that ran before was traced with the
# old list of variables and is used again. There is no warning. Setting `trainable` on the whole
# model freezes the head as well.

# %% [markdown]
# ## 5. Rank networks by the H-score
#
# The H-score of features $F$ for labels $y$ is
# $\mathrm{tr}\bigl(\Sigma_F^{-1}\,\Sigma_{E[F|y]}\bigr)$: $\Sigma_F$ is the covariance of the
# features, $\Sigma_{E[F|y]}$ that of the features once each picture's are replaced by the mean of
# its class. Notebook 04 takes it from singular values. Here you compute it as it is written. Some
# features may be zero for all pictures.


# %%
def h_score(F, y):
    """Return the H-score, one number, for F of shape (n, d) and n labels y (whole numbers)."""
    ### BEGIN SOLUTION
    centred = F - F.mean(axis=0)
    means = np.zeros(F.shape)
    for c in np.unique(y):
        means[y == c] = centred[y == c].mean(axis=0)
    return np.trace(np.linalg.pinv(centred.T @ centred) @ (means.T @ means))
    ### END SOLUTION


# %%
check("ex04.5", h_score)

# %% [markdown] tags=["solution"]
# Both covariances have the same divisor, so it cancels; `np.cov` for one and a plain mean for the
# other does not. The pseudo-inverse leaves out directions without spread, where `inv` fails or, a
# little off zero, gives nonsense. Convert real features with `F.astype(float)` first: they come as
# float32, and rounding then leaves some spread where there is none. With 200 random features of 60
# pictures in three classes the score is 2; computed in float32 it came out between 1.5 and 2.5.
#
# The score lies between 0 and the smaller of $d$ and $C - 1$. Its weakness follows from its
# strength: it does not mind any invertible mixing of the features, so with as many features as
# pictures it is perfect for anything, an untrained network included. Notebook 04 shows that.

# %% [markdown]
# ## 6. Nearest neighbours by cosine
#
# `F` holds one feature vector a row. Return the row numbers of the `k` vectors that have the
# largest cosine with the vector in row `row`, the nearest first, that row itself left out. The data
# may hold exact copies of a picture; a copy counts as a neighbour.


# %%
def neighbours(F, row, k):
    """Return k row numbers, nearest first, for F of shape (n, d)."""
    ### BEGIN SOLUTION
    unit = F / np.linalg.norm(F, axis=1, keepdims=True)
    similar = unit @ unit[row]
    similar[row] = -np.inf
    return np.argsort(-similar)[:k]
    ### END SOLUTION


# %%
check("ex04.6", neighbours)

# %% [markdown] tags=["solution"]
# The cosine is a product of vectors of length one. The check takes a real solar cell at 0.4 of its
# exposure: all its numbers shrink alike, its direction stays. Euclid calls other dark cells nearer,
# the plain product the brightest cells of all.
#
# Take the row itself away by its number. `order[1:]` takes away whatever stands first, and with
# copies in the data (or rounding) that need not be the row. Copies are worth a look in themselves:
# where one lies in the training part and one in the test part, the test is no test.

# %% [markdown]
# ## 7. Find the bug
#
# A colleague extracts features once and trains a probe on them. The script runs without a warning,
# and the accuracy is hardly better than guessing:

# %% [markdown] tags=["pytorch"]
# ```python
# backbone = backbones.load("efficientnet-lite0")
# model = adapt_statistics(backbone.model[:-1], other_drawings)  # some steps in training mode
# model.requires_grad_(False)
# data = TensorDataset(backbone.preprocess(drawings.images), torch.from_numpy(drawings.labels))
# loader = DataLoader(data, batch_size=32, shuffle=True)
#
# def extract(model, loader):
#     features = torch.cat([model(x) for x, _ in loader])
#     labels = torch.cat([label for _, label in loader])
#     return features.numpy(), labels.numpy()
#
# F, y = extract(model, loader)
# probe = LogisticRegression(max_iter=1000).fit(F[:400], y[:400])
# print(f"accuracy {probe.score(F[400:], y[400:]):.2f}")
# ```

# %% [markdown] tags=["tensorflow"]
# ```python
# backbone = backbones.load("efficientnet-lite0")
# model = keras.Model(backbone.model.input, backbone.model.layers[-2].output)
# data = tf.data.Dataset.from_tensor_slices((backbone.preprocess(drawings.images), drawings.labels))
# loader = data.shuffle(len(drawings)).batch(32)
#
# def extract(model, loader):
#     features = [model(x, training=True) for x, _ in loader]  # as in our training loop
#     labels = [label for _, label in loader]
#     return np.concatenate(features), np.concatenate(labels)
#
# F, y = extract(model, loader)
# probe = LogisticRegression(max_iter=1000).fit(F[:400], y[:400])
# print(f"accuracy {probe.score(F[400:], y[400:]):.2f}")
# ```

# %% [markdown]
# Mend `extract`. It gets a network without its head and a loader that shuffles; the order of the
# rows does not matter. The check runs it on real pictograms.


# %% tags=["pytorch"]
def extract(model, loader):
    """Return (F, y): features (n, d) of all pictures, and the label of each row, (n,)."""
    ### BEGIN SOLUTION
    model.eval()
    rows, y = [], []
    with torch.no_grad():
        for pictures, of_pictures in loader:
            rows.append(model(pictures))
            y.append(of_pictures)
    return torch.cat(rows).numpy(), torch.cat(y).numpy()
    ### END SOLUTION


# %% tags=["tensorflow"]
def extract(model, loader):
    """Return (F, y): features (n, d) of all pictures, and the label of each row, (n,)."""
    ### BEGIN SOLUTION
    rows, y = [], []
    for pictures, of_pictures in loader:
        rows.append(model(pictures, training=False))
        y.append(of_pictures)
    return np.concatenate(rows), np.concatenate(y)
    ### END SOLUTION


# %%
check("ex04.7", extract)

# %% [markdown] tags=["solution"]
# Two bugs. The loader is asked twice and deals a new order each time, so features and labels belong
# to different pictures: on the course's pictograms that alone brings the probe from about 0.77 to
# 0.17 (three orders, random split), less than always naming the largest class scores (0.20). And
# the network runs in training mode, so a picture's features depend on the batch that it is in.
#
# The second bug hides behind the first. Mend only the order, and the accuracy jumps; who stops
# there keeps features that come out otherwise next time. So test the property, not the number:
# extract twice, sort both by picture, compare.

# %% [markdown] tags=["solution", "tensorflow"]
# `model.predict(loader)` beside labels collected from the same loader is the same bug in its
# commonest form. For extraction, do not shuffle at all.

# %% [markdown] tags=["solution", "pytorch"]
# For extraction, do not shuffle at all: `shuffle=False` costs nothing, because nothing is trained.

# %% [markdown]
# ## 8. In your own words
#
# A team has 800 X-ray pictures of weld seams, 40 pictures of each of 20 seams, one in ten with a
# crack. Their plan: "We take the last layer of the largest network, extract once with random flips
# as augmentation, standardise all features, choose between five classifiers by the accuracy on a
# random quarter, and report that accuracy." What do you change, and why? Ten sentences at most.

# %% [markdown] tags=["open"]
# *For the person who marks it, one point each:*
#
# 1. Whole seams are held out, because pictures of one seam resemble each other; a random quarter
#    measures whether the seam is recognised.
# 2. Accuracy says 0.9 for "never a crack": balanced accuracy, or the cost of a missed crack.
# 3. What is chosen on the test part is not reported on it: a validation part or nested folds, and
#    standardising learned from the training part alone.
# 4. Features extracted once with random flips hold one flip of each picture for ever: extract
#    without, or extract several versions and keep them on the same side of the split.
# 5. The last layer of the largest network is a guess for pictures so far from ImageNet: several
#    cuts and a control (untrained weights, seam number, plain pixels) are measured first.
