//! What the real program computes from files: the same logits from a mini as from its full file, what happens where
//! files are missing, strange or damaged, and what is taken out of them.
#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/built.rs"]
mod built;
#[path = "support/cgraph.rs"]
mod cgraph;
mod support;

use capsulegraph::store::{OpenOptions, Origin, Store};
use cgraph::Place;
use support::{Random, TinyModel};

/// Tokens that are evaluated.
const TOKENS: usize = 40;

/// A model whose capsules are longer than the alignment of an extent, so that a mini can be much shorter.
fn roomy() -> TinyModel {
    TinyModel { width: 128, ffn: 512, blocks: 3, head_dim: 32, encoding: "q8_0", ..TinyModel::default() }
}

fn write_ids(place: &Place) -> Vec<u32> {
    let mut random = Random(99);
    let ids: Vec<u32> = (0..TOKENS).map(|_| (random.bits() % 250) as u32).collect();
    std::fs::write(place.path("ids.json"), serde_json::to_vec(&ids).unwrap()).unwrap();
    ids
}

/// Shape and values of a `.npy` file of f32.
fn read_npy(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let dict = std::str::from_utf8(&bytes[10..end]).unwrap();
    assert!(dict.contains("'<f4'") && dict.contains("'fortran_order': False") && end % 64 == 0, "{dict}");
    let shape = dict.split(['(', ')']).nth(1).unwrap();
    let shape = shape.split(',').filter_map(|d| d.trim().parse().ok()).collect();
    let values = bytes[end..].as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    (shape, values)
}

#[test]
fn exact_from_any_mini_is_the_full_file_bit_for_bit() {
    for model in
        [roomy(), TinyModel { tied: false, biases: true, encoding: "q5_0", embedding: "q4_0", ..roomy() }]
    {
        let place = Place::with(&model);
        write_ids(&place);
        let logits = |file: &str, more: &[&str]| {
            let args = [&["-q", "eval", file, "--tokens", "ids.json", "--logits", "out.npy"], more].concat();
            place.ok(&args);
            place.bytes("out.npy")
        };
        let wanted = logits("m.cgraph", &[]);
        let full = place.bytes("m.cgraph").len();
        let mut minis = 0;
        for (light, share) in
            [("none", 0.5), ("none", 0.7), ("none", 0.9), ("auto", 0.6), ("q4_0", 0.9), ("q8_0", 1.0)]
        {
            let size = (full as f64 * share).to_string();
            let size = size.split('.').next().unwrap();
            let ran =
                place.cgraph(&["split", "m.cgraph", "-o", "x.mini.cgraph", "--light", light, "--size", size]);
            if ran.code != Some(0) {
                assert!(ran.err.contains("smallest"), "{}", ran.err);
                continue;
            }
            minis += 1;
            for more in [&[][..], &["--batch", "1", "--threads", "1"], &["--batch", "7", "--threads", "3"]] {
                let have = logits("x.mini.cgraph", &[&["--mode", "exact"], more].concat());
                assert!(have == wanted, "--light {light} --size {size} {more:?}");
            }
        }
        assert!(minis >= 3, "only {minis} sizes were possible");
        assert!(logits("m.cgraph", &["--batch", "13", "--threads", "2"]) == wanted);
    }
}

#[test]
fn perplexity_follows_from_the_logits() {
    let place = Place::with_model();
    let ids = write_ids(&place);
    for ctx in [TOKENS, 16, 13] {
        let window = ctx.to_string();
        let args =
            ["eval", "m.cgraph", "--tokens", "ids.json", "--ctx", &window, "--logits", "out.npy", "--json"];
        let report = place.json(&args);
        let (shape, logits) = read_npy(&place.bytes("out.npy"));
        let vocab = TinyModel::default().vocab_size();
        assert_eq!(shape, [TOKENS, vocab]);
        let (mut sum, mut count) = (0.0, 0);
        for (at, row) in logits.chunks_exact(vocab).enumerate() {
            let next = at + 1;
            if next % ctx == 0 || next == TOKENS {
                continue;
            }
            let total: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            sum += total.ln() - f64::from(row[ids[next] as usize]);
            count += 1;
        }
        assert_eq!(report["predicted_tokens"], count);
        assert_eq!(report["windows"], TOKENS.div_ceil(ctx));
        let have = report["perplexity"].as_f64().unwrap();
        assert!((have / (sum / f64::from(count)).exp() - 1.0).abs() < 1e-9, "{have}");
    }
    std::fs::write(place.path("t.txt"), "the end of the world").unwrap();
    assert!(place.ok(&["eval", "m.cgraph", "--text", "t.txt"]).starts_with("perplexity "));
    std::fs::write(place.path("one.json"), "[5]").unwrap();
    assert!(place.json(&["eval", "m.cgraph", "--tokens", "one.json", "--json"]).get("perplexity").is_none());
    for bad in ["[]", "[999999]", "{}", "[1.5]", "[1"] {
        std::fs::write(place.path("bad.json"), bad).unwrap();
        let ran = place.cgraph(&["eval", "m.cgraph", "--tokens", "bad.json", "--logits", "bad.npy"]);
        assert_eq!(ran.code, Some(1), "{bad}");
        assert!(!place.files().iter().any(|f| f.contains("bad.npy")), "{bad}: {:?}", place.files());
    }
}

