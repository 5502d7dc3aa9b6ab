

# ---- start ----

def future_mask():
    import __future__
    mask = 0
    for name in __future__.all_feature_names:
        mask |= getattr(__future__, name).compiler_flag
    return mask


def start():
    os.close(SOURCE)
    os.set_inheritable(CONTROL, False)
    for fd, saved in SAVED.items():
        _dup2(fd, saved, inheritable=False)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        stream = stream_open(fd, "w")
        setattr(sys, name, stream)
        setattr(sys, "__%s__" % name, stream)
    sys.argv = [""]
    sys.displayhook = display
    sys.modules["__main__"] = main
    main.__dict__.update(__builtins__=builtins, __annotations__={})
    os.register_at_fork(after_in_child=on_fork)
    _signal.signal(_signal.SIGINT, on_interrupt)
    identity_prepare()
    identity_start()
    send((b"H", b""))


state = State()
main = _Module("__main__")
fork_callbacks = []
fork_module = fork_module_make()
FUTURE_MASK = future_mask()
start()
sys.exit(serve())
