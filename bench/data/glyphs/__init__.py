"""The recipe of the packaged example `glyphs`; see the README beside this file."""