#[test]
fn fast_needs_no_full_file_and_exact_says_what_is_wrong_with_it() {
    let place = Place::with_model();
    let run = |mode: &str| {
        place.cgraph(&["run", "m.mini.cgraph", "-p", "the", "-n", "4", "--json", "--mode", mode])
    };
    let fast = run("fast").out;
    let whole = place.bytes("m.cgraph");
    std::fs::remove_file(place.path("m.cgraph")).unwrap();
    let text = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["text"].clone();
    assert_eq!(text(&run("fast").out), text(&fast));
    let auto: serde_json::Value = serde_json::from_str(&run("auto").out).unwrap();
    assert_eq!((&auto["mode"], &auto["text"]), (&"fast".into(), &text(&fast)));
    assert!(auto["mode_reason"].as_str().is_some_and(|why| why.contains("m.cgraph")), "{auto}");

    let exact = |hint: &str, about: &str| {
        let ran = run("exact");
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{about}");
        assert!(ran.err.lines().count() == 1 && ran.err.contains(hint), "{about}: {}", ran.err);
    };
    exact("--full", "missing");
    for cut in [10, 200, whole.len() / 2, whole.len() - 1] {
        std::fs::write(place.path("m.cgraph"), &whole[..cut]).unwrap();
        exact("m.cgraph", "truncated");
    }
    TinyModel { seed: 2, ..TinyModel::default() }.write(&place.path("m.gguf"));
    place.ok(&["convert", "m.gguf", "--no-mini"]);
    exact("do not belong together", "other weights");
    TinyModel { name: "Other".into(), ..TinyModel::default() }.write(&place.path("m.gguf"));
    place.ok(&["convert", "m.gguf", "--no-mini"]);
    exact("Other", "another model");

    std::fs::write(place.path("elsewhere"), &whole).unwrap();
    place.ok(&["run", "m.mini.cgraph", "-p", "the", "-n", "4", "--mode", "exact", "--full", "elsewhere"]);
}

#[test]
fn fast_refuses_linked_capsules_by_name() {
    let place = Place::with(&roomy());
    let size = (place.bytes("m.cgraph").len() * 7 / 10).to_string();
    place.ok(&["split", "m.cgraph", "--light", "none", "--size", &size]);
    let ran = place.cgraph(&["run", "m.mini.cgraph", "-p", "the", "--mode", "fast"]);
    assert!(ran.code == Some(1) && ran.err.contains("block."), "{}", ran.err);
    let report = place.json(&["run", "m.mini.cgraph", "-p", "the", "-n", "1", "--json"]);
    assert_eq!(report["mode"], "exact");
    assert!(report["capsules"]["linked"].as_u64() > Some(0));
    assert_eq!(report["model"]["mini_bytes"], place.bytes("m.mini.cgraph").len());
}

#[test]
fn a_mini_without_its_full_file_gives_what_it_holds() {
    let place = Place::with(&roomy());
    let size = (place.bytes("m.cgraph").len() * 7 / 10).to_string();
    place.ok(&["split", "m.cgraph", "--light", "none", "--size", &size]);
    let listing = place.json(&["inspect", "m.mini.cgraph", "--capsules", "--json"]).to_string();
    assert!(listing.contains("linked") && listing.contains("pinned"));
    std::fs::remove_file(place.path("m.cgraph")).unwrap();
    let ids = ["embed", "block.0.attn", "block.0.ffn", "block.1.attn", "block.1.ffn", "head"];
    let ran: Vec<_> = ids.map(|id| place.cgraph(&["fetch", "m.mini.cgraph", id])).into();
    assert!(ran.iter().any(|r| r.code == Some(0)), "no pinned capsule could be fetched");
    let refused: Vec<_> = ran.iter().filter(|r| r.code == Some(1)).collect();
    assert!(!refused.is_empty() && refused.iter().all(|r| r.err.contains("full file")), "{refused:?}");
}

