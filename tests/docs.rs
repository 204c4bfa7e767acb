//! Documents that are generated from the code, or hold code, are what they say.
//!
//! `cargo xtask bless` rewrites the generated ones.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up is a failed test

use std::fmt::Write as _;
use std::path::PathBuf;

use capsulegraph::kernels::encoding;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Holds `expected` against the file, or rewrites the file where that was asked for.
fn compare(name: &str, expected: &str) {
    if std::env::var_os("CAPSULEGRAPH_BLESS").is_some() {
        std::fs::write(path(name), expected).unwrap();
    }
    let found = std::fs::read_to_string(path(name)).unwrap_or_default();
    assert!(found == expected, "{name} is out of date; run: cargo xtask bless");
}

#[cfg(feature = "schema")]
#[test]
fn manifest_schema_is_current() {
    let schema = schemars::schema_for!(capsulegraph::container::manifest::Manifest);
    compare("docs/manifest.schema.json", &(serde_json::to_string_pretty(&schema).unwrap() + "\n"));
}

#[test]
fn table_of_encodings_is_current() {
    let mut table = String::from(
        "| encoding | ggml type | block | bytes | fields (bytes / unit) | written by `split` |\n|---|---|---|---|---|---|\n",
    );
    for e in encoding::all() {
        let fields: Vec<String> = e.fields.iter().map(|f| format!("{}/{}", f.len, f.unit)).collect();
        let light = if e.quantize.is_some() && e.tile.is_some() { "yes" } else { "" };
        writeln!(
            table,
            "| {} | {} | {} | {} | {} | {light} |",
            e.name,
            e.ggml_type,
            e.block_len,
            e.block_bytes,
            fields.join(", ")
        )
        .unwrap();
    }
    let text = read("docs/format.md");
    let (before, rest) = text.split_once("<!-- encodings:begin -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- encodings:end -->").unwrap();
    compare(
        "docs/format.md",
        &format!("{before}<!-- encodings:begin -->\n{table}<!-- encodings:end -->{after}"),
    );
}

#[test]
fn readme_prints_the_c_example_that_is_tested() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("```c\n").expect("README.md has a C example");
    let (printed, _) = rest.split_once("```").unwrap();
    assert_eq!(printed, read("examples/quickstart.c"), "README.md and examples/quickstart.c differ");
    assert!(printed.lines().count() <= 30, "the example has {} lines", printed.lines().count());
}

#[test]
fn changelog_names_this_version() {
    assert!(read("CHANGELOG.md").contains(&format!("## {}", env!("CARGO_PKG_VERSION"))));
}

/// `cargo xtask dist` compares the whole page; this sees at once that a part has another version.
#[test]
fn licences_are_those_of_the_parts_in_use() {
    let (page, lock) = (read("docs/licenses.md"), read("Cargo.lock"));
    let parts: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    assert!(parts.len() > 50, "{} parts", parts.len());
    // The package itself is listed without the version, which changes with every release.
    for part in parts.into_iter().filter(|part| *part != env!("CARGO_PKG_NAME")) {
        let (name, version) = part.split_once(' ').unwrap_or((part, ""));
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(lock.contains(&entry), "{part} is not in Cargo.lock; run: cargo xtask licenses");
    }
}
