# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises 1: theory and formulas
#
# Eight functions and one question. You need NumPy, no framework. *About an hour.*
#
# Write a function, run its cell, then run the `check` below it. The check answers at once, and
# where it knows the mistake that you made, it says so. Ask again and you get a further hint, never
# the code. What you reach is noted in your own record.

# %% [markdown] tags=["tensorflow"]
# Taught in notebook [01](../../notebooks/tensorflow/01_theory_and_formulas.ipynb).

# %% [markdown] tags=["pytorch"]
# Taught in notebook [01](../../notebooks/pytorch/01_theory_and_formulas.ipynb).

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %%
import numpy as np

from tlcourse.exercises import check

# %% [markdown]
# ## 1. The gradient of the cross-entropy
#
# A linear head on features $F$ of shape $(n, d)$ has weights $W$ of shape $(d, C)$, scores $z = FW$
# and probabilities $p = \operatorname{softmax}(z)$, row by row. The loss is the mean of
# $-\log p_y$ over the $n$ pictures. Return its gradient with respect to $W$. Scores may be large.


# %%
def head_gradient(F, W, y):
    """Return dL/dW of shape (d, C); y holds the n labels, whole numbers from 0 to C - 1."""
    ### BEGIN SOLUTION
    z = F @ W
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return F.T @ p / len(y)
    ### END SOLUTION


# %%
check("ex01.1", head_gradient)

# %% [markdown] tags=["solution"]
# The derivative of $-\log p_y$ with respect to the scores is $p - e_y$: the error that the model
# makes on each class. The chain rule brings $F^\top$ in front, the mean brings $1/n$. Taking the
# largest score of a row from all of them changes no probability and keeps the exponential finite.
#
# What people write instead: a sum over the batch (the learning rate then depends on the batch
# size), a softmax over the batch (`axis=0`), a softmax of the softmax (the loss cannot fall below
# $\ln(1 + (C-1)/e)$, 0.55 for three classes, so training seems to be stuck).

# %% [markdown]
# ## 2. The update rule
#
# You will meet fine-tuning as one step from the pretrained weights. Write what it is: one step a
# batch, each from where the last one ended. `gradient(theta, X, y)` is given to your function and
# returns the gradient for one batch.


# %%
def fine_tune(theta, gradient, batches, rate):
    """Return the weights after one step for each (X, y) in batches, the given theta untouched."""
    ### BEGIN SOLUTION
    for X, y in batches:
        theta = theta - rate * gradient(theta, X, y)
    return theta
    ### END SOLUTION


# %%
check("ex01.2", fine_tune)

# %% [markdown] tags=["solution"]
# `theta = theta - …` makes a new array in every step. `theta -= …` would write into the array that
# belongs to the caller: a silent mistake, which shows only when somebody asks later how far the
# weights have moved, and the answer is zero.

# %% [markdown]
# ## 3. Stay near the start
#
# L2-SP adds $\frac\lambda2\lVert\theta - \theta_{pre}\rVert^2$ for the body and
# $\frac\lambda2\lVert\theta\rVert^2$ for the new head. You have the gradient of the loss; return
# that of the sum.


# %%
def l2_sp_gradient(theta, gradient, theta_pre, lam, head):
    """Return the gradient of shape (m,); head, shape (m,), is true for the new head's weights."""
    ### BEGIN SOLUTION
    target = np.where(head, 0, theta_pre)
    return gradient + lam * (theta - target)
    ### END SOLUTION


# %%
check("ex01.3", l2_sp_gradient)

# %% [markdown] tags=["solution"]
# Plain weight decay, the commonest mistake, pulls the pretrained weights to zero: it forgets what
# it should keep. The head is the other way round: its "pretrained" values are random, and holding
# it there would hold it at nothing.

# %% [markdown]
# ## 4. What the source needs
#
# A logistic model has $p = \sigma(X\theta)$. Return the diagonal of its Fisher information
# $\mathcal F_j = \mathbb E_x\,\mathbb E_{y\sim p(y|x)}\bigl(\partial \log p(y|x) / \partial
# \theta_j\bigr)^2$ over the rows of $X$.


# %%
def fisher_diagonal(X, theta):
    """Return the diagonal, shape (d,), for inputs X of shape (n, d)."""
    ### BEGIN SOLUTION
    p = 1 / (1 + np.exp(-X @ theta))
    return np.mean((p * (1 - p))[:, None] * X**2, axis=0)
    ### END SOLUTION


# %%
check("ex01.4", fisher_diagonal)

# %% [markdown] tags=["solution"]
# The gradient for one input is $(y - p)\,x_j$. Over both labels the mean of $(y-p)^2$ is
# $p(1-p)^2 + (1-p)p^2 = p(1-p)$. Squaring the *mean* gradient instead gives almost nothing where
# training has ended: there the gradients cancel. And a model that is sure of its answers has small
# $p(1-p)$ everywhere, so it holds its weights loosely: one reason why EWC forgets.

