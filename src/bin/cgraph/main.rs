//! dev driver
use capsulegraph::{
    convert::import::*,
    generate::{model::*, session::*},
    split::*,
    store::*,
};
use std::path::Path;
use std::sync::Arc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    match a[1].as_str() {
        "convert" => {
            println!(
                "{:?}",
                convert(Path::new(&a[2]), Path::new(&a[3]), &ConvertOptions::default(), &mut |_, _| {})
            );
        }
        "split" => {
            let o = SplitOptions { size: a.get(4).map_or(0, |s| s.parse().unwrap()), ..Default::default() };
            println!("{:?}", split(Path::new(&a[2]), Path::new(&a[3]), &o, &mut |_, _| {}));
        }
        _ => {
            let mode = match a[1].as_str() {
                "fast" => Mode::Fast,
                _ => Mode::Auto,
            };
            let m = Arc::new(
                Model::open(
                    &Origin::Path(a[2].clone().into()),
                    &ModelOptions {
                        store: OpenOptions { mode, ..Default::default() },
                        threads: a.get(4).map_or(0, |s| s.parse().unwrap()),
                    },
                )
                .unwrap(),
            );
            eprintln!(
                "open {:?} {} {}",
                m.open_time(),
                m.decoder().backend().describe(),
                m.store().mode_reason()
            );
            let mut s = Session::new(m.clone(), &SessionOptions::default()).unwrap();
            let t = m.tokenizer().unwrap().encode(&a[3], true, true).unwrap();
            eprintln!("{t:?}");
            s.start(&t, &GenerateOptions { max_tokens: 64, ..Default::default() }).unwrap();
            loop {
                match s.step(&capsulegraph::pool::Gate::open()).unwrap() {
                    Step::Token { text, .. } => eprint!("{text}"),
                    Step::Finished { reason, .. } => {
                        eprintln!("[{reason:?}]");
                        break;
                    }
                    Step::Paused => {}
                }
            }
            let t = s.timings();
            eprintln!(
                "prefill {} tok {:?} = {:.1}/s; decode {} = {:.1}/s",
                t.prompt_tokens,
                t.prefill,
                t.prompt_tokens as f64 / t.prefill.as_secs_f64(),
                t.generated_tokens,
                (t.generated_tokens - 1) as f64 / t.decode.as_secs_f64()
            );
        }
    }
}
