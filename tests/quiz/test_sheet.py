"""The sheet can be printed, read aloud and used without a network; its answers come last."""

import re
import subprocess
from html.parser import HTMLParser

import pytest

from tlcourse.quiz import key, sheet

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Tags(HTMLParser):
    """Reads a page strictly: every element is closed where it should be."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.headings = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(small):
    return sheet.as_page(small.values(), seed=3)


@pytest.fixture
def solved(small):
    return sheet.as_page(small.values(), seed=3, answers=True)


def test_the_sheet_gives_no_answer_away(page, small):
    assert page.count("<article>") == len(small)
    assert "Solutions" not in page
    for question in small.values():
        for option in getattr(question, "options", ()):
            assert option.why not in page
    assert small["open-why-freeze"].answers.medium not in page


def test_solutions_follow_from_a_new_page_on_with_the_same_numbers_and_letters(page, solved):
    questions, _, solutions = solved.partition('<section class="solutions">')
    assert ".solutions { break-before: page }" in solved
    assert page.partition("</main>")[0].strip() == questions.strip()
    features, classes = re.search(
        r"gives ([\d,]+) features.*?for (\d+) classes", page, re.S
    ).groups()
    features, classes = int(features.replace(",", "")), int(classes)
    assert f"{features * classes + classes:,} parameters" in solutions
    options = re.search(r"<ol class=\"options\" type=\"A\">(.*?)</ol>", page, re.S)[1]
    place = [
        "running mean" in option for option in re.findall("<li>(.*?)</li>", options, re.S)
    ].index(True)
    assert re.search(rf"{'ABC'[place]}: The running mean[^<]*<strong>right", solutions)
    assert "notebook 05" in solutions and "notebook 05" not in questions


def test_another_seed_draws_another_sheet_and_the_same_seed_the_same(small, page):
    assert sheet.as_page(small.values(), seed=3) == page
    other = sheet.as_page(small.values(), seed=4)
    assert other.partition("<article>")[2] != page.partition("<article>")[2]


def test_a_share_of_the_questions_is_drawn_in_the_order_of_the_bank(many):
    some = sheet.chosen(many.values(), 10, seed=1)
    assert len(some) == 10 and some == [q for q in many.values() if q in some]
    assert some != sheet.chosen(many.values(), 10, seed=2)
    assert sheet.chosen(many.values(), None, seed=1) == list(many.values())


def test_nothing_is_fetched_and_nothing_runs(solved):
    assert not re.search(r"<script|<link|<img|src=|@import|url\(|https?://(?!www\.w3\.org)", solved)


def test_no_question_is_torn_by_a_page_break(page):
    assert re.search(r"article \{[^}]*break-inside: avoid", page)
    assert "@media print" in page and "@page" in page


def test_the_page_can_be_read_aloud(solved):
    tags = Tags(solved)
    names = [tag for tag, _ in tags.seen]
    assert ("html", {"lang": "en"}) in tags.seen
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    steps = zip(tags.headings, tags.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_wrong_line_can_be_named_by_its_number(page):
    assert '<ol class="lined"><li>for p in trunk.parameters():</li><li>    p.requires' in page


def test_the_command_writes_both(command, tmp_path):
    file = tmp_path / "sheet.html"
    words = command("sheet", "--out", str(file), "--answers", "--count", "3")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("3 questions in ")
    assert file.read_text(encoding="utf-8").count("<article>") == 6


def test_on_paper_the_solution_of_an_order_names_the_letters(small):
    (question,) = [question for question in small.values() if question.kind == "order"]
    posed = question.pose(3)
    solution = key.as_markdown(posed, lettered=True)
    letters = re.findall(r"^1\. ([A-G]): ", solution, re.M)
    assert [posed.order["ABCDEFG".index(letter)] for letter in letters] == sorted(posed.order)
