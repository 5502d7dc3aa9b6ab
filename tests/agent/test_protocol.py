"""The conversation itself: hello, abuse, the end of the connection."""

import errno
import os
import random
import socket
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import (AGENT, BASH, CANCEL, CREDIT, EXEC, EXEC_DATA, FILE_OPEN, HELLO, MAGIC, OK,
                  PAYLOAD_MAX, PING, PYTHON, RECLAIM, RECLAIMED, RESEED, SHUTDOWN, Agent,
                  AgentError, Closed, header, wait_gone)


class Hello(unittest.TestCase):
    def test_hello_comes_first(self):
        with Agent() as agent:
            self.assertEqual((agent.hello.type, agent.hello.id), (HELLO, 0))
            version, flags, boot_ns = struct.unpack_from("<IIQ", agent.hello.payload)
            self.assertEqual((version, flags), (1, 0))
            self.assertGreater(boot_ns, 0)
            kernel = agent.hello.payload[16:80].rstrip(b"\0").decode()
            self.assertEqual(kernel, os.uname().release[:63])
            self.assertEqual(len(agent.hello.payload), 112)


class Abuse(unittest.TestCase):
    """What no correct host sends ends the connection, and the agent with it."""

    def check_ends(self, data, reason):
        agent = Agent()
        self.addCleanup(agent.close)
        agent.ping()
        agent.sock.sendall(data)
        self.assertEqual(agent.wait_closed(), 1)
        self.assertIn(reason, agent.log_text())

    def test_bad_magic(self):
        self.check_ends(header(PING, 1, 0, magic=MAGIC ^ 1), "bad magic")

    def test_other_version(self):
        self.check_ends(header(PING, 1, 0, version=2), "version")

    def test_unknown_type(self):
        self.check_ends(header(99, 1, 0), "unknown message type")

    def test_type_of_the_other_direction(self):
        self.check_ends(header(OK, 1, 0), "unknown message type")

    def test_oversize_is_refused_before_its_payload(self):
        self.check_ends(header(EXEC_DATA, 1, PAYLOAD_MAX + 1), "too long")

    def test_shorter_than_the_message(self):
        self.check_ends(header(EXEC, 1, 23) + bytes(23), "shorter")

    def test_id_zero(self):
        self.check_ends(header(PING, 0, 0), "without an id")

    def test_exec_id_in_use(self):
        exec_frame = header(EXEC, 7, 24) + struct.pack("<IIQII", PYTHON, 0, 0, 5, 0)
        self.check_ends(exec_frame * 2, "in use")

    def test_more_code_than_announced(self):
        self.check_ends(header(EXEC, 7, 24) + struct.pack("<IIQII", PYTHON, 0, 0, 5, 0)
                        + header(EXEC_DATA, 7, 6) + b"123456", "more code")

    def test_reseed_lengths_that_do_not_add_up(self):
        for name, entropy, extra in ((65, 0, 65), (0, 513, 513), (4, 4, 7), (0xffffffff, 2, 1)):
            self.check_ends(header(RESEED, 1, 40 + extra)
                            + struct.pack("<Q16sIIII", 0, bytes(16), name, entropy, 0, 0)
                            + bytes(extra), "reseed")

    def test_random_bytes(self):
        rng = random.Random(1)
        for _ in range(20):
            agent = Agent()
            data = rng.randbytes(4096)
            try:
                agent.sock.sendall(data)
                self.assertEqual(agent.wait_closed(), 1)
            except (BrokenPipeError, ConnectionResetError):
                self.assertEqual(agent.process.wait(30), 1)
            finally:
                agent.close()

    def test_random_but_well_formed_requests(self):
        """Payloads of noise in correct frames: refused, one by one or at once."""
        rng = random.Random(2)
        survived = 0
        for _ in range(30):
            with Agent() as agent:
                try:
                    for _ in range(60):
                        kind = rng.choice((16, 17, 18, 19, 21, 22, 23, 25, 26, 29))
                        agent.send(kind, rng.randrange(1, 5),
                                   rng.randbytes(rng.choice((0, 4, 16, 24, 40, 100))))
                    ident = 1000
                    agent.send(PING, ident)
                    agent.reply(ident, OK)
                    survived += 1
                except (Closed, BrokenPipeError, ConnectionResetError):
                    self.assertEqual(agent.process.wait(30), 1)
        self.assertLess(survived, 30)


