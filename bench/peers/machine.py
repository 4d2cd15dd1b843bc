"""The machine a bench runs on: what it is, and who took its time meanwhile."""

import os
import platform
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# Shares of the processors' time above which a bench says that it was disturbed.
MOST_STEAL, MOST_OTHERS = 0.01, 0.05
# Shorter turns than this cannot be told apart from the grain of the counters.
LEAST_TICKS = 20


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def facts():
    """Processor, system and what is known of its clock."""
    lines = (read("/proc/cpuinfo") or "").splitlines()
    after = lambda *heads: next((line.split(":", 1)[1].strip() for line in lines if line.startswith(heads)), "")
    flags = after("flags", "Features").split()
    told = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")
    memory = next((line.split()[1] for line in (read("/proc/meminfo") or "").splitlines() if "MemTotal" in line), None)
    return {
        "cpu": after("model name") or platform.processor(),
        "cores": sorted(os.sched_getaffinity(0)),
        "features": [flag for flag in told if flag in flags],
        "memory_bytes": int(memory) * 1024 if memory else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hypervisor": "hypervisor" in flags,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def processors():
    """Busy and stolen ticks of all processors, without those of idle ones."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, read("/proc/stat").split("\n")[0].split()[1:9])
    return user + nice + system + irq + soft, steal


def spent(pid):
    """Ticks of a process and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


class Meter:
    """Sums up, over turns, the time that went to neither the engine nor this program."""

    def __init__(self):
        self.others = self.steal = self.all = 0

    def turn(self, pid, work):
        """What `work()` gives, metered."""
        mine = lambda: spent(pid) + spent(os.getpid())
        (busy, steal), own, start = processors(), mine(), os.times().elapsed
        result = work()
        busy_after, steal_after = processors()
        self.others += max(busy_after - busy - (mine() - own), 0)
        self.steal += steal_after - steal
        self.all += (os.times().elapsed - start) * TICKS * os.cpu_count()
        return result

    def verdict(self):
        """(whether the bench was disturbed, or None where that cannot be told; by what)."""
        if self.all < LEAST_TICKS:
            return None, ["the turns were too short to tell"]
        shares = [
            (self.steal / self.all, MOST_STEAL, "the hypervisor took {:.1%} of the processors' time"),
            (self.others / self.all, MOST_OTHERS, "other processes took {:.1%} of the processors' time"),
        ]
        reasons = [words.format(share) for share, most, words in shares if share > most]
        return bool(reasons), reasons
