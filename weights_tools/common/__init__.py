"""What several of these programs use.

partition_arguments  the options for how a model is divided among ranks
format_arguments     the options for the formats of weights
target_directory     a directory that slabs are written to, and its small files
direct_file          a file written past the page cache
pieces               the pieces in which large tensors are read
ahead                work that threads do ahead of its use
progress             a progress bar in bytes
"""
