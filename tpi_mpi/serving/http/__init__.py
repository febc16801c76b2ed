"""The server's part that speaks HTTP.

app       what there is at which address
access    who may come in
bodies    what clients send, up to a limit
exchange  a request for text, answered as its tokens come or at once
service   requests of the protocol turned into sequences to continue
metrics   figures for monitoring, in Prometheus's format
"""
