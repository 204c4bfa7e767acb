using System;
using System.Collections.Generic;
using System.IO;

namespace CapsuleGraph
{
    /// <summary>Where ONNX Runtime's library is that a program brings along, such as that of the package Microsoft.ML.OnnxRuntime. The
    /// library itself looks beside the program, which of .NET is the host, dotnet.</summary>
    internal static class OnnxRuntime
    {
        private const string Variable = "CAPSULEGRAPH_ONNXRUNTIME";

        private static volatile bool isNamed;

        /// <summary>The path to hand over: the option; where neither it nor the variable says anything, that of a library of the
        /// program; else null, and the library looks on. A process has one: a program that has named one does not get another.</summary>
        internal static string For(string option)
        {
            if (option != null)
            {
                isNamed = true;
                return option;
            }
            return isNamed || !string.IsNullOrEmpty(Environment.GetEnvironmentVariable(Variable)) ? null : OfTheProgram;
        }

#if UNITY_5_3_OR_NEWER
        private static string OfTheProgram
        {
            get { return null; }
        }
#else
        private static readonly Lazy<string> Found = new Lazy<string>(Find);

        private static string OfTheProgram
        {
            get { return Found.Value; }
        }

        private static string Find()
        {
            string program = AppContext.BaseDirectory, file = Loader.Named("onnxruntime");
            var folders = new List<string> { program, Path.Combine(program, "runtimes", Loader.Platform, "native") };
            folders.AddRange(Loader.HostFolders);
            return folders.ConvertAll(folder => Path.Combine(folder, file)).Find(File.Exists);
        }
#endif
    }
}
