"""EfficientNet-Lite in Keras: a functional model whose layers carry the names of the cut points."""

import keras
import numpy as np
from keras import layers

from tlcourse.backbones import spec as lite
from tlcourse.backbones.spec import Block, LiteSpec


def _conv_norm(x, name, filters=None, kernel_size=1, stride=1, activate=True, last=None):
    """Convolution and BatchNorm; depthwise where ``filters`` is None; ``last`` names the output."""
    options = dict(strides=stride, padding="same", use_bias=False, name=f"{name}_conv")
    if filters is None:
        x = layers.DepthwiseConv2D(kernel_size, **options)(x)
    else:
        x = layers.Conv2D(filters, kernel_size, **options)(x)
    norm_name = f"{name}_norm" if activate or last is None else last
    x = layers.BatchNormalization(epsilon=lite.BATCH_NORM_EPSILON, name=norm_name)(x)
    return layers.ReLU(6.0, name=last or f"{name}_act")(x) if activate else x


def _inverted_residual(x, block: Block):
    inputs, name = x, block.name
    if block.expansion > 1:
        x = _conv_norm(x, f"{name}_expand", block.in_channels * block.expansion)
    x = _conv_norm(x, f"{name}_depthwise", None, block.kernel_size, block.stride)
    if not block.has_skip:
        return _conv_norm(x, f"{name}_project", block.out_channels, activate=False, last=name)
    x = _conv_norm(x, f"{name}_project", block.out_channels, activate=False)
    return layers.Add(name=name)([inputs, x])


def build(spec: LiteSpec, num_classes: int = lite.NUM_CLASSES) -> keras.Model:
    """Return the network with random weights; (N, H, W, 3) floats in, (N, num_classes) logits out.

    ``model.get_layer(name)`` finds every name in ``spec.cut_points``, ``pool`` and ``classifier``.
    """
    inputs = keras.Input((spec.input_size, spec.input_size, 3))
    x = _conv_norm(inputs, "stem", lite.STEM_CHANNELS, 3, 2, last="stem")
    for block in spec.blocks:
        x = _inverted_residual(x, block)
    x = _conv_norm(x, "head", lite.HEAD_CHANNELS, last="head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, name="classifier")(x)
    return keras.Model(inputs, outputs, name=spec.name.replace("-", "_"))


def load_checkpoint(model: keras.Model, checkpoint: dict) -> keras.Model:
    """Copy the PyTorch checkpoint's tensors (in its order, which is ours) into ``model``."""
    model.set_weights(
        [_to_keras(key, tensor.numpy()) for key, tensor in checkpoint.items() if tensor.ndim]
    )
    return model


def _to_keras(key: str, values: np.ndarray) -> np.ndarray:
    """Reorder one PyTorch weight: convolutions HWIO, depthwise HWIM, dense (in, out)."""
    if values.ndim == 4:
        return values.transpose((2, 3, 0, 1) if "_depthwise_conv" in key else (2, 3, 1, 0))
    return values.T if values.ndim == 2 else values
