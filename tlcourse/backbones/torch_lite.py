"""EfficientNet-Lite in PyTorch: one named Sequential, so that a cut is a slice."""

from collections import OrderedDict

from torch import nn
from torch.nn import functional as F

from tlcourse.backbones import spec as lite
from tlcourse.backbones.spec import Block, LiteSpec


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, which the checkpoint was trained with.

    At stride 2 the odd pixel of padding goes to the right and the bottom; PyTorch's own
    symmetric padding would shift every feature map by half a pixel.
    """

    def forward(self, x):
        height, width = (
            max((-(-size // s) - 1) * s + k - size, 0)
            for size, k, s in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        )
        if height % 2 == 0 and width % 2 == 0:
            padding = (height // 2, width // 2)
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


def _conv_norm(in_channels, out_channels, kernel_size=1, stride=1, groups=1, activate=True):
    layers = OrderedDict(
        conv=SameConv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False),
        norm=nn.BatchNorm2d(out_channels, eps=lite.BATCH_NORM_EPSILON, momentum=0.01),
    )
    if activate:
        layers["act"] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; with a skip where the shapes allow it."""

    def __init__(self, block: Block):
        super().__init__()
        hidden = block.in_channels * block.expansion
        self.has_skip = block.has_skip
        self.expand = nn.Identity()
        if block.expansion > 1:
            self.expand = _conv_norm(block.in_channels, hidden)
        self.depthwise = _conv_norm(hidden, hidden, block.kernel_size, block.stride, groups=hidden)
        self.project = _conv_norm(hidden, block.out_channels, activate=False)

    def forward(self, x):
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.has_skip else out


def build(spec: LiteSpec, num_classes: int = lite.NUM_CLASSES) -> nn.Sequential:
    """Return the network with random weights; (N, 3, H, W) floats in, (N, num_classes) logits out.

    Its children are named after ``spec.cut_points``, then ``pool``, ``flatten`` and ``classifier``.
    """
    layers = OrderedDict(stem=_conv_norm(3, lite.STEM_CHANNELS, 3, 2))
    for block in spec.blocks:
        layers[block.name] = InvertedResidual(block)
    layers["head"] = _conv_norm(spec.blocks[-1].out_channels, lite.HEAD_CHANNELS)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(lite.HEAD_CHANNELS, num_classes)
    return nn.Sequential(layers)


def load_checkpoint(model: nn.Sequential, checkpoint: dict) -> nn.Sequential:
    """Copy the published checkpoint's tensors (in its order, which is ours) into ``model``."""
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, checkpoint.values(), strict=True)))
    return model.eval()
