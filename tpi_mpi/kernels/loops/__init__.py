"""What Numba compiles: functions in the part of Python that it understands, and of whatever they are made.

Nobody imports them who only runs them: :mod:`tpi_mpi.kernels.compiled.functions` names them.

jit        the decorators; a function to machine code
memory     arrays over memory known by its address
atomics    instructions on memory that threads share
pool       what the threads of a pool do
states     states in the order that kernels read
product    tiles of weights times packs of states
pieces     what is done to a row of states
rows       the steps of a block, row by row
attention  attention
numbers    float32 from and to what is stored or sent
reading    memory read for its rate
search     the search for the scales of int8 and int4

experts/ has mixtures of experts.
"""
