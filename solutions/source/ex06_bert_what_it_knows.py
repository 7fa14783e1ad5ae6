# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 6: BERT inside
#
# Seven functions and one question. Most run on MiniLM's own vocabulary and matrices and on the
# sentences of the lesson; two are code of a colleague that runs and is wrong. *About an hour and a
# half.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [06](../../notebooks/tensorflow/06_bert_what_it_knows.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [06](../../notebooks/pytorch/06_bert_what_it_knows.ipynb).

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

# %% tags=["pytorch"]
import torch

# %% [markdown]
# ## 1. Word pieces that remember their word
#
# You have sentences in which each *word* has a label (a name, a place, a brand), and BERT reads
# *pieces*. So you need to know which word a piece came from. Cut each word into pieces: always the
# longest piece in the vocabulary that fits, from the left; a piece that goes on is listed there
# with `##` in front. A word that cannot be cut to its end is one `[UNK]`. `[CLS]` comes first,
# `[SEP]` last. There are at most `limit` tokens, these two included (it is 2 or more): if there
# would be more, the last ones before `[SEP]` are left out.


# %%
def encode(words, vocabulary, limit):
    """Return (token numbers, number of the word of each token, -1 for [CLS] and [SEP]), two lists.

    words: lower-case strings, none empty; vocabulary: a dict from piece to number.
    """
    ### BEGIN SOLUTION
    ids, word_of = [vocabulary["[CLS]"]], [-1]
    for number, word in enumerate(words):
        pieces, rest = [], word
        while rest:
            mark = "##" if pieces else ""
            fits = [k for k in range(1, len(rest) + 1) if mark + rest[:k] in vocabulary]
            if not fits:
                pieces = ["[UNK]"]
                break
            pieces.append(mark + rest[: fits[-1]])
            rest = rest[fits[-1] :]
        ids += [vocabulary[piece] for piece in pieces]
        word_of += [number] * len(pieces)
    return [*ids[: limit - 1], vocabulary["[SEP]"]], [*word_of[: limit - 1], -1]
    ### END SOLUTION


# %%
check("ex06.1", encode)

# %% [markdown] tags=["solution"]
# With the second list the labels of words become labels of tokens, and the answers for tokens
# answers for words. Counting tokens instead goes wrong silently: of the product sentences 42 % hold
# a word of several pieces, and a third of all tokens would get another word's label. In a loss it
# is usual to let only the first piece of a word count; that is decided there, with this list.
#
# The cut itself is greedy, not clever: "unable" becomes `una ##ble` if `una` is a piece. What
# counts is that it is the cut of the pretraining; other pieces are other vectors.

# %% [markdown]
# ## 2. The vectors that a pair starts from
#
# For tasks on two texts BERT reads `[CLS] a [SEP] b [SEP]`, then padding. Each token starts as the
# sum of its word's vector, the vector of its position (the first has row 0) and the vector of its
# segment: 0 up to and including the first `[SEP]`, 1 from there to the end of the second text,
# its `[SEP]` included, and 0 for padding. A row may also hold a single text, `[CLS] a [SEP]`. Then
# comes a LayerNorm with $\epsilon = 10^{-12}$ inside the root. `[SEP]` has the number 102, padding
# 0. The vectors of the words have been looked up for you.


# %%
def start_vectors(ids, words, positions, segments, gamma, beta):
    """Return the vectors, shape (n, T, d).

    ids (n, T), words (n, T, d), positions (P, d), segments (2, d), gamma and beta (d,).
    """
    ### BEGIN SOLUTION
    is_end = ids == 102
    ends_before = np.cumsum(is_end, axis=1) - is_end
    x = words + positions[: ids.shape[1]] + segments[np.where(ids == 0, 0, ends_before)]
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12) * gamma + beta
    ### END SOLUTION


# %%
check("ex06.2", start_vectors)

# %% [markdown] tags=["solution"]
# The recorded numbers are those of transformers. Four defaults are waiting to be taken for BERT's:
# `torch.var` divides by $n - 1$; `torch.nn.LayerNorm` has $\epsilon = 10^{-5}$; Keras'
# `LayerNormalization` has $10^{-3}$, and the variance of these sums is about 0.005, so a vector
# would shrink by 9 %. And the fourth: who passes no segments gets all zeros. Nothing fails. The
# model reads a question and its passage as one text.

