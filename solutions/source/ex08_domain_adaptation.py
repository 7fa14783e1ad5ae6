# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 8: domain adaptation
#
# Six functions and one decision; two of the functions are to be mended. Tasks 4 and 5 speak your
# framework, the others need NumPy. *About 90 minutes.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [08](../../notebooks/tensorflow/08_domain_adaptation.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [08](../../notebooks/pytorch/08_domain_adaptation.ipynb).

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

np.set_printoptions(precision=4, suppress=True)

# %% tags=["tensorflow"]
import keras
import tensorflow as tf

# %% tags=["pytorch"]
import torch
from torch import nn
from torch.nn import functional

# %% [markdown]
# ## 1. A shipped model and a new camera
#
# The classifier is out in the world and cannot be trained again. Of its training rows only the mean
# and the covariance were kept. Now the customer has a new camera and sends unlabelled rows. So
# CORAL has to work the other way: turn the *target's* rows into rows that look like the source,
# by one map $x \mapsto xA + b$ that also serves a single picture tomorrow.
#
# Whiten with the target's covariance, recolour with the source's, both with `ridge` times the unit
# matrix added, and use symmetric roots. The mean of the target rows has to come to lie on the
# source's. Covariances divide by $n - 1$. `ridge` may be 0 where the covariances allow it.


# %%
def to_source(T, mean, cov, ridge):
    """Return (A, b), shapes (d, d) and (d,).

    T: target rows (n, d); mean (d,) and cov (d, d) of the source, without the ridge.
    """

    ### BEGIN SOLUTION
    def power(C, exponent):
        values, vectors = np.linalg.eigh(C + ridge * np.eye(len(C)))
        return vectors * values**exponent @ vectors.T

    A = power(np.cov(T.T), -0.5) @ power(cov, 0.5)
    return A, mean - T.mean(axis=0) @ A
    ### END SOLUTION


# %%
check("ex08.1", to_source)

# %% [markdown] tags=["solution"]
# A row is multiplied from the left, so the first factor acts first: whiten, then recolour. The
# covariance behind a map is $A^\top C A$; put $A$ in and $C_S$ comes out.
#
# Many matrices have that property: $A$ with any rotation between its two factors. Cholesky's
# factors give one of them, and it depends on the order of the columns; the symmetric roots give one
# that does not. And $b$ balances the mean *behind* $A$.
#
# In digits some pixels never change. Without the ridge the smallest eigenvalues are rounding errors
# around 0, sometimes below, and their roots are huge or not a number.
#
# Logistic regression on the digits of the first writers, accuracy on the last ones, one split. The
# map is fitted to 300 rows that are not tested on. "Pale": $5 + 0.35\,x$. "Blurred": every pixel
# is added to its right neighbour first.
#
# | map | pale | blurred and pale |
# |---|---|---|
# | none | 0.785 | 0.737 |
# | CORAL | 0.919 | 0.754 |
# | column by column | 0.920 | 0.833 |
# | with Cholesky's factors | 0.863 | 0.791 |
# | without the means | 0.556 | 0.532 |
# | the other way round | 0.357 | 0.631 |
#
# On clean pictures of these writers it is 0.917. A map without the means does more harm than none.
# And matching more is not better: mean and variance of each column do as well as CORAL, or better.
# A covariance fits many maps. CORAL takes one, and it need not be the one that undoes the blur.

# %% [markdown]
# ## 2. Importance weights you can train with
#
# A domain classifier's odds are density ratios, and two things go wrong with them in practice. A
# flexible classifier knows its own rows by heart; and one odd row gets half of all weight.
#
# `fit(X, d)` is given to you: it fits a domain classifier to rows `X` with domains `d` (0 source, 1
# target) and returns a function that gives $p(T\mid x)$ for rows. Row k of each domain belongs to
# fold k modulo `folds`. The weight of a source row comes from a classifier fitted to the rows of
# both domains in all *other* folds. Take the numbers of rows out of the odds (both are multiples of
# `folds`). No ratio may be above `cap`; then scale to a mean of 1. Return also how many rows these
# weights are worth, $(\sum w)^2 / \sum w^2$.


