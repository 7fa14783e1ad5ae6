"""What goes to students, what stays with the instructor, and that both can be relied on."""

import ast
import csv
import hashlib
import hmac
import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest

from tlcourse import execution, notebooks
from tlcourse.exercises import kit, source
from tlcourse.grading import release

ROOT = Path(__file__).parents[2]
SECRET = "sixteen characters and more"
# What is being written just now is not current, and cannot be released.
CURRENT = [
    path
    for path in notebooks.sources(ROOT)
    if not any(notebooks.staleness(path, framework) for framework in notebooks.FRAMEWORKS)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One release with everything, unpacked: its folder, and those of its two bundles."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "seed.toml").write_text(f'secret = "{SECRET}"\n')
    (folder / "class.csv").write_text("name,id\nAda,a1\nÉmilie,b2\n", encoding="utf-8")
    out = folder / "out"
    release.release(
        ROOT, CURRENT, notebooks.FRAMEWORKS, folder / "seed.toml", out, folder / "class.csv"
    )
    for bundle in out.glob("*.zip"):
        zipfile.ZipFile(bundle).extractall(folder)
    (student,), (instructor,) = folder.glob("*-student"), folder.glob("*-instructor")
    return folder, student, instructor


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# The editable installation would lend a bundle the modules that it lacks.
ALONE = """import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
"""


def tlcourse(*words, cwd):
    """The command as it is in a folder, run by this interpreter."""
    program = ALONE + "from tlcourse.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": str(cwd)}
    )


def test_the_same_course_gives_the_same_bytes_wherever_it_is_released_from(made, tmp_path):
    folder, _, instructor = made
    words = (ROOT, CURRENT, notebooks.FRAMEWORKS, folder / "seed.toml")
    release.release(*words, tmp_path / "again", folder / "class.csv")
    assert contents(tmp_path / "again") == contents(folder / "out")
    copied = [instructor / path.relative_to(ROOT) for path in CURRENT]
    release.release(instructor, copied, *words[2:], tmp_path / "copy", folder / "class.csv")
    assert contents(tmp_path / "copy") == contents(folder / "out")


def test_names_times_and_permissions_in_a_bundle_are_fixed(made):
    for bundle in (made[0] / "out").glob("*.zip"):
        entries = zipfile.ZipFile(bundle).infolist()
        names = [entry.filename for entry in entries]
        assert names == sorted(set(names))
        assert {name.split("/")[0] for name in names} == {bundle.stem}
        mode = 0o644 if "student" in bundle.name else 0o600
        assert {(entry.date_time, entry.external_attr >> 16) for entry in entries} == {
            ((1980, 1, 1, 0, 0, 0), stat.S_IFREG | mode)
        }
        if os.name != "nt" and "instructor" in bundle.name:
            assert stat.S_IMODE(bundle.stat().st_mode) == 0o600


def test_the_checksums_beside_and_inside_are_right_and_leave_nothing_out(made):
    for folder in (made[0] / "out", *made[1:]):
        files = contents(folder)
        listed = (line.split("  ") for line in files.pop("SHA256SUMS").decode().splitlines())
        assert {name: digest for digest, name in listed} == {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items()
        }


def test_the_student_bundle_has_what_a_student_needs_and_nothing_else(made):
    files = contents(made[1])
    assert {name.split("/")[0] for name in files} == {
        *("LICENSE", "Makefile", "README.md", "SHA256SUMS", "VERSION", "benchmarks", "exercises"),
        *("constraints.txt", "docs", "notebooks", "pyproject.toml", "requirements.txt"),
        "tlcourse",
    }
    docs = {name for name in files if name.startswith("docs/")}
    assert docs == {"docs/interview.md", "docs/questions.md"}
    assert not [name for name in files if "grading" in name or "verify" in name]
    for path in CURRENT:
        name, sets = path.stem, notebooks.is_exercise(path)
        for framework in notebooks.FRAMEWORKS:
            assert f"{'exercises' if sets else 'notebooks'}/{framework}/{name}.ipynb" in files
    assert files["VERSION"] == (made[2] / "VERSION").read_bytes()


