# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # BERT: fine-tuning
#
# You take a small BERT that has read a great deal of English, put a classifier of 770 numbers on
# top, and train both to tell praise from blame in film reviews. At the end you will be able to
#
# - write the fine-tuning loop, with warm-up, decay, clipping and masks, and say why each is there;
# - decide between TF-IDF, frozen features and fine-tuning from the number of labels you have;
# - report a result with its spread over seeds, and read a learning-rate map;
# - write LoRA in about twenty lines, merge it, and say what it saves and what it does not;
# - find the faults in the code that is commonly taught, read a model's mistakes and calibrate it.
#
# *You need: gradient descent, cross-entropy, and what a token is (notebook 06 looks inside BERT).
# About 45 minutes to read, a little over a minute to run on two cores.*

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
# ## The sentences
#
# Hutto and Gilbert (2014) had sentences from film reviews rated by about twenty people each, from
# −4 to 4. `sentiment` drops repeated sentences and those within 0.5 of neutral. A fifth, drawn at
# random with equal shares of both classes, is kept for testing and never changes. Which sentences
# come from one review is not recorded, so nobody can say how many test sentences have a sister in
# training.

# %%
import numpy as np

from tlcourse import assets, backbones, datasets, engine, features, figures, finetuning
from tlcourse.evidence import claim, claim_margin, mean_interval, paired_interval, summary

data = datasets.sentiment("movie")
data = data.subset(np.arange(0, len(data), run.pick(smoke=25, cpu=1)))
pool, test = data.split(test_size=0.2, seed=0)
print(data, f"{len(pool)} to train on, {len(test)} to test on", sep="\n")

# %% [markdown]
# ## What is transferred, what is new?
#
# The encoder arrives with everything it learned: MiniLM, six layers, the architecture of BERT.
# The head is new: random weights for two classes. Guess its share before you run the cell.

# %% tags=["pytorch"]
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self, bert):
        super().__init__()
        self.bert, self.dropout = bert, nn.Dropout(0.1)
        self.head = nn.Linear(bert.config.hidden_size, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs):
        states = self.bert(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        pooled = (states * mask).sum(1) / mask.sum(1)
        return self.head(self.dropout(pooled)).float()


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


encoder = backbones.load("minilm")
model = Classifier(encoder.model)
print(f"transferred {trained(model.bert):,}, new {trained(model.head):,} parameters")

# %% tags=["tensorflow"]
import keras
from keras import layers, ops


def classifier(bert):
    states, mask = bert.output["sequence_output"], bert.input["padding_mask"]
    pooled = layers.GlobalAveragePooling1D()(states, mask=mask)
    pooled = layers.Dropout(0.1)(pooled)
    small = keras.initializers.RandomNormal(stddev=0.02)
    return keras.Model(bert.input, layers.Dense(2, kernel_initializer=small, name="head")(pooled))


def trained(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)


encoder = backbones.load("minilm")
model = classifier(encoder.model)
head = model.get_layer("head")
print(f"transferred {trained(encoder.model):,}, new {trained(head):,} parameters")

# %% [markdown]
# The head reads the mean over the real tokens, because this checkpoint was trained to put its
# meaning there. BERT as published reads the first token, `[CLS]`; notebook 06 compares the two.
#
# ## From strings to numbers
#
# Texts of one batch are padded to one length; a mask of ones and zeros says which tokens are real.

# %%
two = encoder.tokenize(["A fine film.", "Not a fine film, alas."])
for name, values in encoder.pad(two).items():
    print(name, values.tolist())

# %% [markdown]
# The vocabulary was built from text without accents, so the tokenizer has to strip them. Watch
# what happens to a word that film critics love.

# %% tags=["pytorch"]
print(encoder.tokenizer.tokenize("a cliché"))

# %% tags=["tensorflow"]
import keras_hub

plain = keras_hub.models.BertTokenizer.from_preset(str(assets.locate("minilm")))
for tokenizer in (plain, encoder.tokenizer):
    print([tokenizer.id_to_token(int(number)) for number in tokenizer("a cliché")])

# %% [markdown] tags=["tensorflow"]
# KerasHub reads a BERT folder with `strip_accents=False`, and the word is lost as `[UNK]`, without
# a warning. The course's loader passes `strip_accents=True`, which gives the second line.

# %% [markdown] tags=["pytorch"]
# The accent is gone and the word survives in two pieces. Not every loader does this: KerasHub
# reads the same folder without stripping, and the word becomes `[UNK]`, without a warning.

# %% [markdown]
# ## The loss before the first step
#
# A head of small random weights gives each class a probability near one half. What is the
# cross-entropy then? Write the number down. It is the first thing to check in any fine-tuning.

# %% tags=["pytorch"]
from copy import deepcopy

start = deepcopy(encoder.model.state_dict())  # every run below starts from this copy
BF16 = engine.precision_here() == "bf16"  # half the bytes, where the processor computes in it


def copy_of_encoder():
    encoder.model.load_state_dict(start)
    return deepcopy(encoder.model)


def fresh_model(seed):
    torch.manual_seed(seed)
    model = Classifier(copy_of_encoder())
    model.bert.embeddings.requires_grad_(False)
    return model.to(run.device)


def predict(model, rows, by_length=True):
    model.eval()
    parts = batches(rows, batch_size=64, by_length=by_length)
    with torch.no_grad(), torch.autocast(run.device, torch.bfloat16, enabled=BF16):
        return np.concatenate([model(inputs).cpu().numpy() for inputs, _ in parts])


# %% tags=["tensorflow"]
import tensorflow as tf

start = encoder.model.get_weights()  # every run below starts from this copy
if engine.precision_here() == "bf16":  # half the bytes, where the processor computes in it
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})


