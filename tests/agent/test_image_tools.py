"""The scripts that make kernels and images, without the network.

RAMET_SLOW_TESTS=1 adds a test that builds an image twice (two minutes, root)."""

import importlib.machinery
import importlib.util
import io
import lzma
import bz2
import gzip
import multiprocessing
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUEST = os.path.join(ROOT, "guest")
sys.path.insert(0, GUEST)
from tools import bzimage, common, cpio, modules, recipe  # noqa: E402
from tools.common import BuildError  # noqa: E402


def script(name):
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"),
                                                  os.path.join(GUEST, name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class TreeCase(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory(prefix="ramet-tools-")
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name

    def put(self, name, text):
        path = os.path.join(self.dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        return path


class Cpio(TreeCase):
    def entries(self):
        shared = cpio.file(b"shared content")
        return {"b": cpio.file(b"12345", 0o600), "a": cpio.directory(), "a/x": shared,
                "a/y": shared, "link": cpio.symlink("a/x")}

    def archive(self, entries):
        out = io.BytesIO()
        cpio.write(out, entries)
        return out.getvalue()

    def test_order_of_insertion_does_not_matter(self):
        entries = self.entries()
        backwards = dict(reversed(list(self.entries().items())))
        self.assertEqual(self.archive(entries), self.archive(backwards))

    @unittest.skipUnless(shutil.which("cpio"), "needs cpio")
    def test_cpio_reads_it(self):
        path = self.put("t.cpio", b"")
        cpio.write_file(path, self.entries())
        out = os.path.join(self.dir, "out")
        os.mkdir(out)
        with open(path, "rb") as f:
            subprocess.run(["cpio", "-idm", "--quiet"], stdin=f, cwd=out, check=True)
        self.assertEqual(sorted(os.listdir(out)), ["a", "b", "link"])
        with open(os.path.join(out, "a/y"), "rb") as f:
            self.assertEqual(f.read(), b"shared content")
        self.assertEqual(os.stat(os.path.join(out, "a/x")).st_nlink, 2)
        self.assertEqual(os.stat(os.path.join(out, "b")).st_mode, stat.S_IFREG | 0o600)
        self.assertEqual(os.readlink(os.path.join(out, "link")), "a/x")

    def test_size_is_padded(self):
        path = self.put("t.cpio", b"")
        cpio.write_file(path, self.entries())
        self.assertEqual(os.path.getsize(path) % 512, 0)


class Recipes(TreeCase):
    def recipe(self, text):
        return recipe.Recipe(self.put("r.recipe", "suite s\nepoch 1\n" + text))

    def test_remove_and_keep(self):
        r = self.recipe("remove /usr/share/doc/* /a/*.so /b\nkeep /a/keep.so\n")
        self.assertTrue(r.keeps("/usr/share/doc"))
        self.assertFalse(r.keeps("/usr/share/doc/x"))
        self.assertFalse(r.keeps("/usr/share/doc/x/y/z"))
        self.assertFalse(r.keeps("/a/1.so"))
        self.assertTrue(r.keeps("/a/keep.so"))
        self.assertTrue(r.keeps("/a/d/1.so"))
        self.assertFalse(r.keeps("/b/anything"))
        self.assertTrue(r.keeps("/bc"))

    def test_include_adds_up(self):
        self.put("base.recipe", "suite s\nepoch 5\npackages a\nwrite /f x\\ny\n")
        r = recipe.Recipe(self.put("more.recipe", "include base\npackages b c # comment\n"))
        self.assertEqual((r.packages, r.epoch, r.writes), (["a", "b", "c"], 5, {"/f": "x\ny"}))
        self.assertEqual(len(r.files), 2)

    def test_errors(self):
        for text in ("nonsense 1\n", "remove relative\n", "include absent\n", "include r\n"):
            self.assertRaises(BuildError, self.recipe, text)
        self.assertRaises(BuildError, recipe.Recipe, self.put("x.recipe", "suite s\n"))
        self.assertRaises(BuildError, recipe.find, "no-such-template")

    def test_the_projects_recipes_are_well_formed(self):
        self.assertIn("python3", recipe.find("python").packages)
        self.assertIn("stress-ng", recipe.find("test").packages)


ELF = b"\x7fELF\x02\x01" + bytes(50) + b"\x04\0\0\0Xen\0" + os.urandom(100) + bytes(200_000)


class BzImage(unittest.TestCase):
    def image(self, payload, size=len(ELF), version=0x20f):
        image = bytearray(1024 + 100)
        image[0x1f1] = 1
        image[0x202:0x206] = b"HdrS"
        struct.pack_into("<H", image, 0x206, version)
        payload = payload + struct.pack("<I", size)
        struct.pack_into("<II", image, 0x248, 100, len(payload))
        return bytes(image) + payload + b"tail"

    def tool(self, *command):
        if not shutil.which(command[0]):
            self.skipTest("needs " + command[0])
        return subprocess.run(command, input=ELF, stdout=subprocess.PIPE, check=True).stdout

    def test_all_compressions(self):
        for data in (gzip.compress(ELF), lzma.compress(ELF), bz2.compress(ELF),
                     lzma.compress(ELF, lzma.FORMAT_ALONE)):
            self.assertEqual(bzimage.extract_vmlinux(self.image(data)), ELF)

    def test_lz4(self):
        data = self.tool("lz4", "-lc", "-", "-")
        self.assertEqual(bzimage.extract_vmlinux(self.image(data)), ELF)

    def test_zstd(self):
        data = self.tool("zstd", "-cq")
        self.assertEqual(bzimage.extract_vmlinux(self.image(data)), ELF)

    def test_errors(self):
        good = gzip.compress(ELF)
        for image in (b"", bytes(4096), self.image(good, size=5), self.image(b"unknown!" * 9),
                      self.image(good, version=0x207), self.image(good)[:-100],
                      self.image(good[:-50] + bytes(50)),
                      self.image(gzip.compress(ELF.replace(b"Xen\0", b"Zen\0"))),
                      self.image(gzip.compress(b"not elf"), size=7)):
            self.assertRaises(BuildError, bzimage.extract_vmlinux, image)


class Modules(TreeCase):
    def module(self, name, depends=""):
        self.put("m/kernel/%s.ko" % name, b"\x7fELF\0license=GPL\0depends=%s\0name=x\0"
                 % depends.encode())

    def order(self, text):
        with mock.patch.object(modules, "LIST", self.put("list", text)):
            return [(os.path.basename(p), q) for p, q in
                    modules.load_order(os.path.join(self.dir, "m"))]

    def test_dependencies_come_first_and_once(self):
        self.module("a-one", "b_two,c")
        self.module("b-two", "c")
        self.module("c")
        self.assertEqual(self.order("a-one x=1 y=2\nc\n"),
                         [("c.ko", ""), ("b-two.ko", ""), ("a-one.ko", "x=1 y=2")])

    def test_missing_module(self):
        self.module("a", "nowhere")
        self.assertRaises(BuildError, self.order, "a\n")

    def test_the_projects_list(self):
        names = [line.split()[0] for line in common.read_lines(modules.LIST)]
        self.assertEqual(names[:3], ["xen-gntalloc", "xen-evtchn", "xen-privcmd"])


class KernelPin(unittest.TestCase):
    def setUp(self):
        self.fetch = script("kernel-fetch")
        self.pin = self.fetch.pins()["cloud"]

    def choose(self, offered, **env):
        with mock.patch.object(self.fetch, "versions", lambda package: offered.get(package, [])), \
                mock.patch.object(self.fetch, "run", lambda *a, **k: b"  Depends: linux-image-7-x\n"), \
                mock.patch.dict(os.environ, env), mock.patch.object(self.fetch, "say"):
            return self.fetch.choose(self.pin)

    def test_pinned_version(self):
        self.assertEqual(self.choose({self.pin.package: ["9", self.pin.version]}),
                         (self.pin.package, self.pin.version, self.pin.sha256))

    def test_gone_version_names_the_newest(self):
        with self.assertRaises(BuildError) as e:
            self.choose({"linux-image-7-x": ["7.2", "7.1"]}, RAMET_KERNEL_FALLBACK="")
        self.assertIn("linux-image-7-x 7.2", str(e.exception))

    def test_fallback_takes_the_newest(self):
        self.assertEqual(self.choose({"linux-image-7-x": ["7.2"]}, RAMET_KERNEL_FALLBACK="1"),
                         ("linux-image-7-x", "7.2", None))

    def test_archive_without_kernels(self):
        self.assertRaises(BuildError, self.choose, {}, RAMET_KERNEL_FALLBACK="1")

    def test_both_kernels_are_pinned(self):
        self.assertEqual(set(self.fetch.pins()), {"cloud", "generic"})


def race(args):
    directory, number = args
    os.environ["RAMET_CACHE"] = directory

    def build(tmp):
        with open(os.path.join(directory, "builds"), "a", encoding="utf-8") as f:
            f.write("x")
        with open(os.path.join(tmp, "file"), "w", encoding="utf-8") as f:
            f.write("built by %d" % number)

    with open(os.path.join(common.cached("k", "n", build), "file"), encoding="utf-8") as f:
        return f.read()


class Cache(TreeCase):
    def setUp(self):
        super().setUp()
        patch = mock.patch.dict(os.environ, {"RAMET_CACHE": self.dir})
        patch.start()
        self.addCleanup(patch.stop)

    def test_racing_builders_build_once(self):
        with multiprocessing.Pool(6) as pool:
            results = pool.map(race, [(self.dir, i) for i in range(24)], chunksize=1)
        self.assertEqual(len(set(results)), 1)
        self.assertEqual(os.path.getsize(os.path.join(self.dir, "builds")), 1)

    def test_failed_build_leaves_nothing(self):
        def build(tmp):
            self.put(os.path.join(tmp, "half"), "x")
            raise BuildError("failed")
        self.assertRaises(BuildError, common.cached, "k", "n", build)
        self.assertEqual(os.listdir(os.path.join(self.dir, "k")), ["n.lock"])

    def test_leftovers_of_a_killed_builder_are_removed(self):
        self.put("k/.n-dead/half", "x")
        common.cached("k", "n", lambda tmp: None)
        self.assertEqual(sorted(os.listdir(os.path.join(self.dir, "k"))), ["n", "n.lock"])

    def test_key_depends_on_names_and_contents(self):
        a, b = self.put("a", "1"), self.put("b", "1")
        keys = {common.sha256_files(a), common.sha256_files(b), common.sha256_files(a, b)}
        self.put("a", "2")
        keys.add(common.sha256_files(a))
        self.assertEqual(len(keys), 4)


class Images(TreeCase):
    def setUp(self):
        super().setUp()
        self.build = script("image-build")

    def test_byte_code_follows_a_clamped_source(self):
        source = cpio.Entry(stat.S_IFREG, b"x = 1\n", 1000)
        code = cpio.Entry(stat.S_IFREG, struct.pack("<4sIII", b"mgc\n", 0, 2000, 6) + b"code")
        hashed = cpio.Entry(stat.S_IFREG, struct.pack("<4sIII", b"mgc\n", 1, 7, 7) + b"code")
        self.build.byte_code_match({"m.py": source, "__pycache__/m.cpython-311.pyc": code,
                                    "__pycache__/m.cpython-312.pyc": hashed})
        self.assertEqual(code.data, struct.pack("<4sIII", b"mgc\n", 0, 1000, 6) + b"code")
        self.assertEqual(struct.unpack_from("<II", hashed.data, 4), (1, 7))

    def test_byte_code_of_another_source_is_refused(self):
        source = cpio.Entry(stat.S_IFREG, b"x = 1\n", 1000)
        code = cpio.Entry(stat.S_IFREG, struct.pack("<4sIII", b"mgc\n", 0, 2000, 60))
        self.assertRaises(BuildError, self.build.byte_code_match,
                          {"m.py": source, "__pycache__/m.cpython-311.pyc": code})

    @unittest.skipUnless(shutil.which("lz4"), "needs lz4")
    def test_compressed_archive_ends_with_a_zero_block(self):
        path = self.put("root.cpio", b"070701" * 1000)
        self.assertEqual(self.build.compress(path), 6000)
        with open(path + ".lz4", "rb") as f:
            data = f.read()
        self.assertEqual(data[:4], b"\x02\x21\x4c\x18")  # the kernel's magic
        size, = struct.unpack_from("<I", data, 4)
        self.assertEqual(data[8 + size:], bytes(len(data) - 8 - size))
        self.assertGreaterEqual(len(data) - 8 - size, 512)
        self.assertFalse(os.path.exists(path))

    @unittest.skipUnless(os.environ.get("RAMET_SLOW_TESTS") == "1",
                         "takes two minutes; RAMET_SLOW_TESTS=1 runs it")
    def test_second_build_is_identical(self):
        images = []
        for name in ("first", "second"):
            out = os.path.join(self.dir, name)
            subprocess.run([os.path.join(GUEST, "image-build"), "--output", out, "python"],
                           check=True, stdout=subprocess.DEVNULL)
            with open(os.path.join(out, "root.cpio.lz4"), "rb") as f:
                images.append(f.read())
        self.assertTrue(images[0] == images[1], "the two builds differ")


if __name__ == "__main__":
    unittest.main()
