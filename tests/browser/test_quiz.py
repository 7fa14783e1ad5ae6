"""A learner in the interview room in a real browser, by keyboard alone."""

import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from test_lab import (  # noqa: F401  (fixtures)
    RUN_ALL,
    SCREENSHOTS,
    _open,
    browser,
    lab,
)

BANK = Path(__file__).parents[1] / "quiz" / "one_of_each.yaml"
KINDS = ("single", "several", "number", "output", "bug", "order", "code", "open")
# The bank of the tests, a record of its own, and one marked as rubric.py would mark.
SET_UP = """
import os
os.environ["TLCOURSE_PROGRESS"] = "record/NAME.db"
from pathlib import Path
from tlcourse import quiz
from tlcourse.quiz import bank
questions = bank.load(Path("bank"))
bank.load = lambda: questions
from tlcourse.quiz import rubric
def mark(question, text, overruled=()):
    said = [(w in text) != (k in overruled) for k, w in enumerate(("gradient", "label", "x"))]
    points = [{"state": "covered" if s else "missing", "overruled": k in overruled}
              for k, s in enumerate(said)]
    notes = [bank.Note(p.point, s, s, p.covers[0]) for p, s in zip(question.rubric, said)]
    says = f"{sum(said)} of 3 points."
    return bank.Marked(sum(said) / 3, says, tuple(notes), "", {"points": points})
rubric.mark = mark
"""
CODE = """def l2_sp_gradient(theta, gradient, theta_pre, lam, head):
    return gradient + lam * (theta - theta_pre * (1 - head))"""