def test_the_instructor_bundle_adds_what_only_an_instructor_may_see(made):
    folder, student, instructor = made
    files = contents(instructor)
    for name, content in contents(student).items():
        assert name == "SHA256SUMS" or files[name] == content
    assert files["secret.toml"] == (folder / "seed.toml").read_bytes()
    rows = list(csv.DictReader(files["variants.csv"].decode().splitlines()))
    assert rows == [{"id": i, "variant": str(release.variant(SECRET, i))} for i in ("a1", "b2")]
    for path in filter(notebooks.is_exercise, CURRENT):
        assert {f"solutions/source/{path.name}", f"solutions/hidden/{path.stem[:4]}.py"} <= {*files}
    assert "tlcourse/grading/judge.py" in files and "docs/instructors.md" in files


def code_in(name: str, content: bytes) -> list[str]:
    if name.endswith(".ipynb"):
        return ["".join(c["source"]) for c in json.loads(content)["cells"]]
    return [content.decode()] if name.endswith(".py") else []


def bodies(text: str) -> set[str]:
    """Every function's body, without its docstring and however it was laid out."""
    try:
        functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    except SyntaxError:  # prose, or a line for IPython
        return set()
    for function in functions:
        if ast.get_docstring(function) and len(function.body) > 1:
            function.body = function.body[1:]
    return {"\n".join(map(ast.unparse, function.body)) for function in functions}


def test_no_file_of_a_student_shows_an_answer_another_right_answer_or_the_secret(made):
    texts = [path.read_text(encoding="utf-8") for path in ROOT.glob("solutions/hidden/*.py")]
    for path in filter(notebooks.is_exercise, notebooks.sources(ROOT)):
        for framework in notebooks.FRAMEWORKS:
            texts += source.answers(notebooks.build(path, framework)).values()
    private = set().union(*map(bodies, texts))
    assert len(private) > 100
    for name, content in contents(made[1]).items():
        assert SECRET.encode() not in content, name
        assert not (name.endswith(".ipynb") and b"BEGIN SOLUTION" in content), name
        for text in code_in(name, content):
            assert not bodies(text) & private, name


def test_the_package_of_a_student_imports_and_says_what_it_does_not_have(made):
    student = made[1]
    program = ALONE + "import tlcourse.cli, tlcourse.exercises, tlcourse.notebooks; print(tlcourse)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=student
    )
    assert str(student) in done.stdout, done.stderr
    needs_grading = (
        ("release", "--seed-file", "x"),
        ("exercises", "verify"),
        ("grade", ".", "--gradebook", "grades.db"),
    )
    for words in needs_grading:
        done = tlcourse(*words, cwd=student)
        assert (done.returncode, done.stderr) == (
            2,
            "tlcourse: this command is part of the instructor bundle\n",
        )


def test_the_exercises_of_a_student_run_with_the_students_package(made, monkeypatch):
    folder = made[1] / "exercises" / "pytorch"
    monkeypatch.setenv("PYTHONPATH", str(made[1]))
    view = nbformat.read(folder / "ex01_theory_and_formulas.ipynb", 4)
    view.cells.insert(0, nbformat.v4.new_code_cell(ALONE))
    view.cells.append(nbformat.v4.new_code_cell("import tlcourse; print(tlcourse.__file__)"))
    result = execution.Result("ex01", "pytorch", "cpu")
    execution.execute(view, folder, result)
    assert result.status == "ok", result.error
    assert view.cells[-1].outputs[0].text.startswith(str(made[1]))
    shown = [
        out.data["text/plain"] for c in view.cells for out in c.get("outputs", []) if "data" in out
    ]
    assert any("is not written yet" in text for text in shown)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_both_commands_of_a_students_readme_use_what_is_there(made):
    student = made[1]
    text = (student / "README.md").read_text(encoding="utf-8")
    assert "pytest" not in text and all(section in text for section in release.SECTIONS)
    for target, command in (("lab", "jupyter lab"), ("test", "tlcourse run 00 --profile smoke")):
        assert f"make {target}" in text
        done = subprocess.run(["make", "-n", target], capture_output=True, text=True, cwd=student)
        assert command in done.stdout, done.stderr
    assert "notebooks/pytorch/00_start_here.ipynb" in (student / "Makefile").read_text()
    page = subprocess.run(["make"], capture_output=True, text=True, cwd=student).stdout
    assert "make lab" in page and "make course" not in page


def test_a_release_in_keras_opens_the_keras_lessons(made, tmp_path):
    seed = made[0] / "seed.toml"
    bundle, *_ = release.release(ROOT, [], ["tensorflow"], seed, tmp_path)
    zipfile.ZipFile(bundle).extractall(tmp_path)
    files = contents(tmp_path / bundle.stem)
    assert "notebooks/tensorflow/00_start_here.ipynb" in files
    for name, content in files.items():
        assert "pytorch/" not in name
        if name in ("Makefile", "README.md"):
            assert b"pytorch/" not in content and b"pytorch\\" not in content


