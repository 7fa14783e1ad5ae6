"""What a notebook is started with."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from tlcourse import runtime


@pytest.fixture(autouse=True)
def same_environment_afterwards(monkeypatch):
    for name in ("PROFILE", "FRAMEWORK", "DEVICE"):
        monkeypatch.setenv(f"TLCOURSE_{name}", "")
    # start() writes these, and monkeypatch puts back what it has seen
    for name in ("TF_CPP_MIN_LOG_LEVEL", "PYTORCH_ENABLE_MPS_FALLBACK", "KERAS_BACKEND"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def run(profile, seed=3):
    return runtime.Run("pytorch", profile, "cpu", seed, 2)


def test_each_profile_picks_its_own_value_and_gpu_falls_back_to_cpu():
    assert run("smoke").pick(smoke=1, cpu=2, gpu=3) == 1
    assert run("cpu").pick(smoke=1, cpu=2, gpu=3) == 2
    assert run("gpu").pick(smoke=1, cpu=2, gpu=3) == 3
    assert run("gpu").pick(smoke=1, cpu=2) == 2


def test_seeds_follow_from_the_base_seed_and_smoke_takes_only_the_first():
    assert run("cpu").seeds(3) == [3000, 3001, 3002]
    assert run("smoke").seeds(3) == [3000]


def test_start_prints_one_line_and_fixes_every_source_of_randomness(capsys):
    import torch

    started = runtime.start("pytorch", "smoke", 5)
    first = random.random(), np.random.rand(), torch.rand(1).item()
    assert runtime.start("pytorch", "smoke", 5) == started
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first
    assert os.environ["TLCOURSE_PROFILE"] == "smoke"
    assert os.environ["TLCOURSE_FRAMEWORK"] == "pytorch"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "PyTorch" in lines[0] and "seed 5" in lines[0]


def test_start_takes_the_threads_that_omp_num_threads_allows(monkeypatch):
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runtime.start("pytorch").threads == torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_start_with_tensorflow_writes_one_line_and_nothing_else():
    program = "from tlcourse import runtime; runtime.start('tensorflow', 'smoke', 1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and done.stdout.startswith("Keras 3")
    assert done.stderr == ""


def test_what_keras_reads_from_is_not_tuned_and_so_ends_with_its_last_step():
    program = """if True:
        from tlcourse import runtime
        runtime.start('tensorflow'), runtime.start('tensorflow')
        import tensorflow as tf
        numbers = tf.data.Dataset.range(5).prefetch(2)
        print(numbers.options().autotune.enabled, [int(n) for n in numbers])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("False [0, 1, 2, 3, 4]\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("jax",), "unknown framework 'jax': choose one of tensorflow, pytorch"),
        (("pytorch", "fast"), "unknown profile 'fast': choose one of smoke, cpu, gpu"),
        (("pytorch", "cpu", -1), "the seed is -1"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_known_ones(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        runtime.start(*arguments)


def test_the_gpu_profile_without_a_gpu_says_what_to_use_instead():
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="sees no GPU on this machine: use profile cpu"):
        runtime.start("pytorch", "gpu")


def test_importing_the_package_is_quick_and_loads_no_framework():
    program = (
        "import sys, time; t = time.perf_counter(); import tlcourse; "
        "seconds = time.perf_counter() - t; "
        "from tlcourse import runtime, evidence, figures; "
        "print(seconds, *({'tensorflow', 'keras', 'torch', 'numpy'} & set(sys.modules)))"
    )
    quickest = []
    for _ in range(3):  # the first may find a cold disk
        out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        seconds, *loaded = out.stdout.split()
        assert loaded == []
        quickest.append(float(seconds))
    assert min(quickest) < 0.05
