# SPDX-License-Identifier: Apache-2.0
"""sla2.autograd and sla2.nn: gradients against torch's own autograd on formulas written here in fp64; compile; checkpointing."""

from __future__ import annotations

import numpy as np
import pytest
import qat_backward
import torch
from conftest import need_package

sla2 = need_package()
from sla2 import autograd, nn  # noqa: E402

BQ, BK = 32, 16


def block_means(x, size):
    return torch.stack([part.mean(-2) for part in x.split(size, dim=-2)], dim=-2)


def soft_mask(r, keep, tau):
    """σ(R/τ + λ), Σ = keep; gradient through λ by one Newton step from the solved value, which is exact there."""
    with torch.no_grad():
        low, high = -r.amax(-1, keepdim=True) / tau - 40, -r.amin(-1, keepdim=True) / tau + 40
        for _ in range(200):
            shift = (low + high) / 2
            less = torch.sigmoid(r / tau + shift).sum(-1, keepdim=True) < keep
            low, high = torch.where(less, shift, low), torch.where(less, high, shift)
    m = torch.sigmoid(r / tau + shift)
    slope = (m * (1 - m)).detach()
    shift = shift + (keep - m.sum(-1, keepdim=True)) / slope.sum(-1, keepdim=True)
    return torch.sigmoid(r / tau + shift)


def sla2_formula(q, k, v, w_q, w_k, alpha, sparsity, tau=0.0, soft=soft_mask):
    """SLA2 with a given hard mask rule or a soft mask, head_affine_lse; L − L_rest is a constant, as the listings have it."""
    scale = q.shape[-1] ** -0.5
    smooth = k - k.mean(-2, keepdim=True)
    q_mean, k_mean = block_means(q, BQ), block_means(smooth, BK)
    r = scale * (q_mean @ w_q) @ (k_mean @ w_k).transpose(-1, -2)
    keep = max(1, round((1 - sparsity) * r.shape[-1]))
    mask = soft(r, keep, tau) if tau else torch.zeros_like(r).scatter(-1, r.topk(keep).indices, 1.0)
    rows, columns = (torch.arange(n) // size for n, size in ((q.shape[-2], BQ), (k.shape[-2], BK)))
    weight = mask[..., rows, :][..., columns]
    s = scale * q @ smooth.transpose(-1, -2)
    lse = torch.logsumexp(s + weight.clamp_min(1e-300).log(), -1)
    o_s = torch.exp(s + weight.clamp_min(1e-300).log() - lse[..., None]) @ v
    phi_q, phi_k = torch.softmax(q, -1), torch.softmax(smooth, -1)
    a_l = (phi_q @ phi_k.transpose(-1, -2)) * (1 - weight)
    o_l = a_l @ v / a_l.sum(-1, keepdim=True)
    lengths = torch.tensor([len(part) for part in torch.arange(k.shape[-2]).split(BK)], dtype=q.dtype)
    identity = scale * q_mean @ k_mean.transpose(-1, -2)
    rest = torch.logsumexp(identity + ((1 - mask) * lengths).clamp_min(1e-300).log(), -1)[..., rows]
    a = torch.sigmoid(alpha[:, None, :1].squeeze(-1) * (lse - rest).detach() + alpha[:, None, 1])[..., None]
    return a * o_s + (1 - a) * o_l


def make(heads=2, tokens=75, dim=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, heads, tokens, dim, generator=generator) for _ in range(3))
    w_q, w_k = (torch.eye(dim) + 0.1 * torch.randn(heads, dim, dim, generator=generator) for _ in range(2))
    return [x.requires_grad_() for x in (q, k, v, w_q, w_k, torch.tensor([[0.6, 0.5], [0.9, -0.3]])[:heads].clone())]


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5])
def test_output_and_every_gradient_are_autograds(tau):
    inputs = make()
    out = autograd.attention(
        *inputs[:3], router_q=inputs[3], router_k=inputs[4], mix=inputs[5], sparsity=0.6, block_q=BQ, block_k=BK, tau=tau
    )
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    found = torch.autograd.grad(out, inputs, d_out)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    truth = sla2_formula(*wide, sparsity=0.6, tau=tau)
    expected = torch.autograd.grad(truth, wide, d_out.double(), allow_unused=True)
    assert (out - truth).abs().max() < 1e-5
    for name, mine, theirs in zip(("q", "k", "v", "w_q", "w_k", "alpha"), found, expected, strict=True):
        theirs = torch.zeros_like(mine).double() if theirs is None else theirs  # a hard mask has no gradient by W
        assert (mine - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item()), name


