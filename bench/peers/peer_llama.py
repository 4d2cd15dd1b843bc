"""llama.cpp through the C functions of llama-cpp-python: the same GGUF file, its own kernels."""

import ctypes
import time

import numpy as np
from worker import serve, token

# Prompt sizes of one graph that are tried, beside flash attention on and off.
MICRO_BATCHES = (512, 128)
GGML_TYPE_F16 = 1


class Llama:
    def __init__(self, args):
        import llama_cpp

        self.c, self.args = llama_cpp, args
        self.silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        # Weights are packed anew for its fastest kernels, where it has them.
        params.use_extra_bufts = True
        self.model = llama_cpp.llama_model_load_from_file(args.model.encode(), params)
        if not self.model:
            raise RuntimeError("llama.cpp cannot load the model")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.contexts, self.settings, self.chosen, self.filled = {}, {}, {}, {}
        self.batch = llama_cpp.llama_batch_init(max(args.batch, args.sequences), 0, 1)

    def facts(self):
        info = self.c.llama_print_system_info().decode()
        config = ["KV cache f16", "weights repacked where it can", *self.chosen.values(), info]
        version = f"llama-cpp-python {self.c.__version__}"
        kind = self.args.type
        differs = [f"activations are rounded to {kind}"] if kind in ("F16", "BF16") else []
        return {"version": version, "arithmetic": "same", "differs": differs, "config": config}

    def context(self, flash, micro, sequences):
        """A context with these settings; they share the weights."""
        key = (flash, micro, sequences)
        if key not in self.contexts:
            params = self.c.llama_context_default_params()
            params.n_ctx = self.args.positions * sequences
            params.n_batch = max(self.args.batch, sequences)
            params.n_ubatch = micro
            params.n_seq_max = sequences
            # Every sequence's cells for itself, so that no sequence reads over the cells of others.
            params.kv_unified = False
            params.n_threads = params.n_threads_batch = self.args.threads
            on = self.c.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else self.c.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = on
            params.type_k = params.type_v = GGML_TYPE_F16
            params.offload_kqv = params.op_offload = False
            params.no_perf = True
            context = self.c.llama_init_from_model(self.model, params)
            if not context:
                raise RuntimeError(f"llama.cpp gives no context with flash attention {flash}")
            self.contexts[key] = context
        return self.contexts[key]

    def feed(self, context, tokens, last_only):
        """One call with (id, position, sequence) each; its time in ns."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (id_, position, sequence) in enumerate(tokens):
            batch.token[i], batch.pos[i] = id_, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = not last_only or i + 1 == len(tokens)
        decode, wait = self.c.llama_decode, self.c.llama_synchronize
        start = time.perf_counter_ns()
        code = decode(context, batch)
        wait(context)
        taken = time.perf_counter_ns() - start
        if code != 0:
            raise RuntimeError(f"llama_decode gave {code}")
        return taken

    def clear(self, context):
        self.filled.pop(context, None)
        self.c.llama_memory_clear(self.c.llama_get_memory(context), True)

    def fill(self, context, depth, sequences):
        """Sequences that hold `depth` tokens; what a repetition has added is taken off, not fed anew."""
        memory = self.c.llama_get_memory(context)
        if depth and self.filled.get(context) == (depth, sequences):
            if all(self.c.llama_memory_seq_rm(memory, s, depth, -1) for s in range(sequences)):
                return
        self.clear(context)
        size = max(self.args.batch, self.args.sequences)
        for s in range(sequences if depth else 0):
            for first in range(0, depth, size):
                chunk = range(first, min(first + size, depth))
                self.feed(context, [(token(i, s, self.vocab), i, s) for i in chunk], True)
        self.filled[context] = (depth, sequences)

    def run(self, context, test):
        depth = test.get("depth", 0)
        self.fill(context, depth, test.get("n_sequences", 1))
        if n := test.get("n_prompt"):
            prompt = [(token(i, 0, self.vocab), i, 0) for i in range(depth, depth + n)]
            return self.feed(context, prompt, True)
        n, sequences = test["n_gen"], test["n_sequences"]
        places = range(depth, depth + n + 1)
        ids = [[(token(i, s, self.vocab), i, s) for s in range(sequences)] for i in places]
        self.feed(context, ids[0], False)
        return sum(self.feed(context, step, False) for step in ids[1:])

    def tune(self, tests):
        """Each test gets the settings in which it is fastest here."""
        for test in tests:
            micros = MICRO_BATCHES if "n_prompt" in test else MICRO_BATCHES[:1]
            tried = {}
            sequences = test.get("n_sequences", 1)
            for key in [(flash, micro, sequences) for flash in (False, True) for micro in micros]:
                tried[key] = min(self.run(self.context(*key), test) for _ in range(3))
            best = min(tried, key=tried.get)
            words = f"flash attention {'on' if best[0] else 'off'}, micro-batch {best[1]}"
            name = self.name(test)
            self.settings[name] = best
            self.chosen[name] = f"{name}: {words} (fastest of {len(tried)} settings tried)"

    @staticmethod
    def name(test):
        what = f"pp{test['n_prompt']}" if "n_prompt" in test else f"tg{test['n_gen']}x{test['n_sequences']}"
        return what + (f" @ d{test['depth']}" if test.get("depth") else "")

    def turn(self, test):
        return self.run(self.context(*self.settings[self.name(test)]), test)

    def logits(self, ids, steps):
        context = self.context(False, MICRO_BATCHES[0], 1)
        self.clear(context)
        rows = []
        for place, chunk in [(0, ids), *((len(ids) + i, [step]) for i, step in enumerate(steps))]:
            self.feed(context, [(id_, place + i, 0) for i, id_ in enumerate(chunk)], True)
            pointer = self.c.llama_get_logits_ith(context, -1)
            rows.append(np.ctypeslib.as_array(pointer, (self.vocab,)).copy())
        return np.stack(rows)


if __name__ == "__main__":
    serve(Llama)
