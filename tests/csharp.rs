//! `bindings/csharp/src/Native.g.cs` is what csbindgen makes of `src/ffi`.
//!
//! With CAPSULEGRAPH_BLESS=1 the file is rewritten instead of compared. bindings/csharp/tests holds it against the header, the
//! exported symbols and a C compiler's layouts.

#![allow(clippy::unwrap_used)] // a failed set-up is a failed test

use std::path::Path;

/// The sources in the order of the file.
const SOURCES: &[&str] = &[
    "version", "status", "error", "text", "budget", "cancel", "log", "input", "convert", "split", "verify",
    "inspect", "reader", "threads", "model", "tokenize", "session", "generate", "group", "part", "tensor",
    "port", "run", "capsule", "fetch", "export",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Without function pointers and native integers, which Mono's compiler does not have. Constants must be plain numbers of
/// src/ffi: csbindgen leaves out others.
fn generated() -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("Native.g.cs");
    SOURCES
        .iter()
        .fold(csbindgen::Builder::default(), |builder, name| {
            builder.input_extern_file(root().join(format!("src/ffi/{name}.rs")))
        })
        .csharp_namespace("CapsuleGraph")
        .csharp_class_name("Native")
        .csharp_class_accessibility("internal")
        .csharp_dll_name("capsulegraph")
        .csharp_dll_name_if("UNITY_IOS && !UNITY_EDITOR", "__Internal")
        .csharp_use_function_pointer(false)
        .csharp_use_nint_types(false)
        .csharp_generate_const_filter(|name| name.starts_with("CAPG_"))
        .generate_csharp_file(&path)
        .unwrap();
    let text = std::fs::read_to_string(path).unwrap().replace('\r', "");
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn the_declarations_of_csharp_are_up_to_date() {
    let path = root().join("bindings/csharp/src/Native.g.cs");
    let wanted = generated();
    if std::env::var_os("CAPSULEGRAPH_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default().replace('\r', "");
    let differs = wanted.lines().zip(found.lines()).position(|(a, b)| a != b);
    assert!(
        wanted == found,
        "bindings/csharp/src/Native.g.cs differs from src/ffi (first at line {differs:?}); rewrite it with: \
         CAPSULEGRAPH_BLESS=1 cargo test --test csharp"
    );
}

#[test]
fn every_source_of_the_header_is_read() {
    let header = std::fs::read_to_string(root().join("tests/header.rs")).unwrap();
    let (_, list) = header.split_once("const SOURCES: &[&str] = &[").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(names, SOURCES, "tests/header.rs has other sources");
}
