"""Look at this machine and say what would keep the course from running, and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tlcourse import assets

PYTHONS = ((3, 11), (3, 13))  # first and last minor version that every pinned package supports
DISK_GB = 3  # decoded data 0.8 GB, features of every notebook in both frameworks 1 GB, and room
MEMORY_GB = 4
INSTRUCTIONS = {
    # what the processor calls it -> what a reader calls it
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "bf16",
    "amx_bf16": "amx",
    "bf16": "bf16",  # ARM
    "asimd": "neon",
}
REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"


@dataclass(frozen=True)
class Check:
    """One thing looked at: ok True, False, or None for a note; advice is empty where ok is True."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.ok:
            object.__setattr__(self, "advice", "")
        else:  # not str.capitalize, which lowers the rest of a path
            object.__setattr__(self, "advice", self.advice[:1].upper() + self.advice[1:])


def checks() -> list[Check]:
    """Return every check of this machine; nothing is changed and no framework is imported."""
    return [
        python(sys.version_info[:3]),
        packages(REQUIREMENTS),
        disk(),
        cores(),
        memory(),
        instruction_sets(),
        gpu(),
        cache(),
        kernel(),
        *asset_checks(),
    ]


def python(version: tuple[int, int, int]) -> Check:
    """Check the version of Python against those that every pinned package supports."""
    first, last = (".".join(map(str, pair)) for pair in PYTHONS)
    return Check(
        "Python",
        PYTHONS[0] <= version[:2] <= PYTHONS[1],
        f"{'.'.join(map(str, version))} ({sys.executable})",
        f"Install Python {first} to {last}, remove .venv and set the course up again.",
    )


def packages(requirements: Path) -> Check:
    """Compare the installed packages with the exact pins of a requirements file."""
    if not requirements.exists():
        return Check("packages", None, "no requirements.txt beside the package: not compared")
    pins = re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;#]+)", requirements.read_text(), re.M)
    wrong = []
    for name, pinned in pins:
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if installed.split("+")[0] != pinned:  # 2.13.0+cpu is 2.13.0
            wrong.append(f"{name} is {installed}, pinned {pinned}")
    return Check(
        "packages",
        not wrong,
        "; ".join(wrong) or f"{len(pins)} as pinned",
        f"Type `{sys.executable} -m pip install -r {requirements}`.",
    )


def disk() -> Check:
    """Check the free space where the cache lies."""
    folder = assets.cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    return Check(
        "disk",
        free >= DISK_GB,
        f"{free:.0f} GB free for {assets.cache_dir()}",
        f"Free {DISK_GB} GB there, or set TLCOURSE_CACHE to a folder on another disk.",
    )


def cores() -> Check:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    advice = "The minutes in the notebooks are for two cores: expect twice the time."
    return Check("cores", True if number >= 2 else None, str(number), advice)


def memory() -> Check:
    """Check the memory of the machine."""
    import psutil

    memory = psutil.virtual_memory()
    return Check(
        "memory",
        memory.total >= MEMORY_GB * 1e9,
        f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB available",
        f"The notebooks need {MEMORY_GB} GB: run them with --profile smoke, or on another machine.",
    )


def instruction_sets() -> Check:
    """List the vector instructions that decide how fast the features are."""
    flags = _cpu_flags()
    if flags is None:
        return Check("instruction sets", None, f"not known on {platform.system()}")
    found = sorted({short for flag, short in INSTRUCTIONS.items() if flag in flags})
    fast = "avx2" in found or "neon" in found
    advice = "Without avx2 the notebooks take several times as long: use --profile smoke."
    return Check("instruction sets", True if fast else None, ", ".join(found) or "none", advice)


def _cpu_flags() -> set[str] | None:
    try:
        if sys.platform == "linux":
            text = Path("/proc/cpuinfo").read_text()
            return set(re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)[1].split())
        if sys.platform == "darwin":
            return _darwin_flags(_output("sysctl", "machdep.cpu", "hw.optional"))
    except (OSError, TypeError, subprocess.SubprocessError):
        pass
    return None


def _darwin_flags(text: str) -> set[str]:
    """The flags in the words of Linux: Intel Macs list them, Apple silicon answers one by one."""
    flags = {word.lower() for word in text.split()}
    if re.search(r"hw\.optional\.(neon|AdvSIMD|arm64): 1", text):
        flags.add("asimd")
    if "hw.optional.arm.FEAT_BF16: 1" in text:
        flags.add("bf16")
    return flags


def gpu() -> Check:
    """Name the GPU; the course needs none, so its absence is a note."""
    if shutil.which("nvidia-smi"):
        try:
            query = ("--query-gpu=name,memory.total", "--format=csv,noheader")
            names = _output("nvidia-smi", *query).strip()
        except (OSError, subprocess.SubprocessError):
            return Check("GPU", None, "nvidia-smi is installed but finds no working GPU")
        return Check("GPU", True, names.replace("\n", "; "))
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Check("GPU", True, "Apple silicon (PyTorch calls it mps)")
    return Check("GPU", None, "none: everything runs on the processor")


def cache() -> Check:
    """Check that the cache can be written."""
    folder = assets.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
        problem = ""
    except OSError as error:
        problem = f" cannot be written: {error.strerror}"
    advice = "Set TLCOURSE_CACHE to a folder that you own."
    return Check("cache", not problem, f"{folder}{problem}", advice)


def kernel() -> Check:
    """Check that the Jupyter kernel "python3" runs this interpreter."""
    advice = f"Type `{sys.executable} -m ipykernel install --sys-prefix --name python3`."
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        install = f"Type `{sys.executable} -m pip install -r {REQUIREMENTS}`."
        return Check("kernel", False, "jupyter_client is missing", install)
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except (NoSuchKernel, IndexError):
        return Check("kernel", False, "there is no kernel python3", advice)
    # Jupyter itself puts its own interpreter in the place of a bare "python".
    bare = re.fullmatch(r"python(3(\.\d+)?)?(\.exe)?", program) is not None
    ok = bare or _same_program(program, sys.executable)
    return Check("kernel", ok, f"python3 runs {sys.executable if bare else program}", advice)


def _same_program(one: str, other: str) -> bool:
    # Not resolved: in a virtual environment python is a link to the one outside.
    return os.path.normcase(os.path.abspath(one)) == os.path.normcase(os.path.abspath(other))


def asset_checks() -> list[Check]:
    """Return one check for each weight file and data set."""
    return [
        Check(
            f"asset {asset.name}",
            state == "ready",
            f"{state}, {asset.size / 1e6:.1f} MB, {asset.licence}",
            assets.advice(asset),
        )
        for asset, state, _ in assets.states()
    ]


def _output(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if not run.stdout.strip():
        raise subprocess.SubprocessError(run.stderr)
    return run.stdout
