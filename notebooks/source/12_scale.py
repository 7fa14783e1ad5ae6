# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # More data, more machines
#
# One machine was enough so far. Now the pictures no longer fit into memory, or a week is too long.
# Afterwards you can
#
# - run the same training on a processor and on a GPU, and say which differences are allowed;
# - use sixteen-bit numbers where they cost nothing, and see where they cost a lot;
# - train in several processes with the loss curve of one, and find the classic mistakes;
# - compute features of more pictures than memory holds while workers die, and lose none;
# - fit a cost model to your own measurements, carry it to a billion pictures, and say when to stop
#   adding machines.
#
# *You need notebooks 04 and 05. 45 minutes to read, about one to run.*

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %% tags=["tensorflow"]
from tlcourse import runtime

run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["pytorch"]
from tlcourse import runtime

run = runtime.start("pytorch", PROFILE, SEED)

# %% [markdown]
# Scaled down so that you wait a minute: two processes in place of a hundred machines, a small head
# in place of a network, small pictures.

# %%
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import psutil

from tlcourse import backbones, datasets, features, figures
from tlcourse.evidence import claim, claim_margin, summary

pictograms, cells = datasets.pictograms("color"), datasets.solar_cells()
if run.profile == "smoke":
    some = (pictograms, 8), (cells, 16)
    pictograms, cells = (d.subset(np.arange(0, len(d), step)) for d, step in some)
backbone = backbones.load("efficientnet-lite0")
F = features.extract(backbone, pictograms.images, precision="fp32")["head"]
F = ((F - F.mean(axis=0)) / (F.std(axis=0) + 1e-6)).astype(np.float32)
y = pictograms.labels.copy()
print(pictograms)

# %% [markdown]
# ## The same training on another device
#
# A small head, from 1280 features to 64 to 8 classes, trained by plain gradient descent. The
# profile chose `run.device` when the notebook started. Start weights and batches are drawn in
# NumPy, because each device's own generator gives other numbers for the same seed. After every step
# the loss over all pictures is noted: the **loss curve**.

# %%
STEPS, BATCH, RATE = run.pick(smoke=2, cpu=40), 32, 0.02
seeds = run.seeds(5)


def plan(seed):
    """Start weights and the rows of every batch, the same for every device and process."""
    rng = np.random.default_rng(seed)
    W1, W2 = rng.normal(0, 0.03, (1280, 64)), rng.normal(0, 0.1, (64, 8))
    weights = [w.astype(np.float32) for w in (W1, np.zeros(64), W2, np.zeros(8))]
    return weights, np.array([rng.permutation(len(y))[:BATCH] for _ in range(STEPS)])


# %% tags=["pytorch"]
from copy import deepcopy

import torch
from torch import nn

cross_entropy = nn.functional.cross_entropy


def head(weights):
    model = nn.Sequential(nn.Linear(1280, 64), nn.ReLU(), nn.Linear(64, 8))
    for p, w in zip(model.parameters(), weights, strict=True):
        p.data = torch.from_numpy(w.T.copy())
    return model


def train(model, X, batches, precision, device, rule, rate, factor=1.0):
    """One step a batch; gives the model back after each."""
    kind = torch.bfloat16 if precision == "pure" else torch.float32
    model, X = model.to(device, kind), torch.from_numpy(X).to(device, kind)
    Y = torch.from_numpy(y).to(device)
    optimizer = getattr(torch.optim, rule)(model.parameters(), lr=rate)
    for rows in batches:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "mixed"):
            loss = factor * cross_entropy(model(X[rows]).float(), Y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits until a GPU is done
        yield model


# %% tags=["pytorch"]
def loss_over_all(model):
    weights = next(model.parameters())
    with torch.no_grad():
        logits = model(torch.from_numpy(F).to(weights))  # its device and its kind of number
    return cross_entropy(logits.float().cpu(), torch.from_numpy(y)).item()


# %% tags=["tensorflow"]
from functools import cache

import keras
import tensorflow as tf

tf.get_logger().setLevel("ERROR")
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
POLICY = {"fp32": "float32", "mixed": "mixed_bfloat16", "pure": "bfloat16"}


@cache
def head(precision, device):
    kind = {"dtype": POLICY[precision]}
    layers = [keras.layers.Dense(64, "relu", **kind), keras.layers.Dense(8, **kind)]
    return keras.Sequential([keras.Input((1280,)), *layers])


@cache  # tracing takes longer than training here, so each kind is traced once
def compiled(model, rule, factor):
    optimizer = getattr(keras.optimizers, rule)()
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, labels):
        with tf.GradientTape() as tape:
            loss = factor * cross_entropy(labels, tf.cast(model(x), "float32"))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return optimizer, step


# %% tags=["tensorflow"]
def train(model, X, batches, rule, rate, factor=1.0):
    """One step a batch; gives the model back after each."""
    optimizer, step = compiled(model, rule, factor)
    for slot in optimizer.variables:  # as good as a new optimizer
        slot.assign(keras.ops.zeros_like(slot))
    optimizer.learning_rate = rate
    for rows in batches:
        float(step(X[rows], y[rows]))  # waits until a GPU is done
        yield model


def loss_over_all(model):
    return float(cross_entropy(y, tf.cast(model(F), "float32")))


# %% [markdown]
# The whole curve, with everything that will be varied: precision, device, order, rule, rate, and a
# factor before the loss.


# %% tags=["pytorch"]
def alone(
    seed, precision="fp32", device=run.device, order=1, rule="SGD", rate=RATE, factor=1.0
):  # fmt: skip
    weights, batches = plan(seed)
    batches = batches[:, ::order].copy()  # -1 takes the pictures of a batch backwards
    steps = train(head(weights), F, batches, precision, device, rule, rate, factor)
    return np.array([loss_over_all(model) for model in steps])


