"""What a notebook asserts: claims with an effect and an interval, checked where they are made."""

import html
import math
import os
from dataclasses import asdict, dataclass

from . import progress

MIME = "application/vnd.tlcourse.claim+json"
# In smoke the data are too few to hold or break a claim.
WORDS = {True: ("✔", "holds"), False: ("✘", "does not hold"), None: ("○", "untested")}
EDGES = {True: "#009E73", False: "#D55E00", None: "#888888"}


class ClaimFailed(AssertionError):
    """A claim that the measurement in the same cell does not support."""


@dataclass(frozen=True)
class Claim:
    """One assertion; `holds` is None where it was not tested, `n` counts seeds or folds."""

    id: str
    text: str
    holds: bool | None
    effect: float | None
    interval: tuple[float, float] | None
    n: int | None

    def numbers(self) -> str:
        """Return effect, interval and n as words, or an empty string."""
        parts = []
        if self.effect is not None:
            parts.append(f"effect {self.effect:.3g}")
        if self.interval is not None:
            parts.append(f"interval {self.interval[0]:.3g} to {self.interval[1]:.3g}")
        if self.n is not None:
            parts.append(f"n = {self.n}")
        return ", ".join(parts)


_claims: dict[str, Claim] = {}  # of this kernel, in the order they were first made


def claim(id, text, holds, effect=None, interval=None, n=None) -> None:
    """Show a claim with its numbers; a false one then raises ClaimFailed.

    `holds` is the outcome of the comparison that was written down before looking; `effect` the
    measured size, `interval` its (low, high), `n` the number of seeds or folds behind it. In the
    smoke profile the claim is shown as untested. Running the cell again replaces the claim.
    Raises ValueError for an empty text, a `holds` that is neither true nor false, an effect that
    is not finite, or an interval that is not (low, high) around the effect.
    """
    made = _checked(id, text, holds, effect, interval, n, smoke=_profile() == "smoke")
    _claims[made.id] = made
    show_bundle(_claim_html(made), _claim_plain(made), {MIME: asdict(made)})
    if made.holds is False:
        numbers = f" ({made.numbers()})" if made.numbers() else ""
        raise ClaimFailed(f"claim {made.id} does not hold: {made.text}{numbers}")


def claim_margin(id, text, a, b=0.0, above=-math.inf, below=math.inf) -> None:
    """Claim that `a - b` lies above one margin and below another with its whole 95 % interval.

    `a` has shape (n,), one value a seed or fold; `b` is one number, or of the same shape and paired
    with `a`. The effect shown is the mean of the difference. Raises ClaimFailed like `claim`.
    """
    import numpy as np

    b = np.full(np.shape(a), b) if np.ndim(b) == 0 else b
    effect, (low, high) = paired_interval(a, b)
    claim(id, text, above < low and high < below, effect, (low, high), len(b))


def summary() -> None:
    """Show the table of the claims made so far in this notebook and note it as run to its end."""
    if not _claims:
        show_bundle("<p>No claims yet: run the cells above first.</p>", "No claims yet.")
        return
    rows = "".join(_row(made) for made in _claims.values())
    head = "".join(
        f'<th scope="col" style="text-align:left">{title}</th>'
        for title in ("Claim", "Outcome", "What it says", "Measured")
    )
    caption = f"<caption>{_tally()}</caption>"
    table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    plain = "\n".join([_tally(), *(_claim_plain(made) for made in _claims.values())])
    show_bundle(table, plain)
    if _profile() != "smoke":
        notebook = next(iter(_claims)).partition(".")[0]
        framework = os.environ.get("TLCOURSE_FRAMEWORK")
        progress.record("lesson", notebook, _held(), len(_claims), framework=framework)