#[test]
fn fetch_gives_the_source_s_bytes_and_their_values() {
    let place = Place::with_model();
    let source = TinyModel::default().tensor_data();
    for file in ["m.cgraph", "m.mini.cgraph"] {
        let json = place.json(&["fetch", file, "block.1.ffn", "-o", "out", "--json"]);
        let written: serde_json::Value = serde_json::from_slice(&place.bytes("out/capsule.json")).unwrap();
        assert_eq!(json, written);
        for described in json["tensors"].as_array().unwrap() {
            let wanted = source.iter().find(|t| described["name"] == t.name).unwrap();
            let bytes = place.bytes(&format!("out/{}", described["file"].as_str().unwrap()));
            assert_eq!(described["bytes"], wanted.bytes.len());
            assert!(bytes.ends_with(&wanted.bytes), "{file}: {}", wanted.name);
            assert_eq!(described["shape"], serde_json::json!(wanted.shape));
        }
    }
    place.ok(&["-q", "fetch", "m.cgraph", "block.0.attn", "--layout", "f32"]);
    let wanted = source.iter().find(|t| t.name == "blk.0.attn_q.weight").unwrap();
    let (shape, values) = read_npy(&place.bytes("block.0.attn/blk.0.attn_q.weight.npy"));
    assert_eq!(shape, wanted.shape);
    let mut decoded = vec![0.0; values.len()];
    wanted.encoding.decode(&wanted.bytes, &mut decoded).unwrap();
    assert_eq!(values, decoded);
    let stored =
        place.json(&["fetch", "m.cgraph", "block.0.attn", "--layout", "stored", "--json", "-o", "raw"]);
    assert!(stored["tensors"].as_array().unwrap().iter().any(|t| t["layout"] == "packed8"));
    let light =
        place.json(&["fetch", "m.mini.cgraph", "block.0.attn", "--mode", "fast", "--json", "-o", "light"]);
    assert_ne!(light["precision"], "full");
}

/// Where the first plane of the file's first capsule lies.
fn first_plane(place: &Place, file: &str) -> usize {
    let store = Store::open(&Origin::Path(place.path(file)), &OpenOptions::default()).unwrap();
    let capsules = &store.manifest().capsules;
    let stored =
        capsules.iter().find_map(|c| Some((c.extent?, c.tensors.iter().find_map(|t| t.planes.first())?)));
    let (extent, plane) = stored.unwrap();
    (extent.offset + plane.offset) as usize
}

fn flip(place: &Place, file: &str, at: usize) {
    let mut bytes = place.bytes(file);
    bytes[at] ^= 0x10;
    std::fs::write(place.path(file), bytes).unwrap();
}

