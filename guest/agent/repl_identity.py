

# ---- this machine is another one now (repl_identity.c) ----
#
# The agent has written who it is into IDENTITY: a sequence number, flags, the
# number in a fork (from 1; u32 each) and the generation. It is taken up by
# whoever comes first, once or twice: the main thread, told by an F record or by
# SIGRTMAX, and the helper thread, told by a byte. Then
#     C (sequence)  functions that code registered are being called
#     S (sequence)  all is done
# go to the agent from the main thread, and (sequence, whether functions are
# registered) from the helper.
#
# Generators that code made itself (random.Random, numpy Generators) go on like
# those of the machine this one was copied from.

import _random
import _thread

TOLD_RESEED, TOLD_FORK = 1, 2
CONFIRMS, HAS_FOREIGN = 1 << 8, 1 << 9  # records.h
HELPER_STACK = 256 << 10

_environ, _pread, _putenv, _urandom = os.environ, os.pread, os.putenv, os.urandom


def seed(size):
    return int.from_bytes(_urandom(size), "little")


def reseed_random(module):
    # What its seed() does, without the half of it that is written in Python.
    _random.Random.seed(module._inst, seed(32))
    module._inst.gauss_next = None


def reseed_numpy(module):
    module.seed(list(struct.unpack("<16I", _urandom(64))))


def reseed_torch(module):
    module.manual_seed(seed(8) >> 1)


def reseed_ssl(module):
    # Reseeds the process's first generator from the kernel; those of threads
    # follow when they see that it was (OpenSSL 3, EVP_RAND(7)).
    module.RAND_add(_urandom(32), 32.0)


def reseed_cryptography(module):
    # It may have an OpenSSL of its own. Newer versions nest the module.
    bound = getattr(module, "_openssl", module)
    bound.lib.RAND_add(bound.ffi.from_buffer(_urandom(32)), 32, 32.0)


def reseed_uuid(module):
    # uuid1(): libuuid keeps a node and a clock sequence; they must not be used.
    module._generate_time_safe = None
    module._node = seed(6) | 1 << 40
    module._last_timestamp = None


def reseed_tempfile(module):
    if module._name_sequence is not None:
        module._name_sequence._rng_pid = None


RESEED = (("random", reseed_random), ("numpy.random", reseed_numpy), ("torch", reseed_torch))
RESEED_ALWAYS = (("_ssl", reseed_ssl), ("uuid", reseed_uuid), ("tempfile", reseed_tempfile),
                 ("cryptography.hazmat.bindings._openssl", reseed_cryptography),
                 ("cryptography.hazmat.bindings._rust", reseed_cryptography))


def modules_reseed(table):
    for name, reseed in table:
        module = sys.modules.get(name)
        if module is not None:
            try:
                reseed(module)
            except Exception:  # something else that code put there
                pass


def environ_set(name, value):
    # What os.environ does, in half the time.
    _putenv(name, value)
    _environ._data[name] = value


def identity_apply(told):
    sequence, flags, number, generation = struct.unpack("<III40s", told)
    if sequence == state.taken:
        return
    if flags & TOLD_RESEED:
        modules_reseed(RESEED)
    modules_reseed(RESEED_ALWAYS)
    generation = generation.rstrip(b"\0")
    environ_set(b"RAMET_GENERATION", generation)
    fork_module.generation = generation.decode()
    if flags & TOLD_FORK:
        fork_module.index = number - 1
        environ_set(b"RAMET_FORK_INDEX", b"%d" % (number - 1))
        state.forked = sequence
    state.taken = sequence


def identity_take():
    identity_apply(_pread(IDENTITY, 52, 0))


# What runs for the first time in a copied machine touches many pages for the
# first time there, and the child's first answer waits for each. So all of it
# has run before.

