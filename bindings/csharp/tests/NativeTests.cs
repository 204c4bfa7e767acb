// Native.g.cs says what include/capsulegraph.h says, its structs are what a C compiler makes of them; and what loading says where
// the library is not what it should be.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;

namespace CapsuleGraph.Tests
{
    internal static class NativeTests
    {
        private const BindingFlags Any = BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public;
        private static readonly Assembly Binding = typeof(Model).Assembly;
        private static readonly Type Native = Binding.GetType("CapsuleGraph.Native", true);

        private static string Header
        {
            get
            {
                string text = File.ReadAllText(Path.Combine(Models.Root, "include/capsulegraph.h"));
                return Regex.Replace(Regex.Replace(text, @"/\*.*?\*/", "", RegexOptions.Singleline), "//.*", "");
            }
        }

        public static void ConstantsAreTheHeaders()
        {
            MatchCollection constants = Regex.Matches(Header, @"#define (CAPG_\w+) (\d+)");
            Expect.True(constants.Count > 80, "there are many constants");
            foreach (Match constant in constants)
            {
                FieldInfo field = Native.GetField(constant.Groups[1].Value, Any);
                Expect.True(field != null, constant.Groups[1].Value + " is there");
                Expect.Equal(Convert.ToUInt64(field.GetRawConstantValue()), ulong.Parse(constant.Groups[2].Value), field.Name);
            }
        }

        public static void FunctionsAreThoseThatTheLibraryExports()
        {
            string[] exported = File.ReadAllLines(Path.Combine(Models.Root, "tests/data/exported-symbols.txt"));
            IEnumerable<string> wanted = exported.Where(name => name.StartsWith("capg_"));
            IEnumerable<string> found = Native.GetMethods(Any).Select(method => method.Name).Where(name => name.StartsWith("capg_"));
            Expect.Sequence(found.OrderBy(name => name, StringComparer.Ordinal), wanted.OrderBy(name => name, StringComparer.Ordinal));
        }

        public static void EnumsAreTheHeaders()
        {
            var prefixes = new Dictionary<Type, string>
            {
                { typeof(Status), "ERROR_" }, { typeof(LogLevel), "LOG_" }, { typeof(JobPhase), "PHASE_" }, { typeof(Planes), "PLANES_" },
                { typeof(Priority), "PRIORITY_" }, { typeof(Mode), "MODE_" }, { typeof(Prepack), "PREPACK_" },
                { typeof(Optimization), "OPTIMIZATION_" }, { typeof(KVType), "KV_" }, { typeof(Finish), "FINISH_" },
                { typeof(ElementType), "ELEMENT_" }, { typeof(ValueKind), "VALUE_" }, { typeof(Layout), "LAYOUT_" },
            };
            foreach (KeyValuePair<Type, string> pair in prefixes)
            {
                var values = new HashSet<ulong>(Enum.GetValues(pair.Key).Cast<object>().Select(value => Convert.ToUInt64(value)));
                foreach (Match constant in Regex.Matches(Header, "#define CAPG_" + pair.Value + @"\w+ (\d+)"))
                    Expect.True(values.Contains(ulong.Parse(constant.Groups[1].Value)), pair.Key.Name + " has the value of " + constant.Value);
            }
            foreach (Status status in Enum.GetValues(typeof(Status)))
            {
                object name = Native.GetMethod("capg_status_name", Any).Invoke(null, new object[] { (uint)status });
                unsafe
                {
                    Expect.Equal(Marshal.PtrToStringAnsi((IntPtr)Pointer.Unbox(name)), Cases.StatusName(status));
                }
            }
        }

        public static void SizesAndOffsetsAreTheCompilers()
        {
            MatchCollection structs = Regex.Matches(Header, @"typedef struct (capg_\w+) \{(.*?)\} \1;", RegexOptions.Singleline);
            Expect.True(structs.Count > 12, "there are structs");
            var code = new StringBuilder("#include <capsulegraph.h>\n#include <stdio.h>\nint main(void) {\n");
            var wanted = new List<string>();
            foreach (Match one in structs)
            {
                Type type = Binding.GetType("CapsuleGraph." + one.Groups[1].Value, true);
                string[] fields = one.Groups[2].Value.Split(new[] { ';' }, StringSplitOptions.RemoveEmptyEntries)
                    .Select(field => Regex.Match(field.Trim(), @"\w+$").Value).Where(name => name != "").ToArray();
                const BindingFlags Own = BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic;
                Expect.Sequence(type.GetFields(Own).Select(field => field.Name), fields, type.Name);
                code.Append("    printf(\"%zu\\n\", sizeof(" + type.Name + "));\n");
                wanted.Add(Marshal.SizeOf(type).ToString());
                foreach (string field in fields)
                {
                    code.Append("    printf(\"%zu\\n\", offsetof(" + type.Name + ", " + field + "));\n");
                    wanted.Add(Marshal.OffsetOf(type, field).ToString());
                }
            }
            string printed = Processes.Succeed(Compiled.Program(code.Append("    return 0;\n}\n").ToString()), new string[0]);
            Expect.Sequence(wanted, printed.Split(new[] { '\n' }, StringSplitOptions.RemoveEmptyEntries));
        }

