"""The vocabulary: ids, specifications, records, errors, events and commands, as frozen values.

Knows nothing of clocks, processes, files or networks; imports nothing but msgspec.
"""
