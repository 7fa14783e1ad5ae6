"""Exercise set 7: BERT fine-tuning and LoRA (notebook 07)."""

import importlib
import re
import sys
from functools import lru_cache
from itertools import pairwise

import numpy as np

from .kit import Misconception, Part, Task, expect, require


@lru_cache
def _weights(name, rows=None):
    """A matrix of MiniLM, or its first rows only."""
    from safetensors import safe_open

    from tlcourse import assets

    with safe_open(assets.locate("minilm") / "model.safetensors", "numpy") as file:
        return file.get_slice(name)[:rows] if rows else file.get_tensor(name)


@lru_cache
def _shapes():
    """The shapes of all weights in MiniLM's file, by name."""
    from safetensors import safe_open

    from tlcourse import assets

    with safe_open(assets.locate("minilm") / "model.safetensors", "numpy") as file:
        names = [name for name in file.keys() if name.endswith((".weight", ".bias"))]  # noqa: SIM118
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


@lru_cache
def _lengths():
    """The lengths of real sentences: words, marks, [CLS] and [SEP]."""
    from tlcourse import datasets

    texts = datasets.sentiment("movie").texts
    return np.array([min(64, len(re.findall(r"\w+|[^\s\w]", text)) + 2) for text in texts])


# --- ex07.1: merge LoRA -------------------------------------------------------------------------


def _update(rng, framework="pytorch", heads=0, rank=None, alpha=None):
    """A weight, a and b, alpha, and the framework; the weight is square or cut into heads."""
    heads = heads or int(rng.integers(2, 5))
    d, rank = heads * (heads + 1), rank or int(rng.integers(2, 5))
    alpha = alpha or float(rng.integers(5, 20))
    weight, a, b = rng.normal(size=(d, d)), rng.normal(size=(rank, d)), rng.normal(size=(d, rank))
    if framework == "tensorflow":
        return weight.reshape(d, heads, -1), a.T.copy(), b.T.copy(), alpha, framework
    return weight, a, b, alpha, framework


def _merge_hand(f, rng):
    weight, a, b = np.ones((2, 3)), np.array([[1.0, 2, 0]]), np.array([[1.0], [3]])
    what = "PyTorch, a weight of ones of shape (2, 3), a = (1, 2, 0), b = (1, 3) upright, alpha 2"
    expect(f(weight, a, b, 2.0, "pytorch"), np.array([[3.0, 5, 1], [7, 13, 1]]), what)
    what = what.replace("PyTorch", "Keras").replace("(2, 3)", "(3, 2)").replace(", b", " upright, "
           "b").replace("(1, 3) upright", "(1, 3)")  # fmt: skip
    wanted = np.array([[3.0, 7], [5, 13], [1, 1]])
    expect(f(np.ones((3, 2)), a.T.copy(), b.T.copy(), 2.0, "tensorflow"), wanted, what)


def _merge_scale(f, rng):
    zeros, a, b = np.zeros((6, 5)), np.ones((4, 5)), np.ones((6, 4))
    what = "PyTorch, a weight of zeros of shape (6, 5), rank 4, a and b of ones, alpha {}"
    expect(f(zeros, a, b, 16.0, "pytorch"), zeros + 16.0, what.format(16))
    expect(f(zeros, a, b, 1.0, "pytorch"), zeros + 1.0, what.format(1))
    weight, a, b, alpha, _ = _update(rng)
    there = f(weight, a, b, alpha, "pytorch")
    expect(f(np.asarray(there), a, -b, alpha, "pytorch"), weight, "merged with b, then with -b")


def _merge_heads(f, rng):
    a, b = np.array([[1.0], [10]]), np.array([[1.0, 2, 3, 4, 5, 6]])
    wanted = np.array([[[1.0, 2], [3, 4], [5, 6]], [[10, 20], [30, 40], [50, 60]]])
    out = f(np.zeros((2, 3, 2)), a, b, 1.0, "tensorflow")
    what = "Keras, a kernel of zeros of shape (2, 3 heads, 2), a = (1, 10) upright, b = 1 to 6"
    expect(out, wanted, what)


def _merge_real(f, rng):
    layer, part = int(rng.integers(6)), str(rng.choice(["query", "value"]))
    weight = _weights(f"encoder.layer.{layer}.attention.self.{part}.weight").astype(float)
    a, b, alpha = 0.1 * rng.normal(size=(8, 384)), 0.1 * rng.normal(size=(384, 8)), 16.0
    x = _weights("embeddings.word_embeddings.weight", 2200)[2000:2005].astype(float)
    wanted = x @ weight.T + 2 * (x @ a.T) @ b.T
    what = f"MiniLM's {part} of layer {layer + 1}, rank 8, alpha 16: five word vectors through it"
    made = np.asarray(f(weight, a, b, alpha, "pytorch"))
    expect(made.shape, (384, 384), f"{what} in PyTorch: shape of the merged weight")
    expect(x @ made.T, wanted, f"{what} in PyTorch", 1e-5)
    kernel = weight.T.reshape(384, 12, 32).copy()
    made = np.asarray(f(kernel, a.T.copy(), b.T.copy(), alpha, "tensorflow"))
    expect(made.shape, (384, 12, 32), f"{what} in Keras: shape of the merged kernel")
    expect(x @ made.reshape(384, 384), wanted, f"{what} in Keras", 1e-5)


def _merged(scale=lambda alpha, rank: alpha / rank, turned=False, one=False, dealt=False, add=True):
    def wrong(weight, a, b, alpha, framework):
        in_torch = framework == "pytorch"
        change = b @ a if in_torch or one else a @ b
        change = scale(alpha, len(a) if in_torch else len(b)) * (change.T if turned else change)
        if dealt and weight.ndim == 3:
            n, heads, size = weight.shape
            change = change.reshape(n, size, heads).swapaxes(1, 2)
        return (weight if add else 0) + change.reshape(weight.shape)

    return wrong


def _merge_in_place(weight, a, b, alpha, framework):
    change = b @ a if framework == "pytorch" else a @ b
    rank = len(a) if framework == "pytorch" else len(b)
    weight += alpha / rank * change.reshape(weight.shape)
    return weight


def _rank_from_the_first_axis(weight, a, b, alpha, framework):
    change = b @ a if framework == "pytorch" else a @ b
    return weight + alpha / len(a) * change.reshape(weight.shape)


MERGE = Task(
    id="ex07.1",
    title="Merge a LoRA update, in two layouts",
    function="merge",
    taught="07#LoRA in twenty lines",
    parts=(
        Part("by hand", 1, _merge_hand),
        Part("the scale", 1, _merge_scale),
        Part("a kernel with heads", 1, _merge_heads),
        Part("MiniLM's own matrices", 2, _merge_real),
    ),
    probes=lambda rng: [_update(rng), _update(rng, "tensorflow"), _update(rng, "tensorflow", 3, 2)],
    misconceptions=(
        Misconception(
            "alpha is the scale",
            _merged(lambda alpha, rank: alpha),
            "By which factor does your change grow if the rank is doubled and alpha stays?",
            "You multiply by alpha alone. In LoRA the change is scaled by alpha / rank, so that a "
            "rate which was good for one rank stays good for another.",
        ),
        Misconception(
            "no scale",
            _merged(lambda alpha, rank: 1),
            "Which of your inputs do you never use?",
            "The bare product is merged. While training, the layer added alpha / rank times as "
            "much: the merged model is another one than that which you measured.",
        ),
        Misconception(
            "the root of the rank",
            _merged(lambda alpha, rank: alpha / np.sqrt(rank)),
            "Rank 4, alpha 4: which factor does LoRA have, and which has yours?",
            "You divide by the root of the rank. That is a variant (rank-stabilised LoRA); an "
            "adapter that was trained with alpha / rank has to be merged with it.",
        ),
        Misconception(
            "the rank is read from the wrong side",
            _rank_from_the_first_axis,
            "Print the rank that you use, in both layouts, for a layer of 384 inputs.",
            "In PyTorch the rank is the first axis of a; in Keras that axis is the number of "
            "inputs. Your Keras change is all but gone.",
        ),
        Misconception(
            "the change is transposed",
            _merged(turned=True),
            "Send one vector through the weight, and through a and then b. Which axis of the "
            "weight does it meet first?",
            "Your change has inputs and outputs exchanged. The matrix is square, so nothing "
            "complains.",
        ),
        Misconception(
            "one product for both layouts",
            _merged(one=True),
            "In Keras, which of the two does x meet first: a or b?",
            "PyTorch keeps (out, in) and computes x Wᵀ, so its change is b a. Keras keeps (in, "
            "out) and computes x W. There the order is the other one.",
        ),
        Misconception(
            "numbers dealt to the heads in turn",
            _merged(dealt=True),
            "Which columns of the product belong to the first head?",
            "A head owns a stretch of neighbouring outputs. You deal them out like cards, so each "
            "head gets a part of every other head's change.",
        ),
        Misconception(
            "the change without the weight",
            _merged(add=False),
            "What does your function return if b is zero?",
            "You return the change alone. Merged is the weight plus its change; with b = 0 that "
            "is the weight as it was.",
        ),
        Misconception(
            "changes the pretrained weight",
            _merge_in_place,
            "Print the weight that you gave in, before and after the call.",
            "You write into the weight that you were given. Whoever merges a second adapter into "
            "the same base, or merges twice, gets the sum.",
        ),
    ),
)