# %%
def importance_weights(fit, S, T, folds, cap):
    """Return (weights (n_S,), effective number of rows); S (n_S, d), T (n_T, d)."""
    ### BEGIN SOLUTION
    of_S, of_T = np.arange(len(S)) % folds, np.arange(len(T)) % folds
    p = np.empty(len(S))
    for k in range(folds):
        a, b = S[of_S != k], T[of_T != k]
        d = np.repeat([0, 1], [len(a), len(b)])
        p[of_S == k] = fit(np.concatenate([a, b]), d)(S[of_S == k])
    w = (p / (1 - p) * len(S) / len(T)).clip(None, cap)
    w = w / w.mean()
    return w, w.sum() ** 2 / (w**2).sum()
    ### END SOLUTION


# %%
check("ex08.2", importance_weights)

# %% [markdown] tags=["solution"]
# The order matters: ratio, cap, scale. The cap is meant for the ratio $P_T/P_S$, where 5 means
# "five times as frequent in the target". For weights already scaled it means nothing that you could
# say in words. For the same reason the sizes have to be taken out first, although the mean would
# hide them later.
#
# What seeing its own rows does, on 300 digits of the first writers and 300 of the last, logistic
# regression with C = 1, no cap: the largest weight is 263 of 300 in place of 162, and the rows are
# worth 1.3 in place of 2.1. Both are hopeless; the honest one less so. A cap of 10 changes neither,
# since no ratio reaches it: nearly all are close to 0. Here there is no overlap.
#
# A mean of 1 is not decoration: scikit-learn's `LogisticRegression` *adds* the weighted losses, so
# weights that sum to 1 make the penalty n times as strong. Look at the second number before you
# train.

# %% [markdown]
# ## 3. Other class shares, found without a label
#
# Only the class shares have changed; $P(x\mid y)$ is the same. Then each label is answered as
# before, right or wrong, and the shares of the answers tell the shares of the labels. (Lipton et
# al. 2018. It needs only the answers, the largest probability of a row; EM, in the lesson, needs
# probabilities that can be trusted.)
#
# `P` are the classifier's probabilities for held-out source rows, `y` their labels, `Q` its
# probabilities for target rows. Let $M_{ij}$ be the share of the held-out rows of label j that are
# answered i, and $a_i$ the share of target rows answered i. Solve $Mq = a$, set what is below 0 to
# 0 and let the shares add up to 1. Then correct each row of `Q` for them: the held-out rows show
# the shares that the classifier was trained with. Every label occurs in `y`.


# %%
def correct_shift(P, y, Q):
    """Return (shares (K,), corrected probabilities (m, K)); P (n, K), y (n,), Q (m, K)."""
    ### BEGIN SOLUTION
    K = P.shape[1]
    answered = np.eye(K)[P.argmax(axis=1)]
    M = np.array([answered[y == k].mean(axis=0) for k in range(K)]).T
    a = np.eye(K)[Q.argmax(axis=1)].mean(axis=0)
    q = np.linalg.solve(M, a).clip(0)
    q = q / q.sum()
    corrected = Q * q / np.bincount(y)
    return q, corrected / corrected.sum(axis=1, keepdims=True)
    ### END SOLUTION


# %%
check("ex08.3", correct_shift)

# %% [markdown] tags=["solution"]
# $P(\text{answer}\mid\text{label})$ is what stays under label shift. The other conditional,
# $P(\text{label}\mid\text{answer})$, is what most reports show, and it changes. Counting answers
# is the commonest short cut: with 8 of 10 and 14 of 20 right, a target with 20 % of label 0 seems
# to have 40 %.
#
# The estimate has a price: errors of $M$ and $a$ are multiplied by its inverse. A classifier that
# is barely better than chance has a matrix that can hardly be inverted, and shares below 0 are the
# first sign. And if $P(x\mid y)$ has changed as well, all of it is wrong without a warning; the
# lesson shows that on its text domains.

