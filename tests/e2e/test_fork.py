"""Forks through the HTTP API: what a child has, and what it shares with nobody."""

import hashlib
import os
import socket
import threading
import unittest
import uuid

import harness
from forking import BASH_COUNTER, FORK_TIMINGS, ForkCase
from harness import eventually


def in_threads(count, work):
    """Calls work(number) in `count` threads; raises the first of their exceptions."""
    failures = []

    def run(number):
        try:
            work(number)
        except BaseException as error:  # raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * harness.DEADLINE)
    if failures:
        raise failures[0]


class ReplyTest(ForkCase):
    def test_reply_has_children_and_timings(self):
        parent = self.create(metadata={"a": "b"})
        reply = self.fork_reply(parent, 3)
        self.assertEqual(set(reply["timings"]), set(FORK_TIMINGS))
        self.assertGreater(reply["timings"]["pause_ms"], 0)
        self.assertGreater(reply["timings"]["total_ms"], reply["timings"]["first_answer_ms"])
        self.assertGreaterEqual(reply["range_pages"], reply["dirty_pages"])
        self.assertGreater(reply["dirty_pages"], 0)
        self.assertEqual([child["metadata"] for child in reply["children"]], [{"a": "b"}] * 3)
        for child in reply["children"]:
            self.assertGreaterEqual(set(child["create_timings"]),
                                    {"reserve_ms", "stitch_ms", "answer_ms", "total_ms"})
            self.assertGreater(child["memory"]["shared_mb"], 0)

    def test_an_empty_body_makes_one_child(self):
        parent = self.create()
        reply = self.api.request("POST", f"/v1/sandboxes/{parent}/fork")
        self.assertEqual((reply.status, len(reply.json["children"])), (201, 1))
        self.close_at_the_end(reply.json["children"][0]["id"])

    def test_metadata_of_the_children_can_be_given(self):
        parent = self.create(metadata={"a": "b"})
        child, = self.fork(parent, metadata={"c": "d"})
        self.assertEqual(self.info(child)["metadata"], {"c": "d"})
        self.assertEqual(self.info(parent)["metadata"], {"a": "b"})

    def test_generations_are_all_different(self):
        parent = self.create()
        before = self.info(parent)["generation"]
        seen = {before} | {self.info(child)["generation"] for child in self.fork(parent, 4)}
        self.assertEqual(len(seen), 5)
        for text in seen:
            self.assertEqual(uuid.UUID(text).version, 4)
        self.assertEqual(self.info(parent)["generation"], before)

    def test_capacity_and_list_count_children(self):
        def ready():
            return self.api.get("/v1/capacity").json["sandboxes"]["ready"]

        parent = self.create()
        before = ready()
        children = self.fork(parent, 4)
        self.assertEqual(ready(), before + 4)
        listed = [item["id"] for item in self.api.get("/v1/sandboxes").json["sandboxes"]]
        self.assertLessEqual(set(children), set(listed))
        self.assertEqual(self.info(parent)["children"], 4)
        self.api.close(children[0])
        self.assertEqual((ready(), self.info(parent)["children"]), (before + 3, 3))

    def test_32_children_at_once(self):
        parent = self.create()
        self.python(parent, "secret = 'shared by all'")
        for index, child in enumerate(self.fork(parent, 32)):
            self.assertEqual(self.value(child, "secret"), "'shared by all'")
            self.assertEqual(self.bash(child, "echo $RAMET_FORK_INDEX"), f"{index}\n")


