"""The recipes of the packaged examples; see the README beside this file."""
