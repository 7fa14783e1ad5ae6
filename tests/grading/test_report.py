"""Reports: the gradebook's numbers, nothing that students wrote taken for markup, copies found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from tlcourse.exercises import kit
from tlcourse.grading import gradebook, likeness, report
from tlcourse.grading.gradebook import Gradebook

COMMAND = str(Path(sys.executable).with_name("tlcourse"))
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "../../x",
    "/etc/passwd",
    "=cmd()",
    "\x1b[31mred\x07",
    "evil\u202egnp.exe",
    "שרה",
    "a" * 10_000,
    "con",
    "",
]


def row(student="alice", exercise="ex01", points=21.0, **changes):
    return {
        "student": student,
        "exercise": exercise,
        "framework": "pytorch",
        "state": "graded",
        "points": points,
        "possible": 30.0,
        "hours_late": 0.0,
        "share_kept": 1.0,
        "variant": 0,
        "file": "alice/ex01.ipynb",
        "digest": "abc",
        "graded_at": "2026-12-01T12:00:00+00:00",
        "seconds": 0.2,
        "detail": {"tasks": [task()], "remarks": []},
    } | changes


def task(points=4.0, name="ex01.1", **changes):
    known = kit.find(name)
    return {
        "task": name,
        "title": known.title,
        "points": points,
        "possible": known.points,
        "state": "graded",
        "failed": {},
        "misconception": "",
        "hints": [],
        "taught": known.taught,
        "seconds": 0.1,
    } | changes


@pytest.fixture
def written(tmp_path):
    """Write a report on rows, and return its pages: that of the class, and those of students."""

    def write(*rows, marks=(), submissions=None, out="report"):
        book = Gradebook(tmp_path / "grades.db")
        for one in rows:
            book.put(one)
        for mark in marks:
            book.mark(*mark)
        out = tmp_path / out
        report.write(tmp_path / "grades.db", out, submissions)
        texts = {path.name: path.read_text("utf-8") for path in out.rglob("*.html")}
        index = BeautifulSoup(texts.pop("index.html"), "html.parser")
        return index, {name: BeautifulSoup(text, "html.parser") for name, text in texts.items()}

    return write


def table(page, heading: str) -> list[list[str]]:
    """The rows of the table whose first heading or caption begins so, as text."""
    for found in page.find_all("table"):
        if found.caption.get_text().strip().startswith(heading):
            lines = found.tbody.find_all("tr")
            return [
                [cell.get_text(" ", strip=True) for cell in line(["th", "td"])] for line in lines
            ]
    raise AssertionError(f"no table {heading}")


# --- numbers ------------------------------------------------------------------------------------


def test_grades_are_those_of_the_gradebook_after_lateness_and_with_marks(written):
    index, pages = written(
        row("alice", points=21),
        row("alice", "ex02", 30),
        row("bob", points=19, share_kept=0.8, hours_late=30),
        row("carol", "ex02", 0, state="unreadable"),
        marks=[("alice", "ex01", 4, 5, "clear")],
    )
    assert table(index, "Points after lateness") == [
        ["alice", "55 of 65", "25 of 35 4 of 5 in it for the answer in words", "30 of 30"],
        ["bob", "15.2 of 30", "15.2 of 30 30 h late, 80 % of 19 points kept", "nothing"],
        ["carol", "0 of 30", "nothing", "0 of 30 unreadable"],
    ]
    alice = pages[report.page_name("alice")]
    assert "55 of 65 points in all" in alice.get_text()
    assert "About your answer in words: clear" in alice.get_text()
    assert {h.get_text() for h in alice("h2")} == {
        "ex01: 25 of 35 points",
        "ex02: 30 of 30 points",
    }


def test_the_distribution_counts_every_submission_once(written):
    points = [0, 1, 2.9, 3, 15, 29.9, 30]
    index, _ = written(*(row(f"s{k}", points=p) for k, p in enumerate(points)))
    bars = table(index, "ex01")
    assert bars[0] == ["0 to 10 %", "3"] and bars[-1] == ["90 to 100 %", "2"]
    assert sum(int(count) for _, count in bars) == len(points)
    assert [label for label, count in bars if count == "1"] == ["10 to 20 %", "50 to 60 %"]


def test_tasks_stand_by_share_solved_with_what_the_class_mistakes(written):
    wrong = [known.name for known in kit.find("ex01.1").misconceptions[:2]]
    held = [wrong[0], wrong[1], wrong[1], ""]
    rows = []
    for k, name in enumerate(held):
        first = task(0, misconception=name, failed={"shape": "x"}) if name else task(4)
        rows.append(row(f"s{k}", detail={"tasks": [first, task(name="ex01.2")]}))
    index, _ = written(*rows)
    first, second = table(index, "Tasks")
    assert first[0].startswith("ex01.1") and first[1] == "25 % (1 of 4)"
    assert first[2] == f"{wrong[1]}: 2 {wrong[0]}: 1"
    assert first[3] == "notebook 01, “The loss and its gradient”"
    assert second[0].startswith("ex01.2") and second[1:3] == ["100 % (4 of 4)", "none recognised"]


def test_what_was_slow_or_not_graded_in_full_is_named(written):
    ended = {"tasks": [task(0, state="crashed")], "remarks": ["cell 3: crashed"]}
    index, _ = written(
        *(row(f"s{k}") for k in range(5)),
        row("slow", seconds=12),
        row("dave", state="unreadable", detail={"tasks": [], "remarks": ["it is no notebook"]}),
        row("erin", state="partly graded", detail=ended),
        row("frank", state="no submission"),
    )
    assert table(index, "Submissions that took") == [["slow", "ex01", "12", "0.2"]]
    assert table(index, "Submissions that were not") == [
        ["dave", "ex01", "unreadable", "it is no notebook"],
        ["erin", "ex01", "partly graded", "cell 3: crashed ex01.1: crashed"],
    ]


def test_an_empty_gradebook_is_one_sentence(written):
    index, pages = written()
    assert index.main.get_text(strip=True) == "The gradebook holds no grade yet."
    assert not pages


# --- feedback -----------------------------------------------------------------------------------


def test_a_student_reads_what_the_notebook_says(written):
    wrong = kit.find("ex01.1").misconceptions[0]
    result = kit.Result(kit.find("ex01.1"), {"shape": "expected (4, 3), got (3, 4)"}, wrong)
    failed = task(3, failed=result.failed, misconception=wrong.name, hints=kit.hints(result, 3))
    tasks = [
        failed,
        task(4, "ex01.2"),
        task(0, "ex01.3", state="not written", failed={"x": "it is not written yet"}),
        task(0, "ex01.4", state="unreadable"),
    ]
    _, pages = written(row(detail={"tasks": tasks}))
    (page,) = pages.values()
    one, two, three, four = page.find_all(class_="task")
    assert "✘ ex01.1" in one.h3.get_text() and "3 of 4 points" in one.h3.get_text()
    assert [line.get_text(" ", strip=True) for line in one("li")] == [
        "✘ failed shape (1): expected (4, 3), got (3, 4)",
        "✔ passed equal to finite differences (2)",
        "✔ passed finite for large scores (1)",
    ]
    assert [p.get_text() for p in one("p")] == [f"Hint: {h}" for h in kit.hints(result, 3)]
    assert "✔ ex01.2" in two.h3.get_text() and "failed" not in two.get_text()
    for other, state in ((three, "not written"), (four, "unreadable")):
        assert "○" in other.h3.get_text() and other.p.get_text() == f"This task: {state}."
        assert not other("li")


def test_a_real_grade_of_a_wrong_answer_shows_no_hidden_value(work, written):
    from tlcourse.grading.judge import Judge

    # Right in the four calls of the notebook's own check, wrong in the first hidden one.
    spy = """
