"""A place for students' code: no network, no view of the home folder or of other processes.

    with Sandbox("pytorch") as sandbox, sandbox.session() as session:
        session.ask(5, do="run", cell=1, source="def f(x): return x + 1")

bubblewrap builds the place. Inside it one worker has loaded the libraries and forks a process for
every submission, each in namespaces of its own. Where the system allows none inside bubblewrap's,
each submission gets a fresh sandbox, which is as safe and slower.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tlcourse.assets import cache_dir

from . import worker

ADVICE = (
    "students' code runs only in a sandbox, and bubblewrap is not installed: type "
    "`sudo apt install bubblewrap` (or what your system says for it), grade in Docker (see "
    "docs/instructors.md), or pass --trust-submissions if you would run each of these notebooks "
    "yourself on this machine"
)
PRELOAD = {
    "pytorch": ("numpy", "matplotlib.pyplot", "sklearn.linear_model", "torch", "torch._dynamo"),
    "tensorflow": ("numpy", "matplotlib.pyplot", "sklearn.linear_model", "keras"),
}
PACKAGE = Path(__file__).resolve().parents[1]
START_SECONDS = 120
LARGEST_ANSWER = 64 * 2**20
STUDENT = "1001"


class NoSandbox(RuntimeError):
    """There is no sandbox here; the message says what to do."""


class Ended(Exception):
    """The student's process is gone; `state` says how it ended."""

    def __init__(self, state: str):
        super().__init__(state)
        self.state = state


@dataclass(frozen=True)
class Limits:
    """What one submission may use: bytes, seconds of CPU, processes and threads."""

    memory: int = 2 * 2**30
    cpu: int = 300
    processes: int = 64
    file: int = 64 * 2**20
    tmp: int = 256 * 2**20


class Session:
    """One process that has run what it was asked to run; it answers until it ends."""

    def __init__(self, sock, end):
        self._sock, self._end, self._state = sock, end, ""

    def ask(self, seconds: float, **request) -> dict:
        """Return the answer to a request. Raises Ended where none came in time, or none at all."""
        if self._state:
            raise Ended(self._state)
        token = secrets.token_hex(8)
        try:
            self._sock.settimeout(seconds)
            worker.send(self._sock, {"id": token, **request})
            reply = worker.receive(self._sock, seconds, LARGEST_ANSWER)
        except TimeoutError:
            raise self._ended("timed out") from None
        except worker.Malformed:
            raise self._ended("sandbox violation") from None
        except OSError:
            reply = None
        if reply is None:
            raise self._ended()
        if not isinstance(reply, dict) or reply.get("id") != token:
            raise self._ended("sandbox violation")
        if "died" in reply:
            raise self._ended("out of memory")  # the word is the student's process', the state ours
        return reply

    def _ended(self, state: str = "") -> Ended:
        how = self.close()
        self._state = state or how
        return Ended(self._state)

    def close(self) -> str:
        """Kill what is left of the process; return how it had ended."""
        if self._end is None:
            return self._state
        status, self._end = self._end(), None
        self._sock.close()
        return _words(status)


