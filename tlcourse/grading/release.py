"""Bundles for a class: the course without what only an instructor may see, and with it.

The same course gives the same bytes: names are sorted, times and permissions fixed, and nothing is
compressed, since builds of zlib differ.
"""

import csv
import hashlib
import hmac
import io
import re
import secrets
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tlcourse import __version__, notebooks
from tlcourse.assets import new_file
from tlcourse.exercises.source import ANSWER

FILES = (
    *("LICENSE", "requirements.txt", "constraints.txt", "pyproject.toml", "tlcourse/**/*.*"),
    "benchmarks/results/*.json",  # recorded runs that lessons draw
    *("docs/interview.md", "docs/questions.md"),
    *("docs/instructors.md", "docs/exercises.md", "solutions/nbgrader_config.py"),
)
PRIVATE = ("docs/instructors.md", "docs/exercises.md", "solutions/", "tlcourse/grading/")
PRIVATE += ("tlcourse/exercises/verify.py", "benchmarks/results/grading")
LEFTOVER = re.compile(r"(^|/)(\.|__pycache__/)")
SECRET_LENGTH = 16
SEED_FILE = """\
# Every student's variant is made from this secret. Keep it for the whole course; show it to nobody.
secret = "{}"
"""
RULES = ("PYTHON", "help", "setup", "$(READY)", "lab", "clean")  # of the course's Makefile
TEST = """

.PHONY: help setup lab test clean

test: setup
	$(BIN)/tlcourse doctor
	$(BIN)/tlcourse run 00 --profile smoke --framework {} --out runs/check
"""
SECTIONS = ("## Without make", "## Smaller and", "## When something fails", "## Licences")
README = """\
# Transfer learning, measured

```
make lab      # sets everything up and opens the course in your browser
make test     # sets everything up, checks this machine and tries the first lesson
```

You need Python 3.11, 3.12 or 3.13 and make. Begin with `notebooks/{0}/00_start_here.ipynb`; the
functions to write are in `exercises/{0}/`, each with a check that answers at once.

Did you get a number from your instructor? Write it into a file `variant.txt` beside the exercise
notebooks, and the checks draw inputs of your own.

`VERSION` says what you have. `sha256sum -c SHA256SUMS`, before you begin, says whether it is whole.

"""


def variant(secret: str, student: str) -> int:
    """Return the seed of one student's inputs: 4 bytes of HMAC-SHA256, from 0 to 2**32 - 1."""
    return int.from_bytes(hmac.digest(secret.encode(), student.encode(), "sha256")[:4], "big")


def make_seed_file(path: Path) -> None:
    """Write a fresh secret that only its owner can read. Raises ValueError where it cannot."""
    try:
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(SEED_FILE.format(secrets.token_hex(32)), encoding="utf-8", newline="\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None


def read_secret(path: Path) -> str:
    """Return the secret in a seed file. Raises ValueError where there is none."""
    try:
        secret = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("secret")
    except (OSError, ValueError):
        secret = None
    if not isinstance(secret, str) or len(secret) < SECRET_LENGTH:
        raise ValueError(
            f'{path} is no seed file: expected a line secret = "…" with at least {SECRET_LENGTH} '
            "characters; take it from your instructor bundle, or name a new file to have one made"
        )
    return secret


def variants(secret: str, students: Path) -> str:
    """Return the table id,variant for a CSV file with a column id. Raises ValueError."""
    try:
        with students.open(encoding="utf-8-sig", newline="") as file:
            ids = [(row["id"] or "").strip() for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError):
        ids = []
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        raise ValueError(
            f"{students} is no list of students: expected CSV in UTF-8, with commas, a first line "
            "that names a column id, and in every line an id that no other line has"
        )
    table = io.StringIO()
    rows = [("id", "variant"), *((student, variant(secret, student)) for student in ids)]
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()


def release(
    root: Path,
    sources: Iterable[Path],
    frameworks: Sequence[str],
    seed_file: Path,
    out: Path,
    students: Path | None = None,
) -> list[Path]:
    """Write the student bundle, the instructor bundle and their SHA256SUMS; return the paths.

    The first lesson always goes along. `students` is a CSV file; their variants go to the
    instructor. Raises ValueError for a view that is not current, a bad seed file or list, and where
    a student's file would show an answer or the secret.
    """
    secret = read_secret(seed_file)
    sources = list(dict.fromkeys([notebooks.sources(root)[0], *sources]))
    _refuse_stale(sources, frameworks)
    label, first = "both" if len(frameworks) > 1 else frameworks[0], frameworks[-1]
    private = _files(root, sources, frameworks)
    student = {name: private.pop(name) for name in [*private] if not name.startswith(PRIVATE)}
    student["Makefile"] = _makefile((root / "Makefile").read_text("utf-8"), first, label)
    student["README.md"] = _readme((root / "README.md").read_text("utf-8"), first)
    digest = hashlib.sha256(_sums(student)).hexdigest()[:12]
    student["VERSION"] = f"tlcourse {__version__} ({label}), content {digest}\n".encode()
    private["secret.toml"] = seed_file.read_bytes()
    if students:
        private["variants.csv"] = variants(secret, students).encode()
    _refuse_leaks(student, private, secret)
    name, sums = f"tlcourse-{__version__}-{label}", out / "SHA256SUMS"
    try:
        bundles = [
            _bundle(out / f"{name}-student.zip", student, 0o644),
            _bundle(out / f"{name}-instructor.zip", student | private, 0o600),
        ]
        notebooks.write_whole(sums, _sums({b.name: b.read_bytes() for b in bundles}).decode())
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror}") from None
    return [*bundles, sums]


