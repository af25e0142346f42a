"""Measurements of psrv beside this machine's own limits; ``psrv bench``."""
