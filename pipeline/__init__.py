"""Running it: sources, sinks, the UE's and the edge's sessions, and the command line.

The only package that knows the other three (``rtc``, ``models``, ``signaling``); only the facade ``splitrtc``
imports it.
"""
