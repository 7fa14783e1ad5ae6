# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Domain adaptation
#
# You have labels where you do not need them, and none where you do: film reviews are rated, your
# product reviews are not. Afterwards you can
#
# - say what transductive transfer is, and what it forbids;
# - write importance weights, CORAL, AdaBN and DANN, each with a check that it does what it says;
# - tell from a table of measurements when each of them helps and when it does harm;
# - make label shift on purpose, watch alignment fail, and repair it;
# - say what can be chosen without a single target label, and what cannot.
#
# *You need notebook 04 (frozen features, probe, blocks held out); 01 has the theory. 45 minutes to
# read, about one to run.*

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
# ## What transductive means
#
# You will read that transductive transfer is "from one task to a similar task", with film to
# product sentiment as the example. The example is fine, the definition is not. A **domain** is
# where the inputs come from, a **task** is what you ask about them. In Pan and Yang's (2010)
# **transductive** setting the *task is the same*, the *domains differ*, and **no target label is
# used**, neither to train nor to choose a setting. Inputs of the target may be used. The methods
# for it are called **domain adaptation** (in full: *unsupervised* domain adaptation). With fifty
# labelled product reviews it is another setting.
#
# Lists of "four types of transfer learning" put adaptation beside feature extraction, fine-tuning
# and multi-task learning. Adaptation answers *what am I given?*, the others *what do I do?*: below,
# every adaptation runs on extracted features.
#
# Two names for what every method is compared with: **source-only** trains on the source and hopes;
# the **oracle** is trained on target labels that you would not have. Here are the domains: four
# kinds of sentences, and three pairs of pictures.

# %%
import gc
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tlcourse import backbones, datasets, engine, features, figures
from tlcourse.evidence import claim_margin, mean_interval, summary

TEXTS, STYLES = ("movie", "product", "editorial", "tweet"), ("color", "line")
data = {name: datasets.sentiment(name) for name in TEXTS}
data |= {style: datasets.pictograms(style) for style in STYLES}
cells = datasets.solar_cells()
data |= {t: cells.subset(cells.meta["cell_type"] == t) for t in ("mono", "poly")}
data["handwritten"] = datasets.digits()
del cells  # 236 MB, and both kinds are copies
if run.profile == "smoke":
    thin = {name: 16 if name in TEXTS else 5 for name in data} | {"mono": 15, "poly": 15}
    data = {name: d.subset(np.arange(0, len(d), thin[name])) for name, d in data.items()}
for name in (*TEXTS, "mono", "poly"):
    print(f"{name:9} {len(data[name]):6,} rows, {data[name].labels.mean():4.0%} of class 1")

# %% [markdown]
# Printed digits do not come with the course, so print some: fourteen fonts that matplotlib brings
# along, turned by up to 10°, shifted by up to two of 32 pixels, and counted down to 8 × 8 as the
# handwritten ones were.

# %%
FONTS = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif"]
FONTS += ["DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol"]
FONTS += ["cmr10", "cmss10", "cmtt10", "cmb10", "cmti10"]
folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 40) for name in FONTS]


