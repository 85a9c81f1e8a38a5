#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Break the attention kernels one way at a time and see that the tests notice.

Two families: cpu (mutations.txt, noticed by a whole case list) and cuda (mutations_cuda.txt, kernels/cuda built against the emulator,
each noticed by the few cases of the committed lists that it names). Needs a build tree that holds sla2_check and test_cuda_emulator
(./dev check mutate makes it). A mutated file is a copy in a scratch folder, compiled with its own command from that tree and linked
in front of the rooms, or in the place of the modules, that it replaces: one link per mutation. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LISTS = {"cpu": Path(__file__).with_name("mutations.txt"), "cuda": Path(__file__).with_name("mutations_cuda.txt")}
RUN_LIMIT = 120  # seconds of the program that must notice; an endless loop is noticed as well
UNIT = "test_cuda_emulator"  # in the place of an instruction set: a test of that program notices
KERNELS = Path("libsla2/src/kernels/cuda")


@dataclass
class Mutation:
    family: str
    line: int
    what: str
    isa: str
    file: str = ""
    old: str = ""
    new: str = ""
    modules: list[str] = field(default_factory=list)  # cuda: the files of kernels that are compiled anew
    cases: list[str] = field(default_factory=list)  # cuda: cases, or names of tests

    @property
    def target(self) -> str:
        return f"tests/cuda_emulator/{UNIT}" if self.isa == UNIT else "tests/check/sla2_check"


def read_mutations(family: str) -> list[Mutation]:
    """Blocks of '= what | isa', '@ modules', file, '-' lines, '+' lines, '? case' lines."""
    result: list[Mutation] = []
    for number, text in enumerate(LISTS[family].read_text(encoding="utf-8").splitlines(), 1):
        if text.startswith("= "):
            what, isa = text[2:].rsplit(" | ", 1)
            result.append(Mutation(family, number, what, isa))
        elif text.startswith("- "):
            result[-1].old += ("\n" if result[-1].old else "") + text[2:]
        elif text.startswith("+ "):
            result[-1].new += ("\n" if result[-1].new else "") + text[2:]
        elif text.startswith("@ "):
            result[-1].modules = text[2:].split()
        elif text.startswith("? "):
            result[-1].cases.append(text[2:])
        elif text.strip() and not text.startswith("#"):
            result[-1].file = text.strip()
            if family == "cuda":
                result[-1].file = str(KERNELS / result[-1].file)
    for m in result:
        if family == "cuda" and not m.modules:
            m.modules = [Path(m.file).stem]
    return result


def complaints(mutations: list[Mutation]) -> list[str]:
    """What is wrong with the lists themselves: text that is not there once, cases that no committed list has."""
    lines = {text.strip() for name in ("cuda", "hopper") for text in (Path(__file__).parent / f"lists/{name}.txt").read_text().splitlines()}
    tests = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests/cuda_emulator").glob("test_*.cpp"))
    wrong = []
    for m in mutations:
        where = f"{LISTS[m.family].name}:{m.line}"
        if (n := (ROOT / m.file).read_text(encoding="utf-8").count(m.old)) != 1:
            wrong.append(f"{where}: '{m.old}' stands {n} times in {m.file}; expected once")
        if m.family == "cuda":
            known = [f'TEST_CASE("{case}"' in tests if m.isa == UNIT else case in lines for case in m.cases]
            wrong += [f"{where}: no list or test has '{case}'" for case, there in zip(m.cases, known, strict=True) if not there]
            if not m.cases:
                wrong.append(f"{where}: names no case")
    return wrong


