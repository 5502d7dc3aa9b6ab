"""The guests that test_worker.py judges, and the beds they run in."""

import concurrent.futures
import os
import re
import sys
import tempfile
import unittest

import bed

sys.path.insert(0, os.path.join(bed.TREE, "guest"))
from tools import bzimage  # noqa: E402

VMM = os.path.join(bed.PROGRAMS, "ramet-vmm")
STATE_LIVE = os.path.join(bed.PROGRAMS, "state-live")
GUEST_TESTS = os.path.join(bed.BUILD, "guest-tests.cpio")
IMAGES = os.environ.get("RAMET_IMAGES", os.path.join(bed.BUILD, "images"))
PYTHON_IMAGE = os.path.join(IMAGES, "templates", "python", "root.cpio.lz4")

PYTHON_CHECK = b"""
import decimal, hashlib, os, threading
pid = os.fork()
if pid == 0:
    os._exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
found = []
threads = [threading.Thread(target=found.append, args=(n * n,)) for n in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
digest = hashlib.sha256(bytes(1 << 20)).hexdigest()[:8]
print("PYTHON-SAYS", code, sum(found), digest, decimal.Decimal(2).sqrt())
"""

def booted(name, programs, options="", more="", memory=256, initrds=("/guest.cpio",)):
    """A guest of `ramet-vmm --run`; programs are those of tests/guest's init,
    '@' runs one as nobody."""
    argv = ["/ramet-vmm", "--run", "--kernel", "/vmlinux", "--stats", "--mem", str(memory)]
    argv += options.split()
    for initrd in initrds:
        argv += ["--initrd", initrd]
    argv += ["--cmdline", f"ramet.timeout=120 ramet.run={programs} {more}"]
    return bed.Job(name, argv, 240)


def moved(name, programs, path):
    """A guest that goes on in a new machine every now and then; path=both changes
    from fast path to plain path and back."""
    argv = ["/state-live", "/vmlinux", "/guest.cpio", f"ramet.timeout=60 ramet.run={programs}",
            f"path={path}", "mib=96", "interval_ms=300"]  # fmt: skip
    return bed.Job(name, argv, 150)


# One boot of the bed each: parameters of kvm-amd, guests. With npt=0 KVM shadows
# the guest's page tables and does not see the VMM's writes to them: what goes
# stale shows there.
BEDS = {
    "fast": (
        "",
        booted(
            "fast",
            "hello;/no/such/program;bench_getpid,n=0;stress_avx,rounds=10;"
            "stress_cow,rounds=5;stress_stale,ops=4000;stress_memory,max_mib=64,seconds=3;"
            "stress_threads;stress_signals,emulated=1;stress_int80;"
            "stress_int3,n=20000,seconds=4;stress_ptrace,turns=20;stress_time,n=20000;"
            "@hostile_reach,max_pages=0;@hostile_insn,port_seconds=2;@hostile_entry;"
            "@hostile_segments;@hostile_sigreturn;stress_pipelines,pipelines=4",
        ),
        moved("moved-fast", "stress_avx,rounds=3;stress_threads,rounds=5", "fast"),
        moved("moved-both", "stress_threads,rounds=2;stress_cow,rounds=1", "both"),
    ),
    "plain": (
        "",
        booted(
            "plain",
            "hello;/no/such/program;stress_cow,rounds=2;stress_stale,ops=1000;"
            "@hostile_entry;@hostile_reach,max_pages=0,jump=0;"
            "stress_pipelines,pipelines=2",
            options="--plain",
        ),
        booted("isolation-fast", "@hostile_reach,max_pages=0", options="--isolation fast"),
        booted("boot-fast", "hello"),
        booted("boot-plain", "hello", options="--plain"),
        booted("reboot", "hello", more="ramet.end=reboot"),
        booted("panic", "hello", more="ramet.end=exit"),
        booted(
            "python",
            "/usr/bin/python3,/check.py",
            memory=512,
            initrds=("/python.cpio", "/guest.cpio", "/check.cpio"),
        ),
        bed.Job("no-kernel", ["/ramet-vmm", "--run", "--kernel", "/nowhere"]),
    ),
    "shadowed": (
        "npt=0",
        booted(
            "shadowed-fast",
            "hello;stress_cow,rounds=2;stress_stale,ops=2000;"
            "stress_memory,max_mib=16,seconds=3;stress_threads,rounds=5;"
            "@hostile_reach,max_pages=0",
        ),
        booted(
            "shadowed-plain",
            "hello;stress_cow,rounds=1;stress_stale,ops=500",
            options="--plain",
        ),
    ),
}


class Guest:
    """What a guest and its VMM left behind."""

    def __init__(self, outcome):
        self.status = outcome.status
        self.output = outcome.output
        self.stats = {}
        for line in re.findall(r"^stats: (.*)$", outcome.output, re.M):
            self.stats.update(re.findall(r"(\S+)=(\S+)", line))

    def exit_codes(self, name):
        pattern = rf"^RAMET-TEST {re.escape(name)} exit (\d+)$"
        return [int(code) for code in re.findall(pattern, self.output, re.M)]

    def count(self, key):
        return int(self.stats[key])


class Lab:
    """Boots the beds, two at a time, when the first guest is asked for."""

    _runs = {}

    @classmethod
    def guests(cls, name):
        """{name: Guest} of a bed."""
        if not cls._runs:
            pool = concurrent.futures.ThreadPoolExecutor(max_workers=2)
            cls._runs = {key: pool.submit(cls._run, *spec) for key, spec in BEDS.items()}
            pool.shutdown(wait=False)
        try:
            return cls._runs[name].result()
        except bed.BedMissing as missing:
            raise unittest.SkipTest(str(missing)) from None

    @classmethod
    def _run(cls, parameters, *jobs):
        machine = bed.Bed(kvm_amd_parameters=parameters)
        files = {"/ramet-vmm": VMM, "/state-live": STATE_LIVE, "/guest.cpio": GUEST_TESTS}
        with tempfile.TemporaryDirectory(prefix="ramet-hw-") as tmp:
            files["/vmlinux"] = cls._vmlinux(machine.kernel, tmp)
            if not os.path.exists(PYTHON_IMAGE):
                jobs = [job for job in jobs if job.name != "python"]
            elif any(job.name == "python" for job in jobs):
                files["/python.cpio"] = PYTHON_IMAGE
                files["/check.cpio"] = cls._check(tmp)
            outcomes = machine.run(jobs, files)
        return {name: Guest(outcome) for name, outcome in outcomes.items()}

    @staticmethod
    def _vmlinux(kernel, directory):
        path = os.path.join(directory, "vmlinux")
        with open(kernel, "rb") as source, open(path, "wb") as out:
            out.write(bzimage.extract_vmlinux(source.read()))
        return path

    @staticmethod
    def _check(directory):
        path = os.path.join(directory, "check.cpio")
        with open(path, "wb") as out:
            archive = bed.Archive(out)
            archive.data("/check.py", PYTHON_CHECK)
            archive.close()
        return path
