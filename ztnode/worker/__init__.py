"""The stack worker process: ring, netstack and client sockets joined. Glue alone.

Started as ``python -m ztnode.worker``; the node speaks to it in ``ztnode.worker.protocol``. Nothing is exported from
here: every worker would pay for it at its start.
"""
