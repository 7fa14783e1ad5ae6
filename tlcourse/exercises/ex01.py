"""Exercise set 1: theory and formulas (notebook 01)."""

import numpy as np

from .kit import Misconception, Part, Task, expect, require

# --- ex01.1: the gradient of the loss -----------------------------------------------------------


def _scores(rng, scale=1.0, n=6, d=4, C=3):
    return rng.normal(size=(n, d)), scale * rng.normal(size=(d, C)), rng.integers(0, C, n)


def _cross_entropy(F, W, y):
    z = F @ W
    top = z.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(z - top).sum(1)) + top[:, 0] - z[np.arange(len(y)), y])


def _softmax(z, axis=1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _gradient_shape(f, rng):
    F, W, y = _scores(rng)
    expect(np.shape(f(F, W, y)), W.shape, "shape of the gradient for F (6, 4) and W (4, 3)")


def _gradient_by_differences(f, rng):
    for _ in range(3):
        F, W, y = _scores(rng)
        step, by_hand = 1e-5, np.empty_like(W)
        for place in np.ndindex(*W.shape):
            up, down = W.copy(), W.copy()
            up[place] += step
            down[place] -= step
            by_hand[place] = (_cross_entropy(F, up, y) - _cross_entropy(F, down, y)) / (2 * step)
        expect(f(F, W, y), by_hand, "against finite differences of the loss", 1e-5)


def _gradient_large(f, rng):
    F, W, y = _scores(rng, scale=2000.0)
    require(np.isfinite(f(F, W, y)).all(), "with scores of some thousands it is not finite")


def _gradient(softmax, sign=1, mean=True):
    def wrong(F, W, y):
        residual = softmax(F @ W) - np.eye(W.shape[1])[y]
        return sign * F.T @ residual / (len(F) if mean else 1)

    return wrong


GRADIENT = Task(
    id="ex01.1",
    title="The gradient of the cross-entropy",
    function="head_gradient",
    taught="01#The loss and its gradient",
    parts=(
        Part("shape", 1, _gradient_shape),
        Part("equal to finite differences", 2, _gradient_by_differences),
        Part("finite for large scores", 1, _gradient_large),
    ),
    probes=lambda rng: [_scores(rng), _scores(rng), _scores(rng, 2000.0)],
    misconceptions=(
        Misconception(
            "sum instead of mean",
            _gradient(_softmax, mean=False),
            "Compare your gradient for a batch with that for the same batch given twice.",
            "The loss is a mean over the batch. Your gradient grows with the size of the batch, so "
            "the same learning rate means something else for every batch size.",
        ),
        Misconception(
            "points uphill",
            _gradient(_softmax, sign=-1),
            "Which way does the loss go if you take a small step along minus your gradient?",
            "You have the label minus the probability. A step against that gradient raises the "
            "loss.",
        ),
        Misconception(
            "softmax over the batch",
            _gradient(lambda z: _softmax(z, axis=0)),
            "Which numbers have to add up to one: those of a row, or those of a column?",
            "Your probabilities add up to one over the pictures of a batch, so the answer for one "
            "picture depends on the others.",
        ),
        Misconception(
            "softmax twice",
            _gradient(lambda z: _softmax(_softmax(z))),
            "What do you get for p if one score is far above the others?",
            "Probabilities are taken for scores and squeezed again: the largest share that three "
            "classes can then reach is 0.58, and the gradient never vanishes.",
        ),
        Misconception(
            "exponential of raw scores",
            _gradient(lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)),
            "What is exp(1000) in floating point, and infinity divided by infinity?",
            "The exponential overflows above about 709. A softmax does not change if the same "
            "number is taken from all scores of a row; so take one that leaves nothing large.",
        ),
    ),
)

# --- ex01.2: the update, iterated ---------------------------------------------------------------


def _run_updates(f, theta, batches, rate):
    def gradient(theta, X, y):
        return X.T @ (X @ theta - y) / len(y)

    return f(theta, gradient, batches, rate)


