// What the tests need that the binding does not show, and that only native code can do.

using System;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Threading;

namespace CapsuleGraph.Tests
{
    /// Libraries that tests write in C.
    internal static class Compiled
    {
        internal static string Library(string code)
        {
            string source = Models.New("other.c"), library = Path.ChangeExtension(source, ".so");
            File.WriteAllText(source, code);
            Processes.Succeed("cc", new[] { "-O2", "-shared", "-fPIC", source, "-o", library });
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

    /// Calls the token callback of the binding from C, as the library does.
    internal sealed unsafe class Bridge : IDisposable
    {
        private const int Batch = 1000;
        private const string Code =
            "#include <stddef.h>\n#include <stdint.h>\n"
            + "int32_t many(int32_t (*call)(void *, uint32_t, const char *, size_t), void *data, int32_t count) {\n"
            + "    for (int32_t i = 0; i < count; i++) if (call(data, 7, \" text\", 5)) return i;\n"
            + "    return count;\n}\n";

        private readonly IDisposable receiver;
        private readonly Many many;
        private readonly IntPtr entry, data;
        private int left;

        internal Bridge(TokenCallback callback)
        {
            Type type = typeof(Model).Assembly.GetType("CapsuleGraph.TokenReceiver", true);
            const BindingFlags Any = BindingFlags.Instance | BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public;
            receiver = (IDisposable)type.GetConstructors(Any).Single(one => !one.IsStatic).Invoke(new object[] { callback });
            entry = Marshal.GetFunctionPointerForDelegate((Delegate)type.GetField("Entry", Any).GetValue(null));
            data = (IntPtr)Pointer.Unbox(type.GetProperty("Data", Any).GetGetMethod(true).Invoke(receiver, null));
            IntPtr library = dlopen(Compiled.Library(Code), 2);
            many = (Many)Marshal.GetDelegateForFunctionPointer(dlsym(library, "many"), typeof(Many));
        }

        /// One call of the callback, seen from outside: C makes them by the thousand.
        internal int Call()
        {
            if (left == 0)
            {
                Expect.Equal(many(entry, data, Batch), Batch, "calls");
                left = Batch;
            }
            return --left;
        }

        /// A step of a generation, also behind its end.
        internal static Func<string> Step(Generation generation)
        {
            MethodInfo method = typeof(Generation).GetMethod("Step", BindingFlags.Instance | BindingFlags.NonPublic);
            var step = (Func<CancellationToken, string>)Delegate.CreateDelegate(typeof(Func<CancellationToken, string>), generation, method);
            return () => step(default(CancellationToken));
        }

        public void Dispose()
        {
            receiver.Dispose();
        }

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        private delegate int Many(IntPtr call, IntPtr data, int count);

        [DllImport("libc")]
        private static extern IntPtr dlopen(string path, int flags);

        [DllImport("libc")]
        private static extern IntPtr dlsym(IntPtr library, string name);
    }
}
