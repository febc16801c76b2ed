"""For other programs: a model that the ranks of a communicator run together.

model    the model, opened and closed by all ranks
queries  what may be asked of it
replies  what it answers
"""
