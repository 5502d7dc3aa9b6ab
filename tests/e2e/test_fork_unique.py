"""Every child of a fork is one of its own: randomness, names, secrets, clock."""

import statistics
import threading
import time
import uuid

import harness
from forking import ForkCase

CHILDREN = 100
BATCH = 20  # forks of this size: the machine need not hold all at once

# What a warm parent has: used generators of each kind, in two threads.
WARM = """
import _thread, hashlib, os, queue, random, secrets, ssl, sys, tempfile, threading, uuid
ssl.RAND_bytes(16); random.seed(7); uuid.uuid1(); uuid.uuid4(); tempfile.mktemp()
if sys.modules.get('numpy'): numpy.random.seed(7)
asked, answers = queue.Queue(), queue.Queue()
def other_thread():
    ssl.RAND_bytes(16)
    while asked.get(): answers.put((ssl.RAND_bytes(16).hex(), random.random()))
threading.Thread(target=other_thread, daemon=True).start()
def probe():
    asked.put(1)
    other = answers.get()
    first = {'random': random.random()}
    return {**first, 'ssl': ssl.RAND_bytes(16).hex(), 'ssl in a thread': other[0],
            'random in a thread': other[1], 'urandom': os.urandom(16).hex(),
            '/dev/urandom': open('/dev/urandom', 'rb').read(16).hex(),
            '/dev/random': open('/dev/random', 'rb').read(16).hex(),
            'uuid4': uuid.uuid4().hex, 'uuid1': uuid.uuid1().hex[8:],
            'secrets': secrets.token_hex(),
            'tempfile': tempfile.mktemp(),
            'generation': open('/run/ramet/generation').read().strip(),
            'token': open('/run/ramet/token').read(), 'hostname': os.uname().nodename,
            'hostname file': open('/etc/hostname').read().strip()}
probe()['urandom'] is not None
"""
BASH_PROBE = ("od -An -tx1 -N16 /dev/urandom; cat /proc/sys/kernel/random/uuid; "
              "python3 -c 'import random, ssl; print(random.random(), ssl.RAND_bytes(16).hex())'")


class UniqueCase(ForkCase):
    def warm_parent(self):
        parent = self.create()
        self.assertEqual(self.value(parent, WARM), "True")
        return parent

    def probe(self, sandbox):
        return eval(self.value(sandbox, "probe()"))  # of what this file has written

    def check_distinct(self, probes, names):
        for name in names:
            values = [probe[name] for probe in probes]
            self.assertEqual(len(set(values)), len(values), name)


