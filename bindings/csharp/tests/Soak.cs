// Eight threads with a session each on one shared model: the same tokens as alone, again and again.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Threading;

namespace CapsuleGraph.Tests
{
    internal static class Soak
    {
        private const int Threads = 8;
        private static readonly string[] Prompts =
        {
            "Once upon a time", "The capital of France is", "def fibonacci(n):", "Water boils at", "In the beginning",
            "The three largest cities of Italy are", "A capsule is", "My favourite colour",
        };

        internal static int Run(double seconds)
        {
            var clock = Stopwatch.StartNew();
            var wrong = new List<string>();
            var rounds = new int[Threads];
            using (Model model = Model.Open(Models.Language))
            {
                int[][] alone = Prompts.Select(prompt => Generate(model, prompt, 0)).ToArray();
                clock.Restart();
                Thread[] threads = Enumerable.Range(0, Threads).Select(index => new Thread(() =>
                {
                    try
                    {
                        for (int turn = index; clock.Elapsed.TotalSeconds < seconds && wrong.Count == 0; turn++)
                        {
                            int which = turn % Prompts.Length;
                            int[] found = Generate(model, Prompts[which], turn);
                            if (!found.SequenceEqual(alone[which])) throw new Failed(Prompts[which] + " gave [" + string.Join(", ", found) + "]");
                            rounds[index]++;
                        }
                    }
                    catch (Exception error)
                    {
                        lock (wrong) wrong.Add("thread " + index + ": " + error);
                    }
                })).ToArray();
                foreach (Thread thread in threads) thread.Start();
                foreach (Thread thread in threads) thread.Join();
            }
            Console.WriteLine(Threads + " threads, " + rounds.Sum() + " generations in " + clock.Elapsed.TotalSeconds.ToString("F0") + " s, "
                + rounds.Min() + " to " + rounds.Max() + " a thread, peak " + Peak());
            foreach (string line in wrong) Console.WriteLine(line);
            bool good = wrong.Count == 0 && rounds.Min() > 0;
            return Program.Result(good ? Threads : 0, good ? 0 : Math.Max(1, wrong.Count));
        }

        /// By the iterator and by the callback in turns.
        private static int[] Generate(Model model, string prompt, int turn)
        {
            var options = new GenerateOptions { MaxTokens = 16, IgnoreEnd = true };
            using (Session session = model.CreateSession(new SessionOptions { Context = 256 }))
            {
                if (turn % 2 == 0)
                {
                    Generation generation = session.Generate(prompt, options);
                    generation.ReadToEnd();
                    return generation.Tokens.ToArray();
                }
                var tokens = new List<int>();
                session.Generate(prompt, (token, text) =>
                {
                    tokens.Add(token);
                    if (tokens.Count % 8 == 0) GC.Collect();
                    return true;
                }, options);
                return tokens.ToArray();
            }
        }

        private static string Peak()
        {
            const string Status = "/proc/self/status";
            string line = File.Exists(Status) ? File.ReadLines(Status).FirstOrDefault(one => one.StartsWith("VmHWM:")) : null;
            return line == null ? "unknown" : line.Substring("VmHWM:".Length).Trim();
        }
    }
}
