# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pretrained models and data
#
# Which network do you start from, where does its file come from, and how do you use it as it was
# trained? Afterwards you can
#
# - measure a network (parameters, FLOPs, memory, latency) and say what each number does not tell;
# - compute a receptive field, and see what skip connections and BatchNorm do to gradients;
# - check a weight file and a data set before you trust them: hash, format, licence, model card;
# - carry one checkpoint into the other framework, padding included;
# - find a preprocessing error, and know when it costs nothing and when it costs all.
#
# *You need convolution and gradient descent. 45 minutes to read, about one to run.*

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
# ## The list that everybody copies
#
# | family | what it brought | read with care |
# |---|---|---|
# | VGG (2014) | small 3 × 3 kernels, 16 or 19 weight layers | most of its size is one dense layer |
# | Inception (2014–15) | branches side by side; GoogLeNet is V1 | V3 wants 299 × 299 pixels |
# | ResNet (2015) | skip connections, 50 layers and more | not for *vanishing* gradients: below |
# | MobileNet (2017–) | depthwise separable convolution | the mobile family |
# | EfficientNet (2019) | width, depth, pixels scaled together | B7 is not mobile; Lite is |
#
# Lists often call these state of the art, and EfficientNet recent. They are good and old: ConvNeXt,
# ViT, DINOv2 and CLIP came after. Faster R-CNN, SSD and YOLO are detectors, built *on* a pretrained
# trunk. BERT and GPT are pretrained models; the Transformer is the architecture of both.
#
# No weights of the first four come with this course, so you build them with **random** weights:
# size and speed do not depend on the values. EfficientNet-Lite0 has its real ones.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

from tlcourse import assets, backbones, datasets, features, figures
from tlcourse.evidence import claim_margin, mean_interval, summary

backbone = backbones.load("efficientnet-lite0")
M = backbone.model

# %% tags=["tensorflow"]
import keras
import tensorflow as tf
from keras import layers, ops

tf.get_logger().setLevel("ERROR")
apps = keras.applications
nets = {
    "VGG16": (lambda: apps.VGG16(weights=None), 224),
    "ResNet50": (lambda: apps.ResNet50(weights=None), 224),
    "InceptionV3": (lambda: apps.InceptionV3(weights=None), 299),
    "MobileNetV2": (lambda: apps.MobileNetV2(weights=None), 224),
    "EfficientNetB0": (lambda: apps.EfficientNetB0(weights=None), 224),
    "Lite0": (lambda: M, 224),
}

# %% [markdown] tags=["pytorch"]
# `transformers` has three of them as classes that take a configuration. VGG16 is ten lines.
# InceptionV3 has no class there: its weights are counted in the table of published numbers below,
# and the Keras version of this notebook measures it (11.4 GFLOP).

# %% tags=["pytorch"]
import torch
import transformers as hf
from torch import nn


def vgg16():
    chain, inputs = [], 3
    for channels, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            chain += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
            inputs = channels
        chain.append(nn.MaxPool2d(2))
    chain += [nn.Flatten(), nn.Linear(7 * 7 * 512, 4096), nn.ReLU(), nn.Linear(4096, 4096)]
    return nn.Sequential(*chain, nn.ReLU(), nn.Linear(4096, 1000))


# %% tags=["pytorch"]
k = {"num_labels": 1000}
b0 = k | {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
b0 = hf.EfficientNetConfig(**b0)  # the default is B7
nets = {
    "VGG16": (vgg16, 224),
    "ResNet50": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig(**k)), 224),
    "MobileNetV2": (lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(**k)), 224),
    "EfficientNetB0": (lambda: hf.EfficientNetForImageClassification(b0), 224),
    "Lite0": (lambda: M, 224),
}

# %% [markdown]
# ## Anatomy, measured
#
# A convolution with kernel $k \times k$, $g$ groups and an output of $H \times W$ has
#
# $$P = \frac{k^2\,C_{in}\,C_{out}}{g}\ \text{weights and takes}\ \ 2\,P\,H\,W\ \text{FLOPs}
# \tag{1}$$
#
# (a multiplication and an addition each; papers often count the pair as one). **Guess first:** the
# largest network has forty times the weights of the smallest. And how many times its FLOPs, and
# its time?


# %% tags=["tensorflow"]
def flops_by_formula(net):
    total = 0
    for layer in net.layers:
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
            places = int(np.prod(layer.output.shape[1:-1]))  # H · W, or 1
            total += 2 * int(np.prod(layer.kernel.shape)) * places  # equation (1)
    return total


def flops_by_profiler(graph):
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops


# %% tags=["tensorflow"]
def prepared(make, size):
    """A call to time, and parameters, weight layers, FLOPs, values of their outputs."""
    net, x = make(), tf.random.normal((1, size, size, 3))
    call = tf.function(lambda x: net(x, training=False)).get_concrete_function(x)
    flops = flops_by_formula(net)
    assert abs(flops_by_profiler(call.graph) / flops - 1) < 0.05  # it also counts BatchNorm
    weighted = [layer for layer in net.layers if hasattr(layer, "kernel")]
    values = sum(int(np.prod(layer.output.shape[1:])) for layer in weighted)
    return lambda: call(x), (net.count_params(), len(weighted), flops, values)


# %% tags=["pytorch"]
from torch.utils.flop_counter import FlopCounterMode


