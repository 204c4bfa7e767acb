// Runs tests/data/cases.txt in C#: the table of cases that every language runs.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;

namespace CapsuleGraph.Tests
{
    /// Keys and values of a case. Whatever was not asked for at the end is a key that this runner does not know.
    internal sealed class Case
    {
        internal readonly string Name;
        private readonly Dictionary<string, List<string>> lines = new Dictionary<string, List<string>>();

        internal Case(string name)
        {
            Name = name;
        }

        internal void Add(string key, string value)
        {
            if (!lines.ContainsKey(key)) lines[key] = new List<string>();
            lines[key].Add(value);
        }

        internal string Take(string key, string missing = null)
        {
            List<string> values = All(key);
            if (values.Count > 1) throw new Failed(key + " is there twice");
            if (values.Count == 0 && missing == null) throw new Failed("the case has no " + key);
            return values.Count == 0 ? missing : values[0];
        }

        internal List<string> All(string key)
        {
            List<string> values;
            if (!lines.TryGetValue(key, out values)) return new List<string>();
            lines.Remove(key);
            return values;
        }

        internal bool Has(string key)
        {
            return lines.ContainsKey(key);
        }

        internal int Number(string key)
        {
            return int.Parse(Take(key, "0"), CultureInfo.InvariantCulture);
        }

        /// The tokens; none where they are missing.
        internal int[] Ids()
        {
            return Take("tokens", "").Split(new[] { ' ' }, StringSplitOptions.RemoveEmptyEntries).Select(int.Parse).ToArray();
        }

        internal string Unknown
        {
            get { return string.Join(", ", lines.Keys); }
        }
    }

    internal static class Cases
    {
        private static readonly Dictionary<string, Func<Case, Action>> Kinds = new Dictionary<string, Func<Case, Action>>
        {
            { "convert", Convert },
            { "split", Split },
            { "tokenize", Tokenize },
            { "generate", Generate },
            { "fetch", Fetch },
            { "run", RunModel },
            { "bytes", WriteBytes },
        };

        /// table: null for the one that every language runs.
        internal static int Run(string table)
        {
            int passed = 0, failed = 0;
            List<Case> cases = Read(table ?? Path.Combine(Models.Root, "tests/data/cases.txt"));
            string before = Directory.GetCurrentDirectory();
            // A file name is taken relative to the work folder, which is the process's.
            Directory.SetCurrentDirectory(Models.Folder);
            foreach (Case one in cases)
            {
                try
                {
                    Attempt(one);
                    Console.WriteLine("case " + one.Name + " ... ok");
                    passed++;
                }
                catch (Exception error)
                {
                    Console.WriteLine("case " + one.Name + " ... FAILED: " + (error is Failed ? error.Message : error.ToString()));
                    failed++;
                }
            }
            Directory.SetCurrentDirectory(before);
            return Program.Result(passed, failed);
        }

        private static List<Case> Read(string path)
        {
            var cases = new List<Case>();
            string onnx = Path.Combine(Models.Variable("CAPSULEGRAPH_TEST_ONNX"), "models");
            Case current = null;
            foreach (string line in File.ReadAllText(path).Split('\n'))
            {
                if (line.StartsWith("#")) continue;
                if (line.Length == 0)
                {
                    current = null;
                    continue;
                }
                int space = line.IndexOf(' ');
                string key = space < 0 ? line : line.Substring(0, space), value = space < 0 ? "" : line.Substring(space + 1);
                if (key == "case")
                {
                    current = new Case(value);
                    cases.Add(current);
                    continue;
                }
                if (current == null) throw new Failed(path + ": \"" + line + "\" is in no case");
                value = string.Join("\\", value.Split(new[] { "\\\\" }, StringSplitOptions.None).Select(part => part.Replace("\\n", "\n")));
                current.Add(key, value.Replace("{model}", Models.Source).Replace("{onnx}", onnx));
            }
            return cases;
        }

