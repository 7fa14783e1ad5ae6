"""Exercise set 3: pretrained models and data (notebook 03)."""

from functools import lru_cache
from itertools import combinations

import numpy as np

from .kit import Misconception, Part, Task, expect, require


@lru_cache(maxsize=1)
def _checkpoint():
    """The real tensors of EfficientNet-Lite0 by their names in the PyTorch file."""
    import torch  # the checkpoint is a PyTorch file

    from tlcourse import assets

    path = assets.locate("efficientnet-lite0")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@lru_cache(maxsize=1)
def _photographs():
    """Two real photographs of 426 × 640 pixels, uint8, RGB."""
    from sklearn.datasets import load_sample_images

    return [image[:426] for image in load_sample_images().images]


@lru_cache(maxsize=1)
def _small_pictures():
    """Real pictograms and solar cells at about 28 × 28 pixels, uint8, RGB."""
    from tlcourse import datasets

    drawings = np.array(datasets.pictograms("color", labelled=False).images[::6, 4::8, 4::8])
    cells = np.array(datasets.solar_cells().images[::12, 10::10, 10::10])[..., None]
    return {"pictograms": drawings, "solar cells": np.repeat(cells, 3, axis=3)}


def _given(made):
    """What came from a function, if anything came."""
    require(made is not None, "it returns nothing")
    return made


# --- ex03.1: what a block costs -----------------------------------------------------------------


def _a_block(rng, stride=None, expansion=None, odd=False):
    size = 2 * int(rng.integers(4, 12)) + odd
    kernel, inputs, outputs = (int(rng.choice(c)) for c in ((3, 5), (6, 8, 11), (9, 13)))
    return size, kernel, stride or 2, expansion or int(rng.integers(2, 7)), inputs, outputs


def _block_words(block):
    names = ("size", "kernel", "stride", "expansion", "inputs", "outputs")
    return ", ".join(f"{name} {value}" for name, value in zip(names, block, strict=True))


def _cost_of(f, block):
    made = f(*block)
    two = isinstance(made, (list, np.ndarray)) and np.shape(made) == (2,)
    require(two, f"expected two numbers, parameters and multiply-adds; got {made!r}")
    return made


def _block_parameters(f, rng):
    expect(_cost_of(f, (6, 3, 2, 2, 3, 4))[0], 128, "kernel 3, expansion 2, from 3 to 4 channels: "
           "18 + 54 + 24 weights, and 12 + 12 + 8 of BatchNorm")  # fmt: skip
    expect(_cost_of(f, (4, 3, 1, 1, 2, 3))[0], 34, "kernel 3, no expansion, from 2 to 3 channels: "
           "18 + 6 weights, and 4 + 6 of BatchNorm")  # fmt: skip
    small, *rest = _a_block(rng)
    expect(
        _cost_of(f, (small, *rest))[0],
        _cost_of(f, (3 * small, *rest))[0],
        f"the parameters for maps of {small} × {small} and of three times that",
    )


def _block_work(f, rng):
    expect(_cost_of(f, (6, 3, 2, 2, 3, 4))[1], 1350, "the first block on a map of 6 × 6, stride 2: "
           "18 · 36 + 54 · 9 + 24 · 9")  # fmt: skip
    expect(_cost_of(f, (4, 3, 1, 1, 2, 3))[1], 384, "the second block on a map of 4 × 4, stride 1: "
           "18 · 16 + 6 · 16")  # fmt: skip
    expect(_cost_of(f, (5, 3, 2, 2, 3, 4))[1], 1152, "the first block on a map of 5 × 5, stride 2: "
           "18 · 25 + 54 · 9 + 24 · 9")  # fmt: skip


def _block_real(f, rng):
    from tlcourse.backbones.spec import LITE

    size = 112
    for number, block in enumerate(LITE["efficientnet-lite0"].blocks):
        own = {
            name: tensor.size
            for name, tensor in _checkpoint().items()
            if name.startswith(f"_blocks.{number}.") and name.endswith((".weight", ".bias"))
        }
        given = (size, block.kernel_size, block.stride, block.expansion)
        given += (block.in_channels, block.out_channels)
        what = f"{block.name} of EfficientNet-Lite0 ({_block_words(given)})"
        made = _cost_of(f, given)
        expect(made[0], sum(own.values()), f"{what}: parameters in the file")
        after = (size + block.stride - 1) // block.stride
        kernels = {name: count for name, count in own.items() if "_conv" in name}
        places = {name: size**2 if "expand" in name else after**2 for name in kernels}
        wanted = sum(count * places[name] for name, count in kernels.items())
        expect(made[1], wanted, f"{what}: multiply-adds of the kernels in the file")
        size = after


def _cost(norm=2, bias=0, whole=False, always=False, at=None, floor=False, factor=1, swap=False):
    def wrong(size, kernel, stride, expansion, inputs, outputs):
        hidden, after = expansion * inputs, (size if floor else size + stride - 1) // stride
        depthwise = kernel**2 * hidden * (hidden if whole else 1)
        trained = depthwise + hidden * outputs + (norm + bias) * (hidden + outputs)
        before, after = {"output": (after, after), "input": (size, size)}.get(at, (size, after))
        work = (depthwise + hidden * outputs) * after**2
        if always or expansion > 1:
            trained += (inputs + norm + bias) * hidden
            work += inputs * hidden * before**2
        return trained, factor * work

    return wrong


BLOCK = Task(
    id="ex03.1",
    title="What an inverted residual block costs",
    function="block_cost",
    taught="03#Depthwise: by formula and by clock",
    parts=(
        Part("parameters, by hand", 1, _block_parameters),
        Part("multiply-adds, by hand", 1, _block_work),
        Part("the sixteen blocks of EfficientNet-Lite0", 2, _block_real),
    ),
    probes=lambda rng: [
        _a_block(rng),
        _a_block(rng, odd=True),
        _a_block(rng, stride=1, expansion=1),
    ],
    misconceptions=(
        Misconception(
            "running statistics counted",
            _cost(norm=4),
            "Which of BatchNorm's four numbers a channel does the optimizer move?",
            "The running mean and variance lie in the file and follow the data, but no gradient "
            "moves them. Scale and shift are trained.",
        ),
        Misconception(
            "BatchNorm left out",
            _cost(norm=0),
            "Which layers of the block have something to learn beside the kernels?",
            "Each of the convolutions is followed by BatchNorm, which learns a scale and a shift "
            "for each of its channels.",
        ),
        Misconception(
            "biases counted",
            _cost(bias=1),
            "What would BatchNorm do to a bias that is added just before it?",
            "BatchNorm takes the mean away and a bias with it, so these convolutions have none. "
            "The shift of BatchNorm does its work.",
        ),
        Misconception(
            "depthwise counted as full",
            _cost(whole=True),
            "How many input channels does one depthwise kernel look at?",
            "You count a kernel for every pair of channels. A depthwise convolution has one for "
            "each channel; mixing the channels is left to the 1 × 1 convolutions.",
        ),
        Misconception(
            "always expanded",
            _cost(always=True),
            "What is left to do for the first convolution where the expansion is 1?",
            "With expansion 1 the block begins with its depthwise convolution. The first block of "
            "EfficientNet-Lite0 is of that kind.",
        ),
        Misconception(
            "expansion at the size of the output",
            _cost(at="output"),
            "Which of the three convolutions makes the map smaller? What comes before it?",
            "The stride belongs to the depthwise convolution. The expansion before it still works "
            "on the larger map, which makes it the most expensive part of such a block.",
        ),
        Misconception(
            "stride forgotten",
            _cost(at="input"),
            "At how many places is the last convolution of the block computed?",
            "You take the size of the input for all three. From the depthwise convolution on, the "
            "map is smaller by the stride.",
        ),
        Misconception(
            "rounded down",
            _cost(floor=True),
            "How many places does stride 2 leave of a row of five? Which are they?",
            "With “same” padding a stride of 2 keeps the first, third and fifth of five places. "
            "The size is divided and rounded up.",
        ),
        Misconception(
            "multiplication and addition counted apart",
            _cost(factor=2),
            "Is a multiply-add one operation here, or two?",
            "Your second number counts FLOPs. A multiply-add is the pair; papers on mobile "
            "networks count pairs, profilers often the single ones, and tables mix both.",
        ),
    ),
)

