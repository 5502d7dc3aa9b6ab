"""The persistent Python interpreter of a sandbox, driven by the agent.

The agent starts /usr/bin/python3 with this text (see repl.c). Descriptors 1
and 2 are pipes that the agent reads; CONTROL carries records of an 8-byte
header (kind, 3 zero bytes, length) and `length` bytes:

    agent to driver   E code: run it · F this machine is another one now
    driver to agent   H ready for code · X exit code and flags (i32, i32) and
                      size of the result (u64), followed by that many bytes in
                      R records · C, S reseeded (see repl_identity.py)

All integers are little endian.

Rules that this file keeps:
  * Code runs in the dictionary of a module named __main__ of its own; this
    text lives outside sys.modules and owns a copy of the builtins, so that
    nothing the code assigns, deletes or replaces reaches it.
  * After every call descriptors 0-2 and closed standard streams are put back.
    A sys.stdout that the code replaced by something usable stays replaced.
  * SIGINT raises KeyboardInterrupt only while code runs.
  * A forked child that reaches the end of the code ends like a script and
    never speaks to the agent.
  * SIGRTMAX is the agent's: code can neither handle nor block it.

The text goes on in repl_identity.py and repl_start.py.
"""

import _ast
import _signal
import builtins

__name__ = "<ramet>"
# Every function below is bound to this copy as it is defined.
__builtins__ = dict(vars(builtins))

import io
import linecache
import os
import struct
import sys
import textwrap
import traceback

HELPER = 1018  # repl_identity.py
IDENTITY = 1019
SOURCE = 1020  # this text
CONTROL = 1021
SAVED = {1: 1022, 2: 1023}  # spare copies of the output pipes
RECORD_MAX = 60000
READ_USUAL = 8192
SOURCES_MAX = 1000
SOURCES_BYTES_MAX = 8 << 20
EXIT_INTERRUPTED = 2  # guest/protocol.h
CO_COROUTINE = 0x80  # inspect.CO_COROUTINE
PARSE_FLAGS = _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | _ast.PyCF_ONLY_AST

_Module = type(sys)
_read, _write, _fstat, _dup2, _open, _close = (
    os.read, os.write, os.fstat, os.dup2, os.open, os.close)
_KeyboardInterrupt = KeyboardInterrupt


class State:
    """What the driver knows; one instance, `state`."""

    def __init__(self):
        self.pid = os.getpid()
        self.running = False  # code runs: SIGINT may raise
        self.open_call = False  # a call has not been answered yet
        self.child = False  # this process is a fork of the interpreter
        self.taken = None  # sequence number of what was taken up
        self.forked = None  # ... that made this a child of a fork
        self.called = None  # ... of which functions were told
        self.handlers = False  # code has signal handlers of its own
        self.threads = 0  # of this driver's
        self.prepared = set()  # names of modules
        self.sending = False  # a record is partly written
        self.due = []  # records that wait for that
        self.received = b""  # what came after the last record
        self.results = []
        self.calls = 0
        self.future_flags = 0  # `from __future__` seen so far
        self.sources = []
        self.sources_bytes = 0
        self.runner = None  # asyncio.Runner of top-level await
        self.fds = {fd: self.identity(fd) for fd in (0, 1, 2)}

    @staticmethod
    def identity(fd):
        st = _fstat(fd)
        return (st.st_dev, st.st_ino)


def send(*records):
    """Writes (kind, payload) records to the agent in one go where they fit."""
    data = b"".join(kind + b"\0\0\0" + struct.pack("<I", len(payload)) + payload
                    for kind, payload in records)
    state.sending = True
    while data:
        data = data[_write(CONTROL, data):]
    state.sending = False
    due, state.due = state.due, []
    if due:
        send(*due)


def answer(code, flags):
    """Sends the exit record of the call and the results it left behind."""
    result, state.results = b"".join(state.results), []
    state.open_call = False
    send((b"X", struct.pack("<iiQ", code, flags | others_run(), len(result))),
         *((b"R", result[i:i + RECORD_MAX]) for i in range(0, len(result), RECORD_MAX)))