def require() -> None:
    """Raise NoSandbox where submissions cannot be kept apart from the rest of the machine."""
    if not shutil.which("bwrap"):
        raise NoSandbox(ADVICE)
    tried = subprocess.run([*_walls(), "/bin/true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise NoSandbox(
            f"bubblewrap is here, but the system does not let it build a sandbox "
            f"({tried.stderr.strip()}): see “Without bubblewrap” in docs/instructors.md"
        )


class Sandbox:
    """Use it with `with`; `session()` gives a fresh process for one submission.

    What `code`, that of the exercise set, imports is loaded once; without it, all of PRELOAD.
    Raises NoSandbox where bubblewrap is missing, unless the submissions are trusted.
    """

    def __init__(
        self, framework: str, limits: Limits | None = None, trusted: bool = False, code: str = ""
    ):
        if framework not in PRELOAD:
            raise ValueError(f"framework is pytorch or tensorflow, not {framework!r}")
        if not trusted:
            require()
        self.framework, self.limits, self.trusted = framework, limits or Limits(), trusted
        self._modules = [
            module
            for module in PRELOAD[framework]
            if not code or re.search(rf"\b{module.partition('.')[0]}\b|runtime\.start", code)
        ]
        self._server = self._control = None
        self._forks = not trusted

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    @contextlib.contextmanager
    def session(self):
        """Give a Session; whatever it started is gone at the end."""
        with tempfile.TemporaryDirectory(prefix="tlcourse-") as own:
            home = own if self.trusted else worker.PLACES[0]
            environment = {
                "HOME": f"{home}/home",
                "TLCOURSE_CACHE": f"{home}/cache",
                "TMPDIR": home,
            }
            order = {
                "limits": asdict(self.limits),
                "environment": environment,
                "cache": str(cache_dir()) if self.trusted else "/cache",
            }
            ours, theirs = socket.socketpair()
            session = Session(ours, self._fork(theirs, order) or self._fresh(ours, theirs, order))
            theirs.close()
            try:
                yield session
            finally:
                session.close()

    def _fork(self, theirs, order: dict):
        """Have the server fork a process; return what ends it, None where that is impossible."""
        if not self._forks:
            return None
        if self._server is None or self._server.poll() is not None:
            self._start()
        try:
            socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            worker.send(self._control, order)
            refused = worker.receive(self._control, START_SECONDS)["why"]
        except (OSError, TypeError) as error:
            self._stop()
            raise NoSandbox(f"the sandbox does not answer: {error}") from None
        if refused:
            self._stop()
            self._forks = False
            return None
        return self._end_fork

    def _end_fork(self) -> int:
        try:
            self._control.sendall(b"-")
            return worker.receive(self._control, START_SECONDS)["status"]
        except (OSError, TypeError):  # the server is gone, and with it all that it had started
            self._stop()
            return 0

    def _fresh(self, ours, theirs, order: dict):
        """Start a sandbox for one submission; return what ends it."""
        process = self._process(theirs, "once")
        ours.settimeout(START_SECONDS)
        worker.send(ours, order)

        def end() -> int:
            running = process.poll() is None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            if running or code < 0:
                return -code if code < 0 else signal.SIGKILL
            # bubblewrap says 128 + signal for the process inside
            return code - 128 if code > 128 else code << 8

        return end

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        self._server = self._process(theirs, "serve", *self._modules)
        theirs.close()
        try:
            ready = worker.receive(self._control, START_SECONDS)
        except TimeoutError:
            ready = None
        if ready is None:
            said = self._stop()
            raise NoSandbox(f"the sandbox could not be started: {said or 'no answer'}")

    def _stop(self) -> str:
        """End the server; return what it complained of."""
        if self._server is None:
            return ""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        said = self._server.communicate()[1].decode(errors="replace").strip()
        self._server = self._control = None
        return said

    def _process(self, sock, *arguments):
        python = [sys.executable, "-IB", worker.__file__, str(sock.fileno()), *arguments]
        walls = [] if self.trusted else _walls()
        return subprocess.Popen(
            [*walls, *python],
            pass_fds=[sock.fileno()],
            env=_environment(self.framework, self.trusted),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


def _environment(framework: str, trusted: bool) -> dict:
    """All that students' code sees of the environment: one thread each, nothing of ours."""
    return {
        **({"TLCOURSE_TRUSTED": "1"} if trusted else {}),
        "PATH": "/usr/bin:/bin",
        "HOME": worker.PLACES[0],
        "USER": "student",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": worker.PLACES[0],
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TLCOURSE_FRAMEWORK": framework,
        "TLCOURSE_PROGRESS": "off",
    }


def _walls() -> list[str]:
    """The bubblewrap command: the system's libraries, Python, the package, the data; read-only."""
    walls = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    walls += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "grader"]
    if os.getuid() != 0:  # root becomes nobody inside: see worker.become_nobody
        walls += ["--unshare-user", "--uid", STUDENT, "--gid", STUDENT]
    for system in ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/fonts"):
        path = Path(system)
        if path.is_symlink():
            walls += ["--symlink", os.readlink(path), system]
        else:
            walls += ["--ro-bind-try", system, system]
    walls += ["--proc", "/proc", "--dev", "/dev"]
    for place in worker.PLACES:
        walls += ["--perms", "1777", "--size", str(Limits.tmp), "--tmpfs", place]
    for path in dict.fromkeys([sys.base_prefix, sys.prefix, str(PACKAGE)]):
        for parent in reversed(Path(path).parents[:-1]):  # bubblewrap would close them to others
            walls += ["--perms", "0755", "--dir", str(parent)]
        walls += ["--ro-bind", path, path]
    walls += ["--ro-bind-try", str(cache_dir()), "/cache"]
    walls += ["--perms", "0755", "--dir", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*walls, "--chdir", worker.PLACES[0], "--"]


def _words(status: int) -> str:
    """How a process ended that we had not asked to end."""
    number = status & 0x7F
    if number == signal.SIGXCPU:
        return "timed out"
    if number == signal.SIGKILL:
        return "out of memory"
    return "crashed"
