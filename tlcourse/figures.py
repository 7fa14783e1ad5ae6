"""Palette, alternative text and the plots that more than one notebook draws."""

import base64
import html
import io

from .evidence import mean_interval, show_bundle

# Okabe and Ito (2008) without the yellow, which is too pale on white. Colour is never alone:
# the marker and the line style at the same index belong to it.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

LIMIT = 60_000  # bytes of one figure as it stands in the notebook, base64 included
SLIDER_LIMIT = 180_000  # bytes of all the figures behind one slider
DPI = 110


def show(fig, alt: str) -> None:
    """Show a finished figure with its alternative text and close it.

    The picture is a PNG of less than 60 KB inside an HTML image, the one form in which
    JupyterLab keeps the text for screen readers. Raises ValueError for an empty `alt`, a missing
    title, axes without labels (axes switched off or without ticks need none), or a larger picture.
    """
    import matplotlib.pyplot as plt

    try:
        _refuse_unlabelled(fig, alt)
        png = _small_png(fig)
    finally:
        plt.close(fig)  # a closed figure is not shown again by the inline backend
    alt = " ".join(alt.split())
    show_bundle(_as_html(png, alt), f"[figure: {alt}]")


def slider(frames, control: str, alt: str, start: str | None = None) -> None:
    """Show one of several finished figures and a slider to change between them; close them all.

    `frames` maps what the slider says ("rate 0.01") to a figure; `control` is its label. The one
    named `start`, else the first, is shown. The slider needs no kernel: a script beside the figure
    builds it. Where scripts do not run (a notebook not yet trusted, a web preview) that figure
    stands alone. Raises ValueError like `show`, for fewer than two frames and an unknown start.
    """
    import json

    import matplotlib.pyplot as plt

    start = next(iter(frames), None) if start is None else start
    try:
        if len(frames) < 2 or start not in frames:
            known = ", ".join(map(str, frames)) or "none"
            raise ValueError(f"a slider needs two figures or more and a start among them: {known}")
        for fig in frames.values():
            _refuse_unlabelled(fig, alt)
        each = min(LIMIT, SLIDER_LIMIT // len(frames))
        pictures = {str(name): _small_png(fig, each, cut=False) for name, fig in frames.items()}
        width = max(fig.get_size_inches()[0] for fig in frames.values())
    finally:
        for fig in frames.values():
            plt.close(fig)
    alt, start = " ".join(alt.split()), str(start)
    state = {"control": control, "alt": alt, "start": list(pictures).index(start)}
    state["frames"] = [[name, _as_source(png)] for name, png in pictures.items()]
    script = _SLIDER.replace("STATE", json.dumps(state).replace("<", "\\u003c"))
    image = _as_html(pictures[start], f"{alt} ({control}: {start})", width=round(DPI * width))
    show_bundle(f"<div>{image}<script>{script}</script></div>", f"[figure: {alt}]")


# A native range input: arrow keys, Home and End work, and none of them reaches the notebook.
_SLIDER = """(() => {
const state = STATE, root = document.currentScript.parentElement;
const image = root.querySelector('img'), label = document.createElement('label');
const input = document.createElement('input'), value = document.createElement('output');
Object.assign(input, {type: 'range', min: 0, max: state.frames.length - 1, step: 1});
input.value = state.start;
input.style.margin = '0 .8em';
label.style.display = 'block';
const show = () => {
  const [name, source] = state.frames[input.value];
  Object.assign(image, {src: source, alt: `${state.alt} (${state.control}: ${name})`});
  input.setAttribute('aria-valuetext', name);
  value.textContent = name;
};
input.addEventListener('input', show);
label.append(state.control, input, value);
root.prepend(label);
root.addEventListener('keydown', event => event.stopPropagation());
show();
})()"""


def lines(ax, x, samples, label: str, index: int) -> None:
    """Draw the mean over seeds with its 95 % interval as a band.

    `x` has shape (k,), `samples` (k, seeds); `index` chooses colour, marker and line style.
    With one seed only the line is drawn. Raises ValueError for other shapes.
    """
    import numpy as np

    x, samples = np.asarray(x), np.asarray(samples, dtype=float)
    if x.ndim != 1 or samples.ndim != 2 or len(samples) != len(x):
        raise ValueError(
            f"x has shape {x.shape} and samples {samples.shape}, expected (k,) and (k, seeds)"
        )
    look = index % len(COLORS)
    style = {"color": COLORS[look], "marker": MARKERS[look], "linestyle": LINES[look]}
    ax.plot(x, samples.mean(axis=1), label=label, **style)
    if samples.shape[1] > 1:
        low, high = zip(*(mean_interval(row)[1] for row in samples), strict=True)
        ax.fill_between(x, low, high, color=COLORS[look], alpha=0.18, linewidth=0)


def image_grid(images, titles, alt: str, columns: int = 6, title: str | None = None) -> None:
    """Show pictures side by side, each under its own title.

    `images` is a sequence of uint8 arrays (H, W) or (H, W, 3); `titles` has one string each.
    Raises ValueError when their numbers differ or there is none.
    """
    show(grid_figure(images, titles, columns, title), alt)


def grid_figure(images, titles, columns: int = 6, title: str | None = None):
    """Return the figure that `image_grid` shows, for a slider to show several of them."""
    import math

    import matplotlib.pyplot as plt

    if len(images) == 0 or len(images) != len(titles):
        raise ValueError(f"{len(images)} pictures and {len(titles)} titles: give one title each")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(1.25 * columns, 1.45 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, words in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(words, fontsize=8, loc="center")
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11)
    return fig


def _refuse_unlabelled(fig, alt: str) -> None:
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("the figure has no alternative text: say in a sentence what it shows")
    if not fig.axes:
        raise ValueError("the figure is empty: draw something before showing it")
    titled = fig.get_suptitle() or any(ax.get_title(loc=loc) for ax in fig.axes for loc in _LOCS)
    if not titled:
        raise ValueError("the figure has no title: state the finding in one")
    for ax in fig.axes:
        for direction in ("x", "y"):
            if _needs_label(fig, ax, direction):
                raise ValueError(
                    f"an axis has no label: call ax.set_{direction}label with quantity and unit"
                )


_LOCS = ("left", "center", "right")


def _needs_label(fig, ax, direction: str) -> bool:
    """An axis with ticks needs a label of its own, of one that shares it, or of the figure."""
    if not ax.axison or hasattr(ax, "_colorbar"):
        return False
    if getattr(fig, f"get_sup{direction}label")():
        return False
    if len(getattr(ax, f"get_{direction}ticks")()) == 0:
        return False
    sharing = getattr(ax, f"get_shared_{direction}_axes")().get_siblings(ax)
    labels = (getattr(other, f"get_{direction}label")() for other in {ax, *sharing})
    # Bars with names for ticks say themselves what they are.
    return not any(labels) and not _ticks_are_words(ax, direction)


def _ticks_are_words(ax, direction: str) -> bool:
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedFormatter

    formatter = getattr(ax, f"{direction}axis").get_major_formatter()
    return isinstance(formatter, FixedFormatter | StrCategoryFormatter)


def _small_png(fig, limit: int = LIMIT, cut: bool = True) -> bytes:
    """The figure as PNG, with fewer colours and then fewer pixels until it fits.

    With `cut` its empty border is cut off; figures that follow each other in one place keep theirs.
    """
    smallest = None
    for dpi in (DPI, 90, 72):
        full = io.BytesIO()
        # No software entry: the same figure gives the same bytes on every machine.
        box = "tight" if cut else None
        fig.savefig(full, format="png", dpi=dpi, bbox_inches=box, metadata={"Software": None})
        for colors in (None, 128, 48):
            png = _with_colors(full.getvalue(), colors)
            if _embedded(png) < limit:
                return png
            smallest = min(smallest or _embedded(png), _embedded(png))
    raise ValueError(
        f"the figure takes {smallest // 1000} KB and may take {limit // 1000} here: "
        "make it smaller, draw fewer points or pass rasterized=True"
    )


def _with_colors(png: bytes, colors: int | None) -> bytes:
    if colors is None:
        return png
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    reduced = io.BytesIO()
    # Dithering would blur text and make the file larger.
    few = picture.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(reduced, format="PNG", optimize=True)
    return reduced.getvalue()


def _embedded(png: bytes) -> int:
    return 4 * ((len(png) + 2) // 3)


def _as_source(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _as_html(png: bytes, alt: str, width: int | None = None) -> str:
    size = f"width:{width}px;max-width:100%" if width else "max-width:100%"
    return f'<img alt="{html.escape(alt)}" src="{_as_source(png)}" style="{size}">'