def test_a_missing_seed_file_is_made_for_its_owner_alone_and_used_again(tmp_path):
    assert "Example: tlcourse release" in tlcourse("release", "--help", cwd=ROOT).stdout
    seed = tmp_path / "secret.toml"
    words = ("release", "00", "--framework", "pytorch", "--seed-file", seed, "--out", tmp_path)
    first = tlcourse(*words, cwd=ROOT)
    assert first.returncode == 0, first.stderr
    assert f"{seed} is new and holds a fresh secret" in first.stdout
    secret = tomllib.loads(seed.read_text(encoding="utf-8"))["secret"]
    assert len(secret) == 64 and secret not in first.stdout
    if os.name != "nt":
        assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    assert "is new" not in tlcourse(*words, cwd=ROOT).stdout
    assert release.read_secret(seed) == secret


@pytest.mark.parametrize("text", ["", "secret", 'secret = "short"', "secret = 7", b"\xff\xfe"])
def test_a_malformed_seed_file_is_one_sentence(text, tmp_path):
    seed = tmp_path / "seed.toml"
    seed.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r'is no seed file: expected a line secret = "…"'):
        release.release(ROOT, [], ["pytorch"], seed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    ["", "id\n", "name\nAda\n", "id;name\na;Ada\n", "id,name\n,Ada\n", "id\na\na\n", b"id\n\xe9"],
)
def test_a_list_that_does_not_name_each_student_once_is_one_sentence(text, tmp_path):
    path = tmp_path / "class.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="is no list of students: expected CSV"):
        release.variants(SECRET, path)


def test_a_stale_view_or_an_answer_in_a_students_file_is_not_released(made, tmp_path):
    folder, _, instructor = made
    shutil.copytree(instructor, tmp_path / "course")
    words = (["pytorch"], folder / "seed.toml", tmp_path / "out")
    (ex01,) = (tmp_path / "course" / "solutions" / "source").glob("ex01_*.py")
    module = tmp_path / "course" / "tlcourse" / "exercises" / "ex01.py"
    answer = ex01.read_text(encoding="utf-8").split("### BEGIN SOLUTION")[1].split("###")[0]
    shown = answer.replace("\n    ", "\n#   ")
    module.write_text(module.read_text(encoding="utf-8") + shown, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"exercises/ex01.py would show students an answer of .*ex01"
    ):
        release.release(tmp_path / "course", [ex01], *words)
    ex01.write_text(ex01.read_text(encoding="utf-8") + "\n# %%\nprint(1)\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"not current: ex01\w+ in pytorch \(its source has changed"
    ):
        release.release(tmp_path / "course", [ex01], *words)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(made):
    seed = made[0] / "seed.toml"
    for out in (seed, seed / "below"):
        with pytest.raises(ValueError, match="cannot be written: "):
            release.release(ROOT, [], ["pytorch"], seed, out)
    with pytest.raises(ValueError, match=r"cannot be written: "):
        release.make_seed_file(made[0] / "nowhere" / "seed.toml")


def test_a_variant_is_the_head_of_an_hmac_and_never_changes():
    digest = hmac.new(SECRET.encode(), "Émilie".encode(), hashlib.sha256).hexdigest()
    assert release.variant(SECRET, "Émilie") == int(digest[:8], 16)
    assert release.variant("secret", "student") == 2168262207


def test_a_learners_variant_comes_from_the_file_beside_the_notebook(tmp_path, monkeypatch):
    seeds = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLCOURSE_VARIANT", raising=False)
    monkeypatch.setattr(
        kit,
        "evaluate",
        lambda task, f, seed: seeds.append(seed) or kit.Result(task, unwritten=True),
    )
    kit.check("ex01.1", print)
    Path("variant.txt").write_bytes(b"\xef\xbb\xbf 4294967295\r\n")  # as Windows may write it
    kit.check("ex01.1", print)
    monkeypatch.setenv("TLCOURSE_VARIANT", "7")
    kit.check("ex01.1", print)
    assert seeds == [0, 4294967295, 7]
    monkeypatch.setenv("TLCOURSE_VARIANT", "seven")
    with pytest.raises(
        ValueError, match="a variant is a whole number, not 'seven': correct variant"
    ):
        kit.check("ex01.1", print)
