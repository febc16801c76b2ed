"""How fast machines are, and how fast a run can be on them: for tpi_mpi.bench, check and plot.

benchmark          one measured run beside its lower bound
probes             rates of memory, products and allreduces
format_probe       the rates of products with each format
disk_probe         the rate of a disk
rates              the rates of one rank
matrices           what products have to get through
lower_bound        the least time that a run can take
performance_model  how long a partition will take on machines that were measured
simulator          sweeps as they will run, block by block
tables             reports as tables
figures            traces and reports as pictures
"""
