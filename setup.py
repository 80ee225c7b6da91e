"""The build: `kernels/` and `bench/` stand at the top of the repository and are installed inside the package."""

from setuptools import find_packages, setup

ROOMS = {"intraformer_fast.kernels": "kernels", "intraformer_fast.bench": "bench"}


def packages() -> list[str]:
    found = find_packages(include=["intraformer_fast", "intraformer_fast.*"])
    for name, folder in ROOMS.items():
        found += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    return found


setup(packages=packages(), package_dir=ROOMS)
