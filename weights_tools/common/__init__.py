"""What several of these programs use.

partition_arguments  the options that say how a model is dealt to ranks
target_directory     a directory that slabs are written to, and its small files
direct_file          a file written past the page cache
progress             progress in bytes
"""
