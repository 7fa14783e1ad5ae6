# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 5: fine-tuning
#
# Seven functions and one question; two of the functions are to be mended. Tasks 1, 2 and 6 speak
# your framework, the others need NumPy. *About 75 minutes.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [05](../../notebooks/tensorflow/05_fine_tuning.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [05](../../notebooks/pytorch/05_fine_tuning.ipynb).

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
import numpy as np

from tlcourse import backbones
from tlcourse.exercises import check

np.set_printoptions(precision=4, suppress=True)

# %% tags=["tensorflow"]
import keras
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

# %% tags=["pytorch"]
import torch
from torch import nn

# %% [markdown]
# ## 1. Unfreeze the top, and no BatchNorm
#
# The head of a network has been trained, everything else is frozen. Now the last `k` blocks are to
# train with it. BatchNorm is to change nowhere, neither by gradients nor by the batches it sees.
# `k` may be 0: then only the head goes on training.

# %% [markdown] tags=["pytorch"]
# The model is a chain of named children: `stem`, `block1`, `block2` and so on up to the last
# block, then pooling, dropout and `head`. Every block holds a convolution, an `nn.BatchNorm2d` and
# an activation. The model comes in inference mode. Leave it ready for training steps, with dropout
# switched on, and return the optimizer. No one will call `train()` or `eval()` afterwards.

# %% [markdown] tags=["tensorflow"]
# The layers are named by block: `stem_conv`, `stem_norm`, `stem_act`, `block1_conv`, `block1_norm`
# and so on up to the last block, then pooling, dropout and `head`. The model has been compiled and
# its head was trained. Leave it ready for `fit` with whole numbers for labels and logits for
# answers. The other layers were frozen one by one: unfreeze them one by one, too. On TensorFlow
# `model.trainable = True` does nothing to them as long as the model itself counts as trainable.


# %% tags=["pytorch"]
def unfreeze_top(model, k, rate):
    """Prepare the model in place; return an Adam optimizer with this learning rate."""
    ### BEGIN SOLUTION
    blocks = [part for name, part in model.named_children() if name.startswith("block")]
    model.train()
    for part in blocks[len(blocks) - k :]:
        part.requires_grad_(True)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval().requires_grad_(False)
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    ### END SOLUTION


# %% tags=["tensorflow"]
def unfreeze_top(model, k, rate):
    """Prepare the model in place, for Adam with this learning rate."""
    ### BEGIN SOLUTION
    parts = list(dict.fromkeys(layer.name.split("_")[0] for layer in model.layers))
    blocks = [part for part in parts if part.startswith("block")]
    trained = ["head", *blocks[len(blocks) - k :]]
    for layer in model.layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name.split("_")[0] in trained and not norm
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    ### END SOLUTION


# %%
check("ex05.1", unfreeze_top)

# %% [markdown] tags=["solution", "pytorch"]
# Three things have to be right at once. The *flags*: the last `k` blocks, BatchNorm taken out
# again. The *mode*: `model.train()` for dropout, and only after it `eval()` for every BatchNorm,
# the frozen ones too, since a running mean needs no gradient to move. The *optimizer*: built last,
# since it trains what it was given and nothing that is unfrozen later.
#
# `blocks[-k:]` is the trap in the code: for `k = 0` it is the whole list. In notebook 05 passes in
# training mode alone, with no step at all, change over a tenth of the old answers.

# %% [markdown] tags=["solution", "tensorflow"]
# Two things have to be right, and in this order. The *flags*: the last `k` blocks, BatchNorm taken
# out again; a BatchNorm that is not trainable runs in inference mode in `fit`, one that is
# trainable overwrites its mean and variance. Then `compile`: the training step is traced with the
# flags that stood at that moment, and a later change is ignored without a word.
#
# `blocks[-k:]` is the trap in the code: for `k = 0` it is the whole list. In notebook 05 passes in
# training mode alone, with no step at all, change over a tenth of the old answers.

# %% [markdown]
# ## 2. Layer-wise rates for a real network
#
# These are the weights of the pretrained EfficientNet-Lite0 as your framework names them, and its
# parts from the bottom to the top. Its own `head` is a pretrained convolution; the new layer is
# the `classifier`.

# %% tags=["pytorch"]
backbone = backbones.load("efficientnet-lite0")
names = [name for name, _ in backbone.model.named_parameters()]

# %% tags=["tensorflow"]
backbone = backbones.load("efficientnet-lite0")
names = [weight.path for weight in backbone.model.trainable_weights]

