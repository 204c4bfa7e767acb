// The public members of the binding: all of them are used by these tests, and the runner of the table refuses what it should.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Text.RegularExpressions;

namespace CapsuleGraph.Tests
{
    internal static class ApiTests
    {
        // What is used under another name: by foreach, in brackets, as a base.
        private static readonly string[] Unnamed = { "GetEnumerator", "ToString", "Item", "JobOptions" };

        public static void EveryPublicMemberIsUsed()
        {
            IEnumerable<string> files = Directory.GetFiles(Path.Combine(Models.Root, "bindings/csharp/tests"), "*.cs");
            string code = string.Concat(files.Select(file => Regex.Replace(File.ReadAllText(file), @"//.*|""(\\.|[^""\\])*""", "")));
            var words = new HashSet<string>(Regex.Matches(code, @"\w+").Cast<Match>().Select(word => word.Value));
            var missing = new List<string>();
            int count = 0;
            foreach (Type type in typeof(Model).Assembly.GetExportedTypes())
            {
                if (type.IsEnum || typeof(Delegate).IsAssignableFrom(type)) continue;
                foreach (MemberInfo member in Members(type))
                {
                    count++;
                    if (!words.Contains(member.Name) && !Unnamed.Contains(member.Name)) missing.Add(type.Name + "." + member.Name);
                }
                if (!words.Contains(type.Name) && !Unnamed.Contains(type.Name)) missing.Add(type.Name);
            }
            Expect.True(count > 150, "there are members");
            Expect.Equal(string.Join(", ", missing.Distinct()), "", "what no test names");
        }

        private static IEnumerable<MemberInfo> Members(Type type)
        {
            const BindingFlags Own = BindingFlags.Instance | BindingFlags.Static | BindingFlags.Public | BindingFlags.DeclaredOnly;
            return type.GetMembers(Own).Where(member => member is PropertyInfo || member is FieldInfo
                || (member is MethodInfo && !((MethodInfo)member).IsSpecialName));
        }

        public static void TheTablesRunnerRefusesWhatItDoesNotKnow()
        {
            string table = Models.New("cases.txt");
            File.WriteAllText(table, "case key\ndo bytes\ntarget a\nhex 00\nother 1\n\ncase job\ndo dance\n\n"
                + "case twice\ndo bytes\ntarget a\ntarget b\nhex 00\n\ncase status\ndo bytes\ntarget a\nhex 00\nexpect io\n\n"
                + "case type\ndo run\nfile absent\ninput x bool - 1\n\n"
                + "case tokens that are not named\ndo tokenize\nfile " + Models.Language + "\ntext Hello\n\n"
                + "case no tokens\ndo tokenize\nfile " + Models.Language + "\ntext Hello\ntokens \n");
            string[] args = { typeof(Program).Assembly.Location, "cases", table };
            Printed printed = Processes.Run(Processes.Runtime, args);
            Expect.Equal(printed.Code, 1, printed.Errors);
            foreach (string line in new[]
            {
                "case key ... FAILED: this runner does not know other", "case job ... FAILED: this runner does not know how to do \"dance\"",
                "case twice ... FAILED: target is there twice", "case status ... FAILED: status is ok",
                "case type ... FAILED: this runner does not know the type bool", "case tokens that are not named ... FAILED: tokens is [19556] and should be []",
                "case no tokens ... FAILED: tokens is [19556] and should be []", "test result: FAILED. 0 passed; 7 failed",
            }) Expect.Contains(printed.Output, line);
        }
    }
}
