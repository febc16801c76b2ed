"""Rank 0's books: which sequences there are, and which of their positions the next sweep computes.

scheduler     who is next
sequence      one request on its way
page_pool     whose pages of keys and values, and what is in them
pace          rows of prompts beside the tokens of others
"""
