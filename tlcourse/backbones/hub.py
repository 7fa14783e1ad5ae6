"""Larger models from their hubs: the same ``load``, another name, and a network the first time."""

import urllib.request
from dataclasses import dataclass

from tlcourse.backbones import bert
from tlcourse.backbones.image import Backbone, Scaling


class HubError(RuntimeError):
    """A model has to be fetched from a hub and cannot be."""


@dataclass(frozen=True)
class HubModel:
    """Where each framework finds a model (application class or hub handle), and its size."""

    megabytes: int
    tensorflow: str | None
    pytorch: str | None
    instead: str
    input_size: int | None = None  # None: a text encoder
    scaling: Scaling | None = None


# keras.applications' three conventions, see keras.applications.imagenet_utils.preprocess_input
_CAFFE = Scaling((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), bgr=True)
_SIGNED = Scaling((127.5,) * 3, (127.5,) * 3)
_RAW = Scaling((0.0,) * 3, (1.0,) * 3)
_LITE = "efficientnet-lite0"

HUB = {
    "resnet50": HubModel(103, "ResNet50", "microsoft/resnet-50", _LITE, 224, _CAFFE),
    "vgg16": HubModel(553, "VGG16", None, _LITE, 224, _CAFFE),
    "mobilenetv2": HubModel(14, "MobileNetV2", "google/mobilenet_v2_1.0_224", _LITE, 224, _SIGNED),
    "efficientnetb0": HubModel(21, "EfficientNetB0", "google/efficientnet-b0", _LITE, 224, _RAW),
    "inceptionv3": HubModel(96, "InceptionV3", None, _LITE, 299, _SIGNED),
    "bert-base-uncased": HubModel(
        440, "bert_base_en_uncased", "google-bert/bert-base-uncased", "minilm"
    ),
    "distilbert": HubModel(
        268, "distil_bert_base_en_uncased", "distilbert/distilbert-base-uncased", "minilm"
    ),
    "roberta-base": HubModel(499, "roberta_base_en", "FacebookAI/roberta-base", "minilm"),
}


def load(name: str, framework: str, source=None):
    """Return the model from its hub, from the hub's cache, or from ``source`` on this disk.

    Raises HubError, one sentence with the model's name, size and an installed substitute.
    """
    entry = HUB[name]
    handle = getattr(entry, framework)
    if handle is None:
        raise HubError(
            f"{name} has no PyTorch build on the hub this course reads; "
            f'use load("{name}", "tensorflow") or load("{entry.instead}").'
        )
    try:
        if source is None and "/" in handle:
            _require_hub(handle)
        if entry.input_size is None:
            return bert.read(name, framework, source or handle)
        read = _read_keras_application if framework == "tensorflow" else _read_transformers
        return read(name, entry, source)
    except Exception as error:
        if source is not None:
            raise HubError(f"{name} cannot be read from {source}: {error}") from error
        raise HubError(
            f"{name} ({entry.megabytes} MB) is fetched from its hub on first use and the hub "
            f"cannot be reached; connect to a network, or use "
            f'load("{entry.instead}"), which is installed.'
        ) from error


def _require_hub(handle: str) -> None:
    """Fail in seconds where transformers alone would retry for a minute without a network."""
    from huggingface_hub import constants, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(handle, "config.json"), str):
        address = f"{constants.ENDPOINT}/{handle}/resolve/main/config.json"
        urllib.request.urlopen(address, timeout=10).close()


def _read_keras_application(name: str, entry: HubModel, source) -> Backbone:
    import keras

    model = getattr(keras.applications, entry.tensorflow)(
        weights=str(source) if source else "imagenet", classifier_activation=None
    )
    cut_points = tuple(layer.name for layer in model.layers if len(layer.output.shape) == 4)
    return Backbone(name, "tensorflow", model, entry.input_size, cut_points[1:], entry.scaling)


def _read_transformers(name: str, entry: HubModel, source) -> Backbone:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = source or entry.pytorch
    network = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    mean, std = (
        tuple(255 * value for value in values)
        for values in (processor.image_mean, processor.image_std)
    )
    # The members of the network's outermost list are its stages or blocks.
    cut_points = tuple(
        path
        for path, _ in network.named_modules()
        if [part.isdigit() for part in path.split(".")].count(True) == 1
        and path[-1].isdigit()
        and not path.startswith("classifier")
    )
    return Backbone(name, "pytorch", network, entry.input_size, cut_points, Scaling(mean, std))
