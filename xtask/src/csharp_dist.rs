//! The packages of the C# binding: NuGet's .nupkg and Unity's folder and tarball.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::csharp::{self, Lane};
use crate::dist;
use crate::shell::{self, Outcome, root};
use crate::systems::{Built, SYSTEMS, System};

/// Unity's name of the package.
const UNITY: &str = "com.capsulegraph";

/// Builds the binding and writes its packages with these libraries.
pub fn run(built: &[Built], folder: &Path) -> Outcome {
    make(csharp::build()?, built, folder)
}

/// Writes the packages of what is built into `folder`.
pub fn make(lanes: &[Lane], built: &[Built], folder: &Path) -> Outcome {
    let work = folder.join("csharp");
    for old in [&work, &folder.join(UNITY)] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(|e| format!("cannot clear {}: {e}", old.display()))?;
        }
    }
    let version = dist::version()?;
    let package = nuget(lanes, built, &work.join("nuget"), folder, &version)?;
    let archive = unity(built, folder, &version)?;
    fs::remove_dir_all(&work).map_err(|e| format!("cannot clear {}: {e}", work.display()))?;
    println!("{}\n{}", package.display(), archive.display());
    Ok(())
}

/// Lays the NuGet package out and packs it.
fn nuget(lanes: &[Lane], built: &[Built], tree: &Path, folder: &Path, version: &str) -> Outcome<PathBuf> {
    let binding = root().join("bindings/csharp");
    for lane in lanes {
        for file in [lane.assembly(), lane.assembly().with_extension("xml")] {
            dist::copy(&file, &tree.join("lib").join(lane.framework))?;
        }
    }
    for built in built {
        dist::copy(&built.library(), &tree.join("runtimes").join(built.system.rid).join("native"))?;
    }
    // Projects with a packages.config know the first one only.
    for place in ["build", "buildTransitive"] {
        dist::copy(&binding.join("nuget/CapsuleGraph.targets"), &tree.join(place))?;
    }
    dist::copy(&binding.join("README.md"), tree)?;
    licences(tree)?;
    fill(&binding.join("nuget/CapsuleGraph.nuspec"), &tree.join("CapsuleGraph.nuspec"), version)?;
    let package = folder.join(format!("CapsuleGraph.{version}.nupkg"));
    shell::run(shell::python().arg("-c").arg(PACK).arg(tree).arg(&package).arg(version))?;
    Ok(package)
}

/// Packs a folder as NuGet does: what the package is, then what it holds, each with its type; under its name only when whole.
const PACK: &str = r#"
import os, sys, zipfile
tree, target, version = sys.argv[1:]
files = sorted(os.path.relpath(os.path.join(place, name), tree) for place, _, names in os.walk(tree) for name in names)
endings = sorted({os.path.splitext(name)[1][1:] for name in files} - {''} | {'rels', 'psmdcp'})
types = {'rels': 'application/vnd.openxmlformats-package.relationships+xml',
         'psmdcp': 'application/vnd.openxmlformats-package.core-properties+xml'}
head = '<?xml version="1.0" encoding="utf-8"?>\n'
core = 'package/services/metadata/core-properties/capsulegraph.psmdcp'
kinds = ''.join(f'<Default Extension="{e}" ContentType="{types.get(e, "application/octet")}" />' for e in endings)
kinds += ''.join(f'<Override PartName="/{n}" ContentType="application/octet" />' for n in files if not os.path.splitext(n)[1])
office = 'http://schemas.openxmlformats.org/package/2006'
made = {
    '_rels/.rels': f'{head}<Relationships xmlns="{office}/relationships">'
        f'<Relationship Type="http://schemas.microsoft.com/packaging/2010/07/manifest" Target="/CapsuleGraph.nuspec" Id="R1" />'
        f'<Relationship Type="{office}/relationships/metadata/core-properties" Target="/{core}" Id="R2" /></Relationships>',
    '[Content_Types].xml': f'{head}<Types xmlns="{office}/content-types">{kinds}</Types>',
    core: f'{head}<coreProperties xmlns="{office}/metadata/core-properties" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:creator>CapsuleGraph</dc:creator><dc:identifier>CapsuleGraph</dc:identifier><version>{version}</version></coreProperties>',
}
with zipfile.ZipFile(target + '.part', 'w', zipfile.ZIP_DEFLATED) as package:
    def add(name, data):
        entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = 0o644 << 16
        package.writestr(entry, data)
    for name, text in made.items():
        add(name, text.encode())
    for name in files:
        with open(os.path.join(tree, name), 'rb') as source:
            add(name.replace(os.sep, '/'), source.read())
os.replace(target + '.part', target)
"#;

