# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Start here
#
# A network that has seen a million pictures already knows edges, textures and shapes. Transfer
# learning uses that knowledge for a task of your own. In this course you do it with real weights
# and real data, on the processor of your laptop. Everything was put on this machine when you
# installed the course, so you need no account and no network.
#
# On this page you choose a framework, check the machine, taste what transfer learning does, and see
# the map of the course. *You need some Python and the idea of a classifier. Ten minutes to read,
# half a minute to run.*

# %% [markdown]
# ## Which framework do you want to learn with?
#
# Each notebook exists twice, with the same experiments: once written as a Keras user writes it
# and once as a PyTorch user does. Take the one that you use at work, or the one that you have
# seen before.
#
# - [Keras on TensorFlow](../tensorflow/00_start_here.ipynb)
# - [PyTorch](../pytorch/00_start_here.ipynb)

# %% [markdown] tags=["tensorflow"]
# You are reading the **Keras** version.

# %% [markdown] tags=["pytorch"]
# You are reading the **PyTorch** version.

# %% [markdown]
# ## Is this machine ready?
#
# Every notebook opens with the two cells below: what to run, and a call that prepares the
# framework, the processor and the random numbers. `PROFILE` is `"cpu"` for the lesson as it is
# written; `"gpu"` runs it on a graphics card, where there is one.
#
# Run them with <kbd>Shift</kbd> + <kbd>Enter</kbd>.

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
# One line appears: the framework with its version, the profile, the processor and the seed. If
# you see an error instead, go to the last section of this page.
#
# ## A taste
#
# Here are drawings of eight kinds of things. Suppose you have labels for a hundred of them and want
# a classifier for the rest. That is the **target task**.

# %%
import numpy as np

from tlcourse import backbones, datasets, features, figures
from tlcourse.evidence import claim_margin, summary

data = datasets.pictograms("color")
first = [np.flatnonzero(data.labels == c)[5] for c in range(8)]
figures.image_grid(
    data.images[first],
    data.class_names,
    "Eight coloured drawings, one of each class, each under the name of its class.",
    columns=8,
    title="The task: which of eight kinds of things is it?",
)

# %% [markdown]
# You can train a small network on your hundred drawings, starting from random weights. Or you can
# take a network that somebody else trained on 1.28 million photographs of a thousand kinds of
# things: the **source task**, ImageNet. You cut off its last layer, which names those thousand
# kinds, and put a small classifier of your own in its place. The drawings are no photographs, and
# your eight kinds are not among the thousand.

# %%
import matplotlib.pyplot as plt


def box(ax, x, y, words, color, style="-"):
    look = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": color, "linewidth": 2}
    ax.text(x, y, words, ha="center", va="center", fontsize=9, bbox=look | {"linestyle": style})


fig, ax = plt.subplots(figsize=(8, 2.4))
for y, end, color, style in (
    (1, "old head:\n1,000 kinds", figures.COLORS[0], "-"),
    (0, "new head:\nyour 8 kinds", figures.COLORS[1], "--"),
):
    parts = ["picture", "edges,\ncolours", "textures,\nparts", "things"]
    for x, words in enumerate(parts):
        box(ax, x, y, words, "0.5" if x == 0 else figures.COLORS[0])
        ax.annotate("", (x + 0.72, y), (x + 0.36, y), arrowprops={"arrowstyle": "->"})
    box(ax, 4.1, y, end, color, style)
for x in (1, 2, 3):
    ax.annotate("", (x, 0.3), (x, 0.7), arrowprops={"arrowstyle": "->", "linestyle": ":"})
ax.text(4.75, 1, "source task:\nImageNet", va="center")
ax.text(4.75, 0, "target task:\nyours", va="center")
ax.set(
    xlim=(-0.5, 5.6), ylim=(-0.5, 1.5), title="The layers are copied, only the dashed head is new"
)
ax.axis("off")
figures.show(
    fig,
    """Two chains of layers, from a picture over edges, textures and things to a head. The lower
chain takes over all layers of the upper one and has a new head, drawn dashed.""",
)

# %% [markdown]
# **Guess first.** Eight kinds, so guessing is right for one in eight. With a hundred labels, how
# often is the small network right on drawings it has not seen? How often the transferred one? Write
# both down.
#
# First the small network, from random weights:

# %% tags=["pytorch"]
import torch
from torch import nn


def small_network():
    blocks = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8))
    return nn.Sequential(*blocks, *head).to(run.device)


