//! Gives the shared library a name of its own: without one, programs linked to it record the path they saw.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux" | "android") => println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcapsulegraph.so"),
        Ok("macos" | "ios") => {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libcapsulegraph.dylib");
        }
        _ => {}
    }
}
