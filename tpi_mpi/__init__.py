"""Tensor-parallel inference of one large language model on several low-memory machines, over MPI."""

__version__ = "0.1.0"
