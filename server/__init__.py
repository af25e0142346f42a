"""The server: membership and aggregation as state machines, and the process around them."""
