// What C# costs: calls a second, and the share of decoding that goes to a token's way to the program.
//
// Decoding's own time changes by more than a callback costs, so what is told is the rest: the time of the whole less that of the
// passes, which the session's report has, beside one call that no token leaves. The model's weights have gone through the
// processor's caches between two tokens, so all of it is paid, as a repeated call without computing does not show.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Linq;
using System.Text.RegularExpressions;

namespace CapsuleGraph.Tests
{
    internal static class Overhead
    {
        private const int Tokens = 64, Rounds = 15;
        private const double Calls = 1e6, Share = 0.01, Whole = 0.05;

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
                bool good = Decoding(session, ids) & Math.Min(version, count) >= Calls;
                Console.WriteLine((good ? "within" : "outside of") + " the marks: 1,000,000 calls a second, 1 %, 5 % of the whole");
                return good ? 0 : 1;
            }
        }

        private static double CallsASecond(Func<int> call)
        {
            const int Count = 200000;
            double best = 0;
            for (int round = 0; round < 7; round++)
            {
                var clock = Stopwatch.StartNew();
                for (int i = 0; i < Count; i++) call();
                best = Math.Max(best, Count / clock.Elapsed.TotalSeconds);
            }
            return best;
        }

        /// Prints what the ways cost. Whether each is below its share of a token's time, and none makes the passes much slower.
        private static bool Decoding(Session session, int[] ids)
        {
            var options = new GenerateOptions { MaxTokens = Tokens, IgnoreEnd = true };
            var ways = new[]
            {
                new Way("one native call", Silent.Generation(session, ids, Tokens)),
                new Way("callback", () => session.Generate(ids, (token, text) => true, options)),
                new Way("iterator", () => session.Generate(ids, options).ReadToEnd()),
            };
            // In turns, so that what else the machine does meets all of them. The first has everything compiled.
            for (int round = -1; round < Rounds; round++)
                foreach (Way way in ways) way.Measure(session, round >= 0);
            bool good = true;
            double whole = Median(ways[0].Whole);
            foreach (Way way in ways)
            {
                double cost = Median(way.Rest) - Median(ways[0].Rest), share = cost / whole;
                Console.WriteLine(way.Name + ": " + (1 / Median(way.Whole)).ToString("F1") + " tokens a second; "
                    + (cost * 1e6).ToString("F1") + " us a token, " + (share * 100).ToString("F2") + " % of its time");
                good &= share < Share && Median(way.Whole) / whole - 1 < Whole;
            }
            return good;
        }

        private static double Median(List<double> found)
        {
            return found.OrderBy(one => one).ElementAt(found.Count / 2);
        }

        /// A way of generating; seconds a token of each of its rounds, and those beside the passes.
        private sealed class Way
        {
            internal readonly string Name;
            internal readonly List<double> Whole = new List<double>(), Rest = new List<double>();
            private readonly Action generate;

            internal Way(string name, Action generate)
            {
                Name = name;
                this.generate = generate;
            }

            internal void Measure(Session session, bool counts)
            {
                session.Reset();
                var clock = Stopwatch.StartNew();
                generate();
                double spent = clock.Elapsed.TotalSeconds;
                string report = session.Report();
                Expect.Equal(Number(report, "generated_tokens"), Tokens, "tokens");
                double passes = Number(report, "first_token_ms") / 1e3 + (Tokens - 1) / Number(report, "decode_tokens_per_s");
                if (!counts) return;
                Whole.Add(spent / Tokens);
                Rest.Add((spent - passes) / (Tokens - 1));
            }

            private static double Number(string report, string field)
            {
                Match found = Regex.Match(report, "\"" + field + "\": ?([0-9.eE+-]+)");
                return double.Parse(found.Groups[1].Value, CultureInfo.InvariantCulture);
            }
        }
    }
}
