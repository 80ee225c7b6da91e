"""The recipe of the packaged example `emoji`; see the README beside this file."""
