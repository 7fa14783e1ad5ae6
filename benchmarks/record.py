"""Keep a benchmark's result with what it was measured on: machine, date, commit, command."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "tensorflow", "keras", "openvino", "scikit-learn", "numpy")


def circumstances() -> dict:
    """Return where and when this process runs, as plain data."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent
    )
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "packages": {name: version(name) for name in PACKAGES},
    }


def write(name: str, measured: dict) -> Path:
    """Write ``benchmarks/results/<name>.json`` whole: the circumstances, then what was measured."""
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(circumstances() | measured, indent=2) + "\n")
    os.replace(part, path)
    return path


def options(description: str) -> argparse.ArgumentParser:
    """Return the options that every run in pieces takes; a script may add its own."""
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after about this")
    parser.add_argument("--list", action="store_true", help="print the pieces left and stop")
    return parser


def recorded(path: Path) -> list[dict]:
    """Return the runs that the file holds already, none where there is no file."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def as_piece(kind):
    """Return the function that reads a piece, a dataclass, back from its recorded run."""
    return lambda run: kind(**{name: run[name] for name in kind.__dataclass_fields__})


def pieces_left(path: Path, plan: list, piece_of, listing: bool) -> list:
    """Return the pieces of the plan that are not recorded; where only a listing is asked for, none.

    `piece_of` reads a piece from its recorded run. What is left is printed when it is not returned.
    """
    done = {piece_of(run) for run in recorded(path)}
    left = [piece for piece in plan if piece not in done]
    if left and not listing:
        return left
    print(*left, f"{len(left)} pieces left", sep="\n")
    return []


def run_pieces(path: Path, left: list, measure, seconds: float, header: dict) -> None:
    """Measure one piece after the other; each result, which has "seconds", is kept at once."""
    began, header = time.perf_counter(), circumstances() | header
    for number, piece in enumerate(left, start=1):
        found = measure(piece)
        _add(path, found, header)
        print(f"{number}/{len(left)}", found, flush=True)
        if time.perf_counter() - began + 0.5 * found["seconds"] > seconds:
            break


def _add(path: Path, found: dict, header: dict) -> None:
    """Add one run to the file, a line each; the file is replaced as a whole."""
    lines = ",\n  ".join(json.dumps(run) for run in [*recorded(path), found])
    part = path.with_suffix(".part")
    part.write_text(f'{json.dumps(header, indent=1)[:-2]},\n "runs": [\n  {lines}\n ]\n}}\n')
    os.replace(part, path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