def fresh_model(seed):
    keras.utils.set_random_seed(seed)
    encoder.model.set_weights(start)
    head.set_weights([keras.random.normal(head.kernel.shape, stddev=0.02), np.zeros(2)])
    return model


def predict(model, rows, by_length=True):
    return model.predict(batches(rows, batch_size=64, by_length=by_length), verbose=0)


# %%
tokens = encoder.tokenize(data.texts, max_length=64)
lengths = np.array([len(row) for row in tokens])
vectors = features.extract_text(encoder, data.texts, max_length=64)[encoder.layers[-1]]


def batches(rows, **options):
    return finetuning.text_batches(encoder, tokens, data.labels, rows=rows, **options)


def cross_entropy(logits, labels):
    shifted = logits - logits.max(1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -log_shares[np.arange(len(labels)), labels].mean()


shown = np.random.default_rng(0).permutation(test)[: run.pick(smoke=60, cpu=700)]
shown = shown[np.argsort(lengths[shown], kind="stable")]  # so that predictions keep this order
truth, seeds = data.labels[shown], run.seeds(3)

# %%
few = shown[::8]
first = [cross_entropy(predict(fresh_model(seed), few), truth[::8]) for seed in seeds]
loss, interval = mean_interval(first)
holds = max(np.abs(np.array(first) - np.log(2))) < 0.05
text = "before training the loss lies within 0.05 of ln 2 = 0.693: the head knows nothing"
claim("07.start", text, holds, loss, interval, len(first))

# %% [markdown]
# If yours starts at 3, something is wrong with the head, the labels or the loss, and it is cheaper
# to see it now than after an hour.
#
# ## The loop
#
# Four habits, each with its reason. **Warm-up**: in the first steps Adam's estimates rest on a
# handful of gradients and the new head's errors are large; a small rate keeps them from shaking the
# encoder. **Decay** to zero: the last batches do not throw the result about. **AdamW**: weight
# decay kept apart from the gradient (Loshchilov and Hutter, 2019). **Clipping**: one strange batch
# cannot dictate a long step. With peak rate $\eta$, $T$ steps and $W$ of them warm-up, the rate at
# step $t$ is $\eta\,\min\left(\frac{t+1}{W},\ \frac{T-t}{T-W}\right)$.


# %% tags=["pytorch"]
def share_of_peak(step, steps, warmup=0.1):
    up = max(1, round(warmup * steps))
    return min((step + 1) / up, (steps - step) / max(1, steps - up))


def fine_tune(model, rows, seed, epochs, rate=1e-4):
    train = batches(rows, seed=seed, batch_size=32)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: share_of_peak(step, epochs * len(train))
    )
    losses = np.zeros((epochs, len(train)))
    model.train()
    for epoch in range(epochs):
        for number, (inputs, labels) in enumerate(train):
            with torch.autocast(run.device, torch.bfloat16, enabled=BF16):
                loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses[epoch, number] = loss.item()
    return losses.mean(1)


# %% tags=["tensorflow"]
class WarmupThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak, steps, warmup=0.1):
        self.peak, self.steps, self.up = peak, steps, max(1, round(warmup * steps))

    def __call__(self, step):
        step = ops.cast(step, "float32")
        falling = ops.maximum(self.steps - step, 0) / max(1, self.steps - self.up)
        return self.peak * ops.minimum((step + 1) / self.up, falling)


def compiled(model, steps, rate=1e-4):
    schedule = WarmupThenDecay(rate, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)  # or the training step would be traced twice
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fine_tune(model, rows, seed, epochs):
    for slot in model.optimizer.variables:  # as good as a new optimizer, and nothing is retraced
        slot.assign(ops.zeros_like(slot))
    train = batches(rows, seed=seed, batch_size=32)
    return model.fit(train, epochs=epochs, verbose=0).history["loss"]


# %% [markdown]
# Three runs, each with its own labelled sentences, head and order of batches. The word vectors stay
# as they came: half of all numbers, which need not move here (measured under "Freezing").

# %%
size, epochs = run.pick(smoke=32, cpu=500), run.pick(smoke=1, cpu=3)


def labelled(count, seed):
    return np.random.default_rng(seed).permutation(pool)[:count]


# %% tags=["tensorflow"]
bert = encoder.model
embeddings = [bert.token_embedding, bert.position_embedding, bert.segment_embedding]
for layer in [*embeddings, bert.embeddings_layer_norm]:
    layer.trainable = False