class ContinuityTest(ForkCase):
    """A child goes on from the parent's exact state."""

    def test_variables_modules_and_directory(self):
        parent = self.create()
        self.python(parent, "import os, json\n"
                            "class Point: x = 3\n"
                            "point = Point(); point.x += 4\n"
                            "os.makedirs('/tmp/here'); os.chdir('/tmp/here')")
        for child in self.fork(parent, 2):
            self.assertEqual(self.value(child, "point.x, json.dumps([1]), os.getcwd()"),
                             "(7, '[1]', '/tmp/here')")

    def test_files(self):
        parent = self.create()
        data = os.urandom(3 << 20)
        path = "/root/some/data"
        self.assertEqual(self.api.put(f"/v1/sandboxes/{parent}/files?path={path}", data).status,
                         200)
        self.bash(parent, "ln -s data some/link; chmod 0600 some/data")
        for child in self.fork(parent, 2):
            self.assertEqual(self.api.get(f"/v1/sandboxes/{child}/files?path={path}").body, data)
            self.assertEqual(self.bash(child, "readlink some/link; stat -c %a some/data"),
                             "data\n600\n")

    def test_open_files_with_offset_and_unwritten_buffer(self):
        parent = self.create()
        self.python(parent, "out = open('/tmp/f', 'w+')\n"
                            "_ = out.write('written ')\n"
                            "out.flush()\n"
                            "_ = out.write('buffered ')")
        children = self.fork(parent, 2)
        for number, sandbox in enumerate([parent, *children]):
            self.assertEqual(self.value(sandbox, "open('/tmp/f').read()"), "'written '")
            self.python(sandbox, f"_ = out.write('by {number}'); out.flush()")
        for number, sandbox in enumerate([parent, *children]):
            self.assertEqual(self.value(sandbox, "open('/tmp/f').read(), out.tell()"),
                             f"('written buffered by {number}', 21)")

    def test_background_job_goes_on_everywhere(self):
        parent = self.create()
        self.bash(parent, BASH_COUNTER)
        eventually(lambda: self.count(parent) > 10, "the job runs")
        sandboxes = [parent, *self.fork(parent, 3)]
        before = [self.count(sandbox) for sandbox in sandboxes]
        for sandbox, seen in zip(sandboxes, before):
            self.assertGreater(seen, 10)
            eventually(lambda: self.count(sandbox) > seen + 10, "the job goes on")  # noqa: B023

    def test_thread_counts_on_everywhere(self):
        parent = self.create()
        self.python(parent, "import threading, time\n"
                            "count = 0\n"
                            "def counting():\n"
                            "    global count\n"
                            "    while True:\n"
                            "        count += 1\n"
                            "        time.sleep(0.002)\n"
                            "threading.Thread(target=counting, daemon=True).start()\n")
        eventually(lambda: int(self.value(parent, "count")) > 20, "it counts")
        sandboxes = [parent, *self.fork(parent, 3)]
        for sandbox in sandboxes:
            seen = int(self.value(sandbox, "count"))
            self.assertGreater(seen, 20)
            eventually(lambda: int(self.value(sandbox, "count")) > seen + 20,  # noqa: B023
                       "it counts on")

    def test_child_processes_are_still_children(self):
        parent = self.create()
        pid = self.value(parent, "import subprocess\n"
                                 "cat = subprocess.Popen('cat', stdin=-1, stdout=-1)\n"
                                 "cat.pid")
        for number, child in enumerate(self.fork(parent, 2)):
            self.assertEqual(self.value(child, "cat.pid, cat.poll()"), f"({pid}, None)")
            self.assertEqual(self.value(child, f"cat.communicate(b'{number}'), cat.wait()"),
                             f"((b'{number}', None), 0)")
        self.assertEqual(self.value(parent, "cat.pid, cat.poll()"), f"({pid}, None)")

    def test_listening_socket_accepts_everywhere(self):
        parent = self.create()
        self.python(parent, """
            import socketserver, threading
            who = "parent"
            class Answer(socketserver.StreamRequestHandler):
                def handle(self):
                    self.wfile.write(self.rfile.readline().strip() + b" " + who.encode())
            server = socketserver.ThreadingTCPServer(("127.0.0.1", 8099), Answer)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        """)
        client = "exec 3<>/dev/tcp/127.0.0.1/8099; echo hello >&3; cat <&3"
        self.assertEqual(self.bash(parent, client), "hello parent")
        children = self.fork(parent, 3)
        for number, child in enumerate(children):
            self.python(child, f"who = 'child {number}'")
        for number, child in enumerate(children):
            self.assertEqual(self.bash(child, client), f"hello child {number}")
        self.assertEqual(self.bash(parent, client), "hello parent")

    def test_connection_inside_the_guest_stays_open(self):
        parent = self.create()
        self.python(parent, "import socket\n"
                            "a, b = socket.socketpair()\n"
                            "_ = a.send(b'in flight')")
        for sandbox in [*self.fork(parent, 2), parent]:
            self.assertEqual(self.value(sandbox, "b.recv(100)"), "b'in flight'")
            self.assertEqual(self.value(sandbox, "(b.send(b'back'), a.recv(100))"), "(4, b'back')")

    def test_code_that_runs_goes_on_in_the_children(self):
        parent = self.create()
        stream = self.api.stream(parent, "import time\n"
                                         "print('begun', flush=True)\n"
                                         "time.sleep(0.5)\n"
                                         "finished = 'by all'\n")
        next(stream)
        children = self.fork(parent, 2)
        self.assertEqual(list(stream)[-1][1]["exit_code"], 0)
        for sandbox in [parent, *children]:  # where new code waits for its end
            self.assertEqual(self.value(sandbox, "finished"), "'by all'")

    def test_a_fork_of_a_merged_sandbox_has_its_state(self):
        parent = self.create()
        winner, = self.fork(parent)
        self.python(winner, "state = 'winner'")
        self.merge(parent, winner)
        child, = self.fork(parent)
        self.assertEqual(self.value(child, "state"), "'winner'")


