# SPDX-License-Identifier: Apache-2.0
"""Router packs in Python: files written and read by the safetensors package, hashes by hashlib and torch, and every way to be wrong."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, build_dir, need_package

sla2 = need_package()
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from sla2 import packs, policy, schedule  # noqa: E402

RNG = np.random.default_rng(3)
LAYERS, HEADS, DIM = 3, 2, 32


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def make(**changes):
    values = {
        "kappa": (0.25, 0.1), "block_q": 32, "block_k": 16, "base": "tiny", "base_shapes": "ab" * 32, "base_weights": "cd" * 32,
        "stage": 1, "schedule": "layers 2: full", "errors": {"a": [1, 2.5]}, "grid": (3, 4, 5), "bits": 8, "smooth_k": False,
        "licence": "Apache-2.0", "prompts": "ein Fluß\nzwei", "seed": "7",
        "tensors": {
            "blocks.0.self_attn.sla2.proj_q": normal(HEADS, DIM, DIM), "blocks.0.self_attn.sla2.proj_k": normal(HEADS, DIM, DIM),
            "blocks.0.self_attn.sla2.alpha.k2500": normal(HEADS, 2), "blocks.0.self_attn.sla2.alpha.k1000": normal(HEADS, 2),
            **{f"blocks.1.self_attn.sla2.proj_{part}.{end}": normal(1, *((4, DIM) if end == "down" else (DIM, 4)))
               for part in "qk" for end in ("down", "up")},
        },
    }  # fmt: skip
    return packs.RouterPack(LAYERS, HEADS, DIM, **{**values, **changes})


def metadata(**changes):
    """A minimal file's metadata, as texts."""
    meta = {"format": "libsla2.router_pack", "version": "1", "layers": "3", "heads": "2", "head_dim": "32", "block_q": "32"}
    meta |= {"block_k": "16", "kappa": "0.25", "base_shapes": "ab"} | changes
    return {key: value for key, value in meta.items() if value is not None}


def write(path, tensors=None, **changes):
    save_file({"blocks.0.self_attn.sla2.alpha": normal(HEADS, 2)} if tensors is None else tensors, str(path), metadata(**changes))
    return path


# ---- round trip ---------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded_and_others_can_read_it(tmp_path):
    pack = make()
    pack.save(tmp_path / "a.sla2.safetensors")
    again = packs.RouterPack.load(tmp_path / "a.sla2.safetensors")
    for name in vars(pack):
        if name != "tensors":
            assert getattr(again, name) == getattr(pack, name), name
    with safe_open(tmp_path / "a.sla2.safetensors", "np") as file:
        assert set(file.keys()) == set(pack.tensors) == set(again.tensors)
        for name in file.keys():
            assert np.array_equal(file.get_tensor(name), pack.tensors[name]) and np.array_equal(again.tensors[name], pack.tensors[name])
        assert file.metadata()["kappa"] == "0.25,0.1" and file.metadata()["grid"] == "3x4x5" and file.metadata()["smooth_k"] == "0"
    assert [x.name for x in tmp_path.iterdir()] == ["a.sla2.safetensors"]


def test_half_precision_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    alpha = torch.randn(HEADS, 2)
    for dtype in (torch.bfloat16, torch.float16):
        save_torch({"blocks.0.self_attn.sla2.alpha": alpha.to(dtype)}, str(tmp_path / "h.safetensors"), metadata())
        found = packs.RouterPack.load(tmp_path / "h.safetensors").tensors["blocks.0.self_attn.sla2.alpha"]
        assert found.dtype == np.float32 and np.array_equal(found, alpha.to(dtype).float().numpy())


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.sla2.safetensors"
    make().save(path)
    before = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(sla2.FileWriteError, match=r"cannot be written.*No space left.*free space"):
        make(base="other").save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    with pytest.raises(sla2.FileWriteError, match="cannot be written"):
        make().save(tmp_path / "no folder" / "a.sla2.safetensors")
    with pytest.raises(sla2.ArgumentError, match="base_shapes is empty"):
        make(base_shapes="").save(path)


