/// CapsuleGraph for C++17 and later: language models and ONNX models inside a memory budget, from one file that opens at once.
///
/// A thin layer over capsulegraph.h, whose contract (docs/c-api.md) holds here too; docs/cpp.md has what C++ adds. In short:
///
/// - Every function that can fail has two forms: `name` throws Error, `try_name` returns a Result. Without exceptions
///   (-fno-exceptions) only the second is there.
/// - Objects own what they stand for, can be moved and not copied, and keep alive what they need: a session its model. One
///   that is closed or was moved from answers every call with Status::invalid_argument.
/// - Text and paths are UTF-8, on Windows too; utf8() makes them of a std::filesystem::path.
/// - Text goes in as std::string_view. What comes back as std::string_view or Span is a view; each says of what.
/// - An exception of a callable that is handed in comes out of the call that called it, of `try_name` too.
#ifndef CAPSULEGRAPH_HPP
#define CAPSULEGRAPH_HPP

#include "capsulegraph/capsule.hpp"
#include "capsulegraph/control.hpp"
#include "capsulegraph/files.hpp"
#include "capsulegraph/group.hpp"
#include "capsulegraph/handle.hpp"
#include "capsulegraph/model.hpp"
#include "capsulegraph/part.hpp"
#include "capsulegraph/result.hpp"
#include "capsulegraph/session.hpp"
#include "capsulegraph/tensor.hpp"

#endif