def from_scratch(train, test, seed, epochs):
    torch.manual_seed(seed)
    model = small_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    X = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(run.device)
    y = torch.tensor(data.labels).to(run.device)
    for _ in range(epochs):
        for rows in torch.from_numpy(train)[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return model(X[test]).argmax(dim=1).cpu().numpy()


# %% tags=["tensorflow"]
import keras
from keras import layers


def small_network():
    blocks = [
        layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")
        for width in (16, 32, 64)
    ]
    head = (layers.GlobalAveragePooling2D(), layers.Dense(8))
    return keras.Sequential([layers.Input((64, 64, 3)), *blocks, *head])


def from_scratch(train, test, seed, epochs):
    keras.utils.set_random_seed(seed)
    model = small_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss)
    model.fit(pixels[train], data.labels[train], batch_size=32, epochs=epochs, verbose=0)
    return np.array(model(pixels[test])).argmax(axis=1)


# %% [markdown]
# Then the transferred one. EfficientNet-Lite0 with its head cut off turns every drawing into 1,280
# numbers, the **features**. Its weights stay as they are; you train a linear classifier on top.

# %%
import time

from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlcourse.backbones.image import resize

started = time.perf_counter()
F = features.extract(backbones.load("efficientnet-lite0"), data.images)["head"]
print(f"features {F.shape} in {time.perf_counter() - started:.1f} s (kept on disk from now on)")
pixels = resize(data.images, 64).astype("float32") / 127.5 - 1


def transferred(train, test, labels):
    head = make_pipeline(StandardScaler(), RidgeClassifier(alpha=F.shape[1]))
    return head.fit(F[train], labels[train]).predict(F[test])


# %% [markdown]
# Neighbours in the Unicode chart are variants of one drawing (nine cats), so whole rows of the
# chart are held out for testing. The score is the mean over the classes of the share that is found
# (balanced accuracy), and each draw of labels is repeated with other seeds: one number alone would
# be an anecdote.

# %%
from sklearn.metrics import balanced_accuracy_score

counts, epochs = run.pick(smoke=(25, 100), cpu=(25, 100, 300)), run.pick(smoke=2, cpu=25)
seeds = run.seeds(5)
scratch, transfer, control = (np.empty((len(counts), len(seeds))) for _ in range(3))
for column, seed in enumerate(seeds):
    pool, test = data.split("block", test_size=0.25, seed=seed)
    pool, shuffled = np.random.default_rng(seed).permutation(pool), data.labels.copy()
    shuffled[pool] = data.labels[np.random.default_rng(seed + 1).permutation(pool)]
    for row, count in enumerate(counts):
        train = pool[:count]
        answers = (
            from_scratch(train, test, seed, epochs),
            transferred(train, test, data.labels),
            transferred(train, test, shuffled),
        )
        for scores, answer in zip((scratch, transfer, control), answers, strict=True):
            scores[row, column] = balanced_accuracy_score(data.labels[test], answer)

# %% [markdown]
# Move the slider to give both more labels.

# %%
frames = {}
for row, count in enumerate(counts):
    fig, ax = plt.subplots(figsize=(6.4, 2.2))
    for line, scores in enumerate((transfer[row], scratch[row])):
        look = {"color": figures.COLORS[line], "marker": figures.MARKERS[line]}
        ax.plot(scores, np.full(len(seeds), line), linestyle="", alpha=0.8, **look)
    ax.axvline(1 / 8, color="0.4", linestyle=":")
    ax.text(1 / 8, 1.62, " chance", fontsize=9, va="top")
    ax.set_yticks(range(2), ["transferred", "from random weights"])
    ax.set(xlim=(0, 1), ylim=(-0.6, 1.7), xlabel="balanced accuracy, one mark a seed")
    ax.set_ylabel("network")
    means = f"{scratch[row].mean():.2f} from random weights, {transfer[row].mean():.2f} transferred"
    ax.set_title(f"{count} labels: {means}")
    frames[f"{count} labels"] = fig
alt = "Balanced accuracies of five seeds as marks in two rows; the transferred network is ahead."
figures.slider(frames, "labelled drawings", alt, start="100 labels")

print("labels, from random weights, transferred, transferred on shuffled labels")
for count, *means in zip(counts, scratch, transfer, control, strict=True):
    print(count, *(f"{values.mean():.3f}" for values in means))

# %%
text = "With 100 labels the transferred network is ahead by more than 0.05"
claim_margin("00.taste", text, transfer[1], scratch[1], above=0.05)
text = "It is ahead with a third of the labels, too: 100 against 300"
claim_margin("00.fewer", text, transfer[1], scratch[-1], above=0)
text = "Trained on shuffled labels the same features are within 0.1 of chance: nothing has leaked"
claim_margin("00.control", text, control[1], 1 / 8, above=-0.1, below=0.1)