def test_a_detached_shift_is_another_gradient():
    """What public codes leave out: the gradient through λ. Ours must differ from theirs, and does."""
    inputs = make()
    wide = [x.detach().double().requires_grad_() for x in inputs]
    exact = torch.autograd.grad(sla2_formula(*wide, sparsity=0.6, tau=0.3).square().sum(), wide[3])[0]

    def detached(x, keep, tau):
        m = soft_mask(x.detach(), keep, tau)
        shift = torch.logit(m) - x.detach() / tau
        return torch.sigmoid(x / tau + shift)

    other = torch.autograd.grad(sla2_formula(*wide, sparsity=0.6, tau=0.3, soft=detached).square().sum(), wide[3])[0]
    out = autograd.attention(
        *inputs[:3], router_q=inputs[3], router_k=inputs[4], mix=inputs[5], sparsity=0.6, block_q=BQ, block_k=BK, tau=0.3
    )
    mine = torch.autograd.grad(out.square().sum(), inputs[3])[0].double()
    assert (mine - exact).norm() < 1e-3 * exact.norm() < (other - exact).norm()


@pytest.mark.parametrize("mode", ["full", "sparse_only", "linear_only", "l_plus_s", "pooled", "sla1"])
def test_other_modes_against_finite_differences(mode):
    q, k, v, *_ = make(tokens=60)
    options = {"mode": mode, "sparsity": 0.5, "block_q": BQ, "block_k": BK}
    learned = (
        {"proj": (0.2 * torch.randn(32, 32)).requires_grad_(), "proj_bias": torch.randn(32).requires_grad_()} if mode == "sla1" else {}
    )
    d_out = torch.randn_like(q)

    def loss(q, k, v, **learned):
        return (autograd.attention(q, k, v, **learned, **options) * d_out).double().sum()

    inputs = [q, k, v, *learned.values()]
    found = torch.autograd.grad(loss(q, k, v, **learned), inputs)
    for i, (x, gradient) in enumerate(zip(inputs, found, strict=True)):
        step = torch.randn_like(x)
        step /= step.norm()
        values = []
        for h in (1e-2, -1e-2):
            moved = [y.detach() + (h * step if j == i else 0) for j, y in enumerate(inputs)]
            values.append(loss(*moved[:3], **dict(zip(learned, moved[3:], strict=True))).item())
        numeric, mine = (values[0] - values[1]) / 2e-2, (gradient * step).double().sum().item()
        assert mine == pytest.approx(numeric, rel=2e-2, abs=2e-2), (mode, i)


def test_opcheck():
    q, k, v, w_q, w_k, alpha = make()
    from sla2._attention import _configure

    config = str(_configure(q, k, "sla2", 0.5, "sla2", 16, None, "BHND", {"block_q": BQ, "block_k": BK, "mix": "head_affine_lse"}))
    torch.library.opcheck(torch.ops.sla2.attention_forward.default, (q, k, v, w_q, w_k, alpha, None, None, None, False, config))


def test_checkpointing_keeps_the_same_blocks_and_bits():
    from torch.utils.checkpoint import checkpoint

    layer = nn.SLA2Attention(2, 32, sparsity=0.7, block_q=BQ, block_k=BK)
    q, k, v, *_ = make(tokens=100)
    plain = layer(q, k, v)
    plain.square().sum().backward()
    expected = [x.grad.clone() for x in (q, k, v, layer.alpha)]
    for x in (q, k, v, layer.alpha):
        x.grad = None
    again = checkpoint(layer, q, k, v, use_reentrant=False)
    again.square().sum().backward()
    assert torch.equal(again, plain)
    assert all(torch.equal(x.grad, e) for x, e in zip((q, k, v, layer.alpha), expected, strict=True))


def test_compiled_is_the_same():
    layer = nn.SLA2Attention(2, 32, sparsity=0.7, block_q=BQ, block_k=BK)
    q, k, v, *_ = make(tokens=100)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), layer(q, k, v))
    torch.autograd.grad(compiled(q, k, v).sum(), (q, layer.alpha))


def test_the_router_learns_under_a_soft_mask_and_not_under_a_hard_one():
    layer = nn.SLA2Attention(2, 32, sparsity=0.7, tau=0.1, block_q=BQ, block_k=BK)
    q, k, v, *_ = make(tokens=100)
    layer(q, k, v).square().sum().backward()
    assert layer.proj_q.grad.abs().max() > 0 and layer.proj_k.grad.abs().max() > 0
    layer.zero_grad()
    layer.tau = 0.0
    layer(q, k, v).square().sum().backward()
    assert layer.proj_q.grad.abs().max() == 0 and layer.alpha.grad.abs().max() > 0
    assert set(layer.state_dict()) == {"proj_q", "proj_k", "alpha"}


