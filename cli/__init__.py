"""The command line, `python -m app COMMAND`, and the development server behind `make dev`."""
