#if !UNITY_5_3_OR_NEWER
using System;
using System.ComponentModel;
using System.IO;
using System.Runtime.InteropServices;

namespace CapsuleGraph
{
    /// <summary>Loads the library from where it is. The runtime then finds it by name among what is loaded: every system keeps one
    /// library of a name.</summary>
    internal static unsafe class Loader
    {
        private const int Now = 2;

        private static readonly bool Windows = RuntimeInformation.IsOSPlatform(OSPlatform.Windows);
        private static readonly Lazy<bool> IsInLibc = new Lazy<bool>(FindsLibc);
        private static readonly bool Mac = RuntimeInformation.IsOSPlatform(OSPlatform.OSX);

        internal static string FileName
        {
            get { return Named("capsulegraph"); }
        }

        /// <summary>The file name of a library here.</summary>
        internal static string Named(string library)
        {
            return Windows ? library + ".dll" : "lib" + library + (Mac ? ".dylib" : ".so");
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

        /// <summary>Where the .NET host has the native files of packages.</summary>
        internal static string[] HostFolders
        {
            get
            {
                var native = AppDomain.CurrentDomain.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string;
                return (native ?? "").Split(new[] { Path.PathSeparator }, StringSplitOptions.RemoveEmptyEntries);
            }
        }

        internal static IntPtr Open(string path)
        {
            IntPtr library;
            string why;
            string refusal = Refusal(path, Windows);
            if (refusal != null) throw new LibraryException(refusal);
            if (Windows)
            {
                library = LoadLibraryW(path);
                why = library == IntPtr.Zero ? new Win32Exception().Message : null;
            }
            else
            {
                if (!IsWhole(path)) throw new LibraryException(path + " cannot be loaded: it is cut short; copy or install it again");
                byte[] bytes = Utf8.Bytes(path, nameof(path));
                fixed (byte* file = bytes) library = IsInLibc.Value ? OpenByLibc(file, out why) : OpenByLibdl(file, out why);
            }
            if (library == IntPtr.Zero) throw new LibraryException(path + " cannot be loaded: " + why);
            return library;
        }

        /// <summary>Why a file of that name cannot be used; null where it can. Windows keeps a library by its file's name, which is
        /// what the runtime asks for; other systems by the name in it.</summary>
        internal static string Refusal(string path, bool windows)
        {
            string name = windows ? path.Substring(path.LastIndexOfAny(new[] { '\\', '/' }) + 1) : null;
            if (name == null || name.Equals("capsulegraph.dll", StringComparison.OrdinalIgnoreCase)) return null;
            return path + " cannot be used: on Windows the library's file must be called capsulegraph.dll";
        }

        /// <summary>Whether a file has all that its header says is to be mapped (ELF of 64 bits: System V ABI, program header). One
        /// that has not would end the process when it is loaded. A file of another form is left to the system.</summary>
        private static bool IsWhole(string path)
        {
            const int Header = 64, Entry = 56, Loaded = 1, Magic = 0x464c457f;
            using (FileStream file = File.OpenRead(path))
            {
                byte[] header = Read(file, 0, Header);
                if (header.Length < Header || BitConverter.ToUInt32(header, 0) != Magic || header[4] != 2 || header[5] != 1) return true;
                if (BitConverter.ToUInt16(header, 54) != Entry) return true;
                int length = BitConverter.ToUInt16(header, 56) * Entry;
                byte[] entries = Read(file, BitConverter.ToInt64(header, 32), length);
                if (entries.Length < length) return false;
                for (int at = 0; at < length; at += Entry)
                {
                    if (BitConverter.ToUInt32(entries, at) != Loaded) continue;
                    ulong first = BitConverter.ToUInt64(entries, at + 8), count = BitConverter.ToUInt64(entries, at + 32);
                    if (first > (ulong)file.Length || count > (ulong)file.Length - first) return false;
                }
                return true;
            }
        }

        /// <summary>Bytes of a file from there on, fewer where it ends.</summary>
        private static byte[] Read(FileStream file, long start, int length)
        {
            if (start < 0 || start > file.Length) return new byte[0];
            file.Position = start;
            var bytes = new byte[Math.Min(length, file.Length - start)];
            int done = 0, count;
            while (done < bytes.Length && (count = file.Read(bytes, done, bytes.Length - done)) > 0) done += count;
            return bytes;
        }

        internal static IntPtr Symbol(IntPtr library, string name)
        {
            if (Windows) return GetProcAddress(library, name);
            return IsInLibc.Value ? SymbolLibc(library, name) : SymbolLibdl(library, name);
        }

        // What the runtime does to find a function overwrites what dlerror is to say: that is found before the library is opened, and
        // the path is no string, which a function that is to be found would free in between.

        private static IntPtr OpenByLibc(byte* path, out string why)
        {
            ErrorLibc();
            IntPtr library = OpenLibc(path, Now);
            why = library == IntPtr.Zero ? Marshal.PtrToStringAnsi(ErrorLibc()) : null;
            return library;
        }

        private static IntPtr OpenByLibdl(byte* path, out string why)
        {
            ErrorLibdl();
            IntPtr library = OpenLibdl(path, Now);
            why = library == IntPtr.Zero ? Marshal.PtrToStringAnsi(ErrorLibdl()) : null;
            return library;
        }

        /// <summary>glibc before 2.34 has these functions in libdl alone.</summary>
        private static bool FindsLibc()
        {
            try
            {
                ErrorLibc();
                return true;
            }
            catch (EntryPointNotFoundException)
            {
                return false;
            }
            catch (DllNotFoundException)
            {
                return false;
            }
        }

        [DllImport("libc", EntryPoint = "dlopen")]
        private static extern IntPtr OpenLibc(byte* path, int flags);

        [DllImport("libc", EntryPoint = "dlsym", BestFitMapping = false)]
        private static extern IntPtr SymbolLibc(IntPtr library, string name);

        [DllImport("libc", EntryPoint = "dlerror")]
        private static extern IntPtr ErrorLibc();

        [DllImport("libdl.so.2", EntryPoint = "dlopen")]
        private static extern IntPtr OpenLibdl(byte* path, int flags);

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
