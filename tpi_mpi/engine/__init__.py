"""From requests to tokens.

engine      one rank's part of the generation, put together and taken apart
decoder     one sweep over all blocks
sums        its sums over the ranks, behind computing where that helps
step        what rank 0 tells the others before each sweep
chunking    how a prompt is dealt to chunks
request     what is asked for, token by token what is given
completion  what has been generated for one request
sampling    from logits to the next token
warmup      a pass of zeros, to measure what the libraries take
progress    how far a sweep is
report      what a run took
"""
