"""Formulas as one line of Unicode text, for terminals: $\\frac{\\sigma^2}{n}$ becomes σ²/n."""

from __future__ import annotations

import re
import unicodedata

_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|[{}^_]|\s+|.", re.DOTALL)
_FORMULA = re.compile(r"(```.*?```|`[^`]*`)|\$\$?(?! )([^$]+)(?<! )\$\$?(?!\d)", re.DOTALL)
_UP = dict(zip("0123456789+-=()nijkTtabcdemx", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱʲᵏᵀᵗᵃᵇᶜᵈᵉᵐˣ", strict=True))
_DOWN = dict(zip("0123456789+-=()aeijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "dot": "\u0307", "vec": "\u20d7"}
_ACCENTS |= {"widehat": "\u0302", "overline": "\u0304", "widetilde": "\u0303"}
_SIGNS = """
cdot=· times=× div=/ pm=± le=≤ leq=≤ ge=≥ geq=≥ ne=≠ neq=≠ approx=≈ sim=~ simeq=≃ equiv=≡
propto=∝ ll=≪ gg=≫ in=∈ notin=∉ subset=⊂ cup=∪ cap=∩ to=→ rightarrow=→ mapsto=↦ Rightarrow=⇒
leftarrow=← infty=∞ partial=∂ nabla=∇ sum=∑ prod=∏ int=∫ forall=∀ exists=∃ odot=⊙ otimes=⊗
oplus=⊕ circ=∘ top=ᵀ vert=| lvert=| rvert=| Vert=‖ lVert=‖ rVert=‖ |=‖ langle=⟨ rangle=⟩
lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ dots=… ldots=… cdots=⋯ ell=ℓ ast=* star=* setminus=∖
emptyset=∅ varepsilon=ε varphi=φ lambda=λ Lambda=Λ prime=′ perp=⊥ parallel=∥ land=∧ lor=∨ neg=¬
bullet=• lbrace={ rbrace=} mid=| iff=⇔ varnothing=∅ succ=≻ prec=≺ Sigma=Σ sigma=σ epsilon=ε
"""
_SIGNS = dict(pair.split("=", 1) for pair in _SIGNS.split())
_SILENT = {"left", "right", "big", "Big", "bigl", "bigr", "displaystyle", "limits", "!"}
_SPACES = {",", ";", ":", " ", "quad", "qquad", "\\"}
_STYLES = {"mathbf", "mathrm", "mathcal", "mathbb", "text", "textbf", "boldsymbol", "mathit"}
_STYLES |= {"operatorname", "mathsf", "texttt", "textit", "bm"}
_TIGHT = {"partial", "nabla", "Delta", "lVert", "langle", "lvert"}  # no space after these
_SPACED = re.compile(r"\s*([=≈≤≥≠<>∈∝←→⇒⇔≪≫×~])\s*")
_LOOSE = [(re.compile(r"(?<=\w) (?=[),.;])|(?<=[)]) (?=[),.;])"), "")]
_LOOSE += [(re.compile(r"(?<=\w)(?=(ln|log)\b)"), " ")]
_LOOSE += [(re.compile(r"\b(log|ln|exp|max|min) \("), r"\1(")]


def in_unicode(markdown: str) -> str:
    """Return Markdown with each $formula$ in Unicode; code stays as it is."""
    return _FORMULA.sub(_replaced, markdown)


def _replaced(match: re.Match) -> str:
    return match[1] or re.sub(r"([*_`<|])", r"\\\1", formula(match[2]))


def formula(tex: str) -> str:
    """Return LaTeX as a line of Unicode; what is unknown keeps its name without the backslash."""
    said = _read(_TOKEN.findall(tex)[::-1])
    said = " ".join(_SPACED.sub(r" \1 ", said).split())
    for pattern, instead in _LOOSE:
        said = pattern.sub(instead, said)
    return said


def _read(tokens: list[str]) -> str:
    """Read up to the end or a closing brace; `tokens` is a stack, the next one last."""
    said = ""
    while tokens and (token := tokens.pop()) != "}":
        if token in "^_":
            said = said.rstrip() + _raised(_argument(tokens), token)
        else:
            said += _one(token, tokens)
    return said


def _one(token: str, tokens: list[str]) -> str:
    name = token.lstrip("\\").rstrip("*") if token != "\\" else ""
    if token == "{":
        return _read(tokens)
    if not token.startswith("\\"):
        return token
    if name in ("frac", "dfrac", "tfrac"):
        above, below = _bound(_argument(tokens)), _bound(_argument(tokens))
        # z²/(2n), since z²/2n can be read otherwise.
        return (
            f"{above}/({below}) " if re.fullmatch(r"\d+[^\W\d].*", below) else f"{above}/{below} "
        )
    if name == "sqrt":
        return f"√{_bound(_argument(tokens))}"
    if name in _ACCENTS:
        return unicodedata.normalize("NFC", _argument(tokens) + _ACCENTS[name])
    if name in _STYLES:
        return _argument(tokens)
    if name in _SILENT:
        return ""
    if name == "mid":
        return " | "
    if name == "tag":  # the number of a formula
        return _argument(tokens) and ""
    if name in _TIGHT:
        while tokens and tokens[-1].isspace():
            tokens.pop()
    if name in _SPACES or token == "\\\\":
        return " "
    return _SIGNS.get(name) or _greek(name)


def _argument(tokens: list[str]) -> str:
    while tokens and tokens[-1].isspace():
        tokens.pop()
    return _one(tokens.pop(), tokens).strip() if tokens else ""


def _greek(name: str) -> str:
    size = "CAPITAL" if name[:1].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {name.upper()}")
    except KeyError:
        return f"{name} " if len(name) > 1 else name  # log, exp, max; %, _


def _raised(text: str, sign: str) -> str:
    small = _UP if sign == "^" else _DOWN
    if text in ("ᵀ", "′", "*"):
        return text
    # A word in small letters is hard to read: θ_pre, but xᵢⱼ.
    if text and set(text) <= set(small) and not re.search(r"[a-z]{3}", text):
        return "".join(small[character] for character in text)
    alone = len(text) == 1 or (text.isascii() and text.isalnum())
    return sign + (text if alone else f"({text})")


def _bound(text: str) -> str:
    """In brackets, where a slash or a root would not hold it together."""
    alone = r"[\w.,′ᵀ̂̄²³]+|\([^()]*(?:\([^()]*\)[^()]*)*\)|‖[^‖]*‖|\|[^|]*\|"
    return text if re.fullmatch(alone, text) else f"({text})"
