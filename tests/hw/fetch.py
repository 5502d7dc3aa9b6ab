"""The kernel of the test bed: Debian's cloud kernel, the pinned one of the
guests, as a bootable image with its KVM modules.

    python3 tests/hw/fetch.py

prints the directory in the cache (RAMET_CACHE, default ~/.cache/ramet) that
holds vmlinuz and *.ko, and fetches the package when it is not there."""

import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUEST = os.path.join(TREE, "guest")
sys.path.insert(0, GUEST)
from tools import common  # noqa: E402

MODULES = ("irqbypass.ko", "kvm.ko", "kvm-amd.ko")


def _kernel_fetch():
    """guest/kernel-fetch, a script, as a module."""
    loader = importlib.machinery.SourceFileLoader(
        "kernel_fetch", os.path.join(GUEST, "kernel-fetch")
    )
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(loader.name, loader)
    )
    loader.exec_module(module)
    return module


def _name(pin):
    return f"{pin.package}_{pin.version}"


def cached():
    """The directory in the cache, or None."""
    pin = _kernel_fetch().pins()["cloud"]
    path = os.path.join(common.cache_dir(), "hw", _name(pin))
    return path if os.path.isdir(path) else None


def _unpack(deb, directory):
    with tempfile.TemporaryDirectory(prefix="ramet-hw-kernel-") as tree:
        common.run("dpkg-deb", "-x", deb, tree)
        wanted = set(MODULES)
        for top, _, names in os.walk(tree):
            for name in names:
                if name.startswith("vmlinuz-"):
                    shutil.copyfile(os.path.join(top, name), os.path.join(directory, "vmlinuz"))
                elif name in wanted:
                    shutil.copyfile(os.path.join(top, name), os.path.join(directory, name))
                    wanted.remove(name)
    if wanted or not os.path.exists(os.path.join(directory, "vmlinuz")):
        raise common.BuildError(f"{os.path.basename(deb)} lacks the kernel or one of {MODULES}")


def fetch():
    """The directory in the cache, filled if need be."""
    kernels = _kernel_fetch()
    pin = kernels.pins()["cloud"]

    def build(directory):
        package, version, sha256 = kernels.choose(pin)
        with tempfile.TemporaryDirectory(prefix="ramet-hw-deb-") as tmp:
            _unpack(kernels.download(package, version, sha256, tmp), directory)

    return common.cached("hw", _name(pin), build)


if __name__ == "__main__":
    common.main(lambda: print(fetch()))