# %%
parts = [*backbone.cut_points, "classifier"]
print(len(names), "weights:", *names[:9], "…", *names[-5:], sep="\n  ")
print("parts:", *parts)

# %% [markdown]
# The classifier gets the full `rate`. Each part below it gets `factor` times the rate of the part
# above. Only some of the network's weights may be asked for; a part's rate stays the same then.


# %%
def layer_rates(names, parts, rate, factor):
    """Return a dict with the rate of every name; parts lists all parts, the classifier last."""
    ### BEGIN SOLUTION
    rates = {part: rate * factor**below for below, part in enumerate(reversed(parts))}
    return {name: rates[name.replace(".", "_").replace("/", "_").split("_")[0]] for name in names}
    ### END SOLUTION


# %%
check("ex05.2", layer_rates)

# %% [markdown] tags=["solution"]
# The rates belong to the parts; a weight only has to find its own. `name.startswith("block1")` is
# the commonest way to find the wrong one: it is true for the first block and for seven others,
# 10 to 16. With a factor of 0.5 block 16 would then learn at $0.5^{17}$ of the rate in place of
# $0.5^2$: it would be frozen, and nothing would say so.
#
# In PyTorch such a dict becomes `[{"params": [p], "lr": rates[name]} for name, p in …]`. Keras has
# no parameter groups; notebook 05 takes a share of each of Adam's steps instead.

# %% [markdown]
# ## 3. Warm-up, then decay
#
# Training runs over `rows` labelled pictures in batches of `batch`, the last of which may be short,
# for `epochs` epochs; a step is one batch. The rate rises in equal amounts over the first `warm_up`
# steps and reaches `rate` with the last of them. The step after that trains at the full `rate` too.
# From there the rate falls in equal amounts, such that it would be zero one step after the last. No
# step has a rate of zero. `warm_up` may be 0, or as long as the training.


# %%
def rate_schedule(rate, rows, batch, epochs, warm_up):
    """Return the rate of every step, an array of shape (steps,)."""
    ### BEGIN SOLUTION
    steps = epochs * int(np.ceil(rows / batch))
    step = np.arange(steps)
    rises = (step + 1) / max(warm_up, 1)
    falls = (steps - step) / max(steps - warm_up, 1)
    return rate * np.minimum(rises, falls)
    ### END SOLUTION


# %%
check("ex05.3", rate_schedule)

# %% [markdown] tags=["solution"]
# The rise is above one after the warm-up and the fall is above one before its end; so the smaller
# of the two is the whole schedule. The usual library schedules start at
# zero: their first batch is computed and trains nothing. With 128 pictures in batches of 16, three
# epochs are 24 steps, and one step is 4 % of the training.
#
# A schedule that is counted in epochs has three values in such a run. One that leaves out the short
# last batch reaches its end while training goes on: at zero, or below.

# %% [markdown]
# ## 4. Early stopping
#
# After each epoch the loss on held-out pictures is known. An epoch is *better* if its loss is
# smaller than the best one before; equal is not better, and a loss that is not a number never is.
# Training ends with the epoch that makes it `patience` epochs in a row without a better one, or
# with the last of the list. Epochs are counted from 0, and the first loss is a number.


# %%
def early_stopping(losses, patience):
    """Return (the last epoch that runs, the epoch whose weights are restored)."""
    ### BEGIN SOLUTION
    best, lowest = 0, np.inf
    for epoch, loss in enumerate(losses):
        if loss < lowest:
            best, lowest = epoch, loss
        elif epoch - best >= patience:
            break
    return epoch, best
    ### END SOLUTION


# %%
check("ex05.4", early_stopping)

# %% [markdown] tags=["solution"]
# Two numbers, because they are two decisions. Keras returns the weights of the *last* epoch unless
# you write `restore_best_weights=True`, and PyTorch has no such thing at all: keep a copy of the
# weights at each new best, a real copy, not a reference to the model that goes on training.
#
# The recorded runs of notebook 05 are among the checks. On some 64 held-out pictures equal values
# are common: one run has the same best value in three epochs. If equal counts as better, the
# patience starts anew each time.