# ---- what attention gets ------------------------------------------------------------------------------------------------------


def test_layers_and_options_are_what_attention_takes():
    pack = make()
    q, k, v = (normal(1, HEADS, 200, DIM) for _ in range(3))
    own = pack.tensors
    expected = sla2.attention(
        q, k, v, sparsity=0.9, block_q=32, block_k=16, smooth_k=False, router_q=own["blocks.0.self_attn.sla2.proj_q"],
        router_k=own["blocks.0.self_attn.sla2.proj_k"], mix_values=own["blocks.0.self_attn.sla2.alpha.k1000"],
    )  # fmt: skip
    assert np.array_equal(sla2.attention(q, k, v, **pack.options(0.9), **pack.layer(0, 0.9)), expected)
    low = pack.layer(1)
    up, down = own["blocks.1.self_attn.sla2.proj_q.up"], own["blocks.1.self_attn.sla2.proj_q.down"]
    assert np.allclose(low["router_q"], np.eye(DIM) + np.einsum("hir,hrj->hij", up, down), atol=1e-5) and "mix_values" not in low
    assert pack.layer(2) == {} and pack.options()["sparsity"] == 0.75
    assert pack.nearest_kappa(0.85) == 0.1 and pack.nearest_kappa(0.8) == 0.25 and pack.nearest_kappa(1 - 0.175) == 0.1
    with pytest.raises(sla2.ArgumentError, match="layer 3: the pack has layers 0 to 2"):
        pack.layer(3)


def test_each_kind_of_mixing_has_its_shape():
    for alpha_mode, shape in (("head_affine_lse", (HEADS, 2)), ("head_scalar", (HEADS,)), ("block", (HEADS, 2))):
        tensors = {"blocks.0.self_attn.sla2.alpha": normal(*shape)}
        pack = make(alpha_mode=alpha_mode, kappa=(0.25,), tensors=tensors)
        q, k, v = (normal(1, HEADS, 60, DIM) for _ in range(3))
        assert np.isfinite(sla2.attention(q, k, v, **pack.options(), **pack.layer(0))).all()
    with pytest.raises(sla2.FileFormatError, match=r"alpha has shape \[2, 3\]; expected \[2, 2\]"):
        make(kappa=(0.25,), tensors={"blocks.0.self_attn.sla2.alpha": normal(2, 3)})


# ---- refusals -----------------------------------------------------------------------------------------------------------------