# %% tags=["tensorflow"]
def alone(
    seed, precision="fp32", device=run.device, order=1, rule="SGD", rate=RATE, factor=1.0
):  # fmt: skip
    weights, batches = plan(seed)
    batches = batches[:, ::order]  # -1 takes the pictures of a batch backwards
    with tf.device("/CPU:0" if device == "cpu" else "/GPU:0"):
        head(precision, device).set_weights(weights)
        steps = train(head(precision, device), F, batches, rule, rate, factor)
        return np.array([loss_over_all(model) for model in steps])


# %% [markdown]
# A GPU adds the same numbers in another order, and rounding depends on the order. How far may two
# curves differ for that reason alone? A sum of $n$ numbers moves by a share of about
# $\sqrt n\,2^{-24}$ in 32 bits (Higham and Mary, 2019). The longest sum here has 1280 terms. If
# each of $T$ steps adds such a share of the first loss $L_0 \approx \ln 8$,
#
# $$\text{tolerance} = T\,\sqrt{n}\;2^{-24}\,L_0, \tag{1}$$
#
# written down before any curve is compared. The stand-in for another device is every batch taken
# backwards: the same pictures, added in another order.

# %%
tolerance = STEPS * np.sqrt(1280) * 2.0**-24 * np.log(8)  # equation (1)
one = np.array([alone(seed) for seed in seeds])
apart = np.abs(one - np.array([alone(seed, order=-1) for seed in seeds])).max(axis=1)
print(f"loss {one[:, 0].mean():.2f} to {one[:, -1].mean():.2f}; tolerance {tolerance:.1e}")
text = "taking each batch backwards changes the loss curve by less than the tolerance"
claim_margin("12.order", text, apart / tolerance, below=1)
print(f"this training ran on: {run.device}")
on_cpu = one
if run.device != "cpu":
    on_cpu = np.array([alone(seed, device="cpu") for seed in seeds])
    print(f"from the same training on the CPU at most {np.abs(one - on_cpu).max():.1e} away")

# %% [markdown]
# So do not ask two devices for the same bits; ask for the same curve within a tolerance you can
# derive. In the `gpu` profile the cell compares the GPU with the processor. If they lie further
# apart, look first for TF32: newer NVIDIA cards can multiply 32-bit numbers with ten bits of
# mantissa, which TensorFlow allows by default and PyTorch, for matrix products, does not.
#
# ## Sixteen bits
#
# **bfloat16** keeps the range of 32-bit numbers and 8 significant bits in place of 24. **Guess
# first:** in bfloat16, what is 1 after adding 0.003 a hundred times?

# %%
from ml_dtypes import bfloat16

total = bfloat16(1)
for _ in range(100):
    total = bfloat16(total + bfloat16(0.003))
print(f"1 + 100 × 0.003 = {total}; the next number after 1 is {1 + 2**-7}")

# %% [markdown]
# Still 1. An update $\eta g$ is lost where it is below half the distance to the next number, which
# lies between $2^{-9}|w|$ and $2^{-8}|w|$. Two ways to use sixteen bits: **pure**, weights
# included, or **mixed**, which multiplies in sixteen and keeps the weights, where small updates add
# up, in 32 (Micikevicius et al., 2018). **Guess first:** how far does each fall behind, at the rate
# used so far and at a hundredth of it, the size of a fine-tuning rate?

# %%
rates, kinds = (RATE, RATE / 100), {"32 bits": "fp32", "mixed": "mixed", "pure": "pure"}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
ends, fell = {}, {}
for ax, rate in zip(axes, rates, strict=True):
    for i, (name, kind) in enumerate(kinds.items()):
        c = np.array([alone(seed, kind, rate=rate) for seed in seeds])
        ends[name, rate], fell[name, rate] = c[:, -1], c[:, 0] - c[:, -1]
        figures.lines(ax, np.arange(1, STEPS + 1, 3), (c - c[:, :1])[:, ::3].T, name, i)
    ax.set(xlabel="step", ylabel="change of the loss (nats)")
    share = np.mean(fell["pure", rate]) / np.mean(fell["32 bits", rate])
    ax.set_title(f"Rate {rate:g}: pure falls {share:.0%} as far")
axes[0].legend()
alt = """Change of the loss against step with intervals over five seeds, at two rates. At the large
rate all three curves fall together; at the small one pure sixteen bits stays behind."""
figures.show(fig, alt)

# %%
big, small = rates
text = "at the large rate pure sixteen bits ends within 0.05 nats of 32 bits"
claim_margin("12.pure", text, ends["pure", big], ends["32 bits", big], above=-0.05, below=0.05)
text = "at the small rate its loss falls less than half as far as that of 32 bits"
claim_margin("12.pure_small", text, fell["pure", small] / fell["32 bits", small], below=0.5)
text = "mixed precision falls at least nine tenths as far, at the small rate too"
claim_margin("12.mixed", text, fell["mixed", small] / fell["32 bits", small], above=0.9)

# %% [markdown]
# So it is not the coarse numbers that stop pure sixteen bits here, but *small steps*, and
# fine-tuning consists of those. Mixed precision keeps the place where they add up.
#
# ### On convolutions: accuracy and speed
#
# Now the top of the network, from block 15 on, fine-tuned on kept maps as in notebook 05: BatchNorm
# fixed, a fitted head to start from, whole blocks held out. **Guess first:** is sixteen bits less
# accurate? Faster on your machine? Do weights and optimizer take half the memory?

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")
maps = features.extract(backbone, pictograms.images, cuts=("block14",), pool=False)["block14"]
maps, EPOCHS = np.array(maps, np.float32), run.pick(smoke=1, cpu=2)

# %% tags=["pytorch"]
maps = np.moveaxis(maps, 3, 1).copy()
BODY = backbone.split("block14")[1][:-1].cpu().eval()  # block15 to the pooling
with torch.inference_mode():
    F_top = BODY(torch.from_numpy(maps)).numpy()