        public static void ALibraryOfAnotherAbiVersion()
        {
            string library = Compiled.Library("unsigned capg_abi_version(void) { return 99; }\n");
            Expect.Contains(Load(library), "keeps version 99 of the C API, and this assembly was made for 1");
        }

        public static void ALibraryThatLacksFunctions()
        {
            Expect.Contains(Load(Compiled.Library("unsigned capg_abi_version(void) { return 1; }\n")), "is older than this assembly");
        }

        public static void AnotherLibrary()
        {
            Expect.Contains(Load(Compiled.Library("int other;\n")), "is no library of CapsuleGraph");
        }

        public static void NoLibrary()
        {
            string said = Load("/nowhere");
            Expect.Contains(said, "was not found; searched:");
            Expect.Contains(said, "Install the package CapsuleGraph");
        }

        public static void AFileThatIsNoLibrary()
        {
            string file = Models.New("text.so");
            File.WriteAllText(file, "no library, though it is long enough for the header of one, which has sixty-four bytes");
            // The reason is the system's, also at the first attempt.
            Expect.Contains(Load(file), "cannot be loaded: " + file + ": invalid ELF header");
            File.WriteAllText(file, "");
            Expect.Contains(Load(file), "cannot be loaded: " + file + ": file too short");
        }

        public static void ALibraryThatIsCutShort()
        {
            byte[] whole = File.ReadAllBytes(Library.Path);
            string file = Models.New("short.so");
            foreach (int length in new[] { 1 << 20, 70 })
            {
                File.WriteAllBytes(file, whole.Take(length).ToArray());
                Expect.Contains(Load(file), "it is cut short");
            }
        }

        public static void ALibraryOfAnotherNameOnWindows()
        {
            MethodInfo refusal = Binding.GetType("CapsuleGraph.Loader", true).GetMethod("Refusal", Any);
            Func<string, bool, object> ask = (path, windows) => refusal.Invoke(null, new object[] { path, windows });
            Expect.Equal(ask(@"C:\tools\CapsuleGraph.dll", true), null);
            Expect.Contains((string)ask(@"C:\tools\other.dll", true), "must be called capsulegraph.dll");
            Expect.Equal(ask("/tools/other.so", false), null);
        }

        /// What another process says that is to load this library; the first call may be any.
        private static string Load(string library)
        {
            string said = null;
            foreach (string first in new[] { "version", "model", "files", "log", "budget", "group" })
            {
                // The loader's own path may lead to a library: cargo's leads to the one that it built.
                var variables = new Dictionary<string, string> { { Library.Variable, library }, { "LD_LIBRARY_PATH", null } };
                string[] args = { typeof(Program).Assembly.Location, "child", first };
                Printed printed = Processes.Run(Processes.Runtime, args, "", null, variables);
                Expect.Equal(printed.Code, 3, first + ": " + printed.Output + printed.Errors);
                said = printed.Output;
                Expect.Contains(said, "LibraryException: ");
            }
            return said;
        }
    }

    internal static class Child
    {
        private static readonly Dictionary<string, Action> Calls = new Dictionary<string, Action>
        {
            { "version", () => Library.Version.ToString() },
            { "model", () => Model.Open("absent") },
            { "files", () => Files.Inspect("absent") },
            { "log", () => new Log() },
            { "budget", () => new Budget(1) },
            { "group", () => new Group() },
        };

        /// Makes a first call; 3 where the library cannot be used.
        internal static int Run(string call)
        {
            try
            {
                Calls[call]();
                return 0;
            }
            catch (LibraryException error)
            {
                Console.WriteLine("LibraryException: " + error.Message);
                return 3;
            }
        }
    }
}
