import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from tlcourse import assets, doctor

# Programs that stand for another machine: one with a GPU, and one whose driver is broken.
GPU = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB'\n"
BROKEN = "#!/bin/sh\necho 'Failed to initialize NVML' >&2; exit 9\n"
posix = pytest.mark.skipif(os.name == "nt", reason="a shell script in the place of a program")


def by_name(name):
    (check,) = [check for check in doctor.checks() if check.name == name]
    return check


@pytest.fixture
def put_on_path(tmp_path, monkeypatch):
    def put(name, text):
        program = tmp_path / name
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return put


def test_this_machine_passes_or_is_told_what_to_do():
    for check in doctor.checks():
        assert check.found, check.name
        assert "\n" not in check.found
        assert bool(check.advice) or check.ok is not False, check.name
        assert not check.advice or check.advice[0].isupper()


def test_the_doctor_is_quick_and_imports_no_framework():
    for name in assets.catalogue():
        assets.locate(name)
    code = "import sys; from tlcourse import doctor; doctor.checks(); print(*sys.modules)"
    begin = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - begin < 2
    loaded = set(run.stdout.split())
    assert "jupyter_client" in loaded
    assert not {"torch", "tensorflow", "keras", "sklearn"} & loaded


@pytest.mark.parametrize(
    ("version", "ok"),
    [((3, 10, 9), False), ((3, 11, 0), True), ((3, 13, 4), True), ((3, 14, 0), False)],
)
def test_python_3_11_to_3_13_will_do(version, ok):
    check = doctor.python(version)
    assert check.ok is ok
    assert ok or "3.11 to 3.13" in check.advice


def test_wrong_and_missing_packages_are_named_with_the_pin(tmp_path):
    pins = tmp_path / "requirements.txt"
    pins.write_text(
        "# pins\nnumpy==1.0  # old\nno-such-package==2.0\npytest==" + pytest.__version__
    )
    check = doctor.packages(pins)
    assert check.ok is False
    numpy = metadata.version("numpy")
    assert check.found == f"numpy is {numpy}, pinned 1.0; no-such-package is missing"
    assert str(pins) in check.advice


def test_the_right_packages_pass(tmp_path):
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"pytest=={pytest.__version__}\n\n# the end\n")
    assert doctor.packages(pins).ok is True
    assert doctor.packages(pins).found == "1 as pinned"


def test_without_a_requirements_file_the_packages_are_a_note(tmp_path):
    assert doctor.packages(tmp_path / "requirements.txt").ok is None


def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "file" / "cache"))
    check = by_name("cache")
    assert check.ok is False
    assert "cannot be written: Not a directory" in check.found
    assert "TLCOURSE_CACHE" in check.advice


def test_what_was_never_fetched_is_a_problem_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path))
    check = by_name("asset sentiment")
    assert check.ok is False and check.found.startswith("missing")
    assert "locate('sentiment')" in check.advice


def test_every_asset_is_checked_with_its_licence():
    names = {check.name for check in doctor.asset_checks() if "missing" not in check.found}
    assert {f"asset {name}" for name in assets.catalogue()} >= names
    assert "non-commercial" in by_name("asset elpv").found


@posix
def test_a_gpu_is_named(put_on_path):
    put_on_path("nvidia-smi", GPU)
    assert doctor.gpu().ok is True
    assert doctor.gpu().found == "NVIDIA H100 80GB HBM3, 81559 MiB"


@posix
def test_a_broken_driver_is_a_note(put_on_path):
    put_on_path("nvidia-smi", BROKEN)
    assert doctor.gpu().ok is None
    assert "no working GPU" in doctor.gpu().found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_instruction_sets_are_those_of_the_processor():
    text = Path("/proc/cpuinfo").read_text()
    found = doctor.instruction_sets().found.split(", ")
    assert ("avx2" in found) == (" avx2 " in text)
    assert ("amx" in found) == ("amx_bf16" in text)


def test_a_mac_is_understood():
    apple = "hw.optional.neon: 1\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.arm64: 1"
    intel = "machdep.cpu.features: FPU SSE4.2\nmachdep.cpu.leaf7_features: AVX2 BMI2"
    assert {"asimd", "bf16"} <= doctor._darwin_flags(apple)
    assert "avx2" in doctor._darwin_flags(intel)
    assert "bf16" not in doctor._darwin_flags(apple.replace("BF16: 1", "BF16: 0"))


def test_the_kernel_of_another_python_is_a_problem(tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["/other/python"], "display_name": "Python 3"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    check = doctor.kernel()
    assert check.ok is False
    assert "/other/python" in check.found
    assert f"{sys.executable} -m ipykernel install" in check.advice


def test_the_kernel_of_this_python_passes():
    assert doctor.kernel().ok is True
    assert sys.executable in doctor.kernel().found
