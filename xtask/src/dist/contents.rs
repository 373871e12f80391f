//! What is in a release's tarball and images, and where.

use super::archive::tar_gz;
use super::licences::third_party;
use super::programs::{AGENT, INSTALLER, RUNNER, SHIM};
use super::sbom::{libraries, sbom};
use super::{Built, Crates, Program, Release};
use crate::error::FileContext;
use crate::images::{File, Image, Process};
use crate::{Result, paths};
use std::collections::BTreeMap;
use std::fs;

/// Where the images are said to be from: a registry's name is part of an image's, whether it is ever pushed or not.
const REGISTRY: &str = "ghcr.io/cwasi";

/// The user of the agent's image.
pub const AGENT_USER: &str = "65532:65532";

/// The system calls that the agent may make, in the repository.
pub const SECCOMP: &str = "manifests/seccomp/cwasi-agent.json";

/// The object that the agent embeds, in the repository.
const OBJECT: &str = "cwasi-agent/ebpf/cwasi.bpf.o";

/// Files of the unit for nodes without Kubernetes, in the repository.
const SYSTEMD: &str = "packaging/systemd";

/// What the agent makes use of where its container may have it (`include/uapi/linux/capability.h`): `CAP_BPF`, `CAP_NET_ADMIN` and
/// `CAP_PERFMON`, which it does not work without; `CAP_DAC_OVERRIDE` for hybrid hosts, `CAP_SYS_RESOURCE` for kernels before 5.11,
/// `CAP_SYS_ADMIN` and `CAP_SYS_PTRACE` for launchers that tell no addresses.
const AGENT_CAPABILITIES: u64 = 1 << 39 | 1 << 12 | 1 << 38 | 1 << 1 | 1 << 24 | 1 << 21 | 1 << 19;

const PROGRAM: u32 = 0o755;
const PLAIN: u32 = 0o644;

/// Everything that a release is made of.
#[derive(Debug, Clone)]
pub struct Contents {
    release: Release,
    programs: Vec<Built>,
    /// By their names below `share/`, the same in the tarball and in images.
    shared: BTreeMap<String, Vec<u8>>,
}