class DistinctTest(UniqueCase):
    def test_100_children_have_nothing_in_common(self):
        parent = self.warm_parent()
        probes = []
        for _ in range(CHILDREN // BATCH):
            children = self.fork_reply(parent, BATCH)["children"]
            for child in children:
                probes.append(self.probe(child["id"]))
                self.assertEqual(probes[-1]["generation"], child["generation"])
                self.assertEqual(uuid.UUID(child["generation"]).version, 4)
                self.assertEqual(probes[-1]["hostname"], child["id"])
                self.assertEqual(probes[-1]["hostname file"], child["id"])
                self.assertRegex(probes[-1]["token"], "^[0-9a-f]{32}\n$")
            for child in children:
                self.api.close(child["id"])
        probes.append(self.probe(parent))
        self.assertEqual(len(probes), CHILDREN + 1)
        self.check_distinct(probes, probes[0])

    def test_100_children_at_once_have_nothing_in_common_in_bash(self):
        parent = self.create()
        probes = []
        for child in self.fork(parent, CHILDREN):
            numbers, name, draws = self.bash(child, BASH_PROBE).splitlines()
            probes.append({"urandom": numbers, "uuid": name, "random": draws.split()[0],
                           "ssl": draws.split()[1]})
            self.api.close(child)
        self.check_distinct(probes, probes[0])

    def test_created_sandboxes_are_copies_of_one_template_and_distinct(self):
        probes = []
        for _ in range(CHILDREN):
            sandbox = self.api.create()
            probes.append(eval(self.value(sandbox, "import os, random, ssl, uuid\n"
                                          "{'r': random.random(), 's': ssl.RAND_bytes(16), "
                                          "'u': os.urandom(16), 'i': uuid.uuid4(), "
                                          "'t': uuid.uuid1(), 'g': os.environ['RAMET_GENERATION'],"
                                          " 'k': open('/run/ramet/token').read()}.__repr__()"),
                               {}, {"UUID": uuid.UUID}))
            self.api.close(sandbox)
        probes = [eval(probe, {"UUID": uuid.UUID}) for probe in probes]
        self.check_distinct(probes, probes[0])

    def test_grandchildren(self):
        parent = self.warm_parent()
        probes = []
        for child in self.fork(parent, 3):
            probes += [self.probe(grandchild) for grandchild in self.fork(child, 3)]
            probes.append(self.probe(child))
        self.assertEqual(len(probes), 12)
        self.check_distinct(probes, probes[0])

    def test_numpy(self):
        parent = self.create()
        if self.api.run(parent, "import numpy")["exit_code"]:
            self.skipTest("the image has no numpy; tests/agent has a stand-in for it")
        self.python(parent, "numpy.random.seed(7)")
        draws = {self.value(child, "numpy.random.random()") for child in self.fork(parent, 8)}
        self.assertEqual(len(draws), 8)

    def test_keep_random_keeps_only_that(self):
        parent = self.warm_parent()
        probes = [self.probe(child) for child in self.fork(parent, 8, keep_random=True)]
        same = ("random", "random in a thread")
        for name in same:
            self.assertEqual(len({probe[name] for probe in probes}), 1, name)
        self.check_distinct(probes, [name for name in probes[0] if name not in same])

    def test_machine_ids_differ_where_there_are_any(self):
        parent = self.create()
        self.bash(parent, "echo 0123456789abcdef0123456789abcdef > /etc/machine-id; "
                          "mkdir -p /var/lib/dbus; cp /etc/machine-id /var/lib/dbus/")
        seen = set()
        for child in self.fork(parent, 3):
            ids = self.bash(child, "cat /etc/machine-id /var/lib/dbus/machine-id").split()
            self.assertEqual(ids, [self.info(child)["generation"].replace("-", "")] * 2)
            seen.add(ids[0])
        self.assertEqual(len(seen), 3)

    def test_a_machine_without_an_id_gets_none(self):
        child, = self.fork(self.create(), 1)
        self.assertEqual(self.bash(child, "cat /etc/machine-id"), "")

    def test_the_token_is_roots_alone(self):
        child, = self.fork(self.create(), 1)
        self.assertEqual(self.bash(child, "stat -c '%a %U %s' /run/ramet/token"), "600 root 33\n")


class EnvironmentTest(UniqueCase):
    INDEX = "import os, ramet_fork\n(os.environ.get('RAMET_FORK_INDEX'), ramet_fork.index)"

    def test_the_index_in_python_and_bash(self):
        parent = self.create()
        self.assertEqual(self.value(parent, self.INDEX), "(None, None)")
        self.assertEqual(self.bash(parent, "echo ${RAMET_FORK_INDEX-none}"), "none\n")
        for index, child in enumerate(self.fork(parent, 4)):
            self.assertEqual(self.value(child, self.INDEX), f"('{index}', {index})")
            self.assertEqual(self.bash(child, "echo $RAMET_FORK_INDEX"), f"{index}\n")
            self.assertEqual(self.bash(child, "echo $RAMET_GENERATION"),
                             self.info(child)["generation"] + "\n")
        self.assertEqual(self.value(parent, self.INDEX), "(None, None)")

    def test_each_generation_has_its_own_index(self):
        child = self.fork(self.create(), 3)[2]
        self.assertEqual(self.value(child, self.INDEX), "('2', 2)")
        grandchild = self.fork(child, 2)[1]
        self.assertEqual(self.value(grandchild, self.INDEX), "('1', 1)")
        self.assertEqual(self.value(child, self.INDEX), "('2', 2)")

    def test_a_winner_keeps_what_it_was_told(self):
        """A merge gives a new name, nothing else: it goes on undisturbed."""
        parent = self.create()
        self.python(parent, "import ramet_fork, random; called = []\n"
                            "ramet_fork.register(called.append)")
        winner = self.fork(parent, 2)[1]
        self.python(winner, "random.seed(3)")
        self.merge(parent, winner)
        self.assertEqual(self.value(parent, "import random as r; expected = r.Random(3).random()\n"
                                            "random.random() == expected, called"), "(True, [1])")
        self.assertEqual(self.bash(parent, "hostname; echo $RAMET_FORK_INDEX"), f"{parent}\n1\n")


class CallbackTest(UniqueCase):
    def test_called_before_the_child_is_handed_out(self):
        parent = self.create()
        self.python(parent, "import os, ramet_fork\n@ramet_fork.register\ndef chosen(index):\n"
                            "    with open('/root/chosen', 'w') as f: f.write('plan %d' % index)\n")
        for index, child in enumerate(self.fork(parent, 3)):
            self.assertEqual(self.bash(child, "cat /root/chosen"), f"plan {index}")
        self.assertEqual(self.api.run(parent, "ls /root/chosen", language="bash")["exit_code"], 2)

    def test_what_goes_wrong_is_shown_by_the_next_call(self):
        parent = self.create()
        self.python(parent, "import ramet_fork; ramet_fork.register(lambda index: 1 / 0)")
        child, = self.fork(parent, 1)
        reply = self.api.run(child, "ramet_fork.index")
        self.assertEqual((reply["exit_code"], reply["result"]), (0, "0"))
        self.assertIn("ZeroDivisionError", reply["stderr"])


class BusyTest(UniqueCase):
    """The parent is in the middle of something."""

    def busy(self, parent, code):
        """Runs code that makes /tmp/ready in the parent; returns when it is there."""
        def run():
            self.post(parent, "exec?stream=false", {"code": code})

        before = self.value(parent, "1")
        self.assertEqual(before, "1")
        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join, harness.DEADLINE)
        self.addCleanup(self.api.delete, f"/v1/sandboxes/{parent}", check=False)
        def ready():
            reply = self.api.get(f"/v1/sandboxes/{parent}/files?path=/tmp/ready", check=False)
            return reply.status == 200

        harness.eventually(ready, "the parent is busy")

    def check_children(self, parent, count=3):
        """What the code that goes on in each child writes as soon as it may."""
        draws = set()
        children = self.fork(parent, count)
        for child in children:
            reply = self.api.put(f"/v1/sandboxes/{child}/files?path=/tmp/go", b"")
            self.assertEqual(reply.status, 200, reply.body)

        def draw(child):
            reply = self.api.get(f"/v1/sandboxes/{child}/files?path=/tmp/draw", check=False)
            return reply.status == 200 and reply.body

        for child in children:
            draws.add(harness.eventually(lambda c=child: draw(c), "the child has drawn"))
        self.assertEqual(len(draws), count)

    PREPARE = ("import hashlib, os, random, ssl, threading, time\n"
               "random.seed(7); ssl.RAND_bytes(4)\n"
               "def draw():\n"
               "    with open('/tmp/draw.new', 'w') as f: f.write(str(random.random()))\n"
               "    os.rename('/tmp/draw.new', '/tmp/draw')\n")

    def test_counting(self):
        parent = self.create()
        self.busy(parent, self.PREPARE + "open('/tmp/ready', 'w').close(); n = 0\n"
                  "while not os.path.exists('/tmp/go'): n += 1\ndraw()\ntime.sleep(60)")
        self.check_children(parent)

    def test_waiting(self):
        parent = self.create()
        self.busy(parent, self.PREPARE + "open('/tmp/ready', 'w').close()\n"
                  "while not os.path.exists('/tmp/go'): time.sleep(0.05)\ndraw()\ntime.sleep(60)")
        self.check_children(parent)

    def test_in_c_code_beside_which_a_thread_draws(self):
        parent = self.create()
        self.busy(parent, self.PREPARE +
                  "def watch():\n    while not os.path.exists('/tmp/go'): time.sleep(0.02)\n"
                  "    draw()\nthreading.Thread(target=watch).start()\n"
                  "open('/tmp/ready', 'w').close()\n"
                  "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 1 << 30)")
        self.check_children(parent)

    def test_in_c_code_that_keeps_the_interpreter(self):
        """The child is usable at once; what the code draws afterwards is its own."""
        parent = self.create()
        self.busy(parent, self.PREPARE + "open('/tmp/ready', 'w').close()\n"
                  "sum(range(60000000))\ndraw()\ntime.sleep(60)")
        self.check_children(parent, 2)

    def test_a_thread_between_calls(self):
        parent = self.create()
        self.python(parent, self.PREPARE +
                    "def watch():\n    while not os.path.exists('/tmp/go'): time.sleep(0.01)\n"
                    "    draw()\nthreading.Thread(target=watch).start()\n")
        self.check_children(parent)