# %% [markdown]
# ## 3. A checkpoint in another layout
#
# You bring weights from PyTorch into `keras.layers.MultiHeadAttention`. In the checkpoint the
# query, key, value and output of a layer are plain dense layers, $y = x W^\top + b$ with $W$ of
# shape (output, input), here $(d, d)$. The first $d/h$ numbers of a query belong to the first head,
# the next to the second, and so on; the output reads the heads joined in this order.
#
# Keras keeps the heads apart: for query, key and value the kernel has the shape $(d, h, d/h)$ and
# the bias $(h, d/h)$; for the output the kernel has the shape $(h, d/h, d)$ and the bias $(d,)$.
# A kernel's input stands in front.


# %%
def to_keras(weight, bias, heads, part):
    """Return (kernel, bias); part is "query", "key", "value" or "output"."""
    ### BEGIN SOLUTION
    d = len(bias)
    if part == "output":
        return weight.T.reshape(heads, -1, d), bias
    return weight.T.reshape(d, heads, -1), bias.reshape(heads, -1)
    ### END SOLUTION


# %%
check("ex06.3", to_keras)

# %% [markdown] tags=["solution"]
# The matrices of attention are square, so a forgotten transpose fits everywhere and nothing
# complains: what MiniLM's query matrix makes of a word vector, and what it makes transposed, have a
# cosine of 0.00 on average. The number of heads leaves no trace in the shapes either. After a
# conversion there is one test that counts: the same tokens through both models, layer by layer,
# compared in numbers. In the lesson, cut into 6 heads instead of 12, the same matrices computed
# something else.

# %% [markdown]
# ## 4. Mend the attention
#
# A colleague has written the attention of one layer. `Q`, `K` and `V` hold the queries, keys and
# values of all heads side by side, shape $(n, T, d)$; `mask` of shape $(n, T)$ is 1 for a real
# token and 0 for padding. It runs, the shapes are right, and on one sentence the numbers look
# like attention:
#
# ```python
# def attention(Q, K, V, mask, heads):
#     n, T, d = Q.shape
#     Q, K, V = (x.reshape(n, heads, T, d // heads) for x in (Q, K, V))
#     scores = Q @ K.swapaxes(2, 3) / np.sqrt(d)
#     A = np.exp(scores)
#     A = A / A.sum(axis=-1, keepdims=True)
#     A = A * mask[:, None, None, :]
#     return (A @ V).reshape(n, T, d)
# ```
#
# Write one that is right, also where scores are large. There are five bugs. What comes out at
# padded places is not looked at.


# %%
def attention(Q, K, V, mask, heads):
    """Return the heads' results side by side, shape (n, T, d)."""
    ### BEGIN SOLUTION
    n, T, d = Q.shape
    Q, K, V = (x.reshape(n, T, heads, -1).swapaxes(1, 2) for x in (Q, K, V))
    scores = Q @ K.swapaxes(2, 3) / np.sqrt(d / heads)
    scores = np.where(mask[:, None, None, :], scores, -np.inf)
    A = np.exp(scores - scores.max(axis=-1, keepdims=True))
    A = A / A.sum(axis=-1, keepdims=True)
    return (A @ V).swapaxes(1, 2).reshape(n, T, d)
    ### END SOLUTION


# %%
check("ex06.4", attention)

# %% [markdown] tags=["solution"]
# 1. `reshape(n, heads, T, …)` does not turn axes. It reads the numbers in their order and hands the
#    first tokens to the first head: heads × parts of tokens, in the shape that was hoped for.
# 2. The way back has the same gap, and it is an error of its own.
# 3. A product q·k of one head adds $d/h$ terms; with $\sqrt d$ the scores are $\sqrt h$ times too
#    small, 3.5 times for 12 heads, and all attention is flatter than in training.
# 4. Behind the softmax the mask comes too late: padding has taken its share, and the rows no longer
#    add up to one. The sentence's vectors then depend on its company.
# 5. `np.exp` overflows above 709, and infinity by infinity is not a number.
#
# With one head and no padding only the last is left. A test with one sentence and one head would
# have let the other four pass.

# %% [markdown]
# ## 5. What a probe knows beyond the words
#
# A probe on single tokens may know the task, or the words by heart. The control of Hewitt and Liang
# tells: every *word number* gets a label by coin toss, 0 or 1, the same wherever the word stands;
# then the same probe is fitted to these labels. Selectivity is the accuracy of the task minus that
# of the control.
#
# `fit(X, y)` is given to your function and returns a probe, a function that gives a label for each
# row. Fit both on the rows `train`, measure both on the rows `test`. Toss with `rng`, a
# `np.random.Generator`: another one is another control.


