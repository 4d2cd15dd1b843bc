"""Transforms, bindings, a controller and oscillators by numpy, scipy and simple-pid.

    venv/bin/pip install -r conformance/requirements-lab.txt
    venv/bin/python conformance/scripts/make_lab_signals.py

Writes conformance/lab/signals.json.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.fft import dct
from scipy.integrate import solve_ivp
from simple_pid import PID

OUT = Path(__file__).parent.parent / "lab" / "signals.json"
rng = np.random.default_rng(20261127)


def short(x):
    return [float(f"{v:.17g}") for v in np.ravel(x)]


cosines = []
for n in (8, 8, 8, 64):
    x = np.round(rng.uniform(-2048, 2048, n))
    cosines.append({"x": short(x), "dct": short(dct(x, type=2, norm="ortho"))})

bindings = []
for n in (16, 64):
    a, b = np.round(rng.normal(0, n**-0.5, (2, n)), 9)
    fa = np.fft.fft(a)
    bound = np.real(np.fft.ifft(fa * np.fft.fft(b)))
    bindings.append({"a": short(a), "b": short(b), "bound": short(bound), "unitary_a": short(np.real(np.fft.ifft(fa / np.abs(fa))))})

# A PI controller on a plant of first order, step for step.
pid = PID(0.4, 1.2, 0.0, setpoint=30.0, sample_time=None, output_limits=(0.0, 1.0))
power, dt, steps = 10.0, 0.1, []
for _ in range(80):
    duty = pid(power, dt=dt)
    steps.append([power, duty])
    power += (10.0 + 40.0 * duty - power) * (1 - np.exp(-dt / 0.5))
controller = {"kp": 0.4, "ki": 1.2, "setpoint": 30.0, "dt": dt, "steps": [short(s) for s in steps]}

# Kuramoto's oscillators.
n, coupling = 8, 1.5
omega, theta = np.round(rng.normal(0, 0.4, n), 6), np.round(rng.uniform(0, 2 * np.pi, n), 6)
rate = lambda t, x: omega + coupling / n * np.sin(x[None, :] - x[:, None]).sum(1)
found = solve_ivp(rate, (0, 10), theta, method="DOP853", rtol=1e-12, atol=1e-12)
kuramoto = {"omega": short(omega), "theta": short(theta), "coupling": coupling, "seconds": 10.0, "end": short(found.y[:, -1])}

versions = {name: version(name) for name in ("numpy", "scipy", "simple-pid")}
OUT.write_text(json.dumps({"versions": versions, "dct": cosines, "hrr": bindings, "pi": controller, "kuramoto": kuramoto}) + "\n")
print(OUT, OUT.stat().st_size, "bytes")