A = "blocks.0.self_attn.sla2."
WRONG = {
    "no pack": ({"format": None}, None, "metadata format is None; expected 'libsla2.router_pack'.*load_sla1"),
    "no version": ({"version": "x"}, None, "metadata version is 'x'; expected a number"),
    "without sizes": ({"heads": None, "base_shapes": None}, None, "metadata lacks heads, base_shapes"),
    "no number": ({"layers": "many"}, None, "metadata layers is 'many', which cannot be read"),
    "kappa": ({"kappa": "0,2"}, None, "kappa is .*; expected different fractions above 0"),
    "kappa twice": ({"kappa": "0.1,0.10001"}, None, "kappa is .*; expected different fractions"),
    "mode": ({"mode": "sla3"}, None, "mode is 'sla3'; expected one of sla2, sla1"),
    "phi": ({"phi": "elu"}, None, "phi is 'elu'; expected one of softmax"),
    "rope": ({"rope": "pre"}, None, "rope is 'pre'; expected one of post"),
    "blocks": ({"block_k": "24"}, None, "block_k is 24; expected one of 16, 32, 64, 128"),
    "grid": ({"grid": "3x4"}, None, "grid is .*; expected three counts"),
    "block without grid": ({"alpha_mode": "block"}, {}, "alpha_mode block without a grid"),
    "schedule": ({"schedule": "layers 1: fast"}, None, "the schedule cannot be read: .*expected full, sla2"),
    "errors": ({"errors": "[1]"}, None, "errors is list; expected a JSON object"),
    "unknown tensor": ({}, {A + "beta": normal(2)}, "tensor 'blocks.0.self_attn.sla2.beta' is unknown"),
    "a model's tensor": ({}, {"blocks.0.self_attn.q.weight": normal(4, 4)}, "tensor 'blocks.0.self_attn.q.weight' is unknown"),
    "layer": ({}, {"blocks.3.self_attn.sla2.alpha": normal(2, 2)}, "of a layer beyond the last; the pack has layers 0 to 2"),
    "layer 01": ({}, {"blocks.01.self_attn.sla2.alpha": normal(2, 2)}, "beyond the last"),
    "shape": ({}, {A + "alpha": normal(2, 3)}, r"alpha has shape \[2, 3\]; expected \[2, 2\]"),
    "NaN": ({}, {A + "alpha": np.array([[1, np.nan], [0, 0]], np.float32)}, "alpha holds NaN or infinity"),
    "infinity": ({}, {A + "alpha": np.array([[1, np.inf], [0, 0]], np.float32)}, "alpha holds NaN or infinity"),
    "half a router": ({}, {A + "proj_q": normal(1, 32, 32)}, "has proj_q; expected proj_q and proj_k"),
    "mixed routers": ({}, {A + "proj_q": normal(1, 32, 32), A + "proj_k.up": normal(1, 32, 2)}, "expected proj_q and proj_k, or"),
    "heads differ": ({}, {A + "proj_q": normal(1, 32, 32), A + "proj_k": normal(2, 32, 32)}, "disagree in heads or rank"),
    "alpha of no kappa": ({"kappa": "0.25,0.1"}, {A + "alpha": normal(2, 2)}, "fits no kappa of 0.25,0.1; expected alpha.k2500, alpha.k1000"),
    "some kappas": ({"kappa": "0.25,0.1"}, {A + "alpha.k1000": normal(2, 2)}, "has alpha for 1 of 2 kappas"),
    "projection": ({}, {A + "proj_l.weight": normal(32, 32)}, "belongs to mode sla1, the pack's mode is sla2"),
    "alpha of another mode": ({"mode": "pooled"}, {A + "alpha": normal(2, 2)}, "belongs to mode sla2, the pack's mode is pooled"),
    "router of another mode": ({"mode": "linear_only"}, {A + "proj_q": normal(1, 32, 32)}, "the pack's mode is linear_only"),
    "bias alone": ({"mode": "sla1"}, {A + "proj_l.bias": normal(32)}, "proj_l.bias without proj_l.weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_pack_is_refused_with_a_sentence(tmp_path, what):
    changes, tensors, message = WRONG[what]
    path = write(tmp_path / "wrong.sla2.safetensors", tensors, **changes)
    with pytest.raises(sla2.FileFormatError, match=message) as caught:
        packs.RouterPack.load(path)
    assert str(path) in str(caught.value)


def test_files_that_are_none(tmp_path):
    whole = write(tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    path = tmp_path / "b"
    for size in (0, 5, 8, 8 + length // 2, 8 + length, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(sla2.FileFormatError, match="truncated or no safetensors file"):
            packs.RouterPack.load(path)
    hostile = [
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
        *(
            struct.pack("<Q", len(text)) + text + bytes(64)
            for text in (
                json.dumps({"x": entry}).encode()
                for entry in (
                    {"dtype": "F32", "shape": [4]},
                    {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]},
                    {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
                    {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 16]},
                    {"dtype": "F32", "shape": [40], "data_offsets": [0, 160]},
                    {"dtype": "X7", "shape": [4], "data_offsets": [0, 16]},
                    "text",
                )
            )
        ),
    ]
    for data in hostile:
        path.write_bytes(data)
        with pytest.raises(sla2.FileFormatError, match=str(path)):
            packs.RouterPack.load(path)
    overlapping = json.dumps({name: {"dtype": "F32", "shape": [4], "data_offsets": [8 * i, 8 * i + 16]} for i, name in enumerate("ab")})
    path.write_bytes(struct.pack("<Q", len(overlapping)) + overlapping.encode() + bytes(64))
    with pytest.raises(sla2.FileFormatError, match="tensors overlap"):
        packs.RouterPack.load(path)
    with pytest.raises(sla2.FileMissingError, match="no such file"):
        packs.RouterPack.load(tmp_path / "nowhere")
    with pytest.raises(sla2.VersionError, match="version 2; this library reads version 1: update"):
        packs.RouterPack.load(write(path, version="2"))


def test_another_model_is_named_with_both_geometries():
    pack = make()
    assert pack.check(layers=3, heads=2, head_dim=32, base_shapes="ab" * 32, base_weights="cd" * 32) == []
    with pytest.raises(sla2.ModelMismatchError, match=r"3 layers of 2 heads with 32 channels \(tiny\), this model has 30 layers of 12"):
        pack.check(layers=30, heads=12, head_dim=128)
    with pytest.raises(sla2.ModelMismatchError, match=r"base_shapes abababababab…, this model has efefefefefef…"):
        pack.check(layers=3, heads=2, head_dim=32, base_shapes="ef" * 32)
    assert "fine for a fine-tune" in pack.check(layers=3, heads=2, head_dim=32, base_weights="00")[0]
    assert "expect broken results" in make(stage=2).check(layers=3, heads=2, head_dim=32, base_weights="00")[0]
    assert "requires the LoRA or weights with SHA-256 12ab; whether" in make(requires="12ab").check(layers=3, heads=2, head_dim=32)[0]
    tied = make(alpha_mode="block", kappa=(0.25,), tensors={})
    assert tied.check(layers=3, heads=2, head_dim=32, grid=(3, 4, 5)) == []
    with pytest.raises(sla2.ModelMismatchError, match="each query block of 3x4x5 tokens .* has 3x4x6"):
        tied.check(layers=3, heads=2, head_dim=32, grid=(3, 4, 6))


# ---- fingerprints -------------------------------------------------------------------------------------------------------------


def test_fingerprints_are_the_pages(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {(i, part): torch.randn(6, 4) for i in range(3) for part in "qk"}
    weights[0, "q"][0] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 3.0])  # ties, to even
    shapes = "".join(f"blocks.{i}.self_attn.{part}.weight:6x4\n" for i in range(3) for part in "qk")
    expected = (
        hashlib.sha256(shapes.encode()).hexdigest(),
        hashlib.sha256(weights[0, "q"].to(torch.bfloat16).view(torch.int16).numpy().tobytes()).hexdigest(),
    )
    namings = {
        "original": "blocks.{}.self_attn.{}.weight",
        "comfy": "model.diffusion_model.blocks.{}.self_attn.{}.weight",
        "diffusers": "blocks.{}.attn1.to_{}.weight",
        "lora": "blocks.{}.attn1.to_{}.base_layer.weight",
    }
    for name, pattern in namings.items():
        state = {pattern.format(i, part): value for (i, part), value in weights.items()}
        state |= {"vace_blocks.0.attn1.to_q.weight": torch.randn(9, 9), "blocks.0.attn2.to_q.weight": torch.randn(9, 9)}
        assert packs.fingerprints(state) == expected, name
        arrays = {key: value.numpy() for key, value in state.items()}
        save_file(arrays, str(tmp_path / "m.safetensors"))
        assert packs.fingerprints(tmp_path / "m.safetensors") == expected
        parts = tmp_path / name
        parts.mkdir()
        for n, half in enumerate((sorted(arrays)[::2], sorted(arrays)[1::2])):
            save_file({key: arrays[key] for key in half}, str(parts / f"part{n}.safetensors"))
        assert packs.fingerprints(parts) == expected
    with pytest.raises(sla2.FileFormatError, match=r"has no blocks\.0\.self_attn\.q\.weight"):
        packs.fingerprints({"a": np.zeros(3)})


# ---- SLA v1 -------------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "turbo": "blocks.{}.self_attn.attn_op.local_attn.proj_l.{}",
    "turbo trained": "net.blocks.{}.self_attn.attn_op.local_attn.proj_l.{}",
    "fastvideo": "blocks.{}.attn1.attn_impl.proj_l.{}",
}


def sla1_state(layout, layers=2):
    names = LAYOUTS[layout]
    q = "blocks.0.attn1.to_q.weight" if layout == "fastvideo" else names.split("blocks")[0] + "blocks.0.self_attn.q.weight"
    state = {names.format(i, "weight"): normal(32, 32) for i in range(layers)} | {
        names.format(i, "bias"): normal(32) for i in range(layers)
    }
    return state | {q: normal(96, 96), "head.head.weight": normal(4, 4)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sla1_weights_become_a_pack(tmp_path, layout):
    state = sla1_state(layout)
    save_file(state, str(tmp_path / "w.safetensors"))
    found = sla2.load_sla1(tmp_path / "w.safetensors")
    assert (found.layers, found.heads, found.head_dim, found.mode, found.linear_scope) == (2, 3, 32, "sla1", "global")
    assert (found.block_q, found.block_k, found.smooth_k) == (128, 64, False)
    assert np.array_equal(found.layer(1)["proj"], state[LAYOUTS[layout].format(1, "weight")])
    assert np.array_equal(found.layer(1)["proj_bias"], state[LAYOUTS[layout].format(1, "bias")])
    found.save(tmp_path / "p.sla2.safetensors")
    again = packs.RouterPack.load(tmp_path / "p.sla2.safetensors")
    assert again.base_shapes == found.base_shapes and np.array_equal(again.layer(0)["proj"], found.layer(0)["proj"])
    torch = pytest.importorskip("torch")
    tensors = {key: torch.from_numpy(value).bfloat16() for key, value in state.items()}
    torch.save({"state_dict": tensors} if layout == "turbo trained" else tensors, tmp_path / "w.pth")
    again = sla2.load_sla1(tmp_path / "w.pth")
    assert np.array_equal(again.layer(0)["proj"], tensors[LAYOUTS[layout].format(0, "weight")].float().numpy())


def test_sla1_files_that_cannot_be_used(tmp_path, monkeypatch):
    def refused(state, error, match, **options):
        save_file(state, str(tmp_path / "w.safetensors"))
        with pytest.raises(error, match=match):
            sla2.load_sla1(tmp_path / "w.safetensors", **options)

    state = sla1_state("turbo", 3)
    refused({"a": normal(2)}, sla2.FileFormatError, "holds no proj_l weights")
    lacking = {key: value for key, value in state.items() if "blocks.1." not in key}
    refused(lacking, sla2.FileFormatError, "layers 1 have no proj_l.weight")
    refused(
        {**state, "blocks.0.attn1.attn_impl.proj_l.bias": normal(32)},
        sla2.FileFormatError,
        r"is the second blocks\.0\.self_attn\.sla2\.proj_l\.bias",
    )
    refused({**state, LAYOUTS["turbo"].format(2, "bias"): normal(16)}, sla2.ModelMismatchError, "expected a projection of 32 channels")
    bare = {key: value for key, value in state.items() if "proj_l" in key}
    refused(bare, sla2.ModelMismatchError, "give heads=")
    assert sla2.load_sla1(tmp_path / "w.safetensors", heads=4).heads == 4
    refused({**bare, LAYOUTS["turbo"].format(0, "weight"): np.full((32, 32), np.nan, np.float32)}, sla2.FileFormatError, "NaN", heads=4)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "code ran"), "w"))

    torch = pytest.importorskip("torch")
    torch.save({"a": Evil()}, tmp_path / "w.pth")
    (tmp_path / "code ran").unlink(missing_ok=True)  # saving may call it; opening may not
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:200])
    for name in ("w.pth", "damaged.pth"):
        with pytest.raises(sla2.FileFormatError, match="more than tensors, or is damaged"):
            sla2.load_sla1(tmp_path / name)
    assert not (tmp_path / "code ran").exists()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(sla2.UnsupportedError, match="torch is not installed: install it, or convert"):
        sla2.load_sla1(tmp_path / "w.pth")
    with pytest.raises(sla2.FileMissingError):
        sla2.load_sla1(tmp_path / "nowhere.pth")


