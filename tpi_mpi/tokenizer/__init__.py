"""Text to token ids and back.

tokenizer      the checkpoint's own tokenizer
libraries      what reads its file
files          the names of its files
spelling       the bytes that a token stands for
conversation   what was said so far, and by whom
messages       that as chat templates expect it
chat_template  conversations as text, rendered in a sandbox
detokenizer    text as its tokens arrive, up to a stop string
"""
