"""Files through the agent: content, checksums, errors, what stays behind."""

import errno
import os
import stat
import struct
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cases import DirectoryCase
from wire import FILE_CHUNK, HANDLES_MAX, Agent, AgentError, xxh3

UNKNOWN = (1 << 64) - 1


class FilesCase(DirectoryCase):
    def put(self, name, data=b"old", mode=0o644):
        with open(self.path(name), "wb") as f:
            f.write(data)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def get(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def assert_error(self, code, call, *args, **kwargs):
        with self.assertRaises(AgentError) as e:
            call(*args, **kwargs)
        self.assertEqual(errno.errorcode[e.exception.errno], errno.errorcode[code],
                         str(e.exception))
        return str(e.exception)

    def assert_no_leftovers(self, *names):
        self.assertEqual(sorted(os.listdir(self.dir)), sorted(names))


class Upload(FilesCase):
    def test_content_and_checksum(self):
        data = os.urandom(300_000)
        self.assertEqual(self.agent.upload(self.path("f"), data), (len(data), xxh3(data)))
        self.assertEqual(self.get("f"), data)
        self.assert_no_leftovers("f")

    def test_empty_file(self):
        self.agent.upload(self.path("f"), b"")
        self.assertEqual(self.get("f"), b"")

    def test_100_megabytes_up_and_down(self):
        data = os.urandom(1 << 20) * 100
        self.agent.upload(self.path("big"), data)
        back, size = self.agent.download(self.path("big"))
        self.assertEqual(size, len(data))
        self.assertTrue(back == data)

    def test_parents_are_made(self):
        self.agent.upload(self.path("a/b//c/f"), b"deep")
        self.assertEqual(self.get("a/b/c/f"), b"deep")

    def test_relative_path_starts_at_home(self):
        self.agent.upload("relative.txt", b"x")
        self.assertEqual(self.agent.bash("cat ~/relative.txt").stdout, "x")

    def test_mode_of_a_new_file(self):
        self.agent.upload(self.path("f"), b"", 0o750)
        self.agent.upload(self.path("g"), b"")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("f")).st_mode), 0o750)
        self.assertEqual(stat.S_IMODE(os.stat(self.path("g")).st_mode), 0o644)

    def test_existing_file_keeps_its_mode(self):
        self.put("f", mode=0o600)
        self.agent.upload(self.path("f"), b"new", 0o755)
        self.assertEqual(self.get("f"), b"new")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("f")).st_mode), 0o600)

    def test_symbolic_link_stays_a_link(self):
        self.put("target")
        os.symlink("target", self.path("link"))
        self.agent.upload(self.path("link"), b"new")
        self.assertTrue(os.path.islink(self.path("link")))
        self.assertEqual(self.get("target"), b"new")

    def test_old_content_is_there_until_the_close(self):
        self.put("f")
        handle = self.agent.open(self.path("f"), True)[0]
        self.agent.write(handle, 0, b"new content")
        self.assertEqual(self.get("f"), b"old")
        self.agent.close_file(handle, 0, 11, xxh3(b"new content"))
        self.assertEqual(self.get("f"), b"new content")

    def test_wrong_checksum_leaves_the_target(self):
        self.put("f")
        handle = self.agent.open(self.path("f"), True)[0]
        self.agent.write(handle, 0, b"new")
        self.assert_error(errno.EBADMSG, self.agent.close_file, handle, 0, 3, xxh3(b"new") ^ 1)
        self.assertEqual(self.get("f"), b"old")
        self.assert_no_leftovers("f")

    def test_wrong_size_leaves_the_target(self):
        handle = self.agent.open(self.path("f"), True)[0]
        self.agent.write(handle, 0, b"new")
        self.assert_error(errno.EBADMSG, self.agent.close_file, handle, 0, 4, xxh3(b"new"))
        self.assert_no_leftovers()

    def test_abandon_leaves_no_trace(self):
        handle = self.agent.open(self.path("f"), True)[0]
        self.agent.write(handle, 0, b"new")
        self.agent.close_file(handle, abandon=1)
        self.assert_no_leftovers()

    def test_gap_is_refused(self):
        handle = self.agent.open(self.path("f"), True)[0]
        self.assert_error(errno.EINVAL, self.agent.write, handle, 5, b"x")
        self.agent.close_file(handle, abandon=1)

    def test_piece_too_large_is_refused(self):
        handle = self.agent.open(self.path("f"), True)[0]
        self.assert_error(errno.EINVAL, self.agent.write, handle, 0, b"x" * (FILE_CHUNK + 1))
        self.agent.close_file(handle, abandon=1)

    def test_end_of_the_connection_leaves_no_trace(self):
        with Agent() as agent:
            handle = agent.open(self.path("f"), True)[0]
            agent.write(handle, 0, b"new")
        self.assert_no_leftovers()

    def test_errors(self):
        upload = self.agent.upload
        os.mkdir(self.path("d"))
        self.put("f")
        os.mkfifo(self.path("fifo"))
        self.assertIn("d", self.assert_error(errno.EISDIR, upload, self.path("d"), b"x"))
        self.assert_error(errno.EISDIR, upload, self.path("d/"), b"x")
        self.assert_error(errno.ENOTDIR, upload, self.path("f/below"), b"x")
        self.assert_error(errno.EINVAL, upload, self.path("fifo"), b"x")
        self.assert_error(errno.EINVAL, upload, "/dev/null", b"x")
        self.assert_error(errno.EINVAL, upload, "", b"x")
        self.assert_error(errno.EINVAL, upload, b"a\0b", b"x")
        self.assert_error(errno.ENAMETOOLONG, upload, "/x" * 2100, b"x")
        self.assert_error(errno.ENAMETOOLONG, upload, self.path("n" * 300), b"x")

    def test_long_names_that_exist_can_be_replaced(self):
        name = "n" * 255
        self.agent.upload(self.path(name), b"1")
        self.agent.upload(self.path(name), b"2")
        self.assertEqual(self.get(name), b"2")

    @unittest.skipUnless(os.geteuid() == 0, "needs root to mount a small tmpfs")
    def test_full_disk(self):
        os.mkdir(self.path("small"))
        if os.system("mount -t tmpfs -o size=64k none %s" % self.path("small")):
            self.skipTest("cannot mount a tmpfs here")
        self.addCleanup(os.system, "umount %s" % self.path("small"))
        handle = self.agent.open(self.path("small/f"), True)[0]
        self.assert_error(errno.ENOSPC, self.agent.write, handle, 0, b"x" * 100_000)
        self.assert_error(errno.ENOSPC, self.agent.close_file, handle, 0, 0, xxh3(b""))
        self.assertEqual(os.listdir(self.path("small")), [])


