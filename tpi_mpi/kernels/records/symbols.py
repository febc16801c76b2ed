"""What compiled code calls by name."""

NEVER_CALLED = """
    NRT_Free NRT_MemInfo_call_dtor NRT_decref NRT_incref numba_do_raise numba_gil_ensure numba_gil_release
    numba_runtime_build_excinfo_struct numba_unpickle
""".split()
"""What Numba provides to functions that raise exceptions or allocate memory. Compiled functions do neither."""

OF_THE_SYSTEM = "abort clock_gettime erf memcpy memset sched_yield sqrt sqrtf syscall usleep".split()
"""Functions of C."""