#[test]
fn verify_finds_damage_and_repairs_minis() {
    let place = Place::with_model();
    let mini = place.bytes("m.mini.cgraph");
    for args in [
        &["verify", "m.cgraph", "--deep"][..],
        &["verify", "m.mini.cgraph"],
        &["verify", "m.mini.cgraph", "--deep"],
    ] {
        place.ok(args);
        let json = place.json(&[args, &["--json"]].concat());
        assert_eq!((json["problems"].as_array().map(Vec::len), &json["repaired"]), (Some(0), &false.into()));
    }
    flip(&place, "m.mini.cgraph", first_plane(&place, "m.mini.cgraph") + 1);
    place.ok(&["verify", "m.mini.cgraph"]);
    let ran = place.cgraph(&["verify", "m.mini.cgraph", "--deep"]);
    assert!(
        ran.code == Some(1) && ran.out.contains("capsule embed") && ran.err.contains("--repair"),
        "{ran:?}"
    );
    let json = place.cgraph(&["verify", "m.mini.cgraph", "--deep", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["problems"][0]["capsule"], "embed");
    let repaired = place.ok(&["verify", "m.mini.cgraph", "--deep", "--repair"]);
    assert!(repaired.contains("rebuilt"), "{repaired}");
    assert!(place.bytes("m.mini.cgraph") == mini, "the recorded plan gives the same mini");

    // A mini of an earlier conversion is rebuilt for the new one.
    TinyModel { seed: 5, ..TinyModel::default() }.write(&place.path("m.gguf"));
    place.ok(&["convert", "m.gguf", "--no-mini"]);
    assert_eq!(place.cgraph(&["verify", "m.mini.cgraph"]).code, Some(1));
    place.ok(&["verify", "m.mini.cgraph", "--repair"]);
    place.ok(&["verify", "m.mini.cgraph", "--deep"]);

    flip(&place, "m.cgraph", first_plane(&place, "m.cgraph"));
    let ran = place.cgraph(&["verify", "m.cgraph", "--deep"]);
    assert!(ran.code == Some(1) && ran.err.contains("convert the source again"), "{ran:?}");
    let ran = place.cgraph(&["fetch", "m.cgraph", "embed"]);
    assert!(ran.code == Some(1) && ran.err.contains("checksum"), "{ran:?}");
    assert!(!place.path("embed").exists());
}

#[test]
fn a_mini_is_never_rebuilt_from_another_model() {
    let place = Place::with_model();
    let (mini, sound) = (place.bytes("m.mini.cgraph"), TinyModel::default());
    let mut damaged = mini.clone();
    damaged[first_plane(&place, "m.mini.cgraph")] ^= 1;
    for (other, named) in [
        (
            TinyModel { name: "Other".into(), ..sound.clone() },
            "the mini is of \"Tiny\", the full file of \"Other\"",
        ),
        (TinyModel { blocks: 3, ..sound.clone() }, "block_count is 2 against 3"),
        (TinyModel { ffn: 256, ..sound.clone() }, "feed_forward_length is 128 against 256"),
        (TinyModel { context: 512, ..sound.clone() }, "context_length is 256 against 512"),
        (
            TinyModel { biases: true, ..sound.clone() },
            "capsule block.0.attn: the mini knows no tensor blk.0.attn_q.bias",
        ),
    ] {
        other.write(&place.path("o.gguf"));
        place.ok(&["convert", "o.gguf", "--no-mini"]);
        for content in [&mini, &damaged] {
            std::fs::write(place.path("m.mini.cgraph"), content).unwrap();
            let before = contents(&place);
            let args = ["verify", "m.mini.cgraph", "--deep", "--repair", "--full", "o.cgraph"];
            let ran = place.cgraph(&args);
            assert!(ran.code == Some(1) && ran.err.lines().count() == 1, "{named}: {ran:?}");
            assert!(ran.err.contains(named) && ran.err.contains("of another model"), "{named}: {}", ran.err);
            assert!(contents(&place) == before, "{named}: files were changed");
        }
    }
    // Other weights in another encoding: a conversion of the same model, for all that can be told.
    TinyModel { seed: 5, encoding: "q8_0", ..sound }.write(&place.path("o.gguf"));
    place.ok(&["convert", "o.gguf", "--no-mini"]);
    place.ok(&["verify", "m.mini.cgraph", "--deep", "--repair", "--full", "o.cgraph"]);
    place.ok(&["verify", "m.mini.cgraph", "--deep", "--full", "o.cgraph"]);
}

/// Names and contents of all files.
fn contents(place: &Place) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| (name.clone(), place.bytes(&name));
    place.files().into_iter().map(read).collect()
}

#[test]
fn no_output_overwrites_an_input_or_another_output() {
    let place = Place::with_model();
    write_ids(&place);
    std::fs::write(place.path("t.txt"), "the world").unwrap();
    std::fs::copy(place.path("m.cgraph"), place.path("elsewhere")).unwrap();
    let before = contents(&place);
    let bench = ["bench", "m.cgraph", "-p", "1", "-n", "0", "--repeat", "1"];
    let mini = ["run", "m.mini.cgraph", "-p", "the", "-n", "1"];
    let eval = ["eval", "m.cgraph", "--tokens", "ids.json"];
    let convert = ["convert", "m.gguf", "-o", "n.cgraph"];
    for (command, more) in [
        (&["run", "m.cgraph", "-p", "the", "-n", "1"][..], &["--report", "m.cgraph"][..]),
        (&["run", "m.cgraph", "--prompt-file", "t.txt", "-n", "1"], &["--report", "./t.txt"]),
        (&mini, &["--report", "m.cgraph"]),
        (&mini, &["--report", "m.cgraph", "--mode", "fast"]),
        (&mini, &["--report", "elsewhere", "--full", "elsewhere"]),
        (&eval, &["--logits", "m.cgraph"]),
        (&eval, &["--logits", "ids.json"]),
        (&eval, &["--report", "ids.json"]),
        (&eval, &["--logits", "x.npy", "--report", "./x.npy"]),
        (&["eval", "m.cgraph", "--text", "t.txt"], &["--report", "t.txt"]),
        (&bench, &["--report", "m.cgraph"]),
        (&["split", "m.cgraph"], &["-o", "m.cgraph"]),
        (&["split", "m.cgraph"], &["-o", "t.txt", "--calibrate", "@t.txt"]),
        (&convert, &["--mini", "./n.cgraph"]),
        (&convert, &["--mini", "m.gguf"]),
        (&convert, &["--mini", "t.txt", "--calibrate", "@t.txt"]),
    ] {
        let ran = place.cgraph(&[command, more].concat());
        assert!(ran.code == Some(1) && ran.err.contains(" would be "), "{command:?} {more:?}: {ran:?}");
        assert!(contents(&place) == before, "{command:?} {more:?} changed files");
    }
    std::fs::rename(place.path("elsewhere"), place.path("capsule.json")).unwrap();
    let ran = place.cgraph(&["fetch", "capsule.json", "head", "-o", "."]);
    assert!(ran.code == Some(1) && ran.err.contains(" would be "), "{ran:?}");
    assert!(place.bytes("capsule.json") == place.bytes("m.cgraph"));
}