# --- ex07.2: a rank within a budget -------------------------------------------------------------

T5 = "encoder.block.0.layer"
LIKE_T5 = {
    f"{T5}.0.SelfAttention.q.weight": (8, 4),
    f"{T5}.0.SelfAttention.k.weight": (8, 4),
    f"{T5}.0.SelfAttention.v.weight": (8, 4),
    f"{T5}.0.SelfAttention.o.weight": (4, 8),
    f"{T5}.0.SelfAttention.relative_attention_bias.weight": (32, 2),
    f"{T5}.1.DenseReluDense.wi.weight": (16, 4),
    f"{T5}.1.DenseReluDense.wo.weight": (4, 16),
    f"{T5}.1.layer_norm.weight": (4,),
}


def _plan_hand(f, rng):
    shapes = {"query.weight": (5, 3), "query.bias": (5,), "key.weight": (5, 3)}
    what = "query of 5 outputs and 3 inputs, a head of 10"
    expect(f(shapes, ["query"], 10, 26), [2, 26], f"{what}, at most 26 trained numbers")
    expect(f(shapes, ["query"], 10, 25), [1, 18], f"{what}, at most 25 trained numbers")
    expect(f(shapes, ["query", "key"], 10, 45), [2, 42], f"{what}, key adapted too, at most 45")


def _plan_ends(f, rng):
    shapes = {"query.weight": (5, 3), "key.weight": (5, 7)}
    what = "query of shape (5, 3), a head of 10"
    expect(f(shapes, ["query"], 10, 17), [0, 10], f"{what}, at most 17: not even rank 1 fits")
    expect(f(shapes, ["query"], 10, 0), [0, 10], f"{what}, at most 0: the head alone is too much")
    what += ", at most 1000: no change of this matrix can have a higher rank"
    expect(f(shapes, ["query"], 10, 1000), [3, 34], what)
    what = "query (5, 3) and key (5, 7), no head, at most 1000"
    expect(f(shapes, ["query", "key"], 0, 1000), [3, 60], what)


def _plan_names(f, rng):
    what = "names as in T5, targets {}, a head of 3, at most 100"
    expect(f(LIKE_T5, ["q", "v"], 3, 100), [4, 99], what.format("q and v"))
    expect(f(LIKE_T5, ["o"], 3, 100), [4, 51], what.format("o"))
    expect(f(LIKE_T5, ["SelfAttention.q"], 3, 100), [4, 51], what.format("SelfAttention.q"))


# Worked out from MiniLM's shapes: 6 layers, width 384, 1,536 in between.
ON_MINILM = (
    (["query", "value"], 770, 75_000, [8, 770 + 8 * 12 * 768]),
    (["query", "value"], 770, 22_000_000, [384, 770 + 384 * 12 * 768]),
    (["intermediate.dense"], 770, 100_000, [8, 770 + 8 * 6 * 1920]),
    (["output.dense"], 770, 100_000, [6, 770 + 6 * 6 * (768 + 1920)]),
    (["dense"], 770, 100_000, [3, 770 + 3 * (768 + 6 * (768 + 2 * 1920))]),
)


def _plan_real(f, rng):
    for targets, head, budget, wanted in ON_MINILM:
        what = f"MiniLM, targets {', '.join(targets)}, a head of {head}, at most {budget:,}"
        expect(f(_shapes(), targets, head, budget), wanted, what)


def _plans(rng):
    """Real names and shapes, other targets and budgets."""
    made = [(_shapes(), ["query", "key"], 770, int(rng.integers(40_000, 90_000)))]
    made.append((_shapes(), ["output.dense", "value"], 1155, int(rng.integers(90_000, 200_000))))
    made.append((LIKE_T5, ["v", "o"], 3, 3 + 24 * int(rng.integers(2, 5))))
    made.append((LIKE_T5, ["q", "wi"], 2, 500))
    return made


def _named(name, targets, match):
    module = name.removesuffix(".weight")
    if match == "inside":
        return any(target in name for target in targets)
    if match == "end":
        return module.endswith(tuple(targets))
    return f".{module}".endswith(tuple(f".{target}" for target in targets))


def _planned(size=sum, match="module", head_counts=True, cap=True, round_to=np.floor, bias=False,
             strict=False):  # fmt: skip
    def wrong(shapes, targets, head, budget):
        found = [
            s for n, s in shapes.items()
            if len(s) == 2 and n.endswith(".weight") and _named(n, targets, match)
        ]  # fmt: skip
        fixed = head if head_counts else 0
        if bias:
            fixed += sum(s[0] for s in found)
        one = sum(size(s) for s in found)
        rank = int(round_to((budget - strict - fixed) / one))
        if cap:
            rank = min(rank, *(min(s) for s in found))
        rank = max(rank, 0)
        return rank, fixed + rank * one

    return wrong


PLAN = Task(
    id="ex07.2",
    title="The rank that fits a budget",
    function="lora_plan",
    taught="07#LoRA in twenty lines",
    parts=(
        Part("by hand", 1, _plan_hand),
        Part("nothing fits, everything fits", 1, _plan_ends),
        Part("which layers are meant", 1, _plan_names),
        Part("MiniLM's own shapes", 2, _plan_real),
    ),
    probes=_plans,
    misconceptions=(
        Misconception(
            "the whole matrix counts",
            _planned(lambda s: s[0] * s[1]),
            "How many numbers do a and b have for a layer of 384 inputs and outputs at rank 1?",
            "You count the matrix that LoRA leaves frozen. Trained are two thin ones, whose sizes "
            "add up: in + out for each unit of rank.",
        ),
        Misconception(
            "every matrix is square",
            _planned(lambda s: 2 * s[-1]),
            "Work out the layer from 384 to 1,536 by hand.",
            "You count twice the inputs. That is right for query, key and value; the layers in "
            "between are not square.",
        ),
        Misconception(
            "a name inside another name",
            _planned(match="inside"),
            "List the names that you adapt for the target v. Is relative_attention_bias there?",
            "You look for the target anywhere in the name. A short target then catches layers that "
            "nobody meant.",
        ),
        Misconception(
            "the end of another name",
            _planned(match="end"),
            "List the names that you adapt for the target o. Is wo there?",
            "The end of the name is compared without the dot before it, so wo counts as o.",
        ),
        Misconception(
            "the head is left out",
            _planned(head_counts=False),
            "Which numbers are trained besides a and b?",
            "The new head is trained in full and belongs to the budget and to the count. In a "
            "report on LoRA it is often missing.",
        ),
        Misconception(
            "biases count as well",
            _planned(bias=True),
            "Does LoRA as asked for train a bias?",
            "You count the biases of the adapted layers. They stay frozen with their weights, "
            "unless somebody asks for it.",
        ),
        Misconception(
            "a rank above the matrix's own",
            _planned(cap=False),
            "What is the highest rank that a change of shape (5, 3) can have?",
            "Your rank is higher than the smaller side of a matrix. Then a and b together hold "
            "more numbers than the matrix, and can express nothing more.",
        ),
        Misconception(
            "rounded to the nearest",
            _planned(round_to=np.round),
            "Is your count ever above the budget?",
            "You round to the nearest rank. The budget is a limit, so round down.",
        ),
        Misconception(
            "the budget itself is too much",
            _planned(strict=True),
            "What do you return if the count is exactly the budget?",
            "“At most” includes the budget itself.",
        ),
    ),
)

