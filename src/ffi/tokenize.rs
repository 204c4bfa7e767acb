//! Text to tokens and back, and conversations.

use std::ffi::c_char;

use super::error::{Failure, capg_error};
use super::handle::share;
use super::input::{array, flags, text};
use super::model::capg_model;
use super::output::HandleOut;
use super::panic::guard;
use super::status::capg_status;
use super::text::{capg_text, capg_tokens};
use crate::text::ChatMessage;

/// Tokenize flag: add the BOS and EOS tokens that the model asks for.
pub const CAPG_TOKENIZE_ADD_SPECIAL: u32 = 1;
/// Tokenize flag: the text of a control token becomes that token. Leave it off for text from outside.
pub const CAPG_TOKENIZE_PARSE_SPECIAL: u32 = 2;
/// Detokenize flag: print control tokens too.
pub const CAPG_DETOKENIZE_SPECIAL: u32 = 1;
/// Chat flag: leave out the beginning of the next answer.
pub const CAPG_CHAT_NO_REPLY: u32 = 1;

/// One message of a conversation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_chat_message {
    /// Who speaks, UTF-8: "system", "user", "assistant", or what the template knows besides.
    pub role: *const c_char,
    /// Its length in bytes.
    pub role_len: usize,
    /// What is said, UTF-8.
    pub content: *const c_char,
    /// Its length in bytes.
    pub content_len: usize,
}

/// Turns text into tokens. flags: CAPG_TOKENIZE_*. Errors: UNSUPPORTED where the model has no tokenizer, LIMIT for
/// text of 1 GiB and more. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_tokenize(
    model: *const capg_model,
    text: *const c_char,
    text_len: usize,
    flags: u32,
    tokens: *mut *mut capg_tokens,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, text) = unsafe {
            let out = HandleOut::required(tokens, "tokens")?;
            (out, share(model, "model")?, self::text(text, text_len, "text")?)
        };
        let flags = self::flags(flags, CAPG_TOKENIZE_ADD_SPECIAL | CAPG_TOKENIZE_PARSE_SPECIAL)?;
        let (add, parse) = (flags & CAPG_TOKENIZE_ADD_SPECIAL != 0, flags & CAPG_TOKENIZE_PARSE_SPECIAL != 0);
        out.set(model.model.language()?.tokenizer()?.encode(text, add, parse)?.into());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Turns tokens into text; bytes that form no character become U+FFFD. flags: CAPG_DETOKENIZE_*. Errors:
/// INVALID_ARGUMENT for ids out of range, UNSUPPORTED where the model has no tokenizer. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_detokenize(
    model: *const capg_model,
    ids: *const u32,
    count: usize,
    flags: u32,
    text: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, ids) = unsafe {
            let out = HandleOut::required(text, "text")?;
            (out, share(model, "model")?, array(ids, count, "ids")?)
        };
        let special = self::flags(flags, CAPG_DETOKENIZE_SPECIAL)? != 0;
        let tokenizer = model.model.language()?.tokenizer()?;
        if let Some(id) = ids.iter().find(|id| **id >= tokenizer.n_tokens()) {
            return Err(Failure::invalid(format!(
                "token id {id} is out of range; the model has {} tokens",
                tokenizer.n_tokens()
            )));
        }
        out.set(tokenizer.decode(ids, special).into());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// # Safety
/// `messages` and what they point to are valid.
unsafe fn conversation(
    messages: *const capg_chat_message,
    count: usize,
) -> Result<Vec<ChatMessage>, Failure> {
    // SAFETY: passed on.
    let messages = unsafe { array(messages, count, "messages") }?;
    let convert = |(i, m): (usize, &capg_chat_message)| {
        // SAFETY: passed on.
        let (role, content) = unsafe {
            let role = text(m.role, m.role_len, &format!("messages[{i}].role"))?;
            (role, text(m.content, m.content_len, &format!("messages[{i}].content"))?)
        };
        Ok(ChatMessage::new(role, content))
    };
    messages.iter().enumerate().map(convert).collect()
}

/// A conversation as the model's own chat template writes it, with the beginning of the next answer. flags:
/// CAPG_CHAT_*. Errors: UNSUPPORTED where the model has no template, MALFORMED where the template fails.
/// Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_chat_prompt(
    model: *const capg_model,
    messages: *const capg_chat_message,
    count: usize,
    flags: u32,
    text: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, messages) = unsafe {
            let out = HandleOut::required(text, "text")?;
            (out, share(model, "model")?, conversation(messages, count)?)
        };
        let reply = self::flags(flags, CAPG_CHAT_NO_REPLY)? == 0;
        out.set(model.model.language()?.render_chat(&messages, reply)?.into());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// A conversation as tokens, ready to be answered by capg_session_generate. Errors: as capg_model_chat_prompt.
/// Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_chat_tokens(
    model: *const capg_model,
    messages: *const capg_chat_message,
    count: usize,
    tokens: *mut *mut capg_tokens,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, messages) = unsafe {
            let out = HandleOut::required(tokens, "tokens")?;
            (out, share(model, "model")?, conversation(messages, count)?)
        };
        out.set(model.model.language()?.chat_tokens(&messages)?.into());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}
