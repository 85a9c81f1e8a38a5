# SPDX-License-Identifier: Apache-2.0
"""Read a clip's attributes back by analysis through synthesis; no network is involved.

Time, place and weather are the landscape that explains most of the picture. What is left is the
object: its centre per frame gives the motion, its pixels the colour, and the drawing that fits best
the kind of object.
"""

from __future__ import annotations

import argparse
import itertools
import json
from functools import lru_cache

import numpy as np

from . import world

HALF = world.SIZE // 2


@lru_cache(None)
def _landscapes() -> tuple[list[tuple[str, str, str]], np.ndarray]:
    """Return all (time, place, weather) and their clips, float32 [36, FRAMES, 64, 64, 3]."""
    keys, clips = list(itertools.product(world.TIMES, world.PLACES, world.WEATHERS)), []
    for time, place, weather in keys:
        clip = world.background(time, place, weather, HALF).copy()
        world.add_particles(clip, weather)
        clips.append(clip)
    return keys, np.stack(clips)


def _halve(clip: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels of [t, h, w, 3]."""
    t, h, w, c = clip.shape
    return clip.reshape(t, h // 2, 2, w // 2, 2, c).mean((2, 4), dtype=np.float32)


def _window_sum(image: np.ndarray, size: int) -> np.ndarray:
    """Return the sums over all size x size windows of [t, h, w]."""
    total = np.pad(image.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    return total[:, size:, size:] - total[:, :-size, size:] - total[:, size:, :-size] + total[:, :-size, :-size]


def find_track(residual: np.ndarray) -> np.ndarray:
    """Return the object's centre [t, 2] as (x, y) in world units from |clip - landscape| [t, 64, 64]."""
    weight = np.clip(residual - 0.10, 0, 0.35)
    size, centres = 16, []
    sums = _window_sum(weight, size)
    y0, x0 = np.unravel_index(sums.reshape(len(sums), -1).argmax(1), sums.shape[1:])
    axis = np.arange(HALF) + 0.5
    for w, cx, cy in zip(weight, x0 + size / 2, y0 + size / 2):
        for _ in range(4):
            kx, ky = np.abs(axis - cx) < 11, np.abs(axis - cy) < 11
            local = w * ky[:, None] * kx[None]
            mass = local.sum() + 1e-6
            cx, cy = (local.sum(0) * axis).sum() / mass, (local.sum(1) * axis).sum() / mass
        centres.append((2 * cx, 2 * cy))
    return np.asarray(centres, np.float32)


def motion_of(centres: np.ndarray) -> str:
    """Return the motion whose track fits ``centres`` [t, 2] best, up to its position."""

    def misfit(name: str) -> float:
        difference = centres - world.track(name)
        difference -= np.median(difference, 0)
        return float(np.minimum(np.hypot(*difference.T), 24).mean())

    return min(world.MOTIONS, key=misfit)


def colour_of(clip: np.ndarray, residual: np.ndarray, centres: np.ndarray) -> str:
    """Return the palette colour nearest to most of the object's pixels (half resolution)."""
    axis = np.arange(HALF) + 0.5
    palette = np.asarray(list(world.PALETTE.values()), np.float32)
    votes = np.zeros(len(palette))
    for frame, left, (cx, cy) in zip(clip, residual, centres / 2):
        near = np.hypot(axis[None] - cx, axis[:, None] - cy) < 7
        pixels = frame[near & (left > 0.08)]
        if len(pixels):
            distance = np.linalg.norm(pixels[:, None] - palette[None], axis=2)
            votes += np.exp(-((distance / 0.18) ** 2)).sum(0)
    return world.COLOURS[int(votes.argmax())]


@lru_cache(None)
def _offset(name: str, motion: str) -> tuple[float, float]:
    """Return the centroid that ``find_track`` sees minus the true centre, in world units."""
    blank = np.full((world.FRAMES, world.SIZE, world.SIZE, 3), 0.5, np.float32)
    centres = np.full((world.FRAMES, 2), 64, np.float32)
    scene = world.Scene("day", "sea", name, "red", motion, "clear")
    world.draw_object(blank, scene, centres)
    seen = find_track(np.abs(_halve(blank) - 0.5).max(-1))
    return tuple((seen.mean(0) - 64).tolist())


def object_of(clip: np.ndarray, base: world.Scene, centres: np.ndarray) -> str:
    """Return the object whose drawing explains ``clip`` [t, 128, 128, 3] best."""
    frames = [1, 5, 8, 12, 15]
    canvas = world.background(base.time, base.place, base.weather)[frames]
    boxes = [
        (k, slice(y - 30, y + 30), slice(x - 30, x + 30))
        for k, (x, y) in enumerate(np.clip(centres[frames].astype(int), 30, world.SIZE - 30))
    ]
    errors = {}
    for name in world.OBJECTS:
        scene, tries = base._replace(object=name), []
        offset = np.asarray(_offset(name, "left" if base.motion == "left" else "right"))
        for shift in itertools.product((-2.5, 0, 2.5), repeat=2):
            drawn = canvas.copy()
            world.draw_object(drawn, scene, centres - offset + shift, frames)
            tries.append([np.minimum(np.abs(drawn[b] - clip[frames[b[0]]][b[1:]]), 0.4).mean() for b in boxes])
        errors[name] = np.min(tries, 0).mean()
    return min(errors, key=errors.get)


def detect(clip: np.ndarray) -> world.Scene:
    """Return the attributes of a clip, float [FRAMES, 128, 128, 3] in [0, 1]."""
    clip = np.asarray(clip, np.float32)
    small = _halve(clip)
    keys, candidates = _landscapes()
    costs = [np.minimum(np.abs(small - c).max(-1), 0.3).mean() for c in candidates]
    best = int(np.argmin(costs))
    time, place, weather = keys[best]
    residual = np.abs(small - candidates[best]).max(-1)
    centres = find_track(residual)
    motion = motion_of(centres)
    colour = colour_of(small, residual, centres)
    base = world.Scene(time, place, world.OBJECTS[0], colour, motion, weather)
    return base._replace(object=object_of(clip, base, centres))


def accuracy(pairs: list[tuple[world.Scene, world.Scene]]) -> dict[str, float]:
    """Return the share of (wanted, seen) pairs that agree, per attribute and on all six."""
    result = {name: float(np.mean([w[i] == s[i] for w, s in pairs])) for i, name in enumerate(world.ATTRIBUTES)}
    result["all"] = float(np.mean([w == s for w, s in pairs]))
    return {k: round(v, 4) for k, v in result.items()}


LEAST_ACCURACY = 0.97  # on clean renders, each attribute: below it, what detectors say of other clips means nothing


def clean_renders(count: int) -> tuple[list[world.Scene], list[np.ndarray]]:
    """Return ``count`` scenes of held-out combinations and their clips."""
    held_out = world.split("test")
    scenes = [held_out[(i * 61) % len(held_out)] for i in range(count)]
    return scenes, [world.render(s, 20_000 + i) for i, s in enumerate(scenes)]


def prove(count: int) -> dict[str, float]:
    """Return the detectors' accuracy on ``count`` clean renders; raises RuntimeError where an attribute is below LEAST_ACCURACY."""
    scenes, clips = clean_renders(count)
    shares = accuracy([(s, detect(c)) for s, c in zip(scenes, clips)])
    if weak := {name: share for name, share in shares.items() if name != "all" and share < LEAST_ACCURACY}:
        raise RuntimeError(
            f"detectors read {weak} of {count} clean renders right; expected at least {LEAST_ACCURACY} each: mend them before measuring"
        )
    return shares


def main() -> None:
    """Print the detectors' accuracy on clean clips and, given a VAE, after its round trip."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=200, help="clips of held-out combinations")
    parser.add_argument("--vae", help="VAE checkpoint (.pt); without it only clean clips are read")
    args = parser.parse_args()
    scenes, clips = clean_renders(args.count)
    report = {"clean": accuracy([(s, detect(c)) for s, c in zip(scenes, clips)])}
    if args.vae:
        import torch

        from .vae_train import decode, encode, load, to_tensor

        vae, pairs = load(args.vae), []
        with torch.no_grad():
            for scene, clip in zip(scenes, clips):
                out = decode(vae, encode(vae, to_tensor(clip[None]))[0]).clamp(-1, 1)
                pairs.append((scene, detect(out[0].permute(1, 2, 3, 0).numpy() / 2 + 0.5)))
        report["round_trip"] = accuracy(pairs)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
