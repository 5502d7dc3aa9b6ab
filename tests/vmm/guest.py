"""Running guests with `ramet-vmm --run`: what tests/vmm shares.

Environment:
    RAMET_BUILD     the build directory (default build/)
    RAMET_IMAGES    kernels (default <build>/images)
"""

import os
import re
import select
import signal
import subprocess
import tempfile
import time
import unittest
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("RAMET_BUILD", ROOT / "build")).resolve()
IMAGES = Path(os.environ.get("RAMET_IMAGES", BUILD / "images"))
VMM = BUILD / "bin" / "ramet-vmm"
STATE_LIVE = BUILD / "tests" / "test_state_live"
TESTS_CPIO = BUILD / "guest-tests.cpio"
KERNEL = IMAGES / "kernel" / "vmlinux"
KERNEL_GENERIC = IMAGES / "kernel-generic" / "vmlinux"
MODULES = IMAGES / "kernel" / "modules.cpio"

# Exit statuses of ramet-vmm --run (vmm/standalone.h).
POWEROFF, ERROR, REBOOT, PANIC, GUEST_FAULT = 0, 1, 3, 4, 5

DEADLINE = 120.0


def need(*paths):
    """Skips the test when something that it needs is not there."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise unittest.SkipTest("/dev/kvm is not usable")
    for path in paths:
        if not Path(path).exists():
            raise unittest.SkipTest(f"{path} is not there (make programs guest-tests image)")


@dataclass
class Result:
    status: int  # exit status; -N after signal N; None when the deadline came first
    console: str
    errors: str
    programs: list = field(default_factory=list)  # (name, exit code) in order

    @property
    def reason(self):
        """The worker's last sentence."""
        lines = [l for l in self.errors.splitlines() if l.startswith("ramet-vmm: ")]
        return lines[-1].removeprefix("ramet-vmm: ") if lines else ""

    def tell(self):
        return (f"status {self.status}, '{self.reason}'\n--- stderr\n{self.errors[-2000:]}"
                f"\n--- console\n{self.console[-6000:]}")


def run(argv, deadline=DEADLINE):
    """Runs a program to its end; kills it at the deadline."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=err)
        try:
            status = process.wait(deadline)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            process.kill()
            process.wait()
        texts = []
        for f in (out, err):
            f.seek(0)
            texts.append(f.read().decode(errors="replace").replace("\r\n", "\n"))
    found = re.findall(r"^RAMET-TEST (\S+) exit (\d+)$", texts[0], re.M)
    return Result(status, *texts, [(name, int(code)) for name, code in found])


def vmm_argv(*options, kernel=KERNEL, initrds=(TESTS_CPIO,), cmdline="", mem=256):
    argv = [VMM, "--run", "--kernel", kernel, "--mem", mem]
    for initrd in initrds:
        argv += ["--initrd", initrd]
    return [*argv, "--cmdline", cmdline, *options]


def guest(programs, *options, deadline=DEADLINE, cmdline="", **kw):
    """Boots a guest that runs `programs` (see tests/guest/init.c) and ends."""
    need(VMM, kw.get("kernel", KERNEL), TESTS_CPIO)
    return run(vmm_argv(*options, cmdline=f"ramet.run={programs} {cmdline}", **kw), deadline)


class GuestTest(unittest.TestCase):
    def assert_ran(self, result, *names):
        """The named programs ran, all succeeded, and the guest powered off."""
        self.assertEqual(result.programs, [(name, 0) for name in names], result.tell())
        self.assertEqual(result.status, POWEROFF, result.tell())
        self.assertEqual(result.reason, "the guest powered off", result.tell())

    def assert_ends_cleanly(self, result):
        """Whatever the guest did: the worker ended by itself and said why."""
        self.assertIsNotNone(result.status, "still running at the deadline: " + result.tell())
        self.assertIn(result.status, (POWEROFF, REBOOT, PANIC, GUEST_FAULT), result.tell())
        self.assertRegex(result.reason, r"\w+ \w+ \w+", result.tell())


class Running:
    """A guest that is looked at while it runs."""

    def __init__(self, argv):
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.console = ""

    def wait_for(self, text, deadline=60.0):
        """Reads the console until `text` is there. False when it never came."""
        end = time.monotonic() + deadline
        fd = self.process.stdout.fileno()
        while text not in self.console:
            left = end - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return False
            data = os.read(fd, 65536)
            if not data:
                return text in self.console
            self.console += data.decode(errors="replace")
        return True

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def privcmd_cpio(directory):
    """An archive that lets the bring-up init load xen-privcmd, for guests that
    attack with hypercalls."""
    need(MODULES)
    listing = subprocess.run(["cpio", "-it", "--quiet"], stdin=MODULES.open("rb"),
                             capture_output=True, check=True, text=True).stdout.split()
    names = [n for n in listing if n.endswith("/xen-privcmd.ko")]
    if not names:
        raise unittest.SkipTest(f"no xen-privcmd.ko in {MODULES}")
    target = Path(directory) / "opt/ramet-tests/modules"
    target.mkdir(parents=True)
    with (target / "xen-privcmd.ko").open("wb") as f:
        subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", names[0]],
                       stdin=MODULES.open("rb"), stdout=f, check=True)
    (target / "list").write_text("xen-privcmd.ko unrestricted=1\n")
    out = Path(directory) / "privcmd.cpio"
    paths = "".join(f"{p.relative_to(directory)}\n"
                    for p in sorted(Path(directory, "opt").rglob("*")))
    with out.open("wb") as f:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=directory, stdout=f,
                       input=paths.encode(), check=True)
    return out
