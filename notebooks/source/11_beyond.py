# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Beyond: detection, sound, image and text
#
# The usual list of what transfer is for reads: classifying pictures (medical, satellite) and text,
# detection, speech, recommendation. The first two fill notebooks 02 to 10. Here the task, or the
# kind of data, is another than the network was trained for. Afterwards you can
#
# - put a small detection head on a frozen trunk and measure it by average precision;
# - turn sound into pictures, and say which questions a picture network cannot answer about them;
# - tie two networks that never met, one for pictures and one for text, by one linear map;
# - recommend what nobody has clicked yet, and say how many clicks a text is worth;
# - say of a family of models what is transferred, what is trained, and on what terms.
#
# *You need notebook 04 (features, cuts) and the idea of an embedding from 06. 45 minutes to read,
# about one to run.*

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %% tags=["tensorflow"]
from tlcourse import runtime

run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["pytorch"]
from tlcourse import runtime

run = runtime.start("pytorch", PROFILE, SEED)

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

from tlcourse import backbones, datasets, features, figures
from tlcourse.evidence import claim_margin, mean_interval, show_bundle, summary

backbone, encoder = backbones.load("efficientnet-lite0"), backbones.load("minilm")
objects = datasets.pictograms("color", labelled=False)
KINDS = ("animals", "food", "faces", "transport")
chosen = np.isin(objects.labels, [objects.class_names.index(kind) for kind in KINDS])
pictograms = objects.subset(chosen)
C = len(KINDS)  # the first four of the eight classes, so the labels are 0 to 3
print(dict(zip(KINDS, np.bincount(pictograms.labels).tolist(), strict=True)))

# %% [markdown]
# The control in the first two parts is the same network with random weights, drawn anew for each
# seed.

# %% tags=["pytorch"]
import torch
from torch import nn

from tlcourse.backbones import spec, torch_lite


def untrained(seed):
    torch.manual_seed(seed)
    return replace(backbone, model=torch_lite.build(spec.LITE[backbone.name]).eval())


# %% tags=["tensorflow"]
import keras
from keras import layers, ops

from tlcourse.backbones import keras_lite, spec


def untrained(seed):
    keras.utils.set_random_seed(seed)
    return replace(backbone, model=keras_lite.build(spec.LITE[backbone.name]))


# %% [markdown]
# ## Detection: what is where
#
# A **detector** answers with boxes, each with a class and a score. What transfers is the trunk, as
# a map of features; what is new is the head that reads a box at every place of the map. You compose
# the scenes yourself, so every box is known exactly: two to five pictograms on a crop of a
# photograph. It is a drawn world, easier than photographs in one way (sharp outlines) and harder in
# another (few scenes).
#
# Two boxes are compared by the **intersection over union**,
#
# $$\mathrm{IoU}(A, B) = \frac{|A \cap B|}{|A \cup B|} = \frac{|A\cap B|}{|A|+|B|-|A\cap B|}
# \tag{1}$$


# %%
def area(boxes):
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)


def IoU(A, B):
    """Equation (1) for boxes x1, y1, x2, y2: (n, 4) and (m, 4) give (n, m)."""
    A, B = A[:, None], B[None]
    corners = [np.maximum(A[..., :2], B[..., :2]), np.minimum(A[..., 2:], B[..., 2:])]
    both = area(np.concatenate(corners, axis=-1))
    return both / (area(A) + area(B) - both)


# %%
from pycocotools import mask

rng = np.random.default_rng(run.seed)
A, B = (np.sort(rng.uniform(0, 100, (6, 2, 2)), axis=1).reshape(6, 4) for _ in range(2))
as_xywh = [np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]) for boxes in (A, B)]
assert np.allclose(IoU(A, B), mask.iou(*as_xywh, np.zeros(6)))  # the evaluation library agrees

# %% [markdown]
# The scenes. Training uses the left halves of two photographs and some rows of the Unicode chart;
# testing uses the right halves and the other rows. So no drawing and no patch of background is on
# both sides.

# %%
from PIL import Image
from scipy.ndimage import binary_fill_holes
from sklearn.datasets import load_sample_images

SIDE = 224
photos = load_sample_images().images  # a Chinese temple and a flower, 427 by 640 pixels


def cut_out(drawing):
    """The drawing without its white surroundings, transparent around the outline."""
    inside = binary_fill_holes((drawing < 250).any(axis=2))
    y, x = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    layers = np.dstack([drawing, 255 * inside.astype(np.uint8)])
    return Image.fromarray(layers[y[0] : y[-1] + 1, x[0] : x[-1] + 1])


pieces = {}  # filled as they are needed


# %%
def compose(rows, halves, rng):
    """One scene: picture, boxes (n, 4) in pixels, labels (n,)."""
    photo, side = halves[rng.integers(2)], rng.integers(120, 280)
    top, left = rng.integers(0, np.array(photo.shape[:2]) - side)
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    scene, boxes, labels = crop.resize((SIDE, SIDE)), np.empty((0, 4)), []
    wanted = rng.integers(2, 6)
    for row in rng.choice(rows, 40):
        if len(labels) == wanted:
            break
        if row not in pieces:
            pieces[row] = cut_out(pictograms.images[row])
        size = np.array(pieces[row].size) * rng.uniform(0.25, 0.5)
        piece = pieces[row].resize(np.maximum(size, 8).astype(int))
        corner = rng.integers(0, SIDE + 1 - np.array(piece.size))
        box = np.concatenate([corner, corner + piece.size])[None]
        if IoU(box, boxes).max(initial=0) < 0.1:
            scene.paste(piece, tuple(corner), piece)
            boxes, labels = np.vstack([boxes, box]), [*labels, pictograms.labels[row]]
    return np.array(scene), boxes, np.array(labels)


# %%
from types import SimpleNamespace


def scenes(rows, left, n, seed):
    rng = np.random.default_rng(seed)
    halves = [photo[:, :320] if left else photo[:, 320:] for photo in photos]
    images, boxes, labels = zip(*(compose(rows, halves, rng) for _ in range(n)), strict=True)
    return SimpleNamespace(images=np.array(images), boxes=boxes, labels=labels)


def new_case(seed):
    train, test = pictograms.split("block", test_size=0.3, seed=seed)
    n, m = run.pick(smoke=(16, 8), cpu=(160, 64))
    train, test = scenes(train, True, n, 2 * seed), scenes(test, False, m, 2 * seed + 1)
    return SimpleNamespace(seed=seed, train=train, test=test)


cases = [new_case(seed) for seed in run.seeds(5)]