class Tolerance(unittest.TestCase):
    def setUp(self):
        self.agent = Agent()
        self.addCleanup(self.agent.close)

    def test_messages_for_unknown_execs_are_ignored(self):
        self.agent.send(CREDIT, 5000, struct.pack("<I", 1))
        self.agent.send(CANCEL, 5000)
        self.agent.send(EXEC_DATA, 5000, b"abc")
        self.agent.ping()

    def test_frames_in_single_bytes(self):
        frame = header(EXEC, 900, 24) + struct.pack("<IIQII", PYTHON, 0, 1 << 20, 3, 0) \
            + header(EXEC_DATA, 900, 3) + b"1+2"
        self.agent.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for byte in frame:
            self.agent.sock.sendall(bytes([byte]))
        self.assertEqual(self.agent.finish(900).result, "3")

    def test_many_frames_in_one_write(self):
        count = 20000
        data = b"".join(header(PING, i, 0) for i in range(1, count + 1))
        pid = os.fork()  # the agent stops reading when nobody takes its answers
        if pid == 0:
            self.agent.sock.sendall(data)
            os._exit(0)
        for i in range(1, count + 1):
            self.agent.reply(i, OK)
        os.waitpid(pid, 0)

    def test_path_errors_do_not_end_the_connection(self):
        ident = self.agent.request(FILE_OPEN, bytes(8))
        self.assertRaises(AgentError, self.agent.reply, ident, OK)
        self.agent.ping()


class End(unittest.TestCase):
    def start_children(self, agent):
        r = agent.bash("sleep 300 & echo $!; setsid sleep 300 & echo $!")
        pids = [int(p) for p in r.stdout.split()]
        r = agent.run("import os, subprocess\n"
                      "print(subprocess.Popen(['sleep', '300']).pid)\nos.getpid()")
        return pids + [int(r.stdout), int(r.result)]

    def test_a_host_without_hypercalls_takes_no_memory(self):
        with Agent() as agent:
            for _ in range(3):
                with self.assertRaises(AgentError) as caught:
                    agent.call(RECLAIM, b"", RECLAIMED)
                self.assertEqual(caught.exception.errno, errno.EOPNOTSUPP)
            self.assertEqual(agent.run("1 + 1").result, "2")

    def test_shutdown(self):
        with Agent() as agent:
            pids = self.start_children(agent)
            agent.call(SHUTDOWN, b"", OK)
            self.assertEqual(agent.wait_closed(), 0)
            for pid in pids:
                wait_gone(pid)

    def test_host_hangs_up(self):
        with Agent() as agent:
            pids = self.start_children(agent)
            agent.sock.close()
            self.assertEqual(agent.process.wait(30), 1)
            for pid in pids:
                wait_gone(pid)

    def test_host_hangs_up_during_an_exec(self):
        for language, code in ((PYTHON, "import os\nprint(os.getpid())\nwhile True: pass"),
                               (BASH, "trap '' TERM; echo $$; while :; do :; done")):
            with Agent() as agent:
                ident = agent.start(code, language)
                pid = int(agent.output(ident)[1])
                agent.sock.close()
                self.assertEqual(agent.process.wait(30), 1)
                wait_gone(pid)

    def test_usage(self):
        for args in ([], ["--fd", "1"], ["--fd", "3", "extra"], ["--nonsense"]):
            p = subprocess.run([AGENT, *args], capture_output=True, timeout=30)
            self.assertEqual(p.returncode, 1, args)
        with open("/dev/null") as null:
            p = subprocess.run([AGENT, "--fd", str(null.fileno())], capture_output=True,
                               pass_fds=[null.fileno()], timeout=30)
            self.assertEqual(p.returncode, 1)
            self.assertIn(b"descriptor", p.stderr)


if __name__ == "__main__":
    unittest.main()
