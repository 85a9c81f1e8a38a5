# SPDX-License-Identifier: Apache-2.0
"""The law of the house: who may include whom (tests/arch/rooms.txt), and what may not appear anywhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "libsla2" / "src"
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)


def read_rules() -> tuple[set[str], dict[str, set[str]]]:
    open_rooms: set[str] = set()
    allowed: dict[str, set[str]] = {}
    for line in (ROOT / "tests/arch/rooms.txt").read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            name, _, rest = line.partition(":")
            if name == "open":
                open_rooms = set(rest.split())
            else:
                allowed[name] = set(rest.split())
    return open_rooms, allowed


OPEN_ROOMS, ALLOWED = read_rules()


def sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in {".h", ".hpp", ".cpp", ".cu", ".cuh"})


def test_every_room_has_a_rule() -> None:
    rooms = {p.name for p in SRC.iterdir() if p.is_dir() and sources(p)}
    assert rooms <= set(ALLOWED), f"rooms without a rule in rooms.txt: {sorted(rooms - set(ALLOWED))}"


@pytest.mark.parametrize("room", sorted(set(ALLOWED) - {"cli"}))
def test_rooms_include_only_doors_they_may(room: str) -> None:
    wrong = []
    for path in sources(SRC / room):
        for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
            parts = target.split("/")
            other = parts[0]
            if len(parts) < 2 or other not in ALLOWED or other == room:
                continue
            if other not in ALLOWED[room]:
                wrong.append(f"{path.relative_to(ROOT)} includes {target}: {room} may not use {other}")
            elif other not in OPEN_ROOMS and target != f"{other}/{other}.h":
                wrong.append(f"{path.relative_to(ROOT)} includes {target}: only the door {other}/{other}.h is open")
    assert not wrong, "\n".join(wrong)


def test_the_tool_sees_only_public_headers() -> None:
    wrong = []
    for path in sources(ROOT / "libsla2" / "cli"):
        for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if target.split("/")[0] in set(ALLOWED) - {"cli"} and "/" in target:
                wrong.append(f"{path.relative_to(ROOT)} includes {target}")
    assert not wrong, "\n".join(wrong)


def test_public_headers_include_only_each_other_and_the_standard_library() -> None:
    standard = re.compile(r"^(std(def|int|bool)\.h|[a-z_]+)$")
    for path in sources(ROOT / "libsla2" / "include"):
        for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
            assert target.startswith("sla2/") or standard.match(target) or path.name == "dlpack.h", f"{path.name} includes {target}"


def test_no_file_is_too_long() -> None:
    limit = 600
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    long = [
        f"{name}: {count} lines"
        for name in names
        if name.endswith((".cpp", ".h", ".hpp", ".py", ".cu", ".cuh")) and (ROOT / name).exists()
        if (count := (ROOT / name).read_text(encoding="utf-8").count("\n")) > limit
    ]
    assert not long, "\n".join(long)


def private_names(path: Path) -> set[tuple[str, str]]:
    """(namespace, name) of each constant and type in the file's anonymous namespaces."""
    found, space, inside = set(), "", False
    for line in path.read_text(encoding="utf-8").splitlines():
        if opened := re.match(r"namespace ([\w:]+) \{", line):
            space = opened[1]
        elif line.startswith("namespace {"):
            inside = True
        elif line.startswith("}  // namespace"):
            inside = False
        elif inside and (
            named := re.match(r"(?:struct|class|enum class) (\w+)\b[^;]*[{=]|(?:static )?const(?:expr)? .*?\b(k[A-Z]\w*)", line)
        ):
            found.add((space, named[1] or named[2]))
    return found


@pytest.mark.parametrize("folder", ["libsla2/cli", *sorted(f"libsla2/src/{room}" for room in set(ALLOWED) - {"cli"})])
def test_private_names_differ_within_a_room(folder: str) -> None:
    """All presets but dev compile several files of a room as one; the rooms in SLA2_ROOMS_APART are not yet fit for it."""
    apart = re.search(r"set\(SLA2_ROOMS_APART ([^)]*)\)", (ROOT / "packaging/cmake/Sla2Targets.cmake").read_text(encoding="utf-8"))
    if apart and folder.rsplit("/", 1)[-1] in apart[1].split():
        return
    owners: dict[tuple[str, str], list[str]] = {}
    for path in sources(ROOT / folder):
        for name in private_names(path):
            owners.setdefault(name, []).append(path.name)
    twice = [f"{space}: {name} in {', '.join(files)}" for (space, name), files in sorted(owners.items()) if len(files) > 1]
    assert not twice, "\n".join(twice)