# %%
def selectivity(fit, X, ids, labels, train, test, rng):
    """Return (accuracy, selectivity).

    X has shape (n, d); ids, the word numbers, and labels, 0 or 1, have shape (n,).
    """
    ### BEGIN SOLUTION
    control = rng.integers(2, size=ids.max() + 1)[ids]

    def accuracy(y):
        return np.mean(fit(X[train], y[train])(X[test]) == y[test])

    of_task = accuracy(labels)
    return of_task, of_task - accuracy(control)
    ### END SOLUTION


# %%
check("ex06.5", selectivity)

# %% [markdown] tags=["solution"]
# One toss for each *word*: that is what a probe can learn by heart, and the more numbers a vector
# has, the better. On 350 tokens like those of the check, 48 numbers each, the probe for articles is
# right in 76 % and the control in 70 %: most of that "knowledge" may be the words. Tossed for each
# *token*, or with the labels shuffled, the control is at 50 % and the same probe looks selective by
# 26 points. So look at the control's own accuracy first: at chance, a control controls nothing. And
# each word's commonest label, fitted as if it were a control, scores 85 %: it is not free of the
# task.

# %% [markdown]
# ## 6. Mend the vectors that depend on their company
#
# A colleague turns rows of token numbers into one vector a row, the mean of the model's last
# vectors. Rows are sorted by length, so that little padding is computed. It runs, and a classifier
# on these vectors does not do badly:

# %% [markdown] tags=["pytorch"]
# ```python
# def embed(model, rows, batch_size):
#     rows = sorted(rows, key=len)
#     vectors = []
#     for first in range(0, len(rows), batch_size):
#         batch = rows[first : first + batch_size]
#         ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
#         for k, row in enumerate(batch):
#             ids[k, : len(row)] = torch.as_tensor(row)
#         with torch.no_grad():
#             states = model(ids, torch.ones_like(ids))
#         vectors.append(states.mean(dim=1))
#     return torch.cat(vectors).numpy()
# ```
#
# `model(ids, mask)` returns the last vectors, shape $(n, T, d)$; it comes in training mode. The
# mask is 1 for real tokens and 0 for padding, and padding has the number 0. Write one whose result
# for a row depends on that row alone, in the order of the rows. There are four bugs.

# %% [markdown] tags=["tensorflow"]
# ```python
# def embed(model, rows, batch_size):
#     rows = sorted(rows, key=len)
#     vectors = []
#     for first in range(0, len(rows), batch_size):
#         batch = rows[first : first + batch_size]
#         ids = np.zeros((len(batch), max(map(len, batch))), "int32")
#         for k, row in enumerate(batch):
#             ids[k, : len(row)] = row
#         inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
#         states = np.array(model(inputs, training=True))
#         vectors.append(states.mean(axis=1))
#     return np.concatenate(vectors)
# ```
#
# The model returns the last vectors, shape $(n, T, d)$. The mask is 1 for real tokens and 0 for
# padding, and padding has the number 0. Write one whose result for a row depends on that row alone,
# in the order of the rows. There are four bugs.


