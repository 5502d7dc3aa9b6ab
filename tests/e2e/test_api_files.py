"""Files into and out of a sandbox through the HTTP API."""

import hashlib
import socket
import unittest
from urllib.parse import quote

import harness
from harness import SandboxCase

MIB = 1024 * 1024


def pattern(size):
    """Bytes without period, quickly."""
    block = b"".join(hashlib.sha512(str(i).encode()).digest() for i in range(16384))
    return (block * (size // len(block) + 1))[:size]


class FileCase(SandboxCase):
    def setUp(self):
        self.directory = harness.guest_directory()

    def target(self, path, **params):
        query = "&".join(f"{name}={quote(str(value))}" for name, value in
                         {"path": path, **params}.items())
        return f"{self.base}/files?{query}"

    def upload(self, path, data, **params):
        reply = self.api.put(self.target(path, **params), data)
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json

    def download(self, path):
        reply = self.api.get(self.target(path))
        self.assertEqual(reply.status, 200, reply.body[:500])
        return reply

    def entries(self, path):
        reply = self.api.get(f"{self.base}/files/list?path={quote(path)}")
        self.assertEqual(reply.status, 200, reply.body)
        return {entry["name"]: entry for entry in reply.json["entries"]}


class RoundTripTest(FileCase):
    def test_sizes_around_every_boundary(self):
        for size in (0, 1, 4095, 4096, 65535, 65536, 65537, 131071, 131072, 131073, 300000):
            with self.subTest(size=size):
                data = pattern(size)
                path = f"{self.directory}/{size}"
                self.assertEqual(self.upload(path, data)["size"], size)
                self.assertEqual(self.download(path).body, data)

    def test_100_mb_both_ways_with_checksums(self):
        data = pattern(100 * MIB)
        path = f"{self.directory}/large"
        reply = self.upload(path, data)
        self.assertEqual(reply["size"], len(data))
        inside = self.run_code(f"sha256sum {path}; rm -f {path}.copy; cp {path} {path}.copy",
                               language="bash")["stdout"].split()[0]
        self.assertEqual(inside, hashlib.sha256(data).hexdigest())
        down = self.download(f"{path}.copy")
        self.assertEqual(down.headers["Content-Length"], str(len(data)))
        self.assertEqual(hashlib.sha256(down.body).hexdigest(), inside)
        self.run_code(f"rm -r {self.directory}", language="bash")

    def test_large_transfers_are_not_held_in_memory(self):
        pid = self.daemon.process.pid
        data = pattern(64 * MIB)
        harness.reset_peak_memory(pid)
        before = harness.peak_memory(pid)
        self.upload(f"{self.directory}/big", data)
        self.download(f"{self.directory}/big")
        self.assertLess(harness.peak_memory(pid) - before, 16)
        self.run_code(f"rm -r {self.directory}", language="bash")

    def test_body_of_unknown_length(self):
        def pieces():
            for _ in range(10):
                yield pattern(100000)

        reply = self.api.put(self.target(f"{self.directory}/chunked"), pieces())
        self.assertEqual(reply.json["size"], 1000000)
        self.assertEqual(self.download(f"{self.directory}/chunked").body, pattern(100000) * 10)

    def test_replacing_a_file_leaves_no_rest_of_it(self):
        path = f"{self.directory}/f"
        self.upload(path, b"a long first version")
        self.upload(path, b"short")
        self.assertEqual(self.download(path).body, b"short")

    def test_the_code_in_the_sandbox_sees_the_file(self):
        self.upload(f"{self.directory}/in.txt", b"hello")
        self.assertEqual(self.run_code(f"open('{self.directory}/in.txt').read()")["result"],
                         "'hello'")

    def test_hash_is_told_for_both_directions(self):
        path = f"{self.directory}/hashed"
        up = self.upload(path, b"hash me")
        self.assertEqual(self.download(path).headers["X-Ramet-XXH3"], up["xxh3"])

    def test_known_xxh3_of_the_empty_file(self):
        self.assertEqual(self.upload(f"{self.directory}/empty", b"")["xxh3"], "2d06800538d394c2")

    def test_file_without_a_size_ends_with_a_trailer(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(harness.DEADLINE)
            client.connect(self.daemon.socket)
            client.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                           % self.target("/proc/self/maps").encode())
            reply = b""
            while data := client.recv(65536):
                reply += data
        self.assertIn(b"Transfer-Encoding: chunked", reply)
        self.assertRegex(reply[-80:], rb"0\r\nX-Ramet-XXH3: [0-9a-f]{16}\r\n\r\n$")

    def test_two_transfers_at_once(self):
        first = self.target(f"{self.directory}/one")
        connection = harness.UnixConnection(self.daemon.socket)
        connection.putrequest("PUT", first)
        connection.putheader("Content-Length", "2000000")
        connection.endheaders()
        connection.send(pattern(1000000))
        self.upload(f"{self.directory}/two", b"while the other waits")
        connection.send(pattern(2000000)[1000000:])
        reply = connection.getresponse()
        self.assertEqual(reply.status, 200)
        reply.read()
        connection.close()
        self.assertEqual(self.download(f"{self.directory}/one").body, pattern(2000000))


class ModeTest(FileCase):
    def test_default_mode_is_0644(self):
        self.upload(f"{self.directory}/f", b"")
        self.assertEqual(self.download(f"{self.directory}/f").headers["X-Ramet-Mode"], "0644")

    def test_given_mode_is_set(self):
        self.upload(f"{self.directory}/f", b"#!/bin/sh\necho ran\n", mode="0755")
        self.assertEqual(self.run_code(f"{self.directory}/f", language="bash")["stdout"], "ran\n")
        self.assertEqual(self.entries(self.directory)["f"]["mode"], "0755")


class NameTest(FileCase):
    def test_names_with_blanks_and_unicode(self):
        for name in ("with blank", "a+b&c=d%e?f#g", "\u00fcn\u00efc\u00f6de \u2713", "-dash",
                     "new\nline"):
            with self.subTest(name=name):
                self.upload(f"{self.directory}/{name}", b"x")
                self.assertIn(name, self.entries(self.directory))
                self.assertEqual(self.download(f"{self.directory}/{name}").body, b"x")

    def test_names_that_are_not_utf8(self):
        path = quote(self.directory.encode() + b"/\xff\xfe")
        reply = self.api.put(f"{self.base}/files?path={path}", b"raw")
        self.assertEqual(reply.json["path_encoding"], "base64")
        self.assertEqual(self.api.get(f"{self.base}/files?path={path}").body, b"raw")
        listed = self.api.get(f"{self.base}/files/list?path={self.directory}").json["entries"]
        self.assertEqual([(entry["name"], entry["name_encoding"]) for entry in listed],
                         [("//4=", "base64")])

    def test_missing_directories_are_made(self):
        self.upload(f"{self.directory}/a/b/c/d", b"deep")
        self.assertEqual(self.download(f"{self.directory}/a/b/c/d").body, b"deep")


class ListTest(FileCase):
    def test_kinds_sizes_and_times(self):
        self.upload(f"{self.directory}/file", b"12345")
        self.run_code(f"cd {self.directory}; mkdir dir; ln -s file link; mkfifo pipe",
                      language="bash")
        entries = self.entries(self.directory)
        self.assertEqual({name: entry["kind"] for name, entry in entries.items()},
                         {"file": "file", "dir": "directory", "link": "symlink", "pipe": "other"})
        self.assertEqual(entries["file"]["size"], 5)

    def test_empty_directory(self):
        self.run_code(f"mkdir -p {self.directory}", language="bash")
        self.assertEqual(self.entries(self.directory), {})

    def test_thousands_of_entries(self):
        self.run_code(f"mkdir -p {self.directory}; cd {self.directory}; seq 1 5000 | xargs touch",
                      language="bash")
        self.assertEqual(len(self.entries(self.directory)), 5000)
        self.run_code(f"rm -r {self.directory}", language="bash")

    def test_missing_directory_is_404(self):
        reply = self.api.get(f"{self.base}/files/list?path={self.directory}")
        self.assertEqual((reply.status, reply.error), (404, "path_not_found"))

    def test_file_is_not_a_directory(self):
        self.upload(f"{self.directory}/f", b"")
        reply = self.api.get(f"{self.base}/files/list?path={self.directory}/f")
        self.assertEqual((reply.status, reply.error), (400, "not_a_directory"))


class RefusalTest(FileCase):
    def assert_error(self, reply, status, code):
        self.assertEqual((reply.status, reply.error), (status, code), reply.body)

    def test_download_of_a_missing_file(self):
        self.assert_error(self.api.get(self.target(f"{self.directory}/none")), 404,
                          "path_not_found")

    def test_download_of_a_directory(self):
        self.assert_error(self.api.get(self.target("/tmp")), 400, "is_a_directory")

    def test_upload_onto_a_directory(self):
        self.assert_error(self.api.put(self.target("/tmp"), b"x"), 400, "is_a_directory")

    def test_upload_below_a_file(self):
        self.upload(f"{self.directory}/f", b"")
        self.assert_error(self.api.put(self.target(f"{self.directory}/f/g"), b"x"), 400,
                          "not_a_directory")

    def test_upload_where_the_guest_forbids_it(self):
        reply = self.api.put(self.target("/sys/kernel/ramet-test"), b"x")
        self.assert_error(reply, 403, "permission_denied")

    def test_large_upload_that_is_refused_gets_its_answer(self):
        reply = self.api.put(self.target(f"{self.directory}/f", mode="9"), bytes(64 * MIB))
        self.assert_error(reply, 400, "invalid_parameter")

    def test_upload_cut_off_by_the_client_leaves_no_trace(self):
        self.upload(f"{self.directory}/f", b"before")
        connection = harness.UnixConnection(self.daemon.socket)
        connection.putrequest("PUT", self.target(f"{self.directory}/f"))
        connection.putheader("Content-Length", "1000000")
        connection.endheaders()
        connection.send(bytes(500000))
        connection.close()
        harness.eventually(lambda: list(self.entries(self.directory)) == ["f"],
                           "the partial upload is gone")
        self.assertEqual(self.download(f"{self.directory}/f").body, b"before")

    def test_download_left_by_the_client_ends(self):
        self.upload(f"{self.directory}/f", bytes(20 * MIB))
        for _ in range(70):  # more than the sandbox's limit on transfers at once
            connection = harness.UnixConnection(self.daemon.socket)
            connection.request("GET", self.target(f"{self.directory}/f"))
            connection.getresponse().read(1000)
            connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.assertEqual(len(self.download(f"{self.directory}/f").body), 20 * MIB)
        self.run_code(f"rm -r {self.directory}", language="bash")


if __name__ == "__main__":
    unittest.main(verbosity=2)
