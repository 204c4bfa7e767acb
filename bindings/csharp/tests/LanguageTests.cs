// Language models: generating, conversations, files, capsules.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;

namespace CapsuleGraph.Tests
{
    internal static class LanguageTests
    {
        internal const string Prompt = "Once upon a time", Text = ", the city of Nova Haven was a";
        internal static readonly int[] Tokens = { 28, 260, 2240, 282, 23324, 27108, 436, 253 };
        private static readonly GenerateOptions Eight = new GenerateOptions { MaxTokens = 8 };

        public static void TextIsStreamed()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                Generation generation = session.Generate(Prompt, Eight);
                List<string> pieces = generation.ToList();
                Expect.Equal(string.Concat(pieces), Text);
                Expect.True(pieces.All(piece => piece.Length > 0), "no piece is empty");
                Expect.Equal(generation.Text, Text);
                Expect.Sequence(generation.Tokens, Tokens);
                Expect.Equal(generation.FinishReason, Finish.Length);
                Expect.Equal(generation.Next(), null, "the piece behind the end");
            }
        }

        public static void TokenIdsAreAPrompt()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                int[] ids = model.Tokenize(Prompt);
                Expect.Equal(session.Generate(ids, Eight).ReadToEnd(), Text);
                Expect.Sequence(session.Tokens.Take(ids.Length), ids);
                Expect.Equal(session.Count, session.Tokens.Length);
            }
        }

        public static void LeavingOffAndBeginningAgain()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                foreach (string piece in session.Generate(Prompt))
                {
                    Expect.Equal(piece, ",");
                    break;
                }
                Expect.Equal(session.Complete(Prompt, Eight), Text);
            }
        }

        public static void StopStringsAndCallbacks()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                Generation stopped = session.Generate(Prompt, new GenerateOptions { MaxTokens = 40, Stop = new[] { "Haven" } });
                Expect.Equal(stopped.ReadToEnd(), ", the city of Nova ");
                Expect.Equal(stopped.FinishReason, Finish.Stop);
                var seen = new List<int>();
                Finish finish = session.Generate(Prompt, (token, text) =>
                {
                    seen.Add(token);
                    return seen.Count < 3;
                });
                Expect.Equal(finish, Finish.Callback);
                Expect.Sequence(seen, Tokens.Take(3));
                Generation left = session.Generate(Prompt);
                left.Next();
                left.Stop();
                Expect.Equal(left.Next(), null);
                Expect.Equal(left.FinishReason, Finish.Callback);
            }
        }

        public static void SamplingDependsOnTheSeedAlone()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                string[] texts = new ulong[] { 1, 1, 2 }.Select(seed => session.Complete(Prompt,
                    new GenerateOptions { MaxTokens = 12, Temperature = 1.5f, Seed = seed })).ToArray();
                Expect.Equal(texts[0], texts[1]);
                Expect.True(texts[0] != texts[2], "another seed gives another text");
            }
        }

        public static void AConversationGoesOn()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            using (Session other = model.CreateSession())
            {
                string first = session.Chat("Say hello in French.", new GenerateOptions { MaxTokens = 64 }).ReadToEnd();
                Expect.Equal(first, "Bonjour in French. Bonjour in espailler.");
                Expect.Sequence(session.Messages.Select(message => message.ToString()),
                    new[] { "user: Say hello in French.", "assistant: " + first });
                Generation second = session.Chat("And in German?", Eight);
                second.ReadToEnd();
                Expect.Equal(session.Messages.Count, 4);
                Generation alone = other.Chat(session.Messages.Take(3).ToArray(), Eight);
                alone.ReadToEnd();
                Expect.Sequence(alone.Tokens, second.Tokens);
                session.Reset();
                Expect.Equal(session.Messages.Count + session.Count, 0);
            }
        }

        public static void LogitsAreThoseThatTokensAreChosenFrom()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                int[] ids = model.Tokenize(Prompt);
                float[] last = session.Eval(ids);
                Expect.Equal(last.Length, model.VocabularySize);
                Expect.Equal(Array.IndexOf(last, last.Max()), Tokens[0]);
                Expect.Sequence(session.Logits.Data, last);
                session.Reset();
                Rows rows = session.EvalAll(ids);
                Expect.Equal(rows.Count, ids.Length);
                Expect.Sequence(rows.Row(rows.Count - 1), last);
                session.Truncate(2);
                Expect.Sequence(session.Tokens, ids.Take(2));
            }
        }

        public static void AGroupGivesEachTheTokensThatItHasAlone()
        {
            string[] prompts = { Prompt, "The capital of France is" };
            using (Model model = Model.Open(Models.Language))
            using (Session one = model.CreateSession())
            using (Session two = model.CreateSession())
            using (var group = new Group())
            {
                string[] alone = prompts.Select(prompt => one.Complete(prompt, Eight)).ToArray();
                Generation[] generations = { one.Generate(prompts[0], Eight), two.Generate(prompts[1], Eight) };
                string[] texts = { "", "" };
                while (generations.Any(generation => generation.FinishReason == Finish.None))
                {
                    IReadOnlyList<string> pieces = group.Advance(generations, TimeSpan.FromMilliseconds(50));
                    for (int i = 0; i < 2; i++) texts[i] += pieces[i];
                }
                Expect.Sequence(texts, alone);
                Expect.Sequence(generations.Select(generation => generation.Text), alone);
                Generation again = one.Generate(prompts[0], Eight), twice = one.Generate(prompts[0], Eight);
                Expect.Throws<InvalidOperationException>(() => group.Advance(new[] { again, twice }), "generation is over");
            }
        }

        public static void PartsGiveTheLogitsOfOne()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            using (Model front = Model.Open(Models.Language, new ModelOptions { EndCapsule = 20 }))
            using (Model back = Model.Open(Models.Language, new ModelOptions { FirstCapsule = 20, EndCapsule = model.CapsuleIds.Count }))
            using (var first = new Part(front))
            using (var second = new Part(back))
            {
                int[] ids = model.Tokenize(Prompt);
                float[] whole = session.Eval(ids);
                Rows rows = first.Eval(ids);
                Expect.Equal(rows.Count, ids.Length);
                Expect.Equal(rows.Columns, model.EmbeddingLength);
                Rows found = second.EvalActivations(rows);
                Expect.Sequence(found.Row(found.Count - 1), whole);
                Expect.Equal(first.Count + second.Count, 2 * ids.Length);
                first.Truncate(1);
                Expect.Equal(first.Count, 1);
            }
        }

        public static void ReportsAndNumbers()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                session.Complete(Prompt, Eight);
                Expect.Contains(session.Report().Replace(" ", "").Replace("\n", ""), "\"token_ids\":[" + string.Join(",", Tokens) + "]");
                Expect.True(session.Context >= 4096, "there is room");
                Expect.Equal(model.Mode, Mode.Exact);
                Expect.Contains(model.ModeReason, "full");
                Expect.True(model.HasChatTemplate && !model.IsOnnx && model.Threads >= 1, "what the model is");
                Expect.True(model.IsEndToken(2) && !model.IsEndToken(Tokens[0]), "what ends a text");
                Expect.True(model.HeldBytes > 0 && model.ContextLength > 0 && model.Name.Length > 0, "its numbers");
                Expect.Equal(model.Detokenize(Tokens), Text);
                Expect.Contains(model.ChatPrompt(new[] { new ChatMessage("user", "Hi") }), "<|im_start|>user\nHi");
                Expect.Contains(model.Inspect(true).Replace(" ", ""), "\"kind\":\"full\"");
                Expect.Contains(Files.Inspect(Models.Language).Replace(" ", ""), "\"kind\":\"full\"");
                Expect.Contains(File.ReadAllText(Path.Combine(Models.Root, "Cargo.toml")), "version = \"" + Library.Version + "\"");
            }
        }

        public static void TextIsUtf8OnEveryRuntime()
        {
            using (Model model = Model.Open(Models.Language))
            {
                foreach (string text in new[] { "größer als 漢字 🦀", "", "a\0b", "é" })
                    Expect.Equal(model.Detokenize(model.Tokenize(text)), text);
                Expect.Throws<ArgumentException>(() => model.Tokenize("\ud83e"), "half of a surrogate pair");
            }
            string path = Models.New("größer 漢字.cgraph");
            File.Copy(Models.Language, path);
            using (Model model = Model.Open(path)) Expect.Equal(model.VocabularySize, 49152);
        }

        public static void AStreamIsAFile()
        {
            using (FileStream stream = File.OpenRead(Models.Language))
            using (Model model = Model.Open(stream))
            using (Session session = model.CreateSession())
                Expect.Equal(session.Complete(Prompt, Eight), Text);
            using (FileStream full = File.OpenRead(Models.Language))
            using (Model model = Model.Open(Models.Mini, new ModelOptions { FullStream = full }))
            using (Session session = model.CreateSession())
                Expect.Equal(session.Complete(Prompt, Eight), Text);
        }

        public static void BudgetsAndLogs()
        {
            using (var log = new Log(LogLevel.Debug))
            using (var budget = new Budget(250000000))
            {
                using (Model model = Model.Open(Models.Language, new ModelOptions { Budget = budget, Log = log, Priority = Priority.Low }))
                using (Session session = model.CreateSession(new SessionOptions { Context = 512, KVType = KVType.Q8_0 }))
                {
                    Expect.Equal(session.Complete(Prompt, new GenerateOptions { MaxTokens = 1 }), ",");
                    Expect.True(budget.Claimed > 0 && budget.Claimed < budget.Size, "the budget is claimed");
                    Expect.Status(Status.Limit, () => budget.Size = 1000, "smallest");
                    budget.Size = 200000000;
                    Expect.Equal(budget.Size, 200000000L);
                }
                IReadOnlyList<LogLine> lines = log.Take();
                Expect.True(lines.Count > 0 && lines.All(line => line.Level >= LogLevel.Error && line.Level <= LogLevel.Debug), "lines came");
                Expect.Equal(log.Take().Count, 0, "lines left");
            }
        }

        public static void CapsulesOutliveTheirModel()
        {
            Capsule capsule;
            using (Model model = Model.Open(Models.Language)) capsule = model.Fetch("block.0.attn", Layout.F32);
            using (capsule)
            {
                Expect.Equal(capsule.Precision, "full");
                CapsuleTensor tensor = capsule["blk.0.attn_k.weight"];
                Expect.Sequence(tensor.Shape, new long[] { 192, 576 });
                Expect.Equal(tensor.ToBytes().Sum(one => (long)one), 36532243L);
                Expect.Equal(tensor.ToFloats().Length, 192 * 576);
                Expect.True(tensor.Data != IntPtr.Zero, "there is data");
            }
        }

        public static void FetchingFromAMiniAndSeveral()
        {
            using (Model model = Model.Open(Models.Mini))
            {
                string[] names = { "embed", "block.0.attn" };
                using (Fetch fetch = model.BeginFetch(names))
                {
                    while (fetch.Ready < fetch.Count) Thread.Sleep(1);
                    using (Capsule embed = fetch.Take(0))
                    using (Capsule block = fetch.Take(1))
                    {
                        Expect.Sequence(new[] { embed.Id, block.Id }, names);
                        Expect.Equal(embed.Tensors.Single().Name, "token_embd.weight");
                        Expect.Equal(embed["token_embd.weight"].ToBytes().Sum(one => (long)one), 3670375898L);
                    }
                    Expect.Status(Status.NotFound, () => fetch.Take(0));
                }
                model.Prefetch(new[] { 0, 1, 2 });
            }
        }

        public static void ConvertTellsWhatItDoes()
        {
            var progress = new Collected();
            string target = Models.New("a.cgraph");
            string summary = Files.Convert(Models.Source, target, new ConvertOptions { NoMini = true, Progress = progress });
            Expect.Contains(summary.Replace(" ", ""), "\"bytes\":" + new FileInfo(target).Length);
            Expect.True(progress.Steps.All(step => step.Phase == JobPhase.Convert && step.Done >= 0 && step.Done <= step.Total), "the steps");
            Expect.Equal(progress.Steps.Last().Done, progress.Steps.Last().Total);
            VerifyResult result = Files.Verify(target, new VerifyOptions { Deep = true });
            Expect.Equal(result.ProblemCount, 0, result.Report);
        }

        public static void ADamagedFileIsFound()
        {
            string damaged = Models.New("damaged.cgraph");
            byte[] data = File.ReadAllBytes(Models.Language);
            data[60000000] ^= 255;
            File.WriteAllBytes(damaged, data);
            Expect.Equal(Files.Verify(damaged, new VerifyOptions { Deep = true }).ProblemCount, 1);
            using (Model model = Model.Open(damaged))
            {
                Expect.Status(Status.Corrupt, () =>
                {
                    foreach (string id in model.CapsuleIds) model.Fetch(id).Dispose();
                });
            }
        }

        internal sealed class Collected : IProgress<JobProgress>
        {
            internal readonly List<JobProgress> Steps = new List<JobProgress>();

            public void Report(JobProgress value)
            {
                Steps.Add(value);
            }
        }
    }
}
