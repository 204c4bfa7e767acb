//! Chat templates from any model: rendered or refused, within their bounds of work and memory.
#![no_main]

use capsulegraph::text::{ChatMessage, ChatTemplate};
use capsulegraph_fuzz::file;
use capsulegraph_fuzz::support::CHAT_TEMPLATE;
use capsulegraph_fuzz::under_test::expected;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let source = file(input, CHAT_TEMPLATE.as_bytes());
    let source = String::from_utf8_lossy(&source);
    let messages =
        [ChatMessage::new("system", "Be <good>."), ChatMessage::new("user", " \u{1f600} 'hi' {{ x }}")];
    let rendered = ChatTemplate::new(&source, "<s>", "</s>").and_then(|t| t.render(&messages, true));
    if let Err(error) = rendered {
        expected(&error);
    }
});
