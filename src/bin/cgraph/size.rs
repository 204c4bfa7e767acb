//! Sizes on the command line: `1500000`, `512MiB`, `1.5GB`.

/// Units by name, in lower case. Those with an `i` are powers of 1024, those without of 1000.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// Digits after the point at most.
const MAX_FRACTION: usize = 12;

/// Parses a size into bytes; a part of a byte is dropped.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("\"{text}\" is no size; write bytes or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB")
    };
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > MAX_FRACTION {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let fraction_value: u128 = fraction.parse().map_err(|_| wrong())?;
    let part = fraction_value * u128::from(*factor) / 10u128.pow(fraction.len() as u32);
    let bytes = u128::from(whole) * u128::from(*factor) + part;
    match u64::try_from(bytes) {
        Ok(0) => Err(format!("\"{text}\" is no bytes at all; leave the option out for its default")),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(format!("\"{text}\" is too large")),
    }
}

/// A number of bytes for people: `98.0 MiB`.
pub fn human(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::{human, parse};

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in [
            ("1500000", 1_500_000),
            ("512MiB", 512 << 20),
            ("1.5GB", 1_500_000_000),
            ("1.5 GiB", 3 << 29),
            ("2kB", 2_000),
            ("0.25KiB", 256),
            ("7B", 7),
            ("16777215TiB", 16_777_215u64 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "MiB", "-1", "1.", ".5GB", "1.2.3", "5 parsecs", "0", "99999999TiB", "1e9", "١MB"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(u64::MAX), "16777216.0 TiB");
    }
}
