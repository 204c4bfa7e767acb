//! `cgraph tokenize`: text to ids and back.

use capsulegraph::Error;
use capsulegraph::container::disk::SystemDisk;
use capsulegraph::generate::model::open_tokenizer;

use crate::args::{Ids, TokenizeArgs};
use crate::failure::Failure;
use crate::ui;

pub fn tokenize(args: TokenizeArgs) -> Result<(), Failure> {
    let tokenizer = open_tokenizer(&args.file, &SystemDisk)?;
    if let Some(Ids(ids)) = &args.ids {
        if let Some(id) = ids.iter().find(|id| **id >= tokenizer.n_tokens()) {
            return Err(Error::InvalidArgument(format!(
                "token id {id} is out of range; the model has {} tokens",
                tokenizer.n_tokens()
            ))
            .into());
        }
        let text = tokenizer.decode(ids, args.special);
        return if args.json { ui::print_json(&text) } else { ui::print(&(text + "\n")) };
    }
    let Some(text) = args.prompt.read()? else {
        return Err(Error::InvalidArgument(
            "there is no text; give it with -p, --prompt-file or a pipe".into(),
        )
        .into());
    };
    let ids = tokenizer.encode(&text, args.bos, args.special)?;
    let listed: Vec<String> = ids.iter().map(u32::to_string).collect();
    ui::print(&format!("[{}]\n", listed.join(", ")))
}
