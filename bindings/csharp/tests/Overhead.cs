// What C# costs: calls a second, and the share of a token callback in the time of decoding.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;

namespace CapsuleGraph.Tests
{
    internal static class Overhead
    {
        private const int Tokens = 128, Rounds = 7;
        private const double Calls = 1e6, Share = 0.01;

        internal static int Run(string path)
        {
            using (Model model = Model.Open(path))
            using (Session session = model.CreateSession())
            {
                int[] ids = model.Tokenize("Once upon a time");
                double version = CallsASecond(() => Library.Version.Length);
                double count = CallsASecond(() => session.Count);
                Console.WriteLine("Library.Version: " + version.ToString("N0") + " calls a second");
                Console.WriteLine("session.Count, the token count: " + count.ToString("N0") + " calls a second");
                double token = Decoding(session, ids);
                double callback = Callback(), step = Step(session, ids);
                Console.WriteLine("a callback without computing: " + Microseconds(callback, token));
                Console.WriteLine("a step of the iterator without computing: " + Microseconds(step, token));
                bool good = Math.Min(version, count) >= Calls && callback / token < Share && step / token < Share;
                Console.WriteLine((good ? "within" : "outside of") + " the marks: 1,000,000 calls a second, 1 %");
                return good ? 0 : 1;
            }
        }

        private static string Microseconds(double seconds, double token)
        {
            return (seconds * 1e6).ToString("F2") + " us, " + (seconds / token * 100).ToString("F3") + " % of a token's time";
        }

        private static double CallsASecond(Func<int> call, int count = 200000)
        {
            double best = 0;
            for (int round = 0; round < 7; round++)
            {
                var clock = Stopwatch.StartNew();
                for (int i = 0; i < count; i++) call();
                best = Math.Max(best, count / clock.Elapsed.TotalSeconds);
            }
            return best;
        }

        /// Seconds of a token inside one call whose callback does nothing; prints what the ways cost.
        private static double Decoding(Session session, int[] ids)
        {
            var options = new GenerateOptions { MaxTokens = Tokens, IgnoreEnd = true };
            var ways = new Dictionary<string, Action>
            {
                { "callback", () => session.Generate(ids, (token, text) => true, options) },
                { "iterator", () => session.Generate(ids, options).ReadToEnd() },
            };
            Dictionary<string, double> best = ways.Keys.ToDictionary(name => name, name => double.MaxValue);
            // In turns, so that what else the machine does meets both.
            for (int round = 0; round < Rounds; round++)
            {
                foreach (KeyValuePair<string, Action> way in ways)
                {
                    session.Reset();
                    var clock = Stopwatch.StartNew();
                    way.Value();
                    best[way.Key] = Math.Min(best[way.Key], clock.Elapsed.TotalSeconds);
                }
            }
            foreach (KeyValuePair<string, double> way in best)
                Console.WriteLine(way.Key + ": " + (Tokens / way.Value).ToString("F1") + " tokens a second");
            return best["callback"] / Tokens;
        }

        /// What a callback costs: the way from native code to a delegate of the program, with a token and its text. The library's
        /// entry is called through its native address, so that both ways across are paid, of which decoding pays one.
        private static double Callback()
        {
            int seen = 0;
            TokenCallback onToken = (token, text) =>
            {
                seen += text.Length;
                return true;
            };
            using (var bridge = new Bridge(onToken)) return 1 / CallsASecond(bridge.Call);
        }

        /// What a step costs that has nothing to compute: of a generation at its end.
        private static double Step(Session session, int[] ids)
        {
            Generation generation = session.Generate(ids, new GenerateOptions { MaxTokens = 1 });
            generation.ReadToEnd();
            Func<string> step = Bridge.Step(generation);
            return 1 / CallsASecond(() => step().Length, 50000);
        }
    }
}
