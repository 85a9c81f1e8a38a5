# SPDX-License-Identifier: Apache-2.0
"""The pack in ComfyUI's real server, by prompts. Random checkpoints; the truth is core without the node, and SLA2 in fp64."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COMFYUI, ROOT
from graphs import SPARSE, node, referenced, sparse, video
from server import PromptError, Server, make_base
from workflows import WORKFLOWS, widget_values

pytestmark = pytest.mark.skipif(not COMFYUI, reason="SLA2_COMFYUI_DIR is not set: no ComfyUI to test with")
NODES = {"SLA2Attention", "SLA2Report", "SLA2Calibrate", "SLA2MaskView", "SLA2WanGenerate"}
MAKE = """
import comfy_process, tiny_wan, safetensors.torch, sys
for kind in ("t2v", "i2v"):
    safetensors.torch.save_file(tiny_wan.state_dict(kind), f"{sys.argv[1]}/{kind}.safetensors")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    base = make_base(tmp_path_factory.mktemp("comfyui"))
    shutil.copytree(ROOT / "presets/models/small_world", base / "models/sla2/small_world")
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {MAKE}",
        str(base / "models/diffusion_models"),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent)
    return base


@pytest.fixture(scope="module")
def server(base: Path) -> Any:
    server = Server(Path(COMFYUI), base)
    yield server
    server.stop()


@pytest.fixture()
def run(server: Server, tmp_path: Path) -> Any:
    """run(graph made from a path) -> latent, outputs."""
    count = 0

    def run(make: Any) -> tuple[Any, dict[str, Any]]:
        nonlocal count
        count += 1
        path = tmp_path / f"{count}.npy"
        outputs = server.run(make(str(path)))
        return np.load(path), outputs

    return run


def total(outputs: dict[str, Any]) -> str:
    return str(outputs["21"]["text"][0])


