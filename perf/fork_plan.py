"""What is measured how often: the whole sweep, or the quick one."""

from typing import NamedTuple


class Point(NamedTuple):
    """A fork into `n` of a guest of `ram` MiB that has changed `dirty` MiB, in so
    many pieces of an `area` (0: all in one), as part of an axis."""

    axis: str
    ram: int
    dirty: int
    n: int
    pieces: int = 1
    area: int = 0

    def __str__(self):
        pieces = f" in {self.pieces} pieces" if self.pieces > 1 else ""
        return f"RAM {self.ram} MiB, {self.dirty} MiB dirty{pieces}, n = {self.n}"


BASE_RAM, BASE_DIRTY = 1024, 128  # of what targets are about


class Plan:
    def __init__(self, quick, mode, rounds=None, idle_children=None):
        self.quick, self.mode = quick, mode
        self.rounds = rounds or (3 if quick else 10)
        self.creates = 10 if quick else 50
        self.create_ram = 512
        self.calibration_ram = (BASE_RAM,) if quick else (256, BASE_RAM, 4096)

        self.points = self._points()
        self.depth = 4 if quick else 16
        self.depth_chains = 1 if quick else 3
        self.depth_point = Point("depth", 512, 16, 1)
        self.tax_point = Point("tax", BASE_RAM, BASE_DIRTY, 1)
        self.tax_rounds = min(self.rounds, 5)

        self.idle_children = idle_children or (100 if quick else 1000)
        self.idle_ram = 512
        self.idle_step = 250  # in one fork
        self.idle_seconds = 2 if quick else 5

        dirty = sorted({point.dirty for point in self.points if point.axis == "dirty"})
        counts = sorted({point.n for point in self.points if point.axis == "n"})
        self.copy_dirty = dirty
        self.python = [(BASE_DIRTY, n) for n in counts] + [(d, 1) for d in dirty
                                                           if d != BASE_DIRTY]
        self.fork2 = self._fork2(counts)

    def _points(self):
        quick, base = self.quick, (BASE_RAM, BASE_DIRTY)
        dirty_ram = 1024 if quick else 2048
        dirty = (16, 128, 512) if quick else (16, 64, 128, 256, 512, 1024)
        ram = (512, 2048) if quick else (512, 1024, 2048, 4096)
        pieces = (1, 64) if quick else (1, 8, 64, 512)
        points = [Point("dirty", dirty_ram, d, 1) for d in dirty]
        points += [Point("ram", r, 64, 1) for r in ram]
        points += [Point("n", *base, n) for n in ((1, 5, 100) if quick else
                                                  (1, 2, 5, 10, 20, 50, 100))]
        points += [Point("pieces", BASE_RAM, 16, 1, p, 256) for p in pieces]
        if not quick:
            points += [Point("cross", BASE_RAM, d, n) for d in (16, 512) for n in (1, 5, 100)]
        return points

    def _fork2(self, counts):
        """(ram, dirty, n, sparse): all of memory mapped, and only what is dirty."""
        runs = [(BASE_RAM, BASE_DIRTY, n, False) for n in counts]
        if not self.quick:
            runs += [(BASE_RAM, d, 100, False) for d in (16, 512)]
        runs += [(point.ram, point.dirty, 1, False) for point in self.points
                 if point.axis == "dirty" and (point.ram, point.dirty) != (BASE_RAM, BASE_DIRTY)]
        return runs + [(BASE_RAM, BASE_DIRTY, 100, True)]

    def rounds_of(self, count):
        """Many children take long and give many samples each."""
        if count >= 50:
            return max(2, self.rounds // 2)
        return self.rounds

    def groups(self):
        """Points by daemon: [((ram, pool), points)...]."""
        groups = {}
        for point in self.points:
            # n + 1 shells for the fork: the parent goes on in one of them.
            pool = 8 if point.n < 8 else 24 if point.n <= 20 else 104
            groups.setdefault((point.ram, pool), []).append(point)
        return sorted(groups.items())
