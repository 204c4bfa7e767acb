//! Roles and types that tokens have by their well-known names.
//!
//! The names are those by which llama.cpp recognises roles (src/llama-vocab.cpp).

use super::{SPECIAL_TOKENS, SpecialToken, TokenType};
use std::collections::{BTreeSet, HashMap};

const EOT_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const EOM_NAMES: &[&str] = &["<|eom_id|>"];
const FIM_PRE_NAMES: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUF_NAMES: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MID_NAMES: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD_NAMES: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP_NAMES: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEP_NAMES: &[&str] = &["<|file_sep|>"];
const EOG_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Tokens of gpt-oss that llama.cpp always prints.
const SHOWN_NAMES: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Fills roles and corrects types by well-known names; returns the tokens that end a generation.
pub(super) fn assign_names(
    by_name: &HashMap<&[u8], u32>,
    types: &mut [TokenType],
    roles: &mut [Option<u32>; SPECIAL_TOKENS],
) -> BTreeSet<u32> {
    let find = |name: &&str| by_name.get(name.as_bytes()).copied();
    let by_role = [
        (SpecialToken::Eot, EOT_NAMES),
        (SpecialToken::Eom, EOM_NAMES),
        (SpecialToken::FimPre, FIM_PRE_NAMES),
        (SpecialToken::FimSuf, FIM_SUF_NAMES),
        (SpecialToken::FimMid, FIM_MID_NAMES),
        (SpecialToken::FimPad, FIM_PAD_NAMES),
        (SpecialToken::FimRep, FIM_REP_NAMES),
        (SpecialToken::FimSep, FIM_SEP_NAMES),
    ];
    for (role, names) in by_role {
        let slot = &mut roles[role as usize];
        if slot.is_none()
            && let Some(id) = names.iter().find_map(find)
        {
            *slot = Some(id);
            types[id as usize] = TokenType::Control;
        }
    }
    let mut eog: BTreeSet<u32> = EOG_NAMES.iter().filter_map(find).collect();
    for &id in &eog {
        types[id as usize] = TokenType::Control;
    }
    for id in SHOWN_NAMES.iter().filter_map(find) {
        types[id as usize] = TokenType::UserDefined;
    }
    for role in [
        SpecialToken::Eos,
        SpecialToken::Eot,
        SpecialToken::Eom,
        SpecialToken::FimPad,
        SpecialToken::FimRep,
        SpecialToken::FimSep,
    ] {
        eog.extend(roles[role as usize]);
    }
    // In gpt-oss and solar-open `<|end|>` ends a part of an answer, in gemma 4 `</s>` ends nothing.
    let ends = |eog: &BTreeSet<u32>, name: &str| find(&name).is_some_and(|id| eog.contains(&id));
    let call = ends(&eog, "<|call|>") || ends(&eog, "<|calls|>");
    if call && (ends(&eog, "<|return|>") || ends(&eog, "<|flush|>")) {
        demote(&mut eog, types, find(&"<|end|>"), TokenType::UserDefined);
    }
    if ends(&eog, "<|tool_response>") {
        demote(&mut eog, types, find(&"</s>"), TokenType::Normal);
    }
    eog
}

/// Takes a token out of those that end a generation.
fn demote(eog: &mut BTreeSet<u32>, types: &mut [TokenType], id: Option<u32>, kind: TokenType) {
    if let Some(id) = id
        && eog.remove(&id)
    {
        types[id as usize] = kind;
    }
}