        private static void Attempt(Case one)
        {
            string kind = one.Take("do"), expect = one.Take("expect", "ok");
            if (!Kinds.ContainsKey(kind)) throw new Failed("this runner does not know how to do \"" + kind + "\"");
            List<string> messages = one.All("message");
            Action work = Kinds[kind](one);
            if (one.Unknown.Length > 0) throw new Failed("this runner does not know " + one.Unknown);
            string status = "ok", message = "";
            try
            {
                work();
            }
            catch (CapsuleGraphException error)
            {
                status = StatusName(error.Status);
                message = error.Message;
            }
            catch (OperationCanceledException error)
            {
                status = StatusName(Status.Cancelled);
                message = error.Message;
            }
            if (status != expect) throw new Failed("status is " + status + " (" + message + ") and should be " + expect);
            foreach (string text in messages) Expect.Contains(message, text);
        }

        /// The status as the C API names it: InvalidArgument is invalid_argument.
        internal static string StatusName(Status status)
        {
            if (status == Status.IO) return "io";
            string name = status.ToString();
            return string.Concat(name.Select((letter, i) => (i > 0 && char.IsUpper(letter) ? "_" : "") + char.ToLowerInvariant(letter)));
        }

        private static Action Convert(Case one)
        {
            string source = one.Take("source"), target = one.Take("target"), mini = one.Take("mini", "");
            var options = new ConvertOptions { CapsuleCount = one.Number("capsules"), NoMini = mini == "", MiniPath = mini == "" ? null : mini };
            return () => Files.Convert(source, target, options);
        }

        private static Action Split(Case one)
        {
            string source = one.Take("source"), target = one.Take("target"), light = one.Take("light", ""), text = one.Take("calibrate", "");
            var options = new SplitOptions { Light = Optional(light), MiniBytes = one.Number("mini_bytes"), Calibrate = Optional(text) };
            return () => Files.Split(source, target, options);
        }

        private static Action Tokenize(Case one)
        {
            string file = one.Take("file"), text = one.Take("text", "");
            int[] wanted = one.Ids();
            return () =>
            {
                using (Model model = Model.Open(file))
                {
                    int[] found = model.Tokenize(text);
                    Expect.Sequence(found, wanted, "tokens");
                }
            };
        }

        private static Action Generate(Case one)
        {
            string file = one.Take("file"), mode = one.Take("mode", "auto"), prompt = one.Take("prompt", ""), chat = one.Take("chat", "");
            var options = new GenerateOptions { MaxTokens = one.Number("max_tokens") };
            var open = new ModelOptions { Mode = Parse<Mode>(mode), MemoryBytes = one.Number("memory") };
            int cancelAfter = one.Number("cancel_after"), stopAfter = one.Number("stop_after");
            int[] wanted = one.Ids();
            string text = one.Has("text") ? one.Take("text") : null;
            return () =>
            {
                var tokens = new List<int>();
                var pieces = new List<string>();
                var cancel = new CancellationTokenSource();
                TokenCallback onToken = (token, piece) =>
                {
                    tokens.Add(token);
                    pieces.Add(piece);
                    if (tokens.Count == cancelAfter) cancel.Cancel();
                    return tokens.Count != stopAfter;
                };
                try
                {
                    using (Model model = Model.Open(file, open))
                    using (Session session = model.CreateSession())
                    {
                        int[] ids = chat == "" ? model.Tokenize(prompt, true, true) : model.ChatTokens(new[] { new ChatMessage("user", chat) });
                        session.Generate(ids, onToken, options, cancel.Token);
                    }
                }
                finally
                {
                    Expect.Sequence(tokens, wanted, "tokens");
                    if (text != null) Expect.Equal(string.Concat(pieces), text, "text");
                }
            };
        }

        private static Action Fetch(Case one)
        {
            string file = one.Take("file"), mode = one.Take("mode", "auto"), capsule = one.Take("capsule"), name = one.Take("tensor");
            string layout = one.Take("layout", "source"), type = one.Take("type", ""), shape = one.Take("shape", "");
            long sum = long.Parse(one.Take("sum", "0"));
            return () =>
            {
                using (Model model = Model.Open(file, new ModelOptions { Mode = Parse<Mode>(mode) }))
                using (Capsule taken = model.Fetch(capsule, Parse<Layout>(layout)))
                {
                    CapsuleTensor tensor = taken[name];
                    Expect.Equal(tensor.Encoding, type, "type");
                    Expect.Equal(string.Join(",", tensor.Shape), shape, "shape");
                    Expect.Equal(tensor.ToBytes().Sum(item => (long)item), sum, "sum");
                }
            };
        }

