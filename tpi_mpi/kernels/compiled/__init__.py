"""Products by compiled code, and the threads that run it.

jit         functions that Numba compiles, and where it keeps them
memory      arrays over memory known by its address
atomics     instructions on memory that threads share
pool        the threads
states      states in the order that kernels read
numbers     float32 to other dtypes, and back
product     tiles of weights times packs of states
reading     memory read for its rate
pieces      norms and attention, for one token
token       the same for tensors
multiplier  products, prepared once and run on the threads
"""
