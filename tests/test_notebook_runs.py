"""Every notebook of the course runs in the smoke profile, in both frameworks."""

import pytest

from tlcourse import execution, notebooks

ROOT = notebooks.project_root()
JOBS = [
    pytest.param(source, framework, id=f"{source.stem}-{framework}")
    for source in notebooks.sources(ROOT)
    for framework in notebooks.FRAMEWORKS
]


@pytest.mark.parametrize(("source", "framework"), JOBS)
def test_the_notebook_runs_in_smoke(source, framework, tmp_path):
    (result,) = execution.run([(source, framework)], "smoke", 0, tmp_path)
    assert (result.status, result.error) == ("ok", None)
    assert all(made["holds"] is None for made in result.claims)
