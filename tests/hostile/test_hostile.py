"""Hostile and broken notebooks: no unearned point, no harm to anybody else, no survivor."""

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from tlcourse import notebooks
from tlcourse.assets import cache_dir
from tlcourse.exercises import source
from tlcourse.grading import judge as judging
from tlcourse.grading.sandbox import Limits

from . import corpus

ROOT = Path(__file__).parents[2]
# The smallest of the data on disk.
CACHED = sorted((cache_dir() / "datasets").glob("*"), key=lambda p: p.stat().st_size)[:3]


@pytest.fixture(scope="module")
def solved():
    (path,) = notebooks.find(["ex01"], ROOT)
    return notebooks.build(path, "pytorch")


@pytest.fixture(scope="module")
def judge(solved):
    limits = Limits(memory=2**30, cpu=60, processes=64)
    with judging.Judge("ex01", "pytorch", solved, limits) as judge:
        yield judge


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(judging, "CELL_SECONDS", 3)
    monkeypatch.setattr(judging, "PATIENCE", 0.6)


def content(notebook, code, at) -> bytes:
    notebook = nbformat.from_dict(json.loads(nbformat.writes(notebook)))
    notebook.cells.insert(at, nbformat.v4.new_code_cell(code))
    return nbformat.writes(notebook).encode()


def known_files() -> str:
    """A digest of what no submission may change: the package, Python's own files, the data."""
    import numpy

    digest = hashlib.sha256()
    package = ROOT / "tlcourse"
    for path in [
        *sorted(package.glob("*.py")),
        *sorted((package / "grading").glob("*.py")),
        Path(numpy.__file__),
        Path(os.__file__),
        *CACHED,
    ]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def others() -> set[int]:
    """What runs under this process, sandboxes among it."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def nothing_new(workers: set[int]) -> bool:
    """Whether nothing lives on that was not there before; the system needs a moment to clear up."""
    until = time.monotonic() + 5
    while not others() <= workers and time.monotonic() < until:
        time.sleep(0.02)
    return others() <= workers


@pytest.mark.parametrize("name", corpus.ATTACKS)
def test_an_attack_earns_no_point(name, judge, solved):
    stub = source.cut(solved)
    judge.grade(nbformat.writes(stub).encode())
    before, workers = known_files(), others()
    grade = judge.grade(content(stub, corpus.ATTACKS[name], len(stub.cells)))
    assert grade.points == 0, [task for task in grade.tasks if task.points]
    assert known_files() == before
    assert nothing_new(workers)
    json.dumps(grade.as_dict(), ensure_ascii=False).encode()  # a data base and a page can hold it
    assert all(c.isprintable() for task in grade.tasks for c in "".join(task.failed.values()))


@pytest.mark.parametrize("name", corpus.DAMAGE)
def test_damage_costs_nobody_else(name, judge, solved):
    before = known_files()
    judge.grade(nbformat.writes(source.cut(solved)).encode())
    workers = others()
    grade = judge.grade(content(solved, corpus.DAMAGE[name], 5))
    assert grade.points == grade.possible, (grade.state, grade.remarks, grade.tasks)
    assert known_files() == before
    assert nothing_new(workers)
    assert all(c.isprintable() for remark in grade.remarks for c in remark)


def test_nothing_is_left_for_the_next_one(judge, solved):
    leave = """
import os
for place in ("/student", "/tmp", "/dev/shm", "/dev", "/", "/cache", os.environ["TLCOURSE_CACHE"]):
    try: open(f"{place}/left", "w").write("42")
    except OSError: pass
"""
    found = """
import os
for place in ("/student", "/tmp", "/dev/shm", "/dev", "/", "/cache", os.environ["TLCOURSE_CACHE"]):
    assert not os.path.exists(f"{place}/left"), place
"""
    judge.grade(content(solved, leave, 5))
    assert judge.grade(content(solved, found, 5)).remarks == []


def test_neither_network_nor_environment_nor_home(judge, solved, monkeypatch):
    monkeypatch.setenv("TLCOURSE_SECRET", "42")
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    met = []

    def accept():
        with contextlib.suppress(TimeoutError):
            met.append(server.accept())

    listening = threading.Thread(target=accept)
    listening.start()
    code = f"""
import os, socket
assert "TLCOURSE_SECRET" not in os.environ
assert not os.path.exists({str(ROOT / "solutions")!r})
assert not os.path.exists({str(ROOT / "tests")!r})
assert not os.path.exists({str(Path.home() / ".bashrc")!r})
assert os.getuid() != 0
for pid in [p for p in os.listdir("/proc") if p.isdigit()]:
    if int(pid) != int(os.readlink("/proc/self")):
        for secret in ("environ", "mem", "maps", "fd/0"):
            try: open(f"/proc/{{pid}}/{{secret}}", "rb").read(1)
            except OSError: pass
            else: raise SystemError(secret)
try: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 1)
except OSError: pass
else: raise SystemError("connected")
"""
    grade = judge.grade(content(solved, code, 5))
    listening.join()
    server.close()
    assert grade.remarks == [] and met == []


def test_a_function_that_never_ends_costs_its_task(judge, solved):
    code = "def head_gradient(F, W, y):\n    while True: pass"
    grade = judge.grade(content(solved, code, len(solved.cells)))
    first, *rest = grade.tasks
    assert (grade.state, first.state, first.points) == ("partly graded", "timed out", 0)
    assert "ran longer than" in next(iter(first.failed.values()))
    assert all(task.points == task.possible for task in rest)


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("import os; os._exit(3)", "crashed"),
        ("import ctypes; ctypes.string_at(0)", "crashed"),
        ("return bytearray(2**33)", "out of memory"),
        (
            "import sys\n    sys.modules['__main__']._call = "
            "lambda *_: {'died': 'graded \\x1b[2J'}",
            "out of memory",
        ),
        ("import gc, socket\n    [s.sendall(b'x' * 99) for s in gc.get_objects() "
         "if isinstance(s, socket.socket)]", "sandbox violation"),
    ],
)  # fmt: skip
def test_how_a_function_ended_is_told_apart(body, state, judge, solved):
    code = f"def head_gradient(F, W, y):\n    {body}"
    grade = judge.grade(content(solved, code, len(solved.cells)))
    assert [task.state for task in grade.tasks] == [state] + ["graded"] * (len(grade.tasks) - 1)
    assert grade.points == grade.possible - grade.tasks[0].possible
