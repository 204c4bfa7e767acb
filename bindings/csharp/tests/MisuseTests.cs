// Whatever is done wrong is an exception that says so, never a crash.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;

namespace CapsuleGraph.Tests
{
    internal static class MisuseTests
    {
        private const string Prompt = LanguageTests.Prompt;
        private static readonly GenerateOptions Two = new GenerateOptions { MaxTokens = 2 };

        private sealed class Thrown : Exception
        {
        }

        private sealed class Throwing : IProgress<JobProgress>
        {
            public void Report(JobProgress value)
            {
                throw new Thrown();
            }
        }

        private sealed class Cancelling : IProgress<JobProgress>
        {
            internal readonly CancellationTokenSource Source = new CancellationTokenSource();

            public void Report(JobProgress value)
            {
                Source.Cancel();
            }
        }

        private sealed class ThrowingStream : MemoryStream
        {
            internal ThrowingStream() : base(new byte[100000])
            {
            }

            public override int Read(byte[] buffer, int offset, int count)
            {
                throw new Thrown();
            }
        }

        public static void UseAfterDispose()
        {
            Model model = Model.Open(Models.Language);
            Session session = model.CreateSession();
            Generation generation = session.Generate(Prompt);
            Capsule capsule = model.Fetch("block.0.attn");
            CapsuleTensor tensor = capsule.Tensors[0];
            Fetch fetch = model.BeginFetch(new[] { "embed" });
            var log = new Log();
            var budget = new Budget(1 << 30);
            var group = new Group();
            foreach (Resource one in new Resource[] { session, capsule, fetch, log, budget, group, model })
            {
                one.Dispose();
                one.Dispose();
                Expect.True(one.IsDisposed, "it is disposed");
            }
            var uses = new Action[]
            {
                () => model.Name.ToString(), () => model.Tokenize("a"), () => model.CreateSession(), () => model.Fetch("embed"),
                () => model.Run(new Dictionary<string, Value>()), () => session.Count.ToString(), () => session.Complete(Prompt),
                () => session.Generate(new[] { 1 }, (token, text) => true), () => generation.Next(), () => session.Reset(),
                () => capsule.Tensors.ToString(), () => tensor.ToBytes(), () => tensor.Data.ToString(), () => fetch.Ready.ToString(),
                () => log.Take(), () => budget.Size.ToString(), () => group.Advance(new[] { generation }),
                () => Model.Open(Models.Language, new ModelOptions { Budget = budget }),
                () => Model.Open(Models.Language, new ModelOptions { Log = log }),
            };
            foreach (Action use in uses) Expect.Throws<ObjectDisposedException>(use, "disposed");
        }

        public static void DisposingTheModelLeavesItsSession()
        {
            Model model = Model.Open(Models.Language);
            Session session = model.CreateSession();
            int[] ids = model.Tokenize(Prompt);
            model.Dispose();
            Expect.Equal(session.Generate(ids, Two).ReadToEnd(), ", the");
            session.Dispose();
        }

        public static void DisposingWhileAnotherThreadGenerates()
        {
            for (int round = 0; round < 3; round++)
            {
                Model model = Model.Open(Models.Language);
                Session session = model.CreateSession();
                var begun = new ManualResetEvent(false);
                Exception failure = null;
                var thread = new Thread(() =>
                {
                    try
                    {
                        session.Generate(Prompt, (token, text) => begun.Set(), new GenerateOptions { MaxTokens = 20 });
                        session.Complete(Prompt);
                    }
                    catch (Exception error)
                    {
                        failure = error;
                    }
                });
                thread.Start();
                begun.WaitOne();
                session.Dispose();
                model.Dispose();
                thread.Join();
                Expect.True(failure is ObjectDisposedException, "the call ends first, the next one fails: " + failure);
            }
        }

        public static void ForgottenObjectsAreCollected()
        {
            for (int round = 0; round < 5; round++)
            {
                Forget();
                GC.Collect();
                GC.WaitForPendingFinalizers();
            }
        }

        private static void Forget()
        {
            Model model = Model.Open(Models.Language);
            model.CreateSession().Generate(Prompt).Next();
            model.Fetch("block.0.attn").Tensors.ToString();
            model.BeginFetch(new[] { "embed" });
            new Log();
            new Budget(1000);
        }

