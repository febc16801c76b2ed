"""What the user asked for: immutable, and checked once.

sampling  how one request is continued
values    options of that which may be given in several forms
machine   how a run uses the machines
programs  the options of each program
limits    what numbers must be at least
"""
