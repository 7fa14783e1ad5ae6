"""From one percent source to a notebook per framework, and whether the built view is current.

A source is notebooks/source/NN_title.py or solutions/source/exNN_title.py (jupytext percent). Cells
tagged "tensorflow" or "pytorch" belong to that framework only, all others to both. A view is
notebooks/<framework>/NN_title.ipynb, executed, with its outputs. The view of an exercise set is its
solution; the learner's notebook, exercises/<framework>/exNN_title.ipynb, is cut out of it.
"""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

from .assets import new_file
from .evidence import MIME
from .exercises.source import add_marks, cut
from .figures import LIMIT as FIGURE_LIMIT

FRAMEWORKS = ("tensorflow", "pytorch")
NOTEBOOK_LIMIT = 600_000  # bytes
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# Without the version of Python, so that a view is the same from 3.11 to 3.13.
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
EMBEDDED_IMAGE = re.compile(r"data:image/[\w+.-]+;base64,[\w+/=]+")
WIDGET = "application/vnd.jupyter.widget-view+json"


def project_root() -> Path:
    """Return the folder that holds notebooks/source, looked for upwards from here.

    Raises FileNotFoundError where there is none.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (Path.cwd(), *Path.cwd().parents, package):
        if (folder / "notebooks" / "source").is_dir():
            return folder
    raise FileNotFoundError(
        "there is no notebooks/source folder here or above: run this inside the course's folder"
    )


def sources(root: Path) -> list[Path]:
    """Return the notebook sources of the course in order."""
    lessons = sorted((root / "notebooks" / "source").glob("[0-9][0-9]_*.py"))
    return lessons + sorted((root / "solutions" / "source").glob("ex[0-9][0-9]_*.py"))


def find(names, root: Path) -> list[Path]:
    """Return the sources asked for by number, name or path; all of them for no names.

    Raises ValueError naming the known notebooks when one is not found.
    """
    known = sources(root)
    if not names:
        return known
    found = [_find_one(str(name), known) for name in names]
    return list(dict.fromkeys(found))


def _find_one(name: str, known: list[Path]) -> Path:
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    for source in known:
        number, _, title = source.stem.partition("_")
        if path.stem in (source.stem, number, title) or (
            name.isdecimal() and name.zfill(2) == number
        ):
            return source
    listing = ", ".join(source.stem for source in known) or "none yet"
    raise ValueError(f"there is no notebook {name!r}; the notebooks are: {listing}")


def view_path(source: Path, framework: str) -> Path:
    """Return where the view of a source belongs."""
    return source.parent.parent / framework / f"{source.stem}.ipynb"


def is_exercise(source: Path) -> bool:
    """Whether a source is that of an exercise set; all others are lessons."""
    return source.stem.startswith("ex")


def exercise_path(source: Path, framework: str) -> Path:
    """Return where the learner's notebook of an exercise set belongs."""
    return source.parents[2] / "exercises" / framework / f"{source.stem}.ipynb"


def build(source: Path, framework: str):
    """Return the unexecuted view of a source for one framework (an nbformat notebook).

    The same source gives the same bytes. Raises ValueError for an unknown framework.
    """
    import jupytext
    import nbformat

    if framework not in FRAMEWORKS:
        raise ValueError(f"unknown framework {framework!r}: choose one of {', '.join(FRAMEWORKS)}")
    script = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    others = set(FRAMEWORKS) - {framework}
    cells = [cell for cell in script.cells if _belongs(cell, framework, others)]
    _name_cells(cells)
    if is_exercise(source):
        add_marks(cells)
    view = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    )
    view.nbformat_minor = 5
    view.metadata["tlcourse"] = {"source": hashlib.sha256(as_text(view).encode()).hexdigest()}
    return view


def _belongs(cell, framework: str, others: set[str]) -> bool:
    tags = set(cell.metadata.get("tags", []))
    return framework in tags or not tags & others


def _name_cells(cells) -> None:
    """Name each cell after its content, so that ids stay when cells are added around it."""
    seen = Counter()
    for cell in cells:
        content = "\0".join([cell.cell_type, *cell.metadata.get("tags", []), cell.source])
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        cell["id"] = f"{digest}-{seen[digest]}" if seen[digest] else digest
        seen[digest] += 1


def as_text(notebook) -> str:
    """Return the notebook as JSON text with sorted keys and a final newline."""
    import nbformat

    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def staleness(source: Path, framework: str) -> str | None:
    """Return why the view of a source has to be built again, or None where it is current."""
    import nbformat

    path = view_path(source, framework)
    if not path.exists():
        return "not built yet"
    try:
        view = nbformat.reads(path.read_text(encoding="utf-8"), as_version=nbformat.NO_CONVERT)
        recorded, cells = view.metadata.get("tlcourse", {}).get("source"), view.cells
    except (ValueError, AttributeError):
        return "not a readable notebook"
    wanted = build(source, framework)
    if recorded != wanted.metadata.tlcourse.source:
        return "its source has changed"
    if [_authored(cell) for cell in cells] != [_authored(cell) for cell in wanted.cells]:
        return "it was edited by hand"
    if is_exercise(source):
        learners = exercise_path(source, framework)
        if not learners.exists() or learners.read_text("utf-8") != as_text(cut(wanted)):
            return "the learner's notebook was not cut out of it"
    for number, cell in enumerate(_code_with_content(view), start=1):
        if cell.get("execution_count") is None:
            return f"code cell {number} was not executed"
        if _errors(cell):
            return f"code cell {number} ended with an error"
    return None


