// The examples and the README's program, compiled and run as their readers would; the packages as their users have them.

using System;
using System.Collections.Generic;
using System.IO;
using System.IO.Compression;
using System.Linq;
using System.Text.RegularExpressions;

namespace CapsuleGraph.Tests
{
    internal static class ExampleTests
    {
        private static string Readme
        {
            get
            {
                string text = File.ReadAllText(Path.Combine(Models.Root, "README.md"));
                MatchCollection programs = Regex.Matches(text, "```csharp\n(.*?)```", RegexOptions.Singleline);
                Expect.Equal(programs.Count, 1, "programs in C# in README.md");
                return programs[0].Groups[1].Value;
            }
        }

        public static void TheChatAnswers()
        {
            string source = Path.Combine(Models.Root, "examples/chat.cs");
            string program = Processes.Compile(source, Models.New("chat.exe"), typeof(Model).Assembly.Location);
            string said = Processes.Succeed(Processes.Runtime, new[] { program, Models.Language }, "Say hello in French.\n");
            Expect.Contains(said, "Bonjour in French.");
        }

        public static void TheReadmeWorksFromThePackage()
        {
            string source = Models.New("answer.cs"), folder = Path.GetDirectoryName(source);
            string package = Directory.GetFiles(Models.Variable("CAPSULEGRAPH_TEST_PACKAGES"), "*.nupkg").Single();
            string unpacked = Path.Combine(folder, "package");
            ZipFile.ExtractToDirectory(package, unpacked);
            File.WriteAllText(source, Readme);
            string target = Processes.IsMono ? "netstandard2.0" : "net8.0";
            string assembly = Path.Combine(unpacked, "lib", target, "CapsuleGraph.Net.dll");
            string program = Processes.Compile(source, Path.Combine(folder, "answer.exe"), assembly);
            // As the package's targets copy it, or as a .NET application is published.
            string native = Path.Combine(unpacked, "runtimes/linux-x64/native/libcapsulegraph.so");
            string place = Processes.IsMono ? folder : Path.Combine(folder, "runtimes/linux-x64/native");
            Directory.CreateDirectory(place);
            File.Copy(native, Path.Combine(place, Path.GetFileName(native)));
            File.Copy(Models.Source, Path.Combine(folder, "model.gguf"));
            var variables = new Dictionary<string, string> { { Library.Variable, null } };
            string said = Processes.Succeed(Processes.Runtime, new[] { program }, "", folder, variables);
            Expect.Contains(said, "Tokyo");
        }