# --- ex07.3: parameter groups -------------------------------------------------------------------


def _grouped_pytorch(f, rate, head_rate, decay):
    """The rate and the decay that each tensor of a small model gets, from what one step does."""
    import warnings

    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.multihead_attn = nn.MultiheadAttention(4, 2)
            self.sa_layer_norm, self.dense = nn.LayerNorm(4), nn.Linear(4, 4)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions, self.words = nn.Embedding(5, 4), nn.Embedding(9, 4)
            self.positions.requires_grad_(False)
            self.block, self.LayerNorm, self.head = Block(), nn.LayerNorm(4), nn.Linear(4, 2)
            self.masked_words = nn.Linear(4, 9, bias=False)
            self.masked_words.weight = self.words.weight

    model = Classifier()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(2.0)
            p.view(-1)[0] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = f(model, rate, head_rate, decay)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"it returned a {type(optimizer).__name__}; expected an optimizer")
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    rates, decays = {}, {}
    for name, p in model.named_parameters():
        first, *_, last = p.detach().double().view(-1).tolist()
        rates[name] = round(-first, 6)
        decays[name] = round((2 - last + first) / 2 / max(-first, 1e-9), 3)
    return {"rates": rates, "decays": decays}


def _grouped_keras(f, rate, head_rate, decay):
    """The rate and the decay that each weight of a small model gets, from what one step does."""
    import keras
    import numpy as np
    from keras import layers

    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.positions = layers.Embedding(5, 4, name="positions")
            self.words = layers.Embedding(9, 4, name="words")
            self.attention = layers.MultiHeadAttention(2, 2, name="multi_head_attention")
            self.norm = layers.LayerNormalization(name="sa_layer_norm")
            self.head = layers.Dense(2, name="head")

    model, shape = Classifier(), (None, 3, 4)
    model.positions.build()
    model.words.build()
    model.attention.build(shape, shape)
    model.norm.build(shape)
    model.head.build((None, 4))
    model.built, model.positions.trainable = True, False
    for weight in model.weights:
        start = np.full(weight.shape, 2.0)
        start.flat[0] = 0
        weight.assign(start)
    for optimizer, variables in f(model, rate, head_rate, decay):
        variables = list(variables)
        optimizer.apply([keras.ops.ones(v.shape) for v in variables], variables)
    rates, decays = {}, {}
    for weight in model.weights:
        first, *_, last = np.asarray(weight).astype(float).ravel().tolist()
        rates[weight.path] = round(-first, 6)
        decays[weight.path] = round((2 - last + first) / 2 / max(-first, 1e-9), 3)
    return {"rates": rates, "decays": decays}


def _rates(rng):
    return float(rng.choice([0.01, 0.02])), float(rng.choice([0.05, 0.1])), 0.2


def _optimizers_loaded():
    """Load what PyTorch loads with the first optimizer: not counted as the learner's time."""
    if "torch" in sys.modules:
        importlib.import_module("torch._dynamo")


def _group_rates(f, rng):
    _optimizers_loaded()
    found = f(0.02, 0.05, 0.2)["rates"]
    for name, got in found.items():
        wanted = 0.05 if name.startswith("head") else 0.02
        what = f"rate 0.02, head's rate 0.05: the step of {name}"
        if "positions" in name:
            what, wanted = what + " (frozen)", 0.0
        expect(got, wanted, what, 1e-4)


def _matrix(name):
    return "norm" not in name.lower() and not name.endswith("bias")


def _group_decays(f, rng):
    found = f(*_rates(rng))["decays"]
    for name, got in found.items():
        if "positions" not in name and _matrix(name):
            expect(got, 0.2, f"weight decay 0.2: the decay of {name}", 0.02)


def _group_spared(f, rng):
    made = f(*_rates(rng))
    found = made["decays"]
    wrongly = [n for n, got in found.items() if not _matrix(n) and abs(got) > 0.003]
    expect(wrongly, [], "weight decay 0.2: biases and numbers of LayerNorm that decay")
    moved = max(made["rates"].values())
    require(moved > 0, "no weight moves at all")


def _groups_pytorch(head="start", spare="axes", lone=True, kind="AdamW", default=False,
                    lists="once"):  # fmt: skip
    def in_head(name):
        if head == "none":
            return False
        return "head" in name if head == "inside" else name.startswith("head")

    def spared(name, p):
        if spare == "names":
            return any(word in name for word in ("bias", "LayerNorm.weight"))
        return {"axes": p.ndim < 2, "bias": name.endswith("bias"), "none": False}[spare]

    def wrong(model, rate, head_rate, decay):
        import torch

        groups = {}
        named = list(model.named_parameters())
        if lists == "twice":
            named = list(model.named_parameters(remove_duplicate=False))
        for name, p in named:
            own, free = in_head(name), spared(name, p)
            if own and not lone:
                free = False
            group = groups.setdefault((own, free), {"params": []})
            group["params"].append(p)
            group["lr"] = head_rate if own else rate
            if not (free and default):
                group["weight_decay"] = 0.0 if free else decay
        return getattr(torch.optim, kind)(groups.values())

    return wrong


def _groups_keras(head="start", spare="names", lone=True, kind="AdamW", default=False,
                  lists="once"):  # fmt: skip
    def in_head(path):
        if head == "none":
            return False
        return "head" in path if head == "inside" else path.startswith("head")

    def spared(v):
        if spare == "names":
            return v.name in ("bias", "gamma", "beta")
        return {"axes": len(v.shape) < 2, "bias": v.name == "bias", "none": False}[spare]

    def wrong(model, rate, head_rate, decay):
        import keras

        made = {}
        for v in model.trainable_variables if lists == "once" else model.variables:
            own = in_head(v.path)
            free = spared(v) and (lone or not own)
            key = (own, free)
            if key not in made:
                lr = head_rate if own else rate
                options = {} if free and default else {"weight_decay": 0.0 if free else decay}
                if kind == "Adam":
                    options = {}
                made[key] = getattr(keras.optimizers, kind)(lr, **options), []
            made[key][1].append(v)
        return list(made.values())

    return wrong


def _groups(keras=None, **how):
    return dict(tensorflow=_groups_keras(**(keras or how)), pytorch=_groups_pytorch(**how))


GROUPS = Task(
    id="ex07.3",
    title="Who decays, and at which rate?",
    function="grouped",
    taught="07#The loop",
    parts=(
        Part("two rates", 2, _group_rates),
        Part("matrices decay", 1, _group_decays),
        Part("biases and LayerNorm do not", 2, _group_spared),
    ),
    probes=lambda rng: [_rates(rng), (0.01, 0.03, 0.4)],
    harness={"tensorflow": _grouped_keras, "pytorch": _grouped_pytorch},
    seconds=10.0,  # the first optimizer of a process takes PyTorch two of them
    misconceptions=(
        Misconception(
            "everything decays",
            _groups(spare="none"),
            "Towards which value does weight decay pull the γ of a LayerNorm, and what is its "
            "neutral value?",
            "All tensors decay. A γ near 1 is pulled to 0, which switches the features of the "
            "layer down; biases are few and do not overfit.",
        ),
        Misconception(
            "only biases are spared",
            _groups(spare="bias"),
            "Which tensors does a LayerNorm have? Which of them does your rule catch?",
            "Your rule looks for biases. The scale of a LayerNorm is called weight or gamma and "
            "still decays.",
        ),
        Misconception(
            "the rule misses some",
            _groups(spare="names", keras={"spare": "axes"}),
            "Print name and shape of all that decays. Is there a LayerNorm under another name, or "
            "a bias with two axes?",
            "A rule made for one library misses tensors of another: LayerNorm is called "
            "sa_layer_norm in DistilBERT, and the biases of Keras' attention have two axes, heads "
            "and size.",
        ),
        Misconception(
            "the optimizer's own decay stays",
            _groups(default=True),
            "Which weight decay does AdamW have where you say nothing?",
            "The group without decay says nothing about it, so it gets AdamW's default: 0.01 in "
            "PyTorch, 0.004 in Keras. No decay has to be asked for.",
        ),
        Misconception(
            "the head's bias decays",
            _groups(lone=False),
            "How many tensors does the head have, and are they of one kind?",
            "The head is one group with one decay. Its bias is a bias like the others.",
        ),
        Misconception(
            "one rate for all",
            _groups(head="none"),
            "How far does the head move in one step, and how far the body?",
            "Body and head have one rate. New weights have a long way to go, pretrained ones have "
            "not.",
        ),
        Misconception(
            "attention is taken for the head",
            _groups(head="inside"),
            "List the names that get the head's rate.",
            "You look for “head” anywhere in the name. Attention has heads as well, and it now "
            "moves at the rate of the classifier.",
        ),
        Misconception(
            "nothing decays as it should",
            _groups(kind="Adam"),
            "Take a large weight and a small one with the same gradient. Which one loses more?",
            "This is Adam. In PyTorch its weight decay is added to the gradient, and Adam then "
            "divides by the gradient's size: little of the decay is left. In Keras it has none "
            "unless you name it.",
        ),
        Misconception(
            "too many tensors in the optimizer",
            _groups(lists="twice"),
            "Count the tensors that you hand over. Is one there twice, or one that is frozen?",
            "A tied tensor under two names is stepped twice, and a frozen one that is handed over "
            "may move all the same.",
        ),
    ),
)

