# SPDX-License-Identifier: Apache-2.0
"""Calibration: fits against brute force on branches computed here in fp64, packs against attention itself, the command end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, build_dir, need_package

sla2 = need_package()
diffusers = pytest.importorskip("diffusers")
from make_tiny_model import randomise  # noqa: E402
from sla2.calibration import Calibrator, calibrate, cli, fit, measure, router  # noqa: E402

HEADS, DIM, BQ, BK = 2, 32, 32, 16
BLOCKS = {"block_q": BQ, "block_k": BK}
GRID = (4, 8, 8)
TOKENS = 256


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def heads(seed, tokens=TOKENS, batch=1):
    """q, k, v [B,H,N,D] with some structure: keys and queries share slow signals, so that blocks differ."""
    g = torch.Generator().manual_seed(seed)
    slow = torch.randn(batch, HEADS, tokens // 8, DIM, generator=g).repeat_interleave(8, 2)
    q, k, v = (1.2 * slow + 0.7 * torch.randn(batch, HEADS, tokens, DIM, generator=g) for _ in range(3))
    return q, k + 0.5, v


def branches(q, k, v, sparsity, w_q=None, w_k=None):
    """O_full, O_s, O_l and L - L_rest of every row in fp64, from the formula with a dense mask."""
    q, k, v = (x.double() for x in (q, k, v))
    scale, smooth = DIM**-0.5, k - k.mean(-2, keepdim=True)
    means = [torch.stack([part.mean(-2) for part in x.split(size, -2)], -2) for x, size in ((q, BQ), (smooth, BK))]
    identity = scale * means[0] @ means[1].transpose(-1, -2)
    r = identity if w_q is None else scale * (means[0] @ w_q.double()) @ (means[1] @ w_k.double()).transpose(-1, -2)
    mask = torch.zeros_like(r).scatter(-1, r.topk(max(1, round((1 - sparsity) * r.shape[-1]))).indices, 1.0)
    rows, columns = (torch.arange(n) // size for n, size in ((q.shape[-2], BQ), (k.shape[-2], BK)))
    weight = mask[..., rows, :][..., columns]
    s = scale * q @ smooth.transpose(-1, -2)
    lse = torch.logsumexp(s + weight.log(), -1)
    linear = q.softmax(-1) @ smooth.softmax(-1).transpose(-1, -2) * (1 - weight)
    sizes = torch.tensor([len(part) for part in torch.arange(k.shape[-2]).split(BK)]).double()
    rest = torch.logsumexp(identity + ((1 - mask) * sizes).log(), -1)[..., rows]
    return s.softmax(-1) @ v, (s + weight.log()).softmax(-1) @ v, linear @ v / linear.sum(-1, keepdim=True), lse - rest


def all_rows(q, k, v, sparsity=0.7, **learned):
    return measure.mixing_rows(q, k, v, sparsity, measure.Blocks(BQ, BK), learned, 1)


# ---- what is kept of a row ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [TOKENS, 250])
@pytest.mark.parametrize("routed", [False, True])
def test_six_numbers_of_a_row_are_the_branches(tokens, routed):
    q, k, v = (x[:, :, :tokens].contiguous() for x in heads(1, batch=2))
    w = torch.eye(DIM) + 0.2 * torch.randn(2, HEADS, DIM, DIM, generator=torch.Generator().manual_seed(2))
    learned = {"router_q": w[0].numpy(), "router_k": w[1].numpy()} if routed else {}
    rows = all_rows(q, k, v, **learned)
    full, sparse, linear, delta = branches(q, k, v, 0.7, *((w[0], w[1]) if routed else ()))
    pooled = sla2.attention(q, k, v, mode="pooled", sparsity=0.7, **BLOCKS, **learned)
    e, d = full - linear, sparse - linear
    expected = torch.stack(
        [delta, (e * d).sum(-1), (d * d).sum(-1), (e * e).sum(-1), (full * full).sum(-1), (pooled - full).square().sum(-1)], -1
    )
    expected = expected.transpose(0, 1).flatten(1, 2).numpy()
    assert rows.shape == (HEADS, 2 * tokens, fit.COLUMNS)
    assert np.abs(rows - expected).max() < 1e-4 * np.abs(expected).max()
    alpha = torch.tensor([[0.8, -0.4], [0.3, 1.0]])
    out = sla2.attention(q, k, v, sparsity=0.7, mix_values=alpha, **BLOCKS, **learned)
    error = (out - full).square().sum(-1).transpose(0, 1).flatten(1).numpy()
    predicted = fit.squares(rows.astype(np.float64), fit.sigmoid(fit.logits(rows, alpha.numpy())))
    assert np.abs(predicted - error).max() < 1e-4 * error.max()


def test_shares_of_blocks_are_softmax_and_nothing_is_measured_where_nothing_is_skipped():
    q, k, v = heads(1)
    (found,) = measure.routing(q[:, :, :64], k, measure.Blocks(BQ, BK))
    p = (q[0, :, :64].double() @ k[0].double().transpose(-1, -2) / DIM**0.5).softmax(-1)
    expected = p.unflatten(-1, (-1, BK)).sum(-1).unflatten(1, (2, BQ)).mean(2)
    assert (found.share.double() - expected).abs().max() < 1e-3 and found.share.shape == (HEADS, 2, TOKENS // BK)
    assert all_rows(q, k, v, sparsity=0.01) is None


# ---- fits ---------------------------------------------------------------------------------------------------------------------


def test_fits_are_the_minimum_that_brute_force_finds():
    scipy = pytest.importorskip("scipy.optimize")
    for seed in range(3):
        rows = all_rows(*heads(seed)).astype(np.float64)
        for head in rows:
            s, b = fit.fit_affine(head)

            def loss(x, head=head):
                return fit.squares(head, fit.sigmoid(x[0] * head[:, fit.DELTA] + x[1])).sum()

            best = min(
                (
                    scipy.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000})
                    for start in ((0.6, 0.5), (0, 0), (2, -1))
                ),
                key=lambda found: found.fun,
            )
            assert loss((s, b)) <= best.fun * (1 + 1e-6)
            grid = np.linspace(0, 1, 2001)
            scalar = fit.sigmoid(np.array(fit.fit_scalar(head)))
            assert abs(scalar - grid[np.argmin([fit.squares(head, a).sum() for a in grid])]) < 1e-3


def test_fits_stay_finite_where_one_branch_is_all():
    rows = np.zeros((2, 64, fit.COLUMNS))
    rows[..., fit.DELTA] = np.linspace(-3, 3, 64)
    rows[..., [fit.P, fit.W, fit.C, fit.F]] = 1  # the sparse branch is right everywhere
    for mode in ("head_affine_lse", "head_scalar"):
        alpha = fit.fit(rows, mode)
        assert np.isfinite(alpha).all() and fit.layer_errors(rows, alpha)["sla2"] < 1e-3
    rows[..., [fit.P, fit.W]] = 0  # both branches are the same
    assert np.isfinite(fit.fit(rows, "head_affine_lse")).all()


def test_the_reservoir_is_an_even_sample():
    kept = fit.Reservoir(500, 0)
    for part in range(20):
        kept.add(np.full((3, 100, fit.COLUMNS), part, np.float32))
    assert kept.rows.shape == (3, 500, fit.COLUMNS) and kept.offered == 2000
    counts = np.bincount(kept.rows[0, :, 0].astype(int), minlength=20)
    assert counts.min() > 8 and counts.max() < 45 and np.array_equal(kept.rows[0], kept.rows[2])


def test_a_router_learns_what_it_can_and_never_gets_worse():
    """Keys whose blocks are told apart by channels that noise of other channels drowns: a router can learn to look at the former."""
    g = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(HEADS, DIM, DIM, generator=g))[0]

    def data(seed):
        q, k, _ = heads(seed)
        k = k @ turn  # queries do not see it: identity routing is blind
        found = measure.routing((q @ turn)[:, :, :TOKENS], k, measure.Blocks(BQ, BK))
        noisy = [measure.Routing(x.q @ turn.half().transpose(-1, -2), x.k, x.share, x.lengths) for x in found]
        return noisy

    seen, held_out = [x for s in range(4) for x in data(s)], [x for s in range(4, 6) for x in data(s)]
    learned = router.LowRank(HEADS, DIM, 16, 0)
    before = router.caught(held_out, *learned.matrices(), 0.8)
    router.fit_kl(learned, seen, held_out, 0.8)
    after = router.caught(held_out, *learned.matrices(), 0.8)
    assert (after >= before).all() and after.mean() > before.mean() + 0.05
    assert not any(x.requires_grad for x in learned.up)


# ---- the calibrator -----------------------------------------------------------------------------------------------------------


def observe(calibrator, seeds, layers=2, **options):
    for seed in seeds:
        for layer in range(layers):
            q, k, v = (x.transpose(1, 2) for x in heads(10 * seed + layer))
            calibrator.observe(layer, q, k, v, GRID, **options)


def make(**changes):
    return Calibrator(
        **{"layers": 2, "heads": HEADS, "head_dim": DIM, "sparsity": 0.7, "base_shapes": "ab", "threads": 1, **BLOCKS, **changes}
    )


def test_a_pack_lowers_the_error_it_says(tmp_path):
    calibrator = make(sparsity=(0.7, 0.5), blocks_per_call=8, base="made here", licence="Apache-2.0")
    observe(calibrator, range(4), held_out=False)
    observe(calibrator, range(4, 6), held_out=True)
    calibrator.end_pass()
    calibrator.finish().save(tmp_path / "a.sla2.safetensors")
    pack = sla2.RouterPack.load(tmp_path / "a.sla2.safetensors")
    assert pack.kappa == (0.3, 0.5) and pack.grid == GRID and pack.stage == 0 and pack.schedule == "" and pack.base == "made here"
    assert pack.errors["held_out_rows"] == 2 * 2 * 8 * BQ and pack.errors["fitted_rows"] == 2 * 4 * 8 * BQ
    for sparsity in (0.7, 0.5):
        for layer in range(2):  # all eight query blocks were measured: the errors are those of attention itself on the held-out calls
            error = {"sla2": 0.0, "sla2_default": 0.0, "sparse_only": 0.0, "pooled": 0.0}
            whole = 0.0
            for seed in (4, 5):
                q, k, v = heads(10 * seed + layer)
                full = sla2.attention(q, k, v, mode="full").double()
                whole += full.square().sum().item()
                options = {"sparsity": sparsity, **BLOCKS}
                outs = {
                    "sla2": sla2.attention(q, k, v, **pack.options(sparsity), **pack.layer(layer, sparsity)),
                    "sla2_default": sla2.attention(q, k, v, **options),
                    "sparse_only": sla2.attention(q, k, v, mode="sparse_only", **options),
                    "pooled": sla2.attention(q, k, v, mode="pooled", **options),
                }
                for name, out in outs.items():
                    error[name] += (out - full).square().sum().item()
            found = {name: pack.errors["sparsity"][f"{sparsity:g}"]["layers"][name][layer] for name in error}
            assert found == pytest.approx({name: (value / whole) ** 0.5 for name, value in error.items()}, rel=1e-3)
            assert found["sla2"] < found["sla2_default"]
    assert pack.errors["sparsity"]["0.7"]["mean"]["sla2"] == pytest.approx(
        np.mean(pack.errors["sparsity"]["0.7"]["layers"]["sla2"]), rel=1e-4
    )


def test_layers_above_the_bound_are_scheduled_another_way():
    plain = make()
    observe(plain, range(3))
    plain.end_pass()
    errors = plain.finish().errors["sparsity"]["0.7"]["layers"]
    for bound in (1.0, max(errors["sla2"]) - 1e-5, min(errors["sla2"]) - 1e-5, 1e-4):
        calibrator = make(max_error=bound)
        observe(calibrator, range(3))
        calibrator.end_pass()
        expected = []
        for layer in range(2):
            others = min(("pooled", "sparse_only"), key=lambda mode: errors[mode][layer])
            expected.append("sla2" if errors["sla2"][layer] <= bound else others if errors[others][layer] <= bound else "full")
        pack = calibrator.finish()
        found = sla2.policy.resolve(layers=2, heads=HEADS, head_dim=DIM, pack=pack)
        assert [found.at(0, 1, layer).mode for layer in range(2)] == expected, bound
    assert pack.schedule == "layers 0,1: full"


@pytest.mark.parametrize("kind", ["kl", "soft"])
def test_routers_take_more_passes_and_stay_in_the_pack(kind, tmp_path):
    calibrator = make(router=kind, rank=4, token_order="tiles")
    assert calibrator.passes == {"kl": 2, "soft": 3}[kind]
    for _ in range(calibrator.passes):
        observe(calibrator, range(3))
        calibrator.end_pass()
    pack = calibrator.finish()
    pack.save(tmp_path / "a.sla2.safetensors")
    caught = pack.errors["router_catches"]
    assert set(caught) == {"identity", "kl", *({"soft"} & {kind})} and caught[kind] >= caught["identity"]
    assert (
        pack.stage == 1
        and pack.token_order == "tile:4x4x4"
        and pack.tensors["blocks.1.self_attn.sla2.proj_k.down"].shape == (HEADS, 4, DIM)
    )

    again = make(start=sla2.RouterPack.load(tmp_path / "a.sla2.safetensors"), sparsity=0.5)
    observe(again, range(3))
    again.end_pass()
    second = again.finish()
    assert second.kappa == (0.5,) and second.token_order == "tile:4x4x4" and second.stage == 1
    assert np.array_equal(second.tensors["blocks.1.self_attn.sla2.proj_k.down"], pack.tensors["blocks.1.self_attn.sla2.proj_k.down"])
    assert not np.array_equal(second.layer(0)["mix_values"], pack.layer(0)["mix_values"])


def test_the_same_calls_give_the_same_pack():
    packs = []
    for layout in ("BNHD", "BHND", "BNHD"):
        calibrator = make()
        for seed in range(2):
            q, k, v = heads(seed)
            turned = (x if layout == "BHND" else x.transpose(1, 2) for x in (q, k, v))
            calibrator.observe(0, *turned, GRID, layout=layout)
        calibrator.end_pass()
        packs.append(calibrator.finish())
    assert all(np.array_equal(packs[0].layer(0)["mix_values"], pack.layer(0)["mix_values"]) for pack in packs)
    assert (
        packs[0].layer(1) == {}
        and packs[0].errors["sparsity"]["0.7"]["layers"]["sla2"][1] is None
        and packs[0].errors["held_out_rows"] == 0
    )


def test_mistakes_of_callers_are_named():
    wrong = {
        "sparsity is 0": {"sparsity": 0},
        "alpha_mode is 'block'; expected one of head_affine_lse, head_scalar": {"alpha_mode": "block"},
        "router is 'all'; expected one of none, kl, soft": {"router": "all"},
        "token_order is 'x'": {"token_order": "x"},
        "rank 99": {"rank": 99},
        "max_error is -1": {"max_error": -1},
        "router is 'kl' beside a pack": {"start": sla2.RouterPack(2, HEADS, DIM, base_shapes="ab"), "router": "kl"},
        "has mode sparse_only; expected sla2": {"start": sla2.RouterPack(2, HEADS, DIM, mode="sparse_only", base_shapes="ab")},
    }
    for message, settings in wrong.items():
        with pytest.raises(sla2.ArgumentError, match=message):
            make(**settings)
    with pytest.raises(
        sla2.ModelMismatchError, match="made for a model of 30 layers of 12 heads with 128 channels, this model has 2 layers of 2"
    ):
        make(start=sla2.RouterPack(30, 12, 128))
    with pytest.raises(sla2.ModelMismatchError, match="weights of other shapes"):
        make(start=sla2.RouterPack(2, HEADS, DIM, base_shapes="cd"))
    calibrator = make(token_order="tiles")
    q = torch.randn(1, TOKENS, HEADS, DIM)
    with pytest.raises(sla2.ArgumentError, match="needs grid"):
        calibrator.observe(0, q, q, q)
    for layer, x in ((2, q), (0, q[..., :16])):
        with pytest.raises(sla2.ArgumentError, match="this is another model than the calibrator was made for"):
            calibrator.observe(layer, x, x, x, GRID)
    with pytest.raises(sla2.StateError, match="no call of attention was observed"):
        make().end_pass()
    with pytest.raises(sla2.StateError, match="0 of 1 passes have ended"):
        make().finish()
    short = make(block_k=128, block_q=128, sparsity=0.2)
    short.observe(0, q, q, q, GRID)
    short.end_pass()
    with pytest.raises(sla2.StateError, match="256 tokens are 2 key blocks, of which sparsity 0.2 skips none; calibrate on a larger video"):
        short.finish()


# ---- models -------------------------------------------------------------------------------------------------------------------


def test_a_transformer_is_calibrated_and_left_as_it_was():
    model = diffusers.WanVACETransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2,
        rope_max_seq_len=32, vace_layers=[0], vace_in_channels=16,
    ).eval()  # fmt: skip
    randomise(model, torch.Generator().manual_seed(0), 1.0)
    processors, outputs = dict(model.attn_processors), []

    def run(seed=0):
        g = torch.Generator().manual_seed(seed)
        x, control = torch.randn(2, 1, 16, 4, 16, 16, generator=g)
        for timestep in (900.0, 400.0):
            with torch.no_grad():
                text = torch.randn(1, 8, 32, generator=g)
                outputs.append(model(x, torch.tensor([timestep]), text, control_hidden_states=control, return_dict=False)[0])

    run()
    pack = calibrate(model, run, held_out=lambda: run(1), sparsity=0.7, threads=1, **BLOCKS)
    assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[3])
    assert all(model.attn_processors[name] is processor for name, processor in processors.items()) and not model._forward_pre_hooks
    assert (pack.layers, pack.heads, pack.head_dim, pack.grid) == (2, 2, 32, (4, 8, 8))
    assert (pack.base_shapes, pack.base_weights) == sla2.packs.fingerprints(model.state_dict())
    assert pack.errors["held_out_rows"] == pack.errors["fitted_rows"] == 2 * 2 * 4 * BQ
    with pytest.raises(ZeroDivisionError):
        calibrate(model, lambda: 1 / 0, threads=1, **BLOCKS)
    assert all(model.attn_processors[name] is processor for name, processor in processors.items())


PROMPTS = ["a large red ball moves left over a green field", "a small blue square rises over the sea"]


def test_the_command_makes_a_pack_for_the_small_world(tmp_path, capsys):
    out = tmp_path / "small.sla2.safetensors"
    arguments = [
        str(ROOT / "presets/models/small_world"),
        "-o",
        str(out),
        "--steps",
        "2",
        "--frames",
        "9",
        "--sparsity",
        "0.5",
        "--threads",
        "1",
    ]
    assert cli.main([*arguments, *(x for prompt in PROMPTS for x in ("-p", prompt)), "--block-q", "32", "--block-k", "16"]) == 0
    pack, said = sla2.RouterPack.load(out), capsys.readouterr().err
    assert pack.base == "small-world" and pack.grid == (3, 8, 8) and pack.prompts == "\n".join(PROMPTS) and pack.errors["held_out_rows"] > 0
    assert "pass 1 of 1" in said and f"wrote {out}" in said and PROMPTS[1] in said
    mean = pack.errors["sparsity"]["0.5"]["mean"]
    assert mean["sla2"] < mean["sparse_only"]
    assert [x.name for x in tmp_path.iterdir()] == [out.name]
    shapes, weights = sla2.packs.fingerprints(ROOT / "presets/models/small_world/dit.safetensors")
    assert pack.base_shapes == shapes and pack.base_weights == weights


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    small, out = str(ROOT / "presets/models/small_world"), str(tmp_path / "a.sla2.safetensors")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other.sla2.safetensors"
    sla2.RouterPack(30, 12, 128, base_shapes="ab").save(other)
    two = ["-p", PROMPTS[0], "-p", PROMPTS[1]]
    for arguments, message in (
        ([small, "-o", out, "-p", "one"], "expected two to four different ones"),
        ([small, "-o", str(tmp_path / "no" / "a"), *two], "expected a file's name in a folder that exists"),
        ([str(tmp_path / "nowhere"), "-o", out, *two], "there is no such folder"),
        ([str(tmp_path), "-o", out, *two], "holds a FluxPipeline; the command runs WanPipeline"),
        ([str(tmp_path / "empty"), "-o", out, *two], "holds neither model_index.json nor model.json"),
        ([small, "-o", out, "--prompts", str(tmp_path / "none.txt")], "expected a text file with one prompt a line"),
        ([small, "-o", out, *two, "--start", str(other)], "made for a model of 30 layers of 12 heads with 128 channels"),
        ([small, "-o", out, *two, "--max-error", "0"], "max_error is 0.0"),
    ):
        assert cli.main(arguments) == 1, arguments
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said and not os.path.exists(out)
    environment = {**os.environ, "PYTHONPATH": str(build_dir() / "bindings")}
    done = subprocess.run([sys.executable, "-m", "sla2.calibration", "--help"], env=environment, capture_output=True, text=True, check=True)
    assert "The last prompt is held out" in done.stdout and "--max-error" in done.stdout
