"""Exports a trained model with `rin export` and loads the results with transformers and llama-cpp-python.

    HF_HUB_OFFLINE=1 python conformance/scripts/check_trained_export.py --rin target/release/rin \
        [--model models/embedded/rin-shakespeare.rin] [--text TEXT]

`check_export.py` does this for the sources of the repository and holds the bytes to account; this one takes any `.rin` file. It
prints on how many positions of the text the most probable token is RIN's, the largest difference of the logits in their range
(the model computes with 8-bit activations, transformers in float32, llama.cpp in its own 8-bit blocks), and whether the ids of
the text agree. It exits with 1 where a most probable token differs beyond a tie.
"""

import argparse
import tempfile
from pathlib import Path

import check_export as check


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rin", required=True, help="the rin binary")
    parser.add_argument("--model", default="models/embedded/rin-shakespeare.rin")
    parser.add_argument("--text", default="ROMEO:\nWhat light through yonder window")
    args = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        folder, file = place / "folder", place / "model.gguf"
        for to in (folder, file):
            check.rin(args.rin, "export", args.model, "-o", to)
        ids = check.rin_ids(args.rin, args.model, args.text)
        expected = check.rin_logits(args.rin, args.model, ids, place)
        peers = {
            "transformers": (check.transformers_logits(folder, ids), check.transformers_ids(folder, args.text)),
            "llama.cpp": (check.llama_logits(file, ids), check.llama_ids(file, args.text)),
        }
        for name, (logits, peer_ids) in peers.items():
            same, ties, worst = check.compare(name, expected, logits, check.ROUNDED_TIE)
            good &= same + ties == len(ids) and peer_ids == ids
            told = "the same ids" if peer_ids == ids else "other ids"
            print(f"{name}: {same} of {len(ids)} most probable tokens the same, {worst:.1e} of the range, {told}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
