"""``python -m flight_server`` is the command ``lakehouse``."""

from flight_server.cli import main

main()
