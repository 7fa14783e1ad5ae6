# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 3: pretrained models and data
#
# Seven functions and one question, nearly all on the real weights of EfficientNet-Lite0 or on real
# pictures. *About an hour and a half.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [03](../../notebooks/tensorflow/03_pretrained_models_and_data.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [03](../../notebooks/pytorch/03_pretrained_models_and_data.ipynb).

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %%
import numpy as np
from PIL import Image

from tlcourse import runtime
from tlcourse.exercises import check

# %% tags=["tensorflow"]
run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["tensorflow"]
import keras

# %% tags=["pytorch"]
run = runtime.start("pytorch", PROFILE, SEED)

# %% tags=["pytorch"]
import torch

# %% [markdown]
# ## 1. What a block costs
#
# MobileNetV2 and EfficientNet are built of *inverted residual* blocks. Such a block has three
# convolutions, none with a bias, each followed by BatchNorm:
#
# | | kernel | channels | stride |
# |---|---|---|---|
# | expand | 1 × 1 | from `inputs` to `expansion · inputs` | 1 |
# | depthwise | `kernel` × `kernel` | `expansion · inputs`, each for itself | `stride` |
# | project | 1 × 1 | from `expansion · inputs` to `outputs` | 1 |
#
# With `expansion=1` the first one is left out. All padding is "same". The block reads a map of
# `size` × `size` places. How many parameters are trained, and how many multiply-adds do the
# convolutions take for one picture? (A multiplication and its addition count as one.)