# %% [markdown]
# ## 4. Mend the adversary that gives up
#
# A colleague trains DANN. The domain head's accuracy falls to one half at once, which looks like
# success, and the target gets no better:

# %% [markdown] tags=["pytorch"]
# ```python
# def dann_loss(features, classify, discriminate, S, y, T, progress):
#     F_S, F_T = features(S), features(T)
#     L_y = functional.cross_entropy(classify(F_S), y)
#     bce = functional.binary_cross_entropy_with_logits
#     of_S = discriminate(F_S.detach())
#     of_T = discriminate(F_T)
#     L_d = bce(of_S, torch.ones_like(of_S)) + bce(of_T, torch.ones_like(of_T))
#     return L_y - progress * L_d
# ```

# %% [markdown] tags=["tensorflow"]
# ```python
# def dann_loss(features, classify, discriminate, S, y, T, progress):
#     F_S, F_T = features(S), features(T)
#     L_y = tf.nn.sparse_softmax_cross_entropy_with_logits(y, classify(F_S))
#     bce = tf.nn.sigmoid_cross_entropy_with_logits
#     of_S = discriminate(tf.stop_gradient(F_S))
#     of_T = discriminate(F_T)
#     L_d = tf.reduce_mean(bce(tf.ones_like(of_S), of_S))
#     L_d += tf.reduce_mean(bce(tf.ones_like(of_T), of_T))
#     return tf.reduce_mean(L_y) - progress * L_d
# ```

# %% [markdown]
# `features`, `classify` and `discriminate` are the three parts of the network; `classify` gives
# logits (n, 3), `discriminate` one logit a row, shape (n, 1). One optimizer descends on what the
# function returns, with the weights of all three.
#
# Write one that is DANN: the value is $L_y + L_d$, where $L_d$ is the mean cross-entropy over all
# rows of both domains together, source 0 and target 1. Both heads descend on their own loss. The
# features descend on $L_y$ and, λ times, *ascend* on $L_d$. λ is
# $2 / (1 + e^{-10\,\mathrm{progress}}) - 1$; `progress` is a number that goes from 0 to 1. There
# are five bugs.


# %% tags=["pytorch"]
def dann_loss(features, classify, discriminate, S, y, T, progress):
    """Return the loss, one number; S (n_S, d), T (n_T, d), y (n_S,) whole numbers."""
    ### BEGIN SOLUTION
    F = features(torch.cat([S, T]))
    L_y = functional.cross_entropy(classify(F[: len(S)]), y)
    lam = 2 / (1 + np.exp(-10 * progress)) - 1
    reversed_F = (1 + lam) * F.detach() - lam * F
    logits = discriminate(reversed_F)[:, 0]
    domain = torch.ones_like(logits)
    domain[: len(S)] = 0
    return L_y + functional.binary_cross_entropy_with_logits(logits, domain)
    ### END SOLUTION


# %% tags=["tensorflow"]
def dann_loss(features, classify, discriminate, S, y, T, progress):
    """Return the loss, one number; S (n_S, d), T (n_T, d), y (n_S,) whole numbers."""
    ### BEGIN SOLUTION
    F = features(tf.concat([S, T], 0))
    L_y = tf.nn.sparse_softmax_cross_entropy_with_logits(y, classify(F[: len(S)]))
    lam = 2 / (1 + np.exp(-10 * progress)) - 1
    reversed_F = (1 + lam) * tf.stop_gradient(F) - lam * F
    logits = discriminate(reversed_F)[:, 0]
    domain = tf.cast(tf.range(len(logits)) >= len(S), logits.dtype)
    L_d = tf.nn.sigmoid_cross_entropy_with_logits(domain, logits)
    return tf.reduce_mean(L_y) + tf.reduce_mean(L_d)
    ### END SOLUTION


# %%
check("ex08.4", dann_loss)

