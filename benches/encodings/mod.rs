//! What the benchmarks measure, those that most models use first.

pub const ENCODINGS: &[&str] = &[
    "q4_k", "q6_k", "q8_0", "q4_0", "q5_0", "q5_k", "q4_1", "q3_k", "q2_k", "iq4_nl", "iq4_xs", "f16",
    "bf16", "f32",
];