impl Contents {
    /// Reads what is beside the programs, and writes what is said of them.
    ///
    /// # Errors
    /// Files of the repository or crates' licences cannot be read; cargo fails.
    pub fn gather(release: Release, programs: Vec<Built>) -> Result<Self> {
        let read = |path: &str| {
            let path = paths::root().join(path);
            fs::read(&path).file("read", path)
        };
        let (object, crates) = (read(OBJECT)?, Crates::find()?);
        let libraries = libraries(&programs)?;
        let bom = sbom(&release, &programs, &object, &crates, &libraries);
        let mut bom = serde_json::to_vec_pretty(&bom).expect("a document is always JSON");
        bom.push(b'\n');
        let mut shared = BTreeMap::from([
            ("cwasi/cwasi.bpf.o".to_owned(), object),
            ("cwasi/seccomp/agent.json".to_owned(), read(SECCOMP)?),
            (format!("{DOC}/sbom.cdx.json"), bom),
            (
                format!("{DOC}/THIRD-PARTY-LICENSES.txt"),
                third_party(&crates, &libraries)?.into_bytes(),
            ),
        ]);
        for name in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
            shared.insert(format!("{DOC}/{name}"), read(name)?);
        }
        let units = fs::read_dir(paths::root().join(SYSTEMD)).into_iter().flatten();
        for unit in units.flatten().filter(|unit| unit.path().is_file()) {
            let name = unit.file_name().to_string_lossy().into_owned();
            shared.insert(
                format!("cwasi/systemd/{name}"),
                read(&format!("{SYSTEMD}/{name}"))?,
            );
        }
        Ok(Self {
            release,
            programs,
            shared,
        })
    }

    /// The bill of materials.
    #[must_use]
    pub fn sbom(&self) -> &[u8] {
        self.shared
            .get(&format!("{DOC}/sbom.cdx.json"))
            .map_or(&[], Vec::as_slice)
    }

    /// The tarball: one directory, in it `bin` and `share`.
    #[must_use]
    pub fn tarball(&self) -> Vec<u8> {
        let name = self.release.name();
        let programs = self.programs.iter().map(|built| {
            let path = format!("{name}/bin/{}", built.program.name);
            (path, (PROGRAM, built.bytes.clone()))
        });
        let shared = self
            .shared
            .iter()
            .map(|(path, content)| (format!("{name}/share/{path}"), (PLAIN, content.clone())));
        tar_gz(&programs.chain(shared).collect(), self.release.epoch)
    }

    /// The images.
    ///
    /// # Panics
    /// The programs are not those of a release.
    #[must_use]
    pub fn images(&self) -> Vec<Image> {
        vec![
            agent_image(&self.release, self.bytes(AGENT), &files(&self.documents())),
            self.installer_image(),
        ]
    }

    /// A program's file.
    fn bytes(&self, program: Program) -> &[u8] {
        let built = self.programs.iter().find(|built| built.program == program);
        &built.expect("a release has every program").bytes
    }

    /// The installer's image, with what it puts on nodes.
    fn installer_image(&self) -> Image {
        let program = |path, program| File {
            path,
            mode: PROGRAM,
            content: self.bytes(program),
            ..File::default()
        };
        let programs = [
            program("/usr/local/bin/cwasi-installer", INSTALLER),
            program("/usr/local/share/cwasi/bin/containerd-shim-cwasi-v1", SHIM),
            program("/usr/local/share/cwasi/bin/cwasi-agent", AGENT),
            program("/usr/local/share/cwasi/bin/cwasi-run", RUNNER),
        ];
        let process = Process::new([programs[0].path]);
        let description =
            "Puts cwasi's shim and containerd's runtime handler on a node, and takes them away again";
        let mut others = self.documents();
        let profile = self
            .shared
            .get("cwasi/seccomp/agent.json")
            .cloned()
            .unwrap_or_default();
        others.push(("/usr/local/share/cwasi/seccomp/agent.json".to_owned(), profile));
        let files = [&programs[..], &files(&others)].concat();
        image(&self.release, INSTALLER.name, description, process, &files)
    }

    /// Licences and the bill of materials, which every image has.
    fn documents(&self) -> Vec<(String, Vec<u8>)> {
        let ours = self.shared.iter().filter(|(path, _)| path.starts_with(DOC));
        let texts = ours.filter(|(path, _)| !path.ends_with(".md"));
        texts
            .map(|(path, content)| (format!("/usr/share/{path}"), content.clone()))
            .collect()
    }
}

const DOC: &str = "doc/cwasi";

/// Files that nobody executes.
fn files(contents: &[(String, Vec<u8>)]) -> Vec<File<'_>> {
    contents
        .iter()
        .map(|(path, content)| File {
            path,
            mode: PLAIN,
            content,
            ..File::default()
        })
        .collect()
}