def mean_interval(samples, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Return the mean over seeds or folds and its Student t interval.

    `samples` has shape (n,), n at least 2. In the smoke profile, which runs one seed, a single
    sample gives an interval of no width, good for drawing only. Raises ValueError otherwise.
    """
    values = _vector(samples, "samples")
    level = _level(level)
    mean = float(values.mean())
    if len(values) == 1 and _profile() == "smoke":
        return mean, (mean, mean)
    if len(values) < 2:
        raise ValueError("an interval needs at least 2 seeds or folds, this is 1")
    from scipy import stats

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean, (mean - half, mean + half)


def paired_interval(a, b, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Return the mean of a − b, paired by seed or fold, and its Student t interval.

    `a` and `b` have shape (n,). Raises ValueError when their lengths differ.
    """
    a, b = _vector(a, "a"), _vector(b, "b")
    if len(a) != len(b):
        raise ValueError(
            f"pairs need the same seeds on both sides, these are {len(a)} and {len(b)}"
        )
    return mean_interval(a - b, level)


def accuracy_interval(correct, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Return the accuracy on one test set and its Wilson interval (Wilson, 1927).

    `correct` has shape (n,), true where the prediction is right. The interval speaks of new
    examples from the same source, not of new seeds. Raises ValueError for other values.
    """
    values = _vector(correct, "correct")
    if not ((values == 0) | (values == 1)).all():
        raise ValueError("correct holds true and false (or 1 and 0) only, one per test example")
    from scipy import stats

    n, share = len(values), float(values.mean())
    z = float(stats.norm.ppf((1 + _level(level)) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0 and 1 rounding may leave the share outside its own interval.
    return share, (min(centre - half, share), max(centre + half, share))


def show_bundle(as_html: str, plain: str, more: dict | None = None) -> None:
    """Show HTML (and further formats by MIME type) in a notebook; print plain text in a script."""
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        print(plain)
        return
    from IPython.display import display

    display({"text/html": as_html, "text/plain": plain, **(more or {})}, raw=True)


def _profile() -> str:
    return os.environ.get("TLCOURSE_PROFILE", "cpu")


def _checked(id, text, holds, effect, interval, n, *, smoke: bool) -> Claim:
    if not isinstance(id, str) or not id.strip():
        raise ValueError(f"a claim's id is a short name such as '04.depth', this is {id!r}")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"claim {id} has no text: say in one sentence what is claimed")
    effect = _number(id, "effect", effect, smoke)
    interval = _pair(id, interval, smoke)
    if effect is not None and interval is not None:
        slack = 1e-9 * max(1.0, abs(effect))
        if not interval[0] - slack <= effect <= interval[1] + slack:
            raise ValueError(
                f"claim {id}: the interval {interval[0]:.3g} to {interval[1]:.3g} "
                f"does not contain the effect {effect:.3g}"
            )
    if n is not None:
        if isinstance(n, bool) or int(n) != n or n < 1:
            raise ValueError(f"claim {id}: n counts seeds or folds, this is {n!r}")
        n = int(n)
    return Claim(id, text.strip(), None if smoke else _truth(id, holds), effect, interval, n)


def _truth(id, holds) -> bool:
    """A Python or NumPy truth value; anything else is a mistake, such as a whole array."""
    if isinstance(holds, bool) or type(holds).__name__ in ("bool", "bool_"):
        return bool(holds)
    raise ValueError(f"claim {id}: holds is True or False, this is {type(holds).__name__}")


def _number(id, what, value, smoke: bool) -> float | None:
    if value is None:
        return None
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"claim {id}: the {what} is one number, this is {value!r}") from None
    if math.isfinite(value):
        return value
    if smoke:  # a correlation over three examples may well be undefined
        return None
    raise ValueError(f"claim {id}: the {what} is {value}, so nothing was measured")


def _pair(id, interval, smoke: bool) -> tuple[float, float] | None:
    if interval is None:
        return None
    try:
        low, high = interval
    except (TypeError, ValueError):
        raise ValueError(f"claim {id}: an interval is (low, high), this is {interval!r}") from None
    low = _number(id, "interval's low end", low, smoke)
    high = _number(id, "interval's high end", high, smoke)
    if low is None or high is None:
        if smoke:
            return None
        raise ValueError(f"claim {id}: an interval is (low, high), this is {interval!r}")
    if low > high:
        raise ValueError(f"claim {id}: an interval is (low, high), this is ({low:.3g}, {high:.3g})")
    return low, high


def _vector(values, name: str):
    import numpy as np

    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} has shape {values.shape}, expected (n,) with n at least 1")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds a value that is not a finite number")
    return values


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"the level is {level!r}: give a share such as 0.95")
    return level


def _held() -> int:
    return sum(made.holds is True for made in _claims.values())


def _tally() -> str:
    untested = sum(made.holds is None for made in _claims.values())
    note = f" ({untested} untested in the smoke profile)" if untested else ""
    return f"{_held()} of {len(_claims)} claims hold{note}"


def _claim_plain(made: Claim) -> str:
    symbol, word = WORDS[made.holds]
    numbers = f" ({made.numbers()})" if made.numbers() else ""
    return f"{symbol} {word}: {made.text}{numbers} [{made.id}]"


def _claim_html(made: Claim) -> str:
    symbol, word = WORDS[made.holds]
    numbers = f'<br><span style="opacity:.8">{made.numbers()}</span>' if made.numbers() else ""
    # Colours are inherited, so that the box reads in light and dark JupyterLab.
    return (
        f'<div style="border:1px solid {EDGES[made.holds]};border-left-width:5px;'
        'border-radius:3px;padding:4px 10px;margin:4px 0;color:inherit;max-width:52em">'
        f'<strong><span aria-hidden="true">{symbol}</span> {word}</strong> · '
        f"{html.escape(made.text)}{numbers} "
        f'<span style="opacity:.8">[{html.escape(made.id)}]</span></div>'
    )


def _row(made: Claim) -> str:
    symbol, word = WORDS[made.holds]
    cells = (
        html.escape(made.id),
        f'<span aria-hidden="true">{symbol}</span> {word}',
        html.escape(made.text),
        made.numbers() or "–",
    )
    return "<tr>" + "".join(f'<td style="text-align:left">{c}</td>' for c in cells) + "</tr>"