/// Lays the Unity package out and packs it.
fn unity(built: &[Built], folder: &Path, version: &str) -> Outcome<PathBuf> {
    let (binding, tree) = (root().join("bindings/csharp"), folder.join(UNITY));
    dist::copy_folder(&binding.join("src"), &tree.join("Runtime"))?;
    for file in ["CapsuleGraph.asmdef", "link.xml"] {
        dist::copy(&binding.join("unity").join(file), &tree.join("Runtime"))?;
    }
    fill(&binding.join("unity/package.json"), &tree.join("package.json"), version)?;
    dist::copy(&binding.join("unity/README.md"), &tree)?;
    dist::copy(&root().join("CHANGELOG.md"), &tree)?;
    licences(&tree)?;
    for built in built {
        dist::copy(&built.library(), &tree.join("Plugins").join(built.system.rid))?;
    }
    metas(&tree, &tree)?;
    let archive = folder.join(format!("{UNITY}-{version}.tgz"));
    let mut tar = Command::new("tar");
    tar.arg("czf").arg(&archive).arg("-C").arg(folder).arg(format!("--transform=s,^{UNITY},package,"));
    shell::run(tar.arg(UNITY))?;
    Ok(archive)
}

fn licences(tree: &Path) -> Outcome {
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "docs/licenses.md"] {
        dist::copy(&root().join(file), tree)?;
    }
    Ok(())
}

/// Copies a text with the version in it.
fn fill(from: &Path, to: &Path, version: &str) -> Outcome {
    let text = fs::read_to_string(from).map_err(|e| format!("cannot read {}: {e}", from.display()))?;
    fs::write(to, text.replace("@VERSION@", version))
        .map_err(|e| format!("cannot write {}: {e}", to.display()))
}

/// Writes what Unity wants beside each file and folder. It refuses to make that itself in packages.
fn metas(tree: &Path, folder: &Path) -> Outcome {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    for path in paths {
        if path.is_dir() {
            metas(tree, &path)?;
        }
        let name = path.strip_prefix(tree).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        let text = format!("fileFormatVersion: 2\nguid: {}\n{}", guid(&name), importer(&path, &name));
        let meta = PathBuf::from(format!("{}.meta", path.display()));
        fs::write(&meta, text).map_err(|e| format!("cannot write {}: {e}", meta.display()))?;
    }
    Ok(())
}

/// Always the same of a file: projects name files by it. FNV-1a twice, from two beginnings.
fn guid(name: &str) -> String {
    let hash = |basis: u64| {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        format!("{UNITY}/{name}").bytes().fold(basis, step)
    };
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x9e37_79b9_7f4a_7c15))
}

fn importer(path: &Path, name: &str) -> String {
    const END: &str = "  userData: \n  assetBundleName: \n  assetBundleVariant: \n";
    if path.is_dir() {
        return format!("folderAsset: yes\nDefaultImporter:\n  externalObjects: {{}}\n{END}");
    }
    if let Some(system) = SYSTEMS.iter().find(|system| name.starts_with(&format!("Plugins/{}/", system.rid)))
    {
        return format!("{}{END}", plugin(system));
    }
    let kind = match path.extension().and_then(|extension| extension.to_str()) {
        Some("cs") => {
            return format!(
                "MonoImporter:\n  externalObjects: {{}}\n  serializedVersion: 2\n  defaultReferences: []\n  \
                 executionOrder: 0\n  icon: {{instanceID: 0}}\n{END}"
            );
        }
        Some("asmdef") => "AssemblyDefinitionImporter",
        Some("json") => "PackageManifestImporter",
        Some("md" | "xml") => "TextScriptImporter",
        _ => "DefaultImporter",
    };
    format!("{kind}:\n  externalObjects: {{}}\n{END}")
}

/// Used by the editor and the player of its system alone.
fn plugin(system: &System) -> String {
    let [cpu, editor, player] = system.unity;
    let platform = |first: &str, enabled: u8, settings: &str| {
        format!(
            "  - first:\n      {first}\n    second:\n      enabled: {enabled}\n      settings:{settings}\n"
        )
    };
    let head = "PluginImporter:\n  externalObjects: {}\n  serializedVersion: 2\n  iconMap: {}\n  executionOrder: {}\n  \
                defineConstraints: []\n  isPreloaded: 0\n  isOverridable: 0\n  isExplicitlyReferenced: 0\n  \
                validateReferences: 1\n  platformData:\n";
    [
        head.to_owned(),
        platform("Any: ", 0, " {}"),
        platform(
            "Editor: Editor",
            1,
            &format!("\n        CPU: {cpu}\n        DefaultValue: true\n        OS: {editor}"),
        ),
        platform(&format!("Standalone: {player}"), 1, &format!("\n        CPU: {cpu}")),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::guid;

    #[test]
    fn guids_never_change() {
        assert_eq!(guid("Runtime/CapsuleGraph.asmdef"), "37d2f99beea961f6e679430c15ad2fe6");
        assert_ne!(guid("Runtime/CapsuleGraph.asmdef"), guid("Runtime/Model.cs"));
    }
}
