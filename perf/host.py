"""What the host is, and what it says about the processes of a daemon."""

import json
import os
import re
import struct
import subprocess
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
PAGE_PRESENT = 1 << 63  # a bit of /proc/PID/pagemap


def read(path):
    return Path(path).read_text(errors="replace")


def load():
    return float(read("/proc/loadavg").split()[0])


def facts():
    cpu = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    total = re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo"))
    kernel = os.uname()
    thp = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return {
        "cpu": cpu.group(1) if cpu else "unknown",
        "cores": os.cpu_count(),
        "memory_mib": int(total.group(1)) // 1024,
        "kernel": f"{kernel.sysname} {kernel.release} {kernel.machine}",
        "transparent_huge_pages": thp.group(1) if thp else "unknown",
    }


def busy_seconds():
    """Processor time that anybody used since the start, the kernel's own threads too."""
    line = read("/proc/stat").split("\n", 1)[0]
    user, nice, system, _, _, irq, softirq, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def kvm(ramet, repeat=5):
    """The kind of KVM and the cost of an exit, from `ramet doctor`; the lowest
    of some probes, as other load only adds to it."""
    costs, kind = [], "unknown"
    for _ in range(repeat):
        output = subprocess.run([ramet, "doctor", "--json"], stdout=subprocess.PIPE, timeout=60)
        found = next(c["found"] for c in json.loads(output.stdout) if c["check"] == "kvm")
        match = re.search(r"(\w+) kind; an exit costs ([\d.]+) us", found)
        if not match:
            raise RuntimeError(f"ramet doctor on KVM: {found}")
        kind = match.group(1)
        costs.append(float(match.group(2)))
    return {"kvm": kind, "exit_us": min(costs)}


# ---- processes ----


def parents():
    """pid -> parent pid of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = read(f"/proc/{entry}/stat")
            except OSError:
                continue
            found[int(entry)] = int(stat[stat.rindex(")") + 2:].split()[1])
    return found


def workers_of(daemon_pid):
    """Pids of the worker processes below a daemon."""
    tree = parents()
    found = []
    for pid in tree:
        above = tree.get(pid)
        while above and above != daemon_pid:
            above = tree.get(above)
        try:
            if above and read(f"/proc/{pid}/comm").strip() == "ramet-vmm":
                found.append(pid)
        except OSError:
            continue
    return found


def cpu_ns(pid):
    """CPU time of all threads of a process; finer than utime + stime."""
    return sum(int(read(f"/proc/{pid}/task/{task}/schedstat").split()[0])
               for task in os.listdir(f"/proc/{pid}/task"))


def wakeups(pid):
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        status = read(f"/proc/{pid}/task/{task}/status")
        total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M).group(1))
    return total


def _resident(pid, start, end):
    """Resident bytes between two page addresses."""
    with open(f"/proc/{pid}/pagemap", "rb") as file:
        file.seek(start // PAGE * 8)
        data = file.read((end - start) // PAGE * 8)
    return sum(PAGE for entry, in struct.iter_unpack("<Q", data) if entry & PAGE_PRESENT)


def worker_memory(pid, ram_bytes):
    """What a worker holds besides guest RAM, in bytes.

    The mapping of guest RAM goes on for the VMM's tables of it: those count."""
    own, guest = 0, None
    mapping = None
    for line in read(f"/proc/{pid}/smaps").splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if head:
            mapping = tuple(int(part, 16) for part in head.groups())
        elif line.startswith("Rss:"):
            if mapping[1] - mapping[0] >= ram_bytes:
                guest = mapping
            else:
                own += int(line.split()[1]) * 1024
    if guest is None:
        raise RuntimeError(f"process {pid} has no mapping of {ram_bytes} bytes")
    return own + _resident(pid, guest[0] + ram_bytes, guest[1])


def kernel_memory(pid):
    """What the kernel holds for a worker's cgroup, in bytes, or None."""
    match = re.search(r"^\d+:[^:]*\bmemory\b[^:]*:(.*)$", read(f"/proc/{pid}/cgroup"), re.M)
    if match:
        path = f"/sys/fs/cgroup/memory{match.group(1)}/memory.kmem.usage_in_bytes"
        try:
            return int(read(path))
        except (OSError, ValueError):
            return None
    match = re.search(r"^0::(.*)$", read(f"/proc/{pid}/cgroup"), re.M)
    try:
        stat = read(f"/sys/fs/cgroup{match.group(1)}/memory.stat")
        return int(re.search(r"^kernel (\d+)", stat, re.M).group(1))
    except (OSError, AttributeError):
        return None