class IsolationTest(ForkCase):
    def test_what_one_writes_nobody_else_sees(self):
        parent = self.create()
        self.python(parent, "data = bytearray(b'p' * (4 << 20)); who = 'parent'")
        self.bash(parent, "echo parent > /tmp/who")
        children = self.fork(parent, 4)
        for number, child in enumerate(children):
            self.python(child, f"data[:] = bytes([{number}]) * len(data); who = {number}")
            self.bash(child, f"echo {number} > /tmp/who; touch /tmp/only-{number}")
        expected = [(parent, "'parent'", "parent\n", f"{{{ord('p')}}}", "")]
        expected += [(child, str(number), f"{number}\n", f"{{{number}}}", f"/tmp/only-{number}\n")
                     for number, child in enumerate(children)]
        for sandbox, who, text, content, files in expected:
            self.assertEqual(self.value(sandbox, "who"), who)
            self.assertEqual(self.value(sandbox, "set(data)"), content)
            self.assertEqual(self.bash(sandbox, "cat /tmp/who; ls -d /tmp/only-* 2>/dev/null; :"),
                             text + files)

    def test_parent_that_changes_does_not_change_its_children(self):
        parent = self.create()
        self.python(parent, "data = bytearray(b'a' * (16 << 20))")
        children = self.fork(parent, 2)
        self.python(parent, "data[:] = b'b' * len(data)")  # while the children's layer is filled
        for child in children:
            self.assertEqual(self.value(child, "data.count(b'a'), len(data)"),
                             f"({16 << 20}, {16 << 20})")
        self.assertEqual(self.value(parent, "data.count(b'b')"), str(16 << 20))

    def test_children_outlive_their_parent_and_siblings(self):
        parent = self.create()
        self.python(parent, "kept = list(range(1000))")
        one, two = self.fork(parent, 2)
        self.api.close(parent)
        self.assertEqual(self.value(one, "sum(kept)"), "499500")
        self.api.close(one)
        self.assertEqual(self.value(two, "sum(kept)"), "499500")
        child, = self.fork(two)
        self.api.close(two)
        self.assertEqual(self.value(child, "sum(kept)"), "499500")
        self.assertEqual(self.info(child)["parent"], two)

    def test_child_that_fails_leaves_the_others(self):
        parent = self.create()
        one, two = self.fork(parent, 2)
        self.panic(one)
        self.assertEqual(self.value(two, "1 + 1"), "2")
        self.assertEqual(self.value(parent, "1 + 1"), "2")