# --- ex03.2: what a place sees ------------------------------------------------------------------


def _a_stack(rng, depth=3):
    layers = []
    for _ in range(depth):
        kernel, stride, dilation = (int(rng.choice(c)) for c in ((2, 3, 5), (1, 2), (1, 2, 3)))
        layers.append((kernel, stride, dilation, int(rng.integers(0, kernel))))
    rng.shuffle(layers)
    # In every stack something is strided, dilated and padded, and the order matters.
    layers[0] = (3, 2, 1, int(rng.integers(0, 2)))
    layers[-1] = (5, 1, 2, int(rng.integers(1, 4)))
    return [tuple(int(n) for n in layer) for layer in layers], int(rng.integers(8, 14))


def _lite_stack(cut=8):
    """EfficientNet-Lite0 at 224 pixels, up to one of its blocks, and the size of the map there."""
    from tlcourse.backbones.spec import LITE

    layers, size = [(3, 2, 1, 0)], 112
    for block in LITE["efficientnet-lite0"].blocks[:cut]:
        # The map is of even size wherever the stride is 2.
        before = (block.kernel_size - block.stride) // 2
        layers.append((block.kernel_size, block.stride, 1, before))
        size //= block.stride
    return layers, size


def _pixels_that_matter(layers, place, size):
    """First and last pixel with an influence on a place, found by sending ones through."""
    maps = np.eye(size)  # one row a pixel of the map, one column a pixel of the picture
    for kernel, stride, dilation, before in layers:
        after = kernel * dilation + size
        padded = np.pad(maps, ((before, after), (0, 0)))
        starts = np.arange(0, len(maps), stride)
        maps = sum(padded[starts + dilation * k] for k in range(kernel))
    seen = np.flatnonzero(maps[place])
    return int(seen[0]), int(seen[-1])


def _field_by_hand(f, rng):
    rows = (
        ([(3, 2, 1, 0)], 0, (0, 2), "one layer of kernel 3, stride 2, no zeros in front"),
        ([(3, 1, 1, 1)], 5, (4, 6), "one layer of kernel 3, stride 1, one zero in front"),
        ([(3, 1, 4, 0)], 5, (5, 13), "one layer of kernel 3, dilation 4, no zeros in front"),
        ([(3, 2, 1, 0), (5, 2, 1, 1)], 3, (10, 20), "kernel 3, stride 2, no zeros, then kernel 5, "
         "stride 2, one zero (that place sees 5 to 9 of the map between)"),
    )  # fmt: skip
    for layers, place, wanted, what in rows:
        expect(f(layers, place), np.array(wanted), f"{what}: the pixels that place {place} sees")


def _field_border(f, rng):
    expect(f([(3, 1, 1, 1)], 0), np.array([-1, 1]), "kernel 3, stride 1, one zero in front: the "
           "pixels that place 0 sees, the zero at −1 among them")  # fmt: skip
    layers = [(3, 2, 1, 0), (5, 2, 1, 1)]
    expect(f(layers, 0), np.array([-2, 8]), "kernel 3, stride 2, no zeros, then kernel 5, stride 2,"
           " one zero: the pixels that place 0 sees")  # fmt: skip
    expect(f([], 7), np.array([7, 7]), "no layer at all, place 7")


def _field_of_stacks(f, rng):
    for _ in range(4):
        layers, place = _a_stack(rng, int(rng.integers(2, 5)))
        seen = _pixels_that_matter(layers, place, 200)
        what = f"the layers {layers}: the pixels without which place {place} changes"
        expect(np.clip(_given(f(layers, place)), 0, 199), np.array(seen), what)


