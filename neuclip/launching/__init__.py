"""Start the ranks of a run somewhere, follow them, and end them: this machine, several hosts, a cluster.

Contract: a launcher is given a command and blocks until every rank has ended; on every way out, also by
an exception, nothing it started is left.
"""
