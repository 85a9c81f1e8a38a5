# SPDX-License-Identifier: Apache-2.0
"""The small world: a grammar of scenes, their captions and clips.

A scene is six attributes (time, place, object, colour, motion, weather). Scenes, captions and clips
are pure functions of their arguments, so a data set is a range of integers and needs no storage.
Landscapes are always the same; only the object's path moves with the seed, by up to five units.
"""

from __future__ import annotations

import argparse
import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .scenery import FRAMES, PALETTE, SIZE, add_particles, background, grid, paint

TIMES = ("day", "sunset", "night")
PLACES = ("sea", "meadow", "desert", "city")
OBJECTS = ("ball", "balloon", "kite", "bird")
MOTIONS = ("left", "right", "rises", "falls", "bounces", "rests")
WEATHERS = ("clear", "rain", "snow")
COLOURS = tuple(PALETTE)

PHRASES = {
    "time": {"day": ("by day", "in daylight"), "sunset": ("at sunset", "in the evening"), "night": ("at night", "under the stars")},
    "place": {
        "sea": ("over the sea", "above the waves"),
        "meadow": ("over the meadow", "above a green meadow"),
        "desert": ("over the desert", "above the dunes"),
        "city": ("over the city", "above the houses"),
    },
    "motion": {
        "left": ("moves left", "drifts to the left"),
        "right": ("moves right", "drifts to the right"),
        "rises": ("rises", "floats up"),
        "falls": ("falls", "sinks down"),
        "bounces": ("bounces", "jumps up and down"),
        "rests": ("rests", "stays still"),
    },
    "weather": {"clear": ("", ", clear weather"), "rain": (", rain", " while it rains"), "snow": (", snow", " while it snows")},
}


class Scene(NamedTuple):
    """One point of the grammar. Field order is the order of ``ATTRIBUTES``."""

    time: str
    place: str
    object: str
    colour: str
    motion: str
    weather: str


ATTRIBUTES = {"time": TIMES, "place": PLACES, "object": OBJECTS, "colour": COLOURS, "motion": MOTIONS, "weather": WEATHERS}
COMBINATIONS = int(np.prod([len(v) for v in ATTRIBUTES.values()]))


def combination(index: int) -> Scene:
    """Return attribute tuple number ``index`` of ``COMBINATIONS`` (mixed-radix digits)."""
    values = []
    for names in ATTRIBUTES.values():
        index, digit = divmod(index, len(names))
        values.append(names[digit])
    return Scene(*values)


def held_out(scene: Scene) -> bool:
    """Tell whether a combination is kept from training (one in ten, by hash)."""
    return hashlib.sha256("/".join(scene).encode()).digest()[0] % 10 == 0


@lru_cache(None)
def split(which: str) -> tuple[Scene, ...]:
    """Return all scenes of the ``train`` or ``test`` split, in index order."""
    want = {"train": False, "test": True}[which]
    return tuple(s for s in map(combination, range(COMBINATIONS)) if held_out(s) == want)


def caption(scene: Scene, seed: int = 0) -> str:
    """Return one of the caption's paraphrases; ``seed`` chooses."""
    rng = np.random.default_rng((seed, 77))

    def pick(kind: str) -> str:
        options = PHRASES[kind][getattr(scene, kind)]
        return options[int(rng.integers(len(options)))]

    head = f"{'a' if rng.random() < 0.8 else 'one'} {scene.colour} {scene.object} {pick('motion')}"
    place, time, weather = pick("place"), pick("time"), pick("weather")
    if rng.random() < 0.7:
        return f"{head} {place} {time}{weather}"
    return f"{time}, {head} {place}{weather}"


def track(motion: str, jitter: tuple[float, float] = (0.0, 0.0), length: int = FRAMES) -> np.ndarray:
    """Return the object's centre per frame, float32 [length, 2] as (x, y) in world units."""
    t = np.linspace(0, 1, length, dtype=np.float32)
    x, y = np.full_like(t, 64), np.full_like(t, 56)
    if motion in ("left", "right"):
        x = 64 + (56 * t - 28) * (1 if motion == "right" else -1)
    elif motion in ("rises", "falls"):
        y = 60 + (52 * t - 26) * (1 if motion == "falls" else -1)
    elif motion == "bounces":
        y = 56 - 17 * np.cos(2 * np.pi * t)  # never further between two latents than the other motions go
    return np.stack([x + jitter[0], y + jitter[1]], -1).astype(np.float32)


def draw_object(clip: np.ndarray, scene: Scene, centres: np.ndarray, frames=range(FRAMES)) -> None:
    """Paint the scene's object onto ``clip`` [n, size, size, 3] at ``centres`` [length, 2].

    ``frames`` are the clip's n frame numbers; numbers matter because wings flap.
    """
    size = clip.shape[1]
    px, reach = SIZE / size, round(32 * size / SIZE)
    for image, frame in zip(clip, frames):
        cx, cy = np.clip(centres[frame], 1, SIZE - 1)
        ix, iy = int(cx / px), int(cy / px)
        box = slice(max(iy - reach, 0), iy + reach), slice(max(ix - reach, 0), ix + reach)
        x, y = (g[box] for g in grid(size))
        u = cx - x if scene.motion == "left" else x - cx
        paint(image[box], u, y - cy, scene.object, PALETTE[scene.colour], px, frame)


def render(scene: Scene, seed: int = 0, size: int = SIZE, frames=range(FRAMES), length: int = FRAMES) -> np.ndarray:
    """Render frames of a clip of ``length``: float32 [n, size, size, 3] in [0, 1]; ``seed`` moves the object."""
    jitter = np.random.default_rng((seed, 11)).uniform(-5, 5, 2)
    clip = background(scene.time, scene.place, scene.weather, size, frames, length)
    draw_object(clip, scene, track(scene.motion, tuple(jitter), length), frames)
    add_particles(clip, scene.weather, frames)
    return clip


def main() -> None:
    """Write a contact sheet of random scenes, one row each, and print their captions."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", default="world.png", help="picture to write")
    parser.add_argument("--count", type=int, default=12, help="clips")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    rows = []
    for i in range(args.count):
        scene = combination(int(rng.integers(COMBINATIONS)))
        print(caption(scene, i))
        rows.append(np.concatenate(list(render(scene, i)[::4]), 1))
    Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8)).save(args.out)


if __name__ == "__main__":
    main()