def printed(digit, font, rng):
    big = Image.new("L", (80, 80))
    ImageDraw.Draw(big).text((40, 40), str(digit), 255, font, anchor="mm")
    ink = big.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR)
    ink = ink.crop(ink.getbbox())
    width = max(4, min(32, round(ink.width * 32 / ink.height)))
    page, (right, down) = Image.new("L", (32, 32)), rng.integers((-2, -1), (3, 2))
    page.paste(
        ink.resize((width, 32), Image.Resampling.BILINEAR), ((32 - width) // 2 + right, down)
    )
    return (np.asarray(page) > 127).reshape(8, 4, 8, 4).sum(axis=(1, 3))


# %%
rng, each = np.random.default_rng(run.seed), run.pick(smoke=1, cpu=10)
kinds = list(itertools.product(range(len(fonts)), range(10), range(each)))
data["printed"] = replace(
    data["handwritten"],
    name="digits (printed)",
    images=np.array([printed(digit, fonts[f], rng) for f, digit, _ in kinds], np.uint8),
    labels=np.array([digit for _, digit, _ in kinds]),
    blocks=np.array([f for f, _, _ in kinds]),  # a font is a block
)
PICTURES = (("printed", "handwritten"), STYLES, ("mono", "poly"), ("poly", "mono"))
shown = {}
for name in ("printed", "handwritten", "color", "line", "mono", "poly"):
    images = data[name].images[np.linspace(25, len(data[name]) - 35, 3).astype(int)]
    shown[name] = [255 - 15 * x.astype(int) if len(x) == 8 else x for x in images]
figures.image_grid(
    [picture for pictures in shown.values() for picture in pictures],
    [name for name in shown for _ in range(3)],
    """Printed and handwritten digits, coloured pictograms and line sketches of the same objects,
    monocrystalline and polycrystalline solar cells: three of each.""",
    title="On the left a source, on the right its target; the cells go both ways",
)

# %% [markdown]
# Everything below starts from frozen features: MiniLM for sentences, EfficientNet-Lite0 for
# pictures (notebook 04), the 64 pixels for digits.

# %%
encoder, backbone = backbones.load("minilm"), backbones.load("efficientnet-lite0")


def extracted(name):
    d = data[name]
    if name in TEXTS:
        return features.extract_text(encoder, d.texts, max_length=64)[encoder.layers[-1]]
    if d.images.shape[1] == 8:
        return d.images.reshape(len(d), 64).astype(np.float32)
    return features.extract(backbone, d.images)["head"]


F = {name: extracted(name) for name in data}
del encoder  # its work is done, and it takes memory
gc.collect()

# %% [markdown]
# A **case** is one shift with one seed. Learn from the source rows `S` with labels and from the
# target rows `T` without; test on `E`, target rows of other blocks (reviews, articles, stretches of
# cells, of digits, of pictograms; films and tweets carry no block, so their rows are dealt at
# random). Colour and line show the same objects: there `S` and `T` hold the same ones, `E` others.
# `V` are held-out source rows. The features are standardised and turned to their 128 main
# directions (PCA; the digits have only 64), both measured on source rows: source-only must not have
# seen the target. One trap lies there: a feature that hardly moves in the source can be thousands
# of its standard deviations away in the target, and that one number then decides. So it is cut at
# ten. `yT` trains the oracle and later judges an estimate; no method sees it.
#
# The number is **balanced accuracy**, the mean of the classes' own accuracies: the class shares
# differ between domains, and a classifier should not score by guessing the larger class.

# %%
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")  # for matrices this small, one thread is the fastest


def draw(name, seed, size=1500):
    kind = "random" if data[name].blocks is None else "block"
    train, test = data[name].split(kind, 0.3, seed)
    return np.random.default_rng(seed).permutation(train)[:size], test


def view_from(X):
    cut = FunctionTransformer(np.clip, kw_args={"a_min": -10, "a_max": 10})
    K = min(128, X.shape[1], len(X) // 2)
    return make_pipeline(StandardScaler(), cut, PCA(K, random_state=0)).fit(X)


def new_case(source, target, seed, F=F):
    (s, v), (t, e), y = draw(source, seed), draw(target, seed), {k: data[k].labels for k in data}
    view = view_from(F[source][s])
    X = {"S": F[source][s], "V": F[source][v], "T": F[target][t], "E": F[target][e]}
    labels = {"yS": y[source][s], "yV": y[source][v], "yT": y[target][t], "yE": y[target][e]}
    return SimpleNamespace(**{k: view.transform(x) for k, x in X.items()}, **labels)


def fitted(X, y, w=None):
    return LogisticRegression(C=0.01, max_iter=1000).fit(X, y, sample_weight=w)


def score(model, case):
    return balanced_accuracy_score(case.yE, model.predict(case.E))


# %%
PAIRS = list(itertools.permutations(TEXTS, 2))
cases = {pair: [new_case(*pair, seed) for seed in run.seeds(5)] for pair in PAIRS}
cases |= {pair: [new_case(*pair, seed) for seed in run.seeds(10)] for pair in PICTURES}
found = {pair: {} for pair in cases}  # method -> one value a seed


def measure(method, answer):
    """Keep what `answer(case)` gives for every case."""
    for pair, of_seeds in cases.items():
        found[pair][method] = np.array([answer(case) for case in of_seeds])


# %%
measure("in source", lambda c: balanced_accuracy_score(c.yV, fitted(c.S, c.yS).predict(c.V)))
measure("source-only", lambda c: score(fitted(c.S, c.yS), c))
measure("oracle", lambda c: score(fitted(c.T, c.yT), c))


def of_texts(method):
    """The mean of the twelve pairs of text domains, one value a seed."""
    return np.mean([found[pair][method] for pair in PAIRS], axis=0)


lost = of_texts("oracle") - of_texts("source-only")
text = "Averaged over the 12 text pairs, source-only is over 0.03 below the oracle"
claim_margin("08.text_gap", text, lost, above=0.03)
for pair in PICTURES:
    gap = found[pair]["oracle"] - found[pair]["source-only"]
    print(
        " → ".join(pair), "{:+.3f} ({:+.3f} to {:+.3f})".format(gap.mean(), *mean_interval(gap)[1])
    )

# %% [markdown]
# That gap is about what adaptation can win, and on text it is small to begin with. Four methods
# follow. One weights source rows, one matches covariances, one gives the network new BatchNorm
# statistics, one trains features that hide the domain. **Guess first:** which will close most of
# the gap, in text and in pictures?
#
# ## Importance weights
#
# If $P(y\mid x)$ is the same in both domains and only $P(x)$ differs (**covariate shift**,
# Shimodaira 2000), and the source reaches wherever the target does, then the target risk is a
# weighted source risk:
#
# $$E_T[\ell(x, y)] = E_S[w(x)\,\ell(x, y)], \qquad w(x) = \frac{P_T(x)}{P_S(x)}. \tag{1}$$
#
# Nobody knows the densities, but a classifier that tells the domains apart knows their ratio: its
# odds, $w(x) = \frac{p(T\mid x)}{p(S\mid x)} \cdot \frac{n_S}{n_T}$. How many source rows carry the
# weight is the **effective sample size** $(\sum w)^2 / \sum w^2$; below it is a share of all source
# rows.


# %%
def domain_classifier(case):
    return fitted(np.r_[case.S, case.T], np.r_[np.zeros(len(case.S)), np.ones(len(case.T))])


def importance(case):
    w = np.exp(domain_classifier(case).decision_function(case.S)) * len(case.S) / len(case.T)  # (1)
    return w / w.mean()


def effective(w):
    return w.sum() ** 2 / (w**2).sum() / len(w)


# %% [markdown]
# Check the formula where the ratio is known: two bell curves of standard deviation 1, one unit
# apart, have $w(x) = e^{x - 1/2}$.

# %%
rng, n = np.random.default_rng(run.seed), 20_000
known = SimpleNamespace(S=rng.normal(0, 1, (n, 1)), T=rng.normal(1, 1, (n, 1)))
w, exact = importance(known), np.exp(known.S[:, 0] - 0.5)
print(f"by odds against the true ratio: correlation {np.corrcoef(w, exact)[0, 1]:.4f}")
assert np.corrcoef(w, exact)[0, 1] > 0.98

# %%
measure("weights", lambda c: score(fitted(c.S, c.yS, importance(c)), c))
measure("effective", lambda c: effective(importance(c)))


def gain(method, pair, over="source-only"):
    return found[pair][method] - found[pair][over]


text = "On text, less than a tenth of the source rows carries the weight"
claim_margin("08.effective", text, of_texts("effective"), below=0.1)
text = "On text, importance weights lower the balanced accuracy by over 0.01"
claim_margin("08.weights", text, of_texts("weights"), of_texts("source-only"), below=-0.01)

# %% [markdown]
# The formula is right and the result is bad. In a hundred dimensions the domains hardly overlap: of
# 1,500 source sentences about twenty carry the weight. Importance weighting needs overlap, and the
# effective sample size warns you without any label.
#
# ## CORAL
#
# Sun, Feng and Saenko (2016): make the source look like the target in means and covariances. Whiten
# the source, recolour it with the target's covariance, then train as usual:
#
# $$\tilde X_S = (X_S - \mu_S)\; C_S^{-1/2}\; C_T^{1/2} + \mu_T, \qquad C = \mathrm{cov}(X) + I.
# \tag{2}$$
#
# The $I$ is the paper's; it keeps the inverse root safe. With it the covariances only come closer:
# the check below sets it almost to zero, and then they agree. The paper centres both domains
# beforehand, which is what the means in (2) do.


# %%
def power(C, exponent):
    values, vectors = np.linalg.eigh(C)
    return (vectors * values**exponent) @ vectors.T


def coral(S, T, w=None, safe=1.0):
    mu_S, more = np.average(S, axis=0, weights=w), safe * np.eye(S.shape[1])
    C_S, C_T = np.cov(S.T, aweights=w) + more, np.cov(T.T) + more
    return (S - mu_S) @ power(C_S, -0.5) @ power(C_T, 0.5) + T.mean(axis=0)  # equation (2)


c = cases["movie", "product"][0]
matched = coral(c.S, c.T, safe=1e-8)
print(f"covariances apart: before {np.abs(np.cov(c.S.T) - np.cov(c.T.T)).max():.2f},", end=" ")
print(f"after {np.abs(np.cov(matched.T) - np.cov(c.T.T)).max():.0e}")
assert np.allclose(np.cov(matched.T), np.cov(c.T.T), atol=1e-3)
assert np.allclose(matched.mean(axis=0), c.T.mean(axis=0), atol=1e-4)

# %%
measure("CORAL", lambda c: score(fitted(coral(c.S, c.T), c.yS), c))
by_pair = np.array([gain("CORAL", pair).mean() for pair in PAIRS])
print(f"CORAL lowers the mean in {np.sum(by_pair < 0)} of 12 text pairs")
text = "On text, CORAL lowers the balanced accuracy by over 0.01"
claim_margin("08.coral_text", text, of_texts("CORAL"), of_texts("source-only"), below=-0.01)
text = "From coloured pictograms to line sketches CORAL gains over 0.02"
claim_margin("08.coral_sketch", text, gain("CORAL", STYLES), above=0.02)
text = "From printed to handwritten digits CORAL gains"
claim_margin("08.coral_digits", text, gain("CORAL", ("printed", "handwritten")), above=0)
text = "From mono to poly cells CORAL gains"
claim_margin("08.coral_cells", text, gain("CORAL", ("mono", "poly")), above=0)

# %% [markdown]
# ## AdaBN
#
# A network with BatchNorm carries a mean and a variance for every channel, measured on the pictures
# it was trained with. Li et al. (2016) leave every weight alone and put the target's statistics in
# their place. Our network was trained on ImageNet, not on the source. So there are two readings:
# new statistics for the target only, or **each domain its own**. **Guess first:** does it matter?
# The statistics come from 128 pictures of each domain, without labels (test pictures among them,
# which this setting allows). They are drawn once a run: the intervals below do not speak of that
# draw. Sentences and digits have no part in this: MiniLM has LayerNorm, which keeps no statistics,
# and the digits have no network.

# %%
count, size, some = run.pick(smoke=8, cpu=128), 16, {}
for name in (*STYLES, "mono", "poly"):  # mixed, since they are stored class by class
    mixed = np.random.default_rng(run.seed).permutation(len(data[name]))
    some[name] = data[name].images[mixed[:count]]

# %% tags=["pytorch"]
from copy import deepcopy

import torch
from torch import nn


def adapted(images):
    model = deepcopy(backbone.model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
            norm.train()
    with torch.inference_mode():
        for first in range(0, len(images), size):
            model(backbone.preprocess(images[first : first + size]))
    return replace(backbone, model=model.eval())


own = {name: adapted(images) for name, images in some.items()}
stem = own["poly"].model.stem
with torch.inference_mode():
    by_hand = stem.conv(backbone.preprocess(some["poly"])).mean((0, 2, 3)).numpy()
assert np.abs(by_hand - stem.norm.running_mean.numpy()).max() < 1e-3

# %% tags=["tensorflow"]
import keras
import tensorflow as tf
from keras import layers, ops


def adapted(images):
    model = keras.models.clone_model(backbone.model)
    model.set_weights(backbone.model.get_weights())
    norms = [part for part in model.layers if isinstance(part, layers.BatchNormalization)]
    for batch, first in enumerate(range(0, len(images), size)):
        for norm in norms:
            norm.momentum = batch / (batch + 1)  # a plain average over all batches
        model(backbone.preprocess(images[first : first + size]), training=True)
    return replace(backbone, model=model)


own = {name: adapted(images) for name, images in some.items()}
conv, norm = (own["poly"].model.get_layer(f"stem_{part}") for part in ("conv", "norm"))
by_hand = ops.mean(conv(backbone.preprocess(some["poly"])), axis=(0, 1, 2))
assert np.abs(by_hand - norm.moving_mean).max() < 1e-3

# %% [markdown]
# One trap before the numbers. All features so far were computed in bfloat16 where the processor has
# it: three digits, and 04 saw it move a feature vector by a few percent. **Guess first:** by how
# much does it move those of a network with new statistics?

# %%
F_own, F_rounded = {}, {}
for name, network in own.items():
    F_own[name] = features.extract(network, data[name].images, precision="fp32")["head"]
for name in STYLES:
    F_rounded[name] = features.extract(own[name], data[name].images)["head"]
off = np.linalg.norm(F_rounded["line"] - F_own["line"], axis=1)
off /= np.linalg.norm(F_own["line"], axis=1)
print(f"{engine.precision_here()} moves a sketch's features by {off.mean():.0%} of their length")

# %% [markdown]
# Where that line says bf16, little is left. A likely reason: a channel that varies less on sketches
# than it did on photographs is now divided by a smaller number, its rounding with it, and so on
# from layer to layer. What comes from new statistics below is computed in single precision.


# %%
def scores_from(F, pair):
    fresh = [new_case(*pair, seed, F) for seed in run.seeds(10)]
    return np.array([score(fitted(c.S, c.yS), c) for c in fresh])


for pair in PICTURES[1:]:
    for method, F_new in (("AdaBN, one side", F | {pair[1]: F_own[pair[1]]}), ("AdaBN", F_own)):
        found[pair][method] = scores_from(F_new, pair)
    one, two = gain("AdaBN, one side", pair).mean(), gain("AdaBN", pair).mean()
    print(f"{' → '.join(pair):14} target only {one:+.3f}, each its own {two:+.3f}")
text = "AdaBN on the target only lowers the balanced accuracy from color to line"
claim_margin("08.adabn_one", text, gain("AdaBN, one side", STYLES), below=0)
text = "With each domain its own statistics, line sketches gain over 0.03"
claim_margin("08.adabn_sketch", text, gain("AdaBN", STYLES), above=0.03)
text = "With each domain its own statistics, cells gain over 0.05 (mean of both directions)"
both = (gain("AdaBN", ("mono", "poly")) + gain("AdaBN", ("poly", "mono"))) / 2
claim_margin("08.adabn", text, both, above=0.05)
text = "On cells AdaBN is above CORAL (mean of both directions)"
by_coral = (gain("CORAL", ("mono", "poly")) + gain("CORAL", ("poly", "mono"))) / 2
claim_margin("08.rows_cells", text, both, by_coral, above=0)

# %% [markdown]
# The recipe "re-estimate BatchNorm on the target" supposes that the network *was trained on the
# source*. This one was trained on ImageNet: with the target's statistics changed alone, the
# classifier meets line drawings in features that it never saw. Change both sides, and each domain
# is centred in its own way: sketches and cells gain. How much of that would the rounding have left,
# over the same ten seeds?

# %%
left = scores_from(F_rounded, STYLES) - found[STYLES]["source-only"]
mean, (low, high) = mean_interval(left)
print(f"color → line: {gain('AdaBN', STYLES).mean():+.3f}, and from features")
print(f"in {engine.precision_here()} {mean:+.3f} ({low:+.3f} to {high:+.3f})")

# %% [markdown]
# Where the second line says bf16, rounding takes most of the gain, and a method that works would
# have been filed as one that does not. An earlier edition of this notebook did so: PyTorch and
# Keras differed in the sign. Where two frameworks disagree, look for the digit before the reason.
#
# ## DANN
#
# Ganin et al. (2016) train features that serve the labels and *confuse* a domain classifier. A
# layer that does nothing forwards and turns the gradient backwards makes both one training:
#
# $$R_\lambda(F) = F, \qquad \frac{\partial R_\lambda}{\partial F} = -\lambda I,\qquad
# L = L_y(c(F_S)) + L_d(d(R_\lambda(F))). \tag{3}$$
#
# $F$ are the features ($F_S$ those of source rows), $c$ is the class head, $d$ the domain head, and
# $\lambda$ says how much the confusion counts.

# %% tags=["pytorch"]


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, F, lam):
        ctx.save_for_backward(lam)
        return F.view_as(F)

    @staticmethod
    def backward(ctx, upstream):
        return -ctx.saved_tensors[0] * upstream, None  # equation (3)


def gradient_through(layer):
    x = torch.linspace(-1, 1, 12).reshape(4, 3).requires_grad_()
    (layer(x) ** 3).sum().backward()
    return x.grad.numpy()


plain = gradient_through(lambda x: x)
turned = gradient_through(lambda x: Reverse.apply(x, torch.tensor(0.7)))

# %% tags=["tensorflow"]


def reverse(F, lam):
    @tf.custom_gradient
    def layer(F):
        return tf.identity(F), lambda upstream: -lam * upstream  # equation (3)

    return layer(F)


def gradient_through(layer):
    x = tf.Variable(tf.reshape(tf.linspace(-1.0, 1.0, 12), (4, 3)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 3)
    return tape.gradient(loss, x).numpy()


plain = gradient_through(lambda x: x)
turned = gradient_through(lambda x: reverse(x, 0.7))

# %%
assert np.array_equal(turned, -np.float32(0.7) * plain)
print("the reversed gradient is -0.7 times the plain one, to the last bit")

# %% [markdown]
# The network: a feature layer of 32 ReLU units on the frozen features, a linear class head, and a
# domain head with a hidden layer. All cases and all λ train **side by side**: one tensor holds the
# weights of hundreds of small networks, and none touches another. Two things keep it fair. The
# paper's schedule lets λ grow from 0. And the **control is the same network with λ = 0**, not the
# logistic regression from above. One thing is not fair: its width, learning rate and number of
# steps were tried with target accuracies in sight. More on that below.

# %%
LAMBDAS, STEPS, ROWS, CLASSES = (0.0, 0.1, 1.0), run.pick(smoke=5, cpu=300), 1024, 10


def side_by_side(cases, seed):
    """Arrays (cases, rows, 128) of source and target, (cases, rows) of source labels."""
    rng, out = np.random.default_rng(seed), []
    for c in cases:
        s, t = (np.resize(rng.permutation(len(x)), ROWS) for x in (c.S, c.T))
        wide = [(0, 0), (0, 128 - c.S.shape[1])]  # digits have 64 features: zeros behind them
        out.append((np.pad(c.S[s], wide), np.pad(c.T[t], wide), c.yS[s]))
    S, T, y = (np.array(part) for part in zip(*out, strict=True))
    return S.astype(np.float32), T.astype(np.float32), y


def growing(step):
    return np.float32(2 / (1 + np.exp(-10 * step / STEPS)) - 1)


# %% tags=["pytorch"]
class Stack(nn.Module):
    """A linear layer for each λ and case; for each case, every λ starts from the same weights."""

    def __init__(self, lambdas, cases, inputs, outputs):
        super().__init__()
        W = torch.randn(cases, inputs, outputs) / inputs**0.5
        self.W = nn.Parameter(W.repeat(lambdas, 1, 1, 1))
        self.b = nn.Parameter(torch.zeros(lambdas, cases, 1, outputs))

    def forward(self, x):
        return x @ self.W + self.b


def dann(cases, lambdas, seed):
    torch.manual_seed(seed)
    S, T, y = (torch.from_numpy(x).to(run.device) for x in side_by_side(cases, seed))
    shape, lam = (len(lambdas), len(cases)), torch.tensor(lambdas).reshape(-1, 1, 1, 1)
    layer, head = Stack(*shape, 128, 32), Stack(*shape, 32, CLASSES)
    domain = nn.Sequential(Stack(*shape, 32, 32), nn.ReLU(), Stack(*shape, 32, 1))
    parts = nn.ModuleList([layer, head, domain]).to(run.device)
    lam, which = lam.to(run.device), torch.arange(2, device=run.device).repeat_interleave(64)
    which = which.float()[:, None].expand(*shape, 128, 1)
    optimizer = torch.optim.Adam(parts.parameters(), lr=3e-3, fused=True)
    for step in range(STEPS):
        s, t = torch.randint(ROWS, (2, 64), device=run.device)
        F = layer(torch.cat([S[:, s], T[:, t]], dim=1)).relu()
        logits = head(F[:, :, :64]).flatten(0, 2)
        L_y = nn.functional.cross_entropy(logits, y[:, s].repeat(shape[0], 1).flatten())
        guess = domain(Reverse.apply(F, lam * growing(step)))
        L_d = nn.functional.binary_cross_entropy_with_logits(guess, which)
        optimizer.zero_grad()
        (L_y + L_d).backward()
        optimizer.step()
    return [p.detach().cpu().numpy() for p in (layer.W, layer.b, head.W, head.b)]


# %% tags=["tensorflow"]
class Stack(layers.Layer):
    """A linear layer for each λ and case; for each case, every λ starts from the same weights."""

    def __init__(self, lambdas, cases, inputs, outputs):
        super().__init__()
        W = np.random.normal(0, inputs**-0.5, (1, cases, inputs, outputs)).repeat(lambdas, 0)
        self.W = self.add_weight(shape=W.shape, initializer=lambda *_, **__: W.astype("float32"))
        self.b = self.add_weight(shape=(lambdas, cases, 1, outputs), initializer="zeros")

    def call(self, x):
        return x @ self.W + self.b


def dann(cases, lambdas, seed):
    keras.utils.set_random_seed(seed)
    S, T, y = (tf.constant(x) for x in side_by_side(cases, seed))
    shape, lam = (len(lambdas), len(cases)), tf.reshape(tf.constant(lambdas), (-1, 1, 1, 1))
    layer, head = Stack(*shape, 128, 32), Stack(*shape, 32, CLASSES)
    hidden, domain = Stack(*shape, 32, 32), Stack(*shape, 32, 1)
    which = tf.repeat(tf.constant([0.0, 1.0]), 64)[:, None] * tf.ones((*shape, 128, 1))
    optimizer = keras.optimizers.Adam(3e-3)
    weights = [w for part in (layer, head, hidden, domain) for w in part.trainable_variables]
    optimizer.build(weights)

    @tf.function(autograph=False)
    def train(s, t, lam):
        with tf.GradientTape() as tape:
            x = tf.concat([tf.gather(S, s, axis=1), tf.gather(T, t, axis=1)], axis=1)
            F = ops.relu(layer(x))
            labels = tf.tile(tf.gather(y, s, axis=1)[None], (shape[0], 1, 1))
            logits = head(F[:, :, :64])
            L_y = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            guess = domain(ops.relu(hidden(reverse(F, lam))))
            L_d = tf.nn.sigmoid_cross_entropy_with_logits(which, guess)
            loss = tf.reduce_mean(L_y) + tf.reduce_mean(L_d)
        optimizer.apply(tape.gradient(loss, weights), weights)

    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        s, t = rng.integers(ROWS, size=(2, 64))
        train(tf.constant(s), tf.constant(t), lam * growing(step))
    return [w.numpy() for w in (layer.W, layer.b, head.W, head.b)]


# %%
def answers(weights, k, number, X, classes):
    """What the network of the k-th λ and of the case with this number says to X."""
    W, b, W_head, b_head = (part[k, number] for part in weights)
    logits = np.maximum(X @ W[: X.shape[1]] + b, 0) @ W_head + b_head
    return logits[:, :classes].argmax(axis=1)


every = [(pair, c) for pair, of_seeds in cases.items() for c in of_seeds]
weights = dann([c for _, c in every], LAMBDAS, run.seed)
tried = ["control", *(f"DANN {lam:g}" for lam in LAMBDAS[1:])]
scores = {pair: {} for pair in cases}
for k, name in enumerate(tried):
    for i, (pair, c) in enumerate(every):
        for rows, key in (("E", name), ("V", f"{name}, in source")):
            X, y = getattr(c, rows), getattr(c, "y" + rows)
            says = answers(weights, k, i, X, c.yS.max() + 1)
            scores[pair].setdefault(key, []).append(balanced_accuracy_score(y, says))
for pair, of_pair in scores.items():
    found[pair] |= {key: np.array(values) for key, values in of_pair.items()}

# %%
text = "On text, DANN with λ = 1 does not beat its own control by 0.01 or more"
claim_margin("08.dann_text", text, of_texts("DANN 1"), of_texts("control"), below=0.01)
text = "From color to line DANN with λ = 1 stays more than 0.03 below CORAL"
pair = ("color", "line")
claim_margin("08.dann_sketch", text, found[pair]["CORAL"], found[pair]["DANN 1"], above=0.03)

# %% [markdown]
# DANN is widely known, and on frozen features with a small layer it gains nothing on text. Do not
# read more into it than was done: for pictures the paper trains the whole network, on many more of
# them; for reviews it trains one hidden layer, on counts of words, and reports gains. What you can
# take along: compare with λ = 0, or the network itself gets the credit.
#
# ## All shifts, all methods
#
# First the text domains pair by pair: source in the row, target in the column, red where a method
# lowers the balanced accuracy (DANN against its control, the others against source-only). Then
# every shift in one picture.

# %%
METHODS = ("weights", "CORAL", "AdaBN", "DANN 1")
shifts = {"12 text pairs": PAIRS} | {" → ".join(pair): [pair] for pair in PICTURES}


def gains(method, pairs):
    against = "control" if method.startswith("DANN") else "source-only"
    return np.mean([gain(method, pair, against) for pair in pairs], axis=0)


def cell(method, s, t):
    """One number of a table of text domains: the oracle or nothing on the diagonal."""
    if s == t:
        of_target = [found[other, t]["oracle"] for other in TEXTS if other != t]
        return np.mean(of_target) if method == "source-only" else np.nan
    return found[s, t][method].mean() if method == "source-only" else gains(method, [(s, t)]).mean()


fig, axes = plt.subplots(2, 2, figsize=(7.4, 6.6), sharex=True, sharey=True, layout="constrained")
for ax, method in zip(axes.flat, ("source-only", "weights", "CORAL", "DANN 1"), strict=True):
    table = np.array([[cell(method, s, t) for t in TEXTS] for s in TEXTS])
    base = method == "source-only"
    look = {"cmap": "cividis", "vmin": 0.6, "vmax": 0.9} if base else {"cmap": "RdBu"}
    ax.imshow(table, alpha=0.45, **({"vmin": -0.12, "vmax": 0.12} | look))
    for (i, j), value in np.ndenumerate(table):
        word = "–" if np.isnan(value) else f"{value:.3f}" if base else f"{value:+.3f}"
        ax.text(j, i, word, ha="center", va="center", fontsize=9)
    lower = f"{method.removesuffix(' 1')}: worse in {np.sum(table < 0)} of 12 pairs"
    ax.set_title("source-only; on the diagonal the oracle" if base else lower, fontsize=10)
    ax.set_xticks(range(4), TEXTS, fontsize=8)
    ax.set_yticks(range(4), TEXTS, fontsize=8)
    ax.grid(False)
fig.supxlabel("target")
fig.supylabel("source")
alt = """Four tables of four by four text domains. First the balanced accuracy of source-only, with
the oracle on the diagonal, then what importance weights, CORAL and DANN add to each pair."""
figures.show(fig, alt)

# %%
fig, ax = plt.subplots(figsize=(9, 4))
for i, method in enumerate(METHODS):
    for row, pairs in enumerate(shifts.values()):
        if method in found[pairs[0]]:
            mean, (low, high) = mean_interval(gains(method, pairs))
            look = {"color": figures.COLORS[i], "marker": figures.MARKERS[i], "capsize": 3}
            label = method.removesuffix(" 1") if row == 3 else None
            at = len(shifts) - row - 0.18 * (i - 1.5)
            ax.errorbar(mean, at, xerr=[[mean - low], [high - mean]], ls="", label=label, **look)
for row, pairs in enumerate(shifts.values()):
    gap = np.mean([gain("oracle", pair) for pair in pairs])
    ax.plot([gap, gap], [len(shifts) - row - 0.4, len(shifts) - row + 0.4], "k:")
ax.axvline(0, color="0.3", lw=1)
ax.set_yticks(range(len(shifts), 0, -1), list(shifts))
ax.set(xlabel="gain in balanced accuracy over no adaptation (dotted: oracle)", ylabel="shift")
on_text, on_sketches = (gains("CORAL", shifts[n]).mean() for n in ("12 text pairs", "color → line"))
ax.set_title(f"CORAL: {on_text:+.3f} on text, {on_sketches:+.3f} from colour to line")
ax.legend(fontsize=8)
alt = """Gain of four methods with intervals for five shifts. Importance weights lie left of
zero for text, digits and sketches. CORAL lies left of zero for text and right of it for sketches;
AdaBN lies right of it for sketches and cells. A dotted mark shows the oracle."""
figures.show(fig, alt)

# %% [markdown]
# What became of the guess? On text no method wins: weights, CORAL and DANN all lower the mean. In
# pictures CORAL and AdaBN close most of the gap from colour to line, and CORAL only a small part of
# the largest gap, that of the digits. On the cells AdaBN gains most.
#
# ## Does the proxy distance say when?
#
# Notebook 01 measured the proxy distance $2(1 - 2\varepsilon)$, with $\varepsilon$ the error of a
# domain classifier, for these twelve pairs: it does not predict the drop there. Now there are
# sixteen shifts. **Guess first:** does a large distance at least tell where *alignment helps*?


# %%
def distance(case):
    tell = domain_classifier(case).decision_function
    error = (np.mean(tell(case.V) > 0) + np.mean(tell(case.E) <= 0)) / 2
    return 2 * (1 - 2 * error)


measure("distance", distance)
x = np.array([found[pair]["distance"].mean() for pair in cases])
outcomes = {
    "drop": [-gain("source-only", pair, "in source") for pair in cases],
    "gain of CORAL": [gain("CORAL", pair) for pair in cases],
}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.5))
for ax, (name, values) in zip(axes, outcomes.items(), strict=True):
    middle = np.array([v.mean() for v in values])
    half = np.array([mean_interval(v)[1][1] for v in values]) - middle
    for k, (kind, mine) in enumerate({"text": slice(0, 12), "pictures": slice(12, 16)}.items()):
        look = {"color": figures.COLORS[k], "fmt": figures.MARKERS[k], "capsize": 2, "label": kind}
        ax.errorbar(x[mine], middle[mine], half[mine], **look)
    ax.set(xlabel="proxy distance (0 to 2)", ylabel=f"{name}, balanced accuracy")
    r, r_text = (np.corrcoef(x[:n], middle[:n])[0, 1] for n in (16, 12))
    ax.set_title(f"{name}: r = {r:.2f}, on text {r_text:.2f}")
axes[0].legend()
alt = """Drop and gain of CORAL against the proxy distance for twelve text pairs and four picture
shifts. All distances lie near the upper end of the scale."""
figures.show(fig, alt)
smallest = np.min([found[pair]["distance"][: len(run.seeds(5))] for pair in cases], axis=0)
text = "The smallest of the sixteen proxy distances is above 1.2 of possible 2"
claim_margin("08.saturated", text, smallest, above=1.2)
far, helped = (np.array([of(pair) for pair in PAIRS]) for of in (
    lambda pair: found[pair]["distance"], lambda pair: gain("CORAL", pair)))  # fmt: skip
r = [np.corrcoef(a, b)[0, 1] for a, b in zip(far.T, helped.T, strict=True)]
text = (
    "Over the 12 text pairs the distance correlates with CORAL's gain by less than 0.5 either way"
)
claim_margin("08.distance", text, np.array(r), above=-0.5, below=0.5)

# %% [markdown]
# A linear classifier tells all these domains apart, and how well it does so says little about the
# text pairs. It is blind to what decides: whether the differences it finds have to do with the
# classes. The bound in notebook 01 stays true; what fails is the proxy put in its place. Mind that
# twelve pairs of four domains are few: no link was seen, which does not prove that there is none.
#
# ## Label shift, made on purpose
#
# Now a target that differs from the source in *nothing but the class shares*: film sentences on
# both sides, half of them positive in the source, between 10 % and 90 % in the target. $P(x\mid y)$
# is the same, by construction. **Guess first:** what does aligning the domains do now? Here plain
# accuracy counts too, since the target's shares are what you will meet in use.
#
# The repair for this case weights by class, $w(y) = q(y)/p(y)$: source shares $p$, target shares
# $q$, and $q$ is estimated without labels. **EM** (Saerens et al. 2002) lets the source classifier
# answer on the $n$ target rows, corrects its probabilities by the current estimate, averages,
# repeats. (BBSE, Lipton et al. 2018, solves for the same $q$ with the confusion matrix.)
#
# $$q(y) \leftarrow \frac1n \sum_x \frac{p(y\mid x)\, q(y)/p(y)}{\sum_k p(k\mid x)\, q(k)/p(k)}
# \tag{4}$$


# %%
def estimated_shares(model, case, rounds=100):
    p = np.bincount(case.yS) / len(case.yS)
    posterior, q = model.predict_proba(case.T), p
    for _ in range(rounds):
        corrected = posterior * (q / p)
        q = np.mean(corrected / corrected.sum(axis=1, keepdims=True), axis=0)  # equation (4)
    return q, (q / p)[case.yS]


def with_share(rows, labels, share, n, rng):
    """n rows, this share of them positive; fewer where there are too few."""
    sides = [rng.permutation(rows[labels[rows] == k]) for k in (0, 1)]
    n = int(min(n, len(sides[0]) / (1 - share), len(sides[1]) / share))
    return np.r_[sides[0][: round(n * (1 - share))], sides[1][: round(n * share)]]


# %%
def shifted_case(share, seed):
    rng, y, X = np.random.default_rng(seed), data["movie"].labels, F["movie"]
    train, test = draw("movie", seed, size=len(data["movie"]))
    half = len(train) // 2
    S = with_share(train[:half], y, 0.5, 1500, rng)
    T, E = (with_share(rows, y, share, 1500, rng) for rows in (train[half:], test))
    view = view_from(X[S])
    parts = {name: view.transform(X[rows]) for name, rows in zip("STE", (S, T, E), strict=True)}
    return SimpleNamespace(**parts, yS=y[S], yT=y[T], yE=y[E])


SHARES = run.pick(smoke=(0.5, 0.9), cpu=(0.1, 0.3, 0.5, 0.7, 0.9))
seeds = run.seeds(5)
made = [shifted_case(share, seed) for share in SHARES for seed in seeds]
weights = dann(made, (0.0, 1.0), run.seed)
plain, balanced, guessed = {}, {}, []


def note(method, case, answer):
    plain.setdefault(method, []).append(np.mean(answer == case.yE))
    balanced.setdefault(method, []).append(balanced_accuracy_score(case.yE, answer))


for i, c in enumerate(made):
    model = fitted(c.S, c.yS)
    q, w = estimated_shares(model, c)
    guessed.append(q[1])
    note("source-only", c, model.predict(c.E))
    note("CORAL", c, fitted(coral(c.S, c.T), c.yS).predict(c.E))
    note("label weights", c, fitted(c.S, c.yS, w).predict(c.E))
    note("CORAL, class-weighted", c, fitted(coral(c.S, c.T, w), c.yS, w).predict(c.E))
    note("control", c, answers(weights, 0, i, c.E, 2))
    note("DANN", c, answers(weights, 1, i, c.E, 2))
grid = (len(SHARES), len(seeds))
plain, balanced = ({m: np.reshape(v, grid) for m, v in d.items()} for d in (plain, balanced))

# %%
LINES = ("source-only", "CORAL", "DANN", "label weights", "CORAL, class-weighted")
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
kinds = {"accuracy": plain, "balanced accuracy": balanced}
for ax, (name, values) in zip(axes, kinds.items(), strict=True):
    for i, method in enumerate(LINES):
        figures.lines(ax, 100 * np.array(SHARES), values[method], method, i)
    change, repair = (
        100 * (values[m] - values["source-only"])[-1].mean() for m in ("CORAL", "label weights")
    )
    ax.set(xlabel="positive sentences in the target, %", ylabel=name)
    ax.set_title(f"at 90 %: CORAL {change:+.1f}, label weights {repair:+.1f} points", fontsize=10)
axes[1].legend(fontsize=7)
alt = """Accuracy and balanced accuracy of five methods against the share of positive sentences in
the target, with intervals. In accuracy CORAL falls towards both ends and label weights rise above
source-only; in balanced accuracy label weights fall."""
figures.show(fig, alt)

# %% [markdown]
# DANN lies below source-only at equal shares, too. That part is its small network: there its gain
# over the control cannot be told from zero (last row of the table at the end).
#
# Why does CORAL fall so far? Move the slider. Areas are target sentences, lines the source
# sentences that the classifier was trained on (on the right, after CORAL), along the classifier's
# score. It says "positive" right of zero. **Guess first**, for 90 %: on which side will CORAL leave
# the positive sentences?

# %%
from scipy.stats import gaussian_kde

frames, at = {}, np.linspace(-8, 8, 150)
for k, share in enumerate(SHARES):
    c = made[k * len(seeds)]
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3), sharey=True, layout="constrained")
    for ax, name, S in zip(axes, ("source-only", "CORAL"), (c.S, coral(c.S, c.T)), strict=True):
        model = fitted(S, c.yS)
        for label, word in enumerate(("negative", "positive")):
            look = {"color": figures.COLORS[1 - label]}
            parts = ((X[y == label], np.mean(y == label)) for X, y in ((S, c.yS), (c.E, c.yE)))
            line, area = (n * gaussian_kde(model.decision_function(X))(at) for X, n in parts)
            ax.plot(at, line, label=f"source, {word}", ls=("--", "-")[label], **look)
            ax.fill_between(
                at,
                area,
                label=f"target, {word}",
                alpha=0.3,
                hatch=("//", None)[label],
                lw=0,
                **look,
            )
        ax.axvline(0, color="0.3", lw=1)
        ax.set(xlabel="score (positive right of 0)", ylabel="density × share of the class")
        ax.set_title(f"{name}: {np.mean(model.predict(c.E) == c.yE):.0%} of the target right")
    axes[0].legend(fontsize=7, loc="upper left")
    frames[f"{share:.0%}"] = fig
