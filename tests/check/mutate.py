#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Break the attention kernels one way at a time (mutations.txt) and see that sla2_check notices.

Needs a build tree that holds sla2_check (./dev check mutate makes it). A mutated file is a copy in a scratch folder, compiled with
its own command from that tree and linked in front of the rooms it replaces: one file and one link per mutation. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutations.txt")
RUN_LIMIT = 120  # seconds of sla2_check smoke; an endless loop is noticed as well


@dataclass
class Mutation:
    line: int
    what: str
    isa: str
    file: str
    old: str
    new: str


def read_mutations(path: Path) -> list[Mutation]:
    """Blocks of '= what | isa', file, '-' lines, '+' lines."""
    result: list[Mutation] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text.startswith("= "):
            what, isa = text[2:].rsplit(" | ", 1)
            result.append(Mutation(number, what, isa, "", "", ""))
        elif text.startswith("- "):
            result[-1].old += ("\n" if result[-1].old else "") + text[2:]
        elif text.startswith("+ "):
            result[-1].new += ("\n" if result[-1].new else "") + text[2:]
        elif text.strip() and not text.startswith("#"):
            result[-1].file = text.strip()
    return result


class Tree:
    """How the build tree compiles each source and links sla2_check."""

    def __init__(self, build: Path):
        self.build = build
        self.compiles = {Path(entry["file"]).resolve(): entry for entry in json.loads((build / "compile_commands.json").read_text())}
        commands = subprocess.run(
            ["ninja", "-t", "commands", "tests/check/sla2_check"], cwd=build, capture_output=True, text=True, check=True
        )
        self.link = next(line for line in reversed(commands.stdout.splitlines()) if " -o tests/check/sla2_check " in line)

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

    def make(self, name: str, text: str, scratch: Path) -> tuple[Path | None, str]:
        """A program with `text` in place of the source `name`, or why not."""
        shutil.rmtree(scratch, ignore_errors=True)
        copy = scratch / name
        copy.parent.mkdir(parents=True)
        copy.write_text(text, encoding="utf-8")
        objects = []
        for number, source in enumerate(self.sources_of(name)):
            entry = self.compiles[(ROOT / source).resolve()]
            words = [w for w in shlex.split(entry["command"]) if w not in ("-g", "-Werror") and not w.endswith("ccache")]
            at = scratch / f"{number}.o"
            words[words.index("-o") + 1] = str(at)
            if source == name:
                words[words.index("-c") + 1] = str(copy)
            words.insert(1, f"-I{scratch / 'libsla2/src'}")  # a mutated header is found before its original
            done = subprocess.run(words, cwd=entry["directory"], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return None, "does not compile: " + done.stderr[-500:]
            objects.append(str(at))
        program = scratch / "sla2_check"
        link = self.link.replace(" -o tests/check/sla2_check ", f" {' '.join(objects)} -o {program} ")
        done = subprocess.run(link, shell=True, cwd=self.build, capture_output=True, text=True, check=False)
        return (program, "") if done.returncode == 0 else (None, "does not link: " + done.stderr[-500:])


def run_check(program: Path, isa: str, cases: str) -> tuple[int, str]:
    """Exit code and the first failing line."""
    try:
        done = subprocess.run([program, cases, "--isa", isa], capture_output=True, text=True, check=False, timeout=RUN_LIMIT)
    except subprocess.TimeoutExpired:
        return 1, f"no end after {RUN_LIMIT} s"
    if done.returncode < 0:
        return 1, f"ended by signal {-done.returncode}"
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAIL", "MISTRUSTED", "UNTESTED"))]
    return done.returncode, " ".join((lines[0] if lines else done.stderr.strip()).split())[:150]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "dev", help="build tree with sla2_check")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "mutants", help="folder for copies and programs")
    parser.add_argument("--list", default="smoke", help="case list that must notice")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="mutations at a time")
    parser.add_argument("--only", default="", help="mutations whose text or file holds this")
    args = parser.parse_args()
    started = time.monotonic()
    mutations = [m for m in read_mutations(LIST) if args.only in m.what or args.only in m.file]
    stale = [
        f"{LIST.name}:{m.line}: '{m.old}' stands {n} times in {m.file}; expected once"
        for m in mutations
        if (n := (ROOT / m.file).read_text(encoding="utf-8").count(m.old)) != 1
    ]
    if stale:
        print("\n".join(stale))
        return 1
    code, text = run_check(args.build / "tests" / "check" / "sla2_check", "all", args.list)
    if code != 0:
        print(f"the sources as they are do not pass {args.list}: {text}")
        return 1
    tree = Tree(args.build.resolve())

    def attempt(numbered: tuple[int, Mutation]) -> str:
        number, m = numbered
        begun = time.monotonic()
        text = (ROOT / m.file).read_text(encoding="utf-8").replace(m.old, m.new)
        scratch = args.scratch.resolve() / str(number)
        program, said = tree.make(m.file, text, scratch)
        code = 0
        if program is not None:
            code, said = run_check(program, m.isa, args.list)
        shutil.rmtree(scratch, ignore_errors=True)
        word = "caught" if code == 1 else "SKIP" if code == 2 and "--isa" in said else "MISSED"
        seconds = time.monotonic() - begun
        print(f"{number:2} {word} {seconds:4.0f} s  {m.what} ({Path(m.file).name}, {m.isa})\n          {said}", flush=True)
        return word

    with ThreadPoolExecutor(args.jobs) as pool:
        words = list(pool.map(attempt, enumerate(mutations, 1)))
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("caught", "MISSED", "SKIP"))
    print(f"{len(mutations)} mutations: {counts} in {time.monotonic() - started:.0f} s")
    return 1 if "MISSED" in words else 0


if __name__ == "__main__":
    sys.exit(main())
