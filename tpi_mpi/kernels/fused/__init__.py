"""Blocks of a model as one call into compiled code: products, and all that lies between them.

pieces     what is done to a row of states
steps      the steps between products, row by row
attending  attention
programs   the steps of a block, prepared once and run on the threads of a pool
"""
