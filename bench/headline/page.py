"""Writes docs/headline.md from the reports of run.py and, for the decoder, of bench/peers/run.py.

Usage: python page.py HEADLINE/report.json DECODER/report.json DATE > docs/headline.md
"""

import json
import sys

from run import markdown

HEAD = """# The headline shapes

Written by `bench/headline/page.py` from the raw reports of one machine on one day ({date}); [the protocol](../bench/headline/README.md). A ratio above 1:
the peer takes longer. Engines that are "out" compute something else: more than 3 % of the range from f32.

"""
DECODER = """
## A decoder of four layers

Width 256, 4 heads, 1024, 256 tokens, Q8_0, one step of one sequence on one thread, 64 steps a repetition, {repetitions} repetitions in turns
(`bench/peers`).

| engine | µs a step | time ÷ RIN's (95 %) |
|---|---|---|
"""


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
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
