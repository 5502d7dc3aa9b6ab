"""What differs between two sandboxes."""

import difflib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, List, Mapping, Optional

from ._types import parse_time, text_bytes


@dataclass(frozen=True)
class DiffSide:
    """A file as it is in one of the two. ``kind``: "file", "directory", "symlink" or "other"."""

    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: datetime

    @classmethod
    def from_reply(cls, reply: Optional[Mapping[str, Any]]) -> "Optional[DiffSide]":
        if reply is None:
            return None
        return cls(
            kind=reply["kind"],
            size=reply["size"],
            mode=int(reply["mode"], 8),
            uid=reply["uid"],
            gid=reply["gid"],
            mtime=parse_time(reply["mtime"]),
        )


@dataclass(frozen=True)
class DiffEntry:
    """One path that differs.

    ``change`` is "added", "removed" or "modified"; ``changed`` says of what was
    modified in which way: "content", "mode", "owner", "kind" (a file has become
    a directory, ...) or "unreadable" (its content could not be compared).
    ``old`` is None for what was added, ``new`` for what was removed.
    ``old_text`` and ``new_text`` are there when texts were asked for and both
    sides are small text files; else ``text_omitted`` says why not: "binary",
    "too_large", "limit" (the reply has enough already) or "changed" (meanwhile).
    """

    path: str
    change: str
    changed: List[str]
    old: Optional[DiffSide]
    new: Optional[DiffSide]
    old_text: Optional[str] = field(default=None, repr=False)
    new_text: Optional[str] = field(default=None, repr=False)
    text_omitted: Optional[str] = None

    @property
    def unified(self) -> str:
        """The change of the text as ``diff -u`` writes it; "" when there is none."""
        if self.old_text is None and self.new_text is None:
            return ""
        lines = difflib.unified_diff(
            _lines(self.old_text),
            _lines(self.new_text),
            "/dev/null" if self.old is None else "a" + self.path,
            "/dev/null" if self.new is None else "b" + self.path,
        )
        return "".join(
            line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
            for line in lines
        )

    @classmethod
    def from_reply(cls, change: str, reply: Mapping[str, Any]) -> "DiffEntry":
        path = text_bytes(reply, "path", "path_encoding")
        text = reply.get("text") or {}
        return cls(
            path=path.decode("utf-8", "surrogateescape"),
            change=change,
            changed=list(reply.get("changed", [])),
            old=DiffSide.from_reply(reply["old"]),
            new=DiffSide.from_reply(reply["new"]),
            old_text=text.get("old"),
            new_text=text.get("new"),
            text_omitted=reply.get("text_omitted"),
        )


def _lines(text: Optional[str]) -> List[str]:
    """Lines as diff(1) counts them: nothing but a newline ends one."""
    if not text:
        return []
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


@dataclass(frozen=True)
class DiffMemory:
    """Pages of 4 KiB in which the memory of the two can differ.

    ``pages``: those that are not shared by both; they may hold the same bytes
    for all that. ``pages_a``, ``pages_b``: those that each has written to since it was
    last forked or created.
    """

    pages: int
    pages_a: int
    pages_b: int


@dataclass(frozen=True)
class Diff:
    """What is different in another sandbox: paths that it has and this one has not
    (``added``), the other way round (``removed``), and those that both have but
    not alike (``modified``), each list sorted."""

    added: List[str]
    removed: List[str]
    modified: List[str]
    #: The details, sorted by path.
    entries: List[DiffEntry] = field(repr=False)
    #: None when it is not known: a sandbox was booted and not copied from a template.
    memory: Optional[DiffMemory] = None
    timings: Dict[str, float] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        """Whether any file differs."""
        return bool(self.entries)

    @property
    def text(self) -> str:
        """All changes of texts as one patch."""
        return "".join(entry.unified for entry in self.entries)

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> "Diff":
        entries = [
            DiffEntry.from_reply(change, item)
            for change in ("added", "removed", "modified")
            for item in reply[change]
        ]
        paths = {
            change: sorted(entry.path for entry in entries if entry.change == change)
            for change in ("added", "removed", "modified")
        }
        memory = reply["memory"]
        return cls(
            added=paths["added"],
            removed=paths["removed"],
            modified=paths["modified"],
            entries=sorted(entries, key=lambda entry: entry.path),
            memory=None if memory is None else DiffMemory(
                memory["pages"], memory["pages_a"], memory["pages_b"]),
            timings=dict(reply["timings"]),
        )
