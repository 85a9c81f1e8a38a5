# SPDX-License-Identifier: Apache-2.0
"""From calls of a model's attention to a router pack. Knows no models: whoever runs one hands queries, keys and values here.

>>> calibrator = Calibrator(layers=30, heads=12, head_dim=128, sparsity=0.9, base_shapes=shapes)
>>> for _ in range(calibrator.passes):
...     run_the_model()                       # which calls calibrator.observe(layer, q, k, v, grid) in each layer
...     calibrator.end_pass()
>>> calibrator.finish().save("mine.sla2.safetensors")

Of each call a few query blocks are computed fully and sparsely at once and kept as six numbers a row; queries, keys and values are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sla2 import _attention
from sla2.calibration import fit
from sla2.calibration.measure import Blocks, choose, mixing_rows, routing
from sla2.calibration.router import LowRank, SoftRefiner, caught, fit_kl
from sla2.errors import ArgumentError, StateError
from sla2.packs import RouterPack

Grid = tuple[int, int, int]
_ORDERS = {"raster": "raster", "tiles": "tile:4x4x4", "hilbert": "hilbert"}
_PASSES = {"none": ("mix",), "kl": ("kl", "mix"), "soft": ("kl", "soft", "mix")}
_MOST_ROUTED = 6  #: calls a layer whose block means are kept for the router, and as many that are held out
_TAUS = (0.3, 0.1)  #: temperature of the soft mask, from the first call to the last
_EVERY = 3  #: without a word from the caller, each third call of a layer is held out
_GOOD_ENOUGH = ("pooled", "sparse_only")


class _Layer:
    """What is kept of one layer."""

    def __init__(self, sparsities: Sequence[float], capacity: int, seed: int) -> None:
        self.calls = 0
        self.seen = {s: fit.Reservoir(capacity, seed + 2 * i) for i, s in enumerate(sparsities)}
        self.held_out = {s: fit.Reservoir(capacity, seed + 2 * i + 1) for i, s in enumerate(sparsities)}
        self.routed: tuple[list[Any], list[Any]] = [], []  # seen, held out
        self.router: LowRank | None = None
        self.refiner: SoftRefiner | None = None
        self.caught: dict[str, float] = {}


class Calibrator:
    """Collects, fits, and writes a pack of mode sla2.

    layers, heads, head_dim    of the model
    sparsity        one or several; each gets mixing numbers of its own
    alpha_mode      head_affine_lse (s, b per head) or head_scalar
    router          none; kl: fitted to true block shares (two passes); soft: and refined through a soft mask (three passes)
    rank            of what the router adds to the identity
    max_error       layers whose held-out relative error is above take a way that is below it (pooled, sparse_only), or full attention:
                    written as the pack's schedule. None: none do
    start           a pack to begin from: its routers and block sizes stay, its mixing is fitted anew. Refused for another geometry
    blocks_per_call, rows_per_head    query blocks measured of each call; rows kept for a head and sparsity
    metadata        fields of the pack: base, base_shapes, base_weights, bits, licence, prompts, created_by, seed

    Raises ArgumentError for settings that are wrong.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        sparsity: float | Sequence[float] = 0.9,
        block_q: int = 128,
        block_k: int = 64,
        token_order: str = "raster",
        alpha_mode: str = "head_affine_lse",
        router: str = "none",
        rank: int = 16,
        max_error: float | None = None,
        start: RouterPack | None = None,
        blocks_per_call: int = 4,
        rows_per_head: int = 2048,
        seed: int = 0,
        threads: int = 0,
        progress: Callable[[str], None] | None = None,
        **metadata: Any,
    ) -> None:
        self.sparsities = tuple(float(x) for x in ((sparsity,) if isinstance(sparsity, (int, float)) else sparsity))
        if not self.sparsities or not all(0 < s < 1 for s in self.sparsities):
            raise ArgumentError(f"sparsity is {sparsity!r}; expected fractions above 0 and below 1")
        for name, value, words in (("alpha_mode", alpha_mode, ("head_affine_lse", "head_scalar")), ("router", router, tuple(_PASSES))):
            if value not in words:
                raise ArgumentError(f"{name} is {value!r}; expected one of {', '.join(words)}")
        if token_order not in _ORDERS:
            raise ArgumentError(f"token_order is {token_order!r}; expected one of {', '.join(_ORDERS)}")
        if not 1 <= rank <= head_dim or blocks_per_call < 1 or rows_per_head < 1:
            raise ArgumentError(f"rank {rank}, blocks_per_call {blocks_per_call}, rows_per_head {rows_per_head}: expected counts from 1")
        if max_error is not None and not max_error > 0:
            raise ArgumentError(f"max_error is {max_error!r}; expected a relative error above 0, as 0.2")
        self.pack = RouterPack(
            layers,
            heads,
            head_dim,
            block_q=block_q,
            block_k=block_k,
            kappa=tuple(round(1 - s, 10) for s in self.sparsities),
            alpha_mode=alpha_mode,
            token_order=_ORDERS[token_order],
            stage=0 if router == "none" else 1,
            **{"seed": str(seed), "created_by": "sla2-calibrate", **metadata},
        )
        self.start = start
        if start is not None:
            self._begin_from(start, router)
        self.blocks = Blocks(self.pack.block_q, self.pack.block_k, self.pack.smooth_k)
        self._kinds = _PASSES[router]
        self._done = 0
        self._rank, self._max_error, self._per_call, self._threads, self._seed = rank, max_error, blocks_per_call, threads, seed
        self._random = np.random.default_rng(seed)
        self._layers = [_Layer(self.sparsities, rows_per_head, seed + 1000 * i) for i in range(layers)]
        self._grids: set[Grid] = set()
        self._orders: dict[Grid, Tensor] = {}
        self._too_few: str | None = None
        self._say = progress or (lambda _text: None)

    def _begin_from(self, start: RouterPack, router: str) -> None:
        start.check(
            layers=self.pack.layers,
            heads=self.pack.heads,
            head_dim=self.pack.head_dim,
            base_shapes=self.pack.base_shapes or None,
        )
        if start.mode != "sla2":
            raise ArgumentError(f"the pack to begin from has mode {start.mode}; expected sla2, which has mixing numbers to fit")
        if router != "none":
            raise ArgumentError(f"router is {router!r} beside a pack to begin from, whose routers stay; leave one of them out")
        for name in ("block_q", "block_k", "token_order", "smooth_k", "router", "stage", "requires"):
            setattr(self.pack, name, getattr(start, name))
        self.pack.tensors = {name: value for name, value in start.tensors.items() if ".sla2.alpha" not in name}

    @property
    def passes(self) -> int:
        """How often the model is to be run, with end_pass() after each."""
        return len(self._kinds)

    # ---- watching -------------------------------------------------------------------------------------------------------------

    def observe(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, grid: Grid | None = None, *, held_out: bool | None = None, layout: str = "BNHD"
    ) -> None:
        """One call of a layer's self-attention: q, k, v [B,N,H,D] (or BHND) after norm and rotary embedding, any device and type.

        grid: (frames, height, width) of the tokens, needed for token orders other than raster. held_out: errors are measured on such
        calls, and nothing fitted; None: each third call of a layer. Raises ArgumentError for a layer or shape of another model.
        """
        if self._done >= self.passes:
            raise StateError("every pass has ended; call finish(), or make a new Calibrator")
        if layout == "BHND":
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        expected = (self.pack.heads, self.pack.head_dim)
        if not 0 <= layer < self.pack.layers or q.ndim != 4 or tuple(q.shape[2:]) != expected or q.shape != k.shape:
            raise ArgumentError(
                f"layer {layer} with q {list(q.shape)}, k {list(k.shape)}; expected layers 0 to {self.pack.layers - 1} and"
                f" [B, N, {expected[0]}, {expected[1]}]: this is another model than the calibrator was made for"
            )
        kept = self._layers[layer]
        kept.calls += 1
        aside = kept.calls % _EVERY == 0 if held_out is None else held_out
        if grid is not None:
            self._grids.add(grid)
        with torch.no_grad():
            q, k, v = (self._bring(x, grid) for x in (q, k, v))
            some = choose(q, self.blocks, self._per_call, self._random)
            kind = self._kinds[self._done]
            if kind == "mix":
                self._observe_mixing(layer, some, k, v, aside)
            elif kind == "kl":
                data = kept.routed[aside]
                data += routing(some, k, self.blocks)
                while len(data) > _MOST_ROUTED:  # an even sample: each call has the same chance to stay
                    data.pop(int(self._random.integers(len(data))))
            elif not aside and kept.router is not None:
                self._refine(kept, some, k, v)

    def _bring(self, x: Tensor, grid: Grid | None) -> Tensor:
        """[B,N,H,D] from anywhere as float32 [B,H,N,D] in the pack's order of tokens."""
        x = x.detach().to("cpu", torch.float32).transpose(1, 2)
        if self.pack.token_order == "raster":
            return x.contiguous()
        if grid is None:
            raise ArgumentError(f"token_order {self.pack.token_order} needs grid, the tokens as (frames, height, width)")
        if grid not in self._orders:
            kind: Any = {named: word for word, named in _ORDERS.items()}[self.pack.token_order]
            self._orders[grid] = torch.from_numpy(_attention.token_order(kind, grid)).long()
        return x.index_select(2, self._orders[grid])

    def _learned(self, layer: int) -> dict[str, NDArray[np.float32]]:
        router = self._layers[layer].router
        if router is not None:
            return dict(zip(("router_q", "router_k"), (x.numpy() for x in router.matrices()), strict=True))
        return {} if self.start is None else {k: v for k, v in self.start.layer(layer).items() if k.startswith("router_")}

    def _observe_mixing(self, layer: int, q: Tensor, k: Tensor, v: Tensor, aside: bool) -> None:
        kept = self._layers[layer]
        for sparsity in self.sparsities:
            learned: dict[str, Any] = self._learned(layer)
            if self.start is not None:
                learned["router"] = self.start.router
            rows = mixing_rows(q, k, v, sparsity, self.blocks, learned, self._threads)
            if rows is None:
                self._too_few = (
                    f"{k.shape[2]} tokens are {-(-k.shape[2] // self.blocks.k)} key blocks, of which sparsity {sparsity:g} skips none"
                )
            elif np.isfinite(rows).all():
                (kept.held_out if aside else kept.seen)[sparsity].add(rows)

    def _refine(self, kept: _Layer, q: Tensor, k: Tensor, v: Tensor) -> None:
        assert kept.router is not None
        kept.refiner = kept.refiner or SoftRefiner(kept.router, self.blocks, self.sparsities[0])
        full = _attention.attention(q, k, v, mode="full", threads=self._threads)
        progress = min(1.0, kept.calls / max(1, len(kept.routed[0]) + len(kept.routed[1])))
        kept.refiner.see(q, k, v, full, _TAUS[0] + (_TAUS[1] - _TAUS[0]) * progress)

    # ---- fitting --------------------------------------------------------------------------------------------------------------

    def end_pass(self) -> None:
        """The model has run: fit what this pass was for. Raises StateError where no call was seen."""
        if not any(layer.calls for layer in self._layers):
            raise StateError("no call of attention was observed; run the model between the passes, with observe() in its layers")
        kind = self._kinds[self._done]
        for i, layer in enumerate(self._layers):
            layer.calls = 0
            if kind == "kl" and any(layer.routed):
                self._fit_router(i, layer)
            elif kind == "soft" and layer.refiner is not None and layer.router is not None:
                layer.refiner.finish(layer.routed[1])
                layer.caught["soft"] = self._caught(layer)
                layer.refiner = None
        self._done += 1

    def _fit_router(self, i: int, layer: _Layer) -> None:
        seen, held_out = layer.routed
        layer.router = LowRank(self.pack.heads, self.pack.head_dim, self._rank, self._seed + i)
        layer.caught["identity"] = self._caught(layer)
        fit_kl(layer.router, seen or held_out, held_out, self.sparsities[0])
        layer.caught["kl"] = self._caught(layer)
        self._say(f"layer {i}: the router catches {layer.caught['kl']:.4f} of the best choice, {layer.caught['identity']:.4f} untrained")

    def _caught(self, layer: _Layer) -> float:
        assert layer.router is not None
        return float(caught(layer.routed[1] or layer.routed[0], *layer.router.matrices(), self.sparsities[0]).mean())

    def finish(self) -> RouterPack:
        """The pack, its errors measured on held-out calls (on the fitted ones where none was held out, and it says so).

        Raises StateError before the last end_pass(), and where no call skipped a block.
        """
        if self._done < self.passes:
            raise StateError(f"{self._done} of {self.passes} passes have ended; run the model and call end_pass() after each")
        pack = self.pack
        many = len(self.sparsities) > 1
        found: dict[float, list[dict[str, float] | None]] = {s: [] for s in self.sparsities}
        for i, layer in enumerate(self._layers):
            if layer.router is not None:
                for part, up, down in zip("qk", layer.router.up, layer.router.down, strict=True):
                    pack.tensors[f"blocks.{i}.self_attn.sla2.proj_{part}.up"] = up.numpy()
                    pack.tensors[f"blocks.{i}.self_attn.sla2.proj_{part}.down"] = down.numpy()
            for s, kappa in zip(self.sparsities, pack.kappa, strict=True):
                seen, aside = layer.seen[s].rows, layer.held_out[s].rows
                rows = seen if seen.size else aside
                if not rows.size:
                    found[s].append(None)
                    continue
                alpha = fit.fit(rows, pack.alpha_mode)
                name = f"alpha.k{round(kappa * 1e4):04d}" if many else "alpha"
                pack.tensors[f"blocks.{i}.self_attn.sla2.{name}"] = alpha
                found[s].append(fit.layer_errors(aside if aside.size else rows, alpha))
        if not any(one for layers in found.values() for one in layers):
            raise StateError(
                f"nothing could be fitted: {self._too_few or 'no call was observed in the last pass'};"
                " calibrate on a larger video, or with smaller blocks (block_k)"
            )
        if many and any((a is None) != (b is None) for layers in found.values() for a, b in zip(layers, found[self.sparsities[0]])):
            raise StateError(f"not every sparsity skips a block: {self._too_few}; leave the smallest sparsity out, or use smaller blocks")
        if len(self._grids) == 1:
            pack.grid = next(iter(self._grids))
        pack.schedule = self._schedule(found[self.sparsities[0]])
        pack.errors = self._errors(found)
        pack.validate("the calibrated pack")
        return pack

    def _schedule(self, layers: list[dict[str, float] | None]) -> str:
        """Rules for the layers that sla2 does not serve within the bound."""
        chosen: dict[str, list[int]] = {}
        for i, errors in enumerate(layers):
            if self._max_error is None or errors is None or errors["sla2"] <= self._max_error:
                continue
            best = min(_GOOD_ENOUGH, key=lambda mode: errors[mode])
            chosen.setdefault(best if errors[best] <= self._max_error else "full", []).append(i)
        return "; ".join(f"layers {','.join(map(str, numbers))}: {mode}" for mode, numbers in sorted(chosen.items()))

    def _errors(self, found: dict[float, list[dict[str, float] | None]]) -> dict[str, Any]:
        held = sum(layer.held_out[s].offered for layer in self._layers for s in self.sparsities[:1])
        out: dict[str, Any] = {
            "measure": "sqrt(sum |out - full|^2 / sum |full|^2) over sampled query rows and heads of a layer",
            "held_out_rows": held,
            "fitted_rows": sum(layer.seen[s].offered for layer in self._layers for s in self.sparsities[:1]),
            "sparsity": {},
        }
        for s, layers in found.items():
            there = [one for one in layers if one is not None]
            names = list(there[0]) if there else []
            out["sparsity"][f"{s:g}"] = {
                "mean": {name: round(float(np.mean([one[name] for one in there])), 6) for name in names},
                "layers": {name: [None if one is None else round(one[name], 6) for one in layers] for name in names},
            }
        routed = [layer.caught for layer in self._layers if layer.caught]
        if routed:
            out["router_catches"] = {name: round(float(np.mean([one[name] for one in routed if name in one])), 6) for name in routed[0]}
        return out
