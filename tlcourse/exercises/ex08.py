"""Exercise set 8: domain adaptation (notebook 08)."""

from functools import lru_cache

import numpy as np

from .kit import Misconception, Part, Task, expect, require


@lru_cache(maxsize=1)
def _digits():
    """The handwritten digits as rows of 64 pixels, 0 to 16, their labels and their blocks."""
    from tlcourse import datasets

    digits = datasets.digits()
    rows = digits.images.reshape(len(digits.images), -1).astype(float)
    return rows, np.array(digits.labels), np.array(digits.blocks)


def _two(out, what):
    expect(len(out), 2, f"how many things come back ({what})")
    return np.asarray(out[0], float), np.asarray(out[1], float)


# --- ex08.1: a shipped model and a new camera ---------------------------------------------------


def _root(C, exponent):
    values, vectors = np.linalg.eigh(C)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T


def _cross(a, b):
    """Five rows around (1, -2): their covariance is [[(a²+b²)/2, …], [(a²-b²)/2, …]]."""
    rows = np.array([[a, a], [-a, -a], [b, -b], [-b, b], [0, 0]], float)
    return rows + np.array([1, -2])


def _axes_by_hand(f, rng):
    T = np.array([[12, 20], [8, 20], [10, 24], [10, 16], [10, 20]], float)
    A, b = _two(f(T, np.array([1.0, 2.0]), np.diag([17.0, 0.0]), 1.0), "A and b")
    what = "target: variances 2 and 8, mean (10, 20); source: variances 17 and 0, mean (1, 2); "
    what += "ridge 1: "
    expect(A, np.diag([np.sqrt(6), 1 / 3]), what + "A", 1e-5)
    expect(b, np.array([1 - 10 * np.sqrt(6), 2 - 20 / 3]), what + "b", 1e-5)


def _roots_by_hand(f, rng):
    A, _ = _two(f(_cross(3, 1), np.zeros(2), np.diag([1.0, 9.0]), 0.0), "A and b")
    what = "covariance [[5, 4], [4, 5]] with the root [[2, 1], [1, 2]] in the target, "
    expect(A, np.array([[2, -3], [-1, 6]]) / 3, what + "diag(1, 9) in the source, ridge 0: A", 1e-5)
    T = np.array([[2, 0], [-2, 0], [0, 2], [0, -2], [0, 0]]) / np.sqrt(2)
    A, _ = _two(f(T, np.zeros(2), np.array([[5.0, 4.0], [4.0, 5.0]]), 0.0), "A and b")
    what = "covariance I in the target, [[5, 4], [4, 5]] in the source, ridge 0: A"
    expect(A, np.array([[2.0, 1.0], [1.0, 2.0]]), what, 1e-5)


def _nothing_to_do(f, rng):
    T = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4)) + 3
    A, b = _two(f(T, T.mean(axis=0), np.cov(T.T), 0.5), "A and b")
    what = "a target whose mean and covariance are the source's already: "
    expect(A, np.eye(4), what + "A", 1e-5)
    expect(b, np.zeros(4), what + "b", 1e-5)


def _aligned_digits(f, rng):
    rows, _, blocks = _digits()
    old, new = rows[blocks < 6], rows[blocks >= 6][:300]
    new = 5 + 0.35 * (new + np.roll(new, 1, axis=1))  # blurred, paler, on grey paper
    mean, cov, more = old.mean(axis=0), np.cov(old.T), np.eye(64)
    A, b = _two(f(new, mean, cov, 1.0), "A and b")
    expect(A.shape, (64, 64), "digits of 64 pixels, the shape of A")
    require(np.isfinite(A).all(), "digits, some pixels of which never change: A is not finite")
    what = "digits of new writers, blurred and pale; ridge 1: "
    expect(new.mean(axis=0) @ A + b, mean, what + "where the target's mean comes to lie", 1e-4)
    got = A.T @ (np.cov(new.T) + more) @ A
    expect(got, cov + more, what + "the aligned covariance, AᵀC_T A, against C_S", 1e-4)


def _aligning(turned=False, root="symmetric", order="", ridge="both", ddof=1, b="full"):
    def power(C, exponent):
        if root == "none":
            return np.linalg.inv(C) if exponent < 0 else C
        if root == "cholesky":
            L = np.linalg.cholesky(C)
            return np.linalg.inv(L).T if exponent < 0 else L.T
        if root == "diagonal":
            return np.diag(np.diag(C) ** exponent)
        if root == "each":
            R = np.sqrt(np.abs(C))
            return np.linalg.inv(R) if exponent < 0 else R
        return _root(C, exponent)

    def wrong(T, mean, cov, more):
        I, mu = np.eye(T.shape[1]), T.mean(axis=0)  # noqa: E741
        C_T = np.cov(T.T, ddof=ddof) + more * I * (ridge != "none")
        C_S = cov + more * I * (ridge == "both")
        if turned:
            A = power(C_S, -0.5) @ power(C_T, 0.5)
            return A, mu - mean @ A
        A = power(C_T, -0.5) @ power(C_S, 0.5)
        A = power(C_S, 0.5) @ power(C_T, -0.5) if order == "recoloured first" else A
        offsets = {"full": mean - mu @ A, "none": np.zeros_like(mu), "apart": mean - mu,
                   "own": mu - mu @ A}  # fmt: skip
        return A, offsets[b]

    return wrong


def _new_camera(rng, d=4, n=30):
    def spread():
        M = rng.normal(size=(d, d))
        return M @ M.T + 0.2 * np.eye(d)

    T = rng.normal(size=(n, d)) @ np.linalg.cholesky(spread()).T + rng.normal(size=d)
    return T, rng.normal(size=d), spread(), 0.5


CORAL = Task(
    id="ex08.1",
    title="A shipped model and a new camera",
    function="to_source",
    taught="08#CORAL",
    parts=(
        Part("axis by axis, by hand", 1, _axes_by_hand),
        Part("roots, by hand", 2, _roots_by_hand),
        Part("nothing to do", 1, _nothing_to_do),
        Part("digits on grey paper", 2, _aligned_digits),
    ),
    probes=lambda rng: [_new_camera(rng), _new_camera(rng, 3), _new_camera(rng, 5, 40)],
    misconceptions=(
        Misconception(
            "the other way round",
            _aligning(turned=True),
            "Which rows does the shipped model see: those of the source, or those of the camera?",
            "You turn source rows into target rows. That is right where you can train again. Here "
            "the classifier stays, so the new rows have to come to it.",
        ),
        Misconception(
            "recoloured before it is whitened",
            _aligning(order="recoloured first"),
            "In x @ A @ B, which of the two matrices meets the row first?",
            "Rows are multiplied from the left, so the first factor acts first. Yours recolours, "
            "then whitens with statistics that no longer fit.",
        ),
        Misconception(
            "the means stay apart",
            _aligning(b="none"),
            "Where does the target's mean land after your map?",
            "You match the covariances and forget the means. Light that is brighter everywhere is "
            "the most frequent shift of all, and it would remain.",
        ),
        Misconception(
            "the means taken apart too early",
            _aligning(b="apart"),
            "Is the target's mean moved by A as well?",
            "You add the difference of the two means, but A has moved the target's mean already. "
            "What b has to balance is the mean behind A.",
        ),
        Misconception(
            "the target keeps its own mean",
            _aligning(b="own"),
            "Which of your inputs do you never use?",
            "The map turns and stretches around the target's mean and leaves it where it is. The "
            "classifier expects the source's.",
        ),
        Misconception(
            "another root",
            _aligning(root="cholesky"),
            "Let the target's covariance be I, so that A is the root of C_S. Is yours symmetric?",
            "Cholesky's factors match the covariance as well, but with a rotation that depends "
            "on the order of the columns. The symmetric roots do not depend on it.",
        ),
        Misconception(
            "the root of each number",
            _aligning(root="each"),
            "Multiply your root with itself. What comes?",
            "The root of a matrix is not the matrix of the roots; only for a diagonal one both are "
            "the same.",
        ),
        Misconception(
            "no root at all",
            _aligning(root="none"),
            "What is the covariance of the rows after your map?",
            "A map A turns a covariance C into AᵀCA: A acts twice. So it needs the roots; yours "
            "whitens more than once.",
        ),
        Misconception(
            "column by column",
            _aligning(root="diagonal"),
            "Two columns go together in the source. Do they after your map?",
            "You standardise every column for itself. That matches means and variances, which is "
            "often most of it, and leaves the correlations as they were.",
        ),
        Misconception(
            "no ridge",
            _aligning(ridge="none"),
            "What is the variance of a corner pixel that is white in every picture?",
            "Without the ridge, a direction in which nothing varies is divided by zero, or by "
            "rounding errors.",
        ),
        Misconception(
            "the ridge on one side",
            _aligning(ridge="target"),
            "Give it a target that needs no change. What is A?",
            "You add the ridge to one covariance only. Equal domains then look unequal, and the "
            "map shrinks what it should leave alone.",
        ),
        Misconception(
            "divided by n",
            _aligning(ddof=0),
            "By what do you divide: the number of rows, or one less?",
            "The source's covariance was made with n − 1, as np.cov does; yours with n. Small, but "
            "a domain compared with itself should not differ.",
        ),
    ),
)