alt = """Source sentences as lines and target sentences as areas, by class, along the score of the
classifier, without adaptation and after CORAL. With equal shares the areas fill the lines. Where
one class is rare in the target, CORAL slides the areas so that the common class lies on both sides
of zero."""
figures.slider(frames, "positive in the target", alt, start="90%")

# %%
ends = [0, -1]


def at_ends(values, method, against):
    return (values[method] - values[against])[ends].mean(axis=0)


text = "With 10 or 90 % positive, CORAL costs over 0.05 of accuracy"
claim_margin("08.shift_coral", text, at_ends(plain, "CORAL", "source-only"), below=-0.05)
text = "DANN costs accuracy too, against its own control"
claim_margin("08.shift_dann", text, at_ends(plain, "DANN", "control"), below=0)
text = "EM finds the target's share within 0.1, without a label (mean over the five shares)"
off = np.abs(np.reshape(guessed, grid) - np.array(SHARES)[:, None]).mean(axis=0)
claim_margin("08.em", text, off, below=0.1)
text = "Label weights then gain over 0.03 of accuracy on source-only"
repaired = at_ends(plain, "label weights", "source-only")
claim_margin("08.label_weights", text, repaired, above=0.03)
text = "and cost over 0.03 of balanced accuracy"
claim_margin(
    "08.other_number", text, at_ends(balanced, "label weights", "source-only"), below=-0.03
)
text = "Class-weighted CORAL is over 0.05 more accurate than plain CORAL"
repaired = at_ends(plain, "CORAL, class-weighted", "CORAL")
claim_margin("08.coral_repair", text, repaired, above=0.05)

