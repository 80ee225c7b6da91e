// intraformer_fast._build_info: what the native libraries beside it were built with.
//
// Plain limited C API and not pybind11: pybind11 needs the full API, so its modules are bound to one Python version and could
// not ride in a wheel that serves all of them.
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include "build_info.h"

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue(
      "{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "version", INTRAFORMER_VERSION, "cxx_compiler", INTRAFORMER_CXX_COMPILER,
      "cpu_instruction_sets", INTRAFORMER_CPU_INSTRUCTION_SETS, "cuda_compiler", INTRAFORMER_CUDA_COMPILER, "cuda_architectures",
      INTRAFORMER_CUDA_ARCHITECTURES, "torch_headers", INTRAFORMER_TORCH_HEADERS, "torch_minimum", INTRAFORMER_TORCH_TARGET,
      "build_type", INTRAFORMER_BUILD_TYPE);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "What the native libraries were built with: a dict of strings, empty where absent."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_build_info", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__build_info() { return PyModule_Create(&definition); }
