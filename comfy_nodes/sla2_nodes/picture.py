# SPDX-License-Identifier: Apache-2.0
"""Pictures as float32 [height, width, 3] in 0 to 1: a table, and the key blocks a query keeps, over the video grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
_PAPER, _INK, _KEPT, _LEFT, _QUERY = (250, 250, 248), (32, 32, 36), (38, 132, 108), (214, 220, 226), (214, 84, 40)


def of_text(text: str) -> Picture:
    """Lines of a table, in columns."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    lines = text.rstrip("\n").split("\n")
    cell = max(1, round(font.getlength("0123456789") / 10) + 1)
    width, height = max(len(line) for line in lines) * cell + 24, len(lines) * 16 + 24
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        for column, letter in enumerate(line):  # each letter in its cell: the default font is not of one width
            draw.text((12 + column * cell, 12 + row * 16), letter, fill=_INK, font=font)
    return _numbers(image)


def of_blocks(kept: NDArray[np.bool_], grid: tuple[int, int, int], query: NDArray[np.bool_], title: str, scale: int = 0) -> Picture:
    """kept and query: one flag per token of the grid (frames, height, width). Frames lie side by side, as many per line as fit."""
    from PIL import Image, ImageDraw, ImageFont

    frames, height, width = grid
    scale = scale or max(2, min(16, 240 // max(height, width)))
    colours = np.where(kept.reshape(grid)[..., None], np.array(_KEPT), np.array(_LEFT))
    colours = np.where(query.reshape(grid)[..., None], np.array(_QUERY), colours).astype(np.uint8)
    tiles = colours.repeat(scale, 1).repeat(scale, 2)
    across = max(1, min(frames, 1440 // (width * scale + 8)))
    rows = -(-frames // across)
    image = Image.new("RGB", (max(across * (width * scale + 8) + 8, 8 * len(title)), rows * (height * scale + 24) + 32), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    draw.text((8, 8), title, fill=_INK, font=font)
    for frame in range(frames):
        left, top = 8 + frame % across * (width * scale + 8), 32 + frame // across * (height * scale + 24)
        image.paste(Image.fromarray(tiles[frame]), (left, top))
        draw.text((left, top + height * scale + 2), f"{frame}", fill=_INK, font=font)
    return _numbers(image)


def flags(index: Sequence[int] | NDArray[Any], block: int, tokens: int) -> NDArray[np.bool_]:
    """One flag per token for the blocks in `index`, in the order the blocks were made in."""
    result = np.zeros(tokens, np.bool_)
    for number in index:
        result[int(number) * block : (int(number) + 1) * block] = True
    return result


def _numbers(image: Any) -> Picture:
    return np.asarray(image, np.float32) / 255.0
