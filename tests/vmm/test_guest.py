"""Guests under stress, hostile guests, and the ways in which a guest can end.

RAMET_STRESS_ROUNDS (default 1) is how often each stress and hostile test runs;
RAMET_FUZZ_SEEDS (default 3) how many seeds the hypercall fuzz gets per mode."""

import os
import re
import tempfile
import unittest
from pathlib import Path

from guest import (ERROR, KERNEL, KERNEL_GENERIC, PANIC, POWEROFF, REBOOT, TESTS_CPIO,
                   VMM, GuestTest, Running, guest, need, privcmd_cpio, run, vmm_argv)

ROUNDS = int(os.environ.get("RAMET_STRESS_ROUNDS", "1"))
SEEDS = int(os.environ.get("RAMET_FUZZ_SEEDS", "3"))

# Breakpoints are tried for this long; everything else has a fixed amount of work.
INT3 = "stress_int3,seconds=%d" % (10 if ROUNDS > 1 else 3)
STRESS = ("stress_avx", "stress_cow", INT3, "stress_int80", "stress_memory", "stress_pipelines",
          "stress_ptrace", "stress_signals", "stress_stale", "stress_threads", "stress_time")
STRESS_PLAIN = (INT3, "stress_int80", "stress_ptrace", "stress_signals",
                "stress_threads", "stress_time")
HOSTILE = ("hostile_entry", "hostile_insn", "hostile_reach", "hostile_segments",
           "hostile_sigreturn")

FULL = ("--isolation", "full")
FAST = ("--isolation", "fast")
PLAIN = ("--isolation", "full", "--plain")


# Lateness is measured against limits that a host which is busy elsewhere misses:
# one of so many attempts must hold.
ATTEMPTS = {"stress_time": 3}


def stress_tests(programs, options):
    """A TestCase with one test per program."""

    def make(program):
        name = program.split(",")[0]

        def test(self):
            for _ in range(ROUNDS):
                for _ in range(ATTEMPTS.get(name, 1)):
                    result = guest(program, *options, mem=512)
                    if result.programs == [(name, 0)]:
                        break
                self.assert_ran(result, name)
        return test

    return type("Stress", (GuestTest,),
                {"test_" + p.split(",")[0]: make(p) for p in programs})


class StressFull(stress_tests(STRESS, FULL)):
    pass


class StressFast(stress_tests(STRESS, FAST)):
    pass


class StressPlain(stress_tests(STRESS_PLAIN, PLAIN)):
    pass


def hostile_tests(programs, options):
    """User space attacks, as nobody and as root; the guest goes on unharmed."""

    def make(program):
        def test(self):
            for _ in range(ROUNDS):
                result = guest(f"@{program};{program};hello", *options)
                self.assert_ran(result, program, program, "hello")
        return test

    return type("Hostile", (GuestTest,), {"test_" + p: make(p) for p in programs})


class HostileFull(hostile_tests(HOSTILE, FULL)):
    pass


class HostilePlain(hostile_tests(("hostile_reach",), PLAIN)):
    pass


class HostileFast(GuestTest):
    """Fast isolation does not protect the guest from itself, only the host."""

    def test_attacks_end_at_the_guest(self):
        for program in HOSTILE:
            with self.subTest(program):
                self.assert_ends_cleanly(guest(f"@{program};hello", *FAST))

    def test_privileged_instructions_and_ports_are_faults(self):
        # `in` from a port of the hypervisor's once went on with KVM's registers.
        result = guest("hostile_insn,port_seconds=2", *FAST)
        self.assertEqual(result.programs, [("hostile_insn", 0)], result.tell())
        self.assertNotIn("Oops", result.console)


