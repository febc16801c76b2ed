"""What slabs hold, for people and for programs.

description  a directory of slabs, fit for JSON
table        the description as text
"""
