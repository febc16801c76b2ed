"""From requests to tokens.

engine      one rank's part of the generation, set up and taken down again
leader      rank 0's part: requests in, tokens out
generation  requests from an iterator, continued together, to completions
demand      what will be asked for, and how many sequences at once serve it
planning    one plan for the memory of all ranks
intake      what users ask for, as requests
request     a request, and the tokens that answer it one by one
completion  what has been generated for one request
progress    how far a sweep has come
report      what a run took
"""