class ParentTest(ForkCase):
    """A fork does not disturb its parent."""

    def test_streaming_exec_is_complete_and_in_order(self):
        parent = self.create()
        lines = 30000  # more than is buffered anywhere on the way
        stream = self.api.stream(parent, f"for i in range({lines}):\n"
                                         f"    print(i, 'x' * 40, flush=i % 7 == 0)\n")
        text, events = "", 0
        for _, event in stream:
            self.assertEqual(event["seq"], events)
            events += 1
            if event["type"] == "stdout":
                text += event["data"]
            if events in (1, 20, 40):
                self.fork(parent, 2)
        self.assertEqual((event["type"], event["exit_code"]), ("exit", 0))
        self.assertEqual(text, "".join(f"{i} {'x' * 40}\n" for i in range(lines)))

    def test_waiting_execs_run_in_order(self):
        parent = self.create()
        self.python(parent, "order = []")
        stream = self.api.stream(parent, "import time\nprint(1, flush=True)\ntime.sleep(0.5)\n")
        next(stream)
        replies = []
        waiting = []
        for number in range(4):
            thread = threading.Thread(target=lambda n=number: replies.append(
                self.api.run(parent, f"order.append({n}); {n}")["result"]))
            waiting.append(thread)
            thread.start()
            eventually(lambda: self.info(parent)["execs"]["waiting"] == number + 1,  # noqa: B023
                       "it waits")
        child, = self.fork(parent)
        for thread in waiting:
            thread.join(harness.DEADLINE)
        list(stream)
        self.assertEqual(sorted(replies), ["0", "1", "2", "3"])
        self.assertEqual(self.value(parent, "order"), "[0, 1, 2, 3]")
        self.assertEqual(self.value(child, "order"), "[]")  # there they were cancelled

    def test_upload_and_download_are_complete(self):
        parent = self.create()
        data = os.urandom(1 << 20) * 40
        target = f"/v1/sandboxes/{parent}/files?path=/tmp/dir/big"
        done = []

        def transfer():
            self.assertEqual(self.api.put(target, data).status, 200)
            done.append(self.api.get(target).body == data)

        thread = threading.Thread(target=transfer)
        thread.start()
        children = []
        while thread.is_alive() and len(children) < 6:
            children += self.fork(parent)
        thread.join(harness.DEADLINE)
        self.assertEqual(done, [True])
        for child in children:  # whole or not at all
            found = self.api.run(child, "ls -A /tmp/dir 2>/dev/null", language="bash")["stdout"]
            self.assertIn(found, ("", "big\n"))
            if found:
                path = f"/v1/sandboxes/{child}/files?path=/tmp/dir/big"
                self.assertEqual(self.api.get(path).body, data)

    def test_forks_one_after_the_other(self):
        parent = self.create()
        self.python(parent, "turns = []")
        for turn in range(12):
            self.python(parent, f"turns.append({turn})")
            child, = self.fork(parent)
            expected = str(list(range(turn + 1)))
            self.assertEqual(self.value(child, "turns"), expected)
            self.assertEqual(self.value(parent, "turns"), expected)


class DepthTest(ForkCase):
    def test_depth_16_byte_exact(self):
        size = 20 << 20
        sandbox = self.create()
        self.python(sandbox, "import hashlib, os\n"
                             f"fixed = os.urandom({size})\n"
                             f"own = bytearray(fixed)\n"
                             "sum_of = lambda data: hashlib.sha256(data).hexdigest()")
        fixed = self.value(sandbox, "sum_of(fixed)")
        chain = [(sandbox, self.value(sandbox, "sum_of(own)"))]
        for depth in range(1, 17):
            sandbox, = self.fork(sandbox)
            self.assertEqual(self.info(sandbox)["depth"], depth)
            self.assertEqual(self.value(sandbox, "sum_of(own)"), chain[-1][1])
            self.python(sandbox, f"own[{depth} << 20:({depth} + 1) << 20] = os.urandom(1 << 20)\n"
                                 f"own[::4099] = bytes([{depth}]) * len(own[::4099])")
            self.assertEqual(self.value(sandbox, "sum_of(fixed)"), fixed)
            chain.append((sandbox, self.value(sandbox, "sum_of(own)")))
        self.assertEqual(len({digest for _, digest in chain}), 17)
        for sandbox, digest in chain:
            self.assertEqual(self.value(sandbox, "sum_of(fixed), sum_of(own)"),
                             f"({fixed}, {digest})")

    def test_forks_of_children_that_were_just_handed_out(self):
        sandbox = self.create()
        self.python(sandbox, "import hashlib, os\n"
                             "data = os.urandom(48 << 20)\n"
                             "sum_of = lambda: hashlib.sha256(data).hexdigest()\n")
        digest = self.value(sandbox, "sum_of()")
        family = [sandbox]
        for _ in range(8):  # each while the layer of the one before is filled
            sandbox, other = self.fork(sandbox, 2)
            family += [sandbox, other]
        for sandbox in reversed(family):
            self.assertEqual(self.value(sandbox, "sum_of()"), digest)

    def test_closing_the_middle_of_a_line(self):
        line = [self.create()]
        self.python(line[0], "seen = []")
        for depth in range(1, 7):
            self.python(line[-1], f"seen.append({depth})")
            line += self.fork(line[-1])
        for sandbox in line[1:-1]:
            self.api.close(sandbox)
        self.assertEqual(self.value(line[-1], "seen"), "[1, 2, 3, 4, 5, 6]")
        child, = self.fork(line[-1])
        self.assertEqual(self.value(child, "seen"), "[1, 2, 3, 4, 5, 6]")
        self.assertEqual(self.info(line[0])["children"], 0)


