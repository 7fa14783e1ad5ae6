"""Runs a student's notebook inside the sandbox and answers the judge. Imports nothing of ours.

    python worker.py FD serve numpy torch    import these once, then one process a submission
    python worker.py FD once                 this process is for one submission

The judge sends a request over a socket, the worker answers with plain data: numbers, text, arrays
as raw bytes, never a pickle. What a student's code does to this process harms its own answers only.
"""

import ctypes
import importlib
import inspect
import io
import json
import linecache
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback

FRAME = struct.Struct("!IQ")  # bytes of JSON, bytes of arrays behind it
NUMERIC = "biufU"
LARGEST = 256 * 2**20
NOBODY = 65534
PLACES = ("/student", "/dev/shm")  # /tmp may hold the course itself


# --- plain data on a socket ---------------------------------------------------------------------


class Malformed(Exception):
    """What arrived is not what the other side may send."""


def send(sock, message: dict) -> None:
    """Send a message of plain data. Raises TypeError where it holds anything else."""
    blobs = []
    text = json.dumps(_encoded(message, blobs)).encode()
    sock.sendall(FRAME.pack(len(text), sum(map(len, blobs))) + text + b"".join(blobs))


def receive(sock, seconds: float | None = None, largest: int = LARGEST):
    """Return the next message, None at the end. Raises Malformed, TimeoutError."""
    deadline = None if seconds is None else time.monotonic() + seconds
    head = _exactly(sock, FRAME.size, deadline)
    if head is None:
        return None
    length, rest = FRAME.unpack(head)
    if length + rest > largest:
        raise Malformed(f"a message of {(length + rest) / 2**20:.0f} MB")
    text, blob = _exactly(sock, length, deadline), _exactly(sock, rest, deadline)
    if text is None or blob is None:
        return None
    try:
        return _decoded(json.loads(text), blob)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


def _exactly(sock, count: int, deadline: float | None):
    got = bytearray(count)
    view = memoryview(got)
    while view:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        read = sock.recv_into(view)
        if read == 0:
            return None
        view = view[read:]
    return bytes(got)


def _encoded(value, blobs: list):
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or isinstance(value, bool) else str(value)
    if type(value) in (int, float):
        return value
    if isinstance(value, list):
        return [_encoded(part, blobs) for part in value]
    if isinstance(value, tuple):
        return {"$": "tuple", "of": [_encoded(part, blobs) for part in value]}
    if isinstance(value, dict):
        pairs = [[_encoded(k, blobs), _encoded(v, blobs)] for k, v in value.items()]
        return {"$": "dict", "of": pairs}
    if isinstance(value, bytes):
        blobs.append(value)
        return {"$": "bytes", "at": sum(map(len, blobs[:-1])), "size": len(value)}
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        if isinstance(value, (int, float)):  # a subclass
            return (int if isinstance(value, int) else float)(value)
        raise TypeError(type(value).__name__)
    import numpy as np

    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype.kind not in NUMERIC:
        raise TypeError(f"{type(value).__name__} of {array.dtype}")
    blobs.append(np.ascontiguousarray(array).tobytes())
    return {
        "$": "number" if isinstance(value, np.generic) else "array",
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "at": sum(map(len, blobs[:-1])),
        "size": len(blobs[-1]),
    }


def _decoded(value, blob: bytes):
    if isinstance(value, list):
        return [_decoded(part, blob) for part in value]
    if not isinstance(value, dict):
        return value
    kind = value["$"]
    if kind == "tuple":
        return tuple(_decoded(part, blob) for part in value["of"])
    if kind == "dict":
        return {_decoded(k, blob): _decoded(v, blob) for k, v in value["of"]}
    at, size = value["at"], value["size"]
    if not 0 <= at <= at + size <= len(blob):
        raise ValueError("an array beyond the end")
    if kind == "bytes":
        return blob[at : at + size]
    import numpy as np

    dtype, shape = np.dtype(str(value["dtype"])), tuple(map(int, value["shape"]))
    if kind not in ("array", "number") or dtype.kind not in NUMERIC or min(shape, default=0) < 0:
        raise ValueError(f"{kind} of {dtype}, shape {shape}")
    array = np.frombuffer(blob[at : at + size], dtype).reshape(shape).copy()
    return array[()] if kind == "number" else array


