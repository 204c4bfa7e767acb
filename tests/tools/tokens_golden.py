"""Writes the tokenizers' golden data: what llama.cpp makes of some hundred strings.

    PYTHONPATH=<dir with gguf> <python with llama_cpp> tests/tools/tokens_golden.py <SmolLM2 .gguf>

writes tests/data/smollm2.tokens.json (ids only: the vocabulary is in the .gguf) and
tests/data/synthetic.tokens.json (small vocabularies trained here on this file's own strings, one result per
pre-tokenizer family). Everything is deterministic. Last run with llama-cpp-python 0.3.36.
"""

import collections
import ctypes
import json
import os
import random
import sys
import tempfile

import gguf
import llama_cpp

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")

ENGLISH = """The mill stands where the river bends, and nobody remembers who built it.
I'll say it's fine; you're late, they've gone, he'd know, we'll see, I'm here, don't, CAN'T, WE'LL, IT'S.
"Quoted," she said -- 'single' quotes, (brackets), [more], {braces}... and an ellipsis…
Price: $12,345.67 or 1.5e-10, 50%, #7, 3rd, 2nd, 10th, 007, 123456789, 1234, 12, 1.
CamelCaseWords and snake_case_words, kebab-case-words, SHOUTING, iPhone, eBay, McDonald, XMLHttpRequest2.
e-mail: someone@example.org, https://example.org/a/b?c=d&e=f#g, C:\\dir\\file.txt, /usr/bin/env
Mr. and Mrs. O'Neill-Smith's co-op re-elected the naïve coöperating façade's résumé.
supercalifragilisticexpialidocious antidisestablishmentarianism""".split("\n")

CODE = [
    "fn main() {\n    let x: Vec<u8> = vec![1, 2, 3];\n    println!(\"{x:?}\");\n}\n",
    "def f(a, *args, **kw):\n\treturn a if a else None  # comment\n\n\nclass C:\n    pass\n",
    "#include <stdio.h>\r\nint main(void) {\r\n\tprintf(\"%d\\n\", 1 << 3);\r\n\treturn 0;\r\n}\r\n",
    "SELECT * FROM t WHERE a >= 10 AND b <> 'x' -- end\n",
    "for (let i=0;i<10;i++){a[i]^=~i;}//!?;:",
    "<div class=\"a b\">text &amp; more</div><!-- c -->",
    "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\"}",
    "a+=b;c-=d;e*=f;g/=h;i%=j;k&=l;m|=n;o^=p;q<<=r;s>>=t;u==v;w!=x;y<=z;a>=b;c&&d;e||f;!g;~h;i?j:k;l->m;n=>o",
    "`code` ``more`` ```fence```\n~~~\n$x^2+y^2=z^2$ <=> |a| > ~b",
    "    \n        deep\n            deeper\n\t\t\ttabs\n \t mixed",
]

WORLD = [
    "Größe, Straße, Äpfel, Öl, Übung, ÄÖÜ äöü ß ẞ",
    "Ça va? L'été à l'hôpital, où est-ce qu'il naît; œuvre, Œdipe",
    "El niño comió piñas. ¿Qué? ¡Sí!",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "İstanbul'da ışık; Diyarbakır'ın dağları",
    "Tiếng Việt có nhiều dấu: ấ ầ ẩ ẫ ậ",
    "Το ποτάμι κυλάει ΑΡΓΑ, ώς ΰ ΐ ᾳ ῌ Ὗ ώ",
    "Съешь же ещё этих мягких булок, ДА ВЫПЕЙ чаю. Ґ ї є",
    "Հայերեն լեզու ԵՒ ѠѾ Ꭰꭰ ა ᲐᲑ Ⴀ ⴀ",
    "中文分词没有空格，句号。数字123和abc混排！《书》",
    "繁體中文：龍、龜、鬱。𠀀𠮷𪚥",
    "日本語のテキスト、カタカナとひらがな。ｶﾀｶﾅ ＡＢＣａｂｃ１２３　全角！？",
    "한국어 문장입니다. ㄱㄴㄷ ㅏㅑ 각",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣٤٥ أَهْلًا وَسَهْلًا۔",
    "שלום עולם! מה שלומך? שָׁלוֹם",
    "नमस्ते दुनिया। यह हिन्दी है १२३४ क्षत्रिय",
    "বাংলা ভাষা। ತಕ್ಷಣ తెలుగు தமிழ் മലയാളം ਪੰਜਾਬੀ ગુજરાતી සිංහල",
    "ภาษาไทยไม่มีช่องว่าง ๑๒๓ น้ำใจ ລາວ ខ្មែរ မြန်မာ བོད་",
    "ᠮᠣᠩᠭᠣᠯ ⵣ ⴰⵎⴰⵣⵉⵖ ᚠᚢᚦ 𐐀𐐨 𐒰 𞤀𞤢 𐲀𐳀 𑢠",
    "½ ² ³ ¹ ¼ Ⅷ ⅷ ① ⑩ ㊿ 〇 ٠ ߀ 𝟘𝟙 𝓐𝕏 ℂℍΩKÅℵ",
    "« » „ “ ” ‘ ’ ‚ ‛ ‟ – — … · • † ‡ § ¶ © ® ™ ° ± × ÷ ≠ ≤ ∞ ∑ √ € £ ¥ ₿",
    "→ ← ↑ ⇒ ▲ █ ▁ ░ ☃ ★ ♥ ♪ ✓ ✗ ❤️ ☎️ ⌘",
]

