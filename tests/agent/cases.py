"""What test cases of the agent begin with: an agent, and a directory to work in."""

import os
import tempfile
import unittest

from wire import Agent


class AgentCase(unittest.TestCase):
    """One agent for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        cls.agent = Agent()
        cls.addClassCleanup(cls.agent.close)


class DirectoryCase(AgentCase):
    """And an empty directory, in memory, for each test."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory(prefix="ramet-test-", dir="/dev/shm")
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name

    def path(self, name):
        return os.path.join(self.dir, name)
