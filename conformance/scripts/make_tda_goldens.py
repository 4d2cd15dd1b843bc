"""Bars of small clouds by GUDHI and Ripser, distances of diagrams by GUDHI, and RTD by its authors' recipe.

    venv/bin/pip install -r conformance/requirements-lab.txt
    venv/bin/python conformance/scripts/make_tda_goldens.py ../shared/data/tda

Writes conformance/lab/tda.json. Of the files in the data folder only the bars are stored. Every barcode is GUDHI's, in
double precision, and is held here against Ripser's, which computes in single precision.
"""

import json
import sys
from pathlib import Path

import gudhi
import gudhi.hera
import numpy as np
import persim
from ripser import ripser

DATA = Path(sys.argv[1])
OUT = Path(__file__).parent.parent / "lab" / "tda.json"
rng = np.random.default_rng(20261127)


def lower_file(path):
    values = [float(x) for x in path.read_text().replace(",", " ").split()]
    n = round((1 + (1 + 8 * len(values)) ** 0.5) / 2)
    assert n * (n - 1) // 2 == len(values), path
    full = np.zeros((n, n))
    full[np.tril_indices(n, -1)] = values
    return full + full.T


def off_file(path):
    lines = path.read_text().split("\n")
    n = int(lines[1].split()[0])
    return np.array([[float(x) for x in line.split()] for line in lines[2 : 2 + n]])


def pairwise(points):
    return np.sqrt(((points[:, None, :] - points[None, :, :]) ** 2).sum(-1))


