"""Random weights of published shapes.

random_source  tensors, the same for the same seed
random_rows    their numbers or codes
shapes         the shapes
"""