        private static Action RunModel(Case one)
        {
            string file = one.Take("file");
            double tolerance = double.Parse(one.Take("tolerance", "0"), CultureInfo.InvariantCulture);
            var open = new ModelOptions { MemoryBytes = one.Number("memory") };
            Dictionary<string, Value> inputs = one.All("input").Select(Parse).ToDictionary(pair => pair.Key, pair => (Value)pair.Value);
            List<KeyValuePair<string, Tensor>> wanted = one.All("output").Select(Parse).ToList();
            return () =>
            {
                using (Model model = Model.Open(file, open))
                using (Outputs found = model.Run(inputs, wanted.Select(pair => pair.Key).ToArray()))
                {
                    foreach (KeyValuePair<string, Tensor> pair in wanted) Compare(pair.Key, found.Tensor(pair.Key), pair.Value, tolerance);
                }
            };
        }

        private static void Compare(string name, Tensor found, Tensor wanted, double tolerance)
        {
            Expect.Equal(found.ToString(), wanted.ToString(), name + ": type and shape");
            if (wanted.Element == ElementType.String)
            {
                Expect.Sequence(found.ToStrings(), wanted.ToStrings(), name);
                return;
            }
            double difference = Doubles(found).Zip(Doubles(wanted), (a, b) => Math.Abs(a - b)).DefaultIfEmpty(0).Max();
            if (!(difference <= tolerance)) throw new Failed(name + " differs by " + difference);
        }

        private static IEnumerable<double> Doubles(Tensor tensor)
        {
            switch (tensor.Element)
            {
                case ElementType.Float32: return tensor.ToArray<float>().Select(value => (double)value);
                case ElementType.Int32: return tensor.ToArray<int>().Select(value => (double)value);
                case ElementType.Int64: return tensor.ToArray<long>().Select(value => (double)value);
                default: throw new Failed("this runner does not compare " + tensor.Element);
            }
        }

        /// NAME TYPE SHAPE VALUES.
        private static KeyValuePair<string, Tensor> Parse(string line)
        {
            string[] parts = line.Split(new[] { ' ' }, 4);
            string[] items = parts[3].Split(',');
            bool scalar = parts[2] == "-";
            long[] shape = scalar ? new long[0] : parts[2].Split(',').Select(long.Parse).ToArray();
            return new KeyValuePair<string, Tensor>(parts[0], Tensor(parts[1], items, shape, scalar));
        }

        private static Tensor Tensor(string type, string[] items, long[] shape, bool scalar)
        {
            CultureInfo plain = CultureInfo.InvariantCulture;
            switch (type)
            {
                case "float32": return Made(items.Select(item => float.Parse(item, plain)).ToArray(), shape, scalar);
                case "int32": return Made(items.Select(item => int.Parse(item, plain)).ToArray(), shape, scalar);
                case "int64": return Made(items.Select(item => long.Parse(item, plain)).ToArray(), shape, scalar);
                case "string": return CapsuleGraph.Tensor.Of(items, shape);
                default: throw new Failed("this runner does not know the type " + type);
            }
        }

        private static Tensor Made<T>(T[] items, long[] shape, bool scalar) where T : struct
        {
            return scalar ? CapsuleGraph.Tensor.Scalar(items.Single()) : CapsuleGraph.Tensor.Of(items, shape);
        }

        private static Action WriteBytes(Case one)
        {
            string target = one.Take("target"), hex = one.Take("hex");
            byte[] bytes = Enumerable.Range(0, hex.Length / 2).Select(i => System.Convert.ToByte(hex.Substring(2 * i, 2), 16)).ToArray();
            return () => File.WriteAllBytes(target, bytes);
        }

        private static T Parse<T>(string name)
        {
            return (T)Enum.Parse(typeof(T), name, true);
        }

        private static string Optional(string text)
        {
            return text == "" ? null : text;
        }
    }
}
