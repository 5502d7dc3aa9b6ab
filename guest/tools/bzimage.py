"""The ELF kernel inside a bzImage (Linux Documentation/arch/x86/boot.rst)."""

import bz2
import lzma
import struct
import zlib

from tools.common import BuildError, run

FORMATS = (  # magic, name, decompressor
    (b"\x1f\x8b", "gzip", lambda data: zlib.decompressobj(31).decompress(data)),
    (b"\xfd7zXZ\0", "xz", lambda data: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)),
    (b"BZh", "bzip2", lambda data: bz2.BZ2Decompressor().decompress(data)),
    (b"\x5d\0\0", "lzma", lambda data: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data)),
    (b"\x02\x21\x4c\x18", "lz4", lambda data: run("lz4", "-dc", input=data)),
    (b"\x28\xb5\x2f\xfd", "zstd", lambda data: run("zstd", "-dcq", input=data)),
)


def payload(image):
    """The compressed payload and the size it says it has unpacked."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise BuildError("not a bzImage: no HdrS signature")
    version, = struct.unpack_from("<H", image, 0x206)
    if version < 0x208:
        raise BuildError("bzImage: boot protocol %#x has no payload fields" % version)
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1f1] or 4) + 1) * 512 + offset
    if length < 8 or start + length > len(image):
        raise BuildError("bzImage: the payload lies outside the file")
    data = image[start:start + length]
    return data[:-4], struct.unpack("<I", data[-4:])[0]


def extract_vmlinux(image):
    """The uncompressed ELF file. Checks that it can be a Xen PV guest."""
    data, size = payload(image)
    for magic, name, decompress in FORMATS:
        if data.startswith(magic):
            try:
                elf = decompress(data)
            except (zlib.error, lzma.LZMAError, OSError) as e:
                raise BuildError("bzImage: broken %s payload: %s" % (name, e)) from None
            break
    else:
        raise BuildError("bzImage: unknown compression, payload starts %s" % data[:8].hex())
    # The build appends relocations to the ELF file on some configurations.
    if len(elf) != size or elf[:6] != b"\x7fELF\x02\x01":
        raise BuildError("bzImage: the %s payload is not a 64-bit ELF file of %d bytes"
                         % (name, size))
    if b"\x04\0\0\0" not in elf or b"Xen\0" not in elf:
        raise BuildError("the kernel has no Xen notes: it is built without CONFIG_XEN_PV")
    return elf
