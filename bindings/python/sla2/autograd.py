# SPDX-License-Identifier: Apache-2.0
"""sla2.attention with gradients, for torch: on the CPU, and on CUDA devices where the library has kernels.

>>> out = sla2.autograd.attention(q, k, v, router_q=w_q, router_k=w_k, mix=alpha, sparsity=0.9)
>>> out.sum().backward()

Both directions are the library's own. They are opaque operators to torch (`torch.ops.sla2.attention_forward` and `_backward`), so that
torch.compile does not look inside and the backward pass uses the very blocks that the forward pass kept. Under activation
checkpointing the forward pass runs again and, being deterministic, keeps the same blocks. Both use torch.get_num_threads() threads.
"""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch import Tensor

from sla2 import _gpu
from sla2._attention import Attention, _configure, _plan

_LEARNED = ("router_q", "router_k", "mix", "proj", "proj_bias", "gate")
QAT_BACKWARD = ("hp_stats", "paper")


def _plan_of(config: str) -> Attention:
    return _plan(ast.literal_eval(config))


def _contiguous(values: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """What is there, detached; learned tensors as the library wants them."""
    return {
        name: value.detach() if name in ("q", "k", "v", "gate") else value.detach().float().contiguous()
        for name, value in values.items()
        if value is not None
    }


@torch.library.custom_op("sla2::attention_forward", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    router_q: Tensor | None,
    router_k: Tensor | None,
    mix: Tensor | None,
    proj: Tensor | None,
    proj_bias: Tensor | None,
    gate: Tensor | None,
    again: bool,
    config: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, lse [B,H,N], index [B,H,T_m,most] and count [B,H,T_m] of the blocks kept. again: gradients take neither out nor lse."""
    plan = _plan_of(config)
    index, count = (torch.as_tensor(x) for x in plan.new_list(q))
    out = torch.empty_like(q)
    lse = q.new_empty((plan.config["batch"], plan.config["heads"], plan.config["query_tokens"]), dtype=torch.float32)
    learned = dict(zip(_LEARNED, (router_q, router_k, mix, proj, proj_bias, gate), strict=True))
    plan.run(
        _contiguous({"q": q, "k": k, "v": v, **learned}),
        {"out": out, "lse": lse, "index": index, "count": count},
        threads=torch.get_num_threads(),
    )
    return out, lse, index, count


@_forward.register_fake
def _(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    plan = _plan_of(rest[-1])
    index, count = plan.new_list()
    lse = q.new_empty((plan.config["batch"], plan.config["heads"], plan.config["query_tokens"]), dtype=torch.float32)
    return torch.empty_like(q), lse, q.new_empty(index.shape, dtype=torch.int32), q.new_empty(count.shape, dtype=torch.int32)


@torch.library.custom_op("sla2::attention_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    lse: Tensor | None,
    index: Tensor,
    count: Tensor,
    router_q: Tensor | None,
    router_k: Tensor | None,
    mix: Tensor | None,
    proj: Tensor | None,
    proj_bias: Tensor | None,
    gate: Tensor | None,
    config: str,
) -> list[Tensor]:
    """Gradients of q, k, v, then of each learned tensor that is there."""
    plan = _plan_of(config)
    learned = dict(zip(_LEARNED, (router_q, router_k, mix, proj, proj_bias, gate), strict=True))
    tensors = _contiguous({"q": q, "k": k, "v": v, **learned})
    gradients = {name: torch.empty_like(value) for name, value in tensors.items()}
    saved: dict[str, Any] = {"d_out": d_out.detach().contiguous()}
    if plan.config["mode"] not in ("full", "linear_only") and not plan.config.get("tau"):
        saved |= {"index": index, "count": count}
    if out is not None and lse is not None:
        saved |= {"out": out.detach(), "lse": lse.detach()}
    plan.backward(tensors, saved, gradients, threads=torch.get_num_threads())
    return [gradients[name] for name in ("q", "k", "v", *_LEARNED) if name in gradients]


@_backward.register_fake
def _(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> list[Tensor]:
    learned = rest[4:-1]  # after out, lse, index and count
    return [torch.empty_like(x) for x in (q, k, v, *learned) if x is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, again, ctx.config = inputs
    out, lse, index, count = output
    ctx.mark_non_differentiable(lse, index, count)
    ctx.save_for_backward(*tensors, None if again else out, None if again else lse, index, count)


def _gradients(ctx: Any, d_out: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    *tensors, out, lse, index, count = ctx.saved_tensors
    found = iter(torch.ops.sla2.attention_backward(d_out, *tensors[:3], out, lse, index, count, *tensors[3:], ctx.config))
    return (*(None if x is None else next(found).to(x.dtype) for x in tensors), None, None)


torch.library.register_autograd("sla2::attention_forward", _gradients, setup_context=_save)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mode: str = "sla2",
    sparsity: float = 0.9,
    router: str = "sla2",
    bits: int = 16,
    products: str | None = None,
    layout: str = "BHND",
    router_q: Tensor | None = None,
    router_k: Tensor | None = None,
    mix: Tensor | None = None,
    mix_mode: str = "head_affine_lse",
    proj: Tensor | None = None,
    proj_bias: Tensor | None = None,
    gate: Tensor | None = None,
    qat_backward: str = "hp_stats",
    **options: Any,
) -> Tensor:
    """As sla2.attention(), with gradients of q, k, v and every learned tensor given (router weights: only with `tau`, a soft mask).

    mix           the numbers of `mix_mode`, [H, 2], [H] or [H, T_m]
    qat_backward  after 8 bits, whose softmax the gradients are of. hp_stats: output and log-sum-exp are computed again from the kept
                  blocks in high precision, so that the weights add up to one; paper: those of the 8-bit forward pass, as in SLA2's
                  paper, which is cheaper and less exact (docs/kernels/backward.md). With 16 bits there is no difference
    options       those of sla2.attention()
    """
    return attention_and_blocks(
        q, k, v, mode=mode, sparsity=sparsity, router=router, bits=bits, products=products, layout=layout, router_q=router_q,
        router_k=router_k, mix=mix, mix_mode=mix_mode, proj=proj, proj_bias=proj_bias, gate=gate, qat_backward=qat_backward, **options,
    )[0]  # fmt: skip


def attention_and_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mode: str = "sla2",
    sparsity: float = 0.9,
    router: str = "sla2",
    bits: int = 16,
    products: str | None = None,
    layout: str = "BHND",
    mix_mode: str = "head_affine_lse",
    qat_backward: str = "hp_stats",
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As attention(), with what else the forward pass returns: out, lse [B,H,N], index [B,H,T_m,most] and count [B,H,T_m]."""
    if qat_backward not in QAT_BACKWARD:
        raise ValueError(f"qat_backward is {qat_backward!r}; expected one of {', '.join(QAT_BACKWARD)}")
    learned = [options.pop(name, None) for name in _LEARNED]
    options["mix"] = mix_mode
    device = _gpu.place_of(q)
    products = products or ("bf16" if device else None)
    config = str(device | _configure(q, k, mode, sparsity, router, bits, products, layout, options))
    out, lse, index, count = torch.ops.sla2.attention_forward(q, k, v, *learned, bits == 8 and qat_backward == "hp_stats", config)
    return out, lse, index, count
