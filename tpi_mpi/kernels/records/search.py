"""The arguments of the search for the scales of groups."""

(
    GROUPS,  # address: float32 (count, group)
    COUNT,
    GROUP,
    ZERO_POINTS,  # whether there are any
    BOUNDS,  # address: float32, the first code, the last, and that of zero
    LOW,  # address: float32 (16)
    HIGH,
    CODES,  # address: uint8 (count, group)
    SCALES,  # address: float32 (count)
    ZEROS,
    FINITE,  # whether all numbers are finite; if not, the results are undefined
    ARGUMENTS,
) = range(12)
"""The places of the arguments, and how many there are."""
