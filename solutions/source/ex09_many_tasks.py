# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 9: many tasks, and one after another
#
# Seven functions and one decision. Task 7 speaks your framework and is to be mended, the others
# need NumPy. *About 90 minutes.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [09](../../notebooks/tensorflow/09_many_tasks.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [09](../../notebooks/pytorch/09_many_tasks.ipynb).

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

from tlcourse.exercises import check

np.set_printoptions(precision=3, suppress=True)

# %% tags=["tensorflow"]
import keras
import tensorflow as tf

# %% tags=["pytorch"]
import torch

# %% [markdown]
# ## 1. Labels that are missing
#
# In notebook 09 each task brings a batch of its own. Often there is one table instead: a row has
# labels for some tasks and none for others. Every task is a yes-no question with one logit, a
# missing label is NaN.
#
# The loss of a task is the mean of the binary cross-entropy over the rows that *have* a label for
# it. The whole loss is $\sum_k w_k L_k$; a task without a label in the batch adds nothing. Return
# the loss and its gradient in the logits. Logits may be in the hundreds.


# %%
def multi_task_loss(logits, labels, weights):
    """Return (loss, gradient of shape (n, tasks)).

    logits and labels (0, 1 or NaN) have shape (n, tasks), weights (tasks,).
    """
    ### BEGIN SOLUTION
    known = ~np.isnan(labels)
    y = np.where(known, labels, 0)
    share = known * weights / np.maximum(known.sum(axis=0), 1)
    losses = np.logaddexp(0, logits) - y * logits
    return np.sum(share * losses), share * (1 / (1 + np.exp(-logits)) - y)
    ### END SOLUTION


# %%
check("ex09.1", multi_task_loss)

# %% [markdown] tags=["solution"]
# Take the missing label out *before* you compute (`np.where`), since NaN times 0 is NaN. The same
# holds for gradients in both frameworks: a loss that is masked afterwards still sends NaN back.
#
# On the solar cells the rater was sure of 2,223 of 2,624. If the missing labels are taken for "no",
# the other 401, the doubtful ones, are all taught to be intact. Dividing by all rows is milder: it
# is another weight than the one you wrote down, and it changes from batch to batch.

# %% [markdown]
# ## 2. PCGrad for any number of tasks
#
# Notebook 09 writes PCGrad for two tasks. Write it for any number. Start from task $k$'s gradient
# and meet the other tasks one after the other, in the order `orders[k]`. Where what is left of the
# gradient has a negative inner product with the other task's *own* gradient $G_j$, take its part
# along $G_j$ away. The result is the sum over all tasks.
#
# A gradient is a list of arrays, one for each shared tensor. The angle is that of the whole.


# %%
def pcgrad(gradients, orders):
    """Return the combined gradient, a list of arrays like gradients[0].

    gradients: a list of arrays for each task; orders: for each task the others, as numbers.
    """
    ### BEGIN SOLUTION
    flat = [np.concatenate([np.ravel(part) for part in each]) for each in gradients]
    total = 0
    for g, order in zip(flat, orders, strict=True):
        for j in order:
            dot = g @ flat[j]
            if dot < 0:
                g = g - dot / (flat[j] @ flat[j]) * flat[j]
        total = total + g
    ends = np.cumsum([part.size for part in gradients[0]])[:-1]
    parts = zip(np.split(total, ends), gradients[0], strict=True)
    return [part.reshape(like.shape) for part, like in parts]
    ### END SOLUTION


# %%
check("ex09.2", pcgrad)

# %% [markdown] tags=["solution"]
# `dot < 0` also keeps you from dividing by zero: with a gradient of zero the inner product is zero.
#
# The order matters as soon as there are three tasks. In the second check the same three gradients
# give (−1.2, −0.9) in one order and (−0.2, −1.1) in another; the paper therefore draws it anew in
# each step. And after the last projection the first conflict may be back: PCGrad does not promise
# that its result suits every task. For two tasks it does.

# %% [markdown]
# ## 3. Weights that are learned, for two kinds of loss
#
# With $s_k = \log \sigma_k^2$ a classification (cross-entropy) enters the loss with
# $e^{-s_k} L_k + \tfrac12 s_k$, a regression (mean squared error) with
# $\tfrac12 e^{-s_k} L_k + \tfrac12 s_k$. Return three things: the loss, its gradient in $s$, and
# the $s$ at which each task comes to rest while its $L_k$ stays as it is.