        public static void TypesAndRanges()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                Expect.Throws<ArgumentNullException>(() => Model.Open((string)null), "path");
                Expect.Throws<ArgumentNullException>(() => Model.Open((Stream)null), "stream");
                Expect.Throws<ArgumentNullException>(() => model.Tokenize(null), "text");
                Expect.Throws<ArgumentNullException>(() => model.Detokenize(null), "ids");
                Expect.Throws<ArgumentNullException>(() => session.Generate((string)null));
                Expect.Throws<ArgumentNullException>(() => session.Generate((int[])null));
                Expect.Throws<ArgumentNullException>(() => session.Generate(Prompt, (TokenCallback)null));
                Expect.Throws<ArgumentNullException>(() => session.Eval(null));
                Expect.Throws<ArgumentNullException>(() => session.Generate(Prompt, new GenerateOptions { Stop = new string[] { null } }));
                Expect.Throws<ArgumentNullException>(() => model.ChatTokens(null));
                Expect.Throws<ArgumentNullException>(() => model.ChatTokens(new ChatMessage[] { null }));
                Expect.Throws<ArgumentNullException>(() => new ChatMessage("user", null));
                Expect.Throws<ArgumentNullException>(() => new Session(null));
                Expect.Throws<ArgumentNullException>(() => new Part(null));
                Expect.Throws<ArgumentNullException>(() => model.Fetch(null));
                Expect.Throws<ArgumentNullException>(() => model.BeginFetch(new string[] { null }));
                Expect.Throws<ArgumentNullException>(() => Files.Convert(null));
                Expect.Throws<ArgumentNullException>(() => Files.Inspect(null));
                Expect.Throws<ArgumentNullException>(() => Files.ExportOnnx(Models.Language, null));
                Expect.Throws<ArgumentOutOfRangeException>(() => session.Complete(Prompt, new GenerateOptions { MaxTokens = -1 }), "negative");
                Expect.Throws<ArgumentOutOfRangeException>(() => session.Truncate(-1));
                Expect.Throws<ArgumentOutOfRangeException>(() => model.Prefetch(new[] { -1 }));
                Expect.Throws<ArgumentOutOfRangeException>(() => new Budget(-5));
                Expect.Throws<ArgumentOutOfRangeException>(() => Model.Open(Models.Language, new ModelOptions { Threads = -1 }));
                Expect.Throws<ArgumentException>(() => new Rows(new float[5], 2, 3), "5 floats");
                Expect.Throws<KeyNotFoundException>(() => model.Fetch("embed")["no such tensor"].ToString(), "token_embd.weight");
                Statuses(model, session);
                // All of that has left the session as it was.
                Expect.Equal(session.Complete(Prompt, Two), ", the");
            }
        }

        private static void Statuses(Model model, Session session)
        {
            Expect.Status(Status.InvalidArgument, () => model.Detokenize(new[] { 1000000 }));
            Expect.Status(Status.InvalidArgument, () => model.Detokenize(new[] { -1 }));
            Expect.Status(Status.InvalidArgument, () => session.Generate(new int[0]));
            Expect.Status(Status.InvalidArgument, () => session.Eval(new int[0]));
            Expect.Status(Status.InvalidArgument, () => session.Complete(Prompt, new GenerateOptions { Temperature = float.NaN }));
            Expect.Status(Status.InvalidArgument, () => model.Fetch("embed", (Layout)77));
            Expect.Status(Status.InvalidArgument, () => Model.Open(Models.Language, new ModelOptions { Mode = (Mode)77 }));
            Expect.Status(Status.InvalidArgument, () => new Budget(0));
            Expect.Status(Status.NotFound, () => model.Fetch("no such capsule"));
            Expect.Status(Status.Limit, () => Model.Open(Models.Language, new ModelOptions { MemoryBytes = 1000 }), "smallest");
            Expect.Status(Status.IO, () => Model.Open("absent.cgraph"), "absent.cgraph");
            Expect.Status(Status.IO, () => Files.Convert("absent.gguf", "never.cgraph"));
            Expect.Status(Status.Unsupported, () => model.Run(OnnxTests.Given("x", Tensor.Scalar(1f))));
            Expect.Status(Status.Unsupported, () => model.Inputs.ToString());
        }

        public static void ATokenCallbackThatThrows()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                Thrown thrown = Expect.Throws<Thrown>(() => session.Generate(Prompt, (token, text) => Throw()));
                Expect.Contains(thrown.StackTrace, "Throw");
                Expect.Equal(session.Complete(Prompt, Two), ", the");
            }
        }

        private static bool Throw()
        {
            throw new Thrown();
        }

        public static void ATokenCallbackThatUsesItsSession()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                Expect.Status(Status.Busy, () => session.Generate(Prompt, (token, text) => session.Tokens.Length > 0));
                Generation old = session.Generate(Prompt);
                old.Next();
                session.Complete(Prompt, Two);
                Expect.Throws<InvalidOperationException>(() => old.Next(), "gone on with something else");
                // One that disposes its own session: the call ends first.
                session.Generate(Prompt, (token, text) =>
                {
                    session.Dispose();
                    return false;
                });
                Expect.Throws<ObjectDisposedException>(() => session.Reset());
            }
        }

        public static void CallbacksSurviveTheCollector()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                int count = 0;
                session.Generate(Prompt, (token, text) =>
                {
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                    return ++count < 20;
                });
                Expect.Equal(count, 20);
            }
        }

        public static void AProgressCallbackThatThrows()
        {
            string target = Models.New("a.cgraph"), folder = Path.GetDirectoryName(target);
            Expect.Throws<Thrown>(() => Files.Convert(Models.Source, target, new ConvertOptions { NoMini = true, Progress = new Throwing() }));
            Expect.Equal(Directory.GetFiles(folder).Length, 0, "files left");
            var progress = new Cancelling();
            OperationCanceledException cancelled = Expect.Throws<OperationCanceledException>(() =>
                Files.Convert(Models.Source, target, new ConvertOptions { NoMini = true, Progress = progress }, progress.Source.Token));
            Expect.Equal(cancelled.CancellationToken, progress.Source.Token);
            Expect.Equal(Directory.GetFiles(folder).Length, 0, "files left");
            Expect.Throws<Thrown>(() => Files.Verify(Models.Language, new VerifyOptions { Deep = true, Progress = new Throwing() }));
        }

        public static void AStreamThatThrows()
        {
            Expect.Throws<Thrown>(() => Model.Open(new ThrowingStream()));
            Expect.Throws<Thrown>(() => Model.Open(Models.Mini, new ModelOptions { FullStream = new ThrowingStream(), Mode = Mode.Exact }));
            var closed = new MemoryStream();
            closed.Close();
            Expect.Throws<ArgumentException>(() => Model.Open(closed), "read and sought");
        }

        public static void CancelledCalls()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                var before = new CancellationToken(true);
                Expect.Throws<OperationCanceledException>(() => session.Complete(Prompt, Two, before));
                Expect.Throws<OperationCanceledException>(() => Files.Verify(Models.Language, null, before));
                var later = new CancellationTokenSource();
                int[] prompt = model.Tokenize(string.Concat(Enumerable.Repeat("word ", 3000)));
                later.CancelAfter(300);
                Expect.Throws<OperationCanceledException>(() => session.Eval(prompt, later.Token));
                session.Reset();
                var third = new CancellationTokenSource();
                Generation generation = session.Generate(Prompt, null, third.Token);
                generation.Next();
                third.Cancel();
                Expect.Throws<OperationCanceledException>(() => generation.Next());
                Expect.Equal(session.Complete(Prompt, Two), ", the");
            }
        }

        public static void ASessionOnTwoThreads()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                int busy = 0, done = 0;
                bool stop = false;
                var wrong = new List<Exception>();
                var thread = new Thread(() =>
                {
                    while (!Volatile.Read(ref stop))
                    {
                        try
                        {
                            session.Tokens.ToString();
                            session.Logits.ToString();
                        }
                        catch (CapsuleGraphException error) when (error.Status == Status.Busy)
                        {
                            Interlocked.Increment(ref busy);
                        }
                        catch (Exception error)
                        {
                            wrong.Add(error);
                        }
                    }
                });
                thread.Start();
                DateTime deadline = DateTime.UtcNow.AddSeconds(5);
                while (DateTime.UtcNow < deadline && (done < 3 || busy == 0))
                {
                    try
                    {
                        session.Complete(Prompt, new GenerateOptions { MaxTokens = 20 });
                        done++;
                    }
                    catch (CapsuleGraphException error) when (error.Status == Status.Busy)
                    {
                        Interlocked.Increment(ref busy);
                    }
                }
                Volatile.Write(ref stop, true);
                thread.Join();
                Expect.Equal(string.Join("\n", wrong), "");
                Expect.True(busy > 0, "one of them was refused");
                Expect.Equal(session.Complete(Prompt, Two), ", the");
            }
        }
    }
}