# %% [markdown]
# On both sides. Alignment lays one cloud of points on the other. If one holds nine positive
# sentences in ten and the other five, it can do so only by laying negative source sentences on
# positive target ones (Zhao et al. 2019 bound the sum of the two domains' errors from below;
# notebook 01 met it). Left alone, the source classifier is about as accurate at every share.
# Mind the balanced accuracy: label weights buy *accuracy* under the new shares by answering the
# common class more often, and *balanced* accuracy pays for it. Know which number you want before
# you repair anything.
#
# **Guess first:** the text domains differ in class shares, too. So EM and its weights should repair
# them?


# %%
def weighted_by_label(case):
    model = fitted(case.S, case.yS)
    return score(fitted(case.S, case.yS, estimated_shares(model, case)[1]), case)


measure("label weights", weighted_by_label)
measure("misjudged", lambda c: abs(estimated_shares(fitted(c.S, c.yS), c)[0][1] - c.yT.mean()))
text = "Between the text domains EM misses the share of positive sentences by over 0.1"
claim_margin("08.em_misses", text, of_texts("misjudged"), above=0.1)
text = "and its weights lower the balanced accuracy by over 0.03"
claim_margin("08.em_costs", text, of_texts("label weights"), of_texts("source-only"), below=-0.03)

# %% [markdown]
# No. EM takes every difference in the answers for a difference in shares. Here $P(x\mid y)$ has
# changed as well, which breaks its assumption: it misses the share by over 0.2, where it missed by
# about 0.02 in the case that you made. Read the loss with care, since even the right weights cost
# balanced accuracy. Covariate shift and label shift are *assumptions about which part stays the
# same*. Data without labels can at best refute label shift; they cannot tell which of the two
# holds.
#
# ## Choose without target labels
#
# The $I$ of CORAL, λ = 1 and its schedule are the papers' values, the penalty of the logistic
# regression is that of notebook 07. DANN's width, learning rate and number of steps are neither:
# they were tried with target accuracies in sight. Without target labels nothing can be selected by
# its success on the target; whoever shows a result tuned there had labels, and in use you will not
# get it. So trust the rows of DANN least. Published work, too, has chosen λ where it works best *on
# the target's labels* (You et al. 2019 object). **Guess first:** how much is that worth? Three
# values of λ, 0 among them, and three ways to choose.


