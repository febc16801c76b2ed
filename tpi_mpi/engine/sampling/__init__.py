"""From logits to the next token.

sampler        the tokens of one request, chosen one by one
adjustments    tokens made more or less probable
filters        which tokens a sample may be
draw           a token at random, by its seed and position
probabilities  of tokens, from logits
grammar        what may follow in a sequence that has a schema
grammars       grammars from JSON schemas, over a checkpoint's tokens
"""
