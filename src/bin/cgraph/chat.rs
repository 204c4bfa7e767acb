//! `cgraph chat`: a conversation, line by line.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use capsulegraph::Error;
use capsulegraph::pool::CancelToken;
use capsulegraph::report::memory::MemorySampler;
use capsulegraph::text::ChatMessage;

use crate::args::{ChatArgs, ComputeArgs, GenerateArgs};
use crate::failure::Failure;
use crate::interrupt;
use crate::outputs::Outputs;
use crate::run::{Answer, remark_speeds};
use crate::ui::{self, Ui};

pub fn chat(args: &ChatArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    converse(&args.file, args.system.as_deref(), &args.generate, &args.compute, ui, cancel)
}

/// Holds a conversation until the input ends. The session keeps what each turn has in common with the last.
pub fn converse(
    file: &Path,
    system: Option<&str>,
    generate: &GenerateArgs,
    compute: &ComputeArgs,
    ui: &Ui,
    cancel: &CancelToken,
) -> Result<(), Failure> {
    let model = compute.open(file, 0, &Outputs::default(), ui)?;
    let first: Vec<ChatMessage> = system.iter().map(|text| ChatMessage::new("system", *text)).collect();
    // A model without a template is refused now, not after the first message.
    model.render_chat(&[first.as_slice(), &[ChatMessage::new("user", "")]].concat(), true)?;
    let mut session = compute.session(std::sync::Arc::clone(&model), 0)?;
    let (sampler, options) = (MemorySampler::new(), generate.options());
    let interactive = io::stdin().is_terminal() && !ui.is_quiet();
    if interactive {
        let name = model_name(&model);
        ui::say(&format!("{name} - /exit ends, /clear begins anew, Ctrl-C stops an answer\n"));
    }
    let mut messages = first.clone();
    while let Some(line) = read_line(interactive)? {
        match line.trim() {
            "" => continue,
            "/exit" => break,
            "/clear" => {
                messages.clone_from(&first);
                continue;
            }
            text => messages.push(ChatMessage::new("user", text)),
        }
        cancel.reset();
        let mut answer = Answer::default();
        let outcome = model
            .chat_tokens(&messages)
            .map_err(Failure::from)
            .and_then(|tokens| answer.generate(&mut session, &tokens, &options, cancel, &sampler, true));
        match outcome {
            Ok(()) => {}
            Err(Failure::Library(Error::Cancelled)) if interactive => {}
            // The context is full: the conversation can begin anew.
            Err(Failure::Library(error @ Error::Limit(_))) if interactive => {
                ui::say(&format!("cgraph: {error} (/clear begins anew)\n"));
                messages.pop();
                continue;
            }
            Err(failure) => return Err(failure),
        }
        if !answer.text.ends_with('\n') {
            ui::print("\n")?;
        }
        remark_speeds(&session, ui);
        messages.push(ChatMessage::new("assistant", answer.text));
    }
    Ok(())
}

fn model_name(model: &capsulegraph::generate::model::Model) -> &str {
    &model.store().manifest().model.name
}

/// The next line; `None` at the end of input.
fn read_line(interactive: bool) -> Result<Option<String>, Failure> {
    if interactive {
        ui::say("> ");
    }
    let mut line = String::new();
    let read = interrupt::waiting(|| io::stdin().lock().read_line(&mut line)).map_err(Failure::input)?;
    if read == 0 && interactive {
        ui::say("\n");
    }
    Ok((read > 0).then(|| ui::without_mark(line)))
}
