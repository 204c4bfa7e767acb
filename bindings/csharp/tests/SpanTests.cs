#if CAPSULEGRAPH_SPANS
// What only runtimes with spans have.

using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace CapsuleGraph.Tests
{
    internal static class SpanTests
    {
        public static void LogitsGoIntoASpan()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                int[] ids = model.Tokenize(LanguageTests.Prompt);
                var logits = new float[model.VocabularySize];
                session.Eval(new ReadOnlySpan<int>(ids), logits);
                Expect.Equal(Array.IndexOf(logits, logits.Max()), LanguageTests.Tokens[0]);
                Expect.Status(Status.InvalidArgument, () => session.Eval(ReadOnlySpan<int>.Empty, logits));
                int held = session.Count;
                Expect.Throws<ArgumentException>(() => session.Eval(new ReadOnlySpan<int>(ids), new float[3]), "room for 3 logits");
                Expect.Equal(session.Count, held, "what is held after a refusal");
                Expect.Equal(model.Detokenize(new ReadOnlySpan<int>(ids, 1, 2)), model.Detokenize(new[] { ids[1], ids[2] }));
                Expect.Equal(model.Detokenize(ReadOnlySpan<int>.Empty), "");
                session.Reset();
                Rows rows = session.EvalAll(ids);
                Expect.True(rows[rows.Count - 1].SequenceEqual(logits), "the last row is the same");
                Expect.Equal(rows.ToString(), "Rows[" + ids.Length + ", " + model.VocabularySize + "]");
                model.Dispose();
                session.Eval(new ReadOnlySpan<int>(ids), logits);
            }
        }

        public static void RowsThatAreNotThere()
        {
            // The product of index and width is past what an int counts, and comes to 0.
            var rows = new Rows(new float[1 << 16], 1, 1 << 16);
            foreach (int index in new[] { 1, -1, 1 << 16, -(1 << 16) })
            {
                Expect.Throws<ArgumentOutOfRangeException>(() => rows[index].ToArray(), "There are 1 rows");
                Expect.Throws<ArgumentOutOfRangeException>(() => rows.Row(index));
            }
            Expect.Throws<ArgumentOutOfRangeException>(() => new Rows(new float[0], 5, 0)[5].ToArray());
        }

        public static void CapsulesAreSpans()
        {
            using (Model model = Model.Open(Models.Language))
            using (Capsule capsule = model.Fetch("block.0.attn", Layout.F32))
            {
                CapsuleTensor tensor = capsule["blk.0.attn_k.weight"];
                long sum = 0;
                foreach (byte one in tensor.Bytes) sum += one;
                Expect.Equal(sum, 36532243L);
                Expect.True(tensor.Floats.SequenceEqual(tensor.ToFloats()), "floats are alike");
                capsule.Dispose();
                Expect.Throws<ObjectDisposedException>(() => tensor.Bytes.ToArray());
            }
        }

        public static void TensorsAreSpansAndMemory()
        {
            float[] x = Enumerable.Range(0, 130).Select(i => (float)Math.Sin(i - 1)).ToArray();
            using (Model model = Model.Open(Models.Onnx("loop")))
            {
                Tensor part = Tensor.Of(new ReadOnlyMemory<float>(x, 1, 128), 2, 64);
                Tensor copy = Tensor.Of(x.Skip(1).Take(128).ToArray(), 2, 64);
                using (Outputs found = model.Run(OnnxTests.Given("input", part)))
                using (Outputs wanted = model.Run(OnnxTests.Given("input", copy)))
                {
                    Expect.True(found.Tensor("final").AsSpan<float>().SequenceEqual(wanted.Tensor("final").AsSpan<float>()), "alike");
                    Expect.Throws<ArgumentException>(() => found.Tensor("final").AsSpan<int>().ToArray());
                    Expect.Throws<InvalidOperationException>(() => part.AsSpan<float>().ToArray(), "memory that the program has");
                    Expect.Throws<InvalidOperationException>(() => part.Data.ToString(), "no fixed place");
                    Expect.Sequence(part.ToArray<float>(), copy.ToArray<float>());
                    Expect.Sequence(part.ToBytes(), copy.ToBytes());
                    found.Dispose();
                    Expect.Throws<ObjectDisposedException>(() => found.Tensor("final").AsSpan<float>().ToArray());
                }
            }
        }

        public static void ASpanOfAnArrayOfAnotherType()
        {
            Tensor one = Tensor.Of(ElementType.Complex64, new[] { 0x3ff0000000000000L });
            Expect.Equal(one.AsSpan<long>()[0], 0x3ff0000000000000L);
            Expect.Throws<InvalidOperationException>(() => one.AsSpan<double>().ToArray(), "an array of another type");
            Expect.Equal(one.ToArray<double>()[0], 1.0);
        }

        public static void TextComesAsynchronously()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                string text = Collect(session.Generate(LanguageTests.Prompt, new GenerateOptions { MaxTokens = 8 })).GetAwaiter().GetResult();
                Expect.Equal(text, LanguageTests.Text);
                var cancel = new CancellationTokenSource();
                Generation generation = session.Generate(LanguageTests.Prompt);
                Expect.Throws<OperationCanceledException>(() => Collect(generation, cancel, 3).GetAwaiter().GetResult());
                Expect.Equal(generation.Tokens.Count, 3);
                Expect.Equal(session.Complete(LanguageTests.Prompt, new GenerateOptions { MaxTokens = 8 }), LanguageTests.Text);
            }
        }

        public static void ACancelledReadHasTheCallersToken()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                var cancel = new CancellationTokenSource();
                var ways = new Func<IAsyncEnumerator<string>>[]
                {
                    () => session.Generate(LanguageTests.Prompt).ReadAsync(cancel.Token).GetAsyncEnumerator(),
                    () => session.Generate(LanguageTests.Prompt).ReadAsync().GetAsyncEnumerator(cancel.Token),
                    () => session.Generate(LanguageTests.Prompt, null, cancel.Token).ReadAsync().GetAsyncEnumerator(),
                };
                foreach (Func<IAsyncEnumerator<string>> way in ways)
                {
                    IAsyncEnumerator<string> pieces = way();
                    pieces.MoveNextAsync().AsTask().Wait();
                    cancel.Cancel();
                    var error = Expect.Throws<OperationCanceledException>(() => pieces.MoveNextAsync().AsTask().GetAwaiter().GetResult());
                    Expect.Equal(error.CancellationToken, cancel.Token, "the token");
                    var plain = Expect.Throws<OperationCanceledException>(() => session.Generate(LanguageTests.Prompt, null, cancel.Token));
                    Expect.Equal(error.Message, plain.Message, "the message");
                    pieces.DisposeAsync().AsTask().Wait();
                    cancel = new CancellationTokenSource();
                }
            }
        }

        public static void LeavingAReadStopsThePieceAtHand()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                int[] prompt = model.Tokenize(string.Concat(Enumerable.Repeat("word ", 3500)));
                IAsyncEnumerator<string> pieces = session.Generate(prompt).ReadAsync().GetAsyncEnumerator();
                Task<bool> move = pieces.MoveNextAsync().AsTask();
                Thread.Sleep(200);
                pieces.DisposeAsync().AsTask().Wait();
                Expect.True(move.IsCompleted, "the move is over");
                Expect.Throws<OperationCanceledException>(() => move.GetAwaiter().GetResult());
                Expect.True(session.Count < prompt.Length, "the prompt was not read to its end");
                Expect.Throws<ObjectDisposedException>(() => pieces.MoveNextAsync().AsTask().Wait());
                pieces.DisposeAsync().AsTask().Wait();
                Expect.Equal(session.Complete(LanguageTests.Prompt, new GenerateOptions { MaxTokens = 8 }), LanguageTests.Text);
            }
        }

        private static async Task<string> Collect(Generation generation, CancellationTokenSource cancel = null, int most = 0)
        {
            string text = "";
            var pieces = generation.ReadAsync(cancel == null ? default(CancellationToken) : cancel.Token).GetAsyncEnumerator();
            try
            {
                for (int count = 1; await pieces.MoveNextAsync(); count++)
                {
                    text += pieces.Current;
                    if (count == most) cancel.Cancel();
                }
            }
            finally
            {
                await pieces.DisposeAsync();
            }
            return text;
        }
    }
}
#endif
