"""From requests to tokens.

engine      one rank's part of the generation, set up and taken down again
decoder     one sweep over all blocks
sums        a sweep's sums over the ranks, in the background where that helps
step        what rank 0 sends to the other ranks before each sweep
chunking    how a prompt is divided into chunks
request     a request, the tokens that answer it one by one, and scores of its prompt
intake      what users ask for, turned into requests
completion  what has been generated for one request
sampling    from logits to the next token
warmup      a pass of zeros, to measure the memory that libraries take
progress    how far a sweep has come
report      what a run took
"""