#[test]
fn a_mini_that_cannot_be_measured_is_not_written() {
    let place = Place::with_model();
    let before = contents(&place);
    for command in [&["split", "m.cgraph", "--size", "1MB"][..], &["convert", "m.gguf", "--size", "1MB"]] {
        let ran = place.cgraph(&[command, &["--calibrate", ""]].concat());
        assert!(ran.code == Some(1) && ran.err.contains("no tokens"), "{ran:?}");
        assert_eq!(
            ran.err.contains("m.cgraph is written, its mini is not"),
            command[0] == "convert",
            "{ran:?}"
        );
        let done = place.command(command).env("CAPSULEGRAPH_ISA", "abacus").output().unwrap();
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert!(contents(&place) == before, "{command:?} changed files");
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_neither_models_nor_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let place = Place::with_model();
    write_ids(&place);
    let made = std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap();
    assert!(made.success());
    let before = place.files();
    for args in [
        &["inspect", "pipe"][..],
        &["run", "pipe", "-p", "x"],
        &["run", "m.mini.cgraph", "--full", "pipe", "-p", "x"],
        &["convert", "pipe", "-o", "n.cgraph"],
        &["convert", "m.gguf", "-o", "pipe", "--no-mini"],
        &["convert", "m.gguf", "-o", "n.cgraph", "--mini", "pipe"],
        &["split", "m.cgraph", "-o", "pipe"],
        &["run", "m.cgraph", "-p", "x", "-n", "1", "--report", "pipe"],
        &["eval", "m.cgraph", "--tokens", "ids.json", "--logits", "pipe"],
    ] {
        let ran = place.cgraph(args);
        assert!(
            ran.code == Some(1) && ran.err.contains("pipe: it is a device or a pipe, not a file"),
            "{ran:?}"
        );
        assert_eq!(place.files(), before, "{args:?}");
        assert!(std::fs::metadata(place.path("pipe")).unwrap().file_type().is_fifo(), "{args:?}");
    }
}

#[cfg(unix)]
#[test]
fn links_stay_links_to_what_is_written() {
    let place = Place::with_model();
    write_ids(&place);
    std::fs::create_dir(place.path("far")).unwrap();
    for (to, name) in [("far/n.cgraph", "n.cgraph"), ("far/r.json", "r.json"), ("far/x.npy", "x.npy")] {
        std::os::unix::fs::symlink(to, place.path(name)).unwrap();
    }
    std::fs::write(place.path("far/x.npy"), "old").unwrap();
    let before = place.files();
    place.ok(&["convert", "m.gguf", "-o", "n.cgraph", "--no-mini", "--planes", "divided"]);
    place.ok(&["eval", "n.cgraph", "--tokens", "ids.json", "--logits", "x.npy", "--report", "r.json"]);
    assert_eq!(place.files(), before);
    for name in ["n.cgraph", "r.json", "x.npy"] {
        assert!(place.path(name).symlink_metadata().unwrap().is_symlink(), "{name}");
    }
    assert!(place.bytes("far/n.cgraph") == place.bytes("m.cgraph"));
    assert_eq!(read_npy(&place.bytes("far/x.npy")).0, [TOKENS, TinyModel::default().vocab_size()]);
    let left: Vec<_> = std::fs::read_dir(place.path("far")).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}
