"""The kernel modules of a guest: guest/modules.list, with what they need."""

import os
import re

from tools import cpio
from tools.common import GUEST, BuildError, read_lines

LIST = os.path.join(GUEST, "modules.list")


def canonical(name):
    return name.replace("-", "_")


def index(tree):
    """{module name: path} of all modules below a directory."""
    found = {}
    for root, _, names in os.walk(tree):
        for name in names:
            if name.endswith(".ko"):
                found[canonical(name[:-3])] = os.path.join(root, name)
    return found


def dependencies(data):
    """The names in the `depends=` of a module's .modinfo section."""
    match = re.search(rb"\0depends=([^\0]*)\0", data)
    return match.group(1).decode().split(",") if match and match.group(1) else []


def load_order(tree):
    """[(path, parameters)] of the listed modules, dependencies first."""
    known, done, order = index(tree), set(), []

    def add(name, parameters):
        name = canonical(name)
        if name in done:
            return
        done.add(name)
        if name not in known:
            raise BuildError("the kernel has no module %s, which %s asks for" % (name, LIST))
        with open(known[name], "rb") as f:
            for needed in dependencies(f.read()):
                add(needed, "")
        order.append((known[name], parameters))

    for line in read_lines(LIST):
        name, _, parameters = line.strip().partition(" ")
        add(name, parameters.strip())
    return order


def archive(tree, release, path):
    """Writes the cpio archive with the modules and the agent's ramet.load."""
    base = "usr/lib/modules/" + release
    entries = {"usr": cpio.directory(), "usr/lib": cpio.directory(),
               "usr/lib/modules": cpio.directory(), base: cpio.directory()}
    lines = []
    for source, parameters in load_order(tree):
        name = os.path.basename(source)
        with open(source, "rb") as f:
            entries["%s/%s" % (base, name)] = cpio.file(f.read())
        lines.append(("%s %s" % (name, parameters)).strip() + "\n")
    entries[base + "/ramet.load"] = cpio.file("".join(lines).encode())
    cpio.write_file(path, entries)
