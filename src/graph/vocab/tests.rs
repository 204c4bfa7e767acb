use super::*;

fn tiny() -> VocabSource {
    let words = ["a", "b", "Ġ", "ab", "<s>", "", "a", "ÿ", "Ġab"];
    VocabSource {
        pre: "gpt-2".into(),
        tokens: words.iter().map(|w| w.as_bytes().to_vec()).collect(),
        types: vec![1, 1, 1, 1, 3, 1, 1, 1, 1],
        merges: ["a b", "Ġ ab", "x y", "a b"].iter().map(|m| m.as_bytes().to_vec()).collect(),
        bos: Some(4),
        ..VocabSource::default()
    }
}

fn open(bytes: &[u8]) -> VocabIndex {
    VocabIndex::open(bytes).unwrap_or_else(|e| panic!("{e}"))
}

fn compiled(source: &VocabSource) -> Vec<u8> {
    compile(source).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn what_is_compiled_can_be_looked_up() {
    let bytes = compiled(&tiny());
    let index = open(&bytes);
    let vocab = index.view(&bytes);
    assert_eq!((vocab.n_tokens(), vocab.pre(), vocab.model()), (9, "gpt-2", TokenizerModel::Bpe));
    assert_eq!(vocab.find(b"a"), Some(0), "of two equal tokens the first is found");
    assert_eq!(vocab.find(b" ab"), Some(8));
    assert_eq!(vocab.find(b"\xff"), Some(7));
    assert_eq!(vocab.find("ÿ".as_bytes()), None);
    assert_eq!(vocab.find_special(b"<s>"), Some(4));
    assert_eq!(vocab.find_special(b"a"), None);
    assert_eq!(&*vocab.piece(5), b"[EMPTY_5]");
    assert_eq!(vocab.piece(99).len(), 0);
    assert_eq!(vocab.merge(0, 1), Some(Merge { rank: 0, symbol: 3 }));
    assert_eq!(vocab.merge(2, 3), Some(Merge { rank: 1, symbol: 8 }));
    assert_eq!(vocab.merge(9, 10), Some(Merge { rank: 2, symbol: 11 }), "parts that are no tokens");
    assert_eq!(vocab.merge(1, 0), None);
    assert_eq!((vocab.byte_symbol(b' '), vocab.byte_symbol(b'x'), vocab.byte_symbol(b'q')), (2, 9, NONE));
    assert_eq!(vocab.special_lengths().collect::<Vec<_>>(), [3]);
    assert!(vocab.starts_special(b'<') && !vocab.starts_special(b'a'));
    assert_eq!(vocab.special(SpecialToken::Bos), Some(4));
    assert_eq!((vocab.special(SpecialToken::Eos), vocab.add_bos()), (None, None));
}

#[test]
fn mistakes_are_named() {
    let told = |change: fn(&mut VocabSource)| {
        let mut source = tiny();
        change(&mut source);
        compile(&source).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let check = |change: fn(&mut VocabSource), part: &str| {
        let message = told(change);
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    };
    check(|s| s.types.truncate(2), "9 tokens but 2 types");
    check(|s| s.scores = vec![0.0], "9 tokens but 1 scores");
    check(|s| s.tokens.clear(), "types");
    check(|s| s.merges.push(b"ab".to_vec()), "merge 4 (`ab`)");
    check(|s| s.merges.push(b"ab ".to_vec()), "merge 4");
    check(|s| s.merges.push(b" b".to_vec()), "merge 4");
    check(|s| s.eos = Some(9), "the eos token is 9 but there are only 9 tokens");
    check(|s| (s.add_eos, s.eos) = (Some(true), None), "there is no eos token");
    check(|s| s.tokens[3] = vec![b'x'; MAX_TOKEN_BYTES + 1], "token 3 has 65537 bytes");
    check(|s| s.model = TokenizerModel::Spm, "needs one score per token");
    check(|s| s.scores = vec![f32::NAN; 9], "score of token 0");
    check(|s| s.pre = "x".repeat(300), "bytes of pre-tokenizer name");
    for wrong in ["<0x-1>", "<0x1>", "<0xGG>", "0x41", "<0x041>"] {
        let mut source = tiny();
        source.types[1] = 6;
        source.tokens[1] = wrong.as_bytes().to_vec();
        let message = compile(&source).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("token 1 has type byte") && message.contains(wrong), "{message}");
    }
    assert!(TokenizerModel::from_gguf("bert").is_err_and(|e| e.to_string().contains("`bert`")));
}

#[test]
fn well_known_names_end_a_generation() {
    let names = ["<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "x", "</s>", "<fim_pad>", "<|message|>"];
    let source = VocabSource {
        tokens: names.iter().map(|n| n.as_bytes().to_vec()).collect(),
        eos: Some(4),
        ..VocabSource::default()
    };
    let bytes = compiled(&source);
    let index = open(&bytes);
    let vocab = index.view(&bytes);
    assert_eq!(vocab.end_of_generation().collect::<Vec<_>>(), [0, 2, 3, 4, 5, 6]);
    let types: Vec<TokenType> = (0..8).map(|id| vocab.token_type(id)).collect();
    use TokenType::{Control, Normal, UserDefined};
    assert_eq!(types, [Control, UserDefined, Control, Control, Normal, Control, Control, UserDefined]);
}

#[test]
fn every_cut_is_refused() {
    let bytes = compiled(&tiny());
    for len in 0..bytes.len() {
        assert!(VocabIndex::open(&bytes[..len]).is_err(), "{len}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(VocabIndex::open(&longer).is_err());
}

#[test]
fn an_index_over_other_bytes_answers_without_panic() {
    let bytes = compiled(&tiny());
    let index = open(&bytes);
    for other in [&bytes[..300], &[0xff; 64][..], &[]] {
        let vocab = index.view(other);
        for id in [0, 3, 8, 9, NONE] {
            let _ = (vocab.piece(id), vocab.score(id), vocab.token_type(id), vocab.merge(id, 1), vocab.pre());
        }
        assert_eq!(vocab.find(b"zz"), None);
        assert!(vocab.special_lengths().count() <= 1 && vocab.end_of_generation().count() <= 1);
    }
}

#[test]
fn a_large_vocabulary_opens_at_once() {
    let n = 256 * 1024u32;
    let source = VocabSource {
        tokens: (0..n).map(|i| format!("t{i}").into_bytes()).collect(),
        merges: (0..n - 1).map(|i| format!("t{i} t{}", i + 1).into_bytes()).collect(),
        ..VocabSource::default()
    };
    let bytes = compiled(&source);
    let started = std::time::Instant::now();
    let index = open(&bytes);
    let took = started.elapsed();
    let vocab = index.view(&bytes);
    for id in [0, 1, 77_777, n - 1] {
        assert_eq!(vocab.find(format!("t{id}").as_bytes()), Some(id));
    }
    assert_eq!(vocab.merge(77_777, 77_778).map(|m| m.rank), Some(77_777));
    assert!(took.as_micros() < 1000, "{took:?}");
}