# ---- schedules and policies ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_world():
    return sla2.Model.load(ROOT / "presets/models/small_world")


BAD = ["sla3", "layers 5-3: full", ": full", "steps a: full", "sla2@2", "sla2@", "step 3: full", "layers 1,: full", "steps 3-1: full"]
BAD += ["steps 0-120%: full", "steps 0.5-2: full", "layers x: full", "sla2@nan", "steps : full", "layers: full", "steps -1-3: full"]
BAD += ["everywhere: full", "sla2; layers 0 : ful", "layers 0-1-2: full", "steps 1-2 layers : full", "sla2 @ .9.9", "steps 1e: full"]
GOOD = [
    "",
    "full",
    "sla2@0.9; layers 0,-1: full; steps 0-20%: full",
    "steps 3: full",
    "steps 0 - 10 % layers -4--2 : sparse_only @ 0.8;;\n full",
]
BAD += ["sla2 bits=9", "sla2 router=given", "sla2@0.9 bits=8 tau=1", "bits=8", "layers 0: sla3 bits=8", "sla2@x router=vsa", "sla2 =8"]
GOOD += ["sla2@0.9 bits=8; layers 1: sla2 @ 0.5 \t router=vmoba  bits=16", "layers 0: full bits=8"]
GOOD += ["layers 2--1: pooled", "steps 0-100%:linear_only", "layers 1-2, 4: l_plus_s@1", "sla1@0.5", "steps 0-1e1: full"]


