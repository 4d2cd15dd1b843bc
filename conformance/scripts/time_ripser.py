"""Times ripser.py on distances from standard input; `rin lab run tda --python venv/bin/python` calls it."""

import json
import sys
import time

import numpy as np
from ripser import ripser

lower = json.load(sys.stdin)["lower"]
n = round((1 + (1 + 8 * len(lower)) ** 0.5) / 2)
full = np.zeros((n, n))
full[np.tril_indices(n, -1)] = lower
full += full.T
began = time.perf_counter()
found = ripser(full, maxdim=1, distance_matrix=True)
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "bars": [len(d) for d in found["dgms"]]}))
