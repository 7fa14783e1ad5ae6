"""Notebooks executed in a kernel of their own: once for the views, with a profile for a run."""

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import notebooks
from .notebooks import write_whole

CELL_SECONDS = 600
# What an earlier start() may have left; a notebook's parameters decide instead.
NOT_INHERITED = ("TLCOURSE_PROFILE", "TLCOURSE_FRAMEWORK", "TLCOURSE_DEVICE", "MPLBACKEND")


class Silent:
    """Receives what happens during a run and shows nothing; run_report.py has those that do."""

    def begin(self, notebook: str, framework: str) -> None:
        """A notebook's kernel is about to start."""

    def cell_done(self, share: float) -> None:
        """`share` of the current notebook's cells are done, 0 to 1."""

    def end(self, result: "Result") -> None:
        """The current notebook is done, in whatever way."""


@dataclass
class Result:
    """How one notebook ended: status is ok, failed, timeout, died or interrupted.

    `error` is one sentence or None; `claims` are dicts with id, text, holds, effect, interval, n.
    """

    notebook: str
    framework: str
    profile: str
    seconds: float = 0.0
    status: str = "failed"
    peak_memory_mb: float = 0.0
    error: str | None = None
    claims: list[dict] = field(default_factory=list)


def execute(notebook, cwd: Path, result: Result, on_share=lambda share: None, cell_seconds=None):
    """Execute a notebook in place with this interpreter and note in `result` how it ended.

    A false claim does not stop it, so that the claims after it are measured too; any other error
    does. `cell_seconds` limits each cell (CELL_SECONDS). KeyboardInterrupt ends the kernel, fills
    `result` and goes on to the caller.
    """
    cell_seconds = cell_seconds or CELL_SECONDS
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tlcourse-", ignore_cleanup_errors=True) as private:
        work = _Work(notebook, cwd, private, on_share, cell_seconds)
        try:
            # The client runs beside us: this thread keeps watching memory and the keyboard.
            while work.thread.is_alive():
                work.thread.join(0.5)
                result.peak_memory_mb = max(result.peak_memory_mb, work.memory_mb())
        except KeyboardInterrupt:
            result.status, result.error = "interrupted", "stopped from the keyboard"
            work.end()
            raise
        finally:
            result.seconds = round(time.perf_counter() - started, 1)
            result.peak_memory_mb = round(result.peak_memory_mb, 1)
            result.claims = notebooks.claims(notebook)
    _judge(result, notebook, work, cell_seconds)


def _judge(result: Result, notebook, work: "_Work", cell_seconds: float) -> None:
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    error, place = work.error, f"code cell {work.code_cell}"
    result.error = notebooks.first_error(notebook)
    result.status = "failed"
    if isinstance(error, CellTimeoutError):
        result.status = "timeout"
        result.error = f"{place} ran longer than {cell_seconds:g} seconds and was stopped"
    elif isinstance(error, DeadKernelError):
        result.status = "died"
        result.error = f"the kernel died in {place}, perhaps for want of memory"
    elif error is not None and not (isinstance(error, CellExecutionError) and result.error):
        result.error = f"{type(error).__name__}: {error}"
    elif not result.error:
        result.status = "ok"


class _Work:
    """One execution: a thread with nbclient, and the kernel process it started."""

    def __init__(self, notebook, cwd, private, on_share, cell_seconds):
        from nbclient import NotebookClient

        self.error: Exception | None = None
        self.code_cell = 0
        total = max(1, len(notebook.cells))

        def entered(cell, cell_index):
            self.code_cell += 1

        def left(cell, cell_index, execute_reply):
            on_share((cell_index + 1) / total)

        self.environment = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        # The user's IPython start-up files must not change what a notebook shows.
        self.environment["IPYTHONDIR"] = private
        # What a machine ran is not what the learner did.
        self.environment["TLCOURSE_PROGRESS"] = "off"
        self.client = NotebookClient(
            notebook,
            kernel_manager_class=_own_kernel_manager(),
            kernel_name="python3",
            timeout=cell_seconds,
            startup_timeout=120,
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            shutdown_kernel="immediate",
            allow_error_names=["ClaimFailed"],
            extra_arguments=["--log-level=ERROR"],
            on_cell_execute=entered,
            on_cell_executed=left,
            resources={"metadata": {"path": str(cwd)}},
        )
        # A daemon, so that a client that cannot be stopped never holds up our own end.
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self.client.async_execute(env=self.environment))
        except Exception as error:
            self.error = error

    def memory_mb(self) -> float:
        """Memory that the kernel and its children have taken for themselves now.

        Pages mapped from files (cached features, pictures) are left out where the system tells
        them apart: it takes them back when it needs room.
        """
        import psutil

        total = 0
        for process in self._processes():
            try:
                total += _own_bytes(process)
            except (psutil.Error, OSError):
                continue  # it has ended meanwhile
        return total / 2**20

    def end(self) -> None:
        """Kill the kernel with all its children, whatever they are doing."""
        import psutil

        for process in reversed(self._processes()):
            try:
                process.kill()
            except psutil.Error:
                continue
        self.thread.join(10)

    def _processes(self) -> list:
        import psutil

        pid = getattr(getattr(self.client.km, "provisioner", None), "pid", None)
        if pid is None:
            return []
        try:
            kernel = psutil.Process(pid)
            return [kernel, *kernel.children(recursive=True)]
        except psutil.Error:
            return []


