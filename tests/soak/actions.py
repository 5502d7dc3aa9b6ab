"""What a client of the soak does: each action picks sandboxes at random, changes
them and their models alike, and compares what it gets with what the models say."""

import json
import time
from threading import Thread, Timer

import model
from model import DIRECTORY, LOG, Model
from world import REQUEST_DEADLINE, ApiError, Mismatch

CHUNKS_MAX = 640  # of one sandbox: 20 MiB


class Actions:
    def __init__(self, world, random):
        self.world = world
        self.random = random

    # ---- changing a sandbox ----

    def seeds(self, most):
        """So many that small things are common."""
        return tuple(self.random.getrandbits(48)
                     for _ in range(int(2 ** self.random.uniform(0, most))))

    def edits(self, seeds):
        places = self.random.sample(range(len(seeds)), self.random.randint(1, min(len(seeds), 24)))
        return [(at, self.random.getrandbits(48)) for at in places]

    def change_blob(self, held):
        name = f"b{self.random.randrange(6)}"
        if name in held.blobs and self.random.random() < 0.15:
            del held.blobs[name]
            return f"del blobs[{name!r}]\n"
        if name in held.blobs and self.random.random() < 0.7:
            edits = self.edits(held.blobs[name])
            held.blobs[name] = model.edited(held.blobs[name], edits)
            return f"poke({name!r}, {edits})\n"
        held.blobs[name] = self.seeds(4 if held.chunks() > CHUNKS_MAX else 8)
        return f"put({name!r}, {held.blobs[name]})\n"

    def change_file(self, held):
        path = f"{DIRECTORY}/f{self.random.randrange(8)}"
        if path in held.files and self.random.random() < 0.2:
            del held.files[path]
            return f"os.unlink({path!r})\n"
        if path in held.files and self.random.random() < 0.6:
            edits = self.edits(held.files[path])
            held.files[path] = model.edited(held.files[path], edits)
            return f"file_poke({path!r}, {edits})\n"
        held.files[path] = self.seeds(2 if held.chunks() > CHUNKS_MAX else 6)
        return f"file_put({path!r}, {held.files[path]})\n"

    def change_code(self, held, most=4):
        """Python that changes a sandbox as `held` is changed here."""
        code = ""
        for _ in range(self.random.randint(1, most)):
            code += self.random.choice((self.change_blob, self.change_file))(held)
        held.count += 1
        return code + "count += 1\n"

    def append_log(self, sandbox):
        text = f"line {self.random.getrandbits(64)}"
        if len(sandbox.model.log) > 20000:
            sandbox.model.log = b""
            self.world.run(sandbox, f": > {LOG}", "bash")
        self.world.run(sandbox, f"echo '{text}' >> {LOG}", "bash")
        sandbox.model.log += text.encode() + b"\n"

    def upload(self, sandbox):
        path = f"{DIRECTORY}/f{self.random.randrange(8)}"
        seeds = self.seeds(6)
        self.world.request("PUT", f"/v1/sandboxes/{sandbox.id}/files?path={path}",
                           body=model.content(seeds))
        sandbox.model.files[path] = seeds

    def download(self, sandbox):
        if not sandbox.model.files:
            return
        path = self.random.choice(sorted(sandbox.model.files))
        data = self.world.request("GET", f"/v1/sandboxes/{sandbox.id}/files?path={path}")
        if data != model.content(sandbox.model.files[path]):
            raise Mismatch(f"{sandbox.id}: {path} was downloaded with {len(data)} other bytes")

    def verify(self, sandbox, everything=True):
        held = sandbox.model
        names, paths = sorted(held.blobs), sorted(held.files)
        if not everything:
            names = self.random.sample(names, min(2, len(names)))
            paths = self.random.sample(paths, min(2, len(paths)))
        text = self.world.run(sandbox, f"state({names}, {paths})")
        found = held.differences(json.loads(text), names, paths)
        if found:
            raise Mismatch(f"{sandbox.id} ({sandbox.isolation}, depth {sandbox.depth}): "
                           + "; ".join(found))
        if everything:
            self.world.look(sandbox)

    # ---- forks ----

    def adopt(self, parent, reply, n, held, begin, hold=False):
        """The children of a fork's reply; those that failed must have had a reason."""
        children = []
        if len(reply["children"]) != n:
            raise Mismatch(f"{parent.id}: {len(reply['children'])} children instead of {n}")
        for item in reply["children"]:
            if "error" in item:
                if not self.world.killed_since(begin):
                    raise Mismatch(f"{parent.id}: child {item['fork_index']} failed: "
                                   f"{item['error']['message']}")
                self.world.counts["children lost to kills"] += 1
                continue
            children.append(self.world.add(item, parent.family, held.copy(), hold))
        return children

    def fork_of(self, parent, n, held=None, hold=False):
        """The children; `held`: what they hold, if it is not what the parent does; with
        `hold` nobody else works with them until their locks are released."""
        begin = time.monotonic()
        reply = self.world.post(parent, "fork", {"n": n})
        return self.adopt(parent, reply, n, held or parent.model, begin, hold)

    def check_children(self, children, changes=True):
        """Verifies some children, changes them and verifies again."""
        for child in children:
            if not child.lock.acquire(blocking=False):
                continue  # somebody works with it already
            try:
                if child.closing or child.doomed:
                    continue
                self.verify(child)
                if changes:
                    self.world.run(child, self.change_code(child.model))
                    self.verify(child, everything=False)
            except ApiError as error:
                self.world.judge(child, error)
            finally:
                child.lock.release()

    # ---- actions ----

    def with_one(self, work, **options):
        """Calls work(sandbox) with one that is held; False when there is none."""
        picked = self.world.pick(self.random, **options)
        if not picked:
            return False
        sandbox, = picked
        try:
            work(sandbox)
        except ApiError as error:
            self.world.judge(sandbox, error)
        finally:
            sandbox.lock.release()
        return True

    def with_room(self, n, work):
        if not self.world.room(n):
            return False
        try:
            with self.world.steady.shared():
                return work()
        finally:
            self.world.made(n)

    def create(self):
        begin = time.monotonic()
        try:
            item = self.world.request("POST", "/v1/sandboxes", {
                "isolation": self.random.choice(self.world.isolations),
                "memory_mb": self.random.choice(self.world.memory_mb)})
        except ApiError as error:
            if not self.world.killed_since(begin):
                raise Mismatch(f"create: {error}") from error
            self.world.counts["creates lost to kills"] += 1
            return True
        sandbox = self.world.add(item, None, Model())
        with sandbox.lock:
            try:
                self.world.run(sandbox, model.GUEST)
                self.world.run(sandbox, model.GUEST_JOB, "bash")
                self.world.run(sandbox, self.change_code(sandbox.model, 8))
                self.verify(sandbox)
            except ApiError as error:
                self.world.judge(sandbox, error)
        return True

    def action_create(self):
        return self.with_room(1, self.create)

    def action_change(self):
        def work(sandbox):
            self.world.run(sandbox, self.change_code(sandbox.model))

        return self.with_one(work)

    def action_append(self):
        return self.with_one(self.append_log)

    def action_upload(self):
        return self.with_one(self.upload)

    def action_download(self):
        return self.with_one(self.download)

    def action_verify(self):
        return self.with_one(lambda sandbox: self.verify(sandbox, self.random.random() < 0.4))

    def action_reclaim(self):
        def work(sandbox):
            self.world.post(sandbox, "reclaim")
            self.verify(sandbox)

        return self.with_one(work)

    def action_pause(self):
        def work(sandbox):
            self.world.post(sandbox, "pause")
            try:
                self.world.run(sandbox, "pass")
                raise Mismatch(f"{sandbox.id}: runs code while it is paused")
            except ApiError as error:
                if error.code != "sandbox_paused":
                    raise
            if self.random.random() < 0.2:
                self.world.close(sandbox)
                return
            self.world.post(sandbox, "resume")
            self.verify(sandbox, everything=False)

        return self.with_one(work)

    def action_close(self):
        def work(sandbox):
            self.world.close(sandbox)

        return self.with_one(work)

    def fork(self, n, **options):
        children = []

        def work(parent):
            children.extend(self.fork_of(parent, n))
            if self.random.random() < 0.6:  # while the layer is filled, say
                self.world.run(parent, self.change_code(parent.model))
            if self.random.random() < 0.3:
                self.verify(parent)

        done = self.with_one(work, **options)
        self.check_children(self.random.sample(children, min(3, len(children))))
        return done, children

    def action_fork(self):
        n = self.random.choice((1, 1, 1, 2, 2, 3, 5))
        return self.with_room(n, lambda: self.fork(n)[0])

    def action_fork_deepest(self):
        """Of those that are deep already; what is above it goes."""
        def work():
            done, _ = self.fork(1, weight=lambda sandbox: 4 ** min(sandbox.depth, 12))
            return done

        return self.with_room(1, work)

    def action_chain(self):
        """A child of a child of a child, each at once, and only the last stays."""
        def work(sandbox):
            line = []
            try:
                for _ in range(self.random.randint(2, 6)):
                    line += self.fork_of(line[-1] if line else sandbox, 1, hold=True)
                for middle in line[:-1]:
                    if self.random.random() < 0.5:
                        self.verify(middle)
                    self.world.close(middle)
            finally:
                for child in line:
                    child.lock.release()
            self.check_children(line[-1:])

        return self.with_room(6, lambda: self.with_one(work))

    def action_fork_many(self):
        n = self.random.choice((8, 12, 20))

        def work():
            done, children = self.fork(n)
            for child in children[1:]:
                if child.lock.acquire(timeout=REQUEST_DEADLINE):
                    try:
                        self.world.close(child)
                    finally:
                        child.lock.release()
            return done

        return self.with_room(n, work)

    def action_fork_while_running(self):
        """The code goes on in the parent and in every child."""
        n = self.random.choice((1, 2, 3))
        children = []

        def work(parent):
            held = parent.model.copy()
            seeds = self.seeds(7)
            edits = [edit for _ in range(5) for edit in self.edits(seeds)]
            held.blobs["running"] = model.edited(seeds, edits)
            held.count += 1
            code = (f"put('running', {seeds})\nprint('begun', flush=True)\n"
                    f"for edit in {edits}:\n    poke('running', [edit])\n    time.sleep(0.004)\n"
                    "count += 1\n")
            stream = self.world.api.stream(parent.id, code)
            try:
                if next(stream)[1].get("data", "begun")[:5] != "begun":
                    raise Mismatch(f"{parent.id}: a stream without its first line")
                time.sleep(self.random.uniform(0, 0.004 * len(edits)))
                children.extend(self.fork_of(parent, n, held))
                last = None
                for _, last in stream:
                    pass
            except (AssertionError, StopIteration) as error:
                raise ApiError(409, "stream", f"the stream ended early: {error}") from error
            if last and last["type"] == "error":
                raise ApiError(409, last["error"]["code"], last["error"]["message"])
            if not last or last.get("exit_code") != 0:
                raise Mismatch(f"{parent.id}: code that ran during a fork ended with {last}")
            parent.model = held
            self.verify(parent, everything=False)

        done = self.with_room(n, lambda: self.with_one(work))
        self.check_children(children)
        return done

    def action_fork_while_uploading(self):
        """The parent gets the file; a child has it whole or as it was before."""
        path = f"{DIRECTORY}/up"
        seeds = self.seeds(8)
        failures = []

        def upload(parent):
            try:
                self.world.request("PUT", f"/v1/sandboxes/{parent.id}/files?path={path}",
                                   body=model.content(seeds))
            except (ApiError, Mismatch) as error:
                failures.append(error)

        def work(parent):
            uploading = Thread(target=upload, args=[parent])
            uploading.start()
            time.sleep(self.random.uniform(0, 0.03))
            children = []
            try:
                children = self.fork_of(parent, 2, hold=True)
                for child in children:
                    self.verify_either(child, path, seeds)
            finally:
                for child in children:
                    child.lock.release()
                uploading.join()
            if failures:
                raise failures[0]
            parent.model.files[path] = seeds
            self.verify(parent)

        return self.with_room(2, lambda: self.with_one(work))

    def verify_either(self, child, path, seeds):
        """With the file `path` as the model has it, or made of `seeds`."""
        try:
            text = self.world.run(child, f"print(file_digest({path!r}) if os.path.exists({path!r}) "
                                         "else '')")
            if text.strip() == model.digest(seeds):
                child.model.files[path] = seeds
            self.verify(child)
        except ApiError as error:
            self.world.judge(child, error)

    def action_close_during_fork(self):
        n = self.random.choice((1, 3, 6))
        children = []

        def work(parent):
            closer = Timer(self.random.uniform(0, 0.06), self.close_quietly, [parent])
            closer.start()
            try:
                children.extend(self.fork_of(parent, n))
            finally:
                closer.join()

        done = self.with_room(n, lambda: self.with_one(work))
        self.check_children(children)
        return done

    def action_close_during_work(self):
        def work(sandbox):
            closer = Timer(self.random.uniform(0, 0.1), self.close_quietly, [sandbox])
            closer.start()
            try:
                for _ in range(3):
                    self.world.run(sandbox, self.change_code(sandbox.model))
                    self.verify(sandbox)
            finally:
                closer.join()

        return self.with_one(work)

    def close_quietly(self, sandbox):
        try:
            self.world.close(sandbox)
        except (ApiError, Mismatch) as error:
            self.world.note(f"{sandbox.id} cannot be closed: {error}")

    # ---- two sandboxes ----

    def action_merge(self):
        return self.with_room(1, lambda: self.with_one(self.merge))

    def merge(self, parent):
        winner, = self.fork_of(parent, 1, hold=True) or [None]
        if not winner:
            return
        try:
            self.world.run(winner, self.change_code(winner.model))
            self.world.post(parent, f"merge_into/{winner.id}")
        except ApiError as error:
            # One of both was killed, which it has to say itself.
            for sandbox in (parent, winner):
                try:
                    self.verify(sandbox, everything=False)
                except ApiError as own:
                    self.world.judge(sandbox, own)
                    error = None
            if error:
                raise Mismatch(f"{parent.id} cannot be merged: {error}") from error
            return
        finally:
            winner.lock.release()
        winner.closing = True
        self.world.forget(winner)
        parent.model, parent.depth = winner.model, winner.depth
        gone = self.world.request("DELETE", f"/v1/sandboxes/{winner.id}")
        if gone.get("state") != "merged":
            raise Mismatch(f"{winner.id} was merged and then closed: {gone}")
        self.verify(parent)

    def action_diff(self):
        with self.world.steady.shared():
            return self.diff_two()

    def diff_two(self):
        picked = self.world.pick(self.random, 2)
        if not picked:
            return False
        one, two = picked
        meanwhile = self.random.random()
        try:
            if meanwhile < 0.2:
                Timer(self.random.uniform(0, 0.03), self.close_quietly, [two]).start()
            if meanwhile > 0.7:
                self.diff_during_fork(one, two)
            else:
                self.diff(one, two)
        except ApiError as error:
            # Which of both it was about is for each to tell.
            for sandbox in picked:
                try:
                    self.verify(sandbox, everything=False)
                except ApiError as own:
                    self.world.judge(sandbox, own)
                    error = None
            if error:
                raise Mismatch(f"diff of {one.id} and {two.id}: {error}") from error
        finally:
            for sandbox in picked:
                sandbox.lock.release()
        return True

    def diff_during_fork(self, one, two):
        failures = []

        def compare():
            try:
                self.diff(one, two)
            except ApiError as error:
                if error.code != "sandbox_busy":
                    failures.append(error)
            except Mismatch as mismatch:
                self.world.note(mismatch)

        comparing = Thread(target=compare)
        comparing.start()
        try:
            if self.world.room(1):
                try:
                    self.check_children(self.fork_of(one, 1))
                finally:
                    self.world.made(1)
        finally:
            comparing.join()
        if failures:
            raise failures[0]

    def diff(self, one, two):
        reply = self.world.post(one, "diff", {"other": two.id, "paths": [DIRECTORY]})
        expected = one.model.file_changes(two.model)
        found = tuple(sorted(entry["path"] for entry in reply[what] if entry["path"] != DIRECTORY)
                      for what in ("added", "removed", "modified"))
        if found != expected:
            raise Mismatch(f"diff of {one.id} and {two.id}: {found} instead of {expected}")


# How often each action is chosen.
WEIGHTS = {
    "change": 16, "append": 4, "upload": 3, "download": 3, "verify": 8, "create": 3, "fork": 9,
    "fork_deepest": 6, "chain": 3, "fork_many": 1, "fork_while_running": 5,
    "fork_while_uploading": 3, "merge": 4, "diff": 3,
    "reclaim": 3, "pause": 3, "close": 7, "close_during_fork": 2, "close_during_work": 2,
}

