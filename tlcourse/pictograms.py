"""Which OpenMoji drawings are objects, which of eight classes they show, and how they are drawn."""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path

import numpy as np

SIDE = 224  # pixels

# First and last code point of each stretch. Hand-picked stretches leave out the stray neighbours
# (the drum among the sports, the cash machine among the buildings).
CLASSES = {
    "animals": "1F400-1F43F 1F54A 1F577 1F980-1F9AE 1FAB0-1FAB3",
    "food": "1F32D-1F330 1F336 1F33D 1F344-1F37B 1F37D-1F37F 1F382 1F942-1F943 1F950-1F960 "
    "1F963-1F96F 1F9C0-1F9C9 1F9CB 1FAD0-1FAD6 1FAD8",
    "faces": "2639-263A 1F600-1F637 1F641-1F644 1F910-1F915 1F917 1F920-1F925 1F927-1F92F "
    "1F970-1F976 1F978-1F97A 1F9D0 1FAE0-1FAE5",
    "transport": "26F4-26F5 2708 1F3CD-1F3CE 1F680-1F688 1F68A-1F68E 1F690-1F6A4 1F6B2 "
    "1F6E5-1F6EC 1F6F3-1F6F6 1F6F8 1F6FA-1F6FB",
    "buildings": "26EA 1F3D7-1F3DB 1F3DF-1F3E6 1F3E8-1F3ED 1F3EF-1F3F0 1F492 1F54B-1F54D "
    "1F5FC-1F5FD 1F6D5-1F6D6",
    "sport": "26BD-26BE 26F7-26F9 1F3BD-1F3CC 1F3CF-1F3D3 1F3F8-1F3F9 1F6F7 1F6F9 1F6FC "
    "1F93A-1F93F 1F945-1F94F",
    "clothing": "1F392-1F393 1F3A9 1F451-1F462 1F576 1F97B-1F97F 1F9BA 1F9E2-1F9E6 1FA70-1FA74 "
    "1FA96",
    "office": "2702 2709 270F 2712 1F4BB-1F4EE 1F587-1F58D 1F5A5-1F5B2 1F5C2-1F5D3",
}
# What is no picture of a thing: punctuation and arrows, geometric shapes, letters in boxes and
# flags, skin tones, hair.
NOT_OBJECTS = "0-22FF 25A0-25FF 1F100-1F2FF 1F3FB-1F3FF 1F9B0-1F9B3"
# Named since Unicode 15 only: left out so that Python 3.11 and 3.13 give the same pictures.
TOO_NEW = (
    "1F6D8 1F6DC 1FA75-1FA77 1FA87-1FA8F 1FAAD-1FAAF 1FABB-1FABF 1FAC6-1FACF 1FADA-1FADF "
    "1FAE8-1FAEF 1FAF7-1FAFF"
)


def codepoints_in(ranges: str) -> list[int]:
    """Return every code point of ranges written as "1F400-1F43F 1F54A"."""
    points = []
    for stretch in ranges.split():
        first, _, last = stretch.partition("-")
        points += range(int(first, 16), int(last or first, 16) + 1)
    return points


def objects(folder: Path) -> list[int]:
    """The code points of the drawings of one named code point that show a thing, ascending."""
    left_out = {*codepoints_in(NOT_OBJECTS), *codepoints_in(TOO_NEW)}
    stems = (path.stem for path in folder.glob("*.svg"))
    singles = sorted(int(stem, 16) for stem in stems if re.fullmatch("[0-9A-F]{4,6}", stem))
    return [c for c in singles if c not in left_out and unicodedata.name(chr(c), "")]


def draw(folder: Path, codepoints: list[int], style: str) -> np.ndarray:
    """Render each drawing at 224 by 224 on white: uint8 (N, 224, 224, 3)."""
    import resvg_py
    from PIL import Image
    from tqdm.auto import tqdm

    images = np.empty((len(codepoints), SIDE, SIDE, 3), np.uint8)
    for number, codepoint in enumerate(
        tqdm(codepoints, desc=f"drawing pictograms ({style})", leave=False, delay=1)
    ):
        drawing = (folder / f"{codepoint:04X}.svg").read_text("utf-8")
        if style == "line":
            drawing = outlines(drawing)
        png = resvg_py.svg_to_bytes(
            svg_string=drawing,
            background="#ffffff",
            width=SIDE,
            height=SIDE,
            skip_system_fonts=True,  # the same pictures on every machine
        )
        with Image.open(io.BytesIO(bytes(png))) as image:
            images[number] = np.asarray(image.convert("RGB"))
    return images


def outlines(drawing: str) -> str:
    """The drawing without any top-level group but its black lines."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(drawing)
    for element in list(root):
        if element.tag.endswith("}g") and element.get("id") != "line":
            root.remove(element)
    return ElementTree.tostring(root, encoding="unicode")


def labels_by_codepoint() -> dict[int, int]:
    """Return the number of the class in CLASSES for each code point that has one."""
    return {
        codepoint: label
        for label, ranges in enumerate(CLASSES.values())
        for codepoint in codepoints_in(ranges)
    }