class Download(FilesCase):
    def test_size_and_mode_are_told(self):
        self.put("f", b"12345", 0o640)
        handle, mode, size = self.agent.open(self.path("f"))
        self.assertEqual((mode, size), (0o640, 5))
        self.agent.close_file(handle)

    def test_empty_file(self):
        self.assertEqual(self.agent.download(self.put("f", b"")), (b"", 0))

    def test_parts_at_offsets(self):
        handle = self.agent.open(self.put("f", b"0123456789"))[0]
        self.assertEqual(self.agent.read(handle, 2, 3), b"234")
        self.assertEqual(self.agent.read(handle, 8, 10), b"89")
        self.assertEqual(self.agent.read(handle, 50, 10), b"")
        self.assertEqual(self.agent.close_file(handle), (5, xxh3(b"23489")))

    def test_through_a_symbolic_link(self):
        self.put("f", b"x")
        os.symlink("f", self.path("link"))
        self.assertEqual(self.agent.download(self.path("link"))[0], b"x")

    def test_files_without_a_size(self):
        data, size = self.agent.download("/proc/self/status")
        self.assertEqual(size, UNKNOWN)
        self.assertIn(b"ramet-agent", data)

    def test_errors(self):
        download = self.agent.download
        os.mkfifo(self.path("fifo"))
        self.assertIn("absent", self.assert_error(errno.ENOENT, download, self.path("absent")))
        self.assert_error(errno.EISDIR, download, self.dir)
        self.assert_error(errno.EINVAL, download, self.path("fifo"))
        self.assert_error(errno.EINVAL, download, "/dev/zero")
        self.assert_error(errno.ENOTDIR, download, self.put("f") + "/x")

    def test_reading_too_much_at_once_is_refused(self):
        handle = self.agent.open(self.put("f"))[0]
        self.assert_error(errno.EINVAL, self.agent.read, handle, 0, FILE_CHUNK + 1)
        self.assert_error(errno.EINVAL, self.agent.read, handle, 1 << 63, 1)
        self.agent.close_file(handle)