def prepared(make, size):
    """A call to time, and parameters, weight layers, FLOPs, values of their outputs."""
    net, x, seen = make().eval(), torch.randn(1, 3, size, size), []
    with torch.inference_mode():
        weighted = [part for part in net.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
        hooks = [p.register_forward_hook(lambda p, i, out: seen.append((p, out))) for p in weighted]
        with FlopCounterMode(display=False) as counter:
            net(x)
    [hook.remove() for hook in hooks]
    flops = sum(2 * p.weight.numel() * out[0, 0].numel() for p, out in seen)  # equation (1)
    assert abs(counter.get_total_flops() / flops - 1) < 0.01
    numbers = sum(p.numel() for p in net.parameters()), len(weighted), flops
    return torch.inference_mode()(lambda: net(x)), (*numbers, sum(o.numel() for _, o in seen))


# %%
def fastest(call, repeats):
    """Seconds of the fastest of some calls: whatever else the machine does only adds time."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


full, thin = run.pick(smoke="Lite0", cpu="VGG16"), "MobileNetV2"
if run.profile == "smoke":
    nets = {name: nets[name] for name in (full, thin)}
rounds, anatomy, speed = len(run.seeds(5)), {}, {}
print(f"{'':15}   parameters  layers  GFLOP  outputs MB      ms  GFLOP/s")
for name, (make, size) in nets.items():
    call, (parameters, depth, flops, values) = prepared(make, size)
    call()
    seconds = np.array([fastest(call, 3) for _ in range(rounds)])
    anatomy[name], speed[name] = (parameters, flops, seconds), flops / seconds / 1e9
    print(
        f"{name:15} {parameters:12,} {depth:7} {flops / 1e9:6.2f} {values * 4 / 1e6:11.1f}"
        f" {seconds.min() * 1e3:7.1f} {speed[name].max():8.0f}"
    )

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
for i, (name, values) in enumerate(speed.items()):
    mean, (low, high) = mean_interval(values)
    ax.barh(f"{name}, {anatomy[name][1] / 1e9:.1f} GFLOP", mean, color=figures.COLORS[i])
    ax.plot((low, high), (i, i), color="black", linestyle="-")
ax.invert_yaxis()
work, clock = (anatomy[full][i] / anatomy[thin][i] for i in (1, 2))
title = f"{full}: {work:.0f} times {thin}'s work, {clock.mean():.0f} times its time"
ax.set(xlabel="work done in a second (GFLOP/s)", title=title)
alt = """Work done in a second by each network as a bar, with intervals over five rounds; the
networks of full convolutions stand above those of depthwise ones."""
figures.show(fig, alt)

# %% [markdown]
# - **Parameters** are disk space and download. They are not work: most of VGG16's sit in its first
#   dense layer, (7 · 7 · 512 + 1) · 4096 of them, which costs almost no FLOPs.
# - **FLOPs** are work, not time: compare the last column. Small and thin layers are likely to leave
#   the processor waiting for memory.
# - **Outputs** of convolutions and dense layers are the least that a training step keeps for its
#   backward pass, for each picture of the batch.
# - **Layers** count every convolution and dense layer. The 50 of ResNet50 is its longest path.
#
# The same name need not be the same network: Keras' ResNet50 and the one in `transformers` put
# their stride into different convolutions, 7.7 against 8.2 GFLOP. So what does size say about
# accuracy? Published top-1 on ImageNet, one centre crop (keras.io/api/applications):
#
# | | InceptionV3 | EfficientNetB0 | ResNet50 | VGG16 | MobileNetV2 |
# |---|---|---|---|---|---|
# | top-1 (%) | 77.9 | 77.1 | 74.9 | 71.3 | 71.3 |
# | parameters (millions) | 23.9 | 5.3 | 25.6 | 138.4 | 3.5 |
#
# "VGG16 has 138 million parameters, hence it is more accurate" is false on the published numbers:
# MobileNetV2 has a fortieth of its parameters and the same top-1. Does a better top-1 mean better
# features? Kornblith et al. (2019) found a strong correlation over 16 networks and 12 data sets;
# at the end of this notebook you measure three networks on two.
#
# ## Depthwise: by formula and by clock
#
# MobileNet and EfficientNet replace a full convolution by a depthwise one ($g = C$) and a 1 × 1
# convolution. By equation (1), with $C_{in} = C_{out} = C$, the work shrinks by the factor
#
# $$\frac{k^2 C^2}{k^2 C + C^2} = \frac{k^2\,C}{k^2 + C} \tag{2}$$
#
# which nears $k^2$ for wide layers. **Guess first:** does the clock agree?


# %% tags=["tensorflow"]
def full_and_separable(C, size):
    x, calls = tf.random.normal((8, size, size, C)), []
    look = {"padding": "same", "use_bias": False}
    depthwise = [layers.DepthwiseConv2D(3, **look), layers.Conv2D(C, 1, **look)]
    for chain in ([layers.Conv2D(C, 3, **look)], depthwise):
        calls.append(tf.function(keras.Sequential([keras.Input(x.shape[1:]), *chain])))
    return [lambda call=call: call(x) for call in calls]


# %% tags=["pytorch"]
def full_and_separable(C, size):
    x, look = torch.randn(8, C, size, size), {"padding": "same", "bias": False}
    depthwise = nn.Sequential(nn.Conv2d(C, C, 3, groups=C, **look), nn.Conv2d(C, C, 1, **look))
    last = {"memory_format": torch.channels_last}  # the layout that its fast kernels want
    nets, x = [nn.Conv2d(C, C, 3, **look).to(**last), depthwise.to(**last)], x.to(**last)
    return [torch.inference_mode()(lambda net=net: net(x)) for net in nets]


# %%
shapes, by_clock = ((32, 112), (128, 28), (512, 14)), {}
for C, size in shapes:
    whole, separable = full_and_separable(C, size)
    whole(), separable()
    by_clock[C] = np.array([fastest(whole, 8) / fastest(separable, 8) for _ in range(rounds)])
    factors = f"formula {9 * C / (9 + C):.1f}, clock {by_clock[C].mean():.1f}"
    print(f"{C:3} channels, {size:3} × {size:3}: {factors} times")

# %% [markdown]
# Compare the columns: on the idle machine on which this page was written, formula and clock
# disagreed most where maps were large and thin. A depthwise convolution does few operations on each
# number that it fetches, so memory, not arithmetic, is likely to set its time. With other programs
# running, the times in this notebook give other ratios, so none is claimed. Measure on the
# machine that will run it, with nothing else running, and take the fastest of several repeats.
#
# ## Receptive field
#
# How much of the picture does one place of a map see? With kernels $k_l$ and strides $s_l$,
#
# $$r_l = r_{l-1} + (k_l - 1)\,j_{l-1}, \qquad j_l = j_{l-1}\,s_l, \qquad r_0 = j_0 = 1 \tag{3}$$
#
# where $r_l$ is the side of the field in pixels and $j_l$ the step between neighbours.

# %%
from sklearn.datasets import load_sample_images

from tlcourse.backbones.image import resize
from tlcourse.backbones.spec import LITE


def receptive_fields(blocks):
    r, j = 1 + (3 - 1), 2  # after the stem: 3 × 3, stride 2
    fields = {}
    for block in blocks:
        r, j = r + (block.kernel_size - 1) * j, j * block.stride  # equation (3)
        fields[block.name] = r
    return fields


r = receptive_fields(LITE["efficientnet-lite0"].blocks)
china, flower = load_sample_images().images


def crops(photo, n, seed):
    """n square pieces of a photograph, at least 60 % of its height, some mirrored."""
    rng, pieces = np.random.default_rng(seed), []
    for _ in range(n):
        side = int(len(photo) * rng.uniform(0.6, 1))
        top, left = (rng.integers(length - side + 1) for length in photo.shape[:2])
        piece = photo[top : top + side, left : left + side][:, :: rng.choice([1, -1])]
        pieces.append(resize(np.ascontiguousarray(piece)[None], 224)[0])
    return np.stack(pieces)


# %% [markdown]
# The check is a gradient: a pixel that the place in the middle of the map does not see has
# gradient zero. **Guess first:** and do all the pixels that it does see count alike?


# %% tags=["tensorflow"]
def pixel_gradient(cut, X, seed):
    """Size of the gradient of one place's features, randomly weighted, at every pixel."""
    X = tf.Variable(X)
    with tf.GradientTape() as tape:
        maps = keras.Model(M.input, M.get_layer(cut).output)(X)
        middle, C = maps.shape[1] // 2, maps.shape[3]
        weights = np.random.default_rng(seed).normal(size=C).astype("float32")
        seen = tf.reduce_sum(maps[:, middle, middle] * weights)
    return np.abs(tape.gradient(seen, X).numpy()).sum(axis=3)


# %% tags=["pytorch"]
def pixel_gradient(cut, X, seed):
    """Size of the gradient of one place's features, randomly weighted, at every pixel."""
    X = X.clone().requires_grad_()
    maps = backbone.split(cut)[0](X)
    middle, C = maps.shape[2] // 2, maps.shape[1]
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=C)).float()
    (maps[:, :, middle, middle] @ weights).sum().backward()
    return X.grad.abs().sum(dim=1).numpy()


