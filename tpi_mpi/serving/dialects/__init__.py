"""How models of a family write their reasoning and their calls of tools, read as it comes.

dialect   the families, told apart by their chat templates
parts     what an answer consists of
reader    text by pieces to parts
calls     calls of tools, written as JSON
thinking  reasoning before an answer
plain     answers that are nothing but text
hermes    Qwen and Hermes: calls between tags
llama     Llama 3: an answer that is JSON
harmony   gpt-oss: messages on channels
"""
