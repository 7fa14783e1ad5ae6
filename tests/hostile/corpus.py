"""What a notebook may try; every entry is the code of one cell.

ATTACKS stand behind the stubs of ex01, so nothing is solved: no point may come of them.
DAMAGE stands in front of the answers of ex01, all right: it may cost what it breaks, nothing else.
"""

ATTACKS = {
    "patch the checker": """
from tlcourse.exercises import kit
kit.evaluate = lambda task, *a, **k: kit.Result(task)
kit.expect = kit.require = lambda *a, **k: None
kit.alike = lambda *a, **k: True
def head_gradient(F, W, y): return None
""",
    "patch the builtins": """
import builtins
builtins.isinstance = lambda *a: True
builtins.abs = builtins.sum = lambda *a, **k: 0
builtins.AssertionError = builtins.Exception = builtins.ValueError = StopIteration
def head_gradient(F, W, y): return None
""",
    "patch NumPy": """
import numpy as np
np.allclose = np.isclose = np.array_equal = lambda *a, **k: True
np.asarray = lambda *a, **k: np.zeros(3)
def head_gradient(F, W, y): return "x"
""",
    "an object that equals everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __gt__ = __le__ = __ge__ = __eq__
    __hash__ = object.__hash__
def head_gradient(F, W, y): return Any()
""",
    "a number that equals everything": """
class Any(float):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    __rsub__ = __abs__ = __sub__
    shape = (4, 3)
def head_gradient(F, W, y): return Any(1.0)
""",
    "an array that equals everything": """
import numpy as np
class Any(np.ndarray):
    def __eq__(self, other): return np.ones(self.shape, bool)
    def __array_ufunc__(self, *a, **k): return np.zeros(self.shape)
    def __array__(self, *a, **k): raise RuntimeError("no")
def head_gradient(F, W, y): return np.full((2, 2), 7.0).view(Any)
""",
    "a dict that answers every question": """
class Any(dict):
    def __missing__(self, key): return self
    def __eq__(self, other): return True
    def items(self): return [("a", 1)]
def head_gradient(F, W, y): return Any()
""",
    "a thing that claims to be a tensor": """
class Tensor:
    def detach(self): return self
    def cpu(self): return self
    def numpy(self): return "right"
    dtype = shape = None
def head_gradient(F, W, y): return Tensor()
""",
    "a pickle": """
import os, pickle
class Bomb:
    def __reduce__(self): return os.system, ("touch /tmp/unpickled",)
def head_gradient(F, W, y): return pickle.dumps(Bomb())
""",
    "an array of objects": """
import numpy as np
def head_gradient(F, W, y): return np.array([print, None, {}], dtype=object)
""",
    "a record array": """
import numpy as np
def head_gradient(F, W, y): return np.zeros(3, dtype=[("a", float), ("b", object)])
""",
    "a list in itself": """
def head_gradient(F, W, y):
    endless = []
    endless.append(endless)
    return endless
""",
    "a list a million deep": """
def head_gradient(F, W, y):
    deep = []
    for _ in range(1_000_000):
        deep = [deep]
    return deep
""",
    "a number of a million digits": """
def head_gradient(F, W, y): return 10 ** 1_000_000
""",
    "text that is no text": """
def head_gradient(F, W, y): return "\\ud800\\x1b]0;owned\\x07\\x00<script>alert(1)</script>"
""",
    "look into the frames": """
import sys
def head_gradient(F, W, y):
    found, frame = [], sys._getframe()
    while frame:
        for scope in (frame.f_locals, frame.f_globals):
            found += [v for k, v in scope.items() if "want" in k or "expect" in k or "refer" in k]
        frame = frame.f_back
    return found[0] if found else None
""",
    "look through all objects": """
import gc
def head_gradient(F, W, y):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and any(k in thing for k in ("wanted", "expected", "TASKS")):
            return thing.get("wanted", thing.get("expected"))
    return None
""",
    "read the reference from disk": """
import glob, os
def head_gradient(F, W, y):
    found = [p for p in glob.glob("/**/*ex01*", recursive=True) if "solution" in p or "hidden" in p]
    return open(found[0]).read() if found else None
""",
    "import the reference": """
import sys
sys.path[:0] = ["/", "/work", "..", "../.."]
def head_gradient(F, W, y):
    try:
        from solutions.hidden import ex01
        return ex01.ALTERNATIVES["ex01.1"][0](F, W, y)
    except ImportError:
        return None
""",
    "send an answer before it is asked for": """
import gc, json, socket, struct
def head_gradient(F, W, y):
    for thing in gc.get_objects():
        if isinstance(thing, socket.socket):
            text = json.dumps({"id": "0", "output": 1}).encode()
            thing.sendall(struct.pack("!IQ", len(text), 0) + text)
    return None
""",
    "write to every file descriptor": """
import os
def head_gradient(F, W, y):
    for fd in range(3, 256):
        try: os.write(fd, b'\\x00' * 64)
        except OSError: pass
    return None
""",
    "announce an answer without end": """
import gc, socket, struct
def head_gradient(F, W, y):
    for thing in gc.get_objects():
        if isinstance(thing, socket.socket):
            thing.sendall(struct.pack("!IQ", 2**32 - 1, 2**63))
""",
    "an array beyond its bytes": """
import gc, json, socket, struct, sys
def head_gradient(F, W, y):
    token = sys._getframe(2).f_locals.get("request", {}).get("id", "")
    array = {"$": "array", "dtype": "<f8", "shape": [2**40, 2**40], "at": -8, "size": 2**60}
    text = json.dumps({"$": "dict", "of": [["id", token], ["output", array]]}).encode()
    for thing in gc.get_objects():
        if isinstance(thing, socket.socket):
            thing.sendall(struct.pack("!IQ", len(text), 0) + text)
""",
    "take over the worker": """
import sys
worker = sys.modules["__main__"]
for name in ("_call", "_run", "send", "_encoded"):
    setattr(worker, name, lambda *a, **k: {"output": True})
def head_gradient(F, W, y): return True
""",
    "magics and input transformers": """
%load_ext autoreload
!touch /tmp/shell
get_ipython().input_transformers_post.append(lambda lines: ["points = 30"])
def head_gradient(F, W, y): return 30
""",
    "a check of its own": """
def check(*a, **k): return 30
check("ex01.1", 30)
def head_gradient(F, W, y): return 30
""",
    "not a number": """
import numpy as np
def head_gradient(F, W, y): return float("nan")
""",
    "a generator": """
def head_gradient(F, W, y):
    yield F
""",
}

DAMAGE = {
    "end the process": "import os\nos._exit(0)",
    "exit": "raise SystemExit(0)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "kill the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "kill everybody": "import os\nos.kill(-1, 9)",
    "kill by number": """
import os
for pid in range(2, 40_000):
    try: os.kill(pid, 9)
    except OSError: pass
""",
    "a loop without end": "while True: pass",
    "a loop that cannot be interrupted": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "sleep for a day": "import time\ntime.sleep(86_400)",
    "threads that sleep": """
import threading, time
for _ in range(20):
    threading.Thread(target=time.sleep, args=(86_400,)).start()
""",
    "a thousand threads": """
import threading, time
for _ in range(1000):
    threading.Thread(target=time.sleep, args=(86_400,), daemon=True).start()
""",
    "a fork bomb": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "a memory bomb": "held = []\nwhile True: held.append(bytearray(2**26))",
    "a shared memory bomb": """
import mmap
held = []
while True:
    held.append(mmap.mmap(-1, 2**26))
    held[-1].write(b"x" * 2**26)
""",
    "fill the disk": """
import os, tempfile
for k in range(100):
    with open(f"{tempfile.gettempdir()}/fill{k}", "wb") as file:
        file.write(b"x" * 2**25)
""",
    "print without end": "for _ in range(200_000): print('x' * 1000)",
    "write to standard output itself": "import os\nfor _ in range(5000): os.write(1, b'x' * 65536)",
    "warnings on stderr": """
import sys, warnings
warnings.warn("old")
print("careful", file=sys.stderr)
""",
    "recursion": "def f(): return f()\nf()",
    "delete everything": """
import os, shutil
for place in ("/", "/tmp", "/student", "/work", "/home", "/root", os.path.expanduser("~")):
    shutil.rmtree(place, ignore_errors=True)
""",
    "write into the package": """
import tlcourse, numpy, os
for place in (tlcourse.__file__, numpy.__file__, os.path.dirname(os.__file__) + "/os.py"):
    open(place, "a").write("raise SystemExit")
""",
    "write into the data": """
import os
for folder, _, files in os.walk("/cache"):
    for name in files:
        open(os.path.join(folder, name), "wb").write(b"")
for folder, _, files in os.walk(os.environ["TLCOURSE_CACHE"]):
    for name in files:
        open(os.path.join(folder, name), "wb").write(b"")
""",
    "remount and escape": """
import ctypes
libc = ctypes.CDLL(None)
libc.umount2(b"/student", 2), libc.umount2(b"/dev/shm", 2)
libc.mount(b"none", b"/", None, 32, None)
libc.unshare(0x10000000 | 0x20000)
libc.chroot(b"/student"), libc.setuid(0), libc.setresuid(0, 0, 0)
assert libc.mount(b"none", b"/", None, 32, None) != 0
""",
    "trace the others": """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in range(1, 200):
    if pid != os.getpid():
        assert libc.ptrace(16, pid, 0, 0) != 0
""",
    "daemons": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        time.sleep(86_400)
    os._exit(0)
""",
    "trace every line": """
import sys, threading
sys.settrace(lambda *a: None), sys.setprofile(lambda *a: None)
threading.settrace(lambda *a: None)
""",
    "close every file": "import os\nos.closerange(0, 256)",
    "an error with an escape": """
raise ValueError("\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>=cmd()")
""",
    "an error that cannot be shown": """
class E(Exception):
    def __str__(self): raise self
raise E()
""",
    "no Python": "this is { not Python",
    "null bytes": "x = '\\x00'\ny = 1\x00",
    "an import that is not there": "import not_a_library_at_all",
    "limits of its own": """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
try: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
except (OSError, ValueError): pass
else: raise SystemError("no limit")
""",
}
