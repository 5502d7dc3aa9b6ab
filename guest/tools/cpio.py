"""Reproducible newc archives (Linux Documentation/driver-api/early-userspace).

The bytes depend on names, modes, owners, times and contents alone: entries are
sorted, inode numbers count from 1, devices are 0."""

import stat

ALIGN = b"\0" * 3


class Entry:
    """One file. `data` is bytes, or a function that returns them; `links` are
    further names of the same file."""

    def __init__(self, mode, data=b"", mtime=0, uid=0, gid=0, rdev=(0, 0)):
        self.mode, self.data, self.mtime = mode, data, mtime
        self.uid, self.gid, self.rdev = uid, gid, rdev
        self.links = 1

    def content(self):
        return self.data() if callable(self.data) else self.data


def directory(mode=0o755):
    return Entry(stat.S_IFDIR | mode)


def file(data, mode=0o644):
    return Entry(stat.S_IFREG | mode, data)


def symlink(target):
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def _record(out, name, entry, inode, data):
    name = name.encode() + b"\0"
    fields = (inode, entry.mode, entry.uid, entry.gid, entry.links, entry.mtime, len(data),
              0, 0, *entry.rdev, len(name), 0)
    out.write(b"070701" + b"".join(b"%08X" % f for f in fields) + name)
    out.write(ALIGN[:-(110 + len(name)) % 4])
    out.write(data)
    out.write(ALIGN[:-len(data) % 4])


def write(out, entries):
    """Writes {name without leading slash: Entry}. The same Entry under several
    names becomes one file with hard links."""
    inodes = {}
    names = sorted(entries, key=lambda n: n.encode())
    for entry in set(entries.values()):
        entry.links = 2 if stat.S_ISDIR(entry.mode) else 0
    for name in names:
        if not stat.S_ISDIR(entries[name].mode):
            entries[name].links += 1
    for name in names:
        entry = entries[name]
        first = entry not in inodes
        inode = inodes.setdefault(entry, len(inodes) + 1)
        _record(out, name, entry, inode, entry.content() if first else b"")
    trailer = Entry(0)
    _record(out, "TRAILER!!!", trailer, 0, b"")


def write_file(path, entries):
    with open(path, "wb") as out:
        write(out, entries)
        # 512 is what cpio(1) pads to; archives that follow start aligned.
        out.write(b"\0" * (-out.tell() % 512))
