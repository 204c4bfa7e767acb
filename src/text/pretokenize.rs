//! Pre-tokenizers: how a byte-level BPE model cuts text into words before merging.
//!
//! Every model family has its own regular expressions, published in its `tokenizer.json`; GGUF names the family
//! in `tokenizer.ggml.pre`. The expressions are applied one after the other: each cuts the pieces of the one
//! before into matches and the gaps between them. The table follows llama.cpp's reading of the families
//! (src/llama-vocab.cpp), and where its engine differs from the published expression, so does the table:
//! - `~` is no symbol (`\p{S}`) to it, and spaces outside ASCII are never in a class of characters, only `\s`;
//! - in cased families (tekken, gpt-4o) only A-Z and a-z have a case, marks are no letters.

use crate::error::{Error, Result};
use fancy_regex::{Regex, RegexBuilder};
use std::sync::OnceLock;

/// Steps one match may take. The expressions need a few per character, also in a run of 100 MB of spaces.
const BACKTRACK_LIMIT: usize = 1_000_000_000;

/// The regular expressions of a family, compiled on first use.
struct Family {
    patterns: &'static [&'static str],
    compiled: OnceLock<Result<Vec<Regex>, String>>,
}

impl Family {
    const fn new(patterns: &'static [&'static str]) -> Self {
        Self { patterns, compiled: OnceLock::new() }
    }

    fn regexes(&self) -> Result<&[Regex]> {
        let build = |pattern: &&str| RegexBuilder::new(pattern).backtrack_limit(BACKTRACK_LIMIT).build();
        let compile = || self.patterns.iter().map(build).collect::<Result<_, _>>().map_err(|e| e.to_string());
        match self.compiled.get_or_init(compile) {
            Ok(regexes) => Ok(regexes),
            Err(why) => Err(Error::Internal(format!("a pre-tokenizer's expression does not compile: {why}"))),
        }
    }
}

/// One kind of pre-tokenizer, by the name that GGUF gives it.
pub struct Pretokenizer {
    name: &'static str,
    family: &'static Family,
    ignore_merges: bool,
    add_bos: bool,
}

impl Pretokenizer {
    const fn plain(name: &'static str, family: &'static Family) -> Self {
        Self { name, family, ignore_merges: false, add_bos: false }
    }

    const fn whole_words(name: &'static str, family: &'static Family, add_bos: bool) -> Self {
        Self { name, family, ignore_merges: true, add_bos }
    }

    /// Its name in `tokenizer.ggml.pre`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a word that is a token is taken whole, whatever the merges say.
    pub fn ignore_merges(&self) -> bool {
        self.ignore_merges
    }

    /// Whether texts start with BOS if the model does not say.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Cuts text into words; together they are the text.
    ///
    /// # Errors
    /// [`Error::Limit`] if the text drives an expression beyond its step limit.
    pub fn split<'t>(&self, text: &'t str) -> Result<Vec<&'t str>> {
        let mut pieces = vec![text];
        for regex in self.family.regexes()? {
            let mut finer = Vec::with_capacity(2 * pieces.len());
            for piece in pieces {
                let mut end = 0;
                for found in regex.find_iter(piece) {
                    let found = found.map_err(|error| self.too_hard(piece, &error))?;
                    finer.extend(piece.get(end..found.start()));
                    finer.push(found.as_str());
                    end = found.end();
                }
                finer.extend(piece.get(end..));
            }
            finer.retain(|piece| !piece.is_empty());
            pieces = finer;
        }
        Ok(pieces)
    }

    fn too_hard(&self, piece: &str, error: &fancy_regex::Error) -> Error {
        let (name, len) = (self.name, piece.len());
        Error::Limit(format!("the pre-tokenizer `{name}` gave up on a stretch of {len} bytes: {error}"))
    }
}

/// Whether [`find`] knows this name.
pub fn supported(pre: &str) -> bool {
    find(pre).is_ok()
}

/// The pre-tokenizer with this name; an empty name means `default`.
///
/// # Errors
/// [`Error::Unsupported`] naming it.
pub fn find(pre: &str) -> Result<&'static Pretokenizer> {
    let wanted = if pre.is_empty() { "default" } else { pre };
    KINDS.iter().find(|kind| kind.name == wanted).ok_or_else(|| {
        Error::Unsupported(format!(
            "the pre-tokenizer `{pre}` (GGUF key tokenizer.ggml.pre) is not supported by this version"
        ))
    })
}

/// All known pre-tokenizers.
pub fn kinds() -> &'static [Pretokenizer] {
    KINDS
}