def test_eight_bits_forward_high_precision_backward():
    layer = nn.SLA2Attention(2, 64, sparsity=0.5, bits=8)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, 512, 64, generator=generator).requires_grad_() for _ in range(3))
    layer(q, k, v).square().sum().backward()
    eight = q.grad.clone()
    q.grad = None
    layer.bits = 16
    layer(q, k, v).square().sum().backward()
    cosine = torch.nn.functional.cosine_similarity(eight.flatten(), q.grad.flatten(), dim=0)
    assert cosine > 0.99


@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_gradients_below_min_tokens_are_those_of_full_attention(tau):
    """The forward pass runs in full, whatever the mask would have been: so must the gradients be, and the rest has none."""
    q, k, v, w_q, w_k, _ = make()
    alpha = torch.randn(2, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    out = autograd.attention(
        q, k, v, router_q=w_q, router_k=w_k, mix=alpha, mix_mode="block", sparsity=0.6, block_q=BQ, block_k=BK, tau=tau, min_tokens=76
    )
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    found = torch.autograd.grad(out, (q, k, v, w_q, w_k, alpha), d_out)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    truth = torch.nn.functional.scaled_dot_product_attention(*wide)
    assert (out - truth).abs().max() < 1e-5
    for mine, theirs in zip(found, torch.autograd.grad(truth, wide, d_out.double()), strict=False):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert not any(x.any() for x in found[3:])


def test_qat_backward_takes_the_softmax_it_is_told_to():
    """After 8 bits: exact attention's gradients, or those of the paper's formula with the forward's output and log-sum-exp."""
    inputs = qat_backward.make(std=2.5, tokens=512)
    found, truth = {}, {}
    for way in autograd.QAT_BACKWARD:
        found[way], (out, lse, index, count) = qat_backward.run(*inputs, way, sparsity=0.5)
    mask = qat_backward.mask_of(index, count, 512, 512)
    truth["hp_stats"] = qat_backward.true_gradients(*inputs, mask)
    truth["paper"] = qat_backward.paper_gradients(*inputs, mask, out, lse)
    exact = torch.logsumexp(qat_backward.logits(inputs[0].double(), inputs[1].double(), mask), -1)
    if (exact - lse).abs().max() < 1e-4:
        pytest.skip("this CPU multiplies no bytes: its 8-bit forward pass is exact")
    for name, *numbers in zip(("dQ", "dK", "dV"), *(x[way] for way in autograd.QAT_BACKWARD for x in (found, truth)), strict=True):
        mine_hp, hp, mine_paper, paper = numbers
        apart = qat_backward.distance(hp, paper)
        assert qat_backward.distance(mine_hp, hp) < apart / 3, name
        assert qat_backward.distance(mine_paper, paper) < apart / 3, name


def test_sixteen_bits_know_one_backward():
    q, k, v, _, _, alpha = make()
    options = {"mix": alpha, "sparsity": 0.6, "block_q": BQ, "block_k": BK}
    two = [torch.autograd.grad(autograd.attention(q, k, v, qat_backward=way, **options).sum(), (q, k, v)) for way in autograd.QAT_BACKWARD]
    assert all(torch.equal(x, y) for x, y in zip(*two, strict=True))


def test_wrong_words_are_named():
    q = make()[0]
    with pytest.raises(ValueError, match="qat_backward is 'hp'; expected one of hp_stats, paper"):
        autograd.attention(q, q, q, bits=8, qat_backward="hp")
    with pytest.raises(ValueError, match="alpha_mode is 'learned'"):
        nn.SLA2Attention(2, 32, alpha_mode="learned")
    with pytest.raises(ValueError, match="query_blocks"):
        nn.SLA2Attention(2, 32, alpha_mode="block")
    assert np.isfinite(nn.SLA2Attention(2, 32, alpha_mode="block", query_blocks=3).alpha.detach().numpy()).all()


def test_a_call_leaves_torchs_threads_alone():
    """Both run on OpenMP; what one sets for a call must not stay with the other."""
    before = torch.get_num_threads()
    q = torch.randn(1, 1, 256, 64)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            sla2.attention(q, q, q, sparsity=0.5)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
