"""Language models: generating, conversations, files, capsules."""

import inspect
import io
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from support import folder, language, mini, variable

import capsulegraph as cg

PROMPT = "Once upon a time"
TOKENS = [28, 260, 2240, 282, 23324, 27108, 436, 253]
TEXT = ", the city of Nova Haven was a"


class Generating(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = cg.Model(language())

    @classmethod
    def tearDownClass(cls):
        cls.model.close()

    def test_an_iterator_of_text(self):
        with self.model.session() as session:
            generation = session.generate(PROMPT, max_tokens=8)
            pieces = list(generation)
        self.assertIsInstance(generation, cg.Generation)
        self.assertEqual("".join(pieces), TEXT)
        self.assertTrue(all(pieces))
        self.assertEqual((generation.text, generation.tokens, generation.finish_reason), (TEXT, TOKENS, "length"))

    def test_token_ids_as_a_prompt(self):
        ids = self.model.tokenize(PROMPT)
        with self.model.session() as session:
            self.assertEqual(session.complete(ids, max_tokens=8), TEXT)
            self.assertEqual(session.tokens[: len(ids)], ids)
            self.assertEqual(session.complete(np.array(ids), max_tokens=8), TEXT)

    def test_leaving_off_and_beginning_again(self):
        with self.model.session() as session:
            for piece in session.generate(PROMPT):
                self.assertEqual(piece, ",")
                break
            self.assertEqual(session.complete(PROMPT, max_tokens=8), TEXT)

    def test_stop_strings_and_callbacks(self):
        with self.model.session() as session:
            for stop in (["Haven"], "Haven", iter(["Haven"])):
                generation = session.generate(PROMPT, max_tokens=40, stop=stop)
                self.assertEqual((generation.read(), generation.finish_reason), (", the city of Nova ", "stop"))
            seen = []
            generation = session.generate(PROMPT, on_token=lambda token, text: seen.append(token) or len(seen) == 3)
            generation.read()
            self.assertEqual((seen, generation.finish_reason), (TOKENS[:3], "callback"))
            generation = session.generate(PROMPT)
            next(generation)
            generation.stop()
            self.assertEqual((list(generation), generation.finish_reason), ([], "callback"))

    def test_sampling_depends_on_the_seed_alone(self):
        with self.model.session() as session:
            texts = [session.complete(PROMPT, max_tokens=12, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    def test_a_conversation_goes_on(self):
        with self.model.session() as session:
            first = session.chat("Say hello in French.", max_tokens=64).read()
            self.assertEqual(first, "Bonjour in French. Bonjour in espailler.")
            said = [("user", "Say hello in French."), ("assistant", first)]
            self.assertEqual([(m["role"], m["content"]) for m in session.messages], said)
            second = session.chat("And in German?", max_tokens=8)
            second.read()
            conversation = [*session.messages]
            self.assertEqual(len(conversation), 4)
        with self.model.session() as session:
            alone = session.chat(conversation[:3], max_tokens=8)
            alone.read()
        self.assertEqual(alone.tokens, second.tokens)

    def test_an_answer_that_is_left_or_stopped(self):
        with self.model.session() as session:
            for piece in session.chat("Say hello in French."):
                break
            session.chat("And in German?", max_tokens=2).read()
            left = [m["content"] for m in session.messages]
            self.assertEqual(left[:3], ["Say hello in French.", piece, "And in German?"])
            stale = session.chat("And in Latin?")
            next(stale)
            session.chat("And in Greek?", max_tokens=1).read()
            kept = session.messages
            self.assertEqual(len(kept), 8)
            stale.stop()
            self.assertEqual(session.messages, kept)
            going = session.chat("Go on.")
            next(going)
            session.reset()
            going.stop()
            self.assertEqual(session.messages, [])
            with self.assertRaises(cg.LimitError):
                session.chat("word " * 10_000).read()
            session.chat("Hi", max_tokens=1).read()
            self.assertEqual([m["role"] for m in session.messages], ["user", "assistant"])

    def test_options_of_chat_are_those_of_generate(self):
        from capsulegraph.session import GenerateOptions

        named = inspect.signature(cg.Session.generate).parameters
        self.assertEqual(set(GenerateOptions.__annotations__), set(named) - {"self", "prompt"})
        with self.model.session() as session, self.assertRaises(TypeError):
            session.chat("Hi", max_token=3)

    def test_logits_are_those_that_tokens_are_chosen_from(self):
        ids = self.model.tokenize(PROMPT)
        with self.model.session() as session:
            last = session.eval(ids)
            self.assertEqual((last.shape, last.dtype, int(last.argmax())), ((self.model.vocab_size,), np.float32, TOKENS[0]))
            session.reset()
            rows = session.eval(ids, all_logits=True)
            self.assertEqual(rows.shape, (len(ids), self.model.vocab_size))
            np.testing.assert_array_equal(rows[-1], last)
            self.assertEqual(len(session), len(ids))
            session.truncate(2)
            self.assertEqual(session.tokens, ids[:2])

    def test_a_group_gives_each_the_tokens_that_it_has_alone(self):
        prompts = [PROMPT, "The capital of France is"]
        with self.model.session() as session:
            alone = [session.complete(prompt, max_tokens=8) for prompt in prompts]
        sessions = [self.model.session() for _ in prompts]
        generations = [s.generate(prompt, max_tokens=8) for s, prompt in zip(sessions, prompts)]
        with cg.Group() as group:
            texts = ["", ""]
            while any(g.finish_reason == "none" for g in generations):
                texts = [text + more for text, more in zip(texts, group.advance(iter(generations)))]
        self.assertEqual(texts, alone)
        self.assertEqual([g.text for g in generations], alone)

    def test_parts_give_the_logits_of_one(self):
        ids = self.model.tokenize(PROMPT)
        count = len(self.model.capsule_ids)
        with self.model.session() as session:
            whole = session.eval(ids)
        with cg.Model(language(), capsules=(0, 20)) as front, cg.Model(language(), capsules=(20, count)) as back:
            with cg.Part(front) as first, cg.Part(back) as second:
                rows = first.eval(ids)
                self.assertEqual(rows.shape, (len(ids), self.model.embedding_length))
                np.testing.assert_array_equal(second.eval_activations(rows)[-1], whole)
                self.assertEqual((len(first), len(second)), (len(ids), len(ids)))

    def test_reports_and_numbers(self):
        with self.model.session() as session:
            session.complete(PROMPT, max_tokens=8)
            self.assertEqual(session.report()["token_ids"], TOKENS)
            self.assertGreaterEqual(session.context, 4096)
        self.assertEqual(self.model.mode, "exact")
        self.assertIn("full", self.model.mode_reason)
        self.assertTrue(self.model.has_chat_template and not self.model.is_onnx and self.model.threads >= 1)
        self.assertTrue(self.model.is_end_token(2) and not self.model.is_end_token(TOKENS[0]))
        self.assertEqual(self.model.detokenize(TOKENS), TEXT)
        self.assertIn("<|im_start|>user\nHi", self.model.chat_prompt([{"role": "user", "content": "Hi"}]))
        self.assertEqual(self.model.inspect(details=True)["kind"], "full")
        self.assertEqual(cg.inspect(language())["kind"], "full")

    def test_a_file_object(self):
        data = io.BytesIO(language().read_bytes())
        with cg.Model(data) as model, model.session() as session:
            self.assertEqual(session.complete(PROMPT, max_tokens=8), TEXT)

    def test_a_file_object_as_the_full_file(self):
        with tempfile.TemporaryDirectory() as place:
            alone = shutil.copy(mini(), Path(place) / "alone.mini.cgraph")
            full = io.BytesIO(language().read_bytes())
            for path in (alone, io.BytesIO(mini().read_bytes())):
                with cg.Model(path, full=full, mode="exact") as model, model.session() as session:
                    self.assertEqual(session.complete(PROMPT, max_tokens=8), TEXT)

    def test_budgets_and_logs(self):
        log = cg.Log("debug")
        with cg.Budget(250_000_000) as budget, cg.Model(language(), memory=budget, log=log) as model:
            with model.session(context=512, kv_type="q8_0") as session:
                self.assertEqual(session.complete(PROMPT, max_tokens=1), TEXT[:1])
                self.assertTrue(0 < budget.claimed < budget.size == 250_000_000)
            with self.assertRaises(cg.LimitError):
                budget.resize(1000)
            budget.resize(200_000_000)
            self.assertEqual(budget.size, 200_000_000)
        lines = log.take()
        self.assertTrue(lines and all(level in ("error", "warning", "info", "debug") for level, _ in lines))
        self.assertEqual(log.take(), [])


class Capsules(unittest.TestCase):
    def test_arrays_outlive_what_they_came_from(self):
        model = cg.Model(language())
        capsule = model.fetch("block.0.attn", layout="f32")
        self.assertEqual(capsule.precision, "full")
        array = capsule["blk.0.attn_k.weight"]
        total = int(capsule.tensor("blk.0.attn_k.weight").raw.sum(dtype=np.uint64))
        capsule.close()
        model.close()
        self.assertEqual((array.shape, array.dtype, array.flags.writeable), ((192, 576), np.float32, False))
        self.assertEqual(int(array.view(np.uint8).sum(dtype=np.uint64)), total)
        self.assertEqual(total, 36532243)

    def test_a_capsule_is_a_mapping(self):
        with cg.Model(language()) as model, model.fetch("block.0.attn", layout="f32") as capsule:
            names = [tensor.name for tensor in capsule.tensors]
            self.assertIsInstance(capsule.tensors[0], cg.Tensor)
            arrays = dict(capsule)
            self.assertEqual((list(arrays), list(capsule.keys()), len(capsule)), (names, names, len(names)))
            for name, array in capsule.items():
                self.assertEqual(array.shape, arrays[name].shape)
            self.assertTrue(names[0] in capsule and "absent" not in capsule and capsule.get("absent") is None)
            self.assertEqual({capsule}, {capsule})
            with self.assertRaisesRegex(KeyError, "no tensor 'absent'"):
                capsule["absent"]

    def test_without_numpy(self):
        code = (
            "import sys; sys.modules['numpy'] = None\n"
            "import capsulegraph as cg\n"
            "model = cg.Model(sys.argv[1]); session = model.session()\n"
            "assert session.complete('Once upon a time', max_tokens=2)\n"
            "capsule, held = model.fetch('block.0.attn'), len(session)\n"
            "name = next(iter(capsule))\n"
            "for use in (lambda: capsule[name], lambda: session.eval([1, 2]), lambda: session.logits, lambda: model.run({}),\n"
            "            lambda: cg.Part(model, context=16).eval([1])):\n"
            "    try: use()\n"
            "    except ModuleNotFoundError as error: assert \"pip install 'capsulegraph[numpy]'\" in str(error)\n"
            "    else: raise SystemExit('it went without numpy')\n"
            "assert len(session) == held\n"
        )
        done = subprocess.run([sys.executable, "-c", code, language()], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_fetching_from_a_mini_and_several(self):
        with cg.Model(mini()) as model:
            names = ["embed", "block.0.attn"]
            with model.fetch_begin(iter(names)) as fetch:
                while fetch.ready < len(fetch):
                    pass
                self.assertIsInstance(fetch, cg.Fetch)
                taken = [fetch.take(index) for index in range(len(names))]
                with self.assertRaises(cg.NotFoundError):
                    fetch.take(0)
            self.assertTrue(all(isinstance(capsule, cg.Capsule) for capsule in taken))
            self.assertEqual([capsule.name for capsule in taken], names)
            self.assertEqual(list(taken[0]), ["token_embd.weight"])
            self.assertEqual(int(taken[0]["token_embd.weight"].sum(dtype=np.uint64)), 3670375898)
            model.prefetch(range(3))


class Files(unittest.TestCase):
    def test_convert_tells_what_it_does(self):
        steps = []
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "a.cgraph"
            summary = cg.convert(
                variable("CAPSULEGRAPH_TEST_MODEL"), target, mini=False, progress=lambda *step: steps.append(step)
            )
            self.assertEqual(summary["full"]["bytes"], target.stat().st_size)
            self.assertEqual(cg.verify(target, deep=True)["problem_count"], 0)
        self.assertEqual({phase for phase, _, _ in steps}, {"convert"})
        self.assertTrue(all(0 <= done <= total for _, done, total in steps))
        self.assertEqual(steps[-1][1], steps[-1][2])

    def test_progress_by_tqdm(self):
        from tqdm import tqdm

        class Kept(tqdm):
            made = []

            def __init__(self, *args, **options):
                super().__init__(*args, file=io.StringIO(), **options)
                self.made.append(self)

        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "a.cgraph"
            cg.convert(variable("CAPSULEGRAPH_TEST_MODEL"), target, mini=False, progress=Kept)
            (bar,) = Kept.made
            self.assertTrue(bar.n == bar.total > 50_000_000 and bar.disable)
            with tqdm(file=io.StringIO()) as bar:
                cg.convert(variable("CAPSULEGRAPH_TEST_MODEL"), target, mini=False, progress=bar)
                self.assertTrue(bar.n == bar.total > 50_000_000, (bar.n, bar.total))

    def test_a_damaged_file_is_found(self):
        with tempfile.TemporaryDirectory() as place:
            damaged = Path(place) / "damaged.cgraph"
            data = bytearray(language().read_bytes())
            data[60_000_000] ^= 255
            damaged.write_bytes(data)
            self.assertEqual(cg.verify(damaged, deep=True)["problem_count"], 1)
            with cg.Model(damaged) as model, self.assertRaises(cg.CorruptError):
                for capsule in model.capsule_ids:
                    model.fetch(capsule).close()


if __name__ == "__main__":
    folder()
    unittest.main()