/// GPT-2; the last alternative takes what the published expression leaves between matches.
static GPT2: Family =
    Family::new(&[r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"]);
/// GPT-2 with every digit on its own.
static DIGIT_GPT2: Family =
    Family::new(&[r"\p{N}", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"]);
/// Llama 3: numbers in threes from the left.
static LLAMA3: Family = Family::new(&[
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]);
/// Qwen 2: every digit on its own.
static QWEN2: Family = Family::new(&[
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]);
/// Qwen 3.5: marks belong to words.
static QWEN35: Family = Family::new(&[
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]);
/// DeepSeek LLM: its own alphabet of cased letters.
static DEEPSEEK_LLM: Family = Family::new(&[
    r"[\r\n]",
    concat!(
        r"\s?[",
        r"A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}",
        r"\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}",
        r"\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}",
        r"\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}",
        r"\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}",
        r"\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}",
        r"\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}",
        r"\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}",
        r"\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}",
        r"\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}",
        r"\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}",
        r"\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}",
        r"\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}",
        r"\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}",
        r"]+"
    ),
    r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3001}\x{3002}]+",
    r"\s+$",
    r"[[\x{800}-\x{9fa5}\x{ac00}-\x{d7ff}]--\s]+",
    r"\p{N}+",
]);
/// DeepSeek Coder.
static DEEPSEEK_CODER: Family = Family::new(&[
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    r"[[\x{800}-\x{9fa5}\x{ac00}-\x{d7ff}]--\s]+",
    r"\p{N}",
]);
/// DeepSeek V3.
static DEEPSEEK3: Family = Family::new(&[
    r"\p{N}{1,3}",
    r"[\x{4e00}-\x{9fa5}\x{3040}-\x{30ff}]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}[\p{S}--~]]?[\p{L}\p{M}]+| ?[\p{P}[\p{S}--~]]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
]);
/// Falcon.
static FALCON: Family = Family::new(&[
    r"[\p{P}\$\+<=>\^~\|`]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"[0-9][0-9][0-9]",
]);
/// What llama.cpp does for a model that names nothing.
static DEFAULT: Family = Family::new(&[
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
]);
/// BLOOM and Poro.
static BLOOM: Family =
    Family::new(&[r" ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+"]);
/// Viking.
static VIKING: Family =
    Family::new(&[r" ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+", r"\p{N}"]);
/// Mistral's Tekken.
static TEKKEN: Family = Family::new(&[
    r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])*(?:(?=\p{L})[^A-Z])+|[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])+(?:(?=\p{L})[^A-Z])*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]);
/// GPT-4o (o200k).
static GPT4O: Family = Family::new(&[
    r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])*(?:(?=\p{L})[^A-Z])+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])+(?:(?=\p{L})[^A-Z])*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]);
/// Chameleon.
static CHAMELEON: Family = Family::new(&[
    r"<sentinel:[0-9]+>",
    r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"([\t\n]|    |  )",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
]);
/// Bailing MoE.
static BAILING: Family = Family::new(&[
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
]);
/// Seed Coder.
static SEED_CODER: Family = Family::new(&[
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
]);
/// MiniCPM 5.
static MINICPM5: Family = Family::new(&[
    r"\p{N}{1,3}",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]);

