# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many tasks, and one after another
#
# One network can learn several tasks at once, or one after the other. Both share weights, and both
# can help or harm. Afterwards you can
#
# - train one encoder with several heads and say what each task does to the shared weights;
# - find out whether a partner task helps, with the control that makes the answer count;
# - measure the angle between two tasks' gradients, and say why it tells so little;
# - choose among loss weightings by measuring, uncertainty weighting and PCGrad among them;
# - train tasks in sequence, measure what is forgotten, and price EWC and replay.
#
# *You need notebooks 04 and 05; 01 introduces EWC. 40 minutes to read, about one to run.*

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
# ## Four "types" that are not of one kind
#
# You will read that there are four types of transfer learning: feature extraction, fine-tuning,
# domain adaptation and multi-task learning. The list mixes three questions:
#
# | name in the list | it answers | example |
# |---|---|---|
# | feature extraction, fine-tuning | *what you do with the weights* | freeze, or go on training |
# | domain adaptation | *what differs*: same task, other inputs | photographs to sketches |
# | multi-task learning | *when*: all tasks at the same time | polarity and length together |
#
# So they combine: you can fine-tune on several tasks at once in a new domain. Multi-task learning
# has no source and no target and no direction; take the tasks one after another and you are in
# sequential transfer, where the question of forgetting begins. This notebook does both.
#
# ## The tasks
#
# About 19,000 sentences from film reviews, product reviews, editorials and tweets, each with a
# rating from −4 to 4. Each sentence answers several questions, and each question is a task.

# %%
import functools
import time
from collections import namedtuple

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, recall_score
from threadpoolctl import threadpool_limits

from tlcourse import backbones, datasets, features, figures
from tlcourse.evidence import claim_margin, mean_interval, summary

threadpool_limits(1, user_api="blas")  # for matrices this small, one thread is the fastest
thin = run.pick(smoke=30, cpu=1)
sets = {name: datasets.sentiment(name) for name in datasets.DOMAINS}
sets = {name: data.subset(np.arange(0, len(data), thin)) for name, data in sets.items()}
texts = [text for data in sets.values() for text in data.texts]
ratings = np.concatenate([data.ratings for data in sets.values()])
domain = np.repeat(list(sets), [len(data) for data in sets.values()])

# %%
words = np.array([len(text.split()) for text in texts])
y = {
    "polarity": ratings > 0,
    "strong": np.abs(ratings) > 1.5,
    "film": domain == "movie",
    "long": words > np.median(words),
}
y = {task: answers.astype(np.int64) for task, answers in y.items()}
print({task: f"{answers.mean():.0%} yes" for task, answers in y.items()})

# %% [markdown]
# The trunk is MiniLM, frozen, read after its fourth layer of six. What you train is small: one
# hidden layer of 64 on those features, the **shared encoder**, and one linear **head** a task. So
# all that follows speaks of sharing a small encoder *above* a frozen trunk: the trunk can neither
# be helped nor forget. In a network that is trained as a whole there is more to win and to lose.


# %%
def standardised(F):
    spread = F.std(axis=0)  # of all rows, without a label
    return ((F - F.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)).astype(np.float32)


encoder = backbones.load("minilm")
X = standardised(features.extract_text(encoder, texts, layers=range(3, 7), max_length=64)[4])
Task = namedtuple("Task", "rows labels head", defaults=[0])
STEPS, EVERY = run.pick(smoke=4, cpu=200), run.pick(smoke=2, cpu=25)
BATCH, HIDDEN = 32, 64

# %% [markdown]
# ## One encoder, several heads
#
# With shared weights $\theta$ and head $V_k$ of task $k$, one minimises a weighted sum, and the
# encoder receives the weighted sum of the tasks' gradients:
#
# $$L = \sum_k w_k\,L_k(\theta, V_k), \qquad
# \nabla_\theta L = \sum_k w_k\,\nabla_\theta L_k, \qquad
# \nabla_{V_k} L = w_k\,\nabla_{V_k} L_k \tag{1}$$
#
# Both frameworks start from the same numbers, drawn here.


# %%
def start(seed, heads=2, inputs=X.shape[1], classes=2):
    """Random weights: encoder matrix and bias, then matrix and bias of each head."""
    rng = np.random.default_rng(seed)
    shapes = [(inputs, HIDDEN), *[(HIDDEN, classes)] * heads]
    drawn = [(rng.uniform(-1, 1, s) / np.sqrt(s[0]), np.zeros(s[1])) for s in shapes]
    return [array.astype(np.float32) for pair in drawn for array in pair]


