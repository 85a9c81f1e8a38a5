# SPDX-License-Identifier: Apache-2.0
"""The report of ./dev gpu-check: what it must hold, and its tables in Markdown."""

from __future__ import annotations

import re
from typing import Any

Report = dict[str, Any]
FORMAT = 1
# Field -> type, of the report and of each row of its lists.
FIELDS: dict[str, Any] = {
    "format": int,
    "date": str,
    "commit": str,
    "device": dict,
    "clocks": list,
    "host": str,
    "torch": dict,
    "trials": list,
    "checks": dict,
    "sanitizer": list,
    "bench": list,
    "peers": list,
    "notes": list,
    "seconds": float,
}
ROWS: dict[str, dict[str, Any]] = {
    "trials": {"instruction": str, "tried": bool, "cases": int, "different": int, "sum_bits": int, "first": str},
    "sanitizer": {"tool": str, "passed": bool, "text": str},
    "bench": {"shape": str, "tokens": int, "heads": int, "dim": int, "sparsity": float, "bits": int, "fp8_values": bool, "family": str},
    "peers": {"shape": str, "tokens": int, "heads": int, "dim": int, "backend": str},
}


def is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def problems(report: Report) -> list[str]:
    """What a report lacks, one sentence each."""
    wrong = [f"{name}: expected {kind.__name__}" for name, kind in FIELDS.items() if not is_a(report.get(name), kind)]
    wrong += [f"{name}: not a field of the report" for name in report.keys() - FIELDS.keys()]
    if wrong:
        return wrong
    for name, fields in ROWS.items():
        for i, row in enumerate(report[name]):
            wrong += [f"{name}[{i}].{field}: expected {kind.__name__}" for field, kind in fields.items() if not is_a(row.get(field), kind)]
            if name in ("bench", "peers") and not ("refused" in row or (row.get("ms") and all(is_a(ms, float) for ms in row["ms"]))):
                wrong.append(f"{name}[{i}]: neither times nor the reason why there are none")
    if report["format"] != FORMAT:
        wrong.append(f"format is {report['format']}, expected {FORMAT}")
    return wrong


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def slug(report: Report) -> str:
    """File name without its suffix: device and date."""
    name = re.sub(r"[^a-z0-9]+", "-", report["device"]["name"].lower()).strip("-").removeprefix("nvidia-")
    return f"gpu_{name}_{report['date'][:10]}"


def bench_tables(report: Report) -> list[str]:
    lines = []
    for shape in dict.fromkeys(row["shape"] for row in report["bench"]):
        rows = [row for row in report["bench"] if row["shape"] == shape]
        first = rows[0]
        peers = {row["backend"]: median(row["ms"]) for row in report["peers"] if row["shape"] == shape and "ms" in row}
        lines += ["", f"### Shape {shape}: N {first['tokens']:,}, {first['heads']} heads, D {first['dim']}", ""]
        lines += [f"PyTorch, {backend}: {ms:.3f} ms (dense)." for backend, ms in peers.items()]
        head = [
            "bits",
            "sparsity",
            "ms",
            *(f"faster than {backend}" for backend in peers),
            "TFLOP/s counted as dense",
            "share of each kernel",
        ]
        lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for row in rows:
            bits = f"{row['bits']}{', e4m3 values' if row['fp8_values'] else ''}{', ' + row['family'] if row['family'] else ''}"
            sparsity = f"{100 * row['sparsity']:.0f} %" if row["sparsity"] else "dense"
            if "refused" in row:
                lines.append(f"| {bits} | {sparsity} | {row['refused']} |" + " |" * (len(head) - 3))
                continue
            ms = median(row["ms"])
            flops = 4 * row["tokens"] ** 2 * row["dim"] * row["heads"]
            total = sum(row["kernels"].values()) or 1.0
            shares = ", ".join(
                f"{name.removeprefix('sla2_')} {100 * part / total:.0f} %"
                for name, part in sorted(row["kernels"].items(), key=lambda item: -item[1])
            )
            cells = [bits, sparsity, f"{ms:.3f}", *(f"{peer / ms:.2f}" for peer in peers.values()), f"{flops / ms / 1e9:.0f}", shares]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(report: Report) -> str:
    device = report["device"]
    lines = [
        f"# {device['name']}, {report['date'][:10]}",
        "",
        f"Written by `./dev gpu-check` at commit {report['commit']}; medians of whole calls (pooling, routing, packing, totals, attention)",
        "between events, peers in the same run, one after the other. Nothing here is a prediction.",
        "",
        f"- compute capability {device['architecture'] / 10:.1f}, {device.get('multiprocessors', '?')} multiprocessors, "
        f"{device.get('memory_bytes', 0) / 2**30:.0f} GiB; CUDA driver {device.get('cuda_driver', '?')}; host {report['host']}",
        *(f"- clocks, {clock['when']}: {clock['text']}" for clock in report["clocks"]),
        f"- torch: {report['torch'].get('torch', report['torch'].get('missing', '?'))}, cuDNN {report['torch'].get('cudnn', '-')}",
        f"- sla2_check: {report['checks'].get('summary', 'not run')}",
        *(f"- compute-sanitizer {row['tool']}: {'passed' if row['passed'] else 'FAILED: ' + row['text']}" for row in report["sanitizer"]),
        *(f"- note: {note}" for note in report["notes"]),
        "",
        "## Instructions beside the emulator's tables",
        "",
        "| instruction | cases | differ | bits kept behind the leading one of a sum |",
        "|---|---|---|---|",
    ]
    for row in report["trials"]:
        if row["tried"]:
            lines.append(f"| {row['instruction']} | {row['cases']} | {row['different']} | {row['sum_bits'] or '-'} |")
        else:
            lines.append(f"| {row['instruction']} | - | {row['first']} | - |")
    lines += ["", "## Whole calls", *bench_tables(report)]
    if device.get("kernels"):
        lines += [
            "",
            "## Kernels on this device (cuFuncGetAttribute)",
            "",
            "| kernel | registers | local bytes | shared bytes asked for |",
            "|---|---|---|---|",
        ]
        shared: dict[str, int] = {}
        for row in report["bench"]:
            for name, size in row.get("shared_bytes", {}).items():
                shared[name] = max(size, shared.get(name, 0))
        for name, use in sorted(device["kernels"].items()):
            lines.append(f"| {name} | {use['registers']} | {use['local_bytes']} | {use['static_shared'] + shared.get(name, 0)} |")
    return "\n".join(lines) + "\n"