/// Every name with its family, and what llama.cpp switches on for it.
static KINDS: &[Pretokenizer] = &[
    Pretokenizer::plain("default", &DEFAULT),
    Pretokenizer::whole_words("llama3", &LLAMA3, true),
    Pretokenizer::whole_words("llama-v3", &LLAMA3, true),
    Pretokenizer::whole_words("llama-bpe", &LLAMA3, true),
    Pretokenizer::whole_words("falcon3", &LLAMA3, true),
    Pretokenizer::whole_words("falcon-h1", &LLAMA3, true),
    Pretokenizer::whole_words("pixtral", &LLAMA3, true),
    Pretokenizer::whole_words("midm-2.0", &LLAMA3, true),
    Pretokenizer::whole_words("lfm2", &LLAMA3, true),
    Pretokenizer::whole_words("jina-v5-nano", &LLAMA3, true),
    Pretokenizer::plain("dbrx", &LLAMA3),
    Pretokenizer::plain("smaug-bpe", &LLAMA3),
    Pretokenizer::plain("chatglm-bpe", &LLAMA3),
    Pretokenizer::plain("glm4", &LLAMA3),
    Pretokenizer::plain("deepseek-llm", &DEEPSEEK_LLM),
    Pretokenizer::plain("deepseek-coder", &DEEPSEEK_CODER),
    Pretokenizer::plain("deepseek-v3", &DEEPSEEK3),
    Pretokenizer::plain("hunyuan-dense", &DEEPSEEK3),
    Pretokenizer::plain("joyai-llm", &DEEPSEEK3),
    Pretokenizer::plain("falcon", &FALCON),
    Pretokenizer::plain("gpt-2", &GPT2),
    Pretokenizer::plain("phi-2", &GPT2),
    Pretokenizer::plain("jina-es", &GPT2),
    Pretokenizer::plain("jina-de", &GPT2),
    Pretokenizer::plain("gigachat", &GPT2),
    Pretokenizer::plain("jina-v1-en", &GPT2),
    Pretokenizer::plain("jina-v2-es", &GPT2),
    Pretokenizer::plain("jina-v2-de", &GPT2),
    Pretokenizer::plain("jina-v2-code", &GPT2),
    Pretokenizer::plain("roberta-bpe", &GPT2),
    Pretokenizer::plain("a.x-4.0", &GPT2),
    Pretokenizer::plain("mellum", &GPT2),
    Pretokenizer::plain("modern-bert", &GPT2),
    Pretokenizer::plain("mpt", &GPT2),
    Pretokenizer::plain("olmo", &GPT2),
    Pretokenizer::plain("jais", &GPT2),
    Pretokenizer::plain("exaone4", &GPT2),
    Pretokenizer::plain("trillion", &GPT2),
    Pretokenizer::plain("granite-docling", &GPT2),
    Pretokenizer::plain("starcoder", &DIGIT_GPT2),
    Pretokenizer::plain("refact", &DIGIT_GPT2),
    Pretokenizer::plain("command-r", &DIGIT_GPT2),
    Pretokenizer::plain("smollm", &DIGIT_GPT2),
    Pretokenizer::plain("codeshell", &DIGIT_GPT2),
    Pretokenizer::plain("exaone", &DIGIT_GPT2),
    Pretokenizer::plain("minerva-7b", &DIGIT_GPT2),
    Pretokenizer::plain("qwen2", &QWEN2),
    Pretokenizer::plain("deepseek-r1-qwen", &QWEN2),
    Pretokenizer::plain("kormo", &QWEN2),
    Pretokenizer::plain("f2llmv2", &QWEN2),
    Pretokenizer::plain("megrez", &QWEN2),
    Pretokenizer::plain("stablelm2", &QWEN2),
    Pretokenizer::plain("hunyuan", &QWEN2),
    Pretokenizer::plain("solar-open", &QWEN2),
    Pretokenizer::plain("grok-2", &QWEN2),
    Pretokenizer::plain("qwen35", &QWEN35),
    Pretokenizer::plain("poro-chat", &BLOOM),
    Pretokenizer::plain("bloom", &BLOOM),
    Pretokenizer::plain("gpt3-finnish", &BLOOM),
    Pretokenizer::plain("viking", &VIKING),
    Pretokenizer::whole_words("tekken", &TEKKEN, true),
    Pretokenizer::plain("gpt-4o", &GPT4O),
    Pretokenizer::plain("llama4", &GPT4O),
    Pretokenizer::plain("kanana2", &GPT4O),
    Pretokenizer::plain("minimax-m2", &GPT4O),
    Pretokenizer { name: "chameleon", family: &CHAMELEON, ignore_merges: false, add_bos: true },
    Pretokenizer::plain("bailingmoe", &BAILING),
    Pretokenizer::plain("bailingmoe2", &BAILING),
    Pretokenizer::plain("llada-moe", &BAILING),
    Pretokenizer::plain("seed-coder", &SEED_CODER),
    Pretokenizer::whole_words("minicpm5", &MINICPM5, false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_compiles_and_loses_nothing() {
        let text =
            "I'll say: don't~! 1234567 <sentinel:5>IMGIMGAZ\r\n\t  naïve 中文かな　、。 ÅÄ é́ \u{85} 👩‍🚀   ";
        for kind in kinds() {
            let words = kind.split(text).unwrap_or_else(|e| panic!("{}: {e}", kind.name()));
            assert_eq!(words.concat(), text, "{}", kind.name());
            assert!(words.iter().all(|word| !word.is_empty()), "{}", kind.name());
            assert!(kind.split("").is_ok_and(|words| words.is_empty()), "{}", kind.name());
        }
    }

    #[test]
    fn long_runs_stay_linear() {
        let started = std::time::Instant::now();
        for kind in kinds() {
            for run in ["a", "A", " ", "\n", "1", "!", "字", "'", " a", "\u{301}"] {
                let text = run.repeat(50_000);
                let words = kind.split(&text).unwrap_or_else(|e| panic!("{} {run:?}: {e}", kind.name()));
                assert_eq!(words.concat().len(), text.len());
            }
        }
        assert!(started.elapsed().as_secs() < 120, "took {:?}", started.elapsed());
    }

    #[test]
    fn an_unknown_name_is_named() {
        let error = find("martian").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("`martian`"), "{error}");
        assert!(supported("") && supported("smollm") && !supported("martian"));
    }
}
