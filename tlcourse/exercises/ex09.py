"""Exercise set 9: many tasks, and one after another (notebook 09)."""

import importlib
import sys
from functools import lru_cache

import numpy as np

from .kit import Misconception, Part, Task, expect, require

# --- ex09.1: a loss for tasks whose labels are missing here and there ---------------------------


@lru_cache(maxsize=1)
def _cells():
    """Two tasks on the solar cells: defective, known where the rater was sure, and the type."""
    from tlcourse import datasets

    data = datasets.solar_cells()
    p = np.array(data.meta["probability"])
    defective = np.where((p < 0.1) | (p > 0.9), p, np.nan)
    return np.stack([defective, np.array(data.meta["cell_type"]) == "mono"], axis=1)


def _half_labelled(rng, tasks=3, n=8, empty=None):
    labels = rng.integers(0, 2, (n, tasks)).astype(float)
    labels[rng.random((n, tasks)) < 0.4] = np.nan
    labels[0], labels[1, 0] = 1.0, np.nan
    if empty is not None:
        labels[:, empty] = np.nan
    return rng.normal(size=(n, tasks)) * 2, labels, 0.5 + rng.random(tasks)


def _loss_and_gradient(f, logits, labels, weights):
    out = f(logits, labels, weights)
    require(isinstance(out, list) and len(out) == 2, "expected two: the loss and the gradient")
    expect(np.shape(out[1]), logits.shape, f"logits of shape {logits.shape}: shape of the gradient")
    return float(out[0]), np.asarray(out[1], float)


def _masked_by_hand(f, rng):
    nan, z = np.nan, np.log(3)
    labels = np.array([[1.0, nan], [0.0, nan], [1.0, 1.0], [nan, nan]])
    logits = np.array([[z, 5.0], [z, -7.0], [z, -z], [9.0, 2.0]])
    what = "task 1: logits ln 3, labels 1, 0, 1 and one missing; task 2: logit -ln 3, label 1, "
    what += "three missing; weights 1 and 2: "
    loss, gradient = _loss_and_gradient(f, logits, labels, np.array([1.0, 2.0]))
    mean = (2 * np.log(4 / 3) + np.log(4)) / 3
    expect(loss, mean + 2 * np.log(4), what + "the loss")
    wanted = np.array([[-1 / 12, 0], [1 / 4, 0], [-1 / 12, -3 / 2], [0, 0]])
    expect(gradient, wanted, what + "the gradient")


