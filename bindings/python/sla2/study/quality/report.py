# SPDX-License-Identifier: Apache-2.0
"""Write the tables and pictures of libsla2/docs/quality.md from the committed results; the same results give the same bytes.

Text between the page's markers is this module's; everything else on the page is written by hand.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from . import analysis, heads
from .arms import ARMS, BY_NAME
from .stats import Interval, estimate

PERCENT = 100.0


def _interval(x: Interval, digits: int = 2) -> str:
    return f"{PERCENT * x.value:.{digits}f} ({PERCENT * x.low:.{digits}f} to {PERCENT * x.high:.{digits}f})"


def _number(x: float, digits: int = 3, scale: float = 1.0) -> str:
    return "" if math.isnan(x) else f"{scale * x:.{digits}f}"


def arms_table(records: analysis.Records) -> str:
    """One row an arm: velocity error with its interval, flow loss, what the attention keeps; failed and missing runs are named."""
    lines = [
        "| arm | | seeds | velocity error, % of the teacher's square (95 %) | flow loss | attention error | mass kept | sparsity, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        runs = analysis.good(records, arm.name)
        failed = sorted(set(records.get(arm.name, {})) - set(runs))
        if not runs:
            lines.append(f"| `{arm.name}` | {arm.what} | {'failed' if failed else 'not run'} | | | | | |")
            continue
        seeds = sorted(runs)
        error, kept, sparsity = analysis.attention(runs)
        velocity = estimate(analysis.table(runs, seeds, "velocity"))
        flow = float(analysis.table(runs, seeds, "flow").mean())
        count = f"{len(seeds)}" + (f", {len(failed)} failed" if failed else "")
        lines.append(
            f"| `{arm.name}` | {arm.what} | {count} | {_interval(velocity)} | {flow:.4f} | {_number(error)} | {_number(kept)} |"
            f" {_number(sparsity, 1, PERCENT)} |"
        )
    return "\n".join(lines)


def claims_table(records: analysis.Records) -> str:
    """One row a registered claim."""
    lines = ["| claim | arms | seeds | gain, % (95 %) | detectable, % | adjusted p | outcome |", "|---|---|---|---|---|---|---|"]
    for o in analysis.outcomes(records):
        arms = f"`{o.claim.better}`, `{o.claim.worse}`" + (", flow loss" if o.claim.metric == "flow" else "")
        if o.gain is None:
            lines.append(f"| {o.claim.text} | {arms} | 0 | | | | {o.word} |")
            continue
        p = "" if o.claim.margin is not None else f"{o.p:.4f}"
        lines.append(
            f"| {o.claim.text} | {arms} | {o.seeds} | {_interval(o.gain, 1)} | {PERCENT * o.gain.detectable:.1f} | {p} | **{o.word}** |"
        )
    return "\n".join(lines)


def bins_table(records: analysis.Records) -> str:
    """Velocity error per noise-level bin of every arm that ran."""
    lines = ["| arm | " + " | ".join(f"{i / 5:.1f} to {(i + 1) / 5:.1f}" for i in range(5)) + " |", "|---|---|---|---|---|---|"]
    for name in records:
        runs = analysis.good(records, name)
        if runs and name != "full":
            lines.append(f"| `{name}` | " + " | ".join(f"{PERCENT * x:.2f}" for x in analysis.by_bin(runs)) + " |")
    return "\n".join(lines)


def seeds_table(records: analysis.Records) -> str:
    """Velocity error and last training losses of every single run."""
    lines = [
        "| arm | seed | velocity error, % | flow loss | training loss, first and last four steps | seconds of training |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in records.items():
        for seed, r in runs.items():
            if "failed" in r:
                lines.append(f"| `{name}` | {seed} | failed: {r['failed'].strip().splitlines()[-1][:120]} | | | |")
                continue
            v, f = (float(analysis.table(runs, [seed], m).mean()) for m in ("velocity", "flow"))
            loss = r.get("train_loss", [])
            ends = f"{sum(loss[:4]) / 4:.4f}, {sum(loss[-4:]) / 4:.4f}" if len(loss) >= 4 else ""
            lines.append(f"| `{name}` | {seed} | {PERCENT * v:.2f} | {f:.4f} | {ends} | {r['seconds_train'] or ''} |")
    return "\n".join(lines)


def chart(records: analysis.Records) -> str:
    """Return the arms' velocity errors as an SVG of bars with intervals, least first."""
    rows = []
    for name in records:
        runs = analysis.good(records, name)
        if runs and name != "full":
            rows.append(
                (
                    estimate(analysis.table(runs, sorted(runs), "velocity")),
                    name,
                    BY_NAME[name].loss == "none" and not BY_NAME[name].weights_of,
                )
            )
    rows.sort(key=lambda row: row[0].value)
    left, width, line = 150, 480, 18
    most = max((r[0].high for r in rows), default=1.0)
    height = line * len(rows) + 34

    def x(value: float) -> float:
        return left + width * min(1.0, max(0.0, value / most)) ** 0.5

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{left + width + 70}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="14" fill="#333333">velocity error, % of the teacher\'s square; axis is a square root; pale: untrained</text>',
    ]
    for i, (value, name, untrained) in enumerate(rows):
        y = 24 + line * i
        out.append(f'<text x="{left - 6}" y="{y + 11}" text-anchor="end" fill="#222222">{name}</text>')
        out.append(
            f'<rect x="{left}" y="{y + 2}" width="{x(value.value) - left:.1f}" height="11" fill="{"#b9cbe0" if untrained else "#3b6ea5"}"/>'
        )
        out.append(f'<path d="M{x(value.low):.1f} {y + 7.5} H{x(value.high):.1f}" stroke="#c4501b" stroke-width="2"/>')
        out.append(f'<text x="{x(value.high) + 5:.1f}" y="{y + 11}" fill="#222222">{PERCENT * value.value:.2f}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def packs_table(packs: dict[str, Any], captions: dict[str, Any]) -> str:
    """Return the shipped packs: errors of both stages, and how often clips of the native runner show what their captions say."""

    def share(name: str) -> str:
        found = captions.get(name)
        return "not measured" if found is None else f"{100 * found['accuracy']['all']:.1f} %"

    lines = ["| pack | hard-mask error, identity router | fitted | velocity error, first stage | second stage | clips right in all six, first stage | second stage |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, found in packs.items():
        one, two = found["stage1"], found["stage2"]
        lines.append(
            f"| `{name}` | {one['identity']:.3f} | {one['fitted']:.3f} | {100 * two['before']:.1f} % | {100 * two['velocity_error']:.1f} % |"
            f" {share('stage1_' + name)} | {share('stage2_' + name)} |"
        )
    count = captions["full"]["count"]
    worst = max(x["half_width_95"]["all"] for x in captions.values())
    lines += [
        "",
        f"Full attention: {share('full')}. {count} clips each, the same held-out prompts and noises; 95 % intervals at most ±{100 * worst:.1f}.",
    ]
    return "\n".join(lines) + "\n"


def fill(page: str, parts: dict[str, str]) -> str:
    """Replace what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. Raises ValueError where a marker is missing."""
    for name, text in parts.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"quality.md has no markers 'begin {name}' and 'end {name}'; put them where the table belongs")
        page = pattern.sub(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page)
    return page


def parts(folder: Path) -> dict[str, str]:
    """Return the page's generated parts by marker."""
    records = analysis.load(folder)
    if not records:
        raise FileNotFoundError(f"no results in {folder}: run `python -m sla2.study.quality run` first")
    found = {"arms": arms_table(records), "claims": claims_table(records), "bins": bins_table(records), "runs": seeds_table(records)}
    first = folder / "first_stage.json"
    both = [folder.parent / name for name in ("packs.json", "captions.json")]
    if all(path.is_file() for path in both):
        found["packs"] = packs_table(*(json.loads(path.read_text()) for path in both))
    return found | {"heads": heads.text(json.loads(first.read_text())) if first.exists() else "Not run."}


def write(folder: Path, docs: Path) -> None:
    """Write quality.md's generated parts and its picture."""
    page = docs / "quality.md"
    page.write_text(fill(page.read_text(), parts(folder)))
    (docs / "images" / "quality_arms.svg").write_text(chart(analysis.load(folder)))