# %%
def uncertainty(losses, s, regression):
    """Return (loss, gradient in s, s at rest).

    losses and s have shape (tasks,); regression is true where the loss is a squared error.
    """
    ### BEGIN SOLUTION
    factor = np.where(regression, 0.5, 1)
    weighted = factor * np.exp(-s) * losses
    return np.sum(weighted + s / 2), 0.5 - weighted, np.log(2 * factor * losses)
    ### END SOLUTION


# %%
check("ex09.3", uncertainty)

# %% [markdown] tags=["solution"]
# At rest $e^{-s_k} f_k L_k = \tfrac12$: every task brings the same half, whatever its unit. That is
# what the method is good at, metres beside millimetres. It is also why a task with a loss near zero
# gets a huge weight: at a training loss of 0.01 a classification has the weight 50. Notebook 09 saw
# it with 30 sentences known by heart.

# %% [markdown]
# ## 4. EWC over several old tasks
#
# Each old task $k$ left you the weights $\theta_k$ at which its training ended, and the gradient of
# the log-likelihood of each of its examples there. The diagonal $\mathcal F_k$ is estimated by the
# mean over the examples of the squared gradient. Return the penalty and its gradient:
#
# $$\frac\lambda2 \sum_k \sum_i \mathcal F_{k,i}\,(\theta_i - \theta_{k,i})^2$$


# %%
def ewc(theta, tasks, lam):
    """Return (penalty, gradient of shape (d,)).

    tasks: a list of (old weights (d,), gradients (n, d) with a row for each example).
    """
    ### BEGIN SOLUTION
    penalty, gradient = 0, 0
    for old, gradients in tasks:
        fisher = np.mean(gradients**2, axis=0)
        penalty = penalty + lam / 2 * np.sum(fisher * (theta - old) ** 2)
        gradient = gradient + lam * fisher * (theta - old)
    return penalty, gradient
    ### END SOLUTION


# %%
check("ex09.4", ewc)

# %% [markdown] tags=["solution"]
# Squares first, then the mean. In the second check the gradients 1, 1, −1, −1 have the mean zero:
# whoever squares the mean does not hold that weight at all, and this is the usual state at the end
# of training. It is also what you get if you square what `loss.backward()` leaves of a batch.
#
# Each task keeps its own anchor. In that check the weight comes to rest at 2.4, nearer to the task
# that needs it four times as much, not at the mean 1.5 and not at the latest weights.

# %% [markdown]
# ## 5. What was forgotten, and what came back
#
# `accuracy[i, j]` is the accuracy on task $j$ after stage $i$. Of $n \ge 2$ stages report
#
# - the mean accuracy over all tasks at the end;
# - the **forgetting**: for every task but the last, the best accuracy it had from its own stage on
#   and *before* the last stage, less the accuracy at the end; the mean of these, below zero where
#   tasks got better;
# - the **backward transfer**: for every task but the last, the accuracy at the end less that just
#   after its own stage; the mean.
#
# What stands above the diagonal was measured before the task was trained, or is NaN.


# %%
def sequence_report(accuracy):
    """Return (mean at the end, forgetting, backward transfer) of a table (stages, tasks)."""
    ### BEGIN SOLUTION
    end, old = accuracy[-1], range(len(accuracy) - 1)
    lost = [accuracy[j:-1, j].max() - end[j] for j in old]
    return end.mean(), np.mean(lost), np.mean([end[j] - accuracy[j, j] for j in old])
    ### END SOLUTION


# %%
check("ex09.5", sequence_report)

# %% [markdown] tags=["solution"]
# Two recorded runs on pictograms, one seed, one linear head of eight outputs on frozen features:
#
# | run | mean at the end | forgetting | backward transfer |
# |---|---|---|---|
# | in sequence | 0.576 | 0.312 | −0.312 |
# | 20 replayed a stage, small steps | 0.602 | 0.143 | −0.143 |
#
# Where no task ever got better after its own stage, the two last numbers are one number with two
# signs. Report the first beside them: a network that learns nothing new forgets nothing. In the
# second run the newest stage reaches 0.57, in the first 0.72; the smaller forgetting was partly
# paid for by learning less.

# %% [markdown]
# ## 6. A memory that is fair to every stage
#
# For replay you keep at most `size` examples of a stream that comes in stages. Nobody tells you how
# many stages there will be, and what was not kept is gone. At any time *each example that was ever
# offered* is to be in the memory with the same probability (reservoir sampling). As long as the
# memory is not full, everything is kept. Draw from `rng` only.


