"""Random weights of published shapes.

random_source  tensors, the same for the same seed
random_rows    their numbers or codes
planted        an embedding and an output head that choose experts as trained ones do
habits         how often they choose which
shapes         the shapes
"""
