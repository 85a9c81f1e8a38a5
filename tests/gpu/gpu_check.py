# SPDX-License-Identifier: Apache-2.0
"""./dev gpu-check: everything that only a GPU can tell, in one command. Python's standard library alone.

    python tests/gpu/gpu_check.py --build-dir BUILD [--out FOLDER]

BUILD holds tests/check/sla2_check and tests/gpu/sla2_gpu_check, built with SLA2_BUILD_CUDA=ON here or elsewhere. Where this Python has
a torch that sees the GPU, PyTorch's dense attention runs beside ours. Exit code 0: all well; 1: something failed, the report says what;
3: no GPU or no kernels, said in one line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import report as report_format

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = 3
SHAPES = {"A": (32760, 12, 128), "B": (75600, 40, 128)}
SPARSITIES = (0.0, 0.75, 0.9, 0.95, 0.97)
# A walk through every kernel for compute-sanitizer, which is slow.
SANITIZED = (
    "mode=sla2 N=150 N_kv=327 D=64 sparsity=0.5 products=bf16 layout=padded",
    "mode=sla2 N=150 N_kv=327 D=128 sparsity=0.5 bits=8 dtype=bf16",
    "mode=full N=65 N_kv=187 D=72 products=bf16 dtype=f16",
)


def missing_gpu() -> str:
    """One sentence, or nothing where a GPU is there: asked of the driver itself, before anything is built."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver: libcuda.so.1 cannot be opened"
    if code := driver.cuInit(0):
        return f"the NVIDIA driver does not start (CUDA error {code})"
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "the NVIDIA driver sees no GPU"
    return ""


def say(text: str) -> None:
    print(f"gpu-check: {text}", flush=True)