# --- one submission -----------------------------------------------------------------------------


def answer_requests(sock) -> None:
    """Do what the judge asks until it hangs up."""
    space = {"__name__": "__main__"}
    while (request := receive(sock)) is not None:
        try:
            reply = {"run": _run, "call": _call}[request["do"]](request, space)
        except MemoryError:
            reply = {"died": "out of memory"}
        try:
            send(sock, {"id": request["id"], **reply})
        except (TypeError, ValueError, RecursionError) as error:
            send(sock, {"id": request["id"], "kind": str(error)})


def _run(request: dict, space: dict) -> dict:
    """Run one cell."""
    file = f"<cell {request['cell']}>"
    text = request["source"]
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    try:
        exec(compile(text, file, "exec"), space)
    except BaseException as error:
        return _raised(error)
    return {"done": True}


def _call(request: dict, space: dict) -> dict:
    """Call a function of the submission, through the task's harness where there is one."""
    function, inputs = space.get(request["function"]), request["inputs"]
    if not callable(function):
        return {"undefined": True}
    called = function
    if request["harness"]:
        own = {"__name__": "harness"}
        exec(request["harness"], own)
        harness = own[request["harness_name"]]

        def called(*given):
            return harness(function, *given)

    before = _texts(inputs)
    try:
        output = called(*inputs)
    except MemoryError:
        raise
    except BaseException as error:
        return _raised(error)
    after, names = _texts(inputs), _parameters(function)
    changed = [k for k in range(len(inputs)) if before[k] != after[k]]
    if changed and not request["harness"]:
        return {"changed": names[changed[0]] if changed[0] < len(names) else ""}
    return {"output": output}


def _texts(inputs) -> list:
    """What the inputs hold, to see whether a function changed one."""
    kept = []
    for value in inputs:
        blobs = []
        kept.append((json.dumps(_encoded(value, blobs)), *blobs))
    return kept


def _raised(error: BaseException) -> dict:
    if isinstance(error, NotImplementedError):
        return {"unwritten": True}
    lines = [
        linecache.getline(frame.filename, frame.lineno).strip()
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith("<cell ")
    ]
    try:
        said = str(error)
    except Exception:
        said = ""
    return {"raised": type(error).__name__, "said": said[:2000], "line": (lines or [""])[-1][:300]}


def _parameters(function) -> list:
    try:
        return list(inspect.signature(function).parameters)
    except Exception:
        return []


