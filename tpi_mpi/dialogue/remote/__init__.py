"""The server of a chat.

client          the server's protocol
events          server-sent events, and the pieces of answers in them
activity        what the machines do now, in a phrase
readiness       waiting until a server is ready
private_server  a server for one chat alone
guard           a program that ends with whoever started it
"""
