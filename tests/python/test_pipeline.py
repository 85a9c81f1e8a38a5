# SPDX-License-Identifier: Apache-2.0
"""The whole journey through the C door: latents and frames against diffusers' WanPipeline with the same random parts, jobs
stopped and resumed, and what goes wrong when things are wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sla2_ctypes as s
from make_tiny_model import make_tiny_model

PROMPT = "a red balloon rises over the sea at sunset"
NEGATIVE = "a green tree"
SIZE = {"width": 64, "height": 48, "frames": 9}
STEPS = 3


@pytest.fixture(scope="module")
def model(sla2, folder):
    return sla2.open(folder)


def values(**more):
    return {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "steps": STEPS,
        "cfg_scale": 3,
        "shift": 3,
        "seed": 7,
        "precision": "fp32",
        "vae_precision": "fp32",
        "preview_every": 0,
        **SIZE,
        **more,
    }


@pytest.fixture(scope="module")
def pipeline(folder):
    """diffusers' own pipeline on the same files."""
    import sentencepiece
    import torch
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import UMT5Config, UMT5EncoderModel

    def config_of(name):
        with safe_open(folder / name, "pt") as file:
            return {k: v for k, v in json.loads(file.metadata()["config"]).items() if not k.startswith("_")}

    dit_config = config_of("dit.safetensors")
    dit = WanTransformer3DModel(**{**dit_config, "patch_size": tuple(dit_config["patch_size"])})
    dit.load_state_dict(load_file(folder / "dit.safetensors"))
    vae = AutoencoderKLWan(**config_of("vae.safetensors"))
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    encoder = UMT5EncoderModel(UMT5Config(**config_of("text_encoder.safetensors")))
    encoder.load_state_dict(load_file(folder / "text_encoder.safetensors"), strict=False)
    encoder.encoder.embed_tokens.weight = encoder.shared.weight
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))

    def embed(text):
        ids = pieces.encode(text) + [1]  # </s>
        with torch.no_grad():
            rows = encoder.eval()(input_ids=torch.tensor([ids])).last_hidden_state
        return torch.nn.functional.pad(rows, (0, 0, 0, 512 - len(ids)))

    def run(scheduler, guidance, output="latent"):
        wan = WanPipeline(tokenizer=None, text_encoder=None, transformer=dit.eval(), vae=vae.eval(), scheduler=scheduler)
        wan.set_progress_bar_config(disable=True)
        with torch.no_grad():
            return wan(
                prompt_embeds=embed(PROMPT),
                negative_prompt_embeds=embed(NEGATIVE),
                height=SIZE["height"],
                width=SIZE["width"],
                num_frames=SIZE["frames"],
                num_inference_steps=STEPS,
                guidance_scale=guidance,
                generator=torch.Generator("cpu").manual_seed(7),
                output_type=output,
            ).frames

    return run


