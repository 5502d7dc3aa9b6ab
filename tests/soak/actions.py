"""What a client of the soak does: each action picks sandboxes at random, changes
them and their models alike, and compares what it gets with what the models say."""

import time
from threading import Thread, Timer

import model
from model import DIRECTORY, Model
from work import Work
from world import REQUEST_DEADLINE, ApiError, Mismatch


class Actions(Work):
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

    def action_fork_while_reclaiming(self):
        failures = []

        def reclaim(parent):
            try:
                self.world.post(parent, "reclaim")
            except ApiError as error:
                failures.append(error)

        def work(parent):
            reclaiming = Thread(target=reclaim, args=[parent])
            reclaiming.start()
            time.sleep(self.random.uniform(0, 0.05))
            try:
                self.check_children(self.fork_of(parent, 2))
            finally:
                reclaiming.join()
            if failures:
                raise failures[0]
            self.verify(parent)

        return self.with_room(2, lambda: self.with_one(work))

    def action_fork_while_running(self):
        """The code goes on in the parent and in every child."""
        n = self.random.choice((1, 2, 3))
        children = []

        def meanwhile(parent, held):
            children.extend(self.fork_of(parent, n, held))

        def work(parent):
            self.while_running(parent, meanwhile)

        done = self.with_room(n, lambda: self.with_one(work))
        self.check_children(children)
        return done

    def action_pause_while_running(self):
        def meanwhile(sandbox, held):
            self.world.post(sandbox, "pause")
            time.sleep(self.random.uniform(0, 0.1))
            self.world.post(sandbox, "resume")

        return self.with_one(lambda sandbox: self.while_running(sandbox, meanwhile))

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
            self.merge_failed(parent, winner, error)
            return
        finally:
            winner.lock.release()
        self.merged(parent, winner)
        gone = self.world.request("DELETE", f"/v1/sandboxes/{winner.id}")
        if gone.get("state") != "merged":
            raise Mismatch(f"{winner.id} was merged and then closed: {gone}")
        self.verify(parent)

    def merged(self, parent, winner):
        winner.closing = True
        self.world.forget(winner)
        parent.model, parent.depth = winner.model, winner.depth

    def merge_failed(self, parent, winner, error):
        """One of both was killed, which it has to say itself: before, or when they were
        one already and the winner had not confirmed its name."""
        sandboxes = [parent, winner]
        if not winner.closing and self.is_gone(winner):
            self.merged(parent, winner)
            sandboxes = [parent]
        self.blame(sandboxes, error, f"{parent.id} cannot be merged")

    def blame(self, sandboxes, error, what):
        """Which of them it was about is for each to tell; one must."""
        for sandbox in sandboxes:
            try:
                self.verify(sandbox, everything=False)
            except ApiError as own:
                self.world.judge(sandbox, own)
                error = None
        if error:
            raise Mismatch(f"{what}: {error}") from error

    def is_gone(self, sandbox):
        try:
            self.world.info(sandbox)
        except ApiError as error:
            return error.status == 404
        return False

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
            self.blame(picked, error, f"diff of {one.id} and {two.id}")
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
    "fork_while_uploading": 3, "fork_while_reclaiming": 2, "pause_while_running": 2, "merge": 4,
    "diff": 3,
    "reclaim": 3, "pause": 3, "close": 7, "close_during_fork": 2, "close_during_work": 2,
}

