"""Random weights of published shapes.

random_source  tensors, the same for the same seed
shapes         the shapes
"""
