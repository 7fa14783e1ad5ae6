"""A learner opens a notebook in JupyterLab in a real browser and runs all its cells."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tlcourse.notebooks import project_root

ROOT = project_root()
SCREENSHOTS = Path(__file__).parent / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    }
}
SECONDS_TO_RUN = 240
# The cells' state as JupyterLab holds it; the page shows only those in sight.
STATE = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const session = panel?.sessionContext?.session;
    const cells = panel?.content?.model ? [...panel.content.model.cells] : [];
    const code = cells.filter(c => c.type === 'code' && c.sharedModel.source.trim());
    return {
        kernel: session?.kernel?.status ?? 'none',
        executed: code.filter(c => c.executionCount !== null).length,
        code: code.length,
        errors: code.flatMap(c => c.sharedModel.getOutputs())
            .filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue),
    };
}"""
CLEAR = "() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')"
# Braces without return: a promise would make Playwright wait for the last cell, without a limit.
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        reason = f"no browser found: install Chromium (one of {', '.join(BROWSERS)} on the path)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab with nothing of this user's: (address, token, folder that it serves)."""
    home = tmp_path_factory.mktemp("lab")
    served = home / "course"
    served.mkdir()
    overrides = home / "settings"
    overrides.mkdir()
    (overrides / "overrides.json").write_text(json.dumps(SETTINGS))
    token, port = secrets.token_hex(16), _free_port()
    environment = os.environ | {
        f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    # The kernel python3 of this interpreter comes before any that a user has installed.
    environment |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                f"--ServerApp.root_dir={served}",
                f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0",
                "--ServerApp.ip=127.0.0.1",
                f"--IdentityProvider.token={token}",
                "--LabApp.expose_app_in_browser=True",
                "--LabApp.extension_manager=readonly",
                "--LabApp.news_url=",
                f"--LabApp.app_settings_dir={overrides}",
                f"--LabApp.user_settings_dir={home / 'user-settings'}",
                f"--LabApp.workspaces_dir={home / 'workspaces'}",
            ],
            cwd=served,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status?token={token}", server, home / "log")
        yield address, token, served
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(address: str, server, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail("JupyterLab did not start:\n" + log.read_text()[-3000:])


def _notebook() -> Path:
    """Notebook 04, or the start page as long as it does not exist."""
    folder = ROOT / "notebooks" / "pytorch"
    return next(iter([*folder.glob("04_*.ipynb"), *folder.glob("00_*.ipynb")]))


def _open(browser, lab, name: str):
    address, token, _ = lab
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    # A workspace of its own: the shared one would open the notebooks of the tests before, too.
    page.goto(f"{address}/lab/workspaces/{Path(name).stem}/tree/{name}?token={token}")
    page.wait_for_function(
        f"() => window.jupyterapp && ({STATE})().kernel === 'idle'", timeout=90_000
    )
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=30_000)
    return page


def test_a_notebook_runs_from_top_to_bottom_in_jupyterlab(browser, lab):
    original = _notebook()
    shutil.copy(original, lab[2])
    page = _open(browser, lab, original.name)
    page.evaluate(CLEAR)
    assert page.evaluate(STATE)["executed"] == 0
    page.evaluate(RUN_ALL)
    state = _run_to_the_end(page)
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{original.stem}.png")
    assert state["errors"] == []
    assert state["executed"] == state["code"] > 0
    assert page.locator(".jp-toast-message").count() == 0
    page.close()


def _run_to_the_end(page) -> dict:
    """Wait until the last cell has run and the kernel is idle, or a cell has failed."""
    deadline = time.monotonic() + SECONDS_TO_RUN
    while time.monotonic() < deadline:
        state = page.evaluate(STATE)
        done = state["executed"] == state["code"] and state["kernel"] == "idle"
        if state["errors"] or done:
            page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=30_000)
            return page.evaluate(STATE)
        page.wait_for_timeout(250)
    pytest.fail(f"the notebook did not end within {SECONDS_TO_RUN} seconds: {state}")


SLIDER = """
import matplotlib.pyplot as plt
from tlcourse import figures
frames = {}
for depth in (1, 2, 3):
    fig, ax = plt.subplots(figsize=(4, 2))
    ax.bar(["probe"], [depth])
    ax.set(title=f"{depth} of 3", ylabel="accuracy")
    frames[f"block {depth}"] = fig
figures.slider(frames, "depth", "one bar", start="block 2")
"""


