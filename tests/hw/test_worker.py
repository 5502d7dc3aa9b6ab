"""Guests under ramet-vmm on a hardware-style KVM, in the emulated-SVM test bed:
on the plain path, where every event reaches the VMM, and with the fast path,
which runs at CPL 0 inside the guest. One boot of the bed runs all guests."""

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

# Statuses of ramet-vmm --run (vmm/standalone.h).
POWEROFF, ERROR, REBOOT, PANIC = 0, 1, 3, 4

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


class GuestCase(unittest.TestCase):
    bed_name = None
    guest_name = None

    @classmethod
    def setUpClass(cls):
        cls.guests = Lab.guests(cls.bed_name)

    @property
    def guest(self):
        return self.guests[self.guest_name]

    def assert_passes(self, program):
        codes = self.guest.exit_codes(program)
        bad = "\n".join(re.findall(r"^not ok .*$", self.guest.output, re.M))
        self.assertEqual(codes, [0], f"{bad}\n{self.guest.output[-3000:]}")


class FastPath(GuestCase):
    """CPL-0 code inside the guest handles the hot events."""

    bed_name = "fast"
    guest_name = "fast"

    def test_kvm_is_found_to_be_hardware(self):
        self.assertEqual(self.guest.stats["kvm"], "hardware")

    def test_fast_path_is_active(self):
        self.assertEqual(self.guest.stats["fast_path"], "1")

    def test_guest_runs_to_a_clean_end(self):
        self.assertEqual(self.guest.status, POWEROFF, self.guest.output[-3000:])
        self.assertIn("the guest powered off", self.guest.output)

    def test_exit_code_zero_is_reported(self):
        self.assertEqual(self.guest.exit_codes("hello"), [0])

    def test_exit_code_of_a_missing_program_is_reported(self):
        self.assertEqual(self.guest.exit_codes("/no/such/program"), [127])

    def test_exit_code_of_a_failed_program_is_reported(self):
        self.assertEqual(self.guest.exit_codes("bench_getpid"), [2])

    def test_vector_registers_survive_switches(self):
        self.assert_passes("stress_avx")

    def test_fork_and_copy_on_write(self):
        self.assert_passes("stress_cow")

    def test_changed_mappings_are_never_stale(self):
        self.assert_passes("stress_stale")

    def test_page_fault_storm(self):
        self.assert_passes("stress_memory")

    def test_threads_and_segment_bases(self):
        self.assert_passes("stress_threads")

    def test_signals(self):
        self.assert_passes("stress_signals")

    def test_32_bit_system_calls(self):
        self.assert_passes("stress_int80")

    def test_breakpoints(self):
        self.assert_passes("stress_int3")

    def test_debugging(self):
        self.assert_passes("stress_ptrace")

    def test_clocks_and_timers(self):
        self.assert_passes("stress_time")

    def test_user_space_cannot_reach_the_kernel_or_the_hypervisor(self):
        self.assert_passes("hostile_reach")

    def test_hostile_kernel_entries(self):
        self.assert_passes("hostile_entry")

    def test_hostile_instructions(self):
        self.assert_passes("hostile_insn")

    def test_hostile_segments(self):
        self.assert_passes("hostile_segments")

    def test_hostile_signal_frames(self):
        self.assert_passes("hostile_sigreturn")

    def test_kernel_works_after_all_attacks(self):
        self.assert_passes("stress_pipelines")


class PlainPath(GuestCase):
    """Every event exits to the VMM."""

    bed_name = "plain"
    guest_name = "plain"

    def test_fast_path_is_off(self):
        self.assertEqual(self.guest.stats["fast_path"], "0")

    def test_guest_runs_to_a_clean_end(self):
        self.assertEqual(self.guest.status, POWEROFF, self.guest.output[-3000:])

    def test_exit_codes_are_reported(self):
        self.assertEqual(self.guest.exit_codes("hello"), [0])
        self.assertEqual(self.guest.exit_codes("/no/such/program"), [127])

    def test_fork_and_copy_on_write(self):
        self.assert_passes("stress_cow")

    def test_changed_mappings_are_never_stale(self):
        self.assert_passes("stress_stale")

    def test_user_space_cannot_reach_the_kernel_or_the_hypervisor(self):
        self.assert_passes("hostile_reach")

    def test_hostile_kernel_entries(self):
        self.assert_passes("hostile_entry")

    def test_kernel_works_after_all_attacks(self):
        self.assert_passes("stress_pipelines")