# --- ex08.2: importance weights -----------------------------------------------------------------


def _with_domain_classifier(f, S, T, folds, cap, kind):
    """Call f with a fit that makes a domain classifier, or a stand-in whose answers are known."""
    import numpy as np

    def fit(X, d):
        X, d = np.asarray(X, float), np.asarray(d)
        if not np.isin(d, (0, 1)).all():
            raise ValueError("the domains are 0 and 1")
        d = d.astype(bool)
        if X.ndim != 2 or d.shape != (len(X),) or d.all() or not d.any():
            raise ValueError("fit(X, d) needs rows of both domains, and 0 or 1 for each")
        if kind == "first column":
            return lambda rows: np.asarray(rows, float)[:, 0]
        if kind == "by heart":
            known = {tuple(x): 0.01 + 0.9 * k + x[0] / 1000 for x, k in zip(X, d, strict=True)}
            return lambda rows: np.array([known.get(tuple(x), 0.5) for x in np.asarray(rows)])
        if kind == "share":
            return lambda rows: np.full(len(rows), d.mean())
        a, b = X[~d], X[d]  # two bell curves of one covariance
        both = (a - a.mean(axis=0)).T @ (a - a.mean(axis=0))
        both = both + (b - b.mean(axis=0)).T @ (b - b.mean(axis=0))
        w = np.linalg.solve(both / len(X) + 0.1 * np.eye(X.shape[1]), b.mean(axis=0) - a.mean(0))
        shift = np.log(len(b) / len(a)) - (a.mean(axis=0) + b.mean(axis=0)) @ w / 2
        return lambda rows: 1 / (1 + np.exp(-(np.asarray(rows) @ w + shift)))

    w, effective = f(fit, S, T, folds, cap)
    return [np.asarray(w, float), float(effective)]


def _odds_by_hand(f, rng):
    S, T = np.array([[0.5], [0.75], [0.8], [0.2]]), np.arange(4.0)[:, None]
    w, effective = f(S, T, 2, 99.0, "first column")
    what = "as many rows in both domains, probabilities 1/2, 3/4, 4/5, 1/5, no cap: "
    odds = np.array([1, 3, 4, 0.25])
    expect(w, odds / odds.mean(), what + "the weights", 1e-5)
    expect(effective, odds.sum() ** 2 / (odds**2).sum(), what + "the effective number", 1e-5)


def _cap_by_hand(f, rng):
    S, T = np.array([[0.5], [0.75], [0.8], [0.2]]), np.arange(8.0)[:, None]
    w, _ = f(S, T, 2, 1.5, "first column")
    what = "twice as many rows in the target, probabilities 1/2, 3/4, 4/5, 1/5, cap 1.5: the "
    odds = np.array([0.5, 1.5, 1.5, 0.125])
    expect(w, odds / odds.mean(), what + "weights", 1e-5)
    S = np.array([[0.5], [1.0], [0.5], [0.5]])
    w, effective = f(S, T, 2, 2.0, "first column")
    what = "the same sizes, probabilities 1/2, 1, 1/2, 1/2, cap 2: the "
    expect(w, np.array([0.5, 2, 0.5, 0.5]) / 0.875, what + "weights", 1e-5)
    expect(effective, 3.5**2 / 4.75, what + "effective number", 1e-5)


def _unseen_rows(f, rng):
    S, T = np.arange(12.0)[:, None], 100 + np.arange(6.0)[:, None]
    w, effective = f(S, T, 3, 99.0, "by heart")
    what = "a classifier that knows its own rows by heart and says 1/2 to all others, 3 folds: the "
    expect(w, np.ones(12), what + "weights", 1e-5)
    expect(effective, 12.0, what + "effective number", 1e-5)
    rows, _, blocks = _digits()
    old, new = rows[blocks < 3][:120], rows[blocks >= 10][:80]
    w, effective = f(old, new, 4, 10.0, "bell curves")
    expect(np.shape(w), (120,), "120 and 80 digits: the shape of the weights")
    require(np.isfinite(w).all() and min(w) >= 0, "120 and 80 digits: weights below 0 or infinite")
    expect(np.mean(w), 1.0, "120 and 80 digits: the mean weight", 1e-5)
    require(1 <= effective <= 120, f"120 rows: the effective number is {effective:.3g}")


def _weighing(out_of_fold=True, prior="n_S/n_T", form="odds", cap="before", scale="mean",
              effective="number"):  # fmt: skip
    def wrong(fit, S, T, folds, most):
        p, s, t = np.zeros(len(S)), np.arange(len(S)) % folds, np.arange(len(T)) % folds
        for k in range(folds):
            a, b = (S[s != k], T[t != k]) if out_of_fold else (S, T)
            predict = fit(np.concatenate([a, b]), np.r_[np.zeros(len(a)), np.ones(len(b))])
            p[s == k] = predict(S[s == k])
        w = {"odds": p / (1 - p), "probability": p, "turned": (1 - p) / p}[form]
        sizes = {"n_S/n_T": len(S) / len(T), "n_T/n_S": len(T) / len(S), "none": 1}
        w = w * sizes[prior]
        if cap == "before":
            w = np.minimum(w, most)
        if cap == "dropped":
            w = np.where(w > most, 0, w)
        raw = w
        w = {"mean": w / w.mean(), "sum": w / w.sum(), "none": w, "largest": w / w.max()}[scale]
        w = np.minimum(w, most) if cap == "after" else w
        number = w.sum() ** 2 / (w**2).sum()
        others = {"share": number / len(w), "unscaled": 1 / (raw**2).sum(),
                  "count": float(np.sum(w > 0.5))}  # fmt: skip
        return w, others.get(effective, number)

    return wrong


def _domains(rng, n_S=24, n_T=12, folds=3, cap=1.2, d=5):
    S, T = rng.normal(size=(n_S, d)), rng.normal(size=(n_T, d)) + 0.6
    return S, T, folds, cap, "bell curves"


