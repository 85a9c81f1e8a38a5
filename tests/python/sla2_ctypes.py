# SPDX-License-Identifier: Apache-2.0
"""libsla2.so through ctypes: the C door as a foreign language meets it. Structs are written down again here on purpose, so
that a layout that moves breaks a test."""

from __future__ import annotations

import ctypes as C
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conftest import find_program

OK, E_ARGUMENT, E_STATE, E_VERSION = 0, -100, -101, -102
E_FILE_NOT_FOUND, E_FILE_READ, E_FILE_WRITE, E_FILE_FORMAT, E_MEMORY, E_MODEL_MISMATCH = -200, -201, -202, -203, -204, -206
E_UNSUPPORTED, E_CANCELLED, E_NUMERIC = -300, -400, -500
PHASE_LOAD, PHASE_TEXT, PHASE_SAMPLE, PHASE_DECODE, PHASE_DONE = 1, 2, 3, 4, 5


class ProgressStruct(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32),
        ("phase", C.c_int32),
        ("step", C.c_int32),
        ("steps", C.c_int32),
        ("fraction", C.c_double),
        ("seconds_elapsed", C.c_double),
        ("seconds_left", C.c_double),
        ("message", C.c_char_p),
    ]


class FramesStruct(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32),
        ("width", C.c_int32),
        ("height", C.c_int32),
        ("first", C.c_int32),
        ("count", C.c_int32),
        ("total", C.c_int32),
        ("rgb", C.POINTER(C.c_uint8)),
        ("row_bytes", C.c_int64),
        ("fps", C.c_double),
    ]


PROGRESS_FN = C.CFUNCTYPE(None, C.c_void_p, C.POINTER(ProgressStruct))
PREVIEW_FN = C.CFUNCTYPE(None, C.c_void_p, C.POINTER(FramesStruct), C.c_int32)
FRAMES_FN = C.CFUNCTYPE(C.c_int32, C.c_void_p, C.POINTER(FramesStruct))


class CallbacksStruct(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32),
        ("reserved", C.c_uint32),
        ("user", C.c_void_p),
        ("on_progress", PROGRESS_FN),
        ("on_preview", PREVIEW_FN),
        ("on_frames", FRAMES_FN),
    ]


class ParamInfoStruct(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32),
        ("type", C.c_int32),
        ("name", C.c_char_p),
        ("group", C.c_char_p),
        ("help", C.c_char_p),
        ("unit", C.c_char_p),
        ("choices", C.c_char_p),
        ("default_text", C.c_char_p),
        ("minimum", C.c_double),
        ("maximum", C.c_double),
        ("step", C.c_double),
        ("advanced", C.c_int32),
        ("reserved", C.c_int32),
    ]


class TensorStruct(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32),
        ("dtype_code", C.c_uint8),
        ("dtype_bits", C.c_uint8),
        ("dtype_lanes", C.c_uint16),
        ("data", C.c_void_p),
        ("ndim", C.c_int32),
        ("device_type", C.c_int32),
        ("device_id", C.c_int32),
        ("reserved", C.c_int32),
        ("shape", C.c_int64 * 6),
        ("strides", C.c_int64 * 6),
    ]


class AttentionConfigStruct(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32),
        ("mode", C.c_int32),
        ("layout", C.c_int32),
        ("mix", C.c_int32),
        ("batch", C.c_int64),
        ("heads", C.c_int64),
        ("query_tokens", C.c_int64),
        ("key_tokens", C.c_int64),
        ("head_dim", C.c_int64),
        ("sparsity", C.c_double),
        ("softmax_scale", C.c_double),
        ("block_q", C.c_int32),
        ("block_k", C.c_int32),
        ("smooth_k", C.c_int32),
        ("reserved", C.c_int32),
        ("mix_scale", C.c_double),
        ("mix_bias", C.c_double),
        ("router", C.c_int32),
        ("scope", C.c_int32),
        ("rule", C.c_int32),
        ("products", C.c_int32),
        ("bits", C.c_int32),
        ("fp8_values", C.c_int32),
        ("kv_heads", C.c_int64),
        ("negligible", C.c_double),
        ("tau", C.c_double),
        ("top_p", C.c_double),
        ("theta", C.c_double),
        ("protect_first", C.c_int32),
        ("protect_last", C.c_int32),
        ("protect_near", C.c_int32),
        ("reserved2", C.c_int32),
        ("min_tokens", C.c_int64),
    ]


def _pointers(*names: str) -> list:
    return [("struct_size", C.c_uint32), ("reserved", C.c_uint32), *((name, C.c_void_p) for name in names)]


class QkvStruct(C.Structure):
    _fields_ = _pointers("q", "k", "v")


class BlockListStruct(C.Structure):
    _fields_ = [*_pointers("index", "count"), ("capacity", C.c_int64)]


class AttentionParamsStruct(C.Structure):
    _fields_ = _pointers("router_q", "router_k", "mix", "proj", "proj_bias", "gate", "key_bias", "given", "given_mask")


class AttentionOutputsStruct(C.Structure):
    _fields_ = _pointers("out", "lse", "list", "probe")


