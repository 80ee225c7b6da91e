"""The build: calls CMake for the native libraries, and maps `kernels/` and `bench/` into the package.

Environment: INTRAFORMER_NATIVE = AUTO (the default: native where a C++ compiler is found, else pure Python with a note), ON (fail
without one) or OFF; INTRAFORMER_CUDA = AUTO, ON or OFF, and INTRAFORMER_X86 = ON or OFF, handed on to CMake; INTRAFORMER_BUILD_DIR = a
folder to build in and to keep, so that the next build compiles what changed alone.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
ROOMS = {"intraformer_fast.kernels": "kernels", "intraformer_fast.bench": "bench"}


def packages() -> list[str]:
    found = find_packages(include=["intraformer_fast", "intraformer_fast.*"])
    for name, folder in ROOMS.items():
        found += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    return found


def choice(variable: str, *values: str) -> str:
    """What the environment says, the first of `values` by default."""
    value = os.environ.get(variable, values[0]).upper()
    if value not in values:
        raise SystemExit(f"{variable} = {value!r}: expected {', '.join(values[:-1])} or {values[-1]}")
    return value


def native_choice() -> str:
    return choice("INTRAFORMER_NATIVE", "AUTO", "ON", "OFF")


def compiler_found() -> bool:
    return any(map(shutil.which, [os.environ.get("CXX") or "c++", "g++", "clang++"]))


def torch_folder() -> Path | None:
    """Where torch is. A build in isolation does not see that of the environment that pip installs into: it is taken all the same, since
    what pip would fetch instead may have several gigabytes."""
    if (found := find_spec("torch")) and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0])
    folder = Path(sysconfig.get_path("platlib")) / "torch"
    return folder if (folder / "include/torch/csrc/stable/ops.h").exists() else None  # since torch 2.10


def missing_packages() -> list[str]:
    """What pip can bring. Torch is there for its headers alone: any other torch >= 2.10 may be used with the result."""
    needed = {"cmake>=3.22": shutil.which("cmake"), "ninja": shutil.which("ninja"), "torch>=2.10": torch_folder()}
    return [] if native_choice() == "OFF" or not compiler_found() else [n for n, has in needed.items() if not has]


def builds_native() -> bool:
    wanted = native_choice()
    if wanted == "OFF":
        return False
    missing = [name for name in missing_packages() if name != "ninja"]  # make does as well
    if not compiler_found():
        missing.append("a C++20 compiler (g++ 11 or later or clang++ 14 or later; CXX names one)")
    if missing and wanted == "ON":
        raise SystemExit(f"INTRAFORMER_NATIVE=ON, but this machine lacks {'; '.join(missing)}")
    if missing and {"bdist_wheel", "editable_wheel"} & set(sys.argv):
        print(
            f"intraformer-fast: built without the native libraries, for lack of {'; '.join(missing)}", file=sys.stderr
        )
    return not missing


class CMakeBuild(build_ext):
    """Configures, builds and puts the libraries beside the package's modules."""

    def run(self) -> None:
        build = Path(os.environ.get("INTRAFORMER_BUILD_DIR") or self.build_temp).absolute()
        ninja = shutil.which("ninja")
        options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        self.cmake(
            "-S", ROOT, "-B", build, *options, "-DBUILD_TESTING=OFF", f"-DTorch_DIR={torch_folder()}/share/cmake/Torch",
            f"-DPython_EXECUTABLE={sys.executable}", f"-DINTRAFORMER_CUDA={choice('INTRAFORMER_CUDA', 'AUTO', 'ON', 'OFF')}",
            f"-DINTRAFORMER_X86={choice('INTRAFORMER_X86', 'ON', 'OFF')}",
        )  # fmt: skip
        self.cmake(
            "--build", build, "--parallel", os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        )
        for library in self.destination().glob("_*.so"):
            library.unlink()  # one that this build no longer makes must not be packed
        self.cmake("--install", build, "--component", "python", "--prefix", self.destination())

    def cmake(self, *arguments: object) -> None:
        if subprocess.run(["cmake", *map(str, arguments)]).returncode:
            raise SystemExit(
                "intraformer-fast: CMake failed; its own words are above (INTRAFORMER_NATIVE=OFF goes without)"
            )

    def destination(self) -> Path:
        in_place = self.inplace or self.editable_mode
        return (ROOT if in_place else Path(self.build_lib).absolute()) / "intraformer_fast"

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.destination().glob("_*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


missing = missing_packages()
fetching = "egg_info" in sys.argv and bool(missing)  # pip asks, before it builds, what to bring
native = not fetching and builds_native()
setup(
    setup_requires=missing if fetching else [],
    packages=packages(),
    package_dir=ROOMS,
    # Its name makes the wheel one of a platform; CMake builds it and the libraries.
    ext_modules=[Extension("intraformer_fast._build_info", [], py_limited_api=True)] if native else [],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if native else {},
)