def new_top(fitted, precision):
    top = nn.Sequential(deepcopy(BODY), nn.Linear(1280, 8)).eval()  # BatchNorm stays fixed
    for p, w in zip(top[1].parameters(), (fitted.coef_, fitted.intercept_), strict=True):
        p.data = torch.from_numpy(w).float()
    return top


def predicted(top, rows):
    with torch.inference_mode():
        return top(torch.from_numpy(maps[rows]).to(run.device)).argmax(dim=1).cpu().numpy()


def steps_of(top, batches, precision):
    return train(top, maps, batches, precision, run.device, "Adam", 3e-4)


def megabytes(top):
    return sum(p.numel() * p.element_size() for p in top.parameters()) / 1e6


# %% tags=["tensorflow"]
tapped = (backbone.model.get_layer(name).output for name in ("block14", "pool"))
BODY = keras.Model(*tapped)  # block15, block16, last convolution, pooling
F_top = BODY.predict(maps, batch_size=64, verbose=0)


def untrained_top(precision):
    def same(layer):
        config = layer.get_config() | {"dtype": POLICY[precision]}
        config["trainable"] = not isinstance(layer, keras.layers.BatchNormalization)
        return layer.__class__.from_config(config)

    body = keras.models.clone_model(BODY, clone_function=same)
    return keras.Model(body.input, keras.layers.Dense(8, dtype="float32")(body.output))


tops = {precision: untrained_top(precision) for precision in ("fp32", "mixed")}


# %% tags=["tensorflow"]
def new_top(fitted, precision):
    tops[precision].set_weights([*BODY.get_weights(), fitted.coef_.T, fitted.intercept_])
    return tops[precision]


def predicted(top, rows):
    return top.predict(maps[rows], verbose=0).argmax(axis=1)


def steps_of(top, batches, precision):
    return train(top, maps, batches, "Adam", 3e-4)


def megabytes(top):
    return sum(w.numpy().nbytes for w in top.weights) / 1e6


# %%
def tuned(seed, precision):
    rows, test = pictograms.draw(run.pick(smoke=16, cpu=96), seed, test_size=0.4)
    fitted = LogisticRegression(max_iter=1000).fit(F_top[rows], y[rows])
    rng, moments = np.random.default_rng(seed), [time.perf_counter()]
    epochs = [rng.permutation(rows).reshape(-1, 16) for _ in range(EPOCHS)]
    top = new_top(fitted, precision)
    for _ in steps_of(top, np.concatenate(epochs), precision):
        moments.append(time.perf_counter())
    accuracy = balanced_accuracy_score(y[test], predicted(top, test))
    return accuracy, np.median(np.diff(moments)), megabytes(top)


found = {p: np.array([tuned(s, p) for s in seeds]).T for p in ("fp32", "mixed")}
for p, (accuracy, seconds, size) in found.items():
    print(f"{p:5} accuracy {accuracy.mean():.3f}, {1e3 * seconds.mean():.0f} ms, {size[0]:.1f} MB")
ratio = np.median(found["fp32"][1] / found["mixed"][1])
print(f"on this machine a mixed step takes {1 / ratio:.2f} times as long as one in 32 bits")
text = "fine-tuned in mixed precision the accuracy changes by less than 0.05, whole blocks held out"
claim_margin("12.mixed_top", text, found["mixed"][0], found["fp32"][0], above=-0.05, below=0.05)
assert found["mixed"][2][0] == found["fp32"][2][0]  # mixed keeps every weight in 32 bits

# %% [markdown]
# The speed is printed and not claimed: it depends on whether your processor multiplies sixteen-bit
# numbers in hardware and on whether the framework uses it. Measure before you switch it on. The
# weights take as many bytes as before, and so do gradients and Adam's two numbers for each; what
# shrinks are the activations. With *float16*, common on older GPUs, small gradients vanish and the
# loss has to be scaled up (`torch.amp.GradScaler`; Keras does it under `mixed_float16`).
#
# ## Two processes, one training
#
# **Data parallel**: every process holds the whole model and a **shard** of each batch; after the
# backward pass the gradients are combined, and all take the same step. With $b_r$ of the $B$
# pictures of a batch in process $r$,
#
# $$g = \frac1B \sum_{i=1}^{B} \nabla\ell_i = \sum_r \frac{b_r}{B}\; g_r,\qquad
# g_r = \frac1{b_r} \sum_{i \in r} \nabla\ell_i. \tag{2}$$
#
# So the processes must see *different* pictures, and their means count by their size. What does
# the framework do with the $g_r$? PyTorch's `DistributedDataParallel` **averages** over the $m$
# processes; a Keras optimizer under `tf.distribute` **sums**. The loss of process $r$ therefore
# needs the factor $c_r = m\,b_r/B$ in PyTorch and $c_r = b_r/B$ in TensorFlow.
#
# **Guess first:** which of these spoil the curve, and which raise an error? Both processes see the
# same half; shards of 24 and 8, each with its own mean; the other framework's factor.

# %% tags=["pytorch"]
undo = 2  # DistributedDataParallel divides by m = 2 processes

# %% tags=["tensorflow"]
undo = 1  # the optimizer sums, so nothing has to be undone

# %%
halves, uneven, even = [[0, 16], [16, 32]], [[0, 24], [24, 32]], [undo / 2] * 2
ways = {  # the rows of a batch that each process sees, and the factor of its loss
    "right": [halves, even],
    "same pictures": [[[0, 16], [0, 16]], even],
    "uneven, own means": [uneven, even],
    "uneven, weighted": [uneven, [undo * 24 / 32, undo * 8 / 32]],  # equation (2)
    "other factor": [halves, [1.5 - undo / 2] * 2],
}
folder, plans = Path(tempfile.mkdtemp(prefix="scale-")), [plan(seed) for seed in seeds]
flat = {f"w{i}": np.array([weights[i] for weights, _ in plans]) for i in range(4)}
np.savez(folder / "data.npz", X=F, Y=y, rows=np.array([rows for _, rows in plans]), **flat)
job = json.dumps({"folder": str(folder), "rate": RATE, "ways": ways})