def reworded(source: Path, framework: str) -> bool:
    """Give a view whose code has not changed its new words; return whether that was possible.

    What was executed stays as it was: the outputs come from the code.
    """
    import nbformat

    try:
        text = view_path(source, framework).read_text(encoding="utf-8")
        old = nbformat.reads(text, as_version=nbformat.NO_CONVERT)
        executed = [cell for cell in old.cells if cell.cell_type == "code"]
    except (OSError, ValueError, AttributeError):
        return False
    view = build(source, framework)
    code = [cell for cell in view.cells if cell.cell_type == "code"]
    if [cell.source for cell in code] != [cell.source for cell in executed]:
        return False
    if any(cell.get("execution_count") is None for cell in _code_with_content(old)):
        return False
    learners = cut(view) if is_exercise(source) else None
    for cell, before in zip(code, executed, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    if first_error(view):
        return False
    publish(source, framework, view, learners)
    return True


def publish(source: Path, framework: str, view, learners) -> None:
    """Put an executed view in its place, and the learner's notebook of an exercise set."""
    if learners:
        write_whole(exercise_path(source, framework), as_text(learners))
    write_whole(view_path(source, framework), as_text(view))


def without_source(root: Path) -> list[Path]:
    """Return views whose source is gone; a learner's own notebooks are named differently."""
    stems = {source.stem for source in sources(root)}
    views = (
        view
        for folder in ("notebooks", "solutions", "exercises")
        # A student's bundle holds exercises, and not what they were cut out of.
        if folder == "notebooks" or (root / "solutions" / "source").is_dir()
        for framework in FRAMEWORKS
        for view in sorted((root / folder / framework).glob("*.ipynb"))
    )
    ours = re.compile(r"(ex)?\d\d_\w+")
    return [view for view in views if ours.fullmatch(view.stem) and view.stem not in stems]


def _authored(cell) -> tuple:
    return cell.get("id"), cell.cell_type, tuple(cell.metadata.get("tags", [])), cell.source


def _code_with_content(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def first_error(notebook) -> str | None:
    """Return the first error output as one line, or None; cells meant to raise do not count."""
    for number, cell in enumerate(_code_with_content(notebook), start=1):
        for error in _errors(cell):
            message = (error.evalue.strip().splitlines() or [""])[0]
            if error.ename == "ClaimFailed":
                return message
            return f"code cell {number}: {error.ename}: {message}"
    return None


def _errors(cell) -> list:
    """Errors that were not announced by the tag raises-exception; a false claim always counts."""
    announced = "raises-exception" in cell.metadata.get("tags", [])
    return [e for e in _all_errors(cell) if e.ename == "ClaimFailed" or not announced]


def _all_errors(cell) -> list:
    return [output for output in cell.get("outputs", []) if output.output_type == "error"]


def claims(notebook) -> list[dict]:
    """Return the claims an executed notebook made, the last one of each id."""
    found = {}
    for cell in _code_with_content(notebook):
        for output in cell.outputs:
            made = output.get("data", {}).get(MIME)
            if made:
                found[made["id"]] = dict(made)
    return list(found.values())


def clean(executed) -> None:
    """Take out of an executed notebook what changes from run to run, in place.

    Timestamps, papermill's notes, messages on stderr (warnings, progress bars) and widgets, which
    show nothing without their kernel; what one shows in their place stays.
    """
    kept = executed.metadata.get("tlcourse", {})
    executed.metadata.clear()
    executed.metadata.update(kernelspec=dict(KERNEL), language_info=dict(LANGUAGE), tlcourse=kept)
    for cell in executed.cells:
        for volatile in ("execution", "papermill", "ExecuteTime"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_volatile(output)]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)
        for error in _all_errors(cell):
            # An announced error is shown by its message; the trace holds paths of this machine.
            error["traceback"] = [f"{error.ename}: {error.evalue}"]


def _is_volatile(output) -> bool:
    data = output.get("data", {})
    return output.get("name") == "stderr" or (WIDGET in data and "text/html" not in data)


def refuse_unfit(executed, root: Path) -> None:
    """Raise ValueError, one sentence, for an executed view that must not be published.

    Too large a figure (60 KB) or notebook (600 KB), an error, or a path of this machine.
    """
    error = first_error(executed)
    if error:
        raise ValueError(error)
    private = [str(path) for path in (root, Path.home()) if len(path.parts) > 1]
    for number, cell in enumerate(_code_with_content(executed), start=1):
        for output in cell.outputs:
            for size in _image_sizes(output):
                if size >= FIGURE_LIMIT:
                    raise ValueError(
                        f"code cell {number} holds a figure of {size // 1000} KB, at most "
                        f"{FIGURE_LIMIT // 1000} KB are allowed: show it with figures.show"
                    )
            if any(path + os.sep in str(output) for path in private):
                raise ValueError(f"code cell {number} shows a path of this machine: print less")
    size = len(as_text(executed).encode())
    if size >= NOTEBOOK_LIMIT:
        raise ValueError(
            f"the notebook takes {size // 1000} KB, at most {NOTEBOOK_LIMIT // 1000} KB are allowed"
        )


def _image_sizes(output) -> list[int]:
    data = output.get("data", {})
    sizes = [len(value) for kind, value in data.items() if kind.startswith("image/")]
    return sizes + [len(image) for image in EMBEDDED_IMAGE.findall(str(data.get("text/html", "")))]


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old or the new content, never a part."""
    with new_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
