"""What the guest's build scripts share: errors, commands, the cache."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

GUEST = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class BuildError(Exception):
    """A sentence for a person: what failed and what to do."""


def say(text):
    print("guest: " + text, file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a command; returns its standard output as bytes."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False, **options)
    except FileNotFoundError:
        raise BuildError("%s is not installed; run `make setup`" % command[0]) from None
    if done.returncode:
        raise BuildError("%s failed:\n%s" % (" ".join(command),
                                             done.stderr.decode("utf-8", "replace").strip()))
    return done.stdout


def read_lines(path):
    """The lines of a configuration file without comments and blanks."""
    with open(path, encoding="utf-8") as f:
        lines = (line.split("#", 1)[0].rstrip() for line in f)
        return [line for line in lines if line.strip()]


def sha256_files(*paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            data = f.read()
        digest.update(b"%s %d\n" % (os.path.basename(path).encode(), len(data)))
        digest.update(data)
    return digest.hexdigest()


def cache_dir():
    base = os.environ.get("RAMET_CACHE")
    if not base:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(home, "ramet")
    os.makedirs(base, exist_ok=True)
    return os.path.abspath(base)


@contextlib.contextmanager
def locked(path):
    """Holds the lock file `path`; a second builder waits here."""
    with open(path, "a", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def cached(kind, name, build):
    """The directory <cache>/<kind>/<name>, built by build(directory) if need be.

    It appears by one rename of a complete directory. Builders of the same
    name wait for each other; a killed one leaves a temporary directory that
    the next removes."""
    parent = os.path.join(cache_dir(), kind)
    os.makedirs(parent, exist_ok=True)
    final = os.path.join(parent, name)
    if os.path.isdir(final):
        return final
    with locked(final + ".lock"):
        if os.path.isdir(final):
            return final
        prefix = ".%s-" % name
        for stale in os.listdir(parent):
            if stale.startswith(prefix):
                shutil.rmtree(os.path.join(parent, stale))
        tmp = tempfile.mkdtemp(prefix=prefix, dir=parent)
        try:
            build(tmp)
            os.chmod(tmp, 0o755)
            sync_tree(tmp)
            os.rename(tmp, final)
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise
    return final


def sync_tree(directory):
    """A crash after the rename must not leave empty files under a final name."""
    for root, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(root, name), "rb") as f:
                os.fsync(f.fileno())


def main(function):
    """Runs a script's main function; a BuildError becomes a line and status 1."""
    try:
        function()
    except BuildError as e:
        say("error: %s" % e)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