# %% tags=["pytorch"]
def embed(model, rows, batch_size):
    """Return one vector a row, shape (rows, d); rows are arrays of token numbers, not padded."""
    ### BEGIN SOLUTION
    model.eval()
    order = np.argsort([len(row) for row in rows])
    vectors = [None] * len(rows)
    for first in range(0, len(rows), batch_size):
        places = order[first : first + batch_size]
        ids = torch.zeros(len(places), max(len(rows[k]) for k in places), dtype=torch.long)
        for line, k in zip(ids, places, strict=True):
            line[: len(rows[k])] = torch.as_tensor(rows[k])
        mask = (ids != 0).long()
        with torch.no_grad():
            states = model(ids, mask)
        means = (states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        for k, mean in zip(places, means, strict=True):
            vectors[k] = mean.numpy()
    return np.array(vectors)
    ### END SOLUTION


# %% tags=["tensorflow"]
def embed(model, rows, batch_size):
    """Return one vector a row, shape (rows, d); rows are arrays of token numbers, not padded."""
    ### BEGIN SOLUTION
    order = np.argsort([len(row) for row in rows])
    vectors = [None] * len(rows)
    for first in range(0, len(rows), batch_size):
        places = order[first : first + batch_size]
        ids = np.zeros((len(places), max(len(rows[k]) for k in places)), "int32")
        for line, k in zip(ids, places, strict=True):
            line[: len(rows[k])] = rows[k]
        mask = (ids != 0).astype("int32")
        states = np.array(model({"token_ids": ids, "padding_mask": mask}, training=False))
        means = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        for k, mean in zip(places, means, strict=True):
            vectors[k] = mean
    return np.array(vectors)
    ### END SOLUTION


# %%
check("ex06.6", embed)

# %% [markdown] tags=["solution"]
# 1. In training mode dropout is at work: the same row twice gives two vectors.
# 2. The mask of ones lets real tokens look at padding.
# 3. The mean takes padding in. In the lesson, beside a long sentence, that alone changed more than
#    one answer in fifty of a probe that was right before.
# 4. The vectors come back sorted by length, beside labels and texts that are not. The way back is
#    the *inverse* of the sorting (`argsort` of the order, or writing each vector to its place);
#    indexing with the order again shuffles a second time.
#
# With sorting, the second and third bug become small: rows of like length need little padding. They
# hide, and come back with the first user who sends one long text. Two lines find all four: the
# same call twice, and one row alone against the same row in company.

# %% [markdown]
# ## 7. How good is a search?
#
# Every row of `E` is a sentence's vector, `groups` says what belongs together (here: the article).
# Each sentence is a query to all *others*, compared by cosine. The rank of a query is the place of
# the nearest sentence of its own group: 1 plus the number of sentences of *other* groups that are
# at least as similar. Return over all queries
#
# - the share with rank 1, and
# - the mean of 1/rank (mean reciprocal rank).
#
# A sentence that is alone in its group is no query; it stays among what the others search.


# %%
def search_scores(E, groups):
    """Return (share with rank 1, mean reciprocal rank); E has shape (n, d), groups (n,)."""
    ### BEGIN SOLUTION
    unit = E / np.linalg.norm(E, axis=1, keepdims=True)
    ranks = []
    for row, similar in enumerate(unit @ unit.T):
        related = groups == groups[row]
        others = similar[~related]
        related[row] = False
        if related.any():
            ranks.append(1 + np.sum(others >= similar[related].max()))
    ranks = np.array(ranks)
    return np.mean(ranks == 1), np.mean(1 / ranks)
    ### END SOLUTION


# %%
check("ex06.7", search_scores)

# %% [markdown] tags=["solution"]
# The check holds 150 editorial sentences, each as the mean of MiniLM's *word* vectors, before any
# attention: 24 % find a sentence of their own article first, mean reciprocal rank 0.35. Random
# vectors get 4 % and 0.12. So does, nearly, the plain product on the *real* vectors: 3 % and 0.16.
# With the query itself among the found, every model scores 100 % and 1.00.
#
# "At least as similar" looks like a detail. It is the test for vectors that have collapsed: if all
# sentences get the same vector, a sort leaves them as they stand in the file, article by article,
# and a broken model seems to search well.

# %% [markdown]
# ## 8. In your own words
#
# A team wants to find earlier support tickets that are like a new one. They take the `[CLS]` vector
# of the last layer of "a BERT", cut at 128 tokens, and compare with the plain product. In a
# demonstration with ten tickets the results look good; in use, long tickets are found for
# everything, and "works again" is found for "does not work again". What do you examine, what do you
# change, and how do you measure whether it helped? Twelve sentences at most.

# %% [markdown] tags=["open"]
# *For the person who marks it, one point each:*
#
# 1. Which checkpoint, and what it was trained for: in a BERT without training on pairs `[CLS]` need
#    not stand for the text; mean pooling with the mask, or a model trained for similarity, is tried
#    against it.
# 2. Unit vectors (cosine) in place of the plain product, and the tests for company: the same ticket
#    alone, in a batch with a long one, and twice.
# 3. The cut at 128 tokens: how many tickets are longer, what is lost, passages as an alternative.
# 4. Denial: the vectors say what a text is about, hardly whether it says yes or no; another layer
#    or pooling alone does not mend that (a classifier, or a second stage that reads both texts).
# 5. A measurement: some hundred queries with known relatives, the query itself left out, hit rate
#    or mean reciprocal rank with an interval, beside counted words (TF-IDF) and chance; ten chosen
#    examples measure nothing.