def _batches(rng, n=3):
    theta = rng.normal(size=2)
    batches = [(rng.normal(size=(4, 2)), rng.normal(size=4)) for _ in range(n)]
    return theta, batches, 0.1 + 0.2 * rng.random()


def _one_batch(f, rng):
    batch = (np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1.0, 2.0]))
    expect(f(np.zeros(2), [batch], 0.5), np.array([0.25, 1.0]), "one batch from zero, rate 0.5")


def _many_batches(f, rng):
    X, y = np.eye(1), np.ones(1)
    # On ½(θ − 1)² the distance to 1 shrinks by 1 − rate in every step.
    expect(f(np.zeros(1), [(X, y)] * 5, 0.5), np.array([1 - 0.5**5]), "five batches on ½(θ − 1)²")
    theta, batches, rate = _batches(rng)
    halfway = f(theta, batches[:1], rate)
    both = f(theta, batches, rate)
    expect(f(halfway, batches[1:], rate), both, "three batches, or one and then two")


def _no_batch(f, rng):
    theta = rng.normal(size=3)
    expect(f(theta, [], 0.1), theta, "no batch at all")


def _always_at_the_start(theta, gradient, batches, rate):
    steps = [rate * gradient(theta, X, y) for X, y in batches]
    return theta - sum(steps)


def _ascent(theta, gradient, batches, rate):
    for X, y in batches:
        theta = theta + rate * gradient(theta, X, y)
    return theta


def _in_place(theta, gradient, batches, rate):
    for X, y in batches:
        theta -= rate * gradient(theta, X, y)
    return theta


def _only_last(theta, gradient, batches, rate):
    new = theta
    for X, y in batches:
        new = theta - rate * gradient(theta, X, y)
    return new


UPDATE = Task(
    id="ex01.2",
    title="The update rule over many batches",
    function="fine_tune",
    taught="01#The update rule",
    parts=(
        Part("one batch", 1, _one_batch),
        Part("many batches", 2, _many_batches),
        Part("no batch", 1, _no_batch),
    ),
    probes=lambda rng: [_batches(rng), _batches(rng, 1), _batches(rng, 5)],
    harness=_run_updates,
    misconceptions=(
        Misconception(
            "gradient always at the start",
            _always_at_the_start,
            "At which weights do you take the gradient of the second batch?",
            "Every gradient is taken at the pretrained weights, as if the update were one step. In "
            "the update rule the next gradient belongs to the weights that the last step left.",
        ),
        Misconception(
            "climbs",
            _ascent,
            "Does the loss fall from batch to batch?",
            "The gradient points uphill; a step along it raises the loss.",
        ),
        Misconception(
            "changes the pretrained weights",
            _in_place,
            "Print the pretrained weights before and after your function ran.",
            "An update in place writes into the array it was given. Whoever compares with the "
            "start later, as L2-SP does, then finds the end there.",
        ),
        Misconception(
            "only the last batch",
            _only_last,
            "What would change in your result if the first batch were another one?",
            "Each step starts from the pretrained weights again, so what the earlier batches "
            "taught is lost.",
        ),
    ),
)

# --- ex01.3: L2-SP ------------------------------------------------------------------------------


def _penalty(rng, n=5):
    head = np.arange(n) >= n - 2
    return rng.normal(size=n), rng.normal(size=n), rng.normal(size=n), 0.2 + rng.random(), head


def _body_pulled(f, rng):
    theta, theta_pre, lam = np.array([2.0, 0.0]), np.array([1.0, 3.0]), 0.5
    out = f(theta, np.zeros(2), theta_pre, lam, np.array([False, False]))
    expect(out, np.array([0.5, -1.5]), "body only, no gradient from the loss, λ = 0.5")


def _head_pulled(f, rng):
    theta, lam = np.array([2.0, -4.0]), 0.5
    out = f(theta, np.zeros(2), np.array([1.0, 3.0]), lam, np.array([False, True]))
    expect(out, np.array([0.5, -2.0]), "the second weight belongs to the new head, λ = 0.5")


def _without_penalty(f, rng):
    theta, gradient, theta_pre, _, head = _penalty(rng)
    expect(f(theta, gradient, theta_pre, 0.0, head), gradient, "λ = 0")