# %%
def remember(memory, seen, new, size, rng):
    """Return the memory, a list, after the examples `new` of one stage were offered.

    memory: a list, yours to change; seen: how many were offered before; rng: a NumPy Generator.
    """
    ### BEGIN SOLUTION
    for example in new:
        seen += 1
        if len(memory) < size:
            memory.append(example)
        else:
            place = rng.integers(seen)
            if place < size:
                memory[place] = example
    return memory
    ### END SOLUTION


# %%
check("ex09.6", remember)

# %% [markdown] tags=["solution"]
# By induction: the newest of $n$ enters with probability size$/n$. An older one was there with
# size$/(n-1)$ and is thrown out with $1/n$, which leaves size$/n$.
#
# Drawing from the memory and the new stage in one pot is the common slip. After ten examples and
# three stages of one each, with two places, the last one is kept in 67 % of the cases; 15 % would
# be fair. Fair to every *example* is not fair to every class: of four sources of unequal size the
# largest gets most of the places. If that is not what you want, keep a reservoir for each class.

# %% [markdown] tags=["pytorch"]
# ## 7. Find the bug: the sequence that forgets by itself
#
# Three stages, each with a head of its own, and a few rows of each old stage for replay.
# `net.loss(x, y, head=k)` is a mean over rows, `net.accuracy(x, y, head=k)` a number; a stage is
# `(x, y, x_test, y_test)`. The script runs, and replay seems to make things worse.
#
# ```python
# def learn(net, stages, keep, steps, rate):
#     optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
#     memory, found = {}, []
#     for k, (x, y, x_test, y_test) in enumerate(stages):
#         for _ in range(steps):
#             loss = net.loss(x, y, head=k)
#             for x_old, y_old in memory.values():
#                 loss = net.loss(x_old, y_old, head=k)
#             optimizer.zero_grad(set_to_none=False)
#             loss.backward()
#             optimizer.step()
#         memory = {k: (x[:keep], y[:keep])}
#         found.append([net.accuracy(s[0], s[1], head=j) for j, s in enumerate(stages[: k + 1])])
#     return found
# ```

# %% [markdown] tags=["tensorflow"]
# ## 7. Find the bug: the sequence that forgets by itself
#
# Three stages, each with a head of its own, and a few rows of each old stage for replay.
# `net.loss(x, y, head=k)` is a mean over rows, `net.accuracy(x, y, head=k)` a number,
# `net.variables` holds the encoder and all heads; a stage is `(x, y, x_test, y_test)`. The script
# runs, and replay seems to make things worse.
#
# ```python
# def learn(net, stages, keep, steps, rate):
#     optimizer = keras.optimizers.SGD(rate, momentum=0.9)
#     memory, found = {}, []
#     for k, (x, y, x_test, y_test) in enumerate(stages):
#         for _ in range(steps):
#             with tf.GradientTape() as tape:
#                 loss = net.loss(x, y, head=k)
#                 for x_old, y_old in memory.values():
#                     loss = net.loss(x_old, y_old, head=k)
#             gradients = tape.gradient(loss, net.variables, unconnected_gradients="zero")
#             optimizer.apply(gradients, net.variables)
#         memory = {k: (x[:keep], y[:keep])}
#         found.append([net.accuracy(s[0], s[1], head=j) for j, s in enumerate(stages[: k + 1])])
#     return found
# ```

# %% [markdown]
# Write one in which a step makes the *sum* of the stage's loss and the losses of all old stages
# smaller, each old stage with its first `keep` rows and through its own head. Each stage begins
# with a fresh optimizer (SGD, momentum 0.9). A head that takes no part in a stage does not move.
# With `keep=0` there is no replay. After each stage score every stage so far on its test rows.
# There are five bugs.


# %% tags=["pytorch"]
def learn(net, stages, keep, steps, rate):
    """Return the accuracies, a list of len(stages) lists: after stage i, on stages 0 to i."""
    ### BEGIN SOLUTION
    found = []
    for k in range(len(stages)):
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
        for _ in range(steps):
            loss = net.loss(stages[k][0], stages[k][1], head=k)
            for j, (x, y, *_) in enumerate(stages[:k]):
                loss = loss + net.loss(x[:keep], y[:keep], head=j)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tests = enumerate(stages[: k + 1])
        found.append([net.accuracy(x, y, head=j) for j, (*_, x, y) in tests])
    return found
    ### END SOLUTION


