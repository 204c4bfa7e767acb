//! Which form each capsule of an ONNX model takes in a mini of a given length.

use super::light::Bits;

/// A form that a capsule can take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Form {
    /// `None`: bit for bit.
    pub bits: Option<Bits>,
    /// Bytes of its extent.
    pub bytes: u64,
    /// What it does to the capsule's outputs: the root of the mean squared error, relative to their own.
    pub error: f64,
}

/// For each capsule the index of the form that it takes: of all choices that are at most `limit` bytes long together one
/// with little error, where errors of capsules add up as independent ones do. `None` where even the shortest forms are
/// longer. Without a limit every capsule takes its light form of least error.
pub(super) fn choose(capsules: &[Vec<Form>], limit: Option<u64>) -> Option<Vec<usize>> {
    let Some(limit) = limit else {
        return Some(capsules.iter().map(|forms| gentlest(forms)).collect());
    };
    let mut chosen: Vec<usize> = vec![0; capsules.len()];
    let bytes = |chosen: &[usize]| -> u64 {
        capsules.iter().zip(chosen).filter_map(|(forms, form)| forms.get(*form)).map(|form| form.bytes).sum()
    };
    while bytes(&chosen) > limit {
        // The step that costs least for each byte that it saves.
        let steps = capsules.iter().enumerate().flat_map(|(at, forms)| {
            let now = forms.get(chosen[at]).copied();
            forms.iter().enumerate().filter_map(move |(form, then)| {
                let now = now?;
                let saved = now.bytes.checked_sub(then.bytes).filter(|saved| *saved > 0)?;
                let cost = then.error * then.error - now.error * now.error;
                Some((cost.max(0.0) / saved as f64, at, form))
            })
        });
        let (_, at, form) =
            steps.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)))?;
        chosen[at] = form;
    }
    Some(chosen)
}

/// The form of least error among those that are shorter than the first; the first where there is none.
fn gentlest(forms: &[Form]) -> usize {
    let whole = forms.first().map_or(0, |form| form.bytes);
    let shorter = forms.iter().enumerate().skip(1).filter(|(_, form)| form.bytes < whole);
    shorter.min_by(|a, b| a.1.error.total_cmp(&b.1.error)).map_or(0, |(at, _)| at)
}

/// Bytes of the shortest mini.
pub(super) fn least(capsules: &[Vec<Form>]) -> u64 {
    capsules.iter().map(|forms| forms.iter().map(|form| form.bytes).min().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forms(list: &[(u64, f64)]) -> Vec<Form> {
        let bits = [None, Some(Bits::Eight), Some(Bits::Four)];
        list.iter()
            .zip(bits)
            .map(|((bytes, error), bits)| Form { bits, bytes: *bytes, error: *error })
            .collect()
    }

    #[test]
    fn little_error_is_taken_first() {
        let capsules =
            [forms(&[(100, 0.0), (26, 0.01), (14, 0.2)]), forms(&[(100, 0.0), (26, 0.05), (14, 0.1)])];
        assert_eq!(choose(&capsules, None), Some(vec![1, 1]));
        assert_eq!(choose(&capsules, Some(200)), Some(vec![0, 0]));
        assert_eq!(choose(&capsules, Some(150)), Some(vec![1, 0]));
        assert_eq!(choose(&capsules, Some(60)), Some(vec![1, 1]));
        assert_eq!(choose(&capsules, Some(40)), Some(vec![1, 2]));
        assert_eq!(choose(&capsules, Some(28)), Some(vec![2, 2]));
        assert_eq!(choose(&capsules, Some(27)), None);
        assert_eq!(least(&capsules), 28);
        assert_eq!(choose(&[forms(&[(100, 0.0)])], None), Some(vec![0]));
    }

    proptest! {
        #[test]
        fn a_plan_keeps_its_limit(
            list in prop::collection::vec((1u64..1000, 0.0f64..1.0, 0.0f64..1.0), 1..20),
            share in 0.0f64..1.2,
        ) {
            let capsules: Vec<_> = list
                .iter()
                .map(|(bytes, eight, four)| forms(&[(*bytes, 0.0), (bytes / 3, *eight), (bytes / 7, *four)]))
                .collect();
            let whole: u64 = list.iter().map(|(bytes, ..)| bytes).sum();
            let limit = (share * whole as f64) as u64;
            match choose(&capsules, Some(limit)) {
                Some(chosen) => {
                    let bytes: u64 = capsules.iter().zip(&chosen).map(|(forms, form)| forms[*form].bytes).sum();
                    prop_assert!(bytes <= limit);
                    prop_assert!(limit < whole || chosen.iter().all(|form| *form == 0));
                }
                None => prop_assert!(limit < least(&capsules)),
            }
        }
    }
}