@pytest.mark.parametrize("text", BAD)
def test_the_tool_refuses_the_same_schedules_in_the_same_words(small_world, text):
    with pytest.raises(sla2.ArgumentError) as theirs:
        small_world.generate("a ball", attention_schedule=text)
    with pytest.raises(sla2.ArgumentError) as ours:
        schedule.parse(text)
    assert str(ours.value) in str(theirs.value)


@pytest.mark.parametrize("text", GOOD)
def test_the_tool_reads_the_same_schedules(small_world, text):
    with small_world.generate("a ball", attention_schedule=text):
        schedule.parse(text)


def test_rules_by_hand():
    """20 steps, 30 layers, from the grammar's words."""
    first, second, third = schedule.parse("steps 0-20%: full; layers 0,-2--1: pooled; steps 3-5 layers 10-12: sla1")
    assert [step for step in range(20) if first.fits(step, 20, 7, 30)] == [0, 1, 2, 3]
    assert [layer for layer in range(30) if second.fits(0, 20, layer, 30)] == [0, 28, 29]
    assert [(s, i) for s in range(20) for i in range(30) if third.fits(s, 20, i, 30)] == [(s, i) for s in (3, 4, 5) for i in (10, 11, 12)]
    assert not second.fits(0, 20, 30, 30) and schedule.parse("layers 31: full")[0].fits(0, 20, 31, 30)