def batches(tasks, seed, steps):
    """Row numbers (steps, tasks, batch): each task passes through its own rows, shuffled."""
    need, order = steps * BATCH, []
    for k, task in enumerate(tasks):
        rng = np.random.default_rng([seed, k])
        passes = [rng.permutation(task.rows) for _ in range(-(-need // len(task.rows)))]
        order.append(np.concatenate(passes)[:need].reshape(steps, BATCH))
    rows = np.stack(order, axis=1)
    return rows, np.stack([t.labels[rows[:, k]] for k, t in enumerate(tasks)], axis=1)


# %% [markdown]
# Each task brings its own batch of 32, with its own labelled sentences; they pass through the
# encoder together. What happens to the list of losses is a **rule** that you can exchange. Watch
# the step count: a partner adds to each step, it does not add steps to the main task.

# %% tags=["pytorch"]
import torch
from torch import nn

torch.set_num_threads(1)  # for matrices this small a second thread costs more than it brings
cross_entropy = nn.functional.cross_entropy


class SharedNet(nn.Module):
    def __init__(self, weights):
        super().__init__()
        (inputs, hidden), classes = weights[0].shape, weights[2].shape[1]
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(hidden, classes) for _ in weights[2::2])
        for parameter, array in zip(self.parameters(), weights, strict=True):
            parameter.data = torch.from_numpy(np.ascontiguousarray(array.T))

    def losses(self, inputs, labels, heads):
        F = self.encoder(inputs).split(BATCH)
        found = [
            cross_entropy(self.heads[h](f), t) for h, f, t in zip(heads, F, labels, strict=True)
        ]
        return torch.stack(found)


def network(weights):
    return SharedNet(weights).to(run.device)


def weights_of(net):
    return [parameter.detach().cpu().numpy().T.copy() for parameter in net.parameters()]


# %% tags=["pytorch"]
def weighted(net, losses, w):
    (w @ losses).backward()  # equation (1)


def train(net, tasks, seed, rule=weighted, w=None, inputs=X, watch=None, steps=STEPS):
    rows, labels = batches(tasks, seed, steps)
    heads, labels = [task.head for task in tasks], torch.from_numpy(labels).to(run.device)
    w = torch.tensor(w or [1.0] * len(tasks), device=run.device)
    net.s = torch.zeros(len(tasks), device=run.device, requires_grad=True)  # for a rule below
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for step in range(steps):
        if watch and step % EVERY == 0:
            watch(net)
        some = torch.from_numpy(inputs[rows[step].ravel()]).to(run.device)
        optimizer.zero_grad()
        rule(net, net.losses(some, labels[step], heads), w)
        optimizer.step()


# %% tags=["tensorflow"]
import keras
import tensorflow as tf
from keras import layers

tf.get_logger().setLevel("ERROR")  # each rule is traced once for each network, on purpose
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class SharedNet:
    def __init__(self, shapes):
        (inputs, hidden), (_, classes) = shapes[0], shapes[2]
        body = [keras.Input((inputs,)), layers.Dense(hidden, activation="relu")]
        self.encoder, self.heads = keras.Sequential(body), []
        for _ in shapes[2::2]:
            self.heads.append(keras.Sequential([keras.Input((hidden,)), layers.Dense(classes)]))
        self.shared = self.encoder.trainable_variables
        own = [v for head in self.heads for v in head.trainable_variables]
        self.variables, self.s = self.shared + own, tf.Variable(tf.zeros(len(self.heads)))
        self.A, self.B = ([tf.Variable(0 * v) for v in self.variables] for _ in "AB")  # for EWC
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.optimizer.build(self.variables)

    def losses(self, inputs, labels, heads):
        F = tf.split(self.encoder(inputs), len(heads))
        return [cross_entropy(labels[k], self.heads[h](F[k])) for k, h in enumerate(heads)]


# %% tags=["tensorflow"]
built = functools.cache(SharedNet)  # one network a shape, given new weights: nothing is retraced


def network(weights):
    net = built(tuple(array.shape for array in weights))
    for variable, array in zip(net.variables, weights, strict=True):
        variable.assign(array)
    return net


def weights_of(net):
    return [variable.numpy() for variable in net.variables]


def weighted(net, tape, losses, w):
    G = tape.gradient(list(losses), net.variables, output_gradients=tf.unstack(w, len(losses)))
    # A head that takes no part in the step has no gradient: zero.
    return [tf.zeros_like(v) if g is None else g for g, v in zip(G, net.variables, strict=True)]


# %% tags=["tensorflow"]
@functools.cache
def compiled(net, heads, rule):
    @tf.function
    def steps(inputs, labels, w):
        for t in tf.range(tf.shape(labels)[0]):
            with tf.GradientTape(persistent=True) as tape:
                losses = net.losses(inputs[t], labels[t], heads)
            net.optimizer.apply(rule(net, tape, losses, w), net.variables)

    return steps


def train(net, tasks, seed, rule=weighted, w=None, inputs=X, watch=None, steps=STEPS):
    rows, labels = batches(tasks, seed, steps)
    trained = compiled(net, tuple(task.head for task in tasks), rule)
    w = tf.constant(w or [1.0] * len(tasks))
    for slot in net.optimizer.variables:  # as good as a new optimizer
        slot.assign(tf.zeros_like(slot))
    net.s.assign(tf.zeros_like(net.s))
    net.optimizer.learning_rate = 1e-3
    for first in range(0, steps, EVERY):
        if watch:
            watch(net)
        part = slice(first, first + EVERY)
        some = inputs[rows[part].reshape(len(rows[part]), -1)]
        trained(tf.constant(some), tf.constant(labels[part]), w)


# %% [markdown]
# What one task sends into the encoder, by hand. With features $F = \mathrm{relu}(XW + b)$, answers
# $P = \mathrm{softmax}(FV + c)$ and one-hot labels $E$, over $n$ sentences:
#
# $$G = \frac{\partial L}{\partial W} = \tfrac1n\,X^\top \Delta, \qquad
# \Delta = (P - E)\,V^\top \odot 1[F > 0] \tag{2}$$


# %%
def answered(weights, head, inputs):
    """Features F and probabilities P."""
    W, b, *of_heads = weights
    V, c = of_heads[2 * head : 2 * head + 2]
    F = np.maximum(inputs @ W + b, 0)
    e = np.exp(F @ V + c)
    return F, e / e.sum(axis=1, keepdims=True)


def gradient(weights, task, inputs=X):
    F, P = answered(weights, task.head, inputs[task.rows])
    E, V = np.eye(P.shape[1], dtype=np.float32)[task.labels[task.rows]], weights[2 + 2 * task.head]
    return inputs[task.rows].T @ ((P - E) @ V.T * (F > 0)) / len(P)  # equation (2)


def accuracy(net, head, labels, test, inputs=X):
    """Balanced: the mean over the classes of the share found."""
    chosen = answered(weights_of(net), head, inputs[test])[1].argmax(axis=1)
    return recall_score(labels[test], chosen, labels=np.unique(labels[test]), average="macro")


# %%
some = np.arange(0, len(X), len(X) // BATCH)[:BATCH]
two = [Task(some, y["polarity"], 0), Task(some, y["long"], 1)]
weights, w = start(run.seed), [0.3, 1.0]
net, G = network(weights), [gradient(weights, task) for task in two]
both, labels = X[np.r_[some, some]], np.stack([task.labels[some] for task in two])

# %% tags=["pytorch"]
weighted(net, net.losses(*map(torch.from_numpy, (both, labels)), [0, 1]), torch.tensor(w))
by_autograd = net.encoder[0].weight.grad.numpy().T

# %% tags=["tensorflow"]
with tf.GradientTape(persistent=True) as tape:
    losses = net.losses(both, labels, (0, 1))
by_autograd = weighted(net, tape, losses, tf.constant(w))[0].numpy()

# %%
assert np.abs(w[0] * G[0] + w[1] * G[1] - by_autograd).max() < 1e-6  # (1) and (2)

# %% [markdown]
# ## A partner that helps, one that hurts
#
# The main task: polarity of *product* reviews, with 30 labels, 15 a class. Whole reviews are held
# out for testing. Each partner has up to 2,500 labels of its own:
#
# - polarity in **films**, **editorials** or **tweets**: the same question in another domain;
# - **strong** or mild, **long** or short, on product sentences: the same domain, another question;
# - **film** or not, on all sentences: which domain is it?
# - **shuffled**: polarity of product sentences with its labels dealt out at random, a control.
#
# **Write down** the best and the worst of the seven.
#
# One choice has to be made before: the weights $w$. We count every labelled sentence alike, so the
# main task gets $w = 30/2500$ and the partner 1. (Adam divides by the size of the gradient, so the
# main task's own head learns all the same.) Other choices come in the next section.

# %%
FEW, MANY = 30, run.pick(smoke=100, cpu=2500)
seeds = run.seeds(10)
products = np.flatnonzero(domain == "product")


def evenly(rows, labels, n):
    """The first n rows with both classes alike, and the rest."""
    few = np.concatenate([rows[labels[rows] == c][: n // 2] for c in (0, 1)])
    return few, rows[~np.isin(rows, few)]


def case(seed):
    """Main task, test rows, and the partners by name."""
    rng = np.random.default_rng(seed)
    rows, test = sets["product"].draw(10**6, seed)
    few, rest = evenly(products[rows], y["polarity"], FEW)
    elsewhere = rng.permutation(np.setdiff1d(np.arange(len(X)), products))[:MANY]
    partners = {}
    for name in ("movie", "editorial", "tweet"):
        there = rng.permutation(np.flatnonzero(domain == name))[:MANY]
        partners[f"polarity, {name}"] = Task(there, y["polarity"], 1)
    for name in ("strong", "long"):
        partners[name] = Task(rest[:MANY], y[name], 1)
    partners["film"] = Task(rng.permutation(np.r_[rest, elsewhere])[:MANY], y["film"], 1)
    partners["shuffled"] = Task(rest[:MANY], rng.permutation(y["polarity"]), 1)
    return Task(few, y["polarity"]), products[test], partners


# %% [markdown]
# The control is single-task training: the same encoder from the same start, the same labels,
# batches and number of steps, without the partner. On the way, `angle` is measured on the shared
# weights: the cosine between the main task's gradient and the partner's.
#
# $$\cos(G_1, G_2) = \frac{\langle G_1, G_2\rangle}{\lVert G_1\rVert\,\lVert G_2\rVert},\qquad
# L_1(W - \alpha G_2) \approx L_1(W) - \alpha\,\langle G_1, G_2\rangle \tag{3}$$
#
# The second half says why people look at it: with an angle below 90° a small step for the partner
# lowers the main loss too. Check it on a small step.


# %%
def cosine(G1, G2):
    return np.vdot(G1, G2) / (np.linalg.norm(G1) * np.linalg.norm(G2))


def loss(weights, task):
    P = answered([a.astype(float) for a in weights], task.head, X[task.rows])[1]
    return -np.log(P[np.arange(len(P)), task.labels[task.rows]]).mean()


alpha = 1e-4
stepped = [weights[0] - alpha * G[1], *weights[1:]]
change, predicted = loss(stepped, two[0]) - loss(weights, two[0]), -alpha * np.vdot(*G)
print(f"the loss changes by {change:.2e}, equation (3) says {predicted:.2e}")
assert abs(change - predicted) < 0.02 * alpha * np.linalg.norm(G[0]) * np.linalg.norm(G[1])

# %%
BY_SENTENCE = [FEW / 2500, 1.0]


def with_partner(seed, main, partner, test, angles=None, **options):
    """Accuracy on the main task; a partner of None is the control."""
    net = network(start(seed, heads=1 if partner is None else 2))
    tasks = [main] if partner is None else [main, partner]

    def look(net):
        at = weights_of(net)
        angles.append(cosine(gradient(at, main), gradient(at, partner)))

    train(net, tasks, seed, watch=look if angles is not None else None, **options)
    return accuracy(net, 0, main.labels, test)


# %%
cases = {seed: case(seed) for seed in seeds}
alone = np.array([with_partner(s, main, None, test) for s, (main, test, _) in cases.items()])
gain, angle = {}, {}
for name in cases[seeds[0]][2]:
    found, angle[name] = [], []
    for seed, (main, test, partners) in cases.items():
        at = []
        found.append(with_partner(seed, main, partners[name], test, at, w=BY_SENTENCE))
        angle[name].append(at)
    gain[name], angle[name] = np.array(found) - alone, np.array(angle[name])
    print(f"{name:20} {gain[name].mean():+.3f}, mean cosine {angle[name].mean():+.3f}")
print(f"alone {alone.mean():.3f}")

# %%
helper, harmer = "polarity, tweet", "long"
text = "with 30 labels, polarity of tweets as a partner helps polarity of products"
claim_margin("09.helps", text, gain[helper], above=0)
text = "with 30 labels, length of product sentences as a partner harms polarity of products"
claim_margin("09.hurts", text, gain[harmer], below=0)

# %% [markdown]
# Same steps, same capacity, same labels for the main task. Asking the same question elsewhere
# helps; asking for the length of sentences of the very same kind hurts. A shared encoder of 64
# numbers goes where the many labels pull it.
#
# ## The angle, and what it does not tell
#
# The popular rule: an angle below 90° is a friend, above 90° a foe. **Guess first:** do cosine and
# gain rank the seven partners alike?


# %%
def cross(ax, x, y, i, **look):
    """A mark with its 95 % intervals; y may be a mere position on the axis."""
    (x, across), (y, up) = ((v, (v, v)) if np.ndim(v) == 0 else mean_interval(v) for v in (x, y))
    bars = {"xerr": [[x - across[0]], [across[1] - x]], "yerr": [[y - up[0]], [up[1] - y]]}
    look |= {"color": figures.COLORS[i % 7], "marker": figures.MARKERS[i % 7], "linestyle": ""}
    ax.errorbar(x, y, **bars, **look, markerfacecolor="white" if i > 6 else None, elinewidth=1)
    return x, y


fig, axes = plt.subplots(1, 2, figsize=(9, 3.4))
steps = np.arange(0, STEPS, EVERY)
for i, name in enumerate((helper, harmer)):
    figures.lines(axes[0], steps, angle[name].T, f"{name} ({gain[name].mean():+.3f})", i)
axes[0].axhline(0, color="0.4", linewidth=1)
negative = {name: (angle[name] < 0).mean() for name in (helper, harmer)}
axes[0].set_title(f"Below 0: {negative[helper]:.0%} helper, {negative[harmer]:.0%} harmer")
axes[0].set(xlabel="step", ylabel="cosine of the gradients on $W$")
axes[0].legend(title="partner (gain)")
for i, name in enumerate(gain):
    cross(axes[1], angle[name].mean(axis=1), gain[name], i, label=name)
pairs = [[angle[name].mean(axis=1)[s] for name in gain] for s in range(len(seeds))]
gains = np.array(list(gain.values())).T
rank = np.array([spearmanr(*pair).statistic for pair in zip(pairs, gains, strict=True)])
means = [[values.mean() for values in each.values()] for each in (angle, gain)]
print(f"rank correlation of the means over all seeds: {spearmanr(*means).statistic:+.2f}")
axes[1].set_title(f"Cosine and gain: rank correlation {rank.mean():+.2f} a seed")
axes[1].set(xlabel="mean cosine over training", ylabel="gain in balanced accuracy")
axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
alt = """Left: the cosine between the gradients of main task and partner along training, for a
partner that helps and one that hurts; both lines stay close to zero. Right: gain against mean
cosine for seven partners, with intervals: no clear line through them."""
figures.show(fig, alt)

# %%
text = "all along, the cosines of the helping and of the harming partner differ by less than 0.05"
both = angle[helper].mean(axis=1), angle[harmer].mean(axis=1)
claim_margin("09.angle", text, *both, above=-0.05, below=0.05)
text = "over the seven partners, the rank correlation of cosine and gain stays below 0.5"
claim_margin("09.angle_ranks", text, rank, below=0.5)

# %% [markdown]
# Why so near to 90°? Look at (2): each gradient passes through its own head $V_k$, and at the start
# two random heads point in unrelated directions. **Guess first:** what is the cosine between a task
# and *itself*, asked on other sentences, through two heads, and through one?

# %%
own, same = [], []
for seed in seeds:
    main, _, partners = cases[seed]
    more = np.random.default_rng(seed).permutation(products)[: 2 * 500]
    halves = [Task(half, y["polarity"]) for half in np.array_split(more, 2)]
    weights = start(seed)
    G1, G2 = (gradient(weights, task) for task in halves)
    own.append(cosine(G1, gradient(weights, halves[1]._replace(head=1))))
    same.append(cosine(G1, G2))
print(f"polarity with polarity: two heads {np.mean(own):+.2f}, one head {np.mean(same):+.2f}")
text = "a task and itself on other sentences, through one head: the cosine is above 0.5"
claim_margin("09.same_head", text, np.array(same), above=0.5)
text = "through two fresh heads the cosine of a task with itself is below that by over 0.4"
claim_margin("09.own_head", text, np.array(own), np.array(same), below=-0.4)

# %% [markdown]
# So the angle measures the heads as much as the tasks. That (3) is true for one small step does not
# make it a forecast of what the encoder is worth after two hundred. (Two cautions: noise in the
# gains of one seed lowers a rank correlation, and the means are only seven points.)
#
# ## Does the weighting matter?
#
# Four ways to choose $w$, or to change the gradients:
#
# - **by sentence**, as above; **equal**, $w = (1, 1)$, the default of most code;
# - **uncertainty** (Kendall et al., 2018): learn one number $s_k = \log\sigma_k^2$ a task with
#
# $$L = \sum_k \bigl(e^{-s_k} L_k + \tfrac12 s_k\bigr), \qquad
# \frac{\partial L}{\partial s_k} = \tfrac12 - e^{-s_k} L_k, \qquad w_k = e^{-s_k}; \tag{4}$$
#
# - **PCGrad** (Yu et al., 2020): where $\langle G_1, G_2\rangle < 0$, take from each gradient its
#   part along the other, $G_1' = G_1 - \frac{\langle G_1, G_2\rangle}{\lVert G_2\rVert^2}\,G_2$.
#
# In (4) the weight comes to rest where $e^{-s_k} = 1 / 2L_k$. **Guess first:** the main task has 30
# sentences, which are soon known by heart. Does its weight rise or fall?


# %% tags=["pytorch"]
def uncertainty(net, losses, w):
    (torch.exp(-net.s) * losses + net.s / 2).sum().backward()  # equation (4)
    net.s.data -= 0.02 * net.s.grad
    net.s.grad = None


def pcgrad(net, losses, w):
    losses, shared = w * losses, list(net.encoder.parameters())
    G = [torch.autograd.grad(each, shared, retain_graph=True) for each in losses]
    losses.sum().backward()  # for the heads; the encoder's gradient is replaced
    flat = [torch.cat([g.flatten() for g in each]) for each in G]
    dot = (flat[0] @ flat[1]).clamp_max(0)
    for p, a, b in zip(shared, *G, strict=True):
        p.grad = (a - dot / flat[1].square().sum() * b) + (b - dot / flat[0].square().sum() * a)


def task_weights(net):
    return torch.exp(-net.s).detach().cpu().numpy()


# %% tags=["tensorflow"]
def uncertainty(net, tape, losses, w):
    precision = tf.exp(-net.s)
    net.s.assign_sub(0.02 * (0.5 - precision * tf.stack(losses)))  # equation (4)
    return weighted(net, tape, losses, precision)


def pcgrad(net, tape, losses, w):
    each = (tf.eye(2) * w)[0], (tf.eye(2) * w)[1]  # one task at a time
    G = [weighted(net, tape, losses, row) for row in each]
    flat = [tf.concat([tf.reshape(g, [-1]) for g in both[:2]], axis=0) for both in G]
    dot = tf.minimum(tf.reduce_sum(flat[0] * flat[1]), 0)
    out = [a + b for a, b in zip(*G, strict=True)]
    for i in range(len(net.shared)):
        a, b = G[0][i], G[1][i]
        out[i] -= dot / tf.reduce_sum(flat[1] ** 2) * b + dot / tf.reduce_sum(flat[0] ** 2) * a
    return out


def task_weights(net):
    return tf.exp(-net.s).numpy()


# %%
ways = {"equal": {}, "uncertainty": {"rule": uncertainty}, "PCGrad, equal": {"rule": pcgrad}}
ways["PCGrad, by sentence"] = {"rule": pcgrad, "w": BY_SENTENCE}
by_way, learned = {(name, "by sentence"): gain[name] for name in (helper, harmer)}, []
for name in (helper, harmer):
    for way, options in ways.items():
        found = []
        for seed, (main, test, partners) in cases.items():
            net, pair = network(start(seed)), [main, partners[name]]
            train(net, pair, seed, **options)
            found.append(accuracy(net, 0, main.labels, test))
            if way == "uncertainty":
                learned.append(task_weights(net))
        by_way[name, way] = np.array(found) - alone
learned = np.array(learned)
for key, change in by_way.items():
    print(f"{key[0]}, {key[1]}: {change.mean():+.3f}")
print(f"learned weights: main {learned[:, 0].mean():.1f}, partner {learned[:, 1].mean():.1f}")

# %%
fig, ax = plt.subplots(figsize=(8, 3.4))
order = ["by sentence", *ways]
for i, name in enumerate((helper, harmer)):
    for row, way in enumerate(order):
        label = f"partner: {name}" if row == 0 else None
        cross(ax, by_way[name, way], row + 0.2 * i, i, label=label)
ax.axvline(0, color="0.4", linewidth=1)
ax.set_yticks(np.arange(len(order)) + 0.1, order)
ax.invert_yaxis()
ax.set(xlabel="gain in balanced accuracy over training alone", ylabel="weighting")
spread = {w: (by_way[helper, w] - by_way[harmer, w]).mean() for w in ("by sentence", "equal")}
ax.set_title(
    f"Helper less harmer: {spread['by sentence']:.3f} by sentence, {spread['equal']:.3f} equal"
)
ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
alt = """Gain of the main task for five weightings and two partners, with intervals over ten seeds.
By sentence the two partners lie apart on both sides of zero; with equal weights, uncertainty
weighting, and PCGrad on equal weights they lie closer together."""
figures.show(fig, alt)

# %%
text = "by sentence, helper and harmer lie over 1 point farther apart than with equal weights"
apart = {way: by_way[helper, way] - by_way[harmer, way] for way in order}
claim_margin("09.by_sentence", text, apart["by sentence"], apart["equal"], above=0.01)
text = "uncertainty weighting gives the task with 30 labels over 1.5 times the partner's weight"
ratio = (learned[:, 0] / learned[:, 1]).reshape(2, -1).mean(axis=0)  # one value a seed
claim_margin("09.by_heart", text, ratio, above=1.5)
for name, short in ((helper, "helper"), (harmer, "harmer")):
    for way in ("uncertainty", "PCGrad, equal"):
        text = f"{way.split(',')[0]} against equal weights, {short}: within 1.5 points"
        name_of = f"09.{way.split(',')[0].lower()}_{short}"
        claim_margin(
            name_of, text, by_way[name, way], by_way[name, "equal"], above=-0.015, below=0.015
        )

# %% [markdown]
# What matters is how much say the partner has, and in which direction it pulls: the same weight
# that lets a good partner help lets a bad one harm. Uncertainty weighting cannot know. It reads a
# small *training* loss as certainty and turns up the task that is known by heart, away from what
# would help here. PCGrad removes conflicts which, in directions this random, say little. Both were
# made for other cases: losses in different units, and networks trained as a whole on plenty of
# labels for each task. A plain grid over $w$, judged on held-out rows, is the thing to beat.
#
# ## The same on solar cells
#
# Main task: defective or not, from 100 labels, half of each, on frozen Lite0 features of a middle
# block. Partners, with the labels of all other training cells: the **type** (mono- or
# polycrystalline), and the **position**, in the first or second half of the file's cells of that
# type. Both cost nothing to label. **Guess first**, for a random split and for blocks held out.

# %%
cells = datasets.solar_cells()
cells = cells.subset(np.arange(0, len(cells), run.pick(smoke=8, cpu=1)))
cut = features.extract(backbones.load("efficientnet-lite0"), cells.images, cuts=("block11", "head"))
C, mono = standardised(cut["block11"]), cells.meta["cell_type"] == "mono"
half = np.where(mono, np.median(np.flatnonzero(mono)), np.median(np.flatnonzero(~mono)))
partners = {"type": mono.astype(int), "position": (np.arange(len(C)) > half).astype(int)}


def on_cells(seed, kind, partner):
    rows, test = cells.draw(10**6, seed, kind)
    few, rest = evenly(rows, cells.labels, 100)
    tasks, w = [Task(few, cells.labels)], None
    if partner:
        tasks, w = [*tasks, Task(rest, partners[partner], 1)], [100 / len(rest), 1.0]
    net = network(start(seed, len(tasks), C.shape[1]))
    train(net, tasks, seed, w=w, inputs=C)
    return accuracy(net, 0, cells.labels, test, C)


# %%
kinds = ("random", "block")
found = {
    (kind, partner): np.array([on_cells(seed, kind, partner) for seed in seeds])
    for kind in kinds
    for partner in (None, *partners)
}
for kind in kinds:
    change = {p: f"{(found[kind, p] - found[kind, None]).mean():+.3f}" for p in partners}
    print(f"{kind:6} split: alone {found[kind, None].mean():.3f}", change)
text = (
    "the cell's type as a partner moves accuracy on defects by less than 3 points, blocks held out"
)
both = found["block", "type"], found["block", None]
claim_margin("09.cells", text, *both, above=-0.03, below=0.03)

# %% [markdown]
# Many times as many labels, free of charge, on pictures of the same kind, and little to show for it
# either way. (The random split, with its leak by rows, is printed for comparison only.)
#
# ## Who can start where another ended? A transfer matrix
#
# Now in sequence. Train an encoder on task A with 2,500 labels, then reuse it for task B with 50.
# **Heads first**, as in 05: the new head is fitted to the frozen encoder (logistic regression),
# then everything trains. The reason given is that a random head's large gradients would spoil the
# encoder. Each entry is a gain over a control without transfer: for the head alone, the same head
# on the trunk's own features; for training everything, the same procedure from random weights. On
# the diagonal A and B are one task with more labels: a reference, no transfer. The split is random,
# so sentences of one review may stand on both sides; all entries share that.

# %%
four, BARE = ("polarity", "strong", "long", "film"), run.pick(smoke=20, cpu=50)


def fitted_head(weights, task, inputs=X):
    F = answered(weights, 0, inputs[task.rows])[0]
    linear = LogisticRegression(max_iter=1000).fit(F, task.labels[task.rows])
    V, c = linear.coef_.T / 2, linear.intercept_ / 2  # two logits, half of the score each
    return [np.c_[-V, V].astype(np.float32), np.r_[-c, c].astype(np.float32)]


def reused(weights, task, test, seed, head_first=True):
    """Accuracy with the fitted head alone, and after training everything."""
    head = fitted_head(weights, task) if head_first else start(seed, 1)[2:]
    net = network([*weights[:2], *head])
    before = accuracy(net, 0, task.labels, test)
    train(net, [task], seed)
    return before, accuracy(net, 0, task.labels, test)


# %%
def matrix(seed):
    order = np.random.default_rng(seed).permutation(len(X))
    test, few, many = np.split(
        order[: len(X) // 8 + BARE + MANY], [len(X) // 8, len(X) // 8 + BARE]
    )
    targets, entries, late = [Task(few, y[name]) for name in four], [], []
    none = np.array([reused(start(seed, 1), task, test, seed) for task in targets])
    for k, task in enumerate(targets):  # no encoder at all: the head on the trunk's own features
        linear = LogisticRegression(C=0.01, max_iter=1000).fit(X[few], task.labels[few])
        none[k, 0] = balanced_accuracy_score(task.labels[test], linear.predict(X[test]))
    for name in four:
        net = network(start(seed, 1))
        train(net, [Task(many, y[name])], seed)
        weights = weights_of(net)
        entries.append([reused(weights, task, test, seed) for task in targets])
        if name == "polarity":
            late = [reused(weights, t, test, seed, head_first=False)[1] for t in targets[1:]]
    return np.array(entries) - none, np.array(entries)[0, 1:, 1] - late


both = [matrix(seed) for seed in seeds[:5]]
entries, head_first = (np.array(part) for part in zip(*both, strict=True))

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.7))
off = ~np.eye(4, dtype=bool)
for ax, when, name in zip(axes, (0, 1), ("head alone", "then everything"), strict=True):
    shown = entries[..., when].mean(axis=0)
    ax.imshow(shown, cmap="PuOr", vmin=-0.3, vmax=0.3)
    for i, j in np.ndindex(4, 4):
        mean, (low, high) = mean_interval(entries[:, i, j, when])
        ink = "white" if abs(mean) > 0.2 else "black"
        note = f"{mean:+.2f}\n±{(high - low) / 2:.2f}"
        ax.text(j, i, note, ha="center", va="center", fontsize=8, color=ink)
    ax.set_xticks(range(4), four)
    ax.set_yticks(range(4), four)
    ax.grid(visible=False)
    ax.set(xlabel="reused for B, 50 labels", ylabel="trained on A, 2,500 labels")
    ax.set_title(f"{name}: {(shown[off] > 0).sum()} of 12 pairs gain", fontsize=10)
alt = """Two four by four tables of the gain of B from an encoder trained on A, over no
transfer: with the head alone, and after training everything."""
figures.show(fig, alt)

# %%
text = "off the diagonal, an encoder with the head alone is worse for B than none, on average"
claim_margin("09.matrix_off", text, entries[:, off, 0].mean(axis=1), below=0)
text = "when everything trains afterwards, what is gained off the diagonal is under 2 points"
claim_margin("09.matrix_all", text, entries[:, off, 1].mean(axis=1), below=0.02)
text = "from polarity to the others, heads first is less than 4 points ahead of a random new head"
claim_margin("09.heads_first", text, head_first.mean(axis=1), above=-0.01, below=0.04)

# %% [markdown]
# Read a row: what an encoder is good for after A. With the head alone you see what it kept, and
# what it threw away because A did not need it: on average over the pairs, B does better without
# that encoder, on what the trunk gives. Training everything afterwards brings it level, within two
# points, with 50 labels on random weights. And heads first? The reason is sound (05 measures the
# gradients, and where it pays); where an encoder holds little that B needs, it saves little.
#
# ## One after another: what is forgotten
#
# Eight classes of pictograms come in four stages of two classes, and an old stage never comes
# back. One head of eight outputs serves them all. After each stage you test on every class seen so
# far, rows of the Unicode chart held out. **Guess first:** how much of the first two classes is
# left at the end?

# %%
drawings = datasets.pictograms("color", labelled=False)
drawings = drawings.subset(np.arange(0, len(drawings), run.pick(smoke=8, cpu=1)))
backbone = backbones.load("efficientnet-lite0")
D = features.extract(backbone, drawings.images, cuts=("block11", "head"))["head"]
known = drawings.labels >= 0
D, drawings = standardised(D[known]), drawings.subset(known)


def stages(seed):
    """Four tasks of two classes each for one head, and their test rows."""
    train_rows, test = drawings.split("block", 1 / 3, seed)
    pairs = np.random.default_rng(seed).permutation(8).reshape(4, 2)
    of = drawings.labels
    tasks = [Task(train_rows[np.isin(of[train_rows], pair)], of) for pair in pairs]
    return tasks, [test[np.isin(of[test], pair)] for pair in pairs]


# %% [markdown]
# **EWC** (01, equation 11) holds each weight by how much the old tasks need it. For several old
# tasks $k$ with weights $\theta_k$ and Fisher diagonal $\mathcal F_k$, the penalties add up, and a
# sum of parabolas is a parabola: two numbers a weight are enough, however many tasks there were.
#
# $$\tfrac\lambda2 \sum_k \mathcal F_k (\theta - \theta_k)^2, \qquad
# \frac{\partial}{\partial\theta} = \lambda (A\,\theta - B), \quad
# A = \sum_k \mathcal F_k,\ B = \sum_k \mathcal F_k \theta_k \tag{5}$$
#
# For the encoder's matrix the diagonal comes from (2): with $\Delta_c$ what (2) gives if the answer
# were $c$, and all squares taken entry by entry,
#
# $$\mathcal F = \tfrac1n\,(X^2)^\top \sum_c P_c\,\Delta_c^2. \tag{6}$$


# %%
def fisher(weights, task, inputs):
    out, at = [np.zeros_like(w) for w in weights], 2 + 2 * task.head
    some, (F, P) = inputs[task.rows], answered(weights, task.head, inputs[task.rows])
    for c, e_c in enumerate(np.eye(P.shape[1], dtype=np.float32)):
        share, error = P[:, [c]] / len(P), P - e_c
        delta = error @ weights[at].T * (F > 0)
        out[0] += (some**2).T @ (share * delta**2)  # equation (6)
        out[1] += (share * delta**2).sum(axis=0)
        out[at] += (F**2).T @ (share * error**2)
        out[at + 1] += (share * error**2).sum(axis=0)
    return out


weights, few = start(run.seed), np.arange(6)
net, by_formula = network(weights), fisher(weights, Task(few, y["polarity"]), X)[0]

# %% tags=["pytorch"]
by_autograd = np.zeros_like(by_formula)
for x in torch.from_numpy(X[few]).to(run.device):
    log_p = net.heads[0](net.encoder(x)).log_softmax(0)
    for each in log_p:
        (g,) = torch.autograd.grad(each, net.encoder[0].weight, retain_graph=True)
        by_autograd += (each.exp().detach() * g**2 / len(few)).cpu().numpy().T

# %% tags=["tensorflow"]
with tf.GradientTape() as tape:
    log_p = tf.nn.log_softmax(net.heads[0](net.encoder(X[few])))
J = tape.jacobian(log_p, net.shared[0])  # (sentences, answers, inputs, hidden)
by_autograd = tf.einsum("nc,ncij->ij", tf.exp(log_p), J**2).numpy() / len(few)

# %%
print(f"formula against autograd: {np.abs(by_formula - by_autograd).max():.0e} at most")
assert np.allclose(by_formula, by_autograd, rtol=1e-3, atol=1e-7)

# %% [markdown]
# (Code that squares the gradient of a whole *batch* computes something else: it takes the mean
# first, and the examples cancel.) Now the rule, and the loop over stages. **Replay** is the plain
# alternative: keep some examples of each old task, and give them a batch of their own in every
# step.


# %% tags=["pytorch"]
def hold(net, A, B):
    net.A, net.B = ([torch.tensor(m.T, device=run.device) for m in each] for each in (A, B))


def ewc(net, losses, w):
    weighted(net, losses, w)
    for p, a, b in zip(net.parameters(), net.A, net.B, strict=True):
        if p.grad is not None:
            p.grad += a * p.detach() - b  # equation (5), λ is inside A and B


# %% tags=["tensorflow"]
def hold(net, A, B):
    for variable, array in zip(net.A + net.B, [*A, *B], strict=True):
        variable.assign(array)


def ewc(net, tape, losses, w):
    G = weighted(net, tape, losses, w)
    each = zip(G, net.variables, net.A, net.B, strict=True)
    return [g + a * v - b for g, v, a, b in each]  # equation (5), λ is inside A and B


# %%
def sequence(seed, tasks, tests, inputs=D, heads=1, classes=8, strength=0, keep=0, steps=STEPS):
    """Accuracy after stage i on task j, shape (stages, tasks); seconds."""
    net, kept = network(start(seed, heads, inputs.shape[1], classes)), []
    A, B = ([np.zeros_like(w) for w in weights_of(net)] for _ in "AB")
    found, began = np.full((len(tasks), len(tasks)), np.nan), time.perf_counter()
    for i, task in enumerate(tasks):
        hold(net, A, B)
        rule = ewc if strength and i else weighted
        train(net, [task, *kept], seed, rule=rule, inputs=inputs, steps=steps)
        if strength:
            theta, fish = weights_of(net), fisher(weights_of(net), task, inputs)
            A = [a + strength * f for a, f in zip(A, fish, strict=True)]
            B = [b + strength * f * t for b, f, t in zip(B, fish, theta, strict=True)]
        if keep:
            rows = np.random.default_rng([seed, i]).permutation(task.rows)[:keep]
            kept.append(task._replace(rows=rows))
        found[i, : i + 1] = [
            accuracy(net, t.head, t.labels, tests[j], inputs) for j, t in enumerate(tasks[: i + 1])
        ]
    return found, time.perf_counter() - began


# %%
five = seeds[:5]
strengths, sizes = (0, 1e2, 1e3, 1e4, 1e5), (5, 20, 60)
SHORT = run.pick(smoke=2, cpu=100)
drawn = {seed: stages(seed) for seed in five}
ran = {
    ("EWC", v): [sequence(s, *drawn[s], strength=v, steps=SHORT) for s in five] for v in strengths
}
ran |= {("replay", k): [sequence(s, *drawn[s], keep=k, steps=SHORT) for s in five] for k in sizes}
grid = {key: np.array([found for found, _ in each]) for key, each in ran.items()}
old = {key: found[:, -1, :-1].mean(axis=1) for key, found in grid.items()}
new = {key: np.array([np.diag(each)[1:].mean() for each in found]) for key, found in grid.items()}
whole = {key: found[:, -1].mean(axis=1) for key, found in grid.items()}
for key in grid:
    print(
        f"{key[0]} {key[1]:g}: old {old[key].mean():.3f}, when new {new[key].mean():.3f}, "
        f"all at the end {whole[key].mean():.3f}"
    )

# %%
together = []
for seed in five:
    tasks, tests = drawn[seed]
    net = network(start(seed, 1, D.shape[1], 8))
    train(net, tasks, seed, inputs=D, steps=SHORT)
    together.append([accuracy(net, 0, drawings.labels, test, D) for test in tests])
together = np.array(together)
print(f"all four at the same time: {together.mean():.3f}")

# %%
frames = {}
for v in strengths:
    fig, ax = plt.subplots(figsize=(5.6, 3.2))
    found, stage = grid["EWC", v], np.arange(1, 5)
    figures.lines(
        ax, stage, np.array([np.diag(each) for each in found]).T, "just after its stage", 0
    )
    figures.lines(ax, stage, found[:, -1].T, "at the end", 1)
    ax.set(xlabel="stage (two classes each)", ylabel="balanced accuracy", ylim=(-0.05, 1.05))
    ax.set_xticks(stage)
    key = "EWC", v
    ax.set_title(f"λ = {v:g}: old {old[key].mean():.2f}, new {new[key].mean():.2f}", fontsize=10)
    ax.legend(fontsize=8, loc="lower left")
    frames[f"{v:g}"] = fig
alt = """Accuracy on the classes of each of four stages, just after it and at the end. Without a
penalty the early stages fall at the end; with a very strong one the late stages are never
learned."""
figures.slider(frames, "EWC strength λ", alt, start="1000")

# %%
fig, ax = plt.subplots(figsize=(6.4, 4))
for i, (way, values) in enumerate((("EWC", strengths), ("replay", sizes))):
    for v in values:
        name = {"EWC": "EWC, λ", "replay": "replay, examples a stage"}[way]
        label = name if v == values[-1] else None
        place = cross(ax, new[way, v], old[way, v], i, label=label)
        ax.annotate(f"{v:g}", place, xytext=(6, 5), textcoords="offset points", fontsize=8)
before = together[:, :-1].mean()
ax.axhline(before, color="0.4", linestyle=":", label="the same classes, all at once")
ax.set(xlabel="accuracy on a stage's classes when new", ylabel="accuracy on old classes at the end")
ax.set_title(
    f"Old classes: {old['EWC', 0].mean():.2f} with nothing, {old['EWC', 1e3].mean():.2f} "
    f"EWC at 1000, {old['replay', 60].mean():.2f} replay of 60"
)
ax.legend(fontsize=8, loc="lower left")
alt = """Accuracy on old classes at the end against accuracy on classes when they were new, for five
strengths of EWC and three numbers of replayed examples, with intervals. Stronger EWC and more
examples both lead from the lower right to the upper left."""
figures.show(fig, alt)

# %%
text = "in plain sequence, over 30 points are lost on old classes between their stage and the end"
lost = [(np.diag(found) - found[-1])[:-1].mean() for found in grid["EWC", 0]]
claim_margin("09.forgets", text, np.array(lost), above=0.3)
text = "EWC at λ = 1000 keeps over 5 points more of the old classes than nothing"
claim_margin("09.ewc", text, old["EWC", 1e3], old["EWC", 0], above=0.05)
text = "at λ = 10,000 EWC learns new classes over 5 points less well than nothing"
claim_margin("09.ewc_price", text, new["EWC", 1e4], new["EWC", 0], below=-0.05)
text = "60 replayed pictures a stage end over 5 points above nothing, over all classes"
claim_margin("09.replay", text, whole["replay", 60], whole["EWC", 0], above=0.05)
text = "all four stages at the same time end over 10 points above the plain sequence"
claim_margin("09.together", text, together.mean(axis=1), whole["EWC", 0], above=0.1)

# %% [markdown]
# The same labels and the same encoder, in another order: learning together is the mark to compare a
# sequence with. You will read that EWC fails when classes arrive in stages and one head serves all
# (van de Ven and Tolias, 2019, trained whole networks from scratch). Above a frozen trunk it keeps
# a good part; compare it in the figure with the numbers of replayed pictures. But it asks for the
# right $\lambda$: too strong, and nothing new is learned.
#
# ## Are a few replayed examples always better than none?
#
# Sentences again, three tasks in a row, and each has its *own* head, which no later task touches:
# polarity, then film or not, then length, 1,500 labels each. **Guess first:** what do five kept
# sentences a task buy?

# %%
trio, LONG = ("polarity", "film", "long"), run.pick(smoke=4, cpu=300)


def three(seed):
    test, *parts = np.array_split(np.random.default_rng(seed).permutation(len(X)), 4)
    size = run.pick(smoke=100, cpu=1500)
    tasks = [
        Task(part[:size], y[name], k)
        for k, (part, name) in enumerate(zip(parts, trio, strict=True))
    ]
    return tasks, [test] * 3


settings = {"nothing": {}, "EWC, λ = 100": {"strength": 100}}
settings |= {f"replay {k}": {"keep": k} for k in (5, 500)}
runs = {name: [] for name in settings}
for seed in seeds[:8]:
    for name, options in settings.items():
        options |= {"inputs": X, "heads": 3, "classes": 2, "steps": LONG}
        runs[name].append(sequence(seed, *three(seed), **options))
found = {name: np.array([each for each, _ in run_of]) for name, run_of in runs.items()}
left = {name: each[:, -1, 0] for name, each in found.items()}
diagonals = {name: np.diagonal(each, axis1=1, axis2=2) for name, each in found.items()}
newest = {name: each[:, 1:].mean(axis=1) for name, each in diagonals.items()}
seconds = {name: np.array([t for _, t in run_of]) for name, run_of in runs.items()}

# %%
numbers = sum(w.size for w in start(0, 3))
row = X.shape[1] + 1
memory = {"nothing": 0, "EWC, λ = 100": 2 * numbers} | {
    f"replay {k}": 2 * k * row for k in (5, 500)
}
print(f"polarity when it was new: {found['nothing'][:, 0, 0].mean():.3f}; after two more tasks:")
print("                polarity  newer tasks  numbers kept  time")
for name in settings:
    print(
        f"{name:14} {left[name].mean():9.3f} {newest[name].mean():12.3f} {memory[name]:13,}"
        f" {np.median(seconds[name] / seconds['nothing']):5.1f} x"
    )
text = "with a head for each task, 5 replayed sentences a task buy less than 2 points"
claim_margin("09.replay_few", text, left["replay 5"], left["nothing"], below=0.02)
text = "EWC at λ = 100 leaves more of the first task than nothing does"
claim_margin("09.ewc_heads", text, left["EWC, λ = 100"], left["nothing"], above=0)
text = "EWC at λ = 100 leaves at most 1 point less of it than 500 replayed sentences a task"
claim_margin("09.ewc_or_replay", text, left["EWC, λ = 100"], left["replay 500"], above=-0.01)

# %% [markdown]
# Five sentences, seen in every step, are soon learned by heart, and the old head goes on training
# on them alone; without replay it stays as it was. Compare the two rows. Mind the price too: kept
# as features, EWC's two numbers a weight weigh as much as some 65 sentences for each of two old
# tasks; kept as text a sentence takes some hundred bytes, and EWC is the dear one. Its reason is
# not memory, but that old data may not be there to keep.
#
# ## What is commonly taught, and what was measured
#
# | as commonly taught | what you saw |
# |---|---|
# | multi-task is one of four types of transfer | a timing; it combines with any method |
# | related tasks help each other | the same question elsewhere did; length, close by, hurt |
# | an angle over 90° means harm | angles near 90° for all, a task with itself included |
# | let uncertainty choose the weights | it turned up what was known by heart |
# | heads first, or the encoder is spoiled | see 05 for where it matters, the matrix for where not |
# | EWC prevents forgetting | it trades new for old, as replay does |
# | replay a handful of examples | with own heads, five bought nothing |
#
# ## What was seen

# %%
summary()

# %% [markdown]
# **Try it.** Put `w=[1.0, 1.0]` into the partner cell: which claims fall? Give the main task 300
# labels. Keep the old heads still while you replay five sentences. Then do exercise set ex09
# (folder `exercises`).
#
# **Next.** 10 is a case study from data sheet to model card; 11 leaves classification.
#
# *Sources: Caruana 1997 (multi-task learning); Kendall, Gal and Cipolla 2018 (uncertainty
# weighting); Yu et al. 2020 (PCGrad); Kirkpatrick et al. 2017 (EWC); van de Ven and Tolias 2019
# (three settings of continual learning); Kumar et al. 2022 (heads first); Hutto and Gilbert 2014
# (the sentences); Deitsch et al. 2019 (the cells); OpenMoji (the pictograms).*