def _l2(target, factor=1.0):
    def wrong(theta, gradient, theta_pre, lam, head):
        return gradient + factor * lam * (theta - target(theta_pre, head))

    return wrong


def _to_source(theta_pre, head):
    return np.where(head, 0.0, theta_pre)


L2_SP = Task(
    id="ex01.3",
    title="The gradient with L2-SP",
    function="l2_sp_gradient",
    taught="01#L2-SP: stay near the starting point",
    parts=(
        Part("the body is pulled to its start", 2, _body_pulled),
        Part("the new head is pulled to zero", 1, _head_pulled),
        Part("without a penalty", 1, _without_penalty),
    ),
    probes=lambda rng: [_penalty(rng), _penalty(rng), _penalty(rng)],
    misconceptions=(
        Misconception(
            "plain weight decay",
            _l2(lambda theta_pre, head: 0.0),
            "Where do your weights end if the loss is constant and you train for ever?",
            "You pull everything to zero: that is weight decay. What was learned on the source "
            "stands in the pretrained weights, not in zero.",
        ),
        Misconception(
            "the head is pulled too",
            _l2(lambda theta_pre, head: theta_pre),
            "Which of these weights were pretrained?",
            "The new head has no pretrained values; what stands in its places is chance. It is "
            "pulled to zero.",
        ),
        Misconception(
            "a factor of two",
            _l2(_to_source, 2.0),
            "Take the derivative of the penalty with the factor that stands before it.",
            "The penalty is λ/2 times the squared distance, so its gradient has λ, not 2λ.",
        ),
        Misconception(
            "pushes away",
            _l2(_to_source, -1.0),
            "Does a step against your gradient shorten the distance to the start?",
            "The sign is turned around: training would run away from the pretrained weights.",
        ),
    ),
)

# --- ex01.4: the Fisher diagonal ----------------------------------------------------------------


def _logistic(rng, n=7, d=3):
    return rng.normal(size=(n, d)) + 0.5, rng.normal(size=d)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _fisher_at_zero(f, rng):
    X = np.array([[2.0, 0.0], [0.0, 4.0]])
    expect(f(X, np.zeros(2)), np.array([0.5, 2.0]), "θ = 0 and the rows (2, 0) and (0, 4)")


def _fisher_expectation(f, rng):
    X, theta = _logistic(rng)
    p = _sigmoid(X @ theta)
    # Both labels by their probabilities, each with its own squared gradient.
    squares = [((label - p)[:, None] * X) ** 2 for label in (0, 1)]
    wanted = np.mean((1 - p)[:, None] * squares[0] + p[:, None] * squares[1], axis=0)
    expect(f(X, theta), wanted, "the expectation over both labels, written out")


def _fisher_size(f, rng):
    X, theta = _logistic(rng)
    expect(f(np.r_[X, X], theta), f(X, theta), "the same inputs given twice")


def _fisher(per_input):
    def wrong(X, theta):
        p = _sigmoid(X @ theta)
        return per_input(X, p)

    return wrong


FISHER = Task(
    id="ex01.4",
    title="The diagonal of the Fisher information",
    function="fisher_diagonal",
    taught="01#EWC: keep the weights that the source needs",
    parts=(
        Part("at zero", 1, _fisher_at_zero),
        Part("the expectation over the labels", 2, _fisher_expectation),
        Part("a mean over inputs", 1, _fisher_size),
    ),
    probes=lambda rng: [_logistic(rng), _logistic(rng, n=2), _logistic(rng, d=5)],
    misconceptions=(
        Misconception(
            "sum over inputs",
            _fisher(lambda X, p: (p * (1 - p)) @ X**2),
            "What happens to your numbers if every input is given twice?",
            "The Fisher information is an expectation. A sum grows with the number of inputs, and "
            "the penalty with it.",
        ),
        Misconception(
            "square of the mean gradient",
            _fisher(lambda X, p: np.mean((np.round(p) - p)[:, None] * X, axis=0) ** 2),
            "Which comes first in the formula: the square or the mean?",
            "Gradients of single inputs cancel in their mean, most of all where training has "
            "ended. The square belongs inside the mean.",
        ),
        Misconception(
            "only the likelier label",
            _fisher(lambda X, p: ((np.round(p) - p) ** 2) @ X**2 / len(X)),
            "Over which distribution of y does the formula take the mean?",
            "You take the label that the model prefers. The formula takes both, by their "
            "probabilities; for sure answers the difference is small, for doubtful ones it is not.",
        ),
        Misconception(
            "input not squared",
            _fisher(lambda X, p: (p * (1 - p)) @ X / len(X)),
            "Can your diagonal be negative? Can a mean of squares be?",
            "The gradient is (y − p) x, and all of it is squared, the input too.",
        ),
    ),
)

