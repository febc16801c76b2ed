"""Tensor-parallel inference of one large language model on several low-memory machines, over MPI.

with tpi_mpi.Model.open("slabs", comm=MPI.COMM_WORLD) as model:
    for completion in model.generate(["The sky is"]):
        print(completion.text)
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Model, imported when it is first asked for: the programs do not need it, and start faster without."""
    if name != "Model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tpi_mpi.interface.model import Model

    return Model
