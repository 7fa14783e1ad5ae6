"""Submissions that are nearly the same, in what their authors wrote."""

from __future__ import annotations

import ast
import warnings
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import nbformat

from tlcourse import notebooks
from tlcourse.exercises import source

from . import batch
from . import judge as judging

# How much of the text two have to share. Those who write three quarters of the tasks of a set the
# same way, word for word, stay below it; a copy in which one task was written anew does not.
ALIKE = 0.92
SHORTEST = 200  # letters: two right answers to one short task are alike by nature
LETTERS, CELLS = 20_000, 100  # no more of a notebook is compared


def near_duplicates(place: Path, exercises: set[str]) -> tuple[list[tuple], list[str]]:
    """Return groups of submissions alike as (exercise, "code" or "words", students, how alike).

    Compared is what students wrote: without the stub's lines, comments and the choice of names.
    How alike neighbours in a group at least are is a number from ALIKE to 1. The second list has a
    sentence for each file left out. Raises BadInput.
    """
    here = {path.stem[:4] for path in notebooks.sources(notebooks.project_root())}
    found, left_out = batch.find(place, sorted(exercises & here))
    written: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for made in found:
        try:
            notebook = judging.read(made.content())
        except judging.Unreadable as refused:
            left_out.append(judging.clean(f"{made.student} {made.exercise}: {refused}"))
            continue
        stub = _stub(made.exercise, notebook.framework or "pytorch")
        for kind, lines in _lines(notebook).items():
            text = "\n".join(line for line in lines if line not in stub)
            if len(text) >= SHORTEST:
                written[made.exercise, kind][made.student] = text
    groups = [(*key, *group) for key, texts in sorted(written.items()) for group in _alike(texts)]
    return groups, left_out


def _alike(texts: dict[str, str]) -> list[tuple[list[str], float]]:
    """Return groups of names whose texts are neighbours, and how alike neighbours at least are."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    if len(texts) < 2:
        return []
    weights = TfidfVectorizer(analyzer="char", ngram_range=(5, 5), lowercase=False)
    near = NearestNeighbors(radius=1 - ALIKE, metric="cosine", algorithm="brute")
    near.fit(weights.fit_transform(texts.values()))
    linked = near.radius_neighbors_graph(mode="distance")
    farthest = linked.max(axis=1).toarray().ravel()
    linked.data[:] = 1  # the distance of twins is 0, and that would be no link
    together = defaultdict(list)
    for row, group in enumerate(connected_components(linked, directed=False)[1]):
        together[group].append(row)
    names = list(texts)
    return [
        ([names[row] for row in rows], 1 - float(farthest[rows].max()))
        for rows in together.values()
        if len(rows) > 1
    ]


@lru_cache
def _stub(exercise: str, framework: str) -> frozenset[str]:
    """Return the lines that every student was given."""
    (path,) = notebooks.find([exercise], notebooks.project_root())
    stub = judging.read(nbformat.writes(source.cut(notebooks.build(path, framework))).encode())
    return frozenset(line for lines in _lines(stub).values() for line in lines)


def _lines(notebook: judging.Notebook) -> dict[str, list[str]]:
    code = [text[:LETTERS] for _, text in notebook.cells[:CELLS]]
    words = [text[:LETTERS] for text in list(notebook.words.values())[:CELLS]]
    return {
        "code": [line for text in code for line in _canonical(text)],
        "words": [line.strip() for text in words for line in text.splitlines()],
    }


def _canonical(text: str) -> list[str]:
    """Return the lines of Python without comments, docstrings and the choice of names."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
        nodes = list(ast.walk(tree))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        names = [node for node in nodes if isinstance(node, ast.Name)]
        own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        own |= {function.name for function in functions}
        for node in nodes:
            for attribute in ("id", "arg", "name"):
                if getattr(node, attribute, None) in own:
                    setattr(node, attribute, "v")
        for function in functions:
            if ast.get_docstring(function) is not None:
                function.body = function.body[1:] or [ast.Pass()]
        text = ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # compared as it stands
    return [line.strip() for line in text.splitlines()]
