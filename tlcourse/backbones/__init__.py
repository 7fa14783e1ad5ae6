"""Pretrained models by name, each with the preprocessing it was trained with.

    backbone = load("efficientnet-lite0", "pytorch")
    logits = backbone.model(backbone.preprocess(images))
    trunk, top = backbone.split("block11")

``load`` knows the installed models (``INSTALLED``) and larger ones from hubs (``hub.HUB``).
"""

import os

from tlcourse import assets
from tlcourse.backbones.bert import TextEncoder
from tlcourse.backbones.image import Backbone, load_lite
from tlcourse.backbones.spec import LITE

__all__ = ["FRAMEWORKS", "INSTALLED", "Backbone", "TextEncoder", "load"]

FRAMEWORKS = ("tensorflow", "pytorch")
INSTALLED = (*LITE, "minilm")


def load(name: str, framework: str | None = None, source=None) -> Backbone | TextEncoder:
    """Return a pretrained model by name, in ``framework`` or else the notebook's own.

    ``source``: a local folder or weight file to read in place of the hub's.
    Raises ValueError for an unknown name or framework, ``hub.HubError`` for a model that has to be
    fetched and cannot be.
    """
    framework = framework or os.environ.get("TLCOURSE_FRAMEWORK", "")
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}; got {framework!r}.")
    if name in LITE:
        return load_lite(name, framework, source)
    from tlcourse.backbones import bert, hub

    if name == "minilm":
        return bert.read(name, framework, source or assets.locate(name))
    if name in hub.HUB:
        return hub.load(name, framework, source)
    raise ValueError(
        f"No model is called {name!r}. Installed: {', '.join(INSTALLED)}. "
        f"From a hub: {', '.join(hub.HUB)}."
    )
