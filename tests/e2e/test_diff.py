"""What differs between two sandboxes, with real guests: files, texts, memory."""

import os
import subprocess
import tempfile
import threading
import time

import harness
from forking import ForkCase
from harness import RAMET

import ramet

MIB = 1 << 20


class DiffCase(ForkCase):
    def setUp(self):
        super().setUp()
        self.parent = self.create(isolation="fast")
        self.child, = self.fork(self.parent)

    def diff(self, a=None, b=None, **fields):
        reply = self.post(a or self.parent, "diff", {"other": b or self.child, **fields})
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json

    def paths(self, reply):
        """(added, removed, modified), each a list of paths."""
        return tuple([entry["path"] for entry in reply[change]]
                     for change in ("added", "removed", "modified"))

    def assert_differ(self, added=(), removed=(), modified=(), **fields):
        reply = self.diff(**fields)
        self.assertEqual(self.paths(reply), (list(added), list(removed), list(modified)))
        return reply

    def refused(self, status, code, **fields):
        reply = self.post(self.parent, "diff", {"other": self.child, **fields})
        self.assertEqual((reply.status, reply.error), (status, code), reply.body)
        return reply.message


class FilesTest(DiffCase):
    def test_a_fresh_fork_does_not_differ(self):
        reply = self.assert_differ()
        self.assertGreater(reply["walked"]["a"], 1000)
        self.assertEqual(reply["walked"]["a"], reply["walked"]["b"])
        self.assertGreater(reply["timings"]["files_ms"], 0)

    def test_two_fresh_sandboxes_do_not_differ(self):
        self.assert_differ(b=self.create(isolation="fast"))

    def test_added_removed_modified(self):
        self.bash(self.child, "mkdir -p /new/sub; echo 1 > /new/sub/f; rm /etc/motd\n"
                              "echo '# more' >> /etc/hosts; chmod 600 /etc/passwd\n"
                              "chown 5:6 /etc/group; rm /etc/issue; mkdir /etc/issue")
        reply = self.assert_differ(["/new", "/new/sub", "/new/sub/f"], ["/etc/motd"],
                                   ["/etc/group", "/etc/hosts", "/etc/issue", "/etc/passwd"])
        self.assertEqual([e["changed"] for e in reply["modified"]],
                         [["owner"], ["content"], ["kind"], ["mode"]])
        self.assertEqual([e["new"]["kind"] for e in reply["added"]],
                         ["directory", "directory", "file"])
        self.assertIsNone(reply["removed"][0]["new"])
        self.assertEqual(reply["removed"][0]["old"]["kind"], "file")
        self.assertEqual((reply["modified"][0]["new"]["uid"], reply["modified"][0]["new"]["gid"]),
                         (5, 6))

    def test_the_other_way_round(self):
        self.bash(self.child, "echo 1 > /root/only-here")
        self.assert_differ(["/root/only-here"])
        reply = self.diff(self.child, self.parent)
        self.assertEqual(self.paths(reply), ([], ["/root/only-here"], []))

    def test_times_are_no_difference_and_no_excuse(self):
        for sandbox in (self.parent, self.child):
            self.bash(sandbox, "mkdir /tmp/d; echo old > /tmp/d/f; touch -d 2001-01-01 /tmp/d/f")
        self.bash(self.child, "touch /tmp/d/f /tmp/d")
        self.assert_differ(paths=["/tmp/d"])
        self.bash(self.child, "echo new > /tmp/d/f; touch -d 2001-01-01 /tmp/d/f")
        self.assert_differ(modified=["/tmp/d/f"], paths=["/tmp/d"])

    def test_a_store_through_a_mapping_is_seen(self):
        """Which leaves all times as they were."""
        self.python(self.parent, "import mmap\n"
                                 "f = open('/tmp/mapped', 'w+b'); _ = f.write(bytes(8192)); f.flush()\n"
                                 "m = mmap.mmap(f.fileno(), 8192); m[0] = 1")
        child, = self.fork(self.parent)
        self.assert_differ(b=child, paths=["/tmp"])
        self.python(child, "m[8191] = 1")
        self.assert_differ(b=child, modified=["/tmp/mapped"], paths=["/tmp"])

    def test_links_and_special_files(self):
        for sandbox, target in ((self.parent, "a"), (self.child, "b")):
            self.bash(sandbox, f"mkdir /tmp/d; cd /tmp/d; ln -s {target} link; ln -s /proc proc\n"
                               "mkfifo fifo; mknod null c 1 3; ln -s . loop")
        self.bash(self.child, "cd /tmp/d; rm null fifo; mknod null c 1 5; mkdir fifo")
        reply = self.assert_differ(modified=["/tmp/d/fifo", "/tmp/d/link", "/tmp/d/null"],
                                   paths=["/tmp/d"])
        self.assertEqual([e["changed"] for e in reply["modified"]],
                         [["kind"], ["content"], ["content"]])

    def test_names_of_any_bytes(self):
        self.python(self.child, "import os\nos.mkdir(b'/tmp/d')\n"
                                "for name in (b'new\\nline', b'\\xff\\xfe', b'\"quoted\"'):\n"
                                "    open(b'/tmp/d/' + name, 'w').close()")
        reply = self.diff(paths=["/tmp/d"])
        self.assertEqual(self.paths(reply)[0], ["/tmp/d", '/tmp/d/"quoted"', "/tmp/d/new\nline",
                                                "L3RtcC9kL//+"])
        self.assertEqual(reply["added"][3]["path_encoding"], "base64")

    def test_paths_narrow_it(self):
        self.bash(self.child, "echo 1 > /root/a; echo 1 > /tmp/b; mkdir /root/d; echo 1 > /root/d/c")
        self.assert_differ(["/root/a", "/root/d", "/root/d/c"], paths=["/root/"])
        self.assert_differ(["/root/d", "/root/d/c", "/tmp/b"], paths=["/tmp//b", "/root/d"])
        reply = self.assert_differ(["/root/a"], paths=["/root/a"])
        self.assertEqual(reply["walked"], {"a": 0, "b": 1})

    def test_virtual_file_systems_are_left_out(self):
        self.bash(self.child, "echo x > /dev/shm/file; echo x > /run/ramet/mine; echo x > /run/f")
        self.assert_differ(["/run/f"])
        self.assert_differ(["/dev/shm/file"], paths=["/dev/shm"])
        self.assertIn("virtual file system (proc)",
                      self.refused(400, "invalid_request", paths=["/proc/sys"]))

    def test_sparse_files(self):
        for sandbox, last in ((self.parent, "x"), (self.child, "y")):
            self.bash(sandbox, "mkdir /tmp/d /d; for f in /tmp/d/big /d/big; do\n"
                               "truncate -s 2G $f; truncate -s 1G $f-same; done\n"
                               f"printf {last} >> /tmp/d/big; printf {last} >> /d/big")
        start = time.monotonic()
        self.assert_differ(modified=["/d/big", "/tmp/d/big"], paths=["/tmp/d", "/d"])
        self.assertLess(time.monotonic() - start, 20)
        free = int(self.bash(self.child, "awk '/MemAvailable/ {print $2}' /proc/meminfo"))
        self.assertGreater(free, 100 * 1024)

    def test_5000_files_in_one_directory(self):
        self.bash(self.child, "mkdir /tmp/d; cd /tmp/d; seq -f 'file-%06g' 5000 | xargs touch")
        reply = self.diff(paths=["/tmp"])
        self.assertEqual(self.paths(reply)[0],
                         ["/tmp/d"] + [f"/tmp/d/file-{i:06}" for i in range(1, 5001)])

    def test_code_runs_meanwhile(self):
        self.bash(self.parent, "head -c 100M /dev/zero | tr '\\0' 'x' > /tmp/big")
        results = []
        thread = threading.Thread(target=lambda: results.append(self.diff(paths=["/tmp"])))
        thread.start()
        while thread.is_alive():
            self.assertEqual(self.value(self.parent, "6 * 7"), "42")
        thread.join()
        self.assertEqual(self.paths(results[0]), ([], ["/tmp/big"], []))

    def test_files_that_change_all_the_time(self):
        self.bash(self.child, "(while :; do head -c 300000 /dev/urandom > /tmp/f; rm /tmp/f;"
                              " mkdir -p /tmp/x; echo 1 > /tmp/x/y; rm -r /tmp/x; done)"
                              " > /dev/null 2>&1 < /dev/null & disown")
        for _ in range(5):
            reply = self.diff(paths=["/tmp"])
            self.assertLessEqual({e["path"] for e in reply["added"]},
                                 {"/tmp/f", "/tmp/x", "/tmp/x/y"})
            self.assertEqual(reply["removed"] + reply["modified"], [])