def read_more(data, size):
    # The buffer is as large as what is asked for: beyond READ_USUAL it would be
    # mapped and unmapped each time.
    piece = _read(CONTROL, min(max(size, READ_USUAL), 1 << 20))
    if not piece:
        raise EOFError
    return data + piece


def record_read():
    """The next record of the agent's: kind, payload."""
    data, state.received = state.received, b""
    while len(data) < 8:
        data = read_more(data, READ_USUAL)
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    while len(data) < end:
        data = read_more(data, end - len(data))
    state.received = data[end:]
    return data[:1], data[8:end]


# ---- signals and forks ----

def on_interrupt(_signum, _frame):
    if state.running:
        raise _KeyboardInterrupt


def on_fork():
    """In the child of os.fork(): give up the connection to the agent."""
    state.child = True
    for fd in (CONTROL, HELPER, *SAVED.values()):
        try:
            _close(fd)
        except OSError:
            pass


def is_child():
    # A fork made by C code (ctypes) does not run Python's fork hooks.
    if not state.child and "_ctypes" in sys.modules and os.getpid() != state.pid:
        on_fork()
    return state.child


# ---- standard streams ----

def stream_open(fd, mode):
    if fd == 0:
        return io.open(0, "r", encoding="utf-8", errors="surrogateescape", closefd=False)
    raw = io.FileIO(fd, mode, closefd=False)
    raw.name = "<stdout>" if fd == 1 else "<stderr>"
    errors = "backslashreplace" if fd == 2 else "surrogateescape"
    stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors,
                              line_buffering=True)
    stream.mode = mode
    return stream


def stream_usable(stream):
    try:
        return stream is not None and not stream.closed
    except Exception:
        return stream is not None and not hasattr(stream, "closed")


def streams_restore():
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if not stream_usable(getattr(sys, name, None)):
            standard = getattr(sys, "__%s__" % name, None)
            if not stream_usable(standard):
                standard = stream_open(fd, "r" if fd == 0 else "w")
                setattr(sys, "__%s__" % name, standard)
            setattr(sys, name, standard)


def descriptors_restore():
    for fd, identity in state.fds.items():
        try:
            st = _fstat(fd)
            if (st.st_dev, st.st_ino) == identity:
                continue
        except OSError:
            pass
        try:
            source = SAVED[fd] if fd else _open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            if source == fd:
                os.set_inheritable(fd, True)
            else:
                _dup2(source, fd)
            if fd == 0 and source != 0:
                _close(source)
        except OSError:  # the code closed the spare copy as well
            pass


def streams_flush():
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:  # the code's own object, or a stream it broke
            pass


# ---- running code ----

def display(value):
    """sys.displayhook: the value goes to the agent as the call's result."""
    if value is None:
        return
    builtins._ = None
    text = repr(value).encode("utf-8", "backslashreplace")
    builtins._ = value
    if not state.child:
        state.results.append(text)


def source_register(name, text):
    """Lets tracebacks and inspect show the lines of a snippet."""
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    state.sources.append((name, len(text)))
    state.sources_bytes += len(text)
    while len(state.sources) > SOURCES_MAX or (
            state.sources_bytes > SOURCES_BYTES_MAX and len(state.sources) > 1):
        old, size = state.sources.pop(0)
        state.sources_bytes -= size
        linecache.cache.pop(old, None)


def source_dedent(text):
    """Undoes the indentation of a snippet pasted as an indented block."""
    for line in text.splitlines():
        stripped = line.lstrip()
        if stripped and not stripped.startswith("#"):
            return textwrap.dedent(text) if line[0] in " \t" else text
    return text


def is_constant(code):
    """True for an expression that cannot reach anything outside itself."""
    return not code.co_names and all(type(c) is not type(code) for c in code.co_consts)