# %%
def draw_boxes(ax, image, boxes, words, index=1):
    ax.imshow(image)
    for (x1, y1, x2, y2), word in zip(boxes, words, strict=True):
        edge = {"fill": False, "edgecolor": figures.COLORS[index], "linewidth": 1.5}
        ax.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, **edge))
        box = {"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0}
        ax.text(x1, max(y1, 10), word, fontsize=7, bbox=box)
    ax.axis("off")


fig, axes = plt.subplots(1, 4, figsize=(9, 2.6))
train = cases[0].train
for ax, i in zip(axes, range(4), strict=True):
    draw_boxes(ax, train.images[i], train.boxes[i], [KINDS[k] for k in train.labels[i]])
count = sum(map(len, train.boxes))
fig.suptitle(f"{len(train.images)} training scenes hold {count} objects, boxes known exactly")
figures.show(
    fig, "Four scenes: drawings pasted on photographs, each framed and named by its class."
)

# %% [markdown]
# ### A head at every place
#
# Cut after `block11`, the trunk gives a map of 14 × 14 places, one for every 16 pixels. At each
# place the head gives $C$ scores and four distances, from the centre of the place to the left,
# upper, right and lower edge of the box (the core of FCOS, Tian et al., 2019). The places in
# the middle of a box learn its class and its distances; the others learn "nothing here".


# %%
def centres(G):
    c = (np.arange(G) + 0.5) * SIDE / G
    return np.stack(np.meshgrid(c, c), axis=-1)  # (G, G, 2): x, y


def targets(boxes, labels, G):
    """(G, G, C + 4): the class one-hot, then left, top, right, bottom in places."""
    Y, c, stride = np.zeros((G, G, C + 4), np.float32), centres(G), SIDE / G
    for i in np.argsort(-area(boxes)):  # where two boxes overlap, the smaller one wins
        low, high = boxes[i, :2], boxes[i, 2:]
        near = np.maximum((high - low) / 4, stride / 2)
        middle = (np.abs(c - (low + high) / 2) <= near).all(axis=-1)
        Y[middle] = 0
        Y[middle, labels[i]] = 1
        Y[middle, C:] = np.hstack([c[middle] - low, high - c[middle]]) / stride
    return Y


# %% [markdown]
# The loss has a part for the class and a part for the box. With $p_t$ the probability given to the
# right answer at a place, the **focal loss** (Lin et al., 2017) plays down what is easy, and here
# nine places in ten are easy background:
#
# $$L = \frac1n \sum_{\text{places, classes}} -(1-p_t)^2 \log p_t \;+\;
# \frac1n \sum_{\text{places inside}} \bigl(1 - \mathrm{IoU}(d, \hat d)\bigr), \tag{2}$$
#
# $n$ the number of places inside a box. For boxes around one point IoU is simple: the intersection
# has the smaller of the two distances on each side. (Distances below zero, at the rim of small
# boxes, are counted as they are.)


# %% tags=["pytorch"]
def spanned(d):
    return (d[..., 0] + d[..., 2]) * (d[..., 1] + d[..., 3])


def detection_loss(Y, z):
    y, p = Y[..., :C], torch.sigmoid(z[..., :C])
    p_t = torch.where(y > 0, p, 1 - p)
    inside = y.amax(dim=-1)
    n = inside.sum()
    d, d_hat = Y[..., C:], torch.exp(z[..., C:].clamp(max=5))
    both = spanned(torch.minimum(d, d_hat))
    iou = both / (spanned(d) + spanned(d_hat) - both)
    focal = -((1 - p_t) ** 2) * torch.log(p_t + 1e-7)
    return focal.sum() / n + (inside * (1 - iou)).sum() / n  # equation (2)


# %% tags=["tensorflow"]
def spanned(d):
    return (d[..., 0] + d[..., 2]) * (d[..., 1] + d[..., 3])


def detection_loss(Y, z):
    y, p = Y[..., :C], ops.sigmoid(z[..., :C])
    p_t = ops.where(y > 0, p, 1 - p)
    inside = ops.max(y, axis=-1)
    n = ops.sum(inside)
    d, d_hat = Y[..., C:], ops.exp(ops.minimum(z[..., C:], 5.0))
    both = spanned(ops.minimum(d, d_hat))
    iou = both / (spanned(d) + spanned(d_hat) - both)
    focal = -((1 - p_t) ** 2) * ops.log(p_t + 1e-7)
    return ops.sum(focal) / n + ops.sum(inside * (1 - iou)) / n  # equation (2)


# %% [markdown]
# The head starts with the belief that there is nothing anywhere, small weights and a bias of −4,
# which is a probability of 0.018. Else the first steps go into unlearning boxes everywhere.

# %% tags=["pytorch"]
EPOCHS = run.pick(smoke=1, cpu=12)


def train_head(x, Y, seed):
    torch.manual_seed(seed)
    head = nn.Sequential(
        nn.Conv2d(x.shape[-1], 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, C + 4, 1)
    )
    nn.init.normal_(head[-1].weight, std=0.01)
    with torch.no_grad():
        head[-1].bias.copy_(torch.tensor([-4.0] * C + [0.0] * 4))
    head, Y = head.to(run.device), torch.from_numpy(Y).to(run.device)
    x = torch.from_numpy(x).permute(0, 3, 1, 2).to(run.device)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-3)
    steps = EPOCHS * -(-len(x) // 16)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(16):
            loss = detection_loss(Y[rows], head(x[rows]).permute(0, 2, 3, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head


def predict(head, x):
    with torch.inference_mode():
        z = head(torch.from_numpy(x).permute(0, 3, 1, 2).to(run.device))
    return z.permute(0, 2, 3, 1).cpu().numpy()


# %% tags=["tensorflow"]
from functools import cache

EPOCHS = run.pick(smoke=1, cpu=12)


@cache  # compiled once for each width, given fresh weights for each training
def compiled_head(channels, scenes):
    hidden = layers.Conv2D(128, 3, padding="same", activation="relu")
    head = keras.Sequential([keras.Input((None, None, channels)), hidden, layers.Conv2D(C + 4, 1)])
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * -(-scenes // 16))
    head.compile(keras.optimizers.Adam(schedule), detection_loss)
    return head


def train_head(x, Y, seed):
    head = compiled_head(x.shape[-1], len(x))
    for layer in head.layers:
        layer.kernel.assign(keras.initializers.GlorotUniform(seed)(layer.kernel.shape))
        layer.bias.assign(np.zeros(layer.bias.shape))
    small = keras.initializers.RandomNormal(stddev=0.01, seed=seed)
    head.layers[-1].kernel.assign(small(head.layers[-1].kernel.shape))
    head.layers[-1].bias.assign([-4.0] * C + [0.0] * 4)
    for slot in head.optimizer.variables:
        slot.assign(ops.zeros_like(slot))
    keras.utils.set_random_seed(seed)
    head.fit(x, Y, batch_size=16, epochs=EPOCHS, verbose=0)
    return head


def predict(head, x):
    return head.predict(x, batch_size=64, verbose=0)


# %% [markdown]
# ### From places to boxes
#
# Several places see the same object. **Non-maximum suppression** keeps the box with the highest
# score, drops those of the same class that overlap it by more than an IoU of 0.5, and goes on with
# the rest. (Both frameworks ship it: `tf.image.non_max_suppression`, `torchvision.ops.nms`.)


# %%
def suppress(boxes, scores, limit=0.5):
    """The rows that stay, best first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        kept.append(order[0])
        order = order[1:][IoU(boxes[order[:1]], boxes[order[1:]])[0] <= limit]
    return np.array(kept, int)


def decode(z):
    """A scene's answer (G, G, C + 4) as boxes, scores and labels."""
    d, G = np.exp(z[..., C:].clip(max=5)), len(z)
    ends = centres(G) - d[..., :2] * SIDE / G, centres(G) + d[..., 2:] * SIDE / G
    boxes = np.concatenate(ends, axis=-1).reshape(-1, 4).clip(0, SIDE)
    scores, labels = 1 / (1 + np.exp(-z[..., :C].max(axis=-1))), z[..., :C].argmax(axis=-1)
    scores, labels = scores.ravel(), labels.ravel()
    rows = np.flatnonzero(scores >= min(0.03, scores.max()))
    apart = boxes[rows] + 1000 * labels[rows, None]  # boxes of two classes then never overlap
    rows = rows[suppress(apart, scores[rows])][:30]
    return SimpleNamespace(boxes=boxes[rows], scores=scores[rows], labels=labels[rows])


# %%
corner = rng.uniform(0, 60, (50, 2))
boxes, scores = np.hstack([corner, corner + rng.uniform(20, 60, (50, 2))]), rng.uniform(size=50)
kept = suppress(boxes, scores)
overlap = IoU(boxes, boxes[kept]) > 0.5  # those kept lie apart, and near each other box is one
assert (overlap[kept].sum(axis=1) == 1).all() and overlap.any(axis=1).all()

# %% [markdown]
# ### Average precision
#
# A box is a **hit** if it overlaps a true box of its class, not yet taken, by at least the IoU that
# is asked for. Sort all boxes by score and walk down: precision is the share of hits so far, recall
# the share of true boxes found. The **average precision** of a class is the mean, over 101 levels
# of recall $r$, of the best precision still reached at that recall or beyond:
#
# $$\mathrm{AP} = \frac1{101}\sum_{r \in \{0, 0.01, \dots, 1\}} \max_{r' \ge r} P(r') \tag{3}$$
#
# AP50 asks for an IoU of 0.5. The figure called plain "AP" in papers on COCO is the mean over the
# ten IoU levels 0.5, 0.55 … 0.95 and all classes. `pycocotools` is the reference for it.

# %%
import io
from contextlib import redirect_stdout

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def xywh(boxes):
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def evaluated(found, truth, any_class=False):
    """pycocotools on the answers to all scenes; with any_class a box counts whatever it is."""
    marks, answers = [], []
    for i, (boxes, labels, f) in enumerate(zip(truth.boxes, truth.labels, found, strict=True)):
        rows = suppress(f.boxes, f.scores) if any_class else np.arange(len(f.scores))
        names = np.zeros(len(rows)) if any_class else f.labels[rows]
        answers.append(
            np.column_stack([np.full(len(rows), i), xywh(f.boxes)[rows], f.scores[rows], names])
        )
        for box, label in zip(xywh(boxes), labels * (not any_class), strict=True):
            size = {"area": box[2] * box[3], "iscrowd": 0}
            marks.append(
                {"id": len(marks) + 1, "image_id": i, "category_id": label, "bbox": box} | size
            )
    with redirect_stdout(io.StringIO()):  # it prints a report
        coco = COCO()
        coco.dataset["images"] = [{"id": i} for i in range(len(found))]
        coco.dataset |= {"categories": [{"id": k} for k in range(C)], "annotations": marks}
        coco.createIndex()
        result = COCOeval(coco, coco.loadRes(np.concatenate(answers)), "bbox")
        result.params.areaRng, result.params.areaRngLbl = [[0, 1e10]], ["all"]  # boxes of any size
        result.params.maxDets = [100]
        result.evaluate(), result.accumulate()
    return result


def AP(result):
    """Average precision at the ten IoU levels, mean over the classes that occur."""
    P = result.eval["precision"][:, :, :, 0, -1]  # IoU levels, recall levels, classes
    return P[:, :, P[0, 0] >= 0].mean(axis=(1, 2))


# %% [markdown]
# Now run it, for five cases. **Guess first:** what AP50 does a head reach that trains for seconds
# on 160 scenes? On a trunk of random weights? Cut at `block16`, whose map has 7 × 7 places? (If
# that is worse, is it for the few places? So `block11` also runs averaged to 7 × 7.)


# %%
def maps_of(trunk, cut, images):
    """(N, G, G, channels); "block11 averaged" has as few places as block16."""
    cut, *averaged = cut.split()
    both = features.extract(trunk, images, ("block11", "block16"), pool=False)  # one pass
    maps = np.asarray(both[cut], np.float32)
    return maps.reshape(-1, 7, 2, 7, 2, maps.shape[-1]).mean(axis=(2, 4)) if averaged else maps


def detect(trunk, cut, case):
    """Train a head on the maps of a frozen trunk; its answers to the test scenes."""
    train, test = case.train, case.test
    x, x_test = (maps_of(trunk, cut, part.images) for part in (train, test))
    mean, spread = x.mean(axis=(0, 1, 2)), x.std(axis=(0, 1, 2)) + 1e-3
    truth = zip(train.boxes, train.labels, strict=True)
    Y = np.array([targets(boxes, labels, x.shape[1]) for boxes, labels in truth])
    head = train_head((x - mean) / spread, Y, case.seed)
    return [decode(z) for z in predict(head, (x_test - mean) / spread)]


# %%
setups = {
    ("pretrained", "block11"): "pretrained, block11 (14 × 14)",
    ("pretrained", "block11 averaged"): "the same, averaged to 7 × 7",
    ("pretrained", "block16"): "pretrained, block16 (7 × 7)",
    ("untrained", "block11"): "untrained, block11",
}
found, precision = {}, {}
for case in cases:
    trunks = {"pretrained": backbone, "untrained": untrained(case.seed)}
    for weights, cut in setups:
        found[weights, cut, case.seed] = answers = detect(trunks[weights], cut, case)
        for question in ("which and where", "where only"):
            result = evaluated(answers, case.test, any_class=question == "where only")
            precision.setdefault((weights, cut, question), []).append(AP(result))
precision = {key: np.array(rows) for key, rows in precision.items()}  # (seeds, IoU levels)
for key, rows in precision.items():
    print(f"{', '.join(key):46} AP50 {rows[:, 0].mean():.2f}")

# %%
levels = np.arange(50, 100, 5)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for ax, question in zip(axes, ("which and where", "where only"), strict=True):
    for i, (key, label) in enumerate(setups.items()):
        figures.lines(ax, levels / 100, precision[*key, question].T, label, i)
    AP50 = precision["pretrained", "block11", question][:, 0].mean()
    ax.set_title(f"{question}: AP50 {AP50:.2f} at block11")
    ax.set_xlabel("IoU asked for")
axes[0].set_ylabel("average precision")
axes[1].legend()
alt = """Average precision against the IoU asked for, with intervals over the seeds, for class and
box together and for the box alone. The pretrained trunk cut at block11 is highest, averaged to
fewer places lower, cut at block16 far lower, and the untrained one lowest; all fall as the IoU
asked for rises."""
figures.show(fig, alt)


# %%
def AP_at(weights, cut, question="which and where", level=50):
    return precision[weights, cut, question][:, list(levels).index(level)]


ours = AP_at("pretrained", "block11")
text = "Under the same small head, the pretrained trunk has an AP50 over 0.3 above random weights"
claim_margin("11.trunk", text, ours, AP_at("untrained", "block11"), above=0.3)
text = "Cut at block16, where classifiers like it, the same trunk loses over 0.3 of AP50"
claim_margin("11.late_cut", text, ours, AP_at("pretrained", "block16"), above=0.3)
text = "It is not the grid: block11 averaged to the same 7 × 7 places is over 0.2 above block16"
by = AP_at("pretrained", "block11 averaged"), AP_at("pretrained", "block16")
claim_margin("11.not_the_grid", text, *by, above=0.2)
text = "Random weights do not tell where things are either: AP50 for the box alone is below 0.25"
claim_margin("11.where", text, AP_at("untrained", "block11", "where only"), below=0.25)
text = "Asking for an IoU of 0.75 in place of 0.5 costs over 0.2 of average precision"
claim_margin("11.strict", text, ours, AP_at("pretrained", "block11", level=75), above=0.2)

# %% [markdown]
# On pooled features of whole pictograms notebook 04 found the late cuts best. A detector needs the
# place too. Fewer places cost something, but most of the loss stays when `block11` has as few: the
# late map itself says less about where things are, at least to a head that learns from so few
# scenes. Real detectors want both, and add late maps, enlarged, to earlier ones (feature pyramids,
# Lin et al., 2017). And never compare two AP numbers before you know which IoU was asked for.
#
# Equation (3) by hand, for the class with most boxes, against the library:

# %%
case = cases[0]
result = evaluated(found["pretrained", "block11", case.seed], case.test)
k = np.bincount(np.concatenate(case.test.labels)).argmax()
images = [e for e in result.evalImgs if e and e["category_id"] == k]
scores = np.concatenate([e["dtScores"] for e in images])
hit = np.concatenate([e["dtMatches"][0] > 0 for e in images])  # at an IoU of 0.5
hits = np.cumsum(hit[np.argsort(-scores, kind="stable")])
n_true = sum((labels == k).sum() for labels in case.test.labels)
recall, P = hits / n_true, hits / np.arange(1, len(hits) + 1)
best_beyond = np.append(np.maximum.accumulate(P[::-1])[::-1], 0)
by_hand = best_beyond[np.searchsorted(recall, np.linspace(0, 1, 101))].mean()  # equation (3)
assert np.isclose(by_hand, result.eval["precision"][0, :, k, 0, -1].mean())

# %% [markdown]
# AP sums over all thresholds; whoever uses the detector has to pick one. Move the score below which
# a box is not shown. What do you pay for each box more?


# %%
def at_threshold(threshold):
    everything = [e for e in result.evalImgs if e]
    scores = np.concatenate([e["dtScores"] for e in everything])
    hit = np.concatenate([e["dtMatches"][0] > 0 for e in everything])[scores >= threshold]
    precision, recall = hit.mean() if len(hit) else 1, hit.sum() / sum(map(len, case.test.labels))
    answer = found["pretrained", "block11", case.seed][shown]
    rows = answer.scores >= threshold
    words = [
        f"{KINDS[k]} {s:.2f}" for k, s in zip(answer.labels[rows], answer.scores[rows], strict=True)
    ]
    fig, ax = plt.subplots(figsize=(4.2, 3.9))
    draw_boxes(ax, case.test.images[shown], answer.boxes[rows], words)
    ax.set_title(
        f"{rows.sum()} boxes here; all scenes:\nprecision {precision:.2f}, recall {recall:.2f}"
    )
    return fig


shown = int(np.argmax([len(labels) for labels in case.test.labels]))
thresholds = run.pick(smoke=(0.1, 0.3), cpu=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7))
frames = {f"{t}": at_threshold(t) for t in thresholds}
alt = "A test scene with the boxes that the detector draws at this threshold of the score."
figures.slider(frames, "show boxes with a score of at least", alt, start="0.3")

# %% [markdown]
# ## Sound: a picture of it
#
# A frozen network for photographs cannot hear. But a recording can be drawn: cut it into short
# overlapping windows and write how strong each frequency is in each of them. With samples $x$,
# window $w$ of $N$ samples, hop $H$, and a matrix $M$ that sums frequencies $k$ into bands as wide
# as the ear's (mel), the log-mel spectrogram is
#
# $$S_{km} = \sum_{n=0}^{N-1} x_{n+mH}\,w_n\,e^{-2\pi i k n/N}, \qquad
# L = \log\bigl(M\,|S|^2\bigr) \tag{4}$$

# %%
from scipy.signal import get_window, stft

RATE, N, H, BANDS = 16000, 1024, 144, 112  # samples per second, samples, samples, bands


def mel_matrix():
    """(BANDS, N/2 + 1): overlapping triangles, equally spaced on the mel scale."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(150, top, BANDS + 2) / 2595) - 1)[:, None]
    k = np.arange(N // 2 + 1) * RATE / N
    rise, fall = (
        (k - edges[:-2]) / np.diff(edges[:-1], axis=0),
        (edges[2:] - k) / np.diff(edges[1:], axis=0),
    )
    return np.minimum(rise, fall).clip(0)


M = mel_matrix()


def log_mel(x):
    S = stft(x, RATE, nperseg=N, noverlap=N - H, boundary=None)[2]
    return np.log(M @ np.abs(S) ** 2 + 1e-9)  # equation (4)


# %%
x = np.random.default_rng(run.seed).normal(size=RATE)
w, m = get_window("hann", N), 7
S_m = (x[m * H : m * H + N] * w) @ np.exp(
    -2j * np.pi * np.outer(np.arange(N), np.arange(N // 2 + 1)) / N
)
theirs = stft(x, RATE, nperseg=N, noverlap=N - H, boundary=None)[2][:, m]
assert np.allclose(S_m / w.sum(), theirs)  # SciPy divides by the sum of the window

# %% [markdown]
# **What is synthetic here: everything.** You make notes of six instruments from twelve partials
# each, with the strengths, attacks and decays that tell such instruments apart in textbooks. Every
# recording lasts a second and has its own pitch (150 to 900 Hz), strengths, start, length, loudness
# and white noise, 0 to 12 decibels below the note. There is no room, no player, no second note.

# %%
INSTRUMENTS = ("flute", "clarinet", "strings", "organ", "bell", "plucked")
ATTACK = dict(zip(INSTRUMENTS, (0.08, 0.04, 0.12, 0.01, 0.003, 0.003), strict=True))  # seconds
t, h = np.arange(RATE) / RATE, np.arange(1, 13)[:, None]  # time, number of the partial
STRENGTH = {"flute": h**-2.5, "strings": 1 / h, "bell": h**-1.2, "plucked": h**-1.3}
STRENGTH["clarinet"] = np.where(h % 2 == 1, 1 / h, 0.05 / h)  # the odd partials
STRENGTH["organ"] = np.isin(h, (1, 2, 4, 8)) / np.sqrt(h)  # octaves
DECAY = {"bell": 3 + 0.3 * h, "plucked": 4 + 1.5 * h}  # per second; the others hold


def note(kind, pitch, rng):
    """A second of it: samples (16000,)."""
    ratio = h * np.sqrt(1 + 0.02 * h**2) if kind == "bell" else h  # a bell's partials are stretched
    bend = 0.012 * np.sin(2 * np.pi * rng.uniform(5, 6.5) * t) * (kind == "strings")  # vibrato
    phase = 2 * np.pi * np.cumsum(pitch * (1 + bend)) / RATE
    waves = np.sin(ratio * phase + rng.uniform(0, 2 * np.pi, h.shape)) * (ratio * pitch < RATE / 2)
    strength = STRENGTH[kind] * np.exp(rng.normal(0, 0.3, h.shape) - DECAY.get(kind, 0 * h) * t)
    return (strength * waves).sum(axis=0) * np.minimum(t / ATTACK[kind], 1)


def recording(kind, pitch, rng):
    """One second with a note somewhere in it, and noise."""
    start, length = int(rng.uniform(0, 0.35) * RATE), int(rng.uniform(0.4, 0.65) * RATE)
    fade = np.minimum((length - np.arange(length)) / 400, 1)
    x = np.zeros(RATE)
    x[start : start + length] = note(kind, pitch, rng)[:length] * fade
    x = x / x.std() + rng.normal(size=RATE) * 10 ** (-rng.uniform(0, 12) / 20)
    return x * rng.uniform(0.1, 1) / np.abs(x).max()


# %%
def recordings(n, seed):
    """Spectrograms (n, BANDS, frames), instruments and pitch bands, in random order."""
    rng = np.random.default_rng(seed)
    instrument = rng.permutation(np.arange(n) % 6)
    octaves = rng.uniform(0, np.log2(6), n)  # above 150 Hz
    notes = zip(instrument, octaves, strict=True)
    L = [log_mel(recording(INSTRUMENTS[i], 150 * 2**o, rng)) for i, o in notes]
    return np.array(L), instrument, (octaves / np.log2(6) * 6).astype(int)


def as_pictures(L):
    """Low notes below, and the loudest 9 units of each recording spread over 0 to 255."""
    L = L[:, ::-1] - L.max(axis=(1, 2), keepdims=True) + 9
    return (255 * (L / 9).clip(0, 1)).astype(np.uint8)


with threadpool_limits(1, user_api="blas"):
    sounds = {seed: recordings(run.pick(smoke=24, cpu=240), seed) for seed in run.seeds(5)}

# %%
L, instrument, _ = sounds[run.seeds(1)[0]]
some = [np.flatnonzero(instrument == i)[0] for i in range(6)]
alt = "Spectrograms of six notes: stacked lines for the partials, in grain that is the noise."
title = "One note of each instrument: time to the right (1 s), 100 to 8,000 Hz upwards"
figures.image_grid(as_pictures(L[some]), INSTRUMENTS, alt, title=title)

# %% [markdown]
# Two questions about the same recordings: **which instrument**, and **which pitch** (six equal
# bands between 150 and 900 Hz)? Four ways to answer, each with half of the recordings labelled: the
# picture through the frozen trunk, the same with random weights, and two that know sound: the
# **mean spectrum** ($L$ averaged over time) and **MFCC**, the first 20 cosine coefficients of each
# column of $L$, with the mean and spread of values and changes. **Guess first:** who wins which
# question?

# %%
from scipy.fft import dct
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def mfcc(L):
    D = dct(L, axis=1, norm="ortho")[:, :20]
    change = np.diff(D, axis=2)
    return np.hstack([D.mean(axis=2), D.std(axis=2), change.mean(axis=2), change.std(axis=2)])


def trunk_features(trunk, L):
    return features.extract(trunk, as_pictures(L))["head"]


# %%
ways = {
    "pretrained": lambda L, seed: trunk_features(backbone, L),
    "untrained": lambda L, seed: trunk_features(untrained(seed), L),
    "mean spectrum": lambda L, seed: L.mean(axis=2),
    "MFCC": lambda L, seed: mfcc(L),
}
heard, half = {}, len(L) // 2
for seed, (L, instrument, pitch) in sounds.items():
    for way, features_of in ways.items():
        F = features_of(L, seed)
        for question, y in (("instrument", instrument), ("pitch", pitch)):
            heads = {"linear": RidgeClassifier(alpha=F.shape[1]), "radial SVM": SVC(C=10)}
            for name, head in heads.items():
                model = make_pipeline(StandardScaler(), head).fit(F[:half], y[:half])
                heard.setdefault((question, way, name), []).append(model.score(F[half:], y[half:]))
for (question, way, name), shares in heard.items():
    print(f"{question:11} {way:14} {name:11} {np.mean(shares):.3f}")

# %% [markdown]
# Two classifiers on each, so that no way loses for want of the right one. In what follows each way
# is given its better one in every seed, which flatters all of them a little.


# %%
def share_right(question, way):
    return np.maximum(*(heard[question, way, head] for head in ("linear", "radial SVM")))


fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharex=True, sharey=True)
for ax, question in zip(axes, ("instrument", "pitch"), strict=True):
    means = {}
    for i, way in enumerate(ways):
        means[way], (low, high) = mean_interval(share_right(question, way))
        look = {"fmt": figures.MARKERS[i], "color": figures.COLORS[i], "capsize": 4}
        ax.errorbar(means[way], i, xerr=[[means[way] - low], [high - means[way]]], **look)
    best = max(means, key=means.get)
    ax.axvline(1 / 6, color="0.5", linestyle=":")
    ax.set_yticks(range(len(ways)), ways)
    ax.set_title(f"Which {question}? Best: {best}, {means[best]:.2f}")
    ax.set_xlabel("share right (dotted: chance)")
axes[0].set_ylabel("features")
axes[0].invert_yaxis()
alt = """Share of recordings answered rightly by four ways, with intervals over the seeds. For
the instrument the pretrained picture network leads; for the pitch it is far behind the mean
spectrum."""
figures.show(fig, alt)

# %%
by_sound = np.maximum(share_right("instrument", "MFCC"), share_right("instrument", "mean spectrum"))
text = "Told by ImageNet features of a spectrogram, instruments beat MFCC and mean spectrum by 0.1"
claim_margin("11.instrument", text, share_right("instrument", "pretrained"), by_sound, above=0.1)
text = "That is the weights: the same network untrained is over 0.15 lower"
both = [share_right("instrument", weights) for weights in ("pretrained", "untrained")]
claim_margin("11.sound_weights", text, *both, above=0.15)
text = (
    "For the pitch it is the other way: the mean spectrum is over 0.3 above the pretrained network"
)
both = [share_right("pitch", way) for way in ("mean spectrum", "pretrained")]
claim_margin("11.pitch", text, *both, above=0.3)
text = (
    "Here pretraining hurts: the untrained network hears the pitch better than the pretrained one"
)
claim_margin("11.pitch_untrained", text, share_right("pitch", "untrained"), both[1], above=0)

# %% [markdown]
# A photograph's class does not change when the thing moves up, so a network trained on photographs
# gains by ignoring height. The untrained one, averaged over the map in the same way, still lets
# some of it through. In a spectrogram height *is* the pitch. Whether a transfer helps depends on
# the question, not only on the kind of data: ask what your source made its network ignore. (On real
# sounds, too, ImageNet weights are a strong start: Palanisamy et al., 2020.) Models trained on
# sound itself, such as Wav2Vec 2 for speech, are in the table at the end; speaker identification is
# a head on one of those.
#
# ## Image and text: two networks that never met
#
# Unicode has a name for every pictogram. One network gives each picture 1,280 numbers, the other
# gives each name 384. Is one linear map enough to get from one to the other? With standardised
# inputs $A$ (one row each), centred outputs $B$ and a penalty $\lambda$, ridge regression has a
# closed form,
#
# $$W = (A^\top A + \lambda I)^{-1} A^\top B = A^\top (A A^\top + \lambda I)^{-1} B. \tag{5}$$
#
# The second form inverts one row and column for each picture, the first one for each feature.

# %%
names = [str(name) for name in objects.meta["unicode_name"]]
pictures = features.extract(backbone, objects.images)["head"].astype(float)
words = features.extract_text(encoder, names)[encoder.layers[-1]].astype(float)
print(pictures.shape, words.shape, names[::200], sep="\n")


def standardised(F, train):
    return (F - F[train].mean(axis=0)) / (F[train].std(axis=0) + 1e-6)


def ridge(A, B):
    lam = A.shape[1]  # the usual penalty of this course: as many as there are features
    return A.T @ np.linalg.solve(A @ A.T + lam * np.eye(len(A)), B)  # equation (5)


# %%
from sklearn.linear_model import Ridge

A, B = standardised(words, slice(300))[:300], standardised(pictures, slice(300))[:300, :5]
theirs = Ridge(alpha=A.shape[1], fit_intercept=False).fit(A, B).coef_.T
assert np.abs(ridge(A, B) - theirs).max() < 1e-6

# %% [markdown]
# Two hundred pictures are held out, and each has to find its own name among the two hundred. Chance
# is 1 in 200. Two splits: rows at random, and whole rows of the Unicode chart, so that no *train*
# has a *locomotive* in training. And a control: the map fitted to names dealt out at random.
# **Guess first:** how many of two hundred?


# %%
def unit(F):
    return F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)


def held_out(kind, seed):
    rng, chart = np.random.default_rng(seed), objects.meta["codepoint"] // 16
    order = rng.permutation(len(objects))
    if kind == "block":
        order = order[np.argsort(rng.permutation(chart.max() + 1)[chart[order]], kind="stable")]
    test = order[: run.pick(smoke=40, cpu=200)]
    taken = (
        np.isin(chart, chart[test]) if kind == "block" else np.isin(np.arange(len(objects)), test)
    )
    return np.flatnonzero(~taken), test


def similarity(train, test, how, seed):
    """(test pictures, test names): the cosine after mapping one space into the other."""
    X, T, mean = standardised(pictures, train), words - words[train].mean(axis=0), 0
    if how == "to pictures":
        T = standardised(words, train)
        return unit(X[test]) @ unit(T[test] @ ridge(T[train], X[train])).T
    if how == "mean kept":
        mean = words[train].mean(axis=0)
    paired = np.random.default_rng(seed).permutation(train) if how == "shuffled" else train
    return unit(X[test] @ ridge(X[train], T[paired]) + mean) @ unit(T[test] + mean).T


# %%
def rank_of_own(S):
    return (np.diag(S)[:, None] < S).sum(axis=1)  # 0: the right name is nearest


tries = {"random": ["to names"], "block": ["to names", "shuffled", "mean kept", "to pictures"]}
ranks, hubs, matched = {}, {}, {}
for seed in run.seeds(8):
    for kind in tries:
        train, test = held_out(kind, seed)
        for how in tries[kind]:
            S = similarity(train, test, how, seed)
            matched[kind, how, seed] = train, test, S
            ranks.setdefault((kind, how), []).append(rank_of_own(S))
            answers = np.bincount(np.argsort(-S, axis=1)[:, :5].ravel(), minlength=len(test))
            hubs.setdefault((kind, how), []).append(answers.max())
ranks = {key: np.array(r) for key, r in ranks.items()}  # (seeds, test)


def top(n, kind, how):
    return (ranks[kind, how] < n).mean(axis=1)  # one share a seed


print("                     top-1  top-5  the commonest name is among the first 5 of")
for key in ranks:
    numbers = (
        f"{top(1, *key).mean():.3f}  {top(5, *key).mean():.3f}  {np.mean(hubs[key]):.0f} pictures"
    )
    print(f"{', '.join(key):20} {numbers}")

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.5))
n = np.array([1, 2, 5, 10, 20, 50])
drawn = (("random", "to names"), ("block", "to names"), ("block", "shuffled"))
labels = "neighbours in training", "chart rows held out", "rows held out, names shuffled"
for i, (key, label) in enumerate(zip(drawn, labels, strict=True)):
    figures.lines(ax, np.log2(n), np.array([top(k, *key) for k in n]), label, i)
ax.plot(np.log2(n), n / len(test), color="0.5", linestyle=":", label="chance")
ax.set_xticks(np.log2(n), n)
ax.set_xlabel("names offered (log scale)")
ax.set_ylabel("share with the right one among them")
gain = top(5, *drawn[1]).mean() / (5 / len(test))
ax.set_title(f"With rows held out, five guesses hit {gain:.0f} times as often as chance")
ax.legend()
alt = """Share of held-out pictures whose own name is among the first n offered. Highest when chart
neighbours are in training, lower with whole chart rows held out, at chance with shuffled names."""
figures.show(fig, alt)

# %%
text = "With chart rows held out, the right name is among the first five over 5 times chance"
claim_margin("11.naming", text, top(5, "block", "to names"), 5 * 5 / len(test), above=0)
text = "With names shuffled in training, the same is within 0.02 of chance"
by = top(5, "block", "shuffled"), 5 / len(test)
claim_margin("11.shuffled", text, *by, above=-0.02, below=0.02)
text = "A random split flatters: it is over 0.1 higher in top-5 than with chart rows held out"
by = [top(5, kind, "to names") for kind in ("random", "block")]
claim_margin("11.naming_split", text, *by, above=0.1)
text = "Leaving the names' common mean in costs top-5 when chart rows are held out"
by = [top(5, "block", how) for how in ("to names", "mean kept")]
claim_margin("11.mean", text, *by, above=0)

# %% [markdown]
# All names share a direction, their mean. Left in, it draws every prediction towards the names near
# it, and a few names become **hubs** that are offered for a crowd of pictures. Taking the mean out
# cures much of that; mapping names to pictures instead (Shigeto et al., 2015) does about as much
# here. Look at single answers before you trust the average:

# %%
near_miss = []
for seed in run.seeds(8):
    train, test, S = matched["block", "to names", seed]
    right, wrong = np.flatnonzero(rank_of_own(S) == 0), np.flatnonzero(rank_of_own(S) > 0)
    T = unit(words[test] - words[train].mean(axis=0))
    alike = T @ T.T  # of name and name
    others = (alike.sum() - len(T)) / (len(T) ** 2 - len(T))
    near_miss.append(alike[wrong, S[wrong].argmax(axis=1)].mean() - others)
text = "A wrong first answer is nearer to the right name than names are on average, by over 0.05"
claim_margin("11.near_miss", text, near_miss, above=0.05)

# %%
some = np.concatenate(
    [rows[np.linspace(0, len(rows) - 1, 4).astype(int)] for rows in (right, wrong)]
)
said = [names[test[i]] for i in S[some].argmax(axis=1)]
titles = [f"{word[:22]}\n({names[test[i]][:22]})" for word, i in zip(said, some, strict=True)]
title = f"Offered first (in brackets: own name). Right: {len(right) / len(test):.0%} of {len(test)}"
fig = figures.grid_figure(objects.images[test[some]], titles, columns=4, title=title)
fig.set_size_inches(8, 4.4)
figures.show(fig, "Eight held-out pictograms: four named rightly, below them four named wrongly.")

# %% [markdown]
# Wrong answers lean towards the right name (nearness is the cosine between names), some by much.
# **CLIP** (Radford et al., 2021) trains both networks, from scratch, on 400 million pictures with
# captions, so that each picture's own caption is nearest among those of its batch. Then class names
# become a classifier without one labelled picture. Your map moves no weight of either network and
# saw a thousand pairs.
#
# ## Recommendation: a new item that nobody has clicked
#
# Recommenders live on clicks: people who clicked what you clicked also clicked this. A **new** item
# has none (a cold start), but it has a text. How many clicks is the text worth?
#
# **What is real:** sentences of New York Times editorials, and which article each comes from.
# **What is simulated:** the readers. Each of 300 likes three articles (some articles are liked
# more), has clicked about half of their sentences, and half as many others at random. From every
# article two sentences are held back as new items; those of the three liked articles are what a
# reader should get. The clicks of a new item come from those who like its article, two in three, or
# from anybody.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer

editorials = datasets.sentiment("editorial")
lengths = np.bincount(editorials.blocks)
editorials = editorials.subset(lengths[editorials.blocks] >= run.pick(smoke=9, cpu=6))
articles, article = np.unique(editorials.blocks, return_inverse=True)
vectors = features.extract_text(encoder, editorials.texts)[encoder.layers[-1]]
tfidf = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit_transform(editorials.texts)
print(len(articles), "articles with", len(editorials), "sentences")


def new_world(seed, readers=300):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(article))
    order = order[np.argsort(article[order], kind="stable")]
    first = np.searchsorted(article[order], np.arange(len(articles)))
    new = order[np.concatenate([first, first + 1])]
    old = np.setdiff1d(order, new)
    fame = rng.permutation(1 / np.sqrt(np.arange(1, len(articles) + 1)))
    liked = [
        rng.choice(len(articles), 3, replace=False, p=fame / fame.sum()) for _ in range(readers)
    ]
    likes = np.array([np.isin(article, three) for three in liked])  # (readers, sentences)
    clicks = likes[:, old] & (rng.random((readers, len(old))) < 0.5)
    clicks |= rng.random(clicks.shape) < 0.5 * clicks.mean()
    return SimpleNamespace(rng=rng, new=new, old=old, likes=likes, clicks=clicks.astype(float))


# %% [markdown]
# Two scores, and their sum. By **text**: the similarity $s$ of the new item to what the reader has
# clicked, summed as $s^3$, so that a few close ones count more than many distant ones. By the
# **crowd**: how alike the reader is to those who clicked the item. In the sum the text weighs 0.3,
# fixed beforehand. The first hundred readers are tested, the others are the crowd. Measured is the
# share of the six items offered that the reader likes (six are there to be found). TF-IDF is the
# text without transfer; popularity counts clicks, so for items with equally many it is a draw.
# **Guess first:** how many clicks on every new item are worth as much as its text?


# %%
def precision_at_6(scores, world):
    scores = scores + 1e-9 * world.rng.random(scores.shape)  # ties fall at random
    best = np.argsort(-scores, axis=1)[:, :6]
    return np.take_along_axis(world.likes[:100, world.new], best, axis=1).mean()


def by_text(world, Z):
    s = np.asarray(Z[world.old] @ Z[world.new].T)
    return world.clicks[:100] @ s.clip(0) ** 3


def by_crowd(world, clicks_each):
    fans = world.likes[100:, world.new].T.astype(float)  # (new, crowd)
    chance = 2 / 3 * fans / np.maximum(fans.sum(axis=1, keepdims=True), 1) + 1 / 3 / fans.shape[1]
    arrived = [world.rng.multinomial(clicks_each, p / p.sum()) > 0 for p in chance]
    alike = unit(world.clicks[:100]) @ unit(world.clicks[100:]).T
    return alike @ np.array(arrived, float).T


# %%
counts, offered = (0, 1, 2, 4, 8, 16), {}
for seed in run.seeds(8):
    world = new_world(seed)
    texts = {"MiniLM": unit(vectors - vectors.mean(axis=0)), "TF-IDF": tfidf.toarray()}
    for name, Z in texts.items():
        offered.setdefault(name, []).append(precision_at_6(by_text(world, Z), world))
    offers = [(by_crowd(world, n), by_text(world, texts["MiniLM"])) for n in counts]
    crowds = [precision_at_6(crowd, world) for crowd, _ in offers]
    both = [precision_at_6(crowd + 0.3 * text, world) for crowd, text in offers]
    offered.setdefault("crowd", []).append(crowds)
    offered.setdefault("both", []).append(both)
    draw = np.zeros((100, len(world.new)))
    offered.setdefault("popularity", []).append(precision_at_6(draw, world))
offered = {name: np.array(rows) for name, rows in offered.items()}
print({name: rows.mean(axis=0).round(3) for name, rows in offered.items()})

# %%
fig, ax = plt.subplots(figsize=(8, 3.5))
crowd, both, flat = offered["crowd"].T, offered["both"].T, np.ones((len(counts), 1))
figures.lines(ax, range(len(counts)), crowd, "crowd", 0)
figures.lines(ax, range(len(counts)), both, "crowd + 0.3 text", 4)
labels = "text, MiniLM", "text, TF-IDF", "popularity (a draw)"
for i, name in enumerate(("MiniLM", "TF-IDF", "popularity")):
    figures.lines(ax, range(len(counts)), flat * offered[name], labels[i], i + 1)
ax.set_xticks(range(len(counts)), counts)
ax.set_xlabel("clicks that each new item has")
ax.set_ylabel("share of six offers that is liked")
worth = max(n for n, y in zip(counts, crowd, strict=True) if y.mean() < offered["MiniLM"].mean())
ax.set_title(f"The text beats the crowd while an item has up to {worth} clicks")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
alt = """Share of offers that is liked against the clicks of the new items. The crowd rises from
chance to about the level of the text; the text lines are flat, MiniLM above TF-IDF; crowd and text
together lie above the crowd alone."""
figures.show(fig, alt)

# %%
text = "With no clicks yet, MiniLM's text features are over 0.1 above TF-IDF"
claim_margin("11.cold_start", text, offered["MiniLM"], offered["TF-IDF"], above=0.1)
text = "Both are far above a draw: TF-IDF by over 0.05"
claim_margin("11.cold_tfidf", text, offered["TF-IDF"], offered["popularity"], above=0.05)
text = "The text alone is worth more than two clicks on every new item"
claim_margin("11.two_clicks", text, offered["MiniLM"], crowd[counts.index(2)], above=0)
text = "With one click each, that sum is over 0.05 below the text alone"
claim_margin("11.one_click", text, offered["MiniLM"], both[counts.index(1)], above=0.05)
text = "At eight clicks on every new item, crowd and text together still beat the crowd alone"
claim_margin("11.together", text, both[counts.index(8)], crowd[counts.index(8)], above=0)

# %% [markdown]
# The order at no clicks rests on real sentences: those of one article resemble each other. *Where*
# the lines cross rests on the readers that you made; change them and see. And a sum with one fixed
# weight spoils the text while clicks are few and noisy: the weight has to grow with their number.
# Real taste is more than the subject of an article, so expect less of text features outside.

# %% [markdown]
# ## A map of the families
#
# Lists of pretrained models mix architectures, trainings and products. Read each row as: what was
# learned before, what you take over, what you train. Four corrections to lists that you will meet:
#
# - "Transformer" is an architecture (Vaswani et al., 2017), not a pretrained model.
# - Wikipedia and BooksCorpus is BERT's training text. GPT-2 read web pages, T5 a cleaned web crawl,
#   RoBERTa BERT's text and much more; only the first GPT was trained on books alone.
# - DeepSpeech is trained supervised, on recordings with their transcripts. Wav2Vec 2 learns from
#   sound alone first: that is the one to transfer.
# - DALL-E generates pictures from text; its transformer was not released. The one to take features
#   from is CLIP.

# %%
FAMILIES = [  # family, learned before, transferred, you train, used for, licence, hub name, line
    ("ResNet", "ImageNet classes", "trunk", "linear head, then top blocks",
     "pictures: medical, satellite", "Apache-2.0", "microsoft/resnet-50",
     'transformers.ResNetForImageClassification.from_pretrained("microsoft/resnet-50")'),
    ("Faster R-CNN", "ImageNet, then COCO boxes", "trunk, pyramid, proposals", "box and class head",
     "detection in two stages", "code BSD-3, weights none of their own", "fasterrcnn_resnet50_fpn",
     'torchvision.models.detection.fasterrcnn_resnet50_fpn(weights="DEFAULT")'),
    ("SSD", "ImageNet, then COCO boxes", "trunk", "heads on several maps",
     "detection in one stage", "code BSD-3, weights none of their own", "ssd300_vgg16",
     'torchvision.models.detection.ssd300_vgg16(weights="DEFAULT")'),
    ("YOLO", "COCO boxes", "trunk and neck", "head, or all",
     "fast detection", "AGPL-3.0 (Ultralytics; others differ)", "yolo11n.pt",
     'ultralytics.YOLO("yolo11n.pt")'),
    ("BERT", "masked words, next sentence: Wikipedia, BooksCorpus", "encoder", "head, or all",
     "sentiment, question answering", "Apache-2.0", "google-bert/bert-base-uncased",
     'transformers.BertModel.from_pretrained("google-bert/bert-base-uncased")'),
    ("RoBERTa", "masked words: BERT's text, news, web pages, stories", "encoder", "head, or all",
     "as BERT", "MIT", "FacebookAI/roberta-base",
     'transformers.RobertaModel.from_pretrained("FacebookAI/roberta-base")'),
    ("GPT-2", "next word: web pages (WebText)", "decoder", "nothing (a prompt), or all",
     "writing", "MIT", "openai-community/gpt2",
     'transformers.AutoModelForCausalLM.from_pretrained("openai-community/gpt2")'),
    ("T5", "missing spans: web crawl (C4); supervised tasks", "encoder and decoder", "all",
     "summarisation, translation", "Apache-2.0", "google-t5/t5-small",
     'transformers.T5ForConditionalGeneration.from_pretrained("google-t5/t5-small")'),
    ("Wav2Vec 2", "sound alone: masked stretches of speech", "encoder", "CTC or speaker head",
     "recognising speech and speakers", "Apache-2.0", "facebook/wav2vec2-base",
     'transformers.Wav2Vec2Model.from_pretrained("facebook/wav2vec2-base")'),
    ("DeepSpeech", "transcribed speech, supervised", "the recogniser", "last layers",
     "speech recognition", "MPL-2.0; discontinued", "mozilla/DeepSpeech on GitHub",
     'deepspeech.Model("deepspeech-0.9.3-models.pbmm")'),
    ("CLIP", "400 million pictures with captions", "both encoders", "nothing, or linear head",
     "naming and search", "code MIT; card: no deployed use", "openai/clip-vit-base-patch32",
     'transformers.CLIPModel.from_pretrained("openai/clip-vit-base-patch32")'),
    ("DALL-E", "text and pictures, generative", "picture tokens only", "-",
     "pictures from text", "see its repository", "openai/DALL-E on GitHub",
     'dall_e.load_model("https://cdn.openai.com/dall-e/encoder.pkl", "cpu")'),
]  # fmt: skip

# %%
columns = (
    "family",
    "learned before",
    "transferred",
    "trained by you",
    "used for",
    "licence",
    "hub name",
)
head = "".join(f'<th scope="col" style="text-align:left">{column}</th>' for column in columns)
rows = ["".join(f'<td style="text-align:left">{cell}</td>' for cell in row[:7]) for row in FAMILIES]
body = "".join(f"<tr>{row}</tr>" for row in rows)
caption = (
    "Twelve families. Licences as found in November 2026: read the card before you build on one."
)
plain = "\n".join(" | ".join(row[:7]) for row in FAMILIES)
show_bundle(f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>", plain)
for name, *_, line in FAMILIES:
    print(f"{name:12} {line}")

# %% [markdown]
# The lines fetch weights, so they need a network; none of them ran here, and those of torchvision,
# ultralytics, deepspeech and DALL-E need packages that this course does not install. What can be
# checked without a network is that a name exists in the library that you have:

# %% tags=["pytorch"]
import transformers

for name, *_, line in FAMILIES:
    library, model, *_ = line.split("(")[0].split(".")
    if library == "transformers":
        assert hasattr(transformers, model), name

# %% tags=["tensorflow"]
import keras_hub

PRESETS = {
    "ResNet": ("ImageClassifier", "resnet_50_imagenet"),
    "BERT": ("TextClassifier", "bert_base_en_uncased"),
    "RoBERTa": ("TextClassifier", "roberta_base_en"),
    "GPT-2": ("CausalLM", "gpt2_base_en"),
    "T5": ("Backbone", "t5_small_multi"),
    "CLIP": ("Backbone", "clip_vit_base_patch32"),
}
for name, (task, preset) in PRESETS.items():
    print(f'{name:8} keras_hub.models.{task}.from_preset("{preset}")')
    assert preset in getattr(keras_hub.models, task).presets, name

# %% [markdown]
# ## What was seen

# %%
summary()

# %% [markdown]
# **Try it.**
#
# - Change `"block11"` to `"block5"` (28 × 28 places): what happens to small boxes, what to classes?
# - Set the limit of `suppress` to 0.2 and to 0.8 and look at the slider's scene again.
# - Label the recordings by loudness. Which of the four ways can know it, after `as_pictures`?
# - Let the readers like ten articles instead of three. Where do the lines cross now?
#
# **Next.** Notebook 12: the same work on more data and more machines.
#
# Sources: Ren et al. (2015), Faster R-CNN; Liu et al. (2016), SSD; Redmon et al. (2016), YOLO; Lin
# et al. (2017), feature pyramids, and focal loss; Tian et al. (2019), FCOS; Palanisamy et al.
# (2020), Rethinking CNN models for audio classification; Baevski et al. (2020), wav2vec 2.0; Hannun
# et al. (2014), Deep Speech; Shigeto et al. (2015), Ridge regression, hubness, and zero-shot
# learning; Radford et al. (2021), CLIP; Ramesh et al. (2021), DALL-E; Liu et al. (2019), RoBERTa;
# Raffel et al. (2020), T5. Pictograms: OpenMoji, CC BY-SA 4.0. Sentences: Hutto and Gilbert (2014).