class Tree:
    """How the build tree compiles each source and links sla2_check."""

    def __init__(self, build: Path):
        self.build = build
        self.compiles = {Path(entry["file"]).resolve(): entry for entry in json.loads((build / "compile_commands.json").read_text())}
        self.links: dict[str, str] = {}

    def link(self, target: str) -> str:
        if target not in self.links:
            commands = subprocess.run(["ninja", "-t", "commands", target], cwd=self.build, capture_output=True, text=True, check=True)
            self.links[target] = next(line for line in reversed(commands.stdout.splitlines()) if f" -o {target} " in line)
        return self.links[target]

    def link_with(self, m: Mutation, objects: list[Path], program: Path) -> str:
        """cpu: objects go in front of the archives that have them. cuda: each takes its module's place, and all come first, so that
        theirs are the inline functions that the linker keeps."""
        link, names = self.link(m.target), " ".join(str(at) for at in objects)
        if m.family == "cpu":
            return link.replace(f" -o {m.target} ", f" {names} -o {program} ")
        for module in m.modules:
            link, count = re.subn(rf"\S+/kernels/cuda/{re.escape(module)}\.cu\.o", "", link)
            if count != 1:
                raise SystemExit(f"{LISTS['cuda'].name}:{m.line}: the link of {m.target} has {count} objects of module {module}")
        link = link.replace(f" -o {m.target} ", f" -o {program} ")
        return re.sub(r" (\S+\.cpp\.o)", lambda first: f" {names} {first[1]}", link, count=1)

    def sources_of(self, name: str) -> list[str]:
        """The file itself, or for a header the attention files that include it, also through other headers."""
        if not name.endswith(".h"):
            return [name]
        files = [
            p for room in ("attention", "kernels") for p in sorted((ROOT / "libsla2/src" / room).rglob("*.*")) if p.suffix in (".h", ".cpp")
        ]
        texts = {p: p.read_text(encoding="utf-8") for p in files}
        reached: set[Path] = {ROOT / name}
        while True:
            headers = [f'"{p.relative_to(ROOT / "libsla2/src")}"' for p in reached if p.suffix == ".h"]
            more = {p for p, text in texts.items() if any(header in text for header in headers)} - reached
            if not more:
                break
            reached |= more
        return [str(p.relative_to(ROOT)) for p in sorted(reached) if p.suffix == ".cpp" and p.resolve() in self.compiles]

    def make(self, m: Mutation, text: str, scratch: Path) -> tuple[Path | None, str]:
        """A program with `text` in place of the mutation's file, or why not."""
        shutil.rmtree(scratch, ignore_errors=True)
        copy = scratch / m.file
        copy.parent.mkdir(parents=True)
        copy.write_text(text, encoding="utf-8")
        objects = []
        sources = [str(KERNELS / f"{module}.cu") for module in m.modules] if m.family == "cuda" else self.sources_of(m.file)
        for number, source in enumerate(sources):
            entry = self.compiles[(ROOT / source).resolve()]
            words = [w for w in shlex.split(entry["command"]) if w not in ("-g", "-Werror") and not w.endswith("ccache")]
            at = scratch / f"{number}.o"
            words[words.index("-o") + 1] = str(at)
            if source == m.file:
                words[words.index("-c") + 1] = str(copy)
            words.insert(1, f"-I{scratch / 'libsla2/src'}")  # a mutated header is found before its original
            done = subprocess.run(words, cwd=entry["directory"], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return None, "does not compile: " + done.stderr[-500:]
            objects.append(at)
        program = scratch / Path(m.target).name
        done = subprocess.run(self.link_with(m, objects, program), shell=True, cwd=self.build, capture_output=True, text=True, check=False)
        return (program, "") if done.returncode == 0 else (None, "does not link: " + done.stderr[-500:])


def run(program: Path, arguments: list[str]) -> tuple[int, str]:
    """Exit code and the first failing line."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=RUN_LIMIT)
    except subprocess.TimeoutExpired:
        return 1, f"no end after {RUN_LIMIT} s"
    if done.returncode < 0:
        return 1, f"ended by signal {-done.returncode}"
    words = ("FAIL", "MISTRUSTED", "UNTESTED", "No test", "Invalid")
    lines = [line for line in done.stdout.splitlines() if line.startswith(words) or ": FAILED:" in line]
    return done.returncode, " ".join((lines[0] if lines else done.stderr.strip()).split())[:200]


def notice(m: Mutation, program: Path, case_list: str) -> tuple[int, str]:
    """What the program that must notice says: 0 nothing, 1 that something is wrong, 2 that it could not run."""
    if m.isa == UNIT:
        code, said = run(program, [",".join(case.replace(",", "\\,") for case in m.cases)])  # a bare comma means "or"
        return (2, said) if "No test" in said or "Invalid" in said else (min(code, 1), said)
    if m.family == "cpu":
        return run(program, [case_list, "--isa", m.isa])
    return run(program, ["--isa", m.isa, "--threads", "1,2", *(word for case in m.cases for word in ("--case", case))])


def untouched(tree: Tree, mutations: list[Mutation], case_list: str) -> str:
    """Empty, or what the sources as they are do not pass; for cuda also through a link of one's own."""
    if any(m.family == "cpu" for m in mutations):
        code, text = run(tree.build / "tests/check/sla2_check", [case_list, "--isa", "all"])
        if code != 0:
            return f"the sources as they are do not pass {case_list}: {text}"
    for isa in sorted({m.isa for m in mutations if m.family == "cuda"}):
        mine = [m for m in mutations if m.isa == isa]
        cases = list(dict.fromkeys(case for m in mine for case in m.cases))
        for case in cases:  # one by one: each must be able to notice
            code, text = notice(Mutation("cuda", 0, "", isa, cases=[case]), tree.build / mine[0].target, "")
            if code != 0:
                return f"the sources as they are do not pass '{case}' with {isa}: {text}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "dev", help="build tree with the two programs")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "mutants", help="folder for copies and programs")
    parser.add_argument("--family", choices=("all", "cpu", "cuda"), default="all", help="which mutations")
    parser.add_argument("--list", default="smoke", help="cpu: the case list that must notice")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="mutations at a time")
    parser.add_argument("--only", default="", help="mutations whose text or file holds this")
    args = parser.parse_args()
    started = time.monotonic()
    families = LISTS if args.family == "all" else [args.family]
    mutations = [m for family in families for m in read_mutations(family) if args.only in m.what or args.only in m.file]
    tree = Tree(args.build.resolve())
    stale = complaints(mutations)
    if not stale and (text := untouched(tree, mutations, args.list)):
        stale = [text]
    if stale:
        print("\n".join(stale))
        return 1

    def attempt(numbered: tuple[int, Mutation]) -> str:
        number, m = numbered
        begun = time.monotonic()
        original = (ROOT / m.file).read_text(encoding="utf-8")
        scratch = args.scratch.resolve() / str(number)
        program, said = tree.make(m, original.replace(m.old, m.new), scratch)
        code = 0
        if program is not None:
            code, said = notice(m, program, args.list)
        word = "caught" if code == 1 else "SKIP" if code == 2 and m.family == "cpu" and "--isa" in said else "MISSED"
        if word == "caught" and "no kernel is called" in said:
            word = "MISSED"  # the link lost something: that is no mutation's doing
        shutil.rmtree(scratch, ignore_errors=True)
        seconds = time.monotonic() - begun
        print(f"{number:2} {word} {seconds:4.0f} s  {m.what} ({Path(m.file).name}, {m.isa})\n          {said}", flush=True)
        return word

    def control(numbered: tuple[int, Mutation]) -> str:
        """The way of a mutation with nothing changed: what this does not pass, nothing may be said to be caught by."""
        number, m = numbered
        scratch = args.scratch.resolve() / f"untouched{number}"
        program, said = tree.make(m, (ROOT / m.file).read_text(encoding="utf-8"), scratch)
        code = 1
        if program is not None:
            code, said = notice(m, program, args.list)
        shutil.rmtree(scratch, ignore_errors=True)
        return "" if code == 0 else f"{', '.join(m.modules)}, compiled and linked anew without a mutation, do not pass: {said}"

    ways = list({(*m.modules, m.isa): m for m in mutations if m.family == "cuda"}.values())
    with ThreadPoolExecutor(args.jobs) as pool:
        broken = [text for text in pool.map(control, enumerate(ways)) if text]
    if broken:
        print("\n".join(broken))
        return 1
    with ThreadPoolExecutor(args.jobs) as pool:
        words = list(pool.map(attempt, enumerate(mutations, 1)))
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("caught", "MISSED", "SKIP"))
    print(f"{len(mutations)} mutations: {counts} in {time.monotonic() - started:.0f} s")
    return 1 if "MISSED" in words else 0


if __name__ == "__main__":
    sys.exit(main())