def compile_expression(text, name, flags):
    """The code of a line that is an expression, in half the time and memory that
    compile() takes by way of a tree; else None."""
    if "\n" in text or "\\" in text:  # it would warn of a bad escape twice
        return None
    try:
        return compile(text, name, "eval", flags | _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
    except SyntaxError:
        return None


def run_code(code, namespace):
    value = eval(code, namespace)
    if not code.co_flags & CO_COROUTINE:
        return value
    if state.runner is None:
        import asyncio
        state.runner = asyncio.Runner()
    try:
        return state.runner.run(value)
    except Exception:
        raise
    except BaseException:
        runner, state.runner = state.runner, None
        runner.close()
        raise


def evaluate(data):
    """Compiles and runs one snippet; shows a trailing expression's value.

    Returns False when the snippet cannot have touched the process."""
    namespace = main.__dict__
    namespace.setdefault("__name__", "__main__")
    namespace["__builtins__"] = builtins
    state.calls += 1
    name = "<exec %d>" % state.calls
    text = source_dedent(data.decode("utf-8"))
    source_register(name, text)
    flags = state.future_flags
    code = compile_expression(text, name, flags)
    if code is not None:
        sys.displayhook(run_code(code, namespace))
        return not is_constant(code)
    tree = compile(text, name, "exec", PARSE_FLAGS | flags, True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    flags |= _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    if tree.body:
        code = compile(tree, name, "exec", flags, True)
        state.future_flags |= code.co_flags & FUTURE_MASK
        run_code(code, namespace)
    if last is not None:
        flags |= state.future_flags
        code = compile(_ast.Expression(last.value), name, "eval", flags, True)
        sys.displayhook(run_code(code, namespace))
        return bool(tree.body) or not is_constant(code)
    return True


def report_exit(exc):
    """The exit code of a SystemExit, as the interpreter itself would end."""
    code = exc.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xff
    print(code, file=sys.stderr)
    return 1


def own_frames(tb):
    """The part of a traceback that is the snippet's and not the driver's."""
    while tb is not None and not tb.tb_frame.f_code.co_filename.startswith("<exec "):
        tb = tb.tb_next
    last = tb
    while last is not None and last.tb_next is not None:
        if last.tb_next.tb_frame.f_globals is globals():
            last.tb_next = None
        last = last.tb_next
    return tb


def report(exc):
    """Prints an exception without the driver's frames; returns its exit code."""
    if isinstance(exc, SystemExit):
        return report_exit(exc)
    exc.__traceback__ = tb = own_frames(exc.__traceback__)
    sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, tb
    stream = sys.__stderr__ if stream_usable(sys.__stderr__) else stream_open(2, "w")
    try:
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(exc), exc, tb)
        else:
            stream.write("".join(traceback.format_exception(type(exc), exc, tb)))
    except Exception:  # an exception that cannot even be printed
        stream.write("%s (its traceback cannot be printed)\n" % type(exc).__name__)
    stream.flush()
    return 130 if isinstance(exc, _KeyboardInterrupt) else 1


def call(data):
    """Runs one snippet and answers it. Returns an exit code in a forked child."""
    flags = 0
    check = True
    code = 0
    state.open_call = True
    try:
        state.running = True
        try:
            check = evaluate(data)
        except BaseException as exc:
            descriptors_restore()
            streams_restore()
            if isinstance(exc, _KeyboardInterrupt):
                flags = EXIT_INTERRUPTED
            code = report(exc)
        state.running = False
    except BaseException:  # interrupted while it was being reported
        state.running = False
        code, flags = 130, EXIT_INTERRUPTED
    if is_child():
        return code
    if check:
        streams_flush()
        descriptors_restore()
        streams_restore()
    answer(code, flags)
    modules_prepare()
    return None


def serve():
    """Answers calls until the agent hangs up or this is a forked child."""
    while True:
        try:
            kind, data = record_read()
            if kind == b"F":
                on_identity()
                continue
            code = call(data)
            if code is not None:
                return code
        except _KeyboardInterrupt:  # the code put back Python's own handler
            state.running = False
            if is_child():
                return 130
            if state.open_call:
                answer(130, EXIT_INTERRUPTED)
        except EOFError:
            return 0
        except OSError:  # the code closed the connection to the agent
            os._exit(1)
