"""A hardware-style KVM without the hardware.

QEMU's software emulation offers AMD SVM. A stock Debian kernel inside it then
has a real kvm-amd with nested paging, so programs that behave differently on
hardware can be tested on any machine. Correctness only: times say nothing.

    result = Bed().run([Job("probe", ["/probe"])], {"/probe": "build/hw/probe"})
    result["probe"].status, result["probe"].output

or by hand

    python3 tests/hw/bed.py --file /probe=build/hw/probe --job "probe: /probe"

Environment: RAMET_HW_KERNEL, the bzImage of a Debian cloud kernel, and
RAMET_HW_MODULES, a directory below which its irqbypass.ko, kvm.ko and
kvm-amd.ko are (default: from the cache, see fetch.py); RAMET_HW_PROGRAMS, the
directory of init and hw-jobs (default: hw in RAMET_BUILD, which is build);
RAMET_HW_VERBOSE=1 shows the whole console.
"""

import argparse
import collections
import os
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time

import fetch

QEMU = "qemu-system-x86_64"
# QEMU must not outlive a test run that was killed.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
MODULES = ("irqbypass", "kvm", "kvm-amd")
TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TREE, os.environ.get("RAMET_BUILD") or os.environ.get("BUILD") or "build")
PROGRAMS = os.environ.get("RAMET_HW_PROGRAMS", os.path.join(BUILD, "hw"))
JOBS_PATH = "/jobs.list"
OUTPUT_LIMIT = 16 << 20

Job = collections.namedtuple("Job", "name argv timeout", defaults=(60,))
Outcome = collections.namedtuple("Outcome", "status output milliseconds")


class BedMissing(Exception):
    """Something the bed is made of is not there; the text says what to do."""


class BedFailed(Exception):
    """The bed's own Linux did not get through; the text ends with its console."""


def _pad4(data):
    return data + b"\0" * (-len(data) % 4)