EMOJI = [
    "😀😁😂 🤣", "👩‍🚀 and 👨‍👩‍👧‍👦", "👍🏽👍🏿 ✊🏻", "🇫🇷🇩🇪🇯🇵", "🏳️‍🌈🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣ #️⃣ *️⃣", "smile😀end 🫠🪿🫨",
]

SPACES = [
    "", " ", "  ", "   ", "    ", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t", " \n", "\n ", "  \n  ",
    " \t \n\t ", "a ", " a", "  a", "a  ", "a  b", "a   b", "a\nb", "a \n b", "a\n\nb", "a\n\n\nb", "a\t\tb",
    "a \t b", "\ta", "\n a", "\n  a", " \n\n a", "a\r\nb", "a\r\rb", "\r", "x\v\fy", "a\u00a0b", "\u00a0\u00a0a",
    "a\u2003\u2003b", "a\u3000b\u3000\u3000c", "\u3000", "\u2028x\u2029", "a\u0085b", "\u0085\u0085", "\u1680a",
    "a\u200bb", "\ufeffa", "a\u00adb", "\u200e\u200f", "hello   \n   world", "   1", "  1 2  3", "  !", " !  ?",
    "a" + " " * 17 + "b", "\n" * 9 + "x", " " * 33, "\t" * 5 + "y", " '", " 's", "' s", "''s", "'s's", "x 's",
]

ODD = [
    "\x00", "a\x00b", "\x01\x02\x03", "\x1b[31mred\x1b[0m", "\x7f", "\x80\x9f".encode("latin1").decode("latin1"),
    "\x1c\x1d\x1e\x1f", "\ufffd", "\ufffd\ufffd x", "\uffff", "\ue000", "\U0010ffff", "\u0378\u0379",
    "e\u0301 \u0301 \u0301\u0302\u0303a", "Z\u0351\u036b\u0343a\u030a\u0326l\u034eg\u0322o", "\u0940", "ﬁ ﬂ ﬀ",
    "µ ª º ǅ ʰ ˇ ๆ", "_", "__init__", "___", "--", "---", "----", "......", "!!!!", "?!?!", "~", "~~", " ~", "~a", " ~a",
    "a~b", "~!", "^", "^^", "`", "``", "|", "||", "$", "$$", "$a", " $a", "+", "++", "=", "==", "<", "<<", ">", "@",
    "@a", "#", "#a", "%", "&", "*", "(", ")", "()", "[]", "{}", "\\", "\\n", "/", "//", "/\n", "!/\n/", ".\n", ".\n\n",
    "a.b", ".a", " .a", ",a", " ,", "a,b", "1,2", "1.2", "'", "''", "\"", "\"\"", "'a", "'S", "'RE", "'Ll", "'ſ", "'s1",
    "I'M", "i'D", "x'VE", "don’t", "l’eau", "ab12cd", "12ab", "a1", "1a", "A", "AB", "Ab", "aB", "aBC", "ABc", "ABcD",
    "ÀB", "Éa", "éA", "ΑΒγ", "Бв", "中A", "A中a", "ǅa", "aǅ", "12345", "1234567", "1" * 20, "١٢٣٤", "१२३४५", "1²3",
    "x²", "½½½½", "１２３４", "<sentinel:12>", "IMGIMGABZ", "a b c d e", "the the the", "1 2 3", "1  2", "a 1", "!1",
]

SPECIAL = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|endoftext|><|endoftext|>", "a<|im_end|>b", " <|im_end|> ", "<|im_end", "im_end|>", "<|im_start|<|im_end|>",
    "<|<|im_end|>|>", "<s>", "</s>", "<s>a</s>", "<unk>", "a<unk>b", "<tool>", "x<tool>y", "<tool> z", " <tool>",
    "<tool><tool>", "<tools>", "<|im_start|>x", "<|im_start|>xx", "[INST] a [/INST]", "<repo_name>a", "<file_sep>",
    "<jupyter_text>", "<0x0A>", "<0x41>", "é<tool>é", "<tool>\n<|im_end|>\n\n\nz", "a<|im_end|>  b",
]


