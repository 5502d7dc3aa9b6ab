"""What the actions of the soak are made of: changing a sandbox and its model alike,
comparing both, forking, and holding who is worked with."""

import json
import time

import model
from model import DIRECTORY, LOG
from world import ApiError, Mismatch

CHUNKS_MAX = 640  # of one sandbox: 20 MiB


class Work:
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

    def while_running(self, sandbox, meanwhile):
        """Calls meanwhile(sandbox, its model after the code) while code runs."""
        held = sandbox.model.copy()
        seeds = self.seeds(7)
        edits = [edit for _ in range(5) for edit in self.edits(seeds)]
        held.blobs["running"] = model.edited(seeds, edits)
        held.count += 1
        code = (f"put('running', {seeds})\nprint('begun', flush=True)\n"
                f"for edit in {edits}:\n    poke('running', [edit])\n    time.sleep(0.004)\n"
                "count += 1\n")
        stream = self.world.api.stream(sandbox.id, code)
        last = None
        try:
            if next(stream)[1].get("data", "begun")[:5] != "begun":
                raise Mismatch(f"{sandbox.id}: a stream without its first line")
            time.sleep(self.random.uniform(0, 0.004 * len(edits)))
            meanwhile(sandbox, held)
            for _, last in stream:
                pass
        except (AssertionError, StopIteration) as error:
            raise ApiError(409, "stream", f"the stream ended early: {error}") from error
        if last and last["type"] == "error":
            raise ApiError(409, last["error"]["code"], last["error"]["message"])
        if not last or last.get("exit_code") != 0:
            raise Mismatch(f"{sandbox.id}: code that ran meanwhile ended with {last}")
        sandbox.model = held
        self.verify(sandbox, everything=False)

    def close_quietly(self, sandbox):
        try:
            self.world.close(sandbox)
        except (ApiError, Mismatch) as error:
            self.world.note(f"{sandbox.id} cannot be closed: {error}")

    # ---- who is worked with ----

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