# %% [markdown] tags=["solution"]
# 1. The minus. $L_y - \lambda L_d$ is what the *features* descend on. One optimizer for all parts
#    hands the minus to the domain head too, which learns to be wrong. Reversal is needed because
#    two parts want opposite things from one number.
# 2. All rows have the label 1: a bias is enough to answer.
# 3. `detach` keeps the source features out of the game.
# 4. Two means added are twice the mean over all rows (and something else where the sizes differ).
# 5. λ is the progress itself: 0.1 where the schedule says 0.46.
#
# $(1+\lambda)\,\mathrm{stop}(F) - \lambda F$ is $F$ forwards and has the gradient $-\lambda$: a
# reversal layer without a class. The class of the lesson is as good.
#
# And the colleague's success: a domain head that is right half of the time says that the features
# are alike, *or* that the head is bad. To know, freeze the features and train a fresh head on them.

# %% [markdown]
# ## 5. New statistics, and nothing else
#
# AdaBN for a network in use. Put the target's statistics into every BatchNorm layer: mean and
# variance of what reaches it, over all these pictures and places, with the new statistics already
# in the layers before it and Dropout off. The pictures go through in one batch. Whether the
# variance divides by n or n − 1 is up to you.
#
# Everything else has to be as before: weights, γ and β, momentum, which parts were in training
# mode or frozen. Nobody promises that they are all alike.

# %% [markdown] tags=["pytorch"]
# The network holds `nn.BatchNorm2d` layers; `x` is a tensor (n, 3, height, width).

# %% [markdown] tags=["tensorflow"]
# The network is a `keras.Sequential` model; `x` is a tensor (n, height, width, 3).


# %% tags=["pytorch"]
def adapt_norms(model, x):
    """Renew the statistics of every BatchNorm layer of the model, in place."""
    ### BEGIN SOLUTION
    modes = [(part, part.training) for part in model.modules()]
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(x)
    for norm in norms:
        norm.momentum = momenta[norm]
    for part, mode in modes:
        part.training = mode
    ### END SOLUTION


# %% tags=["tensorflow"]
def adapt_norms(model, x):
    """Renew the statistics of every BatchNorm layer of the model, in place."""
    ### BEGIN SOLUTION
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            mean, variance = tf.nn.moments(x, (0, 1, 2))
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
        x = layer(x, training=False)
    ### END SOLUTION


# %%
check("ex08.5", adapt_norms)

# %% [markdown] tags=["solution"]
# What makes it hard is not the statistics but all the rest.

# %% [markdown] tags=["solution", "pytorch"]
# `model.train()` would also switch Dropout on, and the second BatchNorm would learn the statistics
# of a network with half of its numbers missing. `part.train(mode)` at the end would set all
# children too: restoring the model last, or `model.train(was_training)`, undoes an `eval()` that
# somebody had set inside. With momentum 0.1 one pass goes a tenth of the way.

# %% [markdown] tags=["solution", "tensorflow"]
# A frozen BatchNorm runs in inference mode even with `training=True`: in Keras `trainable = False`
# says both. A pass "in training mode" over a frozen backbone, the usual state, changes nothing and
# says nothing. `model(x, training=True)` also switches Dropout on. Assigning mean and variance
# layer by layer needs no flag at all, so there is none to restore. With momentum 0.99, Keras'
# default, one pass goes a hundredth of the way.

# %% [markdown] tags=["solution"]
# And measure in order: what reaches the second BatchNorm depends on the statistics of the first.