WEIGHTS = Task(
    id="ex08.2",
    title="Importance weights you can train with",
    function="importance_weights",
    taught="08#Importance weights",
    parts=(
        Part("odds, by hand", 2, _odds_by_hand),
        Part("sizes and cap, by hand", 1, _cap_by_hand),
        Part("rows that the classifier has not seen", 2, _unseen_rows),
    ),
    probes=lambda rng: [
        _domains(rng),
        _domains(rng, 12, 36, 4, 1.4),
        _domains(rng, 30, 20, 5, 0.8),
    ],
    harness=_with_domain_classifier,
    misconceptions=(
        Misconception(
            "judged on its own rows",
            _weighing(out_of_fold=False),
            "Which rows was the classifier fitted to that gives a row its weight?",
            "On its own rows the classifier knows by heart who comes from where: source rows get "
            "odds near 0, and the weights are noise about the fit.",
        ),
        Misconception(
            "sizes forgotten",
            _weighing(prior="none"),
            "Twice as many target rows, from the same two domains. Do your weights change?",
            "The odds contain how many rows you happened to have of each. Dividing by the mean "
            "hides it, the cap does not: it falls on other rows.",
        ),
        Misconception(
            "sizes the wrong way round",
            _weighing(prior="n_T/n_S"),
            "Two equal domains, and twice as many target rows. Which odds does the classifier "
            "give, and which weight should come?",
            "More target rows make larger odds, and your factor makes them larger still. It has "
            "to take the sizes out.",
        ),
        Misconception(
            "probabilities for odds",
            _weighing(form="probability"),
            "What weight does a row with probability 3/4 get, and what would P_T/P_S be?",
            "A probability ends at 1, a ratio of densities does not. With your weights the rows "
            "that matter most count too little.",
        ),
        Misconception(
            "odds upside down",
            _weighing(form="turned"),
            "Which source rows weigh most: those that look like the target, or the others?",
            "You take the odds of the source. The rows that resemble the target least then lead "
            "the training.",
        ),
        Misconception(
            "no cap",
            _weighing(cap="none"),
            "What is your weight where the classifier is sure?",
            "One row that the classifier is sure of can outweigh all others. The cap takes a "
            "little bias for much less variance.",
        ),
        Misconception(
            "cap behind the scaling",
            _weighing(cap="after"),
            "What is the mean of your weights at the end?",
            "You scale first and cap then: the mean is no longer 1, and a huge weight has pushed "
            "all others down before it was cut itself.",
        ),
        Misconception(
            "capped rows thrown away",
            _weighing(cap="dropped"),
            "Which weight does the row get that resembles the target most?",
            "You give weight 0 to what is above the cap. These are the source rows most like the "
            "target, the last ones to lose.",
        ),
        Misconception(
            "they add up to 1",
            _weighing(scale="sum"),
            "What is the mean of your weights?",
            "Your weights sum to 1. In a loss with a penalty the data then counts n times less: "
            "the same C regularises far more strongly.",
        ),
        Misconception(
            "not scaled",
            _weighing(scale="none"),
            "What is the mean of your weights?",
            "With a mean other than 1 you change the balance between loss and penalty as well, "
            "and compare two things at once.",
        ),
        Misconception(
            "a share for the number",
            _weighing(effective="share"),
            "What is your second number if all weights are equal?",
            "You return the share of the rows that is effective. Useful too; asked for was how "
            "many rows it is worth.",
        ),
        Misconception(
            "the weights do not sum to one",
            _weighing(effective="unscaled"),
            "What is your second number if all weights are equal?",
            "1/Σw² is right only for weights that add up to 1. The general formula has a sum "
            "above the line as well.",
        ),
    ),
)

# --- ex08.3: other class shares -----------------------------------------------------------------


def _sure(answers, K=2):
    """Probabilities that say these answers, 0.9 each."""
    return np.where(np.arange(K) == np.asarray(answers)[:, None], 0.9, 0.1 / (K - 1))


def _shares(f, *given):
    return _two(f(*given), "the shares and the probabilities")


def _held_out_by_hand():
    y = np.repeat([0, 1], [10, 20])
    return _sure([0] * 8 + [1] * 2 + [0] * 6 + [1] * 14), y


def _shares_by_hand(f, rng):
    P, y = _held_out_by_hand()
    q, _ = _shares(f, P, y, _sure([0, 1, 1, 0, 0, 1, 1, 1, 0, 1]))
    what = "of label 0, 8 in 10 held-out rows are answered 0; of label 1, 6 in 20; of the target, "
    expect(q, [0.2, 0.8], what + "4 in 10: the target's shares", 1e-5)
    q, corrected = _shares(f, P, y, _sure([1, 1, 1, 1]))
    expect(q, [0.0, 1.0], what + "none: the target's shares", 1e-5)
    expect(corrected, np.tile([0.0, 1.0], (4, 1)), what + "none: the probabilities", 1e-5)


def _corrected_by_hand(f, rng):
    P, y = _held_out_by_hand()
    Q = np.array([[0.6, 0.4], *_sure([1, 1, 0, 0, 1, 1, 1, 0, 1])])
    _, corrected = _shares(f, P, y, Q)
    what = "source shares 1/3 and 2/3, target shares 0.2 and 0.8; a row with 0.6 and 0.4"
    expect(corrected[0], [3 / 7, 4 / 7], what, 1e-5)
    expect(corrected.sum(axis=1), np.ones(10), "the sum of each row of probabilities", 1e-5)


@lru_cache(maxsize=1)
def _three_digits():
    """A classifier fitted to digits 1, 8 and 9 of the first blocks: what it says to the others."""
    rows, labels, blocks = _digits()
    use = np.isin(labels, (1, 8, 9))
    X, y, old = rows[use], np.searchsorted((1, 8, 9), labels[use]), blocks[use] < 4
    centres = np.array([X[old & (y == k)].mean(axis=0) for k in range(3)])
    z = -((X[~old, None] - centres) ** 2).sum(axis=2) / 150
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True), y[~old]


def _digits_asked(rng, shares=(0.6, 0.1, 0.3), n=120):
    """Held-out digits in other numbers than in the target: (P, y, Q) and the target's labels."""
    P, y = _three_digits()
    half = rng.permutation(len(y))
    held, rest = half[: len(y) // 2], half[len(y) // 2 :]
    held = np.concatenate([held[y[held] == k][: 50 - 12 * k] for k in range(3)])
    drawn = [rng.choice(rest[y[rest] == k], round(n * s)) for k, s in enumerate(shares)]
    rest = rng.permutation(np.concatenate(drawn))
    return (P[held], y[held], P[rest]), y[rest]


def _shares_of_digits(f, rng):
    for shares in ((0.6, 0.1, 0.3), (0.2, 0.3, 0.5)):
        (P, y, Q), truth = _digits_asked(rng, shares, 200)
        q, corrected = _shares(f, P, y, Q)
        expect(np.shape(q), (3,), "digits 1, 8 and 9: the shape of the shares")
        what = f"digits 1, 8 and 9, shares {shares} in the target: "
        expect(np.sum(q), 1.0, what + "the sum of your shares", 1e-5)
        off = np.abs(q - shares).max()
        require(off < 0.15, what + f"yours are {np.round(q, 2)}, off by up to {off:.2f}")
        said = [np.mean(np.argmax(P[y == k], axis=1)[:, None] == np.arange(3), axis=0)
                for k in range(3)]  # fmt: skip
        said = q @ said
        got = np.mean(np.argmax(Q, axis=1)[:, None] == np.arange(3), axis=0)
        if q.min() > 1e-9:
            expect(said, got, what + "the answers to be expected with your shares", 1e-5)
        ratio = corrected / Q
        prior = q / (np.bincount(y) / len(y))
        expect(ratio[0] * prior[0] / ratio[0][0], prior, what + "how the first row changes", 1e-4)
    require(len(truth) == len(corrected), "one row of probabilities for each target row")


def _shifting(matrix="given y", shares="solved", factor="q/p", negative="zero", normal=True):
    def wrong(P, y, Q):
        K = P.shape[1]
        one, label = np.eye(K)[P.argmax(axis=1)], np.eye(K)[y]
        p, a = label.mean(axis=0), np.eye(K)[Q.argmax(axis=1)].mean(axis=0)
        joint = one.T @ label / len(y)
        M = joint / p
        if matrix == "transposed":
            M = M.T
        if matrix == "joint":
            M = joint
        if matrix == "given answer":
            q = (joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-12)).T @ a
        elif shares == "counted":
            q = a
        elif shares == "mean":
            q = Q.mean(axis=0)
        else:
            q = np.linalg.solve(M, a)
        if negative == "zero":
            q = np.maximum(q, 0)
            q = q / q.sum()
        if negative == "size":
            q = np.abs(q) / np.abs(q).sum()
        factors = {"q/p": q / p, "q": q, "p/q": p / np.maximum(q, 1e-12), "none": np.ones(K)}
        corrected = Q * factors[factor]
        return q, corrected / corrected.sum(axis=1, keepdims=True) if normal else corrected

    return wrong


def _answers_of(rng, K=3, n=40):
    """Made answers of a middling classifier."""
    common = np.arange(1, K + 1) / np.arange(1, K + 1).sum()
    y = np.r_[np.repeat(np.arange(K), 3), rng.choice(K, n, p=common)]
    truth = rng.choice(K, n)

    def says(labels):
        z = rng.normal(size=(len(labels), K)) + 2.5 * np.eye(K)[labels]
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    return says(y), y, says(truth)