# --- ex07.4: batches with a budget of tokens ----------------------------------------------------


def _batched(f, lengths, budget, seed):
    """What f makes of real lengths in five draws, without what chance may decide.

    Among rows of equal length it may choose as it likes.
    """
    import numpy as np

    lengths = np.array(lengths)
    runs = []
    for run in (0, 1, 2, 3, 3):
        made = f(lengths.copy(), budget, np.random.default_rng((seed, run)))
        batches, share = made
        runs.append(([[int(row) for row in batch] for batch in batches], round(float(share), 6)))
    batches, share = runs[0]
    rows = sorted(row for batch in batches for row in batch)
    if rows != list(range(len(lengths))):
        missing = len(set(range(len(lengths))) - set(rows))
        twice = len(rows) - len(set(rows))
        return {"rows": f"{missing} missing, {twice} twice", "padding": share}
    made = sorted(sorted(lengths[batch].tolist()) for batch in batches)
    longest = [[int(max(lengths[batch])) for batch in each] for each, _ in runs]
    order = "shuffled"
    if runs[3][0] != runs[4][0]:
        order = "not from the generator that was given"
    elif len(batches) > 3 and all(each in (sorted(each), sorted(each)[::-1]) for each in longest):
        order = "by length"
    elif len(batches) > 3 and all(batch == batches for batch, _ in runs):
        order = "the same in every run"
    return {"rows": "each once", "lengths": made, "order": order, "padding": share}


def _sentences(rng, n=40, budget=None):
    lengths = rng.choice(_lengths(), n, replace=False)
    lengths[0] = 64
    return rng.permutation(lengths).tolist(), budget or int(rng.integers(110, 300)), 3


def _batch_hand(f, rng):
    out = f([5, 2, 9, 3, 2, 4], 10, 0)
    what = "lengths 5, 2, 9, 3, 2, 4, at most 10 tokens a batch"
    expect(out["rows"], "each once", f"{what}: the rows")
    # 2 2 3 would be 9 tokens; with the 4 it is 16.
    wanted = [[2, 2, 3], [4, 5], [9]]
    expect(out["lengths"], wanted, f"{what}: the lengths in each batch")
    out = f([5, 2, 9, 3, 2, 4], 9, 0)
    what = what.replace("10", "9")
    expect(out["lengths"], [[2, 2, 3], [4], [5], [9]], f"{what}: the lengths in each batch")


def _batch_padding(f, rng):
    out = f([5, 2, 9, 3, 2, 4], 10, 0)
    what = "batches of lengths 2 2 3, 4 5 and 9: 28 places, 25 tokens; the share of padding"
    expect(out["padding"], 3 / 28, what, 1e-5)
    expect(f([4, 4, 4], 8, 0)["padding"], 0.0, "three rows of 4 tokens: the share of padding")


def _batch_order(f, rng):
    lengths, budget, seed = _sentences(rng)
    out = f(lengths, budget, seed)
    what = "40 real sentences, four draws of the generator: the order of the batches"
    expect(out.get("order"), "shuffled", what)


def _batch_real(f, rng):
    for n in (40, 150):
        lengths, budget, seed = _sentences(rng, n)
        out = f(lengths, budget, seed)
        what = f"{n} real sentences, at most {budget} tokens"
        expect(out["rows"], "each once", f"{what}: the rows")
        sizes = [len(batch) * batch[-1] for batch in out["lengths"]]
        require(max(sizes) <= budget, f"{what}: there is a batch of {max(sizes)} tokens, padding "
                "counted")  # fmt: skip
        together = sorted(out["lengths"], key=lambda batch: (batch[0], batch[-1]))
        for batch, after in pairwise(together):
            require(
                batch[-1] <= after[0],
                f"{what}: one batch has lengths from {batch[0]} to {batch[-1]}, another from "
                f"{after[0]} to {after[-1]}; sentences of like length are not together",
            )
            more = (len(batch) + 1) * after[0]
            require(
                more > budget,
                f"{what}: a batch of {len(batch)} sentences up to {batch[-1]} tokens ends although "
                f"the next one, of {after[0]}, would fit",
            )
        wanted = 1 - sum(lengths) / sum(sizes)
        expect(out["padding"], wanted, f"{what}: the share of padding of these batches", 1e-4)


def _batches(sort="up", fits="padded", share="all", order="shuffled", last=True, rows="rows",
             strict=False):  # fmt: skip
    def wrong(lengths, budget, rng):
        by_length = np.argsort(lengths, kind="stable")
        if sort == "down":
            by_length = by_length[::-1]
        if sort == "none":
            by_length = rng.permutation(len(lengths))
        batches, batch = [], []
        size = budget // lengths.max()
        for row in by_length:
            longer = lengths[[*batch, row]]
            full = {
                "padded": len(longer) * longer.max() > budget - strict,
                "tokens": longer.sum() > budget,
                "longest": len(longer) > size,
            }[fits]
            if batch and full:
                batches.append(batch)
                batch = []
            batch.append(row)
        if last:
            batches.append(batch)
        padded = [len(batch) * lengths[batch].max() for batch in batches]
        real = [lengths[batch].sum() for batch in batches]
        padding = 1 - sum(real) / sum(padded)
        if share == "of real":
            padding = sum(padded) / sum(real) - 1
        if share == "mean":
            padding = np.mean([1 - r / p for r, p in zip(real, padded, strict=True)])
        if rows == "places":
            back = np.argsort(by_length)
            batches = [[int(back[row]) for row in batch] for batch in batches]
        if order == "shuffled":
            batches = [batches[k] for k in rng.permutation(len(batches))]
        if order == "fixed":
            other = np.random.default_rng(0)
            batches = [batches[k] for k in other.permutation(len(batches))]
        return batches, padding

    return wrong


