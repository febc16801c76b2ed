"""The search for the scales of groups of numbers.

candidates    the scales that are tried
search        the search, compiled
slow_search   the same by numpy
"""
