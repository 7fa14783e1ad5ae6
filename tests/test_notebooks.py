"""Views built from a source, executed by a real kernel, and runs of small notebooks."""

import json
import re
import shutil
import sys
import textwrap

import nbformat
import pytest

from tlcourse import execution, notebooks
from tlcourse.notebooks import project_root

HEAD = """# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %%
import os
os.environ["TLCOURSE_PROFILE"] = PROFILE
from tlcourse import evidence, figures
"""


class Course:
    """A course folder of its own; called with a name and cells, it adds a source."""

    def __init__(self, root):
        self.root = root
        self.folder = root / "notebooks" / "source"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, cells: str):
        source = self.folder / f"{name}.py"
        source.write_text(HEAD + textwrap.dedent(cells), encoding="utf-8")
        return source


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path / "course")


def run_one(source, profile="cpu", **options):
    out = source.parent / "out"
    return execution.run([(source, "pytorch")], profile, 7, out, **options)[0]


# building


def test_a_view_holds_the_cells_of_its_framework_and_the_shared_ones(course):
    source = course(
        "01_both",
        """
        # %% [markdown] tags=["tensorflow"]
        # Keras

        # %% tags=["pytorch"]
        "PyTorch"

        # %%
        "shared"
        """,
    )
    keras, torch = (notebooks.build(source, name) for name in notebooks.FRAMEWORKS)
    assert [cell.source for cell in keras.cells[2:]] == ["Keras", '"shared"']
    assert [cell.source for cell in torch.cells[2:]] == ['"PyTorch"', '"shared"']
    assert keras.cells[2].metadata.tags == ["tensorflow"]
    assert keras.metadata.kernelspec.name == "python3"
    nbformat.validate(keras)


def test_building_twice_gives_the_same_bytes(course):
    source = course("01_same", "\n# %%\n1\n\n# %%\n1\n")
    first, second = (notebooks.as_text(notebooks.build(source, "pytorch")) for _ in range(2))
    assert first == second


def test_a_cell_keeps_its_id_when_another_is_added_before_it(course):
    before = notebooks.build(course("01_a", "\n# %%\n1\n\n# %%\n1\n"), "pytorch")
    after = notebooks.build(course("01_b", "\n# %%\n0\n\n# %%\n1\n\n# %%\n1\n"), "pytorch")
    ids = [cell.id for cell in before.cells]
    assert len(set(ids)) == len(ids)
    assert [cell.id for cell in after.cells if cell.source != "0"] == ids


def test_a_notebook_is_found_by_number_name_title_and_path(course):
    first, second = course("01_first", ""), course("04_second_one", "")
    root = course.root
    assert notebooks.find([], root) == [first, second]
    for name in ("04", "4", "04_second_one", "second_one", str(second)):
        assert notebooks.find([name], root) == [second]
    assert notebooks.find([notebooks.view_path(second, "pytorch")], root) == [second]
    assert notebooks.find(["04", "second_one"], root) == [second]


def test_an_unknown_notebook_is_answered_with_the_known_ones(course):
    course("01_first", "")
    with pytest.raises(ValueError, match="no notebook '07'; the notebooks are: 01_first"):
        notebooks.find(["07"], course.root)


# views


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    course = Course(tmp_path_factory.mktemp("built"))
    source = course(
        "02_view",
        """
        # %%
        import sys
        print("shown")
        print("a warning", file=sys.stderr)
        evidence.claim("02.one", "one is less than two", 1 < 2, 1.0)

        # %%
        import matplotlib.pyplot as plt
        fig, ax = plt.subplots()
        ax.plot([1, 2], [3, 4])
        ax.set(title="A line rises", xlabel="x", ylabel="y")
        figures.show(fig, "a rising line")
        """,
    )
    result = execution.rebuild(source, "pytorch", course.root)
    assert result.status == "ok", result.error
    return course.root


@pytest.fixture
def built(built_once, course):
    """A source with its executed view, and the view's path."""
    shutil.copytree(built_once, course.root, dirs_exist_ok=True)
    source = course.folder / "02_view.py"
    return source, notebooks.view_path(source, "pytorch")