def identity_prepare():
    index, generation = fork_module.index, fork_module.generation
    for sequence in range(1, 10):  # enough for the interpreter to specialize it
        identity_apply(struct.pack("<III40s", sequence, TOLD_RESEED | TOLD_FORK, 1, b"0" * 36))
    fork_module.index, fork_module.generation = index, generation
    for name, value in (("RAMET_FORK_INDEX", index), ("RAMET_GENERATION", generation)):
        if value is None:
            del _environ[name]
        else:
            _environ[name] = str(value)
    state.taken = state.forked = None


PREPARE = (("random", reseed_random), ("_ssl", reseed_ssl), *RESEED_ALWAYS[-2:])


class Stand:
    """For a module whose own generator must not be touched."""

    def __init__(self, module):
        self._inst = module.Random()


def modules_prepare():
    """Also has OpenSSL make its generator, which takes longer than to reseed it."""
    for name, reseed in PREPARE:
        if name in sys.modules and name not in state.prepared:
            state.prepared.add(name)
            try:
                module = sys.modules[name]
                reseed(Stand(module) if name == "random" else module)
            except Exception:  # something else that code put there
                pass


def callbacks_call():
    """Calls what was registered; what goes wrong is shown like any output."""
    for callback in list(fork_callbacks):
        try:
            callback(fork_module.index)
        except BaseException:
            traceback.print_exc()


def tell(kind, sequence):
    record = (kind, struct.pack("<I", sequence))
    if state.sending:
        state.due.append(record)
    else:
        send(record)


def on_identity(_signum=0, _frame=None):
    if state.child:
        return
    try:
        identity_take()
    except BaseException:  # not to go on like the machine it was copied from
        os._exit(1)
    sequence = state.taken
    if fork_callbacks and state.forked == sequence and state.called != sequence:
        state.called = sequence
        tell(b"C", sequence)
        running, state.running = state.running, True
        try:
            callbacks_call()
            streams_flush()
        except _KeyboardInterrupt:
            pass
        state.running = running
    tell(b"S", sequence)


def helper():
    """Acts when the main thread does not get back from C code."""
    while True:
        try:
            if not _read(HELPER, 1):
                return
            identity_take()
            _write(HELPER, struct.pack("<II", state.taken, bool(fork_callbacks)))
        except OSError:  # code closed the descriptors: the main thread ends it
            return
        except Exception:
            pass


def others_run():
    """Whether Python may run in this process while it waits for code."""
    if fork_callbacks or state.handlers or _thread._count() > state.threads:
        return CONFIRMS
    return HAS_FOREIGN if "_ctypes" in sys.modules or "_cffi_backend" in sys.modules else 0


def signals_guard():
    """Keeps SIGRTMAX as the kernel keeps SIGKILL."""
    handler_set, mask_set = _signal.signal, _signal.pthread_sigmask

    def signal(signalnum, handler, /):
        if signalnum == _signal.SIGRTMAX:
            raise OSError(22, "Invalid argument")  # EINVAL
        state.handlers = state.handlers or callable(handler)
        return handler_set(signalnum, handler)

    def pthread_sigmask(how, mask, /):
        return mask_set(how, [number for number in mask if number != _signal.SIGRTMAX])

    _signal.signal, _signal.pthread_sigmask = signal, pthread_sigmask


def identity_start():
    os.set_inheritable(IDENTITY, False)
    os.set_inheritable(HELPER, False)
    _signal.signal(_signal.SIGRTMAX, on_identity)
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    _thread.stack_size(HELPER_STACK)
    _thread.start_new_thread(helper, ())
    _thread.stack_size(0)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    state.threads = 1
    signals_guard()


def fork_register(callback):
    """Has callback(index) called in every child that this sandbox is forked into."""
    if not callable(callback):
        raise TypeError("register() needs a function")
    fork_callbacks.append(callback)
    return callback


def fork_module_make():
    module = _Module("ramet_fork", "What a sandbox knows of its forks.")
    module.register = fork_register
    index = _environ.get("RAMET_FORK_INDEX")
    module.index = None if index is None else int(index)
    module.generation = _environ.get("RAMET_GENERATION")
    sys.modules["ramet_fork"] = module
    return module
