using System;
using System.Collections.Generic;
using System.IO;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace CapsuleGraph
{
    /// <summary>The native library: which one is in use.</summary>
    /// <remarks>It is looked for beside this assembly, in <c>runtimes/RID/native</c> below it, and where the environment variable
    /// CAPSULEGRAPH_LIBRARY says (a file, which on Windows must be called capsulegraph.dll, or a folder that it is in); after that by
    /// the system. In Unity it is a plug-in.</remarks>
    public static unsafe class Library
    {
        /// <summary>The environment variable that names the library, or the folder that it is in.</summary>
        public const string Variable = "CAPSULEGRAPH_LIBRARY";

        private static readonly object Gate = new object();
        private static volatile bool loaded;

        /// <summary>The library's release, such as "0.1.0".</summary>
        public static string Version
        {
            get
            {
                Load();
                return ReadVersion();
            }
        }

        /// <summary>The folder or file that the library was loaded from; null where the system or Unity found it.</summary>
        public static string Path { get; private set; }

        // Mono looks for the library when it compiles a method that calls it, so that no method which does may be compiled before
        // Load has run: whatever can be called first has its native calls in a method of its own that is not inlined.

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static string ReadVersion()
        {
            return Utf8.ReadStatic(Native.capg_version_string());
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static uint ReadAbiVersion()
        {
            return Native.capg_abi_version();
        }

        /// <summary>Finds, loads and checks the library, once.</summary>
        internal static void Load()
        {
            if (loaded) return;
            lock (Gate)
            {
                if (loaded) return;
                CheckVersion(Find());
                loaded = true;
            }
        }

        private static void CheckVersion(IReadOnlyList<string> searched)
        {
            string name = Path ?? "the library of CapsuleGraph";
            uint found;
            try
            {
                found = ReadAbiVersion();
            }
            catch (DllNotFoundException error)
            {
                throw new LibraryException("the library of CapsuleGraph was not found; searched: " + string.Join(", ", searched)
                    + ". Install the package CapsuleGraph, which carries it, or name the file or its folder in " + Variable, error);
            }
            catch (EntryPointNotFoundException error)
            {
                throw new LibraryException(name + " is no library of CapsuleGraph: it has no capg_abi_version", error);
            }
            catch (BadImageFormatException error)
            {
                throw new LibraryException(name + " is not of this process's architecture: " + error.Message, error);
            }
            CheckVersion(name, found);
        }

        private static void CheckVersion(string name, uint found)
        {
            if (found == Native.CAPG_ABI_VERSION) return;
            throw new LibraryException(name + " keeps version " + found + " of the C API, and this assembly was made for "
                + Native.CAPG_ABI_VERSION + ": use assembly and library of one release");
        }

#if UNITY_5_3_OR_NEWER
        private static IReadOnlyList<string> Find()
        {
            return new[] { "the plug-ins of the project" };
        }
#else
        private static IReadOnlyList<string> Find()
        {
            List<string> places = Places();
            foreach (string place in places)
            {
                if (!File.Exists(place)) continue;
                IntPtr library = Loader.Open(place), entry = Loader.Symbol(library, "capg_abi_version");
                Path = place;
                if (entry == IntPtr.Zero)
                    throw new LibraryException(place + " is no library of CapsuleGraph: it has no capg_abi_version");
                var version = (AbiVersion)Marshal.GetDelegateForFunctionPointer(entry, typeof(AbiVersion));
                CheckVersion(place, version());
                CheckFunctions(library, place);
                break;
            }
            return places;
        }

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        private delegate uint AbiVersion();

        private static void CheckFunctions(IntPtr library, string place)
        {
            foreach (MethodInfo method in typeof(Native).GetMethods(BindingFlags.Static | BindingFlags.NonPublic))
            {
                if (!method.Name.StartsWith("capg_", StringComparison.Ordinal)) continue;
                if (Loader.Symbol(library, method.Name) != IntPtr.Zero) continue;
                throw new LibraryException(place + " is older than this assembly (it has no " + method.Name
                    + "): use a library of its release");
            }
        }

        /// <summary>Where the library may be, the first one first. What a runtime would find by itself comes first, so that it and
        /// this agree.</summary>
        private static List<string> Places()
        {
            string file = Loader.FileName, own = typeof(Library).Assembly.Location;
            string folder = string.IsNullOrEmpty(own) ? AppContext.BaseDirectory : System.IO.Path.GetDirectoryName(own);
            var places = new List<string>
            {
                System.IO.Path.Combine(folder, file),
                System.IO.Path.Combine(folder, "runtimes", Loader.Platform, "native", file),
            };
            foreach (string other in Loader.HostFolders) places.Add(System.IO.Path.Combine(other, file));
            string named = Environment.GetEnvironmentVariable(Variable);
            if (!string.IsNullOrEmpty(named)) places.Add(Directory.Exists(named) ? System.IO.Path.Combine(named, file) : named);
            return places;
        }
#endif
    }
}
