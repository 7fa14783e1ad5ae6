"""The command line, as somebody types it."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata

import psutil
import pytest

HEAD = '# %% tags=["parameters"]\nPROFILE = "cpu"\nSEED = 0\n\n# %%\n'


def tlcourse(*words, cwd=None):
    command = [sys.executable, "-c", "from tlcourse.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def course(tmp_path):
    """A course folder with two notebooks: one that ends and one that never does."""
    folder = tmp_path / "notebooks" / "source"
    folder.mkdir(parents=True)
    (folder / "01_quick.py").write_text(HEAD + "print(PROFILE, SEED)\n")
    (folder / "02_endless.py").write_text(
        HEAD + "import time, pathlib\npathlib.Path('started').touch()\ntime.sleep(600)\n"
    )
    return tmp_path


def test_help_answers_at_once_and_gives_an_example_of_each_command():
    started = time.perf_counter()
    page = tlcourse("--help").stdout
    assert time.perf_counter() - started < 1.5  # 0.1 s on a quiet machine
    for command in ("assets", "doctor", "run", "notebooks", "progress"):
        assert command in page
        assert f"Example: tlcourse {command}" in tlcourse(command, "--help").stdout


def test_the_command_line_loads_nothing_heavy_for_its_help():
    program = "import sys, tlcourse.cli; print({'numpy', 'torch', 'nbformat'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_the_version_is_the_installed_one():
    assert tlcourse("--version").stdout == f"tlcourse {metadata.version('tlcourse')}\n"


def test_assets_lists_every_asset_with_its_licence():
    from tlcourse.assets import catalogue

    page = tlcourse("assets").stdout
    for name in catalogue():
        assert name in page
    assert "CC-BY-NC-SA-4.0" in page


def test_doctor_prints_the_same_checks_as_a_table_and_as_json():
    pytest.importorskip("tlcourse.doctor")
    done = tlcourse("doctor", "--json")
    checks = json.loads(done.stdout)
    assert all({"name", "ok", "found", "advice"} <= set(check) for check in checks)
    assert done.returncode == int(any(check["ok"] is False for check in checks))
    page = tlcourse("doctor").stdout
    assert all(check["name"] in page for check in checks)


def test_an_unknown_notebook_is_one_sentence_with_status_2(course):
    done = tlcourse("run", "99", cwd=course)
    assert done.returncode == 2
    assert done.stderr == (
        "tlcourse: there is no notebook '99'; the notebooks are: 01_quick, 02_endless\n"
    )


def test_an_unknown_profile_is_answered_with_the_known_ones(course):
    done = tlcourse("run", "01", "--profile", "fast", cwd=course)
    assert done.returncode == 2
    for known in ("smoke", "cpu", "gpu"):
        assert known in done.stderr


def test_a_run_shows_progress_and_a_table_and_writes_its_results(course):
    done = tlcourse(
        "run", "01", "--framework", "pytorch", "--profile", "smoke", "--seed", "4", cwd=course
    )
    assert done.returncode == 0, done.stderr
    assert "[1/1] 01_quick (PyTorch)" in done.stdout and "1 of 1 notebooks ok" in done.stdout
    (folder,) = (course / "runs").iterdir()
    assert json.loads((folder / "run.json").read_text())[0]["status"] == "ok"
    assert "smoke 4" in (folder / "pytorch" / "01_quick.ipynb").read_text()


def test_a_failing_run_ends_with_status_1(course):
    (course / "notebooks" / "source" / "03_bad.py").write_text(HEAD + "1 / 0\n")
    done = tlcourse("run", "03", "--framework", "pytorch", "--out", "here", cwd=course)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
    assert json.loads((course / "here" / "run.json").read_text())[0]["status"] == "failed"


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_control_c_keeps_what_is_done_and_leaves_no_kernel(course):
    command = [sys.executable, "-c", "from tlcourse.cli import main; main()", "run"]
    command += ["--framework", "pytorch", "--out", "here"]
    running = subprocess.Popen(command, cwd=course, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (course / "notebooks" / "source" / "started").exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.1)
    kernels = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    page, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    told = json.loads((course / "here" / "run.json").read_text())
    assert [one["status"] for one in told] == ["ok", "interrupted"]
    assert "1 of 2 notebooks ok" in page
    assert kernels and not psutil.wait_procs(kernels, timeout=5)[1]


def test_views_are_built_once_and_checked(course):
    words = ("notebooks", "01", "--framework", "pytorch")
    stale = tlcourse(*words, "--check", cwd=course)
    assert stale.returncode == 1
    assert "01_quick.ipynb is stale: not built yet" in stale.stdout
    assert "1 of 1 notebooks ok" in tlcourse(*words, cwd=course).stdout
    assert tlcourse(*words, "--check", cwd=course).returncode == 0
    assert "all 1 views are current" in tlcourse(*words, cwd=course).stdout


def test_a_view_can_be_run_by_papermill_itself(course, tmp_path):
    tlcourse("notebooks", "01", "--framework", "pytorch", cwd=course)
    view = course / "notebooks" / "pytorch" / "01_quick.ipynb"
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(view), str(out), "-p", "PROFILE", "smoke"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "smoke 0" in out.read_text()