# %% [markdown]
# ## 5. How far apart are two domains?
#
# A classifier guesses for every sentence which domain it comes from. With $\varepsilon$ its error,
# each domain counting one half, the proxy distance is $\hat d_A = 2(1 - 2\varepsilon)$.


# %%
def proxy_distance(predicted, domain):
    """Return the distance; both arrays have shape (n,) and hold 0 or 1."""
    ### BEGIN SOLUTION
    errors = [np.mean(predicted[domain == k] != k) for k in (0, 1)]
    return 2 * (1 - 2 * np.mean(errors))
    ### END SOLUTION


# %%
check("ex01.5", proxy_distance)

# %% [markdown] tags=["solution"]
# With unequal sizes the plain error rewards a classifier that always names the larger domain: with
# nine against one it reaches a distance of 1.6 and knows nothing.

# %% [markdown]
# ## 6. Which setting is it?
#
# After Pan and Yang: *inductive* where the task differs and the target has labels; *transductive*
# where the task is the same, the domain differs, and only the source has labels; *unsupervised*
# where the task differs and nobody has labels. Everything else is `"none"` of the three.


# %%
def setting(same_domain, same_task, source_labels, target_labels):
    """Return "inductive", "transductive", "unsupervised" or "none"; all four are true or false."""
    ### BEGIN SOLUTION
    if not same_task:
        if target_labels:
            return "inductive"
        return "none" if source_labels else "unsupervised"
    if not same_domain and source_labels and not target_labels:
        return "transductive"
    return "none"
    ### END SOLUTION


# %%
check("ex01.6", setting)

# %% [markdown] tags=["solution"]
# Many texts say that inductive means another domain and transductive a similar task. It is the task
# that makes a transfer inductive. With labels in both domains of one task you have supervised
# domain adaptation, common in practice and in none of the three boxes.

# %% [markdown]
# ## 7. How large may the rate be?
#
# Near a minimum the loss is $\frac12\theta^\top H\theta$, with a symmetric $H$ whose eigenvalues
# are positive. Return the rate above which gradient descent diverges.


# %%
def largest_rate(H):
    """Return the rate for H of shape (d, d)."""
    ### BEGIN SOLUTION
    return 2 / np.linalg.eigvalsh(H)[-1]
    ### END SOLUTION


# %%
check("ex01.7", largest_rate)

# %% [markdown] tags=["solution"]
# In the direction of an eigenvalue $h$ one step multiplies the distance by $1 - \alpha h$. That
# stays between $-1$ and $1$ as long as $\alpha < 2/h$, and the largest $h$ is the first to break
# it.

# %% [markdown]
# ## 8. Find the bug
#
# A colleague checks every gradient with this function, and every gradient passes:
#
# ```python
# def gradient_check(loss, gradient, theta, step=1e-5):
#     worst = 0.0
#     for j in range(len(theta)):
#         shifted = theta
#         shifted[j] += step
#         up = loss(shifted)
#         shifted[j] -= 2 * step
#         slope = (up - loss(shifted)) / step
#         worst = max(worst, slope - gradient(theta)[j])
#     return round(worst)
# ```
#
# Write one that returns the largest absolute difference between `gradient(theta)` and central
# differences of `loss`. There is more than one bug.


# %%
def gradient_check(loss, gradient, theta, step=1e-5):
    """Return the largest absolute difference over the entries of theta, shape (m,)."""
    ### BEGIN SOLUTION
    slopes = []
    for j in range(len(theta)):
        shift = np.zeros(len(theta))
        shift[j] = step
        slopes.append((loss(theta + shift) - loss(theta - shift)) / (2 * step))
    return np.abs(slopes - gradient(theta)).max()
    ### END SOLUTION


# %%
check("ex01.8", gradient_check)

# %% [markdown] tags=["solution"]
# Five bugs: `shifted = theta` is no copy, so the weights of the caller change and the gradient is
# taken at another place; they are never put back; the two places lie two steps apart and the
# difference is divided by one; without `abs` a gradient that is too large gives a negative
# difference, which is never the largest; and `round` turns every difference below one half into 0.
# The last two are why everything passed. A check that cannot fail is worse than none.

# %% [markdown]
# ## 9. In your own words
#
# A team has a sentiment model for film reviews and 2,000 unlabelled product reviews. Somebody
# measures a proxy distance of 1.9 and says: "The domains are too far apart, transfer will fail."
# What do you answer, and what would you measure instead? Ten sentences at most.

# %% [markdown] tags=["open"]
# *For the person who marks it, one point each:*
#
# 1. The setting is named: transductive, no labels in the target.
# 2. The distance counts any difference between the inputs, also such as do not matter to the task;
#    in notebook 01 it is near its maximum for all twelve pairs, and the drop differs.
# 3. The bound is an upper one: a large distance permits a large error and does not predict it.
# 4. The class shares may differ, and aligning the features then may do harm.
# 5. A measurement is proposed that decides: label some dozens or hundreds of product reviews, with
#    an interval; or, without labels, the loss of confidence from source to target, with its limits.
