// What the tests share: the real models, converted once into a folder that goes at the end; what is expected; other processes.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;

namespace CapsuleGraph.Tests
{
    internal static class Models
    {
        private static string folder;

        internal static string Variable(string name)
        {
            string value = Environment.GetEnvironmentVariable(name);
            if (string.IsNullOrEmpty(value)) throw new InvalidOperationException(name + " is not set; run the tests with: cargo xtask test");
            return value;
        }

        internal static string Root
        {
            get { return Variable("CAPSULEGRAPH_TEST_ROOT"); }
        }

        internal static string Source
        {
            get { return Variable("CAPSULEGRAPH_TEST_MODEL"); }
        }

        internal static string Folder
        {
            get
            {
                if (folder != null) return folder;
                folder = Path.Combine(Path.GetTempPath(), "capsulegraph-" + Guid.NewGuid().ToString("N"));
                Directory.CreateDirectory(folder);
                return folder;
            }
        }

        internal static string New(string name)
        {
            string path = Path.Combine(Folder, Guid.NewGuid().ToString("N"));
            Directory.CreateDirectory(path);
            return Path.Combine(path, name);
        }

        internal static void Clear()
        {
            if (folder != null) Directory.Delete(folder, true);
            folder = null;
        }

        /// The real language model, as a full file.
        internal static string Language
        {
            get { return Once("language.cgraph", path => Files.Convert(Source, path, new ConvertOptions { NoMini = true })); }
        }

        /// A mini of it that links some capsules.
        internal static string Mini
        {
            get
            {
                var options = new SplitOptions { Light = "none", MiniBytes = 40000000 };
                return Once("language.mini.cgraph", path => Files.Split(Language, path, options));
            }
        }

        /// An ONNX model of the set-up, as a full file.
        internal static string Onnx(string name, int capsules = 0)
        {
            string source = Path.Combine(Variable("CAPSULEGRAPH_TEST_ONNX"), "models", name + ".onnx");
            var options = new ConvertOptions { NoMini = true, CapsuleCount = capsules };
            return Once(name + "." + capsules + ".cgraph", path => Files.Convert(source, path, options));
        }

        private static string Once(string name, Action<string> make)
        {
            string path = Path.Combine(Folder, name);
            if (!File.Exists(path)) make(path);
            return path;
        }
    }

    internal sealed class Failed : Exception
    {
        internal Failed(string message) : base(message)
        {
        }
    }

    internal static class Expect
    {
        internal static void True(bool condition, string what)
        {
            if (!condition) throw new Failed(what + " does not hold");
        }

        internal static void Equal<T>(T found, T wanted, string what = "it")
        {
            if (EqualityComparer<T>.Default.Equals(found, wanted)) return;
            throw new Failed(what + " is <" + found + "> and should be <" + wanted + ">");
        }

        internal static void Sequence<T>(IEnumerable<T> found, IEnumerable<T> wanted, string what = "it")
        {
            if (!found.SequenceEqual(wanted)) throw new Failed(what + " is " + Show(found) + " and should be " + Show(wanted));
        }

        internal static void Contains(string text, string part)
        {
            if (!text.Contains(part)) throw new Failed("<" + text + "> does not have <" + part + ">");
        }

        /// The exception that it throws, which has that type and text.
        internal static T Throws<T>(Action work, string text = "") where T : Exception
        {
            try
            {
                work();
            }
            catch (T error)
            {
                Contains(error.Message, text);
                return error;
            }
            throw new Failed("there is no " + typeof(T).Name);
        }

        internal static void Status(Status status, Action work, string text = "")
        {
            Equal(Throws<CapsuleGraphException>(work, text).Status, status, "the status");
        }

        private static string Show<T>(IEnumerable<T> items)
        {
            return "[" + string.Join(", ", items.Take(50)) + "]";
        }
    }

    /// What another process printed.
    internal struct Printed
    {
        internal int Code;
        internal string Output;
        internal string Errors;
    }

    internal static class Processes
    {
        /// The runtime that runs this.
        internal static string Runtime
        {
            get { return Process.GetCurrentProcess().MainModule.FileName; }
        }

        internal static bool IsMono
        {
            get { return Type.GetType("Mono.Runtime") != null; }
        }

        internal static Printed Run(string program, IEnumerable<string> args, string input = "", string folder = null,
            IDictionary<string, string> variables = null)
        {
            var start = new ProcessStartInfo(program, string.Join(" ", args.Select(arg => "\"" + arg.Replace("\"", "\\\"") + "\"")))
            {
                UseShellExecute = false,
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                WorkingDirectory = folder ?? Models.Folder,
            };
            foreach (KeyValuePair<string, string> variable in variables ?? new Dictionary<string, string>())
            {
                if (variable.Value == null) start.EnvironmentVariables.Remove(variable.Key);
                else start.EnvironmentVariables[variable.Key] = variable.Value;
            }
            using (Process process = Process.Start(start))
            {
                var errors = process.StandardError.ReadToEndAsync();
                process.StandardInput.Write(input);
                process.StandardInput.Close();
                string output = process.StandardOutput.ReadToEnd();
                process.WaitForExit();
                return new Printed { Code = process.ExitCode, Output = output, Errors = errors.Result };
            }
        }

        /// As Run; must succeed.
        internal static string Succeed(string program, IEnumerable<string> args, string input = "", string folder = null,
            IDictionary<string, string> variables = null)
        {
            Printed printed = Run(program, args, input, folder, variables);
            if (printed.Code == 0) return printed.Output;
            string command = program + " " + string.Join(" ", args);
            throw new Failed(command + ": " + printed.Code + "\n" + printed.Output + printed.Errors);
        }

        /// Compiles C# by the compiler of this runtime, against an assembly of CapsuleGraph, and gives the program.
        internal static string Compile(string source, string program, string assembly)
        {
            string[] compiler = Models.Variable("CAPSULEGRAPH_TEST_COMPILER").Split('\n');
            IEnumerable<string> args = compiler.Skip(1).Concat(new[] { "-r:" + assembly, "-out:" + program, source });
            Succeed(compiler[0], args);
            File.Copy(assembly, Path.Combine(Path.GetDirectoryName(program), Path.GetFileName(assembly)), true);
            string settings = Path.ChangeExtension(typeof(Processes).Assembly.Location, ".runtimeconfig.json");
            if (File.Exists(settings)) File.Copy(settings, Path.ChangeExtension(program, ".runtimeconfig.json"), true);
            return program;
        }
    }
}
