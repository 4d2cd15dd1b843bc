"""Writes docs/headline.md from the reports of run.py and, for the decoder, of bench/peers/run.py.

Usage: python page.py HEADLINE/report.json DECODER/report.json DATE > docs/headline.md
"""

import json
import sys

from run import markdown

HEAD = """# The headline shapes

Written by `bench/headline/page.py` from the raw reports of one machine ({date}, the decoder 2026-11-27); [the protocol](../bench/headline/README.md). A ratio above 1:
the peer takes longer. Engines that are "out" compute something else: more than 3 % of the range from f32.

"""
DECODER = """
## A decoder of four layers

Width 256, 4 heads, 1024, 256 tokens, Q8_0, one step of one sequence on one thread, 64 steps a repetition, {repetitions} repetitions in turns
(`bench/peers`).

| engine | µs a step | time ÷ RIN's (95 %) |
|---|---|---|
"""

GOALS = """
## The goals

| goal | reached | met |
|---|---|---|
"""
# What was measured apart from the two reports, and what stands in the way; with dates, for neither is made anew with this page.
ENCODER = """
An encoder like BERT-base (random weights, one row of 128 positions, one thread) was measured apart from this, by `bench/headline/encoder.py`
on an Intel Xeon with avx512vnni and without AMX, 2026-11-28, medians of 7 rounds: OpenVINO INT8 64.3 ms, F32 281 ms; ONNX Runtime INT8 with
dynamic scales 77.6 ms, with static ones 83.3 ms, F32 188 ms; RIN in integers 67.3 ms, Q8_0 76.3 ms. The goal there is 1.2 x the best of them;
reached is 0.96 x OpenVINO and 1.15 x ONNX Runtime. Of RIN's time in integers 60 % are products, which wait for a sixth of it for weights from
memory, and 13 % attention. The goal of 3 x with AMX was not measured for want of such a machine on that day.
"""
WHY = """
What stands in the way of 5 x: the weights of dense 256 x 4 alone take 1.68 µs to read from the second-level cache, the products of a
standalone loop over them 1.84 µs (`docs/speed-log.md`), and 0.30 µs are the engine's; five times as fast as OpenVINO would be 1.91 µs. The weights of
784-1024-1024-512-10 are 2.4 MB, more than a second-level cache of 2 MB holds. The tails are held against a loop as long as a call, in turns
with the calls: what takes 20 µs away once in a thousand calls is ten times a call of 2 µs. The machine is a shared virtual one, and no run on
another was made.
"""


def goals(headline, decoder):
    """The goals that were set for these shapes beside what the reports hold."""
    rows = []
    for shape in headline["shapes"]:
        peers = {name: found for name, found in shape["engines"].items() if not name.startswith("RIN") and found["seconds"]}
        best = min(peers, key=lambda name: peers[name]["ratio"])
        ratio = peers[best]["ratio"]
        rows.append((f"{shape['shape']}: 5 x the best peer", f"{ratio:.2f} x {best}", ratio >= 5))
    found = [row for row in decoder["rows"] if "ratio" in row]
    best = min(found, key=lambda row: row["ratio"])
    rows.append(("decoder of four layers, a step: 5 x the best peer", f"{best['ratio']:.2f} x {best['version']}", best["ratio"] >= 5))
    dense = next(shape for shape in headline["shapes"] if shape["shape"] == "dense 256 x 4")["engines"]["RIN integers"]["median_us"]
    rows.append(("dense 256 x 4 in 1.9 µs", f"{dense:.2f} µs", dense <= 1.9))
    for shape in headline["shapes"]:
        one = shape["rin_single_calls"]
        if one and one["jitter_p999"]:
            times = one["p999_us"] / one["p50_us"] / one["jitter_p999"]
            rows.append((f"{shape['shape']}: p99.9 ÷ p50 at most 1.2 x that of a fixed loop", f"{times:.2f} x", times <= 1.2))
    return "".join(f"| {goal} | {reached} | {'yes' if met else 'no'} |\n" for goal, reached, met in rows)


def main():
    headline, decoder = (json.load(open(path)) for path in sys.argv[1:3])
    text = HEAD.format(date=sys.argv[3]) + markdown(headline) + DECODER.format(repetitions=decoder["repetitions"])
    for row in decoder["rows"]:
        if row["status"] != "measured":
            text += f"| {row['engine']} | not measured: {row['status']} | |\n"
            continue
        rates = sorted(row["samples_ts"])
        ratio = "1" if "ratio" not in row else f"{row['ratio']:.2f} ({row['ratio_ci95'][0]:.2f} to {row['ratio_ci95'][1]:.2f})"
        text += f"| {row['version']} | {1e6 / rates[len(rates) // 2]:.0f} | {ratio} |\n"
    sys.stdout.write(text + GOALS + goals(headline, decoder) + ENCODER + WHY)


if __name__ == "__main__":
    main()