# %%
def block_cost(size, kernel, stride, expansion, inputs, outputs):
    """Return (trained parameters, multiply-adds), two whole numbers."""
    ### BEGIN SOLUTION
    hidden, after = expansion * inputs, -(-size // stride)
    kernels = kernel**2 * hidden + hidden * outputs
    parameters, work = kernels + 2 * (hidden + outputs), kernels * after**2
    if expansion > 1:
        parameters += (inputs + 2) * hidden
        work += inputs * hidden * size**2
    return parameters, work
    ### END SOLUTION


# %%
check("ex03.1", block_cost)

# %% [markdown] tags=["solution"]
# A convolution has $k^2 C_{in} C_{out} / g$ weights, and each of them is used once at every place
# of its *output*. The depthwise one has as many groups as channels, so one channel drops out of the
# product. The expansion works before the stride, on the larger map.
#
# All of EfficientNet-Lite0 comes to 385 million multiply-adds, of which the blocks take 353. With
# full convolutions in place of the depthwise ones it would be forty times as much. Published tables
# mix pairs and single operations, and some count BatchNorm: before you compare two networks, make
# sure that one program has counted both.

# %% [markdown]
# ## 2. Which pixels does a place see?
#
# A detector answers "something at place 5 of the map". Which pixels is that? Along one side of the
# picture, each layer has a kernel, a stride, a dilation (weights lie `dilation` places apart) and a
# number of zeros that are put in front of its map. Return the first and the last pixel that a place
# of the last map sees. Places and pixels count from 0; where zeros in front are seen, the number is
# negative. How many zeros stand behind does not matter.


# %%
def seen_pixels(layers, place):
    """Return (first, last) for layers [(kernel, stride, dilation, before), …], picture first."""
    ### BEGIN SOLUTION
    first = last = place
    for kernel, stride, dilation, before in reversed(layers):
        first = first * stride - before
        last = last * stride - before + (kernel - 1) * dilation
    return first, last
    ### END SOLUTION


# %%
check("ex03.2", seen_pixels)

# %% [markdown] tags=["solution"]
# Go back one layer at a time. Place $p$ lies under the kernel whose first weight stands at
# $p\,s - b$ of the map before (with $b$ zeros in front), and whose last one is $(k-1)\,d$ further.
# The same numbers come forwards, with the step $j$ of the notebook: the field is
# $1 + \sum (k_l - 1)\,d_l\,j_{l-1}$ wide and begins at $p\,j - \sum b_l\,j_{l-1}$.
#
# Width alone is what most people compute, and it hides a common error: centring the field on the
# pixel $p\,j$. With "same" padding at stride 2 the odd zero goes behind, so at `block8` of
# EfficientNet-Lite0 the centre of the field lies 15 pixels to the right of that, and at the last
# block 31. A box drawn by the wrong rule is off by as much, whatever the size of the thing in it.

# %% [markdown]
# ## 3. Which preprocessing was it?
#
# In a shared folder lie batches of pictures, ready for some network, as `float32` of shape
# $(n, H, W, 3)$. Nobody wrote down for which. The pixels $p$ were whole numbers from 0 to 255, in
# RGB, and went one of these ways (or another one, then the answer is `"unknown"`):
#
# | name | what was done |
# |---|---|
# | `"0 to 255"` | nothing |
# | `"0 to 1"` | $p / 255$ |
# | `"-1 to 1"` | $p / 127.5 - 1$ |
# | `"lite"` | $(p - 127) / 128$ |
# | `"torch"` | $(p / 255 - m) / s$ with $m$ and $s$ below, channel by channel |
# | `"caffe"` | channels swapped to BGR, then minus $(103.939,\ 116.779,\ 123.68)$ in that order |
#
# Pictures may be dark, bright or blank, but in each batch there is one that is not blank.

# %%
m, s = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
bgr_mean = np.array([103.939, 116.779, 123.68])


# %%
def which_preprocessing(x):
    """Return the name of what was done to the batch x, or "unknown"."""
    ### BEGIN SOLUTION
    pixels = {
        "0 to 255": x,
        "0 to 1": x * 255,
        "-1 to 1": (x + 1) * 127.5,
        "lite": x * 128 + 127,
        "torch": (x * s + m) * 255,
        "caffe": x + bgr_mean,
    }
    for name, p in pixels.items():
        nearest = np.clip(np.round(p), 0, 255)
        if np.abs(p - nearest).max() < 0.01:
            return name
    return "unknown"
    ### END SOLUTION


# %%
check("ex03.3", which_preprocessing)

# %% [markdown] tags=["solution"]
# Undo each way and see whether pixels come out: whole numbers, from 0 to 255. That is proof, where
# a look at the smallest and largest number is a guess: the range of `"lite"` lies inside that of
# `"-1 to 1"`, and a dark picture prepared in the one way looks like a darker one prepared in the
# other. Three things go wrong: `==` fails, because float32 comes back with an error of some
# $10^{-5}$; whole numbers alone are not enough, because $255\,(p/127.5 - 1) = 2p - 255$ is whole as
# well; and a blank picture fits several ways.
#
# After a resize in floats there are no whole numbers, and this no longer works. Then you need what
# notebook 03 recommends: one picture whose answer is known.

# %% [markdown]
# ## 4. A kernel from PyTorch for Keras
#
# You load a PyTorch file into a Keras network. Turn one weight array around:
#
# | layer | in PyTorch | in Keras |
# |---|---|---|
# | convolution | (out, in / groups, height, width) | (height, width, in / groups, out) |
# | depthwise | (in · multiplier, 1, height, width), groups = in | (height, width, in, multiplier) |
# | dense | (out, in) | (in, out) |
#
# A depthwise convolution has as many groups as input channels, and more than one. It makes
# `multiplier` outputs of each channel. Both frameworks number these outputs alike: first all of
# channel 0, then all of channel 1.


# %%
def keras_kernel(weight, groups=1):
    """Return the kernel for Keras; weight is an array of 2 or 4 axes as PyTorch keeps it."""
    ### BEGIN SOLUTION
    if weight.ndim == 2:
        return weight.T
    outputs, inside, height, width = weight.shape
    if inside == 1:
        by_channel = weight.reshape(groups, outputs // groups, height, width)
        return by_channel.transpose(2, 3, 0, 1)
    return weight.transpose(2, 3, 1, 0)
    ### END SOLUTION


# %%
check("ex03.4", keras_kernel)

# %% [markdown] tags=["solution"]
# `reshape` to the wanted shape always succeeds and always destroys the kernel. `.T` succeeds with
# square kernels and exchanges height and width. Of 96 pictograms 45 % keep the network's own answer
# after that, and 32 % with all kernels turned around by 180°: wrong enough to ruin a model, and not
# wrong enough to look broken.
#
# So test a conversion with numbers, never with shapes: one layer on one patch, as this check does,
# then one picture through everything. And mind the padding, which is no part of the kernel:
# notebook 03 shows what PyTorch's `padding=1` does at stride 2.

# %% [markdown]
# ## 5. Fold BatchNorm into the convolution
#
# In evaluation mode BatchNorm makes of each output channel $z$ of a convolution
#
# $$y = \gamma\,\frac{z - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta .$$
#
# That is a scale and a shift, so a convolution with another kernel and another bias does both steps
# at once. Every program that makes a network ready for a phone does this. Return that kernel and
# that bias.


# %%
def fold(W, bias, gamma, beta, mean, variance, epsilon):
    """Return (kernel, bias) for W of shape (out, in, h, w) and five arrays of shape (out,)."""
    ### BEGIN SOLUTION
    scale = gamma / np.sqrt(variance + epsilon)
    return W * scale[:, None, None, None], (bias - mean) * scale + beta
    ### END SOLUTION


# %%
check("ex03.5", fold)

# %% [markdown] tags=["solution"]
# $z$ is linear in the kernel and the bias, so the scale goes to both, and what is left joins the
# bias. The result is exact up to rounding, and every BatchNorm layer is gone.
#
# $\varepsilon$ looks like a detail. This network was trained with 0.001 (Keras' default; PyTorch's
# is 0.00001), and one channel in 33 has a variance below that; in some it is exactly 0. With
# PyTorch's default 72 % of 96 pictograms keep their answer, with $\varepsilon$ outside the root
# 75 %, and without it none do: zero is divided by. Whoever rebuilds a network in the other
# framework and forgets to pass $\varepsilon$ has that 72 %, and no error.

# %% [markdown]
# ## 6. Find the bug
#
# A network was trained on centre crops, and its card says: *RGB, channels first, $(p - 127) / 128$
# for pixels from 0 to 255*. A colleague writes the app. It runs, the shapes are right, and users
# say that it sees things that are not there:
#
# ```python
# from PIL import Image
#
# def prepare(picture, size):
#     bgr = picture[..., ::-1]  # the order of OpenCV
#     small = Image.fromarray(bgr).resize((size, size), Image.Resampling.BILINEAR)
#     x = np.asarray(small) / 255
#     x = (x - 127) / 128
#     return x.reshape(3, size, size)
#
# photo = np.asarray(Image.open("photo.jpg").convert("RGB"))
# x = prepare(photo, 224)
# assert x.shape == (3, 224, 224) and np.abs(x).max() <= 1
# answer = network(x[None]).argmax()
# ```
#
# Mend `prepare`. It cuts the largest centred square out of the picture and resizes that with
# Pillow's bilinear filter. (Only pictures whose sides differ by an even number are tried.) There
# are four mistakes.


# %%
def prepare(picture, size):
    """Return floats of shape (3, size, size) for a uint8 picture of shape (H, W, 3) in RGB."""
    ### BEGIN SOLUTION
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side])
    small = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR), np.float32)
    return ((small - 127) / 128).transpose(2, 0, 1)
    ### END SOLUTION