def _refuse_stale(sources: list[Path], frameworks: Sequence[str]) -> None:
    reasons = {(s.stem, f): notebooks.staleness(s, f) for s in sources for f in frameworks}
    stale = [f"{name} in {f} ({reason})" for (name, f), reason in reasons.items() if reason]
    if stale:
        raise ValueError(
            f"not current: {', '.join(stale)}; run tlcourse notebooks, or release others by name"
        )


def _files(root: Path, sources: list[Path], frameworks: Sequence[str]) -> dict[str, bytes]:
    """Return the content of every file that goes into a bundle as it is."""
    paths = [path for pattern in FILES for path in root.glob(pattern) if path.is_file()]
    for source in sources:
        paths += [source, *(notebooks.view_path(source, f) for f in frameworks)]
        if notebooks.is_exercise(source):
            paths += [notebooks.exercise_path(source, f) for f in frameworks]
            paths += source.parents[1].glob(f"hidden/{source.stem.partition('_')[0]}.py")
    named = ((path.relative_to(root).as_posix(), path) for path in paths)
    return {name: path.read_bytes() for name, path in named if not LEFTOVER.search(name)}


def _makefile(course: str, first: str, label: str) -> bytes:
    """Return the rules of the course's Makefile that students need, with a test of its own."""
    blocks = {re.search(r"^[^#\s][^\s:]*", b, re.M)[0]: b for b in course.strip().split("\n\n")}
    kept = "\n\n".join(blocks[rule] for rule in RULES)
    kept = kept.replace("run the tests", "try the first lesson")
    kept = re.sub(r"^VIEWS.*\n| +make (course|notebooks) .*$", "", kept, flags=re.M)
    return (re.sub(r"notebooks/\w+/", f"notebooks/{first}/", kept) + TEST.format(label)).encode()


def _readme(course: str, first: str) -> bytes:
    """Return a page of its own, followed by what the course's README says about the set-up."""
    sections = re.split(r"^(?=## )", course, flags=re.M)
    kept = "".join(section for section in sections if section.startswith(SECTIONS))
    kept = re.sub(r"The tests are `(.*)python -m pytest`", r"To test it: `\1tlcourse doctor`", kept)
    kept = re.sub(r"(notebooks\\)\w+", rf"\1{first}", kept)
    return (README.format(first) + kept).encode()


def _refuse_leaks(student: dict[str, bytes], private: dict[str, bytes], secret: str) -> None:
    """Raise ValueError where a student's file holds the secret or an answer, in any layout."""
    refused = {_squeezed(secret): "the secret"}
    for name in (name for name in private if name.startswith("solutions/source/")):
        for answer in ANSWER.finditer(private[name].decode()):
            lines = answer[0].strip().split("\n")[1:-1]
            refused[_squeezed("\n".join(lines))] = f"an answer of {name}: {lines[0].strip()}"
    for name, content in student.items():
        shown = _squeezed(content.decode(errors="replace"))
        for what in refused:
            if what in shown:
                raise ValueError(f"{name} would show students {refused[what]}")


def _squeezed(text: str) -> str:
    """Return a text without what differs between a script, its comments and a notebook's JSON."""
    return re.sub(r'\\n|[\s"\\,#]', "", text)


def _sums(files: dict[str, bytes]) -> bytes:
    """Return what sha256sum prints and checks."""
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "".join(lines).encode()


def _bundle(path: Path, files: dict[str, bytes], mode: int) -> Path:
    """Write a zip file with one folder and the checksums of what is in it."""
    files = files | {"SHA256SUMS": _sums(files)}
    with new_file(path) as part:
        part.touch(mode)
        with zipfile.ZipFile(part, "w") as bundle:
            for name in sorted(files):
                entry = zipfile.ZipInfo(f"{path.stem}/{name}")  # of 1 January 1980
                entry.create_system, entry.external_attr = 3, (0o100000 | mode) << 16  # as on Unix
                bundle.writestr(entry, files[name])
    return path
