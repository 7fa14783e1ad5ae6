"""Exercise set 3: other right answers, and why some changed answers are right as well."""

import numpy as np

# --- ex03.1 and ex03.2 --------------------------------------------------------------------------


def _layer_by_layer(size, kernel, stride, expansion, inputs, outputs):
    hidden, small = inputs * expansion, int(np.ceil(size / stride))
    # weights, channels of BatchNorm, side of the output
    layers = [(kernel * kernel * hidden, hidden, small), (hidden * outputs, outputs, small)]
    if expansion != 1:
        layers.insert(0, (inputs * hidden, hidden, size))
    parameters = sum(weights + 2 * channels for weights, channels, _ in layers)
    return [parameters, sum(weights * side * side for weights, _, side in layers)]


def _forwards(layers, place):
    width = step = 1
    start = 0
    for k, s, d, zeros in layers:
        width += (k - 1) * d * step
        start -= zeros * step
        step *= s
    first = start + place * step
    return np.array([first, first + width - 1])


def _all_that_is_seen(layers, place):
    seen = {place}
    for kernel, stride, dilation, before in layers[::-1]:
        seen = {p * stride - before + k * dilation for p in seen for k in range(kernel)}
    return min(seen), max(seen)


# --- ex03.3 -------------------------------------------------------------------------------------


def _there_and_back(x):
    m, s = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    bgr_mean = (103.939, 116.779, 123.68)
    ways = {
        "caffe": (lambda p: p - bgr_mean, lambda x: x + bgr_mean),
        "torch": (lambda p: (p / 255 - m) / s, lambda x: 255 * (m + x * s)),
        "lite": (lambda p: (p - 127) / 128, lambda x: 128 * x + 127),
        "-1 to 1": (lambda p: p / 127.5 - 1, lambda x: 127.5 * x + 127.5),
        "0 to 1": (lambda p: p / 255, lambda x: 255 * x),
        "0 to 255": (lambda p: p, lambda x: x),
    }
    for name, (there, back) in ways.items():
        pixels = back(x.astype("float64")).round()
        whole = np.allclose(there(pixels), x, rtol=0, atol=1e-4)
        if whole and pixels.min() >= 0 and pixels.max() <= 255:
            return name
    return "unknown"


# --- ex03.4 and ex03.5 --------------------------------------------------------------------------


def _number_by_number(weight, groups=1):
    if weight.ndim == 2:
        return np.einsum("oi->io", weight)
    out, inside, height, width = weight.shape
    if inside > 1 or groups == 1:
        return np.moveaxis(weight, (0, 1), (3, 2)).tolist()
    multiplier = out // groups
    kernel = np.zeros((height, width, groups, multiplier))
    for o in range(out):
        kernel[:, :, o // multiplier, o % multiplier] = weight[o, 0]
    return kernel


def _by_channel(W, bias, gamma, beta, mean, variance, epsilon):
    kernel, shift = np.empty(W.shape), []
    for o in range(len(W)):
        spread = (variance[o] + epsilon) ** 0.5
        kernel[o] = gamma[o] * W[o] / spread
        shift.append(beta[o] + gamma[o] * (bias[o] - mean[o]) / spread)
    return [kernel, shift]


def _by_einsum(W, bias, gamma, beta, mean, variance, epsilon):
    scale = gamma * (variance + epsilon) ** -0.5
    return np.einsum("oihw,o->oihw", W, scale), beta - scale * mean + scale * bias


# --- ex03.6 -------------------------------------------------------------------------------------


def _by_pillow(picture, size):
    from PIL import Image

    image = Image.fromarray(picture)
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.BILINEAR)
    return np.moveaxis(np.asarray(image) / 128 - 127 / 128, 2, 0)


def _shrunk_first(picture, size):
    from PIL import Image

    height, width = picture.shape[:2]
    scale = size / min(height, width)
    high, wide = round(height * scale), round(width * scale)
    small = Image.fromarray(picture).resize((wide, high), Image.Resampling.BILINEAR)
    top, left = (high - size) // 2, (wide - size) // 2
    x = np.asarray(small, float)[top : top + size, left : left + size]
    return ((x - 127.0) / 128.0).transpose(2, 0, 1)


