"""The interview room in a real process: typed into, piped into, interrupted, killed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tlcourse import progress
from tlcourse.quiz import formulas, key, memory

# pexpect needs the terminals of Linux and macOS.
pexpect = pytest.importorskip("pexpect", reason="comes with IPython, on Linux and macOS only")
typed_only = pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CODE = (
    "def largest_rate(H):\n    import numpy as np\n\n    return 2 / np.linalg.eigvalsh(H)[-1]\n.\n"
)


def piped(words, typed=""):
    done = subprocess.run(words, input=typed, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def at_a_terminal(words):
    size = (40, 80)
    child = pexpect.spawn(words[0], words[1:], dimensions=size, encoding="utf-8", timeout=30)
    child.delaybeforesend = None
    return child


def interrupt(child):
    child.expect(": $")  # what is pressed before the prompt reaches nobody until the next key
    child.sendintr()


def typed(question, seed, right=True):
    """What a learner types who knows the answer, or one who does not."""
    posed = question.pose(seed)
    given = key.right(posed)
    match question.kind:
        case "single":
            return str((given + (not right)) % 3 + 1) + "\n"
        case "several":
            return " ".join(str(k + 1) for k in given if right or k == given[0]) + "\n"
        case "order":
            return ", ".join(str(k + 1) for k in (given if right else given[::-1])) + "\n"
        case "code":
            return CODE if right else CODE.replace("-1", "0")
        case "open":
            return "It saves memory\nand time.\n\n"
    return f"{given if right else 9}\n"


def the_order(small, seed):
    return memory.due(small, new_per_day=len(small), seed=seed)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("right", [True, False])
def test_every_kind_can_be_answered_through_a_pipe(command, small, right):
    asked = the_order(small, 3)
    answers = "".join(typed(question, 3, right) + "\n" for question in asked)
    done = piped(command("--seed", "3"), answers)
    assert done.returncode == 0 and "8 of 8 answered, 8 kept in your record." in done.stdout
    kept = {event.item: event.points for event in progress.events("question")}
    assert set(kept) == set(small)
    for name, points in kept.items():
        if small[name].kind == "open":
            assert points == 0.5
        elif right or small[name].kind in ("several", "code"):
            assert points == 1 if right else 0 < points < 1 or name == "code-largest-rate"
        else:
            assert points == 0, name
    assert not ANSI.search(done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 160  # a prompt and what follows it, unechoed
    page = [
        line for line in done.stdout.splitlines() if not re.search("such as|Enter|Number", line)
    ]
    assert max(map(len, page)) <= 80


@pytest.mark.usefixtures("place")
def test_what_was_said_after_the_answer_replaces_the_rating(command, small):
    first, *_ = the_order(small, 3)
    piped(command("--seed", "3", "--count", "1"), typed(first, 3) + "4\n")
    answered, revised = progress.events("question")
    assert (answered.detail["rating"] != "easy", revised.detail["rating"]) == (True, "easy")
    assert memory.cards()[first.id].times == 1


@pytest.mark.usefixtures("place")
def test_a_wrong_form_is_asked_again_and_an_empty_line_shows_the_answer(command, small):
    asked = the_order(small, 3)
    place = [question.kind for question in asked].index("single")
    skipped = "".join(".\n\n" if question.kind == "code" else "\n\n" for question in asked[:place])
    done = piped(command("--seed", "3"), skipped + "two\n7\n\n\n")
    assert "Number of the option, please." in done.stdout
    assert "The numbers go from 1 to 3." in done.stdout
    assert "Not answered." in done.stdout
    event = next(e for e in progress.events("question") if e.item == asked[place].id)
    assert (event.points, event.detail["answer"], event.detail["rating"]) == (0, None, "again")


@typed_only
@pytest.mark.usefixtures("place")
def test_control_c_leaves_cleanly_and_keeps_what_was_answered(command, small):
    first, *_ = the_order(small, 3)
    child = at_a_terminal(command("--seed", "3"))
    child.expect("1 of 8")
    child.send(typed(first, 3))
    child.expect("Enter to go on")
    child.send("\n")
    child.expect("2 of 8")
    interrupt(child)
    child.expect("1 of 8 answered, 1 kept in your record.")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130 and "Traceback" not in child.before
    assert [event.item for event in progress.events("question")] == [first.id]


@typed_only
@pytest.mark.usefixtures("place")
def test_killed_while_a_question_is_open_only_that_answer_is_lost(command, small):
    first, *_ = the_order(small, 3)
    child = at_a_terminal(command("--seed", "3"))
    child.expect("1 of 8")
    child.send(typed(first, 3))
    child.expect("Enter to go on")  # not even the rating was confirmed
    os.kill(child.pid, signal.SIGKILL)
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGKILL
    assert [event.item for event in progress.events("question")] == [first.id]
    again = at_a_terminal(command("--seed", "3"))
    again.expect("1 of 7")
    interrupt(again)
    again.expect("0 of 7 answered")
    again.close()


@typed_only
@pytest.mark.usefixtures("place")
def test_an_interview_at_a_terminal_can_be_paused_and_ends_with_its_report(
    command, small, tmp_path
):
    report = tmp_path / "report.md"
    child = at_a_terminal(command("interview", "--seed", "1", "--out", str(report)))
    child.expect("question 1, 14:5")
    child.send("1\n")
    child.expect("follow-up, 14:5")
    assert "Right." not in child.before and "Not right." not in child.before
    child.send("p\n")
    child.expect("The clock stands still")
    child.send("\n")
    child.expect("follow-up, 14:5")
    child.send("\n")
    child.expect("question 3")
    interrupt(child)
    child.expect("Interview of 15 minutes, practitioner")
    child.expect("Review: notebook 0")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "## To review" in report.read_text()
    assert [event.detail["interview"] for event in progress.events("question")] == [15, 15]


@pytest.mark.usefixtures("place")
def test_status_says_where_to_go_on(command, small):
    assert "0 of 8" in piped(command("status")).stdout
    piped(command("--seed", "3", "--count", "1", "--topic", "04"), "\n\n")
    page = piped(command("status")).stdout
    assert "1 of 8" in page and "of the last 14: 1." in page
    assert "Feature extraction, to review:" in page and "exercise set ex04" in page


def test_without_a_record_it_works_and_does_not_claim_to_keep(command):
    assert (
        "1 of 1 answered, 0 kept in your record.\n" in piped(command("--count", "1"), "\n\n").stdout
    )


@pytest.mark.usefixtures("place")
def test_who_chooses_a_level_gets_more_than_a_days_share(command, many, tmp_path):
    words = command("--count", "20", folder=tmp_path / "many")
    assert "12 of 12 answered" in piped(words, "1\n3\n" * 12).stdout
    assert "Nothing is due" in piped(words).stdout
    words = command("--level", "senior", "--count", "20", folder=tmp_path / "many")
    assert "0 of 16 answered" in piped(words).stdout


def test_an_unknown_topic_is_one_sentence_that_names_the_topics(command):
    done = piped(command("--topic", "cooking"))
    assert done.returncode == 2
    assert done.stderr == (
        "tlcourse: no question fits cooking; the topics are: 04 Feature extraction\n"
    )


def test_help_gives_an_example_of_each_command(command):
    for name in ((), ("interview",), ("status",), ("anki",), ("sheet",)):
        page = piped(command(*name, "--help")).stdout
        assert f"Example: tlcourse {' '.join(('quiz', *name))}" in page
        assert max(map(len, page.splitlines())) <= 80


def test_what_the_page_for_learners_says_to_type_exists(command):
    page = (Path(__file__).parents[2] / "docs" / "interview.md").read_text(encoding="utf-8")
    typed = re.findall(r"^tlcourse quiz(.*)$", page.replace("  #", "\n#"), re.MULTILINE)
    assert len(typed) >= 6
    for line in typed:
        name = [word for word in line.split()[:1] if word[0] not in "-#"]
        known = piped(command(*name, "--help")).stdout
        assert all(option in known for option in re.findall(r"--\w+", line)), line


def test_the_help_of_the_course_does_not_load_the_room():
    program = (
        "import sys, tlcourse.cli, tlcourse.quiz.commands; "
        "print({'yaml', 'pydantic', 'fsrs', 'rich.console', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"\frac{\sigma^2}{n}", "σ²/n"),
        (r"W \leftarrow W - \alpha\,\nabla L(W)", "W ← W - α ∇L(W)"),
        (r"-\sum_{k=1}^{K} y_k \log p_k", "-∑ₖ₌₁^K yₖ log pₖ"),
        (r"\hat{y} = \mathrm{softmax}(W x + b)", "ŷ = softmax(W x + b)"),
        (r"\frac{1}{2}\lVert\theta-\theta_{pre}\rVert^2", "1/2 ‖θ-θ_pre‖²"),
        (r"\alpha < \frac{2}{h_{\max}(H)}", "α < 2/(h_max(H))"),
        (r"\mathbb{R}^{n \times d}", "R^(n × d)"),
        (r"P(y\mid x) \approx 64\,\%", "P(y | x) ≈ 64 %"),
        (r"QK^\top / \sqrt{d_k}", "QKᵀ / √dₖ"),
        (r"-q\ln q + \frac{z^2}{2n}", "-q ln q + z²/(2n)"),
        (r"\unknown{x}", "unknown x"),
        ("{", ""),
    ],
)
def test_formulas_are_readable_as_text(tex, text):
    assert formulas.formula(tex) == text


def test_only_formulas_are_translated():
    assert formulas.in_unicode("`$a_1$` and $a_1$") == "`$a_1$` and a₁"
    assert formulas.in_unicode("from $5 to $6") == "from $5 to $6"
    assert formulas.in_unicode("$a*b*c$") == r"a\*b\*c"


def test_a_root_holds_all_that_stands_under_it():
    from tlcourse.quiz.formulas import in_unicode

    assert in_unicode(r"$\sqrt{p(1-p)/n + z^2/(4n^2)}$") == "√(p(1-p)/n + z²/(4n²))"


@pytest.mark.usefixtures("place")
def test_a_file_that_cannot_be_written_is_one_sentence(command, tmp_path):
    for words in (("sheet", "--out"), ("anki", "--out"), ("interview", "--out")):
        done = piped(command(*words, str(tmp_path / "no" / "file")))
        assert done.returncode == 2 and "no" in done.stderr
        assert "Traceback" not in done.stderr
