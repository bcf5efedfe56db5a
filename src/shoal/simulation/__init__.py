"""Instances of Shoal in made-up time: the real core, many times, on a registry, a network, clocks
and loaders that one seed decides. For tests of the decisions, and for planning how much memory a
trace of requests needs. Must not know files, sockets, threads or the real time.
"""
