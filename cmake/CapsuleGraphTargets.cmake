# Targets of CapsuleGraph, for an installed tree and for a build of the sources.
#
# capsulegraph_targets(SHARED file STATIC file IMPORT_LIBRARY file INCLUDES folder...) makes, of the files that are there:
#   CapsuleGraph::capsulegraph  the shared library and its C header
#   CapsuleGraph::static        the static library and its C header
#   CapsuleGraph::cpp           the C++ header with the shared library, or the static one where there is no shared one
#   CapsuleGraph::cpp_static    the C++ header with the static library

# What a program that links the static library needs besides, as `rustc --print native-static-libs` has it.
function(capsulegraph_system_libraries result)
  if(WIN32)
    set(libraries advapi32 bcrypt kernel32 ntdll userenv ws2_32 dbghelp synchronization)
  elseif(APPLE)
    set(libraries "-framework CoreFoundation" iconv System m)
  else()
    set(libraries gcc_s util rt pthread m dl)
  endif()
  set(${result} "${libraries}" PARENT_SCOPE)
endfunction()

function(capsulegraph_targets)
  cmake_parse_arguments(arg "" "SHARED;STATIC;IMPORT_LIBRARY" "INCLUDES" ${ARGN})
  if(arg_SHARED AND NOT TARGET CapsuleGraph::capsulegraph)
    add_library(CapsuleGraph::capsulegraph SHARED IMPORTED GLOBAL)
    set_target_properties(CapsuleGraph::capsulegraph PROPERTIES
      IMPORTED_LOCATION "${arg_SHARED}" INTERFACE_INCLUDE_DIRECTORIES "${arg_INCLUDES}")
    if(WIN32)
      set_target_properties(CapsuleGraph::capsulegraph PROPERTIES IMPORTED_IMPLIB "${arg_IMPORT_LIBRARY}")
    elseif(APPLE)
      set_target_properties(CapsuleGraph::capsulegraph PROPERTIES IMPORTED_SONAME "@rpath/libcapsulegraph.dylib")
    else()
      set_target_properties(CapsuleGraph::capsulegraph PROPERTIES IMPORTED_SONAME "libcapsulegraph.so")
    endif()
  endif()
  if(arg_STATIC AND NOT TARGET CapsuleGraph::static)
    capsulegraph_system_libraries(system)
    add_library(CapsuleGraph::static STATIC IMPORTED GLOBAL)
    set_target_properties(CapsuleGraph::static PROPERTIES
      IMPORTED_LOCATION "${arg_STATIC}" INTERFACE_INCLUDE_DIRECTORIES "${arg_INCLUDES}"
      IMPORTED_LINK_INTERFACE_LANGUAGES C INTERFACE_LINK_LIBRARIES "${system}")
  endif()
  capsulegraph_cpp_target(cpp capsulegraph static)
  capsulegraph_cpp_target(cpp_static static)
endfunction()

# The C++ header with the first of these libraries that is there; no target where there is none.
function(capsulegraph_cpp_target name)
  if(TARGET CapsuleGraph::${name})
    return()
  endif()
  foreach(library IN LISTS ARGN)
    if(TARGET CapsuleGraph::${library})
      add_library(CapsuleGraph::${name} INTERFACE IMPORTED GLOBAL)
      set_target_properties(CapsuleGraph::${name} PROPERTIES
        INTERFACE_LINK_LIBRARIES "CapsuleGraph::${library}" INTERFACE_COMPILE_FEATURES cxx_std_17)
      return()
    endif()
  endforeach()
endfunction()
