//! Stop strings over streamed text.

use crate::error::{Error, Result};

/// What may be shown after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Text that no stop string can reach any more; may be empty.
    pub text: String,
    /// The index of the stop string that ended the text, if one did.
    pub stopped_by: Option<usize>,
}

/// Ends streamed text at the first stop string, which is not shown, whatever pieces the text comes in.
///
/// The stop string that is complete first counts; of several complete at the same place, the longest.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The end of the text so far that could be the start of a stop string.
    held: String,
    stopped_by: Option<usize>,
}

impl StopMatcher {
    /// A matcher for these strings.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if one is empty.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if let Some(i) = stops.iter().position(String::is_empty) {
            return Err(Error::InvalidArgument(format!("stop string {i} is empty; leave it out")));
        }
        Ok(Self { stops, held: String::new(), stopped_by: None })
    }

    /// Takes the next piece of text. After a stop nothing more is released.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.stopped_by.is_some() {
            return Released { text: String::new(), stopped_by: self.stopped_by };
        }
        let seen = self.held.len();
        self.held.push_str(piece);
        if let Some((start, which)) = self.first_match(seen) {
            self.stopped_by = Some(which);
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stopped_by: self.stopped_by };
        }
        let keep_from = self.open_from();
        let held = self.held.split_off(keep_from); // a character boundary: see `open_from`
        Released { text: std::mem::replace(&mut self.held, held), stopped_by: None }
    }

    /// Ends the text: gives what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The match that ends first behind `seen` bytes: where it starts and which string it is.
    fn first_match(&self, seen: usize) -> Option<(usize, usize)> {
        let ends = self.stops.iter().enumerate().filter_map(|(which, stop)| {
            // Earlier text was searched: a new match ends behind it.
            let mut from = (seen + 1).saturating_sub(stop.len());
            while !self.held.is_char_boundary(from) {
                from -= 1; // 0 is a boundary
            }
            let start = from + self.held.get(from..)?.find(stop.as_str())?;
            Some((start + stop.len(), start, which))
        });
        ends.min().map(|(_, start, which)| (start, which))
    }

    /// Where the longest end of the held text starts that is the start of a stop string.
    fn open_from(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest.max(1));
        let open = |at: &usize| {
            self.held.get(*at..).is_some_and(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
        };
        // `get` refuses places inside a character.
        (from..self.held.len()).find(open).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.iter().copied()).unwrap_or_else(|e| panic!("{e}"));
        let mut text = String::new();
        for piece in pieces {
            let released = matcher.push(piece);
            text.push_str(&released.text);
            if released.stopped_by.is_some() {
                assert_eq!(matcher.push("more").text, "");
                return (text, released.stopped_by);
            }
        }
        (text + &matcher.finish(), None)
    }

    #[test]
    fn every_cut_gives_the_same_answer() {
        let cases: [(&[&str], &str, &str, Option<usize>); 9] = [
            (&["###"], "a##b###c", "a##b", Some(0)),
            (&["\n\n", "END"], "one\ntwoEN\n\nD", "one\ntwoEN", Some(0)),
            (&["abc", "b"], "xabc", "xa", Some(1)),
            (&["b", "ab"], "xab", "x", Some(1)),
            (&["aab"], "aaaab", "aa", Some(0)),
            (&["字符"], "x字字符y", "x字", Some(0)),
            (&["é!"], "éé?", "éé?", None),
            (&[], "plain", "plain", None),
            (&["plainer"], "plain", "plain", None),
        ];
        for (stops, text, want, by) in cases {
            let chars: Vec<String> = text.chars().map(String::from).collect();
            for cuts in 0u32..1 << (chars.len() - 1) {
                let mut pieces = vec![String::new()];
                for (i, c) in chars.iter().enumerate() {
                    if i > 0 && cuts >> (i - 1) & 1 == 1 {
                        pieces.push(String::new());
                    }
                    if let Some(last) = pieces.last_mut() {
                        last.push_str(c);
                    }
                }
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                assert_eq!(run(stops, &pieces), (want.to_string(), by), "{stops:?} in {pieces:?}");
            }
        }
    }

    #[test]
    fn nothing_is_held_without_reason() {
        let mut matcher = StopMatcher::new(["</s>"]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(matcher.push("a < b").text, "a < b");
        assert_eq!(matcher.push("x</").text, "x");
        assert_eq!(matcher.push("div>").text, "</div>");
        assert!(StopMatcher::new([""]).is_err());
    }
}
