// What the tests need that the binding does not show, and that only native code can do.

using System;
using System.IO;
using System.Reflection;
using System.Runtime.InteropServices;

namespace CapsuleGraph.Tests
{
    /// Libraries that tests write in C.
    internal static class Compiled
    {
        internal static string Library(string code)
        {
            string source = Models.New("other.c"), library = Path.ChangeExtension(source, ".so");
            File.WriteAllText(source, code);
            Processes.Succeed("cc", new[] { "-O2", "-shared", "-fPIC", "-I", Path.Combine(Models.Root, "include"), source, "-o", library });
            return library;
        }

        internal static string Program(string code)
        {
            string source = Models.New("program.c"), program = Path.ChangeExtension(source, ".out");
            File.WriteAllText(source, code);
            Processes.Succeed("cc", new[] { "-std=c11", "-I", Path.Combine(Models.Root, "include"), source, "-o", program });
            return program;
        }
    }

    /// A generation inside one call of the library that no token leaves, from C.
    internal static class Silent
    {
        private const int Now = 2, Global = 0x100;
        private const string Code =
            "#include \"capsulegraph.h\"\n"
            + "int32_t silent(capg_session *session, const uint32_t *ids, size_t count, uint64_t tokens) {\n"
            + "    capg_generate_options options = {0};\n"
            + "    options.struct_size = sizeof options;\n"
            + "    options.max_tokens = tokens;\n"
            + "    options.ignore_end = 1;\n"
            + "    return (int32_t)capg_session_generate(session, ids, count, &options, NULL, NULL, NULL, NULL, NULL);\n}\n";

        internal static Action Generation(Session session, int[] ids, int tokens)
        {
            // The library that the binding has loaded, for what is compiled here to find its functions in.
            Open(Path.Combine(Models.Variable(Library.Variable), "libcapsulegraph.so"), Now | Global);
            IntPtr function = dlsym(Open(Compiled.Library(Code), Now), "silent");
            var generate = (Generate)Marshal.GetDelegateForFunctionPointer(function, typeof(Generate));
            FieldInfo field = typeof(Resource).GetField("Handle", BindingFlags.Instance | BindingFlags.NonPublic);
            var handle = (SafeHandle)field.GetValue(session);
            return () => Expect.Equal(generate(handle, ids, (UIntPtr)ids.Length, (ulong)tokens), 0, "the status");
        }

        private static IntPtr Open(string path, int flags)
        {
            IntPtr library = dlopen(path, flags);
            if (library == IntPtr.Zero) throw new InvalidOperationException(path + " cannot be loaded");
            return library;
        }

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        private delegate int Generate(SafeHandle session, int[] ids, UIntPtr count, ulong tokens);

        [DllImport("libc")]
        private static extern IntPtr dlopen(string path, int flags);

        [DllImport("libc")]
        private static extern IntPtr dlsym(IntPtr library, string name);
    }
}