BATCHES = Task(
    id="ex07.4",
    title="Batches with a budget of tokens",
    function="token_batches",
    taught="07#Batches of like length",
    parts=(
        Part("by hand", 1, _batch_hand),
        Part("the share of padding", 1, _batch_padding),
        Part("the order of the batches", 1, _batch_order),
        Part("real sentences", 2, _batch_real),
    ),
    probes=lambda rng: [_sentences(rng), _sentences(rng, 60), ([5, 2, 9, 3, 2, 4, 6, 6], 12, 1)],
    harness=_batched,
    misconceptions=(
        Misconception(
            "real tokens fill the budget",
            _batches(fits="tokens"),
            "Multiply the rows of each batch by its longest row. Is one product above the budget?",
            "You add up the real tokens. What takes memory and time is the padded batch: rows "
            "times its longest.",
        ),
        Misconception(
            "one number of rows for all",
            _batches(fits="longest"),
            "How many sentences of five tokens fit, and how many do you take?",
            "You divide the budget by the longest sentence of all, so every batch has the rows "
            "that the worst one allows. Short ones leave most of the budget empty.",
        ),
        Misconception(
            "rows as they come",
            _batches(sort="none"),
            "Which lengths are in your first batch?",
            "The rows are not sorted, so one long sentence pads its whole batch.",
        ),
        Misconception(
            "from the longest down",
            _batches(sort="down"),
            "With which sentence does your first batch begin?",
            "You fill from the longest down. That is a sensible rule too, but cuts at other "
            "places; asked for is from the shortest up.",
        ),
        Misconception(
            "the last batch is lost",
            _batches(last=False),
            "How many rows are in all your batches together?",
            "The batch that is still open when the loop ends is never kept. It holds the longest "
            "sentences, so your model never sees them.",
        ),
        Misconception(
            "places instead of rows",
            _batches(rows="places"),
            "Look up the lengths of the rows in one of your batches. Are they alike?",
            "Your batches hold places in the sorted list, not row numbers. Whoever indexes texts "
            "with them gets other texts.",
        ),
        Misconception(
            "always from short to long",
            _batches(order="by length"),
            "How long are the sentences of the first batches of an epoch, and of the last?",
            "The batches come sorted by length. Every epoch then ends with the longest sentences, "
            "and the last steps are all of one kind.",
        ),
        Misconception(
            "the same order in every epoch",
            _batches(order="fixed"),
            "Call your function with two generators. Does the order change?",
            "Your order does not come from the generator that is given, so every epoch and every "
            "seed has the same one.",
        ),
        Misconception(
            "padding per real token",
            _batches(share="of real"),
            "By which number do you divide the padding: by all places, or by the real tokens?",
            "You divide by the real tokens. That number can be above 1; a share of what is "
            "computed cannot.",
        ),
        Misconception(
            "a mean over batches",
            _batches(share="mean"),
            "Does a batch of 100 places count as much as one of 300 in your share?",
            "You average the shares of the batches. Asked for is the share of all places, so large "
            "batches count for more.",
        ),
        Misconception(
            "a full batch is too much",
            _batches(strict=True),
            "What do you do with a row that fills the budget exactly?",
            "“At most” includes the budget itself.",
        ),
    ),
)

# --- ex07.5: mend the loss of a tagger ----------------------------------------------------------


def _parts(rng, scale=1.0, classes=5, sizes=((2, 6), (3, 4), (2, 7))):
    """Logits and labels of some parts; padding and later pieces have the label -100."""
    made = []
    for number, (n, T) in enumerate(sizes):
        labels = rng.integers(0, classes, (n, T))
        labels[rng.random((n, T)) < 0.2 + 0.15 * number] = -100
        labels[:, 0] = labels[:, -1] = -100
        labels[0, 1:3] = 0, 2
        made.append((scale * rng.normal(size=(n, T, classes)), labels))
    return (made,)


def _plain_loss(logits, labels):
    """The cross-entropy of each counted token, one after the other."""
    losses = []
    for z, y in zip(logits.reshape(-1, logits.shape[-1]), labels.ravel(), strict=True):
        if y != -100:
            losses.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[y])
    return losses


def _tag_start(f, rng):
    labels = np.array([[-100, 0, 2, -100, -100], [-100, 1, -100, 3, -100]])
    parts = [(np.zeros((2, 5, 4)), labels), (np.zeros((1, 5, 4)), labels[:1])]
    expect(f(parts), np.log(4), "all logits 0, four classes: the loss before training", 1e-6)
    z = np.zeros((1, 3, 2))
    z[0, 1] = np.log(3), 0
    what = "one counted token with probabilities 3/4 and 1/4: label {}"
    expect(f([(z, np.array([[-100, 0, -100]]))]), np.log(4 / 3), what.format(0))
    expect(f([(z, np.array([[-100, 1, -100]]))]), np.log(4), what.format(1))


def _tag_split(f, rng):
    (parts,) = _parts(rng)
    wanted = np.mean([loss for part in parts for loss in _plain_loss(*part)])
    counts = [int((labels != -100).sum()) for _, labels in parts]
    what = f"three parts with {counts} counted tokens, token by token"
    expect(f(parts), wanted, what)
    rows = [(z[k : k + 1], y[k : k + 1]) for z, y in parts for k in range(len(z))]
    expect(f(rows), f(parts), "the same sentences, each a part of its own")
    z, y = parts[0]
    z, y = (np.concatenate([a, a[:, :1]], axis=1) for a in (z, y))
    expect(f([(z, y), *parts[1:]]), f(parts), "one more place of padding in the first part")


def _tag_large(f, rng):
    parts = _parts(rng, 500.0)[0]
    loss = f(parts)
    require(np.isfinite(loss), f"with logits of some hundreds the loss is {loss}")
    wanted = np.mean([loss for part in parts for loss in _plain_loss(*part)])
    expect(loss, wanted, "logits of some hundreds, token by token")


def _tag_empty(f, rng):
    parts = _parts(rng)[0]
    empty = (np.ones((2, 3, 5)), np.full((2, 3), -100))
    expect(f([*parts, empty]), f(parts), "one more part in which no token counts")


def _tag_loss(over="tokens", real=lambda y: y != -100, log_p="stable", twice=False, divide=True):
    how = log_p

    def log_softmax(z):
        if how != "raw":
            z = z - z.max(axis=-1, keepdims=True)
        e = np.exp(z)
        if how != "stable":
            return np.log(e / e.sum(axis=-1, keepdims=True))
        return z - np.log(e.sum(axis=-1, keepdims=True))

    def wrong(parts):
        sums, counts = [], []
        for logits, labels in parts:
            log_p = log_softmax(logits)
            log_p = log_softmax(np.exp(log_p)) if twice else log_p
            mask = real(labels)
            index = np.where(mask, labels, 0)[..., None]
            losses = -np.take_along_axis(log_p, index, axis=-1)[..., 0]
            losses = np.where(mask, losses, 0.0)
            if over == "sentences":
                sums += list(losses.sum(axis=1))
                counts += list(mask.sum(axis=1))
            else:
                sums.append(losses.sum())
                counts.append(mask.size if over in ("places", "means of places") else mask.sum())
        sums, counts = np.array(sums), np.array(counts)
        if not divide:
            return sums.sum()
        if over in ("parts", "sentences", "means of places"):
            return np.mean(sums / counts)
        return sums.sum() / counts.sum()

    return wrong


def _above_zero(y):
    return y > 0


TAG = Task(
    id="ex07.5",
    title="Mend the loss of a tagger",
    function="step_loss",
    taught="07#The loss before the first step",
    parts=(
        Part("before training, and by hand", 1, _tag_start),
        Part("however the step is cut into parts", 2, _tag_split),
        Part("large logits", 1, _tag_large),
        Part("a part without labels", 1, _tag_empty),
    ),
    probes=lambda rng: [_parts(rng), _parts(rng, 3.0), _parts(rng, 800.0)],
    misconceptions=(
        Misconception(
            "as it was",
            _tag_loss("means of places", _above_zero, log_p="raw"),
            "All logits 0 and four classes: the loss has to be ln 4. Then cut one step into other "
            "parts. Then logits of 1,000.",
            "Four things are wrong: which labels count, the number that you divide by, the mean "
            "of means, and the exponential of large logits. Mend them one by one.",
        ),
        Misconception(
            "a mean of the parts' means",
            _tag_loss("parts"),
            "Cut the same sentences into other parts. Does the loss change?",
            "Each part counts the same, however many labels it has. A token in a part with few "
            "labels then weighs more. This stood in widely used training code until late 2024.",
        ),
        Misconception(
            "a mean of the sentences' means",
            _tag_loss("sentences"),
            "Does a token of a short sentence weigh as much as one of a long sentence?",
            "You average within each sentence first, so tokens of short sentences weigh more.",
        ),
        Misconception(
            "padding in the number",
            _tag_loss("places"),
            "Add a place of padding to every sentence. Does the loss change?",
            "The losses at -100 are zero, but their places are counted in the number that you "
            "divide by. The loss then falls with the padding.",
        ),
        Misconception(
            "class 0 does not count",
            _tag_loss(real=_above_zero),
            "Which label do tokens have that are no name? Is it the same as “do not count”?",
            "You leave class 0 out together with -100. Class 0 is a class: a tagger that is never "
            "told what is no name finds names everywhere.",
        ),
        Misconception(
            "exponential of raw logits",
            _tag_loss(log_p="raw"),
            "What is exp(1000) in floating point, and infinity divided by infinity?",
            "The exponential overflows above about 709. Taking the largest logit from all of a "
            "token changes no probability.",
        ),
        Misconception(
            "a probability that is rounded to zero",
            _tag_loss(log_p="late"),
            "Which loss does a token get whose right class is 1,000 below the largest logit?",
            "Your loss is infinite there, and should be 1,000. A probability below e to the −745 "
            "is 0 in floating point and a number above e to the 709 infinite; what you take the "
            "logarithm of has left that range.",
        ),
        Misconception(
            "softmax twice",
            _tag_loss(twice=True),
            "How low can your loss fall if all answers are right and certain?",
            "Probabilities are taken for logits and squeezed again. With five classes your loss "
            "cannot fall below 0.90.",
        ),
        Misconception(
            "a sum",
            _tag_loss(divide=False),
            "What do you get for all logits 0, for one sentence and for two?",
            "The loss is a sum over tokens. It grows with the batch, and the step with it.",
        ),
    ),
)