class ClockTest(UniqueCase):
    NEAR = 0.05

    def offset(self, sandbox):
        """Guest's wall clock minus the host's, by the quickest of some readings."""
        best = None
        for _ in range(5):
            before = time.time()
            guest = float(self.value(sandbox, "import time; time.time()"))
            after = time.time()
            if best is None or after - before < best[0]:
                best = (after - before, guest - (before + after) / 2)
        self.assertLess(best[0], 2 * self.NEAR, "this machine is too busy to compare clocks")
        return best[1]

    def test_wall_clock_of_created_sandboxes_and_children(self):
        parent = self.create()
        self.assertLess(abs(self.offset(parent)), self.NEAR)
        for child in self.fork(parent, 3):
            self.assertLess(abs(self.offset(child)), self.NEAR)

    def test_children_of_a_parent_whose_clock_is_wrong(self):
        parent = self.create()
        self.bash(parent, "date -s '2001-02-03 04:05:06' > /dev/null")
        child, = self.fork(parent, 1)
        self.assertLess(abs(self.offset(child)), self.NEAR)
        self.assertLess(self.offset(parent), -1e8)  # its own business

    def test_many_children_at_once_on_a_busy_machine(self):
        """The message with the time waits for its guest's turn."""
        children = self.fork(self.create(), 40)
        offsets = [abs(self.offset(child)) for child in children]
        self.assertLess(max(offsets), self.NEAR, f"median {statistics.median(offsets)}")

    def test_a_parent_does_not_go_slow_by_its_forks(self):
        parent = self.create()
        for _ in range(20):
            child, = self.fork(parent, 1)
            self.api.close(child)
        self.assertLess(abs(self.offset(parent)), self.NEAR)

    def test_monotonic_clocks_go_on(self):
        parent = self.create()
        self.python(parent, "import time; before = time.monotonic()")
        child, = self.fork(parent, 1)
        passed = float(self.value(child, "time.monotonic() - before"))
        self.assertGreater(passed, 0)
        self.assertLess(passed, harness.DEADLINE)


if __name__ == "__main__":
    harness.main()
