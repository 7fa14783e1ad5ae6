"""The report in a real browser: on a phone, in the dark, on paper, by keyboard alone."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from test_lab import SCREENSHOTS, browser  # noqa: F401  (a fixture)

from tlcourse.exercises import kit
from tlcourse.grading import report
from tlcourse.grading.gradebook import Gradebook

NAMES = ["Ada Lovelace", "<script>alert(1)</script>", "x" * 10_000, "evil\u202egnp.exe", "שרה", ""]
OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"
FOCUSED = "() => document.activeElement.href ?? document.activeElement.tagName"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a class, and that of its first student, who failed in every way."""
    folder = tmp_path_factory.mktemp("report")
    book = Gradebook(folder / "grades.db")
    for number, name in enumerate(NAMES):
        for exercise in range(1, 11):
            state = "partly graded"
            states = ["graded", "crashed", "not written", "unreadable", "graded"]
            tasks = [_task(f"ex01.{k + 1}", state) for k, state in enumerate(states)]
            detail = {"tasks": tasks, "remarks": [f"cell 3: {'y' * 500}", NAMES[1]]}
            if exercise > 1:  # many columns, little in them
                detail, state = {}, "graded"
            book.put(
                {
                    **dict(student=name, exercise=f"ex{exercise:02d}", framework="pytorch"),
                    **dict(state=state, points=3 * exercise - number, possible=30),
                    **dict(hours_late=30.0, share_kept=0.8, variant=0, file="", digest=""),
                    **dict(
                        graded_at="", seconds=60 if number == exercise == 1 else 0.1, detail=detail
                    ),
                }
            )
    book.mark(NAMES[0], "ex01", 4, 5, "z" * 800)
    report.write(folder / "grades.db", folder / "out")
    return [folder / "out" / "index.html", folder / "out/students" / report.page_name(NAMES[0])]


def _task(name: str, state: str) -> dict:
    known = kit.find(name)
    result = kit.Result(known, {known.parts[0].name: "w" * 900}, known.misconceptions[0])
    failed = result.failed if state in ("graded", "crashed") and name != "ex01.5" else {}
    return {
        **dict(task=name, title=known.title, taught=known.taught, possible=known.points),
        **dict(points=0 if name != "ex01.5" else known.points, state=state, failed=failed),
        **dict(misconception=known.misconceptions[0].name, hints=kit.hints(result, 3)),
    }


@pytest.fixture
def opened(browser):  # noqa: F811
    """Open a page; at the end nothing may have been asked for, logged or alerted."""
    contexts, unwanted = [], []

    def open_page(file, width=1280, scheme="light"):
        size = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: unwanted.append(message.text))
        page.on("dialog", lambda dialog: unwanted.append(dialog.message))
        page.on("request", lambda r: r.is_navigation_request() or unwanted.append(r.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert unwanted == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("which", [0, 1], ids=["class", "student"])
def test_a_page_is_accessible_and_fits_its_width(which, width, scheme, pages, opened):
    page = opened(pages[which], width, scheme)
    found = Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
    assert page.evaluate(OVERFLOW) <= 0
    SCREENSHOTS.mkdir(exist_ok=True)
    name = f"report_{('class', 'student')[which]}_{scheme}_{width}.png"
    page.screenshot(path=SCREENSHOTS / name, full_page=True)


def test_every_link_and_every_wide_table_is_reached_by_tab(pages, opened):
    page = opened(pages[0])
    links = page.eval_on_selector_all("a", "found => found.map(a => a.href)")
    regions = page.locator("[role=region]").count()
    assert len(links) > len(NAMES) and regions > 0
    reached = []
    for _ in range(len(links) + regions):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    assert [one for one in reached if one != "DIV"] == links
    assert reached.count("DIV") == regions


def test_the_skip_link_is_seen_when_it_has_the_focus_and_leads_to_the_content(pages, opened):
    for file in pages:
        page = opened(file, 360)
        skip = page.get_by_role("link", name="Skip to the content")
        assert skip.bounding_box()["y"] < 0
        page.keyboard.press("Tab")
        assert skip.bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate(FOCUSED) == "MAIN"


def test_a_name_leads_to_the_students_page_and_its_heading(pages, opened):
    page = opened(pages[0])
    page.get_by_role("link", name="Ada Lovelace").first.focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url == pages[1].as_uri()
    assert page.get_by_role("heading", level=1).inner_text() == "Feedback for Ada Lovelace"


@pytest.mark.parametrize("which", [0, 1], ids=["class", "student"])
def test_on_paper_nothing_is_cut_off(which, pages, opened):
    page = opened(pages[which], 720)  # A4 without its margins
    page.emulate_media(media="print")
    assert page.evaluate(OVERFLOW) <= 0
    assert not page.locator("nav, .skip").first.is_visible()
    inside = "found => found.every(box => box.scrollWidth <= box.clientWidth)"
    assert page.eval_on_selector_all(".scroll", inside)
