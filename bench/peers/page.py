"""Writes the tables and the picture of docs/performance.md, and README's table, from reports that run.py left.

    python bench/peers/page.py bench/peers/results/*.json

Between the marks `<!-- peers: begin -->` and `<!-- peers: end -->` everything is replaced. The picture is
docs/peers.svg.
"""

import json
import sys
from math import log10
from pathlib import Path
from xml.sax.saxutils import escape

from report import comparison, figure, quiet, table

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
# README shows these alone: the largest shape, with all cores of the machine.
HEADLINE = ("llama-3.2-1b", 2)


def pairs(report):
    """(rin's row with its tier, the peer's row with a ratio), in the order of the report."""
    key = lambda row: (row["model"], row["type"], row["threads"], row["test"])
    where = lambda row: (row["engine"], f"{row['model']} {row['type']}, {row['threads']} threads")
    engines = {(e["engine"], e["for"]): e for e in report["engines"]}
    ours = {}
    for row in report["rows"]:
        if row["engine"] == "rin" and row["status"] == "measured":
            ours[key(row)] = {**row, "tier": tier(engines[where(row)])}
    return [
        (ours[key(row)], {**row, "engine": row["engine"] + build(engines.get(where(row), {"config": []}))})
        for row in report["rows"] if "ratio" in row
    ]  # fmt: skip


def tier(engine):
    """The instruction tier that rin said it took."""
    words = [word.removeprefix("tier ") for word in engine["config"] if word.startswith("tier ")]
    return words[0] if words else "?"


def build(engine):
    """What a peer was built without, where it tells what it was built with (as llama.cpp does)."""
    told = [words for words in engine["config"] if "AVX2 = 1" in words]
    return " without AVX-512" if told and "AVX512 = 1" not in told[0] else ""


def lines(found):
    """Table rows: what, rates of both, ratio with its interval."""
    return [
        [f"{peer['model']} {peer['type']}", peer["test"], peer["threads"], rin["tier"], figure(rin["median_ts"]),
         f"{peer['engine']} {figure(peer['median_ts'])}", *comparison(peer)]
        for rin, peer in found
    ]  # fmt: skip


def about(reports):
    """The machines and days behind the figures."""
    seen = []
    for report in reports:
        machine = report["machine"]
        engines = sorted({e["version"] for e in report["engines"]})
        line = (
            f"{machine['cpu']}, {len(machine['cores'])} cores{' of a virtual machine' if machine['hypervisor'] else ''}, "
            f"{report['begun'][:10]}, {report['repetitions']} repetitions in turns; {', '.join(engines)}"
        )
        if line not in seen:
            seen.append(line)
    return seen


def picture(found):
    """Ratios with their intervals on a logarithmic axis, as SVG."""
    height, left, width = 18, 300, 420
    low, high = 0.4, 10.0
    x = lambda ratio: left + width * log10(max(low, min(high, ratio)) / low) / log10(high / low)
    top = 34
    total = top + height * len(found) + 12
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{total}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{left + width + 60}" height="{total}" fill="white"/>',
        f'<text x="{left}" y="14">RIN\'s rate over the peer\'s, with the 95 % interval; right of 1 RIN is faster</text>',
    ]
    for tick in (0.5, 1, 2, 4, 8):
        at = x(tick)
        ink = "#444" if tick == 1 else "#ddd"
        out.append(f'<line x1="{at:.1f}" y1="{top - 4}" x2="{at:.1f}" y2="{total - 8}" stroke="{ink}"/>')
        out.append(f'<text x="{at:.1f}" y="{top - 7}" text-anchor="middle" fill="#444">{tick}</text>')
    for i, (rin, peer) in enumerate(found):
        y = top + height * i + height / 2
        words = f"{peer['model']} {peer['type']}, {peer['test']}, {peer['threads']} threads"
        if rin["tier"] == "avx2":
            words += ", AVX2"
        ink = {"rin faster": "#1a7f37", "peer faster": "#b42318"}.get(peer["shown"], "#777")
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(words)}</text>')
        if peer["ratio_ci95"]:
            a, b = (x(bound) for bound in peer["ratio_ci95"])
            out.append(f'<line x1="{a:.1f}" y1="{y:.1f}" x2="{b:.1f}" y2="{y:.1f}" stroke="{ink}" stroke-width="2"/>')
        out.append(f'<circle cx="{x(peer["ratio"]):.1f}" cy="{y:.1f}" r="3.5" fill="{ink}"/>')
        out.append(f'<text x="{left + width + 6}" y="{y + 4:.1f}">{peer["ratio"]:.2f}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def between(text, new):
    """`text` with what lies between the marks replaced."""
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def pages(reports):
    """What stands in docs/performance.md and in README, and the picture; None where there is no ratio."""
    found = [pair for report in reports for pair in pairs(report)]
    if not found:
        return None
    source = [f"- {line}" for line in about(reports)]
    loud = [line for line in quiet([peer for _, peer in found]) if not line.startswith("- quiet: nothing")]
    head = ["model", "test", "threads", "tier", "rin, tokens/s", "peer, tokens/s", "ratio", "95 %", "shown"]
    picture_ = "![Ratios with their intervals](peers.svg)"
    full = "\n".join([*source, *loud, "", table(head, lines(found)), "", picture_])
    short = [(rin, peer) for rin, peer in found if (rin["model"], rin["threads"]) == HEADLINE and rin["tier"] != "avx2"]
    brief = "\n".join([source[0], "", table(head, lines(short))])
    return full, brief, picture(found)


def main():
    made = pages([json.loads(Path(path).read_text()) for path in sys.argv[1:]])
    if made is None:
        sys.exit("error: name report.json files of run.py that hold ratios")
    full, brief, drawn = made
    for name, text in [("docs/performance.md", full), ("README.md", brief)]:
        path = ROOT / name
        path.write_text(between(path.read_text(), text))
    (ROOT / "docs/peers.svg").write_text(drawn)


if __name__ == "__main__":
    main()
