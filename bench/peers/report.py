"""Medians, intervals and ratios of interleaved repetitions, and the report in Markdown and JSON.

Repetitions with one number belong together: they ran one after another, so they share what drifts. The interval of a
ratio draws such pairs, never single times. A row without repetitions has no figure.
"""

import json
import random
from pathlib import Path
from statistics import median

RESAMPLES = 10_000
# Fewer repetitions than this show nothing.
LEAST = 5
KEY = 20_240_229


def interval(rows, statistic, resamples=RESAMPLES):
    """The 95 % percentile-bootstrap interval of a statistic of a list of rows; None with too few of them."""
    if len(rows) < LEAST:
        return None
    rng = random.Random(KEY)
    found = sorted(statistic(rng.choices(rows, k=len(rows))) for _ in range(resamples))
    cut = resamples // 40
    return [found[cut], found[-cut - 1]]


def summary(rates):
    """Median rate and its interval."""
    return {"median_ts": median(rates), "ci95_ts": interval(rates, median)}


def ratio(ours, theirs):
    """Median of our rates over the median of theirs, its interval over pairs, and what that shows."""
    of = lambda pairs: median(a for a, _ in pairs) / median(b for _, b in pairs)
    pairs = list(zip(ours, theirs, strict=True))
    bounds = interval(pairs, of)
    if bounds is None:
        shown = "too few repetitions"
    elif bounds[0] > 1:
        shown = "rin faster"
    elif bounds[1] < 1:
        shown = "peer faster"
    else:
        shown = "no difference shown"
    return {"ratio": of(pairs), "ratio_ci95": bounds, "shown": shown}


def finish(rows):
    """Adds the figures to rows of samples: all of a row's, and against rin where the work is the same."""
    key = lambda row: (row["model"], row["type"], row["threads"], row["test"])
    ours = {key(row): row for row in rows if row["engine"] == "rin" and row["status"] == "measured"}
    for row in rows:
        if row["status"] != "measured":
            continue
        row.update(summary(row["samples_ts"]))
        rin = ours.get(key(row))
        if rin is not None and rin is not row and row["arithmetic"] == "same":
            row.update(ratio(rin["samples_ts"], row["samples_ts"]))
            if row["disturbed"]:
                row["shown"] = "nothing: disturbed"
    return rows


def figure(value):
    """Three digits or more, two decimals or fewer."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def bounds(pair):
    return "-" if pair is None else f"{figure(pair[0])} … {figure(pair[1])}"


def table(head, lines):
    text = lambda line: "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |"
    return "\n".join([text(head), "|" + "---|" * len(head), *map(text, lines)])


def where(row):
    return [f"{row['model']} {row['type']}", row["test"], row["threads"], row["engine"]]


def comparison(row):
    """The cells of a ratio; rin itself has none."""
    if "ratio" not in row:
        return ["-", "-", "-"]
    low_high = row["ratio_ci95"]
    return [f"{row['ratio']:.3f}", "-" if low_high is None else "{:.3f} … {:.3f}".format(*low_high), row["shown"]]


def quiet(rows):
    """Lines on who took the machine's time, one for each configuration where that was too much or is not known."""
    found = {}
    for row in rows:
        if row["disturbed"] is not False:
            word = "**DISTURBED**" if row["disturbed"] else "quiet or not: unknown"
            place = f"{row['model']} {row['type']}, {row['threads']} threads"
            found[place] = f"- {word}, {place}: {'; '.join(row['disturbed_by'])}"
    return list(found.values()) or ["- quiet: nothing else took the machine's time"]


def markdown(report):
    rows, machine = report["rows"], report["machine"]
    measured = [row for row in rows if row["status"] == "measured"]
    parts = [
        "# RIN against its peers",
        "",
        f"- machine: {machine['cpu']}, cores {machine['cores']}, {' '.join(machine['features'])}, {machine['system']}"
        + (", virtual" if machine["hypervisor"] else ""),
        *quiet(rows),
        f"- {report['repetitions']} repetitions, interleaved; begun {report['begun']}; medians with 95 % intervals",
        "",
        "## Same work",
        "",
        "Tokens per second; the ratio is RIN's rate over the peer's: above 1, RIN is faster.",
        "",
    ]
    head = ["model", "test", "threads", "engine", "tokens/s", "95 %", "rin ÷ peer", "95 %", "shown", "differs"]
    rate = lambda row: [*where(row), figure(row["median_ts"]), bounds(row["ci95_ts"])]
    same = [row for row in measured if row["arithmetic"] == "same"]
    lines = [[*rate(row), *comparison(row), "; ".join(row["differs"]) or "-"] for row in same]
    parts.append(table(head, lines) if lines else "Nothing was measured.")
    if other := [row for row in measured if row["arithmetic"] != "same"]:
        parts += ["", "## Other arithmetic: no comparison", ""]
        parts += ["These engines do not multiply with the weights as they are stored.", ""]
        head = ["model", "test", "threads", "engine", "tokens/s", "95 %", "differs"]
        parts.append(table(head, [[*rate(row), "; ".join(row["differs"])] for row in other]))
    if missing := [row for row in rows if row["status"] != "measured"]:
        parts += ["", "## Not measured", ""]
        parts.append(table(["model", "test", "threads", "engine", "why"], [[*where(r), r["status"]] for r in missing]))
    parts += ["", "## Parity", "", "Largest difference of logits from RIN's, as a share of their range.", ""]
    head = ["model", "threads", "engine", "difference", "bound", "same first choice", "within"]
    lines = [
        [f"{p['model']} {p['type']}", p["threads"], p["engine"], f"{p['difference']:.2e}", f"{p['bound']:.0e}"]
        + [f"{p['same_choice']} of {p['positions']}", "yes" if p["within"] else "**no**"]
        for p in report["parity"]
    ]
    parts.append(table(head, lines) if lines else "No peer's logits were compared.")
    parts += ["", "## Engines", ""]
    parts += [f"- {e['engine']} ({e['for']}): {e['version']}; {'; '.join(e['config'])}" for e in report["engines"]]
    parts += ["", "## Models", ""]
    parts += [f"- {m['model']} {m['type']}: {m['bytes']} bytes, SHA-256 {m['sha256']}" for m in report["models"]]
    return "\n".join(parts) + "\n"


def write(report, folder):
    """Writes report.json and report.md."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (folder / "report.md").write_text(markdown(report))