class Asked:
    """A program that answers each line with a line of JSON."""

    def __init__(self, *words: object, env: dict[str, str] | None = None) -> None:
        both = subprocess.PIPE
        self.process = subprocess.Popen(
            [str(word) for word in words], stdin=both, stdout=both, text=True, env={**os.environ, **(env or {})}
        )

    def line(self) -> dict[str, Any] | None:
        assert self.process.stdout
        text = self.process.stdout.readline()
        return json.loads(text) if text else None

    def ask(self, *words: object) -> dict[str, Any]:
        assert self.process.stdin
        try:
            self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
            self.process.stdin.flush()
            answer = self.line()
        except (BrokenPipeError, ValueError):
            answer = None
        return answer if answer is not None else {"refused": "the program ended; what it said stands above"}

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Check:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.started = time.monotonic()
        self.failed: list[str] = []
        self.report: report_format.Report = {
            "format": report_format.FORMAT,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": commit(),
            "host": platform.processor() or platform.machine(),
            "device": {},
            "clocks": [],
            "torch": {},
            "trials": [],
            "checks": {},
            "sanitizer": [],
            "bench": [],
            "peers": [],
            "notes": [],
            "seconds": 0.0,
        }
        self.gpu_tool = args.build_dir / "tests/gpu/sla2_gpu_check"
        self.check_tool = args.build_dir / "tests/check/sla2_check"

    def left(self) -> float:
        return self.args.seconds - (time.monotonic() - self.started)

    def fail(self, text: str) -> None:
        say(f"FAILED: {text}")
        self.failed.append(text)
        self.report["notes"].append(f"FAILED: {text}")

    def clocks(self, when: str) -> None:
        tool = shutil.which("nvidia-smi")
        if not tool or not self.args.gpu.startswith("gpu"):
            return
        fields = "clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active,driver_version"
        done = subprocess.run(
            [tool, f"--id={self.args.gpu.partition(':')[2] or 0}", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            self.report["clocks"].append({"when": when, "text": f"{done.stdout.strip()} ({fields})"})

    def device(self) -> None:
        done = subprocess.run([self.gpu_tool, "device", self.args.gpu], capture_output=True, text=True, check=False)
        if done.returncode == NO_GPU:
            say(done.stderr.strip().removeprefix("sla2_gpu_check: "))
            raise SystemExit(NO_GPU)
        if done.returncode:
            say(done.stderr.strip())
            raise SystemExit(1)
        self.report["device"] = json.loads(done.stdout)
        say(f"{self.report['device']['name']}, compute capability {self.report['device']['architecture'] / 10:.1f}")
        self.clocks("before")

    def trials(self) -> None:
        words = [str(self.gpu_tool), "trials", self.args.gpu, *(["planted"] if self.args.planted else [])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        self.report["trials"] = [json.loads(line) for line in done.stdout.splitlines()]
        for row in self.report["trials"]:
            say(f"{row['instruction']}: " + (f"{row['different']} of {row['cases']} cases' words differ" if row["tried"] else row["first"]))
            if row["different"]:
                self.fail(f"{row['instruction']} is not as the emulator's table has it: {row['first']}")
        if done.returncode and not self.failed:
            self.fail(f"instructions: {done.stderr.strip()}")

    def checks(self) -> None:
        lists = ["cuda", "hopper"] if self.report["device"]["architecture"] == 90 else ["cuda"]
        cases = [word for line in self.args.case for word in ("--case", line)] or lists
        words = [str(self.check_tool), *cases, "--isa", self.args.gpu, "--threads", "1,2"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=max(60, self.left()), check=False)
        lines = done.stdout.splitlines()
        self.report["checks"] = {"summary": lines[-1] if lines else "", "exit_code": done.returncode, "output": lines[-40:]}
        say(f"sla2_check: {self.report['checks']['summary']}")
        if done.returncode:
            print("\n".join(lines[-40:]), done.stderr)
            self.fail("sla2_check on the device")

    def sanitizer(self) -> None:
        tool = shutil.which("compute-sanitizer") or next((p for p in ("/usr/local/cuda/bin/compute-sanitizer",) if Path(p).exists()), None)
        if not tool or not self.args.gpu.startswith("gpu"):
            self.report["notes"].append("no compute-sanitizer here")
            return
        cases = [word for line in SANITIZED for word in ("--case", line)]
        for kind in ("memcheck", "racecheck", "synccheck"):
            words = [tool, "--tool", kind, "--error-exitcode", "9", str(self.check_tool), *cases, "--isa", self.args.gpu, "--threads", "1"]
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            except subprocess.TimeoutExpired:
                self.report["notes"].append(f"compute-sanitizer {kind} took more than 60 s and was ended")
                continue
            text = " / ".join((done.stdout + done.stderr).splitlines()[-3:])
            self.report["sanitizer"].append({"tool": kind, "passed": done.returncode == 0, "text": text})
            say(f"compute-sanitizer {kind}: {'passed' if done.returncode == 0 else text}")
            if done.returncode == 9:
                self.fail(f"compute-sanitizer {kind}")

    def peer(self) -> Asked | None:
        words = [sys.executable, str(Path(__file__).with_name("torch_peer.py")), *(["--cpu"] if self.args.torch_cpu else [])]
        peer = Asked(*words) if self.args.gpu.startswith("gpu") or self.args.torch_cpu else None
        head = peer.line() if peer else None
        self.report["torch"] = head or {"missing": "no torch with CUDA in this Python: nothing was measured beside ours"}
        say(f"torch: {head['torch']}" if head else str(self.report["torch"]["missing"]))
        return peer if head else None

    def bench(self) -> None:
        families = {"": Asked(self.gpu_tool, "bench", self.args.gpu)}
        peer = self.peer()
        architecture = self.report["device"]["architecture"]
        if architecture == 90:  # the same without wgmma, in the same run
            families["mma.sync"] = Asked(self.gpu_tool, "bench", self.args.gpu, env={"SLA2_HOPPER": "0"})
        both = list(families)
        if architecture == 89 or architecture >= 120:
            families["fp32 sums"] = Asked(self.gpu_tool, "bench", self.args.gpu, env={"SLA2_FP8_SUMS": "32"})
        for name, (tokens, heads, dim) in self.args.shapes.items():
            asked = [(s, bits, False, family) for family in both for bits in (16, 8) for s in self.args.sparsities]
            if architecture == 89 or architecture >= 120:
                asked += [(s, 8, True, family) for family in ("", "fp32 sums") for s in self.args.sparsities]
            shape = {"shape": name, "tokens": tokens, "heads": heads, "dim": dim}
            rows = {key: {**shape, "sparsity": key[0], "bits": key[1], "fp8_values": key[2], "family": key[3]} for key in asked}
            backends = ("flash", "cudnn") if not self.args.torch_cpu else ("math",)
            peers = {backend: {**shape, "backend": backend} for backend in backends} if peer else {}
            for turn in range(self.args.turns):  # everything once, then everything again: slow drifts meet all alike
                if turn and self.left() < 60:
                    self.report["notes"].append(f"shape {name}: {turn} of {self.args.turns} turns, for want of time")
                    break
                for backend, row in peers.items():
                    assert peer
                    merge(row, peer.ask(tokens, heads, dim, backend, self.args.repeats))
                for (sparsity, bits, fp8, family), row in rows.items():
                    merge(row, families[family].ask(tokens, heads, dim, sparsity, bits, int(fp8), self.args.repeats, int(turn == 0)))
            self.report["bench"] += rows.values()
            self.report["peers"] += peers.values()
            for row in rows.values():
                what = f"{report_format.median(row['ms']):.3f} ms" if row.get("ms") else row.get("refused", "?")
                kind = f"{row['bits']} bits{' e4m3 values' if row['fp8_values'] else ''}{' ' + row['family'] if row['family'] else ''}"
                say(f"{name} {kind}, sparsity {row['sparsity']}: {what}")
                if row.get("finite") is False:
                    self.fail(f"shape {name}: the output holds what is not a number")
            self.clocks(f"after shape {name}")
        for family in families.values():
            family.close()
        if peer:
            peer.close()

    def write(self) -> None:
        self.report["seconds"] = round(time.monotonic() - self.started, 1)
        wrong = report_format.problems(self.report)
        for text in wrong:
            self.fail(f"the report: {text}")
        self.args.out.mkdir(parents=True, exist_ok=True)
        path = self.args.out / f"{report_format.slug(self.report)}.json"
        path.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(report_format.markdown(self.report), encoding="utf-8")
        say(f"wrote {path} and {path.with_suffix('.md').name} after {self.report['seconds']:.0f} s")


def merge(row: dict[str, Any], answer: dict[str, Any]) -> None:
    """Another turn's answer into the row: times are collected."""
    times = [*row.get("ms", []), *answer.pop("ms", [])]
    if not answer.get("kernels"):
        answer.pop("kernels", None)
    row.update({key: value for key, value in answer.items() if key not in row or key in ("finite", "kernels")})
    row.setdefault("kernels", {})
    if times:
        row["ms"] = times


def commit() -> str:
    if text := os.environ.get("SLA2_COMMIT"):
        return text
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def parse_shapes(text: str) -> dict[str, tuple[int, int, int]]:
    """ "A" or "tiny:300:2:64", separated by commas."""
    shapes = {}
    for part in text.split(","):
        name, *numbers = part.split(":")
        shapes[name] = tuple(int(n) for n in numbers) if numbers else SHAPES[name]
    return shapes  # type: ignore[return-value]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--look", action="store_true", help="only say whether there is a GPU: exit code 0 or 3")
    parser.add_argument(
        "--build-dir", type=Path, default=ROOT / "build/cuda", help="a tree built with SLA2_BUILD_CUDA=ON, here or elsewhere"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "libsla2/docs/results", help="folder of the report")
    parser.add_argument("--gpu", default="gpu", help="gpu, gpu:N; emulated:80 and far:80 for tests")
    parser.add_argument("--shapes", type=parse_shapes, default=SHAPES, metavar="A,B,NAME:N:H:D")
    parser.add_argument("--sparsities", type=lambda text: [float(x) for x in text.split(",")], default=SPARSITIES, metavar="0,0.97")
    parser.add_argument("--repeats", type=int, default=5, help="calls per turn")
    parser.add_argument("--turns", type=int, default=2, help="times that everything is asked, peers between")
    parser.add_argument("--seconds", type=float, default=450, help="what it may take in all; later turns are left out")
    parser.add_argument("--case", action="append", default=[], help="sla2_check: this case instead of the list cuda; repeatable")
    parser.add_argument("--torch-cpu", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--planted", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.gpu.startswith("gpu") and (missing := missing_gpu()):
        say(missing)
        return NO_GPU
    if args.look:
        return 0
    check = Check(args)
    check.device()
    for step in (check.trials, check.checks, check.sanitizer, check.bench):
        try:
            step()
        except (subprocess.TimeoutExpired, OSError, json.JSONDecodeError, KeyError) as error:
            check.fail(f"{step.__name__}: {type(error).__name__}: {error}")
    check.write()
    return 1 if check.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