class Handles(FilesCase):
    def test_limit(self):
        self.put("f")
        handles = [self.agent.open(self.path("f"))[0] for _ in range(HANDLES_MAX)]
        self.assertEqual(len(set(handles)), HANDLES_MAX)
        self.assert_error(errno.EMFILE, self.agent.open, self.path("f"))
        for handle in handles:
            self.agent.close_file(handle)
        self.agent.close_file(self.agent.open(self.path("f"))[0])

    def test_unknown_handles(self):
        for handle in (0, HANDLES_MAX, 0xffffffff):
            self.assert_error(errno.EBADF, self.agent.read, handle, 0, 1)
            self.assert_error(errno.EBADF, self.agent.write, handle, 0, b"")
            self.assert_error(errno.EBADF, self.agent.close_file, handle)

    def test_wrong_direction(self):
        handle = self.agent.open(self.put("f"))[0]
        self.assert_error(errno.EINVAL, self.agent.write, handle, 0, b"x")
        self.agent.close_file(handle)
        handle = self.agent.open(self.path("g"), True)[0]
        self.assert_error(errno.EINVAL, self.agent.read, handle, 0, 1)
        self.agent.close_file(handle, abandon=1)

    def test_unknown_open_flags(self):
        ident = self.agent.request(20, struct.pack("<II", 7, 0) + b"/tmp/x")
        self.assert_error(errno.EINVAL, self.agent.reply, ident, 68)


class List(FilesCase):
    def test_entries(self):
        self.put("file", b"12345", 0o600)
        os.mkdir(self.path("dir"), 0o755)
        os.symlink("nowhere", self.path("link"))
        os.mkfifo(self.path("fifo"))
        entries = self.agent.list(self.dir)
        self.assertEqual({n: e.kind for n, e in entries.items()},
                         {"file": 1, "dir": 2, "link": 3, "fifo": 4})
        self.assertEqual((entries["file"].size, entries["file"].mode), (5, 0o600))
        self.assertEqual(entries["file"].mtime_ns, os.stat(self.path("file")).st_mtime_ns)

    def test_empty_directory(self):
        self.assertEqual(self.agent.list(self.dir), {})

    def test_names_that_are_not_utf8(self):
        open(os.path.join(self.dir.encode(), b"\xff\xfe"), "w").close()
        self.assertEqual(list(self.agent.list(self.dir)), [os.fsdecode(b"\xff\xfe")])

    def test_large_directory_among_other_requests(self):
        names = {"%04d-%s" % (i, "n" * 200) for i in range(3000)}
        for name in names:
            self.put(name, b"")
        ident = self.agent.start("1 + 1")
        self.assertEqual(set(self.agent.list(self.dir)), names)
        self.assertEqual(self.agent.finish(ident).result, "2")

    def test_errors(self):
        self.assert_error(errno.ENOENT, self.agent.list, self.path("absent"))
        self.assert_error(errno.ENOTDIR, self.agent.list, self.put("f"))
        self.assert_error(errno.EINVAL, self.agent.list, "")


if __name__ == "__main__":
    unittest.main()
