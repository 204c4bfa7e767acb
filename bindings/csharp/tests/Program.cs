// Tests of the C# binding. The last line is as cargo's.
//
//     tests.exe cases [TABLE] | run [NAME] | overhead MODEL.cgraph | soak SECONDS | child ...

using System;
using System.Globalization;
using System.Linq;
using System.Reflection;

namespace CapsuleGraph.Tests
{
    internal static class Program
    {
        private static int Main(string[] args)
        {
            // Numbers are printed alike everywhere.
            CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
            switch (args.FirstOrDefault())
            {
                case "cases": return Cases.Run(args.Length > 1 ? args[1] : null);
                case "run": return Run(args.Length > 1 ? args[1] : "");
                case "overhead": return Overhead.Run(args[1]);
                case "soak": return Soak.Run(double.Parse(args[1], CultureInfo.InvariantCulture));
                case "child": return Child.Run(args[1]);
                default:
                    Console.Error.WriteLine("usage: cases [TABLE] | run [NAME] | overhead MODEL.cgraph | soak SECONDS");
                    return 2;
            }
        }

        /// Runs every public method of the classes whose name ends with Tests, or those that have `wanted` in their name.
        private static int Run(string wanted)
        {
            int passed = 0, failed = 0;
            foreach (Type type in typeof(Program).Assembly.GetTypes().Where(type => type.Name.EndsWith("Tests")).OrderBy(type => type.Name))
            {
                const BindingFlags Own = BindingFlags.Static | BindingFlags.Public | BindingFlags.DeclaredOnly;
                foreach (MethodInfo method in type.GetMethods(Own).OrderBy(method => method.MetadataToken))
                {
                    string name = type.Name + "." + method.Name;
                    if (!name.Contains(wanted)) continue;
                    try
                    {
                        ((Action)Delegate.CreateDelegate(typeof(Action), method))();
                        Console.WriteLine("test " + name + " ... ok");
                        passed++;
                    }
                    catch (Exception error)
                    {
                        Console.WriteLine("test " + name + " ... FAILED: " + error);
                        failed++;
                    }
                }
            }
            return Result(passed, failed);
        }

        /// The last line, and what the process returns.
        internal static int Result(int passed, int failed)
        {
            bool good = failed == 0 && passed > 0;
            Models.Clear();
            Console.WriteLine("test result: " + (good ? "ok" : "FAILED") + ". " + passed + " passed; " + failed + " failed");
            return good ? 0 : 1;
        }
    }
}
