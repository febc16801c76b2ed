"""Text to token ids and back.

tokenizer      the checkpoint's own tokenizer
files          the files that it is in
chat_template  prompts as conversations, rendered in a sandbox
detokenizer    text as its tokens arrive, up to a stop string
"""
