"""Every decision of an instance: what is loaded, what leaves, who answers, who is refused, and why.

Pure: events and the time go in, commands come out. `node.Core` is the only way to change its state.
Knows no I/O, clock, randomness, task or thread.
"""
