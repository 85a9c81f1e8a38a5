# SPDX-License-Identifier: Apache-2.0
"""The public headers say what they must: every declaration its purpose, thread rule, outcomes and age; and every function is
called with bad arguments somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "libsla2" / "include" / "sla2"
HEADERS = sorted(path for path in INCLUDE.glob("*.h") if path.name not in {"sla2.h", "dlpack.h"})
# A doc comment and what follows it, up to the end of the declaration or the opening of a body.
DECLARATION = re.compile(
    r"(?P<comment>/\*\*(?:(?!\*/).)*\*/\s*)?"
    r"^(?P<code>SLA2_API\s[^;]*;|static inline\s[^{]*\{|typedef\s+struct\s+\w+\s*\{|typedef\s[^;{]*;|enum\s*\{)",
    re.DOTALL | re.MULTILINE,
)
VERSION = re.search(r"SLA2_VERSION_MAJOR (\d+)\n#define SLA2_VERSION_MINOR (\d+)", (INCLUDE / "base.h").read_text(encoding="utf-8"))


def name_of(code: str) -> str:
    if function := re.search(r"(sla2_\w+)\(", code):
        return function[1]
    if pointer := re.search(r"\(\*(sla2_\w+)\)", code):
        return pointer[1]
    if "enum" in code.split("{")[0]:
        return "enum"
    return re.findall(r"sla2_\w+", code)[-1]


def declarations(text: str) -> list[tuple[str, str, str]]:
    """(name, its doc comment or "", code) of each declaration in a header."""
    return [(name_of(m["code"]), (m["comment"] or "").strip(), m["code"]) for m in DECLARATION.finditer(text)]


def problems_of(name: str, comment: str, code: str) -> list[str]:
    """What a declaration's comment lacks."""
    words = re.sub(r"[\s*]+", " ", comment)
    lacks = []
    function = code.startswith(("SLA2_API", "static inline"))
    if name == "enum":  # one line of purpose, here or as the first comment inside
        return []
    if len(words) < 25:
        lacks.append("says nothing")
    since = re.search(r"@since (\d+)\.(\d+)", words)
    if since is None:
        lacks.append("no @since")
    elif VERSION and (int(since[1]), int(since[2])) > (int(VERSION[1]), int(VERSION[2])):
        lacks.append(f"@since {since[1]}.{since[2]} is later than the header")
    if function and "thread" not in words.lower():
        lacks.append("no thread rule")
    returns_nothing = re.match(r"SLA2_API void\b(?!\s*\*)", code)
    if function and not returns_nothing and "@return" not in words:
        lacks.append("no @return")
    if code.startswith("SLA2_API sla2_status") and not re.search(r"SLA2_OK|as there|[Aa]s sla2_\w+\(\)|its status", words):
        lacks.append("@return names no status")
    return lacks


def symbols() -> set[str]:
    return set(re.findall(r"^sla2_\w+", (ROOT / "tests/abi/symbols.txt").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("header", [*HEADERS, INCLUDE / "dlpack.h"], ids=lambda path: path.name)
def test_every_declaration_is_documented(header: Path) -> None:
    found = declarations(header.read_text(encoding="utf-8"))
    assert len(found) >= 1
    wrong = [f"{header.name}: {name}: {lack}" for name, comment, code in found for lack in problems_of(name, comment, code)]
    assert not wrong, "\n".join(wrong)


def test_every_enum_says_what_it_numbers() -> None:
    wrong = []
    for header in HEADERS:
        text = header.read_text(encoding="utf-8")
        for match in re.finditer(r"^enum \{", text, re.MULTILINE):
            before = text[: match.start()].rstrip().splitlines()[-1]
            line = text[match.start() :].splitlines()[0]
            # A comment before it, on its first line, or the type it numbers just above.
            if not (before.endswith("*/") or "/*" in line or before.startswith("typedef int32_t")):
                wrong.append(f"{header.name}: {line}")
    assert not wrong, "\n".join(wrong)


def test_the_parser_sees_every_exported_function() -> None:
    seen = {name for header in HEADERS for name, _, code in declarations(header.read_text(encoding="utf-8")) if code.startswith("SLA2_API")}
    assert seen == symbols()


def test_a_bare_declaration_would_be_found() -> None:
    bare = "SLA2_API sla2_status sla2_x(int32_t a);\n/** Frees it; NULL is fine. @since 9.0 */\nSLA2_API void sla2_y(void *y);\n"
    lacks = {name: problems_of(name, comment, code) for name, comment, code in declarations(bare)}
    assert {"says nothing", "no @since", "no thread rule", "no @return"} <= set(lacks["sla2_x"])
    assert lacks["sla2_y"] == ["@since 9.0 is later than the header", "no thread rule"]


def test_bad_arguments_reach_every_function() -> None:
    """tests/abi/bad_arguments.c calls each; CHECK_INIT(type) stands for type_init."""
    program = (ROOT / "tests/abi/bad_arguments.c").read_text(encoding="utf-8")
    called = set(re.findall(r"\b(sla2_\w+)\(", program)) | {f"{t}_init" for t in re.findall(r"CHECK_INIT\((sla2_\w+)\)", program)}
    assert symbols() <= called, sorted(symbols() - called)


def test_structs_begin_with_their_size_and_hold_no_trap() -> None:
    """Sized integers, floats and pointers only: nothing whose width is a compiler's choice."""
    allowed = re.compile(
        r"^(const )?(u?int(8|16|32|64)_t|double|float|char|void|sla2_status|sla2_(tensor|block_list|attention_probe|run_fn))\b|^void \*?\(\*|^sla2_status \(\*"
    )
    wrong = []
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
        for match in re.finditer(r"typedef struct (\w+) \{(.*?)\} \w+;", text, re.DOTALL):
            members = [" ".join(m.split()) for m in match[2].split(";") if m.strip()]
            if members[0] != "uint32_t struct_size":
                wrong.append(f"{match[1]} begins with {members[0]}")
            wrong += [f"{match[1]}: {m}" for m in members if not allowed.match(m)]
            # A struct by value could not grow.
            wrong += [f"{match[1]} holds by value: {m}" for m in members if re.match(r"(const )?sla2_(?!status|run_fn)\w+ [^*]*$", m)]
    assert not wrong, "\n".join(wrong)


def test_the_wrapper_says_what_each_class_is() -> None:
    lines = (INCLUDE / "sla2.hpp").read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for at, line in enumerate(lines)
        if re.match(r"(class|struct) \w+|(\[\[nodiscard\]\] )?inline ", line)
        and not lines[at - 2 if lines[at - 1].startswith("template") else at - 1].startswith("///")
    ]
    assert not bare, "\n".join(bare)
