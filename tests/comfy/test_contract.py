# SPDX-License-Identifier: Apache-2.0
"""The nodes' logic against a double of core's hook: which calls are taken, what happens to the others, what the report says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import sla2
import torch
from double import HEAD_DIM, HEADS, Wan, World, backend, optimized_attention
from reference import sla2 as reference
from sla2_nodes import attend, chain, wrapper
from sla2_nodes.engine import Plan
from sla2_nodes.settings import Settings

torch.set_num_threads(1)


def test_self_attention_is_taken_and_cross_attention_is_not():
    world = World()
    out = world.run()
    assert world.total["sparse"] == 2 and world.total["other_calls"] == 2 and world.total["forwards"] == 1
    assert (out - world.dense()).abs().max() > 1e-3
    assert sorted(world.layers) == ["0", "1"]


@pytest.mark.parametrize("tells", [True, False])
def test_result_is_sla2s_by_an_independent_reference(tells):
    def patched(func: Any, q: Any, k: Any, v: Any, heads: int, **kwargs: Any) -> Any:
        if q.shape != k.shape:
            return func(q, k, v, heads, **kwargs)
        q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))
        return reference(q, k, v, 0.75).float().flatten(2)

    world = World(Wan(tells=tells))
    ours = world.run()
    world.options = {chain.HOOK: patched}
    torch.testing.assert_close(ours, world.run(), rtol=2e-5, atol=2e-5)


def test_keep_100_gives_the_same_bits():
    world = World(keep_percent=100.0)
    assert torch.equal(world.run(), world.dense())
    assert world.total["reasons"] == {"keep_percent 100 keeps every key block": 2}


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("image", [0, 257])
def test_a_clip_as_long_as_its_text(tells, image):
    world = World(Wan(tells=tells))
    world.run(grid=(8, 8, 8), text=512, image=image)
    assert world.total["sparse"] == 2, "the first call of a block is its self-attention"
    assert world.total["other_calls"] == (4 if image else 2)


def test_equal_lengths_with_nobody_to_tell_them_apart_stay_dense():
    world = World()
    q = torch.randn(1, 512, HEADS * HEAD_DIM)
    world.options.pop("sla2_forward", None)
    assert torch.equal(optimized_attention(q, q, q, heads=HEADS, transformer_options=world.options), backend(q, q, q, HEADS))
    assert world.total["sparse"] == 0


def pack(**words: Any) -> Any:
    return sla2.RouterPack(layers=2, heads=HEADS, head_dim=HEAD_DIM, kappa=(0.25,), base_shapes="0" * 64, **words)


@pytest.mark.parametrize("tells", [True, False])
def test_vace_layers_never_get_a_layers_weights(tells):
    world = World(Wan(vace=True, tells=tells), pack=pack())
    world.run()
    layers = world.layers
    assert layers["0"]["sparse"] == layers["1"]["sparse"] == 1
    assert layers["0 VACE"]["reasons"] == {"VACE layers have no entry in the router pack": 1}
    free = World(Wan(vace=True, tells=tells))
    free.run()
    assert free.layers["1 VACE"]["sparse"] == 1, "without a pack there is nothing to mix up"


def test_a_pack_without_block_numbers_stays_dense():
    world = World(Wan(tells=False), pack=pack())
    assert torch.equal(world.run(wrappers=()), world.dense(wrappers=()))
    assert list(world.total["reasons"]) == ["a router pack is set and this model does not tell its blocks"]


def test_a_setting_against_the_pack_is_refused():
    with pytest.raises(ValueError, match="pooled"):
        Plan(Settings(mode="pooled"), pack())
    with pytest.raises(ValueError, match="tiles"):
        Plan(Settings(token_order="tiles"), pack())
    with pytest.raises(ValueError, match="sla1"):
        Plan(Settings(mode="sla1"))
    assert Plan(Settings(), pack(token_order="tile:4x4x4")).order == "tiles"


def test_declined_calls_go_to_the_override_before():
    seen = []

    def previous(func: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(args[0].shape == args[1].shape)
        return func(*args, **kwargs)

    world = World(previous=previous, dense_blocks="0")
    world.run()
    assert seen == [True, False, False], "block 0 dense, and both cross-attentions"


def test_a_second_node_takes_the_first_ones_place():
    world = World()
    hook = world.options[chain.HOOK]
    second = attend.Attend(sla2, Plan(Settings(keep_percent=50.0, start_percent=0.0, min_tokens=0)))
    chain.install(world.options, second)
    assert world.options[chain.HOOK] is hook
    world.run()
    assert world.total["self_attention_calls"] == 0 and second.report.to_dict()["total"]["sparse"] == 2


def test_found_below_another_packs_override_and_twice_in_the_chain():
    world = World(keep_percent=100.0)
    ours = world.options[chain.HOOK]
    world.options[chain.HOOK] = chain.make_override(lambda func, *args, **kwargs: ours(func, *args, **kwargs))
    assert torch.equal(world.run(), world.dense())
    assert world.total["self_attention_calls"] == 2 and world.total["other_calls"] == 2, "each call counted once"


def test_an_override_that_took_the_hook_comes_second_from_the_next_pass_on():
    world, calls = World(), []

    def greedy(func: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return func(*args, **kwargs)

    world.options[chain.HOOK] = greedy
    world.run()
    assert world.total["sparse"] == 0 and len(calls) == 4
    world.run()
    assert world.total["sparse"] == 2 and len(calls) == 6 and world.options[chain.HOOK] is greedy
    assert "another node" in world.active.report.notes[0]


def test_nothing_stays_behind():
    world = World(Wan(tells=False))
    before = dict(world.options)
    world.run()
    assert world.options == before
    assert not any(block._forward_pre_hooks for block in world.model.blocks)


def test_clones_share_the_report():
    world = World()
    assert copy.deepcopy(world.options)[attend.KEY] is world.active


class Container:
    """As newer cores pass q, k and v: a tensor to look at, or to take once."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def peek(self) -> Any:
        return self.tensor