/// The agent's image, with other files in it: a user that is not root, and a program that gives it what the agent needs where the
/// container may have it.
#[must_use]
pub fn agent_image(release: &Release, agent: &[u8], others: &[File<'_>]) -> Image {
    let program = File {
        path: "/usr/local/bin/cwasi-agent",
        mode: PROGRAM,
        content: agent,
        // Kubernetes gives a user that is not root no ambient capabilities.
        capabilities: AGENT_CAPABILITIES,
    };
    let process = Process {
        cmd: vec!["run".to_owned()],
        user: AGENT_USER.to_owned(),
        ..Process::new([program.path])
    };
    let description =
        "The node agent of cwasi: TCP between the functions of a node goes straight from socket to socket";
    image(
        release,
        AGENT.name,
        description,
        process,
        &[&[program], others].concat(),
    )
}

fn image(release: &Release, name: &str, description: &str, process: Process, files: &[File<'_>]) -> Image {
    let annotations = release.annotations(name, description);
    let process = Process {
        env: vec!["PATH=/usr/local/bin".to_owned()],
        labels: annotations.clone(),
        ..process
    };
    let reference = format!("{REGISTRY}/{name}:{}", release.version);
    Image::rootfs(&reference, files, &process).annotated(&annotations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;
    use crate::dist::PROGRAMS;
    use crate::dist::tests::release;
    use flate2::read::GzDecoder;
    use std::path::Path;

    fn contents() -> Contents {
        let programs = PROGRAMS.map(|program| Built {
            program,
            bytes: program.name.as_bytes().to_vec(),
        });
        let shared = [
            ("cwasi/seccomp/agent.json", "{}"),
            ("doc/cwasi/LICENSE-MIT", "MIT"),
        ];
        Contents {
            release: release(),
            programs: programs.to_vec(),
            shared: shared
                .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
                .into(),
        }
    }

    #[test]
    fn tarballs_are_one_directory_and_the_same_every_time() {
        let bytes = contents().tarball();
        assert_eq!(sha256(&bytes), sha256(&contents().tarball()));
        let mut archive = tar::Archive::new(GzDecoder::new(&bytes[..]));
        let mut programs = 0;
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            assert!(path.starts_with(release().name()), "{}", path.display());
            let is_program = path.parent().is_some_and(|parent| parent.ends_with("bin"));
            programs += usize::from(is_program);
            if entry.header().entry_type().is_file() {
                assert_eq!(
                    entry.header().mode().unwrap() == 0o755,
                    is_program,
                    "{}",
                    path.display()
                );
            }
        }
        assert_eq!(programs, PROGRAMS.len());
    }

    #[test]
    fn the_installers_image_has_what_it_installs() {
        let images = contents().images();
        assert_eq!(images[1].name(), "cwasi-installer");
        let tar = images[1].tar();
        let mut layout = tar::Archive::new(&tar[..]);
        let layer = layout.entries().unwrap().find_map(|entry| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry.unwrap(), &mut bytes).unwrap();
            bytes.starts_with(b"\x1f\x8b").then_some(bytes)
        });
        let layer = layer.unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(&layer[..]));
        let paths = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned());
        let paths: Vec<_> = paths.collect();
        for path in [
            "bin/containerd-shim-cwasi-v1",
            "bin/cwasi-agent",
            "bin/cwasi-run",
            "seccomp/agent.json",
        ] {
            let path = Path::new("usr/local/share/cwasi").join(path);
            assert!(paths.contains(&path), "{paths:?}");
        }
    }

    #[test]
    fn the_agents_image_is_for_a_user_that_is_not_root() {
        let images = contents().images();
        let tar = images[0].tar();
        assert_eq!(sha256(&tar), sha256(&contents().images()[0].tar()));
        let directory = tempfile::tempdir().unwrap();
        let layout = directory.path().join("layout");
        images[0].write_layout(&layout).unwrap();
        let blob = |digest: &serde_json::Value| {
            let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
            fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let index = json(&fs::read(layout.join("index.json")).unwrap());
        let named = &index["manifests"][0];
        assert_eq!(
            named["annotations"]["io.containerd.image.name"],
            "ghcr.io/cwasi/cwasi-agent:1.2.3"
        );
        let manifest = json(&blob(&named["digest"]));
        assert_eq!(
            manifest["annotations"]["org.opencontainers.image.revision"],
            "0123abc"
        );
        let config = json(&blob(&manifest["config"]["digest"]));
        assert_eq!(config["config"]["User"], AGENT_USER);
        assert_eq!(config["config"]["Cmd"], serde_json::json!(["run"]));
        assert_eq!(
            config["config"]["Labels"]["org.opencontainers.image.version"],
            "1.2.3"
        );

        let layer = blob(&manifest["layers"][0]["digest"]);
        let mut archive = tar::Archive::new(GzDecoder::new(&layer[..]));
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let attribute = entry.pax_extensions().unwrap().map(|extensions| {
                let extension = extensions.flatten().next().unwrap();
                (
                    extension.key().unwrap().to_owned(),
                    extension.value_bytes().to_vec(),
                )
            });
            if path == Path::new("usr/local/bin/cwasi-agent") {
                // getcap(8) calls this cap_dac_override,cap_net_admin,cap_sys_ptrace,cap_sys_admin,cap_sys_resource,…=p.
                let value = [
                    0, 0, 0, 2, 2, 0x10, 0x28, 1, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0,
                ];
                assert_eq!(
                    attribute,
                    Some(("SCHILY.xattr.security.capability".to_owned(), value.to_vec()))
                );
            } else {
                assert_eq!(attribute, None);
            }
            seen.push(path);
        }
        assert!(
            seen.contains(&"usr/share/doc/cwasi/LICENSE-MIT".into()),
            "{seen:?}"
        );
    }
}
