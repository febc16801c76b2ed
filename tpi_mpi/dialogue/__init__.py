"""A chat with a model, for a person at a terminal or for a pipe.

run           a chat from its beginning to its end
options       what the user asked for
terminal      a chat on a terminal
prompt        lines from a person
display       an answer on a terminal, as it comes
pipe          a chat through a pipe
commands      what lines that begin with a slash do
exchange      questions and their answers
answer        one answer, as it comes
conversation  what has been said, in memory and in files
characters    what of a text may reach a terminal, and how wide it is there
settings      how answers are sampled
"""
