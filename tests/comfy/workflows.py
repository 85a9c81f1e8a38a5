# SPDX-License-Identifier: Apache-2.0
"""The example workflows as short descriptions, and their translation into the front end's format with the server's own node facts."""

from __future__ import annotations

from typing import Any

# A node: (id, type, column, row, widgets by name, links by input name -> (id, output), title)
Node = tuple[int, str, int, int, dict[str, Any], dict[str, tuple[int, int]]]
PROMPT = "a red fox runs through fresh snow at sunrise, low camera, golden light"
BAD = "blurry, static, overexposed, subtitles, watermark, deformed"
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}


def _loaders(model: str) -> list[Node]:
    return [
        (1, "UNETLoader", 0, 0, {"unet_name": model, "weight_dtype": "default"}, {}),
        (2, "CLIPLoader", 0, 1, {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}, {}),
        (3, "VAELoader", 0, 2, {"vae_name": "wan_2.1_vae.safetensors"}, {}),
        (4, "CLIPTextEncode", 1, 1, {"text": PROMPT}, {"clip": (2, 0)}),
        (5, "CLIPTextEncode", 1, 2, {"text": BAD}, {"clip": (2, 0)}),
    ]


def _end(latent: tuple[int, int], model: tuple[int, int], name: str) -> list[Node]:
    return [
        (10, "VAEDecode", 5, 0, {}, {"samples": latent, "vae": (3, 0)}),
        (11, "CreateVideo", 5, 1, {"fps": 16.0}, {"images": (10, 0)}),
        (12, "SaveVideo", 6, 0, {"filename_prefix": f"video/{name}", "format": "auto", "codec": "auto"}, {"video": (11, 0)}),
        (13, "SLA2Report", 5, 2, {}, {"model": model, "after": latent}),
    ]


def _sampler(
    model: tuple[int, int], latent: tuple[int, int], *, steps: int = 20, cfg: float = 6.0, positive: Any = (4, 0), negative: Any = (5, 0)
) -> Node:
    widgets = {"seed": 1, "steps": steps, "cfg": cfg, "sampler_name": "uni_pc", "scheduler": "simple", "denoise": 1.0}
    return (9, "KSampler", 4, 0, widgets, {"model": model, "positive": positive, "negative": negative, "latent_image": latent})


def _empty() -> Node:
    return (6, "EmptyHunyuanLatentVideo", 2, 1, {"width": 832, "height": 480, "length": 81, "batch_size": 1}, {})


def _shift(model: tuple[int, int]) -> Node:
    return (7, "ModelSamplingSD3", 2, 0, {"shift": 8.0}, {"model": model})


T2V = "wan2.1_t2v_1.3B_fp16.safetensors"
WORKFLOWS: dict[str, list[Node]] = {
    "text_to_video": [
        *_loaders(T2V), _empty(), _shift((1, 0)), (8, "SLA2Attention", 3, 0, {}, {"model": (7, 0)}), _sampler((8, 0), (6, 0)),
        *_end((9, 0), (8, 0), "sla2_text_to_video"),
    ],
    "image_to_video": [
        *_loaders("wan2.1_i2v_480p_14B_fp8_scaled.safetensors"), _shift((1, 0)), (8, "SLA2Attention", 3, 0, {}, {"model": (7, 0)}),
        (20, "CLIPVisionLoader", 0, 3, {"clip_name": "clip_vision_h.safetensors"}, {}),
        (21, "LoadImage", 0, 4, {"image": "example.png"}, {}),
        (22, "CLIPVisionEncode", 1, 3, {"crop": "none"}, {"clip_vision": (20, 0), "image": (21, 0)}),
        (23, "WanImageToVideo", 2, 2, {"width": 832, "height": 480, "length": 81, "batch_size": 1},
         {"positive": (4, 0), "negative": (5, 0), "vae": (3, 0), "clip_vision_output": (22, 0), "start_image": (21, 0)}),
        _sampler((8, 0), (23, 2), positive=(23, 0), negative=(23, 1)), *_end((9, 0), (8, 0), "sla2_image_to_video"),
    ],
    "four_step_lora": [
        *_loaders("wan2.1_t2v_14B_fp8_scaled.safetensors"), _empty(),
        (20, "LoraLoaderModelOnly", 1, 0,
         {"lora_name": "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", "strength_model": 1.0}, {"model": (1, 0)}),
        _shift((20, 0)),
        (8, "SLA2Attention", 3, 0, {"preset": "custom", "keep_percent": 28.0, "bits": "8", "start_percent": 0.25}, {"model": (7, 0)}),
        _sampler((8, 0), (6, 0), steps=4, cfg=1.0), *_end((9, 0), (8, 0), "sla2_four_step"),
    ],
    "calibration": [
        *_loaders(T2V), _empty(), _shift((1, 0)),
        (20, "CLIPTextEncode", 1, 3, {"text": "a crowded street market at night, neon signs, rain"}, {"clip": (2, 0)}),
        (21, "SLA2Calibrate", 3, 1, {"name": "wan-1.3b", "keep_percent": "28"},
         {"model": (7, 0), "positive": (4, 0), "negative": (5, 0), "latent": (6, 0), "positive_2": (20, 0)}),
        (8, "SLA2Attention", 4, 1, {"probe_percent": 1.0}, {"model": (7, 0), "calibrated": (21, 0)}),
        _sampler((8, 0), (6, 0)), *_end((9, 0), (8, 0), "sla2_calibrated"),
        (22, "SLA2MaskView", 6, 2, {"layer": 10}, {"model": (8, 0), "positive": (4, 0), "latent": (9, 0)}),
    ],
    "native": [
        (1, "SLA2WanGenerate", 0, 0, {"prompt": PROMPT, "negative_prompt": BAD}, {}),
        (11, "CreateVideo", 1, 0, {"fps": 16.0}, {"images": (1, 0)}),
        (12, "SaveVideo", 2, 0, {"filename_prefix": "video/sla2_native", "format": "auto", "codec": "auto"}, {"video": (11, 0)}),
    ],
}  # fmt: skip


