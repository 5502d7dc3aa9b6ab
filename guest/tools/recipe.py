"""Image recipes: guest/images/<name>.recipe.

One directive per line; `#` starts a comment.
    include NAME        take over all directives of NAME.recipe
    suite NAME          Debian suite
    epoch SECONDS       SOURCE_DATE_EPOCH: no file is newer
    packages NAME...    installed beside the suite's essential packages
    remove GLOB...      paths that are left out, with all below them; a path is
                        absolute, `*` does not cross a slash, `**` does
    keep GLOB...        exceptions from remove
    write PATH TEXT     a file with this text (\\n: newline)
"""

import os
import re

from tools.common import GUEST, BuildError, read_lines

LISTS = ("packages", "remove", "keep")


def glob_regex(globs):
    """One expression that matches the globs and what is below them."""
    parts = []
    for glob in globs:
        if not glob.startswith("/"):
            raise BuildError("recipe: %s is not an absolute path" % glob)
        text = re.escape(glob).replace(r"\*\*", ".*").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        parts.append(text)
    return re.compile("(?:%s)(?:/.*)?" % "|".join(parts)) if parts else re.compile(r"(?!)")


class Recipe:
    def __init__(self, path):
        self.name = os.path.basename(path).removesuffix(".recipe")
        self.files = []  # the recipe and what it includes
        self.suite = self.epoch = None
        self.packages, self.remove, self.keep = [], [], []
        self.writes = {}
        self._read(path)
        if not self.suite or self.epoch is None:
            raise BuildError("%s: suite or epoch is missing" % path)
        self._removed, self._kept = glob_regex(self.remove), glob_regex(self.keep)

    def _read(self, path):
        if path in self.files:
            raise BuildError("%s includes itself" % path)
        if not os.path.exists(path):
            raise BuildError("there is no recipe %s" % path)
        self.files.append(path)
        for line in read_lines(path):
            word, _, rest = line.strip().partition(" ")
            self._directive(path, word, rest.strip())

    def _directive(self, path, word, rest):
        if word == "include":
            self._read(os.path.join(os.path.dirname(path), rest + ".recipe"))
        elif word == "suite":
            self.suite = rest
        elif word == "epoch":
            self.epoch = int(rest)
        elif word in LISTS:
            getattr(self, word).extend(rest.split())
        elif word == "write":
            name, _, text = rest.partition(" ")
            self.writes[name] = text.replace("\\n", "\n")
        else:
            raise BuildError("%s: unknown directive %s" % (path, word))

    def keeps(self, path):
        """Is this absolute path part of the image?"""
        return not self._removed.fullmatch(path) or bool(self._kept.fullmatch(path))


def find(name):
    """The recipe of a template name or of a path."""
    if "/" in name or name.endswith(".recipe"):
        return Recipe(os.path.abspath(name))
    return Recipe(os.path.join(GUEST, "images", name + ".recipe"))
