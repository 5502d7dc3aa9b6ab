"""Walks through files: what is listed, in which order, hashed how, and what a walk
must not do: follow links, enter virtual file systems, hold up the agent."""

import errno
import os
import socket
import stat
import struct
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import DirectoryCase
from wire import (CREDIT, CANCEL, ERROR, TREE, TREE_ENTRIES, TREE_PAGE, TREES_MAX, Agent,
                  AgentError, wait_gone)

MIB = 1 << 20
BLOCK = 64 * 1024


class TreeCase(DirectoryCase):
    def put(self, name, data=b"data"):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def mount(self, kind, name):
        os.mkdir(self.path(name))
        done = subprocess.run(["mount", "-t", kind, kind, self.path(name)], capture_output=True)
        if done.returncode:
            self.skipTest("mounts are not allowed here: " + done.stderr.decode().strip())
        self.addCleanup(subprocess.run, ["umount", self.path(name)], check=True)

    def walk(self, *roots):
        return {entry.path: entry for entry in self.agent.tree(*(roots or [self.dir]))}

    def names(self, *roots):
        prefix = os.fsencode(self.dir) + b"/"
        return [e.path[len(prefix):] for e in self.agent.tree(*(roots or [self.dir]))
                if e.path.startswith(prefix)]

    def one(self, name):
        entries = self.agent.tree(self.path(name))
        self.assertEqual(entries[0].path, os.fsencode(self.path(name)))
        return entries[0]

    def refused(self, code, *roots):
        with self.assertRaises(AgentError) as e:
            self.agent.tree(*roots)
        self.assertEqual(errno.errorcode[e.exception.errno], errno.errorcode[code],
                         str(e.exception))
        return str(e.exception)


