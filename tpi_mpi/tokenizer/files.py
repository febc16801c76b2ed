"""The names of the files that make up a checkpoint's tokenizer."""

TOKENIZER_JSON, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
SETTINGS, SPECIAL_TOKENS, CHAT_TEMPLATE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"

TOKENIZER_FILES = (TOKENIZER_JSON, SENTENCEPIECE, SETTINGS, SPECIAL_TOKENS, CHAT_TEMPLATE)
