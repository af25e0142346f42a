"""The worker: its half of the channels, the model and its update rule, and the connection."""