# %% tags=["tensorflow"]
def learn(net, stages, keep, steps, rate):
    """Return the accuracies, a list of len(stages) lists: after stage i, on stages 0 to i."""
    ### BEGIN SOLUTION
    found = []
    for k in range(len(stages)):
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = net.loss(stages[k][0], stages[k][1], head=k)
                for j, (x, y, *_) in enumerate(stages[:k]):
                    loss = loss + net.loss(x[:keep], y[:keep], head=j)
            gradients = tape.gradient(loss, net.variables, unconnected_gradients="zero")
            optimizer.apply(gradients, net.variables)
        tests = enumerate(stages[: k + 1])
        found.append([net.accuracy(x, y, head=j) for j, (*_, x, y) in tests])
    return found
    ### END SOLUTION


# %%
check("ex09.7", learn)

# %% [markdown] tags=["solution"]
# 1. `loss =` in the inner loop replaces the loss of the new stage. Only the last replay counts.
# 2. Old rows go through the new head. Label 1 of an old stage is another class there.
# 3. `memory = {...}` keeps one stage. `memory[k] = ...` keeps them all.
# 4. One optimizer for all stages. Its momentum goes on moving the encoder on the old way, and with
#    zeros in place of no gradient the old heads as well, though nothing trains them.
# 5. The accuracies are those of training rows. Some of them are replayed, so forgetting on them
#    says nothing about forgetting.
#
# With `keep=0` the answer takes the mean loss of no rows, which is NaN. It does no harm here: where
# there is no row there is no gradient. A loss that you log needs a guard.
#
# Each of them alone looks like "replay does not work here" or like "nothing is forgotten". Two
# tests that take a minute would have found most of them: with `keep=0` print an old head
# before and after a stage, and with one step compare the change with the rate times the gradient.

# %% [markdown]
# ## 8. Together, or one after another?
#
# A shop sorts messages of customers with a small shared encoder above a frozen trunk. There are two
# heads today, polarity (40,000 labels) and "wants money back" (300 labels). Every quarter a new
# question joins, with about 2,000 labels of its own. Messages have to be deleted after 30 days;
# labels and whatever was computed from the messages as a sum may stay. A colleague proposes:
# train in sequence, EWC with λ = 1000 "as in the notebook", uncertainty weighting for the rest. The
# two recorded runs of task 5:

# %%
from tlcourse.exercises.ex09 import RECORDED

for name, table in RECORDED.items():
    print(name, table, sep="\n")

# %% [markdown]
# Write what you answer: **first what you would build**, in one sentence; **then what you would
# measure** before it goes live, against which controls, on which rows; **then what of the proposal
# you keep and what not**, and why. At most 25 sentences.

# %% [markdown] tags=["open"]
# *For the person who marks it. Each point may be given in halves: the whole where the statement is
# tied to a fact of this case or to a number, half where it is there in general words. Sequence,
# frozen encoder and joint training are all defensible if they are carried.*
#
# 1. **The rule on deletion decides what is possible.** Replay of old messages, and joint training
#    on them, end after 30 days; Fisher sums and old weights may stay, stored features of single
#    messages may not. EWC, or an encoder that stays still with new heads only, is open.
#    *Half:* "privacy is a problem for replay".
# 2. **Own heads change the picture.** Each question has a head of its own, so an old head need not
#    be touched: the cheapest control is no further training of the encoder at all, where
#    nothing is forgotten by construction. The recorded runs share one head of eight outputs and
#    overstate forgetting for this case. *Half:* "try a frozen encoder" without the reason.
# 3. **Controls and rows.** Each task alone, all together where still allowed, several seeds,
#    paired; test rows of every old task that may be kept (or were released), held out by
#    customer or by time; accuracy when new *and* at the end: in the record less forgetting came
#    with a new stage at 0.57 in place of 0.72. *Half:* only accuracy at the end.
# 4. **λ does not travel.** It depends on the number of weights, the loss, the rate and the steps;
#    in the notebook 10,000 already kept new classes from being learned, and 100 was used with own
#    heads. Choose it by a grid on held-out rows, at the price of what is new. *Half:* "tune λ".
# 5. **Weights for 300 labels.** Uncertainty weighting reads the small training loss of a task known
#    by heart as certainty and turns it up; a grid over w judged on held-out rows is the
#    mark to beat, and whether polarity helps or harms "money back" at all has to be measured
#    against training it alone. *Half:* "weights have to be chosen".