def _masked_by_differences(f, rng):
    logits, labels, weights = _half_labelled(rng)
    gradient, by_hand = _loss_and_gradient(f, logits, labels, weights)[1], np.zeros(logits.shape)
    for place in np.ndindex(*logits.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = logits.copy()
            moved[place] += step
            ends.append(_loss_and_gradient(f, moved, labels, weights)[0])
        by_hand[place] = (ends[0] - ends[1]) / 2e-5
    expect(gradient, by_hand, "your gradient against finite differences of your loss", 1e-5)
    loss = _loss_and_gradient(f, logits, labels, weights)[0]
    got = _loss_and_gradient(f, np.tile(logits, (2, 1)), np.tile(labels, (2, 1)), weights)[0]
    expect(got, loss, "your loss, every row given twice")


def _masked_without_labels(f, rng):
    logits, labels, weights = _half_labelled(rng, empty=1)
    loss, gradient = _loss_and_gradient(f, logits, labels, weights)
    require(np.isfinite(loss), "no row of the batch has a label for task 2: the loss is not finite")
    expect(gradient[:, 1], np.zeros(8), "task 2 without a label: its gradient")
    got = _loss_and_gradient(f, logits[:, [0, 2]], labels[:, [0, 2]], weights[[0, 2]])[0]
    expect(loss, got, "the loss with a task that has no label, against the loss without that task")
    large = np.array([[800.0], [-900.0]])
    loss, gradient = _loss_and_gradient(f, large, np.array([[0.0], [0.0]]), np.ones(1))
    expect(loss, 400.0, "logits of 800 and -900, both labels 0, weight 1: the loss")
    expect(gradient, np.array([[0.5], [0.0]]), "logits of 800 and -900: the gradient")


def _masked_cells(f, rng):
    labels, weights = _cells(), np.array([1.0, 3.0])
    loss, gradient = _loss_and_gradient(f, np.zeros(labels.shape), labels, weights)
    what = f"all {len(labels)} solar cells, the defect known for {np.sum(labels[:, 0] >= 0)}, "
    what += "logits 0, weights 1 and 3: "
    expect(loss, 4 * np.log(2), what + "the loss")
    unknown = gradient[np.isnan(labels[:, 0]), 0]
    expect(float(np.abs(unknown).max()), 0.0, what + "the largest gradient of a missing label")
    expect(np.abs(gradient).sum(axis=0), weights / 2, what + "sums of the gradient's sizes")


def _masking(count="own", missing="out", weigh=True, stable=True, empty="zero", tasks="sum"):
    def wrong(logits, labels, weights):
        known = ~np.isnan(labels)
        y = np.where(known, labels, 0)
        if missing == "negative":
            known = np.ones(labels.shape, bool)
        if missing == "times":
            y = labels
        n = known.sum(axis=0)
        if count == "rows":
            n = np.full(len(n), len(labels))
        if count == "pooled":
            n = np.full(len(n), known.sum())
        if empty == "zero":
            n = np.maximum(n, 1)
        share = known * (weights if weigh else 1) / n
        if tasks == "mean":
            share = share / labels.shape[1]
        if tasks == "weights":
            share = share / np.sum(weights)
        p = 1 / (1 + np.exp(-logits))
        losses = np.logaddexp(0, logits) - y * logits
        if not stable:
            losses = -y * np.log(p) - (1 - y) * np.log(1 - p)
        return np.sum(share * losses), share * (p - y)

    return wrong


MASKED = Task(
    id="ex09.1",
    title="One loss for tasks with missing labels",
    function="multi_task_loss",
    taught="09#One encoder, several heads",
    parts=(
        Part("by hand", 2, _masked_by_hand),
        Part("the gradient", 1, _masked_by_differences),
        Part("a task without labels, large logits", 1, _masked_without_labels),
        Part("the solar cells", 1, _masked_cells),
    ),
    probes=lambda rng: [
        _half_labelled(rng),
        _half_labelled(rng, empty=1),
        (np.array([[800.0], [-900.0]]), np.zeros((2, 1)), np.array([2.0])),
    ],
    misconceptions=(
        Misconception(
            "a missing label counts as no",
            _masking(missing="negative"),
            "What does your function do with a row that has no label for a task?",
            "The missing label becomes a 0, and the network is taught that the answer is no. "
            "Unknown is not no: most rows have no label for most tasks.",
        ),
        Misconception(
            "a missing label counts as no, and rounding",
            _masking(missing="negative", stable=False),
            "What does your function do with a row that has no label for a task? And with a logit "
            "of 800?",
            "The missing label becomes a 0, and the network is taught that the answer is no. And "
            "a probability that rounds to 1 has an infinite loss: work it out from the logits.",
        ),
        Misconception(
            "divided by all rows",
            _masking(count="rows"),
            "A task has one label in a batch of 32. What is the mean of its losses?",
            "You divide by the size of the batch. A task with few labels in it then weighs "
            "little, whatever weight you give it.",
        ),
        Misconception(
            "one mean over all labels",
            _masking(count="pooled"),
            "Which task has most say in your loss, if all weights are equal?",
            "All known labels go into one mean, so the task with the most labels in the batch "
            "leads. That is weighting by sentence; here each task has its own mean.",
        ),
        Misconception(
            "missing labels times zero",
            _masking(missing="times"),
            "What is NaN times 0?",
            "You multiply by a mask after you have computed with the missing labels. NaN times 0 "
            "is NaN: take the label out before, not the loss afterwards.",
        ),
        Misconception(
            "a task without labels",
            _masking(empty=""),
            "What is the mean of no numbers at all?",
            "A batch may hold no label of a rare task. You divide 0 by 0 there, and the NaN "
            "reaches the shared weights of all tasks.",
        ),
        Misconception(
            "weights left out",
            _masking(weigh=False),
            "Which of your inputs do you never use?",
            "All tasks have the same say. The weights are what decides whether a partner helps.",
        ),
        Misconception(
            "divided by the number of tasks",
            _masking(tasks="mean"),
            "What happens to task 1's gradient if a second task without labels joins?",
            "You take the mean over the tasks. With every further task the others then learn at "
            "a smaller rate. Asked for is the weighted sum.",
        ),
        Misconception(
            "weights made to add up to one",
            _masking(tasks="weights"),
            "What does your loss do if all weights are doubled?",
            "You divide by the sum of the weights. Asked for is the weighted sum as it stands.",
        ),
        Misconception(
            "logarithm of a rounded probability",
            _masking(stable=False),
            "What is 1 / (1 + exp(-800)) in floating point, and the logarithm of 1 minus that?",
            "The probability rounds to exactly 1, and the loss becomes infinite or NaN. Work out "
            "the loss from the logits.",
        ),
    ),
)

# --- ex09.2: PCGrad -----------------------------------------------------------------------------


def _conflict(rng, tasks=3):
    """Gradients of three tensors that disagree, and an order for each task."""
    shapes = ((2, 3), (3,), (1,))
    toward = rng.normal(size=10)
    gradients = []
    for k in range(tasks):
        flat = (1.5 * toward * (-1) ** k + rng.normal(size=10)) * rng.uniform(0.5, 2)
        parts = np.split(flat, (6, 9))
        gradients.append([part.reshape(s) for part, s in zip(parts, shapes, strict=True)])
    orders = [[int(j) for j in rng.permutation(tasks) if j != k] for k in range(tasks)]
    return gradients, orders


def _surgery(f, gradients, orders, wanted, what):
    out = f(gradients, orders)
    shapes = [g.shape for g in gradients[0]]
    require(isinstance(out, list), "expected a list of arrays, one for each shared tensor")
    expect([tuple(np.shape(g)) for g in out], shapes, what + ": shapes of what comes back")
    for k, (got, right) in enumerate(zip(out, wanted, strict=True)):
        expect(got, np.array(right, float), f"{what}: tensor {k + 1}")


def _surgery_two(f, rng):
    g = [[np.array([1.0, 0.0])], [np.array([-1.0, 1.0])]]
    _surgery(f, g, [[1], [0]], [[0.5, 1.5]], "gradients (1, 0) and (-1, 1)")
    g = [[np.array([1.0, 0.0])], [np.array([0.5, 2.0])]]
    _surgery(f, g, [[1], [0]], [[1.5, 2.0]], "gradients (1, 0) and (0.5, 2), no conflict")


def _surgery_three(f, rng):
    g = [[np.array(v, float)] for v in ((1, 0), (-1, 1), (-1, -2))]
    what = "gradients (1, 0), (-1, 1), (-1, -2), in the orders "
    for orders, wanted in (
        ([[1, 2], [0, 2], [0, 1]], [-1.2, -0.9]),
        ([[2, 1], [0, 2], [1, 0]], [-0.2, -1.1]),
    ):
        _surgery(f, g, orders, [wanted], what + str(orders))


def _surgery_tensors(f, rng):
    g = [[np.array([[2.0, 0.0]]), np.array([1.0])], [np.array([[1.0, 1.0]]), np.array([-1.0])]]
    what = "two tensors, ((2, 0)) and (1) against ((1, 1)) and (-1): no conflict on the whole"
    _surgery(f, g, [[1], [0]], [[[3.0, 1.0]], [0.0]], what)
    g[1][1] = np.array([-4.0])
    what = "two tensors, ((2, 0)) and (1) against ((1, 1)) and (-4): a conflict on the whole"
    wanted = [[[3 + 1 / 9 + 0.8, 1 + 1 / 9]], [-3 - 4 / 9 + 0.4]]
    _surgery(f, g, [[1], [0]], wanted, what)


def _surgery_zero(f, rng):
    g = [[np.array([1.0, 2.0])], [np.zeros(2)]]
    _surgery(f, g, [[1], [0]], [[1.0, 2.0]], "gradients (1, 2) and (0, 0)")
    gradients = _conflict(rng, 1)[0]
    _surgery(f, gradients, [[]], gradients[0], "one task alone")


def _projected(per_tensor=False, against="original", when="conflict", dot_of="now", power=2,
               only=None, mean=False, sign=1):  # fmt: skip
    def wrong(gradients, orders):
        shapes = [np.shape(g) for g in gradients[0]]
        flat = [[np.ravel(g) for g in each] for each in gradients]
        if not per_tensor:
            flat = [[np.concatenate(each)] for each in flat]
        made = []
        for t in range(len(flat[0])):
            given = [each[t] for each in flat]
            now = [g.copy() for g in given]
            for k, order in enumerate(orders):
                for j in order if only is None or k == only else ():
                    other = given[j] if against == "original" else now[j]
                    dot = (now[k] if dot_of == "now" else given[k]) @ other
                    if when == "always" or (dot < 0) == (when == "conflict"):
                        now[k] = now[k] - sign * dot / np.linalg.norm(other) ** power * other
            made.append(np.mean(now, axis=0) if mean else np.sum(now, axis=0))
        whole = np.concatenate(made)
        ends = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]
        return [p.reshape(s) for p, s in zip(np.split(whole, ends), shapes, strict=True)]

    return wrong


PCGRAD = Task(
    id="ex09.2",
    title="PCGrad for any number of tasks",
    function="pcgrad",
    taught="09#Does the weighting matter?",
    parts=(
        Part("two tasks", 1, _surgery_two),
        Part("three tasks in order", 2, _surgery_three),
        Part("several tensors", 1, _surgery_tensors),
        Part("a gradient of zero, one task", 1, _surgery_zero),
    ),
    probes=lambda rng: [
        _conflict(rng),
        _conflict(rng, 4),
        _conflict(rng, 2),
        ([[np.array([1.0, 2.0])], [np.zeros(2)]], [[1], [0]]),
    ],
    misconceptions=(
        Misconception(
            "tensor by tensor",
            _projected(per_tensor=True),
            "Two tasks agree on the whole and disagree on one bias. Does your result differ from "
            "the plain sum?",
            "You decide for every tensor by itself. The angle is one of the whole shared gradient, "
            "all tensors together.",
        ),
        Misconception(
            "projected against what was projected",
            _projected(against="now"),
            "What do you project task 2 against: task 1's gradient, or what is left of it?",
            "You overwrite a gradient that later tasks still need. Each task is compared with the "
            "others' own gradients, so the first task has no privilege.",
        ),
        Misconception(
            "friends too",
            _projected(when="always"),
            "What do you do with two gradients that point the same way?",
            "You take the common part out for every pair. With an angle below 90° there is no "
            "conflict, and what both want is just what is to stay.",
        ),
        Misconception(
            "only friends",
            _projected(when="friends"),
            "In which case do you change anything: where the tasks agree, or where they disagree?",
            "Your condition is turned around: you cut where the inner product is positive.",
        ),
        Misconception(
            "all conflicts of the gradient as it was",
            _projected(dot_of="start"),
            "After the first projection, which gradient meets the next task?",
            "You take all inner products with the gradient from before. Two partners that pull "
            "the same way are then subtracted twice.",
        ),
        Misconception(
            "length not squared",
            _projected(power=1),
            "Double the other task's gradient. Does your projection stay?",
            "You divide by the length once. A projection needs the square; only for gradients of "
            "length 1 is it the same.",
        ),
        Misconception(
            "the first task alone gives way",
            _projected(only=0),
            "Exchange the two tasks. Does the sum stay?",
            "Only one side of each conflict is projected. PCGrad does it for every task.",
        ),
        Misconception(
            "mean in place of the sum",
            _projected(mean=True),
            "What comes back if no two tasks disagree?",
            "You return the mean. Without a conflict PCGrad is plain training on the sum of the "
            "losses; yours takes smaller steps.",
        ),
        Misconception(
            "the wrong way",
            _projected(sign=-1),
            "After the projection, what is the inner product of the two?",
            "The part along the other gradient is added once more, so the conflict is twice as "
            "large.",
        ),
    ),
)