class TextTest(DiffCase):
    def test_contents_of_small_files(self):
        self.bash(self.child, "printf 'one\\ntwo' > /root/new; echo more >> /etc/hosts; rm /etc/motd;"
                              "chmod 700 /etc/passwd; mkdir /root/d")
        reply = self.diff(text=True)
        by_path = {e["path"]: e for change in ("added", "removed", "modified")
                   for e in reply[change]}
        self.assertEqual(by_path["/root/new"]["text"], {"new": "one\ntwo"})
        self.assertEqual(list(by_path["/etc/motd"]["text"]), ["old"])
        texts = by_path["/etc/hosts"]["text"]
        self.assertEqual(texts["new"], texts["old"] + "more\n")
        for path in ("/etc/passwd", "/root/d"):
            self.assertNotIn("text", by_path[path])
            self.assertNotIn("text_omitted", by_path[path])
        self.assertIn("text_ms", reply["timings"])

    def test_what_is_left_out(self):
        self.bash(self.child, "cd /root; mkdir d; cd d; printf 'a\\0b' > nul; printf '\\377' > bytes\n"
                              "yes | head -c 300000 > large; yes | head -c 262144 > fits; : > empty")
        entries = self.diff(text=True, paths=["/root/d"])["added"]
        self.assertEqual([(e["path"], e.get("text_omitted")) for e in entries],
                         [("/root/d", None), ("/root/d/bytes", "binary"), ("/root/d/empty", None),
                          ("/root/d/fits", None), ("/root/d/large", "too_large"),
                          ("/root/d/nul", "binary")])
        self.assertEqual(len(entries[3]["text"]["new"]), 262144)
        self.assertEqual(entries[2]["text"], {"new": ""})

    def test_the_reply_has_a_limit(self):
        self.bash(self.child, "mkdir /root/d; cd /root/d\n"
                              "for i in $(seq 10 60); do yes $i | head -c 250000 > f$i; done")
        entries = self.diff(text=True, paths=["/root/d"])["added"][1:]
        sent = [len(e["text"]["new"]) for e in entries if "text" in e]
        self.assertEqual(sum(sent), 33 * 250000)
        self.assertEqual({e.get("text_omitted") for e in entries if "text" not in e}, {"limit"})


