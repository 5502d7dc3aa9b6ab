"""Guests under ramet-vmm on a hardware-style KVM, in the emulated-SVM test bed:
on the plain path, where every event reaches the VMM, and with the fast path,
which runs at CPL 0 inside the guest. What they run is in guests.py."""

import re
import unittest

from guests import PYTHON_IMAGE, Lab

# Statuses of ramet-vmm --run (vmm/standalone.h).
POWEROFF, ERROR, REBOOT, PANIC = 0, 1, 3, 4


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
