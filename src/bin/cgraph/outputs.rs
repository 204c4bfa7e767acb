//! The files that a command writes, held against those that it reads before anything is done.

use std::path::Path;

use capsulegraph::container::paths::{file_to_write, refuse_overwriting};
use capsulegraph::{Error, Result};

/// The files that a command writes.
#[derive(Debug, Default)]
pub struct Outputs<'a>(Vec<&'a Path>);

impl<'a> Outputs<'a> {
    /// The given ones of `outputs`; absent ones of both are options that were not given.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where one would overwrite an input or another; [`Error::NotFound`] where its folder
    /// does not exist; [`Error::Io`] where something stands there that is no file.
    pub fn checked(outputs: &[Option<&'a Path>], inputs: &[Option<&Path>]) -> Result<Self> {
        let checked = Self(outputs.iter().flatten().copied().collect());
        for output in &checked.0 {
            let path = file_to_write(output)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                return Err(Error::NotFound(format!(
                    "{}: there is no folder {}; make it first",
                    output.display(),
                    folder.display()
                )));
            }
        }
        let inputs: Vec<&Path> = inputs.iter().flatten().copied().collect();
        checked.spare(&inputs)?;
        Ok(checked)
    }

    /// Holds the outputs against inputs that became known later.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where one would be overwritten.
    pub fn spare(&self, inputs: &[&Path]) -> Result<()> {
        refuse_overwriting(inputs, &self.0)
    }
}
