//! The models that are measured.

use std::path::PathBuf;

use crate::setup;
use crate::shell::Outcome;

/// A model, how long it is measured, and what is demanded of it alone.
#[derive(Debug)]
pub struct Model {
    /// Its name in options and files.
    pub name: &'static str,
    /// Its name in tables.
    pub title: &'static str,
    /// Measurements of each engine, in alternation.
    pub rounds: usize,
    /// Tokens that are decoded in one of them.
    pub generate: usize,
    /// Prefill of 512 tokens against llama.cpp's, at least.
    pub prefill: f64,
    /// Time to the first token against llama.cpp's, at most.
    pub first: f64,
    /// Whether its conversion is measured.
    pub convert: bool,
}

const SHAPE_1B: Model =
    Model { name: "", title: "", rounds: 3, generate: 64, prefill: 1.4, first: 0.35, convert: false };

pub const MODELS: [Model; 5] = [
    Model { name: "smollm2", title: "SmolLM2 135M Q4_1", rounds: 5, generate: 128, prefill: 2.5, ..SHAPE_1B },
    Model { name: "1b-q4_0", title: "1B Q4_0", ..SHAPE_1B },
    Model { name: "1b-q4_k_m", title: "1B Q4_K_M", ..SHAPE_1B },
    Model { name: "1b-q8_0", title: "1B Q8_0", ..SHAPE_1B },
    Model {
        name: "7b-q4_k_m",
        title: "7B Q4_K_M",
        rounds: 2,
        generate: 32,
        first: 0.55,
        convert: true,
        ..SHAPE_1B
    },
];

impl Model {
    /// The .gguf, made or downloaded where it is not there yet.
    pub fn source(&self) -> Outcome<PathBuf> {
        if self.is_real() { setup::model() } else { setup::shape(self.name) }
    }

    /// Whether it is a trained model, whose outputs mean something.
    pub fn is_real(&self) -> bool {
        self.name == "smollm2"
    }
}