class Failure(Exception):
    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


def load() -> C.CDLL:
    library = C.CDLL(os.fspath(find_program("libsla2.so")))
    library.sla2_last_error.restype = C.c_char_p
    for name in ("sla2_params_to_json", "sla2_job_report", "sla2_job_memory_plan", "sla2_model_describe", "sla2_system_info"):
        getattr(library, name).restype = C.c_uint64
    for name in (
        "sla2_params_destroy",
        "sla2_attention_destroy",
        "sla2_model_close",
        "sla2_job_cancel",
        "sla2_job_request_checkpoint",
        "sla2_job_destroy",
    ):
        getattr(library, name).restype = None
    return library


class Sla2:
    """The library with statuses turned into Failure."""

    def __init__(self) -> None:
        self.c = load()

    def check(self, status: int) -> None:
        if status != OK:
            raise Failure(status, self.c.sla2_last_error().decode())

    def text(self, call) -> str:
        needed = call(None, C.c_uint64(0))
        buffer = C.create_string_buffer(max(1, needed))
        call(buffer, C.c_uint64(needed))
        return buffer.value.decode()

    def params(self, **values) -> C.c_void_p:
        handle = C.c_void_p()
        self.check(self.c.sla2_params_create(C.byref(handle)))
        for name, value in values.items():
            data = value if isinstance(value, bytes) else (str(value).lower() if isinstance(value, bool) else str(value)).encode()
            self.check(self.c.sla2_params_set_text(handle, name.encode(), data))
        return handle

    def table(self) -> list[ParamInfoStruct]:
        rows = []
        for index in range(self.c.sla2_param_count()):
            info = ParamInfoStruct()
            self.check(self.c.sla2_param_info_init(C.byref(info), C.sizeof(info)))
            self.check(self.c.sla2_param_get(C.c_uint32(index), C.byref(info)))
            rows.append(info)
        return rows

    def open(self, path: Path | str, **values) -> C.c_void_p:
        model = C.c_void_p()
        self.check(self.c.sla2_model_open(os.fspath(path).encode(), self.params(**values), C.byref(model)))
        return model


@dataclass
class Run:
    """What a job told: its frames, previews, progress and messages."""

    status: int = OK
    error: str = ""
    frames: np.ndarray | None = None
    previews: list = field(default_factory=list)
    progress: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    report: dict = field(default_factory=dict)
    plan: str = ""


def run_job(sla2: Sla2, model, values: dict, resume: Path | None = None, on_step=None, frames_status=OK, on_decode=None) -> Run:
    """Run a job to its end. On the job's thread on_step(step, cancel, request_checkpoint) is called after each step, on_decode() when
    decoding begins."""
    run = Run()
    chunks = []
    job = C.c_void_p()

    def on_progress(_, pointer):
        p = pointer.contents
        run.progress.append((p.phase, p.step, p.steps, p.fraction, p.seconds_left))
        if p.message:
            run.messages.append(p.message.decode())
        if on_step and p.phase == PHASE_SAMPLE and p.step > 0 and not p.message:
            on_step(p.step, lambda: sla2.c.sla2_job_cancel(job), lambda: sla2.c.sla2_job_request_checkpoint(job))

        if on_decode and p.phase == PHASE_DECODE and p.step == 0 and not p.message:
            on_decode()

    def on_preview(_, pointer, step):
        f = pointer.contents
        size = f.count * f.height * f.row_bytes
        run.previews.append((step, np.ctypeslib.as_array(f.rgb, (size,)).reshape(f.count, f.height, f.width, 3).copy()))

    def on_frames(_, pointer):
        f = pointer.contents
        size = f.count * f.height * f.row_bytes
        assert f.first == sum(len(c) for c in chunks)
        chunks.append(np.ctypeslib.as_array(f.rgb, (size,)).reshape(f.count, f.height, f.width, 3).copy())
        return frames_status

    callbacks = CallbacksStruct()
    sla2.check(sla2.c.sla2_job_callbacks_init(C.byref(callbacks), C.sizeof(callbacks)))
    callbacks.on_progress, callbacks.on_preview, callbacks.on_frames = (
        PROGRESS_FN(on_progress),
        PREVIEW_FN(on_preview),
        FRAMES_FN(on_frames),
    )
    params = sla2.params(**values)
    if resume is None:
        sla2.check(sla2.c.sla2_job_create(model, params, C.byref(callbacks), C.byref(job)))
    else:
        sla2.check(sla2.c.sla2_job_resume(model, os.fspath(resume).encode(), params, C.byref(callbacks), C.byref(job)))
    run.status = sla2.c.sla2_job_wait(job)
    run.error = sla2.c.sla2_last_error().decode() if run.status != OK else ""
    run.report = json.loads(sla2.text(lambda b, n: sla2.c.sla2_job_report(job, b, n)))
    run.plan = sla2.text(lambda b, n: sla2.c.sla2_job_memory_plan(job, b, n))
    sla2.c.sla2_job_destroy(job)
    sla2.c.sla2_params_destroy(params)
    run.frames = np.concatenate(chunks) if chunks else None
    return run