# %% [markdown]
# That is what people mean when they say that transfer learning needs less data. The boxes are
# **claims**: the notebook computes them on your machine, with an interval over the seeds, and stops
# if one is not true. The last one is a control; whoever shows you a high number should show you
# one.
#
# Four words to keep. The **pretrained model** brings weights from the **source task**. Using its
# layers frozen, as here, is **feature extraction**. Training some of them further on the **target
# task** is **fine-tuning**.
#
# Is it always better? No. It can help less, nothing at all, or do harm. The drawings are near to
# what ImageNet shows; the solar cells of the next notebooks are not. The honest answer needs
# measurements, and that is what this course is made of.

# %% [markdown]
# ## Where do you go from here?
#
# - **01 [Theory and formulas](01_theory_and_formulas.ipynb)**: what is transferred, and what
#   does theory promise? 45 minutes to read, 1 to run. Needs derivatives and matrices.
# - **02 [When it helps, when it hurts](02_when_it_helps.ipynb)**: how many labels is a pretrained
#   network worth, and when does it do harm? 45 minutes, 1 to run. Needs this page.
# - **03 [Pretrained models and data](03_pretrained_models_and_data.ipynb)**: what is inside the
#   networks that people reuse, and how do you check what you were given? 45 minutes, 1 to run.
#   Needs this page and convolution.
# - **04 [Feature extraction](04_feature_extraction.ipynb)**: what does a network know of pictures
#   it has never seen, and which of its layers do you ask? 40 minutes, 1.5 to run. Needs this page.
# - **05 [Fine-tuning](05_fine_tuning.ipynb)**: when is it worth moving the weights, which of them,
#   and how far? 45 minutes, 1.5 to run. Needs 04.
# - **06 [BERT: what it knows](06_bert_what_it_knows.ipynb)**: what happens to a sentence inside a
#   language model, and where in it does knowledge stand? 45 minutes, 1 to run. Needs 01 and 04.
# - **07 [BERT: fine-tuning](07_bert_fine_tuning.ipynb)**: when does training a language model
#   further beat leaving it as it is? 45 minutes, 1.5 to run. Needs 06.
# - **08 [Domain adaptation](08_domain_adaptation.ipynb)**: the labels are in one place, the work is
#   in another: what helps, and what makes it worse? 45 minutes, 1 to run. Needs 01 and 04.
# - **09 [Many tasks, and one after another](09_many_tasks.ipynb)**: which tasks help each other,
#   and what is forgotten on the way? 45 minutes, 1 to run. Needs 05 and 06.
# - **10 [Case study: solar-cell inspection](10_case_study.ipynb)**: from the data sheet to a model
#   that somebody can run and trust. 45 minutes, 1.5 to run. Needs 04.
# - **11 [Beyond: detection, sound, image and text](11_beyond.ipynb)**: what else can a frozen
#   network see, hear and name? 45 minutes, 1 to run. Needs 04 and 06.
# - **12 [More data, more machines](12_scale.ipynb)**: from two cores to a billion pictures, and
#   when to stop adding machines. 45 minutes, 1 to run. Needs 04.
# - **13 [The interview room](13_interview_room.ipynb)**: what would you be asked, and what do you
#   still know next week? As long as you like; go there after any lesson.
#
# Begin with 01 if you like to know what the words mean, with 04 if you would rather see things
# work.
#
# A notebook asks before it shows. Write your answer down, then run the cell; what surprises you
# is what you learn.
#
# A notebook that you run to its end is noted in your own record: a file on this machine that
# nobody else reads. `tlcourse progress` shows it, carries it to another machine and deletes it.

# %%
from tlcourse import progress

for name, last in progress.lessons():
    words = f"run {last.at[:10]}, {last.points:g} of {last.possible:g} claims held" if last else ""
    print("✔" if last else "○", name.replace("_", " "), words)
solved = {event.item for event in progress.events("exercise") if event.points == event.possible}
print(len(solved), "exercises solved", *sorted(solved))

# %%
summary()

# %% [markdown]
# ## What do you do when something fails?
#
# 1. Restart the kernel and run all cells (the ⏩ button). A cell that ran in the wrong order is
#    the most common reason.
# 2. Open a terminal (*File*, *New*, *Terminal*) in the course's folder and type
#
#    ```
#    .venv/bin/tlcourse doctor
#    ```
#
#    (on Windows `.venv\Scripts\tlcourse doctor`). It checks the installation, the weights and the
#    data, and says what to do about each problem.
# 3. Weights or data that are damaged are fetched again by themselves; that once needs a network.