# %%
def seen(gradient):
    """Side and start (row, column) of the box of all pixels with a gradient; then side and centre
    (row, column) of the square around the gradient's median that holds half of it."""
    sums = gradient.sum(axis=1), gradient.sum(axis=0)
    start = [np.flatnonzero(total)[0] for total in sums]
    median = [np.searchsorted(total.cumsum(), total.sum() / 2) for total in sums]
    rows, columns = (np.abs(np.arange(224) - place) for place in median)
    away = np.maximum(rows[:, None], columns).ravel()
    order = np.argsort(away)
    half = np.searchsorted(gradient.ravel()[order].cumsum(), gradient.sum() / 2)
    return np.ptp(np.flatnonzero(sums[0])) + 1, *start, 2 * away[order][half] + 1, *median


cuts = ("block3", "block5", "block8", "block11")
places = backbone.preprocess(np.concatenate([crops(china, 1, seed) for seed in run.seeds(5)]))
gradients = {cut: pixel_gradient(cut, places, run.seed) for cut in cuts}
fields = {cut: np.array([seen(g) for g in gradients[cut]]) for cut in cuts}
for cut in cuts:
    box, half = fields[cut][:, [0, 3]].mean(axis=0)
    print(f"{cut:8} formula {r[cut]:4}   box of the gradient {box:4.0f}   half of it {half:4.0f}")
    assert r[cut] > 224 or (fields[cut][:, 0] == r[cut]).all()

# %%
fig, axes = plt.subplots(1, 4, figsize=(9, 2.7))
for ax, cut in zip(axes, ("block3", "block5", "block8", "block11"), strict=True):
    ax.imshow(np.log10(gradients[cut][0] / gradients[cut][0].max() + 1e-4), cmap="magma")
    box, top, left, half, row, column = fields[cut][0]
    corners = (left, top, box, "-"), (column - half / 2, row - half / 2, half, ":")
    for x0, y0, side, style in corners:
        look = {"fill": False, "color": "white", "linestyle": style, "linewidth": 1.5}
        ax.add_patch(plt.Rectangle((x0, y0), side, side, **look))
    ax.set(title=f"{cut}: formula {r[cut]} px", xlim=(-1, 225), ylim=(225, -1))
    ax.axis("off")
share = {cut: fields[cut][:, 3] / r[cut] for cut in cuts}
title = f"At block8 half the gradient lies within {share['block8'].mean():.0%} of the field's side"
fig.suptitle(title, x=0.01, ha="left", fontsize=11)
alt = """Where the gradient of one place of four maps lies in the picture: a bright middle that
fades towards the solid square. The dotted square with half of it is much smaller."""
figures.show(fig, alt)
text = "At block8 half of the gradient lies in a square of less than half the field's side"
claim_margin("03.receptive", text, share["block8"], below=0.5)

# %% [markdown]
# The formula is exact and says little: the effective field (Luo et al., 2016) fades from its
# middle. At `block11` the formula's square is larger than the picture.
#
# ## Skip connections, BatchNorm and gradients
#
# A plain block computes $x_{b+1} = \mathrm{relu}(f_b(x_b))$, a residual one
# $x_{b+1} = \mathrm{relu}(x_b + f_b(x_b))$, with two convolutions in $f_b$. It is often said that
# ResNet cured vanishing gradients, and that skips keep fine details (that is true of U-Net's, which
# carry an early, fine map to a late layer). **Guess first:** in twenty plain blocks, by which
# factor does $\lVert \partial L / \partial x_b \rVert$ change from the last block to the first? And
# with BatchNorm, which makes $\gamma\,(z - \mu)/\sqrt{\sigma^2 + \varepsilon} + \beta$ of each
# channel $z$? ($\mu$ and $\sigma^2$ are the batch's in training, kept averages in evaluation.)


