"""An engine's process as the bench sees it: it is stopped whenever it is not its turn."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# name: script and further arguments
ENGINES = {
    "rin": ("peer_rin.py", []),
    "llama.cpp": ("peer_llama.py", []),
    "onnxruntime": ("peer_onnx.py", []),
    "openvino": ("peer_openvino.py", []),
    "torch-f32": ("peer_torch.py", ["--dtype", "f32"]),
    "torch-bf16": ("peer_torch.py", ["--dtype", "bf16"]),
}


class Failed(Exception):
    """An engine cannot go on; the words are the reason."""


class Engine:
    """A worker that takes commands. It runs between a command and its answer only."""

    def __init__(self, name, arguments, log, timeout):
        script, more = ENGINES[name]
        self.name, self.timeout, self.facts, self.buffer = name, timeout, {}, b""
        # A program of the workers' own number of threads must not be told another one.
        environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments, *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.settle(self.answer())

    @property
    def pid(self):
        return self.process.pid

    def answer(self):
        """The next line, or a reason why there is none."""
        end = time.monotonic() + self.timeout
        while b"\n" not in self.buffer:
            if not select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                self.close()
                raise Failed(f"no answer within {self.timeout:.0f} s")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise self.ended()
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def ended(self):
        """The failure of a process that is gone."""
        code = self.process.wait()
        return Failed(f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")

    def settle(self, answer):
        """Takes an answer and stops the process."""
        if "error" in answer:
            self.close()
            raise Failed(answer["error"])
        self.facts.update(answer.get("facts", {}))
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def ask(self, **command):
        """The answer to a command."""
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.ended() from None
        return self.settle(self.answer())

    def close(self):
        """Ends the process and what it started, whatever they are doing."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