calls, right = 0, head_gradient

def head_gradient(F, W, y):
    global calls
    calls += 1
    if calls == 5:
        {}
    return right(F, W, y)
"""
    with Judge("ex01", "pytorch", work.solved) as judge:
        for number, change in enumerate(("return -right(F, W, y)", "raise ValueError(str(W))")):
            grade = judge.grade(work("all", behind=spy.format(change)))
            assert sum(len(one.failed) for one in grade.tasks) == 1
            _, pages = written(row(detail=grade.as_dict()), out=f"report{number}")
            (page,) = pages.values()
            told = page.find("li", class_="failed").get_text().partition("): ")[2]
            assert told == "it is wrong on inputs that you have not seen"


def test_a_task_that_the_course_no_longer_has_is_shown_all_the_same(written):
    failed = {"old part": "foo([0.123]) raised ValueError: 0.123"}
    _, pages = written(row("a", "ex99", detail={"tasks": [{"task": "ex99.1", "failed": failed}]}))
    (page,) = pages.values()
    assert "old part: foo([0.123]) raised ValueError" in page.get_text(" ", strip=True)


# --- what students wrote ------------------------------------------------------------------------


def test_names_and_messages_are_text_and_pages_have_safe_names(written, tmp_path):
    texts = [text for text in HOSTILE if text]
    detail = {
        "tasks": [task(0, failed=dict(zip("abcdefghijk", texts, strict=True)), hints=texts)],
        "remarks": texts,
    }
    index, pages = written(
        *(row(name, state="partly graded", detail=detail) for name in HOSTILE),
        marks=[("con", "ex01", 1, 5, HOSTILE[0])],
    )
    assert len(pages) == len(HOSTILE)
    for name in pages:
        assert re.fullmatch(r"[a-z0-9-]{1,60}\.html", name)
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    pages_made = {f"report/students/{name}" for name in pages}
    assert made == {"grades.db", "report/index.html", *pages_made}
    for page in (index, *pages.values()):
        assert not page(["script", "img", "iframe", "link", "object", "form"])
        assert not [tag for tag in page(True) if any(name.startswith("on") for name in tag.attrs)]
        text = page.get_text()
        assert not [c for c in text if not (c.isprintable() or c == "\n")]
        assert "<script>alert(1)</script>" in text and "{{ 7 * 7 }}" in text
        assert max(map(len, text.split("\n"))) < 1200
    links = {a["href"] for a in index.main("a")}
    assert links == {f"students/{name}" for name in pages}
    assert all(a.get_text(strip=True) for a in index("a"))


def test_pages_need_no_other_file_and_forbid_one(written):
    index, pages = written(row())
    for page in (index, *pages.values()):
        text = str(page)
        assert "default-src 'none'" in text
        assert not re.search(r"https?://|@import|url\(|src=", text)
        assert page.html["lang"] == "en" and page.title.get_text() and len(page("h1")) == 1
        assert all(cell.get("scope") in ("col", "row") for cell in page("th"))
        assert all(found.caption for found in page("table"))


def test_the_same_gradebook_gives_the_same_bytes(written, tmp_path):
    rows = [row(name) for name in HOSTILE]
    written(*rows, out="one")
    written(out="two")
    one, two = tmp_path / "one", tmp_path / "two"
    files = [path.relative_to(one) for path in one.rglob("*.html")]
    assert len(files) == len(HOSTILE) + 1
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


# --- near-duplicates ----------------------------------------------------------------------------

COPIED = {  # the reference of ex01 with other names, comments and room, and one task anew
    "F @ W": "F  @  W  # the scores",
    r"\bz\b": "logits",
    r"\be\b": "powers",
    r"\bp\b": "share",
    r"\btheta\b": "weights",
    r"\bslopes\b": "found",
    r"\bshift\b": "moved",
    r"\btarget\b": "pulled_to",
    r"return 2 / np.linalg.eigvalsh\(H\)\[-1\]": "return 2 / np.abs(np.linalg.eigvals(H)).max()",
}
HONEST = """
def head_gradient(F, W, y):
    scores = F @ W
    scores = scores - np.max(scores, axis=1)[:, None]
    probabilities = np.exp(scores) / np.sum(np.exp(scores), axis=1)[:, None]
    one_hot = np.zeros_like(probabilities)
    one_hot[np.arange(len(y)), y] = 1
    return F.T @ (probabilities - one_hot) / F.shape[0]