# %% tags=["tensorflow"]
def chain(blocks, skip, norm):
    """A model that gives logits of the digits, the maps before each block and after the last."""

    def convolution(x):
        x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x) if norm else x

    inputs = keras.Input((8, 8, 1))
    maps = [layers.ReLU()(convolution(inputs))]
    for _ in range(blocks):
        f = convolution(layers.ReLU()(convolution(maps[-1])))
        maps.append(layers.ReLU()(layers.Add()([maps[-1], f]) if skip else f))
    logits = layers.Dense(10)(layers.GlobalAveragePooling2D()(maps[-1]))
    return keras.Model(inputs, [logits, *maps])


def restart(net, start, seed):
    """Draw every convolution anew; start is "Glorot" or "He"."""
    draw = {"Glorot": keras.initializers.GlorotUniform, "He": keras.initializers.HeNormal}[start]
    for i, layer in enumerate(net.layers):
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(draw(1000 * seed + i)(layer.kernel.shape))
    return net


def gradient_norms(net, x, y):
    with tf.GradientTape() as tape:
        logits, *maps = net(x[..., None], training=True)
        loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        loss = tf.reduce_mean(loss)
    return np.array([float(tf.norm(g)) for g in tape.gradient(loss, maps)])


# %% tags=["pytorch"]
class chain(nn.Module):
    def __init__(self, blocks, skip, norm):
        super().__init__()

        def convolution(channels=16):
            layer = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(16) if norm else nn.Identity())

        pairs = ((convolution(), nn.ReLU(), convolution()) for _ in range(blocks))
        self.skip, self.blocks = skip, nn.ModuleList(nn.Sequential(*pair) for pair in pairs)
        self.stem, self.head = convolution(1), nn.Linear(16, 10)

    def forward(self, x):
        """Logits of the digits, and the maps before each block and after the last."""
        maps = [torch.relu(self.stem(x[:, None]))]
        for f in self.blocks:
            maps.append(torch.relu(maps[-1] + f(maps[-1]) if self.skip else f(maps[-1])))
        return self.head(maps[-1].mean(dim=(2, 3))), maps


def restart(net, start, seed):
    """Draw every convolution anew; start is "Glorot" or "He"."""
    draw = {"Glorot": nn.init.xavier_uniform_, "He": nn.init.kaiming_normal_}[start]
    torch.manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            draw(part.weight)
    return net


def gradient_norms(net, x, y):
    logits, maps = net(torch.from_numpy(x))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(y))
    return np.array([g.norm().item() for g in torch.autograd.grad(loss, maps)])


# %%
digits = datasets.digits()
x_digits, y_digits = digits.images.astype("float32") / 8 - 1, digits.labels
variants = {
    "plain, Glorot": (False, False),
    "plain, He": (False, False),
    "plain, He, BatchNorm": (False, True),
    "skip, He, BatchNorm": (True, True),
}
blocks, growth = run.pick(smoke=4, cpu=20), {}
for name, (skip, norm) in variants.items():
    net, start = chain(blocks, skip, norm), "Glorot" if "Glorot" in name else "He"
    for seed in run.seeds(5):
        rows = np.random.default_rng(seed).permutation(len(digits))[:64]
        sizes = gradient_norms(restart(net, start, seed), x_digits[rows], y_digits[rows])
        growth.setdefault(name, []).append(np.log10(sizes / sizes[-1]))
growth = {name: np.array(values) for name, values in growth.items()}  # (seeds, maps)

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
for i, (name, values) in enumerate(growth.items()):
    figures.lines(ax, range(blocks + 1), values.T, name, i)
to_first = {name: values[:, 0] for name, values in growth.items()}
shown = [to_first[name].mean() for name in ("plain, Glorot", "plain, He, BatchNorm")]
title = "Towards the picture: Glorot 10^{:.0f}, with BatchNorm 10^{:+.0f}".format(*shown)
ax.set_title(title)
ax.set(
    xlabel="block b (0 is nearest to the picture)", ylabel="log10 of the gradient, last block = 0"
)
ax.legend()
alt = """Size of the gradient by block on a log scale. Plain with Glorot weights falls by orders of
magnitude towards the first block; with He weights it stays; with BatchNorm it grows, with skips
less."""
figures.show(fig, alt)

# %%
text = "Twenty plain blocks with Glorot weights: the gradient shrinks more than 10,000-fold"
claim_margin("03.vanish", text, to_first["plain, Glorot"], below=-4)
text = "The same with He weights, without skips or BatchNorm: less than 100-fold"
claim_margin("03.he", text, to_first["plain, He"], above=-2, below=2)
text = "With BatchNorm and no skips it does not shrink, it grows more than 100-fold"
claim_margin("03.norm_grows", text, to_first["plain, He, BatchNorm"], above=2)
text = "Skips hold that growth down by more than a factor of 10"
pair = to_first["plain, He, BatchNorm"], to_first["skip, He, BatchNorm"]
claim_margin("03.skip", text, *pair, above=1)

# %% [markdown]
# So what vanishes depends on how weights are drawn, and in this chain nothing vanishes under
# BatchNorm. The ResNet paper says the same (He et al., 2016): its plain networks have BatchNorm and
# healthy gradients, and still the deeper one has the higher *training* error. It calls this
# degradation. **Guess first:** can a plain chain with BatchNorm learn ten digits in 60 steps?