# --- ex09.3: weights that are learned -----------------------------------------------------------


def _uncertain(rng, n=4):
    losses, s = 0.1 + 3 * rng.random(n), rng.normal(size=n)
    return losses, s, np.arange(n) % 2 == int(rng.integers(2))


def _weighed(f, *inputs):
    out = f(*inputs)
    what = "expected three: the loss, its gradient in s, and s at rest"
    require(isinstance(out, list) and len(out) == 3, what)
    return out


def _weighed_by_hand(f, rng):
    losses, s = np.array([3.0, 4.0]), np.array([np.log(2), 0.0])
    what = "losses 3 (classification) and 4 (regression), s = ln 2 and 0: "
    out = _weighed(f, losses, s, np.array([False, True]))
    expect(out[0], 1.5 + 0.5 * np.log(2) + 2.0, what + "the loss")
    expect(out[1], np.array([-1.0, -1.5]), what + "the gradient in s")
    expect(out[2], np.log([6.0, 4.0]), what + "s at rest")


def _weighed_by_differences(f, rng):
    losses, s, regression = _uncertain(rng)
    by_hand = np.empty(len(s))
    for k in range(len(s)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = s.copy()
            moved[k] += step
            ends.append(float(_weighed(f, losses, moved, regression)[0]))
        by_hand[k] = (ends[0] - ends[1]) / 2e-5
    got = _weighed(f, losses, s, regression)[1]
    expect(got, by_hand, "your gradient against finite differences of your loss", 1e-5)


def _weighed_at_rest(f, rng):
    losses, s, regression = _uncertain(rng)
    rest = np.asarray(_weighed(f, losses, s, regression)[2], float)
    again = _weighed(f, losses, rest, regression)
    expect(again[1], np.zeros(len(s)), "your gradient at your own s at rest")
    wanted = len(s) / 2 + np.sum(rest) / 2
    expect(again[0], wanted, "the loss at rest: half a task plus the sum of s / 2", 1e-5)


def _weighing(of_s=lambda s: np.exp(-s), slope=lambda s: -np.exp(-s), half="regression",
              price=0.5, rest=None, sign=1, flip=False):  # fmt: skip
    def wrong(losses, s, regression):
        if flip:
            regression = ~np.asarray(regression)
        factor = np.where(regression, 0.5, 1.0)
        if half != "regression":
            factor = np.full(len(losses), half)
        total = np.sum(factor * of_s(s) * losses + price * s)
        gradient = sign * (factor * slope(s) * losses + price)
        at = np.log(2 * factor * losses) if rest is None else rest(factor, losses)
        return total, gradient, at

    return wrong


UNCERTAIN = Task(
    id="ex09.3",
    title="Weights that are learned, for two kinds of loss",
    function="uncertainty",
    taught="09#Does the weighting matter?",
    parts=(
        Part("by hand", 2, _weighed_by_hand),
        Part("the gradient", 1, _weighed_by_differences),
        Part("at rest", 1, _weighed_at_rest),
    ),
    probes=lambda rng: [_uncertain(rng), _uncertain(rng, 3), _uncertain(rng, 2)],
    misconceptions=(
        Misconception(
            "one formula for both",
            _weighing(half=1.0),
            "Which of your inputs do you never use?",
            "A squared error enters a Gaussian's log-likelihood with a half before it, a "
            "cross-entropy does not. You weigh both as a cross-entropy.",
        ),
        Misconception(
            "a half before every loss",
            _weighing(half=0.5),
            "Where does a cross-entropy task come to rest: at ln L or at ln 2L?",
            "You put the half of the squared error before the cross-entropies too.",
        ),
        Misconception(
            "the two kinds exchanged",
            _weighing(flip=True),
            "Before which of the two kinds does the half stand?",
            "The half belongs to the squared errors; you give it to the cross-entropies.",
        ),
        Misconception(
            "s taken for log σ",
            _weighing(
                lambda s: np.exp(-2 * s),
                lambda s: -2 * np.exp(-2 * s),
                price=1.0,
                rest=lambda factor, losses: 0.5 * np.log(2 * factor * losses),
            ),
            "Is s the logarithm of σ, or of its square?",
            "Your weight is exp(-2s), so your s is log σ. The weights come to rest at the same "
            "values; the numbers and the speed of learning differ from what is asked for.",
        ),
        Misconception(
            "s taken for the variance",
            _weighing(
                lambda s: 1 / s,
                lambda s: -1 / s**2,
                rest=lambda factor, losses: 2 * factor * losses,
            ),
            "What happens to your weight if s is 0, or below?",
            "You divide by s as if it were the variance. A step may carry it below 0; the "
            "logarithm is there so that any real number will do.",
        ),
        Misconception(
            "no price for doubt",
            _weighing(price=0.0),
            "How can training make your loss small without learning any task?",
            "Without the term s / 2 the cheapest way is to let every s grow: all weights go to "
            "zero.",
        ),
        Misconception(
            "the whole s as price",
            _weighing(price=1.0, rest=lambda factor, losses: np.log(factor * losses)),
            "Which factor stands before s in the formula?",
            "The logarithm of σ is half that of σ². With s in place of s / 2, tasks come to rest "
            "at twice the weight.",
        ),
        Misconception(
            "at rest where a regression is",
            _weighing(rest=lambda factor, losses: np.log(losses)),
            "Put your s at rest into your own gradient. Is it zero for every task?",
            "ln L is the place for squared errors with their half. A cross-entropy has no half "
            "and comes to rest elsewhere.",
        ),
        Misconception(
            "the weight at rest in place of s",
            _weighing(rest=lambda factor, losses: 0.5 / (factor * losses)),
            "You return a number that cannot be below 0. Can s be?",
            "That is the weight exp(-s), or a part of it, at rest; asked for is s.",
        ),
        Misconception(
            "uphill",
            _weighing(sign=-1),
            "Take a small step against your gradient. Does the loss fall?",
            "The sign of the gradient is turned around.",
        ),
    ),
)

# --- ex09.4: EWC over several old tasks ---------------------------------------------------------


def _old_tasks(rng, sizes=(5, 9), d=4):
    tasks = [(rng.normal(size=d), rng.normal(size=(n, d)) + 0.5) for n in sizes]
    return rng.normal(size=d), tasks, 0.5 + 2 * rng.random()


def _held(f, *inputs):
    out = f(*inputs)
    what = "expected two: the penalty and its gradient"
    require(isinstance(out, list) and len(out) == 2, what)
    return out


def _held_one(f, rng):
    task = np.array([1.0, 0.0]), np.array([[1.0, 2.0], [-1.0, 0.0]])
    what = "one old task that ended at (1, 0), with the gradients (1, 2) and (-1, 0) of its two "
    what += "examples; now at (3, 1), λ = 4: "
    out = _held(f, np.array([3.0, 1.0]), [task], 4.0)
    expect(out[0], 12.0, what + "the penalty")
    expect(out[1], np.array([8.0, 8.0]), what + "its gradient")


def _held_two(f, rng):
    tasks = [
        (np.array([0.0]), np.array([[1.0], [1.0], [-1.0], [-1.0]])),
        (np.array([3.0]), np.array([[2.0]])),
    ]
    what = "two old tasks with one weight: it ended at 0 with the gradients 1, 1, -1, -1 and at 3 "
    what += "with the gradient 2; λ = 2: "
    for theta, penalty, gradient in ((1.0, 17.0, -14.0), (2.4, 7.2, 0.0)):
        out = _held(f, np.array([theta]), tasks, 2.0)
        expect(out[0], penalty, f"{what}the penalty at {theta}")
        expect(out[1], np.array([gradient]), f"{what}the gradient at {theta}")


@lru_cache(maxsize=1)
def _digits():
    """Gradients of a linear scorer of odd digits, one for each of 300 real pictures."""
    from sklearn.datasets import load_digits

    data = load_digits()
    X, odd = data.data[:300] / 16, data.target[:300] % 2
    w = (X[odd == 1].mean(axis=0) - X[odd == 0].mean(axis=0)) * 4
    return w, (1 / (1 + np.exp(-(X - X.mean(axis=0)) @ w)) - odd)[:, None] * X


def _held_digits(f, rng):
    w, G = _digits()
    what = "gradients of 300 real digits, one weight for each of 64 pixels: "
    out = _held(f, w, [(w, G)], 10.0)
    expect([out[0], float(np.abs(out[1]).max())], [0.0, 0.0], what + "at the old weights")
    unseen = int(np.flatnonzero(np.abs(G).max(axis=0) == 0)[0])
    moved = w.copy()
    moved[unseen] += 100.0
    expect(_held(f, moved, [(w, G)], 10.0)[0], 0.0, what + "a pixel moved that is always white")
    place, step = int(rng.integers(26, 31)), 0.5 + rng.random()
    moved = w.copy()
    moved[place] += step
    one = _held(f, moved, [(w, G)], 10.0)[0]
    parts = [(w, G[:100]), (w, G[100:200]), (w, G[200:])]
    expect(_held(f, moved, parts, 10.0)[0], 3 * float(one), what + "given as three tasks of 100 "
           "each, against one of 300: three times the penalty")  # fmt: skip
    got = _held(f, moved, [(w, np.tile(G, (2, 1)))], 10.0)[0]
    expect(got, one, what + "every gradient given twice, the penalty")


def _holding(fisher=lambda G: np.mean(G**2, axis=0), anchor="own", of="each", half=True,
             slope=1.0):  # fmt: skip
    def wrong(theta, tasks, lam):
        penalty, gradient = 0.0, np.zeros(len(theta))
        olds, Gs = zip(*tasks, strict=True)
        for k, (old, G) in enumerate(tasks):
            if of == "last" and k < len(tasks) - 1:
                continue
            if anchor == "last":
                old = olds[-1]
            if anchor == "mean":
                old = np.mean(olds, axis=0)
            if anchor == "zero":
                old = np.zeros(len(theta))
            if of == "pooled":
                G = np.concatenate(Gs)
            share = 1 / len(tasks) if of == "mean" else 1
            away, need = theta - old, share * fisher(np.asarray(G))
            penalty += (lam / 2 if half else lam) * np.sum(need * away**2)
            gradient = gradient + slope * lam * (1 if half else 2) * need * away
        return penalty, gradient

    return wrong


EWC = Task(
    id="ex09.4",
    title="EWC over several old tasks",
    function="ewc",
    taught="09#One after another: what is forgotten",
    parts=(
        Part("one old task", 1, _held_one),
        Part("two old tasks", 2, _held_two),
        Part("gradients of real digits", 1, _held_digits),
    ),
    probes=lambda rng: [_old_tasks(rng), _old_tasks(rng, (7,)), _old_tasks(rng, (3, 8, 5))],
    misconceptions=(
        Misconception(
            "square of the mean gradient",
            _holding(lambda G: np.mean(G, axis=0) ** 2),
            "Two examples have the gradients 1 and -1. How firmly do you hold the weight?",
            "You take the mean first, and the examples cancel; where training has ended, the mean "
            "gradient is near zero and nothing is held. Code that squares the gradient of a batch "
            "does just that.",
        ),
        Misconception(
            "sum over the examples",
            _holding(lambda G: np.sum(G**2, axis=0)),
            "Give every example twice. Does your penalty change?",
            "A task with more examples is held more firmly, though it needs its weights no more. "
            "The Fisher information is a mean.",
        ),
        Misconception(
            "sizes in place of squares",
            _holding(lambda G: np.mean(np.abs(G), axis=0)),
            "Which power of the gradient is in the formula?",
            "You take the mean size. That is another measure of importance (that of memory-aware "
            "synapses), not the Fisher information.",
        ),
        Misconception(
            "variance of the gradients",
            _holding(lambda G: np.var(G, axis=0)),
            "A weight has the gradient 2 for every example. How firmly do you hold it?",
            "The variance takes the mean gradient away first. A weight that all examples pull the "
            "same way then seems to matter to none.",
        ),
        Misconception(
            "all anchored where the last task ended",
            _holding(anchor="last"),
            "Where did training end for the first task? Does your function use that?",
            "Every task is pulled to the latest weights. What the first one has lost by then is "
            "made the new standard.",
        ),
        Misconception(
            "anchored at the mean of the old weights",
            _holding(anchor="mean"),
            "Do you need the old weights one by one, or does their plain mean do?",
            "You pull to the mean of the anchors. The resting place lies nearer to the task that "
            "needs the weight more, not in the middle.",
        ),
        Misconception(
            "pulled to zero",
            _holding(anchor="zero"),
            "What is your penalty at the old weights themselves?",
            "You hold the weights to zero: weight decay with a strength for each weight.",
        ),
        Misconception(
            "only the last task",
            _holding(of="last"),
            "What happens to your penalty if the first old task is left out?",
            "You hold the weights for the latest old task alone; the earlier ones may be "
            "forgotten free of charge.",
        ),
        Misconception(
            "all tasks in one pot",
            _holding(of="pooled"),
            "Does a weight that only task 1 needs pull to where task 2 ended?",
            "You put the gradients of all tasks together, so each anchor is held by the needs of "
            "all tasks.",
        ),
        Misconception(
            "the mean over the tasks",
            _holding(of="mean"),
            "How firmly is the first task held after ten more have come?",
            "The penalties add up. With their mean every old task is held less with each new one.",
        ),
        Misconception(
            "λ in place of λ/2",
            _holding(half=False),
            "Which factor stands before the sum in the formula?",
            "Your penalty is twice as large, so your λ means something else than that of others.",
        ),
        Misconception(
            "the gradient of half the penalty",
            _holding(slope=0.5),
            "Check your gradient with finite differences of your penalty.",
            "The square brings down a 2, which cancels the half. You have kept the half.",
        ),
    ),
)

# --- ex09.5: what was forgotten -----------------------------------------------------------------

# Balanced accuracy on four stages of two classes of pictograms each, for one head of eight
# outputs on frozen Lite0 features (seed 0, block split): row i after stage i, column j on stage j.
_NO = np.nan
RECORDED = {
    "in sequence": np.array([
        [1.000, _NO, _NO, _NO],
        [0.800, 0.850, _NO, _NO],
        [0.723, 0.608, 0.675, _NO],
        [0.485, 0.508, 0.597, 0.715],
    ]),
    "20 replayed a stage, small steps": np.array([
        [1.000, _NO, _NO, _NO],
        [0.800, 0.750, _NO, _NO],
        [0.723, 0.750, 0.518, _NO],
        [0.623, 0.675, 0.541, 0.570],
    ]),
}  # fmt: skip


def _run_of(rng, n=4, above=True):
    table = np.round(0.3 + 0.7 * rng.random((n, n)), 3)
    table[-2, 0], table[0, 0] = 0.99, 0.8  # the best is neither the first nor the last
    table[0, 1] = 1.0  # before it was trained
    return (table if above else np.where(np.tri(n) > 0, table, np.nan),)


def _reported(f, table, wanted, what):
    out = f(table)
    expect(np.shape(out), (3,), f"{what}: the shape of what comes back, three numbers")
    names = "the mean at the end", "the forgetting", "the backward transfer"
    for got, right, name in zip(out, wanted, names, strict=True):
        expect(got, right, f"{what}: {name}")


def _reported_by_hand(f, rng):
    nan = np.nan
    table = np.array([[0.9, nan, nan], [0.95, 0.8, nan], [0.7, 0.85, 0.6]])
    _reported(f, table, [2.15 / 3, 0.1, -0.075], f"stages {table.tolist()}")
    table = np.array([[0.5, nan], [0.8, 0.9]])
    _reported(f, table, [0.85, -0.3, 0.3], f"stages {table.tolist()}")


def _reported_above(f, rng):
    table = np.array([[0.9, 0.99, 0.5], [0.95, 0.8, 0.97], [0.7, 0.85, 0.6]])
    what = "the same with numbers above the diagonal, measured before a stage was trained"
    _reported(f, table, [2.15 / 3, 0.1, -0.075], what)


def _reported_recorded(f, rng):
    wanted = {
        "in sequence": (0.57625, (0.515 + 0.342 + 0.078) / 3, -(0.515 + 0.342 + 0.078) / 3),
        "20 replayed a stage, small steps": (
            0.60225, (0.377 + 0.075 - 0.023) / 3, (-0.377 - 0.075 + 0.023) / 3
        ),
    }  # fmt: skip
    for name, table in RECORDED.items():
        _reported(f, table.copy(), wanted[name], f"the recorded run “{name}”")


def _reporting(best="before", tasks="old", turned=False, sign=1, back="own"):
    def wrong(table):
        table = table.T if turned else table
        n, end = len(table), table[-1]
        lost, gained = [], []
        for j in range(n - (tasks == "old")):
            rows = {
                "before": table[j:-1, j] if j < n - 1 else table[-1:, j],
                "end too": table[j:, j],
                "all": table[:, j],
                "own": table[j : j + 1, j],
                "last": table[max(j, n - 2) : max(j + 1, n - 1), j],
            }[best]
            lost.append(np.nanmax(rows) - end[j])
            gained.append(sign * (end[j] - (table[j, j] if back == "own" else table[0, j])))
        return end.mean(), np.mean(lost), np.mean(gained)

    return wrong


def _mean_of_everything(table):
    return np.nanmean(np.where(np.tri(len(table)) > 0, table, np.nan)), *_reporting()(table)[1:]


REPORT = Task(
    id="ex09.5",
    title="What was forgotten, and what came back",
    function="sequence_report",
    taught="09#One after another: what is forgotten",
    parts=(
        Part("by hand", 2, _reported_by_hand),
        Part("numbers above the diagonal", 1, _reported_above),
        Part("recorded runs", 1, _reported_recorded),
    ),
    probes=lambda rng: [_run_of(rng), _run_of(rng, above=False), _run_of(rng, 3)],
    misconceptions=(
        Misconception(
            "forgetting from its own stage on",
            _reporting(best="own"),
            "Was a task ever better than just after its own stage?",
            "You compare with the accuracy just after training. A later stage may have raised it "
            "first; forgotten is what is lost from the best.",
        ),
        Misconception(
            "the end counts as a best",
            _reporting(best="end too"),
            "Can your forgetting be below zero?",
            "You let the last stage compete for the best, or cut losses off at zero. Chance alone "
            "then makes the mean positive: some tasks go up a little and some down, and only the "
            "falls count.",
        ),
        Misconception(
            "the stage before the last",
            _reporting(best="last"),
            "Task 1 falls from stage to stage. How much of that do you count?",
            "You compare with the last stage but one. That is what the last stage did; what the "
            "earlier ones did is left out.",
        ),
        Misconception(
            "before it was trained",
            _reporting(best="all"),
            "Which rows of a column belong to a time when the task had been trained?",
            "You take the best of the whole column. Above the diagonal stand guesses from before "
            "the task's own stage: they were never learned, so they cannot be forgotten.",
        ),
        Misconception(
            "the newest task counts too",
            _reporting(tasks="all"),
            "Can the last task have been forgotten yet?",
            "You divide by the number of all tasks, and the last one can only bring a zero.",
        ),
        Misconception(
            "rows and columns exchanged",
            _reporting(turned=True),
            "What stands in the last row: the end of training, or the last task?",
            "You read rows as tasks. In this table a row is a time.",
        ),
        Misconception(
            "forgetting as backward transfer",
            _reporting(sign=-1),
            "What is your backward transfer if a later task helped an earlier one?",
            "The sign is turned around: transfer is a gain, end minus beginning.",
        ),
        Misconception(
            "compared with the first stage",
            _reporting(back="first"),
            "Which row of the table tells how good task 2 was when it was new?",
            "You compare with the first row. Task 2 was trained in the second stage.",
        ),
        Misconception(
            "the mean over the whole run",
            _mean_of_everything,
            "How many numbers of the table describe the network that you would ship?",
            "You average over all stages. A network is judged by what it can do at the end.",
        ),
    ),
)

# --- ex09.6: a memory that is fair to every stage -----------------------------------------------


def _remembered(f, stages, size, seed, runs, ends_only=False):
    """Let f fill a memory from stages of so many examples, with many generators.

    Each example (or the first and the last two alone) is said to be kept as often as it should be,
    too often or too rarely; of a single run come the numbers that are kept of each stage.
    """
    import numpy as np

    def one(run):
        rng, memory, seen, sizes = np.random.default_rng((seed, run)), [], 0, []
        for count in stages:
            memory = f(list(memory), seen, list(range(seen, seen + count)), size, rng)
            memory, seen = [int(example) for example in memory], seen + count
            sizes.append(len(memory))
            if len(set(memory)) < len(memory) or not set(memory) <= set(range(seen)):
                raise ValueError("the memory holds an example twice, or one that never came")
        return memory, sizes

    total, ends = sum(stages), np.cumsum(stages)
    first, sizes = one(0)
    made = {"sizes": sizes, "from the generator": True}
    for run in range(1 if runs == 1 else 20):
        made["from the generator"] &= sorted(one(run)[0]) == sorted(one(run)[0])
    if runs == 1:
        made["of each stage"] = np.bincount(np.searchsorted(ends, first, "right"),
                                            minlength=len(stages))  # fmt: skip
        return made
    often = np.mean([np.isin(np.arange(total), one(run)[0]) for run in range(runs)], axis=0)
    share, kept = min(1.0, size / total), []
    for freq in often[[0, -2, -1]] if ends_only else often:
        kept.append("too often" if freq > share + 0.12 else "as it should")
        if freq < 0.3 * share:
            kept[-1] = "too rarely"
        if freq > 0.97 and share < 0.9:
            kept[-1] = "always"
    made["kept"] = kept
    return made


def _stream(rng, stages=(10, 1, 1, 1), size=2, runs=300):
    return stages, size, int(rng.integers(10**6)), runs


def _fair(f, rng, stages, size):
    made = f(*_stream(rng, stages, size))
    what = f"stages of {', '.join(map(str, stages))} examples, a memory of {size}: "
    full = [min(size, int(n)) for n in np.cumsum(stages)]
    expect(made["sizes"], full, what + "the size of the memory after each stage")
    for number, kept in enumerate(made["kept"]):
        require(
            kept == "as it should",
            f"{what}over 300 generators, example {number + 1} of {sum(stages)} is kept {kept}; "
            f"each should be kept in {min(1, size / sum(stages)):.0%} of the cases",
        )


def _fair_filling(f, rng):
    _fair(f, rng, (2, 0, 1), 5)
    _fair(f, rng, (3, 2), 5)


def _fair_small(f, rng):
    _fair(f, rng, (2,), 1)
    _fair(f, rng, (1, 1, 1), 1)


def _fair_stages(f, rng):
    _fair(f, rng, (10, 1, 1, 1), 2)
    _fair(f, rng, (1, 8, 3), 3)


def _fair_drawn(f, rng):
    made = f((20, 10), 4, int(rng.integers(10**6)), 1)
    what = "the same generator twice: does the memory hold the same examples"
    expect(made["from the generator"], True, what)


@lru_cache(maxsize=1)
def _sources():
    """How many rated sentences each of the four sources has."""
    from tlcourse import datasets

    return {name: len(datasets.sentiment(name)) for name in datasets.DOMAINS}


def _fair_sentences(f, rng):
    sizes = _sources()
    total = sum(sizes.values())
    made = f(tuple(sizes.values()), 400, int(rng.integers(10**6)), 1)["of each stage"]
    for (name, n), got in zip(sizes.items(), made, strict=True):
        wanted = 400 * n / total
        room = 5 * np.sqrt(wanted * (1 - n / total))
        require(
            abs(got - wanted) < room,
            f"{total:,} sentences, source after source, a memory of 400: {name} has {n:,} of them "
            f"and should have {wanted:.0f} places, give or take {room:.0f}; it has {got}",
        )


def _reservoir(rule="right", place="drawn", rest="rng"):
    def wrong(memory, seen, new, size, rng):
        memory, own = list(memory), 0
        if rest == "global":
            rng = np.random.default_rng()
        if rule == "pot":
            both = memory + new
            kept = rng.permutation(len(both))[:size]
            return [both[k] for k in kept]
        if rule == "shares":  # the newest stage gets half of the places
            room = min(len(new), max(size // 2, size - len(memory)))
            kept = [memory[k] for k in rng.permutation(len(memory))[: size - room]]
            return kept + [new[k] for k in rng.permutation(len(new))[:room]]
        for example in new:
            seen, own = seen + 1, own + 1
            if len(memory) < size:
                memory.append(example)
                continue
            bound = {
                "right": seen, "early": seen - 1, "own": max(own, size), "always": size,
                "never": 0, "memory": len(memory) + 1, "oldest": size,
            }[rule]  # fmt: skip
            if rule == "never":
                continue
            at = int(rng.integers(bound))
            if at < size:
                if rule == "oldest":
                    memory.append(example)
                    memory.pop(0)
                elif place == "last":
                    memory[-1] = example
                else:
                    memory[at] = example
        return memory

    return wrong


MEMORY = Task(
    id="ex09.6",
    title="A memory that is fair to every stage",
    function="remember",
    taught="09#Are a few replayed examples always better than none?",
    parts=(
        Part("filling up", 1, _fair_filling),
        Part("the smallest cases", 1, _fair_small),
        Part("every example alike", 2, _fair_stages),
        Part("from the generator given", 1, _fair_drawn),
        Part("four sources in a row", 1, _fair_sentences),
    ),
    probes=lambda rng: [
        (*_stream(rng, (10, 1), 2, 600), True),
        (*_stream(rng, (1, 1), 1), True),
        _stream(rng, (1, 1, 1), 5, 2),
    ],
    harness=_remembered,
    misconceptions=(
        Misconception(
            "old memory and new stage in one pot",
            _reservoir("pot"),
            "Ten examples came before, two of them are in the memory, and one is new. How likely "
            "is the new one to stay?",
            "You draw from the memory and the new examples alike. But each one in the memory "
            "stands for many that are gone; so the newest stage is kept far too often.",
        ),
        Misconception(
            "half for the newest stage",
            _reservoir("shares"),
            "How many places does the first stage have left after five more?",
            "Each stage takes half of the places, so what is left of the first halves every time.",
        ),
        Misconception(
            "counted anew in every stage",
            _reservoir("own"),
            "Which number did you draw below when the first example of a later stage came?",
            "You count the examples of this stage alone. The chance to stay has to go by all that "
            "were ever offered: that is what `seen` is for.",
        ),
        Misconception(
            "drawn below the size plus one",
            _reservoir("memory"),
            "Does the chance of an example to enter fall as more and more come?",
            "You draw below the size of the memory plus one, so every example enters with the "
            "same high chance, and old ones are washed out.",
        ),
        Misconception(
            "every new one enters",
            _reservoir("always"),
            "How likely is the very last example to be in your memory?",
            "Each new example takes a place for sure. The memory then holds the recent past, "
            "which needs it least.",
        ),
        Misconception(
            "first in, first out",
            _reservoir("oldest"),
            "Which examples are in your memory at the end?",
            "You drop the oldest, so the memory holds the last few of the newest stage.",
        ),
        Misconception(
            "full is full",
            _reservoir("never"),
            "How many places does the second stage get?",
            "Once the memory is full nothing enters. It holds the first few examples for ever.",
        ),
        Misconception(
            "the new one is not counted",
            _reservoir("early"),
            "A memory of one, and the second example comes. How likely is it to stay?",
            "You draw below the number seen before. The new example has to be counted in: the "
            "second of two should stay in half of the cases, with yours it always does.",
        ),
        Misconception(
            "always the last place",
            _reservoir(place="last"),
            "Which examples can be thrown out of your memory, and which never?",
            "A newcomer always takes the last place, so the first examples can never leave.",
        ),
        Misconception(
            "another generator",
            _reservoir(rest="global"),
            "Run it twice with the same generator. Is the memory the same?",
            "You draw from a generator of your own, and nobody can repeat your run.",
        ),
    ),
)

# --- ex09.7: mend the sequence ------------------------------------------------------------------


def _sequence_pytorch(f, seed, keep, steps, rate):
    """What f does to a linear encoder with three heads, stage by stage.

    Beside the change of every weight in every stage stands that which it should be, by hand.
    """
    import numpy as np
    import torch
    from torch import nn

    rng, starts = np.random.default_rng(seed), {}
    start = [rng.normal(size=s) for s in [(3, 4), *[(4, 2)] * 3]]
    labels = np.array([0, 0, 1, 1, 0, 1])
    stages = [
        (rng.normal(size=(6, 3)), rng.permutation(labels), rng.normal(size=(40, 3)),
         rng.integers(0, 2, 40)) for _ in range(3)
    ]  # fmt: skip

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, *heads = (nn.Parameter(torch.from_numpy(w.copy())) for w in start)
            self.heads = nn.ParameterList(heads)

        def loss(self, x, y, head):
            for k, stage in enumerate(stages):
                if len(x) == 6 and np.array_equal(x.numpy(), stage[0]):
                    starts.setdefault(k, weights())
            return nn.functional.cross_entropy(x @ self.encoder @ self.heads[head], y)

        def accuracy(self, x, y, head):
            with torch.no_grad():
                chosen = (x @ self.encoder @ self.heads[head]).argmax(dim=1)
            return (chosen == y).double().mean().item()

    def weights():
        return [p.detach().numpy().copy() for p in net.parameters()]

    def gradients(at, k, rows):
        x, y = stages[k][0][:rows], stages[k][1][:rows]
        e = np.exp(x @ at[0] @ at[k + 1])
        error = (e / e.sum(axis=1, keepdims=True) - np.eye(2)[y]) / len(x)
        out = [np.zeros_like(w) for w in at]
        out[0], out[k + 1] = x.T @ error @ at[k + 1].T, (x @ at[0]).T @ error
        return out

    def right(at, j):
        return float(np.mean((stages[j][2] @ at[0] @ at[j + 1]).argmax(axis=1) == stages[j][3]))

    net = Net()
    found = f(net, [tuple(map(torch.from_numpy, stage)) for stage in stages], keep, steps, rate)
    found = [[float(value) for value in row] for row in found]
    if list(starts) != [0, 1, 2]:
        raise ValueError("net.loss was not asked for the rows of stage 1, then 2, then 3")
    starts[3] = weights()
    made = {"accuracy": found, "moved": [], "by hand": [], "right": []}
    for k in range(3):
        moved = [b - a for a, b in zip(starts[k], starts[k + 1], strict=True)]
        at, speed = starts[k], [0.0] * 4
        for _ in range(steps):
            slope = gradients(at, k, 6)
            for j in range(k if keep else 0):
                slope = [a + b for a, b in zip(slope, gradients(at, j, keep), strict=True)]
            speed = [0.9 * v + g for v, g in zip(speed, slope, strict=True)]
            at = [w - rate * v for w, v in zip(at, speed, strict=True)]
        made["moved"].append(moved)
        made["by hand"].append([b - a for a, b in zip(starts[k], at, strict=True)])
        made["right"].append([right(starts[k + 1], j) for j in range(k + 1)])
    return made


def _sequence_keras(f, seed, keep, steps, rate):
    """What f does to a linear encoder with three heads, stage by stage.

    Beside the change of every weight in every stage stands that which it should be, by hand.
    """
    import numpy as np
    import tensorflow as tf

    rng, starts = np.random.default_rng(seed), {}
    start = [rng.normal(size=s) for s in [(3, 4), *[(4, 2)] * 3]]
    labels = np.array([0, 0, 1, 1, 0, 1])
    stages = [
        (rng.normal(size=(6, 3)).astype("float32"), rng.permutation(labels),
         rng.normal(size=(40, 3)).astype("float32"), rng.integers(0, 2, 40)) for _ in range(3)
    ]  # fmt: skip

    class Net:
        def __init__(self):
            self.variables = [tf.Variable(w.astype("float32")) for w in start]
            self.trainable_variables = self.variables

        def logits(self, x, head):
            return tf.matmul(tf.matmul(x, self.variables[0]), self.variables[1:][head])

        def loss(self, x, y, head):
            for k, stage in enumerate(stages):
                if len(x) == 6 and np.array_equal(x, stage[0]):
                    starts.setdefault(k, weights())
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(y, self.logits(x, head))
            return tf.reduce_mean(each)

        def accuracy(self, x, y, head):
            return float(np.mean(self.logits(x, head).numpy().argmax(axis=1) == np.array(y)))

    def weights():
        return [v.numpy().astype(float) for v in net.variables]

    def gradients(at, k, rows):
        x, y = stages[k][0][:rows], stages[k][1][:rows]
        e = np.exp(x @ at[0] @ at[k + 1])
        error = (e / e.sum(axis=1, keepdims=True) - np.eye(2)[y]) / len(x)
        out = [np.zeros_like(w) for w in at]
        out[0], out[k + 1] = x.T @ error @ at[k + 1].T, (x @ at[0]).T @ error
        return out

    def right(at, j):
        return float(np.mean((stages[j][2] @ at[0] @ at[j + 1]).argmax(axis=1) == stages[j][3]))

    net = Net()
    found = f(net, [tuple(part.copy() for part in s) for s in stages], keep, steps, rate)
    found = [[float(value) for value in row] for row in found]
    if list(starts) != [0, 1, 2]:
        raise ValueError("net.loss was not asked for the rows of stage 1, then 2, then 3")
    starts[3] = weights()
    made = {"accuracy": found, "moved": [], "by hand": [], "right": []}
    for k in range(3):
        moved = [b - a for a, b in zip(starts[k], starts[k + 1], strict=True)]
        at, speed = starts[k], [0.0] * 4
        for _ in range(steps):
            slope = gradients(at, k, 6)
            for j in range(k if keep else 0):
                slope = [a + b for a, b in zip(slope, gradients(at, j, keep), strict=True)]
            speed = [0.9 * v + g for v, g in zip(speed, slope, strict=True)]
            at = [w - rate * v for w, v in zip(at, speed, strict=True)]
        made["moved"].append(moved)
        made["by hand"].append([b - a for a, b in zip(starts[k], at, strict=True)])
        made["right"].append([right(starts[k + 1], j) for j in range(k + 1)])
    return made


def _run_of_stages(rng, keep=3, steps=2):
    return int(rng.integers(1000)), keep, steps, 0.25


def _optimizers_loaded():
    """Load what PyTorch loads with the first optimizer: not counted as the learner's time."""
    if "torch" in sys.modules:
        importlib.import_module("torch._dynamo")


def _named_weights(k):
    return ["the encoder", *(f"the head of stage {j + 1}" for j in range(3))][k]


def _stages_step(f, rng):
    _optimizers_loaded()
    made = f(*_run_of_stages(rng, 3, 2))
    for k in range(3):
        for part in range(4):
            what = "3 rows kept of each stage, two steps at rate 0.25 with momentum 0.9: in stage "
            what += f"{k + 1} the change of {_named_weights(part)}"
            expect(made["moved"][k][part], made["by hand"][k][part], what, 1e-4)


def _stages_alone(f, rng):
    made = f(*_run_of_stages(rng, 0, 2))
    for k in range(3):
        largest = float(np.abs(made["moved"][k][k + 1]).max())
        require(
            1e-5 < largest < np.inf,
            f"no row kept, two steps: in stage {k + 1} its own head should move, by a finite "
            f"amount; the largest change is {largest:.3g}",
        )
        for j in range(k):
            moved = float(np.abs(made["moved"][k][j + 1]).max())
            what = f"no row kept, two steps: in stage {k + 1} the largest change of the head of "
            expect(moved, 0.0, what + f"stage {j + 1}, which takes no part", 1e-9)


def _stages_scored(f, rng):
    made = f(int(rng.integers(1000)), 2, 3, 1.0)  # a large rate, so that accuracies change
    expect([len(row) for row in made["accuracy"]], [1, 2, 3], "how many accuracies in each row")
    what = "after stage {} the accuracy on the test rows of stage {}, through the head of stage {}"
    for i in range(3):
        for j in range(i + 1):
            got, wanted = made["accuracy"][i][j], made["right"][i][j]
            expect(got, wanted, what.format(i + 1, j + 1, j + 1))


def _learning(framework, replay="sum", head="own", memory="all", tested="test", optimizer="fresh",
              drift=False, through="own", when="stage", momentum=0.9):  # fmt: skip
    def old_of(stages, k, keep):
        first = max(k - 1, 0) if memory == "last" else 0
        if memory == "test":
            kept = [(j, *(part[:keep] for part in stages[j][2:])) for j in range(k)]
        elif memory == "all rows":
            kept = [(j, *stages[j][:2]) for j in range(k)]
        else:
            kept = [(j, *(part[:keep] for part in stages[j][:2])) for j in range(first, k)]
        return kept

    def total(net, stages, k, keep):
        loss = net.loss(*stages[k][:2], head=k)
        # With nothing kept, the script as it was asks for the loss of no rows.
        asks = keep or drift or replay == "over"
        for j, x, y in old_of(stages, k, keep) if asks else ():
            old = net.loss(x, y, head=j if head == "own" else k)
            loss = old if replay == "over" else loss + old
        return loss / (k + 1) if replay == "mean" and keep else loss

    def scores(net, stages, k):
        part = slice(2, 4) if tested == "test" else slice(0, 2)
        return [
            net.accuracy(*stage[part], head=j if through == "own" else k)
            for j, stage in enumerate(stages[: k + 1])
        ]

    def rows(net, stages, after):
        if when == "end":
            return [scores(net, stages, k) for k in range(len(stages))]
        return after

    def in_pytorch(net, stages, keep, steps, rate):
        import torch

        def new():
            return torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum)

        used, after = new(), []
        for k in range(len(stages)):
            used = new() if optimizer == "fresh" else used
            for _ in range(steps):
                if optimizer == "each step":
                    used = new()
                loss = total(net, stages, k, keep)
                used.zero_grad(set_to_none=not drift)
                loss.backward()
                used.step()
            after.append(scores(net, stages, k))
        return rows(net, stages, after)

    def in_keras(net, stages, keep, steps, rate):
        import keras
        import tensorflow as tf

        def new():
            return keras.optimizers.SGD(rate, momentum=momentum)

        used, after = new(), []
        used.build(net.variables)
        for k in range(len(stages)):
            used = new() if optimizer == "fresh" else used
            for _ in range(steps):
                if optimizer == "each step":
                    used = new()
                with tf.GradientTape() as tape:
                    loss = total(net, stages, k, keep)
                pairs = list(zip(tape.gradient(loss, net.variables), net.variables, strict=True))
                if drift:
                    pairs = [(tf.zeros_like(v) if g is None else g, v) for g, v in pairs]
                pairs = [(g, v) for g, v in pairs if g is not None]
                if not used.built:
                    used.build(net.variables)
                used.apply(*zip(*pairs, strict=True))
            after.append(scores(net, stages, k))
        return rows(net, stages, after)

    return in_pytorch if framework == "pytorch" else in_keras


def _learns(**how):
    return {framework: _learning(framework, **how) for framework in ("tensorflow", "pytorch")}


SEQUENCE = Task(
    id="ex09.7",
    title="Mend the sequence that forgets by itself",
    function="learn",
    taught="09#Are a few replayed examples always better than none?",
    parts=(
        Part("what a step is made of", 3, _stages_step),
        Part("without replay old heads stay", 2, _stages_alone),
        Part("what is scored", 2, _stages_scored),
    ),
    probes=lambda rng: [_run_of_stages(rng), _run_of_stages(rng, 0)],
    harness={"tensorflow": _sequence_keras, "pytorch": _sequence_pytorch},
    seconds=10.0,  # the first optimizer of a process takes PyTorch two of them
    misconceptions=(
        Misconception(
            "as it was",
            _learns(
                replay="over",
                head="new",
                memory="last",
                tested="train",
                optimizer="one",
                drift=True,
            ),
            "There are five bugs. Which losses reach the gradient? Through which head do old rows "
            "go? How many stages are in the memory? What does the optimizer remember? And which "
            "rows are scored?",
            "A later loss replaces the earlier one; old rows train the new head; the memory holds "
            "one stage; the momentum of the last stage moves weights that take no part any more; "
            "and training rows say how well the net learned by heart.",
        ),
        Misconception(
            "the last loss wins",
            _learns(replay="over"),
            "Take three losses in turn. Which of them does your step make smaller?",
            "Each replay loss replaces the one before, so from the second stage on the new task "
            "itself is not trained at all.",
        ),
        Misconception(
            "old rows through the new head",
            _learns(head="new"),
            "Class 1 of stage 1 and class 1 of stage 3: is it the same class?",
            "The old rows train the newest head with labels that mean something else there, and "
            "the old heads, which you want to keep in touch with the encoder, learn nothing.",
        ),
        Misconception(
            "only the last stage is replayed",
            _learns(memory="last"),
            "In stage 3, which old stages have a loss in your step?",
            "The memory holds one stage. The older ones are forgotten as if there were no replay.",
        ),
        Misconception(
            "test rows in the memory",
            _learns(memory="test"),
            "From which rows do you keep some, and which do you score?",
            "You train on rows that you test on. Replay then looks wonderful.",
        ),
        Misconception(
            "all old rows are replayed",
            _learns(memory="all rows"),
            "How many rows of an old stage may you still use?",
            "You replay all old rows. That is training on all tasks together; the question was "
            "what a few rows buy.",
        ),
        Misconception(
            "one optimizer for all stages, zeros for gradients",
            _learns(optimizer="one", drift=True),
            "Print an old head before and after a stage in which it takes no part.",
            "The optimizer keeps the momentum of the stage before, and a gradient of zero lets it "
            "roll on: old heads drift away though nothing trains them.",
        ),
        Misconception(
            "one optimizer for all stages",
            _learns(optimizer="one"),
            "How long is the first step of stage 2, compared with the rate times the gradient?",
            "The optimizer still has the momentum of the stage before. Your old heads stay, but "
            "the encoder first goes on the way of the old task.",
        ),
        Misconception(
            "a new optimizer in every step",
            _learns(optimizer="each step"),
            "When is the momentum of your optimizer other than zero?",
            "A fresh optimizer in each step has forgotten the step before: this is SGD without "
            "momentum.",
        ),
        Misconception(
            "mean of the losses",
            _learns(replay="mean"),
            "By how much does the new task's share of the step shrink from stage to stage?",
            "You divide by the number of tasks, so the newest task learns ever more slowly. Asked "
            "for is the sum.",
        ),
        Misconception(
            "scored on the training rows",
            _learns(tested="train"),
            "Which of the four arrays of a stage go into accuracy?",
            "These are the rows that were trained on, and some of them are replayed. What a "
            "network knows by heart says nothing about what it has forgotten.",
        ),
        Misconception(
            "scored through the newest head",
            _learns(through="new"),
            "Through which head do the test rows of stage 1 go after stage 3?",
            "You ask the newest head about an old task. What looks like forgetting is a question "
            "put to the wrong one.",
        ),
        Misconception(
            "scored at the end only",
            _learns(when="end"),
            "Are two rows of your table alike in the columns they share?",
            "All rows are measured after the last stage. Forgetting is a difference between two "
            "times.",
        ),
    ),
)

TASKS = (MASKED, PCGRAD, UNCERTAIN, EWC, REPORT, MEMORY, SEQUENCE)