# Writes round after round through memory, and looks at each place before.
WRITER = """
import mmap, struct, threading
pages = 6000
memory = mmap.mmap(-1, pages * 4096)
rounds, at, wrong, stop = 0, 0, [], threading.Event()
def writing():
    global rounds, at
    while not stop.is_set():
        for at in range(pages):
            found, = struct.unpack_from("Q", memory, at * 4096 + at % 4000)
            if found != rounds:
                wrong.append((rounds, at, found))
            struct.pack_into("Q", memory, at * 4096 + at % 4000, rounds + 1)
            if stop.is_set():
                break
        else:
            rounds += 1
writer = threading.Thread(target=writing)
writer.start()
"""

# Stops the writer; every page must have been written exactly as far as it says.
CHECK = """
stop.set(); writer.join()
for page in range(pages):
    found, = struct.unpack_from("Q", memory, page * 4096 + page % 4000)
    if found != rounds + (page <= at):
        wrong.append(("end", rounds, at, page, found))
wrong
"""


class LoadTest(ForkCase):
    def test_parent_and_children_write_at_full_speed(self):
        parent = self.create()
        self.python(parent, WRITER)
        family = [parent]
        for _ in range(3):
            eventually(lambda: int(self.value(parent, "rounds")) > len(family), "it writes")
            family += self.fork(parent, 2)
        family += self.fork(family[-1], 1)
        for sandbox in family:
            rounds = int(self.value(sandbox, "rounds"))
            eventually(lambda: int(self.value(sandbox, "rounds")) > rounds,  # noqa: B023
                       "it writes on")
            self.assertEqual(self.api.run(sandbox, CHECK)["result"], "[]")

    def test_five_parents_at_once(self):
        def live(number):
            parent = self.create()
            self.python(parent, f"import hashlib\nmine = bytearray(bytes([{number}]) * (8 << 20))")
            children = self.fork(parent, 3)
            for index, child in enumerate(children):
                self.python(child, f"mine[-1] = {index + 100}")
            for index, child in enumerate(children):
                data = bytes([number]) * ((8 << 20) - 1) + bytes([index + 100])
                self.assertEqual(self.value(child, "hashlib.sha256(mine).hexdigest()"),
                                 repr(hashlib.sha256(data).hexdigest()))
            self.assertEqual(self.value(parent, "set(mine)"), f"{{{number}}}")

        in_threads(5, live)

    def test_one_parent_forked_by_many_clients(self):
        parent = self.create()
        self.python(parent, "token = 'the same'")
        replies = []
        in_threads(6, lambda number: replies.append(self.post(parent, "fork", {"n": 2})))
        made = [child["id"] for reply in replies if reply.status == 201
                for child in reply.json["children"]]
        for reply in replies:
            if reply.status != 201:
                self.assertEqual((reply.status, reply.error), (409, "sandbox_busy"))
        self.assertGreaterEqual(len(made), 2)
        for sandbox in made:
            self.close_at_the_end(sandbox)
            self.assertEqual(self.value(sandbox, "token"), "'the same'")
        self.assertEqual(self.info(parent)["children"], len(made))


    def test_forks_pauses_and_execs_at_once_are_done_or_refused(self):
        parent = self.create()
        self.python(parent, "done = 0")
        ran = []

        def work(number):
            for _ in range(12):
                if number == 0:
                    replies = [self.post(parent, "pause"), self.post(parent, "resume")]
                elif number == 1:
                    replies = [self.post(parent, "fork", {"n": 2})]
                    for child in replies[0].json.get("children", []):
                        self.assertIn(self.value(child["id"], "done >= 0"), "True")
                        self.api.close(child["id"])
                else:
                    replies = [self.post(parent, "exec?stream=false", {"code": "done += 1; done"})]
                    ran.extend(reply.json["result"] for reply in replies if reply.status == 200)
                for reply in replies:
                    if reply.status not in (200, 201):
                        self.assertEqual(reply.status, 409, reply.body)
                        self.assertIn(reply.error, ("sandbox_paused", "sandbox_not_paused",
                                                    "sandbox_busy"))

        in_threads(4, work)
        self.assertEqual(self.info(parent)["state"], "ready")
        self.assertEqual(self.value(parent, "done"), str(len(ran)))
        self.assertEqual(sorted(map(int, ran)), list(range(1, len(ran) + 1)))
        eventually(lambda: not self.info(parent)["children"], "the children are gone")