def test_a_view_keeps_outputs_and_nothing_that_changes_from_run_to_run(built):
    source, path = built
    view = nbformat.read(path, as_version=4)
    outputs = [output for cell in view.cells[2:] for output in cell.outputs]
    assert [output.output_type for output in outputs] == ["stream", "display_data", "display_data"]
    assert outputs[0].text == "shown\n"
    assert 'alt="a rising line"' in outputs[2].data["text/html"]  # shown once, with its text
    assert all(set(cell.metadata) <= {"tags"} for cell in view.cells)
    assert set(view.metadata) == {"kernelspec", "language_info", "tlcourse"}
    assert [made["id"] for made in notebooks.claims(view)] == ["02.one"]
    assert notebooks.staleness(source, "pytorch") is None


def test_a_changed_source_makes_its_view_stale(built):
    source, _ = built
    source.write_text(source.read_text() + "\n# %%\n1\n")
    assert notebooks.staleness(source, "pytorch") == "its source has changed"
    assert notebooks.staleness(source, "tensorflow") == "not built yet"


def test_new_words_keep_what_the_same_code_has_printed(built):
    source, path = built
    before = nbformat.read(path, as_version=4)
    source.write_text(source.read_text() + "\n# %% [markdown]\n# A word more.\n")
    assert notebooks.reworded(source, "pytorch") and notebooks.staleness(source, "pytorch") is None
    after = nbformat.read(path, as_version=4)
    assert after.cells[-1].source == "A word more."
    assert [c.get("outputs") for c in after.cells[:-1]] == [c.get("outputs") for c in before.cells]


def test_new_code_has_to_be_executed(built):
    source, path = built
    before = path.read_text()
    source.write_text(source.read_text().replace('print("shown")', 'print("other")'))
    assert not notebooks.reworded(source, "pytorch")
    assert not notebooks.reworded(source, "tensorflow")  # there is none yet
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda cells: cells[2].update(source="print('mine')"), "it was edited by hand"),
        (lambda cells: cells.pop(), "it was edited by hand"),
        (lambda cells: cells[3].update(execution_count=None), "code cell 4 was not executed"),
        (
            lambda cells: cells[3].update(outputs=[nbformat.v4.new_output("error", ename="E")]),
            "code cell 4 ended with an error",
        ),
    ],
)
def test_an_edited_view_is_stale(built, edit, reason):
    source, path = built
    view = nbformat.read(path, as_version=4)
    edit(view.cells)
    path.write_text(notebooks.as_text(view))
    assert notebooks.staleness(source, "pytorch") == reason


def test_a_view_that_is_no_notebook_is_stale(built):
    source, path = built
    path.write_text("{}")
    assert notebooks.staleness(source, "pytorch") == "not a readable notebook"


def test_a_failing_notebook_leaves_its_old_view_untouched(built, course):
    source, path = built
    before = path.read_bytes()
    source.write_text(source.read_text() + "\n# %%\n1 / 0\n")
    result = execution.rebuild(source, "pytorch", course.root)
    assert (result.status, result.error) == (
        "failed",
        "code cell 5: ZeroDivisionError: division by zero",
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ('display({"image/png": "A" * 80_000}, raw=True)', "a figure of 80 KB, at most 60 KB"),
        ('for _ in range(7_000): print("x" * 100)', "the notebook takes 7.. KB, at most 600 KB"),
        ("import os; print(os.getcwd())", "shows a path of this machine"),
        ('evidence.claim("a", "b", False)', "claim a does not hold: b"),
    ],
)
def test_an_unfit_view_is_refused(cell, sentence, course):
    source = course("03_unfit", f"\n# %%\n{cell}\n")
    result = execution.rebuild(source, "pytorch", course.root)
    assert result.status == "failed"
    assert re.search(sentence, result.error)
    assert not notebooks.view_path(source, "pytorch").exists()


def test_an_error_that_is_announced_by_its_tag_may_be_shown(course):
    trap = '# %% tags=["raises-exception"]\nos.listdir("gone")\n\n# %%\n1\n'
    source = course("03_trap", "\n" + trap)
    assert execution.rebuild(source, "pytorch", course.root).status == "ok"
    assert notebooks.staleness(source, "pytorch") is None


def test_every_lesson_has_something_to_move():
    lessons = [s for s in notebooks.sources(project_root()) if not notebooks.is_exercise(s)]
    still = [s.stem for s in lessons if "figures.slider(" not in s.read_text("utf-8")]
    assert len(lessons) > 10 and not still