# %% [markdown]
# ## 6. Mend the choice that peeks
#
# How strongly to adapt? `fit(setting, S, y, T)` adapts with this strength and returns a function
# from rows to labels. A colleague reports what the best of the `settings` reaches:
#
# ```python
# def choose(fit, settings, source, held_out, target, test):
#     S, y = source
#     E, yE = test
#     best, chosen = 0, None
#     for setting in settings:
#         predict = fit(setting, S, y, np.concatenate([target, E]))
#         score = np.mean(predict(E) == yE)
#         if score >= best:
#             best, chosen = score, setting
#     return chosen, best
# ```
#
# `held_out` is `(V, yV, w)`: labelled source rows that `fit` is not to see, with their importance
# weights. Choose by the share of the weight of `held_out` that is answered right; of equal ones the
# first, since the settings go from weak to strong. The `test` rows `(E, yE)` stand for those that
# arrive later: `fit` does not see them. Return the chosen setting and its balanced accuracy on the
# test rows, the mean over the classes in `yE` of the share answered right. There are four bugs.


# %%
def choose(fit, settings, source, held_out, target, test):
    """Return (setting, balanced accuracy on the test rows); target holds rows without labels."""
    ### BEGIN SOLUTION
    (S, y), (V, yV, w), (E, yE) = source, held_out, test
    models = [fit(setting, S, y, target) for setting in settings]
    scores = [np.sum(w * (predict(V) == yV)) for predict in models]
    best = np.argmax(np.round(scores, 9))
    right = models[best](E) == yE
    return settings[best], np.mean([right[yE == k].mean() for k in np.unique(yE)])
    ### END SOLUTION


# %%
check("ex08.6", choose)

# %% [markdown] tags=["solution"]
# 1. The test labels choose. Among settings that include "do not adapt", such a choice can never
#    lose to it, whatever the method is worth: in the lesson its gain is selection and nothing else.
# 2. The test rows are adapted to. It needs no label, so in the transductive setting it is allowed;
#    but then the number holds for *these* rows and not for tomorrow's.
# 3. `>=` prefers the strongest of equals. Where the data does not tell, adapt less.
# 4. The plain accuracy, on a target whose class shares differ.
#
# The sum of the weights is the same for all settings, so there is no need to divide. Rounding
# guards against scores that are equal but for the last bit.
#
# It is honest, and no more: the weights are estimates (task 2), and a handful of held-out rows may
# carry most of them. If the effective number is 12, you choose with 12 rows.

# %% [markdown]
# ## 7. In words: adapt, reweight, or pay for labels?
#
# A maker of solar panels has a defect detector that was trained on 4,000 labelled cells of its old
# line, of which 30 % were defective. The new line has another camera, with paler pictures, and a
# better process: perhaps 5 % defective, nobody knows. There are 20,000 unlabelled pictures of the
# new line, and money for 200 labels. A colleague proposes DANN, with λ chosen on those 200.
#
# In ten sentences or so: what has shifted, and which assumption would each repair make? Why would
# plain alignment do harm here, and what does it do to the cells that are defective? What would you
# do first, second and third, and which number would you report? What would you use the 200 labels
# for, and what can they not give you?

# %% [markdown] tags=["open"]
# *Marking, 5 points, one for each.*
#
# 1. **Two shifts at once.** The camera changes $P(x\mid y)$, the process changes $P(y)$. Covariate
#    shift (weights) would need $P(y\mid x)$ to stay, label shift (EM, confusion matrix) would need
#    $P(x\mid y)$ to stay: neither holds.
# 2. **Why alignment harms.** Alignment makes a cloud with 30 % defects cover one with 5 %, so
#    intact cells of the new line come to lie on defective ones of the old: false alarms. DANN does
#    the same and hides it behind a domain head that is fooled.
# 3. **A sensible order.** First what is known about the camera: correct the grey values, or give
#    each domain its own statistics, weakly. Then shares, with the answers of the corrected
#    model. Compare everything with source-only and with a model or threshold fitted on some labels.
# 4. **The labels.** Drawn at random, about 10 of 200 are defective: enough to see whether it works,
#    not enough to choose λ *and* to measure. Either split them or choose without them; oversample
#    what the model suspects only if the weights of that draw are kept.
# 5. **The number.** Not plain accuracy: 95 % comes from saying "intact". Recall of defects and
#    false alarms per thousand, or cost, with an interval, by module or day; and the sentence that
#    10 defects allow no precise recall.
