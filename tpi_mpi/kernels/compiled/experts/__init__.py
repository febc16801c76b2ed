"""Mixtures of experts by compiled code.

    hidden states ─ norm ─ logits ─ choice ─ pairs of rows and experts         when a mixture is made
    experts in memory ─ jobs: some rows of an expert, several jobs at a time   whenever experts are added
        gather, order, gates and ups, activation, order, downs                 each a step for all jobs together
    results of pairs ─ added up in the order of experts

A job's arguments are made by compiled code from a template for experts that lie in memory alike.

templates  jobs without addresses
programs   the record and the memory of mixtures of a number of rows
mixture    rows on their way through experts
"""