# %%
def chosen(pair, by):
    right = np.array([found[pair][name] for name in tried])
    judged = np.array([found[pair][name + by] for name in tried])
    return np.take_along_axis(right, judged.argmax(axis=0)[None], axis=0)[0]


picked = {"always 1": of_texts("DANN 1")}
for way, by in (("by held-out source rows", ", in source"), ("by target labels", "")):
    picked[way] = np.mean([chosen(pair, by) for pair in PAIRS], axis=0)
for way, values in picked.items():
    mean, (low, high) = mean_interval(values - of_texts("control"))
    print(f"λ {way:24} {mean:+.3f} over the control ({low:+.3f} to {high:+.3f})")
text = "With λ chosen on held-out source rows, DANN is within 0.02 of its control on text"
both = picked["by held-out source rows"], of_texts("control")
claim_margin("08.honest_choice", text, *both, above=-0.02, below=0.02)

# %% [markdown]
# The last line cannot fall below zero, whatever the method: it takes the best of three, the control
# among them, *on the test labels*. Its gain is selection, and in use no such choice exists.
# Held-out source rows are honest but know nothing of the target. In between lie importance-weighted
# validation (Sugiyama et al. 2007), which inherits the weights' trouble, and what practice does:
# label fifty target rows to *measure*, and then ask whether they would not better be trained on.
#
# ## What to do when
#
# The table is computed from this run. A method **helps** or **hurts** where the whole 95 % interval
# of its gain lies on one side of zero; otherwise it is open. The intervals speak of new draws of
# rows from these domains, not of new domains.