def prepare(order: dict) -> None:
    """Set limits and a home before a line of the submission runs."""
    limits, environment = order["limits"], order["environment"]
    with open("/proc/self/statm") as file:
        held = [int(pages) * resource.getpagesize() for pages in file.read().split()]
    hard = {
        resource.RLIMIT_DATA: held[5] + limits["memory"],
        # What is shared or only reserved counts here alone; threads reserve much.
        resource.RLIMIT_AS: held[0] + 3 * limits["memory"],
        resource.RLIMIT_CPU: limits["cpu"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_FSIZE: limits["file"],
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for what, limit in hard.items():
        resource.setrlimit(what, (limit, limit))
    os.environ.update(environment)
    os.makedirs(environment["HOME"], exist_ok=True)
    os.chdir(environment["HOME"])
    _mirror(order["cache"], environment["TLCOURSE_CACHE"])
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = _Sink()


class _Sink(io.TextIOBase):
    """Takes what is printed and keeps nothing."""

    def write(self, text):
        return len(text)


def _mirror(source: str, target: str) -> None:
    """Links to the cached data in a folder of one's own: new files go here, old ones stay."""
    for folder, _, files in os.walk(source):
        own = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(own, exist_ok=True)
        for file in files:
            if not file.endswith(".lock"):
                os.symlink(os.path.join(folder, file), os.path.join(own, file))


# --- one process a submission -------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_MOUNTS, NEW_PIDS, NEW_IPC = 0x10000000, 0x20000, 0x20000000, 0x8000000
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SUBREAPER, PR_NO_NEW_PRIVS = 4, 24, 36, 38


def _must(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def become_nobody() -> None:
    """Give up root: its limits on processes do not hold for root."""
    if os.getuid() == 0 and "TLCOURSE_TRUSTED" not in os.environ:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def _own_namespaces() -> None:
    """Leave the others' processes, mounts and shared memory. The next fork is process 1."""
    user, group = os.getuid(), os.getgid()
    _must(LIBC.unshare(NEW_USER | NEW_MOUNTS | NEW_PIDS | NEW_IPC), "no namespace of its own")
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as opened:
            opened.write(text)


def _own_files(size: int) -> None:
    """Fresh, sized folders where one can write, and no way back.

    /proc stays: the libraries read it, and it opens nothing in a process of another namespace.
    """
    with open("/proc/sys/user/max_user_namespaces", "w") as opened:
        opened.write("0")
    _must(LIBC.mount(b"none", b"/", None, 0x4000 | 0x40000, None), "mounts of its own")
    for place in PLACES:
        where, options = place.encode(), f"size={size},mode=1777".encode()
        _must(LIBC.mount(b"tmpfs", where, b"tmpfs", 2 | 4, options), f"{place} of its own")
    _drop_capabilities()


def _drop_capabilities() -> None:
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _must(LIBC.prctl(PR_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _must(LIBC.capset(header, none), "no capabilities")


def serve(control, modules) -> None:
    """Import the modules once, then fork a process for each submission that the judge sends.

    The judge's orders are one byte: "+" brings a socket for a new process, "-" ends it.
    """
    for module in modules:
        importlib.import_module(module)
    LIBC.prctl(PR_SET_SUBREAPER, 1, 0, 0, 0)
    send(control, {"ready": True})
    child = 0
    while True:
        byte, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not byte:
            return
        if byte == b"+":
            child, why = _forked(control, sockets[0], receive(control))
            os.close(sockets[0])
            send(control, {"why": why})
        else:
            os.kill(child, signal.SIGKILL)  # process 1 of its namespace: all others go with it
            _, status, usage = os.wait4(child, 0)
            send(control, {"status": status, "cpu": usage.ru_utime + usage.ru_stime})


def _forked(control, sock: int, order: dict):
    """Return the process that will answer on the socket and "", or 0 and the reason."""
    read, write = os.pipe()
    between = os.fork()
    if between == 0:
        said = b"0 no process"
        try:
            control.close()
            _own_namespaces()
            child = os.fork()
            if child == 0:
                _become(sock, order)
            said = str(child).encode()
        except OSError as error:
            said = f"0 {error}".encode()
        finally:
            os.write(write, said)
            os._exit(0)
    os.waitpid(between, 0)
    child, _, why = os.read(read, 4096).decode().partition(" ")
    os.close(read), os.close(write)
    return int(child), why


def _become(sock: int, order: dict) -> None:
    """Be the process of one submission, to the end."""
    try:
        os.setsid()  # or kill(0) would reach the server
        os.closerange(3, sock), os.closerange(sock + 1, 256)
        _own_files(order["limits"]["tmp"])
        prepare(order)
        answer_requests(socket.socket(fileno=sock))
    finally:
        os._exit(0)


def main() -> None:
    """Be for one submission, or for one after the other."""
    become_nobody()
    sock = socket.socket(fileno=int(sys.argv[1]))
    if sys.argv[2] == "serve":
        serve(sock, sys.argv[3:])
    else:
        order = receive(sock)
        _drop_capabilities()
        prepare(order)
        answer_requests(sock)


if __name__ == "__main__":
    main()