def inputs_of(facts: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], bool]]:
    """(name, type, words, optional) in the order the front end shows them."""
    found = []
    for group in ("required", "optional"):
        for name, spec in facts["input"].get(group, {}).items():
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            words = dict(spec[1]) if len(spec) > 1 else {}
            if isinstance(spec[0], list):
                words.setdefault("options", spec[0])
            found.append((name, kind, words, group == "optional"))
    return found


def is_widget(kind: str, words: dict[str, Any]) -> bool:
    return kind in _WIDGETS and not words.get("forceInput")


def widget_values(facts: dict[str, Any], given: dict[str, Any]) -> list[Any]:
    """The positional values the front end saves."""
    values: list[Any] = []
    unknown = set(given) - {name for name, *_ in inputs_of(facts)}
    assert not unknown, f"{facts['name']} has no widgets {sorted(unknown)}"
    for name, kind, words, _ in inputs_of(facts):
        if not is_widget(kind, words):
            continue
        options = words.get("options") or [None]
        first = options[0]["key"] if isinstance(options[0], dict) else options[0]
        values.append(given.get(name, words.get("default", "" if kind == "STRING" else first)))
        if words.get("control_after_generate") or (name in ("seed", "noise_seed") and kind == "INT"):
            values.append("fixed")
        if words.get("image_upload"):
            values.append("image")
    return values


def size_of(facts: dict[str, Any]) -> list[int]:
    """About what the front end needs to draw the node."""
    shown = [(kind, words) for _, kind, words, _ in inputs_of(facts)]
    widgets = sum(1 + bool(words.get("control_after_generate")) for kind, words in shown if is_widget(kind, words))
    slots = max(sum(not is_widget(kind, words) for kind, words in shown), len(facts["output"]))
    extra = sum(110 for _, words in shown if words.get("multiline")) + (
        240 if facts["output_node"] or any(w.get("image_upload") for _, w in shown) else 0
    )
    return [320, 20 + 20 * slots + 24 * widgets + extra]


def translate(nodes: list[Node], info: dict[str, Any]) -> dict[str, Any]:
    """The front end's JSON of a workflow."""
    links: list[list[Any]] = []
    made: dict[int, dict[str, Any]] = {}
    bottom: dict[int, int] = {}
    for identity, kind, column, _, widgets, _ in sorted(nodes, key=lambda node: node[3]):
        facts = info[kind]
        place, size = [column * 380, bottom.get(column, 0)], size_of(facts)
        bottom[column] = place[1] + size[1] + 70
        made[identity] = {
            "id": identity, "type": kind, "pos": place, "size": size, "flags": {}, "order": len(made), "mode": 0,
            "inputs": [], "outputs": [{"name": name, "type": type_, "links": []} for name, type_ in zip(facts["output_name"], facts["output"])],
            "properties": {"Node name for S&R": kind}, "widgets_values": widget_values(facts, widgets),
        }  # fmt: skip
    for identity, kind, _, _, _, wires in nodes:
        names = {name for name, *_ in inputs_of(info[kind])}
        assert set(wires) <= names, f"{kind} has no inputs {sorted(set(wires) - names)}"
        for name, type_, words, _ in inputs_of(info[kind]):
            if is_widget(type_, words):
                continue
            link = None
            if name in wires:
                source, slot = wires[name]
                link = len(links) + 1
                output = made[source]["outputs"][slot]
                output["links"].append(link)
                links.append([link, source, slot, identity, len(made[identity]["inputs"]), output["type"]])
            made[identity]["inputs"].append({"name": name, "type": type_, "link": link})
    return {
        "last_node_id": max(made), "last_link_id": len(links), "nodes": list(made.values()), "links": links, "groups": [], "config": {},
        "extra": {}, "version": 0.4,
    }  # fmt: skip
