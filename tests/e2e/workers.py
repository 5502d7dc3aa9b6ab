"""Which worker process does what: the daemon's log says whose it is, /proc what it maps."""

import contextlib
import re
import threading
from pathlib import Path

import harness

# In the reason of a sandbox that shared memory with a donor that died.
LOST_MEMORY = "memory that it shares since a fork is lost"


class Workers:
    """Which worker process belongs to which sandbox, from the daemon's log and /proc."""

    def __init__(self, daemon):
        self.daemon = daemon
        self._lock = threading.Lock()
        self._offset = 0
        self._owner = {}   # vm: id of the sandbox that it runs, or ran last
        self._current = {}  # id: vm

    def _read(self):
        with self.daemon.log.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        data = data[:data.rfind(b"\n") + 1]
        self._offset += len(data)
        for line in data.decode(errors="replace").splitlines():
            if found := re.search(r"sandbox (sbx_\w+) has worker (vm\d+)", line):
                self._owner[found[2]] = found[1]
                self._current[found[1]] = found[2]
            elif found := re.search(r"sandbox (sbx_\w+) goes on as (sbx_\w+)", line):
                winner = self._current.pop(found[1], None)
                loser = self._current.pop(found[2], None)
                if winner:
                    self._owner[winner], self._current[found[2]] = found[2], winner
                if loser:
                    self._owner[loser] = found[1]

    def owner(self, vm):
        with self._lock:
            self._read()
            return self._owner.get(vm)

    def current(self, identity):
        with self._lock:
            self._read()
            return self._current.get(identity)

    def processes(self):
        """{pid: vm} of the workers."""
        found = {}
        for pid in harness.processes_of(self.daemon.home):
            with contextlib.suppress(OSError):
                name = re.search(r"/(vm\d+)$", Path(f"/proc/{pid}/cgroup").read_text(), re.M)
                if name:
                    found[pid] = name[1]
        return found

    @staticmethod
    def layers(pid):
        """Inodes of the memory layers that a worker reads, and of the one that it fills."""
        reads, fills = set(), None
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                _, flags, _, _, inode, *name = line.split()
                if not name or "memfd:ramet-layer" not in name[0]:
                    continue
                if flags[3] == "s":
                    fills = inode
                else:
                    reads.add(inode)
        return reads, fills

    def pid_of(self, sandbox):
        """Of the worker that runs a sandbox, by its id, or None."""
        vm = self.current(sandbox)
        for pid, name in self.processes().items():
            if name == vm:
                return pid
        return None