class Fuzz(GuestTest):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix="ramet-fuzz-")
        cls.addClassCleanup(cls.directory.cleanup)
        cls.privcmd = privcmd_cpio(cls.directory.name)

    def fuzz(self, seed, *options, count=20000, extra=""):
        result = guest(f"hypercall_fuzz,seed={seed},count={count}{extra};hello", *options,
                       initrds=(TESTS_CPIO, self.privcmd))
        self.assertIn("FUZZ seed", result.console, result.tell())
        self.assertNotIn("FUZZ skip", result.console, result.tell())
        self.assert_ends_cleanly(result)

    def test_hypercalls_with_full_isolation(self):
        for seed in range(1, SEEDS + 1):
            with self.subTest(seed=seed):
                self.fuzz(seed, *FULL)

    def test_hypercalls_with_fast_isolation(self):
        for seed in range(101, SEEDS + 101):
            with self.subTest(seed=seed):
                self.fuzz(seed, *FAST)

    def test_hypercalls_on_the_plain_path(self):
        for seed in range(201, SEEDS + 201):
            with self.subTest(seed=seed):
                self.fuzz(seed, *PLAIN, count=5000)

    def test_fatal_hypercalls_end_the_guest(self):
        for seed in range(301, SEEDS + 301):
            with self.subTest(seed=seed):
                self.fuzz(seed, *FULL, extra=",careful=0")


class Ends(GuestTest):
    def test_power_off(self):
        self.assert_ran(guest("hello"), "hello")

    def test_reboot(self):
        result = guest("hello", cmdline="ramet.end=reboot")
        self.assertEqual(result.status, REBOOT, result.tell())
        self.assertEqual(result.reason, "the guest asked for a reboot")

    def test_panic(self):
        for options in (FULL, FAST, PLAIN):
            with self.subTest(options):
                result = guest("hello", *options, cmdline="ramet.end=exit")
                self.assertEqual(result.status, PANIC, result.tell())
                self.assertRegex(result.reason, r"^the guest kernel panicked: Kernel panic - not "
                                                r"syncing: Attempted to kill init! exitcode=0x\d+$")

    def test_no_init(self):
        need(VMM, KERNEL)
        result = run(vmm_argv(initrds=()))
        self.assertEqual(result.status, PANIC, result.tell())
        self.assertRegex(result.reason, "Unable to mount root fs|No working init found")


class Memory(GuestTest):
    def sees(self, mib, *options):
        result = guest("hello", *options, mem=mib)
        self.assert_ran(result, "hello")
        seen = int(re.search(r"(\d+) MiB RAM", result.console).group(1))
        # What the kernel keeps: its image, and 1.6 % for its page structures.
        self.assertLess(seen, mib)
        self.assertGreater(seen, mib * 0.97 - 64)

    def test_96_mib(self):
        self.sees(96)

    def test_512_mib(self):
        self.sees(512)

    def test_4_gib(self):
        self.sees(4096)

    def test_12_gib(self):
        self.sees(12288)

    def test_12_gib_on_the_plain_path(self):
        self.sees(12288, *PLAIN)

    def test_64_mib_end_with_a_reason(self):
        # The smallest guest; this kernel wants more for its own initialisation.
        result = guest("hello", mem=64)
        self.assertIn(result.status, (POWEROFF, PANIC), result.tell())
        if result.status == PANIC:
            self.assertIn("memory", result.reason)

    def test_unsupported_sizes(self):
        need(VMM, KERNEL)
        for mib in (0, 2, 62, 65, 511, 32770, 1 << 20):
            with self.subTest(mib):
                result = run(vmm_argv(mem=mib))
                self.assertEqual(result.status, ERROR, result.tell())
                self.assertEqual(result.reason,
                                 f"guest memory of {mib << 20} bytes is not supported: use a "
                                 "multiple of 2 MiB from 64 MiB to 32768 MiB")

    def test_memory_that_is_no_number(self):
        need(VMM, KERNEL)
        for text in ("", "x", "12x", "-1", "1e3", "99999999999999999999"):
            with self.subTest(text):
                result = run(vmm_argv(mem=text))
                self.assertEqual(result.status, 64, result.tell())
                self.assertIn(f"'{text}' is not a number", result.errors)


