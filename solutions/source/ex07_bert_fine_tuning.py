# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 7: BERT fine-tuning and LoRA
#
# Seven functions and one question. Four run on MiniLM's own matrices and shapes, on the sentences
# and on the recorded runs of the lesson; three are code of a colleague that runs and is wrong.
# *About an hour and a half.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [07](../../notebooks/tensorflow/07_bert_fine_tuning.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [07](../../notebooks/pytorch/07_bert_fine_tuning.ipynb).

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %%
import numpy as np

from tlcourse import runtime
from tlcourse.exercises import check

# %% tags=["tensorflow"]
run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["pytorch"]
run = runtime.start("pytorch", PROFILE, SEED)

# %% tags=["tensorflow"]
import keras
import tensorflow as tf

# %% tags=["pytorch"]
import torch
from torch import nn

# %% [markdown]
# ## 1. Merge a LoRA update, in two layouts
#
# A team trains adapters in PyTorch and serves in Keras. Write the merge for both, with NumPy
# arrays. The layer was trained as its weight plus $\frac{\alpha}{r}$ times a product of two thin
# matrices of rank $r$:
#
# | framework | weight | a | b | with s = α/r the layer computes |
# |---|---|---|---|---|
# | `"pytorch"` | (out, in) | (r, in) | (out, r) | $x W^\top + s\,(x a^\top)\,b^\top$ |
# | `"tensorflow"` | (in, out) | (in, r) | (r, out) | $x W + s\,(x a)\,b$ |
#
# In Keras' attention the kernel has three axes, (in, heads, size); out is then heads times size,
# head after head. Return a new weight of the same shape.


# %%
def merge(weight, a, b, alpha, framework):
    """Return the merged weight, shaped as the given one, which stays as it was."""
    ### BEGIN SOLUTION
    if framework == "pytorch":
        change, rank = b @ a, a.shape[0]
    else:
        change, rank = a @ b, a.shape[1]
    return weight + alpha / rank * change.reshape(weight.shape)
    ### END SOLUTION


# %%
check("ex07.1", merge)

# %% [markdown] tags=["solution"]
# Two things go wrong silently. BERT's query and value matrices are square, so a transposed change
# fits and nothing complains. And the rank is not stored as a number in every checkpoint: it is the
# *short* side of `a`, which is the first axis in PyTorch and the second in Keras. Read from the
# wrong axis, a rank of 8 becomes 384, and the merged model is the pretrained one with a trace of
# what was learned.
#
# What tells you: run one batch through the unmerged and the merged model. In the lesson they agree
# to 0.00001. Merge into a copy; `weight += …` makes a second merge of the same adapter double.

# %% [markdown]
# ## 2. The rank that fits a budget
#
# You may keep so many trained numbers for each customer, and ask which rank that allows. `shapes`
# holds the names and shapes of a checkpoint in PyTorch's layout, (out, in). LoRA goes to every
# matrix (name ends in `.weight`, two axes) whose module, the name without `.weight`, *is* one of
# the targets or ends with a dot and a target. The weights and biases of the checkpoint stay frozen;
# the new head of `head` numbers is trained in full and belongs to the budget. All adapted layers
# have the same rank, and it must not be above the smaller side of any of them. If not even rank 1
# fits, or the head alone is too much, the rank is 0.