# %%
check("ex03.6", prepare)

# %% [markdown] tags=["solution"]
# What each mistake costs, with EfficientNet-Lite0. The photograph is notebook 03's flower (426 ×
# 640); the other column is a head trained the right way on the pictograms and deployed with the
# mistake (balanced accuracy, blocks held out; the pictograms are square, nothing is squashed):
#
# | mistake | the flower | deployed head |
# |---|---|---|
# | none | daisy, 0.21 | 0.64 |
# | BGR | daisy, 0.21 | 0.61 |
# | squashed | daisy, 0.14 | |
# | scaled twice | nematode, 0.02 | 0.14 |
# | reshaped | window screen, 0.68 | 0.09 |
#
# The worst one is also the surest of itself: `reshape` lays red, green and blue of a pixel side by
# side, and the network sees a fine mesh. The mildest, BGR and the squashed picture, will never be
# found by looking at a few answers. The `assert` of the script held all the time. And a head that
# is *trained* with `reshape` scores 0.44: the mistake then looks like a weak network.
#
# Taking away `/ 255` alone brings a fifth mistake: the pixels are then still `uint8`, and 100 − 127
# is 229.

# %% [markdown]
# ## 7. Find the bug
#
# A network begins like EfficientNet-Lite0 (stem, a depthwise and a 1 × 1 convolution, each with
# BatchNorm) and ends in a new head for 8 classes. A colleague loads a checkpoint. It runs, trains,
# and is no better than from random weights:

# %% [markdown] tags=["pytorch"]
# ```python
# def load(model, checkpoint):
#     own = model.state_dict()
#     fitting = {
#         name: value
#         for name, value in checkpoint.items()
#         if name in own and value.shape == own[name].shape  # the head has other classes
#     }
#     model.load_state_dict(fitting, strict=False)
#
# checkpoint = safetensors.torch.load_file("lite_2_gpus.safetensors")
# load(model, checkpoint)
# print(f"loaded {len(checkpoint)} arrays")  # loaded 20 arrays
# ```
#
# The file was written from a model on two GPUs, which puts `module.` before every name. Other files
# have plain names, such as `stem.norm.running_var`, and both kinds are to be loaded. The names of
# the head begin with `head.`.

