"""Figures that everybody can read and that stay small."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from tlcourse import figures


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show, as HTML."""
    pages = []
    monkeypatch.setattr(figures, "show_bundle", lambda html, plain: pages.append(html))
    yield pages
    plt.close("all")


def titled(rows=1, columns=1):
    fig, axes = plt.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.plot([1, 2], [3, 4])
        ax.set(title="Accuracy rises with depth", xlabel="block", ylabel="accuracy (%)")
    return fig, axes.flat[0]


def png(page: str) -> bytes:
    return base64.b64decode(re.search(r"base64,([\w+/=]+)", page)[1])


def test_a_figure_is_an_image_with_alternative_text_and_is_closed(shown):
    fig, _ = titled()
    figures.show(fig, 'accuracy "rises"\n from 3 to 4 < 5')
    assert shown[0].startswith('<img alt="accuracy &quot;rises&quot; from 3 to 4 &lt; 5" src=')
    assert Image.open(io.BytesIO(png(shown[0]))).format == "PNG"
    assert plt.get_fignums() == []


def test_the_same_figure_gives_the_same_bytes(shown):
    figures.show(titled()[0], "a")
    figures.show(titled()[0], "a")
    assert shown[0] == shown[1]


def test_photographs_are_brought_under_sixty_kilobytes(shown):
    flower = load_sample_image("flower.jpg")
    crops = [flower[:224, 30 * i : 30 * i + 224] for i in range(12)]
    figures.image_grid(crops, [f"crop {i}" for i in range(12)], "twelve crops of a flower")
    assert 10_000 < len(shown[0]) < 61_000


def test_a_figure_that_cannot_be_made_small_is_refused(shown):
    fig, ax = titled()
    fig.set_size_inches(7, 7)
    ax.imshow(np.random.default_rng(0).random((500, 500, 3)), aspect="auto")
    with pytest.raises(ValueError, match=r"the figure takes \d+ KB and may take 60"):
        figures.show(fig, "noise")
    assert shown == [] and plt.get_fignums() == []


@pytest.mark.parametrize(
    ("spoil", "alt", "sentence"),
    [
        (lambda ax: None, " ", "no alternative text"),
        (lambda ax: ax.set_title(""), "a", "has no title"),
        (lambda ax: ax.set_xlabel(""), "a", "call ax.set_xlabel"),
        (lambda ax: ax.set_ylabel(""), "a", "call ax.set_ylabel"),
    ],
)
def test_a_figure_that_leaves_a_reader_out_is_refused(spoil, alt, sentence, shown):
    fig, ax = titled()
    spoil(ax)
    with pytest.raises(ValueError, match=sentence):
        figures.show(fig, alt)
    assert shown == []


def test_axes_that_need_no_label_are_let_pass(shown):
    fig, (left, middle, right) = plt.subplots(1, 3, sharey=True)
    left.set(title="one", xlabel="x", ylabel="y")
    middle.bar(["mono", "poly"], [1, 2])
    right.axis("off")
    figures.show(fig, "three panels that share an axis, bars with names, and a picture")
    assert len(shown) == 1


def test_every_line_differs_in_more_than_its_colour():
    _, ax = plt.subplots()
    for index in range(len(figures.COLORS)):
        figures.lines(ax, [1, 2, 4], np.ones((3, 4)), f"line {index}", index)
    assert len({line.get_marker() for line in ax.lines}) == len(figures.COLORS)
    assert len({str(line._dash_pattern) for line in ax.lines}) == len(figures.COLORS)
    plt.close("all")


def test_a_line_is_the_mean_with_its_interval():
    _, ax = plt.subplots()
    samples = np.random.default_rng(0).normal(size=(3, 5))
    figures.lines(ax, [1, 2, 4], samples, "probe", 0)
    assert ax.lines[0].get_ydata() == pytest.approx(samples.mean(axis=1))
    from scipy import stats

    band = ax.collections[0].get_paths()[0].vertices
    low, high = stats.ttest_1samp(samples[0], 0).confidence_interval(0.95)
    heights = band[band[:, 0] == 1][:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((low, high))
    plt.close("all")


def test_samples_of_another_shape_are_refused():
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"expected \(k,\) and \(k, seeds\)"):
        figures.lines(ax, [1, 2], np.ones((3, 5)), "a", 0)
    with pytest.raises(ValueError, match="give one title each"):
        figures.image_grid([], [], "nothing")
    plt.close("all")


def frames(**heights):
    made = {}
    for name, height in heights.items():
        fig, ax = plt.subplots(figsize=(4, 2.5))
        ax.bar(["a", "b"], [1, height])
        ax.set(title=f"b reaches {height}", ylabel="accuracy")
        made[name] = fig
    return made


def test_a_slider_shows_its_start_where_scripts_do_not_run(shown):
    figures.slider(frames(low=1, middle=2, high=3), "rate", "two bars", start="middle")
    assert shown[0].startswith('<div><img alt="two bars (rate: middle)" src="data:image/png')
    sources = re.findall(r"data:image/png;base64,[\w+/=]+", shown[0])
    assert len(sources) == 4 and sources[0] == sources[2]  # the start, then all three in order
    assert plt.get_fignums() == []


def test_the_words_of_a_slider_cannot_end_its_script(shown):
    made = frames(a=1, b=2)
    made["</script>"] = made.pop("b")
    figures.slider(made, "rate</script>", "two </script> bars")
    assert shown[0].count("</script>") == 1


def test_a_slider_that_leaves_a_reader_out_is_refused(shown):
    with pytest.raises(ValueError, match="needs two figures or more and a start among them: low"):
        figures.slider(frames(low=1), "rate", "two bars")
    with pytest.raises(ValueError, match="a start among them: low, high"):
        figures.slider(frames(low=1, high=2), "rate", "two bars", start="middle")
    with pytest.raises(ValueError, match="no alternative text"):
        figures.slider(frames(low=1, high=2), "rate", " ")
    made = frames(low=1, high=2)
    made["high"].axes[0].set_title("")
    with pytest.raises(ValueError, match="has no title"):
        figures.slider(made, "rate", "two bars")
    assert shown == [] and plt.get_fignums() == []
