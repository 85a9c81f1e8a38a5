# SPDX-License-Identifier: Apache-2.0
"""What every verb of ./dev stands on: commands, packages, the Python environment, nvcc, CMake trees, test runners with their counts."""
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SLA2_BUILD_ROOT", ROOT / "build"))
VENV = BUILD / "venv"
REQUIREMENTS = ROOT / "tests" / "python" / "requirements.txt"

# What each verb needs, as (Debian 12 name, Ubuntu 24.04 name); one name where both agree.
PACKAGES = {
    "build": ["ca-certificates", "cmake", "ninja-build", "ccache", "g++", "pkg-config", "libdnnl-dev", "libhwy-dev", "libsentencepiece-dev",
              "libutf8proc-dev", "nlohmann-json3-dev", "libcli11-dev", "libfmt-dev", "libavcodec-dev", "libavformat-dev", "libswscale-dev",
              "libavutil-dev"],
    "test": ["catch2", "ffmpeg", "git", "python3-venv", "python3-dev", "binutils", "abigail-tools"],
    "lint": ["clang", "clang-format", "clang-tidy"],
    "fuzz": ["clang", ("libclang-rt-14-dev", "libclang-rt-18-dev")],
    "check": ["debootstrap"],
    "browser": [("chromium", "chromium-browser")],
    "wheel": ["python3-dev", "patchelf"],
}


def say(text: str) -> None:
    print(f"dev: {text}", flush=True)


def stop(text: str, code: int = 1) -> "None":
    print(f"dev: {text}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def run(*command: object, cwd: Path = ROOT, env: "dict[str, str] | None" = None, quiet: bool = False) -> None:
    """Run a command; show it; on failure show its output and stop with its exit code."""
    words = [str(word) for word in command]
    say("$ " + " ".join(words))
    full_env = {**os.environ, **(env or {})}
    if quiet:
        done = subprocess.run(words, cwd=cwd, env=full_env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            print(done.stdout)
    else:
        done = subprocess.run(words, cwd=cwd, env=full_env, check=False)
    if done.returncode != 0:
        stop(f"this command ended with exit code {done.returncode}: {' '.join(words)}", done.returncode)


# ---------------------------------------------------------------------------------------------------------- setup


def os_release() -> "dict[str, str]":
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)


def package_names(groups: "list[str]") -> "list[str]":
    ubuntu = os_release().get("ID") == "ubuntu"
    names = []
    for group in groups:
        for entry in PACKAGES[group]:
            names.append(entry if isinstance(entry, str) else entry[1 if ubuntu else 0])
    return list(dict.fromkeys(names))


def missing_packages(names: "list[str]") -> "list[str]":
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names], capture_output=True, text=True, check=False)
    present = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in present]


def need_packages(*groups: str) -> None:
    if shutil.which("apt-get") is None:
        say("no apt-get here; the packages listed in this script are taken as installed")
        return
    missing = missing_packages(package_names(list(groups)))
    if not missing:
        return
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    if prefix and shutil.which("sudo") is None:
        stop(f"missing packages: {' '.join(missing)}; install them as root, then run this again")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    say(f"installing {len(missing)} packages: {' '.join(missing)}")
    run(*prefix, "apt-get", "update", "-qq", env=env, quiet=True)
    run(*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, quiet=True)


def need_venv() -> Path:
    """The test venv, made or brought up to date only when the requirements changed. Returns its python."""
    python = VENV / "bin" / "python"
    stamp = VENV / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    need_packages("test")
    say(f"making the Python environment in {VENV}")
    if not python.exists():
        # Debian's own interpreter first: another python3 on PATH may lack what wheels need.
        base = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
        run(base, "-m", "venv", "--clear", VENV)
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", REQUIREMENTS)
    stamp.write_text(wanted)
    return python


# nvcc as packages, for machines that have none: a compiler for the gate on registers, no driver and no CUDA runtime.
NVCC_PACKAGES = ("nvidia-cuda-nvcc==13.0.88", "nvidia-cuda-crt==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cccl==13.0.85")