SHIFT = Task(
    id="ex08.3",
    title="Other class shares, found without a label",
    function="correct_shift",
    taught="08#Label shift, made on purpose",
    parts=(
        Part("shares, by hand", 2, _shares_by_hand),
        Part("probabilities, by hand", 1, _corrected_by_hand),
        Part("handwritten digits", 2, _shares_of_digits),
    ),
    probes=lambda rng: [
        _answers_of(rng),
        _answers_of(rng, 4, 60),
        (*_held_out_by_hand(), _sure([1, 1, 1, 1])),  # an estimate below zero
        _digits_asked(rng)[0],
    ],
    misconceptions=(
        Misconception(
            "answers counted",
            _shifting(shares="counted"),
            "Which shares come out if the classifier is wrong half of the time?",
            "You count how often each class is answered. Errors pull that towards the middle; the "
            "held-out rows say how, and you do not ask them.",
        ),
        Misconception(
            "probabilities averaged",
            _shifting(shares="mean"),
            "Which shares come out if the classifier says the source's shares to every row?",
            "The mean probability still holds the shares that the classifier was trained with. It "
            "is where EM starts, not where it ends.",
        ),
        Misconception(
            "the table turned",
            _shifting(matrix="transposed"),
            "Do the columns of your matrix add up to 1, or its rows?",
            "The matrix takes the shares of labels to the shares of answers. Turned around, it "
            "means nothing, and with two classes alike in errors nobody notices.",
        ),
        Misconception(
            "what an answer meant in the source",
            _shifting(matrix="given answer"),
            "Does the share of label 0 among the rows answered 0 stay the same, if label 0 "
            "becomes rare?",
            "You use P(label | answer) of the source. Under label shift just that changes; what "
            "stays is P(answer | label).",
        ),
        Misconception(
            "ratios for shares",
            _shifting(matrix="joint"),
            "What comes out if nothing has shifted: the shares of the source, or ones?",
            "With the joint table the solution is q/p, how many times more frequent a class has "
            "become. You return it as shares, and divide by p again.",
        ),
        Misconception(
            "source shares not taken out",
            _shifting(factor="q"),
            "What does your correction do if the shares have not changed?",
            "You multiply by the new shares. The probabilities hold the old ones already, so "
            "frequent classes are counted twice.",
        ),
        Misconception(
            "corrected backwards",
            _shifting(factor="p/q"),
            "A class has become rare. Do its probabilities fall?",
            "Your factor is upside down: it raises what has become rare.",
        ),
        Misconception(
            "only estimated",
            _shifting(factor="none"),
            "In which line do your shares change the probabilities?",
            "The shares are found, and the probabilities are returned as they were.",
        ),
        Misconception(
            "shares below zero",
            _shifting(negative="kept"),
            "Print the shares for a target without one of the classes.",
            "From a finite sample the solution of the equations can be negative; a share cannot, "
            "and a negative probability even less.",
        ),
        Misconception(
            "sign taken away",
            _shifting(negative="size"),
            "Which share does a class get whose estimate is a little below zero?",
            "A negative estimate means there is probably nothing. The absolute value makes "
            "something of it.",
        ),
        Misconception(
            "rows that do not add up to 1",
            _shifting(normal=False),
            "What is the sum of a row of your probabilities?",
            "Behind the factor the rows no longer add up to 1. The largest is the same; every "
            "threshold and every mean is not.",
        ),
    ),
)

# --- ex08.4: the adversary ----------------------------------------------------------------------


def _adversary_pytorch(f, S, y, T, progress):
    """Gradients of the loss that f builds, for a small network of three parts."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    shapes = {"features": (S.shape[1], 4), "classes": (4, 3), "domain": (4, 1)}
    W = {k: torch.tensor(rng.normal(size=v).astype("f4")) for k, v in shapes.items()}
    for w in W.values():
        w.requires_grad_()
    parts = (
        lambda x: torch.tanh(x @ W["features"]),
        lambda F: F @ W["classes"],
        lambda F: F @ W["domain"],
    )
    S, y, T = (torch.tensor(part) for part in (S.astype("f4"), y, T.astype("f4")))
    loss = f(*parts, S, y, T, progress)
    if tuple(loss.shape) != ():
        raise TypeError(f"the loss is to be one number; yours has the shape {tuple(loss.shape)}")
    grads = torch.autograd.grad(loss, list(W.values()), allow_unused=True)
    out = {k: 0 * w if g is None else g for (k, w), g in zip(W.items(), grads, strict=True)}
    return {"loss": loss.detach(), **{k: g.detach() for k, g in out.items()}}


def _adversary_keras(f, S, y, T, progress):
    """Gradients of the loss that f builds, for a small network of three parts."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shapes = {"features": (S.shape[1], 4), "classes": (4, 3), "domain": (4, 1)}
    W = {k: tf.Variable(rng.normal(size=v).astype("f4")) for k, v in shapes.items()}
    parts = (
        lambda x: tf.tanh(x @ W["features"]),
        lambda F: F @ W["classes"],
        lambda F: F @ W["domain"],
    )
    with tf.GradientTape() as tape:
        given = (tf.constant(part) for part in (S.astype("f4"), y, T.astype("f4")))
        loss = f(*parts, *given, progress)
    if tuple(loss.shape) != ():
        raise TypeError(f"the loss is to be one number; yours has the shape {tuple(loss.shape)}")
    grads = tape.gradient(loss, list(W.values()))
    out = {k: 0 * w if g is None else g for (k, w), g in zip(W.items(), grads, strict=True)}
    return {"loss": loss.numpy(), **{k: g.numpy() for k, g in out.items()}}


def _by_calculus(S, y, T):
    """Both losses and their plain gradients, derived by hand: (L_y, L_d, gradients by part)."""
    rng = np.random.default_rng(0)
    W, V, u = (rng.normal(size=shape) for shape in ((S.shape[1], 4), (4, 3), (4, 1)))
    X, d = np.concatenate([S, T]), np.r_[np.zeros(len(S)), np.ones(len(T))]
    F = np.tanh(X @ W)
    z = F[: len(S)] @ V
    q = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    p = 1 / (1 + np.exp(-(F @ u)[:, 0]))
    L_y = -np.mean(np.log(q[np.arange(len(S)), y]))
    L_d = -np.mean(np.where(d == 1, np.log(p), np.log(1 - p)))
    dz, dp = (q - np.eye(3)[y]) / len(S), ((p - d) / len(X))[:, None]
    slope = 1 - F**2
    of_y = S.T @ (dz @ V.T * slope[: len(S)])
    of_d = X.T @ (dp @ u.T * slope)
    return L_y, L_d, {"classes": F[: len(S)].T @ dz, "domain": F.T @ dp, "y": of_y, "d": of_d}


LAMBDA = {0.0: 0.0, 0.1: 0.4621171573, 0.5: 0.9866142982}


def _loss_forward(f, rng):
    for progress in (0.0, 0.5):
        given = _batch(rng, progress)
        L_y, L_d, _ = _by_calculus(*given[:3])
        what = f"progress {progress}, 6 source and 4 target rows: the loss, L_y + L_d"
        expect(f(*given)["loss"], L_y + L_d, what, 1e-5)


def _heads_learn(f, rng):
    for progress in (0.0, 0.1):
        given = _batch(rng, progress)
        out, wanted = f(*given), _by_calculus(*given[:3])[2]
        what = f"progress {progress}: the gradient that the "
        expect(out["classes"], wanted["classes"], what + "class head gets", 1e-5)
        expect(out["domain"], wanted["domain"], what + "domain head gets, to get better", 1e-5)


def _features_confuse(f, rng):
    for progress, lam in LAMBDA.items():
        given = _batch(rng, progress)
        wanted = _by_calculus(*given[:3])[2]
        what = f"progress {progress}, so λ = {lam:.4f}: the gradient that the features get"
        expect(f(*given)["features"], wanted["y"] - lam * wanted["d"], what, 1e-5)


def _far_apart(f, rng):
    """A domain head that is sure and wrong: only a loss on logits stays finite."""
    S, y, T, progress = _batch(rng, 0.5)
    out = f(40 * S, y, 40 * T, progress)
    wanted = _by_calculus(40 * S, y, 40 * T)
    expect(out["loss"], wanted[0] + wanted[1], "features at their ends: the loss", 1e-5)


def _batch(rng, progress=0.3, n_S=6, n_T=4):
    S, T = rng.normal(size=(n_S, 3)), rng.normal(size=(n_T, 3)) + 0.5
    return S, rng.integers(3, size=n_S), T, progress