# %% [markdown]
# ## 5. What was forgotten, and by whom?
#
# Before fine-tuning, the features of an old task were `F`, and a head was fitted to them. After
# fine-tuning on something else they are `moved`, row by row. Two numbers tell what is lost, both in
# points of accuracy (0.1 for ten points), positive if something is gone:
#
# - what the **old head** loses, which goes on being used as it is;
# - what the **features** have lost: the old head before, against a *new* head on the moved
#   features.
#
# `fit(features, labels)` is given to your function. It returns a head, a function that gives a
# label for each row of features. Fit on the rows `train` only, measure on the rows `test`.


# %%
def forgotten(fit, F, moved, labels, train, test):
    """Return (lost by the old head, lost by the features); F and moved have shape (n, d)."""
    ### BEGIN SOLUTION
    old, new = fit(F[train], labels[train]), fit(moved[train], labels[train])

    def accuracy(head, features):
        return np.mean(head(features[test]) == labels[test])

    before = accuracy(old, F)
    return before - accuracy(old, moved), before - accuracy(new, moved)
    ### END SOLUTION


# %%
check("ex05.5", forgotten)

# %% [markdown] tags=["solution"]
# The check turns the coordinates of handwritten digits. The old head then guesses, and a new one is
# as good as ever: nothing is forgotten, the numbers only stand elsewhere. In notebook 05 most of
# the "catastrophic forgetting" after fine-tuning on pictograms is of this kind. It still hurts
# whoever uses the old head; but the cure is another one than for features that are gone.
#
# With the old head replaced, the first number turns into the second, and forgetting seems to be
# solved. Scored on the rows of the fit, both come out too small or too large, depending on how
# well the head knew its rows by heart.

# %% [markdown]
# ## 6. Mend the loop
#
# A model has a `body` that is frozen and a `head`. A colleague wants to fine-tune all of it with
# plain SGD, BatchNorm left as it is: scale, shift, mean and variance. The code runs without an
# error and the loss falls:
#

# %% [markdown] tags=["pytorch"]
# ```python
# def fine_tune(model, batches, rate):
#     for part in model.modules():
#         if isinstance(part, nn.BatchNorm2d):
#             part.eval()
#     trained = [p for p in model.parameters() if p.requires_grad]
#     optimizer = torch.optim.SGD(trained, lr=rate)
#     model.body.requires_grad_(True)
#     losses = []
#     for x, y in batches:
#         model.train()
#         p = model(x).softmax(dim=1)
#         loss = nn.functional.cross_entropy(p, y)
#         loss.backward()
#         optimizer.step()
#         losses.append(loss.item())
#     return losses
# ```

# %% [markdown] tags=["tensorflow"]
# ```python
# def fine_tune(model, batches, rate):
#     optimizer = keras.optimizers.SGD(rate)
#     trained = model.trainable_variables
#     model.get_layer("body").trainable = True
#     losses = []
#     for x, y in batches:
#         with tf.GradientTape() as tape:
#             p = tf.nn.softmax(model(x, training=True))
#             each = keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)
#             loss = keras.ops.mean(each)
#         gradients = tape.gradient(loss, trained)
#         optimizer.apply_gradients(zip(gradients, trained))
#         losses.append(float(loss))
#     return losses
# ```

# %% [markdown] tags=["pytorch"]
# Write one that does what was wanted: one step a batch, body and head, the mean cross-entropy of
# each batch before its step. The model's answers are logits. There are four or five bugs, depending
# on how you count.

# %% [markdown] tags=["tensorflow"]
# Write one that does what was wanted: one step a batch, body and head, the mean cross-entropy of
# each batch before its step. The model's answers are logits. There are three bugs.


# %% tags=["pytorch"]
def fine_tune(model, batches, rate):
    """Train the model in place on (x, y) batches; return the loss of each batch, a list."""
    ### BEGIN SOLUTION
    model.train().requires_grad_(True)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval().requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
    ### END SOLUTION


# %% tags=["tensorflow"]
def fine_tune(model, batches, rate):
    """Train the model in place on (x, y) batches; return the loss of each batch, a list."""
    ### BEGIN SOLUTION
    body = model.get_layer("body")
    body.trainable = True
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    trained = model.trainable_variables
    optimizer = keras.optimizers.SGD(rate)
    losses = []
    for x, y in batches:
        with tf.GradientTape() as tape:
            each = keras.losses.sparse_categorical_crossentropy(
                y, model(x, training=True), from_logits=True
            )
            loss = keras.ops.mean(each)
        gradients = tape.gradient(loss, trained)
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
        losses.append(float(loss))
    return losses
    ### END SOLUTION


# %%
check("ex05.6", fine_tune)

