"""EfficientNet-Lite as data: what both frameworks build from.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling" (2019), and the EfficientNet-Lite
release (Liu, 2020): no squeeze-and-excitation, ReLU6 for swish, stem and head not scaled.
"""

import math
from dataclasses import dataclass

BATCH_NORM_EPSILON = 1e-3
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
NUM_CLASSES = 1000
# The checkpoints expect RGB in [-1, 1): (pixel - 127) / 128.
PIXEL_MEAN = 127.0
PIXEL_STD = 128.0


@dataclass(frozen=True)
class Block:
    """One inverted residual block: expand 1x1, depthwise kxk, project 1x1."""

    name: str
    kernel_size: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int

    @property
    def has_skip(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class LiteSpec:
    """Architecture of one EfficientNet-Lite: input size in pixels and the list of blocks."""

    name: str
    input_size: int
    blocks: tuple[Block, ...]

    @property
    def cut_points(self) -> tuple[str, ...]:
        """Names of the places where features can be read, from shallow to deep."""
        return ("stem", *(block.name for block in self.blocks), "head")

    @property
    def width(self) -> int:
        """Length of the pooled feature vector at the last cut point."""
        return HEAD_CHANNELS


# repeats, kernel size, stride of the first, expansion, output channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _round_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Scale and round to a multiple of 8, never more than 10 % down (the paper's rule)."""
    scaled = channels * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def _lite(name: str, width: float, depth: float, input_size: int) -> LiteSpec:
    blocks: list[Block] = []
    in_channels = STEM_CHANNELS
    for stage, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
        out_channels = _round_channels(channels, width)
        # Lite keeps the first and the last stage at one block.
        fixed = stage in (0, len(_STAGES) - 1)
        for repeat in range(repeats if fixed else math.ceil(repeats * depth)):
            first_stride = stride if repeat == 0 else 1
            name_ = f"block{len(blocks) + 1}"
            blocks.append(Block(name_, kernel, first_stride, expansion, in_channels, out_channels))
            in_channels = out_channels
    return LiteSpec(name, input_size, tuple(blocks))


LITE = {
    spec.name: spec
    for spec in (
        _lite("efficientnet-lite0", 1.0, 1.0, 224),
        _lite("efficientnet-lite1", 1.0, 1.1, 240),
        _lite("efficientnet-lite2", 1.1, 1.2, 260),
    )
}