# --- ex07.6: mend the comparison of two recipes -------------------------------------------------

# benchmarks/results/bert_labels_pytorch.json, 500 labels: the accuracy of each seed.
TUNED = dict(enumerate((0.8003, 0.79831, 0.79084, 0.77739, 0.7993, 0.8008, 0.81026, 0.79582,
                        0.76992, 0.80329)))  # fmt: skip
LORA = dict(enumerate((0.79034, 0.80129, 0.77988, 0.79731, 0.78984)))
SLOW_LORA = dict(enumerate((0.75797, 0.73058, 0.76145, 0.73058, 0.76992)))
BOTTOM_FROZEN = dict(enumerate((0.79532, 0.79731, 0.78237, 0.78934, 0.78337)))


def _two_recipes(rng, ours=8, theirs=5):
    """Accuracies by seed, the seeds in any order; some have run on one side only."""
    luck = 0.03 * rng.normal(size=12)
    both = []
    for count, base in ((ours, 0.8), (theirs, 0.78)):
        seeds = np.r_[rng.permutation(3), 3 + rng.permutation(9)][:count]
        made = {int(s): float(base + luck[s] + 0.01 * rng.normal()) for s in rng.permutation(seeds)}
        both.append(made)
    return tuple(both)


def _pair_hand(f, rng):
    # Differences 0.01, 0.02 and 0.03: standard deviation 0.01, t(2) = 4.30265.
    ours, theirs = {0: 0.81, 1: 0.72, 2: 0.93}, {0: 0.8, 1: 0.7, 2: 0.9}
    half = 4.30265 * 0.01 / np.sqrt(3)
    what = f"ours {ours}, theirs {theirs}"
    wanted = np.round([0.02, 0.02 - half, 0.02 + half], 6).tolist()
    expect(f(ours, theirs), wanted, what, 1e-5)
    what = "two seeds, differences 0 and 0.02"
    wanted = [0.01, 0.01 - 0.127062, 0.01 + 0.127062]
    expect(f({4: 0.5, 7: 0.62}, {4: 0.5, 7: 0.6}), wanted, what, 1e-5)


def _pair_seeds(f, rng):
    ours, theirs = {0: 0.81, 1: 0.72, 2: 0.93}, {0: 0.8, 1: 0.7, 2: 0.9}
    turned = {seed: theirs[seed] for seed in (2, 0, 1)}
    expect(f(ours, turned), f(ours, theirs), "the seeds of one side in another order")
    more = {**ours, 9: 0.1}
    expect(f(more, theirs), f(ours, theirs), "a seed that has run on one side only")
    expect(f(ours, {9: 0.1, **theirs}), f(ours, theirs), "the same on the other side, as the first")


# Recorded with scipy.stats.ttest_rel: gain, lower and upper end.
ON_RECORD = (
    ("full fine-tuning against LoRA at thirty times the rate", TUNED, LORA),
    ("full fine-tuning against LoRA at ten times the rate", TUNED, SLOW_LORA),
    ("nothing frozen against three parts frozen", TUNED, BOTTOM_FROZEN),
)
FOUND = (
    (0.001496, -0.014968, 0.01796),
    (0.043128, 0.023523, 0.062733),
    (0.003686, -0.00913, 0.016502),
)


def _pair_real(f, rng):
    for (what, ours, theirs), wanted in zip(ON_RECORD, FOUND, strict=True):
        expect(f(ours, theirs), list(wanted), f"recorded runs, 500 labels, {what}", 1e-4)


def _gain(pair="seed", paired=True, quantile="t", ddof=1, error=True, best=False, turned=False):
    def wrong(ours, theirs):
        from scipy import stats

        if turned:
            ours, theirs = theirs, ours
        if pair == "seed":
            seeds = [s for s in ours if s in theirs]
            a, b = (np.array([side[s] for s in seeds]) for side in (ours, theirs))
        else:
            a, b = (np.array(list(side.values())) for side in (ours, theirs))
            if pair == "place":
                n = min(len(a), len(b))
                a, b = a[:n], b[:n]
        n = min(len(a), len(b))
        gain = a.max() - b.max() if best else a.mean() - b.mean()
        if paired and pair != "all":
            spread = (a - b).std(ddof=ddof) / (np.sqrt(n) if error else 1)
            free = n - 1
        else:
            spread = np.sqrt(a.var(ddof=ddof) / len(a) + b.var(ddof=ddof) / len(b))
            free = len(a) + len(b) - 2
        factor = {"t": stats.t.ppf(0.975, free), "normal": 1.96, "one": stats.t.ppf(0.95, free),
                  "n": stats.t.ppf(0.975, n)}[quantile]  # fmt: skip
        return gain, gain - factor * spread, gain + factor * spread

    return wrong


GAIN = Task(
    id="ex07.6",
    title="Mend the comparison of two recipes",
    function="gain",
    taught="07#One seed is an anecdote",
    parts=(
        Part("by hand", 1, _pair_hand),
        Part("which runs are compared", 1, _pair_seeds),
        Part("recorded runs", 2, _pair_real),
    ),
    probes=lambda rng: [_two_recipes(rng), _two_recipes(rng, 5, 9), _two_recipes(rng, 6, 6)],
    misconceptions=(
        Misconception(
            "as it was",
            _gain("place", paired=False, quantile="normal", ddof=0),
            "Turn the seeds of one side around. Then take three seeds and look up Student's t.",
            "Four things are wrong: runs are paired by their place, the spread is that of two "
            "unrelated samples, it is divided by n, and the factor is that of many runs.",
        ),
        Misconception(
            "paired by place",
            _gain("place"),
            "Give the seeds of one side in another order. Does your interval change?",
            "You pair the runs as they stand in the record. A record that was taken up again is in "
            "another order, and a seed may have failed on one side.",
        ),
        Misconception(
            "all runs of both sides",
            _gain("all"),
            "A seed has run on one side only. Does it change your gain?",
            "You compare the means of all runs, as if they had nothing in common. Ten seeds here "
            "and five there are then also a comparison of labelled sentences.",
        ),
        Misconception(
            "not paired",
            _gain(paired=False),
            "Add 0.1 to both runs of one seed. Does your interval become wider?",
            "The mean is right, the spread is not: you treat both sides as unrelated. A seed with "
            "lucky sentences lifts both, and the difference does not feel it.",
        ),
        Misconception(
            "1.96 for a few seeds",
            _gain(quantile="normal"),
            "What is Student's factor for two and for four degrees of freedom?",
            "1.96 belongs to many runs. For five seeds it is 2.78, for three 4.30; your interval "
            "is too narrow.",
        ),
        Misconception(
            "as many degrees of freedom as runs",
            _gain(quantile="n"),
            "The mean was estimated from the same runs. How many are left for the spread?",
            "n differences have n − 1 degrees of freedom: one was spent on their mean.",
        ),
        Misconception(
            "one-sided",
            _gain(quantile="one"),
            "How much lies outside your interval on each side?",
            "You leave 5 % out at each end, so the interval holds 90 %. For 95 % it is 2.5 % at "
            "each end.",
        ),
        Misconception(
            "divided by n",
            _gain(ddof=0),
            "What does NumPy's std divide by unless told otherwise, and what PyTorch's?",
            "The spread of a sample is estimated with n − 1. With n it is too small, with three "
            "runs by a fifth.",
        ),
        Misconception(
            "the spread of a run",
            _gain(error=False),
            "Does your interval become narrower with more seeds?",
            "You take the standard deviation of single differences. The mean of n of them is "
            "steadier, by the root of n.",
        ),
        Misconception(
            "best against best",
            _gain(best=True),
            "What would become of your gain if one side had ten times as many seeds?",
            "The best of a side grows with the number of its seeds. That is a number about luck.",
        ),
        Misconception(
            "theirs minus ours",
            _gain(turned=True),
            "Is your gain positive where ours is better?",
            "The sign is turned around: asked for is how much ours is above theirs.",
        ),
    ),
)

