"""What stands behind the commands of ``psrv/cli.py``; imported when a command runs."""
