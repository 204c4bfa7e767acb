// Options of models, sessions, generations and jobs: each does what it says, seen from outside.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;

namespace CapsuleGraph.Tests
{
    internal static class OptionsTests
    {
        private const string Prompt = LanguageTests.Prompt;

        public static void SamplingThatLeavesOneTokenIsGreedy()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession(new SessionOptions { WithoutLookup = true }))
            {
                foreach (GenerateOptions options in new[]
                {
                    new GenerateOptions { TopK = 1 }, new GenerateOptions { TopP = 1e-6f }, new GenerateOptions { MinP = 1 },
                })
                {
                    options.MaxTokens = 8;
                    options.Temperature = 1.5f;
                    Expect.Equal(session.Complete(Prompt, options), LanguageTests.Text);
                }
            }
        }

        public static void RecentTokensArePenalised()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                Func<float, int, string> text = (penalty, window) => session.Complete("one two one two one two one",
                    new GenerateOptions { MaxTokens = 6, RepeatPenalty = penalty, RepeatWindow = window });
                Expect.Equal(text(1, 0), text(0, 0));
                Expect.Contains(text(1, 0), " two two two");
                Expect.True(!text(2, 0).Contains(" two two"), "what was said is penalised");
                Expect.True(text(2, 0) != text(2, 1), "the window counts");
            }
        }

        public static void AModelInsideAnotherFile()
        {
            const int Before = 1 << 16;
            byte[] file = File.ReadAllBytes(Models.Language);
            string archive = Models.New("archive.bin");
            File.WriteAllBytes(archive, new byte[Before].Concat(file).Concat(new byte[1000]).ToArray());
            var whole = new ModelOptions { Offset = Before, Length = file.Length, Processors = new[] { 0 } };
            var full = new ModelOptions { FullPath = archive, FullOffset = Before, FullLength = file.Length, Mode = Mode.Exact };
            foreach (Func<Model> open in new Func<Model>[] { () => Model.Open(archive, whole), () => Model.Open(Models.Mini, full) })
            {
                using (Model model = open())
                using (Session session = model.CreateSession())
                    Expect.Equal(session.Complete(Prompt, new GenerateOptions { MaxTokens = 8 }), LanguageTests.Text);
            }
        }

        public static void ABudgetLeavesRoomForTheSessionThatIsNamed()
        {
            var options = new ModelOptions { MemoryBytes = 200000000, SessionContext = 256, SessionKVType = KVType.Q8_0 };
            using (Model model = Model.Open(Models.Language, options))
            using (Session session = model.CreateSession(new SessionOptions { Context = 256, KVType = KVType.Q8_0 }))
                Expect.Equal(session.Context, 256);
            // The least that a budget must be grows with the session.
            options.MemoryBytes = 1000;
            Func<string> refusal = () => Expect.Throws<CapsuleGraphException>(() => Model.Open(Models.Language, options), "smallest").Message;
            string small = refusal();
            options.SessionContext = 4096;
            Expect.True(refusal() != small, "the session counts");
        }

        public static void BatchesChangeMemoryAndNoBit()
        {
            using (var budget = new Budget(250000000))
            using (Model model = Model.Open(Models.Language, new ModelOptions { Budget = budget }))
            {
                int[] ids = model.Tokenize(Prompt);
                Expect.True(ids.Length > 2, "there is something to divide");
                // The logits, and what of the budget the session holds.
                Func<int, KeyValuePair<float[], long>> of = batch =>
                {
                    long before = budget.Claimed;
                    using (Session session = model.CreateSession(new SessionOptions { Context = 256, Batch = batch }))
                        return new KeyValuePair<float[], long>(session.Eval(ids), budget.Claimed - before);
                };
                KeyValuePair<float[], long> single = of(1), pairs = of(2), many = of(64);
                Expect.Sequence(pairs.Key, single.Key);
                Expect.Sequence(many.Key, single.Key);
                Expect.True(single.Value < pairs.Value && pairs.Value < many.Value, "longer batches take more memory");
                Expect.Throws<ArgumentOutOfRangeException>(() => of(-1), "Batch");
            }
        }

        public static void APartHasTheContextThatIsNamed()
        {
            using (Model model = Model.Open(Models.Language))
            using (var part = new Part(model, new PartOptions { Context = 4, KVType = KVType.Q8_0 }))
            {
                part.Eval(new[] { 1, 2, 3, 4 });
                Expect.Status(Status.Limit, () => part.Eval(new[] { 5 }));
            }
        }

        public static void AMiniIsRepairedFromItsFullFile()
        {
            string mini = Models.New("a.mini.cgraph");
            byte[] data = File.ReadAllBytes(Models.Mini);
            data[data.Length / 2] ^= 255;
            File.WriteAllBytes(mini, data);
            var options = new VerifyOptions { FullPath = Models.Language, Deep = true };
            Expect.True(Files.Verify(mini, options).ProblemCount > 0, "it is damaged");
            options.Repair = true;
            VerifyResult result = Files.Verify(mini, options);
            Expect.Equal(result.ProblemCount, 0, result.ToString());
            Expect.Sequence(File.ReadAllBytes(mini), File.ReadAllBytes(Models.Mini));
        }

        public static void OnnxModelsAreCutAndJoined()
        {
            string source = Path.Combine(Models.Variable("CAPSULEGRAPH_TEST_ONNX"), "models/loop.onnx");
            string cut = Models.New("cut.cgraph"), runtime = Models.Variable("CAPSULEGRAPH_ONNXRUNTIME");
            var options = new ConvertOptions { NoMini = true, CapsuleBytes = 1, OnnxRuntime = runtime };
            Files.Convert(source, cut, options);
            options.MaxError = -1;
            Expect.Status(Status.InvalidArgument, () => Files.Convert(source, cut, options));
            var open = new ModelOptions { OnnxRuntime = runtime, JoinedBytes = ModelOptions.JoinedNone };
            using (Model whole = Model.Open(Models.Onnx("loop")))
            using (Model model = Model.Open(cut, open))
            {
                Dictionary<string, Value> input = OnnxTests.Given("input", Tensor.Of(new float[64], 1, 64));
                using (Outputs wanted = whole.Run(input))
                using (Outputs found = model.Run(input))
                    Expect.Sequence(found.Values.Select(value => value.Tensor.Count), wanted.Values.Select(value => value.Tensor.Count));
                Expect.True(model.CapsuleIds.Count > whole.CapsuleIds.Count, "it has more capsules");
                Expect.Contains(model.Report(), "\"sessions_made\": " + model.CapsuleIds.Count);
                Expect.Sequence(whole.Inputs.Single().DimensionNames, new[] { "steps", "" });
            }
        }
    }
}