# --- ex01.5: the proxy distance -----------------------------------------------------------------


def _guesses(rng, n=60, share=0.25, right=0.7):
    domain = (rng.random(n) < share).astype(int)
    domain[:2] = 0, 1
    return np.where(rng.random(n) < right, domain, 1 - domain), domain


def _told_apart(f, rng):
    domain = np.array([0, 0, 1, 1])
    expect(f(domain, domain), 2.0, "a classifier that is always right")


def _not_told_apart(f, rng):
    expect(f(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])), 0.0, "a classifier that guesses")


def _unequal_domains(f, rng):
    domain = np.array([0] * 9 + [1])
    expect(f(np.zeros(10, int), domain), 0.0, "nine sentences of one domain, one of the other, "
           "and the classifier says always the first")  # fmt: skip
    expect(f(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 1])), 1.5, "one of five wrong, in a "
           "domain of four")  # fmt: skip


def _distance(error_to_distance, balanced=True):
    def wrong(predicted, domain):
        errors = [np.mean(predicted[domain == k] != k) for k in (0, 1)]
        error = np.mean(errors) if balanced else np.mean(predicted != domain)
        return error_to_distance(error)

    return wrong


DISTANCE = Task(
    id="ex01.5",
    title="The proxy distance of two domains",
    function="proxy_distance",
    taught="01#The bound on the target error",
    parts=(
        Part("told apart", 1, _told_apart),
        Part("not told apart", 1, _not_told_apart),
        Part("domains of unequal size", 2, _unequal_domains),
    ),
    probes=lambda rng: [_guesses(rng), _guesses(rng, share=0.5), _guesses(rng, right=0.95)],
    misconceptions=(
        Misconception(
            "accuracy for error",
            _distance(lambda e: 2 * (1 - 2 * (1 - e))),
            "What is your distance where the classifier tells the domains apart without a mistake?",
            "You put in the share that is right. ε is the share that is wrong, so your sign is "
            "turned around.",
        ),
        Misconception(
            "larger domain counts more",
            _distance(lambda e: 2 * (1 - 2 * e), balanced=False),
            "What does a classifier score that always names the larger domain?",
            "With nine sentences against one, always naming the larger domain is right in nine of "
            "ten and has learned nothing. Each domain counts one half.",
        ),
        Misconception(
            "without the outer two",
            _distance(lambda e: 1 - 2 * e),
            "Between which two values should the distance lie?",
            "The distance runs from 0 to 2; yours ends at 1.",
        ),
        Misconception(
            "without the inner two",
            _distance(lambda e: 2 * (1 - e)),
            "What should come out for a classifier that guesses?",
            "A guess is wrong in half of the cases, and the distance there is zero; yours is 1.",
        ),
    ),
)

# --- ex01.6: the setting ------------------------------------------------------------------------

FLAGS = [(bool(k & 8), bool(k & 4), bool(k & 2), bool(k & 1)) for k in range(16)]


def _asked(f, wanted):
    for (same_domain, same_task, source_labels, target_labels), answer in wanted:
        expect(
            f(same_domain, same_task, source_labels, target_labels),
            answer,
            f"same domain {same_domain}, same task {same_task}, labels in the source "
            f"{source_labels}, in the target {target_labels}",
        )


def _setting_inductive(f, rng):
    rows = [(d, False, s, True) for d in (False, True) for s in (False, True)]
    _asked(f, [(row, "inductive") for row in rows])


