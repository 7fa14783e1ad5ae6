"""The data sets of the course as small frozen dataclasses of arrays, with honest splits.

A split of kind "random" is stratified by class. A split of kind "block" holds out whole blocks:
neighbouring rows, one writer, one review. Rows of one block resemble each other, so a random split
lets a model recognise the block instead of the class. Both kinds depend on the seed alone.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tlcourse import assets
from tlcourse import pictograms as drawings
from tlcourse.splits import Labelled, runs_of

DECODED = 1  # raise it when the decoding below changes: old cache files are then left alone
DIGIT_WRITERS = 13  # who wrote the 1,797 digits, one after the other (UCI, Alpaydin 1998)
CELLS_PER_BLOCK = 60  # solar modules hold 60 or 72 cells; the rows carry no module number

DOMAINS = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "editorial": "nytEditorialSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
}


@dataclass(frozen=True, repr=False)
class ImageData(Labelled):
    """Pictures with labels: images uint8 (N, H, W) or (N, H, W, 3), labels int64 (N,).

    blocks int64 (N,) numbers what belongs together; meta holds further columns of length N. All
    arrays are read-only: copy before you change one.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    blocks: np.ndarray
    meta: dict[str, np.ndarray]
    source: str
    licence: str

    def __repr__(self) -> str:
        return f"ImageData({self.name}: images {self.images.shape} uint8, {self.shares()})"


@dataclass(frozen=True, repr=False)
class TextData(Labelled):
    """Texts with labels: labels int64 (N,), 0 negative and 1 positive; ratings float32, -4 to 4.

    blocks int64 (N,) numbers the review or article, None where the source has no ids. All arrays
    are read-only.
    """

    name: str
    texts: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    ratings: np.ndarray
    blocks: np.ndarray | None
    meta: dict[str, np.ndarray]
    source: str
    licence: str

    def __repr__(self) -> str:
        return f"TextData({self.name}: {len(self)} texts, {self.shares()})"


def solar_cells() -> ImageData:
    """Return 2,624 photographs of solar cells, images (2624, 300, 300), 0 dark to 255 bright.

    Label 1 "defective" where the experts' probability is above 0.5 (meta "probability": 0, 1/3,
    2/3 or 1); meta "cell_type" is "mono" or "poly". The rows are stored module by module without a
    module number: blocks are runs of about 60 rows of one cell type. Source: Deitsch et al. 2019.
    """
    folder = assets.locate("elpv")
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    probability = np.array([float(row[1]) for row in rows], np.float32)
    cell_type = np.array([row[2] for row in rows])

    def decode() -> np.ndarray:
        from PIL import Image
        from tqdm.auto import tqdm

        images = np.empty((len(rows), 300, 300), np.uint8)
        for number, row in enumerate(tqdm(rows, desc="decoding solar cells", leave=False, delay=1)):
            with Image.open(folder / row[0]) as image:
                images[number] = np.asarray(image)
        return images

    return _image_data(
        "solar cells",
        _decoded("solar-cells", "elpv", "", decode),
        labels=(probability > 0.5).astype(np.int64),
        class_names=("intact", "defective"),
        blocks=runs_of(cell_type, CELLS_PER_BLOCK),
        meta={"probability": probability, "cell_type": cell_type},
        asset="elpv",
    )