# %% [markdown]
# The program of one process. It is started twice; only the rank differs.

# %% tags=["pytorch"]
WORKER = """
import json, os, sys
from datetime import timedelta
import numpy as np, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo", timeout=timedelta(seconds=60))  # "nccl" between GPUs
rank, job = dist.get_rank(), json.loads(sys.argv[1])
data = dict(np.load(job["folder"] + "/data.npz"))
X, Y = torch.from_numpy(data["X"]), torch.from_numpy(data["Y"])
cross_entropy = nn.functional.cross_entropy

def trained(number, bounds, factors):
    start, stop = bounds[rank]
    model = nn.Sequential(nn.Linear(1280, 64), nn.ReLU(), nn.Linear(64, 8))
    for i, p in enumerate(model.parameters()):
        p.data = torch.from_numpy(data[f"w{i}"][number].T.copy())
    parallel = DistributedDataParallel(model)  # from here on backward() averages gradients
    optimizer = torch.optim.SGD(parallel.parameters(), lr=job["rate"])
    curve = []
    for rows in data["rows"][number]:
        mine = rows[start:stop]
        loss = factors[rank] * cross_entropy(parallel(X[mine]), Y[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            curve.append(cross_entropy(model(X), Y).item())
    return curve

seeds = range(len(data["rows"]))
curves = {name: [trained(s, *way) for s in seeds] for name, way in job["ways"].items()}
with open(job["folder"] + f"/curves{rank}.json", "w") as file:
    json.dump(curves, file)
dist.barrier()  # nobody leaves while the other one still needs an answer
dist.destroy_process_group()
os._exit(0)  # a thread of the library that outlives Python's shutdown can abort the process
"""

# %% tags=["tensorflow"]
WORKER = """
import json, os, sys
import numpy as np, tensorflow as tf

job, rank, ports = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
cluster = {"worker": ["127.0.0.1:" + port for port in ports]}
os.environ["TF_CONFIG"] = json.dumps(
    {"cluster": cluster, "task": {"type": "worker", "index": rank}})
tf.config.threading.set_intra_op_parallelism_threads(1)
strategy = tf.distribute.MultiWorkerMirroredStrategy()  # waits until all are there
import keras

data = dict(np.load(job["folder"] + "/data.npz"))
X, Y = tf.constant(data["X"]), tf.constant(data["Y"])
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
with strategy.scope():
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(8)]
    model = keras.Sequential([keras.Input((1280,)), *layers])
    optimizer = keras.optimizers.SGD(job["rate"])
    optimizer.build(model.trainable_variables)

def here(x, y, factor):
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        loss = factor * tf.reduce_mean(losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)  # sums over the processes

step = tf.function(lambda *arguments: strategy.run(here, args=arguments))

def trained(number, bounds, factors):
    start, stop = bounds[rank]
    model.set_weights([data[f"w{i}"][number] for i in range(4)])
    curve = []
    for rows in data["rows"][number]:
        mine = rows[start:stop]
        step(tf.gather(X, mine), tf.gather(Y, mine), tf.constant(factors[rank]))
        curve.append(float(cross_entropy(Y, model(X))))
    return curve

seeds = range(len(data["rows"]))
curves = {name: [trained(s, *way) for s in seeds] for name, way in job["ways"].items()}
with open(job["folder"] + f"/curves{rank}.json", "w") as file:
    json.dump(curves, file)
"""

# %% [markdown] tags=["tensorflow"]
# The loop is written out because `fit` does not get through: with Keras 3.15 on TensorFlow 2.21 it
# stops under this strategy with "PerReplica … unsupported type" (open in the Keras project as issue
# 20585 since 2024).

# %% [markdown]
# Whoever starts processes sets a limit, ends all when one fails, and leaves none behind: a process
# that waits for a dead partner waits long. And each gets **one thread**: on two cores two processes
# with a full set of threads each were up to forty times slower than one when this was written.


# %%
def launch(commands, seconds=120, **environment):
    """Run commands side by side; at the limit or at the first failure end them all."""
    quiet = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "no_proxy": "127.0.0.1"}
    quiet |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}  # two on one GPU collide
    with (folder / "log.txt").open("w") as log:
        options = {"env": os.environ | quiet | environment, "stdout": log, "stderr": log}
        running, limit = [], time.monotonic() + seconds
        try:
            running += [psutil.Popen([sys.executable, *c], **options) for c in commands]
            while any(p.poll() is None for p in running) and not any(p.poll() for p in running):
                if time.monotonic() > limit:
                    raise TimeoutError(f"not done after {seconds} seconds")
                time.sleep(0.05)
        finally:
            codes = [stop_with_children(p) for p in running]
    if any(codes):
        raise RuntimeError((folder / "log.txt").read_text()[-2000:])


def stop_with_children(process):
    with suppress(psutil.NoSuchProcess):
        for each in (*process.children(recursive=True), process):
            each.kill()
    return process.wait()


# %% [markdown]
# Does it keep its word? A command that sleeps for an hour, and a limit of half a second.

# %%
try:
    launch([["-c", "import time; time.sleep(3600)"]], seconds=0.5)
except TimeoutError as stopped:
    print(stopped, "and still running:", len(psutil.Process().children(recursive=True)))

# %% [markdown] tags=["pytorch"]
# `torchrun`, called by its module's name, starts the processes and gives each its rank. Every
# address is this machine's own; the port is a free one.

# %% tags=["pytorch"]
(folder / "worker.py").write_text(WORKER)
interfaces = psutil.net_if_addrs().items()
local = [name for name, has in interfaces if any(a.address == "127.0.0.1" for a in has)]
here = {"GLOO_SOCKET_IFNAME": local[0]} if local and os.name == "posix" else {}
torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
launch([[*torchrun, "--nproc-per-node=2", str(folder / "worker.py"), job]], **here)