# --- ex07.7: mend the LoRA run ------------------------------------------------------------------


def _adapted_pytorch(f, seed, shares, epochs, peak, scale):
    """What f does to a small network with LoRA, where `shares` are the shares of the peak rate.

    `scale` multiplies the inputs: where it is large, so are the gradients.
    """
    import numpy as np
    import torch
    from torch import nn

    rng, modes = np.random.default_rng(seed), {6: [], 5: []}

    class Drop(nn.Module):
        def forward(self, x):
            modes.setdefault(len(x), []).append(self.training)
            return x

    class LoRA(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.a = base, nn.Parameter(tensor(2, 4))
            self.b = nn.Parameter(torch.zeros(5, 2, dtype=torch.float64))

        def forward(self, x):
            return self.base(x) + x @ self.a.T @ self.b.T

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.drop, self.head = nn.Linear(4, 5), Drop(), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.drop(self.query(x)))

    def tensor(*shape):
        return torch.from_numpy(rng.normal(size=shape))

    def batch(n):
        labels = rng.permutation(np.array([0, 0, 0, 1, 1, 2]))[:n]
        return scale * tensor(n, 4), torch.from_numpy(labels)

    model = Classifier().double()
    with torch.no_grad():
        for p in (model.query.weight, model.head.weight):
            p.copy_(tensor(*p.shape))
        model.query.bias.copy_(0.2 * tensor(5))
        model.head.bias.zero_()
    model.query.requires_grad_(False)
    made, asked = [], []

    def add_lora(model):
        model.query = LoRA(model.query)
        made.append({name: p.detach().clone() for name, p in model.named_parameters()})

    def share(step, steps):
        asked.append(int(steps))
        return shares[step] if step < len(shares) else 0.0

    batches = [batch(6) for _ in range(len(shares) // epochs)]
    losses, right = f(model, add_lora, share, batches, batch(5), epochs, peak)
    if len(made) != 1:
        return {"add_lora": len(made)}
    moved = {name: (p.detach() - made[0][name]).numpy() for name, p in model.named_parameters()}
    return {
        "losses": np.array([float(loss) for loss in losses]),
        "right": [round(float(r), 6) for r in right],
        "moved": {name: moved[f"query.{name}"] for name in "ab"}
        | {"head": np.r_[moved["head.weight"].ravel(), moved["head.bias"]]},
        "body": float(max(abs(moved[f"query.base.{n}"]).max() for n in ("weight", "bias"))),
        "dropout": {"training": sorted(set(modes[6])), "held out": sorted(set(modes[5]))},
        "steps": sorted(set(asked)),
    }


def _adapted_keras(f, seed, shares, epochs, peak, scale):
    """What f does to a small network with LoRA, where `shares` are the shares of the peak rate.

    `scale` multiplies the inputs: where it is large, so are the gradients.
    """
    import keras
    import numpy as np
    from keras import layers, ops

    rng, modes = np.random.default_rng(seed), {6: [], 5: []}

    class Drop(layers.Layer):
        def call(self, x, training=False):
            modes.setdefault(len(x), []).append(bool(training))
            return x

    class LoRA(layers.Layer):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a = self.add_weight(name="a", shape=(4, 2), initializer="zeros")
            self.b = self.add_weight(name="b", shape=(2, 5), initializer="zeros")

        def call(self, x):
            return self.base(x) + ops.matmul(ops.matmul(x, self.a), self.b)

    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.query, self.drop = layers.Dense(5, name="query"), Drop()
            self.head = layers.Dense(3, name="head")

        def call(self, x, training=False):
            return self.head(self.drop(self.query(x), training=training))

    def batch(n):
        x = scale * rng.normal(size=(n, 4)).astype("float32")
        return x, rng.permutation(np.array([0, 0, 0, 1, 1, 2]))[:n]

    model = Classifier()
    model.query.build((None, 4))
    model.head.build((None, 5))
    model.built = True
    model.query.set_weights([rng.normal(size=(4, 5)), 0.2 * rng.normal(size=5)])
    model.head.set_weights([rng.normal(size=(5, 3)), np.zeros(3)])
    model.query.trainable = False
    made, asked = [], []

    def weights():
        found = {"a": model.query.a, "b": model.query.b, "kernel": model.query.base.kernel}
        found |= {"bias": model.query.base.bias, "head": model.head.kernel}
        found["head bias"] = model.head.bias
        return {name: np.array(value).astype(float) for name, value in found.items()}

    def add_lora(model):
        model._tracker.unlock()
        model.query = LoRA(model.query)
        model._tracker.lock()
        model.query.a.assign(rng.normal(size=(4, 2)))
        made.append(weights())

    def share(step, steps):
        asked.append(int(steps))
        return shares[int(step)] if step < len(shares) else 0.0

    batches = [batch(6) for _ in range(len(shares) // epochs)]
    losses, right = f(model, add_lora, share, batches, batch(5), epochs, peak)
    if len(made) != 1:
        return {"add_lora": len(made)}
    now = weights()
    moved = {name: now[name] - before for name, before in made[0].items()}
    return {
        "losses": np.array([float(loss) for loss in losses]),
        "right": [round(float(r), 6) for r in right],
        "moved": {name: moved[name] for name in "ab"}
        | {"head": np.r_[moved["head"].ravel(), moved["head bias"]]},
        "body": float(max(abs(moved[name]).max() for name in ("kernel", "bias"))),
        "dropout": {"training": sorted(set(modes[6])), "held out": sorted(set(modes[5]))},
        "steps": sorted(set(asked)),
    }


def _lora_run(rng, shares=(0.5, 1.0, 0.6, 0.3), epochs=2, peak=0.5, scale=1.0):
    return int(rng.integers(1000)), shares, epochs, peak, scale


def _run(f, *inputs):
    made = f(*inputs)
    require("losses" in made, f"add_lora was called {made.get('add_lora')} times; expected once")
    what = "{} batches, {} epochs: how many losses, and how many accuracies, come back"
    counts = [len(made["losses"]), len(made["right"])]
    expect(counts, [len(inputs[1]), inputs[2]], what.format(len(inputs[1]) // inputs[2], inputs[2]))
    return made


def _lora_trains(f, rng):
    _optimizers_loaded()
    made = _run(f, *_lora_run(rng))
    for name, part in (("b", "LoRA's b"), ("a", "LoRA's a"), ("head", "the head")):
        change = float(np.abs(made["moved"][name]).max())
        require(change > 1e-4, f"after four steps at a rate of up to 0.5 {part} has not moved")
    expect(made["body"], 0.0, "after four steps, the largest change of the frozen weights")


def _lora_rates(f, rng):
    expect(_run(f, *_lora_run(rng))["steps"], [4], "2 batches, 2 epochs: the number of steps that "
           "share is told")  # fmt: skip
    seed = int(rng.integers(1000))
    for k in (1, 2):
        shares = tuple(float(step == k) for step in range(4))
        losses = np.asarray(_run(f, seed, shares, 2, 0.5, 1.0)["losses"])
        # The same two batches come in both epochs; a step is seen from the next loss on.
        moved = [bool(abs(losses[j + 2] - losses[j]) > 1e-6) for j in (0, 1)]
        wanted = [k == 1, True]
        what = f"2 batches, 2 epochs, a rate above zero at step {k} only (the first is step 0): "
        what += "has the loss of the first and of the second batch changed in the second epoch"
        expect(moved, wanted, what)


def _lora_clipped(f, rng):
    made = _run(f, *_lora_run(rng, (1.0,), 1, 0.25, 60.0))["moved"]
    length = float(np.sqrt(sum(np.sum(np.square(part)) for part in made.values())))
    what = "large gradients, one step at rate 0.25, clipped to 1: the length of the step over all "
    expect(length, 0.25, what + "trained numbers", 1e-3)
    made = _run(f, *_lora_run(rng, (1.0,), 1, 0.25, 1e-4))["moved"]
    length = float(np.sqrt(sum(np.sum(np.square(part)) for part in made.values())))
    require(
        1e-4 < length < 0.22,
        "a gradient shorter than 1, one step at rate 0.25: the gradient has to be left as it is; "
        f"the step is shorter than 0.22, and not 0; yours is {length:.3g} long",
    )


def _lora_alone(f, rng):
    seed, steps = int(rng.integers(1000)), []
    # Inputs near zero and equal shares of labels: the gradient is the same for all batches.
    for shares in ((1.0,), (0.0, 0.0, 1.0)):
        made = _run(f, seed, shares, 1, 0.25, 1e-4)["moved"]["head"]
        steps.append(np.sqrt(np.sum(np.square(made))))
    what = "inputs near 0, three batches, a rate above zero for the last only: the length of the "
    expect(steps[1], steps[0], what + "head's step is that for one batch", 1e-2)


def _lora_modes(f, rng):
    made = _run(f, *_lora_run(rng))["dropout"]
    expect(made["training"], [True], "2 batches, 2 epochs: is dropout on in training")
    expect(made["held out"], [False], "2 batches, 2 epochs: is dropout on for the held-out rows")


def _lora_pytorch(early=False, rate="step", clip="all", modes="right", body=False, zero=True):
    def wrong(model, add_lora, share, batches, held_out, epochs, peak):
        import torch
        from torch import nn

        weights = [p for p in model.parameters() if p.requires_grad]
        add_lora(model)
        if body:
            model.requires_grad_(True)
        if not early:
            weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=peak)
        losses, right, steps = [], [], epochs * len(batches)
        model.train()
        for epoch in range(epochs):
            if modes != "once":
                model.train(modes != "never")
            for x, y in batches:
                step = len(losses) + (rate == "late")
                now = peak * (share(epoch, epochs) if rate == "epoch" else share(step, steps))
                optimizer.param_groups[0]["lr"] = now
                loss = nn.functional.cross_entropy(model(x), y)
                if zero:
                    model.zero_grad()
                loss.backward()
                if clip == "all":
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                if clip == "each":
                    for p in weights:
                        nn.utils.clip_grad_norm_(p, 1.0)
                if clip == "value":
                    nn.utils.clip_grad_value_(weights, 1.0)
                optimizer.step()
                losses.append(loss.item())
            if modes != "all train":
                model.eval()
            with torch.no_grad():
                x, y = held_out
                right.append((model(x).argmax(1) == y).double().mean().item())
        return losses, right

    return wrong


def _lora_keras(early=False, rate="step", clip="all", modes="right", body=False, zero=True):
    def wrong(model, add_lora, share, batches, held_out, epochs, peak):
        import keras
        import tensorflow as tf

        weights = list(model.trainable_variables)
        add_lora(model)
        if body:
            model.query.base.trainable = True
        if not early:
            weights = list(model.trainable_variables)
        options = {"all": "global_clipnorm", "each": "clipnorm", "value": "clipvalue"}
        clipped = {options[clip]: 1.0} if clip in options else {}
        optimizer = keras.optimizers.SGD(peak, **clipped)
        losses, right, steps = [], [], epochs * len(batches)
        total = [0.0] * len(weights)
        for epoch in range(epochs):
            for x, y in batches:
                step = len(losses) + (rate == "late")
                now = peak * (share(epoch, epochs) if rate == "epoch" else share(step, steps))
                optimizer.learning_rate = now
                train = modes in ("right", "all train") or (modes == "once" and epoch == 0)
                with tf.GradientTape() as tape:
                    z = model(x, training=train)
                    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, z)
                gradients = tape.gradient(loss, weights)
                total = [t + g for t, g in zip(total, gradients, strict=True)]
                optimizer.apply(gradients if zero else total, weights)
                losses.append(float(loss))
            x, y = held_out
            answers = np.asarray(model(x, training=modes == "all train")).argmax(axis=1)
            right.append(np.mean(answers == y))
        return losses, right

    return wrong


def _lora_runs(keras=None, **how):
    return dict(tensorflow=_lora_keras(**(how | (keras or {}))), pytorch=_lora_pytorch(**how))


RUN = Task(
    id="ex07.7",
    title="Mend the LoRA run that hardly learns",
    function="fine_tune",
    taught="07#The loop",
    parts=(
        Part("LoRA and the head train", 2, _lora_trains),
        Part("the rate of each step", 1, _lora_rates),
        Part("clipped before the step", 1, _lora_clipped),
        Part("each step by itself", 1, _lora_alone),
        Part("dropout", 1, _lora_modes),
    ),
    probes=lambda rng: [_lora_run(rng), _lora_run(rng, (0.3, 1.0), scale=5.0)],
    harness={"tensorflow": _adapted_keras, "pytorch": _adapted_pytorch},
    seconds=10.0,
    misconceptions=(
        Misconception(
            "as it was",
            _lora_runs(
                early=True,
                rate="epoch",
                clip="none",
                modes="once",
                keras={"clip": "each", "modes": "never"},
            ),
            "Print after the run: how far has each tensor moved? Print in each step: the rate, "
            "the length of the step, whether dropout is on.",
            "There are four bugs: which weights the optimizer was given, how often the rate "
            "changes, the clipping, and the mode of the model in training. Mend them one by one.",
        ),
        Misconception(
            "weights collected before LoRA was there",
            _lora_runs(early=True),
            "Print LoRA's b after the run. Is it still zero?",
            "The list of trained weights was made before the adapters were added. Only the head "
            "learns; nothing says so.",
        ),
        Misconception(
            "one rate an epoch",
            _lora_runs(rate="epoch"),
            "Print the rate in each step. How many different ones are there?",
            "The schedule counts epochs. With 10 % of the steps for warm-up and three epochs "
            "there is no warm-up at all, and the decay is a staircase.",
        ),
        Misconception(
            "one step ahead",
            _lora_runs(rate="late"),
            "Which share of the peak does the very first step get?",
            "The schedule moves on before the first step, so every step has the rate of the next "
            "one, and the last has none.",
        ),
        Misconception(
            "not clipped",
            _lora_runs(clip="none"),
            "Make the inputs a hundred times as large. How long is a step at rate 0.25?",
            "The gradients are not clipped when the step is taken. A clipping behind the step "
            "changes numbers that nobody uses any more.",
        ),
        Misconception(
            "each tensor clipped by itself",
            _lora_runs(clip="each"),
            "How long can one step be over all trained numbers together?",
            "Every tensor is cut to length 1 alone, so the whole step can be longer, and its "
            "direction changes. Clipping by the global norm scales all by one factor.",
        ),
        Misconception(
            "each number clipped by itself",
            _lora_runs(clip="value"),
            "How long can one step be over all trained numbers together?",
            "Every number is cut to between −1 and 1 alone. Asked for is a limit to the length of "
            "the whole gradient, which keeps its direction.",
        ),
        Misconception(
            "dropout stays off after the first evaluation",
            _lora_runs(modes="once"),
            "In which mode is the model in the first step of the second epoch?",
            "The evaluation at the end of an epoch switches the model to evaluation mode, and "
            "nobody switches it back.",
        ),
        Misconception(
            "dropout never on",
            _lora_runs(modes="never"),
            "Is dropout on in a step of training?",
            "The model is called as if it were asked for answers. Dropout, and whatever else "
            "belongs to training only, never works.",
        ),
        Misconception(
            "dropout on while measuring",
            _lora_runs(modes="all train"),
            "Measure the same rows twice. Do you get the same answers?",
            "The held-out rows are answered in training mode. The accuracy is then that of a "
            "network with a part switched off by chance.",
        ),
        Misconception(
            "the body trains too",
            _lora_runs(body=True),
            "Compare the frozen matrix before and after the run.",
            "Everything was unfrozen. That is full fine-tuning with LoRA on top: nothing is saved, "
            "and the adapter alone no longer describes what was learned.",
        ),
        Misconception(
            "gradients add up",
            _lora_runs(zero=False),
            "What does the second step do with the gradient of the first batch?",
            "The gradients of earlier batches are added to each new one.",
        ),
    ),
)

TASKS = (MERGE, PLAN, GROUPS, BATCHES, TAG, GAIN, RUN)
