"""RGB emoji, rendered from the system's own colour font: small real pictures with names, at any edge up to 128 pixels."""

from __future__ import annotations

import hashlib
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotuner.diffusion.data.area import resize
from autotuner.diffusion.data.augment import Augment
from autotuner.diffusion.data.dataset import Dataset
from autotuner.errors import DatasetError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

EDGE = 64
"""Edge length where none is asked for."""
RENDERED_EDGE = 128
HELD_OUT = 128
FEWEST = 1000
"""A font that shows fewer single code points is not a colour emoji font that we know how to read."""
VERSION = 1
"""Of the cached rendering: raise it whenever the same font would come out differently."""


@dataclass(frozen=True)
class Font:
    """A bitmap font: it has pictures of one size only, and is asked for exactly that."""

    file: Path
    size: int
    """What Pillow must ask for."""
    edge: int
    """Square around the middle of a picture that holds all its ink, in pixels."""


FONTS = (
    Font(Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"), 109, 128),
    Font(Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"), 109, 128),
    Font(Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"), 109, 128),
    Font(Path("~/.local/share/fonts/NotoColorEmoji.ttf"), 109, 128),
    Font(Path("~/.fonts/NotoColorEmoji.ttf"), 109, 128),
    Font(Path("~/Library/Fonts/NotoColorEmoji.ttf"), 109, 128),
    Font(Path("/System/Library/Fonts/Apple Color Emoji.ttc"), 160, 160),
)
"""Where ``read_emoji`` looks, best first. Apple's row follows its format (sbix, 160 pixels) and has not been run on a Mac."""

FONT_ADVICE = "apt-get install fonts-noto-color-emoji, or put NotoColorEmoji.ttf into ~/.local/share/fonts"

GROUPS: tuple[tuple[str, tuple[tuple[int, int], ...]], ...] = (
    ("symbols", ((0x2600, 0x27BF), (0x1F500, 0x1F53F), (0x1F54B, 0x1F573), (0x1F7E0, 0x1F7FF))),
    ("sky and plants", ((0x1F300, 0x1F32C), (0x1F330, 0x1F344), (0x1FAB4, 0x1FABE))),
    ("food", ((0x1F32D, 0x1F32F), (0x1F345, 0x1F37F), (0x1F950, 0x1F96F), (0x1FAD0, 0x1FADF))),
    ("activities", ((0x1F380, 0x1F3D3), (0x1F3F3, 0x1F3FA), (0x1F93C, 0x1F94F), (0x1FA70, 0x1FA8F))),
    ("places", ((0x1F3D4, 0x1F3F2), (0x1F5FA, 0x1F5FF))),
    ("animals", ((0x1F400, 0x1F43F), (0x1F980, 0x1F9AE), (0x1FAB0, 0x1FAB3), (0x1FABF, 0x1FABF), (0x1FACD, 0x1FACF))),
    ("people", ((0x1F440, 0x1F487), (0x1F574, 0x1F57A), (0x1F590, 0x1F596), (0x1F9B0, 0x1F9BF), (0x1F9CD, 0x1F9DF))),
    ("faces", ((0x1F600, 0x1F64F), (0x1F910, 0x1F93B), (0x1F970, 0x1F97A), (0x1FAE0, 0x1FAEF))),
    ("transport", ((0x1F680, 0x1F6FF),)),
    ("hands", ((0x1F900, 0x1F90F), (0x1FAC0, 0x1FACC), (0x1FAF0, 0x1FAFF))),
    ("objects", ((0x1F488, 0x1F4FF), (0x1F540, 0x1F54A), (0x1F57B, 0x1F58F), (0x1F597, 0x1F5F9),
                 (0x1F97B, 0x1F97F), (0x1F9AF, 0x1F9AF), (0x1F9C0, 0x1F9CC), (0x1F9E0, 0x1F9FF), (0x1FA90, 0x1FAAF))),
)  # fmt: skip
"""Labels, as ranges of code points after the headings of Unicode's own charts: coarse, not judgements on single pictures.

Left out: letters, digits, arrows and flags outside these blocks, and the components (skin swatches, hair in a dotted box).
"""
COMPONENTS = {*range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4)}


def read_emoji(
    resolution: int = EDGE,
    held_out: int = HELD_OUT,
    *,
    cache: Path | None = None,
    font: Font | None = None,
    augmentation: Augment | None = None,
) -> Dataset:
    """Every single-code-point emoji of the system's font on white, its group as label and its Unicode name as caption.

    ``held_out`` pictures, always the same of one font, are kept from training. Rendered once: ``cache`` (by default in the
    user's cache directory) keeps the pictures under the font's checksum. Raises DatasetError where there is no font.
    """
    if not 1 <= resolution <= RENDERED_EDGE:
        raise DatasetError(f"emoji at {resolution} pixels; allowed is an edge from 1 to {RENDERED_EDGE}")
    font = font or find_font()
    points, images = _cached(font, cache or Path("~/.cache/autotuner").expanduser())
    if not 1 <= held_out < len(points):
        raise DatasetError(f"{held_out} emoji held out; allowed is 1 to {len(points) - 1}, for {font.file} has {len(points)}")
    order = np.random.default_rng(0).permutation(len(points))
    rest, kept = order[held_out:], order[:held_out]
    images = images if resolution == RENDERED_EDGE else resize(images, resolution, block=128)
    labels = np.array([label_of(int(point)) for point in points], np.int32)
    captions = [caption_of(int(point)) for point in points]
    return Dataset(
        "emoji",
        f"{len(points):,} emoji rendered from {font.file}",
        images[rest],
        labels[rest],
        images[kept],
        labels[kept],
        captions=tuple(captions[i] for i in rest),
        held_out_captions=tuple(captions[i] for i in kept),
        label_names=tuple(name for name, _ in GROUPS),
        augmentation=augmentation,
    )


def find_font() -> Font:
    """The first of ``FONTS`` that is installed; raises DatasetError with all the places."""
    for font in FONTS:
        if font.file.expanduser().is_file():
            return font
    places = ", ".join(str(font.file) for font in FONTS)
    raise DatasetError(f"no colour emoji font found in {places}; {FONT_ADVICE}")


def label_of(point: int) -> int:
    """Index of the group in ``GROUPS`` that a code point belongs to."""
    for label, (_, ranges) in enumerate(GROUPS):
        if any(first <= point <= last for first, last in ranges):
            return label
    raise DatasetError(f"U+{point:X} belongs to no group of emoji")


def caption_of(point: int) -> str:
    """The Unicode name in lower case; a plain description where this Python's Unicode tables are older than the font."""
    return unicodedata.name(chr(point), f"emoji u+{point:x}").lower()


def _points() -> Iterator[int]:
    ranges = sorted(span for _, spans in GROUPS for span in spans)
    return (point for first, last in ranges for point in range(first, last + 1) if point not in COMPONENTS)


def _cached(font: Font, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Code points (count,) and uint8 images (count, 128, 128, 3)."""
    checksum = hashlib.sha256(font.file.expanduser().read_bytes()).hexdigest()
    kept = cache / "emoji" / f"{checksum[:20]}-{font.size}-v{VERSION}.npz"
    try:
        with kept.open("rb") as file, np.load(file) as arrays:  # a damaged archive would leave its own file open
            return arrays["points"], arrays["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        points, images = render(font)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(kept.name + ".part")
    with part.open("wb") as written:
        np.savez_compressed(written, points=points, images=images)
    part.replace(kept)
    return points, images


def render(font: Font) -> tuple[np.ndarray, np.ndarray]:
    """Code points that the font has, and their pictures on white, area-averaged to 128 pixels. Raises DatasetError."""
    from PIL import ImageFont

    try:
        face = ImageFont.truetype(str(font.file.expanduser()), font.size)
        drawn = [(point, picture) for point in _points() if (picture := _picture(face, chr(point), font.edge)) is not None]
    except OSError as error:
        raise DatasetError(f"{font.file}: cannot be read as a font of {font.size} pixels ({error})") from None
    if len(drawn) < FEWEST:
        raise DatasetError(f"{font.file}: {len(drawn)} emoji found, expected at least {FEWEST}; {FONT_ADVICE}")
    images = np.stack([picture for _, picture in drawn])
    images = images if font.edge == RENDERED_EDGE else resize(images, RENDERED_EDGE, block=128)
    return np.array([point for point, _ in drawn], np.int32), images


def _picture(face: FreeTypeFont, character: str, edge: int) -> np.ndarray | None:
    """One glyph in the middle of a white square; None where the font has no picture of it."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = face.getbbox(character)
    if bottom <= top or right <= left:
        return None
    square = Image.new("RGB", (edge, edge), "white")
    corner = ((edge - (right - left)) / 2 - left, (edge - (bottom - top)) / 2 - top)
    ImageDraw.Draw(square).text(corner, character, font=face, embedded_color=True)
    return np.asarray(square)