# %% [markdown] tags=["tensorflow"]
# `TF_CONFIG` tells each process who is in the cluster and which of them it is. Every address is
# this machine's own; the ports are free ones.

# %% tags=["tensorflow"]
import socket

(folder / "worker.py").write_text(WORKER)
with socket.socket() as a, socket.socket() as b:
    for each in (a, b):
        each.bind(("127.0.0.1", 0))  # the system chooses a free port
    ports = [str(each.getsockname()[1]) for each in (a, b)]
launch([[str(folder / "worker.py"), job, rank, *ports] for rank in ("0", "1")])

# %%
both = [json.loads((folder / f"curves{rank}.json").read_text()) for rank in (0, 1)]
assert both[0] == both[1]  # the processes stay equal, bit by bit, even where they are wrong
parallel = {name: np.array(c) for name, c in both[0].items()}
off = {name: np.abs(c - on_cpu).max(axis=1) for name, c in parallel.items()}
fig, ax = plt.subplots(figsize=(7.5, 3.6))
for i, (name, c) in enumerate(parallel.items()):
    apart, at = np.maximum(np.abs(c - on_cpu), 1e-9), np.arange(1, STEPS + 1)
    look = {"color": figures.COLORS[i], "marker": figures.MARKERS[i], "markevery": 5}
    ax.plot(at, np.median(apart, axis=0), label=name, linestyle=figures.LINES[i], **look)
    ax.fill_between(at, apart.min(axis=0), apart.max(axis=0), alpha=0.15, color=look["color"])
ax.axhline(tolerance, color="0.3", linestyle=":", label="tolerance (1)")
ax.set(yscale="log", xlabel="step", ylabel="distance from one process (nats)")
inside = [name for name, values in off.items() if values.max() < tolerance]
ax.set_title(f"As good as one process: {'; '.join(inside) or 'none'}")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
alt = """Distance of five two-process loss curves from that of one process, on a logarithmic axis,
median and range over the seeds. Two ways stay below the dotted tolerance, three lie far above."""
figures.show(fig, alt)

# %%
text = "two processes with half of each batch give the loss curve of one, within the tolerance"
claim_margin("12.parallel", text, off["right"] / tolerance, below=1)
text = "the same pictures in both processes: over 10 tolerances off"
claim_margin("12.same_pictures", text, off["same pictures"] / tolerance, above=10)
text = "uneven shards, each with its own mean: over 10 tolerances off"
claim_margin("12.uneven", text, off["uneven, own means"] / tolerance, above=10)
text = "uneven shards weighted as in equation (2): within the tolerance again"
claim_margin("12.weighted", text, off["uneven, weighted"] / tolerance, below=1)
text = "with the other framework's factor the curve is over 0.05 nats off"
claim_margin("12.factor", text, off["other factor"], above=0.05)

# %% [markdown]
# No mistake raised an error. Only the comparison with one process finds them, so make it, for a few
# steps, before you rent the cluster. In practice a sampler deals the pictures out
# (`DistributedSampler`, `Dataset.shard`): check that its shards are disjoint and how it rounds.
#
# The factor is the learning rate in disguise. Hence the advice to scale the rate with the number of
# processes (Goyal et al., 2017): it belongs to *larger* batches, not to a batch that is dealt out.
# **Guess first:** what does a doubled loss do under Adam?

# %%
moved = {}
for rule, rate in (("SGD", RATE), ("Adam", 3e-4)):
    pairs = [[alone(s, rule=rule, rate=rate, factor=c) for c in (1, 2)] for s in seeds]
    moved[rule] = np.array([np.abs(plain - doubled).max() for plain, doubled in pairs])
print({rule: f"{values.mean():.1e} nats" for rule, values in moved.items()})
text = "Adam hides a doubled loss: its curve moves less than a hundredth as far as that of SGD"
claim_margin("12.adam", text, moved["Adam"] / moved["SGD"], below=0.01)

# %% [markdown]
# Adam divides a gradient by its own size; the mistake waits for clipping or another optimizer.
#
# What the processes exchange does not shrink: in a ring each sends about $2\frac{m-1}{m}P$ numbers
# a step for $P$ trained parameters, while its work on a fixed batch falls as $1/m$. (BatchNorm is
# one more trap: each process normalises by its own shard. Freeze it or use the synchronised one.)
#
# ## More pictures than memory
#
# Feature extraction is the easy case, as no picture needs another one. But in a run of hours
# workers die. The data set: eight views of every solar cell, four turns, each also mirrored. It is
# stored nowhere; a chunk of it is made when its turn comes. Scaled down: the pictures shrink to
# 75 × 75 pixels, the network ends at block 11, there are two workers.

# %%
VIEWS, SIDE, LIMIT = 8, 75, 600_000_000  # Dask ends a worker near LIMIT bytes
CUT = run.pick(smoke="block1", cpu="block11")
n_pictures = VIEWS * len(cells)
data_set = n_pictures * cells.images[0].nbytes
np.save(folder / "cells.npy", cells.images)  # on a cluster: a disk that all machines see
print(f"{n_pictures:,} pictures, {data_set / 1e9:.2f} GB; two workers of {LIMIT / 1e9:.1f} GB each")

# %% tags=["pytorch"]
import warnings

import openvino


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = backbone.split(CUT)[0]

    def forward(self, images):  # (n, side, side, 3) to (n, 112)
        return self.trunk(images.permute(0, 3, 1, 2)).mean(dim=(2, 3))


with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
    traced = torch.jit.trace(Trunk().cpu().eval(), torch.zeros(1, SIDE, SIDE, 3))
graph = openvino.convert_model(traced, input=[-1, SIDE, SIDE, 3])
openvino.save_model(graph, folder / "trunk.xml", compress_to_fp16=False)

# %% tags=["tensorflow"]
import openvino

