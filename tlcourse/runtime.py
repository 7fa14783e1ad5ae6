"""One call at the top of a notebook: profile, device, seeds, threads and plot style."""

import os
import random
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FRAMEWORKS = ("tensorflow", "pytorch")
PROFILES = ("smoke", "cpu", "gpu")
STYLE = Path(__file__).with_name("course.mplstyle")
LARGEST_SEED = 2**32 - 1  # NumPy's limit, the narrowest of the three


@dataclass(frozen=True)
class Run:
    """What a notebook was started with; `device` is "cpu", "cuda" or "mps"."""

    framework: str
    profile: str
    device: str
    seed: int
    threads: int

    def pick(self, *, smoke, cpu, gpu=None):
        """Return the value for this run's profile; without one of its own, gpu takes cpu's."""
        if self.profile == "gpu":
            return cpu if gpu is None else gpu
        return smoke if self.profile == "smoke" else cpu

    def seeds(self, n: int) -> list[int]:
        """Return n seeds derived from the run's seed; in smoke only the first."""
        count = 1 if self.profile == "smoke" else n
        return [self.seed * 1000 + i for i in range(count)]


def start(framework: str, profile: str = "cpu", seed: int = 0) -> Run:
    """Set up this process for one framework and profile, print one line and return the Run.

    Raises ValueError for an unknown framework or profile or a seed outside 0…2³²−1, and
    RuntimeError for the gpu profile on a machine whose GPU the framework does not see.
    """
    _check(framework, profile, seed)
    threads = _threads()
    # Read by the C++ code of TensorFlow, by Keras and by PyTorch at import, so set first.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    if framework == "tensorflow":
        os.environ["KERAS_BACKEND"] = "tensorflow"

    set_up = _start_tensorflow if framework == "tensorflow" else _start_pytorch
    device, version = set_up(profile, threads, seed)
    _seed_numpy_and_python(seed)
    _plot_style()

    os.environ["TLCOURSE_FRAMEWORK"] = framework
    os.environ["TLCOURSE_PROFILE"] = profile
    os.environ["TLCOURSE_DEVICE"] = device
    run = Run(framework, profile, device, seed, threads)
    print(f"{version} · profile {profile} · {_device_words(device, threads)} · seed {seed}")
    return run


def _check(framework: str, profile: str, seed: int) -> None:
    if framework not in FRAMEWORKS:
        raise ValueError(f"unknown framework {framework!r}: choose one of {', '.join(FRAMEWORKS)}")
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"the seed is {seed!r}: give a whole number from 0 to {LARGEST_SEED}")


def _threads() -> int:
    """All cores this process may use, unless OMP_NUM_THREADS says otherwise."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_tensorflow(profile: str, threads: int, seed: int) -> tuple[str, str]:
    with _quiet():
        import keras
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    if profile == "gpu" and not gpus:
        raise RuntimeError(_no_gpu("TensorFlow"))
    try:
        if profile == "gpu":
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
        else:
            tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        # TensorFlow fixes these at its first operation: a second run of the cell keeps them.
        if profile == "gpu" and not tf.config.get_visible_devices("GPU"):
            raise RuntimeError("restart the kernel to go from the CPU to the GPU") from None
    _end_with_the_last_step(tf)
    # Tracing a graph pays off over many batches; smoke has one or two.
    tf.config.run_functions_eagerly(profile == "smoke")
    keras.utils.set_random_seed(seed)
    # Apple's plug-in also calls its device "GPU"; everywhere else it is CUDA (or ROCm).
    accelerator = "mps" if sys.platform == "darwin" else "cuda"
    device = accelerator if profile == "gpu" else "cpu"
    return device, f"Keras {keras.__version__} on TensorFlow {tf.__version__}"


def _end_with_the_last_step(tf) -> None:
    """Switch off the tuner of tf.data in what Keras reads from, which always ends in prefetch.

    TensorFlow 2.21 does not always wake the tuner when an epoch is over: `fit` and `predict` then
    wait for the end of its pause, 0.63, 1.27, 2.55, 5.11, 10.23 s … after they began.
    """
    prefetch = tf.data.Dataset.prefetch
    if prefetch.__module__ == __name__:  # a second run of the cell
        return

    def untuned(dataset, *arguments, **named):
        options = tf.data.Options()
        options.autotune.enabled = False
        return prefetch(dataset, *arguments, **named).with_options(options)

    tf.data.Dataset.prefetch = untuned


@contextmanager
def _quiet():
    """Hold back what C++ code writes while TensorFlow loads; show it only if that fails.

    TensorFlow 2.21 reports its build and the search for a GPU before any log level is in force.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except BaseException:
            messages.seek(0)
            os.write(kept, messages.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _start_pytorch(profile: str, threads: int, seed: int) -> tuple[str, str]:
    import torch

    device = "cpu"
    if profile == "gpu":
        if torch.cuda.is_available():
            device = "cuda"
        elif torch.backends.mps.is_available():
            device = "mps"
        else:
            raise RuntimeError(_no_gpu("PyTorch"))
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    return device, f"PyTorch {torch.__version__.partition('+')[0]}"


def _no_gpu(framework: str) -> str:
    return (
        f"{framework} sees no GPU on this machine: use profile cpu, "
        "or run tlcourse doctor to see what is missing"
    )


def _seed_numpy_and_python(seed: int) -> None:
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)


def _plot_style() -> None:
    import matplotlib.pyplot as plt

    plt.style.use(STYLE)


def _device_words(device: str, threads: int) -> str:
    if device == "cpu":
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return {"cuda": "CUDA GPU", "mps": "Apple GPU"}[device]