def test_policies_by_hand(tmp_path):
    sizes = {"layers": 30, "heads": 12, "head_dim": 128}
    balanced = policy.resolve(**sizes, preset="balanced")
    assert (balanced.bits, balanced.at(0, 20, 7), balanced.at(4, 20, 7)) == (8, policy.FULL, ("sla2", 0.72))
    assert balanced.at(19, 20, 7) == balanced.at(4, 20, 0) == balanced.at(4, 20, 29) == policy.FULL and balanced.at(4, 20, 31)[0] == "sla2"
    assert policy.resolve(**sizes, preset=ROOT / "presets/max.json", sparsity=0.5).at(9, 20, 5).sparsity == 0.5
    assert policy.resolve(**sizes, preset={"attention": "pooled", "sparsity": 0.6}).at(0, 1, 5) == ("pooled", 0.6)
    for off in ({"sparsity": 0}, {"mode": "off"}, {"mode": "full"}, {"schedule": "full"}):
        assert policy.resolve(**sizes, **off).at(0, 1, 3) == policy.FULL
    assert policy.resolve(**sizes, mode="linear_only", sparsity=0).at(0, 1, 3).mode == "linear_only"
    wrong = {
        "unknown setting sparsty": {"sparsty": 1},
        "sparsity is 1.5; expected a number from 0 to 1": {"sparsity": 1.5},
        "mode is 'sla9'; expected one of full, sla2": {"mode": "sla9"},
        "block_q is 48; expected one of 32, 64, 128": {"block_q": 48},
        "token_order is 'spiral'": {"token_order": "spiral"},
        "min_tokens is -1; expected a whole number": {"min_tokens": -1},
        "layer 30 is unknown; the model has layers 0 to 29": {"schedule": "layers 0-30: full"},
        "layer -31 is unknown": {"schedule": "layers -31: full"},
        "has no attention part": {"preset": "wan-4step-none"},
    }
    (tmp_path / "wan-4step-none.json").write_text('{"params": {"steps": 4}}')
    for message, settings in wrong.items():
        if settings.get("preset"):
            settings = {"preset": tmp_path / "wan-4step-none.json"}
        with pytest.raises(sla2.ArgumentError, match=message):
            policy.resolve(**sizes, **settings)
    with pytest.raises(sla2.FileMissingError, match="expected a JSON file or one of .*balanced"):
        policy.resolve(**sizes, preset="balnced")


