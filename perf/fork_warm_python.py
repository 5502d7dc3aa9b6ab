#!/usr/bin/python3
"""fork(2) of a warm CPython: the least that any copy of a Python program costs.

    fork_warm_python.py MIB CHILDREN ROUNDS

A heap of MIB is written page by page, then the interpreter forks itself; each
child evaluates "1" and answers through a pipe. Prints JSON: ms from the first
fork to the first and the last answer, and until the parent goes on.
"""

import gc
import json
import os
import sys
import time

PAGE = 4096


def round_(heap, count, number):
    heap[number % PAGE::PAGE] = os.urandom(len(heap) // PAGE)
    read, write = os.pipe()
    end_read, end_write = os.pipe()
    pids = []
    start = time.perf_counter()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(end_write)
            os.write(write, repr(eval("1")).encode())
            os.read(end_read, 1)
            os._exit(0)
        pids.append(pid)
    parent = time.perf_counter()
    first = last = None
    answers = 0
    os.close(write)
    while answers < count:
        data = os.read(read, count)
        if not data:
            raise RuntimeError("a child died")
        answers += len(data)
        last = time.perf_counter()
        first = first or last
    for fd in (end_write, end_read, read):
        os.close(fd)
    for pid in pids:
        os.waitpid(pid, 0)
    return [(moment - start) * 1e3 for moment in (parent, first, last)]


def main():
    mib, count, rounds = (int(argument) for argument in sys.argv[1:])
    heap = bytearray(os.urandom(1 << 20) * mib)
    gc.freeze()
    samples = [round_(heap, count, number) for number in range(rounds)]
    print(json.dumps(dict(zip(("parent", "first", "all"), zip(*samples)))))


if __name__ == "__main__":
    main()