        public static void OnnxRuntimeOfTheProgramIsFound()
        {
            string source = Models.New("run.cs"), folder = Path.GetDirectoryName(source);
            File.WriteAllText(source, @"
                using System.Collections.Generic;
                using CapsuleGraph;
                internal static class Run
                {
                    private static void Main(string[] args)
                    {
                        Value input = Tensor.Of(new float[64], 1, 64);
                        using (Model model = Model.Open(args[0]))
                        using (model.Run(new Dictionary<string, Value> { { ""input"", input } }))
                            System.Console.WriteLine(model.Report());
                    }
                }");
            string program = Processes.Compile(source, Path.Combine(folder, "run.exe"), typeof(Model).Assembly.Location);
            string library = Directory.GetFiles(Models.Variable("CAPSULEGRAPH_ONNXRUNTIME"), "libonnxruntime.so.*").First();
            // As the package Microsoft.ML.OnnxRuntime has it.
            string place = Path.Combine(folder, "runtimes/linux-x64/native/libonnxruntime.so");
            Directory.CreateDirectory(Path.GetDirectoryName(place));
            File.Copy(library, place);
            var variables = new Dictionary<string, string> { { "CAPSULEGRAPH_ONNXRUNTIME", null } };
            string[] run = { program, Models.Onnx("loop") };
            Expect.Contains(Processes.Succeed(Processes.Runtime, run, "", folder, variables), "\"runtime_path\": \"" + place + "\"");
        }

        public static void TheDocumentsSamplesCompile()
        {
            string document = File.ReadAllText(Path.Combine(Models.Root, "docs/csharp.md"));
            string[] samples = Regex.Matches(document, "```text\n(.*?)```", RegexOptions.Singleline).Cast<Match>()
                .Select(sample => sample.Groups[1].Value).ToArray();
            Expect.Equal(samples.Length, 3, "samples in docs/csharp.md");
            // Those lines say that they are not for Mono.
            if (Processes.IsMono) samples = samples.Select(sample => Regex.Replace(sample, ".*on runtimes with spans.*", "")).ToArray();
            string source = Models.New("samples.cs");
            const string Head = "#pragma warning disable 219\nusing System;\nusing System.Collections.Generic;\nusing CapsuleGraph;\n";
            File.WriteAllText(source, Head + "internal static class Samples {\n"
                + "private static void Main() { }\nprivate static void Language() {\n" + samples[0] + "}\n"
                + "private static void Onnx(float[] pixels) {\n" + samples[1] + "}\nprivate static void Capsules(Model model) {\n" + samples[2]
                + "}\n}\n");
            Processes.Compile(source, Path.ChangeExtension(source, ".exe"), typeof(Model).Assembly.Location);
        }

        public static void ThePackageIsWhole()
        {
            string package = Directory.GetFiles(Models.Variable("CAPSULEGRAPH_TEST_PACKAGES"), "*.nupkg").Single();
            using (ZipArchive archive = ZipFile.OpenRead(package))
            {
                HashSet<string> names = new HashSet<string>(archive.Entries.Select(entry => entry.FullName));
                foreach (string name in new[]
                {
                    "CapsuleGraph.nuspec", "[Content_Types].xml", "_rels/.rels", "README.md", "LICENSE-MIT", "LICENSE-APACHE",
                    "lib/netstandard2.0/CapsuleGraph.Net.dll", "lib/netstandard2.0/CapsuleGraph.Net.xml", "lib/net8.0/CapsuleGraph.Net.dll",
                    "lib/net8.0/CapsuleGraph.Net.xml", "build/CapsuleGraph.targets", "buildTransitive/CapsuleGraph.targets",
                    "runtimes/linux-x64/native/libcapsulegraph.so",
                }) Expect.True(names.Contains(name), name + " is in the package");
                Expect.Equal(names.Count, archive.Entries.Count, "names");
                var reader = new StreamReader(archive.GetEntry("CapsuleGraph.nuspec").Open());
                string nuspec = reader.ReadToEnd();
                Expect.Contains(nuspec, "<version>" + Library.Version + "</version>");
                Expect.True(!nuspec.Contains("@"), "the nuspec is filled in");
            }
        }

        public static void TheUnityPackageIsWhole()
        {
            string folder = Path.Combine(Models.Variable("CAPSULEGRAPH_TEST_PACKAGES"), "com.capsulegraph");
            Expect.Contains(File.ReadAllText(Path.Combine(folder, "package.json")), "\"version\": \"" + Library.Version + "\"");
            string[] files = Directory.GetFileSystemEntries(folder, "*", SearchOption.AllDirectories);
            var ids = new HashSet<string>();
            foreach (string file in files.Where(file => !file.EndsWith(".meta")))
            {
                Expect.True(File.Exists(file + ".meta"), file + ".meta is there");
                Match id = Regex.Match(File.ReadAllText(file + ".meta"), "guid: ([0-9a-f]{32})\n");
                Expect.True(id.Success && ids.Add(id.Groups[1].Value), "the guid of " + file + " is its own");
            }
            Expect.Equal(files.Length, 2 * ids.Count, "files and their metas");
            string[] sources = Directory.GetFiles(Path.Combine(folder, "Runtime"), "*.cs").Select(Path.GetFileName).ToArray();
            string[] wanted = Directory.GetFiles(Path.Combine(Models.Root, "bindings/csharp/src"), "*.cs").Select(Path.GetFileName).ToArray();
            Expect.Sequence(sources.OrderBy(name => name), wanted.OrderBy(name => name));
            foreach (string name in new[] { "CapsuleGraph.asmdef", "link.xml" })
                Expect.True(File.Exists(Path.Combine(folder, "Runtime", name)), name + " is there");
            Expect.Contains(File.ReadAllText(Path.Combine(folder, "Plugins/linux-x64/libcapsulegraph.so.meta")), "CPU: x86_64");
        }
    }
}