class BadInput(GuestTest):
    @classmethod
    def setUpClass(cls):
        need(VMM, KERNEL, TESTS_CPIO)
        cls.directory = tempfile.TemporaryDirectory(prefix="ramet-guest-")
        cls.addClassCleanup(cls.directory.cleanup)
        cls.path = Path(cls.directory.name)

    def refused(self, what, **kw):
        result = run(vmm_argv(**kw), 30)
        self.assertEqual(result.status, ERROR, result.tell())
        self.assertRegex(result.errors, what, result.tell())
        self.assertEqual(result.console, "")

    def test_missing_kernel(self):
        self.refused(r"/no/kernel: No such file", kernel="/no/kernel")

    def test_missing_initrd(self):
        self.refused(r"/no/initrd: No such file", initrds=("/no/initrd",))

    def test_kernel_that_is_a_directory(self):
        self.refused(r"ELF header: Is a directory", kernel=self.path)

    def test_initrd_that_is_a_directory(self):
        self.refused(r"initrd 0 is not a regular file", initrds=(self.path,))

    def test_kernels_that_are_none(self):
        for name, data in (("empty", b""), ("text", b"hello\n" * 1000), ("zero", bytes(100000)),
                           ("random", os.urandom(100000)), ("cpio", TESTS_CPIO.read_bytes())):
            with self.subTest(name):
                (self.path / name).write_bytes(data)
                self.refused(r"ramet-vmm: .*kernel", kernel=self.path / name)

    def test_a_program_is_not_a_kernel(self):
        self.refused(r"not an uncompressed x86-64 vmlinux|CONFIG_XEN_PV", kernel=VMM)

    def test_truncated_kernel(self):
        with KERNEL.open("rb") as f:
            head = f.read(1 << 20)
        for size in (10, 64, 100, 500, 1 << 20):
            with self.subTest(size):
                (self.path / "cut").write_bytes(head[:size])
                self.refused(r"ramet-vmm: cannot read the kernel's", kernel=self.path / "cut")

    def test_initrd_larger_than_memory(self):
        with (self.path / "large").open("wb") as f:
            f.truncate(1 << 30)
        self.refused(r"an initrd of 1024 MiB does not fit into 256 MiB of guest memory",
                     initrds=(self.path / "large",))

    def test_initrds_larger_than_memory_together(self):
        with (self.path / "part").open("wb") as f:
            f.truncate(60 << 20)
        self.refused(r"an initrd of 240 MiB does not fit", initrds=(self.path / "part",) * 4)

    def test_endless_command_line(self):
        self.refused(r"the kernel command line is longer than 1023 bytes", cmdline="x" * 1000)

    def test_unknown_options(self):
        for options in (("--isolation", "half"), ("--nonsense",), ("surplus",)):
            with self.subTest(options):
                self.assertEqual(run(vmm_argv(*options)).status, 64)


class Kernels(GuestTest):
    def test_the_generic_kernel_boots(self):
        for options in (FULL, FAST, PLAIN):
            with self.subTest(options):
                self.assert_ran(guest("hello;stress_signals", *options, kernel=KERNEL_GENERIC),
                                "hello", "stress_signals")


class Idle(GuestTest):
    def test_a_waiting_guest_costs_nothing(self):
        need(VMM, KERNEL, TESTS_CPIO)
        for options in (FULL, PLAIN):
            with self.subTest(options):
                running = Running(vmm_argv(*options, cmdline="ramet.run=idle,seconds=60"))
                self.addCleanup(running.stop)
                self.assertTrue(running.wait_for("idle begins"), running.console)
                # The console is silent for as long as it is watched.
                self.assertFalse(running.wait_for("idle ends", 1.0))
                before = running.cpu_seconds()
                self.assertFalse(running.wait_for("idle ends", 4.0))
                self.assertLess(running.cpu_seconds() - before, 0.2)


if __name__ == "__main__":
    unittest.main()
