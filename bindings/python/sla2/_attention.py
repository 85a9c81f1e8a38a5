# SPDX-License-Identifier: Apache-2.0
"""Attention over long sequences on arrays of NumPy, torch, or anything that speaks DLPack; nothing is copied.

>>> out = sla2.attention(q, k, v, sparsity=0.9)                       # [B, H, N, D] in, the same kind of array out
>>> out, info = sla2.attention(q, k, v, sparsity=0.97, bits=8, return_info=True, probe=0.01)
>>> info["sparsity"], info["probe_relative_l1"]

Letters: B batch, H heads, N tokens, D channels of a head (32 to 256 in steps of 8), T_m and T_n blocks of queries and of keys.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sla2 import _gpu, _sla2
from sla2.errors import Error

Mode = Literal["full", "sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled"]
Router = Literal["sla2", "sla1", "vsa", "vmoba", "sparge", "given"]

# The C header's enums, in its order.
_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": ("full", "sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled"),
    "router": ("sla2", "sla1", "vsa", "vmoba", "sparge", "given"),
    "mix": ("head_affine_lse", "const", "head_scalar", "block"),
    "scope": ("complement", "global"),
    "rule": ("topk", "cdf", "hybrid"),
    "products": ("fp32", "bf16"),
    "layout": ("BHND", "BNHD"),
    "order": ("raster", "tiles", "hilbert"),
}
_OPTIONS = (
    "softmax_scale", "block_q", "block_k", "smooth_k", "mix_scale", "mix_bias", "fp8_values", "negligible", "tau", "top_p", "theta",
    "protect_first", "protect_last", "protect_near", "min_tokens", "scope", "rule", "mix",
)  # fmt: skip
_LEARNED = ("router_q", "router_k", "mix_values", "proj", "proj_bias", "gate", "key_bias", "mask", "blocks")
_MOST_PLANS = 16


def _number(kind: str, word: Any) -> int:
    words = _CHOICES[kind]
    if word not in words:
        raise ValueError(f"{kind} is {word!r}; expected one of {', '.join(words)}")
    return words.index(word) + 1


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _empty_like(array: Any) -> Any:
    """A new array of the same kind, shape and element type."""
    if isinstance(array, np.ndarray):
        return np.empty_like(array)
    if _is_torch(array):
        return sys.modules["torch"].empty_like(array)
    raise TypeError(f"out: give one for arrays of {type(array)}; NumPy arrays and torch tensors get theirs made")


def _is_bf16(array: Any) -> bool:
    return str(array.dtype).endswith("bfloat16")


class Attention:
    """A plan: shapes checked, kernels chosen, scratch kept. `attention()` makes and keeps them by itself.

    Config keywords are the fields of `sla2_attention_config`, choices as words. Threads may share a plan; their calls take turns.
    Raises ArgumentError where the library does: the text names the field.
    """

    def __init__(self, **config: Any) -> None:
        numbers = {name: _number(name, value) if name in _CHOICES else value for name, value in config.items()}
        self.config = config
        self._native = _sla2.Attention(numbers)

    @property
    def blocks(self) -> tuple[int, int, int]:
        """T_m, T_n and the most blocks a row of a list can hold."""
        return self._native.blocks

    @property
    def workspace_bytes(self) -> int:
        return self._native.workspace_bytes

    @property
    def backward_workspace_bytes(self) -> int:
        return self._native.backward_workspace_bytes

    def new_list(self, near: Any = None) -> tuple[Any, Any]:
        """Room for a block list: index [B, H, T_m, most] and count [B, H, T_m], int32; NumPy's, or beside the GPU tensor `near`."""
        queries, _, most = self.blocks
        rows = (self.config.get("batch", 1), self.config["heads"], queries)
        if near is not None and self.config.get("device_id") is not None:
            return _gpu.zeros(near, (*rows, max(1, most)), "int32"), _gpu.zeros(near, rows, "int32")
        return np.zeros((*rows, max(1, most)), np.int32), np.zeros(rows, np.int32)

    def _at(self, tensors: dict[str, Any], size: int) -> tuple[Any, tuple[int, int]]:
        return _gpu.workspace(tensors["q"], size) if "device_id" in self.config else (None, (0, 0))

    def run(self, tensors: dict[str, Any], outputs: dict[str, Any], *, probe: float = 0.0, threads: int = 0) -> dict[str, Any]:
        """sla2_attention_run(): tensors q, k, v and learned ones; outputs out, lse, index with count. Returns facts about the call."""
        held, at = self._at(tensors, self.workspace_bytes)
        facts = self._native.run(tensors, outputs, probe, threads, at)
        del held  # torch's allocator gives it to what comes later on the same stream
        for kind in ("mode", "products"):
            facts[f"{kind}_used"] = _CHOICES[kind][facts[f"{kind}_used"] - 1]
        return facts

    def route(self, tensors: dict[str, Any], *, threads: int = 0) -> tuple[Any, Any]:
        index, count = self.new_list(tensors["q"])
        _held, at = self._at(tensors, self.workspace_bytes)
        self._native.route(tensors, {"index": index, "count": count}, threads, at)
        return index, count

    def backward(self, tensors: dict[str, Any], saved: dict[str, Any], gradients: dict[str, Any], *, threads: int = 0) -> None:
        """sla2_attention_backward(): saved d_out, out, lse, index with count; an array for every gradient that is wanted."""
        _held, at = self._at(tensors, self.backward_workspace_bytes)
        self._native.backward(tensors, saved, gradients, threads, at)