class RefusalTest(ForkCase):
    def assert_refused(self, sandbox, document, status, code):
        reply = self.post(sandbox, "fork", document)
        self.assertEqual((reply.status, reply.error), (status, code), reply.body)
        self.assertTrue(reply.message)

    def test_parameters(self):
        parent = self.create()
        before = self.info(parent)
        for document in ({"n": 0}, {"n": 1025}, {"n": -1}, {"n": "2"}, {"n": 1.5}, {"n": None},
                         {"n": True}, {"keep_random": 1}, {"metadata": []},
                         {"metadata": {"a": 1}}, {"metadata": {str(i): "" for i in range(17)}}):
            self.assert_refused(parent, document, 400, "invalid_request")
        self.assert_refused(parent, {"count": 2}, 400, "unknown_field")
        after = self.info(parent)
        self.assertEqual((after["children"], after["memory"]), (0, before["memory"]))

    def test_unknown_and_closed_sandbox(self):
        self.assert_refused("sbx_aaaaaaaaaaaaaaaaaaaa", {}, 404, "sandbox_not_found")
        closed = self.api.create()
        self.api.close(closed)
        self.assert_refused(closed, {}, 404, "sandbox_not_found")

    def test_paused_sandbox(self):
        parent = self.create()
        self.assertEqual(self.post(parent, "pause").status, 200)
        self.assert_refused(parent, {}, 409, "sandbox_paused")
        self.assertEqual(self.post(parent, "resume").status, 200)
        self.fork(parent)

    def test_failed_sandbox(self):
        parent = self.create()
        self.panic(parent)
        self.assert_refused(parent, {}, 409, "sandbox_failed")

    def test_a_limit_is_told_before_anything_is_stopped(self):
        self.private_daemon("--max-sandboxes", "4")
        parent = self.create()
        before = self.info(parent)
        self.assert_refused(parent, {"n": 4}, 429, "limit_reached")
        self.assert_refused(parent, {"n": 1024}, 429, "limit_reached")
        after = self.info(parent)
        self.assertEqual((after["children"], after["memory"]), (0, before["memory"]))
        self.assertEqual(len(self.api.get("/v1/sandboxes").json["sandboxes"]), 1)
        self.assertEqual(len(self.fork(parent, 3)), 3)
        self.assert_refused(parent, {}, 429, "limit_reached")

    def test_parent_that_is_closed_meanwhile(self):
        for _ in range(4):
            parent = self.create()
            replies = []
            forking = threading.Thread(
                target=lambda: replies.append(self.post(parent, "fork", {"n": 6})))  # noqa: B023
            forking.start()
            eventually(lambda: self.info(parent)["children"], "the fork began")  # noqa: B023
            self.api.close(parent)
            forking.join(harness.DEADLINE)
            reply, = replies
            if reply.status != 201:
                self.assertEqual(reply.status, 409, reply.body)
                continue
            for child in reply.json["children"]:
                if "error" not in child:
                    self.close_at_the_end(child["id"])
                    self.assertEqual(self.value(child["id"], "6 * 7"), "42")

    def test_children_of_a_client_that_left_are_closed(self):
        parent = self.create()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.daemon.socket)
            client.sendall(b"POST /v1/sandboxes/%s/fork HTTP/1.1\r\nHost: x\r\n"
                           b"Content-Length: 8\r\n\r\n{\"n\": 5}" % parent.encode())
            eventually(lambda: self.info(parent)["children"], "the fork began")
        eventually(lambda: not self.info(parent)["children"], "the orphans are closed")
        self.assertEqual(self.value(parent, "1 + 1"), "2")
        self.fork(parent)


class TreeTest(ForkCase):
    def tree(self):
        reply = self.api.get("/v1/tree")
        self.assertEqual(reply.status, 200)
        return reply.json["sandboxes"]

    def test_each_follows_its_parent(self):
        self.private_daemon()
        one, two = self.create(), self.create()
        a, b = self.fork(one, 2)
        c, = self.fork(a)
        d, = self.fork(two)
        self.assertEqual([(item["id"], item["tree_depth"]) for item in self.tree()],
                         [(one, 0), (a, 1), (c, 2), (b, 1), (two, 0), (d, 1)])
        self.api.close(a)
        found = {item["id"]: item for item in self.tree()}
        self.assertEqual((found[c]["tree_depth"], found[c]["parent"], found[c]["depth"]), (0, a, 2))
        self.assertEqual(found[b]["tree_depth"], 1)

    def test_it_has_every_sandbox_once(self):
        parent = self.create()
        self.fork(parent, 3)
        self.assertEqual(sorted(item["id"] for item in self.tree()),
                         sorted(item["id"]
                                for item in self.api.get("/v1/sandboxes").json["sandboxes"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
