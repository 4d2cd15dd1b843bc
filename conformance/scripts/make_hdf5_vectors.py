"""HDF5 files by h5py, for the reader of the subset that NIR graphs use.

    python conformance/scripts/make_hdf5_vectors.py

Writes conformance/nir/hdf5-<layout>.h5 with the same groups and datasets in the layouts that h5py has: `earliest` (superblock 0,
symbol tables), `latest` (superblock 3, links in headers), and hdf5.json with what they hold, floats in words that give every bit. Besides
requirements.txt it needs h5py 3.16.0.
"""

import json
from pathlib import Path

import h5py
import numpy as np

NIR = Path(__file__).resolve().parent.parent / "nir"


def fill(file, chunked):
    rng = np.random.default_rng(3)
    expected = {}

    def put(name, data, **options):
        file.create_dataset(name, data=data, **options)
        array = np.asarray(data)
        flat = array.flatten().tolist()
        if array.dtype.kind in "UOf":
            flat = [v if isinstance(v, str) else repr(float(v)) for v in flat]
        expected[name] = dict(shape=list(array.shape), values=flat)

    put("scalar/i8", np.int64(-7))
    put("scalar/f4", np.float32(0.25))
    put("scalar/text", "Größe", dtype=h5py.string_dtype())
    put("scalar/empty", "", dtype=h5py.string_dtype())
    put("flat/f8", rng.standard_normal(17))
    put("flat/f4", rng.standard_normal((5, 3)).astype(np.float32))
    put("flat/big_endian", rng.standard_normal((2, 3)).astype(">f4"))
    put("flat/u1", np.arange(250, 256, dtype=np.uint8))
    put("flat/i2", np.array([-32768, -1, 0, 32767], dtype=np.int16))
    put("flat/flags", np.array([True, False, True]))
    put("flat/none", np.zeros((0, 4), dtype=np.float32))
    put("text/edges", [["a", "bb"], ["lif.w_rec", "output"], ["äöü", ""]], dtype=h5py.string_dtype())
    file.create_dataset("text/fixed", data=np.array([b"one", b"three"]))
    expected["text/fixed"] = dict(shape=[2], values=["one", "three"])
    if chunked:
        put("chunks/gzip", rng.integers(-9, 9, (13, 11)), chunks=(4, 3), compression="gzip")
        put("chunks/shuffle", rng.standard_normal((7, 5, 6)).astype(np.float32), chunks=(2, 5, 4), compression="gzip", shuffle=True)
        put("chunks/plain", rng.standard_normal(100), chunks=(8,))
        file.create_dataset("chunks/unwritten", shape=(4, 4), chunks=(2, 2), dtype="f4")
        expected["chunks/unwritten"] = dict(shape=[4, 4], values=["0.0"] * 16)
    put("chunks/one", rng.standard_normal((6, 4)).astype(np.float32), chunks=(6, 4), compression="gzip", shuffle=True)
    put("chunks/beyond", rng.standard_normal((3, 3)), chunks=(2, 3) if chunked else (3, 3))
    for i in range(40 if chunked else 5):
        put(f"many/{'x' * (i % 7)}{i}", np.float32(i))
    return expected


def main():
    NIR.mkdir(exist_ok=True)
    everything = {}
    for libver, chunked in (("earliest", True), ("latest", False)):
        path = NIR / f"hdf5-{libver}.h5"
        with h5py.File(path, "w", libver=libver) as file:
            everything[path.name] = fill(file, chunked)
    everything["versions"] = dict(h5py=h5py.__version__, hdf5=h5py.version.hdf5_version)
    (NIR / "hdf5.json").write_text(json.dumps(everything, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
