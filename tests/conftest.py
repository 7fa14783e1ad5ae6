"""What holds for every test."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# No test may write into the record of whoever runs the tests.
os.environ["TLCOURSE_PROGRESS"] = "off"

GRADING = {"grading", "hostile"}  # folders of tests


@functools.cache
def _no_sandbox() -> str:
    """Why submissions cannot be graded here, if so."""
    if sys.platform != "linux":
        return "grading runs on Linux"
    command = ["bwrap", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true"]
    if shutil.which("bwrap") and subprocess.run(command, check=False).returncode == 0:
        return ""
    return "" if os.getenv("CI") else "needs bubblewrap: see docs/instructors.md"  # CI has it


def pytest_collection_modifyitems(items):
    """Leave out what needs a sandbox where there is none."""
    for item in items:
        if GRADING & set(Path(item.path).parts) and (why := _no_sandbox()):
            item.add_marker(pytest.mark.skip(reason=why))
