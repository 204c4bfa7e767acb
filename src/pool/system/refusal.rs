//! What is said where a thread cannot have its place.

use crate::error::{Error, Result};

/// Refuses a processor that is not among those that the system allows.
pub(super) fn check_allowed(processors: &[usize], allowed: &[usize]) -> Result<()> {
    let wrong = processors.iter().find(|number| !allowed.contains(number));
    wrong.map_or(Ok(()), |wrong| {
        Err(Error::InvalidArgument(format!(
            "processors: processor {wrong} is not allowed by the system; choose from {}",
            ranges(allowed)
        )))
    })
}

/// Ascending numbers as a person writes them: `0-3,8`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run.iter().map(usize::to_string).collect(),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

/// Why a thread has no place.
pub(super) fn refused(what: &str, reason: &str) -> Error {
    Error::InvalidArgument(format!("{what}: the system refuses it to a compute thread: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn numbers_are_written_as_ranges() {
        for (numbers, text) in [(&[][..], ""), (&[7], "7"), (&[0, 1], "0-1"), (&[0, 2, 3, 4, 9], "0,2-4,9")] {
            assert_eq!(ranges(numbers), text);
        }
    }
}