SCHEDULES = {
    "grows": lambda p: 2 / (1 + np.exp(-10 * p)) - 1,
    "straight": lambda p: p,
    "half": lambda p: 1 / (1 + np.exp(-10 * p)),
    "one": lambda p: 1.0,
}


def _confusing_pytorch(way="reversed", labels="both", detach=(), mean="rows", lam="grows"):
    def wrong(features, classify, discriminate, S, y, T, progress):
        import torch
        from torch.nn import functional as nnf

        k, loss = SCHEDULES[lam](progress), nnf.binary_cross_entropy_with_logits
        F_S, F_T = features(S), features(T)
        L_y = nnf.cross_entropy(classify(F_S), y)
        sides = [F.detach() if n in detach else F for n, F in zip("ST", (F_S, F_T), strict=True)]
        if way in ("reversed", "both"):
            r = 1.0 if way == "both" else k
            sides = [(1 + r) * F.detach() - r * F for F in sides]
        sides = sides[:1] if labels == "source" else sides[1:] if labels == "target" else sides
        guesses = [discriminate(F)[:, 0] for F in sides]
        ends = [1, 1] if labels == "same" else [1] if labels == "target" else [0, 1]
        wanted = [torch.full_like(g, e) for g, e in zip(guesses, ends, strict=False)]
        if mean == "domains":
            L_d = sum(loss(g, w) for g, w in zip(guesses, wanted, strict=True)) / 2
        elif mean == "added":
            L_d = sum(loss(g, w) for g, w in zip(guesses, wanted, strict=True))
        else:
            L_d = loss(torch.cat(guesses), torch.cat(wanted))
        return {"subtracted": L_y - k * L_d, "both": L_y + k * L_d, "helps": L_y + k * L_d}.get(
            way, L_y + L_d
        )

    return wrong


def _confusing_keras(way="reversed", labels="both", detach=(), mean="rows", lam="grows"):
    def wrong(features, classify, discriminate, S, y, T, progress):
        import tensorflow as tf

        def loss(guess, wanted):
            each = tf.nn.sigmoid_cross_entropy_with_logits(wanted, guess)
            return tf.reduce_mean(each)

        k, stop = SCHEDULES[lam](progress), tf.stop_gradient
        F_S, F_T = features(S), features(T)
        L_y = tf.nn.sparse_softmax_cross_entropy_with_logits(y, classify(F_S))
        L_y = tf.reduce_mean(L_y)
        sides = [stop(F) if n in detach else F for n, F in zip("ST", (F_S, F_T), strict=True)]
        if way in ("reversed", "both"):
            r = 1.0 if way == "both" else k
            sides = [(1 + r) * stop(F) - r * F for F in sides]
        sides = sides[:1] if labels == "source" else sides[1:] if labels == "target" else sides
        guesses = [discriminate(F)[:, 0] for F in sides]
        ends = [1.0, 1.0] if labels == "same" else [1.0] if labels == "target" else [0.0, 1.0]
        wanted = [e * tf.ones_like(g) for g, e in zip(guesses, ends, strict=False)]
        if mean == "domains":
            L_d = sum(loss(g, w) for g, w in zip(guesses, wanted, strict=True)) / 2
        elif mean == "added":
            L_d = sum(loss(g, w) for g, w in zip(guesses, wanted, strict=True))
        else:
            L_d = loss(tf.concat(guesses, 0), tf.concat(wanted, 0))
        return {"subtracted": L_y - k * L_d, "both": L_y + k * L_d, "helps": L_y + k * L_d}.get(
            way, L_y + L_d
        )

    return wrong


def _confusing(**how):
    return dict(tensorflow=_confusing_keras(**how), pytorch=_confusing_pytorch(**how))


DANN = Task(
    id="ex08.4",
    title="Mend the adversary that gives up",
    function="dann_loss",
    taught="08#DANN",
    parts=(
        Part("the loss", 1, _loss_forward),
        Part("both heads get better", 2, _heads_learn),
        Part("the features confuse", 3, _features_confuse),
        Part("a head that is sure", 1, _far_apart),
    ),
    probes=lambda rng: [_batch(rng), _batch(rng, 0.05, 5, 8), _batch(rng, 0.2, 4, 3)],
    harness={"tensorflow": _adversary_keras, "pytorch": _adversary_pytorch},
    seconds=10.0,  # the first call of a process loads the framework
    misconceptions=(
        Misconception(
            "as it was",
            _confusing(way="subtracted", labels="same", detach="S", mean="added", lam="straight"),
            "There are five bugs. What does the domain head learn from a loss with a minus? "
            "Which labels does it get? Through which rows do the features hear of it? How is the "
            "mean taken, and how does λ grow?",
            "The head is trained to be wrong, both domains have the same label, the source rows "
            "are cut off, every domain's mean is added, and λ grows along a straight line.",
        ),
        Misconception(
            "the domain loss subtracted",
            _confusing(way="subtracted"),
            "What does a minus before the domain loss do to the domain head's own weights?",
            "The domain head descends on this loss too, and so learns to be wrong. A head that "
            "has given up needs nobody to confuse it, and the features learn nothing.",
        ),
        Misconception(
            "no reversal",
            _confusing(way="helps"),
            "Do your features make the domains easier to tell apart, or harder?",
            "The gradient of the domain loss reaches the features as it is. They now help the "
            "domain head: the opposite of an adaptation.",
        ),
        Misconception(
            "λ slows the domain head as well",
            _confusing(way="both"),
            "What does the domain head learn at the beginning, where λ = 0?",
            "You weigh the loss with λ, so the head is slowed as much as the features. λ belongs "
            "into the reversal alone: at the start the head learns, and nobody fights it yet.",
        ),
        Misconception(
            "λ never grows",
            _confusing(lam="one"),
            "What is λ in the first step?",
            "From the first step you follow a domain head that knows nothing yet: noise, as "
            "strong as the labels.",
        ),
        Misconception(
            "λ along a straight line",
            _confusing(lam="straight"),
            "Put progress 0.1 into the formula. What is λ?",
            "You take the progress itself for λ. The paper's schedule rises early and is flat for "
            "most of the training.",
        ),
        Misconception(
            "λ starts in the middle",
            _confusing(lam="half"),
            "Put progress 0 into your formula. What is λ?",
            "Your curve is the plain sigmoid: 1/2 at the start. The paper's is stretched to go "
            "from 0 to 1.",
        ),
        Misconception(
            "one label for both domains",
            _confusing(labels="same"),
            "Which label do the source rows get in your domain loss?",
            "Both domains have the same label, so the head needs no input: a bias is enough, and "
            "no gradient says anything about the domains.",
        ),
        Misconception(
            "only source rows",
            _confusing(labels="source"),
            "In which line do the target rows enter your loss?",
            "Without target rows there is nothing to tell apart.",
        ),
        Misconception(
            "only target rows",
            _confusing(labels="target"),
            "In which line do the source rows enter your domain loss?",
            "The domain head sees one domain and says always the same.",
        ),
        Misconception(
            "source features cut off",
            _confusing(detach="S"),
            "Through the rows of which domain does the domain loss reach the features?",
            "You detach the source. As in a GAN only one side moves then; in DANN both sides do.",
        ),
        Misconception(
            "features cut off",
            _confusing(detach="ST"),
            "Set λ to 1, then to 100. Does the gradient of the features change?",
            "Nothing of the domain loss reaches the features. The adversary plays alone.",
        ),
        Misconception(
            "every domain counts one half",
            _confusing(mean="domains"),
            "Six source rows, four target rows. How much does one row of each count?",
            "You average the two domains' means. That is sensible, and something else than the "
            "mean over all rows.",
        ),
        Misconception(
            "two means added",
            _confusing(mean="added"),
            "Compare your loss for equal domains with one mean over all rows.",
            "The sum of two means is twice as large: the same as another λ and another rate for "
            "the domain head.",
        ),
    ),
)

# --- ex08.5: AdaBN ------------------------------------------------------------------------------