@pytest.mark.parametrize("layout", ["BND", "BHND", "BHND out", "containers"])
def test_layouts_of_the_hook(layout):
    world = World()
    q, k, v = (torch.randn(2, 300, HEADS * HEAD_DIM) for _ in range(3))
    plain = optimized_attention(q, k, v, heads=HEADS, transformer_options=world.options)
    words: dict[str, Any] = {"skip_reshape": layout.startswith("BHND"), "skip_output_reshape": layout.endswith("out")}
    if words["skip_reshape"]:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    if layout == "containers":
        q, k, v = Container(q), Container(k), Container(v)
    out = world.options[chain.HOOK](backend, q, k, v, HEADS, transformer_options=world.options, **words)
    out = out.transpose(1, 2).flatten(2) if words["skip_output_reshape"] else out
    assert torch.equal(out, plain) and world.total["sparse"] == 2


def call(world: World, head_dim: int = HEAD_DIM, dtypes: Any = (torch.float32,) * 3, **words: Any) -> Any:
    q, k, v = (torch.randn(1, 300, HEADS * head_dim).to(dtype) for dtype in dtypes)
    return world.options[chain.HOOK](lambda *_, **__: "dense", q, k, v, HEADS, transformer_options=world.options, **words)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"mask": torch.ones(300, 300)}, "a mask is present"),
        ({"head_dim": 20}, "head size 20"),
        ({"dtypes": (torch.float32, torch.float32, torch.float16)}, "mixed element types"),
        ({"window": 3}, "unknown arguments: window"),
        ({"dtypes": (torch.float64,) * 3}, "Error"),
    ],
)
def test_what_cannot_be_done_stays_dense_with_a_reason(words, reason, caplog):
    world = World(verbose=True)
    assert call(world, **words) == "dense" and call(world, **words) == "dense"
    (said,) = world.total["reasons"]
    assert reason in said and world.total["reasons"][said] == 2
    assert caplog.text.count("stay dense") == 1


def test_the_image_part_of_cross_attention_is_not_ours():
    world = World()
    assert call(world, low_precision_attention=False) == "dense" and world.total["other_calls"] == 1


