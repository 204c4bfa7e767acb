//! Options for ONNX models.

use std::path::PathBuf;

use capsulegraph::onnx::model::Prepack;
use clap::{Args, ValueEnum};

/// `--prepack`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum PrepackArg {
    /// Of each capsule where it pays and --memory has room
    #[default]
    Auto,
    /// Of every capsule
    On,
    /// Of none
    Off,
}

impl From<PrepackArg> for Prepack {
    fn from(arg: PrepackArg) -> Self {
        match arg {
            PrepackArg::Auto => Self::Auto,
            PrepackArg::On => Self::On,
            PrepackArg::Off => Self::Off,
        }
    }
}

/// `--optimization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Graphs are optimised
    #[default]
    On,
    /// They are computed as they are: the same bits however the model is cut
    Off,
}

/// A tensor in a file, or a file for one.
#[derive(Clone, Debug)]
pub struct Binding {
    pub name: String,
    pub path: PathBuf,
}

/// A length for dimensions of a name.
#[derive(Clone, Debug)]
pub struct Dim(pub String, pub u64);

/// How an ONNX model runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "ONNX models")]
pub struct OnnxArgs {
    /// An input from a .npy file; may be given several times
    #[arg(long, value_name = "NAME=F.npy", value_parser = binding)]
    pub input: Vec<Binding>,
    /// Whether weights are copied into the form that kernels like best: auto, on or off
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", hide_possible_values = true)]
    pub prepack: PrepackArg,
    /// Whether graphs are optimised: on or off (the same bits however the model is cut)
    #[arg(long, value_enum, default_value_t, value_name = "on|off", hide_possible_values = true)]
    pub optimization: Switch,
    /// ONNX Runtime's library, or the folder that it is in [default: looked for, see docs/onnx.md]
    #[arg(long, value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
}

/// Reads `NAME=FILE`; a name may have an equals sign in it, as long as the file's has none.
pub fn binding(text: &str) -> Result<Binding, String> {
    match text.rsplit_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok(Binding { name: name.to_owned(), path: path.into() })
        }
        _ => Err("write NAME=FILE.npy".into()),
    }
}

/// Reads `NAME=LENGTH`.
pub fn dim(text: &str) -> Result<Dim, String> {
    let parts = text.rsplit_once('=').and_then(|(name, len)| Some((name, len.parse::<u64>().ok()?)));
    let (name, len) = parts.filter(|(name, _)| !name.is_empty()).ok_or("write NAME=LENGTH")?;
    Ok(Dim(name.to_owned(), len))
}

#[cfg(test)]
mod tests {
    use super::{binding, dim};

    #[test]
    fn names_and_files_are_told_apart() {
        let read = binding("a=b:0=x.npy").unwrap();
        assert_eq!((read.name.as_str(), read.path.to_str()), ("a=b:0", Some("x.npy")));
        assert!(["x.npy", "=x.npy", "x="].iter().all(|wrong| binding(wrong).is_err()));
        assert!(dim("batch=4").is_ok_and(|read| read.0 == "batch" && read.1 == 4));
        assert!(["batch", "=4", "batch=-1", "batch=x"].iter().all(|wrong| dim(wrong).is_err()));
    }
}
