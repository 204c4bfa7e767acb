// Compiles Csc.cs by Roslyn. mcs cannot read Roslyn's assemblies, so that what is called of them here is looked up by name.
//
//     boot.exe FOLDER_OF_ROSLYN Csc.cs csc.dll

using System;
using System.Collections;
using System.IO;
using System.Linq;
using System.Reflection;

internal static class Boot
{
    private static int Main(string[] args)
    {
        string runtime = Path.GetDirectoryName(typeof(object).Assembly.Location);
        string[] roslyn = { Path.Combine(args[0], "Microsoft.CodeAnalysis.dll"), Path.Combine(args[0], "Microsoft.CodeAnalysis.CSharp.dll") };
        Assembly[] parts = roslyn.Select(Assembly.LoadFrom).ToArray();
        Type reference = Find(parts, "MetadataReference"), tree = Find(parts, "SyntaxTree");
        string[] files = Directory.GetFiles(runtime, "System*.dll").Concat(roslyn).Where(IsManaged).ToArray();
        Array references = Fill(reference, files.Select(file => Call(reference, "CreateFromFile", file)).ToArray());
        object source = Call(Find(parts, "CSharp.CSharpSyntaxTree"), "ParseText", File.ReadAllText(args[1]));
        Type optionsType = Find(parts, "CSharp.CSharpCompilationOptions"), kind = Find(parts, "OutputKind");
        ConstructorInfo make = optionsType.GetConstructors().OrderBy(one => one.GetParameters().Length).Last();
        object[] given = Missing(make.GetParameters(), Enum.Parse(kind, "ConsoleApplication"));
        object options = make.Invoke(BindingFlags.OptionalParamBinding, null, given, null);
        Type compilation = Find(parts, "CSharp.CSharpCompilation");
        object whole = Call(compilation, "Create", "csc", Fill(tree, new[] { source }), references, options);
        object result = Call(Find(parts, "FileSystemExtensions"), "Emit", whole, args[2]);
        foreach (object line in (IEnumerable)result.GetType().GetProperty("Diagnostics").GetValue(result))
            if (line.ToString().Contains("error ")) Console.Error.WriteLine(line);
        return (bool)result.GetType().GetProperty("Success").GetValue(result) ? 0 : 1;
    }

    private static Type Find(Assembly[] parts, string name)
    {
        return parts.Select(part => part.GetType("Microsoft.CodeAnalysis." + name)).First(type => type != null);
    }

    /// Calls the static method of that name which takes these first and whose other parameters are optional.
    private static object Call(Type type, string name, params object[] first)
    {
        MethodInfo method = type.GetMethods(BindingFlags.Static | BindingFlags.Public).First(one => one.Name == name
            && one.GetParameters().Length >= first.Length
            && one.GetParameters().Select((parameter, index) => index < first.Length
                ? parameter.ParameterType.IsInstanceOfType(first[index]) : parameter.IsOptional).All(fits => fits));
        return method.Invoke(null, BindingFlags.OptionalParamBinding, null, Missing(method.GetParameters(), first), null);
    }

    private static object[] Missing(ParameterInfo[] parameters, params object[] first)
    {
        return first.Concat(Enumerable.Repeat(Type.Missing, parameters.Length - first.Length)).ToArray();
    }

    private static Array Fill(Type type, object[] items)
    {
        Array array = Array.CreateInstance(type, items.Length);
        items.CopyTo(array, 0);
        return array;
    }

    private static bool IsManaged(string path)
    {
        try
        {
            return AssemblyName.GetAssemblyName(path) != null;
        }
        catch (BadImageFormatException)
        {
            return false;
        }
    }
}