def bars(d, dim, threshold=np.inf):
    tree = gudhi.RipsComplex(distance_matrix=d, max_edge_length=float(min(threshold, 1e300))).create_simplex_tree(
        max_dimension=dim + 1
    )
    tree.compute_persistence(homology_coeff_field=2, min_persistence=0, persistence_dim_max=True)
    found = []
    for k in range(dim + 1):
        pairs = np.array(tree.persistence_intervals_in_dimension(k)).reshape(-1, 2)
        pairs = pairs[pairs[:, 1] > pairs[:, 0]]
        found.append(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
    theirs = ripser(d, maxdim=dim, distance_matrix=True, thresh=threshold)["dgms"]
    for k in range(dim + 1):
        a, b = found[k], theirs[k][theirs[k][:, 1] > theirs[k][:, 0]]
        # Rounding to single precision can make a bar of no length or give one; such bars are short.
        long = lambda x: x[(x[:, 1] - x[:, 0]) > 1e-5 * max(1.0, d.max())]
        a, b = long(a), long(b)
        assert len(a) == len(b), (k, len(a), len(b))
        a, b = np.sort(a, axis=0), np.sort(b, axis=0)
        same = np.isclose(a, b, rtol=1e-5, atol=1e-6 * d.max()) | (np.isinf(a) & np.isinf(b))
        assert same.all(), (k, a[~same], b[~same])
    return found


def rows(pairs):
    return [[float(f"{x:.12g}") if np.isfinite(x) else None for x in pair] for pair in pairs]


def stored(points):
    return [[float(f"{x:.6g}") for x in row] for row in points]


cases = []


def add(name, points, dim, threshold=np.inf):
    """A cloud that is stored."""
    points = np.array(stored(points))
    found = bars(pairwise(points), dim, threshold)
    cases.append(
        {
            "name": name,
            "points": points.tolist(),
            "dimension": dim,
            "threshold": None if np.isinf(threshold) else threshold,
            "bars": [rows(b) for b in found],
        }
    )
    return found


def add_file(name, file, d, dim, threshold=np.inf):
    found = bars(d, dim, threshold)
    cases.append(
        {
            "name": name,
            "file": file,
            "dimension": dim,
            "threshold": None if np.isinf(threshold) else threshold,
            "bars": [rows(b) for b in found],
        }
    )


angle = rng.uniform(0, 2 * np.pi, 40)
circle = np.c_[np.cos(angle), np.sin(angle)] + rng.normal(0, 0.05, (40, 2))
ring = add("noisy circle", circle, 2)
u, v = rng.uniform(0, 2 * np.pi, (2, 60))
torus = np.c_[(2 + np.cos(v)) * np.cos(u), (2 + np.cos(v)) * np.sin(u), np.sin(v)]
add("torus", torus, 2)
sphere = rng.normal(size=(40, 3))
add("sphere", sphere / np.linalg.norm(sphere, axis=1)[:, None], 2)
for i, (n, width) in enumerate([(12, 2), (25, 3), (30, 5), (20, 10)]):
    add(f"random cloud {i}", rng.normal(size=(n, width)), 2)
grid = np.array([[x, y, z] for x in range(3) for y in range(3) for z in range(2)], dtype=float)
add("grid, many equal distances", grid, 2)
add("duplicates", np.r_[circle[:12], circle[:6], circle[:3]], 2)
add("two clusters, up to 2", np.r_[rng.normal(size=(12, 2)) * 0.3, rng.normal(size=(12, 2)) * 0.3 + 5], 2, 2.0)
octahedron = np.r_[np.eye(3), -np.eye(3)]
add("octahedron", octahedron, 2)
add("one point", [[1.0, 2.0]], 2)

add_file("RP2", "projective_plane.lower_distance_matrix", lower_file(DATA / "projective_plane.lower_distance_matrix"), 2)
for n in (16, 20):
    file = f"random{n}.lower_distance_matrix"
    add_file(f"random {n}", file, lower_file(DATA / file), 2)
file = "sphere_3_192.lower_distance_matrix"
add_file("S3, 192 points", file, lower_file(DATA / file), 1)
add_file("S3, 192 points, up to 1.1", file, lower_file(DATA / file), 2, 1.1)
for name, file in (("circle, 80 points", "sphere2D_80.off"), ("torus, 300 points", "tore3D_300.off")):
    add_file(name, file, pairwise(off_file(DATA / file)), 1)

pairs = []
for i in range(6):
    sides = []
    for _ in range(2):
        n = int(rng.integers(0, 12))
        birth = rng.uniform(0, 1, n)
        sides.append(np.round(np.c_[birth, birth + rng.exponential(0.3, n)], 6).reshape(-1, 2))
    a, b = sides
    if i == 5:
        a, b = np.r_[a, [[0.1, np.inf], [0.4, np.inf]]], np.r_[b, [[0.2, np.inf], [0.45, np.inf]]]
    w = {}
    for ground, p in (("max", np.inf), ("euclidean", 2.0)):
        for order in (1.0, 2.0):
            w[f"{ground} {order:g}"] = gudhi.hera.wasserstein_distance(a, b, order=order, internal_p=p, delta=1e-9)
    found = gudhi.bottleneck_distance(a, b)
    if i < 5 and len(a) and len(b):
        assert abs(persim.bottleneck(a, b) - found) < 1e-9
        assert abs(persim.wasserstein(a, b) - w["euclidean 1"]) < 1e-6 * max(1, w["euclidean 1"])
    pairs.append({"a": rows(a), "b": rows(b), "bottleneck": found, "wasserstein": w})


def rtd(a, b):
    def one_way(r1, r2):
        n = len(r1)
        d = np.zeros((2 * n, 2 * n))
        d[n:, :n], d[:n, n:], d[n:, n:] = r1, r1.T, np.minimum(r1, r2)
        tree = gudhi.RipsComplex(distance_matrix=d).create_simplex_tree(max_dimension=2)
        tree.compute_persistence(homology_coeff_field=2)
        h1 = np.array(tree.persistence_intervals_in_dimension(1)).reshape(-1, 2)
        return (h1[:, 1] - h1[:, 0]).sum()

    r1, r2 = pairwise(a), pairwise(b)
    r1, r2 = r1 / np.quantile(r1, 0.9), r2 / np.quantile(r2, 0.9)
    return 0.5 * (one_way(r1, r2) + one_way(r2, r1))


divergences = []
for n, noise in ((20, 0.0), (20, 0.3), (24, 2.0)):
    a = rng.normal(size=(n, 3))
    b = np.c_[a, np.zeros(n)] + noise * rng.normal(size=(n, 4))
    a, b = np.array(stored(a)), np.array(stored(b))
    divergences.append({"a": a.tolist(), "b": b.tolist(), "rtd": float(rtd(a, b))})

versions = {name: __import__("importlib.metadata").metadata.version(name) for name in ("gudhi", "ripser", "persim", "numpy")}
OUT.write_text(json.dumps({"versions": versions, "barcodes": cases, "distances": pairs, "rtd": divergences}) + "\n")
print(OUT, OUT.stat().st_size, "bytes", [(c["name"], [len(b) for b in c["bars"]]) for c in cases])