def _own_bytes(process) -> int:
    """Anonymous memory, a page shared by n processes counted as 1/n; Linux only, else resident."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if rollup.exists():
        fields = (line.split() for line in rollup.read_text().splitlines())
        return next((int(size[0]) * 1024 for name, *size in fields if name == "Pss_Anon:"), 0)
    return process.memory_info().rss


def _own_kernel_manager():
    """Return a kernel manager that starts the running interpreter.

    The kernel called python3 may be another one: a kernel that a user installed comes first.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernelManager(AsyncKernelManager):
        @property
        def kernel_spec(self):
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python")

    return OwnKernelManager


def run(
    jobs, profile: str, seed: int, out: Path, report=None, results=None, cell_seconds=None
) -> list[Result]:
    """Execute (source, framework) pairs under a profile, one after the other.

    Each executed notebook goes to out/<framework>/, and out/run.json lists all results; it is
    written anew after each notebook, so that an interrupted run keeps what is done. `results`, a
    list, is filled on the way for a caller who survives the interruption. A notebook that fails
    does not stop the rest.
    """
    report = report or Silent()
    results = [] if results is None else results
    for source, framework in jobs:
        result = Result(source.stem, framework, profile)
        report.begin(source.stem, framework)
        try:
            _run_one(source, result, seed, out, report, cell_seconds)
        finally:
            results.append(result)
            listing = json.dumps([asdict(each) for each in results], indent=1, ensure_ascii=False)
            write_whole(out / "run.json", listing + "\n")
            report.end(result)
    return results


def _run_one(source: Path, result: Result, seed: int, out: Path, report, cell_seconds) -> None:
    try:
        notebook = _with_parameters(source, result.framework, PROFILE=result.profile, SEED=seed)
    except Exception as error:  # whatever is wrong with this source, the others still run
        result.error = f"{source.name} cannot be read as a notebook: {error}"
        return
    try:
        execute(notebook, source.parent, result, report.cell_done, cell_seconds)
    finally:
        path = out / result.framework / f"{source.stem}.ipynb"
        write_whole(path, notebooks.as_text(notebook))


def _with_parameters(source: Path, framework: str, **parameters):
    from papermill.parameterize import parameterize_notebook

    notebook = notebooks.build(source, framework)
    if not any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        raise ValueError('no cell is tagged "parameters" and sets PROFILE and SEED')
    # What papermill expects of a notebook that it has loaded itself.
    notebook.metadata["papermill"] = {}
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])
    return parameterize_notebook(notebook, parameters)


def rebuild(source: Path, framework: str, root: Path, report=None) -> Result:
    """Build one view, execute it in the cpu profile and put it in place of the old one.

    Where it fails or is not fit to be published, the old view stays and the result says why.
    """
    report = report or Silent()
    result = Result(source.stem, framework, "cpu")
    report.begin(source.stem, framework)
    try:
        view = notebooks.build(source, framework)
        learners = notebooks.cut(view) if notebooks.is_exercise(source) else None
        execute(view, source.parent, result, report.cell_done)
        if result.status == "ok":
            notebooks.clean(view)
            notebooks.refuse_unfit(view, root)
            notebooks.publish(source, framework, view, learners)
    except ValueError as error:
        result.status, result.error = "failed", str(error)
    finally:
        report.end(result)
    return result