# %%
def verdict(values):
    mean, (low, high) = mean_interval(values)
    return f"{mean:+.3f} {'helps' if low > 0 else 'hurts' if high < 0 else 'open'}"


columns = (*METHODS, "label weights")
print(f"{'shift':25}{'oracle':>7}{'overlap':>9}", *(f"{m:>14}" for m in columns))
for name, pairs in shifts.items():
    gap, overlap = gains("oracle", pairs).mean(), np.mean([found[p]["effective"] for p in pairs])
    words = [verdict(gains(m, pairs)) if m in found[pairs[0]] else "–" for m in columns]
    print(f"{name:25}{gap:+7.3f}{overlap:9.1%}", *(f"{word:>14}" for word in words))
made_pairs = (("CORAL", "source-only"), ("DANN", "control"), ("label weights", "source-only"))
for name, k in (("made: 10 or 90 % positive", ends), ("made: 50 % positive", [SHARES.index(0.5)])):
    words = [verdict((plain[a] - plain[b])[k].mean(axis=0)) for a, b in made_pairs]
    columns = ("–", words[0], "–", words[1], words[2])
    print(f"{name:25}{'–':>7}{'–':>9}", *(f"{word:>14}" for word in columns))

# %% [markdown]
# **Overlap** is the effective sample size as a share of the source rows. The last two rows are in
# accuracy, the others in balanced accuracy, which label weights cost even where they are right.
#
# Read it by row. The *look* changed and the classes hardly did (digits, colour to line, one kind of
# cell to the other): alignment is worth a try. What CORAL leaves open AdaBN may find (poly to
# mono), but without labels you do not see which. *Class shares* changed: never align plainly;
# weight by class if plain accuracy is what you need. *What is talked about* changed, and shares
# with it (text): leave the source classifier alone, or pay for labels. *Hardly any overlap*: no
# importance weights. Which row is yours cannot be read from unlabelled data. It takes knowledge
# about how the target came about, or a few dozen labels.
#
# ## What is commonly taught, and what was measured
#
# | as commonly taught | what you saw |
# |---|---|
# | transductive: to a similar task | the same task, other inputs, no target label at all |
# | adaptation is one of four types of transfer | a setting; here it ran on extracted features |
# | weight the source by the density ratio | right for two bell curves, harm on text |
# | make the domains look alike | helps sketches, hurts text and shifted class shares |
# | AdaBN: statistics of the target | on a network trained elsewhere: each domain its own |
# | half precision is good enough for features | not behind new BatchNorm statistics |
# | the proxy distance tells when to adapt | on text it told nothing |
# | repair class shares with label weights | where only they differ, and at a price |
# | tune λ | by what? with target labels it is another setting |
#
# ## What was seen

# %%
summary()

# %% [markdown]
# **Try it.** (1) Set `safe` in `coral` to 0.01 and to 100; which claims move? (2) Put
# `("line", "color")` at the end of `PICTURES`. (3) Give the domain head a second hidden layer. Then
# do exercise set ex08 (folder `exercises`).
#
# **Next**: 09, several tasks at once, and one after another.
#
# *Sources: Pan and Yang 2010 (settings); Shimodaira 2000 (covariate shift); Sugiyama et al. 2007
# (importance-weighted validation); Sun, Feng and Saenko 2016 (CORAL); Li et al. 2016 (AdaBN); Ganin
# et al. 2016 (DANN); Ben-David et al. 2010 (bound); Zhao et al. 2019 (alignment and label shift);
# Saerens et al. 2002, Lipton et al. 2018 (estimating class shares); You et al. 2019 (choosing
# settings without target labels); Hutto and Gilbert 2014 (the sentences); Deitsch et al. 2019 (the
# cells); Alpaydin and Kaynak 1998 (the handwritten digits); OpenMoji (the pictograms).*
