# SPDX-License-Identifier: Apache-2.0
"""How the small world looks: landscapes, weather and objects drawn from signed distances.

All lengths are in world units: a frame is 128 x 128 units whatever its size in pixels, x points
right and y points down. Colours are RGB in [0, 1]. The landscape of a (time, place, weather) is
always the same. Within a clip its light changes and the sun or moon wanders: pretty, and it tells a model
that only knows distances (rotary embedding) which frame it sees, without which no motion could be learnt.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FRAMES, SIZE = 17, 128
PALETTE = {
    "red": (0.87, 0.13, 0.15),
    "yellow": (0.98, 0.84, 0.12),
    "green": (0.13, 0.66, 0.24),
    "blue": (0.13, 0.30, 0.90),
    "purple": (0.60, 0.18, 0.76),
    "white": (0.96, 0.96, 0.96),
}
INK = np.array((0.10, 0.09, 0.13), np.float32)

# ------------------------------------------------------------------ drawing primitives


def cover(distance: np.ndarray, width: float) -> np.ndarray:
    """Turn signed distance (negative inside, world units) into antialiased coverage."""
    return np.clip(0.5 - distance / width, 0.0, 1.0)


def over(image: np.ndarray, colour, alpha: np.ndarray) -> None:
    """Paint ``colour`` onto ``image`` [..., 3] in place with coverage ``alpha`` [...]."""
    image += alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _ellipse(u, v, a: float, b: float) -> np.ndarray:
    """First-order signed distance to an ellipse with half axes ``a``, ``b``."""
    k = np.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-6
    g = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) + 1e-6
    return k * (k - 1) / g


def _polygon(u, v, points) -> np.ndarray:
    """Signed distance to a convex polygon given clockwise on screen."""
    out = None
    for (x0, y0), (x1, y1) in zip(points, (*points[1:], points[0])):
        d = ((u - x0) * (y1 - y0) - (v - y0) * (x1 - x0)) / np.hypot(x1 - x0, y1 - y0)
        out = d if out is None else np.maximum(out, d)
    return out


def _capsule(u, v, x0, y0, x1, y1, radius: float) -> np.ndarray:
    """Signed distance to a thick line segment."""
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(u - x0 - t * dx, v - y0 - t * dy) - radius


# ------------------------------------------------------------------ landscapes

_SKY = {
    "day": ((0.30, 0.58, 0.92), (0.80, 0.91, 0.98)),
    "sunset": ((0.40, 0.25, 0.52), (1.00, 0.66, 0.38)),
    "night": ((0.03, 0.04, 0.14), (0.13, 0.15, 0.34)),
}
_TINT = {"day": (1.0, 1.0, 1.0), "sunset": (0.95, 0.66, 0.58), "night": (0.25, 0.30, 0.50)}
_LIGHT = {"day": (0.74, 1.06), "sunset": (1.14, 0.76), "night": (0.70, 1.40)}  # first and last frame
_STARS = ((9, 14), (24, 40), (31, 9), (44, 27), (57, 12), (70, 36), (77, 17), (91, 48), (118, 52), (121, 10), (14, 60), (50, 55))
_HOUSES = ((0, 17, 66), (17, 15, 80), (32, 19, 58), (51, 14, 76), (65, 20, 63), (85, 15, 82), (100, 17, 55), (117, 14, 74))
_FLOWERS = ((12, 112), (30, 120), (47, 110), (66, 121), (84, 113), (101, 120), (118, 111))
_WAVES = ((86, 1.2, 32.0, 0.0, (0.16, 0.46, 0.70)), (96, 2.2, 128 / 3, 2.0, (0.11, 0.38, 0.64)), (110, 3.0, 64.0, 4.0, (0.07, 0.29, 0.55)))


@lru_cache(None)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel-centre coordinates (x, y), each [size, size], in world units."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (SIZE / size)
    return tuple(np.meshgrid(axis, axis, indexing="xy"))


def _landscape(time: str, place: str, frame: int, size: int, length: int) -> np.ndarray:
    """Draw sky and ground of one frame of a clip of ``length``: float32 [size, size, 3]."""
    x, y = grid(size)
    px, tint = SIZE / size, np.asarray(_TINT[time], np.float32)
    top, low = (np.asarray(c, np.float32) for c in _SKY[time])
    passed = frame / (length - 1)
    image = top + np.clip(y / 88, 0, 1)[..., None] * (low - top)
    if time == "day":
        over(image, (1.0, 0.97, 0.70), cover(np.hypot(x - 30 - 68 * passed, y - 20) - 10, px))
    elif time == "sunset":
        over(image, (1.0, 0.86, 0.45), cover(np.hypot(x - 64, y - 62 - 22 * passed) - 19, px))
    else:
        for i, (sx, sy) in enumerate(_STARS):
            glow = 0.75 + 0.25 * np.sin(i * 2.1)
            over(image, (1.0, 1.0, 0.9), glow * cover(np.hypot(x - sx, y - sy) - 1.3, px))
        mx = 98 - 68 * passed
        moon = np.maximum(np.hypot(x - mx, y - 22) - 10, 8.5 - np.hypot(x - mx + 5, y - 19))
        over(image, (0.97, 0.96, 0.82), cover(moon, px))

    def ground(height, colour) -> None:
        over(image, np.asarray(colour, np.float32) * tint, cover(height - y, px))

    if place == "sea":
        phase = 2 * np.pi * frame / 16
        for base, amplitude, length, shift, colour in _WAVES:
            crest = base + amplitude * np.sin(2 * np.pi * x / length + shift + phase)
            ground(crest, np.asarray(colour) + 0.22)
            ground(crest + 1.8, colour)
    elif place == "meadow":
        ground(84 + 6 * np.sin(x / 21 + 0.6), (0.33, 0.62, 0.26))
        ground(100 + 5 * np.sin(x / 17 + 3.0), (0.45, 0.75, 0.30))
        for i, (fx, fy) in enumerate(_FLOWERS):
            colour = ((1.0, 0.95, 0.95), (1.0, 0.62, 0.72))[i % 2]
            over(image, np.asarray(colour) * tint, cover(np.hypot(x - fx, y - fy) - 2.4, px))
    elif place == "desert":
        ground(88 + 7 * np.sin(x / 24 + 2.2), (0.86, 0.68, 0.40))
        ground(103 + 6 * np.sin(x / 19 + 5.0), (0.95, 0.80, 0.50))
        cactus = np.minimum(
            _capsule(x, y, 22, 86, 22, 114, 3.4), np.minimum(_capsule(x, y, 13, 92, 13, 99, 2.4), _capsule(x, y, 13, 99, 22, 102, 2.4))
        )
        over(image, np.asarray((0.20, 0.48, 0.26)) * tint, cover(cactus, px))
    else:
        for i, (left, width, roof) in enumerate(_HOUSES):
            wall = np.maximum(np.maximum(left - x, x - left - width), roof - y)
            shade = 0.50 + 0.09 * (i % 3)
            over(image, np.asarray((shade + 0.06, shade, shade + 0.05)) * tint, cover(wall, px))
            lit = (1.0, 0.86, 0.45) if time != "day" else (0.70, 0.84, 0.92)
            for wx in np.arange(left + 4, left + width - 3, 6):
                for wy in np.arange(roof + 6, 116, 10):
                    pane = np.maximum(np.abs(x - wx) - 1.6, np.abs(y - wy) - 2.4)
                    over(image, lit, cover(pane, px))
        ground(np.full_like(x, 118), (0.36, 0.36, 0.40))
    return image


@lru_cache(None)
def backdrop(time: str, place: str, weather: str, frame: int, size: int = SIZE, length: int = FRAMES) -> np.ndarray:
    """Return one frame of a clip of ``length`` without object and particles: float32 [size, size, 3]."""
    light = np.linspace(*_LIGHT[time], length, dtype=np.float32)[frame]
    image = np.minimum(_landscape(time, place, frame, size, length) * light, 1.0)
    y, tint = grid(size)[1], np.asarray(_TINT[time], np.float32)
    if weather == "rain":
        haze = np.array((0.48, 0.52, 0.58)) * (0.35 + 0.65 * tint)
        over(image, haze, np.full(y.shape, 0.38, np.float32))
    elif weather == "snow":
        white = np.array((0.93, 0.95, 1.0)) * (0.3 + 0.7 * tint)
        over(image, white, 0.55 * np.clip((y - 78) / 20, 0, 1))
    return image.astype(np.float32)


def background(time: str, place: str, weather: str, size: int = SIZE, frames=range(FRAMES), length: int = FRAMES) -> np.ndarray:
    """Return frames of a clip of ``length`` without object and particles: float32 [n, size, size, 3]."""
    return np.stack([backdrop(time, place, weather, int(f), size, length) for f in frames])


_DROPS = tuple(
    (float(x), float(y))
    for x, y in np.random.default_rng(5).permutation(
        [(8 + 16 * i + 5 * (j % 2), 10 + 26 * j + 7 * (i % 3)) for i in range(8) for j in range(5)]
    )[:26]
)
_DROP_COLOUR = {"rain": (0.72, 0.82, 0.94), "snow": (0.98, 0.98, 1.0)}


@lru_cache(None)
def particles(weather: str, frame: int, size: int = SIZE) -> np.ndarray | None:
    """Return the coverage of drops or flakes in one frame, float32 [size, size]; None if clear."""
    if weather == "clear":
        return None
    x, y = grid(size)
    px, out = SIZE / size, np.zeros((size, size), np.float32)
    for i, (sx, sy) in enumerate(_DROPS):
        if weather == "rain":
            cx, cy = (sx - 2.0 * frame) % 136 - 4, (sy + 8.0 * frame) % 144 - 8
            d, opacity = _capsule(x, y, cx + 1.5, cy - 6, cx - 1.5, cy + 6, 0.9), 0.75
        else:
            cx, cy = sx + 3 * np.sin(2 * np.pi * frame / 16 + i), (sy + 2.25 * frame) % 144 - 8
            d, opacity = np.hypot(x - cx, y - cy) - 2.2, 0.92
        np.maximum(out, opacity * cover(d, px), out=out)
    return out


def add_particles(clip: np.ndarray, weather: str, frames=range(FRAMES)) -> None:
    """Paint rain or snow onto ``clip`` [n, size, size, 3], whose frame numbers are ``frames``."""
    if weather != "clear":
        drops = np.stack([particles(weather, int(f), clip.shape[1]) for f in frames])
        over(clip, _DROP_COLOUR[weather], drops)


# ------------------------------------------------------------------ objects


def paint(image: np.ndarray, u, v, name: str, colour, px: float, frame: int) -> None:
    """Paint an object centred at the origin of (u, v) onto ``image`` [h, w, 3]."""
    base = np.asarray(colour, np.float32)
    dark, light = base * 0.62, base + 0.45 * (1 - base)

    def fill(d, c) -> None:
        over(image, INK, cover(d - 1.6, px))
        over(image, c, cover(d, px))

    if name == "ball":
        d = np.hypot(u, v) - 15.5
        fill(d, base)
        over(image, dark, cover(np.maximum(d, np.abs(v + 0.35 * u) - 3.0), px))
        over(image, light, cover(np.hypot(u + 6, v + 8) - 3.2, px))
    elif name == "balloon":
        over(image, INK, cover(_capsule(u, v, 0, 14, 0, 27, 1.0), px))
        fill(_polygon(u, v, ((0, 9), (5, 16), (-5, 16))), dark)
        fill(_ellipse(u, v + 4, 13.5, 16), base)
        over(image, light, cover(_ellipse(u + 5, v + 9, 2.6, 4.5), px))
    elif name == "kite":
        over(image, INK, cover(_capsule(u, v, 0, 18, 7, 27, 1.0), px))
        fill(_polygon(u, v, ((0, -18), (15, -3), (0, 19), (-15, -3))), base)
        over(image, dark, cover(_polygon(u, v, ((0, -16.5), (14, -3), (0, -3))), px))
        over(image, dark, cover(_polygon(u, v, ((0, -3), (0, 17), (-13.5, -3))), px))
    else:
        fill(_polygon(u, v, ((-21, -7), (-8, -3), (-8, 5))), dark)
        fill(_polygon(u, v, ((17, -9), (25, -4), (17, -2))), np.array((0.98, 0.66, 0.15)))
        fill(np.minimum(_ellipse(u, v - 1, 14.5, 10), np.hypot(u - 12, v + 6) - 7), base)
        flap = 7 * np.cos(2 * np.pi * frame / 8)
        fill(_ellipse(u + 3 - 0.05 * flap * v, v + 1 + 0.6 * flap, 8, 5.5), dark)
        over(image, INK, cover(np.hypot(u - 14, v + 7.5) - 1.6, px))