def test_no_view_of_the_course_is_stale():
    root = project_root()
    stale = {
        f"{framework}/{source.stem}": reason
        for source in notebooks.sources(root)
        for framework in notebooks.FRAMEWORKS
        if (reason := notebooks.staleness(source, framework))
    }
    assert stale == {}, "run tlcourse notebooks"
    assert notebooks.without_source(root) == []


# runs

TWO_CLAIMS = """
    # %%
    evidence.claim("x.false", "two is less than one", 2 < 1, -1.0, (-2.0, 0.0), 5)

    # %%
    evidence.claim("x.true", "one is less than two", 1 < 2)
"""


def test_a_false_claim_fails_the_notebook_and_all_its_claims_are_listed(course):
    result = run_one(course("01_claims", TWO_CLAIMS), "cpu")
    assert result.status == "failed"
    assert result.error.startswith("claim x.false does not hold: two is less than one")
    assert [(made["id"], made["holds"]) for made in result.claims] == [
        ("x.false", False),
        ("x.true", True),
    ]


def test_a_false_claim_is_untested_in_smoke(course):
    result = run_one(course("01_claims", TWO_CLAIMS), "smoke")
    assert (result.status, result.error) == ("ok", None)
    assert [made["holds"] for made in result.claims] == [None, None]


def test_parameters_decide_and_not_what_an_earlier_start_left(course, monkeypatch):
    monkeypatch.setenv("TLCOURSE_PROFILE", "smoke")
    source = course("01_env", "\n# %%\nassert PROFILE == 'cpu' and SEED == 7\n")
    text = source.read_text().replace(
        'os.environ["TLCOURSE_PROFILE"] =', 'assert not os.environ.get("TLCOURSE_PROFILE");_ ='
    )
    source.write_text(text)
    assert run_one(source).error is None


def test_the_kernel_is_the_running_interpreter(course):
    result = run_one(
        course("01_kernel", f"\n# %%\nimport sys\nassert sys.executable == {sys.executable!r}\n")
    )
    assert result.error is None


def test_one_failing_notebook_does_not_stop_the_rest_and_run_json_tells_all(course, tmp_path):
    jobs = [
        (course("01_ok", '\n# %%\nevidence.claim("a", "b", True, 1.0, (0, 2), 3)\n'), "pytorch"),
        (course("02_error", "\n# %%\nraise KeyError('gone')\n\n# %%\n1\n"), "tensorflow"),
        (course("03_dies", "\n# %%\nimport os; os._exit(9)\n"), "pytorch"),
        (
            course("04_after", "\n# %%\nimport time\nbulk = b'x' * 2**28\ntime.sleep(0.5)\n"),
            "pytorch",
        ),
    ]
    out = tmp_path / "out"
    execution.run(jobs, "cpu", 0, out)
    told = json.loads((out / "run.json").read_text())
    assert [(one["notebook"], one["framework"], one["status"]) for one in told] == [
        ("01_ok", "pytorch", "ok"),
        ("02_error", "tensorflow", "failed"),
        ("03_dies", "pytorch", "died"),
        ("04_after", "pytorch", "ok"),
    ]
    assert told[0]["claims"] == [
        {"id": "a", "text": "b", "holds": True, "effect": 1.0, "interval": [0.0, 2.0], "n": 3}
    ]
    assert told[1]["error"] == "code cell 4: KeyError: 'gone'"
    assert "the kernel died in code cell 4" in told[2]["error"]
    assert told[3]["peak_memory_mb"] > told[0]["peak_memory_mb"] + 200
    assert all(one["profile"] == "cpu" and one["seconds"] > 0 for one in told)
    written = nbformat.read(out / "tensorflow" / "02_error.ipynb", as_version=4)
    assert notebooks.first_error(written) == told[1]["error"]


def test_a_cell_that_never_ends_is_stopped_with_a_sentence(course):
    source = course("01_loop", "\n# %%\nwhile True: pass\n")
    result = run_one(source, cell_seconds=2)
    assert result.status == "timeout"
    assert result.error == "code cell 4 ran longer than 2 seconds and was stopped"


def test_a_source_without_parameters_is_named(course):
    source = course("01_bare", "")
    source.write_text("# %%\n1\n")
    assert "no cell is tagged" in run_one(source).error
