//! Chat templates: the Jinja text that a model's file carries, rendered as Hugging Face transformers does.
//!
//! Steps, strings, nesting and printing are bounded. Known gap: minijinja 3.1 does not count the elements of
//! `list + list` nor those below the first level of `==`, so a template made to double a list some thirty times
//! can still take the machine's memory or time.

use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

/// Fuel of one rendering: steps, and about 64 bytes of new data each. Thousands of messages and 60 MB fit, an
/// endless loop or a string that doubles itself does not.
const FUEL: u64 = 1_000_000;
/// Stack of the rendering thread, bytes, reserved but hardly ever touched: with its fuel a template can nest
/// lists some hundred thousand deep, and dropping these takes one call per level.
const STACK_BYTES: usize = 256 << 20;
/// Most elements of a list or map that is printed, and its deepest nesting.
const MAX_ELEMENTS: usize = 1_000_000;
const MAX_DEPTH: usize = 64;
/// Nested calls and includes a template may make.
const RECURSION: usize = 64;
/// Longest template, in bytes.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what the template knows besides.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of `role` saying `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles the template of a model; `bos` and `eos` are the texts of those tokens, empty if none.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `source` is empty: the model has no template; [`Error::Limit`] for more than
    /// 1 MiB; [`Error::Malformed`] if it does not parse.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.trim().is_empty() {
            return Err(Error::NotFound(
                "the model has no chat template; give a template of your own or send plain text".into(),
            ));
        }
        if source.len() > MAX_SOURCE_BYTES {
            let (have, most) = (source.len(), MAX_SOURCE_BYTES);
            return Err(Error::Limit(format!(
                "the chat template has {have} bytes; at most {most} are supported"
            )));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::Internal(whole_message(&error)))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_filter("string", to_string);
        environment.set_formatter(|out, state, value| {
            check_size(value)?;
            minijinja::escape_formatter(out, state, value)
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| Error::malformed("chat template", whole_message(&error)))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The text of a conversation; `add_generation_prompt` ends it where the assistant's answer begins.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the template refuses the messages (its own words are passed on), fails,
    /// or takes more steps than allowed.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        let work = || self.render_here(messages, add_generation_prompt);
        std::thread::scope(|scope| {
            let name = "capsulegraph-template".into();
            let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
            let handle = thread.spawn_scoped(scope, work).map_err(|error| {
                Error::Limit(format!("cannot start a thread to render the chat template: {error}"))
            })?;
            let joined = handle.join();
            joined.unwrap_or_else(|_| Err(Error::Internal("rendering the chat template panicked".into())))
        })
    }

    fn render_here(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(|error| {
            Error::Internal(format!("the chat template was compiled but is gone: {}", whole_message(&error)))
        })?;
        let pairs =
            |m: &ChatMessage| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        // transformers hands over `tools` and `documents` as none rather than leaving them undefined.
        let context = context! {
            messages => messages.iter().map(pairs).collect::<Value>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
        };
        template.render(context).map_err(|error| {
            let why = if error.kind() == ErrorKind::OutOfFuel {
                format!("it took more than {FUEL} units of work and was stopped")
            } else {
                whole_message(&error)
            };
            Error::InvalidArgument(format!("the chat template cannot render these messages: {why}"))
        })
    }
}

/// Refuses to print what repeats or nests itself without end. Nothing recursive here: it may be very deep.
fn check_size(value: &Value) -> Result<(), minijinja::Error> {
    let compound = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    let mut left = MAX_ELEMENTS;
    let mut open = Vec::new();
    let mut next = Some(value.clone()).filter(compound);
    loop {
        if let Some(list) = next.take() {
            if open.len() == MAX_DEPTH {
                return Err(refuse("a list or map is nested too deep to be printed"));
            }
            // A map iterates over its keys.
            let map = (list.kind() == ValueKind::Map).then(|| list.clone());
            open.push((map, list.try_iter()?));
        }
        let Some((map, items)) = open.last_mut() else { return Ok(()) };
        let Some(item) = items.next() else {
            open.pop();
            continue;
        };
        left = left.checked_sub(1).ok_or_else(|| refuse("a list or map is too large to be printed"))?;
        let held = match map {
            Some(map) => map.get_item(&item)?,
            None => item,
        };
        next = Some(held).filter(compound);
    }
}