model = compiled(model, steps=epochs * -(-size // 32))

# %%
logits = []
for seed in seeds:
    full = fresh_model(seed)
    losses = fine_tune(full, labelled(size, seed), seed, epochs)
    logits.append(predict(full, shown))
    right = np.mean(logits[-1].argmax(1) == truth)
    print(f"seed {seed}: loss by epoch {np.round(losses, 3)}, test accuracy {right:.3f}")
live = np.array([np.mean(each.argmax(1) == truth) for each in logits])

# %% [markdown]
# ## Was it worth it?
#
# Four ways to use the same labelled sentences: **TF-IDF** of words and pairs of words with
# logistic regression; **frozen features**, one vector a sentence from the encoder as it is, with
# logistic regression; **fine-tuned**, as above; **from scratch**, the same architecture from random
# weights, the same number of steps, at five times the rate. Which is best with 100 labels, which
# with 5,000? Write down your order for both. The first two take seconds, so you run them yourself.
#
# A trap on the way: `vectors` was computed above, before any training. Taken now, from the encoder
# that you have just trained, "frozen features" would be fine-tuned ones, and look splendid.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")  # for matrices this small, one thread is the fastest
texts = np.array(data.texts, dtype=object)


def tf_idf(rows):
    counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    fitted = make_pipeline(counts, LogisticRegression(C=10, max_iter=1000))
    return fitted.fit(texts[rows], data.labels[rows]).score(texts[test], data.labels[test])


def probe(rows, on=test):
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return fitted.fit(vectors[rows], data.labels[rows]).score(vectors[on], data.labels[on])


# %%
sizes = (100, 500, 2000, 5000)
scale = run.pick(smoke=0.04, cpu=1)  # smoke has few sentences to draw from
draws = [[labelled(int(scale * n), seed) for seed in run.seeds(5)] for n in sizes]
words = np.array([[tf_idf(rows) for rows in at_size] for at_size in draws])
frozen = np.array([[probe(rows) for rows in at_size] for at_size in draws])

# %% [markdown]
# The other two take half an hour. They were run once, in PyTorch; the file says with what command,
# where and when, and keeps every seed. You can repeat it: it goes on where it stopped.

# %%
import json

from tlcourse.notebooks import project_root

path = project_root() / "benchmarks" / "results" / "bert_labels_pytorch.json"
record = json.loads(path.read_text())
print(record["command"], record["date"][:10], record["machine"], sep="\n")
RATES = {"fine-tuned": 1e-4, "from scratch": 5e-4, "LoRA": 1e-3}


def recorded(labels, method="fine-tuned", rate=None, warmup=0.1, frozen=0):
    wanted = (method, labels, rate or RATES[method], warmup, frozen)
    keys = ("method", "labels", "rate", "warmup", "frozen")
    found = [r for r in record["runs"] if tuple(r[key] for key in keys) == wanted]
    return np.array([r["accuracy"] for r in sorted(found, key=lambda r: r["seed"])])


# %%
import matplotlib.pyplot as plt

tuned = np.array([recorded(n)[:5] for n in sizes])
scratch = np.array([recorded(n, "from scratch")[:5] for n in sizes])
fig, ax = plt.subplots()
lines = {"TF-IDF": words, "frozen features": frozen}
lines |= {"fine-tuned (recorded)": tuned, "from scratch (recorded)": scratch}
for index, (label, accuracies) in enumerate(lines.items()):
    figures.lines(ax, sizes, accuracies, label, index)
ax.plot([size] * len(live), live, "k_", markersize=12, label="fine-tuned (your runs)")
ax.set(xscale="log", xlabel="labelled sentences", ylabel="test accuracy")
ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
ax.minorticks_off()
gain = 100 * (tuned[-1].mean() - frozen[-1].mean())
ax.set_title(f"At 5,000 labels fine-tuning is {gain:.0f} points above frozen features")
ax.legend(fontsize=8)
alt = (
    "Test accuracy against 100 to 5,000 labels for four methods, with 95 % intervals: fine-tuning "
)
figures.show(fig, alt + "rises furthest, TF-IDF catches up with frozen features, scratch is last.")

# %% [markdown]
# Read it from the left. With few labels the pretrained vectors are far ahead of counted words; with
# thousands the words have caught up. "Pretrained features always beat bag of words" is not what you
# see. Fine-tuning compares with the same sentences, frozen: your own runs, then both recorded ends.

# %%
gap, interval = paired_interval(frozen[0], words[0])
text = "at 100 labels frozen features beat TF-IDF by more than 5 points"
claim("07.few", text, interval[0] > 0.05, gap, interval, len(words[0]))
gap, interval = paired_interval(frozen[-1], words[-1])
text = "at 5,000 labels the two lie within 2 points of each other"
claim("07.many", text, max(np.abs(interval)) < 0.02, gap, interval, len(words[0]))

# %%
same = np.array([probe(labelled(size, seed), on=shown) for seed in seeds])
gain, interval = paired_interval(live, same)
text = f"at {size} labels your fine-tuned models beat frozen features, on average by over 1 point"
claim("07.live", text, gain > 0.01, gain, interval, len(live))


def gain_over_probe(accuracies, n):
    rows = [labelled(int(scale * n), seed) for seed in range(len(accuracies))]
    return paired_interval(accuracies, [probe(these) for these in rows])


gain, interval = gain_over_probe(tuned[0], 100)
text = "at 100 labels no gain over the frozen features can be told from luck"
claim("07.hundred", text, interval[0] < 0 < interval[1], gain, interval, len(tuned[0]))
ten = recorded(500)
gain, interval = gain_over_probe(ten, 500)
text = "at 500 labels, over ten seeds, fine-tuning is more than 3 points ahead"
claim("07.gain", text, interval[0] > 0.03, gain, interval, len(ten))
gain, interval = gain_over_probe(tuned[-1], 5000)
text = "at 5,000 labels it is more than 5 points ahead"
claim("07.thousands", text, interval[0] > 0.05, gain, interval, len(tuned[-1]))

# %%
behind = [mean_interval(words[k].mean() - scratch[k]) for k in range(3)]
least, interval = min(behind)
text = "without pretraining the Transformer is behind TF-IDF at 100, at 500 and at 2,000 labels"
claim("07.scratch", text, interval[0] > 0, least, interval, len(scratch[0]))

# %% [markdown]
# The pretraining is worth more than the architecture. Without it, six layers of attention lose to
# counted words at this budget of steps. At 5,000 labels five seeds no longer decide it, and both
# are far from the same layers with their pretraining.
#
# ## One seed is an anecdote
#
# Ten recorded runs with 500 labels differ in nothing but the seed: which sentences were labelled,
# the head, the order. How far apart are the best and the worst?

# %%
fig, ax = plt.subplots(figsize=(6.4, 2.2))
rows = {"recorded": ten, "your runs": live}
for index, accuracies in enumerate(rows.values()):
    look = {"color": figures.COLORS[index], "marker": figures.MARKERS[index]}
    ax.plot(accuracies, np.full(len(accuracies), index), linestyle="", alpha=0.7, **look)
ax.set_yticks(range(2), rows)
ax.set(xlabel="test accuracy", ylabel="runs", ylim=(-0.6, 1.6))
ax.set_title(f"One recipe, ten seeds: from {ten.min():.3f} to {ten.max():.3f} at 500 labels")
figures.show(fig, "Test accuracies of ten recorded seeds and of your runs, as dots in two rows.")

# %%
rng = np.random.default_rng(0)
best = [rng.choice(ten, 5, replace=False).max() - ten.mean() for _ in range(2000)]
text = "the best of five seeds flatters the method, on average by more than half a point"
claim(
    "07.spread", text, np.mean(best) > 0.005, np.mean(best), np.quantile(best, (0.025, 0.975)), 10
)
away, interval = mean_interval(live - recorded(500, frozen=1).mean())
text = "your runs agree with those recorded on another day: the means lie within 3 points"
claim("07.again", text, abs(away) < 0.03, away, interval, len(live))

# %% [markdown]
# So give the mean, the interval and the number of seeds; the best run is a number about luck.
#
# ## Rate and warm-up
#
# `"adam"` as a string means a rate of 0.001. Is that a good rate here, and does warm-up rescue it?
# Recorded at 500 labels, three seeds a cell.

# %%
rates, warmups = (1e-5, 1e-4, 3e-4, 1e-3), (0, 0.1)
grid = np.array([[recorded(500, rate=r, warmup=w)[:3] for r in rates] for w in warmups])
fig, ax = plt.subplots(figsize=(6.4, 2.4))
ax.imshow(grid.mean(2), aspect="auto", vmin=0.5, vmax=0.85)
for (row, column), mean in np.ndenumerate(grid.mean(2)):
    words_in_cell = f"{mean:.3f}\nrange {np.ptp(grid[row, column]):.3f}"
    color = "black" if mean > 0.7 else "white"
    ax.text(column, row, words_in_cell, ha="center", va="center", color=color, fontsize=9)
ax.set_xticks(range(4), ["0.00001", "0.0001", "0.0003", "0.001"])
ax.set_yticks(range(2), ["none", "10 %"])
ax.grid(False)
ax.set(xlabel="peak learning rate", ylabel="warm-up")
ax.set_title("The rate decides, and the default of Adam wrecks the encoder")
figures.show(fig, "Test accuracy for four rates, with and without warm-up, as numbers in a grid.")

# %%
costs = (grid[:, 1] - grid[:, 3]).ravel()
cost, interval = mean_interval(costs)
text = "each of the six runs at Adam's default ends more than 5 points below its twin at 0.0001"
claim("07.rate", text, min(costs) > 0.05, cost, interval, len(costs))
effect, interval = paired_interval(grid[1, 1], grid[0, 1])
text = "at the good rate, warm-up moves the accuracy by less than 2 points"
claim("07.warmup", text, abs(effect) < 0.02, effect, interval, 3)

# %% [markdown]
# At 0.001 most runs end at chance: the encoder is wrecked, and warm-up is no insurance. The lowest
# rate does no harm; in so few steps it does not get far.
#
# ## LoRA in twenty lines
#
# Fine-tuning changes a weight matrix $W$ by some $\Delta W$. LoRA (Hu et al., 2021) keeps $W$ and
# learns the change as a product of two thin matrices of rank $r$,
# $\Delta W = \frac{\alpha}{r} B A$, here in the query and value projections of every layer. $B$
# starts at zero, so the first step starts from the pretrained model itself.


# %% tags=["pytorch"]
class LoRALinear(nn.Module):
    def __init__(self, base, rank=8, alpha=16):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.a.T @ self.b.T)

    def merged(self):
        self.base.weight.data += self.scale * self.b.data @ self.a.data
        return self.base


def change_projections(bert, change):
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        attention.query, attention.value = change(attention.query), change(attention.value)
    return bert


torch.manual_seed(run.seed)
adapted = change_projections(copy_of_encoder().requires_grad_(False), LoRALinear)
lora = Classifier(adapted).to(run.device)


# %% tags=["tensorflow"]
class LoRADense(layers.Layer):
    def __init__(self, base, rank=8, alpha=16):
        super().__init__(name=f"{base.name}_lora")
        self.base, self.scale = base, alpha / rank
        width, *out = base.kernel.shape  # (384, 12 heads, 32): one matrix of 384 by 384
        self.a = self.add_weight(name="a", shape=(width, rank), initializer="he_uniform")
        self.b = self.add_weight(name="b", shape=(rank, int(np.prod(out))), initializer="zeros")

    def call(self, x):
        kept = self.base(x)
        change = self.scale * ops.matmul(ops.matmul(x, self.a), self.b)
        return kept + ops.reshape(change, ops.shape(kept))

    def merged(self):
        change = self.scale * ops.matmul(self.a, self.b)
        self.base.kernel.assign_add(ops.reshape(change, self.base.kernel.shape))
        return self.base


# %% [markdown] tags=["tensorflow"]
# Keras computes $xW$, so its change is $AB$. A built Keras layer is locked against new weights;
# `enable_lora`, Keras' own version, lifts the same lock for a moment.


# %% tags=["tensorflow"]
def copy_of_encoder():
    bert = keras_hub.models.BertBackbone.from_config(encoder.model.get_config())
    bert.set_weights(start)
    return bert


def change_projections(bert, change):
    for layer in bert.transformer_layers:
        attention = layer._self_attention_layer
        attention._tracker.unlock()
        attention._query_dense = change(attention._query_dense)
        attention._value_dense = change(attention._value_dense)
        attention._tracker.lock()
    return bert


adapted = copy_of_encoder()
for layer in adapted.layers:
    layer.trainable = False
change_projections(adapted, LoRADense)
lora = compiled(classifier(adapted), steps=100, rate=3e-3)

# %% [markdown]
# Which share of the numbers is trained now? And the question that many get wrong: by which factor
# does a step become faster? Write down both.

# %%
import time

one_batch, repeats = labelled(run.pick(smoke=4, cpu=32), 0), run.pick(smoke=1, cpu=3)


# %% tags=["pytorch"]
def one_step(model):
    fine_tune(model, one_batch, seed=0, epochs=1)


# %% tags=["tensorflow"]
batch = batches(one_batch)[0]


def one_step(model):
    model.train_on_batch(*batch)  # fit would add its own start and end to every step


# %%
def step_times(model):
    one_step(model)  # the first call allocates and traces
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        one_step(model)
        seconds.append(time.perf_counter() - began)
    return np.array(seconds)


full_steps, lora_steps = step_times(full), step_times(lora)
for name, each, times in (("full", full, full_steps), ("LoRA", lora, lora_steps)):
    memory = 8e-6 * trained(each)  # AdamW keeps two numbers of four bytes for each
    step = 1000 * times.min()
    print(f"{name}: {trained(each):,} trained, AdamW {memory:.1f} MB, step {step:.0f} ms")


# %%
def speed_up(before, after):
    """Return the ratio of the fastest repeats, the range of the ratios, and the repeats."""
    bounds = before.min() / after.max(), before.max() / after.min()
    return before.min() / after.min(), bounds, len(after)  # other programs only slow things down


faster, *others = speed_up(full_steps, lora_steps)
text = "LoRA cuts the optimizer's memory more than 100-fold, the time of a step less than 4-fold"
claim("07.lora.cost", text, trained(lora) < trained(full) / 100 and faster < 4, faster, *others)

# %% [markdown]
# The forward pass is as long as before, and the gradient still travels back through every layer.
# LoRA saves memory and disk, a small file for each task; it does not make training cheap.
#
# **Merging.** After training, $W + \Delta W$ is a matrix like any other, and the model as fast as
# before. Do the sentence vectors of the two forms agree?


# %% tags=["pytorch"]
def vectors_of(bert):
    mask = inputs["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        return ((bert.eval()(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)).cpu().numpy()


inputs, _ = next(iter(batches(few, batch_size=64)))
unmerged = deepcopy(adapted)
before = vectors_of(copy_of_encoder().to(run.device))
apart, together = vectors_of(unmerged), vectors_of(change_projections(adapted, LoRALinear.merged))


# %% tags=["tensorflow"]
def vectors_of(bert):
    states = bert(inputs)["sequence_output"]
    return np.array(layers.GlobalAveragePooling1D()(states, mask=inputs["padding_mask"]))


inputs, _ = batches(few, batch_size=64)[0]
before, apart, rank_8 = vectors_of(copy_of_encoder()), vectors_of(adapted), trained(adapted)
together = vectors_of(change_projections(adapted, LoRADense.merged))

# %%
difference, moved = np.abs(apart - together).max(), np.abs(together - before).max()
text = f"merged and unmerged agree to 1e-5, though training moved the vectors by {moved:.2g}"
claim("07.lora.merge", text, difference < 1e-5 and moved > 1e-3, difference)

# %% [markdown] tags=["pytorch"]
# **Against the library.** PEFT builds the same thing. Give it your $A$ and $B$ and compare outputs
# and gradients.

# %% tags=["pytorch"]
from peft import LoraConfig, get_peft_model

config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
library = get_peft_model(copy_of_encoder(), config).to(run.device)
pairs = []
for name, own in unmerged.named_modules():
    if isinstance(own, LoRALinear):
        other = library.base_model.model.get_submodule(name)
        pairs += [(own.a, other.lora_A["default"].weight), (own.b, other.lora_B["default"].weight)]
for own, other in pairs:
    other.data.copy_(own.data)
gaps = [np.abs(vectors_of(unmerged) - vectors_of(library)).max()]
for bert in (unmerged, library):
    bert.zero_grad()
    bert(**inputs).last_hidden_state.square().mean().backward()
gaps += [(own.grad - other.grad).abs().max().item() for own, other in pairs]
text = "your twenty lines and PEFT agree to 1e-5 in vectors and gradients"
claim("07.lora.library", text, max(gaps) < 1e-5, max(gaps))

# %% [markdown] tags=["tensorflow"]
# **Against the library.** Keras has `enable_lora` on its dense layers. Give one your $A$ and $B$
# and compare outputs and gradients, relative to the largest.

# %% tags=["tensorflow"]
import tensorflow as tf

base, theirs = layers.Dense(384), layers.Dense(384)
for dense in (base, theirs):
    dense.build((None, 384))
theirs.set_weights(base.get_weights())
theirs.enable_lora(8, lora_alpha=16)
ours = LoRADense(base)
ours.b.assign(keras.random.normal(ours.b.shape, seed=0))
theirs.lora_kernel_a.assign(ours.a)
theirs.lora_kernel_b.assign(ours.b)
x = keras.random.normal((8, 384), seed=1)
with tf.GradientTape(persistent=True) as tape:
    outputs = [ours(x), theirs(x)]
    losses = [ops.mean(ops.square(values)) for values in outputs]
own = [outputs[0], *tape.gradient(losses[0], [ours.a.value, ours.b.value])]
kernels = [theirs.lora_kernel_a.value, theirs.lora_kernel_b.value]
other = [outputs[1], *tape.gradient(losses[1], kernels)]
gaps = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(own, other, strict=True)]
text = "your twenty lines and enable_lora of a dense layer agree to 1e-5 in outputs and gradients"
claim("07.lora.library", text, max(gaps) < 1e-5, max(gaps))

# %% [markdown] tags=["tensorflow"]
# On BERT's attention the library does something else. The kernel has three axes there, and
# `enable_lora` factors only the last. How many numbers, and what rank has the change as a matrix?

# %% tags=["tensorflow"]
library = copy_of_encoder()
library.enable_lora(8)
query = library.transformer_layers[0]._self_attention_layer._query_dense
b = keras.random.normal(query.lora_kernel_b.shape, seed=0)
change = ops.reshape(ops.matmul(query.lora_kernel_a, b), (384, 384))
rank, more = np.linalg.matrix_rank(change), trained(library) / rank_8
print(f"A {query.lora_kernel_a.shape}, B {b.shape}: the change has rank {rank}")
text = "enable_lora(8) on KerasHub's BERT trains over 5 times as many numbers as LoRA of rank 8"
claim("07.lora.rank", text, more > 5 and rank > 8, more)

# %% [markdown] tags=["tensorflow"]
# Each head gets its own $A$, all heads share one small $B$, and the biases are trained too. It
# works; but "rank 8" in a report then means something else than in the paper.

# %% [markdown]
# **Accuracy.** Recorded, five seeds at 500 labels, the same number of steps as full fine-tuning, at
# ten and at thirty times its rate. Does training so few numbers cost anything?

# %%
ten_times, thirty_times = recorded(500, "LoRA"), recorded(500, "LoRA", rate=3e-3)
print(f"full {tuned[1].mean():.3f}, LoRA {ten_times.mean():.3f} and {thirty_times.mean():.3f}")
cost, interval = paired_interval(tuned[1], ten_times)
text = "LoRA at ten times the rate stays more than 1 point behind full fine-tuning"
claim("07.lora.slow", text, interval[0] > 0.01, cost, interval, len(ten_times))
cost, interval = paired_interval(tuned[1], thirty_times)
text = "LoRA at thirty times the rate is within 2 points of full fine-tuning"
claim("07.lora.equal", text, max(np.abs(interval)) < 0.02, cost, interval, len(thirty_times))

# %% [markdown]
# The rate of full fine-tuning is the wrong start for LoRA: a comparison that tunes one side only
# finds what it wants to find.

# %% [markdown]
# ## Freezing the first layers
#
# Another way to train less: keep the embeddings, as in your three runs, and the first layers too.
# The gradient stops at the first frozen part, so here time is saved as well. How far can you go?


# %% tags=["pytorch"]
def frozen_up_to(parts):
    model = fresh_model(0)
    for part in [model.bert.embeddings, *model.bert.encoder.layer][:parts]:
        part.requires_grad_(False)
    return model


# %% tags=["tensorflow"]
def frozen_up_to(parts):
    bert = copy_of_encoder()
    bottom = [bert.token_embedding, bert.position_embedding, bert.segment_embedding]
    bottom += [bert.embeddings_layer_norm, *bert.transformer_layers]
    for layer in bottom[: parts + 3]:  # the first part, the embeddings, is four layers
        layer.trainable = False
    return compiled(classifier(bert), steps=1000)  # after freezing: Keras looks at it here


# %%
faster, *others = speed_up(full_steps, step_times(frozen_up_to(5)))
text = "with four of the six layers frozen as well, a step is over 1.2 times as fast"
claim("07.freeze.time", text, faster > 1.2, faster, *others)

# %%
parts = (0, 1, 3, 5, 7)
kept = np.array([recorded(500, frozen=k)[:5] for k in parts])
fig, ax = plt.subplots(figsize=(6.4, 3))
figures.lines(ax, parts, kept, "500 labels, recorded", 0)
ax.set(xlabel="frozen parts from the input (1: embeddings, 7: all)", ylabel="test accuracy")
ax.set_title(
    f"{kept[0].mean():.3f} with nothing frozen, {kept[2].mean():.3f} with three parts frozen"
)
ax.legend()
figures.show(fig, "Test accuracy against the number of frozen parts, with 95 % intervals.")
cost, interval = paired_interval(kept[0], kept[2])
text = "freezing the embeddings alone moves the accuracy by less than 2 points at 500 labels"
claim_margin("07.embeddings", text, kept[0], kept[1], above=-0.02, below=0.02)
text = "freezing the embeddings and two layers costs less than 2 points at 500 labels"
claim("07.freeze", text, interval[1] < 0.02, cost, interval, len(kept[0]))
all_frozen, regression = kept[-1].mean(), frozen[1].mean()
print(f"all frozen, head trained: {all_frozen:.3f}; logistic regression on it: {regression:.3f}")

# %% [markdown]
# The last point is a trap, not a verdict on frozen features: a fresh head needs a far higher rate
# than an encoder, and at this one it has hardly moved when the steps are over. Logistic regression
# on the same vectors shows what was in them.

# %% [markdown]
# ## The example that is commonly taught
#
# You will meet it in many notes: a class whose name begins with `TFBert`, compiled with `"adam"`
# and `binary_crossentropy`, and `fit` on a list of strings. What does each part do today?


# %%
def attempt(what, action):
    try:
        print(f"{what}: no error, and the result is {action()}")
    except Exception as error:
        print(f"{what}: {type(error).__name__}: {str(error).partition(' (/')[0][:140]}")


def old_class():
    from transformers import TFBertForSequenceClassification


attempt("the class", old_class)
some_logits, answers = np.array([[0.3, -0.2], [2.0, -1.0]], "float32"), np.array([0, 1])
one_hot = np.eye(2, dtype="float32")[answers]

# %% tags=["pytorch"]
guess, answer = torch.tensor(some_logits), torch.tensor(answers)
binary = nn.functional.binary_cross_entropy
attempt("strings", lambda: encoder.model(["A fine film."]))
attempt("two logits, one label", lambda: binary(guess, answer.float()))
attempt("logits as probabilities", lambda: binary(guess, torch.tensor(one_hot)))
attempt("repaired", lambda: nn.functional.cross_entropy(guess, answer).item())

# %% tags=["tensorflow"]
binary = keras.losses.binary_crossentropy
repair = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
attempt("strings", lambda: encoder.model(["A fine film."]))
attempt("two logits, one label", lambda: binary(answers, some_logits))
attempt("logits as probabilities", lambda: binary(one_hot, some_logits).numpy())
attempt("repaired", lambda: float(repair(answers, some_logits)))

# %% [markdown]
# A common next step puts a softmax after the head and keeps a loss that applies its own. That
# runs. What is the lowest loss it can reach, when every answer is right and certain?

# %% tags=["pytorch"]
certain = torch.tensor([[50.0, -50.0]]).softmax(1)
floor = nn.functional.cross_entropy(certain, torch.tensor([0])).item()

# %% tags=["tensorflow"]
certain, right = ops.softmax(np.array([[50.0, -50.0]], "float32")), np.array([0])
print("straight from a softmax, Keras warns and looks behind it:", float(repair(right, certain)))
floor = float(repair(right, ops.convert_to_numpy(certain)))  # anything in between, and it cannot

# %%
text = f"softmax twice: a loss that should reach 0 stops at ln(1 + 1/e) = {floor:.3f}"
claim("07.floor", text, abs(floor - np.log1p(np.exp(-1))) < 1e-4, floor)

# %% [markdown]
# | as commonly taught | what happens | repair |
# |---|---|---|
# | a `TFBert…` class of transformers | gone in version 5 | KerasHub, or `AutoModel…` in PyTorch |
# | strings into the model | an error | a tokenizer, padding and a mask |
# | binary loss, two logits | an error, or logits as probabilities | two classes, from logits |
# | `"adam"`: a rate of 0.001 | a wrecked encoder | AdamW, 0.0001 here, less for larger models |
# | one run, no test set | a number without meaning | a fixed test set, several seeds |
#
# Repaired with the classes that both libraries offer, before any training:

# %% tags=["pytorch"]
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

logging.set_verbosity_error()
repaired = AutoModelForSequenceClassification.from_pretrained(assets.locate("minilm"), num_labels=2)
two = encoder.tokenizer(["A fine film.", "A dull film."], padding=True, return_tensors="pt")
loss = repaired.eval()(**two, labels=torch.tensor([1, 0])).loss
print(f"tokenised, masked, cross-entropy from logits: {loss.item():.3f}")

# %% tags=["tensorflow"]
packer = keras_hub.models.BertTextClassifierPreprocessor(encoder.tokenizer, sequence_length=64)
repaired = keras_hub.models.BertTextClassifier(copy_of_encoder(), 2, preprocessor=packer)
repaired.compile(keras.optimizers.AdamW(WarmupThenDecay(1e-4, steps=100)), repair)
answer = np.array(repaired(packer(["A fine film.", "A dull film."])))
print(f"strings in, cross-entropy from logits: {cross_entropy(answer, np.array([1, 0])):.3f}")

# %% [markdown]
# Near ln 2, as it should be. `fit` on batches, as above, does the rest. These classes read `[CLS]`
# where ours takes the mean.
#
# ## Read the errors
#
# An accuracy says how many; only the sentences say which. These are the mistakes that your models
# together are most sure of (sentences from Hutto and Gilbert, 2014, cut after twelve words).


# %%
def probabilities(logits, temperature=1.0):
    scaled = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return scaled / scaled.sum(-1, keepdims=True)


average = np.mean([probabilities(each) for each in logits], axis=0)
given = average[np.arange(len(truth)), truth]  # the probability of the right answer
for position in np.argsort(given)[:8]:
    row = shown[position]
    label, rating = data.class_names[truth[position]], data.ratings[row]
    opening = " ".join(data.texts[row].split()[:12])
    print(f"{label} ({rating:+.1f}) was given {given[position]:.2f}: {opening} …")

# %% [markdown]
# Sort them yourself: irony, praise with a *but*, a plot retold without judgement, a rating you
# would not have given. Two explanations are popular: the model trips over negation; or it errs
# where people hesitate too. Which one do the numbers support?

# %%
lower = [f" {data.texts[row].lower()} " for row in shown]
negated = np.array([any(w in s for w in ("n't", " not ", " no ", " never ")) for s in lower])
strength = np.abs(data.ratings[shown])
weak = strength < np.median(strength)
wrong = np.array([each.argmax(1) != truth for each in logits])
groups = {"negation": negated, "none": ~negated, "lukewarm rating": weak, "clear rating": ~weak}
for name, mask in groups.items():
    print(f"{name:16} {mask.sum():4} sentences, {wrong[:, mask].mean():.1%} wrong")
print(f"mistakes without any negation: {wrong[:, ~negated].sum() / wrong.sum():.0%}")

# %%
effect, interval = paired_interval(wrong[:, weak].mean(1), wrong[:, ~weak].mean(1))
text = "where people were lukewarm the model errs more often, by over 5 points"
claim("07.lukewarm", text, effect > 0.05 and interval[0] > 0, effect, interval, len(wrong))

# %% [markdown]
# Sentences with a negation come out worse, and still most mistakes have none. Where the twenty
# raters were near the middle, the model has little to go by, and some of its "mistakes" are a
# matter of taste.

# %% [markdown]
# ## When it says 90 %, is it right nine times in ten?
#
# The expected calibration error groups sentences by confidence and averages the distance between
# confidence and accuracy. The common repair divides all logits by one number, the temperature,
# fitted on sentences of its own (Guo et al., 2017). What does that do to the accuracy?

# %%
from scipy.optimize import minimize_scalar


def reliability(shares, labels, groups=10):
    confidence, right = shares.max(1), shares.argmax(1) == labels
    group = np.minimum(((confidence - 0.5) * 2 * groups).astype(int), groups - 1)
    masks = [group == g for g in np.unique(group)]
    return np.array([(confidence[m].mean(), right[m].mean(), m.mean()) for m in masks])


def calibration_error(shares, labels):
    sure, right, weight = reliability(shares, labels).T
    return np.sum(weight * np.abs(sure - right))


def best_temperature(logits, labels):
    def loss(temperature):
        return cross_entropy(logits / temperature, labels)

    return minimize_scalar(loss, bounds=(0.2, 10), method="bounded").x


# %%
fitting = np.random.default_rng(1).random(len(shown)) < 0.4  # the rest is for measuring
rest = truth[~fitting]
temperatures = [best_temperature(each[fitting], truth[fitting]) for each in logits]
raw = [probabilities(each[~fitting]) for each in logits]
cooled = [probabilities(x[~fitting], t) for x, t in zip(logits, temperatures, strict=True)]
errors = np.array([[calibration_error(s, rest) for s in shares] for shares in (raw, cooled)])
unchanged = all((a.argmax(1) == b.argmax(1)).all() for a, b in zip(raw, cooled, strict=True))
print(f"temperatures {np.round(temperatures, 2)}, every answer unchanged: {unchanged}")

# %% [markdown]
# Divide by other numbers yourself. **Guess first:** which of the two numbers in the title moves
# with the slider, and what does a temperature below one do to the line?

# %%
frames = {}
for temperature in (0.5, 0.8, 1, 1.25, 1.5, 2, 4):
    shares = [probabilities(each[~fitting], temperature) for each in logits]
    points = reliability(np.concatenate(shares), np.tile(rest, len(shares)), groups=5)
    error = np.mean([calibration_error(each, rest) for each in shares])
    right = np.mean([each.argmax(1) == rest for each in shares])
    fig, ax = plt.subplots(figsize=(4.6, 3.8))
    ax.plot([0.5, 1], [0.5, 1], color="0.5", linestyle=":", label="confidence = accuracy")
    ax.plot(points[:, 0], points[:, 1], marker="o", label="your models")
    ax.set(xlim=(0.48, 1.02), ylim=(0.3, 1.02), xlabel="confidence", ylabel="accuracy")
    ax.set_title(f"calibration error {error:.3f}, accuracy {right:.3f}")
    ax.legend(loc="lower right")
    frames[f"{temperature:g}"] = fig
alt = """Accuracy against confidence in five groups. A low temperature pushes all confidence towards
one, and the line falls below the diagonal; a high one pulls it towards one half, and the line rises
above it."""
figures.slider(frames, "temperature", alt, start="1")

# %%
effect, interval = mean_interval(temperatures)
text = "fine-tuning left the model too sure: the temperature is above 1.05 with every seed"
claim("07.sure", text, min(temperatures) > 1.05, effect, interval, len(seeds))
effect, interval = paired_interval(errors[0], errors[1])
text = "temperature scaling changes no answer; what it takes off the calibration error is shown"
claim("07.temperature", text, unchanged, effect, interval, len(seeds))

# %% [markdown]
# ## Batches of like length
#
# Padding is computed like words and thrown away. How much of a mixed batch is padding, and how much
# time does it save to put sentences of like length together?


# %%
def padding(rows):
    cuts = [rows[first : first + 64] for first in range(0, len(rows), 64)]
    padded = sum(len(cut) * (-(-lengths[cut].max() // 8) * 8) for cut in cuts)  # eights, for speed
    return 1 - lengths[rows].sum() / padded


def prediction_time(rows, by_length):
    began = time.perf_counter()
    predict(full, rows, by_length)
    return time.perf_counter() - began


like = shown[::8]
mixed = np.random.default_rng(0).permutation(like)
prediction_time(mixed, False)
in_mixed, in_like = (
    np.array([prediction_time(rows, by_length) for _ in range(repeats)])
    for rows, by_length in ((mixed, False), (like, True))
)
by_length = test[np.argsort(lengths[test], kind="stable")]
print(f"padding: {padding(test):.0%} in mixed order, {padding(by_length):.0%} by length")

# %%
faster = speed_up(in_mixed, in_like)[0]
print(f"{faster:.2f} times as fast, the best of {repeats} repeats on this machine")
saved = 1 - (1 - padding(test)) / (1 - padding(by_length))
text = "sentences of like length together save over a quarter of the tokens that are computed"
claim("07.length", text, saved > 0.25, saved)

# %% [markdown]
# For training, `text_batches` sorts within sixteen batches at a time and shuffles the batches: most
# of the gain, and every epoch still mixes the sentences anew.
#
# ## What you have seen

# %%
summary()

# %% [markdown]
# **Try it**: change `rank` and ask which numbers move, or put `"tweet"` in place of `"movie"` at
# the top. Then do exercise set ex07 (folder `exercises`).
#
# **Next**: 08 takes a classifier of film reviews to products, editorials and tweets, where the
# words change, and the class shares too.
#
# *Sources: Devlin et al. 2019 (BERT); Wang et al. 2020 (MiniLM); Hutto and Gilbert 2014 (the
# sentences); Mosbach et al. 2021 (the spread of fine-tuning); Hu et al. 2021 (LoRA); Guo et al.
# 2017 (temperature).*
