# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # BERT: what it knows
#
# You open a small BERT with its real weights, compute it by hand, and measure what its vectors
# hold. At the end you can
#
# - write WordPiece and one Transformer layer yourself, and show that both are the real ones;
# - say what an attention map shows and what it does not;
# - probe layers with controls, so that a high number means something;
# - turn tokens into one vector a sentence without the mask bug, and search with it;
# - say which layer, which pooling and how many labels make frozen features worth having.
#
# *You need vectors, matrix products and the idea of a linear classifier (notebook 04). 45 minutes
# to read, about one to run.*

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
import unicodedata

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file

from tlcourse import assets, backbones, datasets, features, figures
from tlcourse.evidence import claim, claim_margin, mean_interval, summary

folder = assets.locate("minilm")
encoder = backbones.load("minilm")
sets = {name: datasets.sentiment(name) for name in datasets.DOMAINS}
if run.profile == "smoke":
    sets = {name: data.subset(np.arange(0, len(data), 30)) for name, data in sets.items()}
print(*sets.values(), sep="\n")

# %% [markdown]
# ## An architecture and a checkpoint
#
# Lists of pretrained models name "BERT, GPT and the Transformer" in one breath. The Transformer
# (Vaswani et al., 2017) is an *architecture*: shapes and formulas, no numbers. BERT (Devlin et al.,
# 2019) is its encoder half, trained on text; GPT is its decoder half. What you transfer is a
# *checkpoint*, a file of trained matrices. Here is ours. **Guess first:** which share of its
# numbers are word vectors, and which of its sizes cannot be read from the matrices?

# %%
W = {name: array for name, array in load_file(folder / "model.safetensors").items() if array.ndim}
V, d = W["embeddings.word_embeddings.weight"].shape
P = len(W["embeddings.position_embeddings.weight"])
f = len(W["encoder.layer.0.intermediate.dense.bias"])
L = len({name.split(".")[2] for name in W if name.startswith("encoder.layer.")})
print(f"vocabulary {V:,}, positions {P}, width {d}, inner width {f}, layers {L}")

# %% tags=["pytorch"]
heads, in_model = encoder.model.config.num_attention_heads, encoder.model.num_parameters()

# %% tags=["tensorflow"]
heads, in_model = encoder.model.num_heads, encoder.model.count_params()

# %% [markdown]
# With $V$ words, $P$ positions, 2 segments, $L$ layers of width $d$ and inner width $f$, and a
# last dense layer that reads `[CLS]`, an encoder of BERT's kind has
#
# $$N = (V + P + 2 + 2)\,d + L\,(4d^2 + 2df + 9d + f) + d^2 + d \tag{1}$$


# %%
def parameters(V, P, L, d, f):
    return (V + P + 2 + 2) * d + L * (4 * d**2 + 2 * d * f + 9 * d + f) + d**2 + d  # equation (1)


N = parameters(V, P, L, d, f)
assert in_model == N
base = parameters(V, P, 12, 768, 3072)
print(f"{N:,} numbers, {V * d / N:.0%} of them word vectors; BERT-base likewise: {base:,}")

# %% [markdown]
# The number of heads leaves no trace in the shapes. It stands in the configuration and says how a
# matrix is cut when it is used.
#
# ## From text to tokens
#
# A word that is not in the vocabulary is cut into pieces that are: always the longest piece that
# fits, from the left; `##` marks a piece that goes on. Put your own sentence here, in any language.

# %%
mine = "The unbelievably good popcorn couldn't rescue this naïve remake."

# %% tags=["pytorch"]
FORM, lower = "NFD", str.lower  # how transformers takes characters apart

# %% tags=["tensorflow"]
FORM, lower = "NFKD", str.casefold  # how KerasHub takes characters apart


# %%
def words(text, form=FORM, lower=lower):
    """Lower case, no accents, cut at spaces; punctuation and Chinese signs stand alone."""
    found, inside = [], False
    for c in unicodedata.normalize(form, lower(text)):
        kind = unicodedata.category(c)
        if kind in ("Mn", "Cf"):  # an accent, or a character that has no shape
            continue
        alone = kind[0] == "P" or c in "$+<=>^`|~" or "\u4e00" <= c <= "\u9fff"
        if inside and not alone and not c.isspace():
            found[-1] += c
        elif not c.isspace():
            found.append(c)
        inside = not (alone or c.isspace())
    return found


# %%
vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
number_of = {piece: number for number, piece in enumerate(vocabulary)}


def wordpiece(word):
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in number_of:
                break
        else:
            return ["[UNK]"]
        pieces, start = [*pieces, piece], end
    return pieces if len(word) <= 100 else ["[UNK]"]


# %%
def tokenize(text, **how):
    pieces = [piece for word in words(text, **how) for piece in wordpiece(word)]
    return [number_of[piece] for piece in ["[CLS]", *pieces, "[SEP]"]]


print([vocabulary[number] for number in tokenize(mine)])
print("equal to the library's:", tokenize(mine) == encoder.tokenize([mine])[0].tolist())

# %% [markdown]
# One sentence proves little. Are these lines equal to the library on every sentence of four
# sources? (A text is cut at 512 tokens; none here is that long.)

# %%
other_form, other_lower = ("NFKD", str.casefold) if FORM == "NFD" else ("NFD", str.lower)
equal, otherwise = [], 0
for data in sets.values():
    own = [tokenize(text) for text in data.texts]
    library = [row.tolist() for row in encoder.tokenize(data.texts)]
    equal += [a == b for a, b in zip(own, library, strict=True)]
    other = [tokenize(text, form=other_form, lower=other_lower) for text in data.texts]
    otherwise += sum(a != b for a, b in zip(own, other, strict=True))