def test_every_node_loads(server: Server) -> None:
    info = server.get("/object_info")
    assert set(info) >= NODES
    ours = [line for line in server.log.splitlines() if "custom_nodes" in line and "sla2" in line]
    assert ours and not any("FAILED" in line or "Cannot import" in line for line in ours)
    for name in NODES:
        for group in ("required", "optional"):
            for key, words in info[name]["input"].get(group, {}).items():
                tip = words[1].get("tooltip") if len(words) > 1 else None
                assert tip, f"{name}.{key} has no tooltip"


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_workflows_have_no_missing_node(server: Server, name: str) -> None:
    """Every type is there, and our nodes have as many widgets as values were saved (also where a core lacks choices with inputs)."""
    info = server.get("/object_info")
    workflow = json.loads((ROOT / "comfy_nodes/example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    assert {entry["type"] for entry in workflow["nodes"]} <= set(info)
    for entry in workflow["nodes"]:
        if entry["type"] in NODES:
            assert len(entry["widgets_values"]) == len(widget_values(info[entry["type"]], {}))


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_video(run: Any, kind: str) -> None:
    image = kind == "i2v"

    def plain(path: str) -> Any:
        return video(path, checkpoint=f"{kind}.safetensors", image=image, seed=5)

    without, _ = run(plain)
    same, outputs = run(lambda path: sparse(plain(path), keep_percent=100.0))
    assert np.array_equal(without, same)
    assert "did nothing" in total(outputs)

    quarter, outputs = run(lambda path: sparse(plain(path)))
    truth, _ = run(lambda path: referenced(plain(path), 25.0))
    scale = np.abs(truth).max()
    assert np.abs(quarter - without).max() > 1e-3 * scale
    assert np.abs(quarter - truth).max() < 2e-5 * scale, "SLA2 in fp64 at the same place"
    # 3 steps of 2 layers, guided: one pass when both conditions fit into a batch, two otherwise; others are cross-attention.
    text = total(outputs)
    passes = int(text.split(" passes")[0].split("\n")[-1])
    assert passes in (3, 6) and text.startswith(f"{passes * 2} of {passes * 2} calls sparse")
    assert f"{passes * 2 * (2 if image else 1)} other attention calls" in text

    fewest, outputs = run(lambda path: sparse(plain(path), keep_percent=5.0))
    assert np.isfinite(fewest).all() and "calls sparse" in total(outputs)


def test_the_report_as_json_and_image(server: Server, tmp_path: Path) -> None:
    graph = sparse(video(str(tmp_path / "a.npy"), seed=6), probe_percent=50.0)
    graph["22"] = node("PreviewAny", source=["21", 1])
    graph["23"] = node("PreviewImage", images=["21", 2])
    outputs = server.run(graph)
    facts = json.loads(outputs["22"]["text"][0])
    assert facts["total"]["sparse"] == facts["total"]["self_attention_calls"] > 0
    assert all(0 < row["probe_relative_l1"] < 1 for row in facts["layers"]) and len(facts["layers"]) == 2
    assert outputs["23"]["images"]


def test_two_samplers_of_one_prompt_share_the_report_and_the_node_shows_it(server: Server, tmp_path: Path) -> None:
    import asyncio

    import aiohttp

    graph = sparse(video(str(tmp_path / "a.npy"), seed=21))
    graph["50"] = node("KSampler", **graph["5"]["inputs"] | {"latent_image": ["5", 0], "denoise": 0.5})
    graph["21"]["inputs"]["after"] = ["50", 0]

    async def run() -> tuple[dict[str, Any], list[bytes]]:
        said: list[bytes] = []
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws?clientId=test") as socket:
            waiting = asyncio.get_running_loop().run_in_executor(None, server.run, graph)
            while not waiting.done():
                try:
                    message = await socket.receive(timeout=0.5)
                except TimeoutError:
                    continue
                if message.type == aiohttp.WSMsgType.BINARY:
                    said.append(message.data)
            return waiting.result(), said

    outputs, said = asyncio.run(run())
    facts = [text for text in said if b"calls sparse" in text]
    assert facts and b"20" in facts[-1][:16], "a line in the node SLA2 Attention, number 20"
    passes = int(total(outputs).split(" passes")[0].split("\n")[-1])
    assert passes in (6, 12), "three steps of each of the two samplers"


def test_top_p_where_the_core_has_inputs_of_an_option(server: Server, run: Any) -> None:
    if "selection" not in json.dumps(server.get("/object_info/SLA2Attention")):
        pytest.skip("this core has no DynamicCombo")
    words = {"mode": "sparse_only", "mode.selection": "top_p", "mode.top_p": 0.5}
    _, outputs = run(lambda path: sparse(video(path, seed=7), **words))
    assert "calls sparse" in total(outputs)


def test_what_is_no_list_of_blocks_is_refused_before_the_run(server: Server, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="5-2"):
        server.run(sparse(video(str(tmp_path / "a.npy")), dense_blocks="5-2"))


def test_a_bad_pack_and_one_of_another_model_say_so(server: Server, base: Path, tmp_path: Path) -> None:
    import sla2

    (base / "models/sla2/bad.safetensors").write_bytes(b"no tensors here")
    other = sla2.RouterPack(layers=30, heads=12, head_dim=128, base_shapes="0" * 64)
    other.save(base / "models/sla2/other.safetensors")
    with pytest.raises(PromptError, match=r"bad\.safetensors"):
        server.run(sparse(video(str(tmp_path / "a.npy")), router_pack="bad.safetensors"))
    with pytest.raises(PromptError, match="30 layers of 12 heads"):
        server.run(sparse(video(str(tmp_path / "a.npy")), router_pack="other.safetensors"))


def test_mask_view(server: Server, tmp_path: Path) -> None:
    graph = sparse(video(str(tmp_path / "a.npy"), seed=8), token_order="tiles")
    graph["30"] = node(
        "SLA2MaskView", model=["20", 0], positive=["3", 0], latent=["5", 0], layer=-1, head=1, step_percent=0.5, seed=0,
        query_frame=0.5, query_height=0.5, query_width=0.5,
    )  # fmt: skip
    assert server.run(graph)["30"]["images"]
    graph["30"]["inputs"] |= {"head": 7}
    with pytest.raises(PromptError, match="heads 0 to 1"):
        server.run(graph)


def test_calibrate_writes_a_pack_that_attention_uses(server: Server, base: Path, tmp_path: Path) -> None:
    """The pack is used straight from the wire and from its file, with the same result, which is not that of the defaults."""
    latents = {}
    graph = sparse(video(str(tmp_path / "wire.npy"), seed=9), router_pack="none")
    graph["40"] = node(
        "SLA2Calibrate", model=["1", 0], positive=["3", 0], positive_2=["4", 0], negative=["4", 0], latent=["2", 0], name="tiny",
        keep_percent="25", steps=3, cfg=3.0, seed=0, router="none", token_order="raster", max_error=0.0,
    )  # fmt: skip
    graph["20"]["inputs"]["calibrated"] = ["40", 0]
    outputs = server.run(graph)
    assert "calls sparse" in total(outputs) and "wrote tiny.sla2.safetensors" in outputs["40"]["text"][0]
    latents["wire"] = np.load(tmp_path / "wire.npy")
    for name in ("tiny.sla2.safetensors", "none"):
        graph = sparse(video(str(tmp_path / "file.npy"), seed=9), router_pack=name)
        server.run(graph)
        latents[name] = np.load(tmp_path / "file.npy")
    assert np.array_equal(latents["wire"], latents["tiny.sla2.safetensors"])
    assert not np.array_equal(latents["wire"], latents["none"])
    import sla2

    pack = sla2.RouterPack.load(base / "models/sla2/tiny.sla2.safetensors")
    assert pack.errors["sparsity"] and pack.base_shapes and pack.base_weights and pack.grid == (3, 8, 16)
    with pytest.raises(PromptError, match="without folders"):
        graph["40"] = node(
            "SLA2Calibrate", model=["1", 0], positive=["3", 0], negative=["4", 0], latent=["2", 0], name="../outside", keep_percent="25",
            steps=1, cfg=1.0, seed=0, router="none", token_order="raster", max_error=0.0,
        )  # fmt: skip
        server.run(graph)


def native(**words: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict(
        model="sla2/small_world", vae="none", text_encoder="none", prompt="a large red ball moves left over a green field",
        negative_prompt="", width=128, height=128, frames=17, steps=6, cfg_scale=2.0, shift=5.0, sampler="euler", seed=1, attention="full",
        sparsity=0.72, bits="16", resume=True, tokenizer="", attention_schedule="", threads=1, memory_limit=0,
    )  # fmt: skip
    return {
        "1": node("SLA2WanGenerate", **values | words),
        "2": node("PreviewImage", images=["1", 0]),
        "3": node("PreviewAny", source=["1", 1]),
    }


def test_native_generation_and_interruption(server: Server, base: Path) -> None:
    outputs = server.run(native())
    assert len(outputs["2"]["images"]) == 17
    prompt = server.queue(native(steps=400))
    states = base / "user" / "sla2"
    end = time.monotonic() + 60
    while not list(states.glob("*.sla2-state")) and time.monotonic() < end:
        time.sleep(0.1)
    server.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted"):
        server.wait(prompt)
    (state,) = states.glob("*.sla2-state")
    import sla2

    assert sla2.info(state), "the state is a checkpoint of the library"


def test_native_generation_resumes(server: Server, base: Path) -> None:
    """Interrupt by a state left behind: the same settings go on from it and give the same frames."""
    import sla2
    from sla2_nodes import native as runner

    values = {
        name: value
        for name, value in native(seed=2)["1"]["inputs"].items()
        if name not in ("model", "vae", "text_encoder", "resume", "tokenizer")
    }
    values["bits"] = 16
    model = base / "models/sla2/small_world"
    state = runner.state_file(base / "user" / "sla2", "sla2/small_world", values)
    steps = []

    def stop(progress: Any) -> None:
        steps.append(progress)
        if progress["phase"] == "sample" and progress["step"] == 3:
            raise KeyboardInterrupt

    words = dict(on_preview=lambda *_: None, interrupted=lambda: False)
    with pytest.raises(KeyboardInterrupt):
        runner.generate(sla2, str(model), {}, values, state, resume=True, on_progress=stop, **words)
    assert state.exists()
    outputs = server.run(native(seed=2))
    report = json.loads(outputs["3"]["text"][0])
    assert report["resumed_from_step"] >= 2 and not state.exists()


@pytest.mark.parametrize("wheel", ["missing", "newer", "broken"])
def test_a_wheel_that_does_not_fit(base: Path, tmp_path: Path, wheel: str) -> None:
    """Every node loads, the workflow runs dense, and the console says why."""
    folder = tmp_path / "site"
    (folder / "sla2").mkdir(parents=True)
    text = {
        "missing": "raise ImportError('no sla2 here')",
        "newer": "__version__ = '9.9.0'",
        "broken": "__version__ = '0.1.0'\nfrom . import _sla2",
    }
    (folder / "sla2" / "__init__.py").write_text(text[wheel])
    (folder / "sla2" / "_sla2.py").write_text("raise ImportError('wrong ABI')")
    own = make_base(tmp_path / "base")
    shutil.copy(base / "models/diffusion_models/t2v.safetensors", own / "models/diffusion_models")
    server = Server(Path(COMFYUI), own, wheel=folder)
    try:
        assert set(server.get("/object_info")) >= NODES
        paths = [tmp_path / f"{name}.npy" for name in "ab"]
        server.run(video(str(paths[0])))
        outputs = server.run(sparse(video(str(paths[1]))))
        assert np.array_equal(*map(np.load, paths)) and "SLA2 is not on this model" in total(outputs)
        assert server.log.count("attention stays dense; install the wheel") == 1
        with pytest.raises(PromptError, match="install the wheel"):
            server.run(native(model="t2v.safetensors", sampler="unipc"))
    finally:
        server.stop()


def test_defaults_of_the_node_are_cores(server: Server) -> None:
    """Where core's own sparse node is in this version, shared inputs have its defaults and limits."""
    info = server.get("/object_info")
    ours = {**info["SLA2Attention"]["input"]["required"], **info["SLA2Attention"]["input"].get("optional", {})}
    known = {"start_percent": (0.2, 0.0, 1.0), "end_percent": (1.0, 0.0, 1.0), "min_tokens": (12288, 0, 1 << 20), "dense_blocks": ("",)}
    for name, expected in known.items():
        words = ours[name][1]
        assert (words["default"], *([words["min"], words["max"]] if "min" in words else [])) == expected
    core = info.get("BlockSparseAttention")
    if core is not None:
        theirs = {**core["input"]["required"], **core["input"].get("optional", {})}
        for name in known:
            assert theirs[name][1]["default"] == ours[name][1]["default"]
    assert set(SPARSE) | {"model"} <= set(ours)
