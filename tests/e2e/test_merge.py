"""POST /v1/sandboxes/{id}/merge_into/{winner}: an id that goes on as another's machine."""

import unittest

import harness
from forking import BASH_COUNTER, ForkCase
from harness import eventually


class MergeTest(ForkCase):
    def family(self, n=2):
        parent = self.create(metadata={"kept": "yes"})
        self.python(parent, "state = 'parent'")
        return parent, self.fork(parent, n, metadata={"kept": "no"})

    def merged(self, parent, winner):
        return self.api.request("POST", f"/v1/sandboxes/{parent}/merge_into/{winner}")

    def test_id_runs_the_winners_state(self):
        parent, (winner, loser) = self.family()
        self.python(winner, "state = 'winner'")
        self.bash(winner, "echo winner > /tmp/file")
        self.merge(parent, winner)
        self.assertEqual(self.value(parent, "state, open('/tmp/file').read()"),
                         "('winner', 'winner\\n')")
        self.assertEqual(self.value(loser, "state"), "'parent'")

    def test_identity_stays_and_machine_changes(self):
        parent, (winner, _) = self.family()
        before, machine = self.info(parent), self.info(winner)
        after = self.merge(parent, winner)
        for what in ("id", "metadata", "created_at", "parent"):
            self.assertEqual(after[what], before[what], what)
        for what in ("depth", "create_timings"):
            self.assertEqual(after[what], machine[what], what)
        self.assertEqual((after["state"], after["children"]), ("ready", 1))
        self.assertEqual(self.bash(parent, "hostname"), f"{parent}\n")

    def test_winners_id_is_an_alias_that_delete_leaves_alone(self):
        parent, (winner, _) = self.family()
        self.merge(parent, winner)
        reply = self.api.delete(f"/v1/sandboxes/{winner}")
        self.assertEqual((reply.status, reply.json["state"], reply.json["merged_into"]),
                         (200, "merged", parent))
        self.assertEqual(self.value(parent, "1 + 1"), "2")
        for method, what in (("GET", ""), ("GET", "/console"), ("POST", "/exec"),
                             ("POST", "/fork"), ("POST", "/pause")):
            reply = self.api.request(method, f"/v1/sandboxes/{winner}{what}",
                                     '{"code": ""}' if what == "/exec" else None)
            self.assertEqual((reply.status, reply.error), (404, "sandbox_merged"), what)
            self.assertIn(parent, reply.message)
        listed = [item["id"] for item in self.api.get("/v1/sandboxes").json["sandboxes"]]
        self.assertIn(parent, listed)
        self.assertNotIn(winner, listed)

    def test_alias_ends_with_what_it_stands_for(self):
        parent, (winner, _) = self.family()
        self.merge(parent, winner)
        self.api.close(parent)
        for sandbox in (parent, winner):
            self.assertEqual(self.api.delete(f"/v1/sandboxes/{sandbox}").error,
                             "sandbox_not_found")

    def test_aliases_follow_a_second_merge(self):
        parent, (winner, _) = self.family()
        grandchild, = self.fork(winner)
        self.python(grandchild, "state = 'grandchild'")
        self.merge(winner, grandchild)
        self.assertEqual(self.value(winner, "state"), "'grandchild'")
        self.merge(parent, winner)
        self.assertEqual(self.value(parent, "state"), "'grandchild'")
        for alias in (winner, grandchild):
            self.assertEqual(self.api.delete(f"/v1/sandboxes/{alias}").json["merged_into"], parent)

    def test_fork_and_merge_again_and_again(self):
        parent = self.create()
        self.python(parent, "won = []")
        for turn in range(8):
            children = self.fork(parent, 2)
            for number, child in enumerate(children):
                self.python(child, f"won.append(({turn}, {number}))")
            self.merge(parent, children[turn % 2])
            self.api.close(children[0])
            self.api.close(children[1])
        self.assertEqual(self.value(parent, "won"),
                         str([(turn, turn % 2) for turn in range(8)]))
        self.assertEqual(self.info(parent)["children"], 0)

    def test_parents_machine_ends(self):
        self.private_daemon()
        parent, (winner, loser) = self.family()
        total = self.api.get("/v1/capacity").json["sandboxes"]["total"]
        self.merge(parent, winner)
        eventually(lambda: self.api.get("/v1/capacity").json["sandboxes"]["total"] == total - 1,
                   "two are left of three")
        self.assertEqual(self.value(loser, "state"), "'parent'")

    def test_execs_of_the_parent_end_and_those_of_the_winner_go_on(self):
        parent, (winner, _) = self.family()
        lost = self.api.stream(parent, "import time\nprint(1, flush=True)\ntime.sleep(600)")
        next(lost)
        code = "import time\nprint(1, flush=True)\ntime.sleep(0.5)\nprint(2)\n"
        kept = self.api.stream(winner, code)
        next(kept)
        self.merge(parent, winner)
        last = list(lost)[-1][1]
        self.assertEqual((last["type"], last["error"]["code"]), ("error", "cancelled"))
        events = [event for _, event in kept]
        self.assertEqual([event["data"] for event in events], ["2\n", 0])

    def test_background_job_of_the_winner_goes_on(self):
        parent, (winner, _) = self.family()
        self.bash(winner, BASH_COUNTER)
        self.merge(parent, winner)
        seen = self.count(parent)
        eventually(lambda: self.count(parent) > seen + 10, "it counts on")

    def test_sibling_grandchild_and_own_parent_can_win(self):
        parent, (one, two) = self.family()
        grandchild, = self.fork(two)
        for sandbox, name in ((one, "one"), (two, "two"), (grandchild, "grandchild")):
            self.python(sandbox, f"state = '{name}'")
        self.merge(one, two)
        self.assertEqual(self.value(one, "state"), "'two'")
        self.assertEqual(self.info(grandchild)["parent"], one)
        self.merge(parent, grandchild)
        self.assertEqual(self.value(parent, "state"), "'grandchild'")
        self.merge(one, parent)  # whose id is an alias from here on
        self.assertEqual(self.value(one, "state"), "'grandchild'")
        self.assertEqual(self.api.delete(f"/v1/sandboxes/{parent}").json["merged_into"], one)

    def assert_refused(self, parent, winner, status, code):
        reply = self.merged(parent, winner)
        self.assertEqual((reply.status, reply.error), (status, code), reply.body)

    def test_refusals_change_nothing(self):
        parent, (child, other) = self.family()
        stranger = self.create()
        self.assert_refused(parent, stranger, 400, "invalid_request")
        self.assert_refused(parent, parent, 400, "invalid_request")
        self.assert_refused(parent, "winner", 400, "invalid_id")
        self.assert_refused(parent, "sbx_aaaaaaaaaaaaaaaaaaaa", 404, "sandbox_not_found")
        self.assert_refused("sbx_aaaaaaaaaaaaaaaaaaaa", child, 404, "sandbox_not_found")
        self.post(child, "pause")
        self.assert_refused(parent, child, 409, "sandbox_paused")
        self.assert_refused(child, parent, 409, "sandbox_paused")
        self.post(child, "resume")
        self.panic(other)
        self.assert_refused(parent, other, 409, "sandbox_failed")
        self.assertEqual(self.value(parent, "state"), "'parent'")
        self.assertEqual(self.value(child, "state"), "'parent'")
        self.merge(parent, child)
        self.assert_refused(parent, child, 404, "sandbox_merged")


if __name__ == "__main__":
    unittest.main(verbosity=2)