# %% [markdown] tags=["solution", "pytorch"]
# 1. `model.train()` in the loop undoes the `eval()` before it: BatchNorm's statistics move.
# 2. `requires_grad_(True)` on the body unfreezes BatchNorm's scale and shift as well.
# 3. The optimizer is built from what is unfrozen, and that is the head: the body never trains.
# 4. `cross_entropy` applies a softmax itself. With three classes the loss ends at 0.55.
# 5. Without `zero_grad` each step repeats all earlier gradients.
#
# Why does it look fine? The head learns, and the loss falls. Each of these bugs shows in one line:
# compare a weight that should move, and one that should not, before and after the first step.

# %% [markdown] tags=["solution", "tensorflow"]
# 1. The list of weights is taken before the body is unfrozen: it holds the head only.
# 2. `body.trainable = True` unfreezes BatchNorm too, and `training=True` then moves its mean and
#    variance. `training=False` would keep these two; scale and shift would still be trained.
# 3. `from_logits=True` applies a softmax itself. With three classes the loss ends at 0.55. (After
#    `keras.ops.softmax` it would not: Keras notes the logits on the tensor, finds them again and
#    warns. `tf.nn.softmax` leaves no such note.)
#
# Why does it look fine? The head learns, and the loss falls. Each of these bugs shows in one line:
# compare a weight that should move, and one that should not, before and after the first step.

# %% [markdown]
# ## 7. Mend the report
#
# Eight runs of fine-tuning, twelve epochs each, were recorded for notebook 05: after every epoch
# the accuracy on some 64 held-out pictures, and on the test set. A colleague reports how good
# fine-tuning with early stopping is, and what stopping early gains over training to the end:
#
# ```python
# def report(held_out, test):
#     best_accuracy, gains = 0.0, []
#     for run in range(len(test)):
#         epoch = test[run].argmax()
#         accuracy = test[run, epoch]
#         if accuracy > best_accuracy:
#             best_accuracy = accuracy
#         gains.append(accuracy - test[run, -1])
#     return best_accuracy, np.mean(gains)
# ```
#
# "0.68, and stopping early gains 1.4 points." Write a report that can be believed: means over the
# runs, each run stopped by its own curve at the first of its best epochs.


# %%
def report(held_out, test):
    """Return (test accuracy, its gain over the last epoch); both arrays (runs, epochs)."""
    ### BEGIN SOLUTION
    chosen = held_out.argmax(axis=1)
    accuracy = np.mean(test[np.arange(len(test)), chosen])
    return accuracy, accuracy - np.mean(test[:, -1])
    ### END SOLUTION


# %%
check("ex05.7", report)

# %% [markdown] tags=["solution"]
# On the recorded runs, in accuracy at the chosen epoch and gain over the last one:
#
# | what is reported | accuracy | gain |
# |---|---|---|
# | stopped by the held-out pictures, mean of eight | 0.582 | 0.000 |
# | stopped by the test set, mean of eight | 0.596 | +0.014 |
# | the held-out accuracy itself | 0.660 | |
# | the best run, stopped by the test set | 0.682 | |
#
# The whole gain comes from looking at the test set: the best of twelve numbers is never below the
# last one, so this "gain" cannot be negative whatever the method does. And the best of eight runs
# tells how lucky the luckiest seed was. Ten points lie between the first row and the last, more
# than any method of notebook 05 brings.

# %% [markdown]
# ## 8. In your own words
#
# A team has 300 labelled photographs of leaves, from twelve fields, and a network pretrained on
# ImageNet. It is also used, with its old head, for another product. Somebody unfreezes everything,
# trains at 0.001 with augmentation, and reports 94 %, the best epoch on a random fifth of the
# photographs. Which doubts do you have, and in which order would you do it instead? Twelve
# sentences at most.

# %% [markdown] tags=["open"]
# *For the person who marks it, one point each:*
#
# 1. The number: the best epoch was chosen on the pictures that give it; needed are others for the
#    report, more seeds and an interval.
# 2. The split: photographs of one field resemble each other; whole fields are held out.
# 3. A probe comes first, as the baseline and as the head to start from; only then the last blocks,
#    BatchNorm fixed, and more of them only if that pays.
# 4. The rate: 0.001 for all layers wrecks what is known; a tenth or less, or layer-wise rates,
#    chosen on held-out pictures.
# 5. The other product: its accuracy with the old head is measured before and after; a copy of the
#    network, or a penalty (old answers, L2-SP), keeps it. And augmentation is compared with none,
#    never on cached features.