# %%
def lora_plan(shapes, targets, head, budget):
    """Return (the highest rank with at most `budget` trained numbers, how many these are).

    shapes: a dict from name to a tuple; at least one matrix is meant by the targets.
    """
    ### BEGIN SOLUTION
    ends = tuple(f".{target}.weight" for target in targets)
    adapted = [s for name, s in shapes.items() if len(s) == 2 and f".{name}".endswith(ends)]
    one = sum(sum(shape) for shape in adapted)
    rank = min((budget - head) // one, *(min(shape) for shape in adapted))
    rank = max(rank, 0)
    return rank, head + rank * one
    ### END SOLUTION


# %%
check("ex07.2", lora_plan)

# %% [markdown] tags=["solution"]
# One unit of rank costs in + out numbers for each matrix. For query and value of MiniLM that is
# 12 × 768 = 9,216; rank 8 and the head are 74,498, a third of one per cent of the model.
#
# The names matter more than one thinks. `output.dense` means the output of the attention *and* the
# output of the layer, in BERT and in PEFT; `dense` takes the pooler as well. In T5, `o` without
# its dot takes `wo`, and `v` anywhere in the name takes `relative_attention_bias`. Print what you
# adapt.
#
# At rank 384 a and b of a square matrix hold twice what the matrix holds: there is no reason to go
# beyond half of it, unless for comparison.

# %% [markdown] tags=["pytorch"]
# ## 3. Who decays, and at which rate?
#
# You fine-tune with AdamW. Wanted: weight decay for every matrix (dense layers, attention,
# embeddings), none for biases and for scale and shift of LayerNorm; the learning rate `head_rate`
# for all of `model.head`, `rate` for everything else. Return the optimizer. In this model one
# LayerNorm is called `sa_layer_norm`, as in DistilBERT; the attention is `multihead_attn`; the
# position embeddings are frozen; and `masked_words` shares its matrix with the embedding `words`.

# %% [markdown] tags=["tensorflow"]
# ## 3. Who decays, and at which rate?
#
# You fine-tune with AdamW. Wanted: weight decay for every matrix (dense layers, attention,
# embeddings), none for biases and for scale and shift of LayerNorm (`gamma`, `beta`); the learning
# rate `head_rate` for the layer named `"head"`, `rate` for everything else. A Keras optimizer has
# one rate, so return a list of pairs (optimizer, its variables). The caller computes the gradients
# and calls `optimizer.apply(gradients, variables)` for each pair. In this model the position
# embeddings are frozen, one LayerNorm is called `sa_layer_norm`, and there is a
# `MultiHeadAttention` under Keras' own name. Look at the shapes of its weights before you make a
# rule.


# %% tags=["pytorch"]
def grouped(model, rate, head_rate, decay):
    """Return an AdamW optimizer for the model's trainable tensors."""
    ### BEGIN SOLUTION
    groups = []
    for in_head in (False, True):
        named = [
            (name, p)
            for name, p in model.named_parameters()
            if p.requires_grad and (name.partition(".")[0] == "head") == in_head
        ]
        own_rate = head_rate if in_head else rate
        matrices = [p for _, p in named if p.ndim > 1]
        others = [p for _, p in named if p.ndim == 1]
        groups.append({"params": matrices, "lr": own_rate, "weight_decay": decay})
        groups.append({"params": others, "lr": own_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups)
    ### END SOLUTION


# %% tags=["tensorflow"]
def grouped(model, rate, head_rate, decay):
    """Return a list of (AdamW optimizer, list of trainable variables)."""
    ### BEGIN SOLUTION
    head = model.get_layer("head").trainable_variables
    taken = {id(v) for v in head}
    body = [v for v in model.trainable_variables if id(v) not in taken]
    pairs = []
    for variables, own_rate in ((body, rate), (head, head_rate)):
        optimizer = keras.optimizers.AdamW(own_rate, weight_decay=decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        pairs.append((optimizer, variables))
    return pairs
    ### END SOLUTION


# %%
check("ex07.3", grouped)

# %% [markdown] tags=["solution"]
# The check reads rate and decay off one step: with a gradient of 1 everywhere, AdamW's first step
# moves a weight of 0 by the rate alone and a weight of 2 by the rate and the decay.
#
# Rules that are passed around fail in another library. `["bias", "LayerNorm.weight"]` was written
# for BERT in PyTorch and misses `sa_layer_norm`; "two axes decay, one axis does not" holds in
# PyTorch and fails in Keras, where the biases of attention have the axes heads and size. And a
# group that says nothing of decay gets AdamW's own, 0.01 in PyTorch and 0.004 in Keras. So list
# what decays before you train. How much it matters is another question: over the 48 steps of the
# lesson, at 0.0001 and 0.01, decay shrinks a weight by less than 0.005 %.

# %% [markdown]
# ## 4. Batches with a budget of tokens
#
# A batch of 32 tweets and a batch of 32 long reviews are not the same work. So batches are often
# cut by tokens. Sort the rows by length, shortest first. Fill a batch as long as its number of rows
# times its longest row is at most `budget`; then begin the next one. Give the batches back in an
# order drawn from `rng`, an `np.random.Generator`, and with them the share of padding: of all
# places in the padded batches, how many hold no token? No row is longer than the budget.


# %%
def token_batches(lengths, budget, rng):
    """Return (list of batches, each a list of row numbers; share of padding of all places).

    lengths: whole numbers, shape (n,), the tokens of each row.
    """
    ### BEGIN SOLUTION
    batches = [[]]
    for row in np.argsort(lengths):
        if (len(batches[-1]) + 1) * lengths[row] > budget:
            batches.append([])
        batches[-1].append(int(row))
    places = sum(len(batch) * lengths[batch[-1]] for batch in batches)
    rng.shuffle(batches)
    return batches, 1 - np.sum(lengths) / places
    ### END SOLUTION


# %%
check("ex07.4", token_batches)

# %% [markdown] tags=["solution"]
# Since the rows come in order, the row that comes next is the longest of its batch: one product
# decides. With real tokens in place of padded ones the memory that you meant to limit is exceeded
# by just the batches with much padding.
#
# Shuffling the *batches* keeps like lengths together and still mixes the epoch. What is lost: the
# same sentences share a batch in every epoch, unless ties and neighbours are mixed too (the
# lesson's batches sort sixteen at a time). And a step on 60 tweets counts as one step, like a step
# on 5 long reviews; a loss averaged over rows then gives long rows more weight.

# %% [markdown]
# ## 5. Find the bug: the loss of a tagger
#
# A tagger says of every token whether it is part of a name. Padding, `[CLS]`, `[SEP]` and later
# pieces of a word have the label −100 and do not count; class 0 is "no name". One step is cut into
# parts that fit the memory, each a pair of logits (n, T, C) and labels (n, T). A colleague wrote
# the loss of the whole step:
#
# ```python
# def step_loss(parts):
#     total = 0.0
#     for logits, labels in parts:
#         p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
#         real = labels > 0
#         index = np.where(real, labels, 0)[..., None]
#         right = np.take_along_axis(p, index, axis=-1)[..., 0]
#         losses = np.where(real, -np.log(right), 0.0)
#         total += losses.mean()
#     return total / len(parts)
# ```
#
# Write one that returns the mean cross-entropy over all tokens that count, however the step is cut.
# Logits may be large, and a part may hold no token that counts. There are four bugs.


# %%
def step_loss(parts):
    """Return the loss of the step; parts is a list of (logits, labels), at least one token counts.

    logits: (n, T, C); labels: (n, T), whole numbers from 0 to C - 1, or -100.
    """
    ### BEGIN SOLUTION
    total, count = 0.0, 0
    for logits, labels in parts:
        real = labels != -100
        z = logits[real]
        z = z - z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        total -= log_p[np.arange(len(z)), labels[real]].sum()
        count += len(z)
    return total / count
    ### END SOLUTION


# %%
check("ex07.5", step_loss)

# %% [markdown] tags=["solution"]
# 1. `labels > 0` drops class 0 with the padding. The tagger is never told what is no name.
# 2. `losses.mean()` divides by all places, so the loss falls when padding is added.
# 3. The mean of the parts' means gives a token in a part with few labels more weight. The step then
#    depends on how it was cut, and gradient accumulation is not what it claims to be: twice the
#    parts, another result. This stood in widely used training code until late 2024.
# 4. The exponential overflows above 709.
#
# The first check would have found two of them: before training, with logits near zero, the loss is
# $\ln C$. The colleague's starts far below, and a low loss is seldom looked into.

# %% [markdown]
# ## 6. Find the bug: which recipe is better?
#
# Two recipes were run with several seeds. A seed decides which sentences are labelled, the head
# and the order, the same for both recipes. A colleague compares them, `ours` and `theirs` being
# dicts from seed to accuracy:
#
# ```python
# def gain(ours, theirs):
#     a, b = (np.array(list(side.values())) for side in (ours, theirs))
#     n = min(len(a), len(b))
#     a, b = a[:n], b[:n]
#     difference = a.mean() - b.mean()
#     half = 1.96 * np.sqrt(a.var() / n + b.var() / n)
#     return difference, difference - half, difference + half
# ```
#
# Write one that returns the mean gain of ours over theirs and the ends of its 95 % interval
# (Student's t), paired by seed, over the seeds that both have. SciPy is there. There are four bugs.


# %%
def gain(ours, theirs):
    """Return (mean gain, lower end, upper end); at least two seeds are in both dicts."""
    ### BEGIN SOLUTION
    from scipy import stats

    gains = np.array([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    half = stats.t.ppf(0.975, len(gains) - 1) * error
    return gains.mean(), gains.mean() - half, gains.mean() + half
    ### END SOLUTION


# %%
check("ex07.6", gain)

# %% [markdown] tags=["solution"]
# Pairs by place (a record that was taken up again stands in another order), the spread of two
# unrelated samples, `var` with n in place of n − 1, and the factor of many runs: for five seeds
# Student's is 2.78, for three 4.30.
#
# What the recorded runs say: full fine-tuning is 4.3 points ahead of LoRA at ten times its rate,
# from 2.4 to 6.3; against LoRA at thirty times the rate it is 0.1 points, from −1.5 to 1.8. The
# second interval does not say "equal". It says that five seeds cannot tell a point and a half.
# Pairing helps where both sides share their luck; where they do not, as here between LoRA and full
# fine-tuning, it costs a little and is honest all the same.

# %% [markdown] tags=["pytorch"]
# ## 7. Find the bug: the LoRA run that hardly learns
#
# A colleague fine-tunes with LoRA. The model comes frozen but for its head and has dropout;
# `add_lora(model)` puts an adapter into it, whose `a` and `b` are to be trained with the head.
# `share(step, steps)` gives the share of the peak rate at a step, the first being step 0, of so
# many in all. The run shows no error, the loss falls a little.
#
# ```python
# def fine_tune(model, add_lora, share, batches, held_out, epochs, peak):
#     weights = [p for p in model.parameters() if p.requires_grad]
#     optimizer = torch.optim.SGD(weights, lr=peak)
#     schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: share(k, epochs))
#     add_lora(model)
#     losses, accuracies = [], []
#     model.train()
#     for epoch in range(epochs):
#         for x, y in batches:
#             loss = nn.functional.cross_entropy(model(x), y)
#             optimizer.zero_grad()
#             loss.backward()
#             optimizer.step()
#             nn.utils.clip_grad_norm_(weights, 1.0)
#             losses.append(loss.item())
#         schedule.step()
#         model.eval()
#         x, y = held_out
#         with torch.no_grad():
#             accuracies.append((model(x).argmax(1) == y).double().mean().item())
#     return losses, accuracies
# ```
#
# Write one that does what was wanted: plain SGD (it is easier to check than AdamW), LoRA and head
# trained, a rate for each step, the whole gradient clipped to length 1, dropout in training and not
# for the held-out rows. Call `add_lora` once. There are four bugs.

# %% [markdown] tags=["tensorflow"]
# ## 7. Find the bug: the LoRA run that hardly learns
#
# A colleague fine-tunes with LoRA. The model comes frozen but for its head and has dropout;
# `add_lora(model)` puts an adapter into it, whose `a` and `b` are to be trained with the head.
# `share(step, steps)` gives the share of the peak rate at a step, the first being step 0, of so
# many in all. The run shows no error, the loss falls a little.
#
# ```python
# def fine_tune(model, add_lora, share, batches, held_out, epochs, peak):
#     weights = model.trainable_variables
#     optimizer = keras.optimizers.SGD(peak, clipnorm=1.0)
#     loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
#     add_lora(model)
#     losses, accuracies = [], []
#     for epoch in range(epochs):
#         optimizer.learning_rate = peak * share(epoch, epochs)
#         for x, y in batches:
#             with tf.GradientTape() as tape:
#                 loss = loss_of(y, model(x))
#             optimizer.apply(tape.gradient(loss, weights), weights)
#             losses.append(float(loss))
#         x, y = held_out
#         accuracies.append(float(np.mean(np.array(model(x)).argmax(axis=1) == y)))
#     return losses, accuracies
# ```
#
# Write one that does what was wanted: plain SGD (it is easier to check than AdamW), LoRA and head
# trained, a rate for each step, the whole gradient clipped to length 1, dropout in training and not
# for the held-out rows. Call `add_lora` once. There are four bugs.


# %% tags=["pytorch"]
def fine_tune(model, add_lora, share, batches, held_out, epochs, peak):
    """Return (the loss of each step, the accuracy on held_out after each epoch), two lists.

    batches: a list of (x, y), the same in every epoch; held_out: one (x, y).
    """
    ### BEGIN SOLUTION
    add_lora(model)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=peak)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: share(k, steps))
    losses, accuracies = [], []
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        model.eval()
        x, y = held_out
        with torch.no_grad():
            accuracies.append((model(x).argmax(dim=1) == y).double().mean().item())
    return losses, accuracies
    ### END SOLUTION


# %% tags=["tensorflow"]
def fine_tune(model, add_lora, share, batches, held_out, epochs, peak):
    """Return (the loss of each step, the accuracy on held_out after each epoch), two lists.

    batches: a list of (x, y), the same in every epoch; held_out: one (x, y).
    """
    ### BEGIN SOLUTION
    add_lora(model)
    weights = model.trainable_variables
    optimizer = keras.optimizers.SGD(peak, global_clipnorm=1.0)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses, accuracies = [], []
    for _ in range(epochs):
        for x, y in batches:
            optimizer.learning_rate = peak * share(len(losses), epochs * len(batches))
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            optimizer.apply(tape.gradient(loss, weights), weights)
            losses.append(float(loss))
        x, y = held_out
        answers = np.array(model(x, training=False)).argmax(axis=1)
        accuracies.append(float(np.mean(answers == y)))
    return losses, accuracies
    ### END SOLUTION


# %%
check("ex07.7", fine_tune)

# %% [markdown] tags=["solution"]
# 1. The weights were collected before the adapters existed. Only the head learns; LoRA's b stays
#    zero to the last bit, which is the quickest test there is.
# 2. The schedule counts epochs. Three epochs with 10 % warm-up have no warm-up then, and the rate
#    is a staircase.

# %% [markdown] tags=["solution", "pytorch"]
# 3. Clipping behind the step changes gradients that are thrown away next.
# 4. `model.eval()` is never undone, so from the second epoch on there is no dropout. Whatever
#    evaluates has to put the mode back, or the loop sets it in every epoch.

# %% [markdown] tags=["solution", "tensorflow"]
# 3. `clipnorm` clips each tensor by itself: the step can be as long as the root of their number,
#    and points elsewhere. `global_clipnorm` is what PyTorch's `clip_grad_norm_` does.
# 4. In a loop of your own, `model(x)` runs without dropout. `fit` says `training=True` for you;
#    here you have to.

# %% [markdown]
# ## 8. In your own words
#
# A team fine-tunes a BERT on 400 labelled support letters, in eight classes. They report: "LoRA
# reaches 0.86, full fine-tuning only 0.83; LoRA also trains much faster, as it has a hundredth of
# the parameters." Both were run once, with the rate 0.001 for both, for ten epochs; the best epoch
# on the 100 test letters is reported. The loss before the first step was 3.9. What do you ask, what
# do you expect to be wrong, and how would you repeat it? Twelve sentences at most.

# %% [markdown] tags=["open"]
# *For the person who marks it, one point each:*
#
# 1. The loss before training: for eight classes it should be near ln 8 = 2.08; at 3.9 the head, the
#    labels, the number of classes (ln 50 = 3.9) or the loss is wrong, and this comes first.
# 2. The rate: 0.001 suits LoRA and wrecks the encoder in full fine-tuning; each side needs its own
#    search, with the same number of tries, on held-out letters.
# 3. The best of ten epochs on the test set is chosen by luck; stop on held-out letters, measure
#    once.
# 4. One seed and 100 test letters: three letters of difference; several seeds, paired, the mean and
#    an interval, a larger test set or folds. Letters of one customer or one day on one side.
# 5. Fewer trained parameters save optimizer memory and disk, not much time: forward pass and
#    gradients run through all layers; measure a step. Also welcome: frozen features or TF-IDF with
#    logistic regression as baselines at 400 labels.