RIGHT = {
    "single": "The running mean of the BatchNorm layers",
    "several": ("A weight of shape (2, 4)", "A bias of shape (2,)"),
    "output": "(8, 16)",
    "code": CODE,
    "order": ("Load the trunk", "Add a new head", "Train the head", "Unfreeze and train"),
    "open": "No gradients are needed for what is frozen.",
}
THEME = """theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"""
CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .map(cell => cell.type + cell.sharedModel.source)"""
AXE = {"include": [[".tl-room"]]}


@pytest.fixture(scope="module")
def served(lab):  # noqa: F811
    (lab[2] / "bank").mkdir()
    shutil.copy(BANK, lab[2] / "bank" / "05_one.yaml")
    return lab


@pytest.fixture
def opened(browser, served):  # noqa: F811
    """Open a notebook with one cell that shows something of the quiz, run it, give the page."""
    import nbformat

    pages = []

    def open_page(name: str, shown: str):
        kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        cells = [
            nbformat.v4.new_code_cell(SET_UP.replace("NAME", name) + shown),
            nbformat.v4.new_markdown_cell("End."),
        ]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, served[2] / f"{name}.ipynb")
        pages.append(_open(browser, served, f"{name}.ipynb"))
        pages[-1].evaluate(RUN_ALL)
        pages[-1].locator(".tl-room").first.wait_for(timeout=30_000)
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def _press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def _tab_to(page, wanted: str) -> None:
    """Press Tab until what has the focus is called like this (its own or its label's text)."""
    name = """() => { const e = document.activeElement; return e.matches('button, input, textarea')
        ? e.ariaLabel || e.labels?.[0]?.innerText || e.innerText : ''; }"""
    for _ in range(40):
        if wanted in page.evaluate(name):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not reach {wanted!r}")


def _choose(page, wanted: str) -> None:
    """Choose a radio button: Tab enters the group, arrows move in it."""
    page.keyboard.press("Tab")
    name = "() => document.activeElement.labels?.[0]?.innerText ?? ''"
    page.keyboard.press("Space")
    for _ in range(12):
        if wanted in page.evaluate(name):
            return
        page.keyboard.press("ArrowDown")
    pytest.fail(f"no radio button is called {wanted!r}")


def _answer(page, kind: str) -> None:
    """Give the right answer with keys, from the legend on, and send it."""
    if kind == "single":
        _choose(page, RIGHT[kind])
    elif kind == "bug":
        _choose(page, "7")
    elif kind == "several":
        for wanted in RIGHT[kind]:
            page.locator(".tl-room legend").focus()
            _tab_to(page, wanted)
            page.keyboard.press("Space")
    elif kind == "order":
        for place, wanted in enumerate(RIGHT[kind]):
            page.locator(".tl-room legend").focus()
            _tab_to(page, f"Move up: {wanted}")
            texts = page.locator(".tl-order li span").all_inner_texts()
            at = next(k for k, text in enumerate(texts) if text.startswith(wanted))
            _press(page, *["Enter"] * (at - place))
    else:
        while page.evaluate("() => document.activeElement.value === undefined"):
            page.keyboard.press("Tab")
        if kind == "number":
            words = page.locator(".tl-room legend").inner_text().replace(",", "").split()
            features, classes = (int(word) for word in words if word.isdigit())
            page.keyboard.type(f"{(features + 1) * classes:,}")
        else:
            page.keyboard.press("Control+a")
            page.keyboard.insert_text(RIGHT[kind])
    _tab_to(page, "Answer")
    page.keyboard.press("Enter")


def _violations(page) -> list:
    found = Axe().run(page, AXE).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_of_each_kind_is_answered_by_keyboard(kind, opened):
    article = "an" if kind in ("output", "order", "open") else "a"
    page = opened(kind, f"quiz.ask('{article}-{kind}')")
    before = page.evaluate(CELLS)
    status = page.get_by_role("status").and_(page.locator(".tl-status"))
    page.locator(".tl-room legend").focus()
    _press(page, "b", "x", "d", "d", "y")  # insert, cut, delete, change to code
    _answer(page, kind)
    page.locator(".tl-rating").wait_for()
    says = status.inner_text()
    assert ("1 of 3 points" if kind == "open" else "✔ Right.") in says
    assert page.evaluate("() => document.activeElement.className").startswith("tl-status")
    assert page.evaluate(CELLS) == before
    SCREENSHOTS.mkdir(exist_ok=True)
    page.locator(".tl-room").screenshot(path=SCREENSHOTS / f"quiz_{kind}.png")
    if kind == "open":
        _tab_to(page, "I did say this")
        page.keyboard.press("Space")
        page.get_by_text("2 of 3 points.").wait_for()
    _tab_to(page, "hard")
    page.keyboard.press("Enter")
    page.locator("[aria-pressed=true]", has_text="hard").wait_for()
    assert _violations(page) == []


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_room_is_accessible_in_light_and_in_dark(theme, opened):
    page = opened(theme.replace(" ", "-"), "quiz.room(seed=1)")
    page.evaluate(THEME, theme)
    page.locator(f"body[data-jp-theme-name='{theme}']").wait_for(state="attached")
    page.wait_for_timeout(500)
    room, name = page.locator(".tl-room"), theme.split()[-1].lower()
    for kind in range(len(KINDS)):
        page.get_by_role("button", name="Hint").click()
        page.locator(".tl-hint").wait_for()
        assert _violations(page) == []
        room.screenshot(path=SCREENSHOTS / f"quiz_{name}_{kind}.png")
        page.get_by_role("button", name="Skip").click()
        page.locator(".tl-hint").wait_for(state="detached")
    assert "Nothing more is due" in page.locator(".tl-room").inner_text()


def test_after_a_restart_the_cell_goes_on_where_it_was(opened):
    page = opened("restart", "quiz.ask('a-number')")
    page.locator(".tl-room legend").focus()
    asked = page.locator(".tl-room legend").inner_text()
    page.keyboard.press("Tab")
    page.keyboard.type("770")
    page.wait_for_timeout(1500)  # what is typed is kept when the typing rests
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=60_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.locator(".tl-room").wait_for(state="detached")
    page.evaluate(RUN_ALL)
    page.locator(".tl-room").wait_for(timeout=30_000)
    assert page.locator(".tl-room legend").inner_text() == asked
    assert page.locator(".tl-room input").input_value() == "770"


def test_a_mock_interview_is_begun_paused_and_reported_by_keyboard(opened):
    page = opened("mock", "quiz.interview(15, 'practitioner', seed=1)")
    room = page.locator(".tl-room")
    assert page.get_by_role("timer").inner_text() == "15:00"
    room.locator("button", has_text="Begin").focus()
    page.keyboard.press("Enter")
    room.locator("legend").wait_for()
    page.wait_for_timeout(2500)
    left = page.get_by_role("timer").inner_text()
    assert left.startswith("14:5")
    assert _violations(page) == []
    room.screenshot(path=SCREENSHOTS / "quiz_interview.png")
    _tab_to(page, "Pause")
    page.keyboard.press("Enter")
    room.locator("legend").wait_for(state="detached")
    _tab_to(page, "Go on")
    page.keyboard.press("Enter")
    room.locator("legend").wait_for()
    asked = room.locator("legend").inner_text()
    _tab_to(page, "Skip")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "before => document.querySelector('.tl-room legend').innerText !== before", arg=asked
    )
    _tab_to(page, "End now")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="To review").wait_for()
    assert _violations(page) == []
    room.screenshot(path=SCREENSHOTS / "quiz_report.png")


def test_on_a_narrow_page_nothing_is_cut_off(opened):
    page = opened(
        "narrow",
        "from IPython.display import display\n"
        "for name in questions: display(quiz.ask(name, seed=0))",
    )
    rooms = page.locator(".tl-room")
    rooms.nth(len(KINDS) - 1).wait_for()
    page.add_style_tag(content=".tl-room { width: 330px }")
    wide = """rooms => rooms.flatMap(room => [...room.querySelectorAll('*')].filter(part =>
        !part.closest('pre') && part.getBoundingClientRect().right
        > room.getBoundingClientRect().right).map(part => part.outerHTML.slice(0, 200)))"""
    assert rooms.evaluate_all(wide) == []
