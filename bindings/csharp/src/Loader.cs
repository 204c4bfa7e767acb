#if !UNITY_5_3_OR_NEWER
using System;
using System.ComponentModel;
using System.Runtime.InteropServices;

namespace CapsuleGraph
{
    /// <summary>Loads the library from where it is. The runtime then finds it by name among what is loaded: every system keeps one
    /// library of a name.</summary>
    internal static class Loader
    {
        private const int Now = 2;

        private static readonly bool Windows = RuntimeInformation.IsOSPlatform(OSPlatform.Windows);
        private static readonly bool Mac = RuntimeInformation.IsOSPlatform(OSPlatform.OSX);

        internal static string FileName
        {
            get { return Windows ? "capsulegraph.dll" : Mac ? "libcapsulegraph.dylib" : "libcapsulegraph.so"; }
        }

        /// <summary>The RID of this process, such as linux-x64.</summary>
        internal static string Platform
        {
            get
            {
                string system = Windows ? "win" : Mac ? "osx" : "linux";
                return system + "-" + RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();
            }
        }

        internal static IntPtr Open(string path)
        {
            IntPtr library;
            string why;
            if (Windows)
            {
                library = LoadLibraryW(path);
                why = library == IntPtr.Zero ? new Win32Exception().Message : null;
            }
            else
            {
                library = Either(() => OpenLibc(path, Now), () => OpenLibdl(path, Now));
                why = library == IntPtr.Zero ? Marshal.PtrToStringAnsi(Either(ErrorLibc, ErrorLibdl)) : null;
            }
            if (library == IntPtr.Zero) throw new LibraryException(path + " cannot be loaded: " + why);
            return library;
        }

        internal static IntPtr Symbol(IntPtr library, string name)
        {
            if (Windows) return GetProcAddress(library, name);
            return Either(() => SymbolLibc(library, name), () => SymbolLibdl(library, name));
        }

        /// <summary>glibc before 2.34 has these functions in libdl alone.</summary>
        private static IntPtr Either(Func<IntPtr> libc, Func<IntPtr> libdl)
        {
            try
            {
                return libc();
            }
            catch (EntryPointNotFoundException)
            {
                return libdl();
            }
            catch (DllNotFoundException)
            {
                return libdl();
            }
        }

        [DllImport("libc", EntryPoint = "dlopen", BestFitMapping = false)]
        private static extern IntPtr OpenLibc(string path, int flags);

        [DllImport("libc", EntryPoint = "dlsym", BestFitMapping = false)]
        private static extern IntPtr SymbolLibc(IntPtr library, string name);

        [DllImport("libc", EntryPoint = "dlerror")]
        private static extern IntPtr ErrorLibc();

        [DllImport("libdl.so.2", EntryPoint = "dlopen", BestFitMapping = false)]
        private static extern IntPtr OpenLibdl(string path, int flags);

        [DllImport("libdl.so.2", EntryPoint = "dlsym", BestFitMapping = false)]
        private static extern IntPtr SymbolLibdl(IntPtr library, string name);

        [DllImport("libdl.so.2", EntryPoint = "dlerror")]
        private static extern IntPtr ErrorLibdl();

        [DllImport("kernel32", CharSet = CharSet.Unicode, SetLastError = true, ExactSpelling = true)]
        private static extern IntPtr LoadLibraryW(string path);

        [DllImport("kernel32", CharSet = CharSet.Ansi, ExactSpelling = true, BestFitMapping = false)]
        private static extern IntPtr GetProcAddress(IntPtr library, string name);
    }
}
#endif
