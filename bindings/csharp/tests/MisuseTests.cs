// Whatever is done wrong is an exception that says so, never a crash.

using System;
using System.Collections;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
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

        /// A list that grows while it is read: it has many more items after it was first counted.
        private sealed class Growing<T> : IReadOnlyList<T>
        {
            private readonly T item;
            private bool counted;

            internal Growing(T item)
            {
                this.item = item;
            }

            public int Count
            {
                get
                {
                    int count = counted ? 1000000 : 1;
                    counted = true;
                    return count;
                }
            }

            public T this[int index]
            {
                get { return item; }
            }

            public IEnumerator<T> GetEnumerator()
            {
                yield return item;
            }

            IEnumerator IEnumerable.GetEnumerator()
            {
                return GetEnumerator();
            }
        }

        /// A stream that says other things of itself than are so.
        private sealed class LyingStream : MemoryStream
        {
            internal long Size = 100000;
            internal int More;

            internal LyingStream() : base(new byte[100000])
            {
            }

            public override long Length
            {
                get { return Size; }
            }

            public override int Read(byte[] buffer, int offset, int count)
            {
                return base.Read(buffer, offset, count) + More;
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

        public static void UseAfterDisposeWhileACallRuns()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                bool refused = false;
                session.Generate(Prompt, (token, text) =>
                {
                    session.Dispose();
                    Expect.True(session.IsDisposed, "it is disposed");
                    Expect.Throws<ObjectDisposedException>(() => session.Context.ToString());
                    Expect.Equal(session.ToString(), "Session (disposed)");
                    return !(refused = true);
                });
                Expect.True(refused, "the callback came");
            }
        }

        public static void AJobThatFailsAtOnceLeavesItsLog()
        {
            var log = new Log();
            var cancelled = new CancellationToken(true);
            Expect.Throws<OperationCanceledException>(() => Files.Verify(Models.Language, new VerifyOptions { Log = log }, cancelled));
            const BindingFlags Own = BindingFlags.Instance | BindingFlags.NonPublic;
            var handle = (SafeHandle)typeof(Resource).GetField("Handle", Own).GetValue(log);
            log.Dispose();
            // Which it is only when no use of it is left.
            Expect.True(handle.IsClosed, "the log is given back");
            Expect.Throws<ObjectDisposedException>(() => Files.Verify(Models.Language, new VerifyOptions { Log = log }));
        }

        public static void ListsThatGrowMeanwhile()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                var message = new ChatMessage("user", "Hi");
                Expect.Equal(model.ChatPrompt(new Growing<ChatMessage>(message)), model.ChatPrompt(new[] { message }));
                Expect.Sequence(model.ChatTokens(new Growing<ChatMessage>(message)), model.ChatTokens(new[] { message }));
                Expect.Equal(session.Complete(Prompt, new GenerateOptions { MaxTokens = 2, Stop = new Growing<string>("the") }), ", ");
                using (Fetch fetch = model.BeginFetch(new Growing<string>("embed"))) Expect.Equal(fetch.Count, 1);
                using (var group = new Group())
                    Expect.Equal(group.Advance(new Growing<Generation>(session.Generate(Prompt, Two)), null, 1).Single(), ",");
            }
            using (Model model = Model.Open(Models.Onnx("loop")))
            {
                var input = OnnxTests.Given("input", Tensor.Of(new float[64], 1, 64));
                using (Outputs found = model.Run(input, new Growing<string>("final"))) Expect.Equal(found.Count, 1);
            }
        }

        public static void AnOldChatThatIsStopped()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                Generation old = session.Chat("Say hello in French.");
                old.Next();
                session.Chat("What is two plus two?", Two).ReadToEnd();
                string before = string.Join("|", session.Messages);
                old.Stop();
                Expect.Equal(string.Join("|", session.Messages), before);
                Expect.Equal(old.FinishReason, Finish.Callback);
                Generation reset = session.Chat("Say hello in French.");
                reset.Next();
                session.Reset();
                reset.Stop();
                Expect.Equal(session.Messages.Count, 0);
                Generation now = session.Chat("Say hello in French.");
                now.Next();
                now.Stop();
                Expect.Sequence(session.Messages.Select(message => message.Role), new[] { "user", "assistant" });
                Expect.Sequence(session.Messages.Select(message => message.Content), new[] { "Say hello in French.", "Bon" });
            }
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
            using (var budget = new Budget(1L << 30))
            {
                for (int round = 0; round < 3; round++)
                {
                    long claimed = 0;
                    // On a thread of its own: no stack keeps what it forgot.
                    var thread = new Thread(() =>
                    {
                        Forget(budget);
                        claimed = budget.Claimed;
                    });
                    thread.Start();
                    thread.Join();
                    Expect.True(claimed > 0, "there is something to forget");
                    for (int i = 0; i < 100 && budget.Claimed > 0; i++)
                    {
                        GC.Collect();
                        GC.WaitForPendingFinalizers();
                        Thread.Sleep(10);
                    }
                    Expect.Equal(budget.Claimed, 0L, "bytes that are claimed still");
                }
            }
        }

        private static void Forget(Budget budget)
        {
            Model model = Model.Open(Models.Language, new ModelOptions { Budget = budget });
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
                Expect.Throws<ArgumentNullException>(() => session.Generate((string)null), "prompt");
                Expect.Throws<ArgumentNullException>(() => session.Generate((string)null, (token, text) => true), "prompt");
                Expect.Throws<ArgumentNullException>(() => session.Chat((string)null), "message");
                Expect.Throws<ArgumentException>(() => session.Complete("\ud83e"), "prompt");
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
            Exception missing = Expect.Throws<CapsuleGraphException>(() => Model.Open("absent.cgraph")).InnerException;
            Expect.Equal(missing.GetType(), typeof(FileNotFoundException));
            Exception folder = Expect.Throws<CapsuleGraphException>(() => Model.Open(Models.Folder)).InnerException;
            Expect.Equal(folder.GetType(), typeof(IOException));
            Expect.Equal(Expect.Throws<CapsuleGraphException>(() => new Budget(0)).InnerException, null);
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
            Expect.Throws<ArgumentException>(() => Model.Open(new LyingStream { Size = -1 }), "length as -1");
            Expect.Throws<IOException>(() => Model.Open(new LyingStream { More = 5 }), "asked for");
        }

        public static void AGroupThatIsToGoOnForLessThanNoTime()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            using (var group = new Group())
            {
                Generation[] generations = { session.Generate(Prompt, Two) };
                Expect.Throws<ArgumentOutOfRangeException>(() => group.Advance(generations, TimeSpan.FromDays(-1)), "time");
                Expect.Equal(group.Advance(generations, Timeout.InfiniteTimeSpan).Single(), ", the");
            }
        }

        public static void ObjectsSayWhatTheyAre()
        {
            Model model = Model.Open(Models.Language);
            using (Session session = model.CreateSession())
            using (Capsule capsule = model.Fetch("block.0.attn"))
            using (Fetch fetch = model.BeginFetch(new[] { "embed" }))
            using (var log = new Log())
            {
                string name = "Model \"" + model.Name + "\" (Exact)";
                Expect.Equal(model.ToString(), name);
                Expect.Equal(session.ToString(), "Session on " + name);
                Expect.Equal(capsule.ToString(), "Capsule \"block.0.attn\"");
                Expect.Equal(capsule["blk.0.attn_k.weight"].ToString(), "blk.0.attn_k.weight: q4_1[192, 576]");
                Expect.Equal(fetch.ToString(), "Fetch of embed");
                Expect.Equal(log.ToString(), "Log");
                Expect.Equal(session.Generate(Prompt, Two).ToString(), "Generation: 0 tokens, not over");
                Expect.Equal(new JobProgress(JobPhase.Split, 1, 2).ToString(), "Split: 1 of 2 bytes");
                model.Dispose();
                Expect.Equal(session.ToString(), "Session on Model (disposed)");
            }
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
