"""One pass over all blocks, on all ranks together.

step          what rank 0 tells the other ranks before it
decoder       the pass itself
mixtures      a layer's experts: chosen, fetched, computed
weights       where the pass gets its weights
chunking      its rows, divided
sums          partials over the ranks
page_tables   where sequences have their keys and values
readout       what becomes of the logits
warmup        everything once, before memory is divided
"""