text = f"WordPiece in these lines gives the library's tokens on all {len(equal):,} sentences"
claim("06.wordpiece", text, all(equal), np.mean(equal))
print(f"{otherwise} sentences come out differently the other library's way")

# %% [markdown]
# Two libraries, one vocabulary file, and not quite the same reading: transformers takes a letter
# and its accent apart (NFD), KerasHub also takes signs like ½ to pieces (NFKD). It is rare here and
# silent everywhere. Tokenise as the model was trained, or count the difference.
#
# ## Masks and segments
#
# Sentences of one batch are padded to one length; the mask says which tokens are real. The third
# input numbers the segments, for tasks that compare two texts (question and passage): all zero for
# one sentence. Each token then starts as a sum of three vectors, normalised:
#
# $$X_0 = \mathrm{LN}\bigl(E_{\text{word}}[t] + E_{\text{position}}[p] +
# E_{\text{segment}}[s]\bigr),\qquad
# \mathrm{LN}(x) = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}}\,\gamma + \beta
# \tag{2}$$


# %%
def normalised(x, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12)
    return centred / scale * W[name + ".weight"] + W[name + ".bias"]


def embedded(t, s):
    word, position, segment = (
        W[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")
    )
    return normalised(word[t] + position[: t.shape[1]] + segment[s], "embeddings.LayerNorm")  # (2)


# %% tags=["pytorch"]
import torch

ID, MASK = "input_ids", "attention_mask"


def hidden_states(batch):
    """What stands between the layers, shape (L + 1, sentences, tokens, d)."""
    here = encoder.model.device
    inputs = {name: torch.from_numpy(values).to(here) for name, values in batch.items()}
    with torch.inference_mode():
        states = encoder.model(**inputs, output_hidden_states=True).hidden_states
    return np.stack([state.cpu().numpy() for state in states])


# %% tags=["tensorflow"]
import keras

ID, MASK = "token_ids", "padding_mask"
between = ["embeddings_dropout", *(f"transformer_layer_{k}" for k in range(L))]
taps = [encoder.model.get_layer(name).output for name in between]
with_taps = keras.Model(encoder.model.input, taps)


def hidden_states(batch):
    """What stands between the layers, shape (L + 1, sentences, tokens, d)."""
    return np.stack([np.array(state) for state in with_taps(batch, training=False)])


# %%
texts = [mine, *(data.texts[0] for data in sets.values())]
batch = encoder.pad(encoder.tokenize(texts, 64))
H, mask = hidden_states(batch), batch[MASK]
print({name: values.shape for name, values in batch.items()}, "real tokens:", mask.sum(axis=1))
off = np.abs(embedded(batch[ID], np.zeros_like(mask)) - H[0])[mask == 1].max()
print(f"equation (2) against the model: {off:.0e} at most")
assert off < 1e-4

# %% [markdown]
# ## One layer by hand
#
# Each head asks with $Q$, is found by $K$ and hands over $V$, all cut from products of $X$ with the
# checkpoint's own matrices. $M$ is 0 for a real token and $-\infty$ for padding:
#
# $$A = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d/h}} + M\right),\qquad
# Y = \mathrm{LN}\bigl(X + [A_1V_1, \dots, A_hV_h]\,W_O + b_O\bigr) \tag{3}$$
#
# $$X' = \mathrm{LN}\bigl(Y + \mathrm{GELU}(Y W_1 + b_1)\,W_2 + b_2\bigr) \tag{4}$$


# %%
def dense(x, name):
    return x @ W[name + ".weight"].T + W[name + ".bias"]


def attention(X, mask, layer, h=heads):
    """A of shape (sentences, h, tokens, tokens) and V of shape (sentences, h, tokens, d / h)."""
    self = f"encoder.layer.{layer}.attention.self."
    Q, K, V = (
        dense(X, self + name).reshape(*X.shape[:2], h, -1).swapaxes(1, 2)
        for name in ("query", "key", "value")
    )
    M = np.where(mask, 0, -1e9)[:, None, None, :]
    scores = Q @ K.swapaxes(2, 3) / np.sqrt(d / h) + M
    A = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return A / A.sum(axis=-1, keepdims=True), V


# %%
def layer_by_hand(X, mask, layer, gelu, h=heads):
    part = f"encoder.layer.{layer}."
    A, V = attention(X, mask, layer, h)
    joined = (A @ V).swapaxes(1, 2).reshape(X.shape)
    Y = X + dense(joined, part + "attention.output.dense")
    Y = normalised(Y, part + "attention.output.LayerNorm")  # equation (3)
    inner = gelu(dense(Y, part + "intermediate.dense"))
    return normalised(Y + dense(inner, part + "output.dense"), part + "output.LayerNorm")  # (4)


# %% [markdown]
# GELU is $x\,\Phi(x)$ with the normal distribution function $\Phi$. There is also a faster formula
# with a tanh. Which one does the model use? Compute both and see.

# %%
from scipy.special import erf


def exact(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def with_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def worst(gelu, h=heads):
    """For each layer, the largest difference to the model's own output, real tokens only."""
    hand = [layer_by_hand(H[k], mask, k, gelu, h) for k in range(L)]
    return np.array([np.abs(hand[k] - H[k + 1])[mask == 1].max() for k in range(L)])


# %%
tried = {"exact": worst(exact), "tanh": worst(with_tanh), "6 heads": worst(exact, 6)}
for name, off in tried.items():
    print(f"{name:8} {' '.join(f'{value:.0e}' for value in off)}")

# %% tags=["pytorch"]
off, other = tried["exact"], tried["tanh"]

# %% tags=["tensorflow"]
off, other = tried["tanh"], tried["exact"]

# %%
text = "every layer by hand equals the model's, to less than 1e-4 at most"
claim("06.by_hand", text, max(off) < 1e-4, max(off))
text = "with the other GELU each layer is off by more than 3e-4 somewhere"
claim("06.gelu", text, min(other) > 3e-4, min(other))

# %% [markdown] tags=["pytorch"]
# transformers computes the exact GELU, the one this checkpoint was trained with. KerasHub computes
# the tanh form: the same weights, features that differ in the third decimal.

# %% [markdown] tags=["tensorflow"]
# KerasHub computes the tanh form; the checkpoint was trained with the exact one, which transformers
# computes. The same weights, features that differ in the third decimal: no bug of yours.

# %% [markdown]
# And cut into 6 heads instead of 12, the same matrices compute something else: the configuration
# belongs to the weights.
#
# ## Where heads look
#
# Here are the maps $A$ for your sentence, averaged over the heads of a layer. **Guess first:** how
# much of all attention goes to `[CLS]` and `[SEP]`, which are no words?


# %%
def map_of(layer, H, pieces):
    A = attention(H[layer][:, : len(pieces)], np.ones((1, len(pieces))), layer)[0][0].mean(axis=0)
    fig, ax = plt.subplots(figsize=(5.2, 4.4), layout="none")
    ax.imshow(A, cmap="Blues", vmin=0, vmax=0.6)
    ax.set_xticks(range(len(pieces)), pieces, rotation=70, fontsize=8)
    ax.set_yticks(range(len(pieces)), pieces, fontsize=8)
    ax.set(xlabel="looked at", ylabel="looking")
    special = A[:, [0, -1]].sum() / len(pieces)
    ax.set_title(f"Layer {layer + 1}: {special:.0%} of the attention on the two ends")
    fig.subplots_adjust(left=0.2, bottom=0.24, right=0.98, top=0.92)
    return fig


tokens = encoder.tokenize([mine], 24)
states, pieces = hidden_states(encoder.pad(tokens)), [vocabulary[number] for number in tokens[0]]
maps = {str(layer + 1): map_of(layer, states, pieces) for layer in range(L)}
figures.slider(maps, "layer", "A grid of tokens against tokens; darker means more attention.", "1")

# %% [markdown]
# It is tempting to read such a map as "what the model finds important". Two measurements against
# it. First, a weight is half of the story: what head $i$ adds to token $t$ from token $k$ is
# $A_{tk}\,V_k W_O$, so weigh by the *length* of that vector (Kobayashi et al., 2020). Second, a
# control: the same measurement on the same words in shuffled order.


# %%
def looks(batch):
    """For each head: weight on the ends, length they add, weight on the word before; (3, L, h)."""
    H, mask = hidden_states(batch), batch[MASK]
    T, last = mask.shape[1], mask.sum(axis=1) - 1
    place = np.arange(T)
    ends = (place == 0) | (place == last[:, None])
    word = ((mask == 1) & ~ends)[:, None, :]
    shares = np.zeros((3, L, heads))
    for k in range(L):
        A, V = attention(H[k], mask, k)
        W_O = W[f"encoder.layer.{k}.attention.output.dense.weight"].T.reshape(heads, -1, d)
        added = A * np.linalg.norm(V @ W_O, axis=-1)[:, :, None, :]
        added /= added.sum(axis=-1, keepdims=True)
        for i, B in enumerate((A, added)):
            on_ends = (B * ends[:, None, None, :]).sum(axis=-1)
            shares[i, k] = (on_ends * word).sum(axis=(0, 2)) / word.sum()
        before = A[:, :, place[2:], place[1:-1]]  # the first word has no word before it
        shares[2, k] = (before * word[:, :, 2:]).sum(axis=(0, 2)) / word[:, :, 2:].sum()
    return shares


# %%
def drawn(seed, n):
    rng = np.random.default_rng(seed)
    some = [data.texts[i] for data in sets.values() for i in rng.integers(len(data), size=n // 4)]
    tokens = encoder.tokenize(some, 64)
    shuffled = [np.array([t[0], *rng.permutation(t[1:-1]), t[-1]], np.int32) for t in tokens]
    return looks(encoder.pad(tokens)), looks(encoder.pad(shuffled))


n = run.pick(smoke=8, cpu=40)
draws = np.array([drawn(seed, n) for seed in run.seeds(5)])  # (draw, order, measure, layer, head)
weight, added = draws[:, 0, :2].mean(axis=-1).swapaxes(0, 1)
before, in_disorder = draws[:, :, 2].reshape(len(draws), 2, -1).swapaxes(0, 1)
head = before.mean(axis=0).argmax()
print(f"most on the word before: layer {head // heads + 1}, head {head % heads + 1}")

# %%
fig, ax = plt.subplots(figsize=(6.4, 3.2))
for i, (name, share) in enumerate({"attention weight": weight, "length added": added}.items()):
    figures.lines(ax, np.arange(1, L + 1), share.T, name, i)
ax.set(xlabel="layer", ylabel="share on [CLS] and [SEP]", ylim=(0, 0.8))
by_weight, by_length = weight[:, 1:].mean(), added[:, 1:].mean()
ax.set_title(f"After layer 1 the ends get {by_weight:.0%} of the weight, add {by_length:.0%}")
ax.legend()
alt = "Share of attention on the two special tokens by layer: high as weight, low as length added."
figures.show(fig, alt)

# %%
text = "from layer 2 on, more than a third of the attention goes to [CLS] and [SEP]"
claim_margin("06.ends", text, weight[:, 1:].mean(axis=1), above=1 / 3)
text = "measured by what is added, their share is lower by more than 0.2"
claim_margin("06.added", text, weight[:, 1:].mean(axis=1), added[:, 1:].mean(axis=1), above=0.2)
text = "one head gives over 0.9 of its weight to the word before"
claim_margin("06.before", text, before[:, head], above=0.9)
text = "in shuffled order it does the same, within 0.05: it reads the position, not the grammar"
claim_margin("06.shuffled", text, before[:, head], in_disorder[:, head], above=-0.05, below=0.05)

# %% [markdown]
# One reading is that a head with nothing to say looks where little is added (Clark et al., 2019). A
# map describes a computation. It does not explain an answer.
#
# ## What each layer knows
#
# A probe (notebook 04) is a linear classifier on frozen vectors, here the mean over the tokens at
# each layer. Five questions, each with its answer from the data: the **polarity**, the **domain**,
# whether the sentence is **longer** than its domain's median, whether it contains the word **but**,
# and whether two neighbouring words were **swapped**. Layer 0 is a bag of word vectors: it can know
# words, hardly their order. The control is the same architecture with every matrix shuffled.
# **Guess first:** which questions get easier with depth, and where can shuffled weights keep up?

# %%
rng = np.random.default_rng(run.seeds(1)[0])
per_domain = run.pick(smoke=40, cpu=600)
picked = {name: rng.permutation(len(data))[:per_domain] for name, data in sets.items()}
texts = [sets[name].texts[i] for name in sets for i in picked[name]]
domain = np.repeat(np.arange(len(sets)), [len(rows) for rows in picked.values()])
polarity = np.concatenate([sets[name].labels[picked[name]] for name in sets])


def swapped(text):
    text = text.split()
    if len(text) > 3:
        i = rng.integers(1, len(text) - 2)
        text[i : i + 2] = text[i + 1], text[i]
    return " ".join(text)


order = [swapped(text) for text in texts]
length = np.array([len(text.split()) for text in texts])
median = np.array([np.median(length[domain == k]) for k in range(len(sets))])[domain]
contains = np.array(["but" in words(text) for text in texts])
flipped = rng.random(len(texts)) < 0.5

# %%
random_encoder = backbones.load("minilm")
mixed = np.random.default_rng(run.seed)

# %% tags=["pytorch"]
with torch.no_grad():
    for weights in random_encoder.model.parameters():
        shuffled = mixed.permutation(weights.numpy().ravel()).reshape(weights.shape)
        weights.copy_(torch.from_numpy(shuffled))

# %% tags=["tensorflow"]
weights = random_encoder.model.get_weights()
random_encoder.model.set_weights([mixed.permutation(w.ravel()).reshape(w.shape) for w in weights])


# %%
F, F_order = {}, {}
for name, each in {"trained": encoder, "shuffled": random_encoder}.items():
    states = features.extract_text(each, texts + order, layers=range(L + 1), max_length=64)
    F[name], swapped_too = np.split(np.stack([states[k] for k in range(L + 1)]), 2, axis=1)
    F_order[name] = np.where(flipped[:, None], swapped_too, F[name])

# %% [markdown]
# Five times, half of the sentences train the probe and the other half test it; sentences of one
# review stay together where the source numbers its reviews (products, editorials). The score is
# balanced accuracy, so guessing gives 0.5, and 0.25 for the four domains.

# %%
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")  # for matrices this small, one thread is the fastest


def linear_probe():
    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=3 * d, class_weight="balanced"))


def halves(y, groups):
    for seed in run.seeds(5):
        yield from GroupShuffleSplit(1, test_size=0.5, random_state=seed).split(y, y, groups)


def probed(F, y, groups):
    """Balanced accuracy at every place of F, shape (places, seeds)."""
    scores = []
    for train, test in halves(y, groups):
        guesses = [linear_probe().fit(X[train], y[train]).predict(X[test]) for X in F]
        scores.append([balanced_accuracy_score(y[test], guess) for guess in guesses])
    return np.array(scores).T


# %%
groups = np.arange(len(texts))  # films and tweets: each on its own
for k, (name, data) in enumerate(sets.items()):
    if data.blocks is not None:
        groups[domain == k] = 100_000 * (k + 1) + data.blocks[picked[name]]
questions = {"polarity": polarity, "domain": domain, "longer": (length > median).astype(int)}
questions |= {"but": contains.astype(int), "swapped": flipped.astype(int)}
scores = {}
for question, y in questions.items():
    for name in F:
        X = F_order[name] if question == "swapped" else F[name]
        scores[question, name] = probed(X, y, groups)

# %%
fig, axes = plt.subplots(2, 3, figsize=(9, 5))
for ax, question in zip(axes.flat, questions, strict=False):
    for i, name in enumerate(F):
        figures.lines(ax, np.arange(L + 1), scores[question, name], name, i)
    best = scores[question, "trained"].mean(axis=1).argmax()
    ax.set_title(f"{question}: best after layer {best}", fontsize=10)
    ax.set(xlabel="layer", ylabel="balanced accuracy")
axes.flat[-1].axis("off")
axes.flat[0].legend()
alt = """Five questions, probe accuracy by layer for trained and shuffled weights. Trained is far
ahead for polarity and domain; for the word but, shuffled weights end higher."""
figures.show(fig, alt)

# %%
at = {question: scores[question, "trained"] for question in questions}
text = "polarity is read after layer 3 by over 0.1 better than with shuffled weights"
claim_margin("06.trained", text, at["polarity"][3], scores["polarity", "shuffled"][3], above=0.1)
text = "swapped words are found after layer 3 by over 0.05 better than in the bag of words"
claim_margin("06.order", text, at["swapped"][3], at["swapped"][0], above=0.05)
text = "the last layer has lost more than 0.03 of that again"
claim_margin("06.order_lost", text, at["swapped"][3], at["swapped"][L], above=0.03)
text = "whether 'but' occurs is harder to read from the last layer than from layer 0, by over 0.15"
claim_margin("06.but", text, at["but"][0], at["but"][L], above=0.15)
text = "shuffled weights keep that word better than trained ones, by over 0.05 in the last layer"
claim_margin("06.but_shuffled", text, scores["but", "shuffled"][L], at["but"][L], above=0.05)

# %% [markdown]
# So "the Transformer" as such knows little of polarity: the training put it there. A high probe
# number alone proves nothing about training: shuffled weights pass this word on better than trained
# ones. And layers do not "know more and more": the order of words comes and goes.
#
# ### A probe can learn nonsense
#
# Hewitt and Liang (2019) ask of a probe on single tokens: how well would it learn labels without
# any meaning, one coin toss for each word of the vocabulary? What is left above that they call
# selectivity. The task: does *the*, *a* or *an* stand just before this token?

# %%
some = np.random.default_rng(run.seed).permutation(len(texts))[: run.pick(smoke=20, cpu=800)]
tokens = encoder.tokenize([texts[i] for i in some], 64)
inside, pooled = [], {"[CLS]": [], "mean": [], "mean, no mask": [], "maximum": []}
for first in range(0, len(some), 40):
    batch = encoder.pad(tokens[first : first + 40], 64)
    H = hidden_states(batch)
    for i, n in enumerate(batch[MASK].sum(axis=1)):
        inside.append(H[:, i, 1 : n - 1])
        last = H[L, i]
        ways = last[0], last[:n].mean(axis=0), last.mean(axis=0), last[:n].max(axis=0)
        for name, vector in zip(pooled, ways, strict=True):
            pooled[name].append(vector)
inside = np.concatenate(inside, axis=1)  # (L + 1, all tokens, d)

# %%
ids = np.concatenate([row[1:-1] for row in tokens])
left = np.concatenate([[0, *row[1:-2]][: len(row) - 2] for row in tokens])
sentence = np.repeat(some, [len(row) - 2 for row in tokens])
article = np.isin(left, [number_of[word] for word in ("the", "a", "an")])
yes, no = (np.flatnonzero(article == value) for value in (True, False))
used = np.concatenate([yes, np.random.default_rng(run.seed).permutation(no)[: len(yes)]])
coin = np.random.default_rng(run.seed).integers(0, 2, V)
after_article = probed(inside[:, used], article[used].astype(int), groups[sentence[used]])
coin_toss = probed(inside[:, used], coin[ids[used]], groups[sentence[used]])
for name, score in (("article before", after_article), ("coin toss", coin_toss)):
    print(f"{name:15}", np.round(score.mean(axis=1), 2))

# %%
text = "at layer 0 a probe learns coin tosses for words to an accuracy above 0.6"
claim_margin("06.coin", text, coin_toss[0], above=0.6)
gained = after_article - coin_toss
text = "one layer of attention raises the selectivity by more than 0.1"
claim_margin("06.selectivity", text, gained[1], gained[0], above=0.1)

# %% [markdown]
# ## The same word in other sentences
#
# A word vector of 2013 was the same in every sentence. How alike are the vectors of one word in two
# sentences here? In a space where *all* vectors are alike (anisotropy; Ethayarajh, 2019) a high
# cosine says little, so take off the similarity of two random tokens.


# %%
def unit(X):
    return X / np.maximum(np.linalg.norm(X, axis=-1, keepdims=True), 1e-12)


def cosine(a, b):
    return (unit(inside[:, a]) * unit(inside[:, b])).sum(axis=-1).mean(axis=-1)


def similarities(seed):
    rng, pairs = np.random.default_rng(seed), []
    for word in frequent:
        pairs.append(rng.permutation(np.flatnonzero(ids == word))[:2])
    some = rng.permutation(len(ids))[:4000]
    return cosine(*np.array(pairs).T), cosine(some[: len(some) // 2], some[-(len(some) // 2) :])


number, count = np.unique(ids, return_counts=True)
spelled = np.array([vocabulary[n].isalpha() and len(vocabulary[n]) > 3 for n in number])
frequent = number[(count >= run.pick(smoke=2, cpu=8)) & spelled]
same, random_pair = np.array([similarities(seed) for seed in run.seeds(5)]).transpose(1, 2, 0)
print(f"{len(frequent)} words")

# %%
fig, ax = plt.subplots(figsize=(6.4, 3.2))
shown = {"same word": same, "random tokens": random_pair, "difference": same - random_pair}
for i, (name, values) in enumerate(shown.items()):
    figures.lines(ax, np.arange(L + 1), values, name, i)
ax.set(xlabel="layer", ylabel="cosine similarity")
start, end = (same - random_pair).mean(axis=1)[[0, L]]
ax.set_title(f"One word in two sentences, corrected: {start:.2f} at first, {end:.2f} at last")
ax.legend()
figures.show(fig, "Cosine of one word in two sentences, of random tokens, and their difference.")
text = "corrected, one word in two sentences is less alike after the last layer, by over 0.2"
claim_margin("06.context", text, *(same - random_pair)[[0, L]], above=0.2)
text = "random tokens grow more alike up to layer 5, by over 0.1"
claim_margin("06.cone", text, random_pair[L - 1], random_pair[0], above=0.1)
text = "and are spread again by the last layer, by over 0.1"
claim_margin("06.cone_last", text, random_pair[L - 1], random_pair[L], above=0.1)

# %% [markdown]
# "The deeper, the narrower the cone of vectors", you may hear. Here it holds up to layer 5, and the
# last layer is wide again. A likely reason, not tested here: this checkpoint was trained further on
# a billion pairs of sentences, to keep apart what does not belong together.
#
# ## One vector a sentence
#
# How do you get from tokens to a sentence? BERT as published reads `[CLS]`; common code averages
# the tokens, sometimes forgetting the mask, here in batches padded to 64. **Guess the order.**

# %%
y, of = polarity[some], groups[some]
pooled = {name: np.array(vectors) for name, vectors in pooled.items()}
pooling = dict(zip(pooled, probed(np.stack(list(pooled.values())), y, of), strict=True))
for name, score in pooling.items():
    mean, (low, high) = mean_interval(score)
    print(f"{name:14} {mean:.3f} ({low:.3f} to {high:.3f})")
text = "for polarity the mean beats [CLS] by more than 0.03"
claim_margin("06.mean_cls", text, pooling["mean"], pooling["[CLS]"], above=0.03)
text = "the mean beats the maximum by more than 0.01"
claim_margin("06.mean_max", text, pooling["mean"], pooling["maximum"], above=0.01)
text = "without the mask in training and in test alike, the mean loses less than 0.1"
claim_margin("06.no_mask", text, pooling["mean"], pooling["mean, no mask"], below=0.1)

# %% [markdown]
# That is no law of BERT. The last training of this checkpoint, on pairs of sentences, read the
# mean; nothing in it asked `[CLS]` to hold a sentence. Ask what your checkpoint was trained for.
#
# ### The company it keeps
#
# So is a forgotten mask harmless? Take one sentence alone, and then in a batch with a long one. The
# mask is needed twice: in the attention, and in the mean.

# %%
rows = [encoder.tokenize([mine])[0], max(tokens, key=len)]
alone, both = encoder.pad(rows[:1]), encoder.pad(rows)
X, Y = hidden_states(alone)[L][0], hidden_states(both)[L][0]
Z = hidden_states(both | {MASK: np.ones_like(both[MASK])})[L][0]  # padding is looked at as well
n = len(rows[0])
ways = {"in both": Y[:n], "not in the mean": Y, "not in attention": Z[:n], "nowhere": Z}
vector = X.mean(axis=0)
moved = [np.linalg.norm(v.mean(axis=0) - vector) / np.linalg.norm(vector) for v in ways.values()]
for name, by in zip(ways, moved, strict=True):
    print(f"mask {name:17} vector moved by {by:.5f} of its length")
text = "with the mask in both places, company moves a vector by less than 1e-4 of its length"
claim("06.masked", text, moved[0] < 1e-4, moved[0])

# %% [markdown]
# A probe fitted on right vectors now meets the same sentences with the mask forgotten in the mean,
# in batches of 64 tokens, as if one long sentence were in each. How many answers change?

# %%
changed, lost = [], []
for train, test in halves(y, of):
    fitted = linear_probe().fit(pooled["mean"][train], y[train])
    right, wrong = (fitted.predict(pooled[way][test]) for way in ("mean", "mean, no mask"))
    changed.append(np.mean(right != wrong))
    lost.append(balanced_accuracy_score(y[test], right) - balanced_accuracy_score(y[test], wrong))
text = "with a long sentence in the batch, more than one answer in fifty changes"
claim_margin("06.company", text, np.array(changed), above=0.02)
print("balanced accuracy lost, split by split:", np.round(lost, 3))

# %% [markdown]
# What a user gets depends on who else asked. How much accuracy that costs swings from split to
# split, so do not wait for the accuracy to tell you. The test takes two lines: embed a sentence
# alone and in company, and compare.
#
# ## Search by meaning
#
# All sentences as unit vectors, the query as one more, the nearest first. Change the query and run
# the two cells; the slider under them needs no kernel.

# %%
query = "The battery does not last long."

# %%
library = [text for data in sets.values() for text in data.texts]
ratings = np.concatenate([data.ratings for data in sets.values()])
source = np.repeat(list(sets), [len(data) for data in sets.values()])
kept = features.extract_text(encoder, library, layers=range(3, L + 1), max_length=64)
everything = unit(kept[L])


def nearest(query, k=5):
    tokens = hidden_states(encoder.pad(encoder.tokenize([query])))[L][0]
    similar = everything @ unit(tokens.mean(axis=0))
    best = np.argsort(-similar)[:k]
    return best, similar[best]


for i, similar in zip(*nearest(query), strict=True):
    print(f"{similar:.2f}  rated {ratings[i]:+.1f}  {library[i][:90]}")


# %%
def found(query):
    best, similar = nearest(query)
    fig, ax = plt.subplots(figsize=(8.4, 2.6), layout="none")
    ax.barh(range(5), similar, color=[figures.COLORS[int(ratings[i] < 0)] for i in best])
    ax.set_yticks(range(5), [f"{ratings[i]:+.1f}  {library[i][:60]}" for i in best], fontsize=8)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="cosine similarity", ylabel="rating, sentence")
    ax.set_title(f"{query[:50]} Mean rating: {ratings[best].mean():+.1f}", loc="right")
    fig.subplots_adjust(left=0.56, bottom=0.2, right=0.97, top=0.88)
    return fig


queries = [query, "The battery lasts very long.", "Boring from the first scene to the last."]
queries += ["The president made a mistake.", "I miss my family."]
alt = "Five sentences nearest to the query with their cosine and rating, blue praise, orange blame."
figures.slider({q: found(q) for q in dict.fromkeys(queries)}, "query", alt, query)

# %% [markdown]
# Looks good, but a demonstration is not a measurement. The editorials number their articles: is the
# nearest other sentence from the same article? The rival counts words (TF-IDF).

# %%
from sklearn.feature_extraction.text import TfidfVectorizer

news = sets["editorial"]
counted = TfidfVectorizer(sublinear_tf=True).fit_transform(news.texts)
by_cls = unit(features.extract_text(encoder, news.texts, pool="cls", max_length=64)[L])
by_mean = everything[source == "editorial"]


def first_and_rank(similar, rows):
    """Share with the nearest from the same article, and mean reciprocal rank of the first such."""
    similar[np.arange(len(rows)), rows] = -np.inf  # not itself
    related = news.blocks[np.argsort(-similar, axis=1)] == news.blocks[rows][:, None]
    related = related[:, :-1]
    rank = np.where(related.any(axis=1), 1 / (1 + related.argmax(axis=1)), 0)
    return related[:, 0].mean(), rank.mean()


# %%
searched = {name: [] for name in ("mean", "[CLS]", "TF-IDF", "chance")}
for seed in run.seeds(5):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(news))[:300]
    searched["mean"].append(first_and_rank(by_mean[rows] @ by_mean.T, rows))
    searched["[CLS]"].append(first_and_rank(by_cls[rows] @ by_cls.T, rows))
    searched["TF-IDF"].append(first_and_rank((counted[rows] @ counted.T).toarray(), rows))
    searched["chance"].append(first_and_rank(rng.random((len(rows), len(news))), rows))
searched = {name: np.array(values).T for name, values in searched.items()}
for name, (first, rank) in searched.items():
    print(f"{name:7} same article first {first.mean():.3f}, mean reciprocal rank {rank.mean():.3f}")
text = "the mean vector finds the same article over 0.05 more often than TF-IDF"
claim_margin("06.search", text, searched["mean"][0], searched["TF-IDF"][0], above=0.05)
text = "TF-IDF in turn finds it over 0.1 more often than chance"
claim_margin("06.tfidf", text, searched["TF-IDF"][0], searched["chance"][0], above=0.1)

# %% [markdown]
# And opinions? You have seen praise come back for a complaint. Put *not* behind every *is*, and
# compare a sentence with this denial and with its nearest neighbour among all others.

# %%
rng, size = np.random.default_rng(run.seed), run.pick(smoke=20, cpu=500)
rows = [i for i, t in enumerate(library) if " is " in t and " is not " not in t]
rows = rng.permutation(rows)[:size]
denials = [library[i].replace(" is ", " is not ") for i in rows]
a, b = everything[rows], unit(features.extract_text(encoder, denials, max_length=64)[L])
to_denial, to_others = (a * b).sum(axis=1), a @ everything.T
to_others[np.arange(len(rows)), rows] = -1  # not itself
text = "a sentence is nearer to its denial than to its nearest neighbour, on average by over 0.1"
claim_margin("06.denial", text, to_denial, to_others.max(axis=1), above=0.1)

# %% [markdown]
# The cosine measures what a sentence is about (the interval is over sentences). Whether it says yes
# or no is a small part of that.
#
# ## Frozen features against TF-IDF
#
# Film sentences, polarity, from 50 to 6,250 labels. Three sets of features: counted words, the last
# layer, and the layer from 3 up where the probe for polarity is best on the *other* three domains.
# The test is taken as it is, and again with typos: two inner letters swapped in half of the longer
# words.
# **Guess first:** do word pieces save the encoder?

# %%
other = domain != list(sets).index("movie")
by_layer = probed(F["trained"][3:, other], polarity[other], groups[other]).mean(axis=1)
best = 3 + int(by_layer[:-1].argmax())
films = sets["movie"]
pool, test = films.split(test_size=0.2, seed=run.seed)
test = np.random.default_rng(run.seed).permutation(test)[:1000]


def with_typos(text, rng):
    words = text.split()
    for i, word in enumerate(words):
        if len(word) > 3 and rng.random() < 0.5:
            k = rng.integers(1, len(word) - 2)
            words[i] = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    return " ".join(words)


rng = np.random.default_rng(run.seed)
clean, typed = films.texts, [with_typos(films.texts[i], rng) for i in test]
lengths = [
    np.mean([len(t) for t in encoder.tokenize(s)]) for s in ([clean[i] for i in test], typed)
]
print(f"best layer elsewhere: {best}; tokens a sentence {lengths[0]:.1f}, typed {lengths[1]:.1f}")

# %%
X = {layer: kept[layer][source == "movie"] for layer in (best, L)}
X_typed = features.extract_text(encoder, typed, layers=(best, L), max_length=64)
sizes = (50, 250, 1250, 6250)
names, n = ("TF-IDF", f"layer {best}", f"layer {L}"), len(run.seeds(5))
results = {(name, how): np.zeros((4, n)) for name in names for how in ("clean", "typos")}
for i, size in enumerate(sizes):
    for j, seed in enumerate(run.seeds(5)):
        rows = np.random.default_rng(seed).permutation(pool)[:size]
        y, truth = films.labels[rows], films.labels[test]
        counter = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model = make_pipeline(counter, RidgeClassifier())
        model.fit([clean[k] for k in rows], y)
        results["TF-IDF", "clean"][i, j] = model.score([clean[k] for k in test], truth)
        results["TF-IDF", "typos"][i, j] = model.score(typed, truth)
        for layer in (best, L):
            model = linear_probe().fit(X[layer][rows], y)
            results[f"layer {layer}", "clean"][i, j] = model.score(X[layer][test], truth)
            results[f"layer {layer}", "typos"][i, j] = model.score(X_typed[layer], truth)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for ax, how in zip(axes, ("clean", "typos"), strict=True):
    for i, name in enumerate(names):
        figures.lines(ax, np.log2(sizes), results[name, how], name, i)
    ahead = results[f"layer {L}", how].mean(axis=1) - results["TF-IDF", how].mean(axis=1)
    ax.set_title(f"{how}: layer {L} is {ahead[0]:+.2f} to TF-IDF at 50, {ahead[-1]:+.2f} at 6,250")
    ax.set_xticks(np.log2(sizes), [f"{size:,}" for size in sizes])
    ax.set_xlabel("labelled sentences (log scale)")
axes[0].set_ylabel("test accuracy")
axes[0].legend()
figures.show(fig, "Accuracy against labels for TF-IDF and two layers, on clean and on typed tests.")

# %%
last, middle, counts = f"layer {L}", f"layer {best}", "TF-IDF"
text = "at 250 labels the last layer beats TF-IDF by more than 0.05"
claim_margin("06.frozen", text, results[last, "clean"][1], results[counts, "clean"][1], above=0.05)
text = "at 6,250 labels and with typos in the test, TF-IDF is ahead by more than 0.02"
claim_margin("06.typos", text, results[counts, "typos"][-1], results[last, "typos"][-1], above=0.02)
lost = {name: results[name, "clean"] - results[name, "typos"] for name in (last, counts)}
text = "there the typos cost the last layer over 0.02 more than TF-IDF"
claim_margin("06.typos_cost", text, lost[last][-1], lost[counts][-1], above=0.02)
text = "on clean text with 6,250 labels an earlier layer beats the last"
claim_margin("06.earlier", text, results[middle, "clean"][-1], results[last, "clean"][-1], above=0)

# %% [markdown]
# Word pieces do not save the encoder. To the counter a misspelt word is missing; to the encoder it
# is other pieces. And "take the last layer" was not the best advice on clean text.
#
# ## What distillation kept
#
# A small student learns to imitate a large teacher. This checkpoint came about in three steps: a
# student of 12 layers, 384 wide (Wang et al., 2020), whose teacher was not BERT but a UniLM v2 of
# BERT-base's size; every second of its layers; then a billion pairs of sentences. Published, *not
# measured here*:
#
# | model | layers, width | reported |
# |---|---|---|
# | BERT-base | 12, 768 | SST-2 93.2 (in the MiniLM model card) |
# | DistilBERT (Sanh et al., 2019) | 6, 768 | 40 % smaller, 60 % faster, keeps 97 % of BERT |
# | MiniLM (Wang et al., 2020) | 6, 768 | over 99 % of its teacher on SQuAD 2.0 and some of GLUE |
# | MiniLM-L12-H384 (model card) | 12, 384 | 33 M parameters, 2.7 times as fast, SST-2 93.0 |
#
# No line is about the checkpoint that you hold. Its size and speed you can measure, against
# BERT-base's shape with random weights: the time does not depend on what the numbers are.

# %% tags=["pytorch"]
from transformers import BertConfig, BertModel

depth, width = run.pick(smoke=(2, 96), cpu=(12, 768))  # BERT-base's, and so are all other sizes
config = BertConfig(num_hidden_layers=depth, hidden_size=width, intermediate_size=4 * width)
large = BertModel(config).eval()
large.to(encoder.model.device)


def forward(model, batch):
    inputs = {name: torch.from_numpy(values).to(model.device) for name, values in batch.items()}
    with torch.inference_mode():
        model(**inputs).last_hidden_state.cpu()


# %% tags=["tensorflow"]
import keras_hub

depth, width = run.pick(smoke=(2, 96), cpu=(12, 768))  # BERT-base's
shape = {"num_layers": depth, "num_heads": 12, "hidden_dim": width, "intermediate_dim": 4 * width}
large = keras_hub.models.BertBackbone(vocabulary_size=V, **shape)


def forward(model, batch):
    model.predict_on_batch(batch)


# %%
def seconds(model, batch):
    began = time.perf_counter()
    forward(model, batch)
    return time.perf_counter() - began


batch = encoder.pad([row[:32] for row in tokens[:16]], 32)
for model in (encoder.model, large):
    forward(model, batch)
repeats = range(run.pick(smoke=2, cpu=7))
times = np.array([[seconds(model, batch) for model in (large, encoder.model)] for _ in repeats])
text = "MiniLM reads the same batch more than three times as fast as BERT-base's shape"
claim_margin("06.faster", text, times[:, 0] / times[:, 1], above=3)
layers = 12 * 12 * 768**2 / (L * (4 * d**2 + 2 * d * f))
print(f"all parameters 1 to {base / N:.1f}, matrices of the layers 1 to {layers:.1f}")


# %% [markdown]
# ## What was seen

# %%
summary()

# %% [markdown]
# **"Explain BERT as an example of transfer learning"**, an interview question, has an answer that
# you measured: an *architecture* and a *checkpoint*, trained on text without your labels; a linear
# probe on its frozen vectors reads polarity far better than on the same architecture with shuffled
# weights, and beats counted words most clearly with few labels; which layer and pooling serve
# depends on the checkpoint's training. Question answering, tagging and similarity are other heads
# on the same encoder.
#
# **Try it.** Put a sentence of another language into `mine` and count the pieces. Remove `M` from
# equation 3 and see which claim falls. Ask for irony. Then do exercise set ex06 (folder
# `exercises`).
#
# **Next.** 07 trains the encoder itself.
#
# *Sources: Vaswani et al. 2017; Devlin et al. 2019 (BERT); Wang et al. 2020 (MiniLM); model cards
# of MiniLM-L12-H384-uncased, MiniLM-L6-H384-uncased and all-MiniLM-L6-v2; Sanh et al. 2019
# (DistilBERT); Clark et al. 2019 and Kobayashi et al. 2020 (attention); Hewitt and Liang 2019
# (control tasks); Ethayarajh 2019 (anisotropy); Conneau et al. 2018 (probing tasks, swapped words);
# Hutto and Gilbert 2014 (the sentences).*
