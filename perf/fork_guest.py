"""What runs inside the guests while forks are measured: memory of known content,
changed page by page, checked after a fork, and timed.

All of it is defined once in the parent; children inherit it with the memory.
"""

MIB = 1 << 20
MARKS = 64  # pages that each child writes of its own

SOURCE = r"""
import os, random, threading, time, zlib
MIB, PAGE = 1 << 20, 4096


def grow(mib, pieces, changed_mib):
    # A buffer of `mib`, none of its pages like another; stamp() changes
    # `changed_mib` of it, in so many pieces.
    global buf, spans
    noise = os.urandom(MIB)
    buf = bytearray(mib * MIB)
    for i in range(mib):
        at = i * 4099 % MIB
        buf[i * MIB:(i + 1) * MIB] = noise[at:] + noise[:at]
    length = changed_mib * MIB // pieces // PAGE * PAGE
    stride = mib * MIB // pieces // PAGE * PAGE
    spans = [(i * stride, i * stride + length) for i in range(pieces)]
    return len(buf) == mib * MIB


def stamp(number):
    # One random byte in each page of every piece.
    for start, end in spans:
        buf[start + number % 4000:end:PAGE] = os.urandom((end - start) // PAGE)


def checksum(first, last):
    return zlib.crc32(memoryview(buf)[first * MIB:last * MIB])


def checksums(shares):
    return [checksum(first, last) for first, last in shares]


def marks_at(count):
    step = len(buf) // count // PAGE * PAGE
    return range(4001, step * count, step)


def mark(value, count):
    for at in marks_at(count):
        buf[at] = value


def marks(count):
    return sorted({buf[at] for at in marks_at(count)})


def touch(write, shuffled, limit_ns):
    # Page after page for a while: how many, and in how many ns.
    pages = len(buf) // PAGE
    order = list(range(pages // 16))
    if shuffled:
        order = [16 * i + i * 7 % 16 for i in order]
        random.Random(1).shuffle(order)
    ones, done = b"\1" * 16, 0
    start = now = time.perf_counter_ns()
    for i in order:
        if shuffled:
            at = i * PAGE
            if write:
                buf[at] = 1
            else:
                buf[at]
            done += 1
        else:
            at = i * 16 * PAGE
            if write:
                buf[at:at + 16 * PAGE:PAGE] = ones
            else:
                bytes(buf[at:at + 16 * PAGE:PAGE])
            done += 16
        now = time.perf_counter_ns()
        if now - start > limit_ns:
            break
    return done, now - start


def watch(duration_ns):
    # A thread that does nothing but look at the clock.
    global watcher

    def look():
        global longest
        longest, last = 0, time.perf_counter_ns()
        end = last + duration_ns
        while last < end:
            now = time.perf_counter_ns()
            longest, last = max(longest, now - last), now

    watcher = threading.Thread(target=look)
    watcher.start()


def watched():
    # The longest that it could not.
    watcher.join()
    return longest
"""


def shares(mib, children, least=64):
    """Which MiB of a buffer each child checks: together everything, and each at
    least a part that is worth it."""
    length = min(mib, max(least, -(-mib // children)))
    found = []
    for i in range(children):
        first = min(i * mib // children, mib - length)
        found.append((first, first + length))
    return found