def _setting_transductive(f, rng):
    _asked(f, [((False, True, True, False), "transductive")])


def _setting_unsupervised(f, rng):
    rows = [(False, False, False, False), (True, False, False, False)]
    _asked(f, [(row, "unsupervised") for row in rows])


def _setting_none(f, rng):
    rows = [(True, True, s, t) for s in (False, True) for t in (False, True)]
    rows += [(False, True, False, True), (False, True, True, True), (False, True, False, False)]
    rows += [(d, False, True, False) for d in (False, True)]
    _asked(f, [(row, "none") for row in rows])


def _by_domain(same_domain, same_task, source_labels, target_labels):
    if not source_labels and not target_labels:
        return "unsupervised"
    return "transductive" if same_domain else "inductive"


def _by_task(same_domain, same_task, source_labels, target_labels):
    if not source_labels and not target_labels:
        return "unsupervised"
    return "inductive" if same_task else "transductive"


def _by_target_labels(same_domain, same_task, source_labels, target_labels):
    if target_labels:
        return "inductive"
    return "transductive" if source_labels else "unsupervised"


SETTING = Task(
    id="ex01.6",
    title="Which setting is it?",
    function="setting",
    taught="01#Three settings, and what is often mixed up",
    parts=(
        Part("inductive", 1, _setting_inductive),
        Part("transductive", 1, _setting_transductive),
        Part("unsupervised", 1, _setting_unsupervised),
        Part("none of the three", 1, _setting_none),
    ),
    probes=lambda rng: FLAGS,
    misconceptions=(
        Misconception(
            "decided by the domain",
            _by_domain,
            "May the domains be the same in inductive transfer?",
            "Inductive is about the task: it differs, and the target has labels. The domains may "
            "differ or not.",
        ),
        Misconception(
            "decided by the task, turned around",
            _by_task,
            "In which setting does the target bring labels of its own?",
            "From one task to another is inductive, not transductive. In transductive transfer the "
            "task stays the same and the domain changes.",
        ),
        Misconception(
            "decided by the labels alone",
            _by_target_labels,
            "What is it called if neither the domain nor the task changes?",
            "With the same domain and the same task nothing is transferred, whoever has the "
            "labels; and without target labels a new task cannot be learned.",
        ),
    ),
)

# --- ex01.7: the largest rate -------------------------------------------------------------------


def _curvature(rng, d=3):
    A = rng.normal(size=(d, d))
    return (A @ A.T + 0.1 * np.eye(d),)


def _rate_diagonal(f, rng):
    expect(f(np.diag([4.0, 1.0, 0.5])), 0.5, "curvatures 4, 1 and 0.5")


def _rate_at_the_border(f, rng):
    # In the second the steepest direction lies between the axes, whatever the variant.
    for H in (*_curvature(rng), np.array([[1.0, 0.9], [0.9, 1.0]])):
        limit = f(H)
        for share, wanted in ((0.98, "end near"), (1.02, "run away from")):
            theta = np.ones(len(H))
            for _ in range(3000):
                theta = theta - share * limit * H @ theta
            near = bool(np.abs(theta).max() < 1)
            require(
                near == (share < 1),
                f"with {share} times your rate, gradient descent on ½ θᵀHθ should {wanted} the "
                "minimum and does not",
            )


def _limit(of):
    return lambda H: of(np.linalg.eigvalsh(H), H)