def digits() -> ImageData:
    """Return 1,797 handwritten digits, images (1797, 8, 8), 0 white to 16 black.

    The writers follow each other: blocks are the 13 equal stretches that hold about one writer
    each. Source: Alpaydin and Kaynak 1998, as shipped with scikit-learn.
    """
    with gzip.open(assets.locate("digits"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    labels = table[:, 64]
    return _image_data(
        "digits",
        table[:, :64].reshape(-1, 8, 8).astype(np.uint8),
        labels=labels,
        class_names=tuple("0123456789"),
        blocks=runs_of(np.zeros(len(labels)), len(labels) // DIGIT_WRITERS),
        meta={},
        asset="digits",
    )


def pictograms(style: str, labelled: bool = True) -> ImageData:
    """Return drawings of objects on white, images (N, 224, 224, 3), style "color" or "line".

    "line" keeps the black outlines only; both styles hold the same objects in the same order
    (ascending code point, meta "codepoint" and "unicode_name"). Skin tones and joined sequences
    are left out. labelled=True: 573 objects in eight classes cut from Unicode ranges. False: all
    1,345 objects, labels -1 where none of the eight classes fits. Blocks are rows of the Unicode
    chart (16 code points) within a class, because neighbours there are variants of one another
    (five trains, nine cats).
    """
    if style not in ("color", "line"):
        raise ValueError(f"Pictograms come in the styles 'color' and 'line', not {style!r}.")
    folder = assets.locate("openmoji")
    label_of = drawings.labels_by_codepoint()
    objects = [c for c in drawings.objects(folder) if not labelled or c in label_of]
    labels = np.array([label_of.get(codepoint, -1) for codepoint in objects], np.int64)
    codepoints = np.array(objects, np.int64)
    draw = partial(drawings.draw, folder, objects, style)
    return _image_data(
        f"pictograms ({style})",
        _decoded(f"pictograms-{style}", "openmoji", repr(objects), draw),
        labels=labels,
        class_names=tuple(drawings.CLASSES),
        blocks=runs_of(labels * 2**32 + codepoints // 16),
        meta={
            "codepoint": codepoints,
            "unicode_name": np.array([unicodedata.name(chr(c)).lower() for c in objects]),
        },
        asset="openmoji",
    )


def sentiment(domain: str) -> TextData:
    """Return the rated sentences of "movie", "product", "editorial" or "tweet", in source order.

    A rating is the mean of about twenty people, -4 to 4; sentences within 0.5 of neutral are left
    out, so are repeated texts. Label 1 means a positive rating. meta "id" is the source's own id.
    Movie rows are almost sorted by class: take split() or shuffle. Source: Hutto and Gilbert 2014.
    """
    if domain not in DOMAINS:
        raise ValueError(f"There is no domain {domain!r}; the known ones are {', '.join(DOMAINS)}.")
    rows, seen = [], set()
    for number, rating, text in _rated_sentences(assets.locate("sentiment") / DOMAINS[domain]):
        same = " ".join(text.casefold().split())
        if same not in seen and abs(rating) > 0.5:
            rows.append((number, rating, text))
        seen.add(same)
    ids = np.array([row[0] for row in rows])
    ratings = np.array([row[1] for row in rows], np.float32)
    blocks = None
    if domain in ("product", "editorial"):
        # "12_3" is the third sentence of review 12.
        blocks = np.array([int(row[0].split("_")[0]) for row in rows], np.int64)
    asset = assets.catalogue()["sentiment"]
    return TextData(
        name=f"{domain} sentences",
        texts=tuple(row[2] for row in rows),
        labels=(ratings > 0).astype(np.int64),
        class_names=("negative", "positive"),
        ratings=ratings,
        blocks=blocks,
        meta={"id": ids},
        source=asset.source,
        licence=asset.licence,
    )


def _image_data(name: str, images: np.ndarray, *, asset: str, **columns) -> ImageData:
    entry = assets.catalogue()[asset]
    return ImageData(name, images, source=entry.source, licence=entry.licence, **columns)


def _rated_sentences(path: Path) -> Iterator[tuple[str, float, str]]:
    with path.open(encoding="utf-8-sig") as file:  # the films have accents, the rest is ASCII
        for line in file:
            number, rating, text = line.rstrip("\n").split("\t")
            yield number, float(rating), _plain(text)


def _plain(text: str) -> str:
    # Some texts were escaped twice: "&amp;#38;" is one ampersand.
    while (once := html.unescape(text)) != text:
        text = once
    return text.strip()


def _decoded(name: str, asset: str, detail: str, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """Return what `decode` gives, decoded once and then mapped from a file in the cache.

    The name of the file holds a key of the asset's sha256, the version of the decoding and
    `detail`. A damaged file is named, removed and made again; without space the array is returned
    all the same.
    """
    key = "\0".join([assets.catalogue()[asset].sha256, str(DECODED), detail])
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = assets.cache_dir() / "datasets" / f"{name}-{key}.npy"
    if (kept := _kept(path)) is not None:
        return kept
    images = None
    try:
        with assets.lock(path.name):
            if (kept := _kept(path)) is not None:  # another process was first
                return kept
            if path.exists():
                assets.say(f"{path} is damaged or unfinished: removed, decoding it again.")
                path.unlink()
            assets.sweep(path.parent, path.name)
            images = decode()
            _keep(path, images)
            return _kept(path)
    except OSError as error:
        assets.say(
            f"{name} cannot be kept in {path.parent} ({error.strerror or error}) and is decoded "
            "again next time: free some space there, or set TLCOURSE_CACHE to another folder."
        )
    return decode() if images is None else images


def _keep(path: Path, images: np.ndarray) -> None:
    with assets.new_file(path) as part, part.open("wb") as file:
        np.save(file, images)
    _seal(path, assets.file_sha256(path))


def _seal(path: Path, sha256: str) -> None:
    # Written last: an array without its seal is an unfinished one.
    stat = path.stat()
    seal = {"size": stat.st_size, "mtime": stat.st_mtime_ns, "sha256": sha256}
    with assets.new_file(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(seal), encoding="utf-8")


def _kept(path: Path) -> np.ndarray | None:
    """The array in a sealed file, or None if it is missing, unfinished or damaged.

    A file that was touched since it was sealed is read and compared with its sha256.
    """
    try:
        seal = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        stat = path.stat()
        if stat.st_size != seal["size"]:
            return None
        if stat.st_mtime_ns != seal["mtime"] and assets.file_sha256(path) != seal["sha256"]:
            return None
        return np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