# %% [markdown] tags=["tensorflow"]
# ```python
# def load(model, checkpoint):
#     for layer in model.layers:
#         for weight in layer.weights:
#             name = f"{layer.name}/{weight.name}"
#             if name in checkpoint and checkpoint[name].shape == weight.shape:  # not the head
#                 weight.assign(checkpoint[name])
#
# checkpoint = safetensors.numpy.load_file("lite_nested.safetensors")
# load(model, checkpoint)
# print(f"loaded {len(checkpoint)} arrays")  # loaded 17 arrays
# ```
#
# The file was written from a model inside a model, which puts `model/` before every name. Other
# files have plain names, such as `stem_norm/moving_variance`, and both kinds are to be loaded. The
# arrays are in Keras' layout.

# %% [markdown]
# Mend `load`:
#
# - every array of the network except the head comes from the checkpoint, by its name;
# - the new head stays as it is, also where the old one would fit;
# - if an array is missing in the checkpoint or has another shape, an error is raised;
# - the checkpoint stays as it is: others load it too.


# %% tags=["pytorch"]
def load(model, checkpoint):
    """Load all but the layer "head" from {name: tensor}, in place; raise where it does not fit."""
    ### BEGIN SOLUTION
    plain = {name.removeprefix("module."): value for name, value in checkpoint.items()}
    state = model.state_dict()
    for name in state:
        if not name.startswith("head."):
            state[name] = plain[name]
    model.load_state_dict(state)
    ### END SOLUTION


# %% tags=["tensorflow"]
def load(model, checkpoint):
    """Load all but the layer "head" from {name: array}, in place; raise where it does not fit."""
    ### BEGIN SOLUTION
    plain = {name.removeprefix("model/"): value for name, value in checkpoint.items()}
    for layer in model.layers:
        if layer.name != "head":
            layer.set_weights([plain[f"{layer.name}/{w.name}"] for w in layer.weights])
    ### END SOLUTION


# %%
check("ex03.7", load)

# %% [markdown] tags=["solution", "pytorch"]
# `plain[name]` raises a `KeyError` for what is missing, and `load_state_dict` in its strict mode an
# error for another shape. The head, which is meant to be left out, is left out by its name;
# `strict=False` leaves out whatever happens to be missing. If you use it, look at what it returns:
# in the script `missing_keys` would have held every array of the network.

# %% [markdown] tags=["solution", "tensorflow"]
# `plain[…]` raises a `KeyError` for what is missing, and `set_weights` a `ValueError` for another
# shape. The head, which is meant to be left out, is left out by its name.
# `load_weights(…, skip_mismatch=True)` leaves out whatever happens not to fit, with a warning that
# scrolls by.

# %% [markdown] tags=["solution"]
# The other mistakes, in all of EfficientNet-Lite0: with BatchNorm's running mean and variance not
# loaded, or its four arrays exchanged because they were paired by position, *none* of 96 pictograms
# keeps its answer, and the network names one or two classes for all of them. `lstrip("module.")`
# removes letters, not a prefix: `module.depthwise` becomes `pthwise`.
#
# The surest test costs a line: compare a weight, and the answer to one known picture, before and
# after loading.

# %% [markdown]
# ## 8. In your own words
#
# In your team's notebook a classifier of plant diseases is right on 0.91 of the held-out pictures,
# in the app that farmers use on about 0.6 of those that were looked up afterwards. Its trunk is
# `resnet_plants_best.pth`, found on a file-sharing site and opened with
# `torch.load(…, weights_only=False)`; the app was written by another team, in another framework.
# Somebody says: "The pictures of farmers are different, we need more data." What do you check, in
# which order, and what do you change for good? Ten sentences at most.

# %% [markdown] tags=["open"]
# *For the person who marks it, one point each:*
#
# 1. Before more data: the same few pictures through both programs, comparing the arrays that enter
#    the network, then its output, layer by layer until they part.
# 2. Suspects of preprocessing are named (range, channel order, crop and resize, axes), and that a
#    head trained with an error hides it, while one deployed with it does not.
# 3. Suspects of the conversion are named: padding at stride 2, BatchNorm's statistics and epsilon,
#    layout of kernels, training mode, arrays that were silently not loaded.
# 4. The file: a pickle may run any code when it is opened; from whom, under which licence, trained
#    on what, and with which hash? Until that is known it does not belong in a product.
# 5. For good: preprocessing inside the model or from one shared place, one picture with a recorded
#    answer tested in both programs; and only then a fair, labelled sample of farmers' pictures
#    tells whether the data differ (0.91 and 0.6 are also measured on different pictures).