RATE = Task(
    id="ex01.7",
    title="The largest rate that does not diverge",
    function="largest_rate",
    taught="01#How large may the rate be?",
    parts=(
        Part("a diagonal curvature", 1, _rate_diagonal),
        Part("at the border", 2, _rate_at_the_border),
    ),
    probes=lambda rng: [_curvature(rng), _curvature(rng, 4), (np.diag([4.0, 1.0, 0.5]),)],
    misconceptions=(
        Misconception(
            "half of it",
            _limit(lambda h, H: 1 / h[-1]),
            "By what factor does the distance shrink in the steepest direction, and when is it −1?",
            "At one over the curvature the steepest direction is done in one step. It still "
            "converges up to twice that.",
        ),
        Misconception(
            "the flattest direction",
            _limit(lambda h, H: 2 / h[0]),
            "Which direction diverges first: the steepest or the flattest?",
            "You divide by the smallest curvature. The steepest direction sets the limit.",
        ),
        Misconception(
            "the largest entry",
            _limit(lambda h, H: 2 / H.max()),
            "Turn the axes: do the entries of H stay? Does the largest safe rate?",
            "The largest entry is the curvature along an axis. The steepest direction may lie "
            "between the axes; its curvature is an eigenvalue.",
        ),
        Misconception(
            "the sum of curvatures",
            _limit(lambda h, H: 2 / h.sum()),
            "Is a rate above yours really unstable? Try one.",
            "The trace is the sum of all curvatures: safe, but smaller than it has to be.",
        ),
    ),
)

# --- ex01.8: find the bug -----------------------------------------------------------------------


def _checked_gradient(f, theta, power, factor):
    import numpy as np

    def loss(theta):
        return np.sum(theta**power + theta)

    def gradient(theta):
        return factor * (power * theta ** (power - 1) + 1)

    return f(loss, gradient, theta)


def _check_case(rng, factor=1.0):
    return rng.normal(size=4) + 2.0, int(rng.integers(3, 5)), factor


def _right_gradient(f, rng):
    for _ in range(3):
        theta, power, _ = _check_case(rng)
        gap = f(theta, power, 1.0)
        require(gap < 1e-5, f"the gradient is right, and your largest difference is {gap:.2g}")


def _wrong_gradient(f, rng):
    theta, power, _ = _check_case(rng)
    size = np.max(np.abs(power * theta ** (power - 1) + 1))
    gap = f(theta, power, 1.1)
    expect(gap, 0.1 * size, "a gradient that is 10 % too long: the largest difference", 1e-3)
    gap = f(theta, power, -1.0)
    expect(gap, 2 * size, "a gradient that points the wrong way", 1e-3)


def _difference(up_only=False, restore=True, divide=2.0, step=1e-5, of=np.abs):
    def wrong(loss, gradient, theta):
        claimed, worst = gradient(theta), -np.inf
        theta = theta.copy()
        for j in range(len(theta)):
            kept = theta[j]
            theta[j] = kept + step
            up = loss(theta)
            theta[j] = kept if up_only else kept - step
            down = loss(theta)
            if restore:
                theta[j] = kept
            worst = max(worst, of((up - down) / (divide * step) - claimed[j]))
        return worst

    return wrong


CHECK = Task(
    id="ex01.8",
    title="Mend the gradient check that always passes",
    function="gradient_check",
    taught="01#The loss and its gradient",
    parts=(
        Part("a right gradient", 1, _right_gradient),
        Part("wrong gradients", 2, _wrong_gradient),
    ),
    probes=lambda rng: [_check_case(rng), _check_case(rng, 1.1), _check_case(rng, -1.0)],
    harness=_checked_gradient,
    misconceptions=(
        Misconception(
            "sign kept",
            _difference(of=lambda x: x),
            "What do you report if the claimed gradient is far too large everywhere?",
            "A difference below zero is never the largest, so a gradient that is too large passes. "
            "Compare sizes.",
        ),
        Misconception(
            "step too small",
            _difference(step=1e-14),
            "How many digits of the loss are left in the difference of two almost equal numbers?",
            "With so small a step the two losses differ only in their last digits, and you divide "
            "rounding errors by the step.",
        ),
        Misconception(
            "one step for two",
            _difference(divide=1.0),
            "How far apart are the two places at which you take the loss?",
            "The places lie two steps apart, and you divide by one: every slope comes out doubled.",
        ),
        Misconception(
            "does not go back",
            _difference(restore=False, step=1e-2),
            "Where do the first weights stand while you try the last one?",
            "After each weight the others keep their shifted values, so you take the slope at "
            "another place than the gradient.",
        ),
    ),
)

TASKS = (GRADIENT, UPDATE, L2_SP, FISHER, DISTANCE, SETTING, RATE, CHECK)
