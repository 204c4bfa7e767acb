#if !CAPSULEGRAPH_SPANS
// What only users of Mono and .NET Framework meet.

using System;
using System.Collections.Generic;
using System.IO;
using System.IO.Compression;
using System.Linq;
using System.Threading;

namespace CapsuleGraph.Tests
{
    internal static class MonoTests
    {
        private const string Project = @"<Project DefaultTargets=""Build"" xmlns=""http://schemas.microsoft.com/developer/msbuild/2003"">
            <PropertyGroup>
              <AssemblyName>program</AssemblyName>
              <OutputType>Exe</OutputType>
              <OutputPath>bin/</OutputPath>
              <TargetFrameworkVersion>v4.5</TargetFrameworkVersion>
            </PropertyGroup>
            <ItemGroup>
              <Compile Include=""program.cs"" />
              <Reference Include=""CapsuleGraph.Net""><HintPath>package/lib/netstandard2.0/CapsuleGraph.Net.dll</HintPath></Reference>
            </ItemGroup>
            <Import Project=""$(MSBuildToolsPath)/Microsoft.CSharp.targets"" />
            <Import Project=""package/build/CapsuleGraph.targets"" />
            </Project>";

        public static void AnAbortedThreadLeavesItsSession()
        {
            using (Model model = Model.Open(Models.Language))
            using (Session session = model.CreateSession())
            {
                // The abort comes in the callback, in native code and where one calls the other; then of the thread itself.
                foreach (int pause in new[] { 0, 5, 0, 5, -1 })
                {
                    var begun = new ManualResetEvent(false);
                    Exception failure = null;
                    var thread = new Thread(() =>
                    {
                        try
                        {
                            session.Generate(LanguageTests.Prompt, (token, text) =>
                            {
                                begun.Set();
                                if (pause < 0) Thread.CurrentThread.Abort();
                                Thread.Sleep(pause);
                                return true;
                            }, new GenerateOptions { IgnoreEnd = true });
                        }
                        catch (Exception error)
                        {
                            failure = error;
                        }
                    });
                    thread.Start();
                    begun.WaitOne();
                    if (pause >= 0) thread.Abort();
                    thread.Join();
                    Expect.True(failure is ThreadAbortException, "the thread is aborted: " + failure);
                    session.Reset();
                    Expect.Equal(session.Complete(LanguageTests.Prompt, new GenerateOptions { MaxTokens = 8 }), LanguageTests.Text);
                }
            }
        }

        public static void ThePackagesTargetsCopyTheLibrary()
        {
            string project = Models.New("program.csproj"), folder = Path.GetDirectoryName(project);
            string package = Directory.GetFiles(Models.Variable("CAPSULEGRAPH_TEST_PACKAGES"), "*.nupkg").Single();
            ZipFile.ExtractToDirectory(package, Path.Combine(folder, "package"));
            File.WriteAllText(project, Project);
            File.WriteAllText(Path.Combine(folder, "program.cs"), @"
                internal static class Program
                {
                    private static void Main()
                    {
                        System.Console.WriteLine(CapsuleGraph.Library.Version + "" "" + CapsuleGraph.Library.Path);
                    }
                }");
            Processes.Succeed("xbuild", new[] { "/nologo", "/verbosity:quiet", project }, "", folder);
            var variables = new Dictionary<string, string> { { Library.Variable, null } };
            string said = Processes.Succeed(Processes.Runtime, new[] { Path.Combine(folder, "bin/program.exe") }, "", folder, variables);
            Expect.Equal(said.Trim(), Library.Version + " " + Path.Combine(folder, "bin/libcapsulegraph.so"));
        }
    }
}
#endif
