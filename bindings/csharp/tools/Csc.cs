// The C# compiler of the tests' .NET lane, made of Roslyn's own parts: takes csc's command line. mcs compiles it, and it runs
// on the .NET runtime whose assemblies the compiled program is to use.
//
//     csc.exe [csc's options] FILE.cs...
//
// The runtime's own assemblies say where a type really is: most are in System.Private.CoreLib, which is no assembly to compile
// against. What is compiled here names netstandard in its place, which both the runtime and every .NET SDK have, so that the
// library can be used by programs that are compiled elsewhere.

using System;
using System.Collections.Generic;
using System.Collections.Immutable;
using System.IO;
using System.Linq;
using System.Reflection.Metadata;
using System.Reflection.Metadata.Ecma335;
using System.Reflection.PortableExecutable;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

internal static class Csc
{
    private const string Core = "System.Private.CoreLib";
    private static readonly byte[] CoreToken = { 0x7c, 0xec, 0x85, 0xd7, 0xbe, 0xa7, 0x79, 0x8e };
    private const string Standard = "netstandard";
    private static readonly byte[] StandardToken = { 0xcc, 0x7b, 0x13, 0xff, 0xcd, 0x2d, 0xdd, 0x51 };

    /// What Roslyn marks modules and types with, which netstandard has not.
    private const string Rules = @"namespace System.Runtime.CompilerServices
        {
            internal sealed class RefSafetyRulesAttribute : Attribute { public RefSafetyRulesAttribute(int version) { } }
            internal sealed class NullableAttribute : Attribute
            {
                public NullableAttribute(byte flag) { }
                public NullableAttribute(byte[] flags) { }
            }
            internal sealed class NullableContextAttribute : Attribute { public NullableContextAttribute(byte flag) { } }
        }";

    private static int Main(string[] args)
    {
        string runtime = Path.GetDirectoryName(typeof(object).Assembly.Location);
        CSharpCommandLineArguments line =
            CSharpCommandLineParser.Default.Parse(args, Directory.GetCurrentDirectory(), runtime, null);
        if (Report(line.Errors)) return 1;
        IEnumerable<SyntaxTree> trees = line.SourceFiles.Select(file => CSharpSyntaxTree.ParseText(
            File.ReadAllText(file.Path), line.ParseOptions, file.Path, Encoding.UTF8))
            .Concat(new[] { CSharpSyntaxTree.ParseText(Rules, line.ParseOptions, "Csc.Rules.cs", Encoding.UTF8) });
        IEnumerable<MetadataReference> references = line.MetadataReferences
            .Select(reference => Path.GetFullPath(reference.Reference)).Where(File.Exists)
            .Concat(Directory.GetFiles(runtime, "*.dll").Where(IsManaged))
            .Select(path => (MetadataReference)MetadataReference.CreateFromFile(path));
        var compilation = CSharpCompilation.Create(line.CompilationName, trees.ToArray(), references.ToArray(), line.CompilationOptions);
        using (var image = new MemoryStream())
        using (var documentation = new MemoryStream())
        {
            var result = compilation.Emit(image, null, line.DocumentationPath == null ? null : documentation);
            if (Report(result.Diagnostics) || !result.Success) return 1;
            byte[] bytes = image.ToArray();
            string wrong = NameStandard(bytes, Path.Combine(runtime, Standard + ".dll"));
            if (wrong != null)
            {
                Console.Error.WriteLine(wrong);
                return 1;
            }
            File.WriteAllBytes(Path.Combine(line.OutputDirectory, line.OutputFileName), bytes);
            if (line.DocumentationPath != null) File.WriteAllBytes(line.DocumentationPath, documentation.ToArray());
        }
        return 0;
    }

    /// Prints what is worth saying; whether anything is an error.
    private static bool Report(IEnumerable<Diagnostic> diagnostics)
    {
        bool failed = false;
        foreach (Diagnostic one in diagnostics)
        {
            if (one.IsSuppressed || one.Severity < DiagnosticSeverity.Warning) continue;
            Console.Error.WriteLine(one);
            failed |= one.Severity == DiagnosticSeverity.Error || one.IsWarningAsError;
        }
        return failed;
    }

    private static bool IsManaged(string path)
    {
        using (var file = File.OpenRead(path))
        using (var reader = new PEReader(file)) return reader.HasMetadata;
    }

    /// Names netstandard where CoreLib is named; gives what hinders that.
    private static string NameStandard(byte[] image, string standard)
    {
        var known = new HashSet<string>();
        using (var file = File.OpenRead(standard))
        using (var facade = new PEReader(file))
        {
            MetadataReader types = facade.GetMetadataReader();
            foreach (ExportedTypeHandle handle in types.ExportedTypes)
            {
                ExportedType type = types.GetExportedType(handle);
                known.Add(types.GetString(type.Namespace) + "." + types.GetString(type.Name));
            }
        }
        using (var own = new PEReader(ImmutableArray.Create(image)))
        {
            MetadataReader names = own.GetMetadataReader();
            int start = own.PEHeaders.MetadataStartOffset;
            foreach (AssemblyReferenceHandle handle in names.AssemblyReferences)
            {
                AssemblyReference reference = names.GetAssemblyReference(handle);
                if (names.GetString(reference.Name) != Core) continue;
                foreach (TypeReferenceHandle one in names.TypeReferences)
                {
                    TypeReference type = names.GetTypeReference(one);
                    string name = names.GetString(type.Namespace) + "." + names.GetString(type.Name);
                    if (type.ResolutionScope == handle && !known.Contains(name))
                        return "error: " + name + " is not in netstandard 2.1, so that " + Core + " would have to be named";
                }
                Rename(image, names, start, handle, reference);
            }
        }
        return null;
    }

    private static void Rename(byte[] image, MetadataReader names, int start, AssemblyReferenceHandle handle, AssemblyReference reference)
    {
        int row = start + names.GetTableMetadataOffset(TableIndex.AssemblyRef)
            + (MetadataTokens.GetRowNumber(handle) - 1) * names.GetTableRowSize(TableIndex.AssemblyRef);
        // Major, minor, build, revision: 2.1.0.0.
        byte[] version = { 2, 0, 1, 0, 0, 0, 0, 0 };
        Array.Copy(version, 0, image, row, version.Length);
        int text = start + names.GetHeapMetadataOffset(HeapIndex.String) + names.GetHeapOffset(reference.Name);
        byte[] name = Encoding.ASCII.GetBytes(Standard + "\0");
        Array.Copy(name, 0, image, text, name.Length);
        // A length of one byte stands before the token.
        int token = start + names.GetHeapMetadataOffset(HeapIndex.Blob) + names.GetHeapOffset(reference.PublicKeyOrToken) + 1;
        if (!image.Skip(token).Take(8).SequenceEqual(CoreToken)) throw new BadImageFormatException("the token of " + Core + " is another one");
        Array.Copy(StandardToken, 0, image, token, StandardToken.Length);
    }
}
