"""Extract features once, keep them on disk, use them as often as you like.

    features = extract(backbone, images, cuts=("block11", "head"))   # {"block11": (N, 112), …}
    states = extract_text(encoder, texts, layers=(0, 6))             # {0: (N, 384), 6: (N, 384)}

A file in the cache is named after everything that its numbers depend on: weights, data,
preprocessing, precision and framework. It appears whole or not at all.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tlcourse import engine
from tlcourse.assets import cache_dir, lock, new_file, say, sweep
from tlcourse.backbones import Backbone, TextEncoder
from tlcourse.backbones.image import resize

# Raise when the meaning of a cached number changes.
_FORMAT = 2


def extract(
    backbone: Backbone,
    images: np.ndarray,
    cuts: Sequence[str] = ("head",),
    *,
    pool: bool = True,
    batch_size: int = 8,
    precision: str = "auto",
    cache: bool = True,
) -> dict[str, np.ndarray]:
    """Return features at every cut point from one pass over ``images``.

    images: uint8 (N, H, W) or (N, H, W, 3), any size; resized and scaled as the backbone needs.
    With ``pool`` float32 (N, C), the average over the image; without, (N, h, w, C) channels last,
    read from disk as you touch it, float16 where the pass ran in bf16.
    Raises ValueError for unknown cut points or images of another shape or type.
    """
    cuts = tuple(cuts)
    backbone.check_cuts(cuts)
    _require_rows(images, "images")
    resize(images[:1], backbone.input_size)  # complains about a wrong shape before any work
    precision = engine.precision_here(precision)
    common = {
        "weights": backbone.fingerprint(),
        "data": _digest(np.ascontiguousarray(images), str((images.shape, images.dtype))),
        "preprocessing": [backbone.input_size, str(backbone.scaling)],
        "settings": [_FORMAT, backbone.framework, precision, pool],
        "engine": version("openvino"),
    }
    dtype = np.float16 if precision == "bf16" and not pool else np.float32

    def rows(missing: tuple[str, ...]) -> Iterator[tuple[np.ndarray, ...]]:
        run = engine.for_images(backbone, missing, pool, precision)
        starts = range(0, len(images), batch_size)
        batches = (
            {"images": resize(images[start : start + batch_size], backbone.input_size)}
            for start in starts
        )
        return _progress(run(batches), len(starts), f"{backbone.name} features")

    return _through_cache(cuts, common, rows, (len(images), dtype), cache)


def extract_text(
    encoder: TextEncoder,
    texts: Sequence[str],
    layers: Sequence[int] | None = None,
    *,
    pool: str = "mean",
    max_length: int | None = None,
    batch_size: int = 32,
    precision: str = "auto",
    cache: bool = True,
) -> dict[int, np.ndarray]:
    """Return one vector a text, float32 (N, width), at every layer from one pass.

    layers: counted from 0, the embeddings; the last by default. pool: "mean" over the real tokens,
    "cls" for the first token, "mean_no_mask" for the mistake of averaging over padding too.
    Texts are batched by length, so that little padding is computed; rows come back in your order.
    """
    layers = (encoder.layers[-1],) if layers is None else tuple(layers)
    if unknown := set(layers) - set(encoder.layers):
        raise ValueError(
            f"{encoder.name} has no layer {min(unknown)}; it has 0 (the embeddings) to "
            f"{encoder.layers[-1]}."
        )
    _require_rows(texts, "texts")
    precision = engine.precision_here(precision)
    tokens = encoder.tokenize(texts, max_length)
    common = {
        "weights": encoder.fingerprint(),
        "data": _digest(np.concatenate(tokens), str([len(row) for row in tokens])),
        "settings": [_FORMAT, encoder.framework, precision, pool, batch_size],
        "engine": version("openvino"),
    }
    by_length = np.argsort([len(row) for row in tokens], kind="stable")

    def rows(missing: tuple[int, ...]) -> Iterator[tuple[np.ndarray, ...]]:
        run = engine.for_texts(encoder, missing, pool, precision)
        starts = range(0, len(tokens), batch_size)
        batches = (
            encoder.pad([tokens[row] for row in by_length[start : start + batch_size]])
            for start in starts
        )
        return _progress(run(batches), len(starts), f"{encoder.name} features")

    sorted_rows = _through_cache(layers, common, rows, (len(tokens), np.float32), cache)
    original = np.argsort(by_length, kind="stable")
    return {layer: states[original] for layer, states in sorted_rows.items()}


def _through_cache(places, common: dict, rows, shape, cache: bool) -> dict:
    """Return {place: array}; compute and keep the places that are not on disk yet."""
    if not cache:
        batches = list(rows(places))
        columns = zip(*batches, strict=True)
        dtype = shape[1]
        return {p: np.concatenate(c).astype(dtype) for p, c in zip(places, columns, strict=True)}

    folder = cache_dir() / "features"
    pass_key = _digest(b"", json.dumps(common, sort_keys=True))[:24]
    paths = {place: folder / f"{pass_key}-{place}.npy" for place in places}
    # The second process waits, then finds the files.
    with lock(f"features-{pass_key}"):
        # We hold the lock, so what lies here half-written was left by a process that was killed.
        sweep(folder, f"{pass_key}-*")
        arrays = {place: _read(path) for place, path in paths.items()}
        if missing := tuple(place for place, array in arrays.items() if array is None):
            _write([paths[place] for place in missing], rows(missing), *shape)
            arrays |= {place: _read(paths[place]) for place in missing}
    return arrays


def _read(path: Path) -> np.ndarray | None:
    """Return the cached array, None if there is none; a damaged file is named and removed."""
    if not path.exists():
        return None
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError):
        say(f"The cached features {path.name} are damaged: removed, and computed again.")
        path.unlink()
        return None
    return array if array.ndim > 2 else np.array(array)


def _write(paths: list[Path], batches, count: int, dtype) -> None:
    """Stream batches into one file a place; a file gets its name when it is complete."""
    try:
        with ExitStack() as stack:
            parts = [stack.enter_context(new_file(path)) for path in paths]
            files = [stack.enter_context(open(part, "wb")) for part in parts]
            for number, batch in enumerate(batches):
                for file, values in zip(files, batch, strict=True):
                    if number == 0:
                        header = np.lib.format.header_data_from_array_1_0(values.astype(dtype))
                        header |= {"shape": (count, *values.shape[1:]), "fortran_order": False}
                        np.lib.format.write_array_header_1_0(file, header)
                    # Plain writes, not a memory map: on a full disk a map kills the process.
                    file.write(np.ascontiguousarray(values, dtype).data)
    except OSError as error:
        raise OSError(
            error.errno,
            f"The features could not be kept in {paths[0].parent} ({error.strerror}): free some "
            "space, set TLCOURSE_CACHE to another folder, or pass cache=False.",
        ) from error


def _progress(batches, total: int, label: str):
    from tqdm.auto import tqdm

    return tqdm(batches, total=total, desc=label, delay=2, mininterval=0.5, leave=False)


def _require_rows(rows, name: str) -> None:
    if len(rows) == 0:
        raise ValueError(f"{name} is empty: there is nothing to extract features from.")


def _digest(data, label: str) -> str:
    digest = hashlib.sha256(data)
    digest.update(label.encode())
    return digest.hexdigest()