_plans: OrderedDict[tuple[Any, ...], Attention] = OrderedDict()
_lock = threading.Lock()


def _plan(config: dict[str, Any]) -> Attention:
    """A kept plan of this configuration; the least recently used one is dropped."""
    key = tuple(sorted(config.items()))
    with _lock:
        plan = _plans.get(key) or Attention(**config)
        _plans[key] = plan
        _plans.move_to_end(key)
        while len(_plans) > _MOST_PLANS:
            _plans.popitem(last=False)
    return plan


def gpu_refusal(device: int, heads: int, head_dim: int, tokens: int, options: dict[str, Any]) -> str | None:
    """Why self-attention of these sizes and options of attention() cannot run on a GPU; None where it can. Makes the plan."""
    config = {"layout": "BNHD", "products": "bf16", "batch": 1, "heads": heads, "kv_heads": heads, "head_dim": head_dim}
    config |= {"query_tokens": tokens, "key_tokens": tokens, "device_id": device}
    try:
        _plan(config | {name: int(value) if isinstance(value, bool) else value for name, value in options.items() if name != "threads"})
    except Error as error:
        return str(error)
    return None


def clear_plans() -> None:
    """Free the scratch that `attention()` keeps between calls."""
    with _lock:
        _plans.clear()


def _configure(
    q: Any, k: Any, mode: str, sparsity: float, router: str, bits: int, products: str | None, layout: str, options: dict[str, Any]
) -> dict[str, Any]:
    unknown = set(options) - set(_OPTIONS)
    if unknown:
        raise TypeError(f"attention() has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted((*_OPTIONS, *_LEARNED)))}")
    for name, array in (("q", q), ("k", k)):
        if len(getattr(array, "shape", ())) != 4:
            raise ValueError(f"{name} has shape {tuple(getattr(array, 'shape', ()))}; expected four axes, {layout}")
    heads, tokens = (1, 2) if layout == "BHND" else (2, 1)
    config = {"mode": mode, "router": router, "layout": layout, "sparsity": float(sparsity), "bits": bits}
    config["products"] = products or ("bf16" if _is_bf16(q) else "fp32")
    config |= {"batch": int(q.shape[0]), "heads": int(q.shape[heads]), "query_tokens": int(q.shape[tokens]), "head_dim": int(q.shape[3])}
    config |= {"key_tokens": int(k.shape[tokens]), "kv_heads": int(k.shape[heads])}
    return config | {name: int(value) if isinstance(value, bool) else value for name, value in options.items()}