def _adapted_pytorch(f, images, frozen, training):
    """Call f on a small network, and compare what it left with what was asked for."""
    import numpy as np
    import torch
    from torch import nn

    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Dropout(0.5),
        nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, momentum=0.3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip
    norms = [model[1], model[5]]
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.tensor(rng.uniform(0.5, 1, value.shape) * rng.choice([-1, 1])))
    model.requires_grad_(not frozen).train(training)
    model[5].eval()
    x = torch.tensor(images)

    def state():
        return [[p.detach().numpy().tolist() for p in model.parameters()],
                [p.requires_grad for p in model.parameters()],
                [part.training for part in model.modules()],
                [norm.momentum for norm in norms]]  # fmt: skip

    def wanted():
        h, found = x, []
        with torch.no_grad():
            for layer in model:
                if layer in norms:
                    mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
                    found += [mean, var]
                    h = (h - mean[:, None, None]) / (var + layer.eps).sqrt()[:, None, None]
                    h = h * layer.weight[:, None, None] + layer.bias[:, None, None]
                elif not isinstance(layer, nn.Dropout):
                    h = layer(h)
        return [value.numpy() for value in found]

    before, target = state(), wanted()
    starts = [target[0] + 3 * target[1] ** 0.5, 4 * target[1]]
    starts += [target[2] + 3 * target[3] ** 0.5, 4 * target[3]]
    for norm, mean, var in zip(norms, starts[::2], starts[1::2], strict=True):
        norm.running_mean.copy_(torch.tensor(mean))
        norm.running_var.copy_(torch.tensor(var))
    torch.manual_seed(0)
    f(model, x)
    found = [v.numpy() for norm in norms for v in (norm.running_mean, norm.running_var)]
    names = "weights", "requires_grad or trainable", "training mode", "momentum"
    after = state()
    out = {"given": [frozen, training], "moved": []}
    out["changed"] = [n for n, a, b in zip(names, before, after) if a != b]  # noqa: B905
    for value, goal, start in zip(found, target, starts, strict=True):
        share = 1 - np.abs(value - goal).mean() / np.abs(start - goal).mean()
        out["moved"].append(round(float(np.clip(np.nan_to_num(share, nan=-1), -1, 1)), 2))
    return out


