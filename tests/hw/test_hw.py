"""What the programs say on a hardware-style KVM, in the emulated-SVM test bed,
and on this machine's own KVM."""

import os
import stat
import subprocess
import tempfile
import unittest

import bed

PROBE = os.path.join(bed.PROGRAMS, "probe")


def facts_parse(text):
    """{key: value} of the probe's output."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def bed_or_skip(**parameters):
    try:
        return bed.Bed(**parameters)
    except bed.BedMissing as missing:
        raise unittest.SkipTest(str(missing)) from None


def slots_of(facts):
    return {key: value for key, value in facts.items() if key.startswith("slot_")}


class ProbeOnHardware(unittest.TestCase):
    """The probe on kvm-amd with nested paging."""

    @classmethod
    def setUpClass(cls):
        outcome = bed_or_skip().run([bed.Job("probe", ["/probe"])], {"/probe": PROBE})["probe"]
        cls.outcome = outcome
        cls.facts = facts_parse(outcome.output)

    def test_probe_succeeds(self):
        self.assertEqual(self.outcome.status, 0, self.outcome.output)

    def test_syscall_raises_the_privilege_level(self):
        self.assertEqual(self.facts["syscall_cpl"], "0")
        self.assertEqual(self.facts["kind"], "hardware")

    def test_privileged_code_is_native(self):
        self.assertGreater(float(self.facts["cpl0_mips"]), 20)

    def test_cpuid_is_what_the_vmm_set(self):
        self.assertEqual(self.facts["cpuid_native"], "0")

    def test_host_page_table_writes_are_seen(self):
        self.assertEqual(self.facts["host_pte_change"], "1")

    def test_interrupt_window_opens_after_return_to_user(self):
        self.assertEqual(self.facts["irq_window"], "1")

    def test_all_wanted_slots_work(self):
        self.assertIn("slot_257", self.facts)
        self.assertEqual(set(slots_of(self.facts).values()), {"1"})

    def test_fast_paths_are_allowed(self):
        self.assertEqual(self.facts["fast_paths_ok"], "1", self.facts["reason"])


class ProbeOnShadowPaging(unittest.TestCase):
    """The same processor with npt=0: KVM shadows the guest's page tables."""

    @classmethod
    def setUpClass(cls):
        machine = bed_or_skip(kvm_amd_parameters="npt=0")
        outcome = machine.run([bed.Job("probe", ["/probe"])], {"/probe": PROBE})["probe"]
        cls.facts = facts_parse(outcome.output)

    def test_it_is_still_hardware(self):
        self.assertEqual(self.facts["kind"], "hardware")

    def test_changes_by_the_host_are_not_seen(self):
        self.assertEqual(self.facts["host_pte_change"], "0")

    def test_changes_by_privileged_guest_code_are_seen(self):
        self.assertEqual(self.facts["guest_pte_change"], "1")

    def test_fast_paths_are_allowed(self):
        self.assertEqual(self.facts["fast_paths_ok"], "1", self.facts["reason"])


class ProbeHere(unittest.TestCase):
    """The probe on this machine's own KVM."""

    def setUp(self):
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            self.skipTest("/dev/kvm cannot be opened here")
        if not os.path.exists(PROBE):
            self.skipTest(f"{PROBE} is missing (make hw-programs)")
        done = subprocess.run([PROBE], capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.facts = facts_parse(done.stdout)

    def test_kind_agrees_with_the_processor_flags(self):
        with open("/proc/cpuinfo", encoding="ascii") as cpuinfo:
            flags = next(line for line in cpuinfo if line.startswith("flags")).split()
        virtualises = "svm" in flags or "vmx" in flags
        self.assertEqual(self.facts["kind"], "hardware" if virtualises else "software")

    def test_all_wanted_slots_work(self):
        self.assertEqual(set(slots_of(self.facts).values()), {"1"})


class BedItself(unittest.TestCase):
    """What tests in the bed rely on: that it can report a failure."""

    @classmethod
    def setUpClass(cls):
        shell = "/bin/busybox"
        if not os.path.exists(shell):
            raise unittest.SkipTest(f"{shell} is missing (apt install busybox-static)")
        jobs = [
            bed.Job("status", ["/busybox", "sh", "-c", "echo out; echo err >&2; exit 3"]),
            bed.Job("signal", ["/busybox", "sh", "-c", "kill -SEGV $$"]),
            bed.Job("late", ["/busybox", "sleep", "50"], 1),
            bed.Job("missing", ["/nothing"]),
            bed.Job("words", ["/busybox", "echo", "a b,c;d", "", "e"]),
            bed.Job("forged", ["/busybox", "printf", "@@0 end forged 0 1\\nno newline"]),
            bed.Job("big", ["/busybox", "sha256sum", "/big/file"]),
        ]
        with tempfile.NamedTemporaryFile() as big:
            block = bytes(range(256)) * 4096
            for _ in range(64):
                big.write(block)
            big.flush()
            done = subprocess.run(
                ["sha256sum", big.name], capture_output=True, text=True, check=True
            )
            cls.big_sum = done.stdout.split()[0]
            files = {"/busybox": shell, "/big/file": big.name}
            cls.outcomes = bed_or_skip().run(jobs, files)

    def test_exit_status_and_both_streams_come_back(self):
        outcome = self.outcomes["status"]
        self.assertEqual((outcome.status, outcome.output), (3, "out\nerr\n"))

    def test_death_by_signal_is_reported(self):
        self.assertEqual(self.outcomes["signal"].status, 128 + 11)

    def test_a_job_that_takes_too_long_is_killed(self):
        self.assertEqual(self.outcomes["late"].status, 124)
        self.assertLess(self.outcomes["late"].milliseconds, 20000)

    def test_a_missing_program_is_reported(self):
        self.assertEqual(self.outcomes["missing"].status, 127)

    def test_arguments_arrive_unchanged(self):
        self.assertEqual(self.outcomes["words"].output, "a b,c;d  e\n")

    def test_output_cannot_pass_for_a_report(self):
        self.assertEqual(self.outcomes["forged"].status, 0)
        self.assertIn("@@0 end forged 0 1", self.outcomes["forged"].output)

    def test_a_big_file_arrives_whole(self):
        self.assertEqual(self.outcomes["big"].output.split()[0], self.big_sum)


class BedParts(unittest.TestCase):
    """The bed's own helpers."""

    def test_missing_qemu_is_named(self):
        old = os.environ["PATH"]
        os.environ["PATH"] = "/nonexistent"
        try:
            with self.assertRaisesRegex(bed.BedMissing, "qemu"):
                bed.Bed()
        finally:
            os.environ["PATH"] = old

    def test_archive_can_be_unpacked(self):
        with tempfile.TemporaryDirectory() as top:
            path = os.path.join(top, "a.cpio")
            with open(path, "wb") as out:
                archive = bed.Archive(out)
                archive.data("/x/y/file", b"odd", 0o644)
                archive.file("/program", __file__)
                archive.close()
            with open(path, "rb") as packed:
                subprocess.run(["cpio", "--quiet", "-id"], stdin=packed, cwd=top, check=True)
            with open(os.path.join(top, "x/y/file"), "rb") as unpacked:
                self.assertEqual(unpacked.read(), b"odd")
            self.assertTrue(os.stat(os.path.join(top, "program")).st_mode & stat.S_IXUSR)


if __name__ == "__main__":
    unittest.main()