def fine_tune(theta, gradient, batches, rate):
    for X, y in batches:
        theta = theta - rate * gradient(theta, X, y)
    return theta

def l2_sp_gradient(theta, gradient, theta_pre, lam, head):
    return gradient + lam * np.where(head, theta, theta - theta_pre)

def fisher_diagonal(X, theta):
    p = 1 / (1 + np.exp(-(X @ theta)))
    return ((p * (1 - p))[:, np.newaxis] * X * X).mean(axis=0)

def proxy_distance(predicted, domain):
    wrong = predicted != domain
    error = (wrong[domain == 0].mean() + wrong[domain == 1].mean()) / 2
    return 2 * (1 - 2 * error)

def largest_rate(H):
    return 2 / np.linalg.eigvalsh(H).max()
"""


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "ex01.ipynb").write_bytes(content)


def test_copies_are_found_and_honest_work_is_not(work, written, tmp_path):
    place = tmp_path / "submissions"
    copied = work("all").decode()
    for old, new in COPIED.items():
        copied, count = re.subn(old, new, copied)
        assert count, old
    put(place, "alice", work("all"))
    put(place, "bob", copied.encode())
    put(place, "carol", work(behind=HONEST))
    put(place, "dave", work())  # two empty ones, and two with one short answer
    put(place, "erin", work())
    put(place, "frank", work("ex01.2"))
    put(place, "grace", work("ex01.2"))
    put(place, "heidi", b"no notebook")
    names = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
    index, _ = written(*map(row, names), submissions=place)
    ((exercise, kind, who, share),) = table(index, "Submissions whose own text")
    assert (exercise, kind, who) == ("ex01", "code", "alice bob")
    assert 92 <= int(share.removesuffix(" %")) < 100
    _, left_out = likeness.near_duplicates(place, {"ex01"})
    assert len(left_out) == 1 and left_out[0].startswith("heidi ex01: it is no notebook")


def test_copied_words_are_found_too_and_a_ring_is_one_group(work, tmp_path):
    words = "The distance counts every difference between the inputs, labels or not. " * 5
    for name in ("a", "b", "c"):
        content = work().replace(b"YOUR ANSWER HERE", words.encode())
        put(tmp_path, name, content)
    ((exercise, kind, names, share),), _ = likeness.near_duplicates(tmp_path, {"ex01", "ex99"})
    assert (exercise, kind, names) == ("ex01", "words", ["a", "b", "c"])
    assert share == pytest.approx(1)


@pytest.mark.parametrize("text", ["-" * 200_000 + "1", "(" * 200_000, "\0", "def f(:\n", ""])
def test_code_that_cannot_be_parsed_is_compared_as_it_stands(text):
    assert "\n".join(likeness._canonical(text)) == text.strip()


# --- the command --------------------------------------------------------------------------------


def test_the_command_says_where_the_pages_are_and_what_is_wrong(tmp_path):
    def run(*options):
        command = [COMMAND, "report", "--gradebook", "grades.db", *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    missing = run()
    assert missing.returncode == 2 and "there is no gradebook grades.db" in missing.stderr
    book = Gradebook(tmp_path / "grades.db")
    book.put(row())
    assert book.rows(gradebook.marks) == []
    done = run("--out", "pages")
    assert done.returncode == 0, done.stderr
    assert "pages/index.html" in done.stdout and (tmp_path / "pages" / "index.html").is_file()
    for options in (("--out", "grades.db"), ("--submissions", "nowhere")):
        refused = run(*options)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
