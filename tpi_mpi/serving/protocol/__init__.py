"""OpenAI's protocol: what clients may ask, and how they are answered.

fields        what all requests for text have in common
completions   requests that continue a text, and their answers
chat          requests that continue a conversation, and their answers
tokenization  requests for token ids
order         a request, settled: sequences to continue, and how to write their answers
choice        one of the answers to a request, as it comes
logprobs      log-probabilities, as either kind of answer has them
"""