inputs, original = keras.Input((SIDE, SIDE, 3)), backbone.split(CUT)[0]
trunk = keras.models.clone_model(original, input_tensors=inputs)
trunk.set_weights(original.get_weights())
pooled = tf.function(keras.Model(inputs, keras.ops.mean(trunk.output, axis=(1, 2))))
signature = tf.TensorSpec((None, SIDE, SIDE, 3), name="images")
graph = openvino.convert_model(pooled.get_concrete_function(signature))
openvino.save_model(graph, folder / "trunk.xml", compress_to_fp16=False)

# %% [markdown]
# The workers read this file and need neither PyTorch nor TensorFlow, so they start fast.

# %%
MEAN, STD = backbone.scaling.mean[0], backbone.scaling.std[0]


def pictures(start, stop, folder):
    """Picture i is view i % 8 of cell i // 8."""
    stored = np.load(folder / "cells.npy", mmap_mode="r")  # reads only what is touched
    made = [np.rot90(stored[i // VIEWS], i % 4) for i in range(start, stop)]
    return np.stack([p[:, ::-1] if i % VIEWS >= 4 else p for i, p in enumerate(made, start)])


def compute(start, stop, folder, network):
    images, found = pictures(start, stop, folder), []
    for batch in np.split(images, range(64, len(images), 64)):
        small = batch.reshape(-1, SIDE, 4, 4 * SIDE).mean(axis=2, dtype=np.float32)
        small = small.reshape(-1, SIDE, SIDE, 4).mean(axis=3)
        scaled = np.repeat(((small - MEAN) / STD)[..., None], 3, axis=3).astype(np.float32)
        found.append(np.array(network(scaled)[0]))
    return np.concatenate(found), images.sum(dtype=np.int64)


# %% [markdown]
# A chunk may be computed by half, or twice. Three habits make that harmless: the file has a **name
# that says what is in it** (weights, settings, range); it is written under another name and
# **renamed when complete**; what is **there already** is not done again. Done twice is done once:
# the task is *idempotent*.


# %%
def open_network(folder):
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(folder / "trunk.xml", "CPU", settings)


def chunk(start, stop, folder, name):
    from distributed import get_worker

    me, path = get_worker(), folder / f"{name}-{start:06d}.npz"
    if not path.exists():
        if not hasattr(me, "network"):  # once a worker
            me.network = open_network(folder)
        began = time.time()
        found, pixels = compute(start, stop, folder, me.network)
        about = [began, time.time(), os.getpid(), psutil.Process().memory_info().rss]
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, features=found, pixels=pixels, about=about)
        os.replace(part, path)  # whole or not at all
    with (folder / "tally.txt").open("a") as tally:  # the naive way to count
        tally.write(f"{stop - start}\n")


# %% [markdown]
# The last lines count as a naive pipeline does: whoever finishes a chunk adds its size to a tally.
# Dask keeps the result of a task in the memory of the worker that ran it. **Guess first:** a worker
# is killed after thirty chunks. What happens to those thirty, and to the tally?

# %%
import logging

import dask
from distributed import Client, LocalCluster, wait

edges = np.cumsum([0, *(64 * 2 ** (i % 4) for i in range(n_pictures // 64))])  # 64 to 512
edges = np.unique(np.minimum(edges, n_pictures)).tolist()
starts, stops = edges[:-1], edges[1:]
settings = f"{SIDE} {VIEWS} {MEAN} {STD} {n_pictures}".encode()
name = hashlib.sha256((folder / "trunk.bin").read_bytes() + settings).hexdigest()[:12]
paths, killed = [folder / f"{name}-{start:06d}.npz" for start in starts], []


def kill_one(client, share, futures, seconds=60):
    """When this share of the chunks is done, kill the worker that has run longest (SIGKILL)."""
    limit = time.monotonic() + seconds
    while sum(path.exists() for path in paths) < share * len(paths):
        if time.monotonic() > limit or any(f.status == "error" for f in futures):
            raise RuntimeError("the chunks do not get done")
        time.sleep(0.02)
    workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    min(workers, key=psutil.Process.create_time).kill()
    killed.append(time.time())


# %%
options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": LIMIT, "host": "127.0.0.1"}
options |= {"dashboard_address": None, "local_directory": folder}
dask.config.set({"distributed.scheduler.allowed-failures": 10})
launched = time.time()
with LocalCluster(silence_logs=logging.CRITICAL, **options) as cluster, Client(cluster) as client:
    futures = client.map(chunk, starts, stops, folder=folder, name=name, pure=False)
    for share in run.pick(smoke=(0.3,), cpu=(0.3, 0.6)):
        kill_one(client, share, futures)
    wait(futures, timeout=120)
    finished = time.time()
    empty = client.map(int, range(run.pick(smoke=50, cpu=400)), pure=False)
    wait(empty, timeout=60)
    per_task = (time.time() - finished) / len(empty)
print(f"{len(paths)} chunks in {finished - launched:.1f} s, {len(killed)} workers killed;", end=" ")
print(f"one empty task costs {1000 * per_task:.1f} ms")

# %% [markdown]
# The second opinion has three parts. Counts, by files and by tally. The sum of all pixels, which
# must be eight times that of the cells, as turning moves pixels and changes none. And every sixth
# chunk again in this process, without Dask, compared by sha256.

# %%
kept = [dict(np.load(path)) for path in paths]
counted, tally = sum(len(each["features"]) for each in kept), (folder / "tally.txt").read_text()
tally = sum(map(int, tally.split()))
exact = sum(each["pixels"] for each in kept) == VIEWS * cells.images.sum(dtype=np.int64)
network = open_network(folder)
for i in range(0, len(paths), 6):
    again, _ = compute(starts[i], stops[i], folder, network)
    hashes = [hashlib.sha256(a.tobytes()).digest() for a in (again, kept[i]["features"])]
    exact = exact and hashes[0] == hashes[1]
print(f"expected {n_pictures:,}, in files {counted:,}, tally {tally:,}")

# %%
text = "workers were killed and every picture is there once: count, pixel sum and sha256 agree"
claim("12.exact", text, bool(exact) and counted == n_pictures, counted / n_pictures, n=len(paths))
text = "the naive tally counts some pictures twice"
claim("12.tally", text, tally > n_pictures, tally / n_pictures, n=len(paths))
began, ended, process, memory = np.array([each["about"] for each in kept]).T
print("workers still running:", sum(psutil.pid_exists(int(pid)) for pid in set(process)))
text = "the data set exceeds the memory of both workers together; no chunk ended above the limit"
holds = data_set > 2 * LIMIT and memory.max() < LIMIT
claim("12.memory", text, holds, memory.max() / data_set, n=len(paths))

# %%
order = list(dict.fromkeys(process[np.argsort(began)]))
fig, ax = plt.subplots(figsize=(8, 2.6))
rows, look = [order.index(p) for p in process], {"edgecolor": "white", "linewidth": 0.6}
ax.barh(rows, ended - began, left=began - launched, height=0.6, color=figures.COLORS[0], **look)
for moment in killed:
    ax.axvline(moment - launched, color="0.2", linestyle="--")
ax.set_yticks(range(len(order)), [f"process {i + 1}" for i in range(len(order))])
ax.set(xlabel="seconds since the cluster was asked for (dashed: a kill)", ylabel="worker")
ax.invert_yaxis()
surplus = f"no picture lost; the naive tally has {tally - n_pictures:,} too many"
ax.set_title(f"{len(killed)} of {len(order)} processes killed, {surplus}")
alt = """Bars show over time the chunks that each process finished; dashed lines mark the moments at
which a process was killed, after which a new one starts."""
figures.show(fig, alt)

# %% [markdown]
# Dask saw the deaths, started new workers, and asked again for all that the dead had kept in
# memory. The files were there, so no finished chunk was computed again; and a count of *files by
# name* is right where a count of *events* is not. Most queues and schedulers are alike: at least
# once is what you get, exactly once is what you make of it.
#
# ## What will a billion pictures cost?
#
# A chunk of $k$ pictures takes $a + b\,k$ seconds; $m$ workers start in $t_0$ seconds and share the
# chunks of $N$ pictures; the scheduler hands out one task after the other, $d$ seconds each; the
# storage delivers $S$ bytes a second to all of them together, $s$ bytes a picture:
#
# $$T(m) = t_0 + \max\Bigl(\frac{N}{k}\cdot\frac{a + b\,k}{m},\ \ \frac{N}{k}\,d,\ \
# \frac{N\,s}{S}\Bigr),\qquad \text{cost} = \text{price} \cdot m \cdot T(m). \tag{3}$$
#
# $a$, $b$, $d$ and $t_0$ come from the run above. $S$ and the price are yours: set them.

# %%
N, k, PRICE, STORAGE = 1e9, 512, 1.0, 2e9  # price of a worker for an hour; bytes a second
sizes, seconds = np.subtract(stops, starts), ended - began
t0, picture_bytes = began.min() - launched, cells.images[0].nbytes


def fitted(rows):
    b, a = np.polyfit(sizes[rows], seconds[rows], 1, w=1 / sizes[rows])  # equal relative errors
    return a, b


def hours(m, a, b, n=N, storage=STORAGE):
    work = n / k * (a + b * k) / m
    return (t0 + np.maximum(work, max(n / k * per_task, n * picture_bytes / storage))) / 3600


rng, everything = np.random.default_rng(run.seed), np.arange(len(sizes))
resampled = np.array([fitted(rng.choice(everything, len(sizes))) for _ in range(500)])
a, b = fitted(everything)
print(f"a = {1e3 * a:.1f} ms a chunk, b = {1e3 * b:.2f} ms a picture, t0 = {t0:.1f} s,", end=" ")
print(f"coordination {per_task / (a + b * k):.1%} of the work of a chunk")
print(f"the model gives this run {3600 * hours(2, a, b, n_pictures):.1f} s;", end=" ")
print(f"with the kills it took {finished - launched:.1f} s")

# %% [markdown]
# The error bars are a bootstrap over chunks. They know of chance between chunks, and nothing of a
# disk that fills up, a noisy neighbour or other pictures. For a first idea of that, fit both halves
# of the run by themselves.


# %%
def interval(values):
    return tuple(np.quantile(values, (0.025, 0.975)))


by_time, one_worker = np.argsort(began), hours(1, a, b)
first, second = (hours(1, *fitted(half)) for half in np.array_split(by_time, 2))
low, high = interval([hours(1, *each) for each in resampled])
print(f"10⁹ pictures, one worker: {one_worker:.0f} hours, bootstrap {low:.0f} to {high:.0f};")
print(f"from the first half of the run {first:.0f}, from the second {second:.0f}")
shares = [per_task / (a + b * k) for a, b in resampled]
text = "handing out a chunk of 512 pictures costs less than 2 % of the work in it"
holds = interval(shares)[1] < 0.02
claim("12.coordination", text, holds, np.mean(shares), interval(shares), len(sizes))
gains = [hours(1, *each, n_pictures) / hours(100, *each, n_pictures) for each in resampled]
text = "by the model a hundred workers do this data set less than fifty times as fast as one"
holds = interval(gains)[1] < 50
claim("12.hundred", text, holds, np.mean(gains), interval(gains), len(sizes))

# %% [markdown]
# **Guess first:** where does the curve of the hours go flat, and which of the three terms stops it?
# Then move the slider.

# %%
grid = np.logspace(0, 5, 60)
band = np.quantile([hours(grid, *each) for each in resampled], (0.025, 0.5, 0.975), axis=0)
stops_at = N / k * (a + b * k) / max(N / k * per_task, N * picture_bytes / STORAGE)
limit = "scheduler" if k * picture_bytes / STORAGE < per_task else "storage"
frames = {}
for machines in run.pick(smoke=(10, 100), cpu=(1, 10, 100, 1000, 10000)):
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    for ax, scale in zip(axes, (1, PRICE * grid), strict=True):
        ax.fill_between(grid, *(scale * band[[0, 2]]), color=figures.COLORS[0], alpha=0.3)
        ax.plot(grid, scale * band[1], color=figures.COLORS[0])
        for other in (STORAGE / 4, 4 * STORAGE):
            ax.plot(grid, scale * hours(grid, a, b, storage=other), color="0.5", linestyle="--")
        ax.axvline(stops_at, color="0.4", linestyle=":")
        ax.set(xscale="log", yscale="log", xlabel="workers (dashed: storage × ¼ and × 4)")
    now = hours(machines, a, b)
    axes[0].plot(machines, now, "D", color=figures.COLORS[1])
    axes[1].plot(machines, PRICE * machines * now, "D", color=figures.COLORS[1])
    axes[0].set(ylabel="hours", ylim=(1, None))
    axes[1].set_ylabel("cost (price × worker hours)")
    low, high = interval([hours(machines, *each) for each in resampled])
    cost = f"cost {PRICE * machines * now:,.0f}"
    fig.suptitle(f"{machines:,} workers: {now:,.1f} hours ({low:,.1f} to {high:,.1f}), {cost}")
    frames[f"{machines:,}"] = fig
alt = """Hours and cost of a billion pictures against the number of workers, both axes logarithmic.
Hours fall and then stay level; cost stays level and then rises from the dotted line on. Dashed
lines, for slower and faster storage, go level earlier and later."""
figures.slider(frames, "workers", alt, start="100")
print(f"stop at {stops_at:.0f} workers: from there on the {limit} is the limit")

# %% [markdown]
# Left of the dotted line workers buy time at no extra cost; right of it you pay for workers that
# wait. What helps there is another term: larger chunks against the scheduler, smaller files or more
# disks against the storage. And look at the interval in the title: right of the line it closes,
# since the chunks say nothing about your storage. The dashed lines are the error bar that counts
# there. The **assumptions**: a billion pictures like these, small and through half a network
# (the whole one stands below); workers as fast as these and all alike; none dies; $m$ of them start
# as quickly as two; writing is free; one scheduler. Each is wrong somewhere: measure again at ten
# and at a hundred workers before you sign.
#
# ## Time saved, and the size of a model
#
# Two things that are said of transfer learning: it *saves training time*, and pretrained models are
# *large*. In numbers: one pass of feature extraction against a training step of the whole network,
# and a larger network against a smaller one. **Guess first:** Lite2 has 1.3 times the parameters of
# Lite0. How many times the seconds?


# %% tags=["pytorch"]
def forward(network, X):
    with torch.inference_mode():
        network(X)


def training_step(network, X):
    network(X).sum().backward()


def parameters(network):
    return sum(p.numel() for p in network.parameters())


# %% tags=["tensorflow"]
def forward(network, X):
    network(X, training=False)


def training_step(network, X):
    with tf.GradientTape() as tape:
        total = keras.ops.sum(network(X, training=False))
    tape.gradient(total, network.trainable_variables)


def parameters(network):
    return network.count_params()


# %%
lite0, lite2 = backbones.load("efficientnet-lite0"), backbones.load("efficientnet-lite2")
few = pictograms.images[: run.pick(smoke=2, cpu=8)]
work = {"pass 0": (forward, lite0), "pass 2": (forward, lite2), "step 0": (training_step, lite0)}


def timed(function, loaded):
    X, began = loaded.preprocess(few), time.perf_counter()
    function(loaded.model, X)
    return (time.perf_counter() - began) / len(X)


rounds = [[timed(*each) for each in work.values()] for _ in range(run.pick(smoke=2, cpu=9))]
best = np.minimum(rounds[1::2], rounds[2::2] or rounds[1::2])  # the first round allocates
pass0, pass2, step0 = best.T
for each, times in ((lite0, pass0), (lite2, pass2)):
    P, days = parameters(each.model), np.median(times) * N / 86400
    print(f"{each.name}: {P / 1e6:.2f} M parameters, {4 * P / 1e6:.1f} MB,", end=" ")
    print(f"{days:,.0f} days for 10⁹ pictures on this machine in the framework itself")

# %%
text = "ten epochs of training the whole network cost over 15 times one pass of feature extraction"
claim_margin("12.time_saved", text, 10 * step0 / pass0, above=15)
larger, slower = parameters(lite2.model) / parameters(lite0.model), np.median(pass2 / pass0)
print(f"Lite2 has {larger:.1f} times the parameters of Lite0 and takes {slower:.1f} times as long")

# %% [markdown]
# So the saving is real and has a condition: the network stays frozen and the features are used more
# than once. And "size" is three bills: bytes on disk and wire go with the parameters; seconds go
# with multiplications, which also grow with the picture (Lite2 reads 260 × 260 pixels, Lite0
# 224 × 224); and money goes with seconds. For comparison, VGG16 has 138 million parameters: 553 MB.
#
# ## What was seen

# %%
import shutil

shutil.rmtree(folder, ignore_errors=True)
summary()

# %% [markdown]
# **Try it.** Kill both workers at once. Write the tally only where a chunk was really computed: is
# it right then, always? Count what `DistributedSampler` (or `Dataset.shard`) deals of 573 pictures
# to two processes. Put BatchNorm into the head and compare two processes with one again.
#
# **Next.** 13, the interview room.
#
# *Sources: Higham and Mary 2019 (rounding); Micikevicius et al. 2018 (mixed precision); Goyal et
# al. 2017 (large batches); Patarasuk and Yuan 2009 (the ring); Li et al. 2020 (PyTorch's data
# parallel); Amdahl 1967 (why ten times the workers are not ten times as fast).*
