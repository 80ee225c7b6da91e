"""Disks that fill up."""

import contextlib
import shutil
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size):
    """The folder on a disk of its own, of `size` bytes; where none can be mounted the test is skipped."""
    if not shutil.which("mount"):
        pytest.skip("a small disk needs mount, and it is not on PATH")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