def test_without_the_wheel_everything_stays_dense():
    world = World(sla2=False)
    assert torch.equal(world.run(), world.dense())
    assert list(world.total["reasons"]) == ["the sla2 wheel is missing or does not fit"]
    assert "did nothing" in world.active.report.summary()


SIGMAS = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])


@pytest.mark.parametrize(
    ("settings", "sparse_steps"),
    [
        ({}, [0, 1, 2, 3]),
        ({"dense_first_steps": 1}, [1, 2, 3]),
        ({"dense_last_steps": 2}, [0, 1]),
        ({"dense_first_steps": 3, "dense_last_steps": 3}, []),
        ({"window": (0.9, 0.5)}, [1, 2]),
    ],
)
def test_steps_that_stay_dense(settings, sparse_steps):
    window = settings.pop("window", (2.0, 0.0))
    world = World(**settings)
    world.active.window = window
    found = []
    for step in range(4):
        before = world.total["sparse"]
        world.options |= {"sigmas": SIGMAS[step : step + 1], "sample_sigmas": SIGMAS}
        world.run()
        found += [step] if world.total["sparse"] > before else []
    assert found == sparse_steps


def test_a_sigma_between_two_steps_belongs_to_the_first():
    world = World(dense_first_steps=2)
    world.options |= {"sigmas": torch.tensor([0.8]), "sample_sigmas": SIGMAS}
    world.run()
    assert world.total["reasons"] == {"dense_first_steps": 2}


@pytest.mark.parametrize(("text", "dense"), [("0", ["0"]), ("-1", ["1"]), ("0, -1", ["0", "1"]), ("0-5", ["0", "1"]), ("7", [])])
def test_dense_blocks(text, dense):
    world = World(dense_blocks=text)
    world.run()
    assert [layer for layer, row in world.layers.items() if row["dense"]] == dense


@pytest.mark.parametrize("text", ["x", "1;2", "5-2", "1--2"])
def test_dense_blocks_that_are_no_list(text):
    with pytest.raises(ValueError, match="dense_blocks"):
        Settings(dense_blocks=text)


@pytest.mark.parametrize("order", ["tiles", "hilbert"])
@pytest.mark.parametrize(("reference_tokens", "suffix"), [(0, 0), (40, 0), (0, 70)])
def test_token_orders_move_only_the_video(order, reference_tokens, suffix):
    """The permuted call by hand: video tokens reordered in place, others kept as blocks that every query sees."""
    grid, seen = (5, 8, 10), {}
    world = World(Wan(reference=reference_tokens, suffix=suffix), token_order=order)
    real = sla2.attention

    def spy(q: Any, k: Any, v: Any, **words: Any) -> Any:
        seen["q"], seen["words"] = q, words
        return real(q, k, v, **words)

    world.active.sla2 = type("Wheel", (), {"attention": staticmethod(spy), "token_order": staticmethod(sla2.token_order)})
    x = torch.randn(1, HEADS * HEAD_DIM, *grid)
    context = torch.randn(1, 7, HEADS * HEAD_DIM)
    world.model.blocks = torch.nn.ModuleList([world.model.blocks[0]])
    extra = {"reference_latent": x} if reference_tokens else {}
    world.model(x, None, context, None, world.options, **extra)
    tokens = x.flatten(2).transpose(1, 2)
    beside = torch.ones(1, reference_tokens + suffix, tokens.shape[2])
    ordered = tokens[:, torch.from_numpy(sla2.token_order(order, grid)).long()]
    expected = torch.cat((beside, ordered) if reference_tokens else (ordered, beside), 1)
    assert torch.equal(seen["q"].flatten(2), expected)
    assert seen["words"].get("protect_first") == (1 if reference_tokens else None)
    assert seen["words"].get("protect_last") == (2 if suffix else None)
    assert world.total["sparse"] == 1


def test_orders_give_back_every_row_to_its_place():
    world = World(keep_percent=99.9, token_order="hilbert")  # all blocks kept in effect: equals dense, row by row
    torch.testing.assert_close(world.run(), world.dense(), rtol=1e-4, atol=1e-4)


