"""A model that answers requests as they come: a process that listens to clients, and the engine that it starts.

server      the process that listens, from its start to its end
supervisor  keeps an engine at work
job         one run of the engine, as the server sees it
desk        where requests wait, and what is said of them goes to whoever asked
accounts    what the engine tells of itself
refusal     what a client is told when its request is not answered
messages    what the server and the engine tell each other
channel     JSON objects over a socket
backend     the engine, on all ranks
"""