class MemoryTest(DiffCase):
    def test_what_a_child_writes_counts(self):
        before = self.diff(paths=["/root"])["memory"]
        self.python(self.child, "block = bytearray(b'x' * (40 << 20))")
        after = self.diff(paths=["/root"])["memory"]
        self.assertGreaterEqual(after["pages_b"] - before["pages_b"], 40 * MIB // 4096)
        self.assertGreaterEqual(after["pages"], after["pages_b"])
        self.assertLess(after["pages_a"], 20 * MIB // 4096)
        self.assertLessEqual(after["pages"], after["pages_a"] + after["pages_b"])

    def test_what_was_written_before_a_fork_is_shared(self):
        self.python(self.parent, "block = bytearray(b'x' * (40 << 20))")
        child, = self.fork(self.parent)
        self.assertLess(self.diff(b=child, paths=["/root"])["memory"]["pages"], 20 * MIB // 4096)
        memory = self.diff(self.child, child, paths=["/root"])["memory"]
        self.assertGreaterEqual(memory["pages"], 40 * MIB // 4096)
        self.assertLess(memory["pages_b"], 20 * MIB // 4096)


class ErrorsTest(DiffCase):
    # Counts the walks that run in a guest.
    WALKERS = "cat /proc/[0-9]*/comm 2>/dev/null | grep -c ramet-tree || true"

    def test_bad_requests(self):
        for fields in ({"paths": []}, {"paths": "x"}, {"paths": ["/x"] * 65}, {"text": 1},
                       {"other": 5}, {"paths": ["/a/../b"]}):
            self.refused(400, "invalid_request", **fields)
        for fields in ({"paths": ["relative"]}, {"paths": [1]}, {"paths": ["/a\0b"]},
                       {"paths": ["/" + "x" * 4096]}):
            self.refused(400, "invalid_path", **fields)
        self.refused(400, "unknown_field", bogus=1)
        self.assertEqual(self.post(self.parent, "diff", {}).error, "missing_field")
        self.assertIn("itself", self.refused(400, "invalid_request", other=self.parent))

    def test_sandboxes_that_cannot_be_compared(self):
        self.refused(404, "sandbox_not_found", other="sbx_" + "a" * 20)
        self.assertEqual(self.post(self.child, "pause").status, 200)
        self.refused(409, "sandbox_paused")
        self.assertEqual(self.post(self.child, "resume").status, 200)
        self.panic(self.child)
        self.refused(409, "sandbox_failed")
        self.merge(self.parent, self.fork(self.parent)[0])
        self.assert_differ(b=self.fork(self.parent)[0], paths=["/root"])

    def test_a_path_in_neither(self):
        self.assertIn("/no/such is in neither",
                      self.refused(404, "path_not_found", paths=["/root", "/no/such"]))

    def test_one_of_them_ends_in_the_middle(self):
        self.bash(self.child, "head -c 200M /dev/zero | tr '\\0' 'x' > /tmp/big")
        replies = []
        thread = threading.Thread(target=lambda: replies.append(
            self.post(self.parent, "diff", {"other": self.child})))
        thread.start()
        self.api.close(self.child)
        thread.join(harness.DEADLINE)
        self.assertIn(replies[0].status, (404, 409, 500))
        self.assertEqual(self.value(self.parent, "1 + 1"), "2")

    def test_a_client_that_goes_away_leaves_no_walk(self):
        self.bash(self.child, "head -c 200M /dev/zero | tr '\\0' 'x' > /tmp/big")
        connection = harness.UnixConnection(self.daemon.socket)
        connection.request("POST", f"/v1/sandboxes/{self.parent}/diff",
                           '{"other":"%s"}' % self.child)
        harness.eventually(lambda: self.bash(self.child, self.WALKERS) == "1\n", "a walk runs")
        connection.close()
        for sandbox in (self.parent, self.child):
            harness.eventually(lambda: self.bash(sandbox, self.WALKERS) == "0\n", "no walk runs")
        self.assert_differ(["/tmp/big"], paths=["/tmp"])

    def test_walks_are_not_inherited(self):
        self.bash(self.child, "head -c 150M /dev/zero | tr '\\0' 'x' > /tmp/big")
        replies = []
        thread = threading.Thread(target=lambda: replies.append(self.diff()))
        thread.start()
        harness.eventually(lambda: self.bash(self.child, self.WALKERS) == "1\n", "a walk runs")
        children = self.fork(self.child, 2)
        thread.join(harness.DEADLINE)
        self.assertEqual(self.paths(replies[0]), (["/tmp/big"], [], []))
        for sandbox in children:
            harness.eventually(lambda: self.bash(sandbox, self.WALKERS) == "0\n", "no walk runs")
        self.assert_differ(b=children[0], added=["/tmp/big"], paths=["/tmp"])

    def test_many_at_once(self):
        children = self.fork(self.parent, 6)
        for number, child in enumerate(children):
            self.bash(child, f"echo {number} > /root/f{number}")
        results = [None] * len(children)

        def work(number):
            results[number] = self.paths(self.diff(b=children[number]))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(children))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(harness.DEADLINE)
        self.assertEqual(results, [([f"/root/f{i}"], [], []) for i in range(len(children))])


class ClientsTest(DiffCase):
    def change(self):
        self.bash(self.child, "printf 'a\\nb\\nc' > /root/f; echo more >> /etc/hosts; rm /etc/motd;"
                              "printf 'x\\033[1mbold\\n' > /root/esc; ln -s f /root/link;"
                              "touch $'/root/\\377'")

    def test_sdk(self):
        self.change()
        parent = ramet.Sandbox.connect(self.parent, socket=self.daemon.socket)
        child = ramet.Sandbox.connect(self.child, socket=self.daemon.socket)
        diff = parent.diff(child, text=True)
        self.assertEqual(diff.added, ["/root/esc", "/root/f", "/root/link", "/root/\udcff"])
        self.assertEqual((diff.removed, diff.modified), (["/etc/motd"], ["/etc/hosts"]))
        self.assertTrue(diff)
        self.assertGreater(diff.memory.pages, 0)
        self.assertIn("--- a/etc/hosts\n+++ b/etc/hosts\n", diff.text)
        self.assertIn("\n+more\n", diff.text)
        self.assertIn("--- /dev/null\n+++ b/root/f\n@@ -0,0 +1,3 @@\n+a\n+b\n+c\n"
                      "\\ No newline at end of file\n", diff.text)
        entry = diff.entries[0]
        self.assertEqual((entry.path, entry.change, entry.changed, entry.new.kind),
                         ("/etc/hosts", "modified", ["content"], "file"))
        self.assertFalse(parent.diff(child, ["/usr/bin"]))
        self.assertEqual(parent.diff(child, paths=["/etc"]).added, [])
        with self.assertRaises(ramet.InvalidRequestError):
            parent.diff(parent)
        with self.assertRaises(TypeError):
            parent.diff(child, "/etc")

    def test_sdk_patch_is_that_of_diff(self):
        self.change()
        parent = ramet.Sandbox.connect(self.parent, socket=self.daemon.socket)
        child = ramet.Sandbox.connect(self.child, socket=self.daemon.socket)
        entries = {e.path: e for e in parent.diff(child, text=True).entries}
        with tempfile.TemporaryDirectory() as directory:
            for path, entry in entries.items():
                if entry.old_text is None and entry.new_text is None:
                    continue
                for name, text in (("old", entry.old_text), ("new", entry.new_text)):
                    with open(f"{directory}/{name}", "w", newline="") as f:
                        f.write(text or "")
                theirs = subprocess.run(["diff", "-u", "old", "new"], cwd=directory, check=False,
                                        capture_output=True, text=True).stdout
                self.assertEqual(entry.unified.split("\n")[2:], theirs.split("\n")[2:], path)

    def ramet(self, *arguments):
        return subprocess.run([str(RAMET), "diff", *arguments], capture_output=True, check=False,
                              timeout=harness.DEADLINE,
                              env={**os.environ, "RAMET_SOCKET": self.daemon.socket})

    def test_command(self):
        self.change()
        process = self.ramet(self.parent, self.child, "/root", "/etc")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(process.stdout.decode(),
                         "modified /etc/hosts (content)\nremoved  /etc/motd\nadded    /root/esc\n"
                         "added    /root/f\nadded    /root/link (symlink)\n"
                         "added    L3Jvb3Qv/w== (base64)\n")
        self.assertIn(b"4 added, 1 removed, 1 modified, ", process.stderr)

    def test_command_with_texts_makes_a_patch(self):
        self.change()
        process = self.ramet("--text", self.parent, self.child)
        self.assertEqual(process.returncode, 0, process.stderr)
        with tempfile.TemporaryDirectory() as directory:
            for path in ("/etc/hosts", "/etc/motd"):
                os.makedirs(directory + os.path.dirname(path), exist_ok=True)
                with open(directory + path, "wb") as f:
                    f.write(self.api.get(f"/v1/sandboxes/{self.parent}/files?path={path}").body)
            patched = subprocess.run(["git", "apply", "-p1", "-"], cwd=directory,
                                     input=process.stdout, capture_output=True, check=False)
            self.assertEqual(patched.returncode, 0, patched.stderr)
            with open(directory + "/root/f", encoding="ascii") as f:
                self.assertEqual(f.read(), "a\nb\nc")
            self.assertFalse(os.path.exists(directory + "/etc/motd"))
            with open(directory + "/etc/hosts", encoding="ascii") as f:
                self.assertTrue(f.read().endswith("more\n"))

    def test_command_errors(self):
        process = self.ramet(self.parent, self.child, "/no/such")
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"/no/such is in neither of the sandboxes", process.stderr)


if __name__ == "__main__":
    harness.main()