def _slider_notebook():
    import nbformat

    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    cells = [nbformat.v4.new_code_cell(SLIDER), nbformat.v4.new_markdown_cell("The end.")]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_a_slider_is_moved_by_keys_that_never_reach_the_notebook(browser, lab):
    import nbformat

    nbformat.write(_slider_notebook(), lab[2] / "slider.ipynb")
    page = _open(browser, lab, "slider.ipynb")
    page.evaluate(RUN_ALL)
    slider = page.get_by_role("slider", name="depth")
    image = page.locator(".jp-OutputArea img")
    slider.wait_for(timeout=60_000)
    assert image.get_attribute("alt") == "one bar (depth: block 2)"
    first = image.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "block 3"
    assert image.get_attribute("alt") == "one bar (depth: block 3)"
    assert image.get_attribute("src") != first
    for key in ("b", "x", "d", "d", "Enter", "Home"):  # insert, cut, delete, edit; then first
        page.keyboard.press(key)
    assert image.get_attribute("alt") == "one bar (depth: block 1)"
    assert (
        page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.cells.length") == 2
    )
    page.screenshot(path=SCREENSHOTS / "slider.png")
    page.close()


def test_a_slider_from_a_stranger_is_one_figure_with_its_text(browser, lab):
    """A view as it comes from the repository, which JupyterLab does not trust."""
    import nbformat
    from nbclient import NotebookClient

    notebook = _slider_notebook()
    NotebookClient(notebook).execute()
    nbformat.write(notebook, lab[2] / "stranger.ipynb")
    page = _open(browser, lab, "stranger.ipynb")
    image = page.locator(".jp-OutputArea img")
    image.wait_for(timeout=60_000)
    assert image.count() == 1
    assert image.get_attribute("alt") == "one bar (depth: block 2)"
    assert page.get_by_role("slider").count() == 0
    assert "const state" not in page.locator(".jp-OutputArea-output").inner_text()
    page.close()


# The active cell, its text and what its output says.
ACTIVE = """() => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const cell = notebook.activeCell;
    return {
        index: notebook.activeCellIndex,
        mode: notebook.mode,
        count: notebook.model.cells.length,
        source: cell.model.sharedModel.source,
        output: cell.node.querySelector('.jp-Cell-outputWrapper')?.innerText ?? '',
    };
}"""


def _go_to(page, part: str) -> None:
    """Move down with the arrow key until the active cell holds this text."""
    for _ in range(page.evaluate(ACTIVE)["count"]):
        if part in page.evaluate(ACTIVE)["source"]:
            return
        page.keyboard.press("ArrowDown")
    pytest.fail(f"no cell holds {part!r}")


def _say(page, text: str) -> None:
    """Write a text into the active cell in place of what it holds, and run it."""
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
    _run_here(page)


def _run_here(page) -> str:
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(300)
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=60_000)
    page.wait_for_timeout(300)
    return page.evaluate(ACTIVE)["output"]


def test_an_exercise_is_failed_understood_and_solved_by_keyboard_alone(browser, lab):
    original = next((ROOT / "exercises" / "pytorch").glob("ex04_*.ipynb"))
    shutil.copy(original, lab[2])
    page = _open(browser, lab, original.name)
    page.keyboard.press("Escape")
    for part in ("PROFILE =", "import numpy as np", "runtime.start("):
        _go_to(page, part)
        _run_here(page)
    _go_to(page, "def to_input")
    cells = page.evaluate(ACTIVE)["count"]
    _run_here(page)
    page.keyboard.press("ArrowDown")
    assert "to_input is not written yet" in _run_here(page)

    page.keyboard.press("ArrowUp")
    _say(page, "def to_input(images):\n    return images / 255")
    page.keyboard.press("ArrowDown")
    first = _run_here(page)
    assert "✘ ex04.1" in first and "What does a black pixel become" in first
    second = _run_here(page)
    assert second.count("Hint:") == 2 > first.count("Hint:")
    page.screenshot(path=SCREENSHOTS / "exercise.png")

    page.keyboard.press("ArrowUp")
    mended = """def to_input(images):
    if images.ndim == 3:
        images = np.stack([images] * 3, axis=-1)
    return (images / 255 - 0.498) / 0.502"""
    _say(page, mended)
    page.keyboard.press("ArrowDown")
    answer = _run_here(page)
    assert "4 of 4 points" in answer and "Solved in ex04: 1 of 7 tasks" in answer
    assert page.evaluate(ACTIVE)["count"] == cells
    page.screenshot(path=SCREENSHOTS / "exercise_solved.png")
    page.close()
