"""The page that a server shows to people: a chat, and the machines beside it. It is one file, index.html.

policy  what a browser may do with it
"""