def _field_real(f, rng):
    for cut in (3, 5, 8):
        layers, size = _lite_stack(cut)
        for place in (0, size // 2, size - 1):
            seen = _pixels_that_matter(layers, place, 224)
            what = (
                f"EfficientNet-Lite0 up to block{cut}, place {place} of {size}: the pixels of 224 "
                "that it sees (yours cut off at 0 and 223)"
            )
            expect(np.clip(_given(f(layers, place)), 0, 223), np.array(seen), what)


def _walk(extent=lambda k, d: (k - 1) * d, pad=True, turned=True):
    def wrong(layers, place):
        first = last = place
        for kernel, stride, dilation, before in reversed(layers) if turned else layers:
            before = before if pad else 0
            first = first * stride - before
            last = last * stride - before + extent(kernel, dilation)
        return first, last

    return wrong


def _forward(own=False, scaled=True, centred=False):
    def wrong(layers, place):
        r, j, start = 1, 1, 0
        for kernel, stride, dilation, before in layers:
            r += (kernel - 1) * dilation * (j * stride if own else j)
            start -= before * j if scaled else before
            j *= stride
        first = place * j - (r - 1) // 2 if centred else place * j + start
        return first, first + r - 1

    return wrong


FIELD = Task(
    id="ex03.2",
    title="Which pixels does a place see?",
    function="seen_pixels",
    taught="03#Receptive field",
    parts=(
        Part("by hand", 1, _field_by_hand),
        Part("at the border", 1, _field_border),
        Part("stacks of layers", 1, _field_of_stacks),
        Part("EfficientNet-Lite0", 1, _field_real),
    ),
    probes=lambda rng: [_a_stack(rng), _a_stack(rng), (_lite_stack()[0], int(rng.integers(5, 9)))],
    misconceptions=(
        Misconception(
            "dilation ignored",
            _walk(lambda k, d: k - 1),
            "How far apart are the first and the last pixel under a kernel of 3 with dilation 4?",
            "Dilation leaves gaps between the weights of a kernel. It costs no weight and widens "
            "the field.",
        ),
        Misconception(
            "dilated kernel too wide",
            _walk(lambda k, d: k * d - 1),
            "How many gaps are there between three weights?",
            "You take the kernel times its dilation. There is one gap fewer than there are "
            "weights, so the last of them ends sooner.",
        ),
        Misconception(
            "one behind the last",
            _walk(lambda k, d: (k - 1) * d + 1),
            "Which pixels does a place see after no layer at all, or after one 1 × 1 kernel?",
            "Your second number is where a slice would end. Asked for is the last pixel that is "
            "seen; and every layer of yours adds one more.",
        ),
        Misconception(
            "padding ignored",
            _walk(pad=False),
            "What does place 0 see after a kernel of 3 with one zero in front?",
            "Zeros in front move every place's field towards the start. The width of the field "
            "stays, so the formula for the width does not show it.",
        ),
        Misconception(
            "padding counted in pixels",
            _forward(scaled=False),
            "One zero in front of a map of 28 places: how many pixels of 224 does it stand for?",
            "You add up the zeros of all layers. A zero before a deep layer is one place of that "
            "layer's map, and so as wide as the steps of all the strides before it.",
        ),
        Misconception(
            "own stride counted",
            _forward(own=True),
            "Does the stride of the only layer change how much one of its places sees?",
            "A layer's stride moves its places apart. It widens what the layers after it see, not "
            "what the layer itself sees.",
        ),
        Misconception(
            "layers in the wrong order",
            _walk(turned=False),
            "You go back from a place to the picture: which layer do you meet first?",
            "You begin with the layer next to the picture. The place belongs to the last map, so "
            "the last layer comes first.",
        ),
        Misconception(
            "centred on its pixel",
            _forward(centred=True),
            "At stride 2 with zeros only behind, is the field of place 0 centred on pixel 0?",
            "You lay the field evenly around the place times the step. That holds for odd kernels "
            "with as many zeros in front as behind; “same” padding at stride 2 is not so, and the "
            "shift grows with depth.",
        ),
    ),
)

# --- ex03.3: which preprocessing was it? --------------------------------------------------------

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (103.939, 116.779, 123.68)
PREPARED = {
    "0 to 255": lambda p: p,
    "0 to 1": lambda p: p / 255,
    "-1 to 1": lambda p: p / 127.5 - 1,
    "lite": lambda p: (p - 127) / 128,
    "torch": lambda p: (p / 255 - MEAN) / SPREAD,
    "caffe": lambda p: p[..., ::-1] - CAFFE,
}
UNDONE = {
    "0 to 255": lambda x: x,
    "0 to 1": lambda x: x * 255,
    "-1 to 1": lambda x: (x + 1) * 127.5,
    "lite": lambda x: x * 128 + 127,
    "torch": lambda x: (x * SPREAD + MEAN) * 255,
    "caffe": lambda x: x + CAFFE,
}


def _some(rng, kind="pictograms", n=3):
    pictures = _small_pictures()[kind]
    return pictures[rng.choice(len(pictures), n, replace=False)].astype(float)


def _with_a_dark_pixel(rng):
    pictures = _some(rng)
    pictures[:, 10, 10] = rng.integers(0, 100, 3)  # a few drawings have bright colours only
    return pictures


def _as_prepared(name, pixels):
    return PREPARED[name](pixels).astype(np.float32)


def _scaling_each(f, rng):
    for name in PREPARED:
        x = _as_prepared(name, _with_a_dark_pixel(rng))
        what = f"three pictograms, values from {x.min():.4g} to {x.max():.4g}, mean {x.mean():.4g}"
        expect(f(x), name, what)


def _scaling_grey(f, rng):
    cells = _some(rng, "solar cells")
    cells[:, 3, 3] = rng.integers(0, 100, (3, 1))
    for share, words in ((1, "as they are"), (0.2, "underexposed")):
        for name in PREPARED:
            x = _as_prepared(name, np.round(share * cells))
            what = f"solar cells {words}, values from {x.min():.4g} to {x.max():.4g}"
            expect(f(x), name, what)
    for name in ("0 to 1", "lite", "torch", "caffe"):
        x = _as_prepared(name, np.round(140 + 0.45 * cells))
        what = f"solar cells overexposed, values from {x.min():.4g} to {x.max():.4g}"
        expect(f(x), name, what)


def _scaling_blank(f, rng):
    pictures = _with_a_dark_pixel(rng)
    pictures[0] = 255
    for name in PREPARED:
        what = f"a blank white picture and two pictograms, prepared as “{name}”"
        expect(f(_as_prepared(name, pictures)), name, what)


def _twice(rng, kind="pictograms"):
    return _as_prepared("lite", PREPARED["lite"](_some(rng, kind)))


def _scaling_unknown(f, rng):
    expect(f(_twice(rng)), "unknown", "pictograms that went through “lite” twice")
    pictures = _some(rng)
    x = ((pictures - pictures.mean()) / pictures.std()).astype(np.float32)
    expect(f(x), "unknown", "pictograms scaled by their own mean and spread")
    for name, change in (("1 added to", 1), ("1 taken from", -1)):
        pictures = _with_a_dark_pixel(rng)
        pictures[:, 0, :2] = [[0, 0, 0], [255, 255, 255]]
        x = (pictures + change).astype(np.float32)
        what = f"pictograms with {name} every pixel, values from {x.min():.0f} to {x.max():.0f}"
        expect(f(x), "unknown", what)


def _fits(x, name, tolerance=0.01, beyond=0.5, undone=UNDONE):
    pixels = undone[name](x)
    whole = np.abs(pixels - np.round(pixels)).max() <= tolerance
    return whole and pixels.min() >= -beyond and pixels.max() <= 255 + beyond


def _first_that_fits(part=lambda x: x, **how):
    def wrong(x):
        return next((name for name in PREPARED if _fits(part(x), name, **how)), "unknown")

    return wrong


def _by_range(x):
    low, high = x.min(), x.max()
    if low >= 0:
        return "0 to 1" if high <= 1 else "0 to 255"
    if low >= -1 and high <= 1:
        return "-1 to 1"
    return "torch" if low > -3 else "caffe"


def _nearest(x):
    def off(name):
        pixels = UNDONE[name](x)
        outside = np.abs(pixels - np.clip(pixels, 0, 255)).max()
        return outside + np.abs(pixels - np.round(pixels)).mean()

    return min(PREPARED, key=off)


def _which_probes(rng):
    blank = _with_a_dark_pixel(rng)
    blank[0] = 255
    cells = _some(rng, "solar cells")
    return [
        (_as_prepared("-1 to 1", _with_a_dark_pixel(rng)),),
        (_as_prepared("torch", blank),),
        (_as_prepared("caffe", cells),),
        (_as_prepared("lite", cells),),
        (_twice(rng),),
    ]


WHICH = Task(
    id="ex03.3",
    title="Which preprocessing was it?",
    function="which_preprocessing",
    taught="03#The wrong preprocessing",
    parts=(
        Part("pictograms, each way", 2, _scaling_each),
        Part("solar cells at three exposures", 1, _scaling_grey),
        Part("a blank picture among them", 1, _scaling_blank),
        Part("none of the six", 1, _scaling_unknown),
    ),
    probes=_which_probes,
    misconceptions=(
        Misconception(
            "by the range alone",
            _by_range,
            "What range has an underexposed picture between −1 and 1? And one prepared as “lite”?",
            "You look at the smallest and the largest number. They depend on the picture as much "
            "as on its preparation. Pixels were whole numbers once: that is what tells.",
        ),
        Misconception(
            "whole numbers to the last digit",
            _first_that_fits(tolerance=0),
            "Divide 7 by 255 in float32 and multiply it again. Print the difference from 7.",
            "You ask for exactly whole numbers. Coming and going in float32 leaves an error of "
            "about a hundred-thousandth, so nearly nothing fits.",
        ),
        Misconception(
            "whole, but no pixels",
            _first_that_fits(beyond=np.inf),
            "Undo “0 to 1” on a batch that was prepared as “-1 to 1”. Which numbers come out?",
            "Whole numbers are not enough: times 255 the other range gives whole numbers too, from "
            "−255 to 255. A pixel lies between 0 and 255.",
        ),
        Misconception(
            "limits to the last digit",
            _first_that_fits(beyond=0),
            "Undo “torch” on a white pixel and print all its digits. Is it above 255?",
            "You allow for rounding where you ask for whole numbers, and not at 0 and 255. White "
            "comes back as a little more than 255.",
        ),
        Misconception(
            "one picture asked",
            _first_that_fits(lambda x: x[:1]),
            "What does your function see if the first picture of the batch is blank?",
            "A blank picture fits several ways: white is 1 in three of the six. The whole batch "
            "went the same way, so all of it may be asked.",
        ),
        Misconception(
            "caffe with the red mean first",
            _first_that_fits(undone=UNDONE | {"caffe": lambda x: x + CAFFE[::-1]}),
            "Which channel comes first after “caffe”, and whose mean was taken from it?",
            "The channels are swapped before the means are taken, so the first mean belongs to "
            "blue. You add them in the order red, green, blue.",
        ),
        Misconception(
            "always one of the six",
            _nearest,
            "What does your function say about a batch that was scaled twice?",
            "You name the nearest of the six, however far it is. A batch that fits none of them is "
            "the one you most need to hear about.",
        ),
    ),
)

# --- ex03.4: a kernel for Keras -----------------------------------------------------------------


def _a_kernel(rng, kind):
    out, inputs, height, width = (int(n) for n in rng.choice(np.arange(2, 8), 4, replace=False))
    if kind == "dense":
        return rng.normal(size=(out, inputs)), 1
    if kind == "depthwise":
        return rng.normal(size=(inputs, 1, height, width)), inputs
    if kind == "of two":
        return rng.normal(size=(2, 1, height, width)), 2
    if kind == "multiplied":
        return rng.normal(size=(3 * inputs, 1, height, width)), inputs
    if kind == "grouped":
        return rng.normal(size=(2 * out, inputs, height, width)), 2
    if kind == "grey":
        return rng.normal(size=(out, 1, height, width)), 1
    return rng.normal(size=(out, inputs, height, width)), 1


def _same_answers(f, weight, groups, what, rng):
    """Whether Keras' layer gives, on one patch, what PyTorch's layer gives."""
    K = np.asarray(_given(f(weight, groups) if groups > 1 else f(weight)))
    if weight.ndim == 2:
        expect(K.shape, weight.shape[::-1], f"{what}: shape for Keras, (in, out)")
        x = rng.normal(size=weight.shape[1])
        return expect(x @ K, weight @ x, f"{what}: the answer to one input", 1e-4)
    out, inside, height, width = weight.shape
    patch = rng.normal(size=(height, width, groups * inside))
    per_group = out // groups
    answer = np.array(
        [
            np.einsum("abc,cab->", patch[..., o // per_group * inside :][..., :inside], weight[o])
            for o in range(out)
        ]
    )
    depthwise = groups > 1 and inside == 1
    wanted = (height, width, *((groups, per_group) if depthwise else (inside, out)))
    order = "channels, multiplier" if depthwise else "in, out"
    expect(K.shape, wanted, f"{what}: shape for Keras, (height, width, {order})")
    if depthwise:  # output channel c · multiplier + m reads input channel c
        given = np.einsum("abc,abcm->cm", patch, K).ravel()
    else:  # output channel o reads the channels of its group
        given = np.array(
            [
                np.sum(patch[..., o // per_group * inside :][..., :inside] * K[..., o])
                for o in range(out)
            ]
        )
    return expect(given, answer, f"{what}: the layer's answer on one patch", 1e-4)


def _real_kernel(f, rng, names):
    for name in names:
        weight = _checkpoint()[name].astype(float)
        groups = len(weight) if "depthwise" in name else 1
        what = f"{name} of EfficientNet-Lite0, {weight.shape}, groups {groups}"
        _same_answers(f, weight, groups, what, rng)


def _drawn_kernel(f, rng, kind, words):
    weight, groups = _a_kernel(rng, kind)
    _same_answers(f, weight, groups, f"{words} {weight.shape}, groups {groups}", rng)


def _kernel_full(f, rng):
    _real_kernel(f, rng, ("_conv_stem.weight", "_blocks.1._expand_conv.weight"))
    _drawn_kernel(f, rng, "full", "a kernel that is not square,")
    _drawn_kernel(f, rng, "grey", "a first layer for grey pictures,")


def _kernel_depthwise(f, rng):
    _real_kernel(f, rng, [f"_blocks.{k}._depthwise_conv.weight" for k in (0, 3)])
    _drawn_kernel(f, rng, "depthwise", "a depthwise kernel that is not square,")
    _drawn_kernel(f, rng, "of two", "a depthwise kernel of two channels,")
    _drawn_kernel(f, rng, "multiplied", "a depthwise kernel with three outputs a channel,")


def _kernel_others(f, rng):
    for _ in range(2):
        _drawn_kernel(f, rng, "dense", "a dense layer,")
        _drawn_kernel(f, rng, "grouped", "a convolution in two groups,")


def _moved(full=(2, 3, 1, 0), deep=(2, 3, 0, 1), dense=True, by_shape=False, flip=False):
    def wrong(weight, groups=1):
        if weight.ndim == 2:
            return weight.T if dense else weight
        weight = weight[:, :, ::-1, ::-1] if flip else weight
        out, inside, height, width = weight.shape
        if inside == 1 and (by_shape or groups > 1):
            groups = out if by_shape else groups
            if deep == (2, 3, 0, 1):
                weight = weight.reshape(groups, out // groups, height, width)
            return weight.transpose(deep)
        return weight.transpose(full)

    return wrong


def _reshaped(weight, groups=1):
    if weight.ndim == 2:
        return weight.reshape(weight.shape[::-1])
    out, inside, height, width = weight.shape
    if groups > 1 and inside == 1:
        return weight.reshape(height, width, groups, out // groups)
    return weight.reshape(height, width, inside, out)


def _multiplier_first(weight, groups=1):
    out, inside, height, width = weight.shape if weight.ndim == 4 else (0, 0, 0, 0)
    if groups > 1 and inside == 1:
        return weight.reshape(out // groups, groups, height, width).transpose(2, 3, 1, 0)
    return _moved()(weight, groups)


def _no_multiplier(weight, groups=1):
    if groups > 1 and weight.shape[1] == 1:
        return weight.transpose(2, 3, 0, 1)
    return _moved()(weight, groups)


KERNEL = Task(
    id="ex03.4",
    title="A kernel from PyTorch for Keras",
    function="keras_kernel",
    taught="03#One checkpoint, two frameworks",
    parts=(
        Part("convolutions, grey input included", 1, _kernel_full),
        Part("depthwise convolutions", 2, _kernel_depthwise),
        Part("dense layers and groups", 1, _kernel_others),
    ),
    probes=lambda rng: [
        _a_kernel(rng, kind)
        for kind in ("full", "grey", "depthwise", "multiplied", "dense", "grouped")
    ],
    misconceptions=(
        Misconception(
            "reshaped",
            _reshaped,
            "Where does the number at (0, 0, 0, 1) of the one array stand in the other?",
            "Reshaping keeps the order of the numbers in memory and only cuts the row anew. The "
            "shape is right, and every number is in another place. The axes have to be exchanged.",
        ),
        Misconception(
            "all axes turned around",
            _moved(full=(3, 2, 1, 0), deep=(3, 2, 0, 1)),
            "Which of your first two axes is the height? Try a kernel that is not square.",
            "Height and width are exchanged, as .T does it. With square kernels no shape objects; "
            "the network then looks for upright edges where it learned level ones.",
        ),
        Misconception(
            "input and output exchanged",
            _moved(full=(2, 3, 0, 1)),
            "Print the shape for the first layer: three channels come in. Where does the 3 stand?",
            "Keras wants the input channels third and the output channels last. Where both are "
            "equal the shape will not tell you.",
        ),
        Misconception(
            "depthwise like the others",
            _moved(deep=(2, 3, 1, 0)),
            "Which axis of a depthwise kernel counts the channels, and where does Keras want it?",
            "A depthwise layer in Keras has its channels third, and last how many outputs each of "
            "them gets. Yours come the other way round.",
        ),
        Misconception(
            "recognised by the shape",
            _moved(by_shape=True),
            "What shape has a normal first layer for grey pictures? And a depthwise one with "
            "three outputs a channel?",
            "A 1 on the second axis says that each output reads one channel. Whether there are "
            "many channels or a single one, the number of groups says.",
        ),
        Misconception(
            "multiplier ignored",
            _no_multiplier,
            "With 4 channels and 3 outputs each, how many channels does your kernel have?",
            "PyTorch counts the outputs on its first axis, Keras the inputs and how many outputs "
            "each one gets. They agree only where that is one.",
        ),
        Misconception(
            "multiplier before channel",
            _multiplier_first,
            "Which input does the second output channel read: the first or the second?",
            "Both frameworks put the outputs of one channel side by side. Yours are dealt out in "
            "turn over the channels.",
        ),
        Misconception(
            "flipped",
            _moved(flip=True),
            "Does either framework turn the kernel around before it slides it?",
            "The convolution of textbooks turns the kernel around; that of both frameworks does "
            "not, it is a correlation. Between two frameworks nothing has to be turned.",
        ),
        Misconception(
            "dense as it is",
            _moved(dense=False),
            "Which comes first in PyTorch's dense weight: inputs or outputs?",
            "PyTorch keeps dense weights as (out, in), Keras as (in, out). With as many inputs as "
            "outputs the shape will not tell you.",
        ),
    ),
)

# --- ex03.5: fold BatchNorm ---------------------------------------------------------------------


def _a_norm(rng, n):
    gamma, beta, mean = rng.normal(1, 0.5, n), rng.normal(size=n), rng.normal(size=n)
    return gamma, beta, mean, rng.uniform(0.05, 3.0, n), float(rng.choice([1e-3, 1e-2]))


def _for_folding(rng, n=4, inside=4, kernel=3):
    W, bias = rng.normal(size=(n, inside, kernel, kernel)), rng.normal(size=n)
    return (W, bias, *_a_norm(rng, n))


def _real_folding(place, norm):
    tensors = _checkpoint()
    W = tensors[f"{place}.weight"].astype(float)
    kinds = ("weight", "bias", "running_mean", "running_var")
    numbers = [tensors[f"{norm}.{kind}"].astype(float) for kind in kinds]
    return (W, np.zeros(len(W)), *numbers, 1e-3)


FOLDED = {
    "the stem": ("_conv_stem", "_bn0"),
    "the depthwise convolution of block1": ("_blocks.0._depthwise_conv", "_blocks.0._bn1"),
    "the expansion of block2": ("_blocks.1._expand_conv", "_blocks.1._bn0"),
    "the projection of block16": ("_blocks.15._project_conv", "_blocks.15._bn2"),
}


def _folded_answers(f, given, what, rng):
    W, bias, gamma, beta, mean, variance, epsilon = given
    made = f(*given)
    two = isinstance(made, (list, tuple)) and len(made) == 2
    require(two, f"{what}: expected two arrays, kernel and bias")
    new_W, new_bias = (np.asarray(array) for array in made)
    expect(new_W.shape, W.shape, f"{what}: shape of the new kernel")
    expect(new_bias.shape, bias.shape, f"{what}: shape of the new bias")
    for _ in range(3):
        patch = rng.normal(size=W.shape[1:])
        z = np.einsum("ocab,cab->o", W, patch) + bias
        wanted = gamma * (z - mean) / np.sqrt(variance + epsilon) + beta
        given = np.einsum("ocab,cab->o", new_W, patch) + new_bias
        expect(given, wanted, f"{what}: one convolution against convolution and BatchNorm", 1e-4)


def _fold_by_hand(f, rng):
    W, bias = np.array([[[[6.0]]], [[[1.0]]]]), np.array([0.0, 3.0])
    gamma, beta = np.array([4.0, 6.0]), np.array([1.0, 0.0])
    mean, variance = np.array([5.0, 1.0]), np.array([3.0, 8.0])
    made = _given(f(W, bias, gamma, beta, mean, variance, 1.0))
    what = "a 1 × 1 kernel 6 and 1, bias 0 and 3, γ 4 and 6, β 1 and 0, mean 5 and 1, variance 3 "
    what += "and 8, ε 1"
    expect(np.ravel(made[0]), np.array([12.0, 2.0]), f"{what}: the new kernel")
    expect(np.ravel(made[1]), np.array([-9.0, 4.0]), f"{what}: the new bias")


def _fold_real(f, rng):
    for words, place in FOLDED.items():
        _folded_answers(f, _real_folding(*place), f"{words} of EfficientNet-Lite0", rng)


def _fold_any(f, rng):
    for n, inside, kernel in ((4, 4, 3), (5, 2, 1), (3, 7, 5)):
        words = f"a kernel {(n, inside, kernel, kernel)} with a bias of its own"
        _folded_answers(f, _for_folding(rng, n, inside, kernel), words, rng)


def _along(scale, axis=0):
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    return scale.reshape(shape)


def _fold(spread=lambda v, e: np.sqrt(v + e), axis=0, shift=None, gained=True):
    def wrong(W, bias, gamma, beta, mean, variance, epsilon):
        scale = (gamma if gained else 1.0) / spread(variance, epsilon)
        return W * _along(scale, axis), (shift or _shift)(bias, mean, scale, beta)

    return wrong


def _shift(bias, mean, scale, beta):
    return (bias - mean) * scale + beta


def _fold_in_place(W, bias, gamma, beta, mean, variance, epsilon):
    scale = gamma / np.sqrt(variance + epsilon)
    W *= _along(scale)
    return W, _shift(bias, mean, scale, beta)


FOLD = Task(
    id="ex03.5",
    title="Fold BatchNorm into the convolution",
    function="fold",
    taught="03#Skip connections, BatchNorm and gradients",
    parts=(
        Part("by hand", 1, _fold_by_hand),
        Part("layers of EfficientNet-Lite0", 2, _fold_real),
        Part("any kernel, with a bias", 1, _fold_any),
    ),
    probes=lambda rng: [
        _for_folding(rng),
        _for_folding(rng, kernel=1),
        _real_folding(*FOLDED["the projection of block16"]),
    ],
    misconceptions=(
        Misconception(
            "divided by the variance",
            _fold(lambda v, e: v + e),
            "Which number of the layer is a spread: its variance, or the root of it?",
            "BatchNorm divides by the standard deviation. You divide by its square, and layers "
            "with little variance come out far too large.",
        ),
        Misconception(
            "epsilon outside the root",
            _fold(lambda v, e: np.sqrt(v) + e),
            "Where does ε stand in BatchNorm's formula? Try a variance near zero.",
            "You add ε to the standard deviation. Both frameworks add it to the variance, before "
            "the root.",
        ),
        Misconception(
            "epsilon left out",
            _fold(lambda v, e: np.sqrt(v)),
            "What do you make of a channel whose variance is zero, or nearly so?",
            "ε is part of what was trained. In this network it is 0.001, and some channels have a "
            "variance of that size.",
        ),
        Misconception(
            "scaled by input channel",
            _fold(axis=1),
            "Which axis of the kernel counts the channels that BatchNorm sees?",
            "BatchNorm comes after the convolution, so its numbers belong to the output channels. "
            "You multiply along the inputs; with as many inputs as outputs nothing objects.",
        ),
        Misconception(
            "scaled along the width",
            _fold(axis=3),
            "To which axis does NumPy match an array of shape (out,) against (out, in, h, w)?",
            "Without further axes NumPy lines the scale up with the last one, the width of the "
            "kernel. That fails, or, worse, gives a kernel of another shape.",
        ),
        Misconception(
            "mean not scaled",
            _fold(shift=lambda bias, mean, scale, beta: bias * scale - mean + beta),
            "What does BatchNorm do with the difference from the mean?",
            "BatchNorm takes the mean away first and scales the difference. You take it away "
            "unscaled.",
        ),
        Misconception(
            "bias not scaled",
            _fold(shift=lambda bias, mean, scale, beta: bias - mean * scale + beta),
            "Which comes first in the layer: the bias of the convolution or BatchNorm?",
            "The bias of the convolution goes through BatchNorm like everything else and is "
            "scaled with it.",
        ),
        Misconception(
            "bias forgotten",
            _fold(shift=lambda bias, mean, scale, beta: beta - mean * scale),
            "What happens in your result to the bias that the convolution had before?",
            "Convolutions in front of BatchNorm mostly have no bias, but this one may, and it "
            "moves the answer.",
        ),
        Misconception(
            "shift left out",
            _fold(shift=lambda bias, mean, scale, beta: (bias - mean) * scale),
            "What does the layer answer to a patch that gives exactly the running mean?",
            "BatchNorm adds β at its end. Without it every channel has lost its trained shift.",
        ),
        Misconception(
            "γ left out",
            _fold(gained=False),
            "What is the spread of a channel after BatchNorm: one, or what was trained?",
            "You only normalise. BatchNorm then multiplies by γ, which is trained.",
        ),
        Misconception(
            "changes the kernel it was given",
            _fold_in_place,
            "Fold the same layer twice. Does the same come out?",
            "A product in place writes into the array that belongs to the model. Folded a second "
            "time it is scaled twice.",
        ),
    ),
)

# --- ex03.6: find the bug, preparing a picture --------------------------------------------------


def _pieces(rng, height, width):
    """A piece of a real photograph, uint8."""
    photograph = _photographs()[int(rng.integers(2))]
    top, left = int(rng.integers(426 - height)), int(rng.integers(640 - width))
    return photograph[top : top + height, left : left + width]


def _framed(rng):
    """A piece of a photograph in a wide frame: what lies beyond the square cannot matter."""
    picture = np.empty((60, 96, 3), np.uint8)
    picture[:] = rng.integers(256, size=3)
    picture[8:52, 26:70] = _pieces(rng, 44, 44)
    return picture, 20


def _input_by_hand(f, rng):
    a, b, c, d = (255, 0, 0), (0, 255, 0), (0, 0, 255), (127, 63, 191)
    grey = (9, 9, 9)
    row = [(grey, a, b, grey), (grey, c, d, grey)]
    wanted = (np.array([[a, b], [c, d]]) - 127) / 128
    made = np.asarray(_given(f(np.array(row, np.uint8), 2)))
    expect(made.shape, (3, 2, 2), "shape for a picture of 2 × 4 pixels and size 2")
    for channel, name in enumerate(("red", "green", "blue")):
        what = "2 × 4 pixels (grey, red, green, grey) and (grey, blue, (127, 63, 191), grey), size "
        expect(made[channel], wanted[..., channel], f"{what}2: the {name} channel", 1e-5)


def _input_middle(f, rng):
    for height, width in ((40, 64), (64, 40), (48, 48)):
        piece = _pieces(rng, height, width)
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        made = np.asarray(_given(f(piece, side)))
        what = f"a photograph of {height} × {width} pixels, size {side}"
        expect(made.shape, (3, side, side), f"{what}: shape")
        corners = {"first": (0, 0), "last": (side - 1, side - 1)}
        for word, (y, x) in corners.items():
            wanted = (piece[top + y, left + x].astype(float) - 127) / 128
            expect(made[:, y, x], wanted, f"{what}: red, green, blue at the {word} pixel", 1e-5)
        for channel in range(3):
            wanted = (piece[top:, left:, channel][:side, :side].astype(float) - 127) / 128
            expect(made[channel], wanted, f"{what}: channel {channel} of its middle", 1e-5)


def _input_resized(f, rng):
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[:, 1] = 200
    made = np.asarray(_given(f(picture, 4)))
    expect(made.shape, (3, 4, 4), "shape for a picture of 2 × 2 pixels and size 4")
    what = "a picture of 2 × 2 pixels, left 0 and right 200, size 4: one row, as pixels"
    expect(made[0, 0] * 128 + 127, np.array([0.0, 50.0, 150.0, 200.0]), what, 1e-4)
    for photograph in _photographs():
        for picture in (photograph, photograph.swapaxes(0, 1)):
            height, width = picture.shape[:2]
            made = np.asarray(_given(f(picture, 71)))
            what = f"a photograph of {height} × {width} pixels, size 71"
            expect(made.shape, (3, 71, 71), f"{what}: shape")
            middle = picture[(height - 426) // 2 :, (width - 426) // 2 :][:426, :426]
            blocks = middle.reshape(71, 6, 71, 6, 3).mean(axis=(1, 3))
            off = np.abs(made.transpose(1, 2, 0) * 128 + 127 - blocks).mean()
            require(
                off < 8,
                f"{what}: its pixels are {off:.0f} off the means of the middle's blocks of 6 × 6, "
                "on average",
            )


BUGS = ("reshaped", "wraps around", "scaled twice", "BGR", "squashed")
POINTED_OUT = {
    "reshaped": (
        "Look at one channel of the result as a picture. Do you recognise anything?",
        "Reshaping cuts the same row of numbers anew: red, green and blue of one pixel end up side "
        "by side in one channel. The axes have to be exchanged, which is another thing.",
    ),
    "wraps around": (
        "What is a uint8 pixel of 100 minus 127? Try it.",
        "You subtract while the pixels are still uint8. Those numbers cannot go below zero: they "
        "start again from 255, and dark pixels come out brightest.",
    ),
    "scaled twice": (
        "How far apart are black and white in the result, and how far should they be?",
        "The card's numbers belong to pixels from 0 to 255. Yours are between 0 and 1 by then, so "
        "all come out near −0.99.",
    ),
    "BGR": (
        "Put a red pixel in. Which channel is large?",
        "Pillow gives red, green, blue, and this network was trained on that. OpenCV's order is "
        "needed only where OpenCV reads the file, or for other weights.",
    ),
    "squashed": (
        "Put in a circle on a picture twice as wide as high. What comes out?",
        "A picture that is not square is pressed into a square. The network was trained on "
        "undistorted ones; its centre is cut out first.",
    ),
}


def _prepared(bugs=(), corner=False, cut=False, smooth="BILINEAR"):
    def wrong(picture, size):
        from PIL import Image

        picture = picture[..., ::-1] if "BGR" in bugs else picture
        height, width = picture.shape[:2]
        if "squashed" not in bugs:
            side = size if cut else min(height, width)
            top, left = (0, 0) if corner else ((height - side) // 2, (width - side) // 2)
            picture = picture[top : top + side, left : left + side]
        image = Image.fromarray(np.ascontiguousarray(picture))
        x = np.asarray(image.resize((size, size), Image.Resampling[smooth]))
        x = x if "wraps around" in bugs else x / (255 if "scaled twice" in bugs else 1)
        x = (x - np.asarray(127, x.dtype)) / 128
        return x.reshape(3, size, size) if "reshaped" in bugs else x.transpose(2, 0, 1)

    return wrong


def _left_in(bugs):
    """The misconception of one who has left these bugs in."""
    look, why = POINTED_OUT[bugs[0]]
    if len(bugs) > 1:
        count = {2: "Two", 3: "Three", 4: "Four"}[len(bugs)]
        look = f"{count} mistakes are still in it. For one of them: {look[0].lower()}{look[1:]}"
    return Misconception(", ".join(bugs), _prepared(bugs), look, why)


PREPARE = Task(
    id="ex03.6",
    title="Mend the app that prepares its pictures otherwise",
    function="prepare",
    taught="03#The wrong preprocessing",
    parts=(
        Part("eight pixels by hand", 1, _input_by_hand),
        Part("the middle of photographs", 2, _input_middle),
        Part("smaller and larger", 1, _input_resized),
    ),
    probes=lambda rng: [
        (_pieces(rng, 40, 64), 40),
        (_pieces(rng, 64, 40), 40),
        _framed(rng),
    ],
    misconceptions=(
        *(
            _left_in(bugs)
            for count in (1, 2, 3, 4)
            for bugs in combinations(BUGS, count)
            if not {"wraps around", "scaled twice"} <= set(bugs)
        ),
        Misconception(
            "the corner for the centre",
            _prepared(corner=True),
            "Which part of a wide picture do you cut out: its left end or its middle?",
            "You cut from the first pixel on. What a photograph shows is mostly in its middle, and "
            "the network was trained and tested on centre crops.",
        ),
        Misconception(
            "cut without shrinking",
            _prepared(cut=True),
            "How much of a photograph of 4,000 × 3,000 pixels is left in your result?",
            "You cut a square of the final size out of the full picture. Of a large photograph "
            "that is a small detail; the largest square comes first, then it is shrunk.",
        ),
        Misconception(
            "Pillow's default filter",
            _prepared(smooth="BICUBIC"),
            "Enlarge a picture of a black and a white pixel. Do the grey levels overshoot?",
            "Without a word about it Pillow resizes bicubically. The difference is small; yet the "
            "filter is part of a preprocessing, and training and app have to agree on it.",
        ),
    ),
)

# --- ex03.7: find the bug, loading a checkpoint -------------------------------------------------


def _load_pytorch(f, tensors, head, prefixed, damage):
    """What is in a small network after f has loaded a checkpoint into it."""
    from collections import OrderedDict

    import torch
    from torch import nn

    def pair(*shape, **look):
        parts = [
            ("conv", nn.Conv2d(*shape, bias=False, **look)),
            ("norm", nn.BatchNorm2d(shape[1])),
        ]
        return nn.Sequential(OrderedDict(parts))

    parts = [("stem", pair(3, 32, 3)), ("depthwise", pair(32, 32, 3, groups=32))]
    parts += [("project", pair(32, 16, 1)), ("pool", nn.AdaptiveAvgPool2d(1))]
    model = nn.Sequential(OrderedDict([*parts, ("flat", nn.Flatten()), ("head", nn.Linear(16, 8))]))
    kinds = {"kernel": "conv.weight", "gamma": "norm.weight", "beta": "norm.bias"}
    kinds |= {"mean": "norm.running_mean", "variance": "norm.running_var"}
    wanted = {}
    for place in ("stem", "depthwise", "project"):
        for kind, name in kinds.items():
            wanted[f"{place}.{name}"] = torch.tensor(tensors[f"{place} {kind}"])
    full = dict(wanted) | {f"head.{k}": torch.tensor(head[k]) for k in ("weight", "bias")}
    for place in ("stem", "depthwise", "project"):  # these may be loaded or not
        full[f"{place}.norm.num_batches_tracked"] = torch.tensor(1000)
    lost = {"missing": "depthwise.norm.running_var", "another shape": "depthwise.conv.weight"}
    if damage == "missing":
        del full[lost[damage]]
    if damage == "another shape":
        full[lost[damage]] = full[lost[damage]].repeat(2, 1, 1, 1)
    prefix = "module." if prefixed else ""
    full = {prefix + name: full[name] for name in sorted(full)}  # as a safetensors file has them
    kept, before = list(full), {n: v.clone() for n, v in model.state_dict().items()}
    values = [value.clone() for value in full.values()]
    try:
        f(model, full)
        refused = False
    except NotImplementedError:
        raise
    except Exception:
        if not damage:
            raise
        refused = True
    own = model.state_dict()
    intact = list(full) == kept
    intact = intact and all(map(torch.equal, values, full.values()))
    if damage:
        return {"refused": refused, "checkpoint": intact}
    lacking = [name for name, value in wanted.items() if not torch.equal(own[name], value)]
    still = {name for name, value in before.items() if torch.equal(own[name], value)}
    return {
        "not loaded": lacking,
        "as at the start": [name for name in lacking if name in still],
        "head kept": {"head.weight", "head.bias"} <= still,
        "checkpoint": intact,
    }


def _load_keras(f, tensors, head, prefixed, damage):
    """What is in a small network after f has loaded a checkpoint into it."""
    import keras
    import numpy as np
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(32, 3, use_bias=False, name="stem_conv"),
            layers.BatchNormalization(name="stem_norm"),
            layers.DepthwiseConv2D(3, use_bias=False, name="depthwise_conv"),
            layers.BatchNormalization(name="depthwise_norm"),
            layers.Conv2D(16, 1, use_bias=False, name="project_conv"),
            layers.BatchNormalization(name="project_norm"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(8, name="head"),
        ]
    )
    kinds = {"kernel": "conv/kernel", "gamma": "norm/gamma", "beta": "norm/beta"}
    kinds |= {"mean": "norm/moving_mean", "variance": "norm/moving_variance"}
    wanted = {}
    for place in ("stem", "depthwise", "project"):
        for kind, name in kinds.items():
            value = tensors[f"{place} {kind}"]
            if value.ndim == 4:
                value = value.transpose((2, 3, 0, 1) if place == "depthwise" else (2, 3, 1, 0))
            wanted[f"{place}_{name}"] = value.copy()
    full = dict(wanted) | {"head/kernel": head["weight"].T.copy(), "head/bias": head["bias"].copy()}
    lost = {"missing": "depthwise_norm/moving_variance", "another shape": "depthwise_conv/kernel"}
    if damage == "missing":
        del full[lost[damage]]
    if damage == "another shape":
        full[lost[damage]] = np.tile(full[lost[damage]], (1, 1, 2, 1))
    prefix = "model/" if prefixed else ""
    full = {prefix + name: full[name] for name in sorted(full)}  # as a safetensors file has them
    kept, values = list(full), [value.copy() for value in full.values()]
    weights = {f"{layer.name}/{w.name}": w for layer in model.layers for w in layer.weights}
    before = {name: weight.numpy() for name, weight in weights.items()}
    try:
        f(model, full)
        refused = False
    except NotImplementedError:
        raise
    except Exception:
        if not damage:
            raise
        refused = True
    intact = list(full) == kept and all(map(np.array_equal, values, full.values()))
    if damage:
        return {"refused": refused, "checkpoint": intact}
    own = {name: weight.numpy() for name, weight in weights.items()}
    lacking = [name for name, value in wanted.items() if not np.array_equal(own[name], value)]
    still = {name for name, value in before.items() if np.array_equal(own[name], value)}
    return {
        "not loaded": lacking,
        "as at the start": [name for name in lacking if name in still],
        "head kept": {"head/kernel", "head/bias"} <= still,
        "checkpoint": intact,
    }


@lru_cache(maxsize=1)
def _first_tensors():
    """The stem and the first block of EfficientNet-Lite0, by place and kind."""
    named, tensors = {}, _checkpoint()
    places = {
        "stem": ("_conv_stem", "_bn0"),
        "depthwise": ("_blocks.0._depthwise_conv", "_blocks.0._bn1"),
        "project": ("_blocks.0._project_conv", "_blocks.0._bn2"),
    }
    kinds = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
    for place, (kernel, norm) in places.items():
        named[f"{place} kernel"] = tensors[f"{kernel}.weight"].copy()
        for kind, name in kinds.items():
            named[f"{place} {kind}"] = tensors[f"{norm}.{name}"].copy()
    return named


def _to_load(rng, classes=20, prefixed=True, damage=""):
    head = {"weight": rng.normal(size=(classes, 16)), "bias": rng.normal(size=classes)}
    head = {kind: values.astype(np.float32) for kind, values in head.items()}
    return _first_tensors(), head, prefixed, damage


def _loads_all(f, rng):
    for prefixed, words in ((False, "plain names"), (True, "a prefix before every name")):
        lost = f(*_to_load(rng, prefixed=prefixed))["not loaded"]
        names = ", ".join(lost[:4]) + (" …" if len(lost) > 4 else "")
        what = f"a checkpoint with {words}: {len(lost)} arrays of the network are not those of the "
        require(not lost, f"{what}file: {names}")


def _loads_no_head(f, rng):
    for classes in (20, 8):
        made = f(*_to_load(rng, classes))
        require(len(made["not loaded"]) < 15, "nothing is loaded yet, so there is nothing to spare")
        what = f"a checkpoint with a head for {classes} classes, the network has one for 8"
        require(made["head kept"], f"{what}: the network's new head was changed")
        require(made["checkpoint"], f"{what}: the checkpoint is not what it was before")


def _refuses(f, rng):
    lost = f(*_to_load(rng))["not loaded"]
    require(not lost, "a checkpoint that is whole has to be loaded first")
    for damage, words in (
        ("missing", "one array of the network is missing in the checkpoint"),
        ("another shape", "one array of the network has another shape in the checkpoint"),
    ):
        made = f(*_to_load(rng, damage=damage))
        require(made["refused"], f"{words}, and your function says nothing")


def _torch_loading(rename, skip=True, trained=False, head=False, by_place=False, pop=False):
    def wrong(model, checkpoint):
        import torch

        named = {rename(name, "module."): value for name, value in checkpoint.items()}
        if pop:
            for name in list(checkpoint):
                if "head." in name:
                    del checkpoint[name]
        own = dict(model.named_parameters()) if trained else model.state_dict()
        own = {name: value for name, value in own.items() if head or "head." not in name}
        if by_place:
            values = [value for name, value in named.items() if "head." not in name]
            named = dict(zip(own, values, strict=False))
        with torch.no_grad():
            for name, value in own.items():
                fits = name in named and named[name].shape == value.shape
                if not fits and skip:
                    continue
                if not fits and not (head and "head." in name):
                    raise ValueError(name)
                if fits:
                    value.copy_(named[name])

    return wrong


def _keras_loading(rename, skip=True, trained=False, head=False, by_place=False, pop=False):
    def wrong(model, checkpoint):
        named = {rename(name, "model/"): value for name, value in checkpoint.items()}
        if pop:
            for name in list(checkpoint):
                if "head/" in name:
                    del checkpoint[name]
        own = {
            f"{layer.name}/{weight.name}": weight
            for layer in model.layers
            for weight in (layer.trainable_weights if trained else layer.weights)
            if head or layer.name != "head"
        }
        if by_place:
            values = [value for name, value in named.items() if "head/" not in name]
            named = dict(zip(own, values, strict=False))
        for name, weight in own.items():
            fits = name in named and named[name].shape == tuple(weight.shape)
            if not fits and skip:
                continue
            if not fits and not (head and "head/" in name):
                raise ValueError(name)
            if fits:
                weight.assign(named[name])

    return wrong


def _loadings(rename=str.removeprefix, **how):
    return dict(tensorflow=_keras_loading(rename, **how), pytorch=_torch_loading(rename, **how))


LOAD = Task(
    id="ex03.7",
    title="Mend the loading that loads nothing",
    function="load",
    taught="03#One checkpoint, two frameworks",
    parts=(
        Part("every array of the network", 2, _loads_all),
        Part("the new head and the checkpoint stay", 1, _loads_no_head),
        Part("a checkpoint that does not fit is refused", 2, _refuses),
    ),
    probes=lambda rng: [
        _to_load(rng, 20),
        _to_load(rng, 8, prefixed=False),
        _to_load(rng, damage="missing"),
    ],
    harness={"tensorflow": _load_keras, "pytorch": _load_pytorch},
    misconceptions=(
        Misconception(
            "as it was",
            _loadings(lambda name, prefix: name, head=True),
            "How many names do the checkpoint and the network share? Print the first of each.",
            "Where names carry a prefix nothing fits, nothing is loaded and nothing is said. The "
            "network keeps its random weights and even learns a little, so the curve looks slow "
            "rather than wrong.",
        ),
        Misconception(
            "letters stripped, not the prefix",
            _loadings(lambda name, prefix: name.lstrip(prefix), head=True),
            "Print the names after you took the prefix away. Do all layers still have theirs?",
            "lstrip takes a set of letters and removes every one of them from the front, so "
            "“depthwise” loses its first letters too. A prefix is something else.",
        ),
        Misconception(
            "only the prefix mended",
            _loadings(head=True),
            "The prefix is mended, two things are left. Which arrays does your function pass over "
            "without a word, and what if the old head has as many classes as the new one?",
            "You still load whatever fits. So the old head comes along where its shape fits, and "
            "an array that is missing or of another shape stays random and nobody hears of it.",
        ),
        Misconception(
            "what does not fit is skipped",
            _loadings(),
            "What does your function do about an array of the network that the file does not have?",
            "It is left random without a word. Leaving the old head out is meant; anything else "
            "that is missing is an error that nobody will find later.",
        ),
        Misconception(
            "only what is trained",
            _loadings(trained=True, skip=False),
            "Which of BatchNorm's four arrays did you load?",
            "A list of trainable weights holds no running mean and variance. They are still 0 and "
            "1, and in evaluation mode the network computes nonsense with the right kernels.",
        ),
        Misconception(
            "the head too, where it fits",
            _loadings(head=True, skip=False),
            "What happens if the old task had as many classes as yours?",
            "You decide by the shape. With the same number of classes the old head comes along, "
            "trained for other classes.",
        ),
        Misconception(
            "by position",
            _loadings(by_place=True),
            "In which order do the names come in the file, and in which in the network?",
            "You pair the arrays by their order. This file is sorted by name, as many are, so "
            "scale, shift, mean and variance change places wherever their shapes agree.",
        ),
        Misconception(
            "empties the checkpoint",
            _loadings(pop=True, skip=False),
            "Load the same checkpoint into a second network. Is it still whole?",
            "You take the head out of the dictionary that you were given. Whoever uses it next "
            "finds it gone.",
        ),
    ),
)

TASKS = (BLOCK, FIELD, WHICH, KERNEL, FOLD, PREPARE, LOAD)
