"""Text to token ids and back.

tokenizer      the checkpoint's own tokenizer
files          the names of its files
chat_template  prompts as conversations, rendered in a sandbox
detokenizer    text as its tokens arrive, up to a stop string
"""