fn refuse(why: &'static str) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, why)
}

fn to_string(value: &Value) -> Result<String, minijinja::Error> {
    check_size(value)?;
    Ok(value.to_string())
}

fn whole_message(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The current time (UTC: the library reads no time zones) by a `strftime` format.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &now).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "strftime_now: wrong format").with_source(error)
    })
}

/// `tojson` as transformers defines it: nothing escaped for HTML, Python's spacing, optional indent.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let _ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    check_size(value)?;
    let mut out = Vec::new();
    let done = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let style = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, style))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonSpacing)),
    };
    done.map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "cannot write this as JSON").with_source(error)
    })?;
    String::from_utf8(out).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "the JSON is not UTF-8").with_source(error)
    })
}

/// Python's `json.dumps` puts a space after every comma and colon.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn render(source: &str, messages: &[ChatMessage], prompt: bool) -> Result<String> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages, prompt)
    }

    fn hi() -> Vec<ChatMessage> {
        vec![ChatMessage::new("user", " Hi <b> & 'you' ")]
    }

    fn rendered(source: &str) -> String {
        render(source, &hi(), true).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn chatml_renders_as_published() {
        let want = "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\n Hi <b> & 'you' <|im_end|>\n\
            <|im_start|>assistant\n";
        assert_eq!(rendered(CHATML), want);
        let short = render(CHATML, &hi(), false).unwrap_or_default();
        assert!(!short.contains("assistant"));
    }

    #[test]
    fn python_s_ways_work() {
        assert_eq!(rendered("{{ messages[0].content.strip() }}"), "Hi <b> & 'you'");
        assert_eq!(rendered("{{ messages[0]['role'].upper().startswith('U') }}"), "True");
        assert_eq!(
            rendered("{{ bos_token }}{{ messages[0]|tojson }}"),
            r#"<s>{"role": "user", "content": " Hi <b> & 'you' "}"#
        );
        assert_eq!(
            rendered("{{ {'b': [1, 2], 'a': none}|tojson(indent=2) }}"),
            "{\n  \"b\": [\n    1,\n    2\n  ],\n  \"a\": null\n}"
        );
        assert_eq!(rendered("  {% if tools is none %}\n  x\n  {% endif %}\ny\n"), "  x\ny");
        assert_eq!(
            rendered(
                "{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
            ),
            "1"
        );
        assert_eq!(rendered("{{ strftime_now('%Y-%m-%d') | length }}"), "10");
        assert_eq!(rendered("{{ missing }}|{{ missing is defined }}"), "|False");
        assert_eq!(
            rendered("{% for m in messages %}{% if true %}{% break %}{% endif %}{% endfor %}ok"),
            "ok"
        );
    }

    #[test]
    fn failures_are_told() {
        let told =
            |source: &str| render(source, &hi(), true).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(told("{{ raise_exception('roles must alternate') }}").contains("roles must alternate"));
        assert!(told("").contains("no chat template"));
        assert!(told("{% for %}").contains("chat template"));
        assert!(
            told("{{ strftime_now('%~') }}").contains("strftime_now"),
            "{}",
            told("{{ strftime_now('%~') }}")
        );
    }

    #[test]
    fn hostile_templates_end() {
        for source in [
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
            "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
            "{% set ns = namespace(s=[1]) %}{% for i in range(30) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|tojson }}",
            "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
            "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = {1: ns.s, 2: ns.s} %}{% endfor %}{{ ns.s|tojson }}",
            "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|string }}",
            "{% set ns = namespace(s=[1]) %}{% for a in range(99) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}{% endfor %}x",
            "{% set ns = namespace(s=[1]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s|tojson }}",
            "{% set ns = namespace(s=[1]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s ~ 'x' }}",
            "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
            "{{ 'a' * 1000000000000 }}",
            "{{ ('%1000000000d' | format(1)) | length }}",
            "{{ messages[0].content.replace('', 'x' * 10000000) | length }}",
        ] {
            let started = std::time::Instant::now();
            let result = render(source, &hi(), true);
            let length = result.as_ref().map_or(0, String::len);
            assert!(length < 1 << 28, "{source}: {length}");
            assert!(started.elapsed().as_secs() < 20, "{source}: {:?}", started.elapsed());
        }
    }
}
