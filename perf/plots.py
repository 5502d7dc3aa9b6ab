"""Plots as inline SVG that needs no script and no other file. Colours are classes
of the page (s0, s1, ...), so that it can be light or dark."""

import math
from html import escape

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 46
COLOURS = 8


def number(value):
    """Short, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Axis:
    """Numbers to positions between `start` and `end`, linear or logarithmic."""

    def __init__(self, values, start, end, log=False, ticks=None):
        values = [value for value in values if not log or value > 0] or [1]
        self.log, self.start, self.end = log, start, end
        low, high = min(values), max(values)
        if log:
            self.low, self.high = low / 1.15, high * 1.15
            self.ticks = ticks or self._log_ticks()
        else:
            self.low = min(0, low)
            step = self._step(high - self.low)
            self.high = max(math.ceil(high / step) * step, self.low + step)
            count = round((self.high - self.low) / step)
            self.ticks = ticks or [self.low + step * i for i in range(count + 1)]

    @staticmethod
    def _step(span):
        rough = (span or 1) / 5
        unit = 10 ** math.floor(math.log10(rough))
        return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)

    def _log_ticks(self):
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first <= 3 else (1,)
        ticks = [factor * 10.0 ** power for power in range(first, last + 1) for factor in factors]
        return [tick for tick in ticks if self.low <= tick <= self.high]

    def at(self, value):
        if self.log:
            value = max(value, self.low)
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def _frame(x, y, x_title, y_title, names):
    parts = []
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/><text x="{LEFT - 6}" y="{at + 4:.1f}" '
                     f'text-anchor="end">{number(tick)}</text>')
    for tick in x.ticks:
        at = x.at(tick)
        text = names[tick] if names else number(tick)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" '
                     f'text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" '
                 f'y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" '
                 f'text-anchor="middle">{escape(x_title)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" '
                 f'transform="rotate(-90 14 {middle})">{escape(y_title)}</text>')
    return parts


def _figure(title, parts, names, note):
    legend = "".join(f'<li class="s{i % COLOURS}">{escape(name)}</li>'
                     for i, name in enumerate(names))
    caption = f"<figcaption>{escape(title)}" + (f" <span>{escape(note)}</span>" if note else "")
    return (f'<figure>{caption}</figcaption><ul class="legend">{legend}</ul>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
            + "".join(parts) + "</svg></figure>")


def lines(title, series, x_title, y_title, log_x=False, log_y=False, limit=None, note=""):
    """`series`: [(name, [(x, y)...])]. `limit`: (y, what it is), drawn dashed."""
    series = [(name, points) for name, points in series if points]
    if not series:
        return ""
    xs = sorted({x for _, points in series for x, _ in points})
    ys = [y for _, points in series for _, y in points] + ([limit[0]] if limit else [])
    x = Axis(xs, LEFT, WIDTH - RIGHT, log_x, xs if log_x and len(xs) <= 12 else None)
    y = Axis(ys, HEIGHT - BOTTOM, TOP, log_y)
    parts = _frame(x, y, x_title, y_title, None)
    if limit:
        at = y.at(limit[0])
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/><text class="limit" x="{WIDTH - RIGHT}" '
                     f'y="{at - 5:.1f}" text-anchor="end">{escape(limit[1])}</text>')
    for i, (name, points) in enumerate(series):
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in sorted(points))
        parts.append(f'<g class="s{i % COLOURS}"><polyline points="{path}"/>')
        parts += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3.5"><title>{escape(name)}: '
                  f"{number(a)}: {number(b)}</title></circle>" for a, b in points]
        parts.append("</g>")
    return _figure(title, parts, [name for name, _ in series], note)


def cdf(title, series, x_title, y_title, log_x=False, note=""):
    """`series`: [(name, samples)]; what part of them is at most so large."""
    series = [(name, sorted(samples)) for name, samples in series if samples]
    if not series:
        return ""
    x = Axis([value for _, samples in series for value in samples], LEFT, WIDTH - RIGHT, log_x)
    y = Axis([0, 100], HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, x_title, y_title, None)
    for i, (name, samples) in enumerate(series):
        points = [(x.at(samples[0]), y.at(0))]
        for rank, value in enumerate(samples, 1):
            points.append((x.at(value), points[-1][1]))
            points.append((x.at(value), y.at(100 * rank / len(samples))))
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<g class="s{i % COLOURS}"><polyline points="{path}"><title>{escape(name)}'
                     f": {len(samples)} samples</title></polyline></g>")
    return _figure(title, parts, [name for name, _ in series], note)


def bars(title, columns, names, y_title, limit=None, note="", total=True):
    """Stacked bars: `columns`: [(label, [value of each of `names`])]. `total`: with
    the sum above each."""
    if not columns:
        return ""
    labels = {i + 0.5: label for i, (label, _) in enumerate(columns)}
    x = Axis([0, len(columns)], LEFT, WIDTH - RIGHT, ticks=list(labels))
    x.low, x.high = 0, len(columns)
    tops = [sum(values) for _, values in columns] + ([limit[0]] if limit else [])
    y = Axis([0, *tops], HEIGHT - BOTTOM, TOP)
    parts = _frame(x, y, "", y_title, labels)
    width = min(70.0, (WIDTH - LEFT - RIGHT) / len(columns) * 0.6)
    for at, (label, values) in zip(labels, columns):
        below = 0.0
        for i, (name, value) in enumerate(zip(names, values)):
            top = y.at(below + value)
            parts.append(f'<rect class="s{i % COLOURS}" x="{x.at(at) - width / 2:.1f}" '
                         f'y="{top:.1f}" width="{width:.1f}" '
                         f'height="{max(0, y.at(below) - top):.1f}"><title>{escape(label)}, '
                         f"{escape(name)}: {number(value)}</title></rect>")
            below += value
        if total:
            parts.append(f'<text x="{x.at(at):.1f}" y="{y.at(below) - 5:.1f}" '
                         f'text-anchor="middle">{number(below)}</text>')
    if limit:
        at = y.at(limit[0])
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/><text class="limit" x="{WIDTH - RIGHT}" '
                     f'y="{at - 5:.1f}" text-anchor="end">{escape(limit[1])}</text>')
    return _figure(title, parts, names, note)
