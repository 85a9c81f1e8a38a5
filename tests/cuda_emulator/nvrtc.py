# SPDX-License-Identifier: Apache-2.0
"""The kernels through another compiler than this machine's nvcc: NVRTC, the same front end and ptxas as a library, which PyPI has for
every release of CUDA 12.

    python tests/cuda_emulator/nvrtc.py build/nvrtc                     CUDA 12.8, the oldest that we build with
    python tests/cuda_emulator/nvrtc.py build/nvrtc --only gemm_bf16 --architectures 80,90a

Downloads the packages into the folder, compiles every kernel file for every architecture and leaves ptxas's logs where registers.py
looks for them. Exit code 1 and the compiler's text where a file does not compile. Spilled registers are told, not refused: releases are
built with the compiler of the table, whose kernels spill nothing.
"""

from __future__ import annotations

import argparse
import ctypes as C
import subprocess
import sys
import zipfile
from pathlib import Path

import registers

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "libsla2" / "src" / "kernels" / "cuda"
PACKAGES = ("nvrtc==12.8.93", "runtime==12.8.90", "cccl==12.8.90", "nvcc==12.8.93")  # of CUDA 12.8: library, headers, headers, crt headers
# NVRTC has no host library: the few standard headers that kernels name come from libcu++.
HEADERS = {
    b"cstdint": b"#include <cuda/std/cstdint>\nusing namespace cuda::std;\n",
    b"cstddef": b"#include <cuda/std/cstddef>\nusing cuda::std::size_t;\n",
    b"bit": b"#include <cuda/std/bit>\nnamespace std { using cuda::std::bit_cast; }\n",
    b"type_traits": b"#include <cuda/std/type_traits>\nnamespace std { using namespace cuda::std; }\n",
}


def install(folder: Path) -> Path:
    """The packages unpacked below the folder; their nvidia/ directory."""
    for package in PACKAGES:
        name = f"nvidia-cuda-{package.replace('==', '-cu12==')}"
        if not list(folder.glob(f"nvidia_cuda_{package.split('==')[0]}_cu12-{package.split('==')[1]}*.whl")):
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, name], check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder / "nvidia"


class Compiler:
    """One NVRTC library."""

    def __init__(self, packages: Path) -> None:
        self.library = C.CDLL(str(packages / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"))
        includes = [ROOT / "libsla2" / "src", KERNELS, *(packages / f"cuda_{name}" / "include" for name in ("runtime", "cccl", "nvcc"))]
        self.options = ["-std=c++20", "-default-device", "--ptxas-options=-v", *(f"-I{path}" for path in includes)]

    def version(self) -> str:
        major, minor = C.c_int(), C.c_int()
        self.library.nvrtcVersion(C.byref(major), C.byref(minor))
        return f"{major.value}.{minor.value}"

    def compile(self, source: Path, architecture: str) -> tuple[bool, str]:
        """Whether it did, and what the compiler said."""
        program, size = C.c_void_p(), C.c_size_t()
        count = len(HEADERS)
        texts, names = (C.c_char_p * count)(*HEADERS.values()), (C.c_char_p * count)(*HEADERS)
        made = self.library.nvrtcCreateProgram(C.byref(program), source.read_bytes(), source.name.encode(), count, texts, names)
        if made:
            raise SystemExit(f"NVRTC: no program for {source.name}: error {made}")
        options = [f"--gpu-architecture=sm_{architecture}", *self.options]
        failed = self.library.nvrtcCompileProgram(program, len(options), (C.c_char_p * len(options))(*(o.encode() for o in options)))
        self.library.nvrtcGetProgramLogSize(program, C.byref(size))
        text = C.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, text)
        self.library.nvrtcDestroyProgram(C.byref(program))
        return not failed, text.value.decode()


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the CUDA kernels with NVRTC of CUDA 12.8.")
    parser.add_argument("folder", type=Path, help="for packages and logs; made where it is missing")
    parser.add_argument("--only", help="names of kernel files without .cu, separated by commas")
    parser.add_argument("--architectures", default="80,86,89,90,120", help="numbers separated by commas (default: %(default)s)")
    args = parser.parse_args()
    logs = args.folder / "generated" / "cuda"
    logs.mkdir(parents=True, exist_ok=True)
    compiler = Compiler(install(args.folder))
    only = set(args.only.split(",")) if args.only else None
    failed = 0
    for source in sorted(KERNELS.glob("*.cu")):
        if only is not None and source.stem not in only:
            continue
        said = ""
        # wgmma is in the architecture's own target
        for architecture in ["90a"] if source.stem.startswith("hopper_") else args.architectures.split(","):
            works, text = compiler.compile(source, architecture)
            said += text
            if not works:
                failed += 1
                print(f"{source.name} for sm_{architecture}:\n{text}", file=sys.stderr)
        (logs / f"{source.stem}.ptxas").write_text(said, encoding="utf-8")
        print(f"{source.name}", flush=True)
    built = registers.read_logs(args.folder)
    spilled = [f"{kernel} for sm_{arch} spills {use.spilled} bytes" for (kernel, arch), use in built.items() if use.spilled]
    spilled += [f"{kernel}: ptxas serializes its wgmma products" for kernel in registers.read_serialized(args.folder)]
    print("\n".join([*spilled, f"CUDA {compiler.version()}: {len(built)} kernels compiled, {failed} files failed"]))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