# %% tags=["tensorflow"]
def training_losses(blocks, skip, seeds, steps):
    """Loss on the last ten batches, one number a seed; the training step is traced once."""
    chained, losses = chain(blocks, skip, norm=True), []
    net = keras.Model(chained.input, chained.outputs[0])
    untrained = net.get_weights()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer, loss, jit_compile=False)
    optimizer.build(net.trainable_variables)
    for seed in seeds:
        net.set_weights(untrained)
        restart(net, "He", seed)
        [variable.assign(0 * variable) for variable in optimizer.variables[2:]]  # the momentum
        rows = np.random.default_rng(seed).choice(len(digits), (steps, 32))
        for part in (rows[:-10].ravel(), rows[-10:].ravel()):
            story = net.fit(x_digits[part][..., None], y_digits[part], 32, shuffle=False, verbose=0)
        losses.append(story.history["loss"][0])
    return np.array(losses)


# %% tags=["pytorch"]
def training_losses(blocks, skip, seeds, steps):
    """Loss on the last ten batches, one number a seed."""
    losses = []
    for seed in seeds:
        net, seen = restart(chain(blocks, skip, norm=True), "He", seed), []
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for rows in np.random.default_rng(seed).choice(len(digits), (steps, 32)):
            logits, _ = net(torch.from_numpy(x_digits[rows]))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(y_digits[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        losses.append(np.mean(seen[-10:]))
    return np.array(losses)


# %%
steps, loss = run.pick(smoke=3, cpu=60), {}
for name, depth, skip in (("plain", 3, False), ("plain", blocks, False), ("skip", blocks, True)):
    loss[name, depth] = training_losses(depth, skip, run.seeds(5), steps)
    print(f"{depth:2} {name:5} blocks: training loss {loss[name, depth].mean():.2f}, chance 2.30")
text = "With BatchNorm in both, the training loss of 20 plain blocks is over 0.3 above that of 3"
claim_margin("03.degradation", text, loss["plain", blocks], loss["plain", 3], above=0.3)
text = "With skips, the training loss of the same 20 blocks is over 0.3 below that of plain ones"
claim_margin("03.skip_trains", text, loss["plain", blocks], loss["skip", blocks], above=0.3)

# %% [markdown]
# One rate, one small task and sixty steps: it shows the effect, not its size elsewhere.
#
# **Dropout** sets a feature to zero with chance $p$ and divides the others by $1 - p$: the expected
# value stays, and evaluation needs no change. **Weight decay** pulls every weight towards zero,
#
# $$W \leftarrow W - \alpha\,(\nabla L + \lambda W). \tag{4}$$
#
# Both are said to prevent overfitting. Here is a head on frozen features with 128 labels, ten times
# fewer than features. (The gradient of its loss is derived and checked in notebook 01.) **Guess
# first:** what do they gain on held-out blocks?

# %%
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")  # for matrices this small, one thread is the fastest
pictograms, cells = datasets.pictograms("color"), datasets.solar_cells()
cells = cells.subset(np.arange(0, len(cells), 3))
if run.profile == "smoke":
    pictograms, cells = (d.subset(np.arange(0, len(d), 9)) for d in (pictograms, cells))
F_near = features.extract(backbone, pictograms.images)["head"]


def trained_head(F, labels, decay, p, seed, rate=0.1):
    rng, W, target = np.random.default_rng(seed), np.zeros((F.shape[1], 8)), np.eye(8)[labels]
    for _ in range(100):
        X = F * (rng.random(F.shape) >= p) / (1 - p) if p else F
        z = X @ W
        q = np.exp(z - z.max(axis=1, keepdims=True))
        gradient = X.T @ (q / q.sum(axis=1, keepdims=True) - target) / len(labels)
        W = W - rate * (gradient + decay * W)  # equation (4)
    return W


# %%
settings, y = {"neither": (0, 0), "decay 0.1": (0.1, 0), "dropout 0.5": (0, 0.5)}, pictograms.labels
by_setting = {name: [] for name in settings}
print("               length of W   training   held-out blocks")
for name, (decay, p) in settings.items():
    for seed in run.seeds(8):
        pool, test = pictograms.split("block", 0.4, seed)
        rows = np.random.default_rng(seed).permutation(pool)[:128]
        Z = StandardScaler().fit(F_near[rows]).transform(F_near)
        W = trained_head(Z[rows], y[rows], decay, p, seed)
        answer = (Z @ W).argmax(axis=1)
        scores = [balanced_accuracy_score(y[part], answer[part]) for part in (rows, test)]
        by_setting[name].append((np.linalg.norm(W), *scores))
    by_setting[name] = np.array(by_setting[name])
    print("{:14} {:11.2f} {:10.2f} {:17.3f}".format(name, *by_setting[name].mean(axis=0)))
for name, key in (("decay 0.1", "decay"), ("dropout 0.5", "dropout")):
    text = f"On a head over frozen features, {name} moves held-out accuracy by less than 0.03"
    pair = by_setting[name][:, 2], by_setting["neither"][:, 2]
    claim_margin(f"03.{key}", text, *pair, above=-0.03, below=0.03)

# %% [markdown]
# Decay makes the weights shorter, and the training set is still learned by heart. (One head and
# one strength each; in a whole network that trains on much data things may differ.)
#
# ## Where weights and data come from
#
# | you will read | today |
# |---|---|
# | `https://tfhub.dev/…` | moved to Kaggle Models; also Keras Applications and KerasHub |
# | TensorFlow Model Garden | training code with checkpoints, still there |
# | "any GitHub repository" | Hugging Face Hub, with a card for most models; check who uploaded |
# | "TFDS downloads ImageNet" | you download it by hand after agreeing to its terms; TFDS reads it |
#
# | data | what it is |
# |---|---|
# | ImageNet-1k | 1.28 million training pictures, 1,000 classes; research terms |
# | COCO | over 200,000 labelled **pictures** (not objects), 1.5 million objects, 80 kinds |
# | CIFAR-10, MNIST | 60,000 at 32 × 32, 70,000 at 28 × 28: benchmarks, weak as a source |
# | Open Images, VOC, MIRFLICKR-25K | 9 million; 20 classes; 25,000 with tags |
# | IMDb, SQuAD, WikiText | film reviews, questions on articles, running text |
#
# Outside pictures: BERT learned from Wikipedia and books, but GPT-2, T5 and RoBERTa mostly or only
# from web text; DeepSpeech was trained with transcripts, Wav2Vec mostly without; CLIP links text
# and picture, DALL-E makes pictures. What you ask of any of them: **which file, from whom, under
# which licence, trained on what, tested on what?** The last four belong on a model card. The first
# is a hash, and the course pins one for each file.

# %%
import hashlib
import pickletools

for name in ("efficientnet-lite0", "elpv", "openmoji"):
    asset = assets.catalogue()[name]
    print(f"{name}: {asset.requirement}, {asset.size / 1e6:.0f} MB, {asset.licence}")
path = assets.locate("efficientnet-lite0")
content = path.read_bytes()
print(content_hash := hashlib.sha256(content).hexdigest())
assert content_hash == assets.catalogue()["efficientnet-lite0"].sha256
flipped = bytes([content[0] ^ 1]) + content[1:]  # one bit of 150 million
assert hashlib.sha256(flipped).hexdigest() != content_hash

# %% [markdown]
# The hash says that this is the file the author of the list saw, not that it is a good one. (ELPV
# is for non-commercial use: a licence can decide a project before any accuracy.)
#
# The format matters too. A `.pth` file is a pickle: a program for a small machine that may import
# and call whatever it names. Read its imports without running it:

# %%
with path.open("rb") as file:  # in a file of this age the fourth pickle lists the tensors
    program = [step for _ in range(4) for step in pickletools.genops(file)]
print(*sorted({argument for code, argument, _ in program if code.name == "GLOBAL"}), sep="\n")

# %% [markdown]
# Tensors and an ordered dictionary: harmless. Now a file that is not. **Guess first:** when does
# its code run, on loading or on first use?

# %% tags=["pytorch"]
import os
import tempfile


class Trick:
    def __reduce__(self):  # tells pickle how to make the object again: call this with that
        return exec, ("import os; os.environ['OPENED'] = 'yes'",)


bad = os.path.join(tempfile.mkdtemp(), "model.pth")
torch.save({"weight": torch.zeros(2), "extra": Trick()}, bad)
try:
    torch.load(bad, weights_only=True)
except Exception as error:
    print("weights_only=True:", str(error).split(".")[0], "| ran:", "OPENED" in os.environ)
torch.load(bad, weights_only=False)
print("weights_only=False | ran:", "OPENED" in os.environ)
assert os.environ.pop("OPENED") == "yes"

# %% tags=["tensorflow"]
import os
import tempfile

bad = os.path.join(tempfile.mkdtemp(), "model.keras")
trick = layers.Lambda(lambda x: [__import__("os").environ.update(OPENED="yes"), x][1])
keras.Sequential([keras.Input((2,)), trick]).save(bad)
os.environ.pop("OPENED")
try:
    keras.saving.load_model(bad)
except Exception as error:
    print("safe_mode:", str(error).split(".")[0], "| ran:", "OPENED" in os.environ)
keras.saving.load_model(bad, safe_mode=False)
print("safe_mode=False | ran:", "OPENED" in os.environ)
assert os.environ.pop("OPENED") == "yes"

# %% [markdown]
# On loading. `weights_only=True` (PyTorch's default since 2.6) refuses whatever is no tensor or
# plain data; Keras' `safe_mode=True` refuses Python lambdas. A safetensors file has nothing to
# refuse: a length, a table in JSON, then numbers.

# %%
import json

from safetensors.numpy import save

blob = save({"stem": np.zeros((32, 3, 3, 3), np.float32)})
length = int.from_bytes(blob[:8], "little")
print(json.loads(blob[8 : 8 + length]))

# %% [markdown]
# ## One checkpoint, two frameworks
#
# The weight file was written by PyTorch. Kernels lie there as (out, in, height, width); Keras wants
# (height, width, in, out). And at stride 2 the network was trained with TensorFlow's "same"
# padding: the odd row goes to the bottom and the right. By hand:

# %%
import torch as checkpoint_reader

weights = checkpoint_reader.load(path, map_location="cpu", weights_only=True)
key, W_stem = next((key, tensor.numpy()) for key, tensor in weights.items())
photo = backbone.scaling(crops(flower, 1, 0))[0]


def convolution(padding):
    """3 × 3 convolution at stride 2 of the photograph, padded (before, after) with zeros."""
    padded = np.pad(photo, (padding, padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::2, ::2]
    return np.einsum("ijcab,ocab->ijo", windows, W_stem)


# %% tags=["tensorflow"]
stem = M.get_layer("stem_conv")
print(key, W_stem.shape, "becomes", stem.kernel.shape)
assert np.array_equal(stem.kernel, W_stem.transpose(2, 3, 1, 0))
in_framework = stem(photo[None]).numpy()[0]

# %% tags=["pytorch"]
print(key, W_stem.shape, "stays; the picture is turned to (batch, channels, height, width)")
with torch.inference_mode():
    in_framework = M.stem.conv(torch.from_numpy(photo).permute(2, 0, 1)[None])[0]
in_framework = in_framework.permute(1, 2, 0).numpy()

# %%
for padding in ((0, 1), (1, 0), (1, 1)):
    by_hand = convolution(padding)[:112, :112]
    print(f"zeros before and after {padding}: off by {np.abs(by_hand - in_framework).max():.0e}")
assert np.abs(convolution((0, 1)) - in_framework).max() < 1e-4

# %% [markdown]
# PyTorch's own `padding=1` is the last one: legal, no error, every window one pixel off. **Guess
# first:** what does that do to the answers, when all strided layers have it?


# %% tags=["tensorflow"]
def symmetric(layer):
    if getattr(layer, "strides", None) != (2, 2):
        return layer.__class__.from_config(layer.get_config())
    valid = layer.__class__.from_config(layer.get_config() | {"padding": "valid"})
    return keras.Sequential([layers.ZeroPadding2D(layer.kernel_size[0] // 2), valid])


shifted = keras.models.clone_model(M, clone_function=symmetric)
shifted.set_weights(M.get_weights())

# %% tags=["pytorch"]
import copy

from tlcourse.backbones.torch_lite import SameConv2d

shifted = copy.deepcopy(M)
for part in shifted.modules():
    if isinstance(part, SameConv2d) and part.stride == (2, 2):
        part.__class__, part.padding = nn.Conv2d, tuple(k // 2 for k in part.kernel_size)


# %% tags=["tensorflow"]
def answers(model, images, scaling=backbone.scaling):
    z = model.predict(scaling(images), batch_size=64, verbose=0)
    return ops.softmax(z).numpy()


# %% tags=["pytorch"]
def answers(model, images, scaling=backbone.scaling):
    with torch.inference_mode():
        x = torch.from_numpy(scaling(images)).permute(0, 3, 1, 2)
        return model(x).softmax(dim=1).numpy()


# %% [markdown]
# The test of a whole conversion is one picture with a recorded answer, the same for both
# frameworks.

# %%
recorded = 0.146622
whole_flower = resize(flower[None], 224)
p = answers(M, whole_flower)[0]
print(f"class {p.argmax()} (985, daisy), probability {p.max():.6f}, recorded {recorded}")
assert p.argmax() == 985 and abs(p.max() - recorded) < 1e-4
agree = []
for seed in run.seeds(5):
    images = pictograms.images[np.random.default_rng(seed).permutation(len(pictograms))[:32]]
    agree.append((answers(M, images).argmax(1) == answers(shifted, images).argmax(1)).mean())
print(f"symmetric padding keeps the winning class for {np.mean(agree):.0%} of the drawings")

# %%
text = "Symmetric padding at stride 2 changes the winning class of over a tenth of the drawings"
claim_margin("03.padding", text, 1 - np.array(agree), above=0.1)

# %% [markdown]
# ## The wrong preprocessing
#
# "Resize the inputs to the original size and normalise them": tutorials say it and seldom say what
# happens otherwise. Nothing tells you: each error below runs. (The size is a must only for networks
# that flatten, such as VGG16; this one pools, so its weights fit any.) Three judges:
#
# - **own answer**: eight crops of a photograph. It shows a dahlia, for which ImageNet-1k has no
#   class; the network says *daisy*, the nearest of its few flowers. How many does it call that?
# - **retrained**: a new head, trained *and* tested with the error;
# - **deployed**: a head trained the right way, tested with the error. That happens when the app
#   does not share its preprocessing with the training script.
#
# **Guess first:** which judge notices what?

# %%
from dataclasses import replace

from tlcourse.backbones.image import Scaling


def plain(mean, std):
    return replace(backbone, scaling=Scaling(mean, std))


def shrunk(images):
    return resize(resize(images, 112), 224)


as_is = np.asarray
errors = {
    "right": (backbone, as_is),
    "0 to 1": (plain((0.0,) * 3, (255.0,) * 3), as_is),
    "0 to 255": (plain((0.0,) * 3, (1.0,) * 3), as_is),
    "scaled twice": (plain((127 + 127 * 128.0,) * 3, (128.0**2,) * 3), as_is),
    "ImageNet mean": (plain((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), as_is),
    "BGR": (replace(backbone, scaling=replace(backbone.scaling, bgr=True)), as_is),
    "112 pixels": (backbone, shrunk),
}
if run.profile == "smoke":
    errors = {name: errors[name] for name in ("right", "0 to 255", "BGR")}

# %%
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline


def held_out(data, train_on, test_on, seed):
    """Balanced accuracy on held-out blocks, one number for each set of features in test_on."""
    predicted = np.empty((len(test_on), len(data)), int)
    for train, test in data.folds("block", 5, seed):
        probe = make_pipeline(StandardScaler(), RidgeClassifier(1280, class_weight="balanced"))
        probe.fit(train_on[train], data.labels[train])
        predicted[:, test] = [probe.predict(F[test]) for F in test_on]
    return np.array([balanced_accuracy_score(data.labels, p) for p in predicted])


# %%
seeds, judged, in_error = run.seeds(5), {}, {}
for data in (pictograms, cells):
    F_error = [features.extract(n, change(data.images))["head"] for n, change in errors.values()]
    in_error[data.name] = F_error
    for seed in seeds:
        deployed = held_out(data, F_error[0], F_error, seed)
        judged.setdefault((data.name, "deployed"), []).append(deployed)
        again = [held_out(data, F_i, [F_i], seed)[0] for F_i in F_error[1:]]
        again = [deployed[0], *again]  # without an error both are the same
        judged.setdefault((data.name, "retrained"), []).append(again)
for seed in seeds:
    pieces, own = crops(flower, 8, seed), []
    for net, change in errors.values():
        own.append((answers(M, change(pieces), net.scaling).argmax(axis=1) == 985).mean())
    judged.setdefault("daisy", []).append(own)

# %%
judged = {judge: dict(zip(errors, np.array(s).T, strict=True)) for judge, s in judged.items()}
near, far = pictograms.name, cells.name
print("               own answer     pictograms            solar cells")
print("                    daisy  retrained deployed   retrained deployed")
for name in errors:
    near_d, near_r, far_d, far_r = (
        judged[judge][name].mean() for judge in judged if judge != "daisy"
    )
    print(f"{name:20} {judged['daisy'][name].mean():4.2f} {near_r:9.2f}", end=" ")
    print(f"{near_d:8.2f} {far_r:11.2f} {far_d:8.2f}")

# %%
text = "Fed 0 to 255, the network no longer says daisy to more than half of the crops"
daisy = judged["daisy"]
claim_margin("03.own_answer", text, daisy["right"], daisy["0 to 255"], above=0.5)
retrained, deployed = judged[near, "retrained"], judged[near, "deployed"]
text = "A head trained and tested on 0 to 255 loses less than 0.1 on pictograms"
claim_margin("03.retrained", text, retrained["right"], retrained["0 to 255"], below=0.1)
text = "A head trained the right way and deployed on 0 to 255 loses more than 0.15"
claim_margin("03.deployed", text, deployed["right"], deployed["0 to 255"], above=0.15)
text = "On solar cells, a head deployed on 0 to 255 loses more than 0.1"
far_deployed = judged[far, "deployed"]
claim_margin("03.deployed_far", text, far_deployed["right"], far_deployed["0 to 255"], above=0.1)
text = "Swapped channels (BGR) cost a deployed head on pictograms less than 0.08"
claim_margin("03.bgr", text, deployed["right"], deployed["BGR"], below=0.08)
swapped = in_error[far][list(errors).index("BGR")]
assert np.array_equal(swapped, in_error[far][0])  # grey pictures: BGR is RGB

# %% [markdown]
# "Preprocessing hardly matters" and "preprocessing is everything" are both true, of different
# judges. A head that is trained with the error adapts to most of it, so training looks normal and
# you never find out. The same error in the app alone can ruin a head that was trained well. Hence:
# **ship the preprocessing inside the model** or load it from the same place, and test it with one
# picture whose answer you know. Move the slider: one photograph as the network gets it (what lies
# out of range is cut off).

# %%
words_of = """985 daisy, 109 brain coral, 111 nematode, 644 matchstick, 599 honeycomb,
949 strawberry, 417 balloon, 309 bee, 738 pot, 957 pomegranate, 994 gyromitra, 988 acorn, 952 fig,
989 hip, 530 digital clock"""
words_of = dict(item.split(maxsplit=1) for item in words_of.split(","))
frames = {}
for name, (net, change) in errors.items():
    p = answers(M, change(whole_flower), net.scaling)[0]
    shown = net.scaling(change(whole_flower))[0]
    fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 2.6), width_ratios=(1, 1.3))
    left.imshow(np.clip((shown + 1) / 2, 0, 1))
    left.axis("off")
    best = np.argsort(-p)[:3][::-1]
    words = [words_of.get(str(c), f"class {c}") for c in best]
    right.barh(words, p[best], color=[figures.COLORS[int(c != 985)] for c in best])
    right.set(xlim=(0, 0.3), xlabel="probability")
    says = f"{name}: the network says {words[-1]}"
    title = f"{says}; a deployed head scores {deployed[name].mean():.2f}"
    fig.suptitle(title, x=0.01, ha="left", fontsize=10)
    frames[name] = fig
alt = "The photograph of a flower as the network receives it, and its three likeliest classes."
figures.slider(frames, "preprocessing", alt, start="0 to 255")

# %% [markdown]
# ## Top-1 and features: Lite0, Lite1, Lite2
#
# The three come with real weights. Published top-1 (README of EfficientNet-Lite, tensorflow/tpu on
# GitHub): 75.1, 76.7 and 77.6 %. Their input grows from 224 to 240 to 260 pixels. **Guess first:**
# on pictograms and on solar cells, how much of the 2.5 points does a probe see?

# %%
top1, probed = run.pick(smoke=(75.1, 76.7), cpu=(75.1, 76.7, 77.6)), {}
for i in range(len(top1)):
    net = backbones.load(f"efficientnet-lite{i}")
    for data in (pictograms, cells):
        F_i = features.extract(net, data.images)["head"]
        probed[data.name, i] = np.array([held_out(data, F_i, [F_i], seed)[0] for seed in seeds])
gain = {name: probed[name, i] - probed[name, 0] for name in (near, far)}
for name in gain:
    mean, (low, high) = mean_interval(gain[name])
    print(f"{name}: Lite2 over Lite0 {mean:+.3f}, interval {low:+.3f} to {high:+.3f}")

text = "On pictograms, Lite2's features are worth less than 0.05 more than Lite0's to a probe"
claim_margin("03.lite_near", text, gain[near], below=0.05)
text = "On solar cells, Lite2's features are worth less than 0.05 more than Lite0's"
claim_margin("03.lite_far", text, gain[far], below=0.05)

# %%
fig, ax = plt.subplots(figsize=(6, 3.4))
for i, name in enumerate((near, far)):
    figures.lines(ax, top1, np.array([probed[name, j] for j in range(len(top1))]), name, i)
ax.set(xlabel="published ImageNet top-1 (%)", ylabel="balanced accuracy, blocks held out")
ax.set_title(
    f"Lite0 to Lite2: {gain[near].mean():+.3f} on pictograms, {gain[far].mean():+.3f} on cells"
)
ax.legend()
alt = """Probe accuracy on pictograms and on solar cells against the published top-1 of three
networks, with intervals over five deals of the blocks."""
figures.show(fig, alt)

# %% [markdown]
# A ranking on ImageNet chooses between families; between neighbours of one family, on your data,
# the way the blocks are dealt can move a probe more than the choice. The intervals speak of that
# dealing. Probe both (notebook 04 compares layers in the same way, where more is to be won), and
# pay for the larger one only if you see the difference.

# %% [markdown]
# ## What was seen

# %%
summary()

# %% [markdown]
# **Try it.** Feed the flower at 160 × 160 pixels. In evaluation mode BatchNorm is a scale and a
# shift of each channel: fold the first one into its convolution and compare. Turn every kernel's
# height and width around before you load it: the shapes are legal.
#
# **Next.** Exercise set ex03 (folder `exercises`) asks you to find preprocessing errors. Then 04,
# feature extraction: which layer, which head, which network for your data.
#
# **Sources.** Simonyan and Zisserman 2014 (VGG); Szegedy et al. 2014, 2015 (Inception); He et al.
# 2016 (ResNet); Ioffe and Szegedy 2015 (BatchNorm); Srivastava et al. 2014 (dropout); Luo et al.
# 2016 (effective receptive field); Sandler et al. 2018 (MobileNetV2); Tan and Le 2019
# (EfficientNet); Kornblith et al. 2019 (do better ImageNet models transfer better?). Books:
# Chollet, Deep Learning with Python; Géron, Hands-On Machine Learning (2022).