class Listing(TreeCase):
    def test_depth_first_by_the_bytes_of_names(self):
        for name in ("a/z", "a-b", "a!", "b/c/d", "B", "a/\u00e9"):
            self.put(name)
        self.assertEqual(self.names(), [b"B", b"a", b"a/z", "a/\u00e9".encode(), b"a!", b"a-b",
                                        b"b", b"b/c", b"b/c/d"])

    def test_the_root_itself_is_an_entry(self):
        self.assertEqual([e.path for e in self.agent.tree(self.dir)], [os.fsencode(self.dir)])

    def test_roots_come_in_the_order_given(self):
        self.put("x")
        self.put("y")
        paths = [e.path for e in self.agent.tree(self.path("y"), self.path("x"))]
        self.assertEqual(paths, [os.fsencode(self.path("y")), os.fsencode(self.path("x"))])

    def test_a_missing_root_has_no_entries(self):
        self.assertEqual(self.agent.tree(self.path("missing"), self.path("no/such")), [])

    def test_mode_owner_size_and_time(self):
        path = self.put("f", b"12345")
        os.chmod(path, 0o4751)
        os.chown(path, 12, 34)
        os.chmod(path, 0o4751)
        os.utime(path, ns=(1, 1234567890123456789))
        entry = self.one("f")
        self.assertEqual((entry.size, entry.mode, entry.uid, entry.gid, entry.mtime_ns),
                         (5, stat.S_IFREG | 0o4751, 12, 34, 1234567890123456789))

    def test_names_of_any_bytes(self):
        names = [b"new\nline", b"\xff\xfe", b"tab\t", b"q\"'\\", b"x" * 255]
        for name in names:
            with open(os.fsencode(self.dir) + b"/" + name, "wb"):
                pass
        self.assertEqual(self.names(), sorted(names))

    def test_ten_thousand_files_in_many_pages(self):
        for i in range(10_000):
            self.put("d%d/file-%05d" % (i % 7, i), b"%d" % i)
        entries = self.agent.tree(self.dir)
        self.assertEqual(len(entries), 10_000 + 7 + 1)
        self.assertEqual(len({e.hash for e in entries if stat.S_ISREG(e.mode)}), 10_000)

    def test_as_deep_as_a_path_can_be(self):
        self.addCleanup(subprocess.run, ["rm", "-rf", self.dir + "/d"], check=True)
        fd = os.open(self.dir, os.O_RDONLY)
        depth = (4095 - len(self.dir)) // 2
        try:
            for _ in range(depth):
                os.mkdir("d", dir_fd=fd)
                below = os.open("d", os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = below
            self.assertEqual(len(self.names()), depth)
            os.mkdir("e", dir_fd=fd)
            os.mkdir("e/ff", dir_fd=fd)
            self.assertIn("longer than 4095", self.refused(errno.ENAMETOOLONG, self.dir))
        finally:
            os.close(fd)

    def test_the_agents_own_directory_is_left_out_below_a_root(self):
        os.makedirs(self.agent.run_dir, exist_ok=True)
        with open(self.agent.run_dir + "/generation", "w") as f:
            f.write("x")
        home = self.agent.home.name
        run = os.fsencode(self.agent.run_dir)
        self.assertFalse([p for p in self.walk(home) if p.startswith(run)])
        self.assertIn(run + b"/generation", self.walk(self.agent.run_dir))


class Kinds(TreeCase):
    def test_links_are_not_followed(self):
        self.put("target/inside")
        os.symlink("target", self.path("link"))
        os.symlink(".", self.path("loop"))
        self.assertEqual(self.names(), [b"link", b"loop", b"target", b"target/inside"])
        self.assertEqual([e.path for e in self.agent.tree(self.path("link"))],
                         [os.fsencode(self.path("link"))])

    def test_a_links_hash_is_its_targets(self):
        os.symlink("a" * 300, self.path("one"))
        os.symlink("a" * 300, self.path("same"))
        os.symlink("b", self.path("other"))
        one, same, other = self.one("one"), self.one("same"), self.one("other")
        self.assertEqual(one.hash, same.hash)
        self.assertNotEqual(one.hash, other.hash)
        self.assertTrue(stat.S_ISLNK(one.mode))

    def test_special_files_are_not_opened(self):
        os.mkfifo(self.path("fifo"))
        os.mknod(self.path("null"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(self.path("zero"), stat.S_IFCHR | 0o600, os.makedev(1, 5))
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.path("sock"))
            entries = self.walk()
        by_name = {os.path.basename(p): e for p, e in entries.items()}
        self.assertTrue(stat.S_ISFIFO(by_name[b"fifo"].mode))
        self.assertTrue(stat.S_ISSOCK(by_name[b"sock"].mode))
        self.assertNotEqual(by_name[b"null"].hash, by_name[b"zero"].hash)
        self.assertEqual({e.flags for e in entries.values()}, {0})

    def test_virtual_file_systems_are_not_entered_others_are(self):
        self.mount("proc", "proc")
        self.mount("tmpfs", "tmpfs")
        self.put("tmpfs/inside")
        self.assertEqual(self.names(), [b"proc", b"tmpfs", b"tmpfs/inside"])

    def test_a_path_on_a_virtual_file_system_is_refused(self):
        self.assertIn("(proc)", self.refused(errno.EINVAL, "/proc"))
        self.assertIn("/proc/self/status", self.refused(errno.EINVAL, "/proc/self/status"))


class Hashes(TreeCase):
    def test_same_content_same_hash(self):
        for size in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 1_000_000):
            data = os.urandom(size)
            self.put("one", data)
            self.put("two", data)
            one, two = self.one("one"), self.one("two")
            self.assertEqual((one.hash, one.size), (two.hash, size))
            if size:
                self.put("two", data[:-1] + bytes([data[-1] ^ 1]))
                self.assertNotEqual(self.one("two").hash, one.hash, size)

    def test_swapped_blocks_differ(self):
        a, b = os.urandom(BLOCK), os.urandom(BLOCK)
        self.put("one", a + b)
        self.put("two", b + a)
        self.assertNotEqual(self.one("one").hash, self.one("two").hash)

    def test_a_block_that_moved_over_zeros_differs(self):
        a, zeros = os.urandom(BLOCK), bytes(BLOCK)
        self.put("one", a + zeros + zeros)
        self.put("two", zeros + a + zeros)
        self.assertNotEqual(self.one("one").hash, self.one("two").hash)

    def test_a_hole_and_zeros_are_the_same(self):
        data = os.urandom(1000)
        with open(self.path("hole"), "wb") as f:
            f.seek(10 * MIB)
            f.write(data)
            f.truncate(20 * MIB)
        self.put("zeros", bytes(10 * MIB) + data + bytes(10 * MIB - 1000))
        hole, zeros = self.one("hole"), self.one("zeros")
        self.assertEqual((hole.hash, hole.size), (zeros.hash, zeros.size))
        self.assertLess(os.stat(self.path("hole")).st_blocks * 512, MIB)

    def test_a_sparse_terabyte_takes_no_time(self):
        with open(self.path("huge"), "wb") as f:
            f.seek(1 << 40)
            f.write(b"end")
        start = time.monotonic()
        entry = self.one("huge")
        self.assertEqual(entry.size, (1 << 40) + 3)
        self.assertLess(time.monotonic() - start, 5)

    def test_holes_on_ramfs_stay_holes(self):
        self.mount("ramfs", "ramfs")
        data = os.urandom(100_000)
        with open(self.path("ramfs/hole"), "wb") as f:
            f.seek(300 * MIB + 5)
            f.write(data)
            f.truncate(600 * MIB)
        self.put("copy", b"")
        with open(self.path("copy"), "wb") as f:
            f.seek(300 * MIB + 5)
            f.write(data)
            f.truncate(600 * MIB)
        before = self.cached()
        hole, copy = self.one("ramfs/hole"), self.one("copy")
        self.assertEqual((hole.hash, hole.size), (copy.hash, copy.size))
        self.assertLess(self.cached() - before, 100 * MIB)

    def cached(self):
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Cached"))

    def test_reading_leaves_the_access_time(self):
        path = self.put("f")
        os.utime(path, ns=(5, 10))
        self.one("f")
        self.assertEqual(os.stat(path).st_atime_ns, 5)

    def test_a_file_that_changes_all_the_time_is_listed_once(self):
        path = self.put("f", bytes(64 * MIB))
        ident = self.agent.tree_start(self.dir)
        for size in range(0, 64 * MIB, 4 * MIB):
            os.truncate(path, size)
        pages = []
        while True:
            page, _ = self.agent.tree_page(ident)
            if not page:
                break
            pages += page
        self.assertEqual([e.path for e in pages], [os.fsencode(self.dir), os.fsencode(path)])
        self.assertLessEqual(pages[1].size, 64 * MIB)


class Conversation(TreeCase):
    def many(self, count=3000):
        for i in range(count):
            with open(self.path("a-rather-long-name-of-a-file-%06d" % i), "wb"):
                pass

    def started(self):
        """A walk whose process has begun, and waits for credit."""
        ident = self.agent.tree_start(self.dir, credit=TREE_PAGE)
        self.assertTrue(self.agent.tree_page(ident)[0])
        return ident

    def walkers(self):
        pid = self.agent.process.pid
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            pids = [int(p) for p in f.read().split()]
        found = []
        for pid in pids:
            try:
                with open("/proc/%d/comm" % pid) as f:
                    if f.read().strip() == "ramet-tree":
                        found.append(pid)
            except FileNotFoundError:
                pass
        return found

    def test_no_more_than_the_credit_is_sent(self):
        self.many()
        ident = self.agent.tree_start(self.dir, credit=TREE_PAGE)
        first, size = self.agent.tree_page(ident)
        self.assertTrue(first)
        self.agent.ping()
        self.agent.ping()
        self.assertFalse([f for f in self.agent.stash if f.id == ident])
        self.agent.send(CREDIT, ident, struct.pack("<I", size))
        self.assertTrue(self.agent.tree_page(ident)[0])
        self.agent.send(CANCEL, ident)
        self.assertEqual(self.agent.answer(ident).type, ERROR)

    def test_cancel_ends_the_walk_and_its_process(self):
        self.many()
        ident = self.started()
        pids = self.walkers()
        self.assertEqual(len(pids), 1)
        self.agent.send(CANCEL, ident)
        with self.assertRaises(AgentError) as e:
            self.agent.tree_page(ident)
        self.assertEqual(e.exception.errno, errno.ECANCELED)
        wait_gone(pids[0])

    def test_execs_and_files_go_on_meanwhile(self):
        self.put("big", os.urandom(MIB) * 512)
        ident = self.agent.tree_start(self.dir)
        start = time.monotonic()
        self.assertEqual(self.agent.run("6 * 7").result, "42")
        self.agent.ping()
        took = time.monotonic() - start
        while self.agent.tree_page(ident)[0]:
            pass
        self.assertLess(took, 5)

    def test_a_walker_that_is_killed_is_an_error(self):
        self.many()
        ident = self.started()
        pid = self.walkers()[0]
        os.kill(pid, 9)
        wait_gone(pid)
        self.agent.send(CREDIT, ident, struct.pack("<I", 1 << 20))
        with self.assertRaises(AgentError) as e:
            while self.agent.tree_page(ident)[0]:
                pass
        self.assertEqual(e.exception.errno, errno.EIO)
        self.assertIn("killed", str(e.exception))

    def test_walks_run_side_by_side_up_to_a_limit(self):
        self.put("f")
        idents = [self.agent.tree_start(self.dir, credit=0) for _ in range(TREES_MAX)]
        self.refused(errno.EBUSY, self.dir)
        for ident in idents:
            self.agent.send(CREDIT, ident, struct.pack("<I", 1 << 20))
        for ident in idents:
            self.assertEqual(len(self.agent.tree_page(ident)[0]), 2)
            self.assertEqual(self.agent.tree_page(ident)[0], [])
        self.assertEqual(len(self.agent.tree(self.dir)), 2)

    def test_a_credit_for_nothing_is_harmless(self):
        self.agent.send(CREDIT, 999999, struct.pack("<I", 1))
        self.agent.send(CANCEL, 999999)
        self.agent.ping()

    def test_bad_requests_are_refused(self):
        for count, paths in ((0, b""), (1, b""), (1, b"/tmp"), (1, b"tmp\0"), (2, b"/tmp\0"),
                             (1, b"/tmp\0/x\0"), (65, b"/a\0" * 65), (1, b"\0"),
                             (1, b"/" * 4096 + b"\0")):
            ident = self.agent.request(TREE, struct.pack("<II", count, 1 << 20) + paths)
            with self.assertRaises(AgentError) as e:
                self.agent.reply(ident, TREE_ENTRIES)
            self.assertEqual(e.exception.errno, errno.EINVAL, (count, paths[:20]))

    def test_walks_end_with_the_connection(self):
        agent = Agent()
        self.many()
        agent.tree_start(self.dir, credit=0)
        agent.ping()
        with open("/proc/%d/task/%d/children" % (agent.process.pid, agent.process.pid)) as f:
            pids = [int(p) for p in f.read().split()]
        self.assertGreaterEqual(len(pids), 1)
        agent.close()
        for pid in pids:
            wait_gone(pid)

    def test_descriptors_are_not_leaked(self):
        def count():
            return len(os.listdir("/proc/%d/fd" % self.agent.process.pid))
        self.put("f")
        self.agent.tree(self.dir)
        before = count()
        for _ in range(50):
            self.agent.tree(self.dir)
        self.assertEqual(count(), before)


if __name__ == "__main__":
    unittest.main()