def test_probe_reports_the_error_per_layer():
    world = World(probe_percent=50.0)
    world.run()
    assert all(0 < row["probe_relative_l1"] < 1 for row in world.layers.values())


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_batches_of_cond_and_uncond(batch):
    world = World()
    together = world.run(batch=batch)
    assert together.shape[0] == batch and world.total["sparse"] == 2


def test_compile_leaves_the_decision_to_each_call():
    world = World()
    compiled = torch.compile(lambda q: optimized_attention(q, q, q, heads=HEADS, transformer_options=world.options) * 2, backend="eager")
    q = torch.randn(1, 300, HEADS * HEAD_DIM)
    first = compiled(q)
    world.active.plan = Plan(Settings(keep_percent=100.0))
    assert torch.equal(compiled(q), backend(q, q, q, HEADS) * 2) and not torch.equal(first, compiled(q))


def test_threads_share_one_model():
    from concurrent.futures import ThreadPoolExecutor

    world = World()
    expected = world.run()
    with ThreadPoolExecutor(4) as pool:
        models = [World() for _ in range(4)]
        for each in models:
            chain.install(each.options, world.active)
        results = list(pool.map(lambda each: each.run(), models))
    assert all(torch.equal(result, expected) for result in results) and world.total["sparse"] == 10


def test_wrappers_of_others_still_run():
    seen = []

    def other(executor: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return executor(*args, **kwargs)

    world = World()
    world.run(wrappers=(other, wrapper.around_model, other))
    assert seen == [1, 1] and world.total["sparse"] == 2


def test_an_exception_in_mid_pass_leaves_nothing_behind():
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    world = World(Wan(tells=False), previous=interrupt)
    before = dict(world.options)
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert world.options == before and not any(block._forward_pre_hooks for block in world.model.blocks)


def test_report_as_text_and_json():
    world = World(dense_blocks="1")
    world.run()
    facts, text = world.active.report.to_dict(), str(world.active.report)
    assert facts["total"]["self_attention_calls"] == sum(row["calls"] for row in facts["layers"]) == 2
    assert facts["layers"][1]["reasons"] == {"dense_blocks": 1} and "dense_blocks (1)" in text
    assert facts["layers"][0]["sparsity"] == pytest.approx(1 - 2 / 7) and "71.4%" in text


def test_samplers_of_one_prompt_share_a_report_and_prompts_do_not():
    world = World()
    for run, expected in (("a", 2), ("a", 4), ("b", 2), (None, 2), (None, 2)):
        world.active.begin_run(run, (2.0, 0.0))
        world.run()
        assert world.total["sparse"] == expected


def test_beside_cores_own_sparse_node_says_so():
    world = World()
    ours = world.options[chain.HOOK]

    def core_sparse(func: Any, *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs) if args[0].shape == args[1].shape else ours(func, *args, **kwargs)

    core_sparse.__module__ = "comfy_extras.nodes_sparse_attention"
    world.options[chain.HOOK] = core_sparse
    world.run()
    assert "use one of the two" in world.active.report.summary()


@pytest.mark.parametrize("kind", ["picture", "joint"])
def test_other_models_stay_dense(kind, monkeypatch):
    """Pictures, and models that are not Wan's with text tokens beside the video: nobody tells which are which."""
    from sla2_nodes import forward

    world, begin = World(Wan(suffix=30)), forward.begin

    def stranger(*args: Any) -> Any:
        found = begin(*args)
        found.wan = False
        return found

    monkeypatch.setattr(forward, "begin", stranger)
    if kind == "joint":
        world.run()
    else:
        x, context = torch.randn(1, HEADS * HEAD_DIM, 20, 20), torch.randn(1, 7, HEADS * HEAD_DIM)
        world.model(x, None, context, None, world.options)
    (reason,) = world.total["reasons"]
    assert reason.startswith({"picture": "the video grid", "joint": "tokens beside the video"}[kind]) and world.total["sparse"] == 0
