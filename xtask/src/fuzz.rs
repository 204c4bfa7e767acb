//! `cargo xtask fuzz [SECONDS]`: every target of fuzz/ through libFuzzer.

use std::process::Command;

use crate::shell::{self, Outcome, capture, exists, root};

pub fn run(seconds: &str) -> Outcome {
    let seconds: u32 = seconds.parse().map_err(|_| format!("\"{seconds}\" is no number of seconds"))?;
    if !exists("cargo-fuzz") {
        shell::run(Command::new("cargo").args(["install", "cargo-fuzz", "--locked"]))?;
    }
    let list = capture(Command::new("cargo").current_dir(root()).args(["fuzz", "list"]))?;
    for name in list.lines() {
        let mut fuzz = Command::new("cargo");
        fuzz.current_dir(root()).args(["fuzz", "run", name, "--"]);
        fuzz.arg(format!("-max_total_time={seconds}")).arg("-rss_limit_mb=1024").arg("-timeout=10");
        // Inputs are changes to sound files, eight bytes each: from the start long enough for a few of them.
        fuzz.args(["-len_control=0", "-max_len=4096"]);
        // libFuzzer's instrumentation needs flags that a stable compiler accepts only so.
        shell::run(fuzz.env("RUSTC_BOOTSTRAP", "1"))?;
    }
    println!("{} fuzz targets ran {seconds} s each without a finding", list.lines().count());
    Ok(())
}
