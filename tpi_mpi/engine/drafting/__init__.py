"""Several tokens a sweep: what may follow is drafted, and the sweep tells how much of it does.

speculator    drafts before a sweep, and what is learned from it
lookup        drafts from what has been said before
history       what has been said before, and where
model_drafts  drafts by a model: for whom, and how long ones
draft_model   that model, on rank 0's books
draft_shard   a rank's part of that model
sources       which model that is
draft         a draft, and how likely it is right
chances       how likely drafted tokens are right, as far as has been seen
prospects     which drafts are worth their rows
sweep_times   how long a sweep takes, by the number of its rows
credit        what drafts may cost if all of them are wrong
"""
