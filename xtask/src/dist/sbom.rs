//! The bill of materials, in CycloneDX 1.5 as JSON.

use super::crates::{Crate, Crates, Id, OBJECT};
use super::{Built, Release};
use crate::digest::sha256;
use crate::{Result, process};
use serde_json::{Value, json};
use std::process::Command;

/// What every release is made of beside crates: name, version and licence of the libraries of the machine that it was built on.
#[derive(Debug, Clone)]
pub(super) struct Library {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) licence: &'static str,
    /// The programs that it is linked into.
    pub(super) programs: Vec<&'static str>,
}

/// The libraries that are linked into programs; those that the machine loads are its own.
///
/// # Errors
/// They do not tell their version.
pub(super) fn libraries(programs: &[Built]) -> Result<Vec<Library>> {
    let of = |wanted: &dyn Fn(&Built) -> bool| {
        let programs = programs.iter().filter(|built| wanted(built));
        programs.map(|built| built.program.name).collect::<Vec<_>>()
    };
    let version = |command: &mut Command| {
        let text = process::stdout(command)?;
        Ok::<_, crate::Error>(text.split(' ').nth(1).unwrap_or(&text).to_owned())
    };
    Ok(vec![
        Library {
            name: "rust",
            version: version(Command::new("rustc").arg("--version"))?,
            licence: "MIT OR Apache-2.0",
            programs: of(&|_| true),
        },
        Library {
            name: "glibc",
            version: version(Command::new("getconf").arg("GNU_LIBC_VERSION"))?,
            licence: "LGPL-2.1-or-later",
            programs: of(&|built| built.program.is_static),
        },
        Library {
            name: "libseccomp",
            version: version(Command::new("pkg-config").args(["--modversion", "libseccomp"]))?,
            licence: "LGPL-2.1-only",
            programs: of(&|built| built.program.features.contains(&"containerd")),
        },
    ])
}

/// The bill of materials of a release: programs, what is linked into each, and the eBPF object, which is in the agent.
pub(super) fn sbom(
    release: &Release,
    programs: &[Built],
    object: &[u8],
    crates: &Crates,
    libraries: &[Library],
) -> Value {
    let name = release.name();
    let ours = json!([{"expression": env!("CARGO_PKG_LICENSE")}]);
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    let mut files: Vec<(&str, String)> = programs
        .iter()
        .map(|built| (built.program.name, built.sha256()))
        .collect();
    files.push((OBJECT, sha256(object)));
    for (file, digest) in &files {
        components.push(json!({
            "type": if *file == OBJECT { "file" } else { "application" },
            "bom-ref": format!("file:{file}"),
            "name": file,
            "version": release.version,
            "hashes": [{"alg": "SHA-256", "content": digest}],
            "licenses": ours,
        }));
        let linked = libraries.iter().filter(|library| library.programs.contains(file));
        let mut depends_on: Vec<String> = linked.map(library_ref).collect();
        depends_on.extend(crates.roots.get(file).map(crate_ref));
        if *file == "cwasi-agent" {
            depends_on.push(format!("file:{OBJECT}"));
        }
        dependencies.push(json!({"ref": format!("file:{file}"), "dependsOn": depends_on}));
    }
    for library in libraries {
        components.push(json!({
            "type": "library",
            "bom-ref": library_ref(library),
            "name": library.name,
            "version": library.version,
            "purl": library_ref(library),
            "licenses": [{"expression": library.licence}],
        }));
    }
    for (id, found) in &crates.all {
        components.push(component(id, found));
        let depends_on: Vec<String> = found.depends_on.iter().map(crate_ref).collect();
        dependencies.push(json!({"ref": crate_ref(id), "dependsOn": depends_on}));
    }
    let all: Vec<String> = files.iter().map(|(file, _)| format!("file:{file}")).collect();
    dependencies.push(json!({"ref": name, "dependsOn": all}));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": release.time(),
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": "cwasi",
                "version": release.version,
                "licenses": ours,
            },
            "properties": [{"name": "cwasi:revision", "value": release.revision}],
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn component(id: &Id, found: &Crate) -> Value {
    let features = found.features.iter().map(|(program, features)| {
        json!({"name": format!("cwasi:features:{program}"), "value": features.join(",")})
    });
    let mut component = json!({
        "type": "library",
        "bom-ref": crate_ref(id),
        "name": id.name,
        "version": id.version,
        "purl": crate_ref(id),
        "properties": features.collect::<Vec<_>>(),
    });
    if !found.licence.is_empty() {
        component["licenses"] = json!([{"expression": found.licence}]);
    }
    if !found.repository.is_empty() {
        component["externalReferences"] = json!([{"type": "vcs", "url": found.repository}]);
    }
    if let Some(checksum) = &found.checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

/// The package URL of a crate.
fn crate_ref(id: &Id) -> String {
    // A version's build metadata begins with a plus, which a URL escapes.
    format!("pkg:cargo/{}@{}", id.name, id.version.replace('+', "%2B"))
}

fn library_ref(library: &Library) -> String {
    format!("pkg:generic/{}@{}", library.name, library.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::PROGRAMS;
    use crate::dist::crates::tests::crates;
    use crate::dist::tests::release;
    use std::collections::BTreeSet;

    #[test]
    fn every_reference_is_to_a_component() {
        let programs = PROGRAMS.map(|program| Built {
            program,
            bytes: b"x".to_vec(),
        });
        let libraries = [Library {
            name: "glibc",
            version: "2.36".to_owned(),
            licence: "LGPL-2.1-or-later",
            programs: vec!["cwasi-agent"],
        }];
        let bom = sbom(&release(), &programs, b"o", &crates(), &libraries);
        let components = bom["components"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut known: Vec<String> = components.iter().map(|one| text(&one["bom-ref"])).collect();
        known.push(text(&bom["metadata"]["component"]["bom-ref"]));
        let unique: BTreeSet<_> = known.iter().cloned().collect();
        assert_eq!(unique.len(), known.len(), "{known:?}");
        for dependency in bom["dependencies"].as_array().unwrap() {
            assert!(unique.contains(&text(&dependency["ref"])), "{dependency}");
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(unique.contains(&text(on)), "{dependency}");
            }
        }
        let bytes = components.iter().find(|one| one["name"] == "bytes").unwrap();
        let features = json!([
            {"name": "cwasi:features:cwasi-agent", "value": "default,std"},
            {"name": "cwasi:features:cwasi.bpf.o", "value": ""},
        ]);
        assert_eq!(bytes["properties"], features);
        assert_eq!(bytes["purl"], "pkg:cargo/bytes@1.12.1");
        let agent = bom["dependencies"].as_array().unwrap();
        let agent = agent.iter().find(|one| one["ref"] == "file:cwasi-agent").unwrap();
        assert_eq!(
            agent["dependsOn"],
            json!([
                "pkg:generic/glibc@2.36",
                "pkg:cargo/cwasi-agent@0.1.0",
                "file:cwasi.bpf.o"
            ])
        );
    }
}