def test_a_pack_decides_and_contradictions_are_named():
    sizes = {"layers": 3, "heads": 2, "head_dim": 32}
    pack = make(token_order="tile:4x4x4", schedule="layers 1: pooled")
    found = policy.resolve(**sizes, pack=pack)
    assert (found.block_q, found.block_k, found.token_order, found.bits, found.sparsity) == (32, 16, "tiles", 8, 0.75)
    assert found.at(0, 1, 1) == ("pooled", 0.75) and found.at(0, 1, 0) == ("sla2", 0.75)
    arguments = found.arguments(0, policy.Choice("sla2", 0.75))
    assert np.array_equal(arguments["mix_values"], pack.tensors["blocks.0.self_attn.sla2.alpha.k2500"]) and arguments["smooth_k"] is False
    assert set(found.arguments(1, policy.Choice("pooled", 0.75))) >= {"router_q", "router_k"}
    assert "mixing numbers of 0.9 are used" in policy.resolve(**sizes, pack=pack, sparsity=0.95).notes[0]
    assert policy.resolve(**sizes, pack=pack, schedule="steps 0-1: full", bits=16, sparsity=0.9).notes == ()
    for settings in ({"block_q": 64}, {"token_order": "raster"}, {"mode": "sparse_only"}, {"preset": {"attention": "sla1"}}):
        with pytest.raises(sla2.ArgumentError, match="contradicts the router pack, which was made with"):
            policy.resolve(**sizes, pack=pack, **settings)
    with pytest.raises(sla2.ArgumentError, match='the rule "layers 0: sla1" contradicts the router pack'):
        policy.resolve(**sizes, pack=pack, schedule="layers 0: sla1")
    with pytest.raises(sla2.ModelMismatchError, match="this model has 4 layers"):
        policy.resolve(layers=4, heads=2, head_dim=32, pack=pack)


def test_packs_need_no_torch_and_the_package_stays_quick():
    code = "import sys, sla2, sla2.packs, sla2.policy, sla2.schedule; assert not {'torch', 'diffusers'} & set(sys.modules); sla2.RouterPack"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(build_dir() / "bindings")}, check=True)
    code = "import time; t = time.perf_counter(); import sla2; print(time.perf_counter() - t)"
    seconds = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], env={"PYTHONPATH": str(build_dir() / "bindings")}, check=True, capture_output=True
            ).stdout
        )
        for _ in range(3)
    ]
    assert min(seconds) < 0.3