def _gather(q: Any, k: Any, v: Any, learned: dict[str, Any]) -> dict[str, Any]:
    small = {
        name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) and name != "gate" else value for name, value in learned.items()
    }
    blocks = small.pop("blocks", None)
    if blocks is not None:
        small["index"], small["count"] = blocks
    if _gpu.place_of(q):
        small = _gpu.beside(q, small)
    tensors = {"q": q, "k": k, "v": v, **small}
    if "mix_values" in tensors:
        tensors["mix"] = tensors.pop("mix_values")
    return {name: value for name, value in tensors.items() if value is not None}


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mode: Mode = "sla2",
    sparsity: float = 0.9,
    router: Router = "sla2",
    bits: int = 16,
    products: Literal["fp32", "bf16"] | None = None,
    layout: Literal["BHND", "BNHD"] = "BHND",
    out: Any = None,
    return_info: bool = False,
    probe: float = 0.0,
    threads: int = 0,
    **options: Any,
) -> Any:
    """Attention of q [B,H,N,D] over k, v [B,H_kv,N_k,D]; fp32, fp16 or bf16, any strides with channels contiguous.

    sparsity   fraction of key blocks skipped; with 0 or `mode="full"` this is plain attention
    bits       16, or 8: queries and keys multiplied as bytes; the info's bits_used and products_used say what ran
    products   what 16 bits multiply: bf16 where q is bf16 and on GPUs, else fp32
    options    softmax_scale, block_q, block_k, smooth_k, mix, mix_scale, mix_bias, scope, rule, top_p, theta, negligible, tau,
               protect_first, protect_last, protect_near, min_tokens, fp8_values: as in sla2/attention.h
    learned    router_q, router_k, mix_values, proj, proj_bias, gate, key_bias, mask [B,H,T_m,T_n], blocks (index, count)
    out        where the result goes; default: a new array of q's kind
    probe      compare this fraction of the query blocks with full attention; read it from the info

    On a CUDA device (torch tensors) the call is queued on torch's current stream and does not wait; what its kernels cannot do raises
    UnsupportedError, a machine without driver or kernels DeviceError, and nothing falls back to the CPU.

    Returns out, or (out, info) with `return_info=True`: mode_used, bits_used, products_used, sparsity, blocks (index, count),
    lse [B,H,N] and the probe's errors.
    Raises ArgumentError (a ValueError) for shapes, strides and values, UnsupportedError for element types and devices.
    """
    learned = {name: options.pop(name) for name in _LEARNED if name in options}
    device = _gpu.place_of(q)
    products = products or ("bf16" if device else None)
    plan = _plan(device | _configure(q, k, mode, sparsity, router, bits, products, layout, options))
    result = _empty_like(q) if out is None else out
    outputs: dict[str, Any] = {"out": result}
    if return_info:
        shape = (plan.config["batch"], plan.config["heads"], plan.config["query_tokens"])
        on_gpu = "device_id" in plan.config
        outputs["lse"] = _gpu.zeros(q, shape, "float32") if on_gpu else np.empty(shape, np.float32)
        outputs["index"], outputs["count"] = plan.new_list(q)
    facts = plan.run(_gather(q, k, v, learned), outputs, probe=probe, threads=threads)
    if not return_info:
        return result
    return result, facts | {"lse": outputs["lse"], "blocks": (outputs["index"], outputs["count"])}


def route(
    q: Any,
    k: Any,
    *,
    sparsity: float = 0.9,
    router: Router = "sla2",
    layout: Literal["BHND", "BNHD"] = "BHND",
    threads: int = 0,
    **options: Any,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Only choose the key blocks of each query block: index [B,H,T_m,most], of which each row's first count [B,H,T_m] hold."""
    learned = {name: options.pop(name) for name in _LEARNED if name in options}
    device = _gpu.place_of(q)
    plan = _plan(
        device | _configure(q, k, options.pop("mode", "sparse_only"), sparsity, router, 16, "bf16" if device else "fp32", layout, options)
    )
    return plan.route(_gather(q, k, None, learned), threads=threads)


def token_order(
    kind: Literal["raster", "tiles", "hilbert"], box: tuple[int, int, int], tile: tuple[int, int, int] = (4, 4, 4)
) -> NDArray[np.int32]:
    """Raster index of the i-th token of a video of box = frames, height, width; a permutation. `np.argsort` brings outputs back."""
    order: NDArray[np.int32] = _sla2.token_order(_number("order", kind), list(box), list(tile))
    return order