def random_strings(count):
    rng = random.Random(20240607)
    pools = [
        "abcdefgh ABC", "  \n\t\r", "0123456789 ,.", "'sStTrReEvVmMlLdD a", "!?.,;:-~^$+<=>|` a1", "éÉßøΩж中の한ا אन",
        "\u0301\u0302e a", "😀👩\u200d🚀🏽", "<|im_end>tols/ ", "\u00a0\u3000\u2003 a\n", "１２²½٣ a",
    ]
    out = []
    for i in range(count):
        mix = "".join(rng.sample(pools, rng.randint(1, 3)))
        out.append("".join(rng.choice(mix) for _ in range(rng.randint(3, 40))))
    return out


def texts():
    every = ENGLISH + CODE + WORLD + EMOJI + SPACES + ODD + SPECIAL + random_strings(60)
    return list(dict.fromkeys(every))


def long_texts():
    return [
        "a" * 3000, " " * 2000, "ab" * 1500, "1" * 1000, "\n" * 1000, "é" * 700, "中" * 500, "!" * 900, " a" * 800,
        " ".join(ENGLISH) * 3, "\n".join(CODE) * 2,
    ]


class Model:
    """A vocabulary opened by llama.cpp."""

    def __init__(self, path):
        self.llama = llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False)
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama.model)

    def ids(self, text, parse_special, add_special=False):
        raw = text.encode()
        room = 2 * len(raw) + 16
        out = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), out, room, add_special, parse_special)
        assert n >= 0, text
        return list(out[:n])

    def piece(self, token, special):
        room = ctypes.create_string_buffer(1 << 16)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, room, 1 << 16, 0, special)
        assert n >= 0
        return room.raw[:n]

    def facts(self):
        n = llama_cpp.llama_vocab_n_tokens(self.vocab)
        return {
            "pieces": [self.piece(i, True).hex() for i in range(n)],
            "hidden": [i for i in range(n) if self.piece(i, True) and not self.piece(i, False)],
            "eog": [i for i in range(n) if llama_cpp.llama_vocab_is_eog(self.vocab, i)],
            "marked": self.ids("", False, True),
        }

    def results(self, strings):
        plain = [self.ids(t, False) for t in strings]
        special = {}
        for i, t in enumerate(strings):
            ids = self.ids(t, True)
            if ids != plain[i]:
                special[str(i)] = ids
        return {"plain": plain, "special": special}


def alphabet():
    """GPT-2's byte alphabet: printable bytes are themselves, the others follow from U+0100."""
    keep = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def train(words, count):
    """Byte-pair encoding on whole strings: merges cross word borders, so pre-tokenizers make a difference."""
    words = [list(w) for w in words]
    merges = []
    for _ in range(count):
        pairs = collections.Counter(p for w in words for p in zip(w, w[1:]))
        if not pairs:
            break
        (a, b), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        merges.append((a, b))
        for k, w in enumerate(words):
            merged, i = [], 0
            while i < len(w):
                if i + 1 < len(w) and w[i] == a and w[i + 1] == b:
                    merged.append(a + b)
                    i += 2
                else:
                    merged.append(w[i])
                    i += 1
            words[k] = merged
    return merges


NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPECIAL_TOKENS = [
    ("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL),
    ("<|endoftext|>", CONTROL), ("<|im_start|>x", CONTROL), ("<tool>", USER), ("  ", USER), ("\n\n\n", USER),
    ("é<", USER), ("<unused0>", UNUSED), ("<fim_prefix>", NORMAL), ("<|file_sep|>", NORMAL), ("<|end|>", NORMAL),
]


def bpe_vocabulary(strings):
    letters = alphabet()
    encoded = ["".join(letters[b] for b in t.encode()) for t in strings]
    merges = train(encoded, 420)
    dropped = {letters[0x9F], letters[ord("`")], letters[0xFF]}
    tokens = [c for c in letters.values() if c not in dropped]
    made = list(dict.fromkeys(a + b for a, b in merges))
    tokens += [t for i, t in enumerate(made) if i % 23 != 7]  # the others exist as merge parts only
    taken = set(tokens)
    rows = [(t, NORMAL) for t in tokens] + [s for s in SPECIAL_TOKENS if s[0] not in taken]
    # A word that no merges lead to: taken whole by the families that ignore merges.
    rows += [(w, NORMAL) for w in ("Ġantidisestablishmentarianism", "Ħ", "supercali") if w not in taken]
    ids = {t: i for i, (t, _) in enumerate(rows)}
    return {
        "model": "gpt2",
        "tokens": [t for t, _ in rows],
        "types": [k for _, k in rows],
        "merges": [f"{a} {b}" for a, b in merges],
        "bos": ids["<s>"],
        "eos": ids["</s>"],
        "unk": ids["<unk>"],
    }


def spm_vocabulary(strings):
    merges = train([t.replace(" ", "▁") for t in strings], 420)
    rows = [("<unk>", UNKNOWN, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0)]
    rows += [(f"<0x{b:02X}>", BYTE, 0.0) for b in range(256)]
    names = {r[0] for r in rows}
    for rank, (a, b) in enumerate(merges):
        if a + b not in names:
            names.add(a + b)
            rows.append((a + b, NORMAL, -float(rank // 3)))  # equal scores: the leftmost must win
    letters = sorted({c for t in strings for c in t.replace(" ", "▁")})
    rows += [(c, NORMAL, -1000.0 - i) for i, c in enumerate(letters) if i % 3 and c not in names]
    names |= {r[0] for r in rows}
    rows += [(t, k, 0.0) for t, k in SPECIAL_TOKENS if t not in names]
    ids = {t: i for i, (t, _, _) in enumerate(rows)}
    return {
        "model": "llama",
        "tokens": [r[0] for r in rows],
        "types": [r[1] for r in rows],
        "scores": [r[2] for r in rows],
        "bos": ids["<s>"],
        "eos": ids["</s>"],
        "unk": ids["<unk>"],
    }


def write_gguf(path, vocabulary, options):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(options.get("name", "synthetic"))
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(vocabulary["model"])
    if "pre" in options:
        writer.add_tokenizer_pre(options["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    if "scores" in vocabulary:
        writer.add_token_scores(vocabulary["scores"])
    if "merges" in vocabulary:
        writer.add_token_merges(vocabulary["merges"])
    writer.add_bos_token_id(vocabulary["bos"])
    writer.add_eos_token_id(vocabulary["eos"])
    writer.add_unk_token_id(vocabulary["unk"])
    if "add_space_prefix" in options:
        writer.add_add_space_prefix(options["add_space_prefix"])
    if "add_bos" in options:
        writer.add_add_bos_token(options["add_bos"])
    if "add_eos" in options:
        writer.add_add_eos_token(options["add_eos"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# One name per family, and those that switch something on.
PRE = [
    "default", "llama-bpe", "dbrx", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "gpt-2", "smollm",
    "qwen2", "qwen35", "bloom", "viking", "tekken", "gpt-4o", "chameleon", "bailingmoe", "seed-coder", "minicpm5",
    "chatglm-bpe",
]


def synthetic():
    strings = texts()
    rng = random.Random(5)
    must = [t for t in strings if t in SPECIAL or t in SPACES]
    rest = [t for t in strings if t not in must]
    chosen = [t for t in must + rest if len(t.encode()) < 120]
    vocabularies = {"bpe": bpe_vocabulary(ENGLISH + CODE + WORLD), "spm": spm_vocabulary(ENGLISH + CODE + WORLD)}
    variants = [("bpe", {"pre": pre}) for pre in PRE]
    variants += [
        ("bpe", {"pre": "gpt-2", "add_bos": True, "add_eos": True}),
        ("spm", {}),
        ("spm", {"add_space_prefix": False, "add_bos": False, "add_eos": True}),
        ("spm", {"name": "Phi-3 mini"}),
    ]
    cases = []
    for which, options in variants:
        # Every case sees all the awkward short strings and its own share of the others.
        sample = sorted(rng.sample(range(len(chosen)), 170))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "v.gguf")
            write_gguf(path, vocabularies[which], options)
            model = Model(path)
            case = {"vocabulary": which, "options": options, "sample": sample}
            case.update(model.results([chosen[i] for i in sample]))
            facts = model.facts()
            case["marked"] = facts.pop("marked")
            if which + "_facts" not in vocabularies and options.get("pre", "default") == "default":
                vocabularies[which + "_facts"] = facts
            cases.append(case)
    return {"texts": chosen, "vocabularies": vocabularies, "cases": cases}


def write(name, value):
    path = os.path.join(DATA, name)
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")
    print(name, os.path.getsize(path), "bytes")


def main():
    strings = texts() + long_texts()
    model = Model(sys.argv[1])
    golden = {"texts": strings}
    golden.update(model.results(strings))
    facts = model.facts()
    golden.update({k: facts[k] for k in ("eog", "hidden", "marked")})
    write("smollm2.tokens.json", golden)
    print(len(strings), "strings")
    write("synthetic.tokens.json", synthetic())


if __name__ == "__main__":
    main()
