# find_package(CapsuleGraph CONFIG REQUIRED [COMPONENTS capsulegraph static cpp cpp_static])
#
# The targets are those of CapsuleGraphTargets.cmake; a component is there where its target is. Every path is taken from
# where this file lies, so the tree may be moved.
cmake_minimum_required(VERSION 3.16)

get_filename_component(_capsulegraph_root "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
include("${CMAKE_CURRENT_LIST_DIR}/CapsuleGraphTargets.cmake")

# The first of these files that is there.
function(_capsulegraph_first result)
  foreach(name IN LISTS ARGN)
    if(EXISTS "${_capsulegraph_root}/${name}")
      set(${result} "${_capsulegraph_root}/${name}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${result} "" PARENT_SCOPE)
endfunction()

set(_capsulegraph_why "")
if(WIN32)
  _capsulegraph_first(_capsulegraph_shared bin/capsulegraph.dll)
  # Each compiler's static library has its own runtime inside, which the other's linker cannot link; the DLL suits both.
  if(MSVC)
    _capsulegraph_first(_capsulegraph_import lib/capsulegraph.dll.lib)
    _capsulegraph_first(_capsulegraph_static lib/capsulegraph.lib)
    if(NOT _capsulegraph_static AND EXISTS "${_capsulegraph_root}/lib/libcapsulegraph.a")
      string(CONCAT _capsulegraph_why "; its static library is MinGW's (lib/libcapsulegraph.a), which MSVC cannot link: "
        "use the DLL (capsulegraph, cpp), or build the sources with Rust's MSVC toolchain")
    endif()
  else()
    _capsulegraph_first(_capsulegraph_import lib/libcapsulegraph.dll.a lib/capsulegraph.dll.lib)
    _capsulegraph_first(_capsulegraph_static lib/libcapsulegraph.a)
  endif()
else()
  _capsulegraph_first(_capsulegraph_shared lib/libcapsulegraph.so lib/libcapsulegraph.dylib)
  _capsulegraph_first(_capsulegraph_static lib/libcapsulegraph.a)
endif()
capsulegraph_targets(SHARED "${_capsulegraph_shared}" STATIC "${_capsulegraph_static}"
  IMPORT_LIBRARY "${_capsulegraph_import}" INCLUDES "${_capsulegraph_root}/include")

# Without components at least one library must be there.
if(NOT CapsuleGraph_FIND_COMPONENTS AND NOT TARGET CapsuleGraph::cpp)
  set(CapsuleGraph_FOUND FALSE)
  set(CapsuleGraph_NOT_FOUND_MESSAGE "there is no CapsuleGraph library in ${_capsulegraph_root}")
endif()
foreach(_capsulegraph_component IN LISTS CapsuleGraph_FIND_COMPONENTS)
  if(TARGET CapsuleGraph::${_capsulegraph_component})
    set(CapsuleGraph_${_capsulegraph_component}_FOUND TRUE)
  else()
    set(CapsuleGraph_${_capsulegraph_component}_FOUND FALSE)
    set(_capsulegraph_reason "")
    if(_capsulegraph_component MATCHES "static$")
      set(_capsulegraph_reason "${_capsulegraph_why}")
    endif()
    if(CapsuleGraph_FIND_REQUIRED_${_capsulegraph_component})
      set(CapsuleGraph_FOUND FALSE)
      set(CapsuleGraph_NOT_FOUND_MESSAGE
        "${_capsulegraph_root} has no component ${_capsulegraph_component} for ${CMAKE_SYSTEM_NAME}${_capsulegraph_reason}. \
CapsuleGraph has capsulegraph, static, cpp, cpp_static")
    endif()
  endif()
endforeach()