class Modes(GuestCase):
    """What the choice of path and isolation means."""

    bed_name = "plain"

    def test_fast_path_saves_most_exits_of_a_boot(self):
        fast, plain = self.guests["boot-fast"], self.guests["boot-plain"]
        self.assertLess(fast.count("exits") * 5, plain.count("exits"))
        self.assertGreater(fast.count("syscalls"), 50)
        self.assertGreater(fast.count("faults"), 50)

    def test_fast_isolation_still_protects_the_kernel(self):
        self.assertEqual(self.guests["isolation-fast"].exit_codes("hostile_reach"), [0])


class Ends(GuestCase):
    """The VMM's exit status tells how its guest ended."""

    bed_name = "plain"

    def test_power_off(self):
        self.assertEqual(self.guests["boot-fast"].status, POWEROFF)

    def test_reboot(self):
        self.assertEqual(self.guests["reboot"].status, REBOOT, self.guests["reboot"].output)

    def test_panic(self):
        guest = self.guests["panic"]
        self.assertEqual(guest.status, PANIC, guest.output)
        self.assertIn("ramet-vmm: the guest kernel panicked", guest.output)

    def test_missing_kernel(self):
        guest = self.guests["no-kernel"]
        self.assertEqual(guest.status, ERROR)
        self.assertIn("/nowhere", guest.output)


class Moving(GuestCase):
    """A running guest goes on in another machine from its state and memory."""

    bed_name = "fast"

    def check(self, name, *programs):
        guest = self.guests[name]
        moves = re.search(r"^state-live: restores=(\d+) ", guest.output, re.M)
        self.assertEqual(guest.status, POWEROFF, guest.output[-3000:])
        self.assertGreater(int(moves.group(1)), 5)
        for program in programs:
            self.assertEqual(guest.exit_codes(program), [0], guest.output[-3000:])

    def test_on_the_fast_path(self):
        self.check("moved-fast", "stress_avx", "stress_threads")

    def test_from_path_to_path(self):
        self.check("moved-both", "stress_threads", "stress_cow")


class Python(GuestCase):
    """The python image."""

    bed_name = "plain"
    guest_name = "python"

    def setUp(self):
        if "python" not in self.guests:
            self.skipTest(f"{PYTHON_IMAGE} is missing (make image)")

    def test_python_computes_forks_and_threads(self):
        self.assertIn("PYTHON-SAYS 7 2470 30e14955 1.414213562373095048801688724",
                      self.guest.output)  # fmt: skip

    def test_python_exits_cleanly(self):
        self.assertEqual(self.guest.exit_codes("/usr/bin/python3"), [0])
        self.assertEqual(self.guest.status, POWEROFF)


class FastPathOnShadowPaging(GuestCase):
    bed_name = "shadowed"
    guest_name = "shadowed-fast"

    def test_guest_runs_to_a_clean_end(self):
        self.assertEqual(self.guest.status, POWEROFF, self.guest.output[-3000:])

    def test_fork_and_copy_on_write(self):
        self.assert_passes("stress_cow")

    def test_changed_mappings_are_never_stale(self):
        self.assert_passes("stress_stale")

    def test_page_fault_storm(self):
        self.assert_passes("stress_memory")

    def test_threads_and_segment_bases(self):
        self.assert_passes("stress_threads")

    def test_user_space_cannot_reach_the_kernel_or_the_hypervisor(self):
        self.assert_passes("hostile_reach")


class PlainPathOnShadowPaging(GuestCase):
    bed_name = "shadowed"
    guest_name = "shadowed-plain"

    def test_guest_runs_to_a_clean_end(self):
        self.assertEqual(self.guest.status, POWEROFF, self.guest.output[-3000:])

    def test_fork_and_copy_on_write(self):
        self.assert_passes("stress_cow")

    def test_changed_mappings_are_never_stale(self):
        self.assert_passes("stress_stale")


if __name__ == "__main__":
    unittest.main()