class Archive:
    """Writes an initramfs in the "newc" format (buffer-format.rst)."""

    def __init__(self, out):
        self._out = out
        self._inode = 0
        self._directories = {"/"}

    def _header(self, name, mode, size):
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._out.write(_pad4(header + encoded))

    def directory(self, path):
        path = os.path.normpath(path)
        if path in self._directories:
            return
        self.directory(os.path.dirname(path))
        self._directories.add(path)
        self._header(path.lstrip("/"), stat.S_IFDIR | 0o755, 0)

    def data(self, path, content, mode=0o755):
        self.directory(os.path.dirname(path))
        self._header(path.lstrip("/"), stat.S_IFREG | mode, len(content))
        self._out.write(_pad4(content))

    def file(self, path, source):
        self.directory(os.path.dirname(path))
        with open(source, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            self._header(path.lstrip("/"), stat.S_IFREG | 0o755, size)
            shutil.copyfileobj(handle, self._out, 1 << 20)
        self._out.write(b"\0" * (-size % 4))

    def close(self):
        self._header("TRAILER!!!", 0, 0)


class _Console(threading.Thread):
    """Collects what QEMU prints, so that a full pipe never stops it."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self._stream = stream
        self.chunks = []

    def run(self):
        size = 0
        for chunk in iter(lambda: self._stream.read1(65536), b""):
            if size < OUTPUT_LIMIT:
                self.chunks.append(chunk)
            size += len(chunk)

    def text(self):
        return b"".join(self.chunks).decode(errors="replace").replace("\r", "")


class Bed:
    """Where the parts of the bed are. Raises BedMissing when one is not."""

    def __init__(self, memory_mb=2048, kvm_amd_parameters=""):
        self.memory_mb = memory_mb
        self.kvm_amd_parameters = kvm_amd_parameters
        self.qemu = shutil.which(QEMU)
        if not self.qemu:
            raise BedMissing(f"{QEMU} is not installed (apt install qemu-system-x86)")
        self.init = self._existing(os.path.join(PROGRAMS, "init"), "make hw-programs")
        self.jobs = self._existing(os.path.join(PROGRAMS, "hw-jobs"), "make hw-programs")
        self.kernel, modules = self._kernel()
        self.modules = [self._module(modules, name) for name in MODULES]

    @staticmethod
    def _existing(path, remedy):
        if not os.path.exists(path):
            raise BedMissing(f"{path} is missing ({remedy})")
        return path

    def _kernel(self):
        kernel = os.environ.get("RAMET_HW_KERNEL")
        modules = os.environ.get("RAMET_HW_MODULES")
        if not kernel or not modules:
            modules = fetch.cached()
            if not modules:
                raise BedMissing("the bed's kernel is not in the cache (make hw-kernel)")
            kernel = os.path.join(modules, "vmlinuz")
        return self._existing(kernel, "make hw-kernel"), self._existing(modules, "make hw-kernel")

    @staticmethod
    def _module(top, name):
        wanted = {f"{name}.ko", f"{name.replace('-', '_')}.ko"}
        for directory, _, names in os.walk(top):
            for found in wanted.intersection(names):
                return os.path.join(directory, found)
        raise BedMissing(f"{name}.ko is not below {top} (make hw-kernel)")

    def _job_list(self, jobs, token):
        words = ["token", token]
        for module in self.modules:
            name = os.path.basename(module)
            parameters = self.kvm_amd_parameters if "amd" in name else ""
            words += ["module", f"/modules/{name}", parameters]
        for job in jobs:
            words += ["job", job.name, str(job.timeout), str(len(job.argv)), *job.argv]
        return b"".join(word.encode() + b"\0" for word in words)

    def _initramfs(self, out, jobs, files, token):
        archive = Archive(out)
        for directory in ("/dev", "/proc", "/sys", "/tmp"):
            archive.directory(directory)
        archive.file("/init", self.init)
        archive.file("/hw-jobs", self.jobs)
        for module in self.modules:
            archive.file(f"/modules/{os.path.basename(module)}", module)
        for path, source in sorted(files.items()):
            archive.file(path, self._existing(source, "it is to be taken along"))
        archive.data(JOBS_PATH, self._job_list(jobs, token), 0o644)
        archive.close()

    def _command(self, initramfs, seconds):
        cmdline = (
            "console=ttyS0 panic=-1 quiet mitigations=off rootfstype=ramfs "
            f"ramet.run=/hw-jobs,{JOBS_PATH} ramet.timeout={seconds} ramet.end=poweroff"
        )
        return [
            self.qemu, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm",
            "-smp", "1", "-m", str(self.memory_mb), "-nodefaults", "-no-user-config",
            "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", self.kernel, "-initrd", initramfs, "-append", cmdline,
        ]  # fmt: skip

    def run(self, jobs, files, boot_seconds=60):
        """Boots, runs the jobs in order, returns {name: Outcome}.

        `files` maps absolute paths inside to files here. The bed is killed
        `boot_seconds` after the jobs' own time is up."""
        token = secrets.token_hex(8)
        seconds = sum(job.timeout for job in jobs)
        with tempfile.NamedTemporaryFile(prefix="ramet-hw-", suffix=".cpio") as initramfs:
            self._initramfs(initramfs, jobs, files, token)
            initramfs.flush()
            text = self._boot(self._command(initramfs.name, seconds), seconds + boot_seconds)
        return self._outcomes(text, jobs, token)

    @staticmethod
    def _boot(command, seconds):
        start = time.monotonic()
        process = subprocess.Popen(
            [*DIE_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        console = _Console(process.stdout)
        console.start()
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BedFailed(f"no end after {seconds} s:\n{console.text()[-4000:]}") from None
        finally:
            process.kill()
            process.wait()
            console.join(10)
            process.stdout.close()
        if status != 0:
            raise BedFailed(f"QEMU ended with status {status}:\n{console.text()[-4000:]}")
        if os.environ.get("RAMET_HW_VERBOSE"):
            print(f"{console.text()}\n{time.monotonic() - start:.1f} s in all", file=sys.stderr)
        return console.text()

    @staticmethod
    def _outcomes(text, jobs, token):
        mark = re.escape(f"@@{token}")
        for module, code in re.findall(rf"^{mark} module (\S+) (\d+)$", text, re.M):
            if code != "0":
                raise BedFailed(f"{module}: {os.strerror(int(code))}\n{text[-4000:]}")
        outcomes = {}
        for job in jobs:
            name = re.escape(job.name)
            found = re.search(
                rf"^{mark} begin {name}\n(.*?)\n?^{mark} end {name} (\d+) (\d+)$",
                text,
                re.M | re.S,
            )
            if not found:
                raise BedFailed(f"job {job.name} did not end:\n{text[-4000:]}")
            output, status, milliseconds = found.groups()
            outcomes[job.name] = Outcome(int(status), output, int(milliseconds))
        return outcomes


def _pair(text, separator):
    left, found, right = text.partition(separator)
    if not found or not left.strip() or not right.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected LEFT{separator}RIGHT")
    return left.strip(), right.strip()


def main():
    parser = argparse.ArgumentParser(description="Run programs on an emulated SVM machine.")
    parser.add_argument("--file", type=lambda t: _pair(t, "="), action="append", default=[],
                        metavar="INSIDE=HERE", help="a file to take along")  # fmt: skip
    parser.add_argument("--job", type=lambda t: _pair(t, ":"), action="append", required=True,
                        metavar="NAME:COMMAND", help="what to run; no shell")  # fmt: skip
    parser.add_argument("--timeout", type=int, default=60, help="seconds per job (60)")
    parser.add_argument("--memory", type=int, default=2048, help="MiB of the machine (2048)")
    parser.add_argument("--kvm-amd", default="", help="module parameters, such as npt=0")
    options = parser.parse_args()
    jobs = [Job(name, shlex.split(command), options.timeout) for name, command in options.job]
    try:
        outcomes = Bed(options.memory, options.kvm_amd).run(jobs, dict(options.file))
    except (BedMissing, BedFailed) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for name, outcome in outcomes.items():
        print(f"--- {name}: status {outcome.status}, {outcome.milliseconds} ms")
        print(outcome.output)
    return any(outcome.status for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