def _adapted_keras(f, images, frozen, training):
    """Call f on a small network, and compare what it left with what was asked for."""
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    rng = np.random.default_rng(0)
    model = keras.Sequential([
        layers.Conv2D(4, 3), layers.BatchNormalization(), layers.LeakyReLU(0.01),
        layers.Dropout(0.5, seed=1), layers.Conv2D(5, 1), layers.BatchNormalization(momentum=0.7),
        layers.GlobalAveragePooling2D(), layers.Dense(2),
    ])  # fmt: skip
    model.build((None, *images.shape[1:]))
    norms = [model.layers[1], model.layers[5]]
    for value in model.trainable_variables:
        value.assign(rng.uniform(0.5, 1, value.shape) * rng.choice([-1, 1]))
    if frozen:
        model.trainable = False
    model.layers[4].trainable = training
    x = tf.constant(images)
    weights = [v for layer in model.layers for v in layer.weights if "moving" not in v.path]
    weights = [v for v in weights if "seed" not in v.path]

    def state():
        return [[v.numpy().tolist() for v in weights],
                [part.trainable for part in (model, *model.layers)],
                [norm.momentum for norm in norms]]  # fmt: skip

    def wanted():
        h, found = x, []
        for layer in model.layers:
            if layer in norms:
                mean, var = tf.nn.moments(h, (0, 1, 2))
                found += [mean, var]
                h = (h - mean) / tf.sqrt(var + layer.epsilon) * layer.gamma + layer.beta
            elif not isinstance(layer, layers.Dropout):
                h = layer(h)
        return [value.numpy() for value in found]

    before, target = state(), wanted()
    starts = [target[0] + 3 * target[1] ** 0.5, 4 * target[1]]
    starts += [target[2] + 3 * target[3] ** 0.5, 4 * target[3]]
    for norm, mean, var in zip(norms, starts[::2], starts[1::2], strict=True):
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(var)
    f(model, x)
    found = [v.numpy() for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    names = "weights", "requires_grad or trainable", "momentum"
    after = state()
    out = {"given": [frozen, training], "moved": []}
    out["changed"] = [n for n, a, b in zip(names, before, after) if a != b]  # noqa: B905
    for value, goal, start in zip(found, target, starts, strict=True):
        share = 1 - np.abs(value - goal).mean() / np.abs(start - goal).mean()
        out["moved"].append(round(float(np.clip(np.nan_to_num(share, nan=-1), -1, 1)), 2))
    return out


@lru_cache(maxsize=1)
def _cells():
    """Solar cells of the poly kind, 8 × 8 of their pixels, three times the same grey."""
    from tlcourse import datasets

    cells = datasets.solar_cells()
    poly = np.flatnonzero(cells.meta["cell_type"] == "poly")
    grey = cells.images[poly, 10::36, 10::36].astype("f4") / 255
    return np.repeat(grey.reshape(len(grey), *grey.shape[1:3], -1)[..., :1], 3, axis=3)


def _pictures(rng, frozen=True, training=True, n=60):
    import os

    images = rng.choice(_cells(), n, replace=False) * np.array([1, 0.5, 2], "f4")
    if os.environ.get("TLCOURSE_FRAMEWORK") == "pytorch":
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images, frozen, training


def _adabn_moves(f, rng):
    for frozen, training in ((False, True), (True, False)):
        out = f(*_pictures(rng, frozen, training))
        names = ("mean of the first BatchNorm", "variance of the first", "mean of the second",
                 "variance of the second")  # fmt: skip
        for share, name in zip(out["moved"], names, strict=True):
            said = "frozen network" if frozen else "network that is not frozen"
            what = f"60 solar cells, a {said}: {name}: how much of the way from the old value to "
            require(
                share >= 0.98,
                what + f"that of the cells it went: expected 1.0 (0.98 will do), got {share:g}",
            )


def _adabn_spares(name):
    def part(f, rng):
        for frozen in (True, False):
            out = f(*_pictures(rng, frozen, not frozen))
            require(name not in out["changed"], f"{name}: not what they were before")

    return part


def _adabn_settings(f, rng):
    for frozen, training in ((True, False), (False, True), (False, False)):
        changed = [n for n in f(*_pictures(rng, frozen, training))["changed"] if n != "weights"]
        said = "frozen" if frozen else "not frozen"
        require(not changed, f"a network that is {said}: changed for good: {changed}")


def _adabn_pytorch(momentum=1.0, restore=True, everything=False, after="as it was", first="",
                   stats="both", affine=False):  # fmt: skip
    def wrong(model, x):
        import torch
        from torch import nn

        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        modes = {m: m.training for m in model.modules()}
        kept = {norm: norm.momentum for norm in norms}
        variances = {norm: norm.running_var.clone() for norm in norms}
        with torch.no_grad():
            if first == "old":
                seen = {}
                hooks = [n.register_forward_pre_hook(lambda m, i: seen.update({m: i[0]}))
                         for n in norms]  # fmt: skip
                model.eval()(x)
                for hook in hooks:
                    hook.remove()
                for norm in norms:
                    norm.running_mean.copy_(seen[norm].mean((0, 2, 3)))
                    norm.running_var.copy_(seen[norm].var((0, 2, 3)))
            else:
                model.train(everything)
                for norm in norms:
                    norm.train()
                    if first == "reset":
                        norm.reset_running_stats()
                    if affine:
                        norm.reset_parameters()
                    norm.momentum = momentum if momentum is not None else norm.momentum
                if first != "eval":
                    model(x)
                else:
                    model.eval()(x)
        for norm in norms:
            if restore:
                norm.momentum = kept[norm]
            if stats == "mean":
                norm.running_var.copy_(variances[norm])
        if after == "as it was":
            for part, mode in modes.items():
                part.training = mode
        elif after == "all eval":
            model.eval()

    return wrong


def _adabn_keras(momentum=1.0, restore=True, everything=False, after="as it was", first="",
                 stats="both", affine=False):  # fmt: skip
    def wrong(model, x):
        import tensorflow as tf
        from keras import layers

        norms = [m for m in model.layers if isinstance(m, layers.BatchNormalization)]
        flags = [part.trainable for part in model.layers]
        whole = model.trainable
        kept = [norm.momentum for norm in norms]
        variances = [tf.identity(norm.moving_variance) for norm in norms]
        if first == "eval":
            model(x, training=False)
        elif first == "frozen":
            for norm in norms:
                norm.momentum = 0.0
            h = x
            for layer in model.layers:
                h = layer(h, training=layer in norms)
        elif first == "old":
            h = x
            for layer in model.layers:
                new, out = tf.nn.moments(h, (0, 1, 2)) if layer in norms else (), None
                out = layer(h, training=False)
                if new:
                    layer.moving_mean.assign(new[0])
                    layer.moving_variance.assign(new[1])
                h = out
        else:
            for norm in norms:
                norm.trainable = True
                if first == "reset":
                    norm.moving_mean.assign(0 * norm.moving_mean)
                    norm.moving_variance.assign(0 * norm.moving_variance + 1)
                if affine:
                    norm.gamma.assign(0 * norm.gamma + 1)
                    norm.beta.assign(0 * norm.beta)
                norm.momentum = 1 - momentum if momentum is not None else norm.momentum
            h = x
            for layer in model.layers:
                h = layer(h, training=True if everything else layer in norms)
        for norm, value, variance in zip(norms, kept, variances, strict=True):
            if restore:
                norm.momentum = value
            if stats == "mean":
                norm.moving_variance.assign(variance)
        if after != "left":
            model.trainable = whole if after == "as it was" else False
            for part, flag in zip(model.layers, flags, strict=True):
                part.trainable = flag if after == "as it was" else False

    return wrong


def _adabn(**how):
    return dict(tensorflow=_adabn_keras(**how), pytorch=_adabn_pytorch(**how))


ADABN = Task(
    id="ex08.5",
    title="New statistics, and nothing else",
    function="adapt_norms",
    taught="08#AdaBN",
    parts=(
        Part("the statistics", 3, _adabn_moves),
        Part("the weights stay", 1, _adabn_spares("weights")),
        Part("nothing is left behind", 2, _adabn_settings),
    ),
    probes=lambda rng: [
        _pictures(rng, True, False),
        _pictures(rng, False, True),
    ],
    harness={"tensorflow": _adapted_keras, "pytorch": _adapted_pytorch},
    seconds=10.0,  # the first call of a process loads the framework
    misconceptions=(
        Misconception(
            "a forward pass in inference mode",
            _adabn(first="eval", momentum=None),
            "Compare the moving mean before and after your function.",
            "In inference mode BatchNorm reads its statistics and writes none. Nothing has been "
            "adapted.",
        ),
        Misconception(
            "the usual momentum",
            _adabn(momentum=None),
            "How much of the old statistics is left after one pass?",
            "One pass with the momentum of training moves the statistics by a small step. Most of "
            "the source is still in them.",
        ),
        Misconception(
            "reset, then the usual momentum",
            _adabn(momentum=None, first="reset"),
            "What does a network know whose statistics were reset, after a single step?",
            "The source is gone, and in its place stand 0 and 1, with a small share of the target. "
            "That is worse than either.",
        ),
        Misconception(
            "Dropout switched on as well",
            _adabn(everything=True),
            "Run your function twice on the same pictures. Are the second BatchNorm's statistics "
            "the same?",
            "You put the whole network into training mode. Dropout then throws numbers away and "
            "scales up the others, and what lies behind it is measured in a network that will "
            "never be used.",
        ),
        Misconception(
            "measured behind the old statistics",
            _adabn(first="old"),
            "When you measure the second BatchNorm, which statistics does the first one use?",
            "You measure all layers in one pass with the source's statistics. As soon as the first "
            "one changes, the second gets other numbers than those you measured.",
        ),
        Misconception(
            "left in another mode",
            _adabn(after="left"),
            "What happens to the new statistics in the next forward pass, or the next fit?",
            "The layers stay as you needed them for the measurement. Whoever uses the network next "
            "overwrites the statistics, or trains what was frozen.",
        ),
        Misconception(
            "everything in inference mode or frozen at the end",
            _adabn(after="all eval"),
            "What if the network was not like that when it came?",
            "You end with one state for all layers. The layers had each their own when they came, "
            "and a training loop around you counts on it.",
        ),
        Misconception(
            "momentum left behind",
            _adabn(restore=False),
            "With what momentum does the network train tomorrow?",
            "The momentum stays at your value: at the next training every batch replaces the "
            "statistics completely.",
        ),
        Misconception(
            "only the mean",
            _adabn(stats="mean"),
            "Which two numbers does BatchNorm hold for each channel?",
            "You renew the mean and leave the variance. Pictures with less contrast stay pale.",
        ),
        Misconception(
            "scale and shift reset too",
            _adabn(affine=True),
            "Compare γ and β before and after your function.",
            "γ and β were trained, and the layers behind expect them. Only the statistics belong "
            "to the domain.",
        ),
    ),
)

# --- ex08.6: choose without target labels -------------------------------------------------------


def _with_adaptation(f, settings, source, held_out, target, test):
    """Call f with a fit that moves the source's class means towards the target, by a setting."""
    import numpy as np

    def fit(setting, S, y, T):
        S, y, T = np.asarray(S, float), np.asarray(y), np.asarray(T, float)
        classes = np.unique(y)
        centres = np.array([S[y == k].mean(axis=0) for k in classes])
        centres = centres + setting * (T.mean(axis=0) - S.mean(axis=0))

        def predict(rows):
            gaps = np.asarray(rows, float)[:, None] - centres
            return classes[(gaps**2).sum(axis=2).argmin(axis=1)]

        return predict

    setting, score = f(fit, settings, source, held_out, target, test)
    return [float(setting), float(score)]


def _halves(f, rng):
    S, y = np.array([[0.0], [2.0]]), np.array([0, 1])
    V, yV = np.array([[0.5], [1.2], [1.6], [2.5]]), np.array([0, 0, 1, 1])
    T = np.array([[1.0], [3.0]])
    E, yE = np.array([[0.5], [1.2], [1.8], [1.9], [3.0]]), np.array([0, 1, 0, 0, 1])
    what = "class means 0 and 2, so the border is 1 without adaptation and 1.5 with half of it; "
    what += "held-out rows 0.5, 1.2 | 1.6, 2.5: "
    cases = (
        ([0.0, 0.5, 1.0], [1, 1, 1, 1], 0.5, 5 / 12),
        ([0.0, 0.5, 1.0], [1, 0, 1, 1], 0.0, 2 / 3),
        ([0.0, 1.0], [9, 2, 1, 0.5], 1.0, 3 / 4),
    )
    for settings, w, wanted, score in cases:
        got = f(settings, (S, y), (V, yV, np.array(w, float)), T, (E, yE))
        expect(got[0], wanted, what + f"weights {w}, settings {settings}: the setting")
        expect(got[1], score, what + f"weights {w}: the balanced accuracy on the test")
    E, yE = np.array([[-50.0], [60.0], [80.0]]), np.array([0, 1, 1])
    got = f([0.0, 0.5, 1.0], (S, y), (V, yV, np.ones(4)), T, (E, yE))
    expect(got, [0.5, 1.0], what + "weights 1, test rows -50 | 60, 80: setting and score")


def _does_not_peek(f, rng):
    S, y, T = np.array([[0.0], [2.0]]), np.array([0, 1]), np.array([[1.0], [3.0]])
    V = np.array([[0.5], [1.2], [1.6], [2.5]]), np.array([0, 0, 1, 1]), np.ones(4)
    E, yE = np.array([[0.5], [1.2], [1.8], [1.9], [3.0]]), np.array([0, 1, 0, 0, 1])
    for test, what in (((E, 1 - yE), "labels are turned around"), ((E + 100, yE), "rows move far")):
        first = f([0.0, 0.5, 1.0], (S, y), V, T, (E, yE))[0]
        got = f([0.0, 0.5, 1.0], (S, y), V, T, test)[0]
        expect(got, first, f"five test rows on a line: the setting, after their {what}")
    settings, source, held_out, target, test = _writers(rng)
    first = f(settings, source, held_out, target, test)
    turned = f(settings, source, held_out, target, (test[0], rng.permutation(test[1])))
    expect(turned[0], first[0], "the setting, after the labels of the test rows are shuffled")
    moved = f(settings, source, held_out, target, (test[0] + 9, test[1]))
    expect(moved[0], first[0], "the setting, after all test rows are brighter by 9")
    got = f(settings, source, (*held_out[:2], 3 * held_out[2]), target, test)
    expect(got, first, "all weights three times as large: setting and score")


def _rare_class(f, rng):
    rows, labels, _ = _digits()
    use = np.isin(labels, (1, 8))
    X, y = rows[use], labels[use]
    S, V = (X[:80], y[:80]), (X[80:120], y[80:120], np.ones(40))
    E = np.concatenate([X[120:][y[120:] == 1][:90], X[120:][y[120:] == 8][:10]])
    yE = np.repeat([1, 8], [90, 10])
    out = f([0.0], S, V, X[120:200], (E, yE))
    centres = [S[0][S[1] == k].mean(axis=0) for k in (1, 8)]
    gaps = [((E - c) ** 2).sum(axis=1) for c in centres]
    right = np.where(gaps[1] < gaps[0], 8, 1) == yE
    wanted = (right[:90].mean() + right[90:].mean()) / 2
    what = "90 digits 1 and 10 digits 8, a single setting: the balanced accuracy"
    expect(out, [0.0, float(wanted)], what, 1e-5)


def _writers(rng, n=60, shift=3.0):
    """Digits 1, 8 and 9: writers of the source and, on darker paper, writers of the target."""
    rows, labels, blocks = _digits()
    use = np.isin(labels, (1, 8, 9))
    X, y, old = rows[use], labels[use], blocks[use] < 6
    a, b = rng.permutation(np.flatnonzero(old)), rng.permutation(np.flatnonzero(~old))
    noise = rng.normal(0, 4, X.shape)
    X = X + noise
    tint = rng.normal(0, shift, X.shape[1])
    S, V, T, E = a[: n // 2], a[n // 2 : n // 2 + 50], b[:n], b[n : n + 90]
    E = np.concatenate([E[y[E] == 1], E[y[E] == 8][:8], E[y[E] == 9][:15]])
    T = T[(y[T] != 8) | (np.arange(len(T)) < n // 3)]
    w = rng.gamma(0.5, 2.0, len(V))
    settings = [0.0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0]
    return settings, (X[S], y[S]), (X[V], y[V], w), X[T] + tint, (X[E] + tint, y[E])


def _choosing(by="held-out", weights=True, sees="T", tells="balanced", ties="first", trains="S",
              worst=False, judged="plain"):  # fmt: skip
    def balanced(says, y, w=None):
        w = np.ones(len(y)) if w is None else w
        kinds = [y == k for k in np.unique(y) if w[y == k].sum() > 0]
        return np.mean([np.average(says[k] == k_y, weights=w[k]) for k, k_y in
                        ((k, y[k]) for k in kinds)])  # fmt: skip

    def wrong(fit, settings, source, held_out, target, test):
        (S, y), (V, yV, w), T, (E, yE) = source, held_out, target, test
        if sees == "T and E":
            T = np.concatenate([T, E])
        X, labels = (S, y) if trains == "S" else (np.concatenate([S, V]), np.r_[y, yV])
        models = [fit(setting, X, labels, T) for setting in settings]
        if by == "test":
            scores = [np.mean(m(E) == yE) for m in models]
        elif by == "test balanced":
            scores = [balanced(m(E), yE) for m in models]
        elif by == "training":
            scores = [np.mean(m(S) == y) for m in models]
        elif judged == "balanced":
            scores = [balanced(m(V), yV, w) for m in models]
        else:
            scores = [np.average(m(V) == yV, weights=w if weights else None) for m in models]
        scores = np.round(scores, 12)
        at = np.argmin(scores) if worst else np.argmax(scores)
        if ties == "last":
            at = len(scores) - 1 - np.argmax(scores[::-1])
        says = models[at](E)
        told = {"balanced": balanced(says, yE), "plain": np.mean(says == yE), "chosen": scores[at]}
        return settings[at], told[tells]

    return wrong


CHOOSE = Task(
    id="ex08.6",
    title="Mend the choice that peeks",
    function="choose",
    taught="08#Choose without target labels",
    parts=(
        Part("by hand", 2, _halves),
        Part("what may not change it", 2, _does_not_peek),
        Part("a rare class", 1, _rare_class),
    ),
    probes=lambda rng: [_writers(rng), _writers(rng, 80, 2.0), _tie(rng), *_on_a_line(rng)],
    harness=_with_adaptation,
    misconceptions=(
        Misconception(
            "as it was",
            _choosing(by="test", sees="T and E", tells="chosen", ties="last"),
            "There are four bugs. Which labels choose the setting? Which rows does fit see? Which "
            "of two equals is taken? And is your second number balanced?",
            "The test labels choose, the test rows are adapted to, the strongest of equal settings "
            "wins, and the plain accuracy rises with the share of the commonest class.",
        ),
        Misconception(
            "chosen on the test",
            _choosing(by="test"),
            "Does your setting change if somebody shuffles the labels of the test rows?",
            "You take the best of several settings on the labels that then measure it. Such a "
            "choice can never lose, whatever the method is worth.",
        ),
        Misconception(
            "chosen on the test, balanced",
            _choosing(by="test balanced"),
            "Does your setting change if somebody shuffles the labels of the test rows?",
            "The right number, on the wrong rows: it chooses and measures with the same labels.",
        ),
        Misconception(
            "chosen on the training rows",
            _choosing(by="training"),
            "Which rows was the model fitted to that you choose by?",
            "You choose where the model was fitted. Every setting looks good there, the weakest "
            "adaptation best.",
        ),
        Misconception(
            "weights unused",
            _choosing(weights=False),
            "Which of your inputs do you never use?",
            "Without the weights you choose what is best in the source. They are the only thing "
            "here that knows of the target.",
        ),
        Misconception(
            "held-out rows trained on",
            _choosing(trains="S and V"),
            "Which rows do you hand to fit, and which do you choose by?",
            "The held-out rows are in the training. They are then no longer held out.",
        ),
        Misconception(
            "test rows adapted to",
            _choosing(sees="T and E"),
            "Does your setting change if the test rows become brighter?",
            "fit sees the test rows. No label is used, so it is allowed in the transductive "
            "setting, but these stand for the rows that come after the model was shipped.",
        ),
        Misconception(
            "the plain accuracy",
            _choosing(tells="plain"),
            "What does your second number say of a model that always answers the commonest class?",
            "The class shares differ between the domains. A plain accuracy on the target moves "
            "with its shares, even if the model is the same.",
        ),
        Misconception(
            "the score it was chosen by",
            _choosing(tells="chosen"),
            "On which rows is your second number measured?",
            "You return the score on the held-out source rows. It is the highest of many and "
            "speaks of the source.",
        ),
        Misconception(
            "the last of equals",
            _choosing(ties="last"),
            "Two settings are equally good. Which do you take?",
            "You take the strongest. Where the data does not tell, adapt as little as you can.",
        ),
        Misconception(
            "chosen by balanced accuracy",
            _choosing(judged="balanced"),
            "What does a weight mean: how much a row counts, or how much within its class?",
            "The weights have put the held-out rows into the target's proportions. Balancing the "
            "classes on top takes them out again.",
        ),
    ),
)


def _tie(rng):
    X = rng.normal(size=(12, 2)) + 9 * np.repeat([[0], [1]], 6, axis=0)
    y, w = np.repeat([3, 5], 6), rng.uniform(0.5, 1, 12)
    test = np.concatenate([X + 3, X[:4] + 4.5])
    return [0.0, 0.1, 0.2], (X, y), (X + 0.1, y, w), X + 1, (test, np.r_[y, y[:4]])


def _on_a_line(rng):
    """Borders 1, 1.5 and 2, between which accuracy, balance and weights choose differently."""
    S, y, T = np.array([[0.0], [2.0]]), np.array([0, 1]), np.array([[1.0], [3.0]])
    V, yV = np.array([[0.5], [1.2], [1.8], [1.9], [2.2]]), np.array([0, 0, 0, 0, 1])
    E = np.r_[rng.uniform(-1, 1, 8), 1.3, 1.4, 1.2, 3.0][:, None]
    yield [0.0, 0.5, 1.0], (S, y), (V, yV, np.ones(5)), T, (E, np.repeat([0, 1], [10, 2]))
    V, yV = np.array([[0.5], [1.2], [1.6], [2.5]]), np.array([0, 0, 1, 1])
    for w in ([9, 2, 1, 0.5], [0.5, 2, 3, 9]):
        w = np.array(w) * rng.uniform(0.95, 1.05, 4)
        yield [0.0, 1.0], (S, y), (V, yV, w), T, (E, np.repeat([0, 1], [10, 2]))


TASKS = (CORAL, WEIGHTS, SHIFT, DANN, ADABN, CHOOSE)