def scheduler_named(name):
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return {
        "unipc": lambda: UniPCMultistepScheduler(**flow),
        "dpmpp_2m": lambda: DPMSolverMultistepScheduler(**flow),
        "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    }[name]()


GRIDS = {"unipc": "diffusers_unipc", "dpmpp_2m": "diffusers_dpm", "euler": "diffusers_euler"}


@pytest.mark.parametrize(("sampler", "guidance"), [("unipc", 3.0), ("euler", 3.0), ("dpmpp_2m", 3.0), ("euler", 1.0)])
def test_latents_against_diffusers(sla2, model, pipeline, tmp_path, sampler, guidance):
    from safetensors.numpy import load_file

    out = tmp_path / "latent.safetensors"
    run = s.run_job(sla2, model, values(sampler=sampler, schedule=GRIDS[sampler], cfg_scale=guidance, latent_out=out))
    assert run.status == s.OK, run.error
    ours = load_file(out)["latent"]
    theirs = pipeline(scheduler_named(sampler), guidance)[0].numpy()
    assert ours.shape == theirs.shape
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    print(f"{sampler} cfg {guidance}: relative error {error:.2e}")
    assert error < 1e-4


def test_frames_against_diffusers(sla2, model, pipeline):
    run = s.run_job(sla2, model, values(sampler="unipc", schedule="diffusers_unipc"))
    theirs = np.asarray(pipeline(scheduler_named("unipc"), 3.0, "np")[0])
    assert run.frames.shape == (9, 48, 64, 3)
    difference = np.abs(run.frames.astype(int) - np.round(theirs * 255).astype(int))
    print(f"largest difference {difference.max()}, {np.mean(difference > 0):.2%} of bytes differ")
    assert difference.max() <= 1 and np.mean(difference > 0) < 0.01


def test_same_bytes_for_any_thread_count_and_again(sla2, model):
    first = s.run_job(sla2, model, values(threads=1))
    second = s.run_job(sla2, model, values(threads=2))
    assert np.array_equal(first.frames, second.frames)


def test_report_progress_and_previews(sla2, model):
    run = s.run_job(
        sla2,
        model,
        values(steps=4, attention="sla2", sparsity=0.5, dense_steps_first=1, dense_layers_first=1, preview_every=2, block_q=32, block_k=16),
    )
    assert run.status == s.OK, run.error
    fractions = [p[3] for p in run.progress]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and run.progress[-1][0] == s.PHASE_DONE
    assert [step for step, _ in run.previews] == [2, 4]
    assert run.previews[0][1].shape == (3, 6, 8, 3)
    report = run.report
    assert report["finished"] and report["status"] == 0 and report["steps_done"] == 4 and report["frames"] == 9
    assert report["layers"][0]["sparse_forwards"] == 0
    assert report["layers"][1]["sparse_forwards"] == 3 * 2  # three sparse steps, cond and uncond
    assert 0.3 < report["layers"][1]["achieved_sparsity"] < 0.7
    assert len(report["sigmas"]) == 5 and report["sigmas"][-1] == 0
    assert report["settings"]["seed"] == 7 and report["prompt_tokens"] > 2
    assert report["memory"]["planned_bytes"] > 0
    assert "peak" in run.plan


def same_as_uninterrupted(sla2, model, tmp_path, **more):
    whole = s.run_job(sla2, model, values(steps=4, **more))
    path = tmp_path / "job.ckpt"

    def stop(step, cancel, _):
        if step == 2:
            cancel()

    cut = s.run_job(sla2, model, values(steps=4, checkpoint=path, **more), on_step=stop)
    assert cut.status == s.E_CANCELLED and cut.frames is None and str(path) in cut.error
    resumed = s.run_job(sla2, model, {}, resume=path)
    assert resumed.status == s.OK, resumed.error
    assert resumed.report["resumed_from_step"] == 2
    assert np.array_equal(resumed.frames, whole.frames)
    return path


@pytest.mark.parametrize("sampler", ["unipc", "euler", "dpmpp_2m", "rcm"])
def test_resume_gives_the_same_bytes(sla2, model, tmp_path, sampler):
    more = {"sampler": sampler} | ({"shift": 1, "cfg_scale": 1} if sampler == "rcm" else {})
    path = same_as_uninterrupted(sla2, model, tmp_path, **more)
    # After the last step the checkpoint stands before decoding: resuming decodes again, to the same bytes.
    again = s.run_job(sla2, model, {}, resume=path)
    assert again.status == s.OK and again.report["resumed_from_step"] == 4


CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import sla2_ctypes as s
sla2 = s.Sla2()
def die(step, *_):
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
s.run_job(sla2, sla2.open({folder!r}), {values!r}, on_step=die)
"""


@pytest.mark.parametrize("step", [1, 3])
def test_killed_and_resumed_gives_the_same_bytes(sla2, model, folder, tmp_path, step):
    path = tmp_path / "job.ckpt"
    whole = s.run_job(sla2, model, values(steps=4))
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder), step=step, values=values(steps=4, checkpoint=str(path)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["job.ckpt"]
    resumed = s.run_job(sla2, model, {}, resume=path)
    assert resumed.status == s.OK and resumed.report["resumed_from_step"] == step
    assert np.array_equal(resumed.frames, whole.frames)


def test_decoding_falls_back_to_tiles_when_only_that_fits(sla2, model):
    big = values(width=512, height=512, frames=1, steps=1, cfg_scale=1)
    whole = s.run_job(sla2, model, big)
    memory = whole.report["memory"]
    assert memory["planned_decode_bytes"] > memory["planned_sample_bytes"]
    limit = (memory["planned_decode_bytes"] >> 20) - 1
    tiled = s.run_job(sla2, model, big | {"memory_limit": limit})
    assert tiled.status == s.OK, tiled.error
    assert tiled.report["settings"]["vae_tile"] > 0 and tiled.report["memory"]["planned_bytes"] <= limit << 20
    assert any("decoding in tiles" in line for line in tiled.report["fallbacks"])
    assert any("decoding in tiles" in line for line in tiled.messages)
    assert tiled.frames.shape == whole.frames.shape


def test_requested_checkpoint_does_not_stop_the_job(sla2, model, tmp_path):
    path = tmp_path / "job.ckpt"
    seen = []

    def ask(step, _, request):
        seen.append((step, path.exists()))
        if step == 1:
            request()

    run = s.run_job(sla2, model, values(steps=3, checkpoint=path, checkpoint_every=0), on_step=ask)
    assert run.status == s.OK and seen == [(1, False), (2, True), (3, True)]


def test_resume_refuses_what_would_change_the_clip(sla2, model, folder, tmp_path):
    path = same_as_uninterrupted(sla2, model, tmp_path)
    with pytest.raises(s.Failure, match="steps = 9") as refused:
        s.run_job(sla2, model, {"steps": 9}, resume=path)
    assert refused.value.status == s.E_ARGUMENT
    other = make_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(s.Failure, match="another DiT") as refused:
        s.run_job(sla2, sla2.open(other), {}, resume=path)
    assert refused.value.status == s.E_MODEL_MISMATCH


def test_a_receiver_can_stop_the_job(sla2, model):
    run = s.run_job(sla2, model, values(), frames_status=s.E_FILE_WRITE)
    assert run.status == s.E_FILE_WRITE and "receiver" in run.error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 60}, "multiple of 16"),
        ({"frames": 10}, "4k[+]1"),
        ({"schedule": "lightx2v_4step", "sampler": "euler", "steps": 4, "shift": 5}, "cfg_scale = 3 contradicts"),
        ({"schedule": "rcm", "sampler": "euler", "cfg_scale": 1, "shift": 1, "steps": 4}, "rcm"),
        ({"prompt": b"\xff\xfe"}, "UTF-8"),
        ({"prompt": "  "}, "empty"),
        ({"sigmas": "0.5,0.9"}, "fall"),
    ],
)
def test_wrong_settings_are_refused_before_work(sla2, model, change, words):
    with pytest.raises(s.Failure, match=words) as refused:
        s.run_job(sla2, model, values() | change)
    assert refused.value.status == s.E_ARGUMENT


def test_distilled_schedule_turns_guidance_off_unless_asked(sla2, model):
    settings = {"prompt": PROMPT, "sampler": "euler", "schedule": "lightx2v_4step", "preview_every": 0}
    run = s.run_job(sla2, model, settings)
    assert run.status == s.OK, run.error
    assert run.report["settings"]["cfg_scale"] == 1 and run.report["steps_done"] == 4
    assert any("guidance is off" in line for line in run.report["fallbacks"])


def test_long_prompt_is_said(sla2, model):
    run = s.run_job(sla2, model, values(prompt="red ball " * 3000, steps=1))
    assert run.status == s.OK
    assert any("were dropped" in line for line in run.messages)
    assert run.report["prompt_tokens"] == 512 and run.report["prompt_tokens_dropped"] > 1000


def test_too_little_memory_is_said_with_a_remedy(sla2, model):
    with pytest.raises(s.Failure, match="would fit|weights alone|makes decoding fit") as refused:
        s.run_job(sla2, model, values(memory_limit=1))
    assert refused.value.status == s.E_MEMORY and "The plan:" in str(refused.value)


def test_damaged_weights_give_a_clear_error(sla2, folder, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    name = "blocks.1.attn1.to_q.weight"
    with safe_open(broken / "dit.safetensors", "np") as file:
        metadata = file.metadata()
    tensors = load_file(broken / "dit.safetensors")
    tensors[name][3, 5] = np.nan
    save_file(tensors, broken / "dit.safetensors", metadata)
    run = s.run_job(sla2, sla2.open(broken), values(attention="sla2", sparsity=0.5))
    assert run.status == s.E_NUMERIC and run.frames is None
    assert "step 1 of 3" in run.error and "block 1" in run.error
    assert any("repeated with full attention" in line for line in run.report["fallbacks"])


def test_wrong_files_are_named(sla2, folder, tmp_path):
    def refused(status, words, path, **more):
        with pytest.raises(s.Failure, match=words) as failure:
            sla2.open(path, **more)
        assert failure.value.status == status, str(failure.value)

    dit, vae, text = folder / "dit.safetensors", folder / "vae.safetensors", folder / "text_encoder.safetensors"
    refused(s.E_FILE_NOT_FOUND, "no such file", tmp_path / "nothing")
    refused(s.E_ARGUMENT, '"vae"', dit)
    refused(s.E_MODEL_MISMATCH, "not the VAE", dit, vae=text, text_encoder=text)
    refused(s.E_MODEL_MISMATCH, "not the text encoder", dit, vae=vae, text_encoder=vae)
    refused(s.E_MODEL_MISMATCH, "not the DiT", vae, vae=vae, text_encoder=text)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(dit.read_bytes()[:-100])
    refused(s.E_FILE_FORMAT, "cut.safetensors", cut, vae=vae, text_encoder=text)
    sla2.open(dit, vae=vae, text_encoder=text)  # and the right ones open


def test_text_encoder_of_another_width_is_named(sla2, folder, tmp_path):
    import torch
    from make_tiny_model import randomise, save
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(vocab_size=400, d_model=48, d_kv=16, d_ff=64, num_layers=1, num_heads=3)
    encoder = UMT5EncoderModel(config)
    randomise(encoder, torch.Generator().manual_seed(0), 1.0)
    drop = tuple(name for name in encoder.state_dict() if name.endswith("embed_tokens.weight"))
    save(encoder, tmp_path / "other.safetensors", json.loads(config.to_json_string(use_diff=False)), drop)
    with pytest.raises(s.Failure, match="rows of 48.*expects 32") as failure:
        sla2.open(folder, text_encoder=tmp_path / "other.safetensors")
    assert failure.value.status == s.E_MODEL_MISMATCH


def test_embedding_cache_gives_the_same_clip(sla2, model, tmp_path):
    first = s.run_job(sla2, model, values(steps=1, embedding_cache=tmp_path))
    second = s.run_job(sla2, model, values(steps=1, embedding_cache=tmp_path))
    assert not first.report["embedding_from_cache"] and second.report["embedding_from_cache"]
    assert np.array_equal(first.frames, second.frames)


def test_model_json_is_checked(sla2, folder, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(folder, broken)
    good = json.loads((folder / "model.json").read_text())
    for change, status, words in [
        ({"version": 2}, s.E_VERSION, "newer"),
        ({"family": "wan9"}, s.E_UNSUPPORTED, "wan9"),
        ({"format": "x"}, s.E_FILE_FORMAT, "sla2.model"),
        ({"defaults": {"stepz": 3}}, s.E_ARGUMENT, "steps"),
    ]:
        (broken / "model.json").write_text(json.dumps(good | change))
        with pytest.raises(s.Failure, match=words) as failure:
            sla2.open(broken)
        assert failure.value.status == status