def _by_imageops(picture, size):
    from PIL import Image, ImageOps

    image = ImageOps.fit(Image.fromarray(picture), (size, size), Image.Resampling.BILINEAR)
    channels = [np.array(channel, dtype=int) - 127 for channel in image.split()]
    return np.stack(channels) / np.float32(128)


# --- ex03.7 -------------------------------------------------------------------------------------


def _by_keys(model, checkpoint):
    names = {name.split("module.")[-1]: name for name in checkpoint}
    trunk = {name: checkpoint[old] for name, old in names.items() if name[:5] != "head."}
    missing, unexpected = model.load_state_dict(trunk, strict=False)
    if unexpected or set(missing) != {"head.weight", "head.bias"}:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")


def _by_copying(model, checkpoint):
    import torch

    prefix = "module." if all(name.startswith("module.") for name in checkpoint) else ""
    own = [*model.named_parameters(), *model.named_buffers()]
    with torch.no_grad():
        for name, tensor in own:
            if name.startswith("head") or name.endswith("num_batches_tracked"):
                continue
            value = checkpoint[prefix + name]
            assert value.shape == tensor.shape, name
            tensor.copy_(value)
    return model


def _by_assigning(model, checkpoint):
    for weight in model.weights:
        name = "/".join(weight.path.split("/")[-2:])
        if name.startswith("head/"):
            continue
        value = checkpoint.get("model/" + name, checkpoint.get(name))
        if value is None or value.shape != tuple(weight.shape):
            raise KeyError(name)
        weight.assign(value)


def _all_at_once(model, checkpoint):
    prefix = "model/" if next(iter(checkpoint)).startswith("model/") else ""
    trunk = [layer for layer in model.layers if layer.weights][:-1]
    values = [checkpoint[f"{prefix}{part.name}/{w.name}"] for part in trunk for w in part.weights]
    model.set_weights([*values, *model.get_layer("head").get_weights()])
    return model


ALTERNATIVES = {
    "ex03.1": [_layer_by_layer],
    "ex03.2": [_forwards, _all_that_is_seen],
    "ex03.3": [_there_and_back],
    "ex03.4": [_number_by_number],
    "ex03.5": [_by_channel, _by_einsum],
    "ex03.6": [_by_pillow, _shrunk_first, _by_imageops],
    "ex03.7": {
        "pytorch": [_by_keys, _by_copying],
        "tensorflow": [_by_assigning, _all_at_once],
    },
}

# Changes of the reference that leave it right, each with its reason.
EQUIVALENT = {
    "ex03.1": {
        "hidden, after = (expansion * inputs, -(-size // stride)) -> "
        "hidden, after = (expansion * inputs, +(-size // stride))": "the side is only squared",
    },
    "ex03.3": {
        "if np.abs(p - nearest).max() < 0.01: -> if np.abs(nearest - p).max() < 0.01:": (
            "the size of a difference has no sign"
        ),
        "if np.abs(p - nearest).max() < 0.01: -> if np.abs(p - nearest).max() < 0.1:": (
            "the tolerance may be chosen"
        ),
        "if np.abs(p - nearest).max() < 0.01: -> if np.abs(p - nearest).max() <= 0.01:": (
            "the tolerance may be chosen"
        ),
        "nearest = np.clip(np.round(p), 0, 255) -> nearest = np.clip(0, np.round(p), 255)": (
            "the larger of two numbers does not mind their order"
        ),
    },
    "ex03.4": {
        "return by_channel.transpose(2, 3, 0, 1) -> return by_channel.transpose(-2, 3, 0, 1)": (
            "of four axes the last but one is axis 2"
        ),
        "return weight.transpose(2, 3, 1, 0) -> return weight.transpose(-2, 3, 1, 0)": (
            "of four axes the last but one is axis 2"
        ),
    },
    "ex03.6": {
        "side = min(height, width) -> side = min(width, height)": (
            "the smaller of two numbers does not mind their order"
        ),
    },
}
