"""A segment of the rows that are computed together: consecutive positions of one sequence."""

(
    FIRST_ROW,
    COUNT,  # of its rows
    START,  # the position of its first row
    PAGES,  # address: int64, the numbers of its sequence's pages
    FIRST_QUERY,  # its place among the rows of queries of a key-value head
    QUERY_PLACES,  # rows of queries that it has there, with padding
    FIRST_SPAN,  # of positions that any of its rows sees
    SPANS,  # how many are seen
    FIRST_TOTAL,  # its place among the totals
    FIRST_ITEM,  # the items of work of the segments before it
    SEGMENT,
) = range(11)
"""The places of a segment's numbers in the table, which are int64, and how many there are."""
