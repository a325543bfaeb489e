# Finds LibTorch, from a PyTorch wheel or from a LibTorch folder, and defines the imported target
# `sparsum::torch`.
#
# Why not `find_package(Torch)`: the CMake files in a CUDA wheel demand CUDA's toolkit even to compile
# code that never names CUDA. This finder needs headers and libraries only, and treats CPU and CUDA
# builds alike.
#
# Looked at in this order, the first hit wins:
#   1. SPARSUM_TORCH_ROOT (CMake or environment variable): the folder with include/ and lib/
#   2. every entry P of CMAKE_PREFIX_PATH: P, P/torch, and P/../.. (torch.utils.cmake_prefix_path)
#   3. SPARSUM_TORCH_BUILT_WITH: set by sparsum's installed package, the one that the library was built with
#   4. .venv/ of the project that calls this
#   5. the torch of the `python3` on PATH
# Results: SparsumTorch_FOUND, SparsumTorch_VERSION, SparsumTorch_ROOT, SparsumTorch_CUDA,
# SparsumTorch_LIBRARY_DIRS.

set(_candidates "")
foreach(_hint "${SPARSUM_TORCH_ROOT}" "$ENV{SPARSUM_TORCH_ROOT}")
  if(_hint)
    list(APPEND _candidates "${_hint}")
  endif()
endforeach()
if(_candidates)
  set(_explicit TRUE) # A root that was named is used or refused; nothing else is tried in its place.
else()
  set(_explicit FALSE)
  foreach(_prefix IN LISTS CMAKE_PREFIX_PATH)
    list(APPEND _candidates "${_prefix}" "${_prefix}/torch" "${_prefix}/../..")
  endforeach()
  if(SPARSUM_TORCH_BUILT_WITH)
    list(APPEND _candidates "${SPARSUM_TORCH_BUILT_WITH}")
  endif()
  file(GLOB _venv "${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch"
       "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
  list(APPEND _candidates ${_venv})
endif()

macro(_sparsum_torch_try candidates)
  foreach(_dir IN LISTS ${candidates})
    if(EXISTS "${_dir}/include/torch/library.h" AND EXISTS "${_dir}/lib/libtorch_cpu.so")
      get_filename_component(SparsumTorch_ROOT "${_dir}" REALPATH)
      break()
    endif()
  endforeach()
endmacro()

unset(SparsumTorch_ROOT)
_sparsum_torch_try(_candidates)
if(NOT SparsumTorch_ROOT AND NOT _explicit)
  execute_process(
    COMMAND python3 -c
            "import importlib.util as u; s = u.find_spec('torch'); print(list(s.submodule_search_locations)[0] if s else '')"
    OUTPUT_VARIABLE _python_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  _sparsum_torch_try(_python_torch)
endif()

unset(SparsumTorch_VERSION)
if(SparsumTorch_ROOT)
  set(_version_header "${SparsumTorch_ROOT}/include/torch/headeronly/version.h")
  if(EXISTS "${_version_header}")
    file(STRINGS "${_version_header}" _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3"
                         SparsumTorch_VERSION "${_lines}")
  endif()
  file(GLOB _gomp "${SparsumTorch_ROOT}/lib/libgomp*.so*" "${SparsumTorch_ROOT}/../torch.libs/libgomp*.so*")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  SparsumTorch
  REQUIRED_VARS SparsumTorch_ROOT SparsumTorch_VERSION
  VERSION_VAR SparsumTorch_VERSION
  REASON_FAILURE_MESSAGE
    "no LibTorch found: set SPARSUM_TORCH_ROOT to the folder that holds include/ and lib/ (in a PyTorch wheel: site-packages/torch), or run scripts/setup.sh, which puts one into .venv")

if(SparsumTorch_FOUND AND NOT TARGET sparsum::torch)
  set(_lib "${SparsumTorch_ROOT}/lib")
  set(SparsumTorch_LIBRARY_DIRS "${_lib}")
  set(SparsumTorch_CUDA FALSE)
  set(_libraries "${_lib}/libtorch.so" "${_lib}/libtorch_cpu.so" "${_lib}/libc10.so")
  set(_link_options "")
  if(EXISTS "${_lib}/libtorch_cuda.so")
    set(SparsumTorch_CUDA TRUE)
    # --no-as-needed: no symbol of ours names libtorch_cuda, but loading it registers the CUDA backend.
    # Its own dependencies come from sibling wheels found at run time, hence --allow-shlib-undefined.
    list(APPEND _libraries "-Wl,--no-as-needed" "${_lib}/libtorch_cuda.so" "${_lib}/libc10_cuda.so"
         "-Wl,--as-needed")
    list(APPEND _link_options "-Wl,--allow-shlib-undefined")
  endif()
  # at::parallel_for is inline: without -fopenmp it compiles, and runs serially. The flag is for the
  # compiler only; at link time the wheel's own runtime is named, so that one OpenMP runtime is loaded.
  if(_gomp)
    list(GET _gomp 0 _gomp)
    list(APPEND _libraries "${_gomp}")
    get_filename_component(_gomp_dir "${_gomp}" REALPATH)
    get_filename_component(_gomp_dir "${_gomp_dir}" DIRECTORY)
    list(APPEND SparsumTorch_LIBRARY_DIRS "${_gomp_dir}")
    list(REMOVE_DUPLICATES SparsumTorch_LIBRARY_DIRS)
  else()
    list(APPEND _link_options "-fopenmp")
  endif()
  add_library(sparsum::torch INTERFACE IMPORTED)
  set_target_properties(
    sparsum::torch
    PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
               "${SparsumTorch_ROOT}/include;${SparsumTorch_ROOT}/include/torch/csrc/api/include"
               INTERFACE_SYSTEM_INCLUDE_DIRECTORIES
               "${SparsumTorch_ROOT}/include;${SparsumTorch_ROOT}/include/torch/csrc/api/include"
               INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:-fopenmp>"
               INTERFACE_COMPILE_FEATURES cxx_std_20
               INTERFACE_LINK_LIBRARIES "${_libraries}"
               INTERFACE_LINK_OPTIONS "${_link_options}")
endif()
