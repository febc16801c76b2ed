"""A model that answers requests as they come.

backend   the engine, on all ranks, for a process that listens
messages  what that process and the engine tell each other
channel   JSON objects over a socket
"""
