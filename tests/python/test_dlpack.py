# SPDX-License-Identifier: Apache-2.0
"""sla2/dlpack.h against PyTorch's tensors: borrowed in both directions, refused with the right status."""

from __future__ import annotations

import ctypes as C
import os
import subprocess

import pytest
import torch
from conftest import ROOT, find_program
from sla2_ctypes import E_ARGUMENT, E_UNSUPPORTED, E_VERSION, OK

SIZE = 256  # of sla2_tensor, at least; the shim reads and writes only what the header says


def pointer_of(capsule, name: bytes) -> int:
    get = C.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = C.c_void_p, [C.py_object, C.c_char_p]
    return get(capsule, name)


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    library = find_program("libsla2.so")
    target = tmp_path_factory.mktemp("dlpack") / "shim.so"
    dlpack = os.path.join(os.path.dirname(torch.__file__), "include", "ATen")
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC", "-I", str(ROOT / "libsla2/include"),
                    "-isystem", dlpack, "-o", str(target), str(ROOT / "tests/python/dlpack_shim.c"), str(library),
                    f"-Wl,-rpath,{library.parent}"], check=True)  # fmt: skip
    loaded = C.CDLL(str(target))
    loaded.shim_lend.restype = C.c_void_p
    return loaded


def borrow(shim, tensor: torch.Tensor, written: int = 0):
    """Return status and the sla2_tensor of a PyTorch tensor; the capsule is returned too, because it owns the memory."""
    capsule = tensor.__dlpack__(max_version=(1, 0))
    view = (C.c_char * SIZE)()
    return shim.shim_from(view, C.c_void_p(pointer_of(capsule, b"dltensor_versioned")), written), view, capsule


def give_back(shim, view) -> torch.Tensor:
    make = C.pythonapi.PyCapsule_New
    make.restype, make.argtypes = C.py_object, [C.c_void_p, C.c_char_p, C.c_void_p]
    name = b"dltensor"
    capsule = make(shim.shim_lend(view), name, None)
    return torch.utils.dlpack.from_dlpack(capsule)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 5), (1, 2, 3, 4)])
def test_there_and_back(shim, dtype, shape):
    tensor = (100 * torch.randn(shape)).abs().to(dtype)
    status, view, _capsule = borrow(shim, tensor)
    assert status == OK
    again = give_back(shim, view)
    assert again.dtype == tensor.dtype and again.stride() == tensor.stride() and torch.equal(again, tensor)
    again.view(-1)[0] = 7
    assert tensor.view(-1)[0] == 7  # a view, not a copy


def test_strides_and_offset_survive(shim):
    tensor = torch.arange(120.0).view(2, 3, 4, 5)[1:, :, ::2, 1:4].transpose(1, 2)
    status, view, _capsule = borrow(shim, tensor)
    again = give_back(shim, view)
    assert status == OK and again.stride() == tensor.stride() and torch.equal(again, tensor)


def test_what_cannot_be_named_is_refused(shim):
    assert borrow(shim, torch.zeros(2, dtype=torch.complex64))[0] == E_UNSUPPORTED
    assert borrow(shim, torch.zeros([1] * 9))[0] == E_ARGUMENT
    assert borrow(shim, torch.tensor(1.0))[0] == E_ARGUMENT  # no axis
    assert shim.shim_from(None, None, 0) == E_ARGUMENT and shim.shim_from_plain(None, None) == E_ARGUMENT


class DLTensor(C.Structure):
    """dlpack.h's, written down again."""

    _fields_ = [
        ("data", C.c_void_p),
        ("device_type", C.c_int32),
        ("device_id", C.c_int32),
        ("ndim", C.c_int32),
        ("code", C.c_uint8),
        ("bits", C.c_uint8),
        ("lanes", C.c_uint16),
        ("shape", C.POINTER(C.c_int64)),
        ("strides", C.POINTER(C.c_int64)),
        ("byte_offset", C.c_uint64),
    ]


@pytest.mark.parametrize(
    "shape, status", [((2, 3), OK), ((2**40, 2**40, 2), E_ARGUMENT), ((2**63 - 1, 2), E_ARGUMENT), ((2, -3), E_ARGUMENT), ((0, 3), OK)]
)
def test_extents_beyond_any_memory(shim, shape, status):
    extents = (C.c_int64 * len(shape))(*shape)
    source = DLTensor(64, 1, 0, len(shape), 2, 32, 1, extents, None, 0)
    view = (C.c_char * SIZE)()
    assert shim.shim_from_plain(view, C.byref(source)) == status
    assert any(bytes(view)) == (status == OK)  # untouched where it is refused


def test_version_and_read_only(shim):
    status, _view, capsule = borrow(shim, torch.zeros(4), written=1)
    assert status == OK
    address = pointer_of(capsule, b"dltensor_versioned")
    major = C.c_uint32.from_address(address)
    flags = C.c_uint64.from_address(address + 8 + 2 * C.sizeof(C.c_void_p))  # after version, manager_ctx and deleter
    view = (C.c_char * SIZE)()
    flags.value |= 1
    assert shim.shim_from(view, C.c_void_p(address), 1) == E_ARGUMENT
    assert shim.shim_from(view, C.c_void_p(address), 0) == OK
    flags.value &= ~1
    major.value = 2
    assert shim.shim_from(view, C.c_void_p(address), 0) == E_VERSION
    major.value = 1