def need_nvcc() -> "Path | None":
    """This machine's nvcc, if it is new enough; else one installed below the build folder; None where that cannot be had."""
    homes = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    for path in (shutil.which("nvcc"), *(home / "nvcc" for home in homes), "/usr/local/cuda/bin/nvcc"):
        if path is None or not Path(path).exists():
            continue
        release = re.search(r"release (\d+)\.(\d+)", subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout)
        if release and (int(release[1]), int(release[2])) >= (12, 8):
            return Path(path)
    folder = BUILD / "nvcc"
    nvcc = folder / "nvidia" / "cu13" / "bin" / "nvcc"
    if not nvcc.exists():
        say(f"installing nvcc into {folder}")
        part = folder.with_name("nvcc.part")  # an installation that is cut off must not look like a compiler
        shutil.rmtree(part, ignore_errors=True)
        words = [need_venv(), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", part, *NVCC_PACKAGES]
        if subprocess.run(words, check=False).returncode:
            say("no nvcc could be installed")
            return None
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return nvcc


# ---------------------------------------------------------------------------------------------------------- build


def configure(preset: str, options: "tuple[str, ...]" = ()) -> Path:
    """Configure a preset whose folder is new, or whose presets or options have changed; returns its folder."""
    folder = BUILD / preset
    if preset == "dev":  # the one that is tested has the Python package too
        options = (*options, "-DSLA2_BUILD_PYTHON=ON", f"-DPython_EXECUTABLE={need_venv()}")
    if os.environ.get("CI") and preset != "release":  # what users build must not stop at a newer compiler's new warning
        options = (*options, "-DSLA2_WERROR=ON")
    stamp = folder / "dev-options.txt"
    wanted = " ".join((hashlib.sha256((ROOT / "CMakePresets.json").read_bytes()).hexdigest(), *options))
    if not ((folder / "build.ninja").exists() and stamp.exists() and stamp.read_text() == wanted):
        run("cmake", "--preset", preset, "-B", folder, *options, quiet=True)
        stamp.write_text(wanted)
    return folder


def build(preset: str, *targets: str, options: "tuple[str, ...]" = ()) -> Path:
    """Configure (when needed) and build a preset; returns its folder."""
    folder = configure(preset, options)
    run("cmake", "--build", folder, *(["--target", *targets] if targets else []), quiet=bool(os.environ.get("CI")))
    return folder


def build_kernels(name: str, architectures: str, ptx: str = "") -> "Path | None":
    """Every CUDA kernel compiled for these architectures, in a tree of its own; None where there is no nvcc."""
    nvcc = need_nvcc()
    if nvcc is None:
        return None
    options = ("-DSLA2_BUILD_CUDA=ON", "-DSLA2_BUILD_CLI=OFF", "-DSLA2_BUILD_TESTS=OFF", f"-DSLA2_NVCC={nvcc}", f"-DSLA2_CUDA_ARCHITECTURES={architectures}", f"-DSLA2_CUDA_PTX={ptx}")
    run("cmake", "--preset", "release", "-B", BUILD / name, *options, quiet=True)
    run("cmake", "--build", BUILD / name, "--target", "sla2_cuda_modules")
    return BUILD / name


# ----------------------------------------------------------------------------------------------------------- tests


def count_ctest(xml: str) -> "tuple[int, int, int]":
    head = re.search(r'<testsuite[^>]*tests="(\d+)"[^>]*failures="(\d+)"[^>]*disabled="(\d+)"[^>]*skipped="(\d+)"', xml.replace("\n", " "))
    if head is None:
        return 0, 1, 0
    tests, failures, disabled, skipped = map(int, head.groups())
    return tests - failures - disabled - skipped, failures, skipped + disabled


def count_pytest(xml: str) -> "tuple[int, int, int]":
    head = re.search(r'<testsuite [^>]*errors="(\d+)" failures="(\d+)" skipped="(\d+)" tests="(\d+)"', xml)
    if head is None:
        return 0, 1, 0
    errors, failures, skipped, tests = map(int, head.groups())
    return tests - errors - failures - skipped, errors + failures, skipped


def run_ctest(folder: Path, extra: "list[str]", env: "dict[str, str] | None" = None, before: "tuple[str, ...] | list[str]" = ()) -> "tuple[int, int, int]":
    report = folder / "ctest.xml"
    report.unlink(missing_ok=True)
    words = [*before, "ctest", "--test-dir", str(folder), "--output-on-failure", "--output-junit", str(report), *extra]
    say("$ " + " ".join(words))
    done = subprocess.run(words, env={**os.environ, **(env or {})}, check=False)
    counts = count_ctest(report.read_text()) if report.exists() else (0, 1, 0)
    return counts if done.returncode == 0 or counts[1] else (counts[0], counts[1] + 1, counts[2])


def run_pytest(folder: Path, paths: "list[str]") -> "tuple[int, int, int]":
    python = need_venv()
    report = folder / f"pytest-{Path(paths[0]).name}.xml"
    report.unlink(missing_ok=True)
    words = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=15", f"--junit-xml={report}", *paths]
    say("$ " + " ".join(words))
    env = {**os.environ, "SLA2_BUILD": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, check=False)
    counts = count_pytest(report.read_text()) if report.exists() else (0, 1, 0)
    return counts if done.returncode == 0 or counts[1] else (counts[0], counts[1] + 1, counts[2])


def tracked(*patterns: str) -> "list[str]":
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if (ROOT / line).exists()]


C_FILES = ("*.cpp", "*.h", "*.hpp", "*.c", "*.cu", "*.cuh")
