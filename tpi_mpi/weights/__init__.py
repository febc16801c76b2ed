"""What of the weights is in memory.

mapping          blocks mapped from the file
pages            pages of mapped files
resident_blocks  blocks in memory, in bounded bytes
window           the sliding window: blocks fetched ahead of use and released after it
budget           what a memory budget leaves for weights
embedding        rows of the embedding, read as tokens need them
prefetch         blocks read ahead while libraries are imported
patience         how long a disk may deliver nothing
disk_threads     threads that wait for a disk, watched
"""
