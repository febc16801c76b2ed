"""How fast machines are, and how fast a run could be on them: for tpi_mpi.bench, check and plot.

benchmark          one measured run beside its lower bound
probes             rates of memory, products and allreduces
disk_probe         the rate of a disk
rates              all of these for one rank
lower_bound        the time below which no program could be
performance_model  what a partition will take on machines that were measured
simulator          sweeps as they will go, block by block
tables             reports as tables
figures            traces and reports as pictures
"""
