"""What a mixture of experts adds to whatever is measured, bounded, predicted or drawn.

load     what one rank's experts ask of it in a run
routed   what a layer's experts ask of a rank, as far as their sizes tell
hits     how often experts will be in memory
shard    the experts that a partition gives a rank
figures  how often they were
picture  the same, sweep by sweep and layer by layer
"""
