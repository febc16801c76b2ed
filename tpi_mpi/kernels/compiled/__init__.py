"""Products by compiled code, and the threads that run it.

jit         functions that Numba compiles, and where it keeps them
memory      arrays over memory known by its address
atomics     instructions on memory that threads share
pool        the threads
states      states in the order that kernels read
numbers     float32 to other dtypes, and back
product     tiles of weights times packs of states
prepared    products with all that kernels need to know of them
multiplier  products of whoever has arrays
reading     memory read for its rate
"""
